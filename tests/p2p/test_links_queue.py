"""What waits for a link, how much of it, and who may send how much."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.conduct import Conduct, ConductSettings, Offence
from p2p.rate_limit import Rate, RateTable, TokenBucket
from p2p.send_queue import QueueLimits, SendQueue
from wire.ids import PeerId
from wire.messages import Traffic

LIMITS = QueueLimits(
    control_bytes_max=1_000, task_bytes_max=1_000, bulk_bytes_max=1_000, frames_count_max=10
)
PEER = PeerId(b"p" * 32)
CONTROL, TASK, BULK = Traffic.CONTROL, Traffic.TASK, Traffic.BULK


def split(batch: bytes) -> list[bytes]:
    frames = []
    while batch:
        end = 4 + int.from_bytes(batch[:4], "big")
        frames.append(batch[4:end])
        batch = batch[end:]
    return frames


def test_control_leaves_before_tasks_before_bulk_each_in_order() -> None:
    queue = SendQueue(LIMITS)
    for frame, traffic in [(b"b1", BULK), (b"t1", TASK), (b"c1", CONTROL), (b"b2", BULK)]:
        assert queue.push(frame, traffic, now_s=0)
    assert queue.push(b"c2", CONTROL, now_s=0)
    assert split(queue.take(10_000)) == [b"c1", b"c2", b"t1", b"b1", b"b2"]
    assert queue.queued_bytes == 0


@given(st.lists(st.tuples(st.sampled_from(Traffic), st.integers(1, 300)), max_size=60))
def test_no_class_ever_holds_more_than_its_bounds(pushes: list[tuple[Traffic, int]]) -> None:
    queue = SendQueue(LIMITS)
    kept = 0
    for traffic, size in pushes:
        kept += 4 + size if queue.push(bytes(size), traffic, now_s=0) else 0
        assert queue.queued_bytes == kept <= 3 * 1_000
    assert len(split(queue.take(10_000))) <= 3 * 10


def test_one_frame_fits_even_if_it_alone_exceeds_the_class() -> None:
    queue = SendQueue(LIMITS)
    assert queue.push(bytes(5_000), BULK, now_s=0)
    assert not queue.push(b"x", BULK, now_s=0)
    assert split(queue.take(64)) == [bytes(5_000)]


def test_a_batch_keeps_to_its_size_and_leaves_the_rest_in_order() -> None:
    queue = SendQueue(LIMITS)
    for index in range(6):
        queue.push(bytes([index]) * 96, TASK, now_s=0)
    batches = [split(queue.take(250)) for _ in range(3)]
    assert [[frame[0] for frame in batch] for batch in batches] == [[0, 1], [2, 3], [4, 5]]


async def test_a_full_class_says_so_once_and_once_when_it_is_below_half() -> None:
    queue = SendQueue(LIMITS)
    for _ in range(12):
        queue.push(bytes(96), TASK, now_s=0)
    assert await queue.wait_for_notices() == [(TASK, True)]
    assert not queue.push(bytes(96), TASK, now_s=0)

    queue.take(400)  # six of ten are left
    with trio.move_on_after(0) as waited:
        await queue.wait_for_notices()
    assert waited.cancelled_caught
    queue.take(200)
    assert await queue.wait_for_notices() == [(TASK, False)]


async def test_congested_and_drained_before_anybody_asked_is_no_news() -> None:
    queue = SendQueue(LIMITS)
    for _ in range(12):
        queue.push(bytes(96), TASK, now_s=0)
    queue.take(10_000)
    with trio.move_on_after(0) as waited:
        await queue.wait_for_notices()
    assert waited.cancelled_caught


async def test_a_queue_that_takes_over_keeps_frames_and_congestion() -> None:
    old, new = SendQueue(LIMITS), SendQueue(LIMITS)
    for index in range(11):
        old.push(bytes([index]) * 90, TASK, now_s=0)
    assert await old.wait_for_notices() == [(TASK, True)]
    new.push(b"later", TASK, now_s=1)
    new.absorb(old)
    assert old.queued_bytes == 0
    assert [frame[:1] for frame in split(new.take(10_000))] == [
        *(bytes([index]) for index in range(10)),
        b"l",
    ]
    assert await new.wait_for_notices() == [(TASK, False)]


async def test_a_closed_queue_takes_nothing_and_gives_what_it_has() -> None:
    queue = SendQueue(LIMITS)
    queue.push(b"last", CONTROL, now_s=0)
    queue.close()
    assert not queue.push(b"late", CONTROL, now_s=0)
    assert await queue.wait_for_frames(bytes_min=1_000)
    assert split(queue.take(100)) == [b"last"]
    assert not await queue.wait_for_frames()


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(Rate(per_s=10, burst=5), now_s=0)
    assert [bucket.take(1, now_s=0) for _ in range(6)] == [True] * 5 + [False]
    assert bucket.take(1, now_s=0.1)
    assert not bucket.take(1, now_s=0.1)
    assert [bucket.take(1, now_s=1_000) for _ in range(6)] == [True] * 5 + [False]


def test_a_debt_is_paid_by_waiting() -> None:
    bucket = TokenBucket(Rate(per_s=10, burst=5), now_s=0)
    assert bucket.owe(5, now_s=0) == 0
    assert bucket.owe(2, now_s=0) == 0.2
    assert bucket.owe(1, now_s=0.2) == 0.1


def test_a_full_table_gives_strangers_nothing_until_others_are_quiet() -> None:
    table = RateTable[int](Rate(per_s=1, burst=2), count_max=3)
    assert all(table.take(key, now_s=0) for key in (1, 2, 3))
    assert not table.take(4, now_s=0)
    assert table.take(1, now_s=0)
    assert not table.take(1, now_s=0)
    assert table.take(4, now_s=1.5)  # 2 and 3 are full again and forgotten


def test_malformed_frames_ban_slower_than_forged_ones() -> None:
    conduct = Conduct(ConductSettings())
    malformed = [conduct.on_offence(PEER, Offence.MALFORMED, now_s=0) for _ in range(5)]
    assert malformed == [False] * 4 + [True]
    other = PeerId(b"o" * 32)
    assert [conduct.on_offence(other, Offence.FORGED, now_s=0) for _ in range(2)] == [False, True]


def test_time_restores_a_score_and_ends_a_ban() -> None:
    settings = ConductSettings()
    conduct = Conduct(settings)
    for index in range(50):  # one offence in 220 s is what a score bears for ever
        assert not conduct.on_offence(PEER, Offence.MALFORMED, now_s=220 * index)
    now_s = 20_000.0
    while not conduct.on_offence(PEER, Offence.FORGED, now_s=now_s):
        pass
    assert conduct.banned_for_s(PEER, now_s=now_s + 1) == settings.ban_s - 1
    assert conduct.banned_for_s(PEER, now_s=now_s + settings.ban_s) == 0


def test_the_tables_of_conduct_are_bounded_and_keep_the_worst() -> None:
    conduct = Conduct(ConductSettings(peers_count_max=3))
    peers = [PeerId(bytes([index]) * 32) for index in range(6)]
    for now_s, peer in enumerate(peers):
        conduct.on_offence(peer, Offence.FORGED, now_s=now_s)
        conduct.on_offence(peer, Offence.FORGED, now_s=now_s)
    banned = [peer for peer in peers if conduct.banned_for_s(peer, now_s=6)]
    assert banned == peers[3:]
