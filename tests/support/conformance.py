"""One plan on two hosts, and when their traces are the same.

Strictly: line by line, with times, contents and each device's own order. What happens to one device
at one microsecond has no order of its own, though: if two devices send at the same microsecond, and
both messages take equally long, then which of them their receiver handles first depends on which
sender's task trio ran first. Such pairs are rare (one in 50,000 lines of 50 devices). `unordered`
therefore sorts the lines of one device at one microsecond by what they say; it keeps all lines,
times, devices and contents.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable

from support.one_instant import answers_counted_apart, the_mailboxs_order
from support.switch_host import shells_instead_of_the_engine

from meshd.mailbox import Mailbox
from meshd.shell import Shell
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.runner import Runner


def simulated(plan: Plan) -> list[str]:
    """Return the trace of a run by the simulator."""
    with the_mailboxs_order():
        return _trace(plan)


def under_shells(
    plan: Plan,
    order_seed: int,
    *,
    shell: Callable[..., Shell] = Shell,
    mailbox: Callable[[], Mailbox] = Mailbox,
) -> list[str]:
    """Return the trace of a run by shells on trio, whose tasks take turns as `order_seed` says."""
    with (
        answers_counted_apart(),
        shells_instead_of_the_engine(order_seed, shell=shell, mailbox=mailbox),
    ):
        return _trace(plan)


def _trace(plan: Plan) -> list[str]:
    runner = Runner(plan, MESH_NODE, repeat_with="see the seed and plan of the test")
    runner.run()
    return [*runner.world.trace.lines()]


def unordered(lines: Iterable[str]) -> list[str]:
    """Return a trace without the order of what one device does at one microsecond."""
    decoded = map(json.loads, lines)
    instants = itertools.groupby(decoded, key=lambda line: (line["time_us"], line["node"]))
    return [line for _, instant in instants for line in sorted(map(_without_sequence, instant))]


def _without_sequence(line: dict[str, object]) -> str:
    return json.dumps({name: value for name, value in line.items() if name != "sequence"})


def assert_same(expected: list[str], actual: list[str]) -> None:
    """Fail with the first line in which two traces differ, and those before it."""
    if expected == actual:
        return
    pairs = itertools.zip_longest(expected, actual, fillvalue="(no more lines)")
    number, (one, other) = next(
        (number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1]
    )
    before = "\n".join(expected[max(0, number - 5) : number])
    raise AssertionError(
        f"line {number + 1} of {len(expected)} and {len(actual)} differs, after\n{before}\n"
        f"simulated: {one}\nshell:     {other}"
    )
