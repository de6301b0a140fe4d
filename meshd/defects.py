"""What the daemon does about a defect of its own: it begins again from what is durable.

A handler that raised has done half of what it wanted: a task may be marked as on its way to the
disk and never get there. Going on with that state could wedge tasks, or worse, promise what is not
so. Hence all of it is dropped, and every part begins again, as after a crash, which is what the
simulations show to be safe.

But one message must not end a device, nor all devices: the process stays, and the peer whose
message it was is not heard for a while, since it would only send it again. Nothing of this is
silent: each defect is an error in the log, with its traceback, and a warning in the status. Many
within a short time end the process after all: then nobody knows what is wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import structlog

from meshd.errors import DaemonError
from wire.events import Event, JoinAsked, LinkUp, PublishedReceived, Received, TimerDue
from wire.ids import PeerId, peer_text

DEFECTS_MAX = 5
DEFECTS_WITHIN_US = 600_000_000
QUARANTINE_US = 3_600_000_000
QUARANTINED_MAX = 1_024

log = structlog.get_logger()


class DefectsTooMany(DaemonError):
    """Beginning again did not help: report the defect with the log, do not just start again."""


class NodeFailed(Exception):
    """The node raised while it handled an event. `peer` sent what it was about, None if nobody."""

    def __init__(self, event: Event) -> None:
        self.event = _name_of(event)
        self.peer = _sender_of(event)
        super().__init__(f"the node raised at {self.event}")


@dataclass(slots=True)
class Defects:
    """The defects since the process began. Times: microseconds on one clock of the caller."""

    count: int = 0
    last: str = ""
    _at_us: deque[int] = field(default_factory=lambda: deque(maxlen=DEFECTS_MAX))
    _quarantine: dict[PeerId, int] = field(default_factory=dict)

    def note(self, error: BaseException, *, now_us: int) -> None:
        """Take up a defect that ended all parts. Raises DefectsTooMany if they must stay down."""
        self.count += 1
        self.last = _words(error)
        peer = error.peer if isinstance(error, NodeFailed) else None
        log.error(
            "daemon.defect",
            reason=self.last,
            count=self.count,
            sender=None if peer is None else peer_text(peer),
            exc_info=error,
        )
        if peer is not None:
            self._isolate(peer, now_us)
        self._at_us.append(now_us)
        if len(self._at_us) == DEFECTS_MAX and now_us - self._at_us[0] < DEFECTS_WITHIN_US:
            raise DefectsTooMany(
                f"{DEFECTS_MAX} defects within {DEFECTS_WITHIN_US // 60_000_000} minutes, the last:"
                f" {self.last}. Everything that was accepted is kept; please report this with the"
                " log before you start the daemon again"
            ) from error

    def quarantine_us(self, peer: PeerId, *, now_us: int) -> int:
        """Return for how long a peer is not heard; 0 if it is."""
        return max(0, self._quarantine.get(peer, now_us) - now_us)

    def quarantined(self) -> tuple[PeerId, ...]:
        """Return those that are, or were, not heard."""
        return tuple(self._quarantine)

    def warning(self) -> str | None:
        """Return what a person should know of it."""
        if not self.count:
            return None
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"a defect made the daemon begin again {times}: {self.last}; please report it"

    def _isolate(self, peer: PeerId, now_us: int) -> None:
        self._quarantine.pop(peer, None)
        self._quarantine[peer] = now_us + QUARANTINE_US
        if len(self._quarantine) > QUARANTINED_MAX:
            del self._quarantine[next(iter(self._quarantine))]


def _sender_of(event: Event) -> PeerId | None:
    match event:
        case Received(peer=peer) | LinkUp(peer=peer) | JoinAsked(peer=peer):
            return peer
        case PublishedReceived(author=author):
            return author
        case _:
            return None


def _name_of(event: Event) -> str:
    match event:
        case Received(message=message) | PublishedReceived(message=message):
            return f"{type(event).__name__} {type(message).__name__}"
        case TimerDue(key):
            return f"TimerDue {type(key).__name__}"
        case _:
            return type(event).__name__


def _words(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, NodeFailed) else None
    if cause is None:
        return f"{type(error).__name__}: {error}"[:300]
    return f"{error}: {type(cause).__name__}: {cause}"[:300]
