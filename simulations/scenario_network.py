"""Reads `[network]` of a scenario, with its regions, their links, and the datagrams."""

from __future__ import annotations

import re
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from simulations.conditions import Datagrams, RegionLink
from simulations.errors import BadScenario
from simulations.paths import NetworkSettings
from simulations.scenario_tables import Surroundings, Table, placed, read_table
from simulations.scenario_text import Path
from simulations.written_values import NodeSets

_BOUNDS = re.compile(r"(.+?)\s*\.\.\s*(.+)")
_S = TypeVar("_S", bound=Struct)


def read_network(table: Table, around: Surroundings) -> NetworkSettings:
    """Return what `[network]` says.

    `latency = "5ms..25ms"` is of each packet, not drawn for a run: the lowest, and how much more
    it may be.
    """
    rest = dict(table)
    regions = rest.pop("regions", {})
    links = rest.pop("link", [])
    datagrams = rest.pop("datagrams", None)
    settings = _read_paths(NetworkSettings, rest, ("network",), around)
    if not isinstance(regions, dict):
        raise around.fail(("network", "regions"), "is a table: name = the devices in it")
    if not isinstance(links, list) or not all(isinstance(link, dict) for link in links):
        raise around.fail(("network", "link"), "is a list of tables: write [[network.link]]")
    if datagrams is not None and not isinstance(datagrams, dict):
        raise around.fail(("network", "datagrams"), "is a table: write [network.datagrams]")
    path = ("network", "datagrams")
    return replace(
        settings,
        regions=_regions(regions, around),
        region_links=tuple(
            _link(link, ("network", "link", number), regions, around)
            for number, link in enumerate(links)
        ),
        datagrams=None if datagrams is None else read_table(Datagrams, datagrams, path, around),
    )


def _regions(regions: Table, around: Surroundings) -> dict[int, str]:
    sets = NodeSets(around.node_count, around.draw("regions"))
    with placed(("network", "regions"), around):
        members = sets.sets(list(regions.values()))
    found: dict[int, str] = {}
    for name, nodes in zip(regions, members, strict=True):
        for node in nodes:
            with placed(("network", "regions", name), around):
                if not 0 <= node < around.node_count:
                    last = around.node_count - 1
                    raise BadScenario(f"there is no device {node}: they are 0..{last}")
                if node in found:
                    raise BadScenario(f"device {node} is in {found[node]!r} already")
            found[node] = name
    return found


def _link(link: Table, path: Path, regions: Table, around: Surroundings) -> RegionLink:
    read = _read_paths(RegionLink, link, path, around)
    for key, name in (("one", read.one), ("other", read.other)):
        if name not in regions:
            reason = f"there is no region {name!r}: there are {', '.join(regions) or 'none'}"
            raise around.fail((*path, key), reason)
    return read


def _read_paths(kind: type[_S], table: Table, path: Path, around: Surroundings) -> _S:
    bounds = _BOUNDS.fullmatch(str(table.get("latency", "")))
    if bounds is None:
        return read_table(kind, table, path, around)
    low_us, high_us = (
        read_table(_Latency, {"latency": bound}, path, around).latency_us
        for bound in bounds.groups()
    )
    if high_us < low_us or "jitter" in table:
        raise around.fail((*path, "latency"), "write lowest..highest, and no jitter")
    spread = {"latency": f"{low_us}us", "jitter": f"{high_us - low_us}us"}
    return read_table(kind, {**table, **spread}, path, around)


class _Latency(Struct, frozen=True, kw_only=True):
    latency_us: int
