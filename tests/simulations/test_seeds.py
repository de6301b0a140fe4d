"""Each purpose has its own randomness, and a packet's fate depends on where it is only."""

from __future__ import annotations

from simulations.paths import LANE_DIAL, LANE_MESSAGE, NetworkSettings, Paths
from simulations.seeds import derived_bytes, packet_fate, source, splitmix64
from wire.ids import PeerId

PEERS = [PeerId(bytes([number]) * 32) for number in range(3)]


def test_a_purpose_decides_its_draws_and_another_purpose_or_seed_gives_others() -> None:
    draws = [source(*where).random() for where in ((1, "a"), (1, "a"), (1, "b"), (2, "a"))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_parts_of_a_purpose_do_not_run_together() -> None:
    assert derived_bytes(1, "a", 23) != derived_bytes(1, "a2", 3)


def test_splitmix_gives_the_numbers_of_its_authors() -> None:
    # The first outputs for seed 1234567 of the reference implementation by Sebastiano Vigna.
    state, outputs = 1234567, list[int]()
    for _ in range(3):
        outputs.append(splitmix64(state))
        state = (state + 0x9E3779B97F4A7C15) & ((1 << 64) - 1)
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_fates_of_a_link_do_not_change_when_other_links_carry_more() -> None:
    settings = NetworkSettings(jitter_us=50_000, loss_permille=100)
    quiet, busy = Paths(settings, seed=7), Paths(settings, seed=7)
    for paths in (quiet, busy):
        for index, peer in enumerate(PEERS):
            paths.attach(peer, index)
    alone = [quiet.delay_us(LANE_MESSAGE, PEERS[0], PEERS[1]) for _ in range(50)]
    among = []
    for _ in range(50):
        busy.delay_us(LANE_MESSAGE, PEERS[1], PEERS[0])
        busy.delay_us(LANE_DIAL, PEERS[0], PEERS[1])
        busy.delay_us(LANE_MESSAGE, PEERS[0], PEERS[2])
        among.append(busy.delay_us(LANE_MESSAGE, PEERS[0], PEERS[1]))
    assert alone == among
    assert len(set(alone)) > 25


def test_losses_come_as_often_as_they_should_and_cost_a_retransmission() -> None:
    settings = NetworkSettings(latency_us=1_000, jitter_us=0, loss_permille=100)
    paths = Paths(settings, seed=3)
    for index, peer in enumerate(PEERS):
        paths.attach(peer, index)
    delays = [paths.delay_us(LANE_MESSAGE, PEERS[0], PEERS[1]) for _ in range(4_000)]
    stalled = [delay_us for delay_us in delays if delay_us > 1_001]
    assert 300 < len(stalled) < 500
    assert min(stalled) == 1_001 + settings.retransmission_us
    assert max(stalled) >= 1_001 + 3 * settings.retransmission_us


def test_every_place_has_its_own_fate() -> None:
    places = [
        (lane, a, b, count) for lane in (0, 1) for a in (0, 1) for b in (0, 1) for count in (0, 1)
    ]
    assert len({packet_fate(1, *place) for place in places}) == len(places)
