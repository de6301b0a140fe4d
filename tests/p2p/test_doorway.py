"""Which connections one address may have, begin and fail."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.doorway import ADDRESSES_MAX, Doorway, DoorwaySettings
from p2p.rate_limit import Rate

HERE, THERE = "192.0.2.1", "192.0.2.2"
SETTINGS = DoorwaySettings(
    connections_max=3,
    strangers_max=4,
    entry_rate=Rate(per_s=1, burst=5),
    failure_rate=Rate(per_s=1, burst=4),
    ban_s=60,
)


def test_an_address_has_so_many_connections_at_once_and_others_are_not_concerned() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    assert [doorway.objection(HERE, now_s=0) for _ in range(3)] == [None] * 3
    assert "too many" in (doorway.objection(HERE, now_s=0) or "")
    assert doorway.objection(THERE, now_s=0) is None
    doorway.left(HERE)
    assert doorway.objection(HERE, now_s=0) is None
    assert doorway.inside_count == 4


def test_an_address_begins_so_many_connections_in_a_time() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    for _ in range(5):
        assert doorway.objection(HERE, now_s=0) is None
        doorway.left(HERE)
    assert "too often" in (doorway.objection(HERE, now_s=0) or "")
    assert doorway.inside_count == 0
    assert doorway.objection(HERE, now_s=1) is None


def test_connections_that_lead_to_nothing_end_in_a_ban_of_their_address_that_ends() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    assert doorway.objection(HERE, now_s=0) is None
    assert [doorway.on_failure(HERE, now_s=0) for _ in range(6)] == [False] * 4 + [True, False]
    assert doorway.objection(HERE, now_s=59) == "banned"
    assert doorway.objection(THERE, now_s=59) is None
    assert doorway.inside_count == 2, "what stands stays"
    assert doorway.objection(HERE, now_s=60) is None


def test_an_address_that_fails_again_and_again_is_no_news_until_it_was_quiet() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    news = []
    for _ in range(4):
        doorway.on_failure(HERE, now_s=0)
        news.append(not doorway.is_notorious(HERE, now_s=0))
    assert news == [True, True, False, False]
    assert not doorway.is_notorious(THERE, now_s=0)
    assert not doorway.is_notorious(HERE, now_s=3)


def test_banned_peers_that_come_back_at_once_end_in_a_ban_of_their_address() -> None:
    doorway = Doorway(DoorwaySettings(), Random(1))
    attempts = [
        doorway.on_failure(HERE, now_s=number / 10, of_banned_peer=True) for number in range(9)
    ]
    assert attempts == [False] * 8 + [True]


def test_a_banned_device_that_dials_with_a_backoff_does_not_ban_its_household() -> None:
    doorway = Doorway(DoorwaySettings(), Random(1))
    now_s, pause_s = 0.0, 0.5
    while now_s < 600:
        assert not doorway.on_failure(HERE, now_s=now_s, of_banned_peer=True)
        pause_s = min(60, 2 * pause_s)
        now_s += pause_s / 2  # the shortest that jitter makes of it


def test_a_household_with_an_old_key_is_not_banned() -> None:
    doorway = Doorway(DoorwaySettings(), Random(1))
    assert not any(doorway.on_failure(HERE, now_s=second) for second in range(100_000))


def test_an_ipv6_subscriber_is_one_address() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    for number in range(3):
        assert doorway.objection(f"2001:db8:0:1::{number}", now_s=0) is None
    assert doorway.objection("2001:db8:0:1:ffff::9", now_s=0) is not None
    assert doorway.objection("2001:db8:0:2::1", now_s=0) is None
    doorway.left("2001:db8:0:1::1")
    assert doorway.objection("2001:db8:0:1::1", now_s=0) is None


def test_more_addresses_than_are_remembered_get_nothing_until_others_are_quiet() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    ips = [f"10.0.{number >> 8}.{number & 255}" for number in range(ADDRESSES_MAX + 1)]
    for ip in ips[:-1]:
        assert doorway.objection(ip, now_s=0) is None
    assert doorway.objection(ips[-1], now_s=0) is not None
    assert doorway.objection(ips[-1], now_s=2) is None


def test_bans_of_more_addresses_than_are_remembered_forget_the_oldest() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    ips = [f"10.0.{number >> 8}.{number & 255}" for number in range(ADDRESSES_MAX + 1)]
    for now_s, ip in enumerate(ips):
        banned = [doorway.on_failure(ip, now_s=now_s / 100) for _ in range(5)]
        assert any(banned)
    assert not doorway.is_banned(ips[0], now_s=11)
    assert all(doorway.is_banned(ip, now_s=11) for ip in ips[1:])


@given(st.lists(st.tuples(st.sampled_from([HERE, THERE]), st.booleans()), max_size=40))
def test_places_are_neither_lost_nor_made(moves: list[tuple[str, bool]]) -> None:
    doorway = Doorway(SETTINGS, Random(1))
    inside: list[str] = []
    for ip, comes in moves:
        if comes and doorway.objection(ip, now_s=0) is None:
            inside.append(ip)
        elif not comes and ip in inside:
            inside.remove(ip)
            doorway.left(ip)
        assert doorway.inside_count == len(inside)
        assert inside.count(ip) <= SETTINGS.connections_max


def test_strangers_make_way_only_when_there_are_too_many() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    assert doorway.whom_to_turn_out([HERE] * 4, now_s=0) is None
    drawn = {doorway.whom_to_turn_out([HERE] * 5, now_s=0) for _ in range(50)}
    assert drawn == set(range(4)), "the newest stays"


def test_strangers_of_the_address_that_failed_most_make_way_first() -> None:
    doorway = Doorway(SETTINGS, Random(1))
    for _ in range(2):
        doorway.on_failure(THERE, now_s=0)
    strangers = [HERE, HERE, THERE, HERE, HERE]
    assert {doorway.whom_to_turn_out(strangers, now_s=0) for _ in range(50)} == {2}
    assert {doorway.whom_to_turn_out(strangers, now_s=2) for _ in range(50)} == set(range(4))
    assert doorway.whom_to_turn_out([HERE] * 4 + [THERE], now_s=0) == 4


@pytest.mark.parametrize("addresses_count", [1, 5, 40])
def test_handshakes_survive_a_flood_from_addresses_that_come_again(addresses_count: int) -> None:
    survived_count = sum(survives_a_flood(addresses_count, Random(seed)) for seed in range(50))
    assert survived_count >= 45


def test_an_address_that_failed_a_few_times_gets_in_like_any_other() -> None:
    doorway = Doorway(DoorwaySettings(), Random(1))
    places_count = DoorwaySettings().strangers_max
    doorway.on_failure(HERE, now_s=0)
    for now_s in (1.0, 1.5, 2.0, 2.5):
        place = doorway.whom_to_turn_out([*[THERE] * places_count, HERE], now_s=now_s)
        assert place in range(places_count)
        doorway.on_failure(HERE, now_s=now_s)  # and is pushed out again, or was too slow


def survives_a_flood(addresses_count: int, rng: Random) -> bool:
    """Return whether one that takes half a second gets through when 100 others come a second."""
    doorway = Doorway(DoorwaySettings(), rng)
    strangers: list[str] = []

    def enter(ip: str, now_s: float) -> None:
        strangers.append(ip)
        place = doorway.whom_to_turn_out(strangers, now_s=now_s)
        if place is not None:
            doorway.on_failure(strangers.pop(place), now_s=now_s)

    for number in range(650):
        if number == 600:  # by then it shows which addresses come again
            enter(HERE, number / 100)
        enter(f"198.51.100.{number % addresses_count}", number / 100)
    return HERE in strangers
