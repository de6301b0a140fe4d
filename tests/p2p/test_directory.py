"""The directory: what it takes in, that all orders end alike, and whom it drops when it is full."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.meshes import Device, small_mesh
from support.records import (
    capabilities_of,
    directory_of,
    presence_of,
    record_of,
    telemetry_of,
)

from p2p.directory import Directory, Merge, bucket_of
from wire.errors import NotAMember
from wire.ids import PeerId
from wire.membership import ALL_ROLES, Chain, Role, issue_certificate
from wire.messages import BUCKET_COUNT, HASH_BYTES, RecordVersion
from wire.records import Record, RecordKind
from wire.signed import Signed

MESH = small_mesh(7)
OWN, *OTHERS = MESH.devices
CHAINS = {device.peer: device.chain for device in MESH.devices}
STRANGER = small_mesh(2, nonce=99).devices[1]

# Every version twice, with different bytes, so that ties are drawn often.
POOL: tuple[Signed[Record], ...] = tuple(
    signed
    for device in OTHERS
    for version in ((1, 1), (1, 2), (2, 1))
    for variant in (1, 2)
    for signed in (
        presence_of(device, version=version, name=f"name {variant}", has_left=variant == 2),
        capabilities_of(device, f"cpu:{variant}", version=version),
        telemetry_of(device, version=version, slots_free=variant),
    )
)
records = st.lists(st.sampled_from(POOL), max_size=24)


def merged(
    records: Sequence[Signed[Record]], *, members_max: int = 2_000, into: Directory | None = None
) -> Directory:
    directory = into or directory_of(MESH, OWN, members_max=members_max)
    for signed in records:
        directory.merge(signed, CHAINS[signed.body.owner], now_us=5)
    return directory


def contents(directory: Directory) -> object:
    """Everything that two directories which saw the same records must agree on."""
    held = {
        member.peer: (
            {kind: signed.received for kind, signed in member.records.items()},
            member.presence,
            member.capabilities,
            member.sample,
            member.chain,
        )
        for member in directory
    }
    return held, directory.bucket_hashes(), directory.state_hash()


def all_records(directory: Directory) -> list[Signed[Record]]:
    return [signed for member in directory for signed in member.records.values()]


# --- merging --------------------------------------------------------------------------------


@given(records, st.randoms(use_true_random=False))
def test_the_order_in_which_records_come_does_not_matter(
    given_records: list[Signed[Record]], rng: random.Random
) -> None:
    shuffled = given_records[:]
    rng.shuffle(shuffled)
    assert contents(merged(given_records)) == contents(merged(shuffled))


@given(records, records, records)
def test_directories_merge_associatively_and_idempotently(
    first: list[Signed[Record]], second: list[Signed[Record]], third: list[Signed[Record]]
) -> None:
    second_and_third = all_records(merged(third, into=merged(second)))
    left = merged(third, into=merged(second, into=merged(first)))
    right = merged(second_and_third, into=merged(first))
    assert contents(left) == contents(right)
    assert contents(merged(all_records(left), into=left)) == contents(right)


@given(records, st.randoms(use_true_random=False), st.integers(1, 5))
def test_a_full_directory_ends_alike_in_every_order(
    given_records: list[Signed[Record]], rng: random.Random, members_max: int
) -> None:
    shuffled = given_records[:]
    rng.shuffle(shuffled)
    first = merged(given_records, members_max=members_max)
    assert contents(first) == contents(merged(shuffled, members_max=members_max))
    assert len(first) <= members_max


def test_of_two_records_of_one_version_the_greater_bytes_stay() -> None:
    lesser, greater = sorted(
        (telemetry_of(OTHERS[0], slots_free=1), telemetry_of(OTHERS[0], slots_free=2)),
        key=lambda signed: signed.received,
    )
    directory = merged([lesser])
    assert directory.merge(greater, None, now_us=6) is Merge.NEWER
    assert directory.merge(lesser, None, now_us=7) is Merge.KNOWN
    assert directory.record(OTHERS[0].peer, RecordKind.TELEMETRY) == greater


def test_a_higher_incarnation_beats_any_counter() -> None:
    directory = merged([presence_of(OTHERS[0], version=(2, 1), name="now")])
    older = presence_of(OTHERS[0], version=(1, 1_000), name="before")
    assert directory.merge(older, None, now_us=6) is Merge.KNOWN
    member = directory.get(OTHERS[0].peer)
    assert member is not None
    assert member.name == "now"


# --- hashes ---------------------------------------------------------------------------------


def lasting_by_bucket(directory: Directory) -> list[set[RecordVersion]]:
    return [
        {one for one in directory.versions([bucket]) if one.kind != RecordKind.TELEMETRY}
        for bucket in range(BUCKET_COUNT)
    ]


@given(records, records, st.lists(st.sampled_from(OTHERS), max_size=2))
def test_hashes_are_equal_exactly_when_the_versions_of_what_lasts_are(
    first: list[Signed[Record]], second: list[Signed[Record]], forgotten: list[Device]
) -> None:
    one, other = merged(first), merged(second)
    for device in forgotten:
        one.forget(device.peer)
    buckets_of_one, buckets_of_other = lasting_by_bucket(one), lasting_by_bucket(other)
    for bucket in range(BUCKET_COUNT):
        part = slice(bucket * HASH_BYTES, (bucket + 1) * HASH_BYTES)
        are_equal = buckets_of_one[bucket] == buckets_of_other[bucket]
        assert (one.bucket_hashes()[part] == other.bucket_hashes()[part]) is are_equal
    assert (one.state_hash() == other.state_hash()) is (buckets_of_one == buckets_of_other)


def test_versions_of_a_bucket_are_those_of_its_owners() -> None:
    directory = merged([presence_of(device) for device in OTHERS])
    bucket = bucket_of(OTHERS[0].peer)
    owners = {version.owner for version in directory.versions([bucket])}
    assert owners == {device.peer for device in OTHERS if bucket_of(device.peer) == bucket}


# --- who gets in ----------------------------------------------------------------------------


def refused(directory: Directory, signed: Signed[Record], chain: Chain | None) -> Merge:
    """Merge, and insist that nothing came of it."""
    before = contents(directory), directory.revision
    merge = directory.merge(signed, chain, now_us=6)
    assert merge is not Merge.NEWER
    assert (contents(directory), directory.revision) == before
    return merge


def test_nobody_speaks_for_another() -> None:
    liar, victim = OTHERS[0], OTHERS[1]
    directory = merged([presence_of(liar), presence_of(victim)])
    body = presence_of(victim, has_left=True).body.body
    forged = record_of(liar, RecordKind.PRESENCE, body, version=(9, 9), owner=victim.peer)
    assert refused(directory, forged, victim.chain) is Merge.MALFORMED
    assert refused(directory, forged, liar.chain) is Merge.MALFORMED


def test_nobody_gets_in_without_a_chain_to_the_founder() -> None:
    directory = directory_of(MESH, OWN)
    device = OTHERS[0]
    assert refused(directory, presence_of(device), None) is Merge.UNKNOWN_OWNER
    assert refused(directory, presence_of(device), OTHERS[1].chain) is Merge.NOT_A_MEMBER
    assert refused(directory, presence_of(device), OWN.chain) is Merge.NOT_A_MEMBER
    assert refused(directory, presence_of(STRANGER), STRANGER.chain) is Merge.NOT_A_MEMBER
    assert refused(directory, presence_of(device), ()) is Merge.NOT_A_MEMBER


def test_a_chain_through_a_device_that_is_no_admin_lets_nobody_in() -> None:
    mesh = small_mesh(3, roles={1: (Role.EXECUTOR,)})
    founder, executor, joiner = mesh.devices
    chain = issue_certificate(
        executor.keys,
        mesh=mesh.id,
        subject=joiner.peer,
        roles=ALL_ROLES,
        operator="operator",
        issuer_chain=executor.chain,
    )
    directory = directory_of(mesh, founder)
    assert refused(directory, presence_of(joiner), chain) is Merge.NOT_A_MEMBER
    with pytest.raises(NotAMember):
        directory.introduce(joiner.peer, chain)


def test_a_removed_device_is_neither_taken_in_nor_asked_for() -> None:
    removed = OTHERS[0]
    directory = directory_of(MESH, OWN, removed=(removed,))
    assert refused(directory, presence_of(removed), removed.chain) is Merge.REMOVED
    assert not directory.would_hold(removed.peer)
    with pytest.raises(NotAMember, match="removed"):
        directory.introduce(removed.peer, removed.chain)


def test_a_removed_device_that_is_still_held_says_nothing_new() -> None:
    removed: set[PeerId] = set()
    directory = directory_of(MESH, OWN)
    directory.is_removed = removed.__contains__
    merged([presence_of(OTHERS[0])], into=directory)
    removed.add(OTHERS[0].peer)
    newer = presence_of(OTHERS[0], version=(2, 1))
    assert refused(directory, newer, OTHERS[0].chain) is Merge.REMOVED
    assert refused(directory, telemetry_of(OTHERS[0]), None) is Merge.REMOVED


def test_a_kind_of_a_newer_version_is_skipped() -> None:
    directory = merged([presence_of(OTHERS[0])])
    newer = record_of(OTHERS[0], "horoscope", b"anything")
    assert refused(directory, newer, OTHERS[0].chain) is Merge.UNKNOWN_KIND


@pytest.mark.parametrize("kind", list(RecordKind))
def test_a_malformed_record_changes_nothing_and_drops_nobody(kind: RecordKind) -> None:
    garbage = [record_of(device, kind, b"\xc1", version=(5, 5)) for device in OTHERS]
    directory = merged([presence_of(device) for device in OTHERS[:3]], members_max=4)
    for device, signed in zip(OTHERS, garbage, strict=True):
        assert refused(directory, signed, device.chain) is Merge.MALFORMED


# --- chains ---------------------------------------------------------------------------------


def chain_with_roles(device: Device, *roles: Role) -> Chain:
    return issue_certificate(
        OWN.keys,
        mesh=MESH.id,
        subject=device.peer,
        roles=roles,
        operator="again",
        issuer_chain=OWN.chain,
    )


def test_a_device_invited_anew_has_its_new_roles_with_its_next_presence() -> None:
    device = OTHERS[0]
    directory = merged([presence_of(device)])
    chain = chain_with_roles(device, Role.OBSERVER)
    directory.merge(presence_of(device, version=(2, 1)), chain, now_us=6)
    member = directory.get(device.peer)
    assert member is not None
    assert not member.may(Role.EXECUTOR)
    assert member.may(Role.OBSERVER)


def test_an_old_presence_does_not_bring_an_old_chain_back() -> None:
    device = OTHERS[0]
    chain = chain_with_roles(device, Role.OBSERVER)
    directory = directory_of(MESH, OWN)
    directory.merge(presence_of(device, version=(2, 1)), chain, now_us=5)
    assert refused(directory, presence_of(device), device.chain) is Merge.KNOWN
    assert directory.merge(telemetry_of(device), device.chain, now_us=6) is Merge.NEWER
    member = directory.get(device.peer)
    assert member is not None
    assert member.chain == chain


# --- a full directory -----------------------------------------------------------------------


def test_a_full_directory_drops_the_farthest_first_and_never_itself() -> None:
    by_distance = merged([presence_of(device) for device in OTHERS], members_max=4)
    held = {member.peer for member in by_distance}
    assert OWN.peer in held
    assert len(held) == 4
    outsider = next(device for device in OTHERS if device.peer not in held)
    assert not by_distance.would_hold(outsider.peer)
    assert by_distance.introduce(outsider.peer, outsider.chain) is None
    assert refused(by_distance, presence_of(outsider), outsider.chain) is Merge.NO_ROOM


def test_linked_devices_outrank_near_ones_and_needed_ones_outrank_both() -> None:
    near = merged([presence_of(device) for device in OTHERS], members_max=4)
    far = [device for device in OTHERS if near.get(device.peer) is None]
    linked, needed = far[0], far[1]
    directory = directory_of(MESH, OWN, linked=(linked,), needed=(needed,), members_max=2)
    everybody = [presence_of(device) for device in OTHERS]
    assert directory.get(merged(everybody, into=directory).own) is not None
    assert [member.peer for member in directory] == [OWN.peer, needed.peer]
    directory = directory_of(MESH, OWN, linked=(linked,), members_max=2)
    assert directory.get(linked.peer) is None
    merged(everybody, into=directory)
    assert {member.peer for member in directory} == {OWN.peer, linked.peer}


def test_what_a_dropped_device_said_leaves_no_trace_in_the_hashes() -> None:
    directory = merged([presence_of(device) for device in OTHERS])
    for device in OTHERS:
        directory.forget(device.peer)
        directory.forget(device.peer)  # a second time changes nothing
    assert contents(directory) == contents(directory_of(MESH, OWN))
    directory.forget(PeerId(b"never seen" + bytes(22)))


def test_a_directory_full_of_linked_devices_still_chooses_by_distance() -> None:
    directory = directory_of(MESH, OWN, linked=tuple(OTHERS), members_max=4)
    merged([presence_of(device) for device in OTHERS], into=directory)
    plain = merged([presence_of(device) for device in OTHERS], members_max=4)
    assert {member.peer for member in directory} == {member.peer for member in plain}


# --- questions ------------------------------------------------------------------------------


@settings(max_examples=30)
@given(records, st.sets(st.sampled_from(["cpu:1", "cpu:2"]), min_size=1))
def test_providers_are_those_who_provide_everything_and_have_not_left(
    given_records: list[Signed[Record]], wanted: set[str]
) -> None:
    directory = merged(given_records)
    expected = [
        member.peer
        for member in directory
        if wanted <= member.capabilities
        and not (member.presence is not None and member.presence.has_left)
    ]
    assert [member.peer for member in directory.providers(frozenset(wanted))] == expected


def test_the_dead_provide_nothing_until_they_are_back() -> None:
    directory = directory_of(MESH, OWN)
    directory.merge(capabilities_of(OTHERS[0], "cpu:1"), OTHERS[0].chain, now_us=1)
    wanted = frozenset({"cpu:1"})
    assert [member.peer for member in directory.providers(wanted)] == [OTHERS[0].peer]
    directory.is_dead = {OTHERS[0].peer}.__contains__
    assert directory.providers(wanted) == []


def test_every_change_raises_the_revision_and_nothing_else_does() -> None:
    directory = directory_of(MESH, OWN)
    before = directory.revision
    directory.merge(presence_of(OTHERS[0]), OTHERS[0].chain, now_us=5)
    assert directory.revision == before + 1
    directory.merge(presence_of(OTHERS[0]), OTHERS[0].chain, now_us=6)
    assert directory.revision == before + 1
    directory.forget(OTHERS[0].peer)
    assert directory.revision == before + 2
