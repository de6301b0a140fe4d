"""What befalls devices and paths, by the steps of a plan.

Every fault ends what it began and nothing else, so that faults may overlap. A step that concerns a
device which is in no state for it (a crash of what does not run) does nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from simulations import partitions, steps
from simulations.backup import Backup
from simulations.conditions import Conditions
from simulations.disk import DiskFate
from simulations.effect_points import EffectPoint
from simulations.engine import Action
from simulations.gray import Gray
from simulations.partitions import NodePair
from simulations.sensors import temperatures
from simulations.steps import AnyStep
from simulations.trace import Field
from simulations.world import STOP_US, World

MILLI = 1_000


class Faults:
    """Begins the faults of a world, and knows which of them still last."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._count = 0
        self._open: dict[int, Action] = {}
        self._stopping_until_us: dict[int, int] = {}  # by node
        self._stalls: Counter[int] = Counter()
        self._backups: dict[int, Backup] = {}

    def begin(self, step: AnyStep, executor: int | None) -> Action | None:
        """Carry out a step; return what ends it, None if there is nothing to end.

        `executor` is who "the executor" of the step is, if anybody.
        """
        match step:
            case steps.Split() | steps.Cut() | steps.Bridge() | steps.Ring():
                return self._cut(step, _cut_pairs(step, self._node_count))
            case steps.Jam(origins=origins, targets=targets):
                pairs = partitions.one_way(origins, targets)
                self._world.jam(pairs)
                return self._until(step, origins, partial(self._world.release, pairs))
            case steps.Worsen():
                return self._worsen(step)
            case steps.Freeze(who=who):
                return self._freeze(step, _node(who, executor))
            case steps.Suspend(who=who):
                return self._suspend(step, _node(who, executor))
            case steps.Gray(who=who):
                return self._gray(step, _node(who, executor))
            case steps.FillDisk(node=node):
                self._world.fill_disk(node)
                return self._until(step, (node,), partial(self._free_disk, node))
            case _:
                return self._begin_lasting(step)

    def _begin_lasting(self, step: AnyStep) -> Action | None:
        """Carry out what is said of one device: its clock, heat, disk and honesty."""
        world = self._world
        match step:
            case steps.Drift(node=node, ppm=ppm):
                host = world.hosts[node]
                host.set_drift(ppm)
                return self._until(step, (node,), partial(host.set_drift, 0))
            case steps.WallClock(node=node, offset_us=offset_us):
                world.hosts[node].set_wall(offset_us)
                return self._until(step, (node,), partial(world.hosts[node].set_wall, 0))
            case steps.Heat():
                return self._heat(step)
            case steps.Backup(node=node):
                self._backups[node] = world.hosts[node].backup()
                self._note("fault.begun", step, (node,))
            case steps.Lie(node=node, how=how):
                world.tell_lies(node, how)
                return self._until(step, (node,), partial(world.tell_truth, node, how))
            case steps.PoisonDht(key=key, claimed=claimed):
                peers = [world.hosts[node].peer for node in claimed]
                world.dht.poison(key, peers)
                return self._until(step, claimed, partial(world.dht.cleanse, key, peers))
            case steps.EclipseDht(key=key, liars=liars):
                peers = [world.hosts[node].peer for node in liars]
                world.dht.eclipse(key, peers)
                return self._until(step, liars, partial(world.dht.uncover, key, peers))
            case _:
                raise AssertionError(f"no fault: {step}")
        return None

    def end_all(self) -> None:
        """End every fault that still lasts, in the order in which they began."""
        for end in list(self._open.values()):
            end()

    # Processes.

    def crash(self, node: int, disk: DiskFate) -> bool:
        """End a device's process; say whether there was one."""
        if not self._world.hosts[node].is_running:
            return False
        self._world.crash(node, disk)
        return True

    def start(self, node: int) -> None:
        """Start a device, unless it runs; one that is stopping once it has stopped."""
        ends_us = self._stopping_until_us.get(node, 0)
        if not self._world.hosts[node].is_running:
            self._world.start(node)
        elif self._world.engine.now_us <= ends_us:
            self._world.engine.at(ends_us + 1, partial(self.start, node))

    def stop(self, node: int) -> None:
        """Stop a device as its owner does, unless it does not run."""
        if self._world.hosts[node].is_answering:
            self._world.stop(node)
            self._stopping_until_us[node] = self._world.engine.now_us + STOP_US

    def crash_at(self, step: steps.CrashAtEffect, reached: Action) -> Action:
        """Crash a device at an effect; return what gives the trap up. `reached` hears of it."""
        host = self._world.hosts[step.node]

        def crash() -> None:
            self._world.crash(step.node, step.disk)
            reached()

        point = EffectPoint(
            kind=step.effect, detail=step.what, count=step.number, is_after=step.is_after
        )
        return host.crash_at(point, crash)

    def restore(self, step: steps.Restore) -> bool:
        """Take a device down and put its last backup on its disk; say whether there is one."""
        backup = self._backups.get(step.node)
        if backup is None:
            return False
        self.crash(step.node, DiskFate.KEEP)
        host = self._world.hosts[step.node]
        host.restore(backup, is_block_level=step.is_block_level)
        if step.is_block_level:
            self._world.checks.saw_rollback(host)
        self._note("fault.begun", step, (step.node,))
        return True

    # Each kind.

    @property
    def _node_count(self) -> int:
        return len(self._world.hosts)

    def _cut(self, step: AnyStep, pairs: Sequence[NodePair]) -> Action:
        self._world.cut_pairs(pairs)
        nodes = sorted({node for pair in pairs for node in pair})
        return self._until(step, nodes, partial(self._world.mend_pairs, pairs))

    def _worsen(self, step: steps.Worsen) -> Action:
        others = [node for node in range(self._node_count) if node not in step.origins]
        targets = step.targets or others
        pairs = partitions.one_way(step.origins, targets) + partitions.one_way(
            targets, step.origins
        )
        conditions = Conditions(
            latency_us=step.latency_us,
            jitter_us=step.jitter_us,
            loss_permille=step.loss_permille,
            bytes_per_second=step.bytes_per_second,
        )
        self._world.worsen(pairs, conditions)
        return self._until(step, step.origins, partial(self._world.better, pairs, conditions))

    def _freeze(self, step: AnyStep, node: int | None) -> Action | None:
        """Stall a process; of stalls that overlap the last one to end lets it go on."""
        if node is None or not self._world.hosts[node].is_running:
            return None
        self._stalls[node] += 1
        if self._stalls[node] == 1:
            self._world.freeze(node)
        return self._until(step, (node,), partial(self._thaw, node, self._world.hosts[node].boot))

    def _thaw(self, node: int, boot: int) -> None:
        self._stalls[node] -= 1
        host = self._world.hosts[node]
        if self._stalls[node] == 0 and host.boot == boot and host.is_running and host.is_frozen:
            self._world.thaw(node)

    def _suspend(self, step: AnyStep, node: int | None) -> Action | None:
        """Let a device sleep: longer than streams live through, so its links are cut too."""
        if node is None or self._world.hosts[node].is_suspended:
            return None
        host, pairs = self._world.hosts[node], partitions.isolate(node, self._node_count)
        self._world.cut_pairs(pairs)
        host.suspend()

        def wake() -> None:
            self._world.mend_pairs(pairs)
            host.resume()

        return self._until(step, (node,), wake)

    def _gray(self, step: steps.Gray, node: int | None) -> Action | None:
        if node is None:
            return None
        host = self._world.hosts[node]
        host.set_gray(Gray(slowdown=step.slowdown, is_stuck=step.is_stuck, drops=step.drops))
        return self._until(step, (node,), partial(host.set_gray, None))

    def _heat(self, step: steps.Heat) -> Action:
        host = self._world.hosts[step.node]
        before = host.temperature_millicelsius

        def go_to(target: int) -> None:
            for after_us, value in temperatures(
                host.temperature_millicelsius, target, over_us=step.over_us
            ):
                self._world.engine.after(after_us, partial(host.set_temperature, value))

        go_to(step.celsius * MILLI)
        return self._until(step, (step.node,), partial(go_to, before))

    def _free_disk(self, node: int) -> None:
        """A device whose disk was full is started again, as its owner would."""
        self._world.free_disk(node)
        self.crash(node, DiskFate.KEEP)
        self._world.start(node)

    # Their beginnings and ends.

    def _until(self, step: AnyStep, nodes: Sequence[int], end: Action) -> Action:
        """Note that a fault has begun; return what ends it, once, however often it is called."""
        number = self._note("fault.begun", step, nodes)

        def finish() -> None:
            if self._open.pop(number, None) is not None:
                end()
                self._note("fault.ended", step, nodes, number=number)

        self._open[number] = finish
        return finish

    def _note(
        self, event: str, step: AnyStep, nodes: Sequence[int], *, number: int | None = None
    ) -> int:
        if number is None:
            self._count += 1
            number = self._count
        facts: dict[str, Field] = {
            "fault": str(step.__struct_config__.tag),
            "number": number,
            "nodes": " ".join(map(str, nodes)),
            "detail": _detail(step),
        }
        self._world.note(event, facts)
        return number


def _node(who: steps.Who, executor: int | None) -> int | None:
    return executor if who == "executor" else who


def _cut_pairs(
    step: steps.Split | steps.Cut | steps.Bridge | steps.Ring, node_count: int
) -> list[NodePair]:
    match step:
        case steps.Split(groups=groups):
            return partitions.split(groups, node_count)
        case steps.Cut(origins=origins, targets=targets):
            return partitions.one_way(origins, targets)
        case steps.Bridge(left=left, middle=middle, right=right):
            return partitions.bridge(left, middle, right)
        case steps.Ring():
            return partitions.ring_of_majorities(node_count)


def _detail(step: AnyStep) -> str:
    """Say which devices a step sets apart, and how."""
    match step:
        case steps.Split(groups=groups):
            return " | ".join(map(_named, groups))
        case (
            steps.Cut(origins=origins, targets=targets)
            | steps.Jam(origins=origins, targets=targets)
        ):
            return f"{_named(origins)} -> {_named(targets)}"
        case steps.Bridge(left=left, middle=middle, right=right):
            return f"{_named(left)} | {_named(middle)} | {_named(right)}"
        case steps.Lie(how=how):
            return how.value
        case steps.Heat(celsius=celsius):
            return f"{celsius} C"
        case steps.Drift(ppm=ppm):
            return f"{ppm} ppm"
        case steps.PoisonDht(key=key) | steps.EclipseDht(key=key):
            return key
        case steps.Restore(is_block_level=is_block_level):
            return "block level" if is_block_level else "copied files"
        case _:
            return ""


def _named(nodes: Sequence[int]) -> str:
    return " ".join(map(str, nodes))
