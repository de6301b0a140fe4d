"""When to dial a device again: for ever, with jitter, and a backoff that ends at a minute.

A link that lasted is dialled again at once. One that fell soon after it came up counts as a failure
like a dial, so two devices that refuse each other do not do so every second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from wire.ids import PeerId

BACKOFF_FIRST_US = 500_000
BACKOFF_MAX_US = 60_000_000
LASTING_LINK_US = 10_000_000
SIGHTING_RETRY_US = 1_000_000
DOUBTFUL_AFTER_FAILURES = 2

Word: TypeAlias = tuple[int, int]  # incarnation and counter of a presence
NO_WORD: Word = (-1, -1)


@dataclass(slots=True)
class _Backoff:
    failures_count: int = 0
    failed_us: int = 0
    retry_us: int = 0
    word: Word = NO_WORD  # the newest that the device had said by then


@dataclass(slots=True, kw_only=True)
class Redials:
    """The failures of every device that anybody might dial. Times on the caller's clock."""

    rng: Random
    last_failure: dict[PeerId, str] = field(default_factory=dict)  # of those not linked, in words
    _backoff: dict[PeerId, _Backoff] = field(default_factory=dict)

    def is_due(self, peer: PeerId, *, now_us: int) -> bool:
        """Say whether a device may be dialled now."""
        backoff = self._backoff.get(peer)
        return backoff is None or backoff.retry_us <= now_us

    def is_doubtful(self, peer: PeerId) -> bool:
        """Say whether a device failed so often that others should take its place for now."""
        backoff = self._backoff.get(peer)
        return backoff is not None and backoff.failures_count >= DOUBTFUL_AFTER_FAILURES

    def failures_count(self, peer: PeerId) -> int:
        """Return how often a device failed since it was last well."""
        backoff = self._backoff.get(peer)
        return 0 if backoff is None else backoff.failures_count

    def __len__(self) -> int:
        """How many failed since they were last well."""
        return len(self._backoff)

    def doubtful(self) -> list[PeerId]:
        """Return all devices that are, in the order in which they first failed."""
        return [peer for peer in self._backoff if self.is_doubtful(peer)]

    def on_failed(self, peer: PeerId, reason: str, *, word: Word = NO_WORD, now_us: int) -> None:
        """Wait longer before the next try, up to a minute. `word` is the last it had said."""
        self.last_failure[peer] = reason
        backoff = self._backoff.setdefault(peer, _Backoff())
        backoff.word = word
        backoff.failures_count += 1
        backoff.failed_us = now_us
        longest = min(BACKOFF_FIRST_US << min(backoff.failures_count, 16), BACKOFF_MAX_US)
        backoff.retry_us = now_us + self.rng.randrange(longest // 2, longest + 1)

    def on_linked(self, peer: PeerId) -> None:
        """There is a link; whether it lasts will be seen."""
        self.last_failure.pop(peer, None)

    def on_link_lost(
        self, peer: PeerId, reason: str, *, lasted_us: int, word: Word = NO_WORD, now_us: int
    ) -> None:
        """Dial again soon; the jitter keeps two sides from dialling in step."""
        if lasted_us < LASTING_LINK_US:
            self.on_failed(peer, reason, word=word, now_us=now_us)
            return
        self.last_failure[peer] = reason
        soon_us = now_us + self.rng.randrange(BACKOFF_FIRST_US)
        self._backoff[peer] = _Backoff(failed_us=now_us, retry_us=soon_us, word=word)

    def on_sighted(self, peer: PeerId) -> None:
        """It may be back: do not wait out the backoff, but do not let sightings set the pace."""
        backoff = self._backoff.get(peer)
        if backoff is not None:
            backoff.retry_us = min(backoff.retry_us, backoff.failed_us + SIGHTING_RETRY_US)

    def on_full(self, peer: PeerId, *, now_us: int) -> int:
        """It answered that it has no room now: return how soon it may be asked again."""
        backoff = self._backoff[peer]
        backoff.failures_count = 0
        pause_us = self.rng.randrange(BACKOFF_FIRST_US // 2, BACKOFF_FIRST_US)
        backoff.retry_us = now_us + pause_us
        return pause_us

    def on_words(self, word_of: Callable[[PeerId], Word]) -> None:
        """Begin anew with those who spoke since they failed; the words do not set the pace."""
        for peer, backoff in self._backoff.items():
            word = word_of(peer)
            if word > backoff.word:
                backoff.word = word
                backoff.failures_count = 0
                self.on_sighted(peer)

    def forgive(self, peer: PeerId) -> None:
        """Begin anew with a device."""
        self._backoff.pop(peer, None)

    def forgive_all_but(self, peer: PeerId) -> None:
        """Begin anew with all others: `peer` answered, so the network seems to be back."""
        self._backoff = {peer: self._backoff[peer]} if peer in self._backoff else {}

    def keep_only(self, is_wanted: Callable[[PeerId], bool]) -> None:
        """Forget the failures of all others: nobody would dial them."""
        for kept in (self._backoff, self.last_failure):
            for peer in [peer for peer in kept if not is_wanted(peer)]:
                del kept[peer]
