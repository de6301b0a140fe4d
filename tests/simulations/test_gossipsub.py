"""A publication goes along links, through those who can pass it on, and not if it is forged."""

from __future__ import annotations

from msgspec.structs import replace
from support.scripted_nodes import Stage

from simulations.carriage import OverTheWire, stream_bytes
from simulations.crypto import StandInMaker
from simulations.discovery import Discovery
from simulations.engine import US_PER_S
from simulations.founding import founded_devices
from simulations.world import WorldSettings
from wire.effects import Publish
from wire.events import PublishedReceived
from wire.ids import PeerId
from wire.messages import RecordsGiven
from wire.signed import Signed

TOPIC = "/meshd/presence/1"


def chain(*, exercises_wire: bool = False) -> Stage:
    """Link 0 to 1 to 2."""
    here = Stage(WorldSettings(seed=1, discovery=Discovery.SEEDS, exercises_wire=exercises_wire))
    here.link(0, 1)
    here.link(1, 2)
    return here


def publication(here: Stage) -> RecordsGiven:
    return RecordsGiven(records=(), chains=(here.nodes[1].hello().chain,))


def heard(here: Stage) -> list[int]:
    """Return which devices have got a publication."""
    return [
        node
        for node in range(3)
        if any(isinstance(event, PublishedReceived) for event in here.nodes[node].events())
    ]


def test_all_get_it_once_and_each_that_passes_it_on_counts_its_bytes() -> None:
    here = chain()
    sent: list[tuple[PeerId, int]] = []
    here.world.network.on_sent = lambda peer, _, size_bytes: sent.append((peer, size_bytes))
    here.want(0, Publish(TOPIC, publication(here)))
    here.world.run_for(US_PER_S)
    assert heard(here) == [1, 2]
    size_bytes = stream_bytes(publication(here))
    assert sent == [(here.peer(0), size_bytes), (here.peer(1), size_bytes)]


def test_a_stalled_process_passes_nothing_on_and_gets_it_when_it_goes_on() -> None:
    here = chain()
    here.world.freeze(1)
    here.want(0, Publish(TOPIC, publication(here)))
    here.world.run_for(US_PER_S)
    assert heard(here) == []
    here.world.thaw(1)
    here.world.run_for(US_PER_S)
    assert heard(here) == [1]


def test_over_the_wire_it_is_decoded_and_verified() -> None:
    here = chain(exercises_wire=True)
    message = publication(here)
    here.want(0, Publish(TOPIC, message))
    here.world.run_for(US_PER_S)
    [received] = [event for event in here.nodes[2].events() if isinstance(event, PublishedReceived)]
    assert received.message == message
    assert received.message is not message


def test_nobody_passes_on_what_a_distrusted_device_forged() -> None:
    here = chain()
    ring = StandInMaker()
    founded_devices(here.world.settings.seed, 3, {}, ring)
    here.world.network.distrust(here.peer(0), OverTheWire(ring.verifier))
    good = publication(here)
    [[certificate, *rest]] = good.chains
    forged = Signed(
        body=certificate.body,
        received=certificate.received,
        signer=certificate.signer,
        signature=bytes(64),
    )
    here.want(0, Publish(TOPIC, replace(good, chains=((forged, *rest),))))
    here.world.run_for(US_PER_S)
    assert heard(here) == []
    assert here.world.network.counts["network.publication_refused"] == 1
    here.want(0, Publish(TOPIC, good))
    here.world.run_for(US_PER_S)
    assert heard(here) == [1, 2]
