"""Admission: an invitation lets in as many devices as it says, for as long as it says."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.meshes import Device, keys_of, small_mesh

from p2p.admission import INVITATION_ROW, INVITATIONS_MAX, Admission, InvitationRow
from p2p.removals import Removals
from wire.answers import Invited, Refused
from wire.codec import Decoder
from wire.commands import Invite
from wire.effects import Answer, AnswerJoin, Effect, Persist
from wire.events import JoinAsked
from wire.ids import PeerId
from wire.keys import Ed25519Verifier
from wire.membership import (
    ADDRESSES_MAX,
    ALL_ROLES,
    CHAIN_LENGTH_MAX,
    Chain,
    Invitation,
    JoinGranted,
    JoinRefusal,
    JoinRefused,
    JoinRequest,
    Removal,
    Role,
    check_chain,
    invitation_from_text,
    issue_certificate,
)
from wire.signed import encode_body, sign

MESH = small_mesh(3, roles={2: (Role.EXECUTOR, Role.SUBMITTER)})
FOUNDER, ADMIN, EXECUTOR = MESH.devices
JOINER, SECOND = keys_of(50).peer, keys_of(51).peer
ADDRESS = "/ip4/192.0.2.7/tcp/4001"
US_PER_S = 1_000_000
WALL_US = 1_800_000_000 * US_PER_S
HOUR_US = 3_600 * US_PER_S


@dataclass
class Issuer:
    """A device that invites, its disk and its clock."""

    device: Device = FOUNDER
    wall_us: int = WALL_US
    disk: dict[bytes, InvitationRow] = field(default_factory=dict)
    seed: int = 1

    def __post_init__(self) -> None:
        self.removals = Removals(genesis=MESH.genesis)
        self.restart()

    def hear(self, subject: Device, by: Device) -> None:
        """Hear of a removal."""
        body = Removal(mesh=MESH.id, subject=subject.peer, chain=by.chain)
        assert self.removals.add([sign(body, by.keys)]).news

    def restart(self) -> None:
        """Start again from the disk, with rows as a store gives them back."""
        self.admission = Admission(
            signer=self.device.keys,
            genesis=MESH.genesis,
            chain=self.device.chain,
            network_key=lambda: b"k" * 32,
            removals=self.removals,
            rng=random.Random(self.seed),
        )
        self.seed += 1
        decoder = Decoder(InvitationRow, Ed25519Verifier())
        self.admission.on_restarted(
            [(key, decoder.decode(encode_body(row))) for key, row in self.disk.items()]
        )

    def ask(self, invite: Invite, *, addresses: tuple[str, ...] = (ADDRESS,)) -> list[Effect]:
        return self.admission.on_invite(7, invite, addresses=addresses, wall_us=self.wall_us)

    def invite(self, **fields: object) -> Invitation:
        """Return a new invitation, durable."""
        effects = self.write(self.ask(msgspec.convert(fields, Invite)))
        [answer] = [effect.value for effect in effects if isinstance(effect, Answer)]
        assert isinstance(answer, Invited), answer
        return invitation_from_text(answer.token, Ed25519Verifier())

    def show(self, invitation: Invitation, peer: PeerId) -> list[Effect]:
        join = JoinRequest(secret=invitation.secret, name="new")
        asked = JoinAsked(request=9, peer=peer, join=join)
        return self.admission.on_join_asked(asked, wall_us=self.wall_us)

    def join(self, invitation: Invitation, peer: PeerId) -> JoinGranted | JoinRefused:
        """Return what a device is told that shows an invitation, once everything is durable."""
        [answer] = self.write(self.show(invitation, peer))
        assert isinstance(answer, AnswerJoin)
        assert answer.request == 9
        return answer.answer

    def refusal(self, invitation: Invitation, peer: PeerId) -> JoinRefusal | None:
        answer = self.join(invitation, peer)
        return answer.reason if isinstance(answer, JoinRefused) else None

    def write(self, effects: Iterable[Effect]) -> list[Effect]:
        """Make everything durable; return what leaves."""
        leaving: list[Effect] = []
        for effect in effects:
            if not isinstance(effect, Persist):
                leaving.append(effect)
                continue
            for row in effect.rows:
                assert row.kind == INVITATION_ROW
                if row.value is None:
                    del self.disk[row.key]
                else:
                    assert isinstance(row.value, InvitationRow)
                    self.disk[row.key] = row.value
            leaving += effect.then
        return leaving


# --- what is given --------------------------------------------------------------------------


def test_an_invitation_lets_a_device_in_with_its_roles_and_operator() -> None:
    issuer = Issuer()
    invitation = issuer.invite(roles=["executor", "executor", "observer"], operator="someone else")
    granted = issuer.join(invitation, JOINER)
    assert isinstance(granted, JoinGranted)
    certificate = check_chain(granted.chain, genesis=granted.genesis, subject=JOINER)
    assert certificate.roles == (Role.EXECUTOR, Role.OBSERVER)
    assert certificate.operator == "someone else"


def test_the_operator_is_the_issuers_unless_another_is_given() -> None:
    issuer = Issuer(device=ADMIN)
    granted = issuer.join(issuer.invite(), JOINER)
    assert isinstance(granted, JoinGranted)
    assert granted.chain[0].body.operator == ADMIN.certificate.operator
    assert check_chain(granted.chain, genesis=MESH.genesis, subject=JOINER).roles == ALL_ROLES


def test_the_token_says_where_and_until_when_and_hides_nothing_from_the_joiner() -> None:
    issuer = Issuer()
    invitation = issuer.invite(ttl_us=HOUR_US)
    assert invitation.mesh == MESH.id
    assert invitation.issuer == FOUNDER.peer
    assert invitation.addresses == (ADDRESS,)
    assert invitation.network_key == b"k" * 32
    assert invitation.expires_wall_s == (WALL_US + HOUR_US) // US_PER_S


def test_the_disk_holds_no_secret() -> None:
    issuer = Issuer()
    invitation = issuer.invite()
    [(key, row)] = issuer.disk.items()
    assert invitation.secret not in key + encode_body(row)


def test_the_command_gives_the_token_where_no_process_list_shows_it() -> None:
    [answer] = Issuer().write(Issuer().ask(Invite()))
    assert isinstance(answer, Answer)
    assert isinstance(answer.value, Invited)
    assert answer.value.command == f"echo {answer.value.token} | meshd start --join -"


def test_a_device_with_many_long_addresses_can_still_invite() -> None:
    issuer = Issuer()
    addresses = tuple(f"/dns4/{'a' * 100}{number:03}/tcp/40001" for number in range(40))
    [answer] = issuer.write(issuer.ask(Invite(), addresses=addresses))
    assert isinstance(answer, Answer)
    assert isinstance(answer.value, Invited)
    invitation = invitation_from_text(answer.value.token, Ed25519Verifier())
    assert invitation.addresses == addresses[:ADDRESSES_MAX]


# --- uses -----------------------------------------------------------------------------------


def test_uses_are_counted_by_device() -> None:
    issuer = Issuer()
    invitation = issuer.invite(uses=2)
    assert issuer.refusal(invitation, JOINER) is None
    assert issuer.refusal(invitation, JOINER) is None
    assert issuer.refusal(invitation, SECOND) is None
    assert issuer.refusal(invitation, keys_of(52).peer) is JoinRefusal.USED_UP
    assert issuer.refusal(invitation, JOINER) is None, "it was let in before"


def test_the_same_device_gets_the_same_chain_again_even_after_a_restart() -> None:
    issuer = Issuer()
    invitation = issuer.invite()
    first = issuer.join(invitation, JOINER)
    assert issuer.join(invitation, JOINER) == first
    issuer.restart()
    assert issuer.join(invitation, JOINER) == first
    assert issuer.refusal(invitation, SECOND) is JoinRefusal.USED_UP


def test_one_invitation_is_worth_nothing_for_another() -> None:
    issuer = Issuer()
    used_up, other = issuer.invite(), issuer.invite()
    assert issuer.refusal(used_up, JOINER) is None
    assert issuer.refusal(other, SECOND) is None
    assert issuer.refusal(used_up, SECOND) is JoinRefusal.USED_UP


def test_an_unknown_secret_is_refused_and_costs_no_write() -> None:
    issuer = Issuer()
    invitation = Issuer(seed=5).invite()
    [effect] = issuer.show(invitation, JOINER)
    assert effect == AnswerJoin(9, JoinRefused(reason=JoinRefusal.UNKNOWN))


def test_an_invitation_can_hold_every_device_that_it_may_let_in() -> None:
    hints = get_type_hints(InvitationRow, include_extras=True)
    [meta] = get_args(hints["redeemed_by"])[1:]
    [uses] = get_args(get_type_hints(Invite, include_extras=True)["uses"])[1:]
    assert meta.max_length == uses.le


@settings(max_examples=40)
@given(st.integers(1, 3), st.lists(st.integers(0, 5), max_size=12), st.sets(st.integers(0, 11)))
def test_never_more_devices_than_uses_are_let_in(
    uses: int, joiners: list[int], restarts: set[int]
) -> None:
    issuer = Issuer()
    invitation = issuer.invite(uses=uses)
    admitted: set[int] = set()
    for step, number in enumerate(joiners):
        if step in restarts:
            issuer.restart()
        refusal = issuer.refusal(invitation, keys_of(50 + number).peer)
        is_expected = number in admitted or len(admitted) < uses
        assert refusal is (None if is_expected else JoinRefusal.USED_UP)
        admitted |= {number} if refusal is None else set()
    assert len(admitted) <= uses


# --- durable first --------------------------------------------------------------------------


def test_a_token_is_shown_only_once_the_invitation_is_durable() -> None:
    [persist] = Issuer().ask(Invite())
    assert isinstance(persist, Persist)
    assert [type(effect) for effect in persist.then] == [Answer]


def test_papers_leave_only_once_the_use_is_durable_also_the_second_time() -> None:
    issuer = Issuer()
    invitation = issuer.invite()
    for _ in range(2):  # the first write is still under way when the device asks again
        [persist] = issuer.show(invitation, JOINER)
        assert isinstance(persist, Persist)
        [row] = persist.rows
        assert isinstance(row.value, InvitationRow)
        assert row.value.redeemed_by == (JOINER,)
        assert [type(effect) for effect in persist.then] == [AnswerJoin]


def test_a_use_that_never_became_durable_is_free_after_a_restart() -> None:
    issuer = Issuer()
    invitation = issuer.invite()
    issuer.show(invitation, JOINER)  # the power fails before the write
    issuer.restart()
    assert issuer.refusal(invitation, SECOND) is None
    assert issuer.refusal(invitation, JOINER) is JoinRefusal.USED_UP


# --- time -----------------------------------------------------------------------------------


def test_an_invitation_ends_when_it_says() -> None:
    issuer = Issuer()
    invitation = issuer.invite(ttl_us=HOUR_US, uses=5)
    issuer.wall_us += HOUR_US - 1
    assert issuer.refusal(invitation, JOINER) is None
    issuer.wall_us += 1
    assert issuer.refusal(invitation, JOINER) is JoinRefusal.EXPIRED
    assert issuer.refusal(invitation, SECOND) is JoinRefusal.EXPIRED


@pytest.mark.parametrize(("jump_s", "is_good"), [(-60, True), (-86_400, False), (86_400, False)])
def test_a_clock_that_jumps_far_ends_invitations_and_a_small_step_does_not(
    jump_s: int, is_good: bool
) -> None:
    issuer = Issuer()
    invitation = issuer.invite(ttl_us=HOUR_US)
    issuer.wall_us += jump_s * US_PER_S
    assert issuer.refusal(invitation, JOINER) is (None if is_good else JoinRefusal.EXPIRED)
    assert issuer.refusal(issuer.invite(), JOINER) is None, "a new one is good on the new clock"


def test_while_no_clock_is_known_nobody_is_invited_or_let_in() -> None:
    issuer = Issuer()
    invitation = issuer.invite()
    issuer.wall_us = 0
    assert issuer.refusal(invitation, JOINER) is JoinRefusal.BUSY
    [answer] = issuer.ask(Invite())
    assert isinstance(answer, Answer)
    assert isinstance(answer.value, Refused)
    assert "clock" in answer.value.message


def test_expired_invitations_are_deleted_when_a_new_one_is_made() -> None:
    issuer = Issuer()
    issuer.invite(ttl_us=HOUR_US)
    lasting = issuer.invite(ttl_us=3 * HOUR_US)
    issuer.wall_us += 2 * HOUR_US
    issuer.invite()
    assert len(issuer.disk) == 2
    assert issuer.refusal(lasting, JOINER) is None


# --- who may --------------------------------------------------------------------------------


def refused(effects: list[Effect]) -> str:
    [answer] = effects
    assert isinstance(answer, Answer)
    assert isinstance(answer.value, Refused)
    assert answer.value.hint, "it says what to do"
    return answer.value.message


def test_a_device_that_is_no_admin_invites_nobody_and_lets_nobody_in() -> None:
    issuer = Issuer(device=EXECUTOR)
    assert "no admin" in refused(issuer.ask(Invite()))
    invitation = Issuer().invite()
    assert issuer.refusal(invitation, JOINER) is JoinRefusal.NOT_ADMIN


def test_a_device_that_lost_its_admin_role_honours_none_of_its_invitations() -> None:
    issuer = Issuer(device=ADMIN)
    invitation = issuer.invite()
    issuer.device = Device(keys=ADMIN.keys, store=ADMIN.store, chain=demoted(ADMIN))
    issuer.restart()
    assert issuer.refusal(invitation, JOINER) is JoinRefusal.NOT_ADMIN


def demoted(device: Device) -> Chain:
    return issue_certificate(
        FOUNDER.keys,
        mesh=MESH.id,
        subject=device.peer,
        roles=(Role.OBSERVER,),
        operator="operator",
        issuer_chain=FOUNDER.chain,
    )


def test_a_device_that_listens_nowhere_cannot_be_joined() -> None:
    assert "listens nowhere" in refused(Issuer().ask(Invite(), addresses=()))


def deep_device(depth: int) -> Device:
    """Return an admin whose chain has `depth` certificates."""
    device = FOUNDER
    for number in range(60, 60 + depth - 1):
        chain = issue_certificate(
            device.keys,
            mesh=MESH.id,
            subject=keys_of(number).peer,
            roles=ALL_ROLES,
            operator="operator",
            issuer_chain=device.chain,
        )
        device = Device(keys=keys_of(number), store=FOUNDER.store, chain=chain)
    return device


def test_the_deepest_chain_that_is_given_is_one_that_everybody_accepts() -> None:
    issuer = Issuer(device=deep_device(CHAIN_LENGTH_MAX - 1))
    granted = issuer.join(issuer.invite(), JOINER)
    assert isinstance(granted, JoinGranted)
    assert len(granted.chain) == CHAIN_LENGTH_MAX
    check_chain(granted.chain, genesis=MESH.genesis, subject=JOINER)


def test_a_device_at_the_end_of_the_longest_chain_invites_nobody() -> None:
    issuer = Issuer(device=deep_device(CHAIN_LENGTH_MAX))
    assert "too long" in refused(issuer.ask(Invite()))
    earlier = Issuer(device=FOUNDER)
    invitation = earlier.invite()
    issuer.disk = earlier.disk
    issuer.restart()
    assert issuer.refusal(invitation, JOINER) is JoinRefusal.NOT_ADMIN, "and does not fall over it"


def test_an_admin_that_lost_its_papers_gets_back_the_chain_that_is_its_own() -> None:
    issuer = Issuer(device=ADMIN)
    granted = issuer.join(issuer.invite(), FOUNDER.peer)
    assert isinstance(granted, JoinGranted)
    assert granted.chain == FOUNDER.chain
    check_chain(granted.chain, genesis=MESH.genesis, subject=FOUNDER.peer)


# --- bounds ---------------------------------------------------------------------------------


def test_invitations_are_bounded_until_some_expire() -> None:
    issuer = Issuer()
    for _ in range(INVITATIONS_MAX):
        issuer.invite(ttl_us=HOUR_US)
    assert str(INVITATIONS_MAX) in refused(issuer.ask(Invite()))
    assert len(issuer.disk) == INVITATIONS_MAX
    issuer.wall_us += HOUR_US
    issuer.invite()
    assert len(issuer.disk) == 1


# --- removals -------------------------------------------------------------------------------


def test_a_new_member_gets_all_removals() -> None:
    issuer = Issuer()
    issuer.hear(EXECUTOR, by=ADMIN)
    granted = issuer.join(issuer.invite(), JOINER)
    assert isinstance(granted, JoinGranted)
    assert [signed.body.subject for signed in granted.removals] == [EXECUTOR.peer]


def test_a_removed_device_is_not_let_in_again() -> None:
    issuer = Issuer()
    invitation = issuer.invite(uses=2)
    issuer.hear(EXECUTOR, by=ADMIN)
    assert issuer.refusal(invitation, EXECUTOR.peer) is JoinRefusal.REMOVED
    assert issuer.refusal(invitation, JOINER) is None


def test_an_admin_that_was_removed_lets_nobody_in() -> None:
    issuer = Issuer(device=ADMIN)
    invitation = issuer.invite()
    issuer.hear(ADMIN, by=FOUNDER)
    assert issuer.refusal(invitation, JOINER) is JoinRefusal.NOT_ADMIN
    [refused] = issuer.ask(Invite())
    assert isinstance(refused, Answer)
    assert isinstance(refused.value, Refused)
