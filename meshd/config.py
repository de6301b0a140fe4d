"""A device's settings: one frozen tree, read once at the start.

Defaults < profile < file < environment < flags; meshd/config_layers.py puts them together.
docs/configuration.md lists every key with its unit, default and which way it trades. Keys name
their unit, and an integer is in that unit; text may have its own: `wall_us_max = "30s"`. The
`description` of a field says what is allowed, and error messages quote it.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from meshd.quantities import DURATION_UNITS_US
from telemetry.breaker import BreakerConfig
from telemetry.health import HealthReferences, HealthWeights
from wire.limits import CONTENT_BYTES_MAX, MIB, Limits
from wire.text import Address, Name

DEFAULT_PORT = 4777
LEASES_DEFAULT = 50
LEASES_MOST = 10_000
TASKS_PER_WORKER = 4

_S = DURATION_UNITS_US["s"]
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"

Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=_WORD)]
Profile = Literal["local", "lan", "wan"]


def count(lowest: int, highest: int) -> Meta:
    """Return the bounds of a whole number, with the words that errors use."""
    return Meta(ge=lowest, le=highest, description=f"a whole number from {lowest} to {highest}")


def size(lowest: int, highest: int) -> Meta:
    """Return the bounds of a size in bytes."""
    return Meta(
        ge=lowest,
        le=highest,
        description=f"a size from {lowest} to {highest} bytes, such as 64MiB",
    )


def duration(lowest_us: int, highest_us: int) -> Meta:
    """Return the bounds of a duration in microseconds."""
    return Meta(
        ge=lowest_us,
        le=highest_us,
        description=f"a duration from {lowest_us} to {highest_us} us, such as 30s",
    )


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the tree. A key that is not in it is a mistake, never ignored."""


class LogSettings(Section, frozen=True):
    """What is told and how. A lower level tells more and costs time and disk."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    file_bytes_max: Annotated[int, size(64 * 1024, 1 << 30)] = 8 * MIB
    files_max: Annotated[int, count(2, 100)] = 5


class LinkSettings(Section, frozen=True):
    """Connections to other devices. More is sturdier; home routers die of hundreds.

    `circuits_max` is how many links between two others go through this device; 0: none do.
    """

    max: Annotated[int, count(2, 1_000)] = 24
    dials_max: Annotated[int, count(1, 1_000)] = 16
    circuits_max: Annotated[int, count(0, 1_000)] = 64


class DirectorySettings(Section, frozen=True):
    """What is known of other members. More is found without a lookup, and costs memory."""

    members_max: Annotated[int, count(2, 100_000)] = 2_000


class DhtSettings(Section, frozen=True):
    """Kademlia: finds capabilities beyond the directory, at the price of some traffic."""

    enabled: bool = True


class MdnsSettings(Section, frozen=True):
    """Finding devices on the local network, which then sees that this one is here."""

    enabled: bool = True


class SandboxSettings(Section, frozen=True):
    """What one task may take here. Higher runs more; lower protects the device.

    A task that asks for more is refused. `workers` is how many run at once, the cores by default.
    """

    workers: Annotated[int, count(1, 256)] = field(default_factory=lambda: cores_count())
    memory_bytes_max: Annotated[int, size(64 * 1024, 4096 * MIB)] = 1024 * MIB
    fuel_max: Annotated[int, count(1, 10**12)] = 10**12
    wall_us_max: Annotated[int, duration(1_000, 3600 * _S)] = 600 * _S
    output_bytes_max: Annotated[int, size(0, CONTENT_BYTES_MAX)] = CONTENT_BYTES_MAX
    cache_bytes_max: Annotated[int, size(16 * MIB, 1 << 40)] = 1024 * MIB


class ExecutorSettings(Section, frozen=True):
    """How much work is taken on. More waits here less often elsewhere, and is lost in a crash.

    `tasks_max` 0 stands for four for each worker.
    """

    leases_max: Annotated[int, count(1, LEASES_MOST)] = LEASES_DEFAULT
    tasks_max: Annotated[int, count(0, 100_000)] = 0


class VerificationSettings(Section, frozen=True):
    """How results of strangers are checked. More checks find more lies, and cost as many runs.

    The floor is the least share of a trusted device's results that others run, too.
    """

    spot_checks: bool = True
    floor_permille: Annotated[int, count(0, 1_000)] = 20


class StorageSettings(Section, frozen=True):
    """What is kept on disk. More keeps results and modules longer.

    Of finished batches the latest 1,000 are kept, with 50,000 tasks at most.
    """

    blobs_bytes_max: Annotated[int, size(64 * MIB, 1 << 50)] = 4096 * MIB


class ReferenceSettings(Section, frozen=True):
    """What bandwidth scores 1, and what round trip scores 0."""

    bandwidth_mbit_per_second: Annotated[int, count(1, 1_000_000)] = 1_000
    latency_ms: Annotated[int, count(1, 60_000)] = 100


class HealthSettings(Section, frozen=True):
    """How devices are ranked. Only the ratios of the weights matter."""

    weights: HealthWeights = HealthWeights()
    references: ReferenceSettings = ReferenceSettings()

    def to_references(self) -> HealthReferences:
        """Return the references in the units of the score."""
        return HealthReferences(
            bandwidth_bits_per_second=self.references.bandwidth_mbit_per_second * 1_000_000,
            round_trip_us=self.references.latency_ms * 1_000,
        )


class BreakerSettings(Section, frozen=True):
    """When a device gets no work. Lower is safer, and loses capacity sooner.

    `latency_ms_max` is 100 in the profiles local and lan, 1,000 in wan.
    """

    temperature_celsius_max: Annotated[int, count(-50, 150)] = 85
    latency_ms_max: Annotated[int, count(1, 60_000)] = 100
    errors_max: Annotated[int, count(0, 1_000_000)] = 25

    def to_breaker(self) -> BreakerConfig:
        """Return the limits in the units of the breaker."""
        return BreakerConfig(
            temperature_millicelsius_max=self.temperature_celsius_max * 1_000,
            round_trip_us_max=self.latency_ms_max * 1_000,
            errors_in_a_row_count_max=self.errors_max,
        )


class TelemetrySettings(Section, frozen=True):
    """How often the sensors are read. More often is fresher, and costs CPU and traffic."""

    sample_interval_us: Annotated[int, duration(_S, 3600 * _S)] = 10 * _S


class Config(Section, frozen=True):
    """All settings. `listen` empty stands for the default port; see `listen_choices`."""

    name: Annotated[Name, Meta(description="1 to 64 visible characters, no space at an end")]
    type: Annotated[Word, Meta(description="1 to 64 letters, digits, '.', '_' or '-'")] = "edge"
    region: Annotated[
        str,
        Meta(
            max_length=64,
            pattern=r"^[A-Za-z0-9._-]*\Z",
            description="up to 64 letters, digits, '.', '_' or '-'",
        ),
    ] = ""
    labels: Annotated[
        dict[Word, Word],
        Meta(
            max_length=32,
            description="at most 32 pairs KEY=VALUE, each 1 to 64 letters, digits, '.', '_', '-'",
        ),
    ] = {}
    listen: Annotated[
        tuple[Address, ...],
        Meta(max_length=16, description="at most 16 addresses such as /ip4/0.0.0.0/tcp/4777"),
    ] = ()
    profile: Profile = "lan"
    join: Annotated[
        str, Meta(max_length=8192, description="an invitation, @FILE that holds one, or -")
    ] = ""
    passphrase_file: Annotated[str, Meta(max_length=4096, description="the path of a file")] = ""
    log: LogSettings = LogSettings()
    links: LinkSettings = LinkSettings()
    directory: DirectorySettings = DirectorySettings()
    dht: DhtSettings = DhtSettings()
    mdns: MdnsSettings = MdnsSettings()
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    executor: ExecutorSettings = ExecutorSettings()
    verification: VerificationSettings = VerificationSettings()
    storage: StorageSettings = StorageSettings()
    health: HealthSettings = HealthSettings()
    breaker: BreakerSettings = BreakerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    def __repr__(self) -> str:
        """Name the device only: `join` may be an invitation, which is a secret."""
        return f"Config(name={self.name!r}, profile={self.profile!r})"

    @property
    def tasks_max(self) -> int:
        """How many tasks are here at once, running or waiting for a worker."""
        return self.executor.tasks_max or TASKS_PER_WORKER * self.sandbox.workers

    @property
    def listen_choices(self) -> tuple[tuple[str, ...], ...]:
        """Where to listen: try each choice in turn until one is free.

        What a person asked for has no other choice. Nobody asked: the default port, else any.
        """
        if self.listen:
            return (self.listen,)
        host = "127.0.0.1" if self.profile == "local" else "0.0.0.0"  # noqa: S104 - a mesh listens
        return tuple((f"/ip4/{host}/tcp/{port}",) for port in (DEFAULT_PORT, 0))

    def to_limits(self) -> Limits:
        """Return what one task may have here at most."""
        return Limits(
            memory_bytes=self.sandbox.memory_bytes_max,
            fuel=self.sandbox.fuel_max,
            wall_us=self.sandbox.wall_us_max,
            output_bytes=self.sandbox.output_bytes_max,
        )


# What a profile changes of the defaults above.
PROFILES: dict[Profile, dict[str, dict[str, int | bool]]] = {
    # Several daemons on one machine, as in a trial: they must not fight for its cores.
    "local": {
        "mdns": {"enabled": False},
        "sandbox": {"workers": 1},
        "telemetry": {"sample_interval_us": 2 * _S},
    },
    "lan": {},
    # Over the internet: longer round trips are normal, and there is no local network to ask.
    "wan": {
        "mdns": {"enabled": False},
        "breaker": {"latency_ms_max": 1_000},
    },
}


def cores_count() -> int:
    """Return how many cores this process may use."""
    return min(256, len(os.sched_getaffinity(0)))
