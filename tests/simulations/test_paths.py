"""What packets suffer on a path: regions, conditions that overlap, faults that are counted."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from simulations.conditions import Conditions, RegionLink
from simulations.errors import BadScenario
from simulations.paths import LANE_MESSAGE, LANE_TRANSFER, NetworkSettings, Paths, PeerPair
from wire.ids import PeerId

PEERS = [PeerId(bytes([number]) * 32) for number in range(4)]
PAIRS = [(one, other) for one in PEERS for other in PEERS if one != other]
SETTINGS = NetworkSettings(latency_us=5_000, jitter_us=0)
BETWEEN = RegionLink(one="east", other="west", latency_us=80_000, bytes_per_second=1_000_000)


def paths_of(settings: NetworkSettings, *, seed: int = 1) -> Paths:
    paths = Paths(settings, seed=seed)
    for index, peer in enumerate(PEERS):
        paths.attach(peer, index)
    return paths


def test_paths_between_regions_have_a_latency_of_their_own_both_ways() -> None:
    within = RegionLink(one="east", other="east", latency_us=100)
    regions = {0: "east", 1: "west", 2: "east"}
    paths = paths_of(replace(SETTINGS, regions=regions, region_links=(BETWEEN, within)))

    def delay_us(one: int, other: int) -> int:
        return paths.delay_us(LANE_MESSAGE, PEERS[one], PEERS[other])

    assert (delay_us(0, 1), delay_us(1, 0)) == (80_001, 80_001)
    assert (delay_us(0, 2), delay_us(2, 0)) == (101, 101)
    assert (delay_us(0, 3), delay_us(3, 1)) == (5_001, 5_001)  # of no region
    assert paths.path(PEERS[1], PEERS[2]).bytes_per_second == 1_000_000
    assert paths.path(PEERS[2], PEERS[0]).bytes_per_second is None


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ((replace(BETWEEN, other="north"),), "a link of region 'north', in which no device is"),
        (
            (BETWEEN, replace(BETWEEN, one="west", other="east")),
            "two links between regions 'west' and 'east'",
        ),
    ],
)
def test_regions_that_do_not_fit_together_are_refused(
    links: tuple[RegionLink, ...], reason: str
) -> None:
    settings = replace(SETTINGS, regions={0: "east", 1: "west"}, region_links=links)
    with pytest.raises(BadScenario, match=f"^{reason}$"):
        Paths(settings, seed=1)


@pytest.mark.parametrize(
    "text",
    [
        '{"loss_permille": 1001}',
        '{"latency_us": -1}',
        '{"bytes_per_second": 0}',
        '{"regions": {"-1": "a"}}',
    ],
)
def test_settings_read_from_a_file_are_within_their_bounds(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=NetworkSettings)


def test_settings_survive_a_file() -> None:
    settings = replace(SETTINGS, regions={0: "east", 1: "west"}, region_links=(BETWEEN,))
    assert msgspec.json.decode(msgspec.json.encode(settings), type=NetworkSettings) == settings


def test_conditions_add_up_and_the_lowest_cap_holds() -> None:
    paths = paths_of(replace(SETTINGS, loss_permille=10, bytes_per_second=5_000))
    path = paths.path(PEERS[0], PEERS[1])
    slow = Conditions(latency_us=1_000, jitter_us=200, loss_permille=600, bytes_per_second=9_000)
    thin = Conditions(loss_permille=500, bytes_per_second=100)
    for conditions in (slow, slow, thin):
        paths.worsen([PAIRS[0]], conditions)
    assert (path.latency_us, path.jitter_us) == (7_000, 400)
    assert (path.loss_permille, path.bytes_per_second) == (1_000, 100)
    paths.better([PAIRS[0]], thin)
    paths.better([PAIRS[0]], thin)  # ended already: nothing is left to end
    paths.better([PAIRS[0]], slow)
    assert (path.latency_us, path.loss_permille, path.bytes_per_second) == (6_000, 610, 5_000)
    assert paths.path(PEERS[1], PEERS[0]).latency_us == 5_000


def test_a_path_that_was_worse_before_its_first_packet_is_worse_from_the_first_on() -> None:
    paths = paths_of(SETTINGS)
    paths.worsen(PAIRS, Conditions(latency_us=1_000))
    assert paths.delay_us(LANE_MESSAGE, *PAIRS[0]) == 6_001
    paths.heal()
    assert paths.delay_us(LANE_MESSAGE, *PAIRS[0]) == 5_001


def test_lanes_of_a_path_have_fates_of_their_own() -> None:
    lanes = [paths_of(SETTINGS).path(*PAIRS[0]) for _ in range(2)]
    fates = [
        [lane_path.fate(lane) for _ in range(100)]
        for lane_path, lane in zip(lanes, (LANE_MESSAGE, LANE_TRANSFER), strict=True)
    ]
    assert not set(fates[0]) & set(fates[1])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cut", "mend", "jam", "release", "heal"]), st.sampled_from(PAIRS)
        ),
        max_size=40,
    )
)
def test_faults_of_a_pair_last_until_as_many_have_ended_as_have_begun(
    steps: list[tuple[str, PeerPair]],
) -> None:
    paths = paths_of(SETTINGS)
    cuts, jams = Counter[PeerPair](), Counter[PeerPair]()
    for what, pair in steps:
        match what:
            case "cut":
                assert paths.cut([pair]) == [pair] * (cuts[pair] == 0)
                cuts[pair] += 1
            case "mend":
                assert paths.mend([pair]) == [pair] * (cuts[pair] == 1)
                cuts[pair] = max(0, cuts[pair] - 1)
            case "jam":
                assert paths.jam([pair]) == [pair] * (jams[pair] == 0)
                jams[pair] += 1
            case "release":
                assert paths.release([pair]) == [pair] * (jams[pair] == 1)
                jams[pair] = max(0, jams[pair] - 1)
            case "heal":
                assert sorted(paths.heal()) == sorted(+jams)
                cuts.clear()
                jams.clear()
        for origin, target in PAIRS:
            is_cut, is_jammed = cuts[origin, target] > 0, jams[origin, target] > 0
            assert paths.is_cut(origin, target) == is_cut
            assert paths.is_jammed(origin, target) == is_jammed
            assert paths.passes(origin, target) == (not is_cut and not is_jammed)
            both = paths.passes(origin, target) and paths.passes(target, origin)
            assert paths.is_whole(origin, target) == both
        assert sorted(paths.cuts()) == sorted(+cuts)
