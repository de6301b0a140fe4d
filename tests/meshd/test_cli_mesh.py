"""What meshctl prints about devices, and the JSON that programs rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.answer_views import (
    HEALTH,
    MESH,
    OTHER,
    SELF,
    accepted,
    found,
    invited,
    peer_list,
    peer_view,
    status_view,
    task_list,
    task_view,
)
from support.commands import json_of, run_in_process
from support.control_node import ScriptedNode, serving_in_thread

from meshd.cli import mesh, output
from meshd.cli.meshctl import cli as meshctl
from meshd.cli.output import Column, plain, table_lines
from wire.answers import (
    Candidate,
    Found,
    ObserverView,
    OutcomesView,
    PeerList,
    RefusalCode,
    Refused,
    RememberedView,
    ReputationView,
    TaskList,
)
from wire.commands import Find, GetPeer, GetStatus, GetTask, Invite, ListPeers, ListTasks
from wire.ids import peer_text
from wire.membership import Role

SHAPES = Path(__file__).with_name("answer_shapes.json")
ESCAPE = "\x1b[2J\x9b31m\u202egnp"


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(GetStatus, status_view())
    scripted.script(ListPeers, peer_list())
    scripted.script(GetPeer, peer_view())
    scripted.script(Find, found())
    scripted.script(Invite, invited())
    scripted.script(ListTasks, task_list())
    scripted.script(GetTask, task_view())
    return scripted


@pytest.fixture
def home(node: ScriptedNode, tmp_path: Path) -> Iterator[Path]:
    with serving_in_thread(node, tmp_path):
        yield tmp_path


def shape(value: object) -> object:
    """Return the names and JSON types in a value; of a list, those of its first element."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return "null" if value is None else type(value).__name__


def keeps(now: object, promised: object) -> bool:
    """Say whether everything promised is still there with its type; more may be."""
    if isinstance(promised, dict):
        return isinstance(now, dict) and all(
            name in now and keeps(now[name], inner) for name, inner in promised.items()
        )
    if isinstance(promised, list):
        return isinstance(now, list) and all(
            keeps(*pair) for pair in zip(now, promised, strict=True)
        )
    return now == promised


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "peers",
        "peer kitchen",
        "find cpu:4",
        "invite",
        "tasks",
        "task mrrw",
    ],
)
def test_the_json_of_every_command_keeps_its_promised_shape(home: Path, words: str) -> None:
    result = run_in_process(meshctl, home, "--output", "json", *words.split())
    assert (result.exit_code, result.stderr) == (0, "")
    promised = json.loads(SHAPES.read_text())[words.split()[0]]
    assert keeps(shape(json_of(result)), promised), (
        "fields were removed or changed their type: the JSON of meshctl is stable, add new ones"
    )


def test_the_promise_covers_every_answer() -> None:
    answers = [
        status_view(),
        peer_list(),
        peer_view(),
        found(),
        invited(),
        task_list(),
        task_view(),
        accepted(),
    ]
    promised = json.loads(SHAPES.read_text())
    names = ["status", "peers", "peer", "find", "invite", "tasks", "task", "accepted"]
    for name, answer in zip(names, answers, strict=True):
        assert set(promised[name]) == set(msgspec.to_builtins(answer)), name


def test_the_json_is_the_answer_itself(home: Path) -> None:
    result = run_in_process(meshctl, home, "status", "--output", "json")
    assert json_of(result) == msgspec.to_builtins(status_view())


def test_status_tells_what_its_owner_should_know(home: Path) -> None:
    result = run_in_process(meshctl, home, "status")
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["device"] == f"desk  {peer_text(SELF)}"
    assert lines["mesh"] == MESH
    assert lines["members"] == "2, linked to 1"
    assert lines["health"].startswith("0.81  (bandwidth 0.90, latency 0.97, compute 0.62, rep")
    assert lines["daemon"] == "meshd 0.1.0, process 4242, up 1h2m"
    assert lines["tasks"] == "1 executing, 40 settled"
    assert "warning: the recovery key is still in the home" in result.stdout


def test_status_tells_what_is_used_of_what_there_is(node: ScriptedNode, home: Path) -> None:
    storage = {"blobs_count": 1, "blobs_bytes": 1536, "blobs_bytes_max": 4 << 30, "commits": 7}
    sandbox = {"worker_count": 4, "busy_count": 4, "waiting_count": 2}
    node.script(GetStatus, status_view(storage=storage, sandbox=sandbox, leases_held=3))
    result = run_in_process(meshctl, home, "status")
    assert "\nstorage    1.5KiB of 4.0GiB, 1 blob\n" in result.stdout
    assert "\nwork here  3 leases held, 4 of 4 workers busy, 2 waiting\n" in result.stdout


def test_peer_shows_what_its_reputation_is_made_of(node: ScriptedNode, home: Path) -> None:
    def outcomes(valid: int, failed: int, kind: str = "any", disputed: int = 0) -> OutcomesView:
        return OutcomesView(kind=kind, valid=valid, failed=failed, disputed=disputed)

    def observer(name: str, weight: float, *told: OutcomesView) -> ObserverView:
        return ObserverView(id=peer_text(SELF), name=name, weight=weight, outcomes=list(told))

    reputation = ReputationView(
        score=0.93,
        own=[outcomes(3, 0), outcomes(0, 1, "gpu")],
        remembered=RememberedView(valid=2.9, failed=0.5, disputed=0),
        others_rate=0.71,
        others_weight=0.42,
        observers=[
            observer("kitchen", 0.42, outcomes(30, 12)),
            observer(ESCAPE, 0, outcomes(0, 9, disputed=9)),
        ],
        observers_count=7,
    )
    node.script(GetPeer, peer_view(reputation=reputation))
    told = run_in_process(meshctl, home, "peer", "x").stdout
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert "reputation 0.93" in lines
    assert (
        "seen here 3 good, 0 failed; gpu: 0 good, 1 failed;"
        " still count: 2.9 good, 0.5 failed, 0 wrong"
    ) in lines
    assert "others say 0.71 with weight 0.42" in lines
    assert "kitchen: 30 good, 12 failed (weight 0.42)" in lines
    assert "0 good, 9 failed, 9 wrong (weight 0.00)" in told
    assert "and 5 more devices" in told
    assert "\x1b" not in told


def test_peers_shows_every_term_of_the_health_score(home: Path) -> None:
    result = run_in_process(meshctl, home, "peers")
    titles, own, other = (line.split() for line in result.stdout.splitlines())
    assert titles[:8] == ["NAME", "ID", "STATE", "HEALTH", "BAND", "LAT", "COMP", "REP"]
    assert own[:3] == ["desk", peer_text(SELF)[:12], "self"]
    assert other[3:8] == ["0.81", "0.90", "0.97", "0.62", "-"]
    assert other[8:] == ["closed", "1.8ms", "-", "camera=front"]


def test_slots_are_told_as_free_of_all(node: ScriptedNode, home: Path) -> None:
    sample = {"task_slots_free": 3, "task_slots_total": 8}
    node.script(ListPeers, PeerList(mesh=MESH, peers=[peer_view(telemetry=sample)]))
    assert "3/8" in run_in_process(meshctl, home, "peers").stdout


@pytest.mark.parametrize("width", [79, 80, 100])
def test_the_table_of_devices_fits_a_terminal(width: int) -> None:
    peers = [
        peer_view(
            name="a-device-with-a-very-long-name",
            breaker="half_open",
            round_trip_us=1_234_567,
            telemetry={"task_slots_free": 128, "task_slots_total": 256},
            capabilities=["label:camera=front", "label:room=the-long-hall-upstairs"],
        )
    ]
    answer = msgspec.to_builtins(PeerList(mesh=MESH, peers=peers))
    lines = mesh.peer_lines(answer, width=width)
    assert max(map(len, lines)) <= width
    assert all(peer_text(OTHER)[:12] in line for line in lines[1:])


def test_a_table_that_goes_elsewhere_is_not_cut() -> None:
    columns = [Column("A"), Column("B", width_max=300)]
    assert table_lines(columns, [["x", "y" * 300]], width=None)[1].endswith("y" * 300)
    assert table_lines(columns, [["x", "y" * 300]], width=20)[1] == "x  " + "y" * 16 + "…"


def test_wide_letters_keep_the_columns_aligned() -> None:
    columns = [Column("NAME"), Column("N", is_number=True)]
    lines = table_lines(columns, [["台所", 1], ["cafe\u0301", 22]], width=None)
    assert lines == ["NAME   N", "台所   1", "cafe\u0301  22"]


@pytest.mark.parametrize("words", ["peers", "peer x", "status", "find cpu:4", "tasks"])
def test_names_from_other_devices_cannot_command_the_terminal(
    node: ScriptedNode, home: Path, words: str
) -> None:
    evil = peer_view(name=ESCAPE, reason=ESCAPE, capabilities=[f"label:a={ESCAPE}"])
    node.script(ListPeers, PeerList(mesh=MESH, peers=[evil]))
    node.script(GetPeer, evil)
    node.script(GetStatus, status_view(name=ESCAPE, warnings=[ESCAPE]))
    node.script(Find, Found(capabilities=["cpu:4"], source=ESCAPE, peers=[evil], closest=[]))
    tasks = [task_view(executor_name=ESCAPE, outcome="failed", reason=ESCAPE)]
    node.script(ListTasks, TaskList(tasks=tasks, is_truncated=False))
    result = run_in_process(meshctl, home, *words.split())
    assert result.exit_code == 0
    text = result.stdout + result.stderr
    assert plain(text.replace("\n", "")) == text.replace("\n", "")


def test_a_refusals_message_cannot_command_the_terminal(node: ScriptedNode, home: Path) -> None:
    node.script(GetPeer, Refused(code=RefusalCode.NOT_FOUND, message=ESCAPE, hint=ESCAPE))
    result = run_in_process(meshctl, home, "peer", "x")
    assert "\x1b" not in result.stderr
    assert "\x9b" not in result.stderr


def test_find_says_which_source_answered(node: ScriptedNode, home: Path) -> None:
    result = run_in_process(meshctl, home, "find", "cpu:4", "mem:4GiB", "--via", "local")
    assert "kitchen" in result.stdout
    assert result.stderr == "answered by: the directory\n"
    assert node.asked == [Find(capabilities=("cpu:4", "mem:4GiB"), via="local")]


def test_find_without_a_match_exits_with_1_and_says_who_came_closest(
    node: ScriptedNode, home: Path
) -> None:
    closest = [Candidate(id=peer_text(OTHER), name="kitchen", missing=["gpu:cuda"])]
    node.script(Find, Found(capabilities=["gpu:cuda"], source="dht", peers=[], closest=closest))
    result = run_in_process(meshctl, home, "find", "gpu:cuda")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "found no device that provides gpu:cuda (asked: the directory and the DHT)",
        f"  closest: kitchen ({peer_text(OTHER)[:12]}) lacks gpu:cuda",
    ]
    as_json = run_in_process(meshctl, home, "find", "gpu:cuda", "--output", "json")
    assert (as_json.exit_code, json_of(as_json)["peers"]) == (1, [])


def test_find_does_not_say_that_a_device_lacks_what_the_dht_alone_does_not_know(
    node: ScriptedNode, home: Path
) -> None:
    closest = [Candidate(id=peer_text(OTHER), name="kitchen", missing=[])]
    node.script(Find, Found(capabilities=["cpu:4"], source="dht", peers=[], closest=closest))
    result = run_in_process(meshctl, home, "find", "cpu:4", "--via", "dht")
    assert result.stderr.splitlines() == [
        "found no device that provides cpu:4 (asked: the DHT)",
        f"  the directory says that kitchen ({peer_text(OTHER)[:12]}) does",
    ]


def test_invite_asks_for_what_was_given_and_prints_the_command_alone(
    node: ScriptedNode, home: Path
) -> None:
    words = "invite --role executor --role steward --ttl 90m --uses 3 --operator bob"
    result = run_in_process(meshctl, home, *words.split())
    assert result.stdout == "meshd start --join meshd1abcdef\n"
    assert "it lets in 1 device within 1d, as executor" in result.stderr
    assert node.asked == [
        Invite(roles=(Role.EXECUTOR, Role.STEWARD), ttl_us=5_400_000_000, uses=3, operator="bob")
    ]


def test_watching_as_json_is_a_line_for_each_look(
    node: ScriptedNode, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []

    def interrupt_the_third(_seconds: float) -> None:
        looks.append(None)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("meshd.cli.watch.time.sleep", interrupt_the_third)
    result = run_in_process(meshctl, home, "peers", "--watch", "--output", "json")
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [len(line["peers"]) for line in lines] == [2, 2, 2]


def test_watching_needs_a_terminal(home: Path) -> None:
    result = run_in_process(meshctl, home, "peers", "--watch")
    assert result.exit_code == 2
    assert "--watch redraws a terminal" in result.stderr


@pytest.mark.parametrize(
    ("duration_us", "text"),
    [
        (0, "0.0s"),
        (1_500_000, "1.5s"),
        (61_000_000, "1m1s"),
        (3_723_000_000, "1h2m"),
        (90_000_000_000, "1d1h"),
        (None, "-"),
    ],
)
def test_durations_are_told_in_their_two_largest_units(duration_us: int | None, text: str) -> None:
    assert output.rough_duration(duration_us) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (5 << 40, "5.0TiB"), (None, "-")],
)
def test_sizes_are_told_roughly(size_bytes: int | None, text: str) -> None:
    assert output.rough_bytes(size_bytes) == text


def test_a_term_that_is_not_known_is_not_zero() -> None:
    assert output.score(HEALTH.reputation) == "-"
    assert output.score(0.0) == "0.00"
