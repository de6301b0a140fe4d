"""The form of one device's lane on a timeline, which its parts share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from simulations.device_life import DeviceLife
from simulations.story import Story
from simulations.timeline_scale import Scale

SMALL = 9.0  # size of text in lanes and rows
NAMED_MAX = 4  # peers; of more only the count is told
NAMED_OTHERS_MAX = 12  # in a larger mesh nobody is linked to all


@dataclass(frozen=True, slots=True)
class Form:
    """How high the parts of a lane are."""

    strip: float
    process: float
    doubts: float  # where it says whom the device holds for degraded or dead, if it ever does
    changes: float  # where it says whom the device lost and found; 0: it does not say
    links: float
    gap: float


ROOMY = Form(strip=13.0, process=14.0, doubts=13.0, changes=13.0, links=20.0, gap=12.0)
LOW = Form(strip=6.0, process=8.0, doubts=4.0, changes=0.0, links=12.0, gap=6.0)


@dataclass(frozen=True, slots=True)
class Lane:
    """Where a lane is, and how it is drawn."""

    device: DeviceLife
    top: float
    form: Form
    scale: Scale
    story: Story


def peers_text(some: Iterable[str], story: Story) -> str:
    """Return the numbers of devices whose ids begin so, or how many they are."""
    peers = dict.fromkeys(some)
    if len(peers) == len(story.devices) - 1 > 1:
        return "all"
    if len(peers) > NAMED_MAX:
        return f"{len(peers)} devices"
    nodes = [node for peer in peers if (node := story.node(peer)) is not None]
    unknown = [peer for peer in peers if story.node(peer) is None]
    return ", ".join([*map(str, sorted(nodes)), *unknown])


def others_count(story: Story) -> int:
    """Return how many links a device can have, as far as the run shows: all others, or a cap."""
    most = max(
        (count for device in story.devices.values() for _, count in device.link_counts), default=0
    )
    others = len(story.devices) - 1
    return others if others <= NAMED_OTHERS_MAX else max(most, 1)
