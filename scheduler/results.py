"""An executor's results: signed together, durable before they are offered, offered until settled.

Whatever happened to the lease, and however often this device restarts: only a steward's word that
a task is decided, or unknown to it, ends the offering of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from scheduler.held_leases import HeldLease
from wire.blobs import BlobRef
from wire.content import Content
from wire.effects import Effect, Offer, Persist, Release, Row, Send, SetTimer, Trace
from wire.ids import BatchId, PeerId
from wire.merkle import inclusion_proofs, merkle_root
from wire.messages import ResultsOffered, Settled
from wire.signed import Signed, Signer, encode_body, sign
from wire.tasks import Lease, ProvenResult, Result, ResultRoot, open_result

TICK_US = 5_000
RESULT_RETRY_FIRST_US = 2_000_000
RESULT_RETRY_MAX_US = 30_000_000
RESULT_RESTART_SPACING_US = 5_000
OFFERED_BYTES_MAX = 512 * 1024
RESULT_ROWS_MAX = 10_000
LINK_UP_ROWS_MAX = 64

RESULT_ROW = "result"


class ResultRow(Struct, frozen=True, kw_only=True):
    """Results of one lease that are not settled yet, and the stewards that may settle them."""

    stewards: tuple[PeerId, ...]
    lease: Signed[Lease]
    results: tuple[ProvenResult, ...]


@dataclass(frozen=True, slots=True)
class ResultsTick:
    """Timer: sign the results of this tick together."""


@dataclass(frozen=True, slots=True)
class ResultRetry:
    """Timer: offer results again."""

    row: bytes


@dataclass(slots=True)
class _Unsettled:
    row: ResultRow
    indices: tuple[int, ...]  # of the results, in their order
    unknown_to: dict[int, set[PeerId]] = field(default_factory=dict)  # stewards, by task
    retry_us: int = RESULT_RETRY_FIRST_US

    def may_be_known(self, index: int, steward: PeerId) -> bool:
        """Note that a steward does not know a task; say whether another one still may."""
        unknown_to = self.unknown_to.setdefault(index, set())
        unknown_to.add(steward)
        return not unknown_to >= set(self.row.stewards)


@dataclass(slots=True, kw_only=True)
class Results:
    """RESULT_ROWS_MAX rows of unsettled results at most: then the oldest are given up."""

    signer: Signer
    is_reachable: Callable[[PeerId], bool]
    _ended: list[tuple[HeldLease, Result]] = field(default_factory=list)
    _unsettled: dict[bytes, _Unsettled] = field(default_factory=dict)
    _by_batch: dict[BatchId, set[bytes]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._unsettled)

    def on_restarted(self, rows: list[tuple[bytes, ResultRow]]) -> list[Effect]:
        """Take up the results that were not settled; they are offered as links come up."""
        effects: list[Effect] = []
        for position, (key, row) in enumerate(rows):
            unsettled = self._add(key, row)
            unsettled.retry_us += position * RESULT_RESTART_SPACING_US  # not all at once
            effects += [Offer(blob, key) for blob in _blobs_of(row)]
            effects.append(SetTimer(ResultRetry(key), unsettled.retry_us))
        return effects

    def on_link_up(self, steward: PeerId) -> list[Effect]:
        """Offer a steward that is back what it has not settled; many rows wait for their timers."""
        rows = [one.row for one in self._unsettled.values() if steward in one.row.stewards]
        return [_offered(row, steward) for row in rows[:LINK_UP_ROWS_MAX]]

    def put(self, held: HeldLease, result: Result) -> list[Effect]:
        """Keep a result for the signature of this tick."""
        self._ended.append((held, result))
        return [SetTimer(ResultsTick(), TICK_US)] if len(self._ended) == 1 else []

    def on_tick(self) -> list[Effect]:
        """Sign all results of the tick with one root, and offer them once they are durable."""
        ended, self._ended = self._ended, []
        if not ended:
            return []
        leaves = [encode_body(result) for _, result in ended]
        root = sign(ResultRoot(count=len(leaves), root=merkle_root(leaves)), self.signer)
        by_lease: dict[bytes, tuple[HeldLease, list[ProvenResult]]] = {}
        for position, proof in enumerate(inclusion_proofs(leaves)):
            held, _ = ended[position]
            proven = ProvenResult(
                received=leaves[position], position=position, proof=proof, root=root
            )
            by_lease.setdefault(held.lease.received, (held, []))[1].append(proven)
        effects: list[Effect] = []
        for held, results in by_lease.values():
            for part in _parts(results):
                stewards = tuple(one.peer for one in held.stewards)
                row = ResultRow(stewards=stewards, lease=held.lease, results=part)
                effects += self._keep(row)
        return effects

    def on_retry(self, retry: ResultRetry) -> list[Effect]:
        """Offer results again, less and less often."""
        unsettled = self._unsettled.get(retry.row)
        if unsettled is None:
            return []
        unsettled.retry_us = min(2 * unsettled.retry_us, RESULT_RETRY_MAX_US)
        again = SetTimer(retry, unsettled.retry_us)
        row = unsettled.row
        here = [peer for peer in row.stewards if self.is_reachable(peer)]
        return [*(_offered(row, peer) for peer in here), again]

    def on_settled(self, steward: PeerId, settled: Settled) -> list[Effect]:
        """Forget results whose outcome is decided, whichever it was."""
        effects: list[Effect] = []
        for key in sorted(self._by_batch.get(settled.batch, ())):
            unsettled = self._unsettled[key]
            row = unsettled.row
            if steward not in row.stewards:
                continue
            left = {
                index: proven
                for index, proven in zip(unsettled.indices, row.results, strict=True)
                if index not in settled.outcomes
                or (settled.outcomes[index] is None and unsettled.may_be_known(index, steward))
            }
            if len(left) == len(row.results):
                continue
            if left:
                unsettled.indices = tuple(left)
                unsettled.row = replace(row, results=tuple(left.values()))
                effects.append(Persist((Row(RESULT_ROW, key, unsettled.row),)))
            else:
                effects += self._forget(key)
        return effects

    def on_devices_removed(self, removed: frozenset[PeerId]) -> list[Effect]:
        """Forget results for stewards that are out of the mesh: nobody would settle them."""
        self._ended = [
            (held, result) for held, result in self._ended if held.steward not in removed
        ]
        keys = [key for key, one in self._unsettled.items() if removed >= set(one.row.stewards)]
        return [effect for key in keys for effect in self._forget(key)]

    def _keep(self, row: ResultRow) -> list[Effect]:
        lease = row.lease.body
        key = (
            lease.batch
            + encode_body(lease.epoch)
            + lease.attempt.to_bytes(4, "big")
            + open_result(row.results[0]).index.to_bytes(2, "big")
        )
        lease_signer = row.lease.signer
        effects = self._make_room()
        self._add(key, row)
        effects += [Offer(blob, key) for blob in _blobs_of(row)]
        offered = _offered(row, lease_signer)
        then = (offered, SetTimer(ResultRetry(key), RESULT_RETRY_FIRST_US))
        return [*effects, Persist((Row(RESULT_ROW, key, row),), then)]

    def _add(self, key: bytes, row: ResultRow) -> _Unsettled:
        indices = tuple(open_result(proven).index for proven in row.results)
        unsettled = self._unsettled[key] = _Unsettled(row, indices)
        self._by_batch.setdefault(row.lease.body.batch, set()).add(key)
        return unsettled

    def _forget(self, key: bytes) -> list[Effect]:
        row = self._unsettled.pop(key).row
        batch = row.lease.body.batch
        self._by_batch[batch].discard(key)
        if not self._by_batch[batch]:
            del self._by_batch[batch]
        return [Persist((Row(RESULT_ROW, key, None),)), Release(key)]

    def _make_room(self) -> list[Effect]:
        if len(self._unsettled) < RESULT_ROWS_MAX:
            return []
        # Their stewards were gone for thousands of results: the oldest are given up.
        oldest = next(iter(self._unsettled))
        return [*self._forget(oldest), Trace("result.given_up", {"row": oldest.hex()})]


def _offered(row: ResultRow, steward: PeerId) -> Effect:
    return Send(steward, ResultsOffered(results=row.results, lease=row.lease))


def _parts(results: list[ProvenResult]) -> Iterator[tuple[ProvenResult, ...]]:
    part: list[ProvenResult] = []
    part_bytes = 0
    for proven in results:
        if part and part_bytes + len(proven.received) > OFFERED_BYTES_MAX:
            yield tuple(part)
            part, part_bytes = [], 0
        part.append(proven)
        part_bytes += len(proven.received)
    yield tuple(part)


def _blobs_of(row: ResultRow) -> list[BlobRef]:
    results = [open_result(proven) for proven in row.results]
    contents: list[Content | None] = [one for r in results for one in (r.output, r.log)]
    return [one.blob for one in contents if one is not None and one.blob is not None]
