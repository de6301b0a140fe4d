"""Who provides these capabilities? The directory first, then the DHT, checked at the source.

A provider record proves nothing: whoever it names is linked to, and its own signed capabilities are
held against the whole request. So a poisoned record can only waste time: whoever does not hold what
was said of it, or cannot be reached, makes room for the next that was named. The DHT answers as
soon as those it asked agree. They may all have lied: if nobody whom they named proves true, or not
in two seconds, it is asked to be thorough. Once somebody did, those who need longer are not waited
for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from p2p.directory import Directory, Member
from p2p.overlay import Overlay
from wire.effects import Effect, FindProviders, Provide, Send, SetTimer, Withdraw
from wire.events import Provider, ProvidersFound
from wire.ids import PeerId
from wire.messages import RecordsGiven, RecordsWanted, RecordVersion
from wire.records import RecordKind

LOOKUPS_MAX = 64
PROVIDERS_NAMED_MAX = 64
PROVIDERS_ASKED_MAX = 4  # at a time, and as many more of the thorough answer
LOOKUP_US_MAX = 10_000_000
DOUBTED_AFTER_US = 2_000_000
PROVIDE_REVIEW_EVERY_US = 60_000_000
FIRST_REVIEW_US = (3_000_000, 6_000_000)
COMMON_SHARE = 10  # a key that more than a tenth of the directory holds stays in gossip

Continue = Callable[[str, list[Member]], list[Effect]]


@dataclass(frozen=True, slots=True)
class LookupEnds:
    """Timer: answer with what was found so far."""

    number: int


@dataclass(frozen=True, slots=True)
class LookupDoubted:
    """Timer: not all who were named have answered so far."""

    number: int


@dataclass(frozen=True, slots=True)
class ProvideReviewDue:
    """Timer: see which capabilities are rare enough for the DHT."""


@dataclass(frozen=True, slots=True)
class LookupToken:
    """Names a lookup to the host."""

    number: int
    is_thorough: bool = False


@dataclass(slots=True, kw_only=True)
class _Lookup:
    capabilities: tuple[str, ...]
    via: str
    then: Continue
    key: str  # what the DHT is asked for
    is_named: bool = False  # the DHT has answered
    is_thorough: bool = False  # it was asked again, to be thorough
    named: set[PeerId] = field(default_factory=set)
    waiting: deque[Provider] = field(default_factory=deque)
    tried: set[PeerId] = field(default_factory=set)
    proven: dict[PeerId, Member] = field(default_factory=dict)  # a full directory drops members
    awaited: set[PeerId] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class Lookups:
    """The lookups under way, LOOKUPS_MAX at most: one more is answered from the directory alone."""

    directory: Directory
    overlay: Overlay
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    _lookups: dict[int, _Lookup] = field(default_factory=dict)
    _count: int = 0

    def find(self, capabilities: tuple[str, ...], *, via: str, then: Continue) -> list[Effect]:
        """Find members that provide all `capabilities`; `then` gets the source and the members.

        `via` is `local`, `dht`, or `any`: local, and the DHT if that finds nothing.
        """
        local = self._providers(capabilities)
        wants_dht = via == "dht" or (via == "any" and not local)
        if not wants_dht or len(self._lookups) >= LOOKUPS_MAX:
            return then("local", local)
        self._count += 1
        key = self._rarest(capabilities)
        self._lookups[self._count] = _Lookup(capabilities=capabilities, via=via, then=then, key=key)
        return [
            FindProviders(key, LookupToken(self._count)),
            SetTimer(LookupEnds(self._count), LOOKUP_US_MAX),
        ]

    def on_providers_found(self, found: ProvidersFound, *, now_us: int) -> list[Effect]:
        """Ask those who were named for their own word."""
        token = found.token if isinstance(found.token, LookupToken) else LookupToken(0)
        number, lookup = token.number, self._lookups.get(token.number)
        if lookup is None or lookup.is_named or lookup.is_thorough != token.is_thorough:
            return []
        lookup.is_named = True
        providers = found.providers[:PROVIDERS_NAMED_MAX]
        lookup.named |= {provider.peer for provider in providers}
        # The thorough answer knows better who comes first of those who still wait.
        both = {provider.peer: provider for provider in (*providers, *lookup.waiting)}
        lookup.waiting = deque(one for one in both.values() if one.peer not in lookup.tried)
        effects = self._go_on(number, lookup, now_us=now_us)
        if number in self._lookups and not lookup.is_thorough:
            effects.append(SetTimer(LookupDoubted(number), DOUBTED_AFTER_US))
        return effects

    def on_doubted(self, doubted: LookupDoubted) -> list[Effect]:
        """Answer with who proved true; if nobody did, ask again, and go on with those named."""
        lookup = self._lookups.get(doubted.number)
        if lookup is None or lookup.is_thorough:
            return []
        if self._found(lookup):
            return self._finish(doubted.number, lookup)
        return self._ask_thoroughly(doubted.number, lookup)

    def on_link_up(self, peer: PeerId) -> list[Effect]:
        """Somebody a lookup waits for is linked now: ask it."""
        if any(peer in lookup.awaited for lookup in self._lookups.values()):
            return [_ask_capabilities(peer)]
        return []

    def on_unreachable(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """A dial failed, or a link ended: wait for this one no longer."""
        return [] if peer in self.links else self._await_no_more(peer, now_us=now_us)

    def on_records_given(self, peer: PeerId, given: RecordsGiven, *, now_us: int) -> list[Effect]:
        """A device gave records, which are merged: if its own capabilities are there, it answered.

        Also if they are those that were known: what the DHT said of it was then wrong.
        """
        kinds = {signed.body.kind for signed in given.records if signed.body.owner == peer}
        if RecordKind.CAPABILITIES not in kinds:
            return []
        asking = [lookup for lookup in self._lookups.values() if peer in lookup.awaited]
        effects = self._await_no_more(peer, now_us=now_us)
        if asking and not any(peer in lookup.proven for lookup in asking):
            self.overlay.release(peer)  # its link makes room for those of others
        return effects

    def on_members_changed(self, *, now_us: int) -> list[Effect]:
        """Records came in, by whatever way: perhaps those that a lookup waits for."""
        effects: list[Effect] = []
        for number, lookup in list(self._lookups.items()):
            known = {peer for peer in lookup.awaited if self._prove(peer, lookup)}
            if known:
                lookup.awaited -= known
                effects += self._go_on(number, lookup, now_us=now_us)
        return effects

    def on_lookup_ends(self, ends: LookupEnds) -> list[Effect]:
        """Answer with what is there."""
        lookup = self._lookups.get(ends.number)
        return [] if lookup is None else self._finish(ends.number, lookup)

    def _await_no_more(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        effects: list[Effect] = []
        for number, lookup in list(self._lookups.items()):
            if peer in lookup.awaited:
                self._prove(peer, lookup)
                lookup.awaited.discard(peer)
                effects += self._go_on(number, lookup, now_us=now_us)
        return effects

    def _go_on(self, number: int, lookup: _Lookup, *, now_us: int) -> list[Effect]:
        """Ask the next, PROVIDERS_ASKED_MAX at a time; finish when there is nobody to wait for."""
        effects: list[Effect] = []
        # Those named first who do not answer leave as much room to those named by the second.
        is_second = lookup.is_thorough and lookup.is_named
        asked_max = PROVIDERS_ASKED_MAX * (2 if is_second else 1)
        while lookup.waiting and len(lookup.awaited) < asked_max:
            if not self._may_ask(lookup.waiting[0].peer):
                break  # whoever is dialled now makes room when that has ended
            effects += self._ask(lookup.waiting.popleft(), lookup, now_us=now_us)
        if lookup.awaited and not (lookup.is_thorough and self._found(lookup)):
            return effects
        if not lookup.is_named:
            return effects  # the thorough answer is still to come
        if lookup.named and not lookup.is_thorough and not self._found(lookup):
            return effects + self._ask_thoroughly(number, lookup)
        return effects + self._finish(number, lookup)

    def _ask_thoroughly(self, number: int, lookup: _Lookup) -> list[Effect]:
        lookup.is_thorough, lookup.is_named = True, False
        return [FindProviders(lookup.key, LookupToken(number, is_thorough=True), is_thorough=True)]

    def _ask(self, provider: Provider, lookup: _Lookup, *, now_us: int) -> list[Effect]:
        peer = provider.peer
        lookup.tried.add(peer)
        if peer in lookup.awaited or self._prove(peer, lookup):
            return []
        effects = self.overlay.reach(peer, provider.addresses, now_us=now_us)
        if peer in self.links:
            effects.append(_ask_capabilities(peer))
        elif not self.overlay.is_dialling(peer):
            return effects  # it has no address
        lookup.awaited.add(peer)
        return effects

    def _may_ask(self, peer: PeerId) -> bool:
        return peer in self.links or self.overlay.is_dialling(peer) or self.overlay.may_dial_more

    def _finish(self, number: int, lookup: _Lookup) -> list[Effect]:
        del self._lookups[number]
        providers = self._providers(lookup.capabilities)
        found = self._found(lookup)
        if not found and lookup.via == "any":
            return lookup.then("local" if providers else "dht", providers)
        return lookup.then("dht", found)

    def _found(self, lookup: _Lookup) -> list[Member]:
        """Return those named who proved true and are there, also if there is no room for them."""
        held = {member.peer: member for member in self._providers(lookup.capabilities)}
        proven = {
            peer: member
            for peer, member in lookup.proven.items()
            if self.directory.get(peer) is None and self.directory.is_there(member)
        }
        return [member for peer, member in (held | proven).items() if peer in lookup.named]

    def _providers(self, capabilities: tuple[str, ...]) -> list[Member]:
        return self.directory.providers(frozenset(capabilities))

    def _prove(self, peer: PeerId, lookup: _Lookup) -> bool:
        """Say whether a device says itself that it provides what is looked for; remember it."""
        member = self.directory.get(peer)
        if member is None or not member.capabilities >= set(lookup.capabilities):
            return False
        lookup.proven[peer] = member
        return True

    def _rarest(self, capabilities: tuple[str, ...]) -> str:
        return min(capabilities, key=lambda key: (_count_of(key, self.directory), key))


@dataclass(slots=True, kw_only=True)
class Providing:
    """Keeps this device's rare capabilities in the DHT, while there is anybody to tell of them."""

    directory: Directory
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    own_keys: tuple[str, ...]
    rng: Random
    _provided: set[str] = field(default_factory=set)

    def on_link_up(self) -> list[Effect]:
        """Review soon after the first link: before the first sync every capability seems rare."""
        if len(self.links) > 1:
            return []
        return [SetTimer(ProvideReviewDue(), self.rng.randrange(*FIRST_REVIEW_US))]

    def on_review_due(self) -> list[Effect]:
        """Provide what has become rare, withdraw what has become common.

        Without a link nobody would hear, and the next first link sets the timer.
        """
        if not self.links:
            return []
        common_count = max(1, len(self.directory) // COMMON_SHARE)
        counts = {key: _count_of(key, self.directory) for key in self.own_keys}
        rare = {key for key, count in counts.items() if count <= common_count}
        # Hosts announce one key a second in this order, so what a lookup is for comes first: what
        # few have, and of that what people named themselves, which nobody has by accident.
        news = sorted(rare - self._provided, key=lambda key: (counts[key], _is_found(key), key))
        effects: list[Effect] = [SetTimer(ProvideReviewDue(), PROVIDE_REVIEW_EVERY_US)]
        effects += [Provide(key) for key in news]
        effects += [Withdraw(key) for key in sorted(self._provided - rare)]
        self._provided = rare
        return effects


def _is_found(key: str) -> bool:
    """Say whether a capability was found by the device itself, not given by its owner."""
    return not key.startswith("label:")


def _count_of(key: str, directory: Directory) -> int:
    return sum(key in member.capabilities for member in directory)


def _ask_capabilities(peer: PeerId) -> Effect:
    kinds = (RecordKind.PRESENCE, RecordKind.CAPABILITIES, RecordKind.TELEMETRY)
    return Send(
        peer, RecordsWanted(versions=tuple(RecordVersion(peer, kind, 0, 0) for kind in kinds))
    )
