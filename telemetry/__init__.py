"""What devices know of themselves and of each other: samples, measurements, health, breakers.

The shells that read sensors, `telemetry.sampler` and `telemetry.nvidia`, are imported by name: a
core that ranks devices does not load psutil.
"""

from telemetry.breaker import (
    Breaker,
    BreakerCause,
    BreakerConfig,
    BreakerReason,
    BreakerState,
    ProbeEnd,
)
from telemetry.errors import (
    BreakerRefused,
    GpuUnavailable,
    MetricMisnamed,
    SensorUnavailable,
    TelemetryError,
)
from telemetry.health import Health, HealthReferences, HealthWeights, Terms, health_of, score_of
from telemetry.measurement import Measured, MeasurementRecord, Measurements
from telemetry.metrics import Counter, Gauge, Metrics
from telemetry.publication import (
    SAMPLE_EVERY_US,
    Published,
    interval_us,
    is_publication_due,
    refresh_us,
)
from telemetry.sample import Buckets, Gpu, Sample, bucketed, decode_sample, encode_sample, occupied

__all__ = [
    "SAMPLE_EVERY_US",
    "Breaker",
    "BreakerCause",
    "BreakerConfig",
    "BreakerReason",
    "BreakerRefused",
    "BreakerState",
    "Buckets",
    "Counter",
    "Gauge",
    "Gpu",
    "GpuUnavailable",
    "Health",
    "HealthReferences",
    "HealthWeights",
    "Measured",
    "MeasurementRecord",
    "Measurements",
    "MetricMisnamed",
    "Metrics",
    "ProbeEnd",
    "Published",
    "Sample",
    "SensorUnavailable",
    "TelemetryError",
    "Terms",
    "bucketed",
    "decode_sample",
    "encode_sample",
    "health_of",
    "interval_us",
    "is_publication_due",
    "occupied",
    "refresh_us",
    "score_of",
]
