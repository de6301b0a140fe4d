"""The executor: it alone admits work to its device, keeps its leases, and signs what came out.

A lease only saves work: the executor stops when its own count of the lease runs out, a little
before the steward's. Results are durable before they are offered, and are offered until a steward
says how the task ended, whatever happened to the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from msgspec import Struct

from wire.blobs import BlobRef
from wire.content import Content
from wire.effects import (
    Effect,
    Execute,
    Kill,
    Offer,
    Persist,
    Release,
    Row,
    RunId,
    Send,
    SetTimer,
    Trace,
)
from wire.errors import MalformedFrame
from wire.events import Executed, ExecutionFailed
from wire.ids import PeerId
from wire.limits import Limits
from wire.membership import Role
from wire.merkle import inclusion_proofs, merkle_root
from wire.messages import (
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    LeaseRef,
    OfferAccepted,
    OfferRefusal,
    OfferRejected,
    OfferReleased,
    ResultsOffered,
    Settled,
)
from wire.messages import Offer as OfferMessage
from wire.records import Record
from wire.signed import Signed, Signer, encode_body, sign
from wire.tasks import (
    LEASE_TASKS_MAX,
    Contract,
    Lease,
    ProvenResult,
    Result,
    ResultRoot,
    Task,
    batch_id_of,
    open_result,
    open_task,
)

LEASES_MAX = 50
RESERVATION_US = 2_000_000
PROGRESS_EVERY_US = 3_000_000
TICK_US = 5_000
RESULT_RETRY_FIRST_US = 2_000_000
RESULT_RETRY_MAX_US = 30_000_000
OFFERED_BYTES_MAX = 512 * 1024
RESULT_ROWS_MAX = 10_000
HOLDER_MARGIN_PERCENT = 2
RUN_GUESS_US = 1_000_000

RESULT_ROW = "result"


class ResultRow(Struct, frozen=True, kw_only=True):
    """Results of one lease that are not settled yet."""

    steward: PeerId
    lease: Signed[Lease]
    results: tuple[ProvenResult, ...]


@dataclass(frozen=True, slots=True)
class ReservationEnds:
    """Timer: an offer that was accepted was not taken up."""

    steward: PeerId
    offer: int


@dataclass(frozen=True, slots=True)
class ProgressDue:
    """Timer: renew the leases of one steward."""

    steward: PeerId


@dataclass(frozen=True, slots=True)
class HeldLeaseEnds:
    """Timer: see whether a held lease has run out."""

    steward: PeerId
    lease: LeaseRef


@dataclass(frozen=True, slots=True)
class ResultsTick:
    """Timer: sign the results of this tick together."""


@dataclass(frozen=True, slots=True)
class ResultRetry:
    """Timer: offer results again."""

    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """What the device's owner allows. `caps` bounds the limits of every task."""

    engine_profile: str
    workers_count: int
    task_slots: int
    caps: Limits
    leases_max: int = LEASES_MAX


@dataclass(slots=True)
class _Reservation:
    tasks_count: int
    accepted_us: int


@dataclass(slots=True, kw_only=True)
class _Held:
    steward: PeerId
    lease: Signed[Lease]
    contract: Contract
    tasks: dict[int, Task]  # those not ended yet
    expires_us: int

    @property
    def ref(self) -> LeaseRef:
        return lease_ref(self.lease.body)


@dataclass(slots=True)
class _Unsettled:
    row: ResultRow
    retry_us: int = RESULT_RETRY_FIRST_US


@dataclass(slots=True, kw_only=True)
class Executor:
    """The leases this device holds and the results it has not been rid of."""

    signer: Signer
    settings: ExecutorSettings
    may: Callable[[PeerId, Role], bool]
    lacks: Callable[[Iterable[str]], list[str]]  # which of these capabilities are not here
    allows_work: Callable[[], bool]
    telemetry: Callable[[int], Signed[Record]]
    is_linked: Callable[[PeerId], bool]
    is_stopping: bool = False
    _reservations: dict[tuple[PeerId, int], _Reservation] = field(default_factory=dict)
    _held: dict[tuple[PeerId, LeaseRef], _Held] = field(default_factory=dict)
    _runs: dict[RunId, tuple[PeerId, LeaseRef]] = field(default_factory=dict)
    _ended: list[tuple[_Held, Result]] = field(default_factory=list)
    _unsettled: dict[bytes, _Unsettled] = field(default_factory=dict)
    _run_us: int = RUN_GUESS_US

    @property
    def runs_count(self) -> int:
        """How many tasks are running or waiting for a worker."""
        return len(self._runs)

    @property
    def leases_count(self) -> int:
        """How many leases are held."""
        return len(self._held)

    @property
    def slots_free(self) -> int:
        """How many more tasks the device would take now."""
        reserved = sum(reservation.tasks_count for reservation in self._reservations.values())
        return max(0, self.settings.task_slots - len(self._runs) - reserved)

    def on_restarted(self, rows: list[tuple[bytes, ResultRow]]) -> list[Effect]:
        """Take up the results that were not settled; they are offered as links come up."""
        for key, row in rows:
            self._unsettled[key] = _Unsettled(row)
        return [SetTimer(ResultRetry(key), RESULT_RETRY_FIRST_US) for key in self._unsettled]

    def on_link_up(self, steward: PeerId) -> list[Effect]:
        """Offer a steward that is back what it has not settled."""
        effects: list[Effect] = []
        for unsettled in self._unsettled.values():
            if unsettled.row.steward == steward:
                effects += self._offered(unsettled.row)
        return effects

    def on_offer(self, steward: PeerId, offer: OfferMessage, *, now_us: int) -> list[Effect]:
        """Reserve room for two seconds, or say why not."""
        refusal = self._refusal(steward, offer.contract)
        telemetry = self.telemetry(now_us)
        if refusal is not None:
            reason, detail = refusal
            rejected = OfferRejected(
                offer=offer.offer, reason=reason, detail=detail[:256], telemetry=telemetry
            )
            return [Send(steward, rejected)]
        wait_us = self._wait_us()
        tasks_count = min(offer.tasks_count, self.slots_free)
        self._reservations[steward, offer.offer] = _Reservation(tasks_count, now_us)
        accepted = OfferAccepted(
            offer=offer.offer, tasks_count=tasks_count, wait_us=wait_us, telemetry=telemetry
        )
        ends = SetTimer(ReservationEnds(steward, offer.offer), RESERVATION_US)
        return [Send(steward, accepted), ends]

    def on_offer_released(self, steward: PeerId, released: OfferReleased) -> list[Effect]:
        """The steward took another device."""
        self._reservations.pop((steward, released.offer), None)
        return []

    def on_reservation_ends(self, ends: ReservationEnds) -> list[Effect]:
        """Nobody came: the room is free again."""
        self._reservations.pop((ends.steward, ends.offer), None)
        return []

    def on_lease_granted(
        self, steward: PeerId, granted: LeaseGranted, *, now_us: int
    ) -> list[Effect]:
        """Start the tasks of a lease; the first progress message acknowledges it."""
        lease = granted.lease.body
        ref = lease_ref(lease)
        reservation = self._reservations.pop((steward, granted.offer), None)
        if (steward, ref) in self._held:
            return [Send(steward, LeaseProgress(leases=(ref,)))]
        try:
            tasks = self._open_lease(steward, granted)
        except MalformedFrame as error:
            return [Send(steward, LeaseEnded(lease=ref, indices=(), reason=str(error)[:256]))]
        if reservation is None or len(tasks) > reservation.tasks_count or self.is_stopping:
            reason = "no room was reserved for it"
            return [Send(steward, LeaseEnded(lease=ref, indices=(), reason=reason))]
        held = _Held(
            steward=steward,
            lease=granted.lease,
            contract=granted.contract.body,
            tasks={task.index: task for task in tasks},
            expires_us=reservation.accepted_us + _holder_us(lease.duration_us),
        )
        self._held[steward, ref] = held
        effects: list[Effect] = [
            Send(steward, LeaseProgress(leases=(ref,))),
            SetTimer(ProgressDue(steward), PROGRESS_EVERY_US),
            SetTimer(HeldLeaseEnds(steward, ref), held.expires_us - now_us),
        ]
        return effects + [self._execute(held, task) for task in tasks]

    def on_progress_due(self, due: ProgressDue, *, now_us: int) -> list[Effect]:
        """Renew all leases of a steward that can hear it."""
        held = [held for held in self._held.values() if held.steward == due.steward]
        if not held:
            return []
        effects: list[Effect] = [SetTimer(ProgressDue(due.steward), PROGRESS_EVERY_US)]
        if not self._is_reachable(due.steward):
            return effects
        for start in range(0, len(held), LEASE_TASKS_MAX):
            refs = tuple(one.ref for one in held[start : start + LEASE_TASKS_MAX])
            effects.append(Send(due.steward, LeaseProgress(leases=refs)))
        for one in held:
            one.expires_us = now_us + _holder_us(one.lease.body.duration_us)
        return effects

    def on_held_lease_ends(self, ends: HeldLeaseEnds, *, now_us: int) -> list[Effect]:
        """Stop working for a steward that was not heard for a whole lease."""
        held = self._held.get((ends.steward, ends.lease))
        if held is None:
            return []
        if now_us < held.expires_us:
            return [SetTimer(ends, held.expires_us - now_us)]
        trace = Trace("lease.ran_out", {"batch": held.lease.body.batch.hex()})
        return [*self._drop(held, tuple(held.tasks)), trace]

    def on_lease_ended(self, steward: PeerId, ended: LeaseEnded) -> list[Effect]:
        """The steward wants no more of this."""
        held = self._held.get((steward, ended.lease))
        if held is None:
            return []
        return self._drop(held, ended.indices or tuple(held.tasks))

    def on_executed(self, executed: Executed) -> list[Effect]:
        """Keep the result for the signature of this tick."""
        held = self._ended_run(executed.run)
        if held is None:
            return []
        self._run_us = (3 * self._run_us + executed.wall_us) // 4
        lease = held.lease.body
        result = Result(
            batch=lease.batch,
            index=executed.run.index,
            executor=self.signer.peer,
            epoch=lease.epoch,
            attempt=lease.attempt,
            engine_profile=self.settings.engine_profile,
            status=executed.status,
            exit_code=executed.exit_code,
            output_digest=executed.output_digest,
            output=executed.output,
            log=executed.log,
            detail=executed.detail[:512],
            fuel_used=executed.fuel_used,
            wall_us=executed.wall_us,
        )
        self._ended.append((held, result))
        return [SetTimer(ResultsTick(), TICK_US)] if len(self._ended) == 1 else []

    def on_execution_failed(self, failed: ExecutionFailed) -> list[Effect]:
        """This device could not run it: the steward has to find another."""
        held = self._ended_run(failed.run)
        if held is None:
            return []
        reason = f"{failed.reason}: {failed.detail}"[:256]
        ended = LeaseEnded(lease=held.ref, indices=(failed.run.index,), reason=reason)
        return [Send(held.steward, ended)]

    def on_results_tick(self) -> list[Effect]:
        """Sign all results of the tick with one root, and offer them once they are durable."""
        ended, self._ended = self._ended, []
        if not ended:
            return []
        leaves = [encode_body(result) for _, result in ended]
        root = sign(ResultRoot(count=len(leaves), root=merkle_root(leaves)), self.signer)
        by_lease: dict[tuple[PeerId, LeaseRef], tuple[_Held, list[ProvenResult]]] = {}
        for position, proof in enumerate(inclusion_proofs(leaves)):
            held, _ = ended[position]
            proven = ProvenResult(
                received=leaves[position], position=position, proof=proof, root=root
            )
            by_lease.setdefault((held.steward, held.ref), (held, []))[1].append(proven)
        effects: list[Effect] = []
        for held, results in by_lease.values():
            for part in _parts(results):
                effects += self._keep(
                    ResultRow(steward=held.steward, lease=held.lease, results=part)
                )
        return effects

    def on_result_retry(self, retry: ResultRetry) -> list[Effect]:
        """Offer results again, less and less often."""
        unsettled = self._unsettled.get(retry.row)
        if unsettled is None:
            return []
        unsettled.retry_us = min(2 * unsettled.retry_us, RESULT_RETRY_MAX_US)
        again = SetTimer(retry, unsettled.retry_us)
        if not self._is_reachable(unsettled.row.steward):
            return [again]
        return [*self._offered(unsettled.row), again]

    def on_settled(self, steward: PeerId, settled: Settled) -> list[Effect]:
        """Forget results whose outcome is decided, whichever it was."""
        effects: list[Effect] = []
        for key, unsettled in list(self._unsettled.items()):
            row = unsettled.row
            if row.steward != steward or row.lease.body.batch != settled.batch:
                continue
            left = tuple(
                proven
                for proven in row.results
                if open_result(proven).index not in settled.outcomes
            )
            if len(left) == len(row.results):
                continue
            if left:
                unsettled.row = ResultRow(steward=steward, lease=row.lease, results=left)
                effects.append(Persist((Row(RESULT_ROW, key, unsettled.row),)))
            else:
                del self._unsettled[key]
                effects += [Persist((Row(RESULT_ROW, key, None),)), Release(key)]
        return effects

    def on_stopping(self) -> list[Effect]:
        """Give all leases back, so that nobody waits for them to run out."""
        self.is_stopping = True
        effects: list[Effect] = []
        for held in list(self._held.values()):
            indices = tuple(held.tasks)
            effects += self._drop(held, indices)
            ended = LeaseEnded(lease=held.ref, indices=indices, reason="the device is stopping")
            effects.append(Send(held.steward, ended))
        return effects

    def _refusal(
        self, steward: PeerId, signed: Signed[Contract]
    ) -> tuple[OfferRefusal, str] | None:
        contract, caps = signed.body, self.settings.caps
        over = [
            name
            for name in ("memory_bytes", "fuel", "wall_us", "output_bytes", "table_elements")
            if getattr(contract.limits, name) > getattr(caps, name)
        ]
        lacking = self.lacks(contract.requirements)
        rules = (
            (self.is_stopping, OfferRefusal.STOPPING, ""),
            (
                not self.may(self.signer.peer, Role.EXECUTOR),
                OfferRefusal.NOT_EXECUTOR,
                "its certificate lacks executor",
            ),
            (
                not self.may(signed.signer, Role.SUBMITTER),
                OfferRefusal.NOT_A_SUBMITTER,
                "the contract's signer may not submit",
            ),
            (
                steward not in {named.peer for named in contract.stewards}
                or not self.may(steward, Role.STEWARD),
                OfferRefusal.BAD_CONTRACT,
                "the offer is not from a steward of the contract",
            ),
            (
                self.settings.engine_profile not in contract.engine_profiles,
                OfferRefusal.ENGINE_PROFILE,
                self.settings.engine_profile,
            ),
            (bool(lacking), OfferRefusal.CAPABILITY_MISSING, " ".join(lacking)),
            (bool(over), OfferRefusal.OVER_DEVICE_LIMIT, " ".join(over)),
            (not self.allows_work(), OfferRefusal.BREAKER_OPEN, ""),
            (
                len(self._held) + len(self._reservations) >= self.settings.leases_max,
                OfferRefusal.LEASES_FULL,
                f"{self.settings.leases_max} leases",
            ),
            (
                self.slots_free == 0,
                OfferRefusal.SLOTS_FULL,
                f"{self.settings.task_slots} task slots",
            ),
        )
        return next(((reason, detail) for applies, reason, detail in rules if applies), None)

    def _open_lease(self, steward: PeerId, granted: LeaseGranted) -> list[Task]:
        lease, contract = granted.lease.body, granted.contract.body
        named = {(one.peer, one.store) for one in contract.stewards}
        is_ours = (
            granted.lease.signer == steward
            and (steward, lease.store) in named
            and lease.executor == self.signer.peer
            and lease.batch == batch_id_of(granted.contract)
        )
        if not is_ours:
            raise MalformedFrame("the lease is not by a steward of its contract, or not for us")
        tasks = [open_task(proven, contract) for proven in granted.tasks]
        if {task.index for task in tasks} != set(lease.indices):
            raise MalformedFrame("the tasks are not those of the lease")
        return tasks

    def _execute(self, held: _Held, task: Task) -> Effect:
        lease = held.lease.body
        run = RunId(lease.batch, task.index, lease.epoch, lease.attempt)
        self._runs[run] = held.steward, held.ref
        return Execute(
            run=run,
            module=held.contract.module,
            input=task.input,
            sources=(held.steward,),
            box=lease.key,
            limits=held.contract.limits,
            seed=lease.batch + task.index.to_bytes(2, "big"),
        )

    def _ended_run(self, run: RunId) -> _Held | None:
        key = self._runs.pop(run, None)
        if key is None:
            return None
        held = self._held[key]
        del held.tasks[run.index]
        if not held.tasks:
            del self._held[key]
        return held

    def _drop(self, held: _Held, indices: tuple[int, ...]) -> list[Effect]:
        lease = held.lease.body
        effects: list[Effect] = []
        for index in indices:
            run = RunId(lease.batch, index, lease.epoch, lease.attempt)
            if self._runs.pop(run, None) is not None:
                del held.tasks[index]
                effects.append(Kill(run))
        if not held.tasks:
            self._held.pop((held.steward, held.ref), None)
        return effects

    def _keep(self, row: ResultRow) -> list[Effect]:
        first = open_result(row.results[0])
        key = (
            row.lease.body.batch
            + encode_body(row.lease.body.epoch)
            + row.lease.body.attempt.to_bytes(4, "big")
            + first.index.to_bytes(2, "big")
        )
        effects = self._make_room()
        self._unsettled[key] = _Unsettled(row)
        blobs = [blob for proven in row.results for blob in _blobs_of(open_result(proven))]
        effects += [Offer(blob, key) for blob in blobs]
        then = (*self._offered(row), SetTimer(ResultRetry(key), RESULT_RETRY_FIRST_US))
        return [*effects, Persist((Row(RESULT_ROW, key, row),), then)]

    def _make_room(self) -> list[Effect]:
        if len(self._unsettled) < RESULT_ROWS_MAX:
            return []
        # Their stewards were gone for thousands of results: the oldest are given up.
        oldest = next(iter(self._unsettled))
        del self._unsettled[oldest]
        trace = Trace("result.given_up", {"row": oldest.hex()})
        return [Persist((Row(RESULT_ROW, oldest, None),)), Release(oldest), trace]

    def _offered(self, row: ResultRow) -> list[Effect]:
        return [Send(row.steward, ResultsOffered(results=row.results, lease=row.lease))]

    def _is_reachable(self, steward: PeerId) -> bool:
        return steward == self.signer.peer or self.is_linked(steward)

    def _wait_us(self) -> int:
        ahead = max(0, len(self._runs) - self.settings.workers_count + 1)
        return self._run_us * ahead // self.settings.workers_count


def lease_ref(lease: Lease) -> LeaseRef:
    """Return the name of a lease."""
    return LeaseRef(lease.batch, lease.epoch, lease.attempt)


def _holder_us(duration_us: int) -> int:
    return duration_us * (100 - HOLDER_MARGIN_PERCENT) // 100


def _parts(results: list[ProvenResult]) -> Iterable[tuple[ProvenResult, ...]]:
    part: list[ProvenResult] = []
    for proven in results:
        part_bytes = sum(len(one.received) for one in part)
        if part and part_bytes + len(proven.received) > OFFERED_BYTES_MAX:
            yield tuple(part)
            part = []
        part.append(proven)
    yield tuple(part)


def _blobs_of(result: Result) -> list[BlobRef]:
    contents: tuple[Content | None, ...] = (result.output, result.log)
    return [one.blob for one in contents if one is not None and one.blob is not None]
