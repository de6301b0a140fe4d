"""Who is out of the mesh: a set of signed removals that only grows, and what follows from it.

What follows is a function of the set alone, so all devices that heard the same removals agree,
in whatever order they came. Removals are judged by rank: the recovery key's first, then those of
admins by the length of their chains, the founder's before all others.

- A removal counts unless somebody of a *higher* rank put its signer, or an issuer in its signer's
  chain, out. So two admins of one rank can put each other out, and whoever has the shorter chain
  undoes what a longer one did to it: only the recovery key puts out an equal or shorter chain for
  good.
- Who is the subject of a removal that counts is out, whatever papers it has.
- All that it signed as an admin is void, before or after, except what the removals of the highest
  rank among those against it keep by name. A device whose chain has a void certificate is out
  until another admin lets it in anew.

Nothing is evicted. Past `REMOVALS_MAX`, or `LONG_MAX` of those that name many papers, which only
admins who sign without end can reach, those last in the order of (rank, id) are not taken in: that
is the same on every device, and the recovery key always finds room. Both are bounds of a count,
because the first so many of a union are the first so many of the firsts of its parts; the first so
many bytes are not.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby

from blake3 import blake3
from msgspec import Struct

from wire.effects import Effect, Persist, Row
from wire.errors import NotAMember
from wire.ids import MeshId, PeerId, mesh_text, peer_text
from wire.membership import (
    Certificate,
    Genesis,
    PaperId,
    Removal,
    Role,
    check_chain,
    mesh_id_of,
    paper_id,
)
from wire.messages import HASH_BYTES
from wire.signed import Signed

REMOVALS_MAX = 10_000
LONG_BYTES = 4 * 1024  # so 10,000 others take 40 MiB at most
LONG_MAX = 256  # of up to 75 KiB
RECOVERY_RANK = 0  # an admin's is the length of its chain, 1 to 8: lower outranks higher

REMOVAL_ROW = "removal"

Chain = tuple[Signed[Certificate], ...]


class RemovalRow(Struct, frozen=True, kw_only=True):
    """A removal as it is kept, under its id."""

    removal: Signed[Removal]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRemoval:
    """A removal whose signer had the right to sign it, and what it leans on."""

    signed: Signed[Removal]
    id: PaperId
    rank: int
    issuers: tuple[tuple[PeerId, PaperId], ...]  # who issued which certificate of its chain

    @property
    def subject(self) -> PeerId:
        """Who is to be out."""
        return self.signed.body.subject

    @property
    def place(self) -> tuple[int, PaperId]:
        """Where it stands in the order in which removals are judged and kept."""
        return self.rank, self.id

    @property
    def is_long(self) -> bool:
        """Whether it names so many papers that few of its kind can be held."""
        return len(self.signed.received) > LONG_BYTES


@dataclass(frozen=True, slots=True)
class Sentence:
    """Why a device is out: the removals of the highest rank against it, and what they keep."""

    rank: int
    removals: tuple[HeldRemoval, ...]
    kept: frozenset[PaperId]

    @property
    def name(self) -> str:
        """What people called the device, "" if nobody said."""
        return max(held.signed.body.name for held in self.removals)

    @property
    def signers(self) -> list[PeerId]:
        """Who put it out."""
        return sorted({held.signed.signer for held in self.removals})


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of removals that somebody gave us."""

    news: tuple[Signed[Removal], ...] = ()
    refused: tuple[str, ...] = ()  # why, of those that nobody honest would have passed on
    effects: tuple[Effect, ...] = ()


@dataclass(slots=True, kw_only=True)
class Removals:
    """All removals this device has heard."""

    genesis: Signed[Genesis]
    removals_max: int = REMOVALS_MAX
    long_max: int = LONG_MAX
    revision: int = 0  # rises with every change of the set
    _by_id: dict[PaperId, HeldRemoval] = field(default_factory=dict)
    _ids: list[PaperId] = field(default_factory=list)  # sorted
    _places: list[tuple[int, PaperId]] = field(default_factory=list)  # all but the long; sorted
    _long_places: list[tuple[int, PaperId]] = field(default_factory=list)  # of those; sorted
    _out: dict[PeerId, Sentence] = field(default_factory=dict)
    _hash: bytes = b""

    def __post_init__(self) -> None:
        """Hash the empty set."""
        self._judge()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, removal: PaperId) -> bool:
        return removal in self._by_id

    # --- the set ------------------------------------------------------------------------------

    def on_restarted(self, rows: Iterable[RemovalRow]) -> list[Effect]:
        """Take up what is stored."""
        return list(self.add([row.removal for row in rows]).effects)

    def add(self, removals: Iterable[Signed[Removal]]) -> Added:
        """Take in removals that are not held yet, as far as their signers had the right to sign."""
        entering: dict[PaperId, HeldRemoval] = {}
        refused: list[str] = []
        for signed in removals:
            removal = paper_id(signed)
            if removal in self._by_id or removal in entering:
                continue
            try:
                entering[removal] = held_removal(signed, self.genesis)
            except NotAMember as error:
                refused.append(str(error))
        if not entering:
            return Added(refused=tuple(refused))
        left_out = self._enter(entering)
        news = [held for removal, held in entering.items() if removal in self._by_id]
        if not news:
            return Added(refused=tuple(refused))
        self._judge()
        rows = [
            *(Row(REMOVAL_ROW, held.id, RemovalRow(removal=held.signed)) for held in news),
            *(Row(REMOVAL_ROW, removal, None) for removal in left_out if removal not in entering),
        ]
        return Added(
            news=tuple(held.signed for held in news),
            refused=tuple(refused),
            effects=(Persist(tuple(rows)),),
        )

    def _enter(self, entering: dict[PaperId, HeldRemoval]) -> list[PaperId]:
        """Take all in, then leave out the last until the bounds are kept; return those."""
        for held in entering.values():
            self._by_id[held.id] = held
            insort(self._ids, held.id)
            insort(self._places_like(held), held.place)
        left_out = []
        for places, most in (
            (self._places, self.removals_max),
            (self._long_places, self.long_max),
        ):
            while len(places) > most:
                _, removal = places.pop()
                del self._by_id[removal]
                del self._ids[bisect_right(self._ids, removal) - 1]
                left_out.append(removal)
        return left_out

    def _places_like(self, held: HeldRemoval) -> list[tuple[int, PaperId]]:
        return self._long_places if held.is_long else self._places

    @property
    def is_full(self) -> bool:
        """Say whether no admin may add another."""
        return len(self) >= self.removals_max or len(self._long_places) >= self.long_max

    @property
    def state_hash(self) -> bytes:
        """Return one hash over the set."""
        return self._hash

    def get(self, removal: PaperId) -> Signed[Removal] | None:
        """Return a removal, None if it is not held."""
        held = self._by_id.get(removal)
        return None if held is None else held.signed

    def all(self) -> tuple[Signed[Removal], ...]:
        """Return all removals, in the order of their ids."""
        return tuple(self._by_id[removal].signed for removal in self._ids)

    def ids_after(self, after: bytes) -> Iterator[PaperId]:
        """Yield the ids that are greater than `after`, in order."""
        for place in range(bisect_right(self._ids, after), len(self._ids)):
            yield self._ids[place]

    # --- what follows from it -----------------------------------------------------------------

    def is_removed(self, peer: PeerId) -> bool:
        """Say whether a device is out, whatever papers it has."""
        return peer in self._out

    def sentence(self, peer: PeerId) -> Sentence | None:
        """Return why a device is out, None if it was not removed."""
        return self._out.get(peer)

    def sentences(self) -> dict[PeerId, Sentence]:
        """Return all devices that are out, and why."""
        return self._out

    def voided_by(self, chain: Chain) -> PeerId | None:
        """Return the removed admin whose word a chain leans on; None if the chain stands."""
        return next(
            (who for who, paper in _issuers(chain, self._out) if self._voids(who, paper)), None
        )

    def is_void(self, chain: Chain) -> bool:
        """Say whether a certificate in the chain is void."""
        return bool(self._out) and self.voided_by(chain) is not None

    def removals_by(self, signer: PeerId) -> list[PaperId]:
        """Return the removals that a device signed and that count."""
        return [
            held.id
            for held in self._by_id.values()
            if held.signed.signer == signer and self._counts(held, self._out)
        ]

    def _judge(self) -> None:
        """Work out anew who is out: rank by rank, each by what higher ranks decided."""
        out: dict[PeerId, Sentence] = {}
        in_order = merge(self._places, self._long_places)
        for rank, places in groupby(in_order, key=lambda place: place[0]):
            counting: dict[PeerId, list[HeldRemoval]] = {}
            for _, removal in places:
                held = self._by_id[removal]
                if self._counts(held, out) and held.subject not in out:
                    counting.setdefault(held.subject, []).append(held)
            out |= {subject: _sentence(rank, removals) for subject, removals in counting.items()}
        self._out = out
        self._hash = blake3(b"".join(self._ids)).digest(HASH_BYTES)
        self.revision += 1

    def _counts(self, held: HeldRemoval, out: dict[PeerId, Sentence]) -> bool:
        """Say whether nobody of a higher rank made a removal void."""
        papers = ((held.signed.signer, held.id), *held.issuers)
        return not any(
            (sentence := out.get(who)) is not None
            and sentence.rank < held.rank
            and paper not in sentence.kept
            for who, paper in papers
        )

    def _voids(self, issuer: PeerId, paper: PaperId) -> bool:
        sentence = self._out.get(issuer)
        return sentence is not None and paper not in sentence.kept


def held_removal(signed: Signed[Removal], genesis: Signed[Genesis]) -> HeldRemoval:
    """Return a removal whose signature was verified, if its signer may remove anybody.

    Raises NotAMember.
    """
    removal = signed.body
    if removal.mesh != mesh_id_of(genesis):
        raise NotAMember(f"removal of mesh {mesh_text(MeshId(removal.mesh))}, this is another")
    if signed.signer == removal.subject:
        raise NotAMember(f"{peer_text(signed.signer)} removes itself")
    if signed.signer == genesis.body.recovery_key:
        return HeldRemoval(signed=signed, id=paper_id(signed), rank=RECOVERY_RANK, issuers=())
    certificate = check_chain(removal.chain, genesis=genesis, subject=signed.signer)
    if Role.ADMIN not in certificate.roles:
        raise NotAMember(f"{peer_text(signed.signer)} removes a device and is no admin")
    return HeldRemoval(
        signed=signed,
        id=paper_id(signed),
        rank=len(removal.chain),
        issuers=tuple(
            (link.signer, paper_id(link)) for link in removal.chain[:-1]
        ),  # the last is the founder's word about itself
    )


def _issuers(chain: Chain, asked_for: dict[PeerId, Sentence]) -> Iterator[tuple[PeerId, PaperId]]:
    """Yield who issued which certificate of a chain, as far as it is about those asked for."""
    for link in chain[:-1]:
        if link.signer in asked_for:
            yield link.signer, paper_id(link)


def _sentence(rank: int, removals: list[HeldRemoval]) -> Sentence:
    kept = frozenset[PaperId]().union(*(held.signed.body.kept for held in removals))
    return Sentence(rank=rank, removals=tuple(removals), kept=kept)
