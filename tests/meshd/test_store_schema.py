"""Opening a database: ours, whole, up to date, and on the device that wrote it, or not at all."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from meshd import store_identity
from meshd.errors import StoreCorrupt, StoreFailed, StoreTooNew
from meshd.store import Store
from meshd.store_identity import FileIdentity, file_identity
from meshd.store_schema import APPLICATION_ID, SCHEMA, open_database

ADD_COLUMN = ("ALTER TABLE records ADD COLUMN written_by TEXT NOT NULL DEFAULT 'before'",)


def sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def filled(path: Path) -> Path:
    """Make a database of a few hundred rows at `path`, all in one file."""
    Store.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        rows = (("task", b"%d" % number, bytes(1_000)) for number in range(300))
        connection.executemany("INSERT INTO records (kind, key, body) VALUES (?, ?, ?)", rows)
    return path


def test_a_restart_keeps_the_store_id(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    first = Store.open(path)
    first.close()
    second = Store.open(path)
    second.close()
    assert len(first.store_id) == 16
    assert (second.store_id, first.changes, second.changes) == (first.store_id, (), ())


def test_a_home_that_was_renamed_keeps_its_store_id(tmp_path: Path) -> None:
    before = Store.open(filled(tmp_path / "mesh.db"))
    before.close()
    (tmp_path / "mesh.db").rename(tmp_path / "renamed.db")
    after = Store.open(tmp_path / "renamed.db")
    after.close()
    assert after.store_id == before.store_id


def test_two_databases_have_two_store_ids(tmp_path: Path) -> None:
    stores = [Store.open(tmp_path / name) for name in ("a.db", "b.db")]
    for store in stores:
        store.close()
    assert stores[0].store_id != stores[1].store_id


def test_a_copied_home_gets_a_store_id_of_its_own_and_keeps_that(tmp_path: Path) -> None:
    path = filled(tmp_path / "mesh.db")
    original = Store.open(path)
    original.close()
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    copies = []
    for _ in range(2):
        copy = Store.open(tmp_path.with_name("copy") / "mesh.db")
        copy.close()
        copies.append(copy)
    assert copies[0].store_id != original.store_id
    assert "inode" in copies[0].changes
    assert (copies[1].store_id, copies[1].changes) == (copies[0].store_id, ())
    assert len(copies[1].changes) == 0
    reopened = Store.open(path)
    reopened.close()
    assert reopened.store_id == original.store_id


def test_a_backup_put_back_in_place_gets_a_new_store_id(tmp_path: Path) -> None:
    path = filled(tmp_path / "mesh.db")
    before = Store.open(path)
    before.close()
    shutil.copy2(path, tmp_path / "backup")
    path.unlink()
    shutil.copy2(tmp_path / "backup", path)
    after = Store.open(path)
    after.close()
    assert after.store_id != before.store_id


def test_a_home_on_another_machine_gets_a_new_store_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "machine-id"
    monkeypatch.setattr(store_identity, "MACHINE_ID_FILES", (tmp_path / "none", machine))
    machine.write_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n")
    here = Store.open(tmp_path / "mesh.db")
    here.close()
    machine.write_text("00000000c4c5404aaa1f6d2a48adfda4\n")
    there = Store.open(tmp_path / "mesh.db")
    there.close()
    assert there.changes == ("machine id",)
    assert there.store_id != here.store_id


def test_each_part_of_the_evidence_counts() -> None:
    then = FileIdentity(machine=bytes(32), inode=5, birth_ns=7)
    assert then.differences(then.to_bytes()) == []
    assert FileIdentity(bytes(32), 6, 7).differences(then.to_bytes()) == ["inode"]
    assert FileIdentity(bytes(32), 5, 0).differences(then.to_bytes()) == ["birth time"]
    assert FileIdentity(b"\1" * 32, 6, 7).differences(then.to_bytes()) == ["machine id", "inode"]
    assert then.differences(b"") == ["record"]


def test_a_files_birth_time_is_not_changed_by_writing_to_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    before = file_identity(file)
    file.write_text("b")
    assert file_identity(file) == before


def test_an_older_database_is_brought_up_to_date_and_keeps_its_rows(tmp_path: Path) -> None:
    path = filled(tmp_path / "mesh.db")
    old = Store.open(path)
    old.close()
    later = (*SCHEMA, ADD_COLUMN, ("CREATE TABLE other (a)",))
    connection, store_id, changes = open_database(path, later)
    with contextlib.closing(connection):
        assert connection.execute("SELECT DISTINCT written_by FROM records").fetchall() == [
            ("before",)
        ]
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (300,)
        assert connection.execute("SELECT count(*) FROM other").fetchone() == (0,)
    assert sql(path, "PRAGMA user_version") == [(len(later),)]
    assert (store_id, changes) == (old.store_id, [])
    open_database(path, later)[0].close()  # each step is applied once


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    path = filled(tmp_path / "mesh.db")
    broken = (*SCHEMA, ADD_COLUMN, ("CREATE TABLE records (a)",))
    with pytest.raises(StoreFailed, match="already exists"):
        open_database(path, broken)
    assert sql(path, "PRAGMA user_version") == [(len(SCHEMA),)]
    assert "written_by" not in str(sql(path, "SELECT sql FROM sqlite_schema"))
    Store.open(path).close()


def test_a_database_of_a_newer_meshd_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = filled(tmp_path / "mesh.db")
    sql(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match=r"schema 99.*install that version"):
        Store.open(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    sql(path, "CREATE TABLE bookmarks (url)")
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="another program"):
        Store.open(path)
    assert path.read_bytes() == before
    sql(path, f"PRAGMA application_id = {APPLICATION_ID + 1}")
    with pytest.raises(StoreCorrupt, match="another program"):
        Store.open(path)


@pytest.mark.parametrize("place", ["head", "middle", "cut"])
def test_a_damaged_database_is_refused_in_one_line_and_not_touched(
    tmp_path: Path, place: str
) -> None:
    path = filled(tmp_path / "mesh.db")
    content = bytearray(path.read_bytes())
    if place == "head":
        content[:100] = b"this is no database" + bytes(81)
    elif place == "middle":
        half = len(content) // 8192 * 4096
        content[half : half + 8192] = b"\xa5" * 8192
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="restore the home from a backup") as refused:
        Store.open(path)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_a_file_of_the_crash_that_made_it_is_an_empty_database(tmp_path: Path) -> None:
    (tmp_path / "mesh.db").touch()
    store = Store.open(tmp_path / "mesh.db")
    assert store.load_all(["task"]) == {"task": []}
    store.close()


def test_a_directory_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "mesh.db").mkdir()
    with pytest.raises(StoreFailed, match=r"mesh\.db cannot be used: Is a directory"):
        Store.open(tmp_path / "mesh.db")


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    connection, _, _ = open_database(tmp_path / "mesh.db")
    with contextlib.closing(connection):
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
