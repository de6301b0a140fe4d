"""On which terms tasks are run: the options that `submit`, `plan` and `map` share.

The names of what they give are those of `wire.commands.Terms` and `wire.limits.Limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from meshd.cli import bounds
from meshd.cli.grammar import capabilities, duration_us, size_bytes
from meshd.control_frames import Frame

STRATEGIES: Final = ("weighted", "round-robin", "least-loaded", "latency-aware")
PRIORITIES: Final = ("low", "normal", "urgent")
DURABILITIES: Final = ("mesh", "local")
LIMITS: Final = ("memory_bytes", "fuel", "wall_us", "output_bytes")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _readers(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse more than a contract names, and what names nobody."""
    if len(values) > bounds.READERS_MAX:
        text = f"a task has at most {bounds.READERS_MAX} readers"
        raise click.BadParameter(text, ctx=ctx, param=parameter)
    if "" in values:
        raise click.BadParameter("it is empty", ctx=ctx, param=parameter)
    return values


_OPTIONS = (
    click.option(
        "--require",
        "requirements",
        metavar="CAPABILITY",
        multiple=True,
        callback=capabilities,
        help="What a device must provide, such as mem:4GiB; repeatable.",
    ),
    click.option(
        "--prefer",
        "preferences",
        metavar="CAPABILITY",
        multiple=True,
        callback=capabilities,
        help="What a device had better provide: those with most of it are asked first; repeatable.",
    ),
    click.option("--type", "node_type", metavar="NAME", help="The type a device must be of."),
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        help="How to choose among devices that accept (weighted).",
    ),
    click.option(
        "--priority",
        type=click.Choice(PRIORITIES),
        help="Which tasks go first; for urgent ones more devices are asked at once (normal).",
    ),
    click.option(
        "--memory",
        "memory_bytes",
        metavar="SIZE",
        callback=size_bytes(*bounds.MEMORY_BYTES),
        help="The most memory it may use (512MiB).",
    ),
    click.option(
        "--fuel",
        type=click.IntRange(*bounds.FUEL),
        metavar="N",
        help="The most work it may do, about an instruction each (10 billion).",
    ),
    click.option(
        "--timeout",
        "wall_us",
        metavar="DURATION",
        callback=duration_us(*bounds.WALL_US),
        help="The longest it may run (30s).",
    ),
    click.option(
        "--output-max",
        "output_bytes",
        metavar="SIZE",
        callback=size_bytes(0, bounds.OUTPUT_BYTES_MAX),
        help="The most it may put out, standard error included (16MiB).",
    ),
    click.option(
        "--deadline",
        "deadline_us",
        metavar="DURATION",
        callback=duration_us(*bounds.DEADLINE_US),
        help="How long it may take in all, waiting included (1h).",
    ),
    click.option(
        "--retries",
        "retries_max",
        type=click.IntRange(*bounds.RETRIES),
        metavar="N",
        help="How often it goes to another device when one fails (8).",
    ),
    click.option(
        "--replicas",
        type=click.IntRange(*bounds.REPLICAS),
        metavar="N",
        help="How many devices run it, to compare their results (1).",
    ),
    click.option(
        "--quorum",
        type=click.IntRange(*bounds.REPLICAS),
        metavar="Q",
        help="How many of the replicas' results have to be equal (their majority).",
    ),
    click.option(
        "--durability",
        type=click.Choice(DURABILITIES),
        help="Who keeps the task: several devices, or this one alone (local).",
    ),
)


readers_option = click.option(
    "--reader",
    "readers",
    metavar="DEVICE",
    multiple=True,
    callback=_readers,
    help="A device that may have the results, too, besides those that keep the task; repeatable.",
)


TERMS: Final = (
    *LIMITS,
    "requirements",
    "preferences",
    "node_type",
    "strategy",
    "priority",
    "retries_max",
    "deadline_us",
    "replicas",
    "quorum",
    "durability",
)


def terms_options(function: _Function) -> _Function:
    """Give a command the options of tasks' terms."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def terms_frame(terms: Mapping[str, object]) -> Frame:
    """Return terms as the daemon takes them; what was not given has the daemon's default.

    Raises click.UsageError for a quorum that the replicas cannot meet.
    """
    given = {name: value for name, value in terms.items() if value not in (None, ())}
    replicas, quorum = given.get("replicas", 1), given.get("quorum", 1)
    if isinstance(replicas, int) and isinstance(quorum, int) and quorum > replicas:
        raise click.UsageError(
            f"a quorum of {quorum} cannot be had of {replicas} results: raise --replicas"
        )
    if "priority" in given:
        given["priority"] = PRIORITIES.index(str(given["priority"]))
    given["limits"] = {name: given.pop(name) for name in LIMITS if name in given}
    return given
