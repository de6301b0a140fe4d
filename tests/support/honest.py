"""An honest member that measures how long a daemon takes to answer it."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from support.hard_daemons import RawLink, bare_host, greet, hello, reach

from p2p.joining import redeem
from wire.membership import Invitation
from wire.messages import (
    LINK_PROTOCOL,
    Heartbeat,
    HeartbeatAcknowledged,
    Hello,
    LinkRefused,
    Message,
)

ASK_EVERY_S = 0.05
_ANSWER_S_MAX = 10.0


@dataclass(slots=True)
class Probe:
    """One link, with a heartbeat under way every 50 ms; `round_trips_s` is in their order."""

    link: RawLink
    round_trips_s: list[float] = field(default_factory=list)
    _asked_s: dict[int, float] = field(default_factory=dict)
    _sending: trio.Lock = field(default_factory=trio.Lock)

    async def run(self) -> None:
        """Ask until cancelled. An answer that is missing for ten seconds raises TooSlowError."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask)
            nursery.start_soon(self._listen)

    async def _ask(self) -> None:
        for token in itertools.count(1):
            self._asked_s[token] = trio.current_time()
            with trio.fail_after(_ANSWER_S_MAX):
                await self._send(Heartbeat(token=token))
            if trio.current_time() - min(self._asked_s.values()) > _ANSWER_S_MAX:
                raise trio.TooSlowError
            await trio.sleep(ASK_EVERY_S)

    async def _send(self, message: Message) -> None:
        async with self._sending:  # a stream has one sender at a time
            await self.link.send(message)

    async def _listen(self) -> None:
        while True:
            message = await self.link.receive()
            match message:
                case HeartbeatAcknowledged(token=token):
                    asked_s = self._asked_s.pop(token, None)
                    if asked_s is not None:
                        self.round_trips_s.append(trio.current_time() - asked_s)
                case Heartbeat(token=int(token)):
                    await self._send(HeartbeatAcknowledged(token=token))
                case LinkRefused(reason=reason, detail=detail):
                    raise AssertionError(f"an honest link was ended: {reason}: {detail}")
                case None:
                    raise AssertionError("the daemon ended an honest link")


@asynccontextmanager
async def probing(invitation: Invitation) -> AsyncIterator[Probe]:
    """Join the mesh of an invitation, link to who made it, and measure inside the block."""
    async with bare_host(os.urandom(32), invitation) as host:
        await reach(host, invitation)
        papers = await redeem(host, invitation, "probe")
        first = hello(papers.genesis, papers.chain, LINK_PROTOCOL)
        link, answer = await greet(host, invitation.issuer, first)
        assert isinstance(answer, Hello)
        await host.admit(invitation.issuer)  # it is read as a member is
        probe = Probe(link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe.run)
            yield probe
            nursery.cancel_scope.cancel()


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
