"""Compiles a scenario, as a file or the Python form has it, to the plan of a seed.

A document is what `tomllib` makes of a scenario file: `[scenario]`, `[network]`, `[host]`,
`[budget]`, `[expect]`, and lists of `[[device]]`, `[[work]]` and `[[fault]]`. Everything drawn
comes from a source of the seed and of the place where it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Annotated, TypeVar, cast

from msgspec import Meta, Struct
from msgspec.structs import replace

from simulations.budget import Budget
from simulations.compound_faults import CompoundFault
from simulations.cpu import CpuCosts
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.errors import BadScenario
from simulations.plan import NODES_MAX, STEPS_MAX, SUBMITTER_ROLES, Expectations, Plan
from simulations.plan_checks import complaints
from simulations.scenario_network import read_network
from simulations.scenario_tables import Fail, Surroundings, Table, read_table
from simulations.scenario_text import Path
from simulations.seeds import source
from simulations.steps import AnyStep, Nodes, Submit, TimeUs
from simulations.vocabulary import FAULTS, STEPS, WORK_KINDS, words_of
from wire.membership import Role

REPEATS_MAX = 10_000
US_PER_MINUTE = 60_000_000

PERMILLE = 1_000

_S = TypeVar("_S", bound=Struct)
_TABLES = ("scenario", "network", "host", "budget", "device", "work", "fault", "expect")


class Header(Struct, frozen=True, kw_only=True):
    """`[scenario]`."""

    name: Annotated[str, Meta(min_length=1, max_length=64)] = "a scenario"
    summary: Annotated[str, Meta(max_length=200)] = ""
    seed: Annotated[int, Meta(ge=0)] = 0
    node_count: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 3
    duration_us: TimeUs = 0
    submitters: Nodes = ()  # devices that execute nothing themselves
    absent: Nodes = ()  # devices that run from their first start on only
    discovery: Discovery = Discovery.LAN
    exercises_wire: bool = False


class _Device(Struct, frozen=True, kw_only=True):
    """What `[[device]]` says beside its settings."""

    nodes: Nodes
    roles: tuple[str, ...] = ()


class _Stream(Struct, frozen=True, kw_only=True):
    """Batches that arrive at random: what `[[work]]` with a `rate` says beside them."""

    nodes: Nodes
    arrivals_per_minute: Annotated[int, Meta(ge=1)]
    from_us: TimeUs = 0
    until_us: TimeUs


class _Often(Struct, frozen=True, kw_only=True):
    """What any entry may say: how often it is there, each time drawn anew, and how likely."""

    repeat: Annotated[int, Meta(ge=0, le=REPEATS_MAX)] = 1
    chance_permille: Annotated[int, Meta(ge=0, le=1_000)] = 1_000


def header_of(document: Table, fail: Fail) -> Header:
    """Return what `[scenario]` says, as seed 0 draws it."""
    return _Compiler(document, 0, None, fail).header


def compile_document(document: Table, *, seed: int, node_count: int | None, fail: Fail) -> Plan:
    """Return the plan of a seed, with another number of devices if `node_count` says so.

    `fail` makes the error from the place of what is wrong and the reason.
    """
    return _Compiler(document, seed, node_count, fail).plan()


class _Compiler:
    def __init__(self, document: Table, seed: int, node_count: int | None, fail: Fail) -> None:
        self._document = document
        self._seed = seed
        self._fail = fail
        self._node_count = node_count or 1
        for name in document:
            if name not in _TABLES:
                raise fail((name,), f"there is no such table: there are {', '.join(_TABLES)}")
        table = self._table("scenario")
        if node_count is None:
            sizes = {key: table[key] for key in ("nodes",) if key in table}
            self._node_count = self._read(Header, sizes, ("scenario",)).node_count
        self.header = self._read(Header, table, ("scenario",))

    def plan(self) -> Plan:
        """Compile everything, in order of time, and check that it can be."""
        steps: list[tuple[AnyStep, Path]] = []
        for name in ("work", "fault"):
            for entry, path in self._entries(name):
                for step in self._steps(name, entry, path):
                    steps.append((step, path))
                    if len(steps) > STEPS_MAX:
                        raise self._fail(path, f"more than {STEPS_MAX} steps in all")
        steps.sort(key=lambda each: each[0].at_us)
        hosts, roles = self._devices()
        plan = Plan(
            name=self.header.name,
            seed=self._seed,
            node_count=self._node_count,
            network=read_network(self._table("network"), self._around(("network",))),
            host=self._host(self._table("host"), ("host",)),
            hosts=hosts,
            roles=roles,
            absent=self.header.absent,
            discovery=self.header.discovery,
            budget=self._read(Budget, self._table("budget"), ("budget",)),
            exercises_wire=self.header.exercises_wire,
            steps=tuple(step for step, _ in steps),
            lasts_us=self.header.duration_us,
            expect=self._read(Expectations, self._table("expect"), ("expect",)),
        )
        self._check(plan, [path for _, path in steps])
        return plan

    def _check(self, plan: Plan, paths: Sequence[Path]) -> None:
        for complaint in complaints(plan):
            if complaint.step is None:
                raise self._fail(_table_of(complaint.field), complaint.reason)
            written = words_of(type(plan.steps[complaint.step]))
            keys = (word.key for word in written.values() if word.field == complaint.field)
            raise self._fail((*paths[complaint.step], *keys), complaint.reason)

    # Entries.

    def _steps(self, name: str, entry: Table, path: Path) -> Iterator[AnyStep]:
        """Yield the steps of an entry of `[[work]]` or `[[fault]]`, as often as it says."""
        entry = dict(entry)
        own = _taken(entry, "repeat", "chance")
        often = self._read(_Often, own, path)
        compiled = self._work if name == "work" else self._fault
        for number in range(often.repeat):
            if self._source(*path, number, "chance").randrange(PERMILLE) < often.chance_permille:
                yield from compiled(dict(entry), path, number)

    def _work(self, entry: dict[str, object], path: Path, number: int) -> Iterator[AnyStep]:
        if "rate" in entry:
            yield from self._stream(entry, path, number)
            return
        kind = entry.pop("kind", "submit")
        if kind not in WORK_KINDS:
            raise self._fail((*path, "kind"), f"{kind!r} is none of {', '.join(WORK_KINDS)}")
        yield cast(AnyStep, self._read(STEPS[str(kind)], entry, path, number))

    def _stream(self, entry: dict[str, object], path: Path, number: int) -> Iterator[AnyStep]:
        """Yield the arrivals of a Poisson process: given how many there are, they are uniform."""
        own = _taken(entry, "rate", "nodes", "from", "until")
        stream = self._read(_Stream, own, path, number)
        lasts_us = stream.until_us - stream.from_us
        if lasts_us <= 0:
            raise self._fail((*path, "until"), "ends before it begins")
        arrivals_count = stream.arrivals_per_minute * lasts_us // US_PER_MINUTE
        if arrivals_count > STEPS_MAX:
            raise self._fail((*path, "rate"), f"{arrivals_count} batches: more than {STEPS_MAX}")
        rng = self._source(*path, number, "arrivals")
        for arrival in range(arrivals_count):
            at_us = stream.from_us + rng.randrange(lasts_us)
            where = {"at": f"{at_us}us", "node": rng.choice(stream.nodes)}
            yield self._read(Submit, entry | where, (*path, number), arrival)

    def _fault(self, entry: dict[str, object], path: Path, number: int) -> Iterator[AnyStep]:
        kind = entry.pop("kind", None)
        if kind not in FAULTS:
            what = "kind is missing" if kind is None else f"there is no fault {kind!r}"
            where = path if kind is None else (*path, "kind")
            raise self._fail(where, f"{what}: there are {', '.join(FAULTS)}")
        fault = self._read(FAULTS[str(kind)], entry, path, number)
        if not isinstance(fault, CompoundFault):
            yield cast(AnyStep, fault)
            return
        try:
            yield from fault.steps(self._source(*path, number, "steps"), self._node_count)
        except BadScenario as error:
            raise self._fail(path, str(error)) from error

    def _devices(self) -> tuple[dict[int, HostSettings], dict[int, tuple[Role, ...]]]:
        hosts: dict[int, HostSettings] = {}
        roles: dict[int, tuple[Role, ...]] = {}
        roles.update(dict.fromkeys(self.header.submitters, SUBMITTER_ROLES))
        for entry, path in self._entries("device"):
            entry = dict(entry)
            device = self._read(_Device, _taken(entry, "nodes", "roles"), path)
            for node in device.nodes:
                if entry:
                    written = {**self._table("host"), **entry}
                    hosts[node] = self._host(written, path, node)
                if device.roles:
                    roles[node] = self._roles(device.roles, (*path, "roles"))
        return hosts, roles

    def _host(self, table: Table, path: Path, number: int = 0) -> HostSettings:
        """Return what devices are like. `cpu = true` counts their CPU time as it was measured, a
        table of it says what else some of it costs.
        """
        rest = dict(table)
        cpu = rest.pop("cpu", False)
        settings = self._read(HostSettings, rest, path, number)
        if isinstance(cpu, dict):
            return replace(settings, cpu=self._read(CpuCosts, cpu, (*path, "cpu"), number))
        if not isinstance(cpu, bool):
            raise self._fail((*path, "cpu"), "is true, false, or a table of costs")
        return replace(settings, cpu=CpuCosts() if cpu else None)

    def _roles(self, names: Sequence[str], path: Path) -> tuple[Role, ...]:
        allowed = [role.value for role in Role]
        for name in names:
            if name not in allowed:
                raise self._fail(path, f"{name!r} is none of {', '.join(allowed)}")
        return tuple(Role(name) for name in names)

    # Reading.

    def _table(self, name: str) -> Table:
        table = self._document.get(name, {})
        if not isinstance(table, dict):
            raise self._fail((name,), f"is a table: write [{name}]")
        return table

    def _entries(self, name: str) -> Iterator[tuple[Table, Path]]:
        entries = self._document.get(name, [])
        if not isinstance(entries, list):
            raise self._fail((name,), f"is a list of tables: write [[{name}]]")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self._fail((name, number), f"is a table: write [[{name}]]")
            yield entry, (name, number)

    def _source(self, *purpose: str | int) -> Random:
        return source(self._seed, "scenario", *purpose)

    def _around(self, path: Path, number: int = 0) -> Surroundings:
        """Return what the table at `path` is read in. `number` tells draws of the same apart."""
        return Surroundings(
            node_count=self._node_count,
            draw=lambda key: self._source(*path, number, key),
            fail=self._fail,
        )

    def _read(self, kind: type[_S], table: Table, path: Path, number: int = 0) -> _S:
        return read_table(kind, table, path, self._around(path, number))


def _taken(table: dict[str, object], *keys: str) -> dict[str, object]:
    """Take some keys out of a table, if they are there, and return them."""
    return {key: table.pop(key) for key in keys if key in table}


def _table_of(field: str) -> Path:
    """Return where a document says what a field of the plan says."""
    top, _, rest = field.partition(".")
    if top == "expect":
        return ("expect", rest)
    if top == "hosts":
        return ("device",)
    return ("scenario", {"node_count": "nodes", "lasts_us": "duration"}.get(top, top))
