"""Capabilities: what a device says it provides, and what of a request is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.capability import BUCKETS_PER_KIND_MAX, GIB, missing, own_capabilities
from wire.records import CAPABILITIES_MAX, Capabilities, decode_capabilities
from wire.signed import encode_body


def capabilities(
    *,
    cpu_count: int = 1,
    memory_bytes: int = GIB,
    region: str = "",
    labels: dict[str, str] | None = None,
    bandwidth_bits_per_second: int | None = None,
    gpu_kinds: tuple[str, ...] = (),
) -> tuple[str, ...]:
    return own_capabilities(
        engine_profile="p1",
        architecture="aarch64",
        cpu_count=cpu_count,
        memory_bytes=memory_bytes,
        node_type="edge",
        region=region,
        labels=labels or {},
        bandwidth_bits_per_second=bandwidth_bits_per_second,
        gpu_kinds=gpu_kinds,
    )


def test_a_small_device_says_what_it_is_and_nothing_it_is_not() -> None:
    assert capabilities() == (
        "arch:aarch64",
        "cpu:1",
        "mem:1GiB",
        "profile:p1",
        "runtime:wasi-p1",
        "type:edge",
    )


def test_everything_known_about_a_device_becomes_a_key() -> None:
    found = capabilities(
        region="eu-west",
        labels={"camera": "front"},
        bandwidth_bits_per_second=250_000_000,
        gpu_kinds=("cuda",),
    )
    assert {"region:eu-west", "label:camera=front", "gpu:cuda", "bw:128Mbit"} <= set(found)
    assert "bw:256Mbit" not in found


@given(st.integers(1, 1 << 15), st.integers(0, 1 << 15))
def test_a_device_provides_exactly_the_powers_of_two_that_it_has(cpus: int, gib: int) -> None:
    found = frozenset(capabilities(cpu_count=cpus, memory_bytes=gib * GIB + 1))
    for power in range(BUCKETS_PER_KIND_MAX):
        assert (f"cpu:{1 << power}" in found) is (1 << power <= cpus)
        assert (f"mem:{1 << power}GiB" in found) is (1 << power <= gib)


def test_a_giant_still_provides_the_small_sizes() -> None:
    assert {"cpu:1", "mem:1GiB"} <= set(capabilities(cpu_count=1 << 20, memory_bytes=1 << 60))


@given(
    st.integers(1, 1 << 62),
    st.integers(0, 1 << 62),
    st.dictionaries(
        st.text("abc123", min_size=1, max_size=64), st.text("xyz", min_size=1, max_size=64)
    ),
)
def test_the_keys_of_any_device_are_sorted_bounded_and_readable_by_others(
    cpus: int, memory_bytes: int, labels: dict[str, str]
) -> None:
    found = capabilities(
        cpu_count=cpus,
        memory_bytes=memory_bytes,
        labels=labels | {f"more{number}": "x" for number in range(200)},
        bandwidth_bits_per_second=1 << 50,
    )
    assert list(found) == sorted(set(found))
    assert len(found) == CAPABILITIES_MAX
    assert {"type:edge", "runtime:wasi-p1", "profile:p1", "cpu:1"} <= set(found)
    body = encode_body(Capabilities(keys=found))
    assert decode_capabilities(body).keys == found


def test_missing_keeps_the_order_of_the_request() -> None:
    assert missing(["c:1", "a:1", "b:1"], frozenset({"a:1"})) == ["c:1", "b:1"]
    assert missing([], frozenset()) == []
