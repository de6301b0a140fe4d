"""Carries out the plan of a soak on real daemons, and gathers what they can prove afterwards."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from support.daemons import Daemons, Device, meshctl, until
from support.hard_daemons import ECHOED
from support.netns import Fabric, fabric
from support.netns_mesh import RealMesh
from support.wasm import example

from meshd.client import ControlClient, TaskInput
from meshd.control_errors import CommandRefused, ControlError
from soak.ledger import Ledger
from soak.plan import Fault, Kind, SoakPlan, Submission

DEADLINE_S = 60.0
LOOK_EVERY_S = 1.0
TICK_S = 0.02
WHOLE_S_MAX = 90.0
SETTLED_S_MAX = 120.0
THREADS = 12
AT_ONCE_S = 0.9  # in less nobody was waited for
REASON_LETTERS_MAX = 120
VERIFIED_COUNT = 10  # by `meshctl verify`; the ledger reads all


@dataclass(eq=False, slots=True)
class Batch:
    """What a device accepted, with what it must put out, and when its tasks were seen decided."""

    device: Device
    submitted_s: float
    tasks: dict[str, bytes]
    stewards: list[str]
    decided_s: dict[str, float] = field(default_factory=dict)
    looked_s: float = 0.0
    is_looking: bool = False

    @property
    def is_decided(self) -> bool:
        """Whether all of its tasks have an end."""
        return len(self.decided_s) == len(self.tasks)


@dataclass(slots=True)
class Report:
    """What came of a soak."""

    seed: int
    duration_s: float
    faults: Counter[str] = field(default_factory=Counter)
    submits_count: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    batches: list[Batch] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    wrong: list[str] = field(default_factory=list)
    settled_s: float = 0.0

    @property
    def accepted(self) -> list[str]:
        """The tasks that some device said it keeps."""
        return [task for batch in self.batches for task in batch.tasks]

    @property
    def lost(self) -> list[str]:
        """The accepted tasks of which nobody can prove an end."""
        return self.ledger.lost(self.accepted)

    @property
    def in_time_count(self) -> int:
        """How many submits had all their results within the deadline."""
        return sum(
            batch.is_decided
            and max(batch.decided_s.values()) - batch.submitted_s <= DEADLINE_S
            and all(self.ledger.kind_of(task) == "result" for task in batch.tasks)
            for batch in self.batches
        )

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, decided twice, or proven badly."""
        return not (self.lost or self.ledger.doubles() or self.ledger.bad or self.wrong)

    def lines(self) -> Iterator[str]:
        """Yield what a person should know."""
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        yield f"seed {self.seed}, {self.duration_s:.0f} s, devices: {faults}"
        yield f"{self.submits_count} submits, {len(self.batches)} accepted with {_count(self)}"
        for why, count in self.unanswered.most_common(8):
            yield f"  {count} not accepted: {why}"
        share = self.in_time_count / max(1, self.submits_count)
        yield f"answered with results within {DEADLINE_S:.0f} s: {share:.1%} of all submits"
        of_accepted = self.in_time_count / max(1, len(self.batches))
        yield f"  of the accepted: {of_accepted:.1%}"
        times = sorted(
            at_s - batch.submitted_s for batch in self.batches for at_s in batch.decided_s.values()
        )
        if times:
            shown = ", ".join(
                f"p{share} {times[min(len(times) - 1, len(times) * share // 100)]:.1f} s"
                for share in (50, 95, 99, 100)
            )
            yield f"  decided after: {shown}"
        kinds = Counter(str(self.ledger.kind_of(task)) for task in self.accepted)
        yield "outcomes: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        yield f"settled {self.settled_s:.1f} s after everything was mended"
        yield f"{len(self.lost)} lost, {len(self.ledger.doubles())} double"
        for line in (*self.lost, *self.ledger.doubles(), *self.ledger.bad, *self.wrong):
            yield f"  {line}"


def _count(report: Report) -> str:
    return f"{len(report.accepted)} tasks"


class Soak:
    """One run. Only its own thread starts, stops and cuts; the others ask daemons."""

    def __init__(
        self,
        plan: SoakPlan,
        mesh: RealMesh,
        *,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan = plan
        self._mesh = mesh
        self._say = say
        self._module = example("faults/echo")
        self._down: dict[int, float] = {}  # until when each is to be dead
        self._frozen: dict[int, float] = {}
        self._split_until_s = 0.0
        self._doomed: dict[int, float] = {}  # whose next accepted submit is its last word
        self._submits: list[Future[None]] = []
        self.report = Report(plan.seed, plan.duration_s)

    def run(self) -> Report:
        """Do all that is planned, mend everything, and gather the proofs."""
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                self._break_and_submit(pool)
            finally:
                self._mend()
            wait(self._submits)  # with which another device may die
            self._mend()
            began_s = time.monotonic()
            self._await_settled(pool)
            self.report.settled_s = time.monotonic() - began_s
        self._gather()
        return self.report

    def _break_and_submit(self, pool: ThreadPoolExecutor) -> None:
        faults, submissions = list(self._plan.faults), list(self._plan.submissions)
        began_s = time.monotonic()
        while (passed_s := time.monotonic() - began_s) < self._plan.duration_s:
            self._end_faults()
            while faults and faults[0].at_s <= passed_s:
                self._begin(faults.pop(0))
            while submissions and submissions[0].at_s <= passed_s:
                self._give(submissions.pop(0), pool)
            self._look(pool)
            time.sleep(TICK_S)

    # --- faults -----------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        self._say(str(fault))
        self.report.faults[fault.kind.value] += 1
        until_s = time.monotonic() + fault.for_s
        match fault.kind:
            case Kind.SPLIT:
                others = tuple(set(range(self._plan.nodes_count)) - set(fault.nodes))
                self._mesh.network.split(fault.nodes, others)
                self._split_until_s = until_s
            case Kind.KILL:
                for node in fault.nodes:
                    if self._is_up(node):
                        self._mesh.devices[node].process.kill()
                        self._down[node] = until_s
            case Kind.KILL_SUBMITTER:
                self._doomed[fault.nodes[0]] = fault.for_s
            case Kind.FREEZE:
                for node in fault.nodes:
                    if self._is_up(node):
                        self._mesh.devices[node].process.send_signal(signal.SIGSTOP)
                        self._frozen[node] = until_s

    def _end_faults(self) -> None:
        now_s = time.monotonic()
        if self._split_until_s and now_s >= self._split_until_s:
            self._mesh.network.heal()
            self._split_until_s = 0.0
        for node, until_s in list(self._frozen.items()):
            if now_s >= until_s:
                del self._frozen[node]
                self._mesh.devices[node].process.send_signal(signal.SIGCONT)
        for node, until_s in list(self._down.items()):  # another thread may add to it
            if now_s >= until_s:
                self._start_again(node)

    def _start_again(self, node: int) -> None:
        del self._down[node]
        device = self._mesh.devices[node]
        device.process.wait()
        self._mesh.daemons.restart(device)

    def _is_up(self, node: int) -> bool:
        """Say whether a device can be asked: it runs, is not frozen, and said that it is ready."""
        device = self._mesh.devices[node]
        return (
            node not in self._down
            and node not in self._frozen
            and device.is_running
            and device.out.read_bytes().startswith(b"ready")
        )

    def _mend(self) -> None:
        self._doomed.clear()
        for node in list(self._frozen):
            self._frozen[node] = 0.0
        for node in list(self._down):
            self._down[node] = 0.0
        self._split_until_s = min(self._split_until_s, 1e-9)
        self._end_faults()
        for device in self._mesh.devices:
            until(
                lambda device=device: device.out.read_bytes().startswith(b"ready"),  # type: ignore[misc]
                f"{device.name} did not come back",
                device,
            )

    # --- work -------------------------------------------------------------------------------

    def _give(self, submission: Submission, pool: ThreadPoolExecutor) -> None:
        self.report.submits_count += 1
        doomed = [node for node in self._doomed if self._is_up(node)]
        node = next((node for node in (*doomed, *submission.nodes) if self._is_up(node)), None)
        if node is None:
            self.report.unanswered["no device runs"] += 1
            return
        for_s = self._doomed.pop(node, None)
        number = self.report.submits_count
        self._submits.append(pool.submit(self._submit, node, submission.count, for_s, number))

    def _submit(self, node: int, count: int, dies_for_s: float | None, number: int) -> None:
        device = self._mesh.devices[node]
        process = device.process
        inputs = [f"{number}.{index}".encode() for index in range(count)]
        began_s = time.monotonic()
        try:
            with ControlClient(device.home) as client:
                accepted = client.submit(
                    self._module,
                    [TaskInput(stdin=one) for one in inputs],
                    durability="mesh",
                    deadline_us=int(DEADLINE_S * 1_000_000),
                )
        except CommandRefused as refused:
            waited = "at once" if time.monotonic() - began_s < AT_ONCE_S else "after a while"
            self.report.unanswered[f"{waited}: {str(refused)[:REASON_LETTERS_MAX]}"] += 1
            return
        except ControlError as error:
            self.report.unanswered[type(error).__name__] += 1
            return
        finally:
            if dies_for_s is not None and device.process is process:
                process.kill()
                self._down[node] = time.monotonic() + dies_for_s
        tasks = {
            str(task): ECHOED + one for task, one in zip(accepted["tasks"], inputs, strict=True)
        }
        stewards = [str(one) for one in accepted["stewards"]]
        self.report.batches.append(Batch(device, began_s, tasks, stewards))

    def _look(self, pool: ThreadPoolExecutor) -> None:
        """Ask somebody who runs how the undecided batches stand, once a second each."""
        now_s = time.monotonic()
        for batch in self.report.batches:
            if batch.is_decided or batch.is_looking or now_s < batch.looked_s + LOOK_EVERY_S:
                continue
            devices = self._keepers(batch)
            if devices:
                batch.is_looking, batch.looked_s = True, now_s
                pool.submit(self._look_at, batch, devices[0])

    def _keepers(self, batch: Batch) -> list[Device]:
        """Return the stewards of a batch that run, the one that was asked first first."""
        up = [device for node, device in enumerate(self._mesh.devices) if self._is_up(node)]
        keepers = [device for device in up if device.id in batch.stewards]
        return sorted(keepers, key=lambda device: device is not batch.device)

    def _look_at(self, batch: Batch, device: Device) -> None:
        try:
            with ControlClient(device.home) as client:
                for task in batch.tasks.keys() - batch.decided_s.keys():
                    if client.ask({"command": "task", "task": task})["is_decided"]:
                        batch.decided_s[task] = time.monotonic()
                        self._take_receipt(client, task, device)
        except ControlError:
            pass  # it was killed, or has not heard of it yet: somebody is asked again
        finally:
            batch.is_looking = False

    def _await_settled(self, pool: ThreadPoolExecutor) -> None:
        """Wait until somebody knows the end of everything; what is left then is lost."""
        deadline_s = time.monotonic() + SETTLED_S_MAX
        while time.monotonic() < deadline_s:
            self._look(pool)
            if all(batch.is_decided for batch in self.report.batches):
                return
            time.sleep(TICK_S)

    # --- proofs -----------------------------------------------------------------------------

    def _take_receipt(self, client: ControlClient, task: str, device: Device) -> None:
        received = bytearray()
        client.download(
            {"command": "receipt", "task": task},
            lambda stream, chunk: received.extend(chunk) if stream == "receipt" else None,
        )
        self.report.ledger.add(task, bytes(received), told_by=device.name)

    def _gather(self) -> None:
        """Ask every device for what it can prove of every task that it knows of."""
        accepted = set(self.report.accepted)
        for device in self._mesh.devices:
            known = {str(view["id"]) for view in device.ask("tasks", limit=1_000)["tasks"]}
            mine = [
                task
                for batch in self.report.batches
                if device.id in batch.stewards
                for task in batch.tasks
            ]
            for task in sorted(known.union(mine)):
                try:
                    self._take_receipt(device.client, task, device)
                except CommandRefused:  # it is not decided, or not known here
                    device.hang_up()
        for batch in self.report.batches:
            for task, output in batch.tasks.items():
                if self.report.ledger.kind_of(task) == "result":
                    self._check_output(batch, task, output)
        self._verify(sorted(accepted)[:: max(1, len(accepted) // VERIFIED_COUNT)])

    def _check_output(self, batch: Batch, task: str, output: bytes) -> None:
        """Check that a steward has the output, and that it is what the program puts out."""
        for device in self._keepers(batch):
            with contextlib.suppress(CommandRefused):
                if device.result(task) != output:
                    self.report.wrong.append(f"{task}: {device.name} has another output")
                return
        self.report.wrong.append(f"{task}: no steward has its output")

    def _verify(self, tasks: Sequence[str]) -> None:
        """Let `meshctl verify` of a stranger read some of the receipts, too."""
        directory = self._mesh.daemons.directory / "receipts"
        directory.mkdir()
        mesh = str(self._mesh.devices[0].ask("status")["mesh"])
        for number, task in enumerate(tasks):
            teller = next(iter(self.report.ledger.outcomes.get(task, {}).values()), set())
            device = next((one for one in self._mesh.devices if one.name in teller), None)
            if device is None:
                continue
            file = directory / f"{number}.mesh"
            file.write_bytes(device.receipt(task))
            verified = meshctl(directory / "nobody", "verify", str(file), "--mesh", mesh)
            if verified.returncode:
                self.report.wrong.append(f"{task}: {verified.stdout}{verified.stderr}")


class Loopback:
    """What a soak needs of a network where namespaces cannot be made: nothing is split."""

    def __init__(self, nodes_count: int) -> None:
        self.nodes_count = nodes_count

    def prefix(self, node: int) -> tuple[str, ...]:
        """Return nothing: the daemon runs as it is."""
        del node
        return ()

    def host(self, node: int) -> str:
        """Return the address of this machine for itself, another one for each."""
        return f"127.0.0.{node + 1}"


def soak(
    plan: SoakPlan,
    directory: Path,
    *,
    is_split: bool,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Start the daemons, carry out the plan, and end them all whatever happens."""
    with contextlib.ExitStack() as stack:
        network: Fabric | Loopback = Loopback(plan.nodes_count)
        if is_split:
            network = stack.enter_context(fabric(plan.nodes_count))
        daemons = stack.enter_context(Daemons(directory))
        mesh = RealMesh(network, daemons)  # type: ignore[arg-type] # all that a mesh asks of it
        try:
            mesh.grow()
            return Soak(plan, mesh, say=say).run()
        finally:
            for device in mesh.devices:
                if device.is_running:
                    device.process.send_signal(signal.SIGCONT)
