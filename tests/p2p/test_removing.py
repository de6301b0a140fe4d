"""What `meshctl remove` signs, what it says, and whom it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field

from support.meshes import keys_of
from support.removing import (
    ADMIN,
    DEEPER,
    FOUNDER,
    GENESIS,
    HALL,
    KITCHEN,
    LAPTOP,
    MEMBERS,
    OTHER_ADMIN,
    RECOVERY,
    Member,
    removal,
)

from p2p.directory import Directory
from p2p.removals import Removals
from p2p.removing import Planned, Removing
from wire.answers import Refused
from wire.commands import Remove
from wire.ids import PeerId, peer_text
from wire.keys import Ed25519Keys
from wire.membership import KEPT_MAX, paper_id

RECOVERY_SEED = bytes([200]) * 32
NAMES = dict(
    zip(
        (one.peer for one in MEMBERS),
        ("founder", "admin", "other", "deeper", "laptop", "kitchen", "hall"),
        strict=True,
    )
)


@dataclass
class Desk:
    """A device at which somebody removes others; it knows all members that stand."""

    own: Member = FOUNDER
    removals_max: int = 10_000
    removals: Removals = field(init=False)

    def __post_init__(self) -> None:
        self.removals = Removals(genesis=GENESIS, removals_max=self.removals_max)
        self.directory = Directory(
            own=self.own.peer,
            genesis=GENESIS,
            is_linked=lambda _: False,
            is_removed=self.removals.is_removed,
            is_void=self.removals.is_void,
        )
        for member in MEMBERS:
            self.directory.introduce(member.peer, member.chain)
        self.removing = Removing(
            signer=self.own.keys,
            genesis=GENESIS,
            chain=self.own.chain,
            directory=self.directory,
            removals=self.removals,
            name_of=lambda peer: NAMES.get(peer, peer_text(peer)),
            signer_of=Ed25519Keys,
        )

    def plan(self, subject: Member | PeerId, **fields: object) -> Planned | Refused:
        peer = subject.peer if isinstance(subject, Member) else subject
        command = Remove(peer=peer_text(peer), **fields)  # type: ignore[arg-type]  # of a test
        return self.removing.plan(command, peer)

    def planned(self, subject: Member | PeerId, **fields: object) -> Planned:
        found = self.plan(subject, **fields)
        assert isinstance(found, Planned), found
        return found

    def refusal(self, subject: Member | PeerId, **fields: object) -> str:
        found = self.plan(subject, **fields)
        assert isinstance(found, Refused), found
        return found.message


def test_a_removed_admin_leaves_what_is_known_of_its_papers() -> None:
    desk = Desk()
    by_admin = removal(keys_of(90).peer, ADMIN)
    desk.removals.add([by_admin])
    planned = desk.planned(ADMIN)
    assert set(planned.signed.body.kept) == {KITCHEN.paper, DEEPER.paper, paper_id(by_admin)}
    view = planned.view
    assert view.certificates_kept == ["deeper", "kitchen", "laptop"]
    assert (view.removals_kept, view.removals_void, view.certificates_void) == (1, 0, [])
    desk.removals.add([planned.signed])
    for member in (KITCHEN, DEEPER, LAPTOP):
        assert not desk.removals.is_void(member.chain)
    assert desk.removals.is_removed(keys_of(90).peer)


def test_without_its_papers_all_that_hangs_on_an_admin_is_named_as_void() -> None:
    desk = Desk()
    desk.removals.add([removal(keys_of(90).peer, ADMIN)])
    planned = desk.planned(ADMIN, keeps_papers=False)
    assert planned.signed.body.kept == ()
    assert planned.view.certificates_void == ["deeper", "kitchen", "laptop"]
    assert (planned.view.removals_kept, planned.view.removals_void) == (0, 1)


def test_a_removal_is_final_for_who_cannot_answer_it() -> None:
    assert Desk(FOUNDER).planned(ADMIN).view.is_final
    assert Desk(ADMIN).planned(DEEPER).view.is_final
    assert Desk(ADMIN).planned(KITCHEN).view.is_final, "it is no admin"
    assert not Desk(ADMIN).planned(OTHER_ADMIN).view.is_final
    assert not Desk(DEEPER).planned(FOUNDER).view.is_final
    assert not Desk(DEEPER).planned(keys_of(99).peer).view.is_final, "its chain is not known"
    assert Desk(KITCHEN).planned(FOUNDER, recovery_seed=RECOVERY_SEED).view.is_final


def test_the_recovery_key_signs_without_a_chain_from_any_device() -> None:
    planned = Desk(KITCHEN).planned(ADMIN, recovery_seed=RECOVERY_SEED)
    assert planned.signed.signer == RECOVERY.peer
    assert planned.signed.body.chain == ()
    assert planned.view.is_by_recovery_key


def test_who_may_not_remove_is_refused() -> None:
    assert "no admin" in Desk(KITCHEN).refusal(HALL)
    assert "not the recovery key" in Desk(KITCHEN).refusal(HALL, recovery_seed=bytes(32))
    assert "itself" in Desk(FOUNDER).refusal(FOUNDER)
    assert "itself" in Desk(FOUNDER).refusal(FOUNDER, recovery_seed=RECOVERY_SEED)
    out = Desk(ADMIN)
    out.removals.add([removal(ADMIN, FOUNDER)])
    assert "out of the mesh itself" in out.refusal(HALL)
    void = Desk(DEEPER)
    void.removals.add([removal(ADMIN, FOUNDER)])
    assert "out of the mesh itself" in void.refusal(HALL)


def test_nobody_voids_the_papers_that_his_own_lean_on() -> None:
    assert "leans on" in Desk(DEEPER).refusal(ADMIN, keeps_papers=False)
    assert Desk(DEEPER).planned(ADMIN).signed.body.kept


def test_a_device_is_removed_again_only_by_a_higher_rank() -> None:
    desk = Desk(OTHER_ADMIN)
    desk.removals.add([removal(HALL, ADMIN)])
    assert "already, by admin" in desk.refusal(HALL)
    assert desk.planned(HALL, recovery_seed=RECOVERY_SEED).view.is_final
    founder = Desk(FOUNDER)
    founder.removals.add([removal(ADMIN, OTHER_ADMIN)])
    assert founder.planned(ADMIN).view.is_done
    founder.removals.add([removal(ADMIN, None)])
    assert "by the recovery key" in founder.refusal(ADMIN)


def test_at_the_bound_only_the_recovery_key_removes() -> None:
    desk = Desk(FOUNDER, removals_max=3)
    desk.removals.add([removal(keys_of(number).peer, ADMIN) for number in (90, 91, 92)])
    assert "3 removals, which is the most" in desk.refusal(HALL)
    planned = desk.planned(HALL, recovery_seed=RECOVERY_SEED)
    assert desk.removals.add([planned.signed]).news
    assert len(desk.removals) == 3


def test_an_admin_that_signed_too_much_to_name_is_removed_with_its_papers_or_not_at_all() -> None:
    desk = Desk(FOUNDER)
    subjects = (PeerId(number.to_bytes(32, "big")) for number in range(KEPT_MAX + 1))
    desk.removals.add([removal(subject, ADMIN) for subject in subjects])
    assert str(KEPT_MAX) in desk.refusal(ADMIN)
    assert desk.planned(ADMIN, keeps_papers=False).signed.body.kept == ()
