"""A cable that takes its time: carries frames between two TAP interfaces, each after a delay.

For kernels without `netem`. Run as a program: it makes one interface in each of two namespaces,
says "ready", and carries frames until its standard input ends, so it never outlives whoever
started it. TAP frames come whole and with checksums: no offload of the kernel's leaks into them.

Frames keep their order in each direction: one that draws a short delay waits for the one before.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from random import Random

from support.netns_entry import enter_namespace

FRAME_BYTES_MAX = 65_536
# More than that many frames under way are lost, as in a router whose queue is full: 3 MB each way.
FRAMES_MAX = 2_048
FRAMES_AT_ONCE_MAX = 64  # read from one end before the other has its turn

_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000


@dataclass(slots=True, kw_only=True)
class Direction:
    """The frames on their way from one end to the other, and when each arrives (seconds)."""

    source: int  # file descriptors
    target: int
    latency_s: float
    jitter_s: float
    rng: Random
    _frames: deque[tuple[float, bytes]] = field(default_factory=deque)
    _last_due_s: float = 0.0

    @property
    def due_s(self) -> float:
        """When the next frame arrives; infinite if none is under way."""
        return self._frames[0][0] if self._frames else float("inf")

    def take(self, now_s: float) -> None:
        """Let the frames that wait at the source set out."""
        for _ in range(FRAMES_AT_ONCE_MAX):
            try:
                frame = os.read(self.source, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            if len(self._frames) < FRAMES_MAX:
                delay_s = self.latency_s + self.rng.uniform(0.0, self.jitter_s)
                self._last_due_s = max(self._last_due_s, now_s + delay_s)
                self._frames.append((self._last_due_s, frame))

    def deliver(self, now_s: float) -> None:
        """Let what is due arrive. An end that is down or full loses it, as a cable would."""
        while self._frames and self._frames[0][0] <= now_s:
            _, frame = self._frames.popleft()
            try:
                os.write(self.target, frame)
            except OSError:  # EIO: the interface is down; EAGAIN: its queue is full
                continue


def tap(namespace: str, name: str) -> int:
    """Make an interface in a namespace, which goes with the returned file descriptor."""
    enter_namespace(namespace)
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    return descriptor


def carry(ends: tuple[int, int], directions: tuple[Direction, Direction]) -> None:
    """Carry frames both ways until standard input ends."""
    stdin = sys.stdin.fileno()
    while True:
        due_s = min(direction.due_s for direction in directions)
        timeout_s = max(0.0, min(due_s - time.monotonic(), 60.0))
        readable, _, _ = select.select([*ends, stdin], [], [], timeout_s)
        if stdin in readable and not os.read(stdin, 1):
            return
        now_s = time.monotonic()
        for direction in directions:
            if direction.source in readable:
                direction.take(now_s)
            direction.deliver(now_s)


def main() -> None:
    """Arguments: namespace and interface of one end, of the other, latency and jitter in us."""
    here, interface, there, port, latency_us, jitter_us = sys.argv[1:]
    ends = (tap(here, interface), tap(there, port))
    rng = Random(port)

    def direction(source: int, target: int) -> Direction:
        return Direction(
            source=source,
            target=target,
            latency_s=int(latency_us) / 1e6,
            jitter_s=int(jitter_us) / 1e6,
            rng=rng,
        )

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    carry(ends, (direction(*ends), direction(*ends[::-1])))


if __name__ == "__main__":
    main()
