"""The network key and how it is rolled: to all members, and to nobody whom they removed.

A new key travels from member to member over links, which are encrypted and admitted. A device gives
it only to one that says it holds the same removals: so whoever has a key also has heard of all
removals that the admin had heard who rolled it, and gives it to none of those. For a week of its
running time a device accepts the key of before as well, so that those who were away can come back;
who was away for longer comes back with a new invitation, which brings the key.

Of two rolls the higher (generation, digest) stays, in whatever order they come and whoever of the
admins signed them, also if he was removed since: else the mesh would end up with two keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from p2p.directory import Chain
from p2p.removals import Removals
from wire.answers import RefusalCode, Refused, RekeyView
from wire.effects import Answer, Effect, Persist, Row, Send, SetTimer, Trace, UseNetworkKeys
from wire.errors import NotAMember
from wire.ids import Digest, PeerId, peer_text
from wire.membership import (
    Genesis,
    NetworkKey,
    NetworkKeyRoll,
    Role,
    check_chain,
    mesh_id_of,
    network_key_digest,
)
from wire.messages import NetworkKeyGiven, NetworkKeyHeld
from wire.signed import Signed, Signer, sign

NETWORK_KEY_BYTES = 32
ACCEPTED_US = 7 * 86_400_000_000
PAST_KEYS_MAX = 64  # an old invitation must not bring an old key back
AGES_EVERY_US = 3_600_000_000
# A rogue admin must not use up all generations at once.
GENERATIONS_SKIPPED_MAX = 1_000

NETWORK_KEY_ROW = "network_key"
NETWORK_KEY_KEY = b"own"


class NetworkKeyRow(Struct, frozen=True, kw_only=True):
    """The network key, who rolled it, and the one of before with the time it has left."""

    key: NetworkKey
    roll: Signed[NetworkKeyRoll] | None = None
    previous: NetworkKey | None = None
    previous_left_us: int = 0
    past: Annotated[tuple[Digest, ...], Meta(max_length=PAST_KEYS_MAX)] = ()  # the oldest first

    def __repr__(self) -> str:
        """Name the generation only: the keys are secret."""
        return f"NetworkKeyRow({0 if self.roll is None else self.roll.body.generation})"

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys that are accepted, the one to dial with first."""
        return (self.key,) if self.previous is None else (self.key, self.previous)

    def was_held(self, key: bytes) -> bool:
        """Say whether a key is held, or was."""
        return key in self.keys or network_key_digest(key) in self.past

    def followed_by(self, key: NetworkKey, roll: Signed[NetworkKeyRoll] | None) -> NetworkKeyRow:
        """Return the row of a device that had this one and takes `key`."""
        if key == self.key:  # it came with an invitation, before its roll
            return replace(self, roll=roll)
        past = (*self.past, network_key_digest(self.key))[-PAST_KEYS_MAX:]
        return NetworkKeyRow(
            key=key, roll=roll, previous=self.key, previous_left_us=ACCEPTED_US, past=past
        )


@dataclass(frozen=True, slots=True)
class PreviousKeyAges:
    """Timer: the key of before has less time left."""


@dataclass(slots=True, kw_only=True)
class NetworkKeys:
    """What this device knows of the network key. Keys are drawn from `rng`: unpredictable."""

    signer: Signer
    genesis: Signed[Genesis]
    chain: Chain
    removals: Removals
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    rng: Random
    row: NetworkKeyRow
    _aged_us: int = 0

    @property
    def key(self) -> NetworkKey:
        """The key that newcomers get."""
        return self.row.key

    @property
    def generation(self) -> int:
        """How often the key was rolled, as far as this device knows."""
        return 0 if self.row.roll is None else self.row.roll.body.generation

    def on_restarted(self, rows: list[NetworkKeyRow], *, now_us: int) -> list[Effect]:
        """Take up what is stored; the time that passed since does not count."""
        if rows:
            self.row = rows[-1]
        return [UseNetworkKeys(self.row.keys), *self._age_later(now_us=now_us)]

    # --- rolling --------------------------------------------------------------------------------

    def on_rekey(self, request: int, *, now_us: int) -> list[Effect]:
        """Roll the key; the person hears of it when it is durable."""
        if Role.ADMIN not in self.chain[0].body.roles:
            return [_refused(request, "this device is no admin of the mesh", "ask an admin")]
        if self.removals.is_removed(self.signer.peer) or self.removals.is_void(self.chain):
            return [_refused(request, "this device is out of the mesh itself", "ask an admin")]
        key = self.rng.randbytes(NETWORK_KEY_BYTES)
        roll = NetworkKeyRoll(
            mesh=mesh_id_of(self.genesis),
            generation=self.generation + 1,
            digest=network_key_digest(key),
            chain=self.chain,
        )
        answer = RekeyView(generation=roll.generation, accepted_for_us=ACCEPTED_US)
        return self._take(
            self.row.followed_by(key, sign(roll, self.signer)),
            now_us=now_us,
            then=(Answer(request, answer),),
        )

    def on_previous_key_ages(self, *, now_us: int) -> list[Effect]:
        """Count down the time in which the key of before is accepted."""
        row = self.row
        if row.previous is None:
            return []
        left_us = row.previous_left_us - (now_us - self._aged_us)
        previous = row.previous if left_us > 0 else None
        self.row = replace(row, previous=previous, previous_left_us=max(0, left_us))
        effects: list[Effect] = [self._persisted(())]
        if previous is None:
            effects += [UseNetworkKeys(self.row.keys), Trace("network_key.expired", {})]
        return effects + self._age_later(now_us=now_us)

    # --- travelling -----------------------------------------------------------------------------

    def on_link_up(self, peer: PeerId) -> list[Effect]:
        """Compare with a new neighbour; if only it has a rolled key, it says so itself."""
        return [Send(peer, self._held())] if self.row.roll is not None else []

    def on_exchange_due(self) -> list[Effect]:
        """Compare with one random link."""
        if self.row.roll is None or not self.links:
            return []
        return [Send(self.rng.choice(sorted(self.links)), self._held())]

    def on_held(self, peer: PeerId, held: NetworkKeyHeld) -> list[Effect]:
        """Ask for a later key by saying which is here; give a later one to whom it is safe with."""
        theirs = (held.generation, held.digest) if held.generation else (0, b"")
        if theirs > self._version:
            return [Send(peer, self._held())]
        if theirs == self._version or self.row.roll is None:
            return []
        if held.removals != self.removals.state_hash:
            return []  # they are exchanged first, then it asks again
        return [Send(peer, NetworkKeyGiven(roll=self.row.roll, key=self.row.key))]

    def on_given(self, peer: PeerId, given: NetworkKeyGiven, *, now_us: int) -> list[Effect]:
        """Take a later key, if an admin rolled it."""
        reason = self._objection(given)
        if reason is not None:
            return [Trace("network_key.refused", {"peer_id": peer_text(peer), "reason": reason})]
        roll = given.roll.body
        if (roll.generation, roll.digest) <= self._version:
            return []
        row = self.row.followed_by(given.key, given.roll)
        return self._take(row, now_us=now_us, origin=peer)

    def _objection(self, given: NetworkKeyGiven) -> str | None:
        roll = given.roll.body
        if roll.mesh != mesh_id_of(self.genesis):
            return "of another mesh"
        if network_key_digest(given.key) != roll.digest:
            return "not the key of its roll"
        if roll.generation > self.generation + GENERATIONS_SKIPPED_MAX:
            return f"generation {roll.generation} after {self.generation}"
        try:
            admin = check_chain(roll.chain, genesis=self.genesis, subject=given.roll.signer)
        except NotAMember as error:
            return str(error)
        if Role.ADMIN not in admin.roles:
            return "rolled by no admin"
        # Whether the admin was removed since is not asked: others have the key already.
        return None

    def _take(
        self,
        row: NetworkKeyRow,
        *,
        now_us: int,
        origin: PeerId | None = None,
        then: tuple[Effect, ...] = (),
    ) -> list[Effect]:
        """Use a key, keep it, and let all links know which it is."""
        self.row = row
        others = [peer for peer in sorted(self.links) if peer != origin]
        return [
            self._persisted(then),
            UseNetworkKeys(row.keys),
            *(Send(peer, self._held()) for peer in others),
            *self._age_later(now_us=now_us),
            Trace("network_key.rolled", {"generation": self.generation}),
        ]

    @property
    def _version(self) -> tuple[int, bytes]:
        if self.row.roll is None:
            return 0, b""
        return self.row.roll.body.generation, self.row.roll.body.digest

    def _held(self) -> NetworkKeyHeld:
        return NetworkKeyHeld(
            generation=self.generation,
            digest=network_key_digest(self.row.key),
            removals=self.removals.state_hash,
        )

    def _persisted(self, then: tuple[Effect, ...]) -> Effect:
        return Persist((Row(NETWORK_KEY_ROW, NETWORK_KEY_KEY, self.row),), then)

    def _age_later(self, *, now_us: int) -> list[Effect]:
        self._aged_us = now_us
        if self.row.previous is None:
            return []
        return [SetTimer(PreviousKeyAges(), min(AGES_EVERY_US, self.row.previous_left_us))]


def _refused(request: int, message: str, hint: str) -> Answer:
    return Answer(request, Refused(code=RefusalCode.REFUSED, message=message, hint=hint))
