"""Many overlays in virtual time: who dials whom, who is linked, and whether that is one mesh."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from support.meshes import Device, SmallMesh
from support.records import presence_of

from p2p.directory import Directory
from p2p.overlay import Overlay, ReviewDue
from wire.effects import Dial, Effect, Hangup, SetTimer
from wire.ids import PeerId

DIAL_US = 60_000
DIAL_TIMEOUT_US = 10_000_000
US_PER_S = 1_000_000


def address_of(device: Device) -> str:
    """Return where a device listens."""
    return f"/ip4/10.0.0.{device.keys.peer[0]}/tcp/4001"


@dataclass
class Ring:
    """Devices that all know of each other, as after enough gossip; they share one directory."""

    mesh: SmallMesh
    links_max: int
    dials_max: int = 16
    now_us: int = 0
    down: set[PeerId] = field(default_factory=set)
    split: frozenset[PeerId] = frozenset()  # cut off from all others
    dials_count: int = 0
    hangups_count: int = 0
    links_count_max: int = 0

    def __post_init__(self) -> None:
        founder = self.mesh.devices[0]
        self.directory = Directory(
            own=founder.peer,
            genesis=self.mesh.genesis,
            is_linked=lambda _: False,
            is_removed=lambda _: False,
        )
        for device in self.mesh.devices:
            presence = presence_of(device, addresses=(address_of(device),))
            self.directory.merge(presence, device.chain, now_us=0)
        self.overlays: dict[PeerId, Overlay] = {}
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._timers: dict[PeerId, int] = {}
        for number, device in enumerate(self.mesh.devices):
            overlay = Overlay(
                own=device.peer,
                directory=self.directory,
                links={},
                rng=random.Random(number),
                links_max=self.links_max,
                dials_max=self.dials_max,
            )
            self.overlays[device.peer] = overlay
            self.carry_out(device.peer, overlay.on_restarted([]))

    def run_for(self, duration_us: int) -> None:
        """Let everything happen that is due in the next `duration_us`."""
        until_us = self.now_us + duration_us
        while self._due and self._due[0][0] <= until_us:
            self.now_us, _, action = heapq.heappop(self._due)
            action()
        self.now_us = until_us

    def carry_out(self, own: PeerId, effects: Iterable[Effect]) -> None:
        """Do what an overlay decided."""
        for effect in effects:
            match effect:
                case SetTimer(ReviewDue(), after_us):
                    self._set_timer(own, after_us)
                case Dial(peer, _):
                    self.dials_count += 1
                    is_up = self.can_reach(own, peer)
                    delay_us = DIAL_US if is_up else DIAL_TIMEOUT_US
                    self._after(delay_us, partial(self._dialled, own, peer))
                case Hangup(peer):
                    self.hangups_count += 1
                    self.drop(own, peer)

    def can_reach(self, one: PeerId, other: PeerId) -> bool:
        """Say whether two devices run and nothing lies between them."""
        is_cut = (one in self.split) is not (other in self.split)
        return not is_cut and one not in self.down and other not in self.down

    def crash(self, *devices: Device) -> None:
        """End devices without a goodbye."""
        self.down |= {device.peer for device in devices}
        self._drop_dead_links()

    def start(self, *devices: Device) -> None:
        """Start devices again; they remember nothing but who is in the directory."""
        for device in devices:
            self.down.discard(device.peer)
            overlay = self.overlays[device.peer]
            self.overlays[device.peer] = Overlay(
                own=device.peer,
                directory=self.directory,
                links={},
                rng=overlay.rng,
                links_max=self.links_max,
                dials_max=self.dials_max,
            )
            self.carry_out(device.peer, self.overlays[device.peer].on_restarted([]))

    def cut_off(self, devices: Iterable[Device]) -> None:
        """Let nothing pass between these devices and all others."""
        self.split = frozenset(device.peer for device in devices)
        self._drop_dead_links()

    def heal(self) -> None:
        """Let everything pass again."""
        self.split = frozenset()

    def drop(self, one: PeerId, other: PeerId) -> None:
        """End a link; both ends hear of it."""
        for own, peer in ((one, other), (other, one)):
            if self.overlays[own].links.pop(peer, None) is not None and own not in self.down:
                effects = self.overlays[own].on_link_down(peer, "gone", now_us=self.now_us)
                self.carry_out(own, effects)

    def degrees(self) -> list[int]:
        """Return how many links each running device has."""
        return [len(self.overlays[peer].links) for peer in self._running()]

    def components(self) -> int:
        """Return into how many parts the running devices fall."""
        unseen = set(self._running())
        count = 0
        while unseen:
            count += 1
            waiting = [unseen.pop()]
            while waiting:
                found = self.overlays[waiting.pop()].links.keys() & unseen
                unseen -= found
                waiting += found
        return count

    def _running(self) -> list[PeerId]:
        return [peer for peer in self.overlays if peer not in self.down]

    def _set_timer(self, own: PeerId, after_us: int) -> None:
        number = self._after(after_us, lambda: self._review(own, number))
        self._timers[own] = number

    def _review(self, own: PeerId, number: int) -> None:
        if self._timers[own] == number and own not in self.down:
            self.carry_out(own, self.overlays[own].on_review_due(now_us=self.now_us))

    def _after(self, delay_us: int, action: Callable[[], None]) -> int:
        number = next(self._numbers)
        heapq.heappush(self._due, (self.now_us + delay_us, number, action))
        return number

    def _dialled(self, own: PeerId, peer: PeerId) -> None:
        if own in self.down or peer in self.overlays[own].links:
            return  # it died meanwhile, or the other one was quicker
        if not self.can_reach(own, peer):
            effects = self.overlays[own].on_dial_failed(peer, "no answer", now_us=self.now_us)
            self.carry_out(own, effects)
            return
        for one, other, is_outbound in ((own, peer, True), (peer, own, False)):
            overlay = self.overlays[one]
            overlay.links[other] = object()
            self.links_count_max = max(self.links_count_max, len(overlay.links))
            effects = overlay.on_link_up(
                other, "/ip4/10.0.0.1/tcp/4001", is_outbound=is_outbound, now_us=self.now_us
            )
            self.carry_out(one, effects)

    def _drop_dead_links(self) -> None:
        for own, overlay in self.overlays.items():
            for peer in [peer for peer in overlay.links if not self.can_reach(own, peer)]:
                self.drop(own, peer)
