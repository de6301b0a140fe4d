"""What a sample may say on the wire, and which of its changes are news."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telemetry.sample import (
    GPUS_MAX,
    Gpu,
    Sample,
    bucketed,
    decode_sample,
    encode_sample,
    occupied,
)
from wire.errors import MalformedFrame

amounts = st.none() | st.integers(0, 1 << 40)
samples = st.builds(
    Sample,
    cpu_idle_permille=st.none() | st.integers(0, 1_000),
    load_milli=st.none() | st.integers(0, 1_000_000),
    disk_free_bytes=amounts,
    memory_free_bytes=amounts,
    network_up_bits_per_second=amounts,
    temperature_millicelsius=st.none() | st.integers(-100_000, 250_000),
    battery_permille=st.none() | st.integers(0, 1_000),
    on_battery=st.none() | st.booleans(),
    gpus=st.lists(st.builds(Gpu, name=st.text(max_size=64)), max_size=GPUS_MAX).map(tuple),
    leases_count=st.none() | st.integers(0, 50),
)


@given(samples)
def test_a_sample_survives_the_wire(sample: Sample) -> None:
    assert decode_sample(encode_sample(sample)) == sample


def test_a_missing_sensor_is_absent_from_the_wire_and_a_zero_is_not() -> None:
    assert msgspec.msgpack.decode(encode_sample(Sample(battery_permille=0))) == {
        "battery_permille": 0
    }
    assert decode_sample(encode_sample(Sample())).battery_permille is None


def test_a_field_of_a_newer_peer_is_skipped() -> None:
    newer = msgspec.msgpack.encode({"cpu_idle_permille": 5, "fan_speed_rpm": 900})
    assert decode_sample(newer) == Sample(cpu_idle_permille=5)


@given(st.binary(max_size=200))
@example(b"\x81\xa5nodes" + b"\x91" * 60_000)  # nested too deep
@example(b"\x81\xa4gpus\x91\x81\xa4name\xa2\xff\xfe")  # not UTF-8
def test_hostile_bytes_decode_or_raise_malformed_frame(body: bytes) -> None:
    with contextlib.suppress(MalformedFrame):
        decode_sample(body)


@pytest.mark.parametrize(
    "claim",
    [
        {"cpu_idle_permille": 1_001},
        {"cpu_idle_permille": -1},
        {"cpu_idle_permille": 0.5},
        {"memory_free_bytes": 2, "memory_total_bytes": 1},
        {"disk_free_bytes": 2, "disk_total_bytes": 1},
        {"task_slots_free": 2, "task_slots_total": 1},
        {"temperature_millicelsius": 10**9},
        {"network_up_bits_per_second": 1 << 51},
        {"gpus": [{"name": "card"}] * (GPUS_MAX + 1)},
        {"gpus": [{"name": "x" * 65}]},
        {"gpus": [{"name": "card", "memory_total_bytes": 1, "memory_free_bytes": 2}]},
    ],
)
def test_an_impossible_claim_is_refused(claim: dict[str, object]) -> None:
    with pytest.raises(MalformedFrame):
        decode_sample(msgspec.msgpack.encode(claim))


def test_the_node_fills_in_what_only_it_knows() -> None:
    sample = occupied(
        Sample(cpu_idle_permille=7),
        task_slots_total=4,
        task_slots_free=1,
        leases_count=3,
        uptime_us=9,
    )
    assert sample == Sample(
        cpu_idle_permille=7, task_slots_total=4, task_slots_free=1, leases_count=3, uptime_us=9
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Sample(uptime_us=1), Sample(uptime_us=2)),
        (Sample(cpu_idle_permille=760), Sample(cpu_idle_permille=1_000)),
        (Sample(memory_free_bytes=5 << 30), Sample(memory_free_bytes=7 << 30)),
        (Sample(temperature_millicelsius=80_001), Sample(temperature_millicelsius=85_000)),
        (Sample(load_milli=1_000), Sample(load_milli=1_900)),
    ],
)
def test_a_small_change_is_no_news(before: Sample, after: Sample) -> None:
    assert bucketed(before) == bucketed(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Sample(), Sample(cpu_idle_permille=0)),
        (Sample(cpu_idle_permille=749), Sample(cpu_idle_permille=750)),
        (Sample(memory_free_bytes=4 << 30), Sample(memory_free_bytes=(4 << 30) - 1)),
        (Sample(temperature_millicelsius=85_000), Sample(temperature_millicelsius=85_001)),
        (Sample(on_battery=False), Sample(on_battery=True)),
        (Sample(task_slots_free=1), Sample(task_slots_free=0)),
        (Sample(load_milli=1_900), Sample(load_milli=2_000)),
        (Sample(), Sample(gpus=(Gpu(name="card"),))),
    ],
)
def test_a_change_that_matters_to_others_is_news(before: Sample, after: Sample) -> None:
    assert bucketed(before) != bucketed(after)
