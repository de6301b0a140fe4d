"""S11, how much a healthy device does at most: what it sends a second, and how many leases it has.

The rule of the start: a device that begins tells each neighbour all that it knows and hears all
that they know, which is the more the larger the mesh is; afterwards it sends heartbeats to its
neighbours, however many others there are, and passes on what is new. So both bounds of the start
are their own, and those of bytes grow with the number of devices that a directory holds.

`benchmarks/starts.py` measures it. Of meshes that started all at once on a LAN, the most that any
device sent in any second:

| devices | start | with the CPU counted | after 15 s |
|---|---|---|---|
| 30 | 90 messages, 137 kB | 124, 179 kB | 42, 2 kB |
| 60 | 115, 289 kB | 182, 363 kB | 59, 2 kB |
| 120 | 132, 566 kB | 197, 498 kB | 53, 2 kB |

Before a device compared with one new link at a time it was up to 268 messages, and with 1,000
devices, 256 in a directory, 453 and 5.4 MB.

Messages of the start are bounded by the links of a device, 24; bytes were at most 21 kB for each
device that a directory holds, and 2 kB for each when all tell their first telemetry, ten seconds
later. The budget is twice that.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from simulations.conditions import DurationUs

STARTING_US = 30_000_000


class Budget(Struct, frozen=True, kw_only=True):
    """How much a healthy device does at most. `starting_us` is from when its process started."""

    sends_per_second_max: int = 400
    bytes_per_second_max: int = 8_000_000
    bytes_per_member_max: Annotated[int, Meta(ge=0)] = 4_000
    starting_us: DurationUs = STARTING_US
    starting_sends_per_second_max: int = 1_000
    starting_bytes_per_member_max: Annotated[int, Meta(ge=0)] = 42_000
    leases_max: int = 50

    def sends_max(self, *, up_us: int) -> int:
        """Return how many messages a device sends in a second that runs for `up_us`."""
        is_starting = up_us < self.starting_us
        return self.starting_sends_per_second_max if is_starting else self.sends_per_second_max

    def bytes_max(self, *, up_us: int, members_count: int) -> int:
        """Return how many bytes a device sends in a second that knows so many devices."""
        is_starting = up_us < self.starting_us
        each = self.starting_bytes_per_member_max if is_starting else self.bytes_per_member_max
        return self.bytes_per_second_max + each * members_count
