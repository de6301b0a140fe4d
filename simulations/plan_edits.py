"""Ways to make a plan smaller: what shrinking tries, one thing of a plan at a time.

An edit takes a plan and yields smaller ones, the smallest first. Edits know no step by name: a
number is a number, and `simulations.vocabulary` says which are devices. What comes out may be no
plan (a number below its least): then it is left out here, and what only `check_plan` can see is
left to whoever runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import msgspec
from msgspec.structs import replace

from simulations.plan import Plan
from simulations.steps import Step
from simulations.vocabulary import STEPS, Form, words_of

# Of a plan. What it expects stays: with less time to be whole again, everything breaks.
SETTINGS = ("exercises_wire", "hosts", "host", "network", "discovery", "absent", "roles")

PlainPlan: TypeAlias = dict[str, Any]  # what JSON can hold
PlainStep: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Edit:
    """Something of a plan that can be made smaller, and all smaller plans to try, best first."""

    label: str
    candidates: Callable[[Plan], Iterator[Plan]]


def edits_of(plan: Plan) -> Iterator[Edit]:
    """Yield every edit of a plan: settings, devices, groups, numbers, then the time between steps.

    Edits name places (step 3, device 2), so they stay good while the steps stay the same in number.
    """
    for name in SETTINGS:
        yield Edit(name, partial(_usual, name=name))
    for node in reversed(range(plan.node_count)):
        yield Edit(f"device {node}", partial(_without_node, node=node))
    for place, step in enumerate(plan.steps):
        for name, form in _forms(type(step)).items():
            if form in (Form.NODES, Form.GROUPS):
                label = f"step {place}: {name}"
                yield Edit(label, partial(_fewer_in_group, place=place, name=name))
    for place, step in enumerate(plan.steps):
        for name, form in _forms(type(step)).items():
            if form is not Form.NODE and _is_number(getattr(step, name)):
                label = f"step {place}: {name}"
                yield Edit(label, partial(_smaller_number, place=place, name=name))
    for place in range(len(plan.steps)):
        yield Edit(f"step {place}: sooner", partial(_sooner, place=place))
    yield Edit("lasts_us", _shorter)


def smaller_values(value: int) -> Iterator[int]:
    """Yield what to try instead of a number: none, one, half of it, and rounder ones."""
    sign = -1 if value < 0 else 1
    size = abs(value)
    tens = 10 ** (len(str(size)) - 1)
    tried = []
    for smaller in (0, 1, size // 2, size - size % tens, size - size % max(1, tens // 10)):
        if smaller < size and smaller not in tried:
            tried.append(smaller)
            yield sign * smaller


# Settings.


def _usual(plan: Plan, *, name: str) -> Iterator[Plan]:
    usual = getattr(Plan(seed=plan.seed, steps=()), name)
    if getattr(plan, name) != usual:
        yield msgspec.structs.replace(plan, **{name: usual})


def _shorter(plan: Plan) -> Iterator[Plan]:
    for smaller in smaller_values(plan.lasts_us):
        yield replace(plan, lasts_us=smaller)


# Devices.


def _without_node(plan: Plan, *, node: int) -> Iterator[Plan]:
    """Leave a device out, and what only it does; those after it move up by one."""
    if plan.node_count == 1 or node >= plan.node_count:
        return
    plain = _plain(plan)
    plain["node_count"] -= 1
    plain["steps"] = [
        _step_without(step, node) for step in plain["steps"] if not _is_of_node(step, node)
    ]
    for of_nodes in (plain["roles"], plain["hosts"], plain["network"]["regions"]):
        kept = {
            str(_moved(int(other), node)): value
            for other, value in of_nodes.items()
            if int(other) != node
        }
        of_nodes.clear()
        of_nodes.update(kept)
    plain["absent"] = _moved_all(plain["absent"], node)
    yield from _plan(plain)


def _is_of_node(step: PlainStep, node: int) -> bool:
    forms = _forms(STEPS[step["do"]])
    return any(form is Form.NODE and step[name] == node for name, form in forms.items())


def _step_without(step: PlainStep, node: int) -> PlainStep:
    changed = dict(step)
    for name, form in _forms(STEPS[step["do"]]).items():
        value = step[name]
        match form:
            case Form.NODE if isinstance(value, int):
                changed[name] = _moved(value, node)
            case Form.NODES:
                changed[name] = _moved_all(value, node)
            case Form.GROUPS:
                groups = [_moved_all(group, node) for group in value]
                changed[name] = [group for group in groups if group]
    return changed


def _forms(kind: type[Step]) -> Mapping[str, Form]:
    """Return what each field of a kind of step is about."""
    return {word.field: word.form for word in words_of(kind).values()}


def _moved(other: int, node: int) -> int:
    return other - 1 if other > node else other


def _moved_all(others: Sequence[int], node: int) -> list[int]:
    return [_moved(other, node) for other in others if other != node]


def _fewer_in_group(plan: Plan, *, place: int, name: str) -> Iterator[Plan]:
    """Leave one device out of a list of devices, or out of one of its groups."""
    whole = _plain(plan)["steps"][place][name]
    is_grouped = _forms(type(plan.steps[place]))[name] is Form.GROUPS
    groups = whole if is_grouped else [whole]
    for number, group in enumerate(groups):
        for at in range(len(group)):
            plain = _plain(plan)
            step = plain["steps"][place]
            target = step[name][number] if is_grouped else step[name]
            del target[at]
            yield from _plan(plain)


# Numbers and times.


def _smaller_number(plan: Plan, *, place: int, name: str) -> Iterator[Plan]:
    value = getattr(plan.steps[place], name)
    for smaller in smaller_values(value):
        plain = _plain(plan)
        plain["steps"][place][name] = smaller
        yield from _plan(plain)


def _sooner(plan: Plan, *, place: int) -> Iterator[Plan]:
    """Let a step and all after it happen sooner, those at the same time staying together."""
    at_us = plan.steps[place].at_us
    before_us = max((step.at_us for step in plan.steps if step.at_us < at_us), default=0)
    gap_us = at_us - before_us
    for shorter_us in smaller_values(gap_us):
        yield replace(
            plan, steps=tuple(_moved_step(step, at_us, gap_us - shorter_us) for step in plan.steps)
        )


def _moved_step(step: Step, from_us: int, sooner_us: int) -> Any:  # noqa: ANN401 - the type of the step
    return replace(step, at_us=step.at_us - sooner_us) if step.at_us >= from_us else step


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value != 0


# The plain form.


def _plain(plan: Plan) -> PlainPlan:
    """Return a plan as JSON has it: lists and texts, all of them new."""
    return cast(PlainPlan, msgspec.json.decode(msgspec.json.encode(plan)))


def _plan(plain: PlainPlan) -> Iterator[Plan]:
    try:
        yield msgspec.convert(plain, Plan, str_keys=True)
    except msgspec.ValidationError:
        return  # a number below its least, a list that may not be empty: nothing to try
