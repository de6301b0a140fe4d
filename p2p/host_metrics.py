"""The counters of a host: what it refused."""

from __future__ import annotations

from telemetry.metrics import Metrics


class HostCounters:
    """What the host refused since the daemon started."""

    def __init__(self, metrics: Metrics) -> None:
        self.connections_refused = metrics.counter(
            "meshd_connections_refused_total", "Incoming connections closed unread"
        )
        self.connections_failed = metrics.counter(
            "meshd_connections_failed_total", "Incoming connections that led to nothing"
        )
        self.addresses_banned = metrics.counter(
            "meshd_addresses_banned_total", "Bans of addresses for connections to no end"
        )
        self.streams_refused = metrics.counter(
            "meshd_streams_refused_total", "Streams that were more than a peer may have"
        )
        self.circuits = CircuitCounters(metrics)


class CircuitCounters:
    """What the host carries for others, and has carried since the daemon started."""

    def __init__(self, metrics: Metrics) -> None:
        self.carried = metrics.gauge("meshd_circuits_carried", "Circuits carried for others now")
        self.begun = metrics.counter(
            "meshd_circuits_begun_total", "Circuits carried for others so far"
        )
        self.refused = metrics.counter(
            "meshd_circuits_refused_total", "Circuits that others wanted and did not get"
        )
        self.carried_bytes = metrics.counter(
            "meshd_circuit_bytes_carried_total", "Bytes carried for others, counted once"
        )
