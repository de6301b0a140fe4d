"""The counters and gauges of one daemon, for `meshctl status` and for scrapers.

There is no global registry: two daemons in one process do not mix. There are no labels, above all
none by peer, so the number of metrics is known at start. Only shells count, on one thread: `+= 1`
is not atomic between threads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeVar

from telemetry.errors import MetricMisnamed

METRICS_MAX = 512
_NAME = re.compile(r"meshd_[a-z][a-z0-9_]{0,58}")


@dataclass(slots=True)
class Counter:
    """A number that only grows, from zero at the daemon's start."""

    name: str
    description: str
    value: int = 0

    def increment(self, amount: int = 1) -> None:
        """Add `amount`, which is not negative."""
        assert amount >= 0, f"{self.name} only grows"  # noqa: S101 - our own invariant
        self.value += amount


@dataclass(slots=True)
class Gauge:
    """A number that is what it is now."""

    name: str
    description: str
    value: int = 0

    def set(self, value: int) -> None:
        """Replace the value."""
        self.value = value


_Metric = TypeVar("_Metric", Counter, Gauge)


@dataclass(slots=True)
class Metrics:
    """The metrics of one daemon, at most 512, declared once at start and kept by who counts."""

    _metrics: dict[str, Counter | Gauge] = field(default_factory=dict)

    def counter(self, name: str, description: str) -> Counter:
        """Declare a counter named like `meshd_frames_dropped_total`. Raises MetricMisnamed."""
        if not name.endswith("_total"):
            raise MetricMisnamed(f"counter {name!r} must end in _total")
        return self._declared(Counter(name, description))

    def gauge(self, name: str, description: str) -> Gauge:
        """Declare a gauge named like `meshd_links_open`. Raises MetricMisnamed."""
        if name.endswith("_total"):
            raise MetricMisnamed(f"gauge {name!r} must not end in _total")
        return self._declared(Gauge(name, description))

    def snapshot(self) -> dict[str, int]:
        """Return every metric's value by name, in order of name."""
        return {name: metric.value for name, metric in sorted(self._metrics.items())}

    def _declared(self, metric: _Metric) -> _Metric:
        if _NAME.fullmatch(metric.name) is None:
            raise MetricMisnamed(
                f"metric {metric.name!r} must look like meshd_frames_dropped_total"
            )
        if metric.name in self._metrics:
            raise MetricMisnamed(f"metric {metric.name!r} is declared twice")
        if len(self._metrics) >= METRICS_MAX:
            raise MetricMisnamed(f"metric {metric.name!r} is one more than {METRICS_MAX}")
        self._metrics[metric.name] = metric
        return metric
