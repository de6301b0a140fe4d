"""Whole nodes: how they become one mesh, come back after a loss, leave, and fail."""

from __future__ import annotations

from msgspec.structs import replace
from support.meshes import Device, keys_of, small_mesh
from support.records import capabilities_of, presence_of, record_of
from support.small_hosts import WALL_US, Host, Network

from meshd.node import ROW_KINDS
from p2p.address_book import ADDRESS_ROW
from p2p.own_records import INCARNATION_ROW
from telemetry.sample import Sample, encode_sample
from wire import effects as do
from wire import events as on
from wire.answers import (
    Found,
    Invited,
    PeerList,
    PeerView,
    RefusalCode,
    Refused,
    RemovalView,
    StatusView,
)
from wire.commands import Find, GetPeer, GetStatus, Invite, ListPeers, Remove
from wire.ids import PeerId, peer_text
from wire.keys import Ed25519Verifier
from wire.membership import (
    ADDRESSES_MAX,
    Invitation,
    JoinGranted,
    JoinRefusal,
    JoinRefused,
    JoinRequest,
    check_chain,
    invitation_from_text,
)
from wire.messages import Heartbeat, HeartbeatAcknowledged, RecordsGiven, RecordsWanted
from wire.records import RecordKind, decode_presence

NAMES = {"device-0", "device-1", "device-2"}
SENSED = on.Sampled(encode_sample(Sample(cpu_idle_permille=900)))


def three_devices(*, starts: bool = True) -> tuple[Network, list[Host]]:
    """Three devices; the second and third know where the first is."""
    network = Network(small_mesh(3))
    hosts = [
        network.add(device, capabilities=("cpu:1", f"label:number={number}"))
        for number, device in enumerate(network.mesh.devices)
    ]
    if starts:
        for host in hosts:
            host.start()
        for host in hosts[1:]:
            host.see(hosts[0], "invitation")
    return network, hosts


def joined() -> tuple[Network, list[Host]]:
    """Three devices that are one mesh."""
    network, hosts = three_devices()
    network.run_for(10)
    assert all(host.names_known() == NAMES for host in hosts)
    return network, hosts


def is_converged(hosts: list[Host]) -> bool:
    return len({host.running.directory.state_hash() for host in hosts}) == 1


def incarnation_held(host: Host, owner: PeerId) -> int:
    signed = host.running.directory.record(owner, RecordKind.PRESENCE)
    assert signed is not None
    return signed.body.incarnation


# --- becoming one mesh ----------------------------------------------------------------------


def test_three_devices_of_which_two_know_one_become_a_full_mesh() -> None:
    network, hosts = three_devices()
    network.run_for(10)
    assert all(host.names_known() == NAMES for host in hosts)
    for one in hosts:
        for other in hosts:
            assert one is other or network.are_linked(one, other)
    assert is_converged(hosts)


def test_every_device_sees_what_the_others_provide_and_how_far_they_are() -> None:
    _, hosts = joined()
    [found] = hosts[2].ask(Find(("label:number=1",), via="local"))
    assert isinstance(found, Found)
    assert [peer.name for peer in found.peers] == ["device-1"]
    [peers] = hosts[2].ask(ListPeers())
    assert isinstance(peers, PeerList)
    assert [(peer.name, peer.state) for peer in peers.peers] == [
        ("device-2", "self"),
        ("device-0", "linked"),
        ("device-1", "linked"),
    ]
    round_trips_us = [peer.round_trip_us for peer in peers.peers]
    assert round_trips_us == [None, 2_000, 2_000]


def test_telemetry_spreads_when_a_device_is_sampled() -> None:
    network, hosts = joined()
    hosts[1].handle(SENSED)
    network.run_for(1)
    for host in hosts:
        member = host.running.directory.get(hosts[1].peer)
        assert member is not None
        assert member.sample is not None
        assert member.sample.cpu_idle_permille == 900


def test_what_a_device_missed_it_gets_at_the_next_exchange() -> None:
    network, hosts = joined()
    hosts[0].running.directory.forget(hosts[2].peer)
    network.run_for(30)
    assert is_converged(hosts)
    assert hosts[0].names_known() == NAMES


def test_a_stranger_gets_no_record_in_whatever_way_it_comes() -> None:
    network, hosts = joined()
    stranger = small_mesh(2, nonce=99).devices[1]
    given = RecordsGiven(
        records=(presence_of(stranger, version=(9, 9)), capabilities_of(stranger, "gpu:cuda")),
        chains=(stranger.chain,),
    )
    hosts[0].handle(on.Received(hosts[1].peer, given))
    hosts[0].handle(on.PublishedReceived(given))
    network.run_for(10)
    # The stranger of the other mesh has the keys of device 1: only its papers are foreign.
    assert hosts[0].names_known() == NAMES
    assert incarnation_held(hosts[0], hosts[1].peer) == 1


def test_no_member_can_speak_for_another() -> None:
    network, hosts = joined()
    victim = hosts[2].device
    body = presence_of(victim, has_left=True).body.body
    forged = record_of(
        hosts[1].device, RecordKind.PRESENCE, body, version=(9, 9), owner=victim.peer
    )
    for owner in (hosts[0], hosts[2]):
        owner.handle(
            on.Received(hosts[1].peer, RecordsGiven(records=(forged,), chains=(victim.chain,)))
        )
    network.run_for(10)
    assert not any(member.has_left for host in hosts for member in host.running.directory)
    assert hosts[2].running.hello().incarnation == 1, "a forgery raises nothing"


def test_a_device_with_more_addresses_than_a_record_holds_is_still_seen() -> None:
    network, hosts = joined()
    hosts[1].handle(on.Listening(tuple(f"/ip4/10.0.0.{number}/tcp/4001" for number in range(40))))
    network.run_for(1)
    member = hosts[0].running.directory.get(hosts[1].peer)
    assert member is not None
    assert member.presence is not None
    assert len(member.presence.addresses) == ADDRESSES_MAX


def test_a_new_address_is_published_too_for_those_who_only_read_the_topic() -> None:
    _, hosts = joined()
    address = "/ip4/192.0.2.77/tcp/4001"
    [published] = [
        effect.records
        for effect in hosts[1].handle(on.Listening((address,)))
        if isinstance(effect, do.Publish)
    ]
    [signed] = published.records
    assert decode_presence(signed.body.body).addresses == (address,)
    assert not any(
        isinstance(effect, do.Publish) for effect in hosts[1].handle(on.Listening((address,)))
    ), "once"


def test_a_link_that_brings_nothing_is_hung_up_and_dialled_again() -> None:
    network, hosts = joined()
    hosts[2].node, silent = None, hosts[2].node
    network.run_for(13)
    assert hosts[2].peer not in hosts[0].links
    hosts[2].node = silent
    for other in hosts[:2]:
        hosts[2].handle(on.LinkDown(other.peer, "gone"))
    network.run_for(5)
    assert network.are_linked(hosts[0], hosts[2])


# --- coming back ----------------------------------------------------------------------------


def test_a_device_that_restarts_with_its_disk_dials_those_it_knew_and_is_newer_than_before() -> (
    None
):
    network, hosts = joined()
    hosts[1].crash()
    network.run_for(30)
    hosts[1].start()  # nobody tells it anything
    network.run_for(10)
    assert hosts[1].names_known() == NAMES
    assert hosts[1].running.hello().incarnation == 2
    assert all(incarnation_held(host, hosts[1].peer) == 2 for host in hosts)
    assert is_converged(hosts)


def test_a_device_that_lost_its_disk_rises_above_what_others_hold() -> None:
    network, hosts = joined()
    for _ in range(3):
        hosts[1].crash()
        hosts[1].start()
    network.run_for(5)
    assert incarnation_held(hosts[0], hosts[1].peer) == 4
    hosts[1].crash(loses_disk=True)
    hosts[1].start()
    assert hosts[1].running.hello().incarnation == 1
    network.run_for(90)  # the others dial it: it has forgotten them
    assert hosts[1].running.hello().incarnation == 5
    assert all(incarnation_held(host, hosts[1].peer) == 5 for host in hosts)
    assert hosts[1].names_known() == NAMES
    assert is_converged(hosts)
    hosts[1].crash()
    hosts[1].start()
    assert hosts[1].running.hello().incarnation == 6, "it was durable"


def test_a_device_that_hears_of_itself_twice_in_a_moment_goes_above_both() -> None:
    network, hosts = joined()
    for incarnation in (5, 9):
        record = presence_of(hosts[1].device, version=(incarnation, 1))
        hosts[1].handle(on.Received(hosts[0].peer, RecordsGiven(records=(record,))))
    network.run_for(1)
    assert hosts[1].running.hello().incarnation == 6
    network.run_for(11)
    assert all(incarnation_held(host, hosts[1].peer) == 10 for host in hosts)


def test_nothing_is_signed_while_the_first_write_is_under_way() -> None:
    network, hosts = three_devices(starts=False)
    slow = hosts[1]
    slow.is_disk_slow = True
    for host in hosts:
        host.start()
    slow.see(hosts[0])
    slow.handle(SENSED)
    network.run_for(10)
    assert network.are_linked(slow, hosts[0])
    member = hosts[0].running.directory.get(slow.peer)
    assert member is not None
    assert member.records == {}, "it is a member, but has said nothing"
    slow.is_disk_slow = False
    slow.finish_writes()
    network.run_for(10)
    assert hosts[0].names_known() >= {"device-1"}


def test_a_whole_mesh_that_was_off_for_an_hour_comes_back_alone() -> None:
    network, hosts = joined()
    for host in hosts:
        host.crash()
    network.run_for(3_600)
    for host in hosts:
        host.start()
    network.run_for(90)
    assert all(host.names_known() == NAMES for host in hosts)
    assert is_converged(hosts)


def test_a_device_known_from_an_invitation_alone_is_remembered_over_a_crash() -> None:
    network, hosts = three_devices(starts=False)
    network.has_pubsub = False
    hosts[1].start()
    hosts[1].see(hosts[0], "invitation")
    hosts[1].crash()
    hosts[0].start()
    hosts[1].start()
    network.run_for(5)
    assert network.are_linked(hosts[0], hosts[1])


def test_all_rows_of_a_running_mesh_can_be_read_again() -> None:
    _, hosts = joined()
    rows = hosts[1].disk.read()
    assert {row.kind for row in rows} >= {INCARNATION_ROW, ADDRESS_ROW}
    assert all(isinstance(row.value, ROW_KINDS[row.kind]) for row in rows)


# --- suspension -----------------------------------------------------------------------------


def test_a_device_that_slept_for_an_hour_keeps_the_links_that_still_answer() -> None:
    network, hosts = joined()
    for host in hosts:
        host.outgoing.clear()
    network.sleep(3_600)
    network.run_for(30)
    hangups = [
        effect for host in hosts for effect in host.outgoing if isinstance(effect, do.Hangup)
    ]
    assert hangups == []
    assert network.are_linked(hosts[0], hosts[1])
    peers = hosts[0].ask(ListPeers())[0]
    assert isinstance(peers, PeerList)
    assert {peer.round_trip_us for peer in peers.peers} == {None, 2_000}


# --- leaving --------------------------------------------------------------------------------


def test_a_device_that_stops_is_seen_to_have_left_until_it_is_back() -> None:
    network, hosts = joined()
    hosts[2].handle(on.Stopping())
    network.run_for(1)
    hosts[2].crash()
    network.run_for(5)
    view = hosts[0].ask(GetPeer("device-2"))[0]
    assert isinstance(view, PeerView)
    assert (view.state, view.reason) == ("left", "it said goodbye")
    [found] = hosts[0].ask(Find(("label:number=2",), via="local"))
    assert isinstance(found, Found)
    assert found.peers == []
    hosts[2].start()
    network.run_for(5)
    view = hosts[0].ask(GetPeer("device-2"))[0]
    assert isinstance(view, PeerView)
    assert view.state == "linked"


def test_a_device_that_stops_dials_nobody_any_more() -> None:
    network, hosts = three_devices(starts=False)
    hosts[1].start()
    hosts[1].handle(on.Stopping())
    hosts[1].see(hosts[0], "invitation")
    hosts[1].outgoing.clear()
    network.run_for(30)
    assert not any(isinstance(effect, do.Dial) for effect in hosts[1].outgoing)


def test_goodbye_is_said_on_the_links_and_published() -> None:
    network, hosts = joined()
    effects = hosts[2].handle(on.Stopping())
    told = [effect.peer for effect in effects if isinstance(effect, do.Send)]
    assert sorted(told) == sorted([hosts[0].peer, hosts[1].peer])
    [published] = [effect for effect in effects if isinstance(effect, do.Publish)]
    assert decode_presence(published.records.records[0].body.body).has_left
    assert published.topic.startswith("/meshd/")
    network.run_for(1)


# --- a store that does not write ------------------------------------------------------------


def test_after_a_failed_write_everything_is_refused_and_nothing_is_sent() -> None:
    network, hosts = joined()
    broken = hosts[0]
    broken.handle(on.PersistFailed("no space left on device"))
    broken.outgoing.clear()
    for command in (GetStatus(), Invite(), Find(("cpu:1",))):
        [refused] = broken.ask(command)
        assert isinstance(refused, Refused)
        assert refused.code is RefusalCode.STORAGE_FULL
        assert "no space left on device" in refused.message
        assert refused.hint
    broken.handle(SENSED)
    broken.handle(on.Listening(("/ip4/192.0.2.99/tcp/4001",)))
    broken.handle(on.Received(hosts[1].peer, Heartbeat(token=1)))
    broken.handle(on.Stopping())
    network.run_for(60)
    assert {type(effect) for effect in broken.outgoing} == {do.Answer}


def test_a_device_whose_first_write_fails_never_signs_anything() -> None:
    network, hosts = three_devices(starts=False)
    hosts[1].is_disk_broken = True
    hosts[0].start()
    hosts[1].start()
    network.run_for(1)
    member = hosts[1].running.directory.get(hosts[1].peer)
    assert member is not None
    assert member.records == {}


def test_while_the_store_is_broken_an_invitation_is_answered_as_busy() -> None:
    _, hosts = joined()
    invitation = invitation_of(hosts[0])
    hosts[0].handle(on.PersistFailed("no space left on device"))
    join = JoinRequest(secret=invitation.secret, name="new")
    hosts[0].handle(on.JoinAsked(request=1, peer=keys_of(50).peer, join=join))
    assert hosts[0].join_answers() == [JoinRefused(reason=JoinRefusal.BUSY)]


def test_a_restart_from_disk_ends_the_refusal() -> None:
    network, hosts = joined()
    hosts[0].handle(on.PersistFailed("no space left on device"))
    hosts[0].crash()
    hosts[0].start()
    network.run_for(5)
    [status] = hosts[0].ask(GetStatus())
    assert isinstance(status, StatusView)
    assert status.members == 3


# --- joining --------------------------------------------------------------------------------


def invitation_of(host: Host) -> Invitation:
    [invited] = host.ask(Invite())
    assert isinstance(invited, Invited)
    return invitation_from_text(invited.token, Ed25519Verifier())


def test_a_device_is_let_in_by_its_invitation_also_after_the_issuer_restarted() -> None:
    network, hosts = joined()
    invitation = invitation_of(hosts[0])
    assert invitation.addresses == (hosts[0].address,)
    hosts[0].crash()
    network.run_for(3_600)
    hosts[0].start()
    join = JoinRequest(secret=invitation.secret, name="new")
    hosts[0].handle(on.JoinAsked(request=1, peer=keys_of(50).peer, join=join))
    hosts[0].handle(on.JoinAsked(request=2, peer=keys_of(51).peer, join=join))
    granted, refused = hosts[0].join_answers()
    assert isinstance(granted, JoinGranted)
    check_chain(granted.chain, genesis=granted.genesis, subject=keys_of(50).peer)
    assert refused == JoinRefused(reason=JoinRefusal.USED_UP)


def test_an_invitation_runs_out_on_the_wall_clock_of_its_issuer() -> None:
    _, hosts = joined()
    invitation = invitation_of(hosts[0])
    hosts[0].handle(on.WallClockRead(WALL_US + 2 * 86_400 * 1_000_000, 1_000))
    join = JoinRequest(secret=invitation.secret, name="new")
    hosts[0].handle(on.JoinAsked(request=1, peer=keys_of(50).peer, join=join))
    assert hosts[0].join_answers() == [JoinRefused(reason=JoinRefusal.EXPIRED)]


def test_without_a_known_clock_nobody_is_let_in() -> None:
    _, hosts = joined()
    invitation = invitation_of(hosts[0])
    hosts[0].handle(on.WallClockRead(1_000_000, None))
    join = JoinRequest(secret=invitation.secret, name="new")
    hosts[0].handle(on.JoinAsked(request=1, peer=keys_of(50).peer, join=join))
    assert hosts[0].join_answers() == [JoinRefused(reason=JoinRefusal.BUSY)]


# --- finding --------------------------------------------------------------------------------


def ten_devices_of_eight_records() -> tuple[Network, list[Host]]:
    """Ten linked devices whose directories hold eight; each provides one thing of its own."""
    network = Network(small_mesh(10))
    hosts = [
        network.add(device, capabilities=("cpu:1", f"label:number={number}"), members_max=8)
        for number, device in enumerate(network.mesh.devices)
    ]
    for host in hosts:
        host.start()
    for host in hosts[1:]:
        host.see(hosts[0], "invitation")
    network.run_for(30)
    return network, hosts


def test_a_capability_that_no_gossip_brought_is_found_through_the_dht() -> None:
    network, hosts = ten_devices_of_eight_records()
    seeker = hosts[0]
    unknown = [
        number
        for number in range(1, 10)
        if not seeker.running.directory.providers(frozenset({f"label:number={number}"}))
    ]
    assert len(unknown) >= 2
    for number in unknown:
        seeker.outgoing.clear()
        assert seeker.ask(Find((f"label:number={number}",), via="any")) == []
        network.run_for(10)
        [found] = found_by(seeker)
        assert found.source == "dht"
        assert [peer.name for peer in found.peers] == [f"device-{number}"]
        assert len(seeker.running.directory) <= 8


def test_a_device_holds_the_records_of_those_it_is_linked_to_before_all_others() -> None:
    network = Network(small_mesh(20))
    hosts = [network.add(one, members_max=12, links_max=4) for one in network.mesh.devices]
    for host in hosts:
        host.start()
    for host in hosts[1:]:
        host.see(hosts[0], "invitation")
    network.run_for(60)
    for host in hosts:
        held = {member.peer for member in host.running.directory}
        assert len(held) == 12
        assert host.links <= held


def found_by(host: Host) -> list[Found]:
    """Return what was found and answered until now."""
    answers = [effect.value for effect in host.outgoing if isinstance(effect, do.Answer)]
    return [value for value in answers if isinstance(value, Found)]


def test_a_poisoned_provider_record_costs_a_question_and_not_the_whole_wait() -> None:
    network, hosts = joined()
    network.provided["gpu:cuda"] = {hosts[1].peer: hosts[1].address}
    assert hosts[0].ask(Find(("gpu:cuda",), via="any")) == []
    network.run_for(0.1)
    [found] = found_by(hosts[0])
    assert (found.source, found.peers) == ("dht", [])


def looking_for_a_provider() -> tuple[Network, Host, Host, Device]:
    """Two linked devices, of which the first dials a third that the DHT named."""
    network = Network(small_mesh(4))
    hosts = [network.add(device) for device in network.mesh.devices[:2]]
    provider = network.mesh.devices[3]
    for host in hosts:
        host.start()
    hosts[0].see(hosts[1])
    network.run_for(5)
    network.add(provider)  # it never runs
    network.provided["gpu:cuda"] = {provider.peer: "/ip4/192.0.2.77/tcp/4001"}
    assert hosts[0].ask(Find(("gpu:cuda",), via="any")) == []
    network.run_for(0.015)
    assert found_by(hosts[0]) == [], "the dial is under way"
    return network, hosts[0], hosts[1], provider


def test_a_provider_is_asked_as_soon_as_there_is_a_link_to_it() -> None:
    _, seeker, _, provider = looking_for_a_provider()
    hello = replace(seeker.running.hello(), chain=provider.chain)
    link = on.LinkUp(peer=provider.peer, hello=hello, address="", is_outbound=True)
    wanted = [
        effect.message
        for effect in seeker.handle(link)
        if isinstance(effect, do.Send) and isinstance(effect.message, RecordsWanted)
    ]
    assert len(wanted) == 1
    assert {version.kind for version in wanted[0].versions} == {
        RecordKind.PRESENCE,
        RecordKind.CAPABILITIES,
        RecordKind.TELEMETRY,
    }


def test_records_of_the_provider_from_somebody_else_end_the_wait() -> None:
    _, seeker, other, provider = looking_for_a_provider()
    records = (presence_of(provider), capabilities_of(provider, "gpu:cuda"))
    given = RecordsGiven(records=records, chains=(provider.chain,))
    seeker.handle(on.Received(other.peer, given))
    assert [len(found.peers) for found in found_by(seeker)] == [1]


def test_a_lookup_of_a_device_that_is_gone_ends_with_who_comes_closest() -> None:
    network, hosts = joined()
    network.run_for(10)  # until what is rare is provided
    hosts[2].crash()
    network.unreachable.add(hosts[2].peer)
    hosts[0].running.directory.forget(hosts[2].peer)
    hosts[0].outgoing.clear()
    hosts[0].ask(Find(("label:number=2",), via="dht"))
    network.run_for(2)
    [found] = found_by(hosts[0])
    assert found.peers == []
    assert {one.name for one in found.closest} == {"device-0", "device-1"}
    assert all(one.missing == ["label:number=2"] for one in found.closest)


def test_common_capabilities_stay_out_of_the_dht() -> None:
    network, hosts = joined()
    network.run_for(70)
    assert not network.provided.get("cpu:1")
    for number, host in enumerate(hosts):
        assert set(network.provided[f"label:number={number}"]) == {host.peer}


# --- heartbeats -----------------------------------------------------------------------------


def test_heartbeats_are_answered_and_stop_with_the_link() -> None:
    network, hosts = joined()
    effects = hosts[0].handle(on.Received(hosts[1].peer, Heartbeat(token=5)))
    assert do.Send(hosts[1].peer, HeartbeatAcknowledged(token=5)) in effects
    hosts[1].crash()
    network.unreachable.add(hosts[1].peer)
    network.run_for(1)
    hosts[0].outgoing.clear()
    network.run_for(30)
    assert not any(
        isinstance(effect, do.Send) and effect.peer == hosts[1].peer for effect in hosts[0].outgoing
    )
    view = hosts[0].ask(GetPeer(peer_text(hosts[1].peer)))[0]
    assert isinstance(view, PeerView)
    why = "not heard by 2 of its 2 observers; connection refused"
    assert (view.state, view.reason) == ("dead", why)


# --- removal --------------------------------------------------------------------------------


def test_nothing_that_a_removed_device_still_says_is_heard() -> None:
    _, hosts = joined()
    removed = hosts[2]
    beat = on.Received(removed.peer, Heartbeat(token=7))
    assert hosts[0].handle(beat) != []
    [view] = hosts[0].ask(Remove(peer="device-2"))
    assert isinstance(view, RemovalView)
    assert hosts[0].handle(beat) == []
