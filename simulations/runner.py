"""Carries a plan out in a world, mends everything, and sees that nothing was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from simulations.aftermath import Aftermath
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.errands import Errands
from simulations.plan import (
    Cancel,
    Crash,
    CrashWriting,
    Cut,
    FillDisk,
    Freeze,
    Heal,
    Plan,
    Slow,
    Split,
    Step,
    Submit,
    Who,
)
from simulations.world import Blueprint, World, WorldSettings
from wire.tasks import OutcomeKind

LOOK_EVERY_US = 20_000
LOOK_US_MAX = 60 * US_PER_S
VIEW_EVERY_US = 2 * US_PER_S
FULL_MESH_MAX = 8  # so few devices link with all others
CALM_US = 2 * US_PER_S


WAITING_STEPS = (Cancel, Split, Cut, Crash, Freeze)  # those that may wait for somebody to work


class Report(Struct, frozen=True, kw_only=True):
    """What came of a run."""

    seed: int
    digest: str
    events_count: int
    virtual_us: int
    submitted_count: int
    accepted_count: int
    complete_count: int
    cancelled_count: int
    failed_count: int
    lost_count: int  # accepted by a store that was lost with its disk
    seen: dict[str, int]


class Runner:
    """One run of a plan."""

    def __init__(self, plan: Plan, blueprint: Blueprint, *, repeat_with: str) -> None:
        self.plan = plan
        self.world = World(
            WorldSettings(
                seed=plan.seed,
                node_count=plan.node_count,
                network=plan.network,
                host=plan.host,
                roles=plan.roles,
                discovery=plan.discovery,
                exercises_wire=plan.exercises_wire,
                repeat_with=repeat_with,
            ),
            blueprint,
        )
        self.errands = Errands(self.world)
        self._submitters = {step.node for step in plan.steps if isinstance(step, Submit)}
        self._steps_left = 0
        self._executor: int | None = None

    def run(self) -> Report:
        """Carry out the plan. Raises what the run or its checks raise."""
        self.world.start_all()
        self._steps_left = len(self.plan.steps)
        for step in self.plan.steps:
            self._at(step.at_us, partial(self._begin, step, step.at_us + LOOK_US_MAX))
        self._at(VIEW_EVERY_US, self._look)
        bound_us = max((step.at_us for step in self.plan.steps), default=0) + 2 * LOOK_US_MAX
        self.world.run_until(
            lambda: self._steps_left == 0, within_us=bound_us, what="every step to be done"
        )
        self._mend()
        self.world.run_until(
            self.errands.is_settled, within_us=self.plan.settle_us, what="every task to be decided"
        )
        if self.plan.node_count <= FULL_MESH_MAX:
            self.world.run_until(
                self._is_whole, within_us=self.plan.settle_us, what="L1: everybody linked again"
            )
        self.world.run_for(CALM_US)  # an outcome is durable a moment before its node says so
        with self.world.explained():
            Aftermath(self.world, self.errands).check()
        return self._report()

    # Steps.

    def _at(self, at_us: int, action: Callable[[], None]) -> None:
        self.world.engine.at(max(at_us, self.world.engine.now_us), action)

    def _after(self, delay_us: int | None, action: Callable[[], None]) -> None:
        """Do something later; the plan is not over before. None: never."""
        if delay_us is None:
            return

        def act() -> None:
            action()
            self._steps_left -= 1

        self._steps_left += 1
        self.world.engine.after(delay_us, act)

    def _begin(self, step: Step, until_us: int) -> None:
        """Carry a step out now, or look again if it waits for somebody to work."""
        is_waiting = isinstance(step, WAITING_STEPS) and step.when_working
        if is_waiting and not self._find_executor() and self.world.engine.now_us < until_us:
            self.world.engine.after(LOOK_EVERY_US, partial(self._begin, step, until_us))
            return
        self._carry_out(step)
        self._steps_left -= 1

    def _find_executor(self) -> bool:
        """Note who works on a task for another device, if anybody does."""
        for host in self.world.hosts:
            is_other = host.index not in self._submitters
            if is_other and host.is_answering and host.runs_count > 0:
                self._executor = host.index
                return True
        return False

    def _carry_out(self, step: Step) -> None:
        world = self.world
        match step:
            case Submit():
                self.errands.submit(step)
            case Cancel():
                self.errands.cancel(step)
            case Split():
                world.split(*step.groups)
                self._after(step.heal_after_us, world.heal)
            case Cut():
                world.cut(step.origins, step.targets)
                self._after(step.heal_after_us, world.heal)
            case Slow():
                world.slow(step.node, step.extra_us)
            case Heal():
                world.heal()
            case Crash():
                self._crash(step)
            case CrashWriting():
                self._crash_writing(step)
            case Freeze():
                self._freeze(step)
            case FillDisk():
                world.fill_disk(step.node)
                self._after(step.free_after_us, partial(self._free_disk, step.node))

    def _crash(self, step: Crash) -> None:
        node = self._node(step.who)
        if node is None or not self.world.hosts[node].is_running:
            return
        self.world.crash(node, step.disk)
        self._after(step.restart_after_us, partial(self._restart, node))

    def _crash_writing(self, step: CrashWriting) -> None:
        crash = Crash(
            at_us=0, who=step.node, disk=step.disk, restart_after_us=step.restart_after_us
        )
        delay_us = self.plan.host.sync_us * step.way_permille // 1_000
        disk = self.world.hosts[step.node].disk

        def written() -> None:
            self._after(delay_us, partial(self._crash, crash))

        def give_up() -> None:
            """It wrote nothing all the time."""
            if disk.on_written is written:
                disk.on_written = None

        disk.on_written = written
        self._after(LOOK_US_MAX, give_up)

    def _freeze(self, step: Freeze) -> None:
        node = self._node(step.who)
        if node is None or not self.world.hosts[node].is_answering:
            return
        self.world.freeze(node)
        self._after(step.thaw_after_us, partial(self._thaw, node))

    def _node(self, who: Who) -> int | None:
        return self._executor if who == "executor" else who

    def _restart(self, node: int) -> None:
        if not self.world.hosts[node].is_running:
            self.world.start(node)

    def _thaw(self, node: int) -> None:
        host = self.world.hosts[node]
        if host.is_running and host.is_frozen:
            self.world.thaw(node)

    def _free_disk(self, node: int) -> None:
        """A device whose disk was full is started again, as its owner would."""
        self.world.free_disk(node)
        if self.world.hosts[node].is_running:
            self.world.crash(node, DiskFate.KEEP)
        self.world.start(node)

    def _mend(self) -> None:
        """End every fault; whatever is wrong from here on is the nodes' doing."""
        self.world.heal()
        for host in self.world.hosts:
            if host.disk.is_full:
                self._free_disk(host.index)
            self._thaw(host.index)
            self._restart(host.index)

    # What became of it.

    def _look(self) -> None:
        self.errands.look()
        self.world.engine.after(VIEW_EVERY_US, self._look)

    def _is_whole(self) -> bool:
        """L1: whether the mesh has grown together again."""
        others_count = self.plan.node_count - 1
        neighbours = (self.world.network.neighbours(host.peer) for host in self.world.hosts)
        return all(len(linked) == others_count for linked in neighbours)

    def _report(self) -> Report:
        world = self.world
        kinds = Counter(
            world.checks.register.outcomes[one.task.batch, one.task.index].kind
            for one in self.errands.kept()
        )
        seen = world.trace.counts + world.checks.seen + world.network.counts
        return Report(
            seed=self.plan.seed,
            digest=world.trace.digest(),
            events_count=world.engine.events_count,
            virtual_us=world.engine.now_us,
            submitted_count=sum(len(one.work.inputs) for one in self.errands.submitted),
            accepted_count=len(world.checks.accepted),
            complete_count=kinds[OutcomeKind.RESULT],
            cancelled_count=kinds[OutcomeKind.CANCELLED],
            failed_count=kinds[OutcomeKind.FAILED],
            lost_count=len(world.checks.accepted) - kinds.total(),
            seen=dict(sorted(seen.items())),
        )
