"""The counters of links."""

from __future__ import annotations

from telemetry.metrics import Metrics


class LinkCounters:
    """What happened on links since the daemon started."""

    def __init__(self, metrics: Metrics) -> None:
        self.up = metrics.counter("meshd_links_up_total", "Links that were set up")
        self.down = metrics.counter("meshd_links_down_total", "Links that ended")
        self.races = metrics.counter("meshd_link_races_total", "Links replaced by their twin")
        self.dials_failed = metrics.counter("meshd_dials_failed_total", "Dials without a link")
        self.refused = metrics.counter("meshd_links_refused_total", "Links that we did not accept")
        self.received = metrics.counter("meshd_frames_received_total", "Frames decoded")
        self.unknown = metrics.counter(
            "meshd_frames_unknown_total", "Frames of newer peers, skipped"
        )
        self.malformed = metrics.counter("meshd_frames_malformed_total", "Frames not accepted")
        self.answered_too_often = metrics.counter(
            "meshd_handshakes_refused_total", "Handshakes of peers that had enough of them"
        )
        self.dropped = metrics.counter("meshd_frames_dropped_total", "Messages to full queues")
        self.unlinked = metrics.counter("meshd_frames_unlinked_total", "Messages to no linked peer")
        self.too_large = metrics.counter(
            "meshd_frames_too_large_total", "Our messages over a frame"
        )
