"""The frames that wait for one link, by class: control before tasks before bulk.

Each class holds a bounded number of frames and bytes. A full class drops what comes, says so once
(`is_congested`), and says once when it is below half again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import trio
from msgspec import Struct

from p2p.framing import framed
from wire.codec import FRAME_BYTES_MAX
from wire.messages import Traffic


class QueueLimits(Struct, frozen=True, kw_only=True):
    """How much waits in each class for one link. More survives a slower peer and costs memory."""

    control_bytes_max: int = FRAME_BYTES_MAX
    task_bytes_max: int = 4 * FRAME_BYTES_MAX
    bulk_bytes_max: int = 2 * FRAME_BYTES_MAX
    frames_count_max: int = 1_024

    def bytes_max(self, traffic: Traffic) -> int:
        """Return the bound of one class. One frame fits even if it alone exceeds it."""
        return (self.control_bytes_max, self.task_bytes_max, self.bulk_bytes_max)[traffic]


@dataclass(slots=True)
class _Class:
    frames: deque[tuple[float, bytes]] = field(default_factory=deque)  # when it was queued, frame
    queued_bytes: int = 0
    is_congested: bool = False
    has_changed: bool = False  # is_congested, since it was last told


class SendQueue:
    """Frames of one link that are not sent yet. Times: seconds on the caller's clock."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._classes = {traffic: _Class() for traffic in Traffic}
        self._is_closed = False
        self._arrived = trio.Event()
        self._noticed = trio.Event()

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait, in all classes."""
        return sum(waiting.queued_bytes for waiting in self._classes.values())

    @property
    def is_closed(self) -> bool:
        """Whether nothing is accepted any more; what waits is still taken."""
        return self._is_closed

    @property
    def oldest_s(self) -> float:
        """When the frame that waits longest was queued; only if something waits."""
        return min(waiting.frames[0][0] for waiting in self._classes.values() if waiting.frames)

    def push(self, frame: bytes, traffic: Traffic, *, now_s: float) -> bool:
        """Queue `frame`; False if its class is full or the queue closed, and it was dropped."""
        if self._is_closed:
            return False
        waiting = self._classes[traffic]
        travels = framed(frame)
        if waiting.frames and (
            len(waiting.frames) >= self._limits.frames_count_max
            or waiting.queued_bytes + len(travels) > self._limits.bytes_max(traffic)
        ):
            self._tell(waiting, is_congested=True)
            return False
        waiting.frames.append((now_s, travels))
        waiting.queued_bytes += len(travels)
        self._arrived.set()
        return True

    def take(self, bytes_max: int) -> bytes:
        """Return waiting frames in one piece: at most `bytes_max` bytes, but at least one frame."""
        taken = bytearray()
        for traffic, waiting in self._classes.items():
            while waiting.frames:
                frame = waiting.frames[0][1]
                if taken and len(taken) + len(frame) > bytes_max:
                    return bytes(taken)
                waiting.frames.popleft()
                waiting.queued_bytes -= len(frame)
                taken += frame
                self._relieve(waiting, self._limits.bytes_max(traffic))
        return bytes(taken)

    def absorb(self, other: SendQueue) -> None:
        """Take over all that waits in `other`, a link that this one replaces."""
        for traffic, waiting in other._classes.items():
            own = self._classes[traffic]
            own.frames.extendleft(reversed(waiting.frames))
            own.queued_bytes += waiting.queued_bytes
            own.is_congested |= waiting.is_congested
            own.has_changed |= waiting.has_changed
            other._classes[traffic] = _Class()
            if own.frames:
                self._arrived.set()
            if own.has_changed:
                self._noticed.set()

    def drop(self) -> None:
        """Forget what waits."""
        self._classes = {traffic: _Class() for traffic in Traffic}

    def close(self) -> None:
        """Accept nothing more."""
        self._is_closed = True
        self._arrived.set()

    async def wait_for_frames(self, bytes_min: int = 1) -> bool:
        """Return once so much waits, or the queue is closed; False if nothing is left in it."""
        while not self._is_closed and self.queued_bytes < bytes_min:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self.queued_bytes > 0

    async def wait_for_notices(self) -> list[tuple[Traffic, bool]]:
        """Return the classes that became congested (True) or drained (False) since last told."""
        while not (told := self._take_notices()):
            self._noticed = trio.Event()
            await self._noticed.wait()
        return told

    def _take_notices(self) -> list[tuple[Traffic, bool]]:
        told = []
        for traffic, waiting in self._classes.items():
            if waiting.has_changed:
                waiting.has_changed = False
                told.append((traffic, waiting.is_congested))
        return told

    def _relieve(self, waiting: _Class, bytes_max: int) -> None:
        if (
            waiting.is_congested
            and waiting.queued_bytes * 2 < bytes_max
            and len(waiting.frames) * 2 < self._limits.frames_count_max
        ):
            self._tell(waiting, is_congested=False)

    def _tell(self, waiting: _Class, *, is_congested: bool) -> None:
        if waiting.is_congested != is_congested:
            waiting.is_congested = is_congested
            # Congested and drained again before anybody was told: nothing to tell.
            waiting.has_changed = not waiting.has_changed
            self._noticed.set()
