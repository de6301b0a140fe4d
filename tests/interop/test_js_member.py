"""js-libp2p as a member: with papers it reads and writes a daemon's topics and Kademlia.

The client knows the protocol pages and nothing of our code. It redeems an invitation, shows its
certificate on `/meshd/link/1`, and is then served as any device. Without papers the same client,
which holds the network key, is told nothing and heard by nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from support.daemons import Daemons, Device, await_linked, await_ready, meshctl, until
from support.js_client import needs_js
from support.js_member import JsMember

from meshd.control_frames import Frame

pytestmark = needs_js

LANGUAGE = "label:language=js"
BOAST = "label:boast=js"


@dataclass(frozen=True, slots=True)
class Mesh:
    """Two daemons and a member in another language, linked to the first and known by name."""

    attic: Device
    barn: Device
    js: JsMember
    id: str
    js_id: str

    @property
    def topic(self) -> str:
        """The topic on which all three publish."""
        return f"/meshd/{self.id}/presence"


@pytest.fixture(scope="module")
def mesh(daemons: Daemons) -> Iterator[Mesh]:
    """Return the mesh once the daemons know the member: they can only by what it published."""
    attic = daemons.start("attic", "--label", "place=attic")
    await_ready(attic)
    barn = daemons.start("barn", "--label", "place=barn", join=attic.invite())
    with JsMember.start(daemons.directory, "js") as js:
        js.tell("join", invitation=attic.invite(), name="js", capabilities=[LANGUAGE])
        joined = js.told("joined")
        js.told("linked", peer=attic.id)
        js.told("subscriber", peer=attic.id)
        await_ready(barn)
        await_linked(attic, barn)
        assert not knows_js(attic), "it has said nothing of itself yet"
        js.tell("publish")
        for device in (attic, barn):
            until(partial(knows_js, device), f"{device.name} has no js", device)
        yield Mesh(attic, barn, js, str(joined["mesh"]), str(joined["peer"]))


def knows_js(device: Device) -> bool:
    """Say whether a daemon has heard what the member says of itself."""
    return "js" in device.peers()


def find(device: Device, capability: str) -> Frame:
    """Return what a daemon finds in the DHT and confirms with the provider."""
    return device.ask("find", capabilities=[capability], via="dht")


def test_the_daemons_take_in_the_presence_that_it_publishes(mesh: Mesh) -> None:
    published = mesh.js.told("published")
    assert isinstance(published["recipients"], list)
    assert mesh.attic.id in published["recipients"]
    shown = meshctl(mesh.attic.home, "peers", "--output", "json")
    assert shown.returncode == 0, shown.stderr
    (peer,) = [peer for peer in json.loads(shown.stdout)["peers"] if peer["name"] == "js"]
    assert (peer["id"], peer["state"]) == (mesh.js_id, "linked")
    assert (peer["node_type"], peer["operator"]) == ("foreign", "attic")


def test_the_daemons_find_the_capability_that_it_provides(mesh: Mesh) -> None:
    mesh.js.tell("provide", key=LANGUAGE)
    mesh.js.told("provided", key=LANGUAGE)
    for device in (mesh.attic, mesh.barn):
        answer = find(device, LANGUAGE)
        assert [peer["name"] for peer in answer["peers"]] == ["js"], answer
        assert answer["source"] == "dht"
        assert LANGUAGE in answer["peers"][0]["capabilities"]


def test_what_it_provides_and_its_own_record_does_not_hold_is_not_found(mesh: Mesh) -> None:
    mesh.js.tell("provide", key=BOAST)
    mesh.js.told("provided", key=BOAST)
    assert find(mesh.attic, BOAST)["peers"] == []


def test_it_finds_the_provider_records_of_the_daemons_and_keeps_them(mesh: Mesh) -> None:
    for device in (mesh.attic, mesh.barn):
        # A daemon announces what few have some seconds after its first link.
        until(partial(is_found, mesh, device), f"js did not find {device.name}", device)


def is_found(mesh: Mesh, device: Device) -> bool:
    """Say whether the member finds a daemon by its label, at the first daemon and at itself."""
    key = f"label:place={device.name}"
    lookups_count = len(mesh.js.events("found", key=key))
    mesh.js.tell("find", key=key)
    until(lambda: len(mesh.js.events("found", key=key)) > lookups_count, f"no end: {key}")
    found = mesh.js.events("found", key=key)[-1]
    assert isinstance(found["told_by"], list)
    return found["providers"] == {device.id: True} and {mesh.attic.id, mesh.js_id} <= {
        *found["told_by"]
    }


def test_without_papers_the_same_client_reads_and_writes_nothing(
    mesh: Mesh, daemons: Daemons
) -> None:
    secret = "label:secret=yes"
    known = mesh.attic.peers().keys()
    with JsMember.start(daemons.directory, "stranger") as stranger:
        invitation = mesh.attic.invite()
        stranger.tell("join", invitation=invitation, name="stranger", is_stranger=True)
        stranger.tell("find", key=LANGUAGE)
        assert stranger.told("found")["providers"] == {}
        stranger.tell("provide", key=secret)
        stranger.told("provided")
        stranger.tell("publish")
        assert stranger.told("published")["recipients"] == []
        assert not stranger.events("subscriber")
        assert not stranger.events("record")
        assert find(mesh.attic, secret)["peers"] == []
    assert mesh.attic.peers().keys() == known


def test_it_reads_what_a_daemon_signs_for_the_topic(mesh: Mesh) -> None:
    barn = mesh.barn.id
    assert mesh.barn.stop() == 0

    def goodbye() -> object:
        heard = mesh.js.events("record", topic=mesh.topic, author=barn, owner=barn, kind="presence")
        bodies = [record["body"] for record in heard]
        return next((body for body in bodies if isinstance(body, dict) and body["has_left"]), None)

    said = until(goodbye, "js did not hear barn say goodbye", mesh.attic)
    assert isinstance(said, dict)
    assert said["name"] == "barn"
    assert not mesh.js.events("malformed")


def test_none_of_it_was_an_error_to_the_daemons(mesh: Mesh) -> None:
    assert mesh.attic.is_running
    for device in (mesh.attic, mesh.barn):
        assert not re.search(r"\[(error|critical)", device.log.read_text())
