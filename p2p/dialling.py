"""Trying several addresses at once, staggered, until one answers (RFC 8305, *Happy Eyeballs*)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from p2p.addresses import Address
from p2p.errors import PeerUnreachable, WrongNetwork, WrongPeer
from wire.ids import PeerId, peer_text

STAGGER_S: Final = 0.25


async def race(
    addresses: Sequence[Address], attempt: Callable[[Address], Awaitable[object]]
) -> list[tuple[Address, Exception]]:
    """Return [] as soon as one `attempt` returned, else why each address failed.

    The next address is tried when the one before failed, or after `STAGGER_S`. Those that lose are
    cancelled. The caller's timeout bounds the whole.
    """
    failures: list[tuple[Address, Exception]] = []
    won = False

    async def run(address: Address, settled: trio.Event) -> None:
        nonlocal won
        try:
            await attempt(address)
        except Exception as error:  # noqa: BLE001 - libp2p raises anything; the caller gets it
            failures.append((address, error))
        else:
            won = True
            nursery.cancel_scope.cancel()
        settled.set()

    async with trio.open_nursery() as nursery:
        for address in addresses:
            settled = trio.Event()
            nursery.start_soon(run, address, settled)
            with trio.move_on_after(STAGGER_S):
                await settled.wait()
    return [] if won else failures


def unreachable(peer: PeerId, failures: Sequence[tuple[Address, Exception]]) -> PeerUnreachable:
    """Return the error that says for each address why `peer` was not reached there.

    It is of a kind that dialling again does not help if that holds for every address.
    """
    causes = [_cause(error) for _, error in failures]
    kinds = {type(cause) for cause in causes}
    kind = kinds.pop() if len(kinds) == 1 else PeerUnreachable
    reasons = (f"{address}: {cause}" for (address, _), cause in zip(failures, causes, strict=True))
    return kind(f"{peer_text(peer)} is unreachable: " + "; ".join(reasons))


def why(error: BaseException) -> str:
    """Return in words why a connection was not made."""
    return str(_cause(error))


def _cause(error: BaseException) -> PeerUnreachable:
    chain = causes_of(error)
    for link in chain:
        if isinstance(link, WrongNetwork):
            return link
        if "PeerIDMismatch" in type(link).__name__ or "Peer ID mismatch" in str(link):
            return WrongPeer("another device answers there")
    for link in reversed(chain):
        if isinstance(link, OSError) and link.strerror:
            return PeerUnreachable(link.strerror)
    return PeerUnreachable(next((str(link) for link in reversed(chain) if str(link)), "no reason"))


def causes_of(error: BaseException) -> list[BaseException]:
    """Return `error` and what caused it, the root last; of a group its first member."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        if isinstance(following, BaseExceptionGroup):
            following = following.exceptions[0]
        else:
            following = following.__cause__ or following.__context__
    return chain
