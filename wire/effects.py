"""What a core wants done. The host carries effects out, in order, and answers with events.

The answer of each effect is named in its docstring; `wire.events` has them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

from msgspec import Struct

from wire.answers import Answer as AnswerValue
from wire.answers import JoinAnswer
from wire.blobs import BlobRef
from wire.content import Content
from wire.ids import BatchId, Digest, PeerId
from wire.limits import Limits
from wire.messages import Message, RecordsGiven
from wire.tasks import Epoch


class Send(Struct, frozen=True):
    """Send on the link to `peer`; may be dropped, so every request has a retry timer."""

    peer: PeerId
    message: Message


class Publish(Struct, frozen=True):
    """Publish records on a GossipSub topic: a fast path that nothing depends on."""

    topic: str
    records: RecordsGiven


class Dial(Struct, frozen=True):
    """Open a link, in place of one through another device. Answered by `LinkUp` or `DialFailed`.

    At `addresses`; or, if `via` names members, through the first of them that carries it. Where a
    link stands that stays, there is no answer.
    """

    peer: PeerId
    addresses: tuple[str, ...]
    via: tuple[PeerId, ...] = ()


class Hangup(Struct, frozen=True):
    """Close the link to `peer`. Answered by `LinkDown`."""

    peer: PeerId
    reason: str


class SetTimer(Struct, frozen=True):
    """Answered by `TimerDue(key)` once; setting a key again replaces its timer."""

    key: Hashable
    after_us: int


class Row(Struct, frozen=True):
    """One row of the store: `value` is a struct, None deletes the row."""

    kind: str
    key: bytes
    value: Struct | None


class UseNetworkKeys(Struct, frozen=True):
    """Accept connections under these network keys from now on; dial with the first, then others."""

    keys: tuple[bytes, ...]

    def __repr__(self) -> str:
        """Say how many there are: they are secret."""
        return f"UseNetworkKeys({len(self.keys)} keys)"


class Persist(Struct, frozen=True):
    """Write all rows at once; carry out `then` when they are durable, never before.

    Nothing else depends on it. A failure comes back as `PersistFailed`.
    """

    rows: tuple[Row, ...]
    then: tuple[Effect, ...] = ()


class Load(Struct, frozen=True):
    """Read rows of a kind, newest first. Answered by `Loaded(token, rows)`."""

    kind: str
    prefix: bytes
    limit: int
    token: Hashable


class Provide(Struct, frozen=True):
    """Keep a Kademlia provider record for `key` published until it is withdrawn."""

    key: str


class Withdraw(Struct, frozen=True):
    """Stop providing `key`; records held by others run out by themselves."""

    key: str


class FindProviders(Struct, frozen=True):
    """Ask the DHT who provides `key`. Answered by `ProvidersFound(token, ...)`.

    A thorough lookup goes on where a usual one ends because those who were asked agree.
    """

    key: str
    token: Hashable
    is_thorough: bool = False


class OutputCheck(Struct, frozen=True):
    """How to check that a sealed output is what its result says: key, index and keyed digest."""

    box: bytes  # the batch key, sealed to this device
    index: int
    digest: Digest


class Fetch(Struct, frozen=True):
    """Bring content here from any of `sources`, keep it, and check it if `check` is given.

    Answered by `Fetched(token)` or `FetchFailed(token)`.
    """

    content: Content
    sources: tuple[PeerId, ...]
    token: Hashable
    check: OutputCheck | None = None


class Offer(Struct, frozen=True):
    """Keep a blob that is here, for `owner`, and serve it to members."""

    blob: BlobRef
    owner: bytes


class Release(Struct, frozen=True):
    """`owner` no longer needs its blobs; what nobody needs may be evicted."""

    owner: bytes


class RunId(Struct, frozen=True, array_like=True, order=True):
    """One run of a task on this device."""

    batch: BatchId
    index: int
    epoch: Epoch
    attempt: int


class Execute(Struct, frozen=True, kw_only=True):
    """Run a task in the sandbox. Answered by `Executed(run)` or `ExecutionFailed(run)`.

    The host fetches what is missing, opens the input with the batch key in `box` (sealed to this
    device), and seals the output again: no core sees content.
    """

    run: RunId
    module: BlobRef
    input: Content
    sources: tuple[PeerId, ...]
    box: bytes
    limits: Limits
    seed: bytes


class Kill(Struct, frozen=True):
    """Stop a run. It is not answered: a run that is killed is forgotten."""

    run: RunId


class Answer(Struct, frozen=True):
    """Part of the answer to a request of `meshctl`; the last part has `is_last`."""

    request: int
    value: AnswerValue
    is_last: bool = True


class AnswerJoin(Struct, frozen=True):
    """The answer to a `JoinAsked`."""

    request: int
    answer: JoinAnswer


class Trace(Struct, frozen=True):
    """Something a person, a log or a checker may want to know; it changes nothing."""

    event: str
    fields: dict[str, str | int | bool | None]


Effect: TypeAlias = (
    Send
    | Publish
    | Dial
    | Hangup
    | SetTimer
    | UseNetworkKeys
    | Persist
    | Load
    | Provide
    | Withdraw
    | FindProviders
    | Fetch
    | Offer
    | Release
    | Execute
    | Kill
    | Answer
    | AnswerJoin
    | Trace
)
