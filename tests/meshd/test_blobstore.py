"""Blobs on disk: whole or not there, within the budget, never those of live tasks."""

from __future__ import annotations

import os
import random
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.small_disk import fill, small_disk

from meshd import blobfile
from meshd.blobindex import BlobIndex
from meshd.blobstore import BlobStore
from meshd.errors import (
    BlobBudgetExceeded,
    BlobCorrupt,
    BlobMissing,
    BlobStorageFailed,
    HomeUnusable,
)
from wire.blobs import BLOB_BYTES_MAX, CHUNK_BYTES, BlobRef, blob_digest, blob_ref, manifest_of
from wire.errors import MalformedFrame
from wire.ids import digest_text
from wire.signed import encode_body

BUDGET_BYTES = 1 << 20
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17]


def content_of(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def chunks_of(content: bytes) -> list[bytes]:
    return [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]


def encoded(content: bytes) -> bytes:
    return encode_body(manifest_of(content))


def file_of(store: BlobStore, ref: BlobRef, suffix: str = "") -> Path:
    return store.directory / (digest_text(ref.digest) + suffix)


@pytest.mark.parametrize("size_bytes", SIZES)
def test_content_comes_back_whole_and_by_chunk_also_after_a_restart(
    tmp_path: Path, size_bytes: int
) -> None:
    content = content_of(size_bytes)
    ref = BlobStore(tmp_path, BUDGET_BYTES).put(content)
    assert ref == blob_ref(content)
    store = BlobStore(tmp_path, BUDGET_BYTES)
    assert store.has(ref)
    assert store.read(ref) == content
    assert store.read_manifest(ref) == encoded(content)
    chunks = chunks_of(content)
    assert [store.read_chunk(ref, index) for index in range(len(chunks))] == chunks
    for index in (-1, len(chunks)):
        with pytest.raises(BlobMissing, match="no chunk"):
            store.read_chunk(ref, index)
    assert stat.S_IMODE(file_of(store, ref).stat().st_mode) == 0o600


@pytest.mark.parametrize("size_bytes", SIZES)
def test_a_blob_comes_in_chunks_of_any_order_and_goes_on_after_a_restart(
    tmp_path: Path, size_bytes: int
) -> None:
    content = content_of(size_bytes)
    ref, chunks = blob_ref(content), chunks_of(content)
    store = BlobStore(tmp_path, BUDGET_BYTES)
    assert store.put_manifest(ref, encoded(content)) == set(range(len(chunks)))
    order = random.Random(1).sample(range(len(chunks)), len(chunks))
    for count, index in enumerate(order):
        assert not store.has(ref)
        with pytest.raises(BlobMissing):
            store.read(ref)
        store = BlobStore(tmp_path, BUDGET_BYTES)  # after every chunk
        left = store.put_manifest(ref, encoded(content))
        assert left == set(order[count:])
        assert store.put_chunk(ref, index, chunks[index]) == len(left) - 1
    assert store.read(ref) == content
    assert store.put_manifest(ref, encoded(content)) == frozenset()
    assert [file.name for file in tmp_path.iterdir()] == [digest_text(ref.digest)]


def test_a_chunk_twice_is_no_harm_and_one_for_a_whole_blob_is_ignored(tmp_path: Path) -> None:
    content = content_of(2 * CHUNK_BYTES)
    ref, (first, second) = blob_ref(content), chunks_of(content)
    store = BlobStore(tmp_path, BUDGET_BYTES)
    store.put_manifest(ref, encoded(content))
    assert store.put_chunk(ref, 0, first) == 1
    assert store.put_chunk(ref, 0, first) == 1
    assert store.put_chunk(ref, 1, second) == 0
    assert store.put_chunk(ref, 1, second) == 0
    assert store.read(ref) == content


def test_a_wrong_chunk_or_manifest_is_refused_and_the_right_one_still_taken(tmp_path: Path) -> None:
    content = content_of(2 * CHUNK_BYTES + 5)
    ref, chunks = blob_ref(content), chunks_of(content)
    store = BlobStore(tmp_path, BUDGET_BYTES)
    with pytest.raises(BlobMissing, match="not begun"):
        store.put_chunk(ref, 0, chunks[0])
    for wrong in (b"", encoded(content)[:-1], encoded(content_of(5))):
        with pytest.raises(MalformedFrame):
            store.put_manifest(ref, wrong)
    assert (store.used_bytes, list(tmp_path.iterdir())) == (0, [])
    store.put_manifest(ref, encoded(content))
    for index, chunk in ((0, chunks[1]), (2, chunks[2] + b"\0"), (3, b""), (-1, chunks[2])):
        with pytest.raises(MalformedFrame, match="this is not chunk"):
            store.put_chunk(ref, index, chunk)
    assert [store.put_chunk(ref, index, chunk) for index, chunk in enumerate(chunks)] == [2, 1, 0]


def test_a_manifest_that_is_encoded_otherwise_is_refused(tmp_path: Path) -> None:
    """Else one content would have many ids, and each would take its place on the disk."""
    manifest = encoded(b"x")
    assert manifest[:2] == b"\x93\x01"
    other = b"\x93\xcc\x01" + manifest[2:]  # the version as a longer integer
    ref = BlobRef(blob_digest(other), 1)
    with pytest.raises(MalformedFrame, match="irregular"):
        BlobStore(tmp_path, BUDGET_BYTES).put_manifest(ref, other)


@pytest.mark.parametrize("size_bytes", [CHUNK_BYTES + 100, 2 * CHUNK_BYTES])
@pytest.mark.parametrize("place", ["head", "manifest", "content", "cut", "longer"])
def test_content_that_changed_on_the_disk_is_removed_and_reported_missing(
    tmp_path: Path, place: str, size_bytes: int
) -> None:
    content = content_of(size_bytes)
    store = BlobStore(tmp_path, BUDGET_BYTES)
    ref = store.put(content, owner=b"task")
    file = file_of(store, ref)
    damaged = bytearray(file.read_bytes())
    if place == "cut":
        del damaged[-1:]
    elif place == "longer":
        damaged += b"\0"
    else:
        damaged[{"head": 3, "manifest": 40, "content": -1}[place]] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(BlobCorrupt, match="damaged and is removed"):
        store.read(ref)
    assert not store.has(ref)
    assert (store.used_bytes, store.corrupt_count, list(tmp_path.iterdir())) == (0, 1, [])
    with pytest.raises(BlobMissing):
        store.read(ref)
    assert store.put(content) == ref  # it can come again
    assert store.read(ref) == content


def test_a_chunk_that_changed_on_the_disk_is_not_served(tmp_path: Path) -> None:
    content = content_of(2 * CHUNK_BYTES)
    store = BlobStore(tmp_path, BUDGET_BYTES)
    ref = store.put(content)
    with file_of(store, ref).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([content[-1] ^ 1]))
    assert store.read_chunk(ref, 0) == content[:CHUNK_BYTES]
    with pytest.raises(BlobCorrupt):
        store.read_chunk(ref, 1)


def test_a_reference_with_a_wrong_size_does_not_make_us_drop_the_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, BUDGET_BYTES)
    ref = store.put(b"content")
    lie = BlobRef(ref.digest, ref.size_bytes + 1)
    for read in (store.read, store.read_manifest):
        with pytest.raises(BlobMissing, match="7 bytes, not 8") as missing:
            read(lie)
        assert not isinstance(missing.value, BlobCorrupt)
    assert store.read(ref) == b"content"


def test_a_blob_that_a_person_removed_is_missing_and_can_be_put_again(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, BUDGET_BYTES)
    first, second = store.put(b"first"), store.put(b"second")
    for ref in (first, second):
        file_of(store, ref).unlink()
    assert store.put(b"first") == first
    assert store.read(first) == b"first"
    with pytest.raises(BlobMissing):
        store.read(second)
    assert store.blobs_count == 1


def test_the_least_recently_used_goes_first_also_after_a_restart(tmp_path: Path) -> None:
    size_bytes = 10 * CHUNK_BYTES
    store = BlobStore(tmp_path, 3 * size_bytes + CHUNK_BYTES)
    refs = [store.put(content_of(size_bytes, seed)) for seed in range(3)]
    for age, ref in enumerate(reversed(refs)):  # as if put minutes apart, the last one first
        os.utime(file_of(store, ref), (1e9 + 60 * age, 1e9 + 60 * age))
    store = BlobStore(tmp_path, 3 * size_bytes + CHUNK_BYTES)
    store.read(refs[2])
    store.put(content_of(size_bytes, 3))
    assert [store.has(ref) for ref in refs] == [True, False, True]
    store = BlobStore(tmp_path, 3 * size_bytes + CHUNK_BYTES)
    store.put(content_of(size_bytes, 4))
    assert [store.has(ref) for ref in refs] == [False, False, True]
    assert store.put(content_of(size_bytes, 2)) == refs[2]  # is a use too
    store.put(content_of(size_bytes, 5))
    assert store.has(refs[2])
    assert store.used_bytes <= store.budget_bytes


def test_a_blob_is_on_the_disk_before_it_has_its_name_and_its_name_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path, BUDGET_BYTES)
    synced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_directory, file_of(store, blob_ref(b"content")).exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    store.put(b"content")
    assert synced == [(False, False), (True, True)]


def test_a_blob_that_is_being_written_is_not_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path, 3 * CHUNK_BYTES)
    write_blob = blobfile.write_blob

    def meanwhile(path: Path, temporary: Path, manifest: bytes, content: bytes) -> None:
        monkeypatch.setattr(blobfile, "write_blob", write_blob)
        with pytest.raises(BlobBudgetExceeded):
            store.put(content_of(2 * CHUNK_BYTES, 2))
        write_blob(path, temporary, manifest, content)

    monkeypatch.setattr(blobfile, "write_blob", meanwhile)
    assert store.has(store.put(content_of(2 * CHUNK_BYTES, 1)))
    assert store.has(store.put(content_of(2 * CHUNK_BYTES, 2)))


def test_pins_that_are_undone_leave_nothing_behind() -> None:
    index = BlobIndex(budget_bytes=0)
    ref = blob_ref(b"")
    index.pin(ref.digest, b"a")
    index.unpin(ref.digest, b"a")
    assert index == BlobIndex(budget_bytes=0)
    index.pin(ref.digest, b"a")
    index.release(b"a")
    assert index == BlobIndex(budget_bytes=0)


def test_the_budget_is_what_the_files_take(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, BUDGET_BYTES)
    for seed, size_bytes in enumerate(SIZES):
        store.put(content_of(size_bytes, seed))
    before = store.used_bytes
    assert before >= sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir())
    assert BlobStore(tmp_path, BUDGET_BYTES).used_bytes == before


def test_pinned_blobs_stay_and_what_does_not_fit_beside_them_is_refused(tmp_path: Path) -> None:
    size_bytes = 4 * CHUNK_BYTES
    store = BlobStore(tmp_path, 2 * size_bytes + CHUNK_BYTES)
    first = store.put(content_of(size_bytes, 1), owner=b"task 1")
    second = store.put(content_of(size_bytes, 2))
    store.pin(second, b"task 1")
    store.pin(second, b"task 2")
    files = sorted(tmp_path.iterdir())
    third = content_of(size_bytes, 3)
    with pytest.raises(BlobBudgetExceeded, match="wait for the tasks"):
        store.put(third)
    with pytest.raises(BlobBudgetExceeded, match="wait for the tasks"):
        store.put_manifest(blob_ref(third), encoded(third))
    assert sorted(tmp_path.iterdir()) == files
    store.unpin(second, b"task 1")
    with pytest.raises(BlobBudgetExceeded):
        store.put(third)
    store.unpin(second, b"task 2")
    store.put(third, owner=b"task 3")
    assert (store.has(first), store.has(second)) == (True, False)
    store.release(b"task 1")
    store.release(b"task 1")
    assert store.has(store.put(content_of(size_bytes, 4)))
    assert (store.has(first), store.has(blob_ref(third))) == (False, True)


def test_what_can_never_fit_is_refused_and_evicts_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 4 * CHUNK_BYTES)
    kept = store.put(b"kept")
    with pytest.raises(BlobBudgetExceeded, match=r"raise storage\.blobs_bytes_max"):
        store.put(content_of(5 * CHUNK_BYTES))
    assert store.has(kept)
    with pytest.raises(BlobBudgetExceeded, match="a blob holds at most"):
        BlobStore(tmp_path, 1 << 40).put(bytes(BLOB_BYTES_MAX + 1))


def test_a_blob_under_way_takes_its_whole_size_and_may_be_evicted_unless_pinned(
    tmp_path: Path,
) -> None:
    content, other = content_of(6 * CHUNK_BYTES, 1), content_of(6 * CHUNK_BYTES, 2)
    store = BlobStore(tmp_path, 8 * CHUNK_BYTES)
    ref = blob_ref(content)
    store.put_manifest(ref, encoded(content), owner=b"task")
    assert store.used_bytes >= len(content)
    with pytest.raises(BlobBudgetExceeded):
        store.put(other)
    store.release(b"task")
    store.put(other)
    with pytest.raises(BlobMissing, match="evicted"):
        store.put_chunk(ref, 0, chunks_of(content)[0])
    assert not file_of(store, ref, ".part").exists()


def test_a_refused_blob_leaves_no_pin_behind(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 2 * CHUNK_BYTES)
    content = content_of(CHUNK_BYTES, 1)
    store.put(content_of(CHUNK_BYTES, 2), owner=b"other")
    with pytest.raises(BlobBudgetExceeded):
        store.put(content, owner=b"task")
    store.release(b"other")
    store.put(content)
    store.put(content_of(CHUNK_BYTES, 3))  # evicts `content`, which nobody holds
    assert not store.has(blob_ref(content))


def test_a_start_sweeps_what_a_crash_left_and_leaves_what_is_not_ours(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, BUDGET_BYTES)
    ref = store.put(b"kept")
    file_of(store, ref, ".0.tmp").write_bytes(b"half")
    file_of(store, ref, ".part").write_bytes(b"half")
    (tmp_path / "README").write_text("of a person")
    store = BlobStore(tmp_path, BUDGET_BYTES)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README", digest_text(ref.digest)]
    assert store.read(ref) == b"kept"


def test_a_damaged_file_under_way_is_begun_again(tmp_path: Path) -> None:
    content = content_of(2 * CHUNK_BYTES)
    ref = blob_ref(content)
    BlobStore(tmp_path, BUDGET_BYTES).put_manifest(ref, encoded(content))
    store = BlobStore(tmp_path, BUDGET_BYTES)
    file_of(store, ref, ".part").write_bytes(b"garbage")
    assert store.put_manifest(ref, encoded(content)) == {0, 1}
    for index, chunk in enumerate(chunks_of(content)):
        store.put_chunk(ref, index, chunk)
    assert store.read(ref) == content


def test_a_file_under_way_that_a_person_removed_is_begun_again(tmp_path: Path) -> None:
    content = content_of(2 * CHUNK_BYTES)
    ref, chunks = blob_ref(content), chunks_of(content)
    store = BlobStore(tmp_path, BUDGET_BYTES)
    store.put_manifest(ref, encoded(content))
    store.put_chunk(ref, 0, chunks[0])
    file_of(store, ref, ".part").unlink()
    with pytest.raises(BlobMissing):
        store.put_chunk(ref, 1, chunks[1])
    assert store.used_bytes == 0
    assert store.put_manifest(ref, encoded(content)) == {0, 1}


def test_a_full_disk_keeps_nothing_half_and_what_was_there(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=1 << 20) as disk:
        store = BlobStore(disk / "blobs", 1 << 30)
        kept = store.put(content_of(CHUNK_BYTES, 1))
        under_way = content_of(4 * CHUNK_BYTES, 2)
        ref, chunks = blob_ref(under_way), chunks_of(under_way)
        store.put_manifest(ref, encoded(under_way))
        store.put_chunk(ref, 0, chunks[0])
        filler = fill(disk)
        used = store.used_bytes
        with pytest.raises(BlobStorageFailed, match="No space left"):
            store.put(content_of(2 * CHUNK_BYTES, 3))
        with pytest.raises(BlobStorageFailed, match="No space left"):
            store.put_chunk(ref, 1, chunks[1])
        assert store.used_bytes == used
        assert not list((disk / "blobs").glob("*.tmp"))
        assert store.read(kept) == content_of(CHUNK_BYTES, 1)
        filler.unlink()
        assert store.put_manifest(ref, encoded(under_way)) == {1, 2, 3}
        assert [store.put_chunk(ref, index, chunks[index]) for index in (1, 2, 3)] == [2, 1, 0]
        assert store.read(ref) == under_way


def test_a_directory_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("")
    with pytest.raises(HomeUnusable, match="is not a directory"):
        BlobStore(tmp_path / "blobs", BUDGET_BYTES)


def test_several_threads_bring_one_blob_while_others_come_and_go(tmp_path: Path) -> None:
    content = content_of(12 * CHUNK_BYTES)
    ref, chunks = blob_ref(content), chunks_of(content)
    store = BlobStore(tmp_path, 20 * CHUNK_BYTES)
    store.pin(ref, b"task")
    errors: list[Exception] = []

    def fetch(seed: int) -> None:
        try:
            for index in random.Random(seed).sample(range(12), 12):
                if index in store.put_manifest(ref, encoded(content)):
                    store.put_chunk(ref, index, chunks[index])
            assert store.read(ref) == content
        except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
            errors.append(error)

    def others() -> None:
        try:
            for seed in range(40):
                store.put(content_of(2 * CHUNK_BYTES, seed))
            store.put(content)
        except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
            errors.append(error)

    threads = [threading.Thread(target=fetch, args=(seed,)) for seed in range(3)]
    threads.append(threading.Thread(target=others))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert store.used_bytes <= store.budget_bytes
    assert not list(tmp_path.glob("*.*"))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "begin", "pin", "release", "read"]), st.integers(0, 5)),
        max_size=25,
    )
)
def test_whatever_is_done_the_budget_holds_and_the_pinned_stay(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    directory = tmp_path_factory.mktemp("blobs")
    budget_bytes = 5 * CHUNK_BYTES
    store = BlobStore(directory, budget_bytes)
    contents = [content_of(20_000 * (seed + 1), seed) for seed in range(6)]
    refs = [blob_ref(content) for content in contents]
    pinned: set[int] = set()
    for step, number in steps:
        try:
            if step == "put":
                store.put(contents[number])
            elif step == "begin":
                store.put_manifest(refs[number], encoded(contents[number]))
            elif step == "pin" and store.has(refs[number]):
                store.pin(refs[number], b"%d" % number)
                pinned.add(number)
            elif step == "release":
                store.release(b"%d" % number)
                pinned.discard(number)
            elif store.has(refs[number]):
                assert store.read(refs[number]) == contents[number]
        except BlobBudgetExceeded:
            assert pinned or len(contents[number]) > budget_bytes - CHUNK_BYTES
        assert store.used_bytes <= budget_bytes
        assert all(store.has(refs[number]) for number in pinned)
        assert store.used_bytes == BlobStore(directory, budget_bytes).used_bytes
