"""Records of the devices of a small mesh, signed for real."""

from __future__ import annotations

from support.meshes import Device, SmallMesh

from p2p.directory import MEMBERS_MAX, Directory
from telemetry.sample import Sample
from wire.ids import PeerId, StoreId
from wire.records import Capabilities, Presence, ProtocolRange, Record, RecordKind
from wire.signed import Signed, encode_body, sign

Version = tuple[int, int]  # incarnation, counter


def record_of(
    device: Device,
    kind: str,
    body: bytes,
    *,
    version: Version = (1, 1),
    owner: PeerId | None = None,
) -> Signed[Record]:
    """Return a record signed by `device`; another `owner` makes it a forgery."""
    incarnation, counter = version
    return sign(
        Record(
            owner=device.peer if owner is None else owner,
            kind=kind,
            incarnation=incarnation,
            counter=counter,
            body=body,
        ),
        device.keys,
    )


def presence_of(
    device: Device,
    *,
    version: Version = (1, 1),
    name: str = "device",
    addresses: tuple[str, ...] = (),
    has_left: bool = False,
) -> Signed[Record]:
    """Return a device's presence."""
    presence = Presence(
        name=name,
        node_type="any",
        addresses=addresses,
        protocol=ProtocolRange(1, 1),
        store=StoreId(b"s" * 16),
        has_left=has_left,
    )
    return record_of(device, RecordKind.PRESENCE, encode_body(presence), version=version)


def capabilities_of(device: Device, *keys: str, version: Version = (1, 1)) -> Signed[Record]:
    """Return what a device says it provides."""
    body = encode_body(Capabilities(keys=tuple(sorted(keys))))
    return record_of(device, RecordKind.CAPABILITIES, body, version=version)


def telemetry_of(
    device: Device, *, version: Version = (1, 1), slots_free: int | None = None
) -> Signed[Record]:
    """Return a device's telemetry."""
    body = encode_body(Sample(task_slots_free=slots_free))
    return record_of(device, RecordKind.TELEMETRY, body, version=version)


def directory_of(
    mesh: SmallMesh,
    own: Device,
    *,
    linked: tuple[Device, ...] = (),
    removed: tuple[Device, ...] = (),
    needed: tuple[Device, ...] = (),
    members_max: int = MEMBERS_MAX,
) -> Directory:
    """Return the directory of `own`, which holds nobody but `own`."""
    directory = Directory(
        own=own.peer,
        genesis=mesh.genesis,
        is_linked={device.peer for device in linked}.__contains__,
        is_removed={device.peer for device in removed}.__contains__,
        is_needed={device.peer for device in needed}.__contains__,
        members_max=members_max,
    )
    directory.introduce(own.peer, own.chain)
    return directory
