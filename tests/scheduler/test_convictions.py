"""Who is convicted, who believes it, and who may let a device work again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from msgspec.structs import replace
from support.meshes import Device
from support.stewards import EXECUTORS, MESH, OWN, WRONG, StewardBench, runs
from support.tasks import NO_CHANGES

from scheduler.convictions import (
    CONVICTION_ROW,
    ConvictionDurable,
    ConvictionRow,
    Convictions,
    PardonRow,
    conviction_fault,
    ref_of,
)
from wire.answers import PardonView, Refused
from wire.convictions import Conviction, Pardon
from wire.effects import Answer, Effect, Persist, Send, SetTimer
from wire.ids import MeshId, PeerId
from wire.membership import Role
from wire.messages import ConvictionGiven, ConvictionsHeld, PardonGiven
from wire.signed import sign

LIAR, SECOND, THIRD = EXECUTORS


def disputed(*, liar_changes: dict[str, object] | None = None) -> Conviction:
    """Let a liar be outvoted by three; return what convicts it."""
    bench = StewardBench().start()
    bench.submit(1, replicas=2)
    runs(bench, LIAR, changes=liar_changes or {**WRONG})
    for device in (SECOND, THIRD, OWN):
        runs(bench, device, changes=NO_CHANGES)
    (conviction,) = bench.convictions
    return conviction


CONVICTION = disputed()


def of(device: Device, *links: PeerId, admins: Iterable[Device] = (OWN,)) -> Convictions:
    names = {one.peer for one in admins}
    return Convictions(
        signer=device.keys,
        mesh=MESH.id,
        may=lambda peer, role: role is not Role.ADMIN or peer in names,
        linked=lambda: links,
    )


def then_in(effects: list[Effect]) -> list[Effect]:
    return [one for effect in effects if isinstance(effect, Persist) for one in effect.then]


def test_three_equal_results_convict_whoever_differs() -> None:
    assert ref_of(CONVICTION).executor == LIAR.peer
    assert conviction_fault(CONVICTION, mesh=MESH.id, may=lambda *_: True) is None


def test_two_against_one_convict_nobody() -> None:
    bench = StewardBench().start()
    batch = bench.submit(1, replicas=3, quorum=2)
    runs(bench, LIAR, changes=WRONG)
    runs(bench, SECOND)
    runs(bench, THIRD)
    assert not batch.is_decided
    assert bench.convictions == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (lambda one: replace(one, wrong=one.right[0]), "a device is counted twice"),
        (lambda one: replace(one, right=(*one.right[:2], one.right[1])), "counted twice"),
        (lambda one: replace(one, right=(*one.right[:2], one.wrong)), "the results differ"),
        (
            lambda one: replace(one, wrong=replace(one.wrong, lease=one.right[0].lease)),
            "a result of another lease",
        ),
        (
            lambda one: replace(
                one, contract=sign(replace(one.contract.body, nonce=b"o" * 16), OWN.keys)
            ),
            "a lease of nobody who may give one",
        ),
    ],
)
def test_what_proves_nothing_convicts_nobody(
    changed: Callable[[Conviction], Conviction], fault: str
) -> None:
    found = conviction_fault(changed(CONVICTION), mesh=MESH.id, may=lambda *_: True)
    assert found is not None
    assert fault in found
    convictions = of(SECOND)
    convictions.on_message(OWN.peer, ConvictionGiven(conviction=changed(CONVICTION)))
    assert not convictions.is_convicted(LIAR.peer)


def test_another_mesh_s_convictions_and_those_of_no_members_are_passed_over() -> None:
    assert conviction_fault(CONVICTION, mesh=MeshId(b"x" * 32), may=lambda *_: True) is not None
    is_third = THIRD.peer
    fault = conviction_fault(CONVICTION, mesh=MESH.id, may=lambda peer, _: peer != is_third)
    assert fault == "an executor that is not known as one"


def test_a_conviction_is_kept_then_acted_on_and_told_on_once() -> None:
    convictions = of(SECOND, OWN.peer, THIRD.peer)
    given = ConvictionGiven(conviction=CONVICTION)
    then = then_in(convictions.on_message(OWN.peer, given))
    assert SetTimer(ConvictionDurable(LIAR.peer), 0) in then
    assert [one.peer for one in then if isinstance(one, Send)] == [THIRD.peer]  # not back
    assert convictions.is_convicted(LIAR.peer)
    assert not convictions.is_convicted(SECOND.peer)
    assert convictions.on_message(THIRD.peer, given) == []


def test_a_link_that_comes_up_brings_what_is_missing_both_ways() -> None:
    knows, news = of(OWN, SECOND.peer), of(SECOND, OWN.peer)
    knows.on_found(CONVICTION)
    assert news.on_link_up(OWN.peer) == []
    (held,) = knows.on_link_up(SECOND.peer)
    assert isinstance(held, Send)
    (asked,) = news.on_message(OWN.peer, held.message)
    assert isinstance(asked, Send)
    assert asked.message == ConvictionsHeld(is_answer=True)
    (given,) = knows.on_message(SECOND.peer, asked.message)
    assert isinstance(given, Send)
    news.on_message(OWN.peer, given.message)
    assert news.is_convicted(LIAR.peer)
    (held,) = news.on_link_up(OWN.peer)
    assert isinstance(held, Send)
    assert knows.on_message(SECOND.peer, held.message) == []


def test_an_answer_is_never_answered_whatever_it_names() -> None:
    other = of(SECOND, OWN.peer)
    held = ConvictionsHeld(convictions=(ref_of(CONVICTION),), is_answer=True)
    assert other.on_message(OWN.peer, held) == []


def test_an_admin_lets_a_device_work_again_everywhere_and_nobody_else_does() -> None:
    admin, other = of(OWN, SECOND.peer), of(SECOND, OWN.peer)
    for one in (admin, other):
        one.on_found(CONVICTION)
    (refused,) = other.on_pardon(1, LIAR.peer, "liar")
    assert isinstance(refused, Answer)
    assert isinstance(refused.value, Refused)

    answer, given = then_in(admin.on_pardon(1, LIAR.peer, "liar"))
    assert isinstance(answer, Answer)
    assert isinstance(answer.value, PardonView)
    assert isinstance(given, Send)
    assert not admin.is_convicted(LIAR.peer)
    other.on_message(OWN.peer, given.message)
    assert not other.is_convicted(LIAR.peer)
    (nothing,) = admin.on_pardon(2, LIAR.peer, "liar")
    assert isinstance(nothing, Answer)
    assert isinstance(nothing.value, Refused)


def test_a_pardon_by_a_device_that_is_no_admin_changes_nothing() -> None:
    convictions = of(SECOND)
    convictions.on_found(CONVICTION)
    forged = sign(Pardon(mesh=MESH.id, convictions=(ref_of(CONVICTION),)), LIAR.keys)
    assert convictions.on_message(LIAR.peer, PardonGiven(pardon=forged)) == []
    assert convictions.is_convicted(LIAR.peer)


def test_convictions_and_pardons_outlive_a_restart() -> None:
    admin = of(OWN)
    rows = [e.rows[0] for e in admin.on_found(CONVICTION) if isinstance(e, Persist)]
    assert [row.kind for row in rows] == [CONVICTION_ROW]
    again = of(OWN)
    again.on_restarted([ConvictionRow(conviction=CONVICTION)], [])
    assert again.is_convicted(LIAR.peer)
    pardon = sign(Pardon(mesh=MESH.id, convictions=(ref_of(CONVICTION),)), OWN.keys)
    again.on_restarted([ConvictionRow(conviction=CONVICTION)], [PardonRow(pardon=pardon)])
    assert not again.is_convicted(LIAR.peer)
