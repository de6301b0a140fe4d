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
