"""Dials between simulated devices: what they cost, why they fail, and which of two links stays.

A dial takes six round trips, and at its end both devices check each other's papers. As long as the
path is cut or jammed, or the other device has no power, its kernel sends the first packet again
after 1, 3 and 7 s, as TCP does. A path that is cut or jammed when the dial ends lets it time out.

A dial through others asks one after another to carry the link: a round trip to the relay, one from
there to the other device, and then the same six round trips over both paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from simulations.endpoint import Endpoint
from simulations.fabric import Fabric
from simulations.links import Links
from simulations.paths import LANE_DIAL
from wire.errors import NotAMember
from wire.ids import PeerId
from wire.membership import check_chain
from wire.messages import Hello, LinkRefused, RefusalReason

DIAL_ROUND_TRIPS = 6
RELAY_ANSWER_US_MAX = 3_000_000  # `p2p.circuits`
SYN_AGAIN_US = 1_000_000  # and then twice as late each time (RFC 6298, section 5.7)
FULL = LinkRefused(reason=RefusalReason.TOO_MANY_LINKS)


class Dials:
    """The dials that are under way."""

    def __init__(self, fabric: Fabric, links: Links) -> None:
        self._fabric = fabric
        self._links = links
        self._boots: dict[PeerId, dict[PeerId, int]] = {}  # by origin and target: origin's boot

    def dial(
        self,
        origin: PeerId,
        target: PeerId,
        addresses: Sequence[str],
        via: Sequence[PeerId] = (),
    ) -> None:
        """Try to open a link. The origin hears LinkUp or DialFailed, nothing if it has one."""
        dialling = self._boots.setdefault(origin, {})
        held = self._links.held_by(origin).get(target)
        may_be_replaced = held is not None and held.is_relayed and not via
        if (held is not None and not may_be_replaced) or target in dialling:
            return
        dialler, answering = self._fabric.endpoints[origin], self._fabric.endpoints.get(target)
        dialling[target] = dialler.boot
        fail = partial(self._fail, dialler, dialler.boot, target)
        refusal = self._own_refusal(origin, target)
        until_us = self._fabric.engine.now_us + self._fabric.settings.dial_timeout_us
        if refusal is not None:
            fail(refusal, after_us=0)
        elif answering is None or origin == target:
            fail("nobody with this id", after_us=0)
        elif via:
            self._ask(dialler, dialler.boot, answering, list(via), until_us)
        elif not set(addresses) & set(answering.addresses):
            fail("nobody with this id at these addresses", after_us=0)
        else:
            self._knock(dialler, dialler.boot, answering, 0, until_us)

    # Through others.

    def _ask(
        self, dialler: Endpoint, boot: int, answering: Endpoint, via: list[PeerId], until_us: int
    ) -> None:
        """Ask the next of `via` to carry the link."""
        if dialler.boot != boot or not dialler.is_running:
            return
        origin, target = dialler.peer, answering.peer
        engine, paths = self._fabric.engine, self._fabric.paths
        while via and not self._links.is_linked_directly(origin, via[0]):
            del via[0]
        if not via or engine.now_us >= until_us:
            fail = partial(self._fail, dialler, boot, target)
            fail("nobody carries a link to it", after_us=0)
            return
        relay, others = self._fabric.endpoints[via[0]], via[1:]

        def asked() -> None:
            if dialler.boot != boot or not dialler.is_running:
                return
            if not self._fabric.are_answering(relay.peer):
                ask_another = partial(self._ask, dialler, boot, answering, others, until_us)
                engine.after(RELAY_ANSWER_US_MAX, ask_another)
            elif self._links.circuit_refusal(origin, relay.peer, target) is not None:
                self._fabric.counts["network.circuit_refused"] += 1
                self._ask(dialler, boot, answering, others, until_us)
            else:
                engine.after(trips_us(), partial(self._greet, dialler, boot, answering, relay))

        def trips_us() -> int:
            far_us = paths.round_trip_us(LANE_DIAL, relay.peer, target)
            for _ in range(DIAL_ROUND_TRIPS):
                far_us += paths.round_trip_us(LANE_DIAL, origin, relay.peer)
                far_us += paths.round_trip_us(LANE_DIAL, relay.peer, target)
            return far_us

        engine.after(paths.round_trip_us(LANE_DIAL, origin, relay.peer), asked)

    # At its addresses.

    def _knock(
        self, dialler: Endpoint, boot: int, answering: Endpoint, tries_count: int, until_us: int
    ) -> None:
        """Send the first packet: as long as none comes back, it is sent again."""
        if dialler.boot != boot or not dialler.is_running:
            return
        origin, target = dialler.peer, answering.peer
        engine, paths = self._fabric.engine, self._fabric.paths
        fail = partial(self._fail, dialler, boot, target)
        is_open = paths.is_whole(origin, target) and paths.can_be_dialled(target)
        if not is_open or not answering.is_powered:
            again_us = SYN_AGAIN_US << tries_count
            if engine.now_us + again_us >= until_us:
                fail("timed out", after_us=max(0, until_us - engine.now_us))
                return
            again = partial(self._knock, dialler, boot, answering, tries_count + 1, until_us)
            engine.after(again_us, again)
        elif not answering.is_running:
            fail("connection refused", after_us=paths.round_trip_us(LANE_DIAL, origin, target))
        else:
            trips = (
                paths.round_trip_us(LANE_DIAL, origin, target) for _ in range(DIAL_ROUND_TRIPS)
            )
            engine.after(sum(trips), partial(self._greet, dialler, boot, answering))

    def process_died(self, peer: PeerId) -> None:
        """Forget what a dead process was dialling."""
        self._boots.pop(peer, None)

    def _own_refusal(self, origin: PeerId, target: PeerId) -> str | None:
        """Return why a device does not even begin to dial."""
        settings = self._fabric.settings
        if len(self._boots[origin]) > settings.dials_max:
            return f"{settings.dials_max} other devices are being dialled"
        held = self._links.held_by(origin)
        if target not in held and len(held) >= settings.links_max:
            return f"{settings.links_max} links are open"
        if self._fabric.bans.is_banned(target, by=origin, now_us=self._fabric.engine.now_us):
            return "banned: it sent what no device should"
        return None

    def _greet(
        self, dialler: Endpoint, boot: int, answering: Endpoint, relay: Endpoint | None = None
    ) -> None:
        """Let both devices judge the first frame of the other."""
        if dialler.boot != boot or not dialler.is_running:
            return
        origin, target = dialler.peer, answering.peer
        fail = partial(self._fail, dialler, boot, target)
        if not self._can_greet(origin, target, relay):
            fail("no answer in time", after_us=self._fabric.settings.dial_timeout_us)
            return
        ours, theirs = dialler.hello(), answering.hello()
        refusal = (
            _refusal(ours, origin, by=theirs)
            or _refusal(theirs, target, by=ours)
            or self._refusal_by(target, origin, is_relayed=relay is not None)
        )
        if refusal is not None:
            fail(refusal, after_us=0)
            return
        if self._is_full_for(target, origin):
            fail("refused: too many links", after_us=0, refusal=FULL)
            return
        self._end(origin, boot, target)
        if self._is_wanted(origin, target, is_relayed=relay is not None):
            self._links.begin(dialler, ours, answering, theirs, relay)

    def _can_greet(self, origin: PeerId, target: PeerId, relay: Endpoint | None) -> bool:
        if relay is None:
            return self._fabric.can_reach(origin, target)
        are_linked = all(
            self._links.is_linked_directly(end, relay.peer) for end in (origin, target)
        )
        return are_linked and self._fabric.are_answering(origin, relay.peer, target)

    def _is_wanted(self, origin: PeerId, target: PeerId, *, is_relayed: bool) -> bool:
        """Say whether a link is missing, or there is one that a third device carries needlessly."""
        if not self._links.is_linked(origin, target):
            return True
        return not is_relayed and not self._links.is_linked_directly(origin, target)

    def _refusal_by(self, target: PeerId, origin: PeerId, *, is_relayed: bool) -> str | None:
        """Return why the device that is dialled takes no link from one that may have it."""
        fabric = self._fabric
        if fabric.bans.is_banned(origin, by=target, now_us=fabric.engine.now_us):
            return "refused: banned"
        current = self._links.held_by(target).get(origin)
        if current is None:
            return None
        is_twin = self._links.takes_for_twin(current, is_relayed=is_relayed)
        if is_twin and target < origin and not self._links.is_linked(origin, target):
            fabric.counts["network.half_open_kept"] += 1
            return "the other of two links stays"
        return None

    def _is_full_for(self, target: PeerId, origin: PeerId) -> bool:
        held = self._links.held_by(target)
        return origin not in held and len(held) >= self._fabric.settings.links_max

    def _fail(
        self,
        dialler: Endpoint,
        boot: int,
        target: PeerId,
        reason: str,
        *,
        after_us: int,
        refusal: LinkRefused | None = None,
    ) -> None:
        def failed() -> None:
            self._end(dialler.peer, boot, target)
            if dialler.boot == boot:
                self._links.fail_dial(dialler, target, reason, after_us=0, refusal=refusal)

        self._fabric.engine.after(after_us, failed)

    def _end(self, origin: PeerId, boot: int, target: PeerId) -> None:
        dialling = self._boots.get(origin, {})
        if dialling.get(target) == boot:
            del dialling[target]


def _refusal(hello: Hello, subject: PeerId, *, by: Hello) -> str | None:
    """Return why the device that says `by` refuses the one that says `hello`, None if it does not.

    Signatures are taken as verified here: no node of the simulation holds another one's signer.
    """
    if hello.mesh != by.mesh:
        return "refused: another mesh"
    if hello.protocol.common_with(by.protocol) is None:
        return "refused: no common version"
    try:
        check_chain(hello.chain, genesis=by.genesis, subject=subject)
    except NotAMember as error:
        return f"refused: {error}"
    return None
