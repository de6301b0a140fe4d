"""Keeps this device's capabilities in the DHT, at the pace that other devices accept."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import trio

from p2p.errors import NetworkError
from p2p.host import Provider as FoundProvider
from wire.effects import FindProviders
from wire.events import Event, Provider, ProvidersFound

PROVIDE_EVERY_S = 1.0  # libp2p's hosts take ten records in ten seconds of a peer
PROVIDE_AGAIN_S = 12 * 3_600.0  # records last 48 hours
RETRY_S = 10.0
LOOKUP_S_MAX = 6.0
UNDER_WAY = math.inf  # the due time of a key that is being announced

log = structlog.get_logger()


class ProviderHost(Protocol):
    """The part of `p2p.host.Host` that speaks Kademlia."""

    async def provide(self, key: str) -> bool:
        """Announce a key; say whether anybody was there to hear it."""
        ...

    def withdraw(self, key: str) -> None:
        """Stop claiming a key."""
        ...

    async def find_providers(self, key: str, *, is_thorough: bool) -> tuple[FoundProvider, ...]:
        """Return who claims to provide `key`."""
        ...


class Finding:
    """Publishes provider records and looks them up. Disabled, it finds nothing, at once."""

    def __init__(
        self, host: ProviderHost, *, is_enabled: bool, emit: Callable[[Event], Awaitable[None]]
    ) -> None:
        self._host = host
        self._is_enabled = is_enabled
        self._emit = emit
        self._due_s: dict[str, float] = {}
        self._changed = trio.Event()

    def provide(self, key: str) -> None:
        """Announce `key` until it is withdrawn."""
        self._due_s[key] = trio.current_time()
        self._changed.set()

    def withdraw(self, key: str) -> None:
        """Stop announcing `key`."""
        self._due_s.pop(key, None)
        self._host.withdraw(key)

    async def run(self) -> None:
        """Announce what is due, one key a second, until cancelled."""
        while self._is_enabled:
            key = min(self._due_s, key=self._due_s.__getitem__, default=None)
            if key is None:
                self._changed = trio.Event()
                await self._changed.wait()
                continue
            now_s = trio.current_time()
            if self._due_s[key] > now_s:
                with trio.move_on_at(self._due_s[key]):
                    self._changed = trio.Event()
                    await self._changed.wait()
                continue
            await self._announce(key)
            await trio.sleep(PROVIDE_EVERY_S)

    async def find(self, find: FindProviders) -> None:
        """Carry out one lookup."""
        found: tuple[FoundProvider, ...] = ()
        if self._is_enabled:
            with trio.move_on_after(LOOKUP_S_MAX):
                try:
                    found = await self._host.find_providers(find.key, is_thorough=find.is_thorough)
                except NetworkError as error:
                    log.info("lookup.failed", key=find.key, reason=str(error))
        providers = tuple(Provider(one.peer, one.addresses) for one in found)
        await self._emit(ProvidersFound(find.token, providers))

    async def _announce(self, key: str) -> None:
        was_heard = False
        self._due_s[key] = UNDER_WAY
        with trio.move_on_after(LOOKUP_S_MAX):
            try:
                was_heard = await self._host.provide(key)
            except NetworkError as error:
                log.info("provide.failed", key=key, reason=str(error))
        # It may have been withdrawn meanwhile, and even provided again, which is a new claim.
        if self._due_s.get(key) == UNDER_WAY:
            wait_s = PROVIDE_AGAIN_S if was_heard else RETRY_S
            self._due_s[key] = trio.current_time() + wait_s
