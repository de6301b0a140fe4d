"""Brings a batch to all of its stewards: it is accepted when a majority has it on disk.

The steward that made the batch gives it to the others, in parts, until they keep it. They take it
if its contract names them in the store they have, fetch module and inputs, and write it down.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from scheduler.batch import BATCH_ROW, Batch, BatchRow, inline_bytes_of
from scheduler.errors import MoveNotProven
from scheduler.keeping import kept_batch, offered_blobs, retired
from scheduler.ledger import UNDECIDED_INLINE_BYTES_MAX, UNDECIDED_TASKS_MAX
from scheduler.moves import steward_sets
from scheduler.stewardship import Stewardship
from wire.content import Content
from wire.effects import Effect, Fetch, Persist, Row, SetTimer, Trace
from wire.errors import CannotUnseal
from wire.events import Fetched, FetchFailed
from wire.ids import BatchId, PeerId
from wire.membership import Role
from wire.messages import BatchDeclined, BatchGiven, BatchKept
from wire.tasks import Task, batch_id_of, tasks_root_of

PART_INLINE_BYTES_MAX = 512 * 1024
GIVE_AGAIN_FIRST_US = 1_000_000
GIVE_AGAIN_MAX_US = 30_000_000
GIVE_DECIDED_TRIES_MAX = 20  # nine minutes: a steward that comes back later was not needed
INCOMING_MAX = 64  # batches that are not whole or whose content is not here yet


@dataclass(frozen=True, slots=True)
class GiveAgain:
    """Timer: give a batch again to those that do not keep it yet."""

    batch: BatchId


@dataclass(frozen=True, slots=True)
class ReplicaDurable:
    """Timer of no delay: a batch of another device is durable, so its steward may be told."""

    batch: BatchId


@dataclass(frozen=True, slots=True)
class ReplicaToken:
    """Names the fetch of a module or an input to the host."""

    batch: BatchId
    number: int


@dataclass(slots=True)
class _Giving:
    batch: Batch
    tasks: tuple[Task, ...]  # the batch lets go of them when all are decided
    targets: list[PeerId]
    joining: set[PeerId] = field(
        default_factory=set
    )  # no stewards yet, whatever their devices were
    is_new: bool = False  # a majority makes it accepted
    tries_count: int = 0
    kept_by: set[PeerId] = field(default_factory=set)
    declined_by: set[PeerId] = field(default_factory=set)  # for good
    retry_us: int = GIVE_AGAIN_FIRST_US


@dataclass(slots=True)
class _Incoming:
    given: BatchGiven
    giver: PeerId
    tasks: list[Task] = field(default_factory=list)
    inline_bytes: int = 0
    missing: set[int] = field(default_factory=set)  # fetches under way


@dataclass(slots=True, kw_only=True)
class Replication:
    """The batches on their way to other stewards, and from them."""

    office: Stewardship
    _giving: dict[BatchId, _Giving] = field(default_factory=dict)
    _incoming: dict[BatchId, _Incoming] = field(default_factory=dict)

    # --- giving -----------------------------------------------------------------------------

    def give(self, batch: Batch) -> list[Effect]:
        """Give a batch that is durable here to its other stewards."""
        giving = _Giving(batch, batch.tasks or (), batch.co_stewards(), is_new=True)
        self._giving[batch.batch] = giving
        return self._give(giving)

    def give_to(self, batch: Batch, peers: list[PeerId]) -> list[Effect]:
        """Give a batch to devices that shall become its stewards."""
        giving = self._giving.setdefault(batch.batch, _Giving(batch, batch.tasks or (), []))
        giving.targets += [peer for peer in peers if peer not in giving.targets]
        giving.joining |= set(peers)
        giving.kept_by -= set(peers)
        giving.declined_by -= set(peers)
        giving.retry_us = GIVE_AGAIN_FIRST_US
        return self._give(giving)

    def on_unknown(self, peer: PeerId, batch: Batch) -> list[Effect]:
        """A steward says that it does not have a batch: give it soon, if that is not under way."""
        giving = self._giving.get(batch.batch)
        if giving is not None:
            giving.kept_by.discard(peer)
            if peer not in giving.targets:
                giving.targets.append(peer)
            return []
        if batch.tasks is None:
            return []  # all are decided: it need not have them
        self._giving[batch.batch] = _Giving(batch, batch.tasks, [peer])
        return [SetTimer(GiveAgain(batch.batch), GIVE_AGAIN_FIRST_US)]

    def on_declined(self, peer: PeerId, declined: BatchDeclined) -> list[Effect]:
        """Give it no more to a device that has lost the store that the contract names."""
        giving = self._giving.get(declined.batch)
        if giving is not None and declined.is_final:
            giving.declined_by.add(peer)
        fields = {"batch": declined.batch.hex(), "peer": peer.hex(), "reason": declined.reason}
        return [Trace("batch.declined", {**fields})]

    def on_kept(self, peer: PeerId, kept: BatchKept) -> Batch | None:
        """Return the batch that a majority keeps now, if this made it one."""
        giving = self._giving.get(kept.batch)
        if giving is None or peer not in giving.targets:
            return None
        was_kept = self._is_kept(giving)
        giving.kept_by.add(peer)
        is_accepted = giving.is_new and self._is_kept(giving) and not was_kept
        return giving.batch if is_accepted else None

    def on_give_again(self, again: GiveAgain) -> list[Effect]:
        """Give again, less and less often, until all keep it, or it was decided long ago."""
        giving = self._giving.get(again.batch)
        if giving is None:
            return []
        giving.tries_count += 1
        is_late = giving.tries_count > GIVE_DECIDED_TRIES_MAX and giving.batch.is_decided
        if is_late or not self._lacking(giving):
            del self._giving[again.batch]
            return []
        giving.retry_us = min(2 * giving.retry_us, GIVE_AGAIN_MAX_US)
        return self._give(giving)

    def _give(self, giving: _Giving) -> list[Effect]:
        again = SetTimer(GiveAgain(giving.batch.batch), giving.retry_us)
        return [*self._give_to(giving, self._lacking(giving)), again]

    def _lacking(self, giving: _Giving) -> list[PeerId]:
        over = giving.kept_by | giving.declined_by
        return [peer for peer in giving.targets if peer not in over]

    def _is_kept(self, giving: _Giving) -> bool:
        return 1 + len(giving.kept_by) >= giving.batch.majority_count

    def _give_to(self, giving: _Giving, peers: list[PeerId]) -> list[Effect]:
        effects: list[Effect] = []
        for peer in peers:
            if not self.office.is_linked(peer):
                effects += self.office.reach(peer)
                continue
            for part in self._parts_for(peer, giving):
                effects += self.office.send(peer, part)
        return effects

    def _parts_for(self, peer: PeerId, giving: _Giving) -> list[BatchGiven]:
        batch, office = giving.batch, self.office
        named = {one for one in batch.stewards if one.peer == peer}
        is_joining = peer in giving.joining or not named <= set(batch.contract.body.stewards)
        key = office.signer.unseal(batch.own_key(office.own)) if is_joining else b""
        return [
            BatchGiven(
                contract=batch.contract,
                epoch=batch.epoch if is_joining else batch.made_in,
                submitted_wall_us=batch.submitted_wall_us,
                first=part[0].index,
                tasks=part,
                chains=batch.chains,
                joining=office.signer.seal(key, peer) if is_joining else None,
                moves=batch.moves,
            )
            for part in _parts(giving.tasks)
        ]

    # --- taking -----------------------------------------------------------------------------

    def on_given(self, peer: PeerId, given: BatchGiven) -> list[Effect]:
        """Take a part; when all are here, fetch what they refer to."""
        batch_id = batch_id_of(given.contract)
        batch = self.office.batch(batch_id)
        if batch is not None:
            return self.office.send(peer, kept(batch)) if batch.is_durable else []
        is_named = self.office.named in given.contract.body.stewards
        is_final = not is_named and given.joining is None
        fault = "another store is here" if is_final else self._fault(peer, given)
        if fault is not None:
            declined = BatchDeclined(batch=batch_id, is_final=is_final, reason=fault)
            return self.office.send(peer, declined)
        incoming = self._incoming.get(batch_id)
        if incoming is None or (given.first == 0 and not incoming.missing):
            if incoming is None and len(self._incoming) >= INCOMING_MAX:
                self._incoming.pop(next(iter(self._incoming)))  # it is given again
            incoming = self._incoming[batch_id] = _Incoming(given, peer)
        if given.first != len(incoming.tasks) or incoming.missing:
            return []
        incoming.tasks += given.tasks
        incoming.inline_bytes += sum(map(inline_bytes_of, given.tasks))
        contract = given.contract.body
        if len(incoming.tasks) < contract.tasks_count:
            return []
        tasks = tuple(incoming.tasks)
        if len(tasks) != contract.tasks_count or tasks_root_of(tasks) != contract.tasks_root:
            del self._incoming[batch_id]
            return [Trace("batch.not_taken", {"peer": peer.hex(), "reason": "other tasks"})]
        contents = [Content(blob=contract.module)]
        contents += [task.input for task in tasks if task.input.blob is not None]
        incoming.missing = set(range(len(contents)))
        sources = tuple(dict.fromkeys((peer, given.contract.signer)))
        return [
            Fetch(content=content, sources=sources, token=ReplicaToken(batch_id, number))
            for number, content in enumerate(contents)
        ]

    def on_fetched(self, fetched: Fetched) -> list[Effect]:
        """A module or an input is here; with the last one the batch is written down."""
        token = fetched.token
        incoming = self._of(token)
        if incoming is None or not isinstance(token, ReplicaToken):
            return []
        incoming.missing.discard(token.number)
        if incoming.missing:
            return []
        del self._incoming[token.batch]
        given, tasks = incoming.given, tuple(incoming.tasks)
        row = BatchRow(
            contract=given.contract,
            tasks=tasks,
            submitted_wall_us=given.submitted_wall_us,
            epoch=given.epoch,
            chains=given.chains,
            joining=given.joining,
            moves=given.moves,
        )
        batch = kept_batch(row, self.office)
        self.office.ledger.add(batch)
        durable = SetTimer(ReplicaDurable(batch.batch), 0)
        return [
            *retired(self.office),
            *offered_blobs(batch),
            Persist((Row(BATCH_ROW, batch.batch, row),), (durable,)),
        ]

    def on_fetch_failed(self, failed: FetchFailed) -> list[Effect]:
        """It cannot be had now: the batch is given again."""
        token = failed.token
        if self._of(token) is None or not isinstance(token, ReplicaToken):
            return []
        del self._incoming[token.batch]
        return [Trace("batch.not_taken", {"batch": token.batch.hex(), "reason": failed.reason})]

    def on_durable(self, durable: ReplicaDurable) -> list[Effect]:
        """The batch is kept."""
        batch = self.office.batch(durable.batch)
        if batch is None:
            return []
        batch.is_durable = True
        effects = self.office.on_changed(batch, batch.open_indices())
        return effects + self.office.send(batch.leader, kept(batch))

    def _fault(self, peer: PeerId, given: BatchGiven) -> str | None:
        office, contract = self.office, given.contract.body
        try:
            stewards = steward_sets(given.contract, given.moves)[-1]
        except MoveNotProven as error:
            return str(error)
        givers = {one.peer for one in stewards}
        incoming_bytes = sum(map(inline_bytes_of, given.tasks))
        incoming_bytes += sum(one.inline_bytes for one in self._incoming.values())
        rules = (
            (peer not in givers, "its giver is no steward of it"),
            (contract.mesh != office.mesh, "it is of another mesh"),
            (not self._is_sealed(given), "its key is not sealed to this steward"),
            (
                not office.may(given.contract.signer, Role.SUBMITTER),
                "its signer may not submit tasks",
            ),
            (given.epoch.rank >= len(stewards), "an epoch of no steward"),
            (given.epoch.move > len(given.moves), "an epoch after moves that are not given"),
            (office.is_stopping, "the device is stopping"),
            (
                office.ledger.undecided_tasks_count + contract.tasks_count > UNDECIDED_TASKS_MAX,
                "too many tasks are not finished here",
            ),
            (
                office.ledger.inline_bytes + incoming_bytes > UNDECIDED_INLINE_BYTES_MAX,
                "too many bytes of input are kept here",
            ),
        )
        return next((fault for applies, fault in rules if applies), None)

    def _is_sealed(self, given: BatchGiven) -> bool:
        if given.joining is None:
            return self.office.own in {key.recipient for key in given.contract.body.keys}
        try:
            self.office.signer.unseal(given.joining)
        except CannotUnseal:
            return False
        return True

    def _of(self, token: Hashable) -> _Incoming | None:
        return self._incoming.get(token.batch) if isinstance(token, ReplicaToken) else None


def kept(batch: Batch) -> BatchKept:
    """Return the message that says what of a batch is on this disk."""
    return BatchKept(batch=batch.batch, decided=batch.decided_indices())


def _parts(tasks: tuple[Task, ...]) -> Iterator[tuple[Task, ...]]:
    part: list[Task] = []
    part_bytes = 0
    for task in tasks:
        task_bytes = inline_bytes_of(task)
        if part and part_bytes + task_bytes > PART_INLINE_BYTES_MAX:
            yield tuple(part)
            part, part_bytes = [], 0
        part.append(task)
        part_bytes += task_bytes
    yield tuple(part)
