"""The device key's file: created once, private, whole, and closed to a wrong passphrase."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import nacl.pwhash.argon2id
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.small_disk import fill, small_disk

from meshd import keyfile
from meshd.errors import (
    HomeUnusable,
    KeyFileError,
    KeyTooOpen,
    KeyUnreadable,
    PassphraseMissing,
    PassphraseWrong,
)
from meshd.keyfile import (
    COST_MAX,
    KeyCost,
    load_or_create_seed,
    read_passphrase,
    read_seed,
    write_seed,
)

CHEAP = KeyCost(operations=1, memory_bytes=8 * 1024)
SEED = bytes(range(32))
HEAD_BYTES = 10


def test_the_first_start_creates_a_private_key_and_the_next_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    seed = load_or_create_seed(path, None)
    assert len(seed) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_seed(path, None) == seed
    assert load_or_create_seed(tmp_path / "other", None) != seed
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "other"]


def test_a_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_seed(tmp_path / "key", None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_key_under_a_passphrase_opens_with_it_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_seed(path, SEED, b"open sesame", cost=CHEAP)
    assert SEED not in path.read_bytes()
    assert read_seed(path, b"open sesame") == SEED
    with pytest.raises(PassphraseWrong, match="check the passphrase"):
        read_seed(path, b"open sesame ")
    with pytest.raises(PassphraseMissing, match="--passphrase-file"):
        read_seed(path, None)


def test_the_default_cost_is_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "key"
    seed = load_or_create_seed(path, b"secret")
    assert struct.unpack_from(">IQ", path.read_bytes(), HEAD_BYTES) == (3, 64 << 20)
    assert load_or_create_seed(path, b"secret") == seed


def test_a_plain_key_is_put_under_a_passphrase_that_is_given_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfile, "KeyCost", lambda *cost: KeyCost(*cost) if cost else CHEAP)
    path = tmp_path / "key"
    seed = load_or_create_seed(path, None)
    assert load_or_create_seed(path, b"secret") == seed
    assert seed not in path.read_bytes()
    with pytest.raises(PassphraseMissing):
        load_or_create_seed(path, None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused_with_the_command_to_type(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "key"
    write_seed(path, SEED, None)
    path.chmod(mode)
    with pytest.raises(KeyTooOpen, match=f"chmod 600 {path}"):
        load_or_create_seed(path, None)


@pytest.mark.parametrize("passphrase", [None, b"secret"])
def test_every_flipped_bit_is_found(tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "key"
    write_seed(path, SEED, passphrase, cost=CHEAP)
    good = path.read_bytes()
    # Not the cost: another cost may be an honest one that takes long. The next test has those.
    places = [place for place in range(len(good)) if not HEAD_BYTES <= place < HEAD_BYTES + 12]
    for place in places if passphrase else range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(KeyFileError) as refused:
            read_seed(path, passphrase)
        assert "\n" not in str(refused.value)


def test_a_changed_cost_neither_opens_the_key_nor_keeps_the_device_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    write_seed(path, SEED, b"secret", cost=CHEAP)
    good = path.read_bytes()

    def with_cost(operations: int, memory_bytes: int) -> bytes:
        cost = struct.pack(">IQ", operations, memory_bytes)
        return good[:HEAD_BYTES] + cost + good[HEAD_BYTES + len(cost) :]

    path.write_bytes(with_cost(2, 8 * 1024))
    with pytest.raises(PassphraseWrong):
        read_seed(path, b"secret")
    path.write_bytes(with_cost(0, 0))
    with pytest.raises(KeyUnreadable):
        read_seed(path, b"secret")

    def never(*_: object, **__: object) -> bytes:
        raise AssertionError("the cost was not checked before it was paid")

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", never)
    for cost in ((COST_MAX.operations + 1, 8 * 1024), (1, COST_MAX.memory_bytes + 1)):
        path.write_bytes(with_cost(*cost))
        with pytest.raises(KeyUnreadable, match="damaged"):
            read_seed(path, b"secret")


def test_a_device_without_the_memory_for_a_passphrase_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object, **__: object) -> bytes:
        raise MemoryError

    path = tmp_path / "key"
    write_seed(path, SEED, b"secret", cost=CHEAP)
    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", out_of_memory)
    with pytest.raises(KeyFileError, match="not enough memory"):
        read_seed(path, b"secret")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200).flatmap(
        lambda tail: st.sampled_from([tail, b"meshdkey" + tail])
    )
)
@example(content=b"")
@example(content=b"meshdkey\x01\x00")
@example(content=b"meshdkey\x01\x01")
def test_garbage_is_refused_in_one_line_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError) as refused:
        load_or_create_seed(path, b"secret")
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_a_key_of_a_newer_version_asks_for_that_version(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_seed(path, SEED, None)
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    with pytest.raises(KeyUnreadable, match="newer meshd"):
        read_seed(path, None)


def test_a_missing_key_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(KeyUnreadable, match="restore it"):
        read_seed(tmp_path / "key", None)
    assert list(tmp_path.iterdir()) == []


def test_the_rest_of_a_crash_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "key.new").write_bytes(b"half")
    seed = load_or_create_seed(tmp_path / "key", None)
    assert read_seed(tmp_path / "key", None) == seed
    assert not (tmp_path / "key.new").exists()


def test_on_a_full_disk_no_half_key_appears(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=64 * 1024) as disk:
        fill(disk)
        with pytest.raises(HomeUnusable, match="full disk"):
            load_or_create_seed(disk / "key", None)
        assert [file.name for file in disk.iterdir()] == ["filler"]


def test_a_link_to_nowhere_is_not_taken_for_a_first_start(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "unplugged" / "key")
    with pytest.raises(KeyUnreadable):
        load_or_create_seed(tmp_path / "key", None)
    assert (tmp_path / "key").is_symlink()


def test_the_passphrase_comes_from_the_file_or_the_credentials(tmp_path: Path) -> None:
    (tmp_path / "meshd-passphrase").write_bytes(b"of systemd\n")
    (tmp_path / "mine").write_bytes(b" of mine \r\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_passphrase(None, {}) is None
    assert read_passphrase(None, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) is None
    assert read_passphrase(None, environ) == b"of systemd"
    assert read_passphrase(tmp_path / "mine", environ) == b" of mine "


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "empty"), (b"\n", "empty"), (b"x" * 5000, "longer than")]
)
def test_a_passphrase_file_without_a_usable_passphrase_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(PassphraseMissing, match=said):
        read_passphrase(tmp_path / "file", {})


def test_a_passphrase_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassphraseMissing, match="No such file"):
        read_passphrase(tmp_path / "none", {})
