"""Provider records: announced at the pace that others accept, again in time, and looked up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from support.meshes import keys_of
from trio.testing import MockClock

from meshd.finding import LOOKUP_S_MAX, PROVIDE_AGAIN_S, RETRY_S, Finding
from p2p.dht import Provider as FoundProvider
from p2p.errors import PeerUnreachable
from wire.effects import FindProviders
from wire.events import Event, Provider, ProvidersFound

PEER = keys_of(1).peer
ADDRESSES = ("/ip4/192.0.2.1/tcp/4001",)


@dataclass
class FakeHost:
    """Notes what is announced and when; an announcement takes `takes_s`."""

    is_heard: bool = True
    fails: bool = False
    takes_s: float = 0.0
    announced: list[tuple[float, str]] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)

    async def provide(self, key: str) -> bool:
        """Announce a key."""
        self.announced.append((trio.current_time(), key))
        await trio.sleep(self.takes_s)
        if self.fails:
            raise PeerUnreachable("nobody")
        return self.is_heard

    def withdraw(self, key: str) -> None:
        """Stop claiming a key."""
        self.withdrawn.append(key)

    async def find_providers(self, key: str, *, is_thorough: bool) -> tuple[FoundProvider, ...]:
        """Find one provider of each key."""
        self.was_thorough = is_thorough
        await trio.sleep(self.takes_s)
        if self.fails:
            raise PeerUnreachable("nobody")
        return (FoundProvider(PEER, ADDRESSES),)


@dataclass
class Setting:
    """A running Finding, its host and its events."""

    finding: Finding
    host: FakeHost
    events: list[Event]
    started_s: float

    def announced(self) -> list[tuple[float, str]]:
        """What was announced, in seconds since the start."""
        return [(round(at_s - self.started_s, 3), key) for at_s, key in self.host.announced]


@asynccontextmanager
async def finding(*, is_enabled: bool = True) -> AsyncIterator[Setting]:
    host, events = FakeHost(), list[Event]()

    async def emit(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        events.append(event)

    setting = Setting(
        Finding(host, is_enabled=is_enabled, emit=emit), host, events, trio.current_time()
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.finding.run)
        yield setting
        nursery.cancel_scope.cancel()


async def test_one_key_a_second_is_announced_in_the_order_given(autojump_clock: MockClock) -> None:
    async with finding() as s:
        for key in "cab":
            s.finding.provide(key)
        await trio.sleep(60)
        assert s.announced() == [(0, "c"), (1, "a"), (2, "b")]


async def test_keys_that_were_heard_are_announced_again_after_twelve_hours(
    autojump_clock: MockClock,
) -> None:
    async with finding() as s:
        s.finding.provide("a")
        await trio.sleep(PROVIDE_AGAIN_S - 1)
        assert len(s.host.announced) == 1
        await trio.sleep(2)
        assert s.announced() == [(0, "a"), (12 * 3600, "a")]


@pytest.mark.parametrize("trouble", ["unheard", "fails", "hangs"])
async def test_an_announcement_that_nobody_heard_is_repeated_soon(
    autojump_clock: MockClock, trouble: str
) -> None:
    async with finding() as s:
        s.host.is_heard = trouble != "unheard"
        s.host.fails = trouble == "fails"
        s.host.takes_s = 1e9 if trouble == "hangs" else 0.0
        s.finding.provide("a")
        await trio.sleep(RETRY_S - 1)
        assert len(s.host.announced) == 1
        s.host.is_heard, s.host.fails, s.host.takes_s = True, False, 0.0
        await trio.sleep(3_600)
        took_s = LOOKUP_S_MAX if trouble == "hangs" else 0
        assert s.announced() == [(0, "a"), (took_s + RETRY_S, "a")]


async def test_a_key_is_no_longer_announced_once_it_is_withdrawn(autojump_clock: MockClock) -> None:
    async with finding() as s:
        for key in "abc":
            s.finding.provide(key)
        await trio.sleep(0.5)
        s.finding.withdraw("b")
        s.finding.withdraw("unknown")
        await trio.sleep(60)
        assert s.announced() == [(0, "a"), (1, "c")]
        s.finding.withdraw("a")
        await trio.sleep(2 * PROVIDE_AGAIN_S)
        assert [key for _, key in s.announced()] == ["a", "c", "c", "c"]
        assert s.host.withdrawn == ["b", "unknown", "a"]


async def test_a_key_withdrawn_while_it_is_announced_is_not_announced_again(
    autojump_clock: MockClock,
) -> None:
    async with finding() as s:
        s.host.takes_s = 3
        s.finding.provide("a")
        await trio.sleep(1)
        s.finding.withdraw("a")
        await trio.sleep(2 * PROVIDE_AGAIN_S)
        assert s.announced() == [(0, "a")]


async def test_a_key_withdrawn_and_provided_while_it_is_announced_is_a_new_claim(
    autojump_clock: MockClock,
) -> None:
    """The host dropped its own claim at `withdraw`: only another announcement brings it back."""
    async with finding() as s:
        s.host.takes_s = 3
        s.finding.provide("a")
        await trio.sleep(1)
        s.finding.withdraw("a")
        s.finding.provide("a")
        await trio.sleep(60)
        assert s.announced() == [(0, "a"), (4, "a")]


async def test_a_key_provided_while_others_wait_for_their_time_is_served_at_once(
    autojump_clock: MockClock,
) -> None:
    async with finding() as s:
        s.finding.provide("a")
        await trio.sleep(100)
        s.finding.provide("b")
        await trio.sleep(100)
        assert s.announced() == [(0, "a"), (100, "b")]


async def test_disabled_it_announces_nothing_and_finds_nothing_at_once(
    autojump_clock: MockClock,
) -> None:
    async with finding(is_enabled=False) as s:
        s.host.takes_s = 1
        s.finding.provide("a")
        await s.finding.find(FindProviders("a", "token"))
        assert trio.current_time() == pytest.approx(s.started_s)
        assert s.events == [ProvidersFound("token", ())]
        await trio.sleep(60)
        assert s.host.announced == []


async def test_what_is_found_is_told(autojump_clock: MockClock) -> None:
    async with finding() as s:
        await s.finding.find(FindProviders("a", "token"))
        assert s.events == [ProvidersFound("token", (Provider(PEER, ADDRESSES),))]
        assert not s.host.was_thorough
        await s.finding.find(FindProviders("a", "token", is_thorough=True))
        assert s.host.was_thorough


@pytest.mark.parametrize("takes_s", [0.5, 1e9])
async def test_a_lookup_that_fails_or_hangs_found_nothing(
    autojump_clock: MockClock, takes_s: float
) -> None:
    async with finding() as s:
        s.host.fails, s.host.takes_s = True, takes_s
        await s.finding.find(FindProviders("a", "token"))
        assert s.events == [ProvidersFound("token", ())]
        assert trio.current_time() - s.started_s == pytest.approx(min(takes_s, LOOKUP_S_MAX))
