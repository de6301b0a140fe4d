"""Two daemons on two machines, as far as the kernel can pretend: a cable, and nothing shared."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.daemons import Daemons, Device, await_linked, await_ready, until
from support.hard_daemons import (
    ECHOED,
    TwoNetworks,
    assert_calm,
    two_networks,
    why_no_networks,
)
from support.wasm import example

from meshd.client import TaskInput
from scheduler.receipt import verify_receipt
from wire.ids import mesh_from_text
from wire.keys import Ed25519Verifier

CUT_S = 15.0


@pytest.fixture(scope="module")
def networks() -> Iterator[TwoNetworks]:
    """Return two networks with a cable between them."""
    if reason := why_no_networks():
        pytest.skip(reason)
    with two_networks() as made:
        yield made


@pytest.fixture(scope="module")
def pair(networks: TwoNetworks, daemons: Daemons) -> Iterator[tuple[Device, Device]]:
    """Return a device in each network, the second invited by the first."""
    first = daemons.start(
        "attic", "--label", "home=attic", listen=networks.listen(0), prefix=networks.prefix(0)
    )
    await_ready(first)
    second = daemons.start(
        "garage",
        *("--label", "home=garage"),
        listen=networks.listen(1),
        prefix=networks.prefix(1),
        join=first.invite(),
    )
    await_ready(second)
    await_linked(first, second)
    yield first, second
    for device in (first, second):  # before the networks are taken away
        device.stop()


def run_across(device: Device, other: Device, said: bytes) -> None:
    """Run a task that only the other device may run, and prove that it did."""
    (task,) = device.submit(
        example("faults/echo"),
        TaskInput(stdin=said),
        requirements=[f"label:home={other.name}"],
    )
    assert device.wait(task)["executor_name"] == other.name
    output = device.result(task)
    assert output == ECHOED + said
    verdict = verify_receipt(
        device.receipt(task),
        verifier=Ed25519Verifier(),
        mesh=mesh_from_text(device.ask("status")["mesh"]),
        result=output,
    )
    assert verdict.is_good, verdict


def sees(device: Device, other: Device) -> str:
    """Return the state of a device as another sees it."""
    return str(device.peers()[other.name]["state"])


def test_each_runs_work_of_the_other(networks: TwoNetworks, pair: tuple[Device, Device]) -> None:
    first, second = pair
    for device, host in zip(pair, networks.hosts, strict=True):
        assert device.address.startswith(f"/ip4/{host}/tcp/")
    run_across(first, second, b"over the cable")
    run_across(second, first, bytes(100_000))  # travels as a blob


def test_a_cut_cable_is_noticed_and_the_link_comes_back_by_itself(
    networks: TwoNetworks, pair: tuple[Device, Device]
) -> None:
    first, second = pair
    networks.cut()
    begun_s = time.monotonic()
    for device, other in (pair, pair[::-1]):
        until(
            lambda device=device, other=other: sees(device, other) != "linked",  # type: ignore[misc]
            f"{device.name} did not notice the cut",
            *pair,
            within_s=2 * CUT_S,
        )
    # Work for the other side is taken on meanwhile, and waits.
    time.sleep(max(0.0, begun_s + CUT_S - time.monotonic()))
    networks.mend()
    await_linked(first, second)
    run_across(first, second, b"again")
    run_across(second, first, b"and back")
    for device in pair:
        assert_calm(device)


def test_devices_whose_addresses_all_changed_find_each_other_on_the_network(
    daemons: Daemons, pair: tuple[Device, Device]
) -> None:
    ports = [device.port for device in pair]
    for device in pair:
        device.kill()
    for device in pair:  # what each remembers of the other is out of date
        device.environ = {"MESHD_MDNS__ENABLED": "true"}
        daemons.restart(device)
    await_ready(*pair)
    assert all(device.port != port for device, port in zip(pair, ports, strict=True))
    await_linked(*pair)
    run_across(*pair, b"found")
    for device in pair:
        assert_calm(device)
