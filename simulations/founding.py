"""The mesh of a run: its genesis, and the papers of every device, as really issued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from simulations.crypto import KeyMaker
from simulations.device import Device
from simulations.seeds import derived_bytes
from wire.ids import StoreId
from wire.membership import ALL_ROLES, Role, found_mesh, issue_certificate, mesh_id_of


def founded_devices(
    seed: int, node_count: int, roles: Mapping[int, tuple[Role, ...]], maker: KeyMaker
) -> list[Device]:
    """Found a mesh and let every device in, the first being the founder."""
    signers = [maker.make(derived_bytes(seed, "key", node)) for node in range(node_count)]
    founder = signers[0]
    genesis, founder_chain = found_mesh(
        founder,
        operator="operator-0",
        recovery_key=maker.make(derived_bytes(seed, "recovery key")).peer,
        nonce=derived_bytes(seed, "genesis", length=16),
    )
    network_key = derived_bytes(seed, "network key")
    devices = []
    for node, signer in enumerate(signers):
        issued = issue_certificate(
            founder,
            mesh=mesh_id_of(genesis),
            subject=signer.peer,
            roles=roles.get(node, ALL_ROLES),
            operator=f"operator-{node}",
            issuer_chain=founder_chain,
        )
        device = Device(
            index=node,
            name=f"device-{node}",
            signer=signer,
            genesis=genesis,
            chain=issued if node > 0 else founder_chain,
            network_key=network_key,
            addresses=(f"/ip4/10.{node >> 16}.{node >> 8 & 255}.{node & 255}/tcp/4001",),
        )
        devices.append(device)
    return devices


def store_ids(seed: int, node: int) -> Iterator[StoreId]:
    """Yield the ids of a device's stores: a new one whenever its disk is lost."""
    number = 0
    while True:
        yield StoreId(derived_bytes(seed, "store", node, number, length=16))
        number += 1
