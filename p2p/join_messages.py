"""Frames of `/meshd/join/1`: one short request, and an answer in pages.

All removals of a mesh may not fit into one frame: a grant comes as several, each with its part of
them, and ends with the stream.
"""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from wire.codec import FrameCodec
from wire.keys import Ed25519Verifier
from wire.membership import JOIN_MESSAGES, JoinGranted

JOIN_PROTOCOL_ID = "/meshd/join/1"
REQUEST_BYTES_MAX = 1_024
PAGE_REMOVALS = 256  # with chains of full length this is less than half a frame's limit
PAGES_MAX = 40
REMOVALS_MAX = 10_000


def join_codec() -> FrameCodec:
    """Return the codec of the protocol."""
    return FrameCodec(JOIN_MESSAGES, Ed25519Verifier())


def pages_of(granted: JoinGranted) -> list[JoinGranted]:
    """Return a grant as it is sent, at least one page."""
    starts = range(0, max(1, len(granted.removals)), PAGE_REMOVALS)
    return [
        replace(granted, removals=granted.removals[start : start + PAGE_REMOVALS])
        for start in starts
    ]


def joined_pages(pages: list[JoinGranted]) -> JoinGranted:
    """Return the grant whose pages these are, at least one."""
    removals = itertools.chain.from_iterable(page.removals for page in pages)
    return replace(pages[0], removals=tuple(removals)[:REMOVALS_MAX])
