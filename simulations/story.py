"""A trace as the lives of devices, tasks and faults: what a picture of the run shows.

Only what is drawn is kept of each line, so a trace may be far larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simulations.device_life import DeviceLife
from simulations.fault_span import FaultSpan, FaultSpans
from simulations.task_life import BatchLife, TaskLives
from simulations.trace import WORLD
from simulations.trace_lines import TraceLine


@dataclass(slots=True)
class Story:
    """What happened in a run."""

    devices: dict[int, DeviceLife] = field(default_factory=dict)  # by number
    batches: Sequence[BatchLife] = ()
    faults: Sequence[FaultSpan] = ()
    end_us: int = 0
    mended_us: int | None = None
    _nodes: dict[str, int] = field(default_factory=dict)  # by the beginning of their ids

    def node(self, peer: str) -> int | None:
        """Return the number of the device whose id begins so, None if the trace names none."""
        return self._nodes.get(peer)

    def device_name(self, peer: str) -> str:
        """Return its number, or else the beginning of its id."""
        node = self.node(peer)
        return peer if node is None else str(node)

    @property
    def executors(self) -> list[int]:
        """The devices on which tasks ran, by number."""
        tasks = (task for batch in self.batches for task in batch.tasks)
        return sorted({run.node for task in tasks for run in task.runs})

    @property
    def submitters(self) -> list[int]:
        """The devices at which tasks were accepted, by number."""
        return sorted({batch.node for batch in self.batches})


def story_of(lines: Iterable[TraceLine]) -> Story:
    """Return what the lines of a trace, in their order, tell. Raises BadTrace."""
    story, faults, tasks = Story(), FaultSpans(), TaskLives()
    for line in lines:
        story.end_us = line.time_us
        if line.node == WORLD:
            faults.on_line(line)
            if line.event == "mended":
                story.mended_us = line.time_us
        else:
            if line.event == "device.named":
                story._nodes[line.text("peer")] = line.node
            _device(story, line.node).on_line(line)
        tasks.on_line(line)
    story.devices = dict(sorted(story.devices.items()))
    story.batches = list(tasks.batches.values())
    story.faults = faults.faults
    return story


def _device(story: Story, node: int) -> DeviceLife:
    device = story.devices.get(node)
    if device is None:
        device = story.devices[node] = DeviceLife(node)
    return device
