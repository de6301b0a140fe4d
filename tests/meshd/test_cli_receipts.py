"""meshctl receipt and meshctl verify."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.answer_views import TASK
from support.commands import json_of, run_in_process
from support.control_node import KEYS, ScriptedNode, serving_in_thread
from support.meshes import SmallMesh, small_mesh
from support.tasks import BATCH_KEY, finished_task

from meshd.cli.meshctl import cli as meshctl
from meshd.home import open_home
from meshd.home_mesh import ROW_KEY, ROW_KIND, mesh_of_home
from meshd.membership import MembershipRow, load_membership, save_membership
from meshd.store import Store
from scheduler.receipt import receipt_to_file
from wire.answers import ReceiptView, RefusalCode, Refused
from wire.commands import GetReceipt
from wire.content import digest_key
from wire.ids import mesh_text

FINISHED = finished_task()
RECEIPT = receipt_to_file(FINISHED.receipt())
MESH = mesh_text(FINISHED.mesh.id)


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    without_key = receipt_to_file(FINISHED.receipt(digest_key=None))
    box = KEYS.seal(BATCH_KEY, KEYS.peer)
    scripted.script(GetReceipt, ReceiptView(task=TASK, receipt=without_key, box=box))
    return scripted


@pytest.fixture
def home(node: ScriptedNode, tmp_path: Path) -> Iterator[Path]:
    with serving_in_thread(node, tmp_path / "home"):
        yield tmp_path / "home"


@pytest.fixture
def receipt_file(tmp_path: Path) -> Path:
    path = tmp_path / "task.receipt"
    path.write_bytes(RECEIPT)
    return path


async def keep_membership(home: Path, mesh: SmallMesh) -> None:
    """Give `home` the papers of the founder of `mesh`, as its daemon would."""
    store = Store.open(open_home(home).database)
    papers = MembershipRow(genesis=mesh.genesis, chain=mesh.devices[0].chain, network_key=b"k" * 32)
    try:
        await store_papers(store, papers)
        assert load_membership(store) == papers
    finally:
        store.close()


async def store_papers(store: Store, papers: MembershipRow) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await save_membership(store, papers)
        nursery.cancel_scope.cancel()


def test_a_receipt_is_written_as_a_file_that_verifies(
    node: ScriptedNode, home: Path, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    words = ["receipt", TASK, "--with-digest-key", "--to", str(target)]
    result = run_in_process(meshctl, home, *words)
    assert (result.exit_code, result.stdout) == (0, "")
    assert target.read_bytes() == RECEIPT
    assert node.asked == [GetReceipt(task=TASK, with_digest_key=True)]
    assert run_in_process(meshctl, home, "verify", str(target)).exit_code == 0


def test_a_receipt_goes_to_a_pipe_as_it_is_and_into_json_as_base64(home: Path) -> None:
    assert run_in_process(meshctl, home, "receipt", TASK).stdout_bytes == RECEIPT
    as_json = json_of(run_in_process(meshctl, home, "receipt", TASK, "--output", "json"))
    assert (as_json["answer"], as_json["task"]) == ("receipt", TASK)
    assert as_json["receipt_bytes"] == len(RECEIPT)
    assert base64.b64decode(as_json["receipt"]) == RECEIPT


def test_a_task_that_is_not_decided_has_no_receipt(
    node: ScriptedNode, home: Path, tmp_path: Path
) -> None:
    node.script(GetReceipt, Refused(code=RefusalCode.NOT_YET, message="the task is pending"))
    target = tmp_path / "written"
    result = run_in_process(meshctl, home, "receipt", TASK, "--to", str(target))
    assert result.exit_code == 1
    assert not target.exists()


def test_verify_needs_no_daemon_and_says_what_it_checked_against(
    tmp_path: Path, receipt_file: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    unknown = run_in_process(meshctl, nowhere, "verify", str(receipt_file))
    assert unknown.exit_code == 0
    assert unknown.stdout.splitlines()[-1] == (
        "verified, checked against: consistent, mesh unknown"
    )
    named = run_in_process(meshctl, nowhere, "verify", str(receipt_file), "--mesh", MESH)
    assert named.stdout.splitlines()[-1] == f"verified, checked against: mesh {MESH}"
    assert not nowhere.exists()


async def test_verify_checks_against_the_mesh_of_this_home(
    tmp_path: Path, receipt_file: Path
) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    await keep_membership(ours, FINISHED.mesh)
    await keep_membership(other, small_mesh(4, nonce=9))
    good = run_in_process(meshctl, ours, "verify", str(receipt_file))
    assert good.exit_code == 0
    assert good.stdout.splitlines()[-1] == f"verified, checked against: mesh {MESH}"
    bad = run_in_process(meshctl, other, "verify", str(receipt_file))
    assert bad.exit_code == 1
    assert "other_mesh" in bad.stdout
    assert "NOT verified, checked against: mesh " in bad.stdout


async def test_the_mesh_of_a_home_is_read_while_its_daemon_writes(tmp_path: Path) -> None:
    await keep_membership(tmp_path, FINISHED.mesh)
    store = Store.open(tmp_path / "mesh.db")
    try:
        assert mesh_of_home(tmp_path) == FINISHED.mesh.id
    finally:
        store.close()
    assert (ROW_KIND, ROW_KEY) == (MembershipRow.KIND, MembershipRow.KEY)


@pytest.mark.parametrize("content", [None, b"", b"no database"])
def test_a_home_without_a_readable_mesh_is_of_no_mesh(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "mesh.db").write_bytes(content)
    assert mesh_of_home(tmp_path) is None


def test_verify_checks_the_result(tmp_path: Path, receipt_file: Path) -> None:
    (tmp_path / "good").write_bytes(FINISHED.output)
    (tmp_path / "bad").write_bytes(FINISHED.output + b"x")
    words = ["verify", str(receipt_file), "--result"]
    assert run_in_process(meshctl, tmp_path, *words, str(tmp_path / "good")).exit_code == 0
    bad = run_in_process(meshctl, tmp_path, *words, str(tmp_path / "bad"))
    assert bad.exit_code == 1
    assert "output_differs" in bad.stdout


def test_verify_without_the_digest_key_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(FINISHED.output)
    (tmp_path / "r").write_bytes(receipt_to_file(FINISHED.receipt(digest_key=None)))
    words = ["verify", str(tmp_path / "r"), "--result", str(tmp_path / "out")]
    result = run_in_process(meshctl, tmp_path, *words)
    assert result.exit_code == 1
    assert "digest key missing" in result.stdout
    assert "--with-digest-key" in result.stderr


def test_a_receipt_with_another_digest_key_is_not_verified(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(FINISHED.output)
    other = FINISHED.receipt(digest_key=digest_key(b"x" * 32))
    (tmp_path / "r").write_bytes(receipt_to_file(other))
    words = ["verify", str(tmp_path / "r"), "--result", str(tmp_path / "out")]
    assert run_in_process(meshctl, tmp_path, *words).exit_code == 1


@pytest.mark.parametrize("place", range(0, len(RECEIPT), 97))
def test_a_tampered_receipt_is_a_no(tmp_path: Path, place: int) -> None:
    tampered = bytearray(RECEIPT)
    tampered[place] ^= 1
    (tmp_path / "r").write_bytes(tampered)
    result = run_in_process(meshctl, tmp_path, "verify", str(tmp_path / "r"))
    assert result.exit_code == 1
    assert "NOT verified" in result.stdout


@pytest.mark.parametrize("content", [b"", b"# meshd\n\nA private mesh", bytes(1000)])
def test_a_file_that_is_no_receipt_is_a_bad_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    result = run_in_process(meshctl, tmp_path, "verify", str(tmp_path / "file"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is no receipt" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "missing"],
        ["verify", "RECEIPT", "--result", "missing"],
        ["verify", "RECEIPT", "--mesh", "nonsense"],
        ["verify", "-", "--result", "-"],
    ],
)
def test_verify_refuses_what_it_cannot_read(
    tmp_path: Path, receipt_file: Path, words: list[str]
) -> None:
    given = [str(receipt_file) if word == "RECEIPT" else word for word in words]
    result = run_in_process(meshctl, tmp_path, *given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("meshctl: ")


def test_the_verdict_as_json_names_every_check(tmp_path: Path, receipt_file: Path) -> None:
    words = ["verify", str(receipt_file), "--output", "json"]
    verdict = json_of(run_in_process(meshctl, tmp_path, *words))
    assert (verdict["answer"], verdict["is_good"]) == ("verdict", True)
    assert verdict["facts"]["task"] == str(FINISHED.task_id)
    assert {check["result"] for check in verdict["checks"]} == {"good"}
    assert [check["name"] for check in verdict["checks"]][:3] == ["format", "signatures", "mesh"]
