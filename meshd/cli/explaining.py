"""`meshctl plan` and `meshctl why`: where a task would go, and why it is where it is."""

from __future__ import annotations

import click

from meshd.cli.exits import Exit
from meshd.cli.grammar import MeshCommand, Session, examples, pass_session
from meshd.cli.output import plain, print_json, short_id, short_task
from meshd.cli.program_words import ProgramCommand, program_words
from meshd.cli.references import task_argument
from meshd.cli.submission import submission_options
from meshd.cli.terms import TERMS, terms_frame
from meshd.control_frames import Frame

_PLACES = {"has_it": "has it", "first": "first"}


class PlanCommand(ProgramCommand):
    """Takes the words of `submit`, so that only the name of the command has to be changed."""

    needs_module = False
    is_of_task = False


@click.command(
    cls=PlanCommand,
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "meshctl plan --require mem:4GiB",
        "meshctl plan wc.wasm --input README.md --strategy latency-aware",
        "meshctl plan -f job.yaml",
    ),
)
@program_words
@submission_options
@pass_session
def plan(session: Session, /, **given: object) -> int:
    """Say where a task would go, and why not elsewhere.

    For each device: the rule that excluded or outranked it, and what would change it.
    Takes the words of `meshctl submit`; nothing is read and nothing is run. The share is that of
    many such tasks. Each device decides at last by itself whether it takes a task.

    Exits with 1 if no device would get it now.
    """
    request: Frame = {"command": "plan", **terms_frame({name: given[name] for name in TERMS})}
    with session.connect() as client:
        answer = client.ask(request)
    if session.is_json:
        print_json(answer)
    else:
        _say(answer["reason"])
        if answer["stewards"]:
            _say(f"asked to keep it, too: {' '.join(answer['stewards'])}")
        _print_devices(answer["devices"])
    return Exit.DONE if answer["device"] else Exit.NO


@click.command(cls=MeshCommand, epilog=examples("meshctl why mrrwgzdfmzxw.0"))
@task_argument
@pass_session
def why(session: Session, task: str) -> int:
    """Say why a task is where it is, and what would change it.

    For each device that is known here: the rule that excluded or outranked it.
    """
    with session.connect() as client:
        answer = client.ask({"command": "why", "task": task})
    if session.is_json:
        print_json(answer)
        return Exit.DONE
    _say(f"{short_task(answer['task']['id'])} {answer['reason']}")
    if answer["hint"]:
        _say(f"  {answer['hint']}")
    _say(
        f"told by {answer['told_by_name']}; kept by {', '.join(map(_steward, answer['stewards']))}"
    )
    if not answer["is_current"]:
        _say("  another device leads it, so this may be out of date")
    _print_devices(answer["devices"])
    return Exit.DONE


def _steward(steward: Frame) -> str:
    state = str(steward["state"]).replace("_", " ")
    leads = ", leads" if steward["is_leading"] else ""
    return f"{steward['name'] or short_id(steward['id'])} ({state}{leads})"


def _print_devices(devices: list[Frame]) -> None:
    size = max((len(device["name"]) for device in devices), default=0)
    for device in devices:
        share = "" if not device["share"] else f", {device['share']:.0%} of such tasks"
        because = "" if device["rule"] is None else f", {device['rule']}"
        detail = f": {device['detail']}" if device["detail"] else ""
        place = _PLACES.get(device["place"], device["place"])
        _say(f"  {device['name']:<{size}}  {place}{because}{share}{detail}")
        if device["change"]:
            _say(f"  {'':<{size}}    changes if: {device['change']}")


def _say(text: str) -> None:
    click.echo(plain(text))
