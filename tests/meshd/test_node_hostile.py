"""A node among hostile members: whatever they say, it goes on, and keeps its word."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hostile_peers import HostilePeers
from support.meshes import Device, SmallMesh, small_mesh
from support.strategies import values_of
from support.tasks import ENGINE_PROFILE, contract_of, lease_of, tasks_of
from support.victim import Victim

from meshd.settings import NodeSettings
from scheduler.held_leases import LEASE_US_MAX
from scheduler.results import RESULT_ROW, RESULT_ROWS_MAX
from telemetry.sample import Sample, encode_sample
from wire import events as on
from wire.answers import RefusalCode, Refused, StatusView
from wire.commands import GetStatus
from wire.ids import PeerId
from wire.limits import Limits
from wire.membership import Role
from wire.messages import (
    MESSAGES,
    Hello,
    LeaseGranted,
    LinkRefused,
    Message,
    Offer,
    OfferAccepted,
    OfferRefusal,
    OfferRejected,
)
from wire.signed import Signed
from wire.tasks import Contract, Task, prove_tasks

CAPS = Limits()
SLOTS = 6
LEASES = 5
MESH = small_mesh(6, roles={4: (Role.OBSERVER,), 5: (Role.EXECUTOR,)})
ON_LINKS = sorted(tag for tag, kind in MESSAGES.items() if kind not in (Hello, LinkRefused))


def victim_of(mesh: SmallMesh, device: Device, seed: int = 0) -> Victim:
    node_settings = NodeSettings(
        name="victim",
        capabilities=(f"profile:{ENGINE_PROFILE}",),
        engine_profile=ENGINE_PROFILE,
        task_slots=SLOTS,
        leases_max=LEASES,
        caps=CAPS,
    )
    return Victim(mesh=mesh, device=device, settings=node_settings, seed=seed)


@given(seed=st.integers(0, 1 << 32), moves_count=st.integers(1, 400))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_that_hostile_members_do_ends_a_node(seed: int, moves_count: int) -> None:
    rng = Random(seed)
    victim = victim_of(MESH, MESH.devices[0], seed)
    hostile = HostilePeers(MESH, victim, rng)
    hostile.arrive()
    moves = hostile.moves()
    for _ in range(moves_count):
        if not rng.randrange(150):
            victim.start()
        rng.choice(moves)()
    calm_down(victim, hostile)


def calm_down(victim: Victim, hostile: HostilePeers) -> None:
    """Let the hostile go. Then all work comes to an end, and none of theirs stays behind."""
    for peer in sorted(victim.linked):
        victim.handle(on.LinkDown(peer, "they went"))
    victim.linked.clear()
    for _ in range(40):
        finish_runs(victim, hostile)
        victim.pass_time(10_000_000)
    status = status_of(victim)
    assert not any(status.tasks[state] for state in ("pending", "assigned", "executing"))
    assert not any(status.tasks[state] for state in ("verifying", "complete"))
    assert (status.leases_held, status.runs_active) == (0, 0)
    accepted = {task for one in victim.accepted for task in one.tasks}
    assert len(accepted) <= len(victim.outcomes)


@given(
    st.lists(
        st.sampled_from(ON_LINKS).flatmap(lambda tag: values_of(MESSAGES[tag])),
        min_size=1,
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_message_in_any_order_is_borne(messages: list[Message], rng: Random) -> None:
    victim, hostile = linked_victim()
    hostile.submit()
    for message in messages:
        hostile.say(message)
        victim.pass_time(rng.choice([0, 100_000, 11_000_000]))


# --- one attack each: a steward against its executor -----------------------------------------


def linked_victim(mesh: SmallMesh = MESH) -> tuple[Victim, HostilePeers]:
    victim = victim_of(mesh, mesh.devices[0])
    hostile = HostilePeers(mesh, victim, Random(1))
    hostile.arrive()
    return victim, hostile


def offered(victim: Victim, contract: Signed[Contract], steward: Device, count: int = 1) -> None:
    victim.handle(on.Received(steward.peer, Offer(offer=1, contract=contract, tasks_count=count)))


def granted(
    victim: Victim, contract: Signed[Contract], steward: Device, tasks: tuple[Task, ...]
) -> None:
    lease = lease_of(contract, range(len(tasks)), steward=steward, executor=victim.device)
    proven = prove_tasks(tasks)
    message = LeaseGranted(offer=1, lease=lease, contract=contract, tasks=proven)
    victim.handle(on.Received(steward.peer, message))


def answers_to(victim: Victim, peer: PeerId, kind: type[Message]) -> list[Message]:
    return [message for to, message in victim.sent if to == peer and isinstance(message, kind)]


def test_room_reserved_for_one_contract_is_not_taken_by_another() -> None:
    """Else a small contract would open the door to one above all that the owner allows."""
    victim, hostile = linked_victim()
    steward, tasks = hostile.devices[0], tasks_of(1)
    modest = contract_of(MESH, tasks, submitter=steward)
    greedy = contract_of(
        MESH, tasks, submitter=steward, changes={"limits": Limits(memory_bytes=4 << 30)}
    )
    offered(victim, modest, steward)
    assert answers_to(victim, steward.peer, OfferAccepted)
    granted(victim, greedy, steward, tasks)
    assert not victim.executed
    offered(victim, modest, steward)
    granted(victim, modest, steward, tasks)
    assert len(victim.executed) == 1


def test_a_contract_of_another_mesh_is_not_run() -> None:
    victim, hostile = linked_victim()
    steward, tasks = hostile.devices[0], tasks_of(1)
    elsewhere = contract_of(MESH, tasks, submitter=steward, changes={"mesh": b"e" * 32})
    offered(victim, elsewhere, steward)
    [rejected] = answers_to(victim, steward.peer, OfferRejected)
    assert isinstance(rejected, OfferRejected)
    assert rejected.reason is OfferRefusal.BAD_CONTRACT


def test_two_stewards_that_name_a_lease_alike_do_not_wedge_an_executor() -> None:
    """Runs are named by batch, epoch and attempt: the second lease would have taken the first's."""
    victim, hostile = linked_victim()
    stewards, tasks = hostile.devices[:3], tasks_of(1)
    contract = contract_of(MESH, tasks, submitter=stewards[0], stewards=stewards)
    for steward in stewards[:2]:
        offered(victim, contract, steward)
        granted(victim, contract, steward, tasks)
    assert len(victim.executed) == 1
    hostile.end(victim.runs.pop(victim.executed[0].run))
    victim.pass_time(60_000_000)
    assert status_of(victim).leases_held == 0


def test_a_lease_of_a_month_does_not_keep_room_for_a_month() -> None:
    victim, hostile = linked_victim()
    steward, tasks = hostile.devices[0], tasks_of(1)
    contract = contract_of(MESH, tasks, submitter=steward)
    offered(victim, contract, steward)
    month = lease_of(
        contract,
        [0],
        steward=steward,
        executor=victim.device,
        changes={"duration_us": 31 * 86_400_000_000},
    )
    message = LeaseGranted(offer=1, lease=month, contract=contract, tasks=prove_tasks(tasks))
    victim.handle(on.Received(steward.peer, message))
    assert status_of(victim).leases_held == 1
    victim.linked.discard(steward.peer)
    victim.handle(on.LinkDown(steward.peer, "it went"))
    victim.pass_time(LEASE_US_MAX)
    assert status_of(victim).leases_held == 0


def test_results_that_nobody_settles_do_not_keep_a_device_from_starting() -> None:
    """A steward that never settles leaves RESULT_ROWS_MAX rows, and each sets a timer."""
    victim, hostile = linked_victim()
    steward, tasks = hostile.devices[0], tasks_of(1)
    contract = contract_of(MESH, tasks, submitter=steward)
    offered(victim, contract, steward)
    granted(victim, contract, steward, tasks)
    hostile.end(victim.runs.pop(victim.executed[0].run))
    victim.pass_time(100_000)
    [(kind, key)] = [name for name in victim.rows if name[0] == RESULT_ROW]
    for number in range(RESULT_ROWS_MAX - 1):
        victim.rows[kind, key + number.to_bytes(4, "big")] = victim.rows[kind, key]
    victim.start()
    assert status_of(victim).incarnation == 2  # its second start


def test_a_device_that_was_too_hot_works_for_itself_again_when_it_is_cool() -> None:
    """Its own standing opens a breaker as a peer's does, and that one needs its timer, too."""
    victim, hostile = alone_victim()
    hostile.submit()
    victim.pass_time(1_000_000)
    senses(victim, 90_000)
    finish_runs(victim, hostile)
    victim.pass_time(600_000_000)
    senses(victim, 40_000)
    victim.pass_time(600_000_000)
    victim.executed.clear()
    hostile.submit()
    victim.pass_time(10_000_000)
    finish_runs(victim, hostile)
    assert victim.executed


def alone_victim() -> tuple[Victim, HostilePeers]:
    victim = victim_of(MESH, MESH.devices[0])
    return victim, HostilePeers(MESH, victim, Random(1))


def senses(victim: Victim, millicelsius: int) -> None:
    sample = Sample(temperature_millicelsius=millicelsius)
    victim.handle(on.Sampled(encode_sample(sample)))


def finish_runs(victim: Victim, hostile: HostilePeers) -> None:
    """Let the programs end and their outputs be what they are said to be."""
    while victim.runs:
        _, execute = victim.runs.popitem()
        hostile.end(execute)
        victim.pass_time(100_000)
    for fetch in victim.fetches:
        victim.handle(on.Fetched(fetch.token))
    victim.fetches.clear()
    victim.pass_time(100_000)


@pytest.mark.parametrize(
    ("roles", "is_accepted"),
    [
        ((Role.OBSERVER,), False),
        ((Role.SUBMITTER,), False),
        ((Role.STEWARD, Role.EXECUTOR), False),
        ((Role.SUBMITTER, Role.STEWARD, Role.EXECUTOR), True),
    ],
)
def test_only_a_device_that_may_submit_and_keep_tasks_takes_some(
    roles: tuple[Role, ...], is_accepted: bool
) -> None:
    mesh = small_mesh(3, roles={1: roles})
    victim = victim_of(mesh, mesh.devices[1])
    hostile = HostilePeers(mesh, victim, Random(1))
    hostile.arrive()
    hostile.submit()
    victim.pass_time(1_000)
    assert bool(victim.accepted) == is_accepted
    if not is_accepted:
        refused = victim.answers[-1].value
        assert isinstance(refused, Refused)
        assert refused.code is RefusalCode.REFUSED


def status_of(victim: Victim) -> StatusView:
    victim.handle(on.Asked(1 << 30, GetStatus()))
    view = victim.answers[-1].value
    assert isinstance(view, StatusView)
    return view
