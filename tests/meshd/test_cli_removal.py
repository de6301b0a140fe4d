"""`meshctl remove` and `meshctl recovery-key`: what is asked, said, written and refused."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.answer_views import removal_view
from support.commands import json_of, run_in_process
from support.control_node import ScriptedNode, serving_in_thread

from meshd.cli.meshctl import cli as meshctl
from meshd.errors import DaemonError
from meshd.recovery_key import (
    RecoveryKeyUnreadable,
    recovery_file,
    recovery_text,
    seed_of_recovery_text,
)
from wire.answers import RefusalCode, Refused
from wire.commands import Remove
from wire.ids import MeshId

SEED = bytes(range(32))
MESH = MeshId(b"m" * 32)


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(Remove, removal_view())
    return scripted


@pytest.fixture
def home(node: ScriptedNode, tmp_path: Path) -> Iterator[Path]:
    with serving_in_thread(node, tmp_path / "home"):
        yield tmp_path / "home"


def test_a_removal_says_what_follows_from_it(home: Path, node: ScriptedNode) -> None:
    done = run_in_process(meshctl, home, "remove", "kitchen", "--yes")
    assert done.exit_code == 0
    assert done.stdout.startswith("removed kitchen (")
    assert "stay: hall" in done.stderr
    assert "1 removals by it stay in force" in done.stderr
    assert "--recovery-key FILE" in done.stderr, "it is no final removal of an admin"
    assert node.asked == [Remove(peer="kitchen")]


def test_papers_are_voided_and_named_where_that_is_asked_for(
    home: Path, node: ScriptedNode
) -> None:
    node.script(
        Remove,
        removal_view(certificates_kept=[], certificates_void=["hall"], removals_void=2),
    )
    done = run_in_process(meshctl, home, "remove", "kitchen", "--yes", "--void-papers")
    assert "invites them anew: hall" in done.stderr
    assert "2 removals by it no longer count" in done.stderr
    assert node.asked == [Remove(peer="kitchen", keeps_papers=False)]


def test_where_nobody_can_be_asked_only_yes_removes(home: Path, node: ScriptedNode) -> None:
    node.script(Remove, removal_view(is_done=False))
    for words in (["remove", "kitchen"], ["--output", "json", "remove", "kitchen"]):
        refused = run_in_process(meshctl, home, *words)
        assert refused.exit_code == 2
        assert "--yes" in refused.stderr
    assert all(isinstance(one, Remove) and one.is_plan for one in node.asked)


def test_the_json_of_a_removal_is_its_view(home: Path) -> None:
    done = json_of(run_in_process(meshctl, home, "--output", "json", "remove", "kitchen", "--yes"))
    assert done["answer"] == "removal"
    assert done["is_final"] is False


def test_a_refusal_has_its_hint_and_exit_code(home: Path, node: ScriptedNode) -> None:
    why = Refused(code=RefusalCode.REFUSED, message="this device is no admin", hint="ask an admin")
    node.script(Remove, why)
    refused = run_in_process(meshctl, home, "remove", "kitchen", "--yes")
    assert refused.exit_code == 1
    assert "no admin" in refused.stderr
    assert "ask an admin" in refused.stderr


def test_the_recovery_key_of_a_file_goes_with_the_command(
    home: Path, node: ScriptedNode, tmp_path: Path
) -> None:
    file = tmp_path / "recovery.key"
    file.write_text(recovery_file(SEED, MESH, "desk"))
    done = run_in_process(meshctl, home, "remove", "kitchen", "--yes", "--recovery-key", str(file))
    assert done.exit_code == 0
    assert node.asked == [Remove(peer="kitchen", recovery_seed=SEED)]
    assert SEED.hex() not in repr(node.asked)
    assert repr(SEED)[2:-1] not in repr(node.asked)
    file.write_text("meshdrecovery1aaaa")
    wrong = run_in_process(meshctl, home, "remove", "kitchen", "--yes", "--recovery-key", str(file))
    assert wrong.exit_code != 0
    assert "cut or mistyped" in wrong.stderr


# --- the recovery key -----------------------------------------------------------------------


def test_the_recovery_key_is_written_for_its_owner_alone_then_erased(
    home: Path, node: ScriptedNode, tmp_path: Path
) -> None:
    file = tmp_path / "recovery.key"
    done = run_in_process(meshctl, home, "recovery-key", "--to", str(file))
    assert done.exit_code == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert seed_of_recovery_text(file.read_text()) == b"r" * 32
    assert node.recovery_erased == "public"
    again = run_in_process(meshctl, home, "recovery-key", "--to", str(tmp_path / "other"))
    assert again.exit_code == 1
    assert "any more" in again.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("where", ["there already", "no directory/key", ""])
def test_nothing_is_erased_when_the_file_cannot_be_written(
    home: Path, node: ScriptedNode, tmp_path: Path, where: str
) -> None:
    (tmp_path / "there already").write_text("something of mine")
    path = str(tmp_path / where) if where else ""
    refused = run_in_process(meshctl, home, "recovery-key", "--to", path)
    assert refused.exit_code == 2
    assert node.recovery_erased is None
    assert (tmp_path / "there already").read_text() == "something of mine"


def test_a_recovery_key_is_read_as_it_was_written_or_typed() -> None:
    text = recovery_text(SEED, MESH)
    for typed in (
        text,
        text.upper(),
        text[:20] + "\n " + text[20:],
        recovery_file(SEED, MESH, "a"),
    ):
        assert seed_of_recovery_text(typed) == SEED
    flipped = text[:-1] + ("a" if text[-1] != "a" else "b")
    for wrong in ("", "hello", text[:-2], flipped, text + "aa"):
        with pytest.raises(RecoveryKeyUnreadable):
            seed_of_recovery_text(wrong)
    assert issubclass(RecoveryKeyUnreadable, DaemonError)
