"""Who signed a wrong result, as proven to everybody, and whom an admin has let work again.

A conviction is checked by each device that hears of it, and told on; whoever is convicted gets no
lease, and none of its results is voted for, until an admin pardons it. Both only accumulate, so all
devices that heard the same agree. When a link comes up whoever holds any says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from msgspec import Struct

from scheduler.agreement import likeness, quorum_fault
from scheduler.verification import results_of
from wire.answers import PardonView, RefusalCode, Refused
from wire.convictions import CONVICTIONS_MAX, Conviction, ConvictionRef, Pardon
from wire.effects import Answer, Effect, Persist, Row, Send, SetTimer, Trace
from wire.ids import MeshId, PeerId, peer_text
from wire.membership import Role
from wire.messages import ConvictionGiven, ConvictionsHeld, Message, PardonGiven
from wire.signed import Signed, Signer, encode_body, sign
from wire.tasks import Contract, Lease, Result, Steward, batch_id_of, open_result

CONVICTION_ROW = "conviction"
PARDON_ROW = "pardon"
OF_DEVICE_MAX = 4  # further ones say nothing new


class ConvictionRow(Struct, frozen=True, kw_only=True):
    """A conviction that was checked; its key is its name."""

    conviction: Conviction


class PardonRow(Struct, frozen=True, kw_only=True):
    """A pardon; its key is its signature."""

    pardon: Signed[Pardon]


@dataclass(frozen=True, slots=True)
class ConvictionDurable:
    """Timer of no delay: a conviction is on disk, so the device's work can end."""

    executor: PeerId


@dataclass(slots=True, kw_only=True)
class Convictions:
    """CONVICTIONS_MAX of each at most: further ones are not taken."""

    signer: Signer
    mesh: MeshId
    may: Callable[[PeerId, Role], bool]  # by certificates alone
    linked: Callable[[], Iterable[PeerId]]
    _convictions: dict[ConvictionRef, Conviction] = field(default_factory=dict)
    _pardons: dict[bytes, Signed[Pardon]] = field(default_factory=dict)
    _pardoned: set[ConvictionRef] = field(default_factory=set)

    def on_restarted(self, convictions: list[ConvictionRow], pardons: list[PardonRow]) -> None:
        """Take up what was proven before."""
        for row in convictions:
            self._convictions[ref_of(row.conviction)] = row.conviction
        for pardon in pardons:
            self._take_pardon(pardon.pardon)

    def is_convicted(self, peer: PeerId) -> bool:
        """Say whether a device may not work."""
        return any(ref.executor == peer for ref in self._standing())

    def on_found(self, conviction: Conviction) -> list[Effect]:
        """This device saw it itself."""
        return self._take(conviction, None)

    def on_link_up(self, peer: PeerId) -> list[Effect]:
        """Say what is known here, if anything is: the other end gives what is missing."""
        return [Send(peer, self._held())] if self._convictions or self._pardons else []

    def on_message(self, peer: PeerId, message: Message) -> list[Effect]:
        """Another device tells what it holds, or gives it."""
        match message:
            case ConvictionsHeld():
                return self._on_held(peer, message)
            case ConvictionGiven(conviction=conviction):
                fault = conviction_fault(conviction, mesh=self.mesh, may=self.may)
                if fault is not None:
                    return [Trace("conviction.refused", {"peer": peer.hex(), "reason": fault})]
                return self._take(conviction, peer)
            case PardonGiven(pardon=pardon):
                return self._on_pardon_given(peer, pardon)
            case _:
                return []

    def on_pardon(self, request: int, peer: PeerId, name: str) -> list[Effect]:
        """Somebody lets a device work again."""
        if not self.may(self.signer.peer, Role.ADMIN):
            return [
                Answer(
                    request,
                    Refused(
                        code=RefusalCode.REFUSED,
                        message="only an admin lets a convicted device work again",
                        hint="ask on a device whose role is admin: `meshctl peers` shows roles",
                    ),
                )
            ]
        refs = tuple(sorted(ref for ref in self._standing() if ref.executor == peer))
        if not refs:
            message = f"{name} is not convicted of anything, as far as is known here"
            return [Answer(request, Refused(code=RefusalCode.NOT_FOUND, message=message))]
        pardon = sign(Pardon(mesh=self.mesh, convictions=refs), self.signer)
        self._take_pardon(pardon)
        view = PardonView(id=peer_text(peer), name=name, convictions_count=len(refs))
        told = [Send(one, PardonGiven(pardon=pardon)) for one in self.linked()]
        return [self._persist_pardon(pardon, (Answer(request, view), *told))]

    # --- details ----------------------------------------------------------------------------

    def _held(self, *, is_answer: bool = False) -> ConvictionsHeld:
        return ConvictionsHeld(
            convictions=tuple(sorted(self._convictions)),
            pardons=tuple(sorted(self._pardons)),
            is_answer=is_answer,
        )

    def _on_held(self, peer: PeerId, held: ConvictionsHeld) -> list[Effect]:
        """Give what the other end lacks; ask for what is lacking here, once."""
        known, pardoned = set(held.convictions), set(held.pardons)
        effects: list[Effect] = [
            Send(peer, ConvictionGiven(conviction=one))
            for ref, one in self._convictions.items()
            if ref not in known
        ]
        effects += [
            Send(peer, PardonGiven(pardon=one))
            for name, one in self._pardons.items()
            if name not in pardoned
        ]
        is_lacking = known - self._convictions.keys() or pardoned - self._pardons.keys()
        if is_lacking and not held.is_answer:
            effects.append(Send(peer, self._held(is_answer=True)))
        return effects

    def _standing(self) -> list[ConvictionRef]:
        return [ref for ref in self._convictions if ref not in self._pardoned]

    def _take(self, conviction: Conviction, giver: PeerId | None) -> list[Effect]:
        ref = ref_of(conviction)
        of_device = sum(one.executor == ref.executor for one in self._standing())
        is_full = len(self._convictions) >= CONVICTIONS_MAX or of_device >= OF_DEVICE_MAX
        if ref in self._convictions or is_full:
            return []
        self._convictions[ref] = conviction
        told = [
            Send(peer, ConvictionGiven(conviction=conviction))
            for peer in self.linked()
            if peer != giver
        ]
        row = Row(CONVICTION_ROW, encode_body(ref), ConvictionRow(conviction=conviction))
        durable = SetTimer(ConvictionDurable(ref.executor), 0)
        fields = {"executor": ref.executor.hex(), "batch": ref.batch.hex()}
        return [Persist((row,), (durable, *told)), Trace("device.convicted", {**fields})]

    def _on_pardon_given(self, giver: PeerId, pardon: Signed[Pardon]) -> list[Effect]:
        is_good = pardon.body.mesh == self.mesh and self.may(pardon.signer, Role.ADMIN)
        is_full = len(self._pardons) >= CONVICTIONS_MAX
        if not is_good or is_full or pardon.signature in self._pardons:
            return []
        self._take_pardon(pardon)
        told = tuple(
            Send(peer, PardonGiven(pardon=pardon)) for peer in self.linked() if peer != giver
        )
        return [self._persist_pardon(pardon, told)]

    def _take_pardon(self, pardon: Signed[Pardon]) -> None:
        self._pardons[pardon.signature] = pardon
        self._pardoned |= set(pardon.body.convictions)

    def _persist_pardon(self, pardon: Signed[Pardon], then: tuple[Effect, ...]) -> Effect:
        return Persist((Row(PARDON_ROW, pardon.signature, PardonRow(pardon=pardon)),), then)


def ref_of(conviction: Conviction) -> ConvictionRef:
    """Return the name of a conviction that was checked, or made here."""
    result = open_result(conviction.wrong.result)
    return ConvictionRef(result.executor, result.batch, result.index)


def conviction_fault(
    conviction: Conviction, *, mesh: MeshId, may: Callable[[PeerId, Role], bool]
) -> str | None:
    """Return why a conviction proves nothing, None if it does."""
    contract = conviction.contract
    if contract.body.mesh != mesh:
        return "a contract of another mesh"
    if not may(contract.signer, Role.SUBMITTER):
        return "its submitter is not known as one"
    results: list[Result] = []
    for one in (conviction.wrong, *conviction.right):
        lease = one.lease
        if lease.body.batch != batch_id_of(contract) or not _is_given(lease, contract.body):
            return "a lease of nobody who may give one"
        found = results_of((one.result,), lease.body)
        if not found:
            return "a result of another lease"
        results.append(found[0][1])
    wrong, *right = results
    if any(not may(one.executor, Role.EXECUTOR) for one in results):
        return "an executor that is not known as one"
    fault = quorum_fault(right[0], right[1:], quorum=len(right))
    if fault is not None:
        return fault
    if (wrong.batch, wrong.index) != (right[0].batch, right[0].index):
        return "a result of another task"
    if any(wrong.executor == one.executor for one in right):
        return "a device is counted twice"
    is_comparable = likeness(wrong) is not None and likeness(right[0]) is not None
    if not is_comparable or wrong.engine_profile != right[0].engine_profile:
        return "results that are not compared"
    return "the results are equal" if likeness(wrong) == likeness(right[0]) else None


def _is_given(lease: Signed[Lease], contract: Contract) -> bool:
    """Say whether a steward of the contract itself gave a lease: who came later is not in it."""
    epoch = lease.body.epoch
    if epoch.move or epoch.rank >= len(contract.stewards):
        return False
    return contract.stewards[epoch.rank] == Steward(lease.signer, lease.body.store)
