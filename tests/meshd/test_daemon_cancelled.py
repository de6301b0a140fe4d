"""The whole daemon, started and stopped in this process, cancelled at each of its steps.

With everything that it is made of, libp2p on loopback too, but without worker processes: what ends
a worker is tested with the pool.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.cancel_everywhere import cancel_everywhere

from meshd import daemon as daemon_module
from meshd import sensing
from meshd.config import Config, MdnsSettings
from meshd.control_frames import decode_frame, encode_frame
from meshd.control_stream import FrameStream
from meshd.daemon import Daemon, StartOptions
from meshd.defects import Defects
from meshd.home import Home, control_socket_path, open_home
from meshd.membership import load_membership
from meshd.store import Store
from sandbox.pool import Pool
from wire.ids import mesh_text
from wire.keys import Ed25519Keys

SEED = bytes(range(32))
CONFIG = Config(name="desk", listen=("/ip4/127.0.0.1/tcp/0",), mdns=MdnsSettings(enabled=False))


class PoolWithoutWorkers(Pool):
    """Opens its cache and starts no process."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - whatever a pool is given
        super().__init__(**{**settings, "worker_count": 0})


async def ask_status(home: Home) -> object:
    """Return the name of the device whose home it is, as its daemon answers."""
    async with await trio.open_unix_socket(control_socket_path(home.path)) as stream:
        client = FrameStream(stream)
        await client.receive()
        await client.send(encode_frame({"greeting": "test", "protocol": 1}))
        await client.send(encode_frame({"command": "status"}))
        answer = await client.receive()
        assert answer is not None
        return decode_frame(answer)["name"]


async def test_a_ready_daemon_cancelled_anywhere_leaves_a_home_that_it_can_start_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "Pool", PoolWithoutWorkers)
    monkeypatch.setattr(daemon_module, "GOODBYE_S", 0.001)
    monkeypatch.setattr(sensing, "calibrate", lambda: 10_000)
    homes: list[Home] = []
    ready: list[str] = []
    answers: list[object] = []

    async def start_ask_and_stop() -> None:
        ready.clear()
        answers.clear()
        homes.append(open_home(tmp_path / str(len(homes))))
        store = Store.open(homes[-1].database)
        is_ready = trio.Event()

        def tell(line: str) -> None:
            ready.append(line)
            is_ready.set()

        daemon = Daemon(
            config=CONFIG,
            keys=Ed25519Keys(SEED),
            seed=SEED,
            options=StartOptions(home=homes[-1], join=None, ready=tell),
            store=store,
            defects=Defects(),
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon.run)
                await is_ready.wait()
                answers.append(await ask_status(homes[-1]))
                daemon.stop()
        finally:
            store.close()

    def check(was_cancelled: bool) -> None:
        assert was_cancelled or answers == ["desk"]
        assert not os.path.lexists(control_socket_path(homes[-1].path))
        store = Store.open(homes[-1].database)
        membership = load_membership(store)
        store.close()
        for line in ready:  # it promised to be in a mesh, so it is in that mesh at the next start
            assert membership is not None
            assert mesh_text(membership.mesh)[:12] in line

    with capture_logs():
        runs_count = await cancel_everywhere(
            start_ask_and_stop, check, every=2, counts=lambda: bool(ready)
        )
    assert runs_count > 20
