"""A mesh of real daemons, each on a node of its own: how it grows, and what each device sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from support.daemons import Daemons, Device, await_ready, until
from support.netns import Fabric

PORT = 4777
STARTS_AT_ONCE = 3  # two cores, two seconds of one each
VIEWS_S_MAX = 90.0


@dataclass(slots=True)
class RealMesh:
    """Devices by the number of their node: `d0` founded the mesh and invited all others."""

    network: Fabric
    daemons: Daemons
    devices: list[Device] = field(default_factory=list)

    def grow(self, *flags: str, is_announcing: bool = False, everywhere: bool = False) -> None:
        """Start a device on every node; return when all are in and see each other.

        Each has the label `place=<its name>`. With `is_announcing` it uses multicast DNS; with
        `everywhere` it listens on all interfaces, not at the address that its node has now.
        """
        settings = {"MESHD_MDNS__ENABLED": "true"} if is_announcing else {}
        token: str | None = None
        for node in range(self.network.nodes_count):
            await_ready(*self.devices[: 1 - STARTS_AT_ONCE])
            host = "0.0.0.0" if everywhere else self.network.host(node)  # noqa: S104 - inside a node
            device = self.daemons.start(
                f"d{node}",
                *("--label", f"place=d{node}", *flags),
                listen=f"/ip4/{host}/tcp/{PORT}",
                prefix=self.network.prefix(node),
                environ=settings,
                join=token,
            )
            self.devices.append(device)
            if token is None:
                await_ready(device)
                token = device.invite(uses=max(1, self.network.nodes_count - 1))
        await_ready(*self.devices)
        self.await_whole()

    def restart(self, node: int, *, listen: str | None = None) -> Device:
        """Start a device that ended again; return it when it is ready."""
        device = self.devices[node]
        self.daemons.restart(device, listen=listen)
        await_ready(device)
        return device

    def linked(self, *, is_direct: bool = False) -> set[tuple[int, int]]:
        """Return who sees whom as linked, directly or through another, and knows what it can do."""
        by_id = {device.id: node for node, device in enumerate(self.devices)}
        return {
            (node, by_id[str(peer["id"])])
            for node, device in enumerate(self.devices)
            for peer in device.ask("peers")["peers"]
            if peer["state"] == "linked"
            and peer["capabilities"]
            and not (is_direct and peer["via"])
        }

    def await_whole(self, within_s: float = VIEWS_S_MAX) -> float:
        """Return how many seconds it took until all see all others as linked."""
        everybody = set(permutations(range(len(self.devices)), 2))
        return self._timed(
            lambda: self.linked() == everybody, "not everybody sees everybody", within_s
        )

    def await_cut(
        self, ours: Sequence[int], theirs: Sequence[int], within_s: float = VIEWS_S_MAX
    ) -> float:
        """Return how many seconds it took until nobody is linked directly with the other side."""
        across = {(one, other) for one in ours for other in theirs}
        across |= {(other, one) for one, other in across}
        return self._timed(
            lambda: not self.linked(is_direct=True) & across,
            "somebody still sees the other side",
            within_s,
        )

    def assert_one_mesh(self) -> None:
        """Check that all devices are in one mesh and know of the same members."""
        assert len({str(device.ask("status")["mesh"]) for device in self.devices}) == 1
        members = {tuple(sorted(device.peers())) for device in self.devices}
        assert members == {tuple(sorted(device.name for device in self.devices))}

    def assert_calm(self) -> None:
        """Check that no daemon met anything that it did not expect."""
        for device in self.devices:
            for log in sorted(device.home.parent.glob(f"{device.name}.*.log")):
                assert "Traceback" not in log.read_text(errors="replace"), log

    def _timed(self, condition: Callable[[], bool], complaint: str, within_s: float) -> float:
        began_s = time.monotonic()
        until(condition, complaint, *self.devices, within_s=within_s)
        return time.monotonic() - began_s
