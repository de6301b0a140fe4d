"""Ten real daemons that hold records of eight each: what gossip cannot bring, Kademlia finds.

Every device has a label of its own, so each of them lacks at least two that the others provide.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from support.daemons import Daemons, Device, await_ready, meshctl, until

from meshd.control_frames import Frame

pytestmark = pytest.mark.heavy

DEVICES_COUNT = 10
MEMBERS_MAX = 8
SCARCE = {"MESHD_DIRECTORY__MEMBERS_MAX": str(MEMBERS_MAX), "MESHD_LINKS__MAX": "4"}
STARTS_AT_ONCE = 3  # two cores, two seconds of one each
LOOKUP_S_MAX = 8.0  # of the daemon; a lookup that waits for its end was not answered
FIND_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a device that knew nothing of a provider was told about it."""

    provider: Device
    answer: Frame
    took_s: float


@pytest.fixture(scope="module")
def ten(daemons: Daemons) -> list[Device]:
    """Return ten devices of one mesh that all know as many others as they have room for."""
    first = daemons.start("d0", "--label", "place=d0", environ=SCARCE)
    await_ready(first)
    token = first.invite(uses=DEVICES_COUNT - 1)
    devices = [first]
    for number in range(1, DEVICES_COUNT):
        await_ready(*devices[:-STARTS_AT_ONCE])
        name = f"d{number}"
        devices.append(daemons.start(name, "--label", f"place={name}", join=token, environ=SCARCE))
    await_ready(*devices)
    for device in devices:
        until(
            lambda device=device: len(device.peers()) == MEMBERS_MAX,  # type: ignore[misc]
            f"{device.name} did not come to know {MEMBERS_MAX} devices",
            *devices,
        )
    return devices


def label_of(device: Device) -> str:
    """Return the capability that only this device has."""
    return f"label:place={device.name}"


def find(device: Device, *capabilities: str, via: str) -> Frame:
    """Return who provides all `capabilities`, as `device` is told."""
    return device.ask("find", capabilities=list(capabilities), via=via)


def discover(asker: Device, devices: Sequence[Device]) -> Discovery | None:
    """Ask for what a device provides that `asker` holds no record of; None if it is not found."""
    known = asker.peers()
    assert len(known) <= MEMBERS_MAX
    provider = next(device for device in devices if device.name not in known)
    wanted = label_of(provider)
    assert not any(wanted in peer["capabilities"] for peer in known.values())
    local = find(asker, wanted, via="local")
    if local["peers"]:
        return None  # gossip was faster: another provider, another time
    assert local["source"] == "local"
    began_s = time.monotonic()
    answer = find(asker, wanted, via="dht")
    assert answer["source"] == "dht"
    discovery = Discovery(provider, answer, time.monotonic() - began_s)
    return discovery if answer["peers"] else None


def test_every_device_finds_a_provider_that_its_directory_does_not_hold(ten: list[Device]) -> None:
    for asker in ten:
        found = until(
            lambda asker=asker: discover(asker, ten),  # type: ignore[misc]
            f"{asker.name} did not find a device that it did not know",
            *ten,
            within_s=FIND_S_MAX,
        )
        (peer,) = found.answer["peers"]
        assert peer["id"] == found.provider.id
        assert peer["name"] == found.provider.name
        # What it says itself, all of it and in its own words: the DHT knows of one key alone.
        (own,) = [one for one in found.provider.ask("peers")["peers"] if one["is_self"]]
        assert peer["capabilities"] == own["capabilities"]
        assert found.took_s < LOOKUP_S_MAX


def test_meshctl_names_the_dht_as_the_source(ten: list[Device]) -> None:
    asker = ten[-1]

    def told() -> Frame | None:
        known = asker.peers()
        provider = next(device for device in ten if device.name not in known)
        ended = meshctl(asker.home, "find", label_of(provider), "--output", "json")
        if ended.returncode != 0:
            return None  # not announced yet, or dropped from the directory this very moment
        answer: Frame = json.loads(ended.stdout)
        assert [peer["id"] for peer in answer["peers"]] == [provider.id]
        return answer if answer["source"] == "dht" else None

    until(told, "meshctl find was not answered by the DHT", *ten, within_s=FIND_S_MAX)


def test_what_nobody_provides_is_not_found_and_no_time_is_lost(ten: list[Device]) -> None:
    began_s = time.monotonic()
    answer = find(ten[3], "label:place=nowhere", via="dht")
    assert answer["peers"] == []
    assert answer["closest"] != []
    assert time.monotonic() - began_s < LOOKUP_S_MAX


def test_who_was_named_for_one_capability_must_hold_all_that_was_asked_for(
    ten: list[Device],
) -> None:
    asker, *others = ten
    known = asker.peers()
    provider = next(device for device in others if device.name not in known)
    both = (label_of(provider), label_of(asker))
    assert find(asker, *both, via="dht")["peers"] == []
