"""What offences end in, and how fast a peer is read."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2p.conduct import ConductSettings, Offence
from p2p.judge import Judge, Pacer
from p2p.rate_limit import Pace, Rate
from telemetry.metrics import Metrics
from wire.ids import PeerId

PEER = PeerId(b"p" * 32)


@pytest.mark.parametrize(
    ("offence", "count"),
    [
        (Offence.MALFORMED, 5),
        (Offence.FORGED, 2),
        (Offence.FLOODED, 2),
    ],
)
async def test_offences_end_in_a_ban_that_ends(
    autojump_clock: MockClock, offence: Offence, count: int
) -> None:
    metrics = Metrics()
    judge = Judge(metrics=metrics)
    blamed = [judge.blame(PEER, offence, "a test") for _ in range(count + 2)]
    assert blamed == [False] * (count - 1) + [True, False, False]
    assert judge.is_banned(PEER)
    counters = metrics.snapshot()
    assert counters["meshd_peers_banned_total"] == 1
    assert counters[f"meshd_peers_{offence.name.lower()}_total"] == count
    await trio.sleep(ConductSettings().ban_s)
    assert not judge.is_banned(PEER)


async def test_offences_add_up_wherever_they_were_committed(autojump_clock: MockClock) -> None:
    judge = Judge()
    assert not judge.blame(PEER, Offence.STALLED, "a link")
    assert not judge.blame(PEER, Offence.MALFORMED, "gossip")
    assert judge.blame(PEER, Offence.FLOODED, "frames")


async def test_slowness_alone_is_no_ban(autojump_clock: MockClock) -> None:
    judge = Judge()
    assert not any(judge.blame(PEER, Offence.STALLED, "its disk hangs") for _ in range(100))
    assert not judge.is_banned(PEER)


@pytest.mark.parametrize(
    "offences",
    [
        (Offence.STALLED, Offence.STALLED, Offence.FLOODED),
        (Offence.STALLED, Offence.FLOODED, Offence.STALLED),
        (Offence.FLOODED, Offence.STALLED, Offence.STALLED),
        (*[Offence.STALLED] * 9, Offence.MALFORMED, Offence.MALFORMED),
    ],
)
async def test_slowness_beside_another_offence_ends_in_a_ban(
    autojump_clock: MockClock, offences: tuple[Offence, ...]
) -> None:
    judge = Judge()
    blamed = [judge.blame(PEER, offence, "a test") for offence in offences]
    assert blamed == [False] * (len(offences) - 1) + [True]


async def test_slowness_is_forgotten_in_minutes(autojump_clock: MockClock) -> None:
    judge = Judge()
    for _ in range(100):
        judge.blame(PEER, Offence.STALLED, "its disk hangs")
    settings = ConductSettings()
    await trio.sleep(settings.slowness_max / settings.restored_per_s)
    assert not judge.blame(PEER, Offence.FLOODED, "a test")
    assert not judge.blame(PEER, Offence.STALLED, "a test")


def test_a_pace_counts_what_is_taken_from_an_almost_empty_bucket() -> None:
    pace = Pace(Rate(per_s=10, burst=8), now_s=0)
    assert pace.owe(6, now_s=0) == (0, 0)
    assert pace.owe(2, now_s=0) == (0, 0)
    assert pace.owe(3, now_s=0) == pytest.approx((0.3, 1))  # five that came too fast
    assert pace.owe(4, now_s=0.3) == pytest.approx((0.4, 0))
    assert pace.owe(11, now_s=0.7) == pytest.approx((1.1, 3))
    assert pace.owe(6, now_s=3) == (0, 0), "it was quiet"


def test_a_flood_is_one_however_late_it_is_read() -> None:
    pace = Pace(Rate(per_s=100, burst=80), now_s=0)
    pace.owe(80, now_s=0)
    floods, now_s = 0, 0.0
    for _ in range(20):  # each pause is slept too long, and what was earned meanwhile is taken
        now_s += 0.05
        floods += sum(pace.owe(1, now_s=now_s).floods_count for _ in range(5))
    assert floods == 2


async def test_a_flood_is_read_at_its_rate_until_it_is_a_ban(autojump_clock: MockClock) -> None:
    judge = Judge()
    pacer = Pacer(Rate(per_s=100, burst=50), peer=PEER, what="a test", judge=judge)
    began_s, count = trio.current_time(), 0
    while not await pacer.pace(1):
        count += 1
    assert trio.current_time() - began_s == pytest.approx(0.87, abs=0.05)
    assert count == pytest.approx(137, abs=3)
    assert judge.is_banned(PEER)


async def test_who_keeps_to_its_rate_never_waits(autojump_clock: MockClock) -> None:
    judge = Judge()
    pacer = Pacer(Rate(per_s=100, burst=50), peer=PEER, what="a test", judge=judge)
    began_s = trio.current_time()
    for _ in range(100):
        for _ in range(20):
            await pacer.pace(1)
        await trio.sleep(0.2)
    assert trio.current_time() - began_s == pytest.approx(20)
