"""Scenarios of what SWIM does not have: removals, capabilities and lookups. For meshd alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps

from benchmarks.membership.mesh import US_PER_S, Mesh
from benchmarks.membership.meshd_mesh import MeshdMesh
from benchmarks.membership.scenarios import NEVER, SETTLE_US, Outcome, Scenario, run_until, settle
from simulations.seeds import source

CAPABILITY = "label:camera=front"
STOPPED_US = 2 * US_PER_S
FOUND_US_MAX = 60 * US_PER_S
REMOVED_US_MAX = 60 * US_PER_S
CUT_OFF_US = 30 * US_PER_S
LINKED_US_MAX = 120 * US_PER_S


def of_meshd(scenario: Callable[[MeshdMesh, int], Outcome]) -> Scenario:
    """Return a scenario that raises TypeError for a mesh of another protocol."""

    @wraps(scenario)
    def played(mesh: Mesh, seed: int) -> Outcome:
        if not isinstance(mesh, MeshdMesh):
            raise TypeError(f"{scenario.__name__} is of meshd, not of {type(mesh).__name__}")
        return scenario(mesh, seed)

    return played


@of_meshd
def new_capability(mesh: MeshdMesh, seed: int) -> Outcome:
    """A daemon starts again with a label that it did not have: until all others find it.

    Labels are configuration, which a daemon reads at its start. The samples are the seconds from
    the start of its process until each other device would answer `find` with it, at once and
    without asking anybody. In the end all are really asked, and who does not name it never did.
    """
    settle(mesh)
    provider = source(seed, "provider").randrange(mesh.node_count)
    others = [node for node in range(mesh.node_count) if node != provider]
    mesh.stop(provider)
    mesh.run_for(STOPPED_US)
    mesh.provide(provider, CAPABILITY)
    begun_us = mesh.now_us
    mesh.start([provider])
    found_us: dict[int, int] = {}

    def is_found_by_all() -> bool:
        for other in others:
            if other not in found_us and mesh.knows_provider(other, CAPABILITY, provider):
                found_us[other] = mesh.now_us
        return len(found_us) == len(others)

    run_until(mesh, is_found_by_all, within_us=FOUND_US_MAX)
    named = set(mesh.find(others, CAPABILITY, provider))
    samples = [
        (found_us[other] - begun_us) / US_PER_S if other in found_us and other in named else NEVER
        for other in others
    ]
    return Outcome(samples=tuple(samples))


@of_meshd
def removed_at_one(mesh: MeshdMesh, seed: int) -> Outcome:
    """An admin removes a device: seconds until no honest device serves it.

    To serve is to hold a link with it, or its records, without which no offer, lookup or vote is
    for it. One further device hears nobody from half a minute before on. Beside: its seconds from
    the heal, and those from its first link to another than the removed one.
    """
    settle(mesh)
    drawn = source(seed, "removal").sample(range(mesh.node_count), 3)
    admin, removed, cut_off = drawn
    others = [node for node in range(mesh.node_count) if node not in (removed, cut_off)]
    apart = [(cut_off, other) for other in range(mesh.node_count) if other != cut_off]
    mesh.cut([*apart, *((other, cut_off) for _, other in apart)])
    mesh.run_for(CUT_OFF_US)
    mesh.remove(admin, removed)
    until_none_s = _until_none_serves(mesh, others, removed)
    mesh.run_for(SETTLE_US)
    if any(mesh.serves(node, removed) for node in others):
        until_none_s = NEVER  # it came back
    if not mesh.serves(cut_off, removed):
        raise AssertionError("who was cut off has heard of the removal")
    healed_us = mesh.now_us
    mesh.heal()
    run_until(mesh, lambda: mesh.is_linked_to_any(cut_off, others), within_us=LINKED_US_MAX)
    linked_us = mesh.now_us
    from_link_s = _until_none_serves(mesh, [cut_off], removed)
    from_heal_s = from_link_s + (linked_us - healed_us) / US_PER_S
    beside = {"cut off: from the heal s": from_heal_s, "from its first link s": from_link_s}
    return Outcome(samples=(until_none_s,), beside=beside)


def _until_none_serves(mesh: MeshdMesh, nodes: Iterable[int], removed: int) -> float:
    begun_us, serving = mesh.now_us, list(nodes)

    def is_reached() -> bool:
        serving[:] = [node for node in serving if mesh.serves(node, removed)]
        return not serving

    if not run_until(mesh, is_reached, within_us=REMOVED_US_MAX):
        return NEVER
    return (mesh.now_us - begun_us) / US_PER_S
