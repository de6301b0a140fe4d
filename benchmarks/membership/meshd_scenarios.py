"""Scenarios of what SWIM does not have: removals, capabilities and lookups. For meshd alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from random import Random

from msgspec.structs import replace

from benchmarks.membership.mesh import US_PER_S, Mesh
from benchmarks.membership.meshd_mesh import Lookup, MeshdMesh
from benchmarks.membership.scenarios import (
    NEVER,
    SETTLE_US,
    NotSettled,
    Outcome,
    Scenario,
    percentile,
    run_until,
)
from simulations.seeds import source

CAPABILITY = "label:camera=front"
STOPPED_US = 2 * US_PER_S
FOUND_US_MAX = 60 * US_PER_S
REMOVED_US_MAX = 60 * US_PER_S
CUT_OFF_US = 30 * US_PER_S
LINKED_US_MAX = 120 * US_PER_S
GROW_US = 30 * US_PER_S
PROVIDED_US = 15 * US_PER_S
LINKS_MIN = 8
KEYS_COUNT = 10
PROVIDERS_PER_KEY = 3
SEEKERS_PER_KEY = 5
LOOKUP_ROUNDS = 8
DEAD_COUNT = 10


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
    lookups = mesh.find([(other, CAPABILITY) for other in others])
    named = {other: provider in one.found for other, one in zip(others, lookups, strict=True)}
    samples = [
        (found_us[other] - begun_us) / US_PER_S if other in found_us and named[other] else NEVER
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


@of_meshd
def dht_lookup(mesh: MeshdMesh, seed: int) -> Outcome:
    """Nothing has started; devices that know a tenth of the mesh look for what three provide.

    The samples are the seconds of a lookup in the DHT, in which a question to a device without a
    link costs what one over a link costs. Beside it, the same with dials; these lookups from the
    question of a person to the answer, so with the word of the providers; and those that named
    nobody.
    """
    rng = source(seed, "lookups")
    keys = _spread_keys(mesh, rng, range(mesh.node_count))
    _grow(mesh)
    mesh.run_for(PROVIDED_US)
    mesh.charge_dials(is_charged=False)
    _look_up(mesh, rng, keys, range(mesh.node_count))
    free = [walk.duration_us / US_PER_S for walk in mesh.take_walks()]
    mesh.charge_dials(is_charged=True)
    lookups = _look_up(mesh, rng, keys, range(mesh.node_count))
    charged = [walk.duration_us / US_PER_S for walk in mesh.take_walks()]
    return Outcome(
        samples=tuple(free),
        beside={
            "with dials s p95": percentile(charged, 95),
            "answered s p95": percentile([_duration_s(one) for one in lookups], 95),
            "missed": sum(not one.found for one in lookups),
        },
    )


@of_meshd
def lied_to(mesh: MeshdMesh, seed: int) -> Outcome:
    """A fifth of the devices lie to lookups for what three honest ones provide.

    Nothing has started. Liars keep no records. For providers they name ten devices that have died,
    where a dial waits until it runs out, and each other; for nearer devices each other, and ids
    that nobody has, next to the key. The sample is the share of lookups at honest devices that
    named no provider, in percent. Beside it: how many there were, the share that was repeated
    thoroughly, and the time from the question of a person to the answer.
    """
    rng = source(seed, "liars")
    shuffled = rng.sample(range(mesh.node_count), mesh.node_count)
    liars, rest = shuffled[: mesh.node_count // 5], shuffled[mesh.node_count // 5 :]
    dead, honest = rest[:DEAD_COUNT], rest[DEAD_COUNT:]
    keys = _spread_keys(mesh, rng, honest)
    mesh.lie(liars, dead)
    _grow(mesh)
    mesh.run_for(PROVIDED_US)
    mesh.crash(dead)
    mesh.run_for(SETTLE_US)
    lookups = _look_up(mesh, rng, keys, honest)
    thorough_count = sum(walk.is_thorough for walk in mesh.take_walks())
    missed_count = sum(not one.found for one in lookups)
    return Outcome(
        samples=(100 * missed_count / len(lookups),),
        beside={
            "lookups": len(lookups),
            "thorough %": 100 * thorough_count / len(lookups),
            "answered s p95": percentile([_duration_s(one) for one in lookups], 95),
        },
    )


def _grow(mesh: MeshdMesh) -> None:
    """Start all devices, and let time pass until they have their links. Raises NotSettled.

    They cannot know all others: their directories are bounded.
    """
    mesh.start(range(mesh.node_count))
    mesh.run_for(GROW_US)
    lonely = [node for node in range(mesh.node_count) if mesh.links_count(node) < LINKS_MIN]
    if lonely:
        raise NotSettled(f"{len(lonely)} devices have less than {LINKS_MIN} links")


def _spread_keys(mesh: MeshdMesh, rng: Random, providers: Sequence[int]) -> dict[str, list[int]]:
    """Give each of some capabilities to three devices; return which to whom."""
    drawn = rng.sample(providers, KEYS_COUNT * PROVIDERS_PER_KEY)
    keys = {}
    for number in range(KEYS_COUNT):
        key = f"label:job={number}"
        keys[key] = drawn[number * PROVIDERS_PER_KEY :][:PROVIDERS_PER_KEY]
        for provider in keys[key]:
            mesh.provide(provider, key)
    return keys


def _look_up(
    mesh: MeshdMesh, rng: Random, keys: dict[str, list[int]], seekers: Sequence[int]
) -> list[Lookup]:
    """Look all keys up, a few at a time, each at several devices that do not provide it.

    Only true providers count as found.
    """
    lookups = []
    for _ in range(LOOKUP_ROUNDS):
        asked = [
            (seeker, key)
            for key, providers in keys.items()
            for seeker in rng.sample(sorted(set(seekers) - set(providers)), SEEKERS_PER_KEY)
        ]
        done = mesh.find(asked, via="dht")
        for (_, key), lookup in zip(asked, done, strict=True):
            lookups.append(replace(lookup, found=lookup.found & set(keys[key])))
    return lookups


def _duration_s(lookup: Lookup) -> float:
    return NEVER if lookup.duration_us is None else lookup.duration_us / US_PER_S


def _until_none_serves(mesh: MeshdMesh, nodes: Iterable[int], removed: int) -> float:
    begun_us, serving = mesh.now_us, list(nodes)

    def is_reached() -> bool:
        serving[:] = [node for node in serving if mesh.serves(node, removed)]
        return not serving

    if not run_until(mesh, is_reached, within_us=REMOVED_US_MAX):
        return NEVER
    return (mesh.now_us - begun_us) / US_PER_S
