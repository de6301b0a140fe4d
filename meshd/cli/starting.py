"""`meshd start`: from flags, environment and file to a running daemon.

The daemon and all that it needs is imported when nothing stands in its way any more, so that
`--help`, a wrong setting and a home in use are answered at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from meshd.cli.exits import Exit
from meshd.cli.files import STANDARD, FileFailed, read_file
from meshd.cli.grammar import MeshCommand, Session, examples, pairs, pass_session

INVITATION_BYTES_MAX = 8 * 1024


@click.command(
    cls=MeshCommand,
    epilog=examples(
        "meshd start",
        "meshd start --name kitchen --label camera=front --listen /ip4/0.0.0.0/tcp/4777",
        "meshd start --home ~/second --join @invitation.txt",
    ),
)
@click.option("--name", help="What people call this device; else the host's name.")
@click.option(
    "--listen",
    metavar="ADDRESS",
    multiple=True,
    help="Where others reach it, such as /ip4/0.0.0.0/tcp/4777; repeatable.",
)
@click.option(
    "--label",
    "labels",
    metavar="KEY=VALUE",
    multiple=True,
    callback=pairs,
    help="What tasks may ask for, as label:KEY=VALUE; repeatable.",
)
@click.option("--type", metavar="NAME", help="The type of device, such as edge or server.")
@click.option(
    "--join",
    metavar="@FILE|-|TOKEN",
    help="Join a mesh by an invitation: in a file, on standard input, or here, where every user"
    " of this machine can read it in the process list.",
)
@click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Encrypt the key with what is in FILE; else $CREDENTIALS_DIRECTORY/meshd-passphrase.",
)
@click.option(
    "--profile",
    type=click.Choice(["local", "lan", "wan"]),
    help="Defaults for one machine, one network (lan, the default), or the internet.",
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="Settings; else $MESHD_CONFIG, else config.toml in the home if it is there.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), help="How to log on standard error."
)
@pass_session
def start(
    session: Session,
    /,
    *,
    config_file: Path | None,
    log_format: str | None,
    **flags: object,
) -> int:
    """Run the daemon until Ctrl-C, SIGTERM or `meshd stop`.

    No configuration is needed: the first start makes the home, a key, and a mesh of one. Each flag
    can also be set in the file (`name`, `listen`, `labels`, `log.format`, ...) and the environment
    (MESHD_NAME, MESHD_LOG__FORMAT, ...); flags win over the environment, which wins over the file.
    """
    import structlog

    from meshd.config_layers import CONFIG_VARIABLE, load_config
    from meshd.home import Home, lock_home, open_home
    from meshd.keyfile import load_or_create_seed, read_passphrase
    from meshd.logs import LogOptions, logging_to
    from meshd.membership import read_invitation

    home = Home(session.home)
    chosen = config_file or _path_in(os.environ.get(CONFIG_VARIABLE))
    loaded = load_config(
        file=chosen or home.config,
        environ=os.environ,
        flags={**flags, "log.format": log_format},
        is_file_needed=chosen is not None,
    )
    config = loaded.config
    # What the person got wrong is told before anything is made.
    invitation = read_invitation(given_invitation(config.join)) if config.join else None
    passphrase = read_passphrase(_path_in(config.passphrase_file), os.environ)
    lock = lock_home(open_home(home.path))
    try:
        seed = load_or_create_seed(home.key, passphrase, may_create=not home.database.exists())
        # It takes a second to import, and libp2p, which it imports, must be there before logging.
        from meshd.daemon import StartOptions, run_daemon

        log = config.log
        with logging_to(
            LogOptions(
                format=log.format,
                level=log.level,
                directory=home.logs,
                file_bytes_max=log.file_bytes_max,
                files_max=log.files_max,
            )
        ):
            for warning in loaded.warnings:
                structlog.get_logger().warning("config.ignored", reason=warning)
            run_daemon(config, seed, StartOptions(home=home, join=invitation, ready=_print_ready))
    finally:
        lock.release()
    return Exit.DONE


def given_invitation(given: str) -> str:
    """Return the token that `--join` gives or names. Raises FileFailed."""
    if given == STANDARD:
        try:  # a line, not all: a person pastes it and presses Enter
            line = sys.stdin.buffer.readline(INVITATION_BYTES_MAX).decode("utf-8", "replace")
        except OSError as error:
            raise FileFailed(f"--join -: standard input: {error.strerror}") from error
        if not line.strip():
            raise FileFailed("--join -: there is no invitation on standard input")
        return line.strip()
    if given.startswith("@"):
        content = read_file(given[1:], bytes_max=INVITATION_BYTES_MAX, what="invitation")
        return content.decode("utf-8", "replace").strip()
    return given


def _path_in(text: str | None) -> Path | None:
    # Not Path.expanduser, which raises for a user that is not there.
    return Path(os.path.expanduser(text)) if text else None  # noqa: PTH111


def _print_ready(line: str) -> None:
    """Say that the daemon is ready. That nobody reads it any more is no reason to stop."""
    with contextlib.suppress(OSError, FileFailed):
        click.echo(line)
        sys.stdout.flush()
