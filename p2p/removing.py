"""`meshctl remove`: whom this device may put out of the mesh, and what becomes of what they signed.

Where the subject is an admin, the removal keeps by name the certificates that devices known here
lean on and the removals that count now: so a removal by somebody who later leaves the mesh stays.
All else that it ever signs is void.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2p.directory import Chain, Directory, Member
from p2p.removals import RECOVERY_RANK, Removals
from wire.answers import RefusalCode, Refused, RemovalView
from wire.commands import Remove
from wire.ids import PeerId, peer_text
from wire.membership import (
    KEPT_MAX,
    Genesis,
    PaperId,
    Removal,
    Role,
    mesh_id_of,
    paper_id,
)
from wire.signed import Signed, Signer, sign

NAMES_SHOWN_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A removal, signed, and what it means to a person."""

    signed: Signed[Removal]
    view: RemovalView


@dataclass(frozen=True, slots=True)
class _Authority:
    """Who signs, of which rank."""

    signer: Signer
    rank: int
    chain: Chain


@dataclass(slots=True, kw_only=True)
class Removing:
    """Signs removals for the person at this device. `signer_of` makes keys of a seed."""

    signer: Signer
    genesis: Signed[Genesis]
    chain: Chain
    directory: Directory
    removals: Removals
    name_of: Callable[[PeerId], str]
    signer_of: Callable[[bytes], Signer]

    def plan(self, remove: Remove, subject: PeerId) -> Planned | Refused:
        """Return the removal of `subject` that a person asks for, or why there is none."""
        authority = self._authority(remove)
        if isinstance(authority, Refused):
            return authority
        refused = self._refusal(remove, subject, authority)
        if refused is not None:
            return refused
        leaning = self._leaning_on(subject)
        counting = self.removals.removals_by(subject)
        kept = tuple(sorted({*leaning, *counting})) if remove.keeps_papers else ()
        if len(kept) > KEPT_MAX:
            return _refused(
                f"the device signed {len(kept)} papers that are known here; a removal keeps"
                f" {KEPT_MAX} at most",
                "remove it with --void-papers: devices it let in need a new invitation then",
            )
        member = self.directory.get(subject)
        body = Removal(
            mesh=mesh_id_of(self.genesis),
            subject=subject,
            chain=authority.chain,
            kept=kept,
            name="" if member is None else member.name,
        )
        leaning_names = sorted({self.name_of(one) for who in leaning.values() for one in who})
        names, no_names = leaning_names[:NAMES_SHOWN_MAX], list[str]()
        view = RemovalView(
            id=peer_text(subject),
            name=self.name_of(subject),
            is_done=not remove.is_plan,
            is_admin=member is not None and member.may(Role.ADMIN),
            is_final=_is_final(member, authority),
            is_by_recovery_key=authority.rank == RECOVERY_RANK,
            certificates_kept=names if remove.keeps_papers else no_names,
            certificates_void=no_names if remove.keeps_papers else names,
            removals_kept=len(counting) if remove.keeps_papers else 0,
            removals_void=0 if remove.keeps_papers else len(counting),
            removals=len(self.removals),
        )
        return Planned(signed=sign(body, authority.signer), view=view)

    def _authority(self, remove: Remove) -> _Authority | Refused:
        if remove.recovery_seed is not None:
            recovery = self.signer_of(remove.recovery_seed)
            if recovery.peer != self.genesis.body.recovery_key:
                return _refused("this is not the recovery key of this mesh", "give the right file")
            return _Authority(recovery, RECOVERY_RANK, ())
        if Role.ADMIN not in self.chain[0].body.roles:
            return _refused(
                "this device is no admin of the mesh", "ask an admin, or use --recovery-key FILE"
            )
        if self.removals.is_removed(self.signer.peer) or self.removals.is_void(self.chain):
            return _refused(
                "this device is out of the mesh itself", "use --recovery-key FILE, or ask an admin"
            )
        return _Authority(self.signer, len(self.chain), self.chain)

    def _refusal(self, remove: Remove, subject: PeerId, authority: _Authority) -> Refused | None:
        if subject == self.signer.peer:
            return _refused(
                "a device does not remove itself", "`meshd stop` it, or remove it at another admin"
            )
        sentence = self.removals.sentence(subject)
        if sentence is not None and sentence.rank <= authority.rank:
            recovery_key = self.genesis.body.recovery_key
            who = " and ".join(
                "the recovery key" if signer == recovery_key else self.name_of(signer)
                for signer in sentence.signers
            )
            return _refused(f"{self.name_of(subject)} was removed already, by {who}", None)
        leans_on = {link.signer for link in self.chain[:-1]}
        if not remove.keeps_papers and subject in leans_on and authority.rank != RECOVERY_RANK:
            return _refused(
                f"this device's own certificate leans on {self.name_of(subject)}: without its"
                " papers it would be out, too",
                "leave out --void-papers, or ask an admin with another chain",
            )
        if self.removals.is_full and authority.rank != RECOVERY_RANK:
            return _refused(
                f"this mesh holds {len(self.removals)} removals, which is the most",
                "found a new mesh for the devices that stay, or use --recovery-key FILE",
            )
        return None

    def _leaning_on(self, issuer: PeerId) -> dict[PaperId, list[PeerId]]:
        """Return the certificates by `issuer` that members lean on, and which members do."""
        found: dict[PaperId, list[PeerId]] = {}
        for member in self.directory:
            for link in member.chain[:-1]:
                if link.signer == issuer and member.peer != issuer:
                    found.setdefault(paper_id(link), []).append(member.peer)
        return found


def _is_final(member: Member | None, authority: _Authority) -> bool:
    """Say whether the device cannot undo it, nor go on removing others."""
    if authority.rank == RECOVERY_RANK:
        return True
    if member is None:
        return False  # its chain is not known
    return not member.may(Role.ADMIN) or len(member.chain) > authority.rank


def _refused(message: str, hint: str | None) -> Refused:
    return Refused(code=RefusalCode.REFUSED, message=message, hint=hint)
