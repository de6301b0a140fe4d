"""What a record says is worked out once for all who hold it."""

from __future__ import annotations

import pytest
from support.meshes import small_mesh
from support.records import capabilities_of, directory_of, presence_of, record_of, telemetry_of

from p2p.record_reading import reading_of
from wire.errors import MalformedFrame
from wire.records import RecordKind

MESH = small_mesh(3)
OWN, PEER, THIRD = MESH.devices


def test_directories_that_hold_one_record_share_what_it_says() -> None:
    signed = presence_of(PEER)
    members = []
    for device in (OWN, THIRD):
        directory = directory_of(MESH, device)
        directory.merge(signed, PEER.chain, now_us=1)
        members.append(directory.get(PEER.peer))
    first, second = members
    assert first is not None
    assert second is not None
    assert first.presence is second.presence is reading_of(signed).body


def test_having_been_read_changes_nothing_about_a_record() -> None:
    signed = telemetry_of(PEER, slots_free=3)
    unread = telemetry_of(PEER, slots_free=3)
    reading_of(signed)
    assert signed == unread
    assert hash(signed) == hash(unread)
    assert signed.to_wire() == unread.to_wire()


def test_fingerprints_tell_owners_kinds_and_versions_apart_and_not_bodies() -> None:
    records = [
        presence_of(PEER),
        presence_of(THIRD),
        telemetry_of(PEER),
        telemetry_of(PEER, version=(1, 2)),
        telemetry_of(PEER, version=(2, 1)),
    ]
    assert len({reading_of(signed).fingerprint for signed in records}) == len(records)
    same = (capabilities_of(PEER, "cpu:1"), capabilities_of(PEER, "cpu:2"))
    assert reading_of(same[0]).fingerprint == reading_of(same[1]).fingerprint
    assert reading_of(same[0]).body == frozenset({"cpu:1"})


@pytest.mark.parametrize("kind", list(RecordKind))
def test_a_malformed_record_has_no_reading(kind: RecordKind) -> None:
    signed = record_of(PEER, kind, b"\xc1")
    for _ in range(2):
        with pytest.raises(MalformedFrame):
            reading_of(signed)
