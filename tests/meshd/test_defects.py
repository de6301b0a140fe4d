"""A defect of the daemon itself: seen, survived, and not for the sender to repeat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs
from support.linked import Linked, hello_of, linking
from support.memory_host import MemoryNetwork
from support.meshes import keys_of, small_mesh

from meshd.client import ControlClient
from meshd.control_errors import ControlError
from meshd.defects import (
    DEFECTS_MAX,
    DEFECTS_WITHIN_US,
    QUARANTINE_US,
    QUARANTINED_MAX,
    Defects,
    DefectsTooMany,
    NodeFailed,
)
from meshd.mailbox import Mailbox
from meshd.node import MeshNode
from meshd.shell import Shell
from wire import events as on
from wire.effects import Effect
from wire.events import DialFailed
from wire.ids import PeerId
from wire.messages import Heartbeat, RecordsGiven

PEER = keys_of(1).peer
BEAT = on.Received(PEER, Heartbeat(token=1))


def failed(event: on.Event = BEAT) -> NodeFailed:
    error = NodeFailed(event)
    error.__cause__ = KeyError("missing")
    return error


def test_a_defect_is_logged_as_an_error_with_what_and_who_set_it_off() -> None:
    defects = Defects()
    assert defects.warning() is None
    with capture_logs() as logs:
        defects.note(failed(), now_us=0)
    [line] = logs
    assert (line["event"], line["log_level"], line["count"]) == ("daemon.defect", "error", 1)
    assert "Received Heartbeat" in line["reason"]
    assert "KeyError" in line["reason"]
    assert line["sender"].startswith("12D3KooW")
    assert isinstance(line["exc_info"], NodeFailed)
    assert "KeyError" in (defects.warning() or "")


@pytest.mark.parametrize(
    "event",
    [
        BEAT,
        on.PublishedReceived(RecordsGiven(records=()), PEER),
        on.LinkUp(
            peer=PEER,
            hello=hello_of(small_mesh(), small_mesh().devices[1]),
            address="",
            is_outbound=True,
        ),
    ],
)
def test_whoever_set_off_a_defect_is_not_heard_for_a_while(event: on.Event) -> None:
    defects = Defects()
    defects.note(failed(event), now_us=5)
    assert defects.quarantined() == (PEER,)
    assert defects.quarantine_us(PEER, now_us=5) == QUARANTINE_US
    assert defects.quarantine_us(PEER, now_us=5 + QUARANTINE_US) == 0
    assert defects.quarantine_us(keys_of(2).peer, now_us=5) == 0


def test_a_defect_that_nobody_sent_isolates_nobody() -> None:
    defects = Defects()
    defects.note(failed(on.TimerDue("key")), now_us=0)
    defects.note(KeyError("in another part"), now_us=1)
    assert defects.quarantined() == ()
    assert defects.count == 2


def test_many_defects_in_a_short_time_end_the_process_and_slow_ones_do_not() -> None:
    slow, quick = Defects(), Defects()
    for number in range(3 * DEFECTS_MAX):
        slow.note(KeyError(), now_us=number * DEFECTS_WITHIN_US)
    for number in range(DEFECTS_MAX - 1):
        quick.note(KeyError(), now_us=number)
    with pytest.raises(DefectsTooMany, match="report"):
        quick.note(failed(), now_us=DEFECTS_MAX)


def test_the_isolated_are_few_whoever_makes_ids() -> None:
    defects = Defects()
    for number in range(QUARANTINED_MAX + 10):
        peer = PeerId(number.to_bytes(32, "big"))
        event = on.Received(peer, Heartbeat(token=1))
        defects.note(failed(event), now_us=number * DEFECTS_WITHIN_US)
    assert len(defects.quarantined()) == QUARANTINED_MAX


_OTHER_PARTS = (
    "links",
    "store",
    "writer",
    "rows",
    "blobs",
    "contents",
    "runs",
    "finding",
    "questions",
    "publish",
    "use_network_keys",
)


class RaisingNode:
    """Raises at everything."""

    def handle(self, event: on.Event, now_us: int) -> list[Effect]:
        """Fail."""
        raise KeyError(f"{type(event).__name__} at {now_us}")


async def test_the_shell_says_at_which_event_the_node_raised() -> None:
    mailbox = Mailbox()
    others: dict[str, Any] = dict.fromkeys(_OTHER_PARTS)  # not reached
    shell = Shell(
        **others,
        node=cast(MeshNode, RaisingNode()),
        mailbox=mailbox,
        now_us=lambda: 7,
    )
    await mailbox.post(BEAT)
    with pytest.raises(ExceptionGroup) as raised:
        await shell.run()
    [failure] = raised.value.exceptions
    assert isinstance(failure, NodeFailed)
    assert failure.peer == PEER
    assert isinstance(failure.__cause__, KeyError)


async def test_a_banned_device_is_neither_dialled_nor_answered(autojump_clock: object) -> None:
    mesh, network = small_mesh(2), MemoryNetwork()
    near, far = (Linked(network.host(one.peer), mesh, one) for one in mesh.devices)
    async with trio.open_nursery() as nursery:
        for device in (near, far):
            await nursery.start(network.host(device.peer).run)
        async with linking(near, far):
            near.links.ban(far.peer, for_s=60)
            await near.dial(far)
            [refused] = await near.wait_for(DialFailed)
            assert "banned" in refused.reason
            await far.dial(near)
            await far.wait_for(DialFailed)
            await trio.sleep(61)
            await near.dial(far)
            await near.wait_for(on.LinkUp)
        nursery.cancel_scope.cancel()


# --- a whole daemon --------------------------------------------------------------------------

# Raises once, at the first question for the status, as a defect would.
SCRIPT = """
import sys
from pathlib import Path
from meshd.cli.meshd import main
from meshd.node import MeshNode
from wire.commands import GetStatus

marker, answer = Path(sys.argv.pop(1)), MeshNode._on_asked

def answer_later(self, request, command):
    if isinstance(command, GetStatus) and not marker.exists():
        marker.touch()
        raise KeyError("planted")
    return answer(self, request, command)

MeshNode._on_asked = answer_later
main()
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["start", "--home", str(tmp_path / "home"), "--listen", "/ip4/127.0.0.1/tcp/0"]
    environ = {**os.environ, "MESHD_MDNS__ENABLED": "false"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "marker"), *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environ,
        ) as process,
    ):
        yield process
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()


def test_a_daemon_with_a_defect_begins_again_by_itself_and_says_so(
    daemon: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert daemon.stdout is not None
    first = daemon.stdout.readline().decode()
    assert first.startswith("ready: ")
    home = tmp_path / "home"
    with ControlClient(home) as client, pytest.raises(ControlError):
        client.ask({"command": "status"})
    again = daemon.stdout.readline().decode()
    assert again.split()[2] == first.split()[2], "the same device"
    with ControlClient(home) as client:
        status = client.ask({"command": "status"})
    assert any("planted" in warning for warning in status["warnings"])
    assert status["pid"] == daemon.pid
    log = (tmp_path / "log").read_text()
    assert "Traceback" in log
    assert "KeyError: 'planted'" in log
