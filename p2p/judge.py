"""Judges peers: every part that meets them tells of offences here, and asks who is banned.

Nobody is told of a ban. Whoever reads from a peer, answers or dials it, asks before it does so; the
connection of a banned peer ends with the next thing that it sends.
"""

from __future__ import annotations

import structlog
import trio

from p2p.conduct import Conduct, ConductSettings, Offence
from p2p.rate_limit import Pace, Rate
from telemetry.metrics import Metrics
from wire.ids import PeerId, peer_text

_FLOODS_AT_ONCE_MAX = 8  # more in one go say nothing more

log = structlog.get_logger()


class Judge:
    """The scores and bans of a device's peers, counted and logged, on trio's clock."""

    def __init__(
        self, settings: ConductSettings | None = None, metrics: Metrics | None = None
    ) -> None:
        metrics = metrics or Metrics()
        self._conduct = Conduct(settings or ConductSettings())
        self._offences = {
            offence: metrics.counter(
                f"meshd_peers_{offence.name.lower()}_total", f"Times that a peer {offence.value}"
            )
            for offence in Offence
        }
        self._banned = metrics.counter("meshd_peers_banned_total", "Bans for misbehaviour")

    def blame(self, peer: PeerId, offence: Offence, detail: str) -> bool:
        """Lower a peer's score; True if that was the last straw: it is banned from now on."""
        if self.is_banned(peer):
            return False  # what was under way
        self._offences[offence].increment()
        log.warning("peer.blamed", peer_id=peer_text(peer), offence=offence.value, reason=detail)
        if not self._conduct.on_offence(peer, offence, now_s=trio.current_time()):
            return False
        self._banned.increment()
        log.warning("peer.banned", peer_id=peer_text(peer), reason=offence.value)
        return True

    def ban(self, peer: PeerId, *, for_s: float) -> None:
        """Take nothing from the peer for a while, whatever it did elsewhere."""
        self._conduct.ban(peer, for_s=for_s, now_s=trio.current_time())

    def is_banned(self, peer: PeerId) -> bool:
        """Say whether nothing is taken from the peer."""
        return self.banned_for_s(peer) > 0

    def banned_for_s(self, peer: PeerId) -> float:
        """Return for how many seconds more nothing is taken from the peer; 0 if it is welcome."""
        return self._conduct.banned_for_s(peer, now_s=trio.current_time())


class Pacer:
    """Reads one peer no faster than a rate: its sender waits, and a flood counts as one."""

    def __init__(self, rate: Rate, *, peer: PeerId, what: str, judge: Judge) -> None:
        self._pace = Pace(rate, now_s=trio.current_time())
        self._peer = peer
        self._what = what
        self._judge = judge

    async def pace(self, tokens: float) -> bool:
        """Take `tokens` and wait as long as they were missing; True if that bans the peer now."""
        pause = self._pace.owe(tokens, now_s=trio.current_time())
        is_last_straw = False
        for _ in range(min(pause.floods_count, _FLOODS_AT_ONCE_MAX)):
            is_last_straw |= self._judge.blame(self._peer, Offence.FLOODED, self._what)
        if pause.seconds and not is_last_straw:
            await trio.sleep(pause.seconds)
        return is_last_straw
