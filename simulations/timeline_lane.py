"""The form of one device's lane on a timeline, which its parts share."""

from __future__ import annotations

from dataclasses import dataclass

from simulations.device_life import DeviceLife
from simulations.story import Story
from simulations.timeline_scale import Scale

SMALL = 9.0  # size of text in lanes and rows
NAMED_OTHERS_MAX = 12  # in a larger mesh nobody is linked to all


@dataclass(frozen=True, slots=True)
class Form:
    """How high the parts of a lane are."""

    strip: float
    process: float
    changes: float  # where it says whom the device lost and found; 0: it does not say
    links: float
    gap: float


ROOMY = Form(strip=13.0, process=14.0, changes=13.0, links=20.0, gap=12.0)
LOW = Form(strip=6.0, process=8.0, changes=0.0, links=12.0, gap=6.0)


@dataclass(frozen=True, slots=True)
class Lane:
    """Where a lane is, and how it is drawn."""

    device: DeviceLife
    top: float
    form: Form
    scale: Scale
    story: Story


def others_count(story: Story) -> int:
    """Return how many links a device can have, as far as the run shows: all others, or a cap."""
    most = max(
        (count for device in story.devices.values() for _, count in device.link_counts), default=0
    )
    others = len(story.devices) - 1
    return others if others <= NAMED_OTHERS_MAX else max(most, 1)
