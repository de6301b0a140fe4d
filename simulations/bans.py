"""What simulated devices hold against each other for frames that no honest device sends.

The scores are `p2p.conduct`, kept for each device as its process does: a restart forgets them.
"""

from __future__ import annotations

from p2p.conduct import Conduct, ConductSettings, Offence
from simulations.engine import US_PER_S
from wire.errors import BadSignature, MalformedFrame
from wire.ids import PeerId


class Bans:
    """Who takes nothing from whom, of all devices."""

    def __init__(self) -> None:
        self._conduct: dict[PeerId, Conduct] = {}

    def on_refused(
        self, holder: PeerId, other: PeerId, error: MalformedFrame, *, now_us: int
    ) -> bool:
        """Lower a device's score with another one; True if it is banned there from now on."""
        offence = Offence.FORGED if isinstance(error, BadSignature) else Offence.MALFORMED
        conduct = self._conduct.setdefault(holder, Conduct(ConductSettings()))
        return conduct.on_offence(other, offence, now_s=now_us / US_PER_S)

    def is_banned(self, other: PeerId, *, by: PeerId, now_us: int) -> bool:
        """Say whether a device neither dials nor answers another one."""
        conduct = self._conduct.get(by)
        return conduct is not None and conduct.banned_for_s(other, now_s=now_us / US_PER_S) > 0

    def process_died(self, holder: PeerId) -> None:
        """Forget what a dead process knew."""
        self._conduct.pop(holder, None)
