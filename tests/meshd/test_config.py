"""Settings: which source wins, what is refused and how that is said, and the documented example."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.config import PROFILES, Config, cores_count
from meshd.config_layers import LoadedConfig, default_name, load_config
from meshd.errors import ConfigError

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def loaded(
    tmp_path: Path,
    text: str = "",
    environ: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> LoadedConfig:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_config(file=file, environ=environ or {}, flags=flags or {})


def config_of(
    tmp_path: Path,
    text: str = "",
    environ: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> Config:
    return loaded(tmp_path, text, environ, flags).config


def test_without_any_source_the_defaults_hold() -> None:
    config = load_config(file=None, environ={}, flags={}).config
    assert config == Config(name=default_name())
    assert (config.links.max, config.links.dials_max, config.directory.members_max) == (
        24,
        16,
        2000,
    )
    assert (config.executor.leases_max, config.sandbox.workers) == (50, cores_count())
    assert config.tasks_max == 4 * cores_count()
    weights = config.health.weights
    assert (weights.bandwidth, weights.latency) == (0.4, 0.3)
    assert (weights.compute, weights.reputation) == (0.2, 0.1)
    breaker = config.breaker.to_breaker()
    assert breaker.temperature_millicelsius_max == 85_000
    assert (breaker.round_trip_us_max, breaker.errors_in_a_row_count_max) == (100_000, 25)
    references = config.health.to_references()
    assert references.bandwidth_bits_per_second == 1_000_000_000
    assert references.round_trip_us == 100_000
    assert config.telemetry.sample_interval_us == 10_000_000


def test_flags_outrank_the_environment_which_outranks_the_file_which_outranks_the_profile(
    tmp_path: Path,
) -> None:
    text = 'profile = "wan"\n[breaker]\nerrors_max = 3\n[log]\nlevel = "debug"\n[links]\nmax = 7'
    environ = {"MESHD_LOG__LEVEL": "warning", "MESHD_LINKS__MAX": "8"}
    config = config_of(tmp_path, text, environ, {"links.max": 9})
    assert config.breaker.latency_ms_max == 1_000  # of the profile
    assert config.breaker.errors_max == 3
    assert config.log.level == "warning"
    assert config.links.max == 9
    assert config_of(tmp_path, text, {"MESHD_PROFILE": "lan"}).breaker.latency_ms_max == 100


def test_a_setting_of_the_file_outranks_its_profile(tmp_path: Path) -> None:
    text = 'profile = "local"\n[sandbox]\nworkers = 3'
    config = config_of(tmp_path, text)
    assert config.sandbox.workers == 3
    assert not config.mdns.enabled
    assert config_of(tmp_path, 'profile = "local"').sandbox.workers == 1


def test_durations_and_sizes_are_read_from_text_or_as_numbers_in_the_unit_of_the_key(
    tmp_path: Path,
) -> None:
    text = """
        [sandbox]
        memory_bytes_max = "256MiB"
        wall_us_max = 5_000_000
        [telemetry]
        sample_interval_us = "1m30s"
        [breaker]
        latency_ms_max = "0.25s"
    """
    environ = {
        "MESHD_STORAGE__BLOBS_BYTES_MAX": "2GiB",
        "MESHD_SANDBOX__CACHE_BYTES_MAX": "33554432",
    }
    config = config_of(tmp_path, text, environ, {"sandbox.output_bytes_max": "1MiB"})
    limits = config.to_limits()
    assert (limits.memory_bytes, limits.wall_us, limits.output_bytes) == (
        256 << 20,
        5 * 10**6,
        1 << 20,
    )
    assert config.telemetry.sample_interval_us == 90_000_000
    assert config.breaker.latency_ms_max == 250
    assert config.storage.blobs_bytes_max == 2 << 30
    assert config.sandbox.cache_bytes_max == 32 << 20


def test_the_short_variables_and_the_nested_ones_are_read(tmp_path: Path) -> None:
    environ = {
        "MESHD_NAME": "kitchen",
        "MESHD_TYPE": "camera",
        "MESHD_LISTEN": "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/tcp/1",
        "MESHD_LABEL": "camera=front, floor=2",
        "MESHD_DHT__ENABLED": "false",
        "MESHD_HEALTH__WEIGHTS__LATENCY": "0.5",
        "MESHD_HOME": "/not/a/setting",
        "MESHD_REGION": "",
        "MESHD_LINKS__MAX": "",
    }
    config = config_of(tmp_path, 'labels = {floor = "1", room = "a"}', environ)
    assert (config.name, config.type) == ("kitchen", "camera")
    assert config.listen == ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/1")
    assert config.labels == {"floor": "2", "room": "a", "camera": "front"}
    assert not config.dht.enabled
    assert config.health.weights.latency == 0.5
    assert loaded(tmp_path, "", environ).warnings == ()


def test_flags_that_were_not_given_change_nothing(tmp_path: Path) -> None:
    flags: dict[str, object] = {"name": None, "listen": (), "labels": {}, "join": ""}
    config = config_of(tmp_path, 'name = "kitchen"\nlisten = ["/ip4/127.0.0.1/tcp/0"]', {}, flags)
    assert (config.name, config.listen) == ("kitchen", ("/ip4/127.0.0.1/tcp/0",))


@pytest.mark.parametrize(
    ("environ", "leases_max"),
    [
        ({}, 50),
        ({"MAX_CONCURRENT_TASKS_PER_NODE": "7"}, 7),
        ({"MAX_ACTIVE_TASK_ATTACHMENTS_PER_NODE": "8"}, 8),
        ({"MAX_CONCURRENT_TASKS_PER_NODE": "7", "MAX_ACTIVE_TASK_ATTACHMENTS_PER_NODE": "8"}, 7),
        ({"MAX_CONCURRENT_TASKS_PER_NODE": "7", "MESHD_EXECUTOR__LEASES_MAX": "9"}, 9),
        *(
            ({name: text}, 50)
            for name in ("MAX_CONCURRENT_TASKS_PER_NODE", "MAX_ACTIVE_TASK_ATTACHMENTS_PER_NODE")
            for text in ("", "0", "-1", "many", "1.5", "٣", "10001", "1000000000000000")
        ),
    ],
)
def test_the_lease_cap_comes_from_its_variables_or_is_fifty(
    tmp_path: Path, environ: dict[str, str], leases_max: int
) -> None:
    assert config_of(tmp_path, "", environ).executor.leases_max == leases_max


def test_a_lease_cap_that_is_not_used_is_told(tmp_path: Path) -> None:
    found = loaded(tmp_path, "[executor]\nleases_max = 10", {"MAX_CONCURRENT_TASKS_PER_NODE": "x"})
    assert found.config.executor.leases_max == 10
    assert found.warnings == (
        "environment MAX_CONCURRENT_TASKS_PER_NODE: 'x' is no number from 1 to 10000, ignored",
    )


def test_variables_of_others_are_told_and_ignored(tmp_path: Path) -> None:
    """Kubernetes sets these for a service that is called meshd."""
    found = loaded(tmp_path, "", {"MESHD_SERVICE_HOST": "10.0.0.1", "MESHD_PORT": "tcp://10.0.0.1"})
    assert [line.partition(":")[0] for line in found.warnings] == [
        "environment MESHD_PORT",
        "environment MESHD_SERVICE_HOST",
    ]


@pytest.mark.parametrize(
    ("text", "environ", "flags", "said"),
    [
        (
            "[sandbox]\nworkers = 0",
            {},
            {},
            "FILE: sandbox.workers = 0: wanted a whole number from 1 to 256",
        ),
        (
            "[sandbox]\nwokers = 1",
            {},
            {},
            "FILE: no setting sandbox.wokers: did you mean sandbox.workers?",
        ),
        (
            "x = 1",
            {},
            {},
            "FILE: no setting x: at the top there are ",
        ),
        (
            '[log]\nformat = "xml"',
            {},
            {},
            "FILE: log.format = 'xml': wanted one of text, json",
        ),
        (
            "log = 3",
            {},
            {},
            "FILE: log = 3: wanted a table of format, level, file_bytes_max, files_max",
        ),
        (
            '[sandbox]\nmemory_bytes_max = "64M"',
            {},
            {},
            "FILE: sandbox.memory_bytes_max: '64M' is no size: write it as",
        ),
        (
            '[breaker]\nlatency_ms_max = "0.5ms"',
            {},
            {},
            "FILE: breaker.latency_ms_max = '0.5ms': wanted a whole number from 1 to 60000",
        ),
        (
            '[breaker]\nlatency_ms_max = "1.5ms"',
            {},
            {},
            "FILE: breaker.latency_ms_max = '1.5ms': wanted a whole number from 1 to 60000",
        ),
        ("listen = [1]", {}, {}, "FILE: listen = [1]: wanted at most 16 addresses such as"),
        ('labels = {"a b" = "c"}', {}, {}, "FILE: labels = {'a b': 'c'}: wanted at most 32 pairs"),
        ("[dht]\nenabled = 3", {}, {}, "FILE: dht.enabled = 3: wanted true or false"),
        (
            "[health.weights]\nlatency = -1",
            {},
            {},
            "FILE: health.weights.latency = -1: wanted a number from 0 to 1000",
        ),
        (
            "[health.weights]\nlatency=0\nbandwidth=0\ncompute=0\nreputation=0",
            {},
            {},
            "FILE: health.weights: at least one must be above 0",
        ),
        (
            "",
            {"MESHD_SANDBOX__WORKERS": "many"},
            {},
            "environment MESHD_SANDBOX__WORKERS: sandbox.workers = 'many': wanted a whole number",
        ),
        (
            "",
            {"MESHD_SANDBOX__WOKERS": "1"},
            {},
            "environment MESHD_SANDBOX__WOKERS: no setting sandbox.wokers: did you mean",
        ),
        (
            "",
            {"MESHD_LABEL": "front"},
            {},
            "environment MESHD_LABEL: 'front' is no label: write KEY=VALUE",
        ),
        (
            "name = 'ok'",
            {},
            {"name": "\x1b[2J"},
            "--name: name = '\\x1b[2J': wanted 1 to 64 visible",
        ),
        ("", {}, {"log.format": "xml"}, "--log-format: log.format = 'xml': wanted one of"),
        ("", {}, {"labels": {"k": ""}}, "--label: labels = {'k': ''}: wanted at most 32 pairs"),
        ('profile = "moon"', {}, {}, "FILE: profile = 'moon': wanted one of local, lan, wan"),
        ("profile = []", {}, {}, "FILE: profile = []: wanted one of local, lan, wan"),
        (
            "name = 1 2",
            {},
            {},
            "FILE: not TOML: Expected newline or end of document after a statement",
        ),
        ("name = !", {}, {}, "FILE: not TOML: Invalid value (at line 1, column 8)"),
    ],
)
def test_an_error_names_source_key_and_what_is_allowed_in_one_line(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        config_of(tmp_path, text, environ, flags)
    message = str(refused.value)
    assert message.replace(str(tmp_path / "config.toml"), "FILE").startswith(said)
    assert "\n" not in message
    assert len(message) < 400


def test_the_source_that_is_named_is_the_one_that_won(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--links-max: "):
        config_of(tmp_path, "[links]\nmax = 7", {"MESHD_LINKS__MAX": "0"}, {"links.max": 1})


def test_of_several_sources_of_a_section_the_last_is_named(tmp_path: Path) -> None:
    names = ("BANDWIDTH", "LATENCY", "COMPUTE", "REPUTATION")
    environ = {f"MESHD_HEALTH__WEIGHTS__{name}": "0" for name in names}
    with pytest.raises(ConfigError, match=r"^--health-weights-bandwidth: health\.weights"):
        config_of(tmp_path, "", environ, {"health.weights.bandwidth": 0.0})


def test_an_invitation_is_never_shown(tmp_path: Path) -> None:
    secret = "meshd-invitation-" + "s" * 9_000
    with pytest.raises(ConfigError, match="--join: join: wanted an invitation") as refused:
        config_of(tmp_path, "", {}, {"join": secret})
    assert "sss" not in str(refused.value)
    config = config_of(tmp_path, "", {}, {"join": "a-secret-token"})
    assert "a-secret-token" not in repr(config)


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert load_config(file=missing, environ={}, flags={}, is_file_needed=False).warnings == ()
    with pytest.raises(ConfigError, match="no such file"):
        load_config(file=missing, environ={}, flags={})
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(file=tmp_path, environ={}, flags={})
    for content, said in (
        (b"\xff", "not TOML"),
        (b"#" * (1 << 21), "longer"),
        (b"a=" + b"[" * 99_999, "TOML"),
    ):
        missing.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            load_config(file=missing, environ={}, flags={})


def test_nobody_who_asked_for_an_address_gets_another(tmp_path: Path) -> None:
    asked = config_of(tmp_path, 'listen = ["/ip4/10.0.0.1/tcp/4777"]')
    assert asked.listen_choices == (("/ip4/10.0.0.1/tcp/4777",),)
    free = config_of(tmp_path)
    assert free.listen_choices == (("/ip4/0.0.0.0/tcp/4777",), ("/ip4/0.0.0.0/tcp/0",))
    local = config_of(tmp_path, 'profile = "local"')
    assert local.listen_choices[0] == ("/ip4/127.0.0.1/tcp/4777",)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("kitchen.example.org", "kitchen"),
        ("küche 1", "k-che-1"),
        ("---", "device"),
        ("x" * 80, "x" * 64),
    ],
)
def test_a_device_is_called_like_its_host(
    monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert default_name() == name
    load_config(file=None, environ={}, flags={})


def test_workers_follow_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert load_config(file=None, environ={}, flags={}).config.sandbox.workers == 3


@settings(deadline=None)  # the machine may be busy
@given(
    st.dictionaries(
        st.sampled_from(["name", "labels", "log", "sandbox", "listen", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["workers", "format", "a"]), inner, max_size=2)
            ),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_any_tree_of_values_is_taken_or_refused_in_one_line(flags: dict[str, object]) -> None:
    try:
        said = repr(load_config(file=None, environ={}, flags=flags))
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said


def _keys(kind: type[msgspec.Struct], before: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _keys(field.type, f"{before}{field.name}.")
        else:
            yield before + field.name


def _written_keys(table: dict[str, object], before: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict) and key != "labels":
            yield from _written_keys(value, f"{before}{key}.")
        else:
            yield before + key


def _example() -> str:
    found = re.search(r"```toml\n(# A complete.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_documented_example_is_complete_and_holds_the_defaults(tmp_path: Path) -> None:
    written = tomllib.loads(_example())
    assert set(_written_keys(written)) == set(_keys(Config))
    config = config_of(tmp_path, _example())
    assert config.labels == {"camera": "front", "floor": "2"}
    assert config.listen == ("/ip4/0.0.0.0/tcp/4777",)
    sandbox = msgspec.structs.replace(config.sandbox, workers=cores_count())
    neutral = msgspec.structs.replace(config, name="x", labels={}, listen=(), sandbox=sandbox)
    assert neutral == Config(name="x")


def test_every_setting_is_in_the_documented_table() -> None:
    table = set(re.findall(r"^\| `([a-z_.]+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert table == set(_keys(Config))


def test_every_profile_is_one_that_may_be_chosen() -> None:
    for profile in PROFILES:
        assert (
            load_config(file=None, environ={}, flags={"profile": profile}).config.profile == profile
        )
