"""The members of the mesh as this device knows them: a map of signed records that only grows newer.

A record is accepted when its owner's chain leads to the founder and its (incarnation, counter) is
higher than what is held; between two of the same version the one with the greater bytes stays. So
merging is commutative, associative and idempotent, and all devices that saw the same records agree.
At most `members_max` owners are held: linked devices first, then those whose ids are nearest to a
point of this device's own, so that a full directory is a stable sample.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from telemetry.sample import Sample, decode_sample
from wire.errors import MalformedFrame, NotAMember
from wire.ids import PeerId
from wire.membership import Certificate, Genesis, Role, check_chain
from wire.messages import BUCKET_COUNT, HASH_BYTES, RecordVersion
from wire.records import (
    KNOWN_KINDS,
    Presence,
    Record,
    RecordKind,
    decode_capabilities,
    decode_presence,
)
from wire.signed import Signed

MEMBERS_MAX = 2_000

Chain = tuple[Signed[Certificate], ...]


class Merge(enum.Enum):
    """What became of a record that somebody gave us."""

    NEWER = enum.auto()
    KNOWN = enum.auto()
    UNKNOWN_KIND = enum.auto()
    UNKNOWN_OWNER = enum.auto()  # no chain: its presence has to come first
    NOT_A_MEMBER = enum.auto()
    NO_ROOM = enum.auto()
    MALFORMED = enum.auto()


@dataclass(slots=True, kw_only=True)
class Member:
    """One device of the mesh. What it has not told is None or empty."""

    peer: PeerId
    certificate: Certificate
    chain: Chain
    records: dict[str, Signed[Record]] = field(default_factory=dict)
    presence: Presence | None = None
    capabilities: frozenset[str] = frozenset()
    sample: Sample | None = None
    sample_heard_us: int | None = None
    heard_us: int = 0

    @property
    def name(self) -> str:
        """What people call it, the beginning of its id until it told its name."""
        return self.presence.name if self.presence is not None else self.peer.hex()[:12]

    @property
    def has_left(self) -> bool:
        """Whether its last word was goodbye."""
        return self.presence is not None and self.presence.has_left

    def may(self, role: Role) -> bool:
        """Say whether its certificate has the role."""
        return role in self.certificate.roles


@dataclass(slots=True, kw_only=True)
class Directory:
    """All members this device holds records of, itself included."""

    own: PeerId
    genesis: Signed[Genesis]
    is_linked: Callable[[PeerId], bool]
    is_removed: Callable[[PeerId], bool]
    members_max: int = MEMBERS_MAX
    revision: int = 0  # rises with every record that is taken in
    _members: dict[PeerId, Member] = field(default_factory=dict)
    _buckets: list[int] = field(default_factory=lambda: [0] * BUCKET_COUNT)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, peer: PeerId) -> Member | None:
        """Return the member, None if it is not held."""
        return self._members.get(peer)

    def introduce(self, peer: PeerId, chain: Chain) -> Member | None:
        """Take in a member by its chain alone; None if there is no room for it.

        Raises NotAMember if the chain does not lead to the founder.
        """
        member = self._members.get(peer)
        if member is not None:
            return member
        certificate = check_chain(chain, genesis=self.genesis, subject=peer)
        if self.is_removed(peer):
            raise NotAMember("removed")
        if not self._make_room_for(peer):
            return None
        member = Member(peer=peer, certificate=certificate, chain=chain)
        self._members[peer] = member
        return member

    def would_hold(self, peer: PeerId) -> bool:
        """Say whether there is, or would be made, room for a member's records."""
        if peer in self._members or len(self._members) < self.members_max:
            return True
        return self._preference(peer) < max(self._preference(held) for held in self._members)

    def merge(self, signed: Signed[Record], chain: Chain | None, *, now_us: int) -> Merge:
        """Take in a record if it is newer than what is held."""
        record = signed.body
        if signed.signer != record.owner:
            return Merge.MALFORMED
        if record.kind not in KNOWN_KINDS:
            return Merge.UNKNOWN_KIND
        member = self._members.get(record.owner)
        held = None if member is None else member.records.get(record.kind)
        if held is not None and _order(held) >= _order(signed):
            return Merge.KNOWN
        if member is None:
            if chain is None:
                return Merge.UNKNOWN_OWNER
            try:
                member = self.introduce(record.owner, chain)
            except NotAMember:
                return Merge.NOT_A_MEMBER
            if member is None:
                return Merge.NO_ROOM
        try:
            _apply(member, record, now_us=now_us)
        except MalformedFrame:
            return Merge.MALFORMED
        member.records[record.kind] = signed
        member.heard_us = now_us
        bucket = bucket_of(record.owner)
        if held is not None:
            self._buckets[bucket] ^= _fingerprint(held.body)
        self._buckets[bucket] ^= _fingerprint(record)
        self.revision += 1
        return Merge.NEWER

    def forget(self, peer: PeerId) -> None:
        """Drop a member and its records."""
        member = self._members.pop(peer, None)
        if member is None:
            return
        for signed in member.records.values():
            self._buckets[bucket_of(peer)] ^= _fingerprint(signed.body)
        self.revision += 1

    def state_hash(self) -> bytes:
        """Return one hash over all records held."""
        return blake3(self.bucket_hashes()).digest(HASH_BYTES)

    def bucket_hashes(self) -> bytes:
        """Return the hashes of all buckets, one after another.

        A bucket's hash is the exclusive or of its records' fingerprints, so it costs nothing to
        keep. Members could craft a collision, which hides their own records only until they change.
        """
        return b"".join(bucket.to_bytes(HASH_BYTES, "big") for bucket in self._buckets)

    def versions(self, buckets: Iterable[int]) -> list[RecordVersion]:
        """Return the versions of all records in `buckets`."""
        wanted = frozenset(buckets)
        return [
            version_of(signed.body)
            for member in self._members.values()
            if bucket_of(member.peer) in wanted
            for signed in member.records.values()
        ]

    def record(self, owner: PeerId, kind: str) -> Signed[Record] | None:
        """Return the newest record of one kind of one device."""
        member = self._members.get(owner)
        return None if member is None else member.records.get(kind)

    def providers(self, capabilities: frozenset[str]) -> list[Member]:
        """Return the members that provide all `capabilities` and have not left."""
        return [
            member
            for member in self._members.values()
            if capabilities <= member.capabilities and not member.has_left
        ]

    def _make_room_for(self, peer: PeerId) -> bool:
        if len(self._members) < self.members_max:
            return True
        least = max(self._members, key=self._preference)
        if self._preference(peer) >= self._preference(least):
            return False
        self.forget(least)
        return True

    def _preference(self, peer: PeerId) -> tuple[int, bytes]:
        if peer == self.own:
            return 0, b""
        return (1 if self.is_linked(peer) else 2), blake3(self.own + peer).digest(HASH_BYTES)


def bucket_of(owner: PeerId) -> int:
    """Return the bucket of a device's records."""
    return blake3(owner).digest(1)[0] % BUCKET_COUNT


def version_of(record: Record) -> RecordVersion:
    """Return a record's version without its body."""
    return RecordVersion(record.owner, record.kind, record.incarnation, record.counter)


def _order(signed: Signed[Record]) -> tuple[tuple[int, int], bytes]:
    return signed.body.version, signed.received


def _fingerprint(record: Record) -> int:
    identity = b"%s\0%s\0%d\0%d" % (
        record.owner,
        record.kind.encode(),
        record.incarnation,
        record.counter,
    )
    return int.from_bytes(blake3(identity).digest(HASH_BYTES), "big")


def _apply(member: Member, record: Record, *, now_us: int) -> None:
    match record.kind:
        case RecordKind.PRESENCE:
            member.presence = decode_presence(record.body)
        case RecordKind.CAPABILITIES:
            member.capabilities = frozenset(decode_capabilities(record.body).keys)
        case RecordKind.TELEMETRY:
            member.sample = decode_sample(record.body)
            member.sample_heard_us = now_us
