"""What the owner of a device has to know when the device is out of its mesh, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from p2p.directory import Chain
from p2p.removals import Removals
from wire.ids import PeerId

NAMES_SHOWN_MAX = 3


def standing_warnings(
    removals: Removals,
    own: PeerId,
    chain: Chain,
    refused_by: Mapping[PeerId, str],
    *,
    name_of: Callable[[PeerId], str],
) -> list[str]:
    """Return one line if `own` is out by the removals heard, or if others say so; else nothing."""
    sentence = removals.sentence(own)
    if sentence is not None:
        who = " and ".join(_signer(removals, signer, name_of) for signer in sentence.signers)
        return [
            f"this device was removed from the mesh by {who}: no other device works with it any"
            " more; to come back as a new device, start with another --home and an invitation"
        ]
    admin = removals.voided_by(chain)
    if admin is not None:
        return [
            f"the certificate of this device is void, because {name_of(admin)}, which let it in,"
            " was removed: ask another admin for an invitation, then stop it and start it with"
            " `meshd start --join`"
        ]
    if not refused_by:
        return []
    names = ", ".join(sorted(name_of(peer) for peer in refused_by)[:NAMES_SHOWN_MAX])
    detail = list(refused_by.values())[-1]
    return [
        f"{len(refused_by)} devices refuse this one ({names}): {detail}; if that is not meant, ask"
        " an admin"
    ]


def _signer(removals: Removals, signer: PeerId, name_of: Callable[[PeerId], str]) -> str:
    is_recovery = signer == removals.genesis.body.recovery_key
    return "the recovery key" if is_recovery else name_of(signer)
