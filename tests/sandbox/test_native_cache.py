from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.cache_entry import CODE_BYTES, entry_name, read_entry
from sandbox.errors import UnusableCache, UnusableNativeCode
from sandbox.native_cache import NativeCache
from wire.ids import Digest

ONE, TWO, THREE = (Digest(bytes([number]) * 32) for number in (1, 2, 3))


def opened(directory: Path, bytes_max: int = 1 << 20) -> NativeCache:
    cache = NativeCache(directory, bytes_max)
    cache.open()
    return cache


def put(cache: NativeCache, module: Digest, native: bytes) -> None:
    with cache.draft() as draft:
        os.pwrite(draft.descriptor, native, CODE_BYTES)
        cache.put(draft, module)


def read(cache: NativeCache, module: Digest) -> bytes:
    entry = cache.open_entry(module)
    assert entry is not None
    try:
        return read_entry(entry, module, cache.key)
    finally:
        os.close(entry)


def test_an_entry_survives_a_restart_and_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "native"
    put(opened(directory), ONE, b"code")
    assert read(opened(directory), ONE) == b"code"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "key").stat().st_mode & 0o777 == 0o600


def test_an_empty_entry_is_an_entry(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    put(cache, ONE, b"")
    assert read(cache, ONE) == b""


@pytest.mark.parametrize("at", [0, CODE_BYTES - 1, CODE_BYTES, -1])
def test_a_changed_byte_is_found(tmp_path: Path, at: int) -> None:
    cache = opened(tmp_path)
    put(cache, ONE, b"native code")
    path = tmp_path / entry_name(ONE)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnusableNativeCode):
        read(cache, ONE)


@pytest.mark.parametrize("size", [0, 5, CODE_BYTES, CODE_BYTES + 3])
def test_a_cut_entry_is_found(tmp_path: Path, size: int) -> None:
    cache = opened(tmp_path)
    put(cache, ONE, b"native code")
    os.truncate(tmp_path / entry_name(ONE), size)
    with pytest.raises(UnusableNativeCode):
        read(cache, ONE)


def test_another_modules_entry_and_another_homes_entry_do_not_count(tmp_path: Path) -> None:
    cache, other = opened(tmp_path / "ours"), opened(tmp_path / "theirs")
    put(cache, ONE, b"one")
    (cache.directory / entry_name(ONE)).rename(cache.directory / entry_name(TWO))
    put(other, THREE, b"three")
    (other.directory / entry_name(THREE)).rename(cache.directory / entry_name(THREE))
    for module in (TWO, THREE):
        with pytest.raises(UnusableNativeCode):
            read(cache, module)


def test_a_link_planted_as_an_entry_is_not_followed(tmp_path: Path) -> None:
    cache = opened(tmp_path / "native")
    (tmp_path / "elsewhere").write_bytes(b"x")
    (cache.directory / entry_name(ONE)).symlink_to(tmp_path / "elsewhere")
    assert cache.open_entry(ONE) is None


def test_the_least_recently_used_go_when_it_is_full(tmp_path: Path) -> None:
    cache = opened(tmp_path, bytes_max=2 * (1_000 + CODE_BYTES))
    for number, module in enumerate((ONE, TWO)):
        put(cache, module, b"x" * 1_000)
        os.utime(tmp_path / entry_name(module), ns=(number, number))
    read(cache, ONE)
    put(cache, THREE, b"x" * 1_000)
    assert [cache.has(module) for module in (ONE, TWO, THREE)] == [True, False, True]


def test_the_newest_entry_stays_however_large(tmp_path: Path) -> None:
    cache = opened(tmp_path, bytes_max=10)
    put(cache, ONE, b"x" * 1_000)
    assert read(cache, ONE) == b"x" * 1_000
    put(cache, TWO, b"x" * 1_000)
    assert [cache.has(module) for module in (ONE, TWO)] == [False, True]


def test_a_draft_that_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    with cache.draft():
        pass
    (tmp_path / "left.draft").write_bytes(b"of a crash")
    assert [path.name for path in opened(tmp_path).directory.iterdir()] == ["key"]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_replaced_and_its_entries_do_not_count(
    tmp_path: Path, damage: bytes
) -> None:
    put(opened(tmp_path), ONE, b"code")
    (tmp_path / "key").write_bytes(damage)
    with pytest.raises(UnusableNativeCode):
        read(opened(tmp_path), ONE)


def test_a_key_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    before = opened(tmp_path).key
    (tmp_path / "key").chmod(0o644)
    after = opened(tmp_path).key
    assert before != after
    assert opened(tmp_path).key == after


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnusableCache, match="file/native"):
        opened(tmp_path / "file" / "native")
