"""What people ask for during a run, and who waits for what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulations.checks import AcceptedTask
from simulations.errors import InvariantBroken
from simulations.sandbox import Program
from simulations.steps import Cancel, Find, Submit
from simulations.submission import Work, work_of
from simulations.world import Request, World
from wire.answers import Accepted, Found
from wire.commands import CancelTask, ListTasks, WaitBatch
from wire.commands import Find as FindProviders
from wire.ids import peer_text, task_id_from_text
from wire.tasks import Steward

VIEWS_MAX = 20


@dataclass(frozen=True, slots=True)
class Submitted:
    """A batch that was submitted, whatever came of it."""

    request: Request
    work: Work


class Errands:
    """The submissions of a run, and who was looked for."""

    def __init__(self, world: World) -> None:
        self.submitted: list[Submitted] = []
        self.followers: dict[int, Request] = {}
        self._finds: list[tuple[Find, Request]] = []
        self._world = world

    def submit(self, step: Submit) -> None:
        """Submit a batch, if there is somebody to ask."""
        if self._world.hosts[step.node].is_answering:
            program = Program(work_us=step.work_us, output_bytes=step.output_bytes)
            work = work_of(
                step.count, program, deadline_us=step.deadline_us, durability=step.durability
            )
            work = replace(
                work,
                replicas=step.replicas,
                quorum=step.quorum,
            )
            self.submitted.append(Submitted(self._world.submit(step.node, work), work))

    def cancel(self, step: Cancel) -> None:
        """Cancel a task, if it was accepted and there is somebody to ask."""
        if step.submission >= len(self.submitted):
            return
        request = self.submitted[step.submission].request
        accepted = request.last
        if isinstance(accepted, Accepted) and self._world.hosts[request.node].is_answering:
            task = accepted.tasks[step.index % len(accepted.tasks)]
            self._world.ask(request.node, CancelTask(task))

    def find(self, step: Find) -> None:
        """Look for providers, if there is somebody to ask."""
        if self._world.hosts[step.node].is_answering:
            command = FindProviders((step.key,), via=step.via.value)
            self._finds.append((step, self._world.ask(step.node, command)))

    def check_found(self) -> None:
        """S12: whatever the DHT says, nobody is named who neither provides a capability nor lies
        about it in its own signed records.
        """
        liars = self._world.settings.liars
        for step, request in self._finds:
            if step.node in liars or not isinstance(request.last, Found):
                continue
            self._world.checks.looked["S12"] += 1
            providers = [
                peer_text(self._world.hosts[node].peer) for node in (*step.providers, *liars)
            ]
            self._world.checks.seen["provider.found"] += bool(request.last.peers)
            for found in request.last.peers:
                if found.id not in providers:
                    name = self._world.hosts[step.node].device.name
                    raise InvariantBroken(f"S12: {name} names {found.name} for {step.key}")

    def look(self) -> None:
        """Ask for the tasks: the checks compare what is answered over time."""
        nodes = {submitted.request.node for submitted in self.submitted}
        for node in sorted(nodes):
            if self._world.hosts[node].is_answering:
                self._world.ask(node, ListTasks(limit=VIEWS_MAX))
        for submitted in self.submitted:
            self._follow(submitted)

    def kept(self) -> list[AcceptedTask]:
        """Return the accepted tasks that a majority of honest stewards has in its stores."""
        stores = {Steward(host.peer, host.disk.store) for host in self._world.hosts}
        checks = self._world.checks
        return [
            one
            for one in checks.accepted
            if checks.register.is_kept(one.task.batch, stores)
            and not checks.register.has_lying_steward(one.task.batch)
        ]

    def keepers(self, one: AcceptedTask) -> list[int]:
        """Return the stewards of a task that have the stores with which they were named."""
        stewards = self._world.checks.register.stewards(one.task.batch)
        return [
            host.index
            for host in self._world.hosts
            if Steward(host.peer, host.disk.store) in stewards and host.is_answering
        ]

    def awaited(self) -> list[Request]:
        """Return those who wait for batches of which every task is to be decided."""
        kept = {one.task.batch for one in self.kept()}
        return [
            follower
            for submitted in self.submitted
            if (follower := self.followers.get(submitted.request.number)) is not None
            and isinstance(accepted := submitted.request.last, Accepted)
            and task_id_from_text(accepted.tasks[0]).batch in kept
        ]

    def is_settled(self) -> bool:
        """Say whether every submission is answered and every task that is kept is decided."""
        outcomes = self._world.checks.register.outcomes
        requests = [submitted.request for submitted in self.submitted]
        return all(request.is_done or request.is_lost for request in requests) and all(
            (one.task.batch, one.task.index) in outcomes for one in self.kept()
        )

    def expected_output(self, task: str, index: int) -> bytes:
        """Return what an accepted task must put out. Raises LookupError for another."""
        for submitted in self.submitted:
            accepted = submitted.request.last
            if isinstance(accepted, Accepted) and task in accepted.tasks:
                return submitted.work.expected_output(index)
        raise LookupError(f"{task} was never accepted")

    def _follow(self, submitted: Submitted) -> None:
        """Wait for a batch that was accepted, again if the device died meanwhile."""
        accepted, node = submitted.request.last, submitted.request.node
        follower = self.followers.get(submitted.request.number)
        is_followed = follower is not None and not follower.is_lost
        is_there = self._world.hosts[node].is_answering
        if isinstance(accepted, Accepted) and is_there and not is_followed:
            request = self._world.ask(node, WaitBatch(accepted.tasks[0]))
            self.followers[submitted.request.number] = request
