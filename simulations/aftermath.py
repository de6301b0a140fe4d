"""What must hold when a run is over: nothing accepted was lost, and everybody knows everybody."""

from __future__ import annotations

from simulations.checks import AcceptedTask
from simulations.engine import US_PER_S
from simulations.errands import Errands
from simulations.errors import InvariantBroken
from simulations.host import SimulatedHost
from simulations.submission import opened_output, shown_digest
from simulations.world import World
from wire.answers import (
    PeerList,
    PeerView,
    ReceiptView,
    RefusalCode,
    Refused,
    ResultView,
    StatusView,
    TaskView,
)
from wire.commands import Command, GetPeer, GetReceipt, GetResult, GetStatus, GetTask, ListPeers
from wire.execution import ExecutionStatus
from wire.ids import peer_text
from wire.tasks import OutcomeKind

ANSWER_US_MAX = 30 * US_PER_S
IDLE_US_MAX = 60 * US_PER_S
SUBJECTS_MAX = 16  # a few tell as much as all
TOLD_US_MAX = 60 * US_PER_S  # until a device hears of what the others know


class Aftermath:
    """Asks the devices of a mended world what they know."""

    def __init__(self, world: World, errands: Errands, *, decided_within_us: int) -> None:
        self._world = world
        self._errands = errands
        self._decided_within_us = decided_within_us

    def check(self) -> None:
        """Raise InvariantBroken for anything that is not as it must be."""
        liars = self._world.settings.liars  # nobody waited for their tasks: they promise nothing
        awaited = [one for one in self._errands.awaited() if one.node not in liars]
        self._world.run_until(
            lambda: all(one.is_done or one.is_lost for one in awaited),
            within_us=TOLD_US_MAX,
            what="L2: everybody who waits to be told",
        )
        self._errands.check_found()
        for host in self._honest():
            self._check_members(host)
        self._check_reputations()
        self._world.run_until(
            lambda: all(host.runs_count == 0 for host in self._honest()),
            within_us=IDLE_US_MAX + self._unawaited_work_us(),
            what="L5: every run to end",
        )
        for host in self._honest():
            self._check_idle(host)
        kept = set(self._errands.kept())
        for one in self._world.checks.accepted:
            self._check_task(one, is_kept=one in kept)

    def _unawaited_work_us(self) -> int:
        """Return how long devices may go on with what L2 awaits not: work of liars, lost work."""
        liars = self._world.settings.liars
        is_of_liars = any(one.request.node in liars for one in self._errands.submitted)
        is_lost = not set(self._world.checks.accepted) <= set(self._errands.kept())
        return self._decided_within_us if is_of_liars or is_lost else 0

    def _honest(self) -> list[SimulatedHost]:
        """Return the devices that take part and do not lie."""
        liars = self._world.settings.liars
        return [host for host in self._world.hosts if host.is_answering and host.index not in liars]

    def _check_members(self, host: SimulatedHost) -> None:
        """L1: everybody knows everybody, as far as its directory reaches; newcomers do so soon."""
        self._world.checks.looked["L1"] += 1
        begun_us = self._world.engine.now_us
        while True:
            running = [other for other in self._world.hosts if other.is_running]
            expected_count = min(len(running), self._world.settings.host.members_max)
            peers = self._answer(host.index, ListPeers())
            if isinstance(peers, PeerList) and len(peers.peers) >= expected_count:
                return
            if self._world.engine.now_us > begun_us + TOLD_US_MAX:
                raise InvariantBroken(f"L1: {host.device.name} does not know everybody: {peers}")
            self._world.run_for(US_PER_S)

    def _check_reputations(self) -> None:
        """L3: what one honest device counted of another, all honest devices know soon.

        Not where a directory holds only a part of the mesh, and not of what is told meanwhile.
        """
        hosts = [host for host in self._honest() if not self._is_removed(host)]
        if len(self._world.hosts) > self._world.settings.host.members_max:
            return
        begun_us = self._world.engine.now_us
        for subject in hosts[:SUBJECTS_MAX]:
            self._world.checks.looked["L3"] += 1
            while True:
                told = [self._told_of(subject, at=host) for host in hosts]
                known = {observer: one for at in told for observer, one in at.items()}
                if all(
                    at.get(observer) == one
                    for host, at in zip(hosts, told, strict=True)
                    for observer, one in known.items()
                    if observer != peer_text(host.peer)
                ):
                    break
                if self._world.engine.now_us > begun_us + TOLD_US_MAX:
                    name = subject.device.name
                    raise InvariantBroken(f"L3: what is told of {name} is not known to all: {told}")
                self._world.run_for(US_PER_S)

    def _is_removed(self, host: SimulatedHost) -> bool:
        status = self._answer(host.index, GetStatus())
        return not isinstance(status, StatusView) or status.is_removed

    def _told_of(self, subject: SimulatedHost, *, at: SimulatedHost) -> dict[str, object]:
        """Return what honest devices told of one, as another shows it; it shows not its own."""
        view = self._answer(at.index, GetPeer(peer_text(subject.peer)))
        if not isinstance(view, PeerView) or view.reputation is None:
            return {}
        liars = self._liars()
        observers = view.reputation.observers
        return {one.id: one.outcomes for one in observers if one.id not in liars}

    def _check_idle(self, host: SimulatedHost) -> None:
        """L5: with nothing left to do nobody holds a lease or runs anything."""
        self._world.checks.looked["L5"] += 1
        status = self._answer(host.index, GetStatus())
        if not isinstance(status, StatusView) or status.leases_held or status.runs_active:
            raise InvariantBroken(f"L5: {host.device.name} is not idle: {status}")

    def _check_task(self, one: AcceptedTask, *, is_kept: bool) -> None:
        """S1: a task is known to the stewards that have their stores; a lost store says so.

        A home that was put back from a copy may still show what the copy shows as decided. What a
        minority of several stewards still shows is not looked at.
        """
        self._world.checks.looked["S1"] += 1
        if is_kept:
            told = [self._is_told(one, host) for host in self._errands.keepers(one)]
            if not any(told):  # two majorities have a steward in common
                raise InvariantBroken(f"S1: {one.task} was accepted, and nobody knows of it")
            return
        if self._world.checks.register.stewards_count(one.task.batch) > 1:
            self._world.checks.seen["task.without_majority"] += 1
            return
        view = self._answer(one.host, GetTask(str(one.task)))
        if isinstance(view, TaskView) and view.is_decided:
            self._world.checks.seen["task.of_a_copy"] += 1
        elif not (isinstance(view, Refused) and view.code is RefusalCode.NOT_FOUND):
            raise InvariantBroken(f"S1: {one.task} was lost with its store, yet: {view}")

    def _is_told(self, one: AcceptedTask, host: int) -> bool:
        """Say whether a steward knows the task; if it does, it learns how it ended soon."""
        begun_us = self._world.engine.now_us
        while True:
            view = self._answer(host, GetTask(str(one.task)))
            if isinstance(view, Refused) and view.code is RefusalCode.NOT_FOUND:
                return False  # the others decided before it had the batch
            if isinstance(view, TaskView) and view.is_decided:
                self._check_decided(host, view)
                return True
            if self._world.engine.now_us > begun_us + TOLD_US_MAX:
                name = self._world.hosts[host].device.name
                raise InvariantBroken(f"L2: {one.task} is decided, and at {name}: {view}")
            self._world.run_for(US_PER_S)

    def _check_decided(self, host: int, view: TaskView) -> None:
        receipt = self._answer(host, GetReceipt(view.id))
        if not isinstance(receipt, ReceiptView):
            raise InvariantBroken(f"S3: {view.id} is decided and has no receipt: {receipt}")
        if view.outcome == OutcomeKind.RESULT:
            self._check_output(host, view)

    def _check_output(self, index: int, view: TaskView) -> None:
        result = self._answer(index, GetResult(view.id))
        if not isinstance(result, ResultView):
            raise InvariantBroken(f"S1: {view.id} has a result and does not give it: {result}")
        if view.status == ExecutionStatus.OUT_OF_TIME:
            self._world.checks.seen["task.out_of_time"] += 1  # by the executor's clock: no output
            return
        host = self._world.hosts[index]
        output = opened_output(host, result)
        if output is None or shown_digest(host, result, output) != view.output_digest:
            raise InvariantBroken(f"S3: {view.id} put out something else than was signed")
        if view.executor in self._liars():
            self._world.checks.seen["lie.accepted"] += 1  # a single executor's word is all there is
            return
        if output != self._errands.expected_output(view.id, view.index):
            raise InvariantBroken(f"S3: {view.id} put out something else than its program does")

    def _liars(self) -> list[str]:
        """Return the ids of those who lie, as people are shown them."""
        return [peer_text(self._world.hosts[node].peer) for node in self._world.settings.liars]

    def _answer(self, node: int, command: Command) -> object:
        request = self._world.ask(node, command)
        if request.last is None:
            self._world.run_until(
                lambda: request.last is not None,
                within_us=ANSWER_US_MAX,
                what=f"device {node} to answer",
            )
        return request.last
