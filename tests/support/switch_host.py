"""The switch host: a whole simulated mesh whose nodes run under the daemon's shell, on trio.

Everything else of a run is the simulator's: the plan, the world, its checks. So a run here and a
run of the simulator can be compared line by line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import structlog
from support.shell_host import CURRENT_HOST, ShellHost, ShellKit
from support.stepped_trio import stepped_trio
from support.switch_engine import SwitchEngine

from meshd.mailbox import Mailbox
from meshd.shell import Shell
from simulations import world as world_module
from simulations.crypto import StandInMaker
from wire.effects import Trace


@contextmanager
def shells_instead_of_the_engine(
    order_seed: int,
    *,
    shell: Callable[..., Shell] = Shell,
    mailbox: Callable[[], Mailbox] = Mailbox,
) -> Iterator[None]:
    """Let every World made in here run its nodes under shells.

    `order_seed` decides in which order trio runs tasks, which must not change what comes out.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        stepped_trio(order_seed) as stepped,
        traces_noted(),
    ):
        maker = StandInMaker()
        kit = ShellKit(stepped=stepped, verifier=maker.verifier, shell=shell, mailbox=mailbox)
        patch.setattr(world_module, "StandInMaker", lambda: maker)
        patch.setattr(world_module, "Engine", partial(SwitchEngine, stepped))
        patch.setattr(world_module, "SimulatedHost", partial(ShellHost, kit=kit))
        yield


@contextmanager
def traces_noted() -> Iterator[None]:
    """Bring what shells log to the trace of the run, as a line of the device that logs."""

    def note(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        CURRENT_HOST.get().carry_out(Trace(line.pop("event"), dict(line)))
        raise structlog.DropEvent

    processors = structlog.get_config()["processors"]
    before = [*processors]
    processors[:] = [note]  # in place: loggers that were used before keep this list
    try:
        yield
    finally:
        processors[:] = before
