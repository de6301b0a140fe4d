"""Files that commands write appear whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from support.small_disk import small_disk

from meshd.cli.files import FileFailed, check_writable, read_file, writing


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with writing(str(target)) as file:
        file.write(b"half")
        file.flush()
        assert not target.exists()
        file.write(b" and half")
    assert target.read_bytes() == b"half and half"
    assert names_in(tmp_path) == ["out"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"before")

    def fail() -> None:
        with writing(str(target)) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_bytes() == b"before"
    assert names_in(tmp_path) == ["out"]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    with writing(str(tmp_path / "link")) as file:
        file.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"after"


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with writing(str(pipe)) as file:
        file.write(b"through")
    reader.join(10)
    assert received == [b"through"]
    assert pipe.is_fifo()


def test_dev_null_stays_what_it_is() -> None:
    check_writable("/dev/null")
    with writing("/dev/null") as file:
        file.write(b"gone")
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        with writing(str(directory / "out")) as file:
            file.write(bytes(1 << 20))

    with small_disk(tmp_path / "disk", size_bytes=64 * 1024) as disk:
        with pytest.raises(FileFailed, match="No space left"):
            fill(disk)
        assert names_in(disk) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [("missing/out", "is not there"), (".", "is a directory"), ("file/out", "is not there")],
)
def test_what_cannot_be_written_is_known_before(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileFailed, match=text):
        check_writable(str(tmp_path / name))


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(bytes(11))
    assert read_file(str(path), bytes_max=11, what="input") == bytes(11)
    with pytest.raises(FileFailed, match="longer than 10 bytes"):
        read_file(str(path), bytes_max=10, what="input")
