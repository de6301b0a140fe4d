"""The log: where lines go, what they hold, and what they never hold."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.small_disk import fill, small_disk

from meshd.errors import HomeUnusable
from meshd.log_cleaning import REDACTED, clean, is_secret
from meshd.logs import FILE_NAME, LogOptions, Logs, bind_device, logging_to

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def _no_bindings() -> Iterator[None]:
    yield
    structlog.contextvars.clear_contextvars()


@contextlib.contextmanager
def captured(options: LogOptions) -> Iterator[tuple[io.StringIO, Logs]]:
    stream = io.StringIO()
    with logging_to(options, stream=stream) as logs:
        yield stream, logs


def file_lines(directory: Path) -> list[dict[str, object]]:
    text = (directory / FILE_NAME).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_goes_to_the_terminal_as_text_and_to_the_file_as_json(tmp_path: Path) -> None:
    with captured(LogOptions(directory=tmp_path)) as (stream, _):
        log.info("lease.granted", executor="12D3", duration_us=5, key=b"\x01\xff")
    said = stream.getvalue()
    assert said.count("\n") == 1
    for part in ("lease.granted", "executor=12D3", "duration_us=5", "key=01ff"):
        assert part in said
    (line,) = file_lines(tmp_path)
    assert line.pop("timestamp")
    assert line == {
        "event": "lease.granted",
        "level": "info",
        "executor": "12D3",
        "duration_us": 5,
        "key": "01ff",
    }
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_the_terminal_can_have_json(tmp_path: Path) -> None:
    with captured(LogOptions(format="json")) as (stream, _):
        log.warning("peer.banned", peer_id="x")
    assert json.loads(stream.getvalue())["event"] == "peer.banned"


@pytest.mark.parametrize(
    ("level", "told"), [("debug", "dite"), ("info", "ite"), ("warning", "te"), ("error", "e")]
)
def test_lines_below_the_level_are_not_written(level: str, told: str) -> None:
    options = LogOptions(format="json", level=level)  # type: ignore[arg-type]  # of the parameters
    with captured(options) as (stream, _):
        log.debug("d")
        log.info("i")
        log.warning("t")
        log.error("e")
    assert "".join(json.loads(line)["event"] for line in stream.getvalue().splitlines()) == told


def test_libraries_are_heard_from_warnings_up_and_cleaned_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("libp2p"), "propagate", False)  # as its import leaves it
    with captured(LogOptions(format="json", level="debug")) as (stream, _):
        logging.getLogger("libp2p.swarm").info("chatter")
        logging.getLogger("libp2p.swarm").warning("bad %s", "\x1b[2Jname")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"]) == ("bad \\x1b[2Jname", "libp2p.swarm")


def test_what_a_library_got_over_is_one_line_with_the_error_and_what_it_did_not_is_traced(
    tmp_path: Path,
) -> None:
    """Such as zeroconf, when the address that it sends from is gone."""
    token = "meshd1" + "a" * 60
    library = logging.getLogger("zeroconf")
    with captured(LogOptions(directory=tmp_path)) as (stream, logs):
        try:
            raise OSError(101, f"Network is unreachable: {token}")
        except OSError:
            library.warning("Error with socket %s", 15, exc_info=True)
            warned = stream.getvalue()
            library.exception("I am lost")
        library.warning("nothing failed", exc_info=True)  # logging takes that
    assert logs.lost_count == 0
    error = f"OSError: [Errno 101] Network is unreachable: {REDACTED}"
    assert warned.count("\n") == 1
    assert error in warned
    first, second, third = file_lines(tmp_path)
    assert (first["event"], first["error"]) == ("Error with socket 15", error)
    assert "exception" not in first
    assert "Traceback" in str(second["exception"])
    assert "error" not in third


def test_the_device_is_bound_once_for_all_tasks_and_a_lines_own_peer_is_another() -> None:
    async def child() -> None:
        log.info("link.up", peer_id="other")

    async def main() -> None:
        bind_device("mine")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.to_thread.run_sync(lambda: log.info("from.thread"))

    with captured(LogOptions(format="json")) as (stream, _):
        trio.run(main)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["event"]: line["device"] for line in lines} == {
        "link.up": "mine",
        "from.thread": "mine",
    }
    assert [line["peer_id"] for line in lines if "peer_id" in line] == ["other"]


def test_secrets_are_cut_out_of_every_line(tmp_path: Path) -> None:
    invitation = "meshd1" + "abcdefghij234567" * 4
    with captured(LogOptions(directory=tmp_path)) as (stream, _):
        log.info(
            "daemon.started",
            passphrase="open sesame",
            network_key=b"open sesame",
            settings={"join": "open sesame", "nested": [{"recovery-key": "open sesame"}]},
            reason=f"cannot redeem {invitation}",
        )
        logging.getLogger("other").warning("got %s", invitation.upper())
    for said in (stream.getvalue(), (tmp_path / FILE_NAME).read_text()):
        assert "sesame" not in said
        assert b"open sesame".hex() not in said
        assert "abcdefgh" not in said.lower()
        assert said.count(REDACTED) == 6


@pytest.mark.parametrize(
    "key",
    ["passphrase", "Token", "join", "identity_seed", "private_key", "batch-keys", "privatekey"],
)
def test_these_keys_name_secrets(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize("key", ["key", "peer_id", "joined", "count", "tokens_count", "keys"])
def test_these_keys_do_not(key: str) -> None:
    assert not is_secret(key)


def test_an_exception_is_shown_without_the_values_of_its_variables(tmp_path: Path) -> None:
    def fail() -> None:
        hidden = "open sesame"
        token = "meshd1" + "a" * 60
        raise ValueError(f"of {len(hidden)} letters: \x1b[2J{token}")

    with captured(LogOptions(directory=tmp_path)) as (stream, logs):
        try:
            fail()
        except ValueError:
            log.exception("daemon.failed")
    assert logs.lost_count == 0
    (line,) = file_lines(tmp_path)
    for said in (stream.getvalue(), str(line["exception"])):
        assert "Traceback (most recent call last):\n" in said
        assert f"ValueError: of 11 letters: \\x1b[2J{REDACTED}" in said
        assert "sesame" not in said


# structlog keeps things of its own under names with an underscore; no event of ours has such a key.
KEYS = st.text(min_size=1, max_size=9).filter(lambda key: not key.startswith("_"))


@given(st.dictionaries(KEYS, st.text() | st.binary(), max_size=4))
def test_a_line_is_one_line_and_obeyed_by_no_terminal(fields: dict[str, object]) -> None:
    cleaned = clean(None, "info", {"event": "x", **fields})
    for value in cleaned.values():
        assert isinstance(value, str)
        assert not set(value) & {
            chr(code) for code in (*range(32), *range(127, 161), 0x2028, 0x202E)
        }


def test_what_is_long_or_deep_is_cut() -> None:
    deep: list[object] = []
    deep.append(deep)
    cleaned = clean(None, "info", {"a": "x" * 9_999, "b": bytes(999), "c": deep, "d": [0] * 999})
    assert len(str(cleaned["a"])) < 2_100
    assert str(cleaned["b"]).endswith("(999 bytes)")
    assert len(cleaned["d"]) == 64
    assert len(str(cleaned)) < 3_000


def test_the_files_stay_within_their_bounds_and_are_the_newest(tmp_path: Path) -> None:
    options = LogOptions(directory=tmp_path, file_bytes_max=2_000, files_max=3)
    with captured(options):
        for number in range(200):
            log.info("line.written", number=number)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [FILE_NAME, FILE_NAME + ".1", FILE_NAME + ".2"]
    assert all(0 < file.stat().st_size <= 2_000 for file in files)
    assert file_lines(tmp_path)[-1]["number"] == 199


def test_a_full_disk_or_a_closed_terminal_costs_lines_only_and_they_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", size_bytes=64 * 1024) as disk:
        with captured(LogOptions(directory=disk)) as (stream, logs):
            filler = fill(disk)
            log.info("disk.full")
            log.info("disk.still_full")
            assert stream.getvalue().count("\n") == 2
            assert logs.lost_count == 2
            filler.unlink()
            stream.close()
            log.info("disk.free")
            assert logs.lost_count == 3
        assert file_lines(disk)[-1]["event"] == "disk.free"
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    handlers = list(logging.getLogger().handlers)
    with (
        pytest.raises(HomeUnusable, match=r"meshd\.log"),
        logging_to(LogOptions(directory=tmp_path)),
    ):
        raise AssertionError("it was opened")
    assert logging.getLogger().handlers == handlers


def test_what_was_set_up_before_is_back_after_the_block(tmp_path: Path) -> None:
    before = structlog.get_config(), list(logging.getLogger().handlers)
    with captured(LogOptions(directory=tmp_path)):
        pass
    assert (structlog.get_config(), list(logging.getLogger().handlers)) == before
