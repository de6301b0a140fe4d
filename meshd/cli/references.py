"""Arguments that name a device or a task, which the shell can complete while a daemon runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from meshd.cli.grammar import Session
from meshd.cli.output import plain, short_id, short_task
from meshd.control_frames import Frame
from wire.errors import MeshError

_Function = TypeVar("_Function", bound=Callable[..., Any])

COMPLETED_TASKS_MAX = 50


def peer_argument(function: _Function) -> _Function:
    """Give a command the argument PEER: a name, a peer id, its beginning, or `did:key`."""
    return click.argument("peer", metavar="PEER", callback=_named, shell_complete=_complete_peer)(
        function
    )


def task_argument(function: _Function) -> _Function:
    """Give a command the argument ID: a task's id or its beginning."""
    return click.argument("task", metavar="ID", callback=_named, shell_complete=_complete_task)(
        function
    )


def _named(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse an empty reference, such as of a script's variable that was never set."""
    if not value:
        raise click.BadParameter("it is empty", ctx=ctx, param=parameter)
    return value


def _complete_peer(
    ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    names = [(peer["name"], short_id(peer["id"])) for peer in _listed(ctx, "peers")]
    return _items(names, incomplete)


def _complete_task(
    ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    tasks = [
        (task["id"], f"{short_task(task['id'])} {task['state']}") for task in _listed(ctx, "tasks")
    ]
    return _items(tasks, incomplete)


def _items(named: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(plain(name), help=plain(text))
        for name, text in named
        if name.startswith(incomplete) and name.isprintable()
    ]


def _listed(ctx: click.Context, what: str) -> list[Frame]:
    """Return what the daemon lists; nothing without one, as a shell cannot show an error."""
    session = ctx.find_object(Session) or Session()
    request: Frame = {"command": what}
    if what == "tasks":
        request["limit"] = COMPLETED_TASKS_MAX
    try:
        with session.connect() as client:
            return list(client.ask(request)[what])
    except MeshError:
        return []
