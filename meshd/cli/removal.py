"""What `meshctl` does about who belongs to the mesh: remove a device, take the recovery key."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from meshd.cli.exits import Exit
from meshd.cli.files import FileFailed, read_file
from meshd.cli.grammar import CommandFailed, MeshCommand, Session, examples, pass_session
from meshd.cli.output import note, plain, print_json, short_id
from meshd.cli.references import peer_argument
from meshd.control_frames import Frame
from meshd.quantities import format_duration_us

NAMES_SHOWN_MAX = 10


@click.command(
    cls=MeshCommand,
    epilog=examples(
        "meshctl remove laptop",
        "meshctl remove 12D3KooWfakeFAKE --yes",
        "meshctl remove attic --recovery-key /media/stick/recovery.key",
    ),
)
@peer_argument
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option(
    "--recovery-key",
    "key_file",
    metavar="FILE",
    help="Sign with the mesh's recovery key, which nobody can undo; `-` is standard input.",
)
@click.option(
    "--void-papers",
    is_flag=True,
    help="Of an admin: let nothing stay that it signed, neither certificates nor removals.",
)
@pass_session
def remove(session: Session, peer: str, yes: bool, key_file: str | None, void_papers: bool) -> int:
    """Put a device out of the mesh for good: a lost laptop, say.

    Any admin may. All devices that are reached hear of it within seconds, the others when they are
    back. Of an admin, the devices that it let in stay, unless --void-papers is given. To come back,
    the device has to be started with a new home.
    """
    request: Frame = {"command": "remove", "peer": peer, "keeps_papers": not void_papers}
    if key_file is not None:
        request["recovery_seed"] = _recovery_seed(key_file)
    with session.connect() as client:
        if not yes:
            _confirm(session, client.ask({**request, "is_plan": True}))
        answer = client.ask(request)
    if session.is_json:
        print_json(answer)
        return Exit.DONE
    click.echo(plain(f"removed {_named(answer)}"))
    for line in _consequences(answer):
        note(line)
    return Exit.DONE


@click.command(
    cls=MeshCommand,
    epilog=examples("meshctl pardon attic"),
)
@peer_argument
@pass_session
def pardon(session: Session, peer: str) -> int:
    """Let a device work again that signed a wrong result.

    Any admin may. Until then it gets no work from any device that has seen the proof.
    """
    with session.connect() as client:
        answer = client.ask({"command": "pardon", "peer": peer})
    if session.is_json:
        print_json(answer)
        return Exit.DONE
    count = answer["convictions_count"]
    click.echo(plain(f"{answer['name']} may work again"))
    note(f"{count} {'conviction is' if count == 1 else 'convictions are'} void from now on")
    return Exit.DONE


@click.command(
    "recovery-key",
    cls=MeshCommand,
    epilog=examples("meshctl recovery-key --to /media/stick/recovery.key"),
)
@click.option("--to", "path", metavar="FILE", required=True, help="A new file, on other storage.")
@pass_session
def recovery_key(session: Session, path: str) -> int:
    """Move the recovery key of the mesh from this device to FILE.

    It outranks all admins: with it any device can be removed, for good, whoever has taken over the
    mesh. It is made on the device that founded the mesh; until it is taken from there, `meshctl
    status` warns.
    """
    with session.connect() as client:
        answer = client.ask({"command": "recovery_key"})
        _write_new(path, answer["file"].encode())
        erased = client.ask({"command": "erase_recovery_key", "public": answer["public"]})
    if session.is_json:
        print_json({**erased, "path": str(Path(path).resolve())})
        return Exit.DONE
    click.echo(plain(f"the recovery key is in {path} and on this device no more"))
    note("keep the file offline: whoever has it can put any device out of the mesh")
    return Exit.DONE


@click.command(cls=MeshCommand, epilog=examples("meshctl rekey"))
@pass_session
def rekey(session: Session) -> int:
    """Give all members a new network key, but not the removed.

    Devices that are reached have it within seconds, the others when they are back. The key of
    before is accepted for another week; who was away for longer needs a new invitation.
    """
    with session.connect() as client:
        answer = client.ask({"command": "rekey"})
    if session.is_json:
        print_json(answer)
        return Exit.DONE
    lasts = format_duration_us(answer["accepted_for_us"])
    click.echo(f"the mesh has network key number {answer['generation']}")
    note(f"the one before is accepted for {lasts}; invitations that are out hold that one")
    return Exit.DONE


def _recovery_seed(path: str) -> bytes:
    from meshd.recovery_key import RECOVERY_FILE_BYTES_MAX, seed_of_recovery_text

    what = "recovery key"
    content = read_file(path, bytes_max=RECOVERY_FILE_BYTES_MAX, what=what)
    return seed_of_recovery_text(content.decode("utf-8", "replace"))


def _confirm(session: Session, plan: Frame) -> None:
    """Say what would happen and ask. Raises CommandFailed if the answer is no, or nobody is there.

    A script says --yes.
    """
    if session.is_json or not sys.stdin.isatty():
        raise CommandFailed(
            f"removing {_named(plan)} cannot be taken back: nobody is here to ask",
            Exit.USAGE,
            hint="add --yes",
        )
    for line in _consequences(plan):
        note(line)
    if not click.confirm(f"Remove {plain(_named(plan))} from the mesh, for good?", err=True):
        raise CommandFailed("nothing was removed", Exit.NO, code="declined")


def _consequences(answer: Frame) -> list[str]:
    """Return what follows from a removal, a line each."""
    lines = []
    if answer["certificates_kept"]:
        lines.append(f"the devices that it let in stay: {_list(answer['certificates_kept'])}")
    if answer["certificates_void"]:
        void = _list(answer["certificates_void"])
        lines.append(f"these are out too, until an admin invites them anew: {void}")
    if answer["removals_kept"]:
        lines.append(f"{answer['removals_kept']} removals by it stay in force")
    if answer["removals_void"]:
        lines.append(f"{answer['removals_void']} removals by it no longer count")
    if answer["is_admin"] and not answer["is_final"]:
        lines.append(
            "it is an admin of the same rank or a higher one, so it can still remove others, and"
            " perhaps undo this: only `--recovery-key FILE` puts it out for good"
        )
    if answer["is_done"]:
        lines.append("`meshctl rekey` keeps it from knocking at all")
    return lines


def _named(answer: Frame) -> str:
    return f"{answer['name']} ({short_id(answer['id'])})"


def _list(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN_MAX
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    return f"{shown} and {more} more" if more > 0 else shown


def _write_new(path: str, content: bytes) -> None:
    """Write a file that only its owner can read; it must not be there. Raises FileFailed."""
    if not path:
        raise FileFailed("the name of the file to write is empty")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(Path(path).resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise FileFailed(
            f"{path} is there already", hint="name a file that is not there; nothing was erased"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
        reason = getattr(error, "strerror", None) or error
        raise FileFailed(
            f"{path} cannot be written: {reason}", hint="nothing was erased from this device"
        ) from error
