"""Small networks in the kernel: namespaces joined by a bridge, which tests cut, slow and heal.

Each node is a network namespace with one interface, `mesh0`, and an address of its own. All are
plugged into one bridge, which has a namespace to itself: neither an address nor a multicast of the
tests reaches the machine's own network. Cuts happen at the bridge, so a node is told nothing: what
it sends is lost, nothing is refused, and no cable looks unplugged.

Needs root, iproute2 and nftables. Everything is taken away at the end of the block, whatever
happened in it, and what a killed run left behind is swept away by the next one.
"""

from __future__ import annotations

import enum
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from support.netns_entry import inside
from support.netns_leftovers import namespaces_of, new_name, remove, sweep

INTERFACE = "mesh0"  # of every node
SUBNET = "10.213.78"  # of every network: nobody outside ever sees it
NODES_MAX = 50
HOSTS_MAX = 250
COMMAND_S_MAX = 20.0
RELAY_S_MAX = 20.0
FRAMES_MAX = 2_048  # under way in a long cable
QUEUE_MS_MAX = 200  # what waits longer for a limited cable is lost

NETEM_MISSING = "no netem: this kernel has no CONFIG_NET_SCH_NETEM"

_TESTS = Path(__file__).parent.parent

# A pair in `cut` lets nothing pass from the first port to the second. A flood is asked for each
# port it would leave by, so multicast is cut like everything else.
_RULES = """
table bridge faults {
  counter lost { }
  set cut { typeof iifname . oifname; }
  chain loss { }
  chain pass {
    type filter hook forward priority 0; policy accept;
    iifname . oifname @cut counter name lost drop
    jump loss
  }
}
"""

# Of a router: what comes from outside and answers nothing is dropped without a word.
_NAT_RULES = f"""
table ip nat {{
  counter refused {{ }}
  chain translate {{
    type nat hook postrouting priority 100; policy accept;
    oifname "{INTERFACE}" masquerade
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    oifname "{INTERFACE}" ip daddr 192.168.0.0/16 counter name refused drop
    iifname "{INTERFACE}" ct state established,related accept
    iifname "{INTERFACE}" counter name refused drop
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname "{INTERFACE}" ct state established,related accept
    iifname "{INTERFACE}" meta l4proto tcp counter name refused drop
  }}
}}
"""

Answer = TypeVar("Answer")


class DelayedBy(enum.Enum):
    """What delays the frames of a long cable."""

    NETEM = "netem"  # the kernel, if it can
    RELAY = "relay"  # a process of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """What a long cable adds to every frame, in each direction. Frames keep their order."""

    latency_us: int
    jitter_us: int = 0


@dataclass(slots=True)
class Fabric:
    """A bridge and the nodes plugged into it, by number. Made by `fabric`."""

    name: str
    nodes_count: int
    delayed_by: DelayedBy
    _hosts: list[str] = field(default_factory=list)
    _hosts_count: int = 0
    _delays: dict[int, Delay] = field(default_factory=dict)
    _relays: list[subprocess.Popen[bytes]] = field(default_factory=list)

    # --- where things are ------------------------------------------------------------------------

    @property
    def switch(self) -> str:
        """The namespace of the bridge."""
        return f"{self.name}-switch"

    def namespace(self, node: int) -> str:
        """Return the namespace of a node."""
        return f"{self.name}-{node}"

    def host(self, node: int) -> str:
        """Return a node's current IPv4 address."""
        return self._hosts[node]

    def prefix(self, node: int) -> tuple[str, ...]:
        """Return what to put before a command that shall run on a node.

        The process has the id of the command, and is killed if the thread that started it ends.
        """
        dies_with_us = ("setpriv", "--pdeathsig", "KILL")
        return ("ip", "netns", "exec", self.namespace(node), *dies_with_us)

    def inside(self, node: int, action: Callable[[], Answer]) -> Answer:
        """Return what `action` returns on a node; a socket made there stays there."""
        return inside(self.namespace(node), action)

    # --- cuts ------------------------------------------------------------------------------------

    def cut(self, origins: Iterable[int], targets: Iterable[int]) -> None:
        """Let nothing pass from `origins` to `targets`; the other direction stays as it is."""
        pairs = [pair for pair in itertools.product(origins, targets) if pair[0] != pair[1]]
        if pairs:
            elements = ", ".join(f"{_port(one)} . {_port(other)}" for one, other in pairs)
            self._filter(f"add element bridge faults cut {{ {elements} }}")

    def split(self, *groups: Sequence[int]) -> None:
        """Let nodes reach those of their own group only; who is in none is a group with them."""
        named = {node for group in groups for node in group}
        rest = tuple(node for node in range(self.nodes_count) if node not in named)
        for ours, theirs in itertools.permutations([*groups, rest], 2):
            self.cut(ours, theirs)

    def heal(self) -> None:
        """End all cuts and losses. Limits and routes stay as they are."""
        self._filter("flush set bridge faults cut\nflush chain bridge faults loss")

    def lose(self, *, permille: int) -> None:
        """Lose some of all frames, at random."""
        rule = f"numgen random mod 1000 < {permille} counter name lost drop"
        self._filter(f"flush chain bridge faults loss\nadd rule bridge faults loss {rule}")

    def lost_count(self) -> int:
        """Return how many frames were lost by cuts and losses so far."""
        listed = self._nft("-j", "list", "counter", "bridge", "faults", "lost")
        (counter,) = (one["counter"] for one in json.loads(listed)["nftables"] if "counter" in one)
        return int(counter["packets"])

    def pin_neighbours(self) -> None:
        """Let every node know for good where the others are, as if a router lay between them.

        Without it, whoever is cut off on a LAN is told "no route to host" after some seconds of
        asking for the other's hardware address; with it, what is sent is never heard of again.
        """
        for node in range(self.nodes_count):
            others = (other for other in range(self.nodes_count) if other != node)
            pinned = (f"{self.host(other)} lladdr {_hardware(other)}" for other in others)
            self._ip(
                node, *(f"neigh replace {one} dev {INTERFACE} nud permanent" for one in pinned)
            )

    # --- what a node feels -----------------------------------------------------------------------

    def blackhole(self, node: int, others: Iterable[int]) -> None:
        """Let a node's own kernel throw away what it sends to others, as a broken VPN does.

        Unlike a cut, whoever sends is told: connecting fails at once.
        """
        self._ip(node, *(f"route add blackhole {self.host(other)}/32" for other in others))

    def clear_blackholes(self, node: int) -> None:
        """Let a node send to everybody again."""
        self._ip(node, "route flush type blackhole")

    def readdress(self, node: int, host: str | None = None) -> str:
        """Give a node another address, as a router that forgot it would; return it.

        `host` is one that it had before, by default it is one that nobody had. Connections of the
        old one are dead at both ends, and neither is told.
        """
        old, new = self.host(node), host or self._free_host()
        self._hosts[node] = new
        replaced = (f"address delete {old}/24", f"address add {new}/24")
        self._ip(node, *(f"{command} dev {INTERFACE}" for command in replaced))
        return new

    def put_behind_nat(self, node: int) -> str:
        """Put a router of its own between a node and the bridge; return the router's address.

        As home routers do, it gives whatever the node sends its own address and another port
        (masquerade), lets in only what belongs to that, and drops what is for private addresses.
        """
        router, outside, hidden = self._router(node), self.host(node), f"192.168.{node}"
        run("ip", "netns", "add", router)
        self._ip(node, f"link set {INTERFACE} netns {router}")
        _batch(
            "ip",
            router,
            "link set lo up",
            f"address add {outside}/24 dev {INTERFACE}",
            f"link set {INTERFACE} up",
            f"route add default dev {INTERFACE}",
            f"link add home0 type veth peer name {INTERFACE} netns {self.namespace(node)}",
            f"address add {hidden}.1/24 dev home0",
            "link set home0 up",
        )
        self._ip(
            node,
            f"address add {hidden}.2/24 dev {INTERFACE}",
            f"link set {INTERFACE} up",
            f"route add default via {hidden}.1",
        )
        in_router = ("ip", "netns", "exec", router)
        run(*in_router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        run(*in_router, "nft", "-f", "-", stdin=_NAT_RULES)
        self._hosts[node] = f"{hidden}.2"
        return outside

    def refused_count(self, node: int) -> int:
        """Return how many packets a node's router did not let in, or out to a private address."""
        in_router = ("ip", "netns", "exec", self._router(node))
        listed = run(*in_router, "nft", "-j", "list", "counter", "ip", "nat", "refused")
        (counter,) = (one["counter"] for one in json.loads(listed)["nftables"] if "counter" in one)
        return int(counter["packets"])

    def limit(self, node: int, *, rate_bits_per_second: int) -> None:
        """Limit what a node sends, and what it receives (`tbf`). Once a node."""
        burst_bytes = max(16_384, rate_bits_per_second // 8 // 50)
        bucket = f"tbf rate {rate_bits_per_second}bit burst {burst_bytes} latency {QUEUE_MS_MAX}ms"
        by_netem = node in self._delays and self.delayed_by is DelayedBy.NETEM
        place = "parent 1:1" if by_netem else "root"
        for namespace, device in self._cable(node):
            _batch("tc", namespace, f"qdisc replace dev {device} {place} {bucket}")

    # --- making ----------------------------------------------------------------------------------

    def build(self, delays: Mapping[int, Delay]) -> None:
        """Make the bridge and everything that is plugged into it."""
        run("ip", "netns", "add", self.switch)
        bridge = "link add switch type bridge forward_delay 0 mcast_snooping 0"
        _batch("ip", self.switch, bridge, "link set switch up")
        self._filter(_RULES)
        for node in range(self.nodes_count):
            run("ip", "netns", "add", self.namespace(node))
            self._hosts.append(self._free_host())
            delay = delays.get(node)
            if delay is not None:
                self._delays[node] = delay
            if delay is not None and self.delayed_by is DelayedBy.RELAY:
                self._lay_relay(node, delay)
            else:
                self._lay_veth(node, delay)
            self._plug_in(node)

    def take_down(self) -> None:
        """End the relays, kill what still runs on a node, and remove all namespaces."""
        for relay in self._relays:
            assert relay.stdin is not None
            relay.stdin.close()  # it ends by itself
        for name in namespaces_of(self.name):
            remove(name)
        for relay in self._relays:
            with relay:
                relay.wait(RELAY_S_MAX)

    def _lay_veth(self, node: int, delay: Delay | None) -> None:
        ends = f"{INTERFACE} type veth peer name {_port(node)} netns {self.switch}"
        self._ip(node, f"link add {ends}")
        if delay is None:
            return
        for namespace, device in self._cable(node):
            how = f"delay {delay.latency_us}us {delay.jitter_us}us limit {FRAMES_MAX}"
            _batch(
                "tc",
                namespace,
                f"qdisc add dev {device} root handle 1: netem {how}",
                # With a queue of its own below it, netem keeps the order of frames.
                f"qdisc add dev {device} parent 1:1 pfifo limit {FRAMES_MAX}",
            )

    def _lay_relay(self, node: int, delay: Delay) -> None:
        module = "support.netns_relay"
        ends = (self.namespace(node), INTERFACE, self.switch, _port(node))
        figures = (str(delay.latency_us), str(delay.jitter_us))
        relay = subprocess.Popen(
            [sys.executable, "-m", module, *ends, *figures],
            cwd=_TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._relays.append(relay)
        assert relay.stdout is not None
        readable, _, _ = select.select([relay.stdout], [], [], RELAY_S_MAX)
        if not readable or relay.stdout.readline() != b"ready\n":
            raise NoFabric(f"the relay of node {node} did not start: {relay.poll()}")

    def _plug_in(self, node: int) -> None:
        self._ip(
            node,
            "link set lo up",
            f"link set {INTERFACE} address {_hardware(node)}",
            f"address add {self.host(node)}/24 dev {INTERFACE}",
            f"link set {INTERFACE} up",
        )
        _batch("ip", self.switch, f"link set {_port(node)} master switch up")

    def _router(self, node: int) -> str:
        return f"{self.name}-router{node}"

    def _free_host(self) -> str:
        self._hosts_count += 1
        assert self._hosts_count <= HOSTS_MAX
        return f"{SUBNET}.{self._hosts_count}"

    def _cable(self, node: int) -> tuple[tuple[str, str], ...]:
        """Return the namespace and the interface of both ends of a node's cable."""
        return ((self.namespace(node), INTERFACE), (self.switch, _port(node)))

    def _ip(self, node: int, *commands: str) -> None:
        _batch("ip", self.namespace(node), *commands)

    def _filter(self, commands: str) -> None:
        self._nft("-f", "-", stdin=commands)

    def _nft(self, *arguments: str, stdin: str = "") -> str:
        return run("ip", "netns", "exec", self.switch, "nft", *arguments, stdin=stdin)


class NoFabric(Exception):
    """A network could not be made; the message is what the kernel or its tools said."""


@contextmanager
def fabric(
    nodes_count: int,
    *,
    delays: Mapping[int, Delay] | None = None,
    delayed_by: DelayedBy | None = None,
) -> Iterator[Fabric]:
    """Make a network of `nodes_count` nodes, and take it away whatever happens. Raises NoFabric.

    `delays` makes the cables of some nodes long, by the kernel's `netem` if it has that, else (or
    if `delayed_by` says so) by a process that carries their frames.
    """
    assert 0 < nodes_count <= NODES_MAX
    sweep()
    by = delayed_by or (DelayedBy.NETEM if has_netem() else DelayedBy.RELAY)
    made = Fabric(new_name(), nodes_count, by)
    try:
        made.build(delays or {})
        yield made
    finally:
        made.take_down()


def why_no_fabric() -> str | None:
    """Return why no network can be made here, None if it can."""
    for command in ("ip", "tc", "nft", "setpriv"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with fabric(1):
            return None
    except NoFabric as error:
        return f"no network namespace: {error}"


def has_netem() -> bool:
    """Return whether the kernel can delay frames itself."""
    name = f"{new_name()}-try"
    run("ip", "netns", "add", name)
    try:
        _batch("tc", name, "qdisc add dev lo root netem delay 1ms")
    except NoFabric:
        return False
    else:
        return True
    finally:
        remove(name)


def run(*command: str, stdin: str = "") -> str:
    """Return what a command prints. Raises NoFabric with what it complains about."""
    ended = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=COMMAND_S_MAX
    )
    if ended.returncode:
        complaint = ended.stderr.strip() or f"exit code {ended.returncode}"
        raise NoFabric(f"{' '.join(command)}: {complaint}")
    return ended.stdout


def _batch(tool: str, namespace: str, *commands: str) -> None:
    """Have `ip` or `tc` carry out commands in a namespace."""
    run(tool, "-n", namespace, "-batch", "-", stdin="".join(f"{one}\n" for one in commands))


def _hardware(node: int) -> str:
    return f"02:00:00:00:00:{node:02x}"  # "02": assigned by whoever runs the network


def _port(node: int) -> str:
    return f"port{node}"
