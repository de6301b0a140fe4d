"""Starting and stopping libp2p's services in order.

Cancelled all at once they leave sockets open and raise at each other, so they run shielded and are
stopped one after the other, within a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog
import trio
from libp2p.peer.peerstore import PeerStore
from libp2p.tools.anyio_service import Service, TrioManager
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.addresses import Address
from p2p.guards import is_benign_at_shutdown
from p2p.swarm import MeshSwarm
from p2p.transport import TcpTransport

SHUTDOWN_S: Final = 3.0
_ABORT_S: Final = 1.0
_PEERSTORE_SWEEP_S: Final = 60

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of a host that run: its connections, and `upper`, what is built on them."""

    swarm: MeshSwarm
    transport: TcpTransport
    peerstore: PeerStore
    upper: tuple[Service, ...]

    async def run(
        self, listening: list[Address], stop: trio.Event, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Run until `stop`, `started` once listening. What a service raises ends this, too.

        Cancelling does nothing: set `stop`, and it is over within `SHUTDOWN_S` + 1 s.
        """
        try:
            with trio.CancelScope(shield=True) as scope:
                async with trio.open_nursery() as nursery:
                    swarm = await _start(self.swarm, nursery)
                    upper = [await _start(service, nursery) for service in self.upper]
                    await self.swarm.listen(*(Multiaddr(str(own)) for own in listening))
                    # Not started by libp2p itself, so that its bounds on peers would never apply.
                    nursery.start_soon(self.peerstore.start_cleanup_task, _PEERSTORE_SWEEP_S)
                    task_status.started()
                    await stop.wait()
                    scope.deadline = trio.current_time() + SHUTDOWN_S + _ABORT_S
                    await self._stop(swarm, upper)
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            _, serious = group.split(is_benign_at_shutdown)
            if serious is not None or not stop.is_set():
                raise
            log.debug("host.late_tasks", count=len(group.exceptions))

    async def _stop(self, swarm: TrioManager, upper: list[TrioManager]) -> None:
        with trio.move_on_after(SHUTDOWN_S):
            await self.swarm.close_all()
            for manager in reversed(upper):
                await manager.stop()
            await swarm.stop()
        self.transport.abort_all()


async def _start(service: Service, nursery: trio.Nursery) -> TrioManager:
    manager = TrioManager(service)
    nursery.start_soon(manager.run)
    await manager.wait_started()
    return manager
