"""The members of the mesh as this device knows them: a map of signed records that only grows newer.

A record is accepted when its owner's chain leads to the founder and its (incarnation, counter) is
higher than what is held; between two of the same version the one with the greater bytes stays. So
merging is commutative, associative and idempotent, and all devices that saw the same records agree.
At most `members_max` owners are held: devices needed now first, then linked ones, then those whose
ids are nearest to a point of this device's own, so that a full directory is a stable sample.

A device is known by one chain, the one that came with its newest presence or its own handshake: if
it was invited anew with other roles, they hold as soon as it says anything.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from p2p.observations import Observed
from p2p.record_reading import RecordBody, reading_of
from telemetry.sample import Sample
from wire.errors import MalformedFrame, NotAMember, Removed
from wire.ids import PeerId, peer_text
from wire.membership import Certificate, Genesis, Role, check_chain
from wire.messages import BUCKET_COUNT, HASH_BYTES, RecordVersion
from wire.records import KNOWN_KINDS, Presence, Record, RecordKind, Watch
from wire.signed import Signed

MEMBERS_MAX = 2_000

Chain = tuple[Signed[Certificate], ...]

_RANK_OTHER = 3  # after this device itself, those needed now, and those linked


class Merge(enum.Enum):
    """What became of a record that somebody gave us."""

    NEWER = enum.auto()
    KNOWN = enum.auto()
    UNKNOWN_KIND = enum.auto()
    UNKNOWN_OWNER = enum.auto()  # no chain: its presence has to come first
    NOT_A_MEMBER = enum.auto()
    REMOVED = enum.auto()  # nobody's fault: whoever passed it on may not have heard yet
    NO_ROOM = enum.auto()
    MALFORMED = enum.auto()


@dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """One device of the mesh. What it has not told is None or empty."""

    peer: PeerId
    certificate: Certificate
    chain: Chain
    distance: bytes  # of its id to this device's own point; the farthest is dropped first
    bucket: int
    records: dict[str, Signed[Record]] = field(default_factory=dict)
    presence: Presence | None = None
    capabilities: frozenset[str] = frozenset()
    watch: Watch | None = None
    observed: Observed | None = None
    sample: Sample | None = None
    sample_heard_us: int | None = None

    @property
    def name(self) -> str:
        """What people call it, the beginning of its id until it told its name."""
        return self.presence.name if self.presence is not None else peer_text(self.peer)[:12]

    @property
    def has_left(self) -> bool:
        """Whether its last word was goodbye."""
        return self.presence is not None and self.presence.has_left

    def may(self, role: Role) -> bool:
        """Say whether its certificate has the role."""
        return role in self.certificate.roles

    def take(self, signed: Signed[Record], body: RecordBody, *, now_us: int) -> None:
        """Hold a record, and what it says."""
        self.records[signed.body.kind] = signed
        match body:
            case Presence():
                self.presence = body
            case frozenset():
                self.capabilities = body
            case Watch():
                self.watch = body
            case Observed():
                self.observed = body if self.observed is None else self.observed.joined(body)
            case Sample():
                self.sample = body
                self.sample_heard_us = now_us


@dataclass(slots=True)
class _Bucket:
    """Some of the members, and one hash over all their records."""

    state_hash: int = 0
    members: list[Member] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Directory:
    """All members this device holds records of, itself included."""

    own: PeerId
    genesis: Signed[Genesis]
    is_linked: Callable[[PeerId], bool]
    is_removed: Callable[[PeerId], bool]
    is_void: Callable[[Chain], bool] = lambda _: False
    is_needed: Callable[[PeerId], bool] = lambda _: False
    is_dead: Callable[[PeerId], bool] = lambda _: False
    members_max: int = MEMBERS_MAX
    revision: int = 0  # rises with every record that is taken in or dropped
    roster_revision: int = 0  # rises with every member that comes or goes, and every presence
    watch_revision: int = 0  # rises with those too, and with every watch
    # Who names this device as an observer.
    subjects: dict[PeerId, Member] = field(default_factory=dict)
    _members: dict[PeerId, Member] = field(default_factory=dict)
    _by_distance: list[Member] = field(default_factory=list)
    _buckets: list[_Bucket] = field(
        default_factory=lambda: [_Bucket() for _ in range(BUCKET_COUNT)]
    )
    _bucket_hashes: bytes | None = None  # until a bucket changes

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, peer: PeerId) -> Member | None:
        """Return the member, None if it is not held."""
        return self._members.get(peer)

    def introduce(self, peer: PeerId, chain: Chain) -> Member | None:
        """Take in a member by its chain alone; None if there is no room for it.

        Raises NotAMember if the chain does not lead to the founder, or the device was removed.
        """
        if self.is_removed(peer):
            raise Removed("removed")
        member = self._members.get(peer)
        if member is not None and member.chain == chain:
            return member
        if member is None and not self.would_hold(peer):
            return None  # before any signature is verified
        certificate = check_chain(chain, genesis=self.genesis, subject=peer)
        if self.is_void(chain):
            raise Removed("an admin in its chain was removed")
        if member is not None:
            member.certificate, member.chain = certificate, chain
            return member
        if not self._make_room_for(peer):
            return None
        member = Member(
            peer=peer,
            certificate=certificate,
            chain=chain,
            distance=self._distance(peer),
            bucket=bucket_of(peer),
        )
        self._members[peer] = member
        insort(self._by_distance, member, key=_place)
        self._buckets[member.bucket].members.append(member)
        self._on_roster_changed()
        return member

    @property
    def is_full(self) -> bool:
        """Whether this is only a sample of the mesh."""
        return len(self._members) >= self.members_max

    def would_hold(self, peer: PeerId) -> bool:
        """Say whether there is, or would be made, room for a member's records."""
        if self.is_removed(peer):
            return False
        if peer in self._members or not self.is_full:
            return True
        return self._preference(peer) < self._preference(self._least_preferred().peer)

    def merge(self, signed: Signed[Record], chain: Chain | None, *, now_us: int) -> Merge:
        """Take in a record if it is newer than what is held. One that is refused changes nothing.

        `chain` is the owner's, None where it did not come along.
        """
        record = signed.body
        if not is_own_word(signed):
            return Merge.MALFORMED
        held = self.record(record.owner, record.kind)
        if held is not None and not _is_newer(signed, held):
            return Merge.KNOWN  # most are
        if record.kind not in KNOWN_KINDS:
            return Merge.UNKNOWN_KIND
        if self.is_removed(record.owner):
            return Merge.REMOVED
        try:
            reading = reading_of(signed)
            member = self._owner_of(record, chain)
        except MalformedFrame:
            return Merge.MALFORMED
        except Removed:
            return Merge.REMOVED
        except NotAMember:
            return Merge.NOT_A_MEMBER
        if member is None:
            return Merge.UNKNOWN_OWNER if chain is None else Merge.NO_ROOM
        member.take(signed, reading.body, now_us=now_us)
        if record.kind != RecordKind.TELEMETRY:
            bucket = self._buckets[member.bucket]
            if held is not None:
                bucket.state_hash ^= reading_of(held).fingerprint
            bucket.state_hash ^= reading.fingerprint
            self._bucket_hashes = None
        self.revision += 1
        if record.kind == RecordKind.PRESENCE:
            self._on_roster_changed()
        elif record.kind == RecordKind.WATCH:
            self._on_watch(member)
        return Merge.NEWER

    def forget(self, peer: PeerId) -> None:
        """Drop a member and its records."""
        member = self._members.pop(peer, None)
        if member is None:
            return
        self.subjects.pop(peer, None)
        del self._by_distance[bisect_left(self._by_distance, _place(member), key=_place)]
        bucket = self._buckets[member.bucket]
        bucket.members.remove(member)
        for kind, signed in member.records.items():
            if kind != RecordKind.TELEMETRY:
                bucket.state_hash ^= reading_of(signed).fingerprint
        self._bucket_hashes = None
        self.revision += 1
        self._on_roster_changed()

    def drop_removed(self) -> list[PeerId]:
        """Forget whoever is out of the mesh by now; return those that were held."""
        gone = [
            member.peer
            for member in self._members.values()
            if self.is_removed(member.peer) or self.is_void(member.chain)
        ]
        for peer in gone:
            self.forget(peer)
        self.revision += 1  # who was not held may be at work for us, too
        return gone

    def state_hash(self) -> bytes:
        """Return one hash over all records held that last: all but telemetry."""
        return blake3(self.bucket_hashes()).digest(HASH_BYTES)

    def bucket_hashes(self) -> bytes:
        """Return the hashes of all buckets, one after another.

        A bucket's hash is the exclusive or of the fingerprints of what lasts in it, so it costs
        nothing to keep. Members could craft a collision, which hides their own records only until
        they change.
        """
        if self._bucket_hashes is None:
            hashes = [one.state_hash.to_bytes(HASH_BYTES, "big") for one in self._buckets]
            self._bucket_hashes = b"".join(hashes)
        return self._bucket_hashes

    def versions(self, buckets: Iterable[int]) -> list[RecordVersion]:
        """Return the versions of all records in `buckets`."""
        return [
            version_of(signed.body)
            for bucket in dict.fromkeys(buckets)
            for member in self._buckets[bucket].members
            for signed in member.records.values()
        ]

    def record(self, owner: PeerId, kind: str) -> Signed[Record] | None:
        """Return the newest record of one kind of one device."""
        member = self._members.get(owner)
        return None if member is None else member.records.get(kind)

    def providers(self, capabilities: frozenset[str]) -> list[Member]:
        """Return the members that provide all `capabilities`, and have not left or died."""
        return [
            member
            for member in self._members.values()
            if capabilities <= member.capabilities and self.is_there(member)
        ]

    def is_there(self, member: Member) -> bool:
        """Say whether a member has not left, died or been removed."""
        return not (member.has_left or self.is_dead(member.peer) or self.is_removed(member.peer))

    def _owner_of(self, record: Record, chain: Chain | None) -> Member | None:
        """Return the member whose record this is, introducing it if it is new. Raises NotAMember.

        Only presence may change the chain of a member: then all who hold that presence agree.
        """
        member = self._members.get(record.owner)
        if chain is None or (member is not None and record.kind != RecordKind.PRESENCE):
            return member
        return self.introduce(record.owner, chain)

    def _on_watch(self, member: Member) -> None:
        self.watch_revision += 1
        if member.watch is not None and self.own in member.watch.observers:
            self.subjects[member.peer] = member
        else:
            self.subjects.pop(member.peer, None)

    def _on_roster_changed(self) -> None:
        self.roster_revision += 1
        self.watch_revision += 1

    def _make_room_for(self, peer: PeerId) -> bool:
        if len(self._members) < self.members_max:
            return True
        least = self._least_preferred().peer
        if self._preference(peer) >= self._preference(least):
            return False
        self.forget(least)
        return True

    def _least_preferred(self) -> Member:
        """Return whom to drop first: the farthest, unless it is linked or needed."""
        # Of a full directory's far end nearly all are linked, so that is asked first.
        for member in reversed(self._by_distance):
            if not self.is_linked(member.peer) and self._rank(member.peer) == _RANK_OTHER:
                return member
        return max(reversed(self._by_distance), key=lambda member: self._rank(member.peer))

    def _preference(self, peer: PeerId) -> tuple[int, bytes]:
        return self._rank(peer), self._distance(peer)

    def _rank(self, peer: PeerId) -> int:
        if peer == self.own:
            return 0
        if self.is_needed(peer):
            return 1
        return 2 if self.is_linked(peer) else _RANK_OTHER

    def _distance(self, peer: PeerId) -> bytes:
        member = self._members.get(peer)
        if member is not None:
            return member.distance
        return blake3(self.own + peer).digest(HASH_BYTES)


def is_own_word(signed: Signed[Record]) -> bool:
    """Say whether the owner of a record signed it: nobody speaks for another."""
    return signed.signer == signed.body.owner


def bucket_of(owner: PeerId) -> int:
    """Return the bucket of a device's records."""
    return blake3(owner).digest(1)[0] % BUCKET_COUNT


def version_of(record: Record) -> RecordVersion:
    """Return a record's version without its body."""
    return RecordVersion(record.owner, record.kind, record.incarnation, record.counter)


def _is_newer(signed: Signed[Record], held: Signed[Record]) -> bool:
    version, held_version = signed.body.version, held.body.version
    return version > held_version or (version == held_version and signed.received > held.received)


def _place(member: Member) -> tuple[bytes, PeerId]:
    return member.distance, member.peer
