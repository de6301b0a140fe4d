"""Errors of telemetry, by what the caller can do about them."""

from wire.errors import MeshError


class TelemetryError(MeshError):
    """Base of the errors of telemetry."""


class SensorUnavailable(TelemetryError):
    """A sensor is missing or cannot be read here: the sample goes without it."""


class GpuUnavailable(SensorUnavailable):
    """There is no NVIDIA library, driver or readable card: the sample lists no card."""


class BreakerRefused(TelemetryError):
    """A lease was granted to a device whose breaker allows none: a bug of the granting code."""


class MetricMisnamed(TelemetryError):
    """A metric's name is malformed, taken or one too many: a bug on our side, seen at start."""
