"""Carries a plan out in a world, mends everything, and sees that nothing was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from msgspec import Struct

from simulations.checks import AcceptedTask
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.errors import InvariantBroken
from simulations.plan import (
    Crash,
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
from simulations.sandbox import Program
from simulations.submission import Work, opened_output, work_of
from simulations.world import Blueprint, Request, World, WorldSettings
from wire.answers import (
    Accepted,
    ReceiptView,
    RefusalCode,
    Refused,
    ResultView,
    TaskView,
)
from wire.commands import GetReceipt, GetResult, GetTask, ListTasks, WaitBatch
from wire.tasks import OutcomeKind

LOOK_EVERY_US = 20_000
LOOK_US_MAX = 60 * US_PER_S
VIEW_EVERY_US = 2 * US_PER_S
VIEWS_MAX = 20
CALM_US = 2 * US_PER_S
ANSWER_US_MAX = 30 * US_PER_S


class Report(Struct, frozen=True, kw_only=True):
    """What came of a run."""

    seed: int
    digest: str
    events_count: int
    virtual_us: int
    submitted_count: int
    accepted_count: int
    complete_count: int
    failed_count: int
    lost_count: int  # accepted by a store that was lost with its disk
    seen: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Submitted:
    request: Request
    work: Work


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
                exercises_wire=plan.exercises_wire,
                repeat_with=repeat_with,
            ),
            blueprint,
        )
        self._submitted: list[_Submitted] = []
        self._submitters = {step.node for step in plan.steps if isinstance(step, Submit)}
        self._followers: dict[int, Request] = {}
        self._steps_left = 0
        self._executor: int | None = None

    def run(self) -> Report:
        """Carry out the plan. Raises what the run or its checks raise."""
        self.world.start_all()
        self._steps_left = len(self.plan.steps)
        for step in self.plan.steps:
            self._at(step.at_us, partial(self._begin, step, step.at_us + LOOK_US_MAX))
        self._at(VIEW_EVERY_US, self._look_at_tasks)
        bound_us = max((step.at_us for step in self.plan.steps), default=0) + 2 * LOOK_US_MAX
        self.world.run_until(
            lambda: self._steps_left == 0, within_us=bound_us, what="every step to be done"
        )
        self._mend()
        self.world.run_until(
            self._is_settled, within_us=self.plan.settle_us, what="every task to be decided"
        )
        self.world.run_for(CALM_US)  # an outcome is durable a moment before its node says so
        with self.world.explained():
            self._check_answers()
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
        is_waiting = isinstance(step, Split | Cut | Crash | Freeze) and step.when_working
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
                self._submit(step)
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
            case Freeze():
                self._freeze(step)
            case FillDisk():
                world.fill_disk(step.node)
                self._after(step.free_after_us, partial(self._free_disk, step.node))

    def _submit(self, step: Submit) -> None:
        if not self.world.hosts[step.node].is_answering:
            return
        program = Program(work_us=step.work_us, output_bytes=step.output_bytes)
        work = work_of(step.count, program)
        self._submitted.append(_Submitted(self.world.submit(step.node, work), work))

    def _crash(self, step: Crash) -> None:
        node = self._node(step.who)
        if node is None or not self.world.hosts[node].is_running:
            return
        self.world.crash(node, step.disk)
        self._after(step.restart_after_us, partial(self._restart, node))

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

    # What became of the tasks.

    def _look_at_tasks(self) -> None:
        """Ask for the tasks now and then: the checks compare what is answered over time."""
        for node in sorted(self._submitters):
            if self.world.hosts[node].is_answering:
                self.world.ask(node, ListTasks(limit=VIEWS_MAX))
        for submitted in self._submitted:
            self._follow(submitted)
        self.world.engine.after(VIEW_EVERY_US, self._look_at_tasks)

    def _follow(self, submitted: _Submitted) -> None:
        """Wait for a batch that was accepted, again if the device died meanwhile."""
        accepted, node = submitted.request.last, submitted.request.node
        follower = self._followers.get(submitted.request.number)
        is_followed = follower is not None and not follower.is_lost
        is_there = self.world.hosts[node].is_answering
        if isinstance(accepted, Accepted) and is_there and not is_followed:
            request = self.world.ask(node, WaitBatch(accepted.tasks[0]))
            self._followers[submitted.request.number] = request

    def _kept(self) -> list[AcceptedTask]:
        """Return the accepted tasks whose store was not lost."""
        stores = [host.disk.store for host in self.world.hosts]
        return [one for one in self.world.checks.accepted if stores[one.host] == one.store]

    def _is_settled(self) -> bool:
        outcomes = self.world.checks.register.outcomes
        is_open = any(
            not one.request.is_done and not one.request.is_lost for one in self._submitted
        )
        return not is_open and all(
            (one.task.batch, one.task.index) in outcomes for one in self._kept()
        )

    def _answer(self, request: Request) -> object:
        if request.last is None:
            self.world.run_until(
                lambda: request.last is not None,
                within_us=ANSWER_US_MAX,
                what=f"device {request.node} to answer",
            )
        return request.last

    def _check_answers(self) -> None:
        """S1: every accepted task is known where it was accepted, with the right output.

        A store that was lost knows nothing of its tasks, and says so.
        """
        for follower in self._followers.values():
            if not follower.is_done and not follower.is_lost:
                raise InvariantBroken(f"L2: device {follower.node} lets {follower.number} wait")
        kept = set(self._kept())
        for one in self.world.checks.accepted:
            view = self._answer(self.world.ask(one.host, GetTask(str(one.task))))
            if one in kept:
                self._check_kept(one, view)
            elif not (isinstance(view, Refused) and view.code is RefusalCode.NOT_FOUND):
                raise InvariantBroken(f"S1: {one.task} was lost with its store, yet: {view}")

    def _check_kept(self, one: AcceptedTask, view: object) -> None:
        if not isinstance(view, TaskView) or not view.is_decided:
            raise InvariantBroken(f"S1: {one.task} was accepted, and now: {view}")
        if view.outcome == OutcomeKind.RESULT:
            receipt = self._answer(self.world.ask(one.host, GetReceipt(view.id)))
            if not isinstance(receipt, ReceiptView):
                raise InvariantBroken(f"S3: {view.id} has a result and no receipt: {receipt}")
            self._check_output(one, view)

    def _check_output(self, one: AcceptedTask, view: TaskView) -> None:
        result = self._answer(self.world.ask(one.host, GetResult(view.id)))
        if not isinstance(result, ResultView):
            raise InvariantBroken(f"S1: {view.id} has a result and does not give it: {result}")
        output = opened_output(self.world.hosts[one.host], result)
        if output != self._expected_output(view):
            raise InvariantBroken(f"S3: {view.id} put out something else than its program does")

    def _expected_output(self, view: TaskView) -> bytes:
        for submitted in self._submitted:
            accepted = submitted.request.last
            if isinstance(accepted, Accepted) and view.id in accepted.tasks:
                return submitted.work.expected_output(view.index)
        raise InvariantBroken(f"S1: {view.id} was never accepted")

    def _report(self) -> Report:
        world = self.world
        kinds = [
            world.checks.register.outcomes[one.task.batch, one.task.index].kind
            for one in self._kept()
        ]
        complete_count = sum(kind is OutcomeKind.RESULT for kind in kinds)
        seen = world.trace.counts + world.checks.seen + world.network.counts
        return Report(
            seed=self.plan.seed,
            digest=world.trace.digest(),
            events_count=world.engine.events_count,
            virtual_us=world.engine.now_us,
            submitted_count=sum(len(one.work.inputs) for one in self._submitted),
            accepted_count=len(world.checks.accepted),
            complete_count=complete_count,
            failed_count=len(kinds) - complete_count,
            lost_count=len(world.checks.accepted) - len(kinds),
            seen=dict(sorted(seen.items())),
        )
