"""The network that the other tests trust: what passes, what does not, and that nothing is left."""

from __future__ import annotations

import errno
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest
from support.netns import (
    NETEM_MISSING,
    Delay,
    DelayedBy,
    Fabric,
    fabric,
    has_netem,
)
from support.netns_leftovers import namespaces_of, sweep

GROUP, PORT = "239.255.77.78", 4777
SOON_S, NEVER_S = 5.0, 0.2
ARP_S = 3.5  # three questions, a second each, go unanswered
DELAY = Delay(latency_us=30_000, jitter_us=20_000)
TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def four() -> Iterator[Fabric]:
    """Return a network of four nodes, which tests leave whole."""
    with fabric(4) as made:
        yield made


@pytest.fixture(autouse=True)
def _whole_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "four" in request.fixturenames:
        request.getfixturevalue("four").heal()


def listener(network: Fabric, node: int) -> socket.socket:
    """Return a socket on a node that takes datagrams, those for the group included."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", PORT))
        own = socket.inet_aton(network.host(node))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + own)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        return made

    return network.inside(node, make)


def heard_from(
    network: Fabric, sender: int, to: str | None = None, *, within_s: float = NEVER_S
) -> list[int]:
    """Return which nodes hear what one sends to the address of each, or to the one address."""
    with ExitStack() as stack:
        ears = [stack.enter_context(listener(network, node)) for node in range(4)]
        for node, ear in enumerate(ears):
            ear.settimeout(within_s)
            if to is None and node != sender:
                ears[sender].sendto(b"hello", (network.host(node), PORT))
        if to is not None:
            ears[sender].sendto(b"hello", (to, PORT))
        return [node for node, ear in enumerate(ears) if node != sender and is_heard(ear)]


def is_heard(ear: socket.socket) -> bool:
    """Say whether something arrives."""
    try:
        return bool(ear.recv(100))
    except TimeoutError:
        return False


def connected(network: Fabric, dialler: int, answering: int) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection between two nodes, the dialler's first."""
    with network.inside(answering, lambda: socket.create_server(("", PORT))) as server:
        where = (network.host(answering), PORT)
        here = network.inside(dialler, lambda: socket.create_connection(where, SOON_S))
        there, _ = server.accept()
    there.settimeout(SOON_S)
    return here, there


def reset_later(connection: socket.socket) -> None:
    """Let a connection end without waiting for the other end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# --- what passes ----------------------------------------------------------------------------------


def test_all_nodes_hear_each_other_one_by_one_and_by_multicast(four: Fabric) -> None:
    for sender in range(4):
        others = [node for node in range(4) if node != sender]
        assert heard_from(four, sender, within_s=SOON_S) == others
        assert heard_from(four, sender, to=GROUP, within_s=SOON_S) == others


@pytest.mark.parametrize("delayed_by", [None, DelayedBy.RELAY])
def test_the_machine_itself_has_no_part_in_it(delayed_by: DelayedBy | None) -> None:
    before = psutil.net_if_addrs()
    with fabric(2, delays={1: DELAY} if delayed_by else {}, delayed_by=delayed_by) as network:
        assert psutil.net_if_addrs() == before
        ours = network.inside(1, psutil.net_if_addrs)
        assert sorted(ours) == ["lo", "mesh0"]
        assert network.host(1) in [one.address for one in ours["mesh0"]]


# --- what does not --------------------------------------------------------------------------------


def test_a_split_lets_groups_hear_themselves_alone_until_it_is_healed(four: Fabric) -> None:
    four.split((0, 1))
    assert heard_from(four, 0) == [1]
    assert heard_from(four, 3) == [2]
    assert heard_from(four, 1, to=GROUP) == [0]
    assert four.lost_count() > 0
    four.heal()
    assert heard_from(four, 0) == [1, 2, 3]


def test_a_cut_one_way_leaves_the_other(four: Fabric) -> None:
    four.cut([0], [1, 2])
    assert heard_from(four, 0, to=GROUP) == [3]
    assert heard_from(four, 1, to=GROUP) == [0, 2, 3]


def test_a_connection_is_told_nothing_of_a_cut_and_goes_on_after_it(four: Fabric) -> None:
    here, there = connected(four, 0, 1)
    with here, there:
        four.split((0,))
        here.sendall(b"are you there")
        there.settimeout(NEVER_S)
        with pytest.raises(TimeoutError):
            there.recv(100)
        with pytest.raises(TimeoutError):  # nor is anybody refused: a dial just waits
            four.inside(0, lambda: socket.create_connection((four.host(1), PORT), NEVER_S))
        four.heal()
        there.settimeout(SOON_S)
        assert there.recv(100) == b"are you there"


def test_only_who_knows_its_neighbours_for_good_is_told_nothing() -> None:
    def dial() -> None:
        network.inside(0, lambda: socket.create_connection((network.host(1), PORT), ARP_S))

    with fabric(2) as network:
        network.split((0,))
        with pytest.raises(OSError, match="No route to host"):
            dial()
        network.pin_neighbours()
        with pytest.raises(TimeoutError):
            dial()
        network.heal()
        with pytest.raises(ConnectionRefusedError):
            dial()


def test_a_blackhole_tells_the_sender_at_once(four: Fabric) -> None:
    four.blackhole(0, [1])
    began_s = time.monotonic()
    with pytest.raises(OSError, match="Invalid argument") as refused:
        four.inside(0, lambda: socket.create_connection((four.host(1), PORT), SOON_S))
    assert refused.value.errno == errno.EINVAL
    assert time.monotonic() - began_s < NEVER_S
    four.clear_blackholes(0)
    assert heard_from(four, 0) == [1, 2, 3]


def test_a_lossy_network_loses_about_as_much_as_was_asked_for(four: Fabric) -> None:
    four.lose(permille=300)
    with listener(four, 0) as sender, listener(four, 1) as ear:
        ear.settimeout(NEVER_S)
        for _ in range(400):
            sender.sendto(b"x", (four.host(1), PORT))
        heard_count = 0
        while is_heard(ear):
            heard_count += 1
    assert 200 < heard_count < 360  # 280 and five standard deviations


def test_a_new_address_leaves_old_connections_dead(four: Fabric) -> None:
    here, there = connected(four, 2, 3)
    old, new = four.host(2), four.readdress(2)
    assert old != new
    there.settimeout(NEVER_S)
    here.sendall(b"from where I was")  # into the socket's buffer, and no further
    with pytest.raises(TimeoutError):
        there.recv(100)
    assert heard_from(four, 1) == [0, 2, 3]
    for end in (here, there):
        reset_later(end)


# --- long and narrow cables -----------------------------------------------------------------------


@pytest.mark.parametrize("means", DelayedBy)
def test_a_long_cable_delays_every_frame_and_keeps_their_order(means: DelayedBy) -> None:
    if means is DelayedBy.NETEM and not has_netem():
        pytest.skip(NETEM_MISSING)
    with (
        fabric(2, delays={0: DELAY}, delayed_by=means) as network,
        listener(network, 0) as near,
        listener(network, 1) as far,
    ):
        round_trips_ms = [round_trip_s(network, near, far) * 1_000 for _ in range(12)][1:]
        for number in range(200):
            near.sendto(number.to_bytes(2, "big"), (network.host(1), PORT))
        assert [int.from_bytes(far.recv(10), "big") for _ in range(200)] == list(range(200))
    # Twice 30 ms, twice up to 20 ms more, and what the machine takes for itself.
    assert min(round_trips_ms) >= 59
    assert statistics.median(round_trips_ms) < 130
    assert max(round_trips_ms) - min(round_trips_ms) > 2


def round_trip_s(network: Fabric, near: socket.socket, far: socket.socket) -> float:
    """Return how long a datagram travels there and back."""
    near.settimeout(SOON_S)
    far.settimeout(SOON_S)
    began_s = time.monotonic()
    near.sendto(b"there", (network.host(1), PORT))
    far.recv(10)
    far.sendto(b"back", (network.host(0), PORT))
    near.recv(10)
    return time.monotonic() - began_s


@pytest.mark.parametrize("delays", [{}, {0: Delay(latency_us=5_000)}], ids=["short", "long"])
def test_a_narrow_cable_is_slow_in_both_directions(delays: dict[int, Delay]) -> None:
    sent = bytes(250_000)  # a second at 2 Mbit/s
    with fabric(2, delays=delays) as network:
        network.limit(0, rate_bits_per_second=2_000_000)
        for dialler, answering in ((0, 1), (1, 0)):
            here, there = connected(network, dialler, answering)
            here.settimeout(SOON_S)
            with here, there, closing(there.makefile("rb")) as arriving:
                began_s = time.monotonic()
                sending = threading.Thread(target=here.sendall, args=[sent])
                sending.start()
                assert arriving.read(len(sent)) == sent
                assert 0.7 < time.monotonic() - began_s < 4
                sending.join()


# --- nothing is left ------------------------------------------------------------------------------


def test_a_network_is_taken_away_with_what_runs_in_it_though_the_test_failed() -> None:
    left: list[subprocess.Popen[bytes]] = []
    names: list[str] = []

    def fail() -> None:
        with fabric(2, delays={1: DELAY}, delayed_by=DelayedBy.RELAY) as network:
            inside = [*network.prefix(0), "sh", "-c", "echo inside; exec sleep 100"]
            process = subprocess.Popen(inside, stdout=subprocess.PIPE)
            left.append(process)
            assert process.stdout is not None
            with process.stdout:
                assert process.stdout.readline() == b"inside\n", "it is in its namespace"
            names.append(network.name)
            assert len(namespaces_of(network.name)) == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [namespaces_of(name) for name in names] == [[]]
    assert [process.wait(SOON_S) for process in left] == [-signal.SIGKILL]


KILLED = """
import subprocess, sys, time
from support.netns import Delay, DelayedBy, fabric
with fabric(1, delays={0: Delay(latency_us=1)}, delayed_by=DelayedBy.RELAY) as network:
    told = subprocess.Popen([*network.prefix(0), "sleep", "100"])
    alone = subprocess.Popen(["ip", "netns", "exec", network.namespace(0), "sleep", "100"])
    print(network.name, told.pid, alone.pid, network._relays[0].pid, flush=True)
    time.sleep(100)
"""


def test_what_a_killed_run_left_is_swept_away_by_the_next(four: Fabric) -> None:
    run = subprocess.Popen([sys.executable, "-c", KILLED], cwd=TESTS, stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run:
        name, *pids = run.stdout.readline().decode().split()
        processes = [psutil.Process(int(pid)) for pid in pids]
        assert sweep() == []  # it lives
        run.kill()
    assert len(namespaces_of(name)) == 2
    sweep()
    assert namespaces_of(name) == []
    assert namespaces_of(four.name) != []
    _, alive = psutil.wait_procs(processes, timeout=SOON_S)
    assert alive == []
