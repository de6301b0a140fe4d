"""Carries a plan out in a world, mends everything, and sees that nothing was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from simulations import steps
from simulations.aftermath import Aftermath
from simulations.checks import BREAKER_MILLICELSIUS
from simulations.engine import US_PER_S, Action
from simulations.errands import Errands
from simulations.errors import ExpectationFailed, InvariantBroken
from simulations.faults import Faults
from simulations.plan import Plan
from simulations.plan_checks import check_plan
from simulations.steps import AnyStep
from simulations.trace import TraceLevel
from simulations.world import Blueprint, World, WorldSettings
from wire.tasks import OutcomeKind

LOOK_EVERY_US = 20_000
LOOK_US_MAX = 60 * US_PER_S
VIEW_EVERY_US = 2 * US_PER_S
FULL_MESH_MAX = 8  # so few devices link with all others
CALM_US = 2 * US_PER_S


class Report(Struct, frozen=True, kw_only=True):
    """What came of a run. Latencies are microseconds from accepted to decided, in order."""

    name: str
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
    latencies_us: tuple[int, ...]
    broke: str | None  # the name of what broke, as the plan expects or not
    looked: dict[str, int]  # how often each invariant was looked at
    seen: dict[str, int]


class Runner:
    """One run of a plan. Raises BadScenario, before anything is done, for one that cannot be."""

    def __init__(
        self,
        plan: Plan,
        blueprint: Blueprint,
        *,
        repeat_with: str,
        trace: TraceLevel = TraceLevel.FULL,
    ) -> None:
        check_plan(plan)
        self.plan = plan
        self.world = World(
            WorldSettings(
                seed=plan.seed,
                node_count=plan.node_count,
                network=plan.network,
                host=plan.host,
                hosts=plan.hosts,
                budget=plan.budget,
                roles=plan.roles,
                discovery=plan.discovery,
                liars=tuple(_liars(plan)),
                exercises_wire=plan.exercises_wire,
                repeat_with=repeat_with,
                trace=trace,
            ),
            blueprint,
        )
        self.errands = Errands(self.world)
        self._faults = Faults(self.world)
        self._submitters = {step.node for step in plan.steps if isinstance(step, steps.Submit)}
        self._is_heated = any(isinstance(step, steps.Heat) for step in plan.steps)
        self._steps_left = 0
        self._executor: int | None = None

    def run(self) -> Report:
        """Carry out the plan. Raises what the run or its checks raise."""
        expected = self.plan.expect.breaks
        try:
            self._run()
        except InvariantBroken as error:
            if error.invariant != expected:
                raise
            return self.report(broke=expected)
        if expected is not None:
            with self.world.explained():
                raise ExpectationFailed(f"{expected} held, and the plan expects it to break")
        return self.report(broke=None)

    def begin(self) -> None:
        """Start the devices and put every step on the clock; the run itself is the caller's."""
        for node in range(self.plan.node_count):
            if node not in self.plan.absent:
                self.world.start(node)
        self._steps_left = len(self.plan.steps)
        for step in self.plan.steps:
            self._at(step.at_us, partial(self._begin, step, step.at_us + LOOK_US_MAX))
        self._at(VIEW_EVERY_US, self._look)

    def _run(self) -> None:
        self.begin()
        last_us = max((step.at_us for step in self.plan.steps), default=0)
        longest_us = max((_duration_us(step) for step in self.plan.steps), default=0)
        self.world.run_until(
            lambda: self._steps_left == 0 and self.world.engine.now_us >= self.plan.lasts_us,
            within_us=max(last_us + longest_us, self.plan.lasts_us) + 2 * LOOK_US_MAX,
            what="every step to be done",
        )
        self._mend()
        expect = self.plan.expect
        self.world.run_until(
            self.errands.is_settled,
            within_us=expect.decided_within_us,
            what="L2: every task to be decided",
        )
        self.world.checks.looked["L2"] += len(self.world.checks.accepted)
        if self.plan.node_count <= FULL_MESH_MAX:
            self.world.checks.looked["L1"] += 1
            self.world.run_until(
                self._is_whole,
                within_us=expect.whole_within_us,
                what="L1: everybody linked and alive again",
            )
        self.world.run_for(CALM_US)  # an outcome is durable a moment before its node says so
        with self.world.explained():
            within_us = expect.decided_within_us
            Aftermath(self.world, self.errands, decided_within_us=within_us).check()

    # Steps.

    def _at(self, at_us: int, action: Callable[[], None]) -> None:
        self.world.engine.at(max(at_us, self.world.engine.now_us), action)

    def _after(self, delay_us: int | None, action: Action) -> None:
        """Do something later; the plan is not over before. None: never."""
        if delay_us is None:
            return

        def act() -> None:
            action()
            self._steps_left -= 1

        self._steps_left += 1
        self.world.engine.after(delay_us, act)

    def _begin(self, step: AnyStep, until_us: int) -> None:
        """Carry a step out now, or look again if it waits for somebody to work."""
        is_waiting = step.when_working and not self._find_executor()
        if is_waiting and self.world.engine.now_us < until_us:
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

    def _carry_out(self, step: AnyStep) -> None:
        faults = self._faults
        match step:
            case steps.Submit():
                self.errands.submit(step)
            case steps.Cancel():
                self.errands.cancel(step)
            case steps.Find():
                self.errands.find(step)
            case steps.Start(node=node):
                faults.start(node)
            case steps.Stop(node=node, restart_after_us=restart_after_us):
                faults.stop(node)
                self._after(restart_after_us, partial(faults.start, node))
            case steps.Crash(who=who, disk=disk, restart_after_us=restart_after_us):
                crashed = self._executor if who == "executor" else who
                if crashed is not None and faults.crash(crashed, disk):
                    self._after(restart_after_us, partial(faults.start, crashed))
            case steps.CrashWriting():
                self._crash_writing(step)
            case steps.CrashAtEffect():
                self._crash_at_effect(step)
            case steps.Restore(node=node, down_us=down_us):
                if faults.restore(step):
                    self._after(down_us, partial(faults.start, node))
            case _:
                end = faults.begin(step, self._executor)
                if end is not None:
                    self._after(getattr(step, "for_us", None), end)

    def _crash_writing(self, step: steps.CrashWriting) -> None:
        delay_us = self.plan.host.sync_us * step.way_permille // 1_000
        disk = self.world.hosts[step.node].disk

        def crash() -> None:
            if self._faults.crash(step.node, step.disk):
                self._after(step.restart_after_us, partial(self._faults.start, step.node))

        def written() -> None:
            self._after(delay_us, crash)

        def give_up() -> None:
            """It wrote nothing all the time."""
            if disk.on_written is written:
                disk.on_written = None

        disk.on_written = written
        self._after(LOOK_US_MAX, give_up)

    def _crash_at_effect(self, step: steps.CrashAtEffect) -> None:
        def reached() -> None:
            self._after(step.restart_after_us, partial(self._faults.start, step.node))

        self._after(LOOK_US_MAX, self._faults.crash_at(step, reached))

    def _mend(self) -> None:
        """End every fault; whatever is wrong from here on is the nodes' doing."""
        self._faults.end_all()
        self.world.mend_everything()
        for host in self.world.hosts:
            if host.boot > 0:
                self._faults.start(host.index)

    # What became of it.

    def _look(self) -> None:
        self.errands.look()
        if self._is_heated:
            self._look_at_heat()
        self.world.engine.after(VIEW_EVERY_US, self._look)

    def _look_at_heat(self) -> None:
        """Note it if devices that are too hot are idle while others work."""
        hosts = [host for host in self.world.hosts if host.index not in self._submitters]
        is_working = any(host.runs_count for host in hosts)
        is_spared = any(
            host.temperature_millicelsius > BREAKER_MILLICELSIUS and not host.runs_count
            for host in hosts
        )
        self.world.checks.seen["work.kept_from_heat"] += is_working and is_spared

    def _is_whole(self) -> bool:
        """L1: whether the mesh has grown together again, without those who may be banned."""
        liars = self.world.settings.liars
        running = [host for host in self.world.hosts if host.boot > 0 and host.index not in liars]
        peers = {host.peer for host in running}
        are_linked = all(
            peers.issubset((host.peer, *self.world.network.neighbours(host.peer)))
            for host in running
        )
        return are_linked and self.world.beliefs.are_all_alive(peers)

    def report(self, *, broke: str | None) -> Report:
        """Return what came of the run so far; `broke` names what ended it, if something did."""
        world = self.world
        register = world.checks.register
        outcomes = [
            register.outcomes.get((one.task.batch, one.task.index)) for one in self.errands.kept()
        ]
        kinds = Counter(outcome.kind for outcome in outcomes if outcome is not None)
        seen = world.trace.counts + world.checks.seen + world.network.counts + world.dht.counts
        for falsehoods in world.falsehoods.values():
            seen.update(falsehoods.told)
        return Report(
            name=self.plan.name,
            seed=self.plan.seed,
            digest=world.trace.digest(),
            events_count=world.engine.events_count,
            virtual_us=world.engine.now_us,
            submitted_count=sum(len(one.work.inputs) for one in self.errands.submitted),
            accepted_count=len(world.checks.accepted),
            complete_count=kinds[OutcomeKind.RESULT],
            cancelled_count=kinds[OutcomeKind.CANCELLED],
            failed_count=kinds[OutcomeKind.FAILED],
            lost_count=len(world.checks.accepted) - len(outcomes),
            latencies_us=tuple(sorted(world.checks.latencies_us())),
            broke=broke,
            looked=dict(sorted(world.checks.looked.items())),
            seen=dict(sorted(seen.items())),
        )


def _duration_us(step: AnyStep) -> int:
    """Return how long a step takes at most, from when it begins."""
    names = ("for_us", "restart_after_us", "down_us")
    return sum(getattr(step, name, None) or 0 for name in names)


def _liars(plan: Plan) -> list[int]:
    """Return the devices that lie at some time: what they say is nobody's promise."""
    liars: set[int] = set()
    for step in plan.steps:
        match step:
            case steps.Lie(node=node):
                liars.add(node)
            case steps.EclipseDht(liars=nodes):
                liars.update(nodes)
    return sorted(liars)
