"""Scenarios in Python: the same words as in scenario files, and the same plans.

    s = Simulation(nodes=5, seed=7)
    s.network(latency=("5ms", "25ms"), loss="2%")
    s.at("1s").submit(4, count=200)
    s.at("3s").split([0, 2], [1, 3, 4]).until("12s")
    s.at("5s").crash(2, disk="lose_unsynced").restart_after("3s")
    s.expect.decided(within="60s")
    plan = s.plan()

A method of `Moment` is a kind of fault or work of `simulations.vocabulary`. What is given by
position fills its keys in order, without `at`; `from_` and `for_` stand for `from` and `for`; a
pair of texts is a range.
"""

from __future__ import annotations

from collections.abc import Callable

from simulations.errors import BadScenario
from simulations.plan import Plan
from simulations.scenario import Scenario
from simulations.scenario_document import compile_document, header_of
from simulations.scenario_text import Path
from simulations.vocabulary import FAULTS, STEPS, WORK_KINDS, Form, words_of


class Simulation:
    """A scenario under construction. Nothing is judged before `plan`."""

    def __init__(self, *, nodes: object = 3, seed: int = 0, **keys: object) -> None:
        header = {"nodes": nodes, "seed": seed, **keys}
        self._document: dict[str, object] = {"scenario": _written(header)}
        self.expect = Expect(self._table("expect"))

    def network(self, **keys: object) -> None:
        """Say how the network is when nothing is wrong with it, as `[network]` does."""
        self._table("network").update(_written(keys))

    def regions(self, **nodes: object) -> None:
        """Say which devices are in which region, as `[network.regions]` does."""
        self._table("network")["regions"] = _written(nodes)

    def link(self, one: str, other: str, **keys: object) -> None:
        """Say what lies between two regions, as `[[network.link]]` does."""
        links = self._table("network").setdefault("link", [])
        if isinstance(links, list):
            links.append(_written({"one": one, "other": other, **keys}))

    def datagrams(self, **keys: object) -> None:
        """Let messages be packets that get lost and repeated, as `[network.datagrams]` does."""
        self._table("network")["datagrams"] = _written(keys)

    def host(self, **keys: object) -> None:
        """Say what devices are like, as `[host]` does."""
        self._table("host").update(_written(keys))

    def budget(self, **keys: object) -> None:
        """Say how much a healthy device does at most, as `[budget]` does."""
        self._table("budget").update(_written(keys))

    def device(self, nodes: object, **keys: object) -> None:
        """Say how some devices differ, as `[[device]]` does."""
        self._add("device", {"nodes": nodes, **keys})

    def work(self, **keys: object) -> Entry:
        """Let batches arrive, at a `rate` for example, as `[[work]]` does."""
        return self._add("work", keys)

    def at(self, time: object) -> Moment:
        """Return the moment at which something happens."""
        return Moment(time, self._add)

    def plan(self, seed: int | None = None) -> Plan:
        """Return the plan of a seed. Raises BadScenario: `fault 2: node: reason`."""
        return self.scenario().plan(self._header_seed() if seed is None else seed)

    def scenario(self) -> Scenario:
        """Return the scenario. Raises BadScenario."""
        return _scenario(self._document, None)

    def _header_seed(self) -> int:
        return header_of(self._document, _fail).seed

    def _table(self, name: str) -> dict[str, object]:
        table = self._document.setdefault(name, {})
        if not isinstance(table, dict):
            raise TypeError(f"{name} is a list of tables")
        return table

    def _add(self, name: str, keys: dict[str, object]) -> Entry:
        entry = _written(keys)
        entries = self._document.setdefault(name, [])
        if not isinstance(entries, list):
            raise TypeError(f"{name} is one table")
        entries.append(entry)
        return Entry(entry)


class Moment:
    """A time, at which what its methods are called happens."""

    def __init__(self, time: object, add: Callable[[str, dict[str, object]], Entry]) -> None:
        self._time = time
        self._add = add

    def __getattr__(self, kind: str) -> Callable[..., Entry]:
        """Return what adds a fault, or work, of a kind. Raises AttributeError if there is none."""
        types = {**FAULTS, **{work: STEPS[work] for work in WORK_KINDS}}
        if kind not in types:
            raise AttributeError(f"there is no fault {kind!r}: there are {', '.join(FAULTS)}")
        words = [key for key in words_of(types[kind]) if key not in ("at", "when_working")]

        def add(*values: object, **keys: object) -> Entry:
            given = values
            if words and words_of(types[kind])[words[0]].form is Form.GROUPS and values:
                given = (list(values),)
            if len(given) > len(words):
                raise TypeError(f"{kind} takes {len(words)} values: {', '.join(words)}")
            entry = {
                "at": self._time,
                "kind": kind,
                **dict(zip(words, given, strict=False)),
                **keys,
            }
            return self._add("work" if kind in WORK_KINDS else "fault", entry)

        return add


class Entry:
    """Something that was added, of which more can be said."""

    def __init__(self, entry: dict[str, object]) -> None:
        self._entry = entry

    def until(self, time: object) -> Entry:
        """Say when it ends."""
        return self.saying(until=time)

    def lasting(self, duration: object) -> Entry:
        """Say how long it lasts."""
        return self.saying(for_=duration)

    def restart_after(self, duration: object) -> Entry:
        """Say when the device is started again."""
        return self.saying(restart_after=duration)

    def when_working(self) -> Entry:
        """Let it wait until somebody works on a task."""
        return self.saying(when_working=True)

    def saying(self, **keys: object) -> Entry:
        """Say anything else."""
        self._entry.update(_written(keys))
        return self


class Expect:
    """What must come of a run."""

    def __init__(self, table: dict[str, object]) -> None:
        self._table = table

    def decided(self, *, within: object) -> None:
        """L2: every accepted task is decided so soon after everything is mended."""
        self._table["decided_within"] = _value(within)

    def whole(self, *, within: object) -> None:
        """L1: the mesh has grown together so soon after everything is mended."""
        self._table["whole_within"] = _value(within)

    def breaks(self, invariant: str) -> None:
        """Expect that this cannot hold."""
        self._table["breaks"] = invariant

    def sometimes(self, *what: str) -> None:
        """Expect that this happened, in a swarm in some of its runs."""
        self._table["sometimes"] = list(what)


def _scenario(document: dict[str, object], node_count: int | None) -> Scenario:
    def plan_of(seed: int) -> Plan:
        return compile_document(document, seed=seed, node_count=node_count, fail=_fail)

    def sized(other_count: int) -> Scenario:
        return _scenario(document, other_count)

    header = header_of(document, _fail)
    return Scenario(header.name, header.summary, plan_of, seed=header.seed, sized=sized)


def _fail(path: Path, reason: str) -> BadScenario:
    """Return an error with a place: `fault 2: node` is of the second fault that was added."""
    words = [f"{part + 1}" if isinstance(part, int) else part for part in path if part != ""]
    return BadScenario(": ".join([" ".join(words[:2]), *words[2:], reason]))


def _written(keys: dict[str, object]) -> dict[str, object]:
    return {key.removesuffix("_"): _value(value) for key, value in keys.items()}


def _value(value: object) -> object:
    """Return a value as `tomllib` would have it."""
    match value:
        case (str() as low, str() as high) if isinstance(value, tuple):
            return f"{low}..{high}"
        case tuple() | list() | range():
            return [_value(one) for one in value]
    return value
