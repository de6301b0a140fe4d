"""What a plan asks for that cannot be, each with its place: nothing is run before it is right.

Types and bounds of fields are those of `simulations.steps`; here is what one field says of another.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from simulations import steps as do
from simulations.errors import BadScenario
from simulations.invariants import INVARIANTS
from simulations.partitions import RING_NODES_MIN
from simulations.plan import PLAN_VERSION, STEPS_MAX, Plan
from simulations.steps import AnyStep
from simulations.vocabulary import Form, words_of
from wire.effects import Effect
from wire.messages import Message

EFFECTS = tuple(sorted(kind.__name__ for kind in typing.get_args(Effect)))
MESSAGES = tuple(sorted(kind.__name__ for kind in typing.get_args(Message)))

COMPLAINTS_MAX = 20


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something that cannot be: in a field of a step, or, without one, of the plan."""

    step: int | None
    field: str
    reason: str

    def __str__(self) -> str:
        place = self.field if self.step is None else f"steps[{self.step}].{self.field}"
        return f"{place.rstrip('.')}: {self.reason}"


def check_plan(plan: Plan, *, where: str = "") -> None:
    """Raise BadScenario, a line for each thing that cannot be, if there is one.

    Each line begins with `where`, such as `repro.json: plan.`.
    """
    found = complaints(plan)
    if found:
        shown = [f"{where}{complaint}" for complaint in found[:COMPLAINTS_MAX]]
        if len(found) > COMPLAINTS_MAX:
            shown.append(f"and {len(found) - COMPLAINTS_MAX} more")
        raise BadScenario("\n".join(shown))


def complaints(plan: Plan) -> list[Complaint]:
    """Return everything that cannot be, in the order of the plan."""
    found = [Complaint(None, field, reason) for field, reason in _of_plan(plan)]
    if len(plan.steps) > STEPS_MAX:
        return found
    past = _Past(plan)
    for number, step in enumerate(plan.steps):
        bounds = list(_of_bounds(step))
        of_step = bounds or [*_of_nodes(plan, step), *_of_step(plan, step), *past.judge(number)]
        found += (Complaint(number, field, reason) for field, reason in of_step)
    return found


_Findings = Iterator[tuple[str, str]]


def _of_plan(plan: Plan) -> _Findings:
    if plan.version != PLAN_VERSION:
        yield "version", f"{plan.version}: version {PLAN_VERSION} is spoken here"
    if len(plan.steps) > STEPS_MAX:
        yield "steps", f"{len(plan.steps)} of them: there are {STEPS_MAX} at most"
    if plan.expect.breaks is not None and plan.expect.breaks not in INVARIANTS:
        yield "expect.breaks", f"no invariant {plan.expect.breaks!r}: {', '.join(INVARIANTS)}"
    yield from _of_bounds(msgspec.structs.replace(plan, steps=()))
    for field in ("roles", "hosts", "absent"):
        named: Sequence[int] = list(getattr(plan, field))
        yield from ((field, reason) for reason in _unknown(plan, named))


def _of_bounds(struct: Struct) -> _Findings:
    """A plan made in Python was not held to the bounds of its types: decoding does that."""
    try:
        msgspec.convert(msgspec.to_builtins(struct), type(struct))
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        yield place.removesuffix("`"), reason


def _of_nodes(plan: Plan, step: AnyStep) -> _Findings:
    for word in words_of(type(step)).values():
        value = getattr(step, word.field)
        if word.form is Form.NODE and isinstance(value, int):
            yield from ((word.field, reason) for reason in _unknown(plan, [value]))
        elif word.form is Form.NODES:
            yield from ((word.field, reason) for reason in _unknown(plan, value))
        elif word.form is Form.GROUPS:
            named = [node for group in value for node in group]
            yield from ((word.field, reason) for reason in _unknown(plan, named))


def _unknown(plan: Plan, nodes: Sequence[int]) -> Iterator[str]:
    for node in dict.fromkeys(nodes):
        if not 0 <= node < plan.node_count:
            yield f"there is no device {node}: they are 0..{plan.node_count - 1}"


def _of_step(plan: Plan, step: AnyStep) -> _Findings:
    if plan.lasts_us and step.at_us > plan.lasts_us:
        yield "at_us", f"{step.at_us} is after the end of the run, {plan.lasts_us}"
    match step:
        case do.Split(groups=groups):
            yield from (("groups", reason) for reason in _repeated(groups))
            if not any(groups):
                yield "groups", "there is nobody to split off"
        case do.Bridge(left=left, middle=middle, right=right):
            yield from (("middle", reason) for reason in _repeated([left, middle, right]))
        case do.Ring() if plan.node_count < RING_NODES_MIN:
            yield "", f"a ring takes {RING_NODES_MIN} devices, and there are {plan.node_count}"
        case do.Cut(origins=origins, targets=targets) | do.Jam(origins=origins, targets=targets):
            if not any(one != other for one in origins for other in targets):
                yield "targets", "there is no path between two devices in it"
        case do.CrashAtEffect(effect=effect, what=what):
            if effect not in EFFECTS:
                yield "effect", f"no effect {effect!r}: {', '.join(EFFECTS)}"
            elif effect == "Send" and what is not None and what not in MESSAGES:
                yield "what", f"no message {what!r}: {', '.join(MESSAGES)}"
        case do.Gray(drops=drops):
            if drops is not None and drops not in MESSAGES:
                yield "drops", f"no message {drops!r}: {', '.join(MESSAGES)}"
            if drops is None and step.slowdown == 1 and not step.is_stuck:
                yield "", "a gray device is slow, stuck, or drops messages: say which"


def _repeated(groups: Sequence[Sequence[int]]) -> Iterator[str]:
    seen: dict[int, None] = {}
    for node in (node for group in groups for node in group):
        if node in seen:
            yield f"device {node} is named twice"
        seen[node] = None


class _Past:
    """What must have happened before a step."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        submits = [step for step in plan.steps if isinstance(step, do.Submit)]
        self._submits = sorted(submits, key=lambda step: step.at_us)

    def judge(self, number: int) -> _Findings:
        step = self._plan.steps[number]
        match step:
            case do.Cancel(submission=submission, index=index):
                yield from self._of_cancel(step, submission, index)
            case do.Start(node=node) if node not in self._plan.absent:
                if not any(self._ends(other, node, step.at_us) for other in self._plan.steps):
                    yield "node", f"device {node} runs: nothing before this stops or crashes it"
            case do.Restore(node=node):
                copies = (other for other in self._plan.steps if isinstance(other, do.Backup))
                if not any(one.node == node and one.at_us <= step.at_us for one in copies):
                    yield "node", f"there is no backup of device {node} before this"

    def _of_cancel(self, step: do.Cancel, submission: int, index: int) -> _Findings:
        """Submissions are numbered in order of time."""
        if submission >= len(self._submits):
            yield "submission", f"no batch {submission}: there are {len(self._submits)}, from 0"
            return
        submit = self._submits[submission]
        if submit.at_us > step.at_us and not step.when_working:
            yield "submission", f"batch {submission} is submitted later, at {submit.at_us}"
        if index >= submit.count:
            yield "index", f"no task {index}: batch {submission} has {submit.count}, from 0"

    @staticmethod
    def _ends(step: AnyStep, node: int, at_us: int) -> bool:
        if step.at_us > at_us:
            return False
        match step:
            case do.Stop(node=ended) | do.CrashWriting(node=ended) | do.CrashAtEffect(node=ended):
                return ended == node
            case do.Crash(who=who):
                return who in (node, "executor")
        return False
