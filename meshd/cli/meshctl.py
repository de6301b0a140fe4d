"""`meshctl`: asks the local daemon, and checks receipts without one.

It starts with click, msgpack and the standard library: everything slower is imported by the command
that needs it.
"""

from __future__ import annotations

import click

from meshd.cli.completion import completion_of
from meshd.cli.explaining import plan, why
from meshd.cli.further import OpenGroup
from meshd.cli.grammar import examples, obey_pipes
from meshd.cli.history import history
from meshd.cli.mapping import map_
from meshd.cli.mesh import find, invite, peer, peers, status
from meshd.cli.receipts import receipt, verify
from meshd.cli.removal import pardon, recovery_key, rekey, remove
from meshd.cli.streams import prepare_streams
from meshd.cli.submission import submit
from meshd.cli.tasks import cancel, resubmit, result, task, tasks, wait


@click.group(
    "meshctl",
    cls=OpenGroup,
    epilog=examples(
        "meshctl status",
        "meshctl submit wc.wasm --input README.md",
        "meshctl --output json peers",
    ),
)
def cli() -> None:
    """Ask the meshd of this device: devices, tasks, results and receipts.

    Exit codes: 0 yes or done, 1 no, 2 usage or bad file, 4 no daemon; `submit` and `wait` have
    codes of their own.
    """


for _command in (
    status,
    peers,
    peer,
    find,
    invite,
    remove,
    pardon,
    recovery_key,
    rekey,
    submit,
    map_,
    plan,
    tasks,
    task,
    why,
    history,
    wait,
    result,
    cancel,
    resubmit,
    receipt,
    verify,
    completion_of(cli),
):
    cli.add_command(_command)

cli.paragraphs = ("invite", "submit", "tasks", "receipt", "completion")


def main() -> None:
    """Run meshctl with the arguments of this process, and end it."""
    obey_pipes()
    prepare_streams()
    cli.main()
