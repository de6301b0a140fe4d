"""Real Serf agents on loopback, asked over their RPC protocol (MessagePack over TCP)."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgpack

from benchmarks.membership.agents import START_S_MAX, Agents, wait_until

ANSWER_TIMEOUT_S = 10.0
RPC_VERSION = 1
READ_BYTES = 65_536


class SerfRpc:
    """A connection to one agent, one request at a time; `cmd/serf/command/agent/ipc.go`."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S)
        self._unpacker = msgpack.Unpacker(raw=False, unicode_errors="replace")
        self._sequence = 0
        self._request("handshake", {"Version": RPC_VERSION})

    def members(self, name: str = "") -> dict[str, str]:
        """Return the states of the members whose name matches, of all by default.

        Raises OSError if the agent went away.
        """
        self._request("members-filtered", {"Name": name, "Status": "", "Tags": {}})
        return {one["Name"]: one["Status"] for one in self._receive()["Members"]}

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _request(self, command: str, body: dict[str, object]) -> None:
        self._sequence += 1
        head = {"Command": command, "Seq": self._sequence}
        self._socket.sendall(msgpack.packb(head) + msgpack.packb(body))
        error = self._receive()["Error"]
        if error:
            raise OSError(f"serf refuses {command}: {error}")

    def _receive(self) -> dict[str, list[dict[str, str]]]:
        while True:
            for answer in self._unpacker:
                return cast(dict[str, list[dict[str, str]]], answer)
            received = self._socket.recv(READ_BYTES)
            if not received:
                raise OSError("the agent hung up")
            self._unpacker.feed(received)


class SerfAgents(Agents):
    """Agents with Serf's default profile, `lan`."""

    name = "serf"
    alarms = (b"has failed, no acks", b"Marking ")  # of memberlist

    def __init__(self, count: int, directory: Path, *, program: str) -> None:
        super().__init__(count, directory)
        self._program = program
        self._ports = free_ports(2 * count)
        self._connections: dict[int, SerfRpc] = {}

    def start(self) -> None:
        """Start all at once; each joins the first. Raises NotInTime."""
        for index in range(self.count):
            command = [self._program, "agent", f"-node={self.agent(index)}", "-log-level=warn"]
            command += [f"-bind=127.0.0.1:{self._ports[index]}"]
            command += [f"-rpc-addr=127.0.0.1:{self._ports[self.count + index]}"]
            if index:
                command += [f"-retry-join=127.0.0.1:{self._ports[0]}", "-retry-interval=1s"]
            process = self.launch(index, command)
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            process.stdout.readline()  # it is up: what it writes later fits into the pipe
        wait_until(self._is_connected, "Serf's agents listen", within_s=START_S_MAX)
        self.wait_until_full()

    def _is_connected(self) -> bool:
        for index in range(self.count):
            if index not in self._connections:
                try:
                    self._connections[index] = SerfRpc(self._ports[self.count + index])
                except ConnectionRefusedError:
                    return False
        return True

    def states(self, observer: int) -> Mapping[str, str]:
        """Return what an agent says of all."""
        return self._connections[observer].members()

    def state(self, observer: int, subject: int) -> str:
        """Return what an agent says of another."""
        name = self.agent(subject)
        return self._connections[observer].members(f"^{name}$").get(name, "unknown")

    def is_well(self, state: str) -> bool:
        """`alive` is; suspects are alive too for Serf."""
        return state == "alive"

    def is_dead(self, state: str) -> bool:
        """`failed` is."""
        return state == "failed"

    def hang_up(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def free_ports(count: int) -> list[int]:
    """Return ports of loopback on which nobody listened a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
