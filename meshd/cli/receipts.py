"""`meshctl receipt` and `meshctl verify`: the proof of what became of a task.

`verify` needs no daemon and no network. What it needs of the mesh's own code is imported when it
runs, since no other command does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from meshd.cli import bounds
from meshd.cli.exits import Exit
from meshd.cli.files import STANDARD, FileFailed, check_writable, read_file, spooled, writing
from meshd.cli.grammar import MeshCommand, Session, examples, pass_session
from meshd.cli.output import note, plain, print_fields, print_json
from meshd.cli.references import task_argument
from meshd.control_errors import ContactLost

if TYPE_CHECKING:
    from scheduler.verdict import Verdict
    from wire.ids import MeshId

_MARKS = {"good": ("good", "green"), "bad": ("BAD", "red"), "not_checked": ("-", "yellow")}


@click.command(
    cls=MeshCommand,
    epilog=examples(
        "meshctl receipt mrrwgzdfmzxw.0 --to task.receipt",
        "meshctl receipt ID --with-digest-key --to task.receipt",
    ),
)
@task_argument
@click.option(
    "--with-digest-key",
    is_flag=True,
    help="Let whoever has the receipt check the output, and test guesses about it.",
)
@click.option(
    "--to",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Where to, whole or not at all; else stdout.",
)
@pass_session
def receipt(session: Session, task: str, with_digest_key: bool, to: str | None) -> int:
    """Write the receipt of a decided task, for `meshctl verify`."""
    if to is not None:
        check_writable(to)
    elif sys.stdout.isatty() and not session.is_json:
        raise click.UsageError("a receipt is no text: give it a file with --to FILE")
    request = {"command": "receipt", "task": task, "with_digest_key": with_digest_key}
    with session.connect() as client, spooled() as file:
        answer = client.download(request, lambda _name, chunk: file.write(chunk))
        file.seek(0)
        content = file.read()
    if len(content) != answer["receipt_bytes"]:
        raise ContactLost("the daemon sent another receipt than it announced")
    if to is not None or not session.is_json:
        with writing(to or STANDARD) as target:
            target.write(content)
    if session.is_json and to != STANDARD:
        print_json({**answer, "file": to} if to else {**answer, "receipt": content})
    return Exit.DONE


@click.command(
    cls=MeshCommand,
    epilog=examples(
        "meshctl verify task.receipt",
        "meshctl verify task.receipt --result picture.png --mesh MESH-ID",
    ),
)
@click.argument("receipt_file", metavar="RECEIPT", type=click.Path(readable=False))
@click.option(
    "--result",
    "result_file",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Check that this file is what the task put out.",
)
@click.option(
    "--mesh",
    "mesh_text",
    metavar="ID",
    help="The mesh it must be of; else that of this home, if there is one.",
)
@pass_session
def verify(
    session: Session, receipt_file: str, result_file: str | None, mesh_text: str | None
) -> int:
    """Check a receipt offline: signatures, votes, lease and result.

    Exits with 0 if all is good, 1 if anything is not, 2 if the file is no receipt.
    """
    from scheduler.receipt import verify_receipt
    from wire.keys import Ed25519Verifier

    if receipt_file == STANDARD == result_file:
        raise click.UsageError("receipt and result cannot both be standard input")
    received = read_file(receipt_file, bytes_max=bounds.RECEIPT_BYTES_MAX, what="receipt")
    result = None
    if result_file is not None:
        result = read_file(result_file, bytes_max=bounds.OUTPUT_BYTES_MAX, what="result")
    if not _resembles_receipt(received):
        raise FileFailed(f"{receipt_file} is no receipt", hint="`meshctl receipt ID` writes one")
    verdict = verify_receipt(
        received, verifier=Ed25519Verifier(), mesh=_mesh(session, mesh_text), result=result
    )
    _print_verdict(session, verdict)
    return Exit.DONE if verdict.is_good else Exit.NO


def _resembles_receipt(received: bytes) -> bool:
    """Say whether this was ever a receipt: one that was tampered with still has most names."""
    names = (b"genesis", b"contract", b"votes", b"chains")
    return sum(name in received for name in names) > 1


def _mesh(session: Session, text: str | None) -> MeshId | None:
    """Return the mesh that was named, else this home's, None if neither is known."""
    from meshd.home_mesh import mesh_of_home
    from wire.errors import MalformedId
    from wire.ids import mesh_from_text

    if text is None:
        return mesh_of_home(session.home)
    try:
        return mesh_from_text(text)
    except MalformedId as error:
        raise click.BadParameter(str(error), param_hint="--mesh") from error


def _print_verdict(session: Session, verdict: Verdict) -> None:
    import msgspec

    if session.is_json:
        print_json({"answer": "verdict", **msgspec.to_builtins(verdict)})
        return
    facts = msgspec.to_builtins(verdict.facts)
    print_fields((_fact_name(name), _fact(value)) for name, value in facts.items())
    for check in verdict.checks:
        mark, colour = _MARKS[check.result]
        fault = f"{check.fault}: " if check.fault else ""
        line = f"{check.name:<12}{mark:<6}{fault}{check.detail}".rstrip()
        click.echo(click.style(plain(line), fg=colour))
    verdict_text = "verified" if verdict.is_good else "NOT verified"
    click.echo(f"{verdict_text}, checked against: {verdict.checked_against}")
    if any(fault == "digest_key_missing" for fault in verdict.faults):
        note("  `meshctl receipt ID --with-digest-key` writes a receipt that can check a result")


def _fact_name(name: str) -> str:
    return name.removesuffix("_count").replace("_", " ")


def _fact(value: object) -> str | int | None:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str | int) else None
