"""js-libp2p as a foreign client: runs `tests/interop/ping.mjs` against an address."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TypeAlias

import pytest
import trio

INTEROP = Path(__file__).parents[1] / "interop"
INSTALL = "npm ci --prefix tests/interop"
_CLIENT_S = 30.0

Event: TypeAlias = dict[str, object]


def _is_installed() -> bool:
    wanted = json.loads((INTEROP / "package.json").read_text("utf-8"))["dependencies"]
    return all((INTEROP / "node_modules" / name).is_dir() for name in wanted)


needs_js = pytest.mark.skipif(
    shutil.which("node") is None or not _is_installed(),
    reason=f"js-libp2p is not installed: needs node 20 and `{INSTALL}`",
)


def network_key_text(network_key: bytes) -> str:
    """Return a network key in the text form of libp2p's private networks."""
    return f"/key/swarm/psk/1.0.0/\n/base16/\n{network_key.hex()}\n"


async def run_client(
    address: str,
    network_key: bytes | None,
    scratch: Path,
    protocol: str | None = None,
    sent: bytes | None = None,
) -> list[Event]:
    """Return what the client reports of `address` (with `/p2p/...`), one event a line.

    With a `protocol` it opens a stream and sends `sent`, or a few bytes that mean nothing.
    """
    key_file = scratch / "network.key"
    if network_key is not None:
        key_file.write_text(network_key_text(network_key), "ascii")
    arguments = [address, "-" if network_key is None else str(key_file)]
    command = ["node", "--import", "./polyfill.mjs", "ping.mjs", *arguments]
    with trio.fail_after(_CLIENT_S):
        finished = await trio.run_process(
            [*command, *([protocol] if protocol else []), *([sent.hex()] if sent else [])],
            cwd=INTEROP,
            capture_stdout=True,
            check=False,
        )
    return [json.loads(line) for line in finished.stdout.splitlines()]
