"""`meshctl sim`: what a person types, what is printed and written, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3
from click.testing import Result
from msgspec.structs import replace
from support.commands import json_of, process_environment, run_in_process, run_process
from support.planted import MutantNode, executes_twice, planted

from simulations.cli.sim import sim
from simulations.cli.walk import HELP, Walk
from simulations.device import Boot, Node
from simulations.mesh_node import MESH_NODE
from simulations.plan import Expectations
from simulations.plan_file import plan_to_json, repro_from_json
from simulations.scenarios import SCENARIOS, scenario
from simulations.trace_lines import TraceLine
from simulations.world import Blueprint
from wire import effects as do
from wire.effects import Effect

CHILDREN_MIN = 2  # of a swarm: a worker, and what cleans up behind it
TOML = '[scenario]\nname = "mine"\nnodes = 3\n\n[[work]]\nat = "-3s"\nnode = 1\n'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory of its own: failures leave their plans there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_sim(*words: str) -> Result:
    return run_in_process(sim, Path("no-home"), *words)


def plant(monkeypatch: pytest.MonkeyPatch, blueprint: Blueprint) -> None:
    """Let the commands run other nodes than those that ship."""
    for module in ("sources", "replay", "shrink"):
        monkeypatch.setattr(f"simulations.cli.{module}.MESH_NODE", blueprint)


# Runs.


def test_the_scenarios_are_listed() -> None:
    done = run_sim("list")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == list(SCENARIOS)
    listed = json_of(run_sim("list", "--output", "json"))["scenarios"]
    assert [one["name"] for one in listed] == list(SCENARIOS)


def test_a_run_that_holds_is_told_in_a_table() -> None:
    done = run_sim("run", "calm", "--seed", "4", "--twice")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert ["scenario", "calm"] in [line.split() for line in lines]
    assert any(line.startswith("latency") and "p99" in line for line in lines)
    assert any(line.startswith("digest") and line.endswith(" twice") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("S1 ")] == ["held"]
    assert lines[-1] == "all held"


def test_a_run_as_json_is_its_summary() -> None:
    answer = json_of(run_sim("run", "calm", "--seed", "4", "--output", "json"))
    assert (answer["answer"], answer["scenario"], answer["seed"]) == ("simulation", "calm", 4)
    assert answer["breach"] is None
    assert answer["repeat_with"] == "meshctl sim run calm --seed 4"


def test_a_runs_files_agree_with_each_other(tmp_path: Path) -> None:
    done = run_sim("run", "calm", "--seed", "4", "--out", "results/calm")
    assert done.exit_code == 0
    directory = tmp_path / "results" / "calm"
    assert sorted(file.name for file in directory.iterdir()) == [
        "summary.json",
        "timeline.png",
        "timeline.svg",
        "trace.jsonl",
    ]
    trace = (directory / "trace.jsonl").read_bytes()
    summary = json.loads((directory / "summary.json").read_bytes())
    assert summary["digest"] == blake3(trace).hexdigest()
    assert summary["digest"] in done.stdout
    assert (directory / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (directory / "timeline.svg").read_text()


def test_the_number_of_devices_can_be_another(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(plan_to_json(scenario("calm").plan(4)))
    answer = json_of(run_sim("run", "plan.json", "--nodes", "5", "--output", "json"))
    assert (answer["seed"], answer["node_count"]) == (4, 5)
    assert answer["repeat_with"] == "meshctl sim run plan.json --seed 4 --nodes 5"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["run", "clam"], "no scenario 'clam'; there are: calm"),
        (["run", "none.toml"], "scenario none.toml cannot be read"),
        (["run", "mine.toml"], "mine.toml:"),
        (["run", "plan.json"], "plan.json: steps[2].node: there is no device 9: they are 0..2"),
        (["replay", "plan.json"], "plan.json: steps[2].node: there is no device 9"),
        (["shrink", "plan.json"], "plan.json: steps[2].node: there is no device 9"),
        (["swarm", "plan.json"], "plan.json: steps[2].node: there is no device 9"),
        (["replay", "early.json"], "early.json: steps[0].at_us: Expected `int` >= 0"),
        (["replay", "newer.json"], "newer.json: version: 2: version 1 is spoken here"),
        (["shrink", "quake.json"], "quake.json: steps[0].do: no step 'quake': there are submit"),
        (["run", "text"], "a scenario file ends in .toml, a plan file in .json"),
        (["run", "binary.toml"], "binary.toml:2: not UTF-8"),
        (["replay", "mine.toml"], "mine.toml:1: "),
        (["swarm", "mine.toml"], "mine.toml:"),
        (["swarm", "calm", "--seeds", "9..1"], "there is no seed in it"),
        (["swarm", "calm", "--seeds", "1-9"], "not of the form 0..999"),
        (["diff", "text", "text"], "text, line 1"),
        (["diff", "none", "text"], "trace none cannot be read"),
        (["run", "calm", "--out", "text/deeper"], "text/deeper cannot be made"),
    ],
)
def test_what_cannot_be_run_ends_with_two_and_a_line(
    tmp_path: Path, words: list[str], complaint: str
) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    (tmp_path / "text").write_text("nothing of ours\n")
    (tmp_path / "binary.toml").write_bytes(b"[scenario]\n\xff")
    plan = scenario("calm").plan(4)
    astray = replace(plan, steps=(*plan.steps, replace(plan.steps[0], node=9)))
    (tmp_path / "plan.json").write_bytes(plan_to_json(astray))
    (tmp_path / "early.json").write_bytes(
        plan_to_json(replace(plan, steps=(replace(plan.steps[0], at_us=-1),)))
    )
    (tmp_path / "newer.json").write_bytes(plan_to_json(replace(plan, version=2)))
    (tmp_path / "quake.json").write_text('{"seed": 1, "steps": [{"do": "quake", "at_us": 1}]}')
    done = run_sim(*words)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) <= 2


# What breaks.


def test_a_run_that_breaks_leaves_a_plan_that_breaks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, planted(executes_twice))
    done = run_sim("run", "calm", "--seed", "4")
    assert done.exit_code == 1
    message, replay, shrink = done.stderr.splitlines()
    assert "S5 broke: S5: device-" in message
    assert replay == "  replay: meshctl sim replay meshd-sim-calm-4/repro.json"
    assert shrink == "  shrink: meshctl sim shrink meshd-sim-calm-4/repro.json"
    assert [file.name for file in (tmp_path / "meshd-sim-calm-4").iterdir()] == ["repro.json"]
    again = run_sim(*replay.split()[3:])
    assert again.exit_code == 1
    assert again.stderr.splitlines()[0] == message
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    mended = run_sim(*replay.split()[3:])
    assert mended.exit_code == 0
    assert "it once broke here, and holds now: S5" in mended.stderr


def test_a_node_that_raises_is_told_with_where_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(effect: Effect) -> Sequence[Effect]:
        if isinstance(effect, do.Answer):
            raise LookupError("absent-minded")
        return [effect]

    plant(monkeypatch, planted(raises))
    done = run_sim("run", "calm", "--out", "kept")
    assert done.exit_code == 1
    assert "NodeRaised(LookupError) broke" in done.stderr
    assert "LookupError: absent-minded" in done.stderr
    assert "in raises" in done.stderr
    assert {file.name for file in Path("kept").iterdir()} >= {"repro.json", "trace.jsonl"}


def test_a_run_that_is_another_the_second_time_ends_with_three_and_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boots = iter(range(1_000))

    def moody(boot: Boot) -> Node:
        """Have fewer answers the later a node is made in this process."""
        is_late = next(boots) >= scenario("calm").plan(4).node_count

        def mutate(effect: Effect) -> Sequence[Effect]:
            return [] if is_late and isinstance(effect, do.Persist) else [effect]

        return MutantNode(MESH_NODE.factory(boot), mutate)

    plant(monkeypatch, Blueprint(factory=moody, row_kinds=MESH_NODE.row_kinds))
    done = run_sim("run", "calm", "--seed", "4", "--twice")
    assert done.exit_code == 3
    assert "not deterministic" in done.stderr
    assert "lines are the same. Then, at " in done.stderr


def test_a_failure_shrinks_to_a_file_that_breaks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, planted(executes_twice))
    assert run_sim("run", "split", "--seed", "4").exit_code == 1
    done = run_sim("shrink", "meshd-sim-split-4/repro.json", "--runs-max", "150")
    assert done.exit_code == 0
    assert "-> 1 step on " in done.stdout
    small = tmp_path / "meshd-sim-split-4" / "repro.small.json"
    repro = repro_from_json(small.read_bytes(), name="small")
    assert len(repro.plan.steps) == 1
    assert (repro.broke or "").startswith("S5: ")
    assert run_sim("replay", str(small)).exit_code == 1


def test_a_plan_that_breaks_nothing_is_not_shrunk(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(plan_to_json(scenario("calm").plan(4)))
    done = run_sim("shrink", "plan.json")
    assert done.exit_code == 2
    assert "there is nothing to shrink: the plan breaks nothing" in done.stderr


# Replays.


def test_a_replay_stops_at_a_time_and_shows_where_devices_stand(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(plan_to_json(scenario("calm").plan(4)))
    done = run_sim("replay", "plan.json", "--until", "2.5s")
    assert done.exit_code == 0
    before, _, after = done.stdout.partition("\nat 2.500 s:\n")
    assert len(before.splitlines()) == 20
    rows = [line.split() for line in after.splitlines()]
    assert rows[1] == ["0", "running", "1", "0", "0", "1", "2"]
    moment = json_of(run_sim("replay", "plan.json", "--until", "2.5s", "--output", "json"))
    assert (moment["time_us"], moment["is_over"]) == (2_500_000, False)
    assert [device["state"] for device in moment["devices"]] == ["running"] * 3


def test_stepping_without_a_terminal_is_refused_and_never_waits(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(plan_to_json(scenario("calm").plan(4)))
    done = run_sim("replay", "plan.json", "--step")
    assert done.exit_code == 2
    assert "use --until instead" in done.stderr


def test_stepping_walks_through_the_events_of_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(plan_to_json(scenario("calm").plan(4)))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "simulations", "replay", "plan.json", "--step"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env=process_environment(TERM="dumb", PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
    )
    os.close(theirs)
    with process:
        seen = until(ours, b"> ")
        os.write(ours, b"\nn 2\n3\nd\nq\n")
        seen += until(ours, b"running")
        assert process.wait(30) == 0
    os.close(ours)
    assert seen.count(b"process.started") == 2  # of device 0, then of device 2


def until(terminal: int, words: bytes) -> bytes:
    """Return what a terminal shows until it shows `words`."""
    seen = b""
    while words not in seen:
        assert select.select([terminal], [], [], 30)[0], seen
        seen += os.read(terminal, 65_536)
    return seen


def test_a_walk_goes_where_it_is_told() -> None:
    events = [TraceLine(time_us, time_us % 2, time_us, f"e{time_us}.", {}) for time_us in range(8)]
    walk = Walk(events, lambda time_us: [f"standing at {time_us}"])

    def names(words: str) -> list[str]:
        return [line.split()[-1] for line in walk.take(words)]

    assert names("") == ["e0."]
    assert names("2") == ["e1.", "e2."]
    assert names("n 1") == []
    assert names("2") == ["e3.", "e5."]
    assert list(walk.take("d")) == ["standing at 5"]
    assert names("n") == []
    assert list(walk.take("what now")) == [HELP]
    assert names("9") == ["e6.", "e7.", "here"]
    assert walk.is_over


# Differences.


def test_two_traces_are_the_same_or_differ_somewhere() -> None:
    for seed, directory in (("4", "one"), ("4", "two"), ("5", "three")):
        assert run_sim("run", "calm", "--seed", seed, "--out", directory).exit_code == 0
    assert run_sim("diff", "one", "two/trace.jsonl").exit_code == 0
    done = run_sim("diff", "one", "three")
    assert done.exit_code == 1
    assert "the same. Then, at 0.000000 s, device 0" in done.stdout
    answer = json_of(run_sim("diff", "one", "three", "--output", "json"))
    assert not answer["is_same"]
    assert answer["fields"]


# Swarms.


def test_a_swarm_that_holds_says_so_with_its_sums() -> None:
    done = run_sim("swarm", "calm", "--seeds", "0..5", "--jobs", "2")
    assert done.exit_code == 0
    assert "6 of 6, 0 failed" in done.stdout
    assert done.stdout.splitlines()[-1] == "all held"
    assert "5 of 6 seeds, 0 failed" in done.stderr


def test_a_swarm_that_never_saw_what_it_should_is_void(tmp_path: Path) -> None:
    wanted = ("takeover.never", "task.decided")
    plan = replace(scenario("calm").plan(0), expect=Expectations(sometimes=wanted))
    (tmp_path / "void.json").write_bytes(plan_to_json(plan))
    done = run_sim("swarm", "void.json", "--seeds", "0..1", "--jobs", "1")
    assert done.exit_code == 1
    assert "void: no seed saw takeover.never\n" in done.stderr
    assert "all held" not in done.stdout


def test_a_swarm_lists_what_failed_and_stops_when_enough_did(tmp_path: Path) -> None:
    plan = replace(scenario("calm").plan(0), expect=Expectations(decided_within_us=0, breaks="S9"))
    (tmp_path / "wrong.json").write_bytes(plan_to_json(plan))
    words = ("swarm", "wrong.json", "--seeds", "0..9", "--jobs", "1", "--failures-max", "2")
    done = run_sim(*words, "--output", "json")
    assert done.exit_code == 1
    answer = json_of(done)
    assert (answer["runs_count"], len(answer["failures"])) == (2, 2)
    assert "  meshctl sim run wrong.json --seed 1" in done.stderr.splitlines()
    assert "stopped after 2 of 10 seeds" in done.stderr


def test_ctrl_c_ends_a_swarm_and_its_processes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "simulations", "swarm", "calm", "--seeds", "0..999999"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=process_environment(PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        start_new_session=True,
    )
    with process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(workers := children.read_text().split()) < CHILDREN_MIN:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted after " in stderr
    assert b"Traceback" not in stderr
    deadline_s = time.monotonic() + 10  # what cleans up behind the workers ends after all others
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


# As `meshctl sim`.


def test_meshctl_finds_the_simulator(tmp_path: Path) -> None:
    done = run_process("meshctl", tmp_path, "sim", "list")
    assert done.returncode == 0
    assert b"calm" in done.stdout
    wrong = run_process("meshctl", tmp_path, "sim", "run")
    assert wrong.returncode == 2
    assert b"see `meshctl sim run --help`" in wrong.stderr
