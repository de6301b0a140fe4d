"""A small mesh of real keys: devices 0, 1, 2, ... of which 0 is the founder.

Everything follows from the number of a device, so a test that fails fails again.
"""

from __future__ import annotations

from dataclasses import dataclass

from wire.ids import MeshId, PeerId, StoreId
from wire.keys import Ed25519Keys
from wire.membership import (
    ALL_ROLES,
    Certificate,
    Chain,
    Genesis,
    Role,
    found_mesh,
    issue_certificate,
    mesh_id_of,
)
from wire.signed import Signed

RECOVERY_DEVICE = 200  # its key is the recovery key of every small mesh


@dataclass(frozen=True, slots=True)
class Device:
    """One device: its keys, its store, and the papers that make it a member."""

    keys: Ed25519Keys
    store: StoreId
    chain: Chain

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        return self.keys.peer

    @property
    def certificate(self) -> Certificate:
        """The device's own certificate."""
        return self.chain[0].body


@dataclass(frozen=True, slots=True)
class SmallMesh:
    """A genesis and its members, the founder first."""

    genesis: Signed[Genesis]
    devices: tuple[Device, ...]

    @property
    def id(self) -> MeshId:
        """The mesh id."""
        return mesh_id_of(self.genesis)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chains of all members."""
        return tuple(device.chain for device in self.devices)


def keys_of(number: int) -> Ed25519Keys:
    """Return the keys of device `number`, 0 to 255."""
    return Ed25519Keys(bytes([number]) * 32)


def store_of(number: int) -> StoreId:
    """Return the store id of device `number`, 0 to 255."""
    return StoreId(bytes([number]) * 16)


def small_mesh(
    count: int = 3, *, roles: dict[int, tuple[Role, ...]] | None = None, nonce: int = 7
) -> SmallMesh:
    """Return a mesh of `count` devices, all invited by the founder.

    `roles` gives other roles than all to some devices; another `nonce` makes another mesh of the
    same devices.
    """
    genesis, own = found_mesh(
        keys_of(0),
        operator="operator 0",
        recovery_key=keys_of(RECOVERY_DEVICE).peer,
        nonce=bytes([nonce]) * 16,
    )
    founder = Device(keys=keys_of(0), store=store_of(0), chain=own)
    invited = tuple(
        Device(
            keys=keys_of(number),
            store=store_of(number),
            chain=issue_certificate(
                founder.keys,
                mesh=mesh_id_of(genesis),
                subject=keys_of(number).peer,
                roles=(roles or {}).get(number, ALL_ROLES),
                operator=f"operator {number}",
                issuer_chain=own,
            ),
        )
        for number in range(1, count)
    )
    return SmallMesh(genesis=genesis, devices=(founder, *invited))
