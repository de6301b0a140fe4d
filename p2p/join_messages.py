"""Frames of `/meshd/join/1`: one short request, and an answer in pages.

All removals of a mesh may not fit into one frame: a grant comes as several, each with its part of
them, and ends with the stream.
"""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from wire.codec import FrameCodec
from wire.keys import Ed25519Verifier
from wire.membership import JOIN_MESSAGES, JoinGranted, Removal
from wire.signed import Signed

JOIN_PROTOCOL_ID = "/meshd/join/1"
REQUEST_BYTES_MAX = 1_024
PAGE_BYTES = 256 * 1024  # of removals: with the longest of them half a frame's limit
PAGES_MAX = 256


def join_codec() -> FrameCodec:
    """Return the codec of the protocol."""
    return FrameCodec(JOIN_MESSAGES, Ed25519Verifier())


def pages_of(granted: JoinGranted) -> list[JoinGranted]:
    """Return a grant as it is sent, at least one page."""
    pages: list[list[Signed[Removal]]] = [[]]
    page_bytes = 0
    for removal in granted.removals:
        page_bytes += len(removal.received)
        if pages[-1] and page_bytes > PAGE_BYTES:
            pages.append([])
            page_bytes = len(removal.received)
        pages[-1].append(removal)
    return [replace(granted, removals=tuple(page)) for page in pages]


def joined_pages(pages: list[JoinGranted]) -> JoinGranted:
    """Return the grant whose pages these are, at least one."""
    removals = itertools.chain.from_iterable(page.removals for page in pages)
    return replace(pages[0], removals=tuple(removals))
