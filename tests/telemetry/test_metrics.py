"""The metrics of one daemon."""

from __future__ import annotations

import pytest

from telemetry.errors import MetricMisnamed
from telemetry.metrics import METRICS_MAX, Metrics


def test_a_snapshot_holds_every_metric_by_name() -> None:
    metrics = Metrics()
    dropped = metrics.counter("meshd_frames_dropped_total", "Frames dropped by a full queue.")
    links = metrics.gauge("meshd_links_open", "Links that are open.")
    dropped.increment()
    dropped.increment(2)
    links.set(4)
    links.set(3)
    assert metrics.snapshot() == {"meshd_frames_dropped_total": 3, "meshd_links_open": 3}


def test_two_daemons_of_one_process_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.counter("meshd_frames_dropped_total", "").increment()
    assert other.counter("meshd_frames_dropped_total", "").value == 0


def test_a_counter_never_falls() -> None:
    counter = Metrics().counter("meshd_frames_dropped_total", "")
    with pytest.raises(AssertionError):
        counter.increment(-1)


@pytest.mark.parametrize(
    "name", ["frames_total", "meshd_Frames_total", "meshd_x", "meshd_a-b_total"]
)
def test_a_malformed_counter_name_is_refused(name: str) -> None:
    with pytest.raises(MetricMisnamed):
        Metrics().counter(name, "")


def test_a_gauge_is_not_named_like_a_counter() -> None:
    with pytest.raises(MetricMisnamed):
        Metrics().gauge("meshd_links_total", "")


def test_a_name_is_declared_once() -> None:
    metrics = Metrics()
    metrics.gauge("meshd_links_open", "")
    with pytest.raises(MetricMisnamed):
        metrics.gauge("meshd_links_open", "")


def test_the_number_of_metrics_is_bounded() -> None:
    metrics = Metrics()
    for index in range(METRICS_MAX):
        metrics.gauge(f"meshd_gauge_{index}", "")
    with pytest.raises(MetricMisnamed):
        metrics.gauge("meshd_one_more", "")
