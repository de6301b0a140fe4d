"""Token buckets: a steady rate with room for a burst, and a bounded table of them by key."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from msgspec import Struct

FLOOD_S: Final = 0.5

Key = TypeVar("Key", bound=Hashable)


class Rate(Struct, frozen=True):
    """So many tokens a second for ever, and so many at once after a quiet time."""

    per_s: float
    burst: float


class TokenBucket:
    """Tokens of one rate, full at first. Times: seconds on the caller's clock."""

    def __init__(self, rate: Rate, *, now_s: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._filled_s = now_s

    @property
    def tokens(self) -> float:
        """How many were there when it was last used; a debt is less than none."""
        return self._tokens

    def is_full(self, *, now_s: float) -> bool:
        """Say whether nothing was taken for long enough to forget the bucket."""
        return self.left(now_s=now_s) >= self._rate.burst

    def left(self, *, now_s: float) -> float:
        """Return how many tokens could be taken; a debt is less than none."""
        self._fill(now_s)
        return self._tokens

    def take(self, tokens: float, *, now_s: float) -> bool:
        """Take `tokens` if they are there."""
        self._fill(now_s)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def owe(self, tokens: float, *, now_s: float) -> float:
        """Take `tokens` even if they are not there; return for how many seconds to pause."""
        self._fill(now_s)
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._rate.per_s)

    def _fill(self, now_s: float) -> None:
        earned = (now_s - self._filled_s) * self._rate.per_s
        self._tokens = min(self._rate.burst, self._tokens + earned)
        self._filled_s = now_s


class Pause(NamedTuple):
    """How long to read no more, and how many times what came too fast made up `FLOOD_S`."""

    seconds: float
    floods_count: int


class Pace:
    """How fast somebody is read: without tokens later, which slows down its sender alone.

    Whoever is within its rate finds tokens after a while. So what is taken while less than a
    quarter of the burst is there comes too fast, and as much of it as is earned in `FLOOD_S` is a
    flood, however well this device sleeps and however busy it is. Times: seconds on the caller's
    clock.
    """

    def __init__(self, rate: Rate, *, now_s: float) -> None:
        self._rate = rate
        self._bucket = TokenBucket(rate, now_s=now_s)
        self._too_fast = 0.0

    def owe(self, tokens: float, *, now_s: float) -> Pause:
        """Take `tokens`, there or not."""
        pause_s = self._bucket.owe(tokens, now_s=now_s)
        if self._bucket.tokens < self._rate.burst / 4:
            self._too_fast += tokens
        floods, self._too_fast = divmod(self._too_fast, self._rate.per_s * FLOOD_S)
        return Pause(pause_s, int(floods))


class RateTable(Generic[Key]):
    """A bucket for each key. When the table is full, who is not in it gets nothing.

    Buckets that are full again are forgotten, so the table empties by itself.
    """

    def __init__(self, rate: Rate, *, count_max: int) -> None:
        self._rate = rate
        self._count_max = count_max
        self._buckets: dict[Key, TokenBucket] = {}

    def take(self, key: Key, tokens: float = 1, *, now_s: float) -> bool:
        """Take `tokens` of `key` if they are there."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._count_max:
                self._forget_full(now_s)
            if len(self._buckets) >= self._count_max:
                return False
            bucket = self._buckets[key] = TokenBucket(self._rate, now_s=now_s)
        return bucket.take(tokens, now_s=now_s)

    def left(self, key: Key, *, now_s: float) -> float:
        """Return how many tokens `key` could take."""
        bucket = self._buckets.get(key)
        return self._rate.burst if bucket is None else bucket.left(now_s=now_s)

    def _forget_full(self, now_s: float) -> None:
        for key in [key for key, held in self._buckets.items() if held.is_full(now_s=now_s)]:
            del self._buckets[key]
