"""Invitations are counted by unmodified nodes, through crashes of the device that issued them."""

from __future__ import annotations

import pytest

from simulations.crypto import StandInMaker
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.world import Request, World, WorldSettings
from wire.answers import Invited
from wire.commands import Invite
from wire.ids import PeerId
from wire.membership import (
    JoinGranted,
    JoinRefusal,
    JoinRefused,
    JoinRequest,
    check_chain,
    invitation_from_text,
)

JOINERS = [PeerId(bytes([number]) * 32) for number in (1, 2)]


@pytest.fixture
def world() -> World:
    made = World(WorldSettings(seed=1), MESH_NODE)
    made.start_all()
    made.run_for(US_PER_S)
    return made


def invited(world: World) -> JoinRequest:
    request = world.ask(0, Invite())
    world.run_for(US_PER_S)
    assert isinstance(request.last, Invited)
    invitation = invitation_from_text(request.last.token, StandInMaker().verifier)
    return JoinRequest(secret=invitation.secret, name="newcomer")


def join(world: World, joiner: PeerId, papers: JoinRequest) -> Request:
    request = world.ask_to_join(0, joiner, papers)
    world.run_for(US_PER_S)
    return request


def test_a_use_that_was_granted_is_counted_though_the_power_failed_at_once(world: World) -> None:
    papers = invited(world)
    request = world.ask_to_join(0, JOINERS[0], papers)
    world.run_until(lambda: request.is_done, within_us=US_PER_S, what="the certificate")
    assert isinstance(request.last, JoinGranted)
    check_chain(request.last.chain, genesis=request.last.genesis, subject=JOINERS[0])
    world.crash(0, DiskFate.LOSE_UNSYNCED)
    world.start(0)
    refused = join(world, JOINERS[1], papers).last
    assert refused == JoinRefused(reason=JoinRefusal.USED_UP)
    assert join(world, JOINERS[0], papers).last == request.last


def test_a_use_that_was_not_durable_was_not_granted(world: World) -> None:
    papers = invited(world)
    request = world.ask_to_join(0, JOINERS[0], papers)
    world.crash(0, DiskFate.LOSE_UNSYNCED)
    assert request.is_lost
    assert request.parts == []
    world.start(0)
    assert isinstance(join(world, JOINERS[1], papers).last, JoinGranted)
