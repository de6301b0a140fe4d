"""Plans as JSON files, and repro files: a plan with what it broke and in which commit."""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from simulations.errors import BadScenario
from simulations.plan import PLAN_VERSION, Plan
from simulations.plan_checks import check_plan
from simulations.vocabulary import STEPS

REPRO_FORMAT = "meshd simulation plan"
REPRO_VERSION = 1
FILE_BYTES_MAX = 64 << 20

_BYTE = re.compile(r"\(byte (\d+)\)")


class Repro(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan that broke something, to be run again."""

    format: str = REPRO_FORMAT
    version: int = REPRO_VERSION
    commit: str | None = None
    broke: str | None = None  # `S2: ...`, what the run said
    plan: Plan


def plan_to_json(plan: Plan) -> bytes:
    """Return a plan file: the same bytes for the same plan, in lines that can be compared."""
    return _pretty(plan)


def plan_from_json(text: bytes, *, name: str) -> Plan:
    """Return the plan in a file called `name`. Raises BadScenario with the place and the reason."""
    return _plan(_decoded(text, name), f"{name}: ")


def repro_to_json(repro: Repro) -> bytes:
    """Return a repro file."""
    return _pretty(repro)


def repro_from_json(text: bytes, *, name: str) -> Repro:
    """Return what is in a repro file called `name`, or in a plan file, which broke nothing yet.

    Raises BadScenario with the place and the reason.
    """
    decoded = _decoded(text, name)
    if not isinstance(decoded, dict) or "plan" not in decoded:
        return Repro(plan=_plan(decoded, f"{name}: "))
    if decoded.get("format") != REPRO_FORMAT:
        raise BadScenario(f"{name}: format: {decoded.get('format')!r} is not {REPRO_FORMAT!r}")
    _check_version(decoded.get("version"), REPRO_VERSION, f"{name}: version")
    plan = _plan(decoded["plan"], f"{name}: plan.")
    try:
        header = msgspec.convert(decoded | {"plan": None}, _Header)
    except msgspec.ValidationError as error:
        raise BadScenario(f"{_placed(f'{name}: ', error)}") from error
    return Repro(commit=header.commit, broke=header.broke, plan=plan)


class _Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    version: int
    commit: str | None = None
    broke: str | None = None
    plan: None


def _pretty(value: Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _decoded(text: bytes, name: str) -> object:
    if len(text) > FILE_BYTES_MAX:
        raise BadScenario(f"{name}: {len(text)} bytes: {FILE_BYTES_MAX} at most")
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        byte = _BYTE.search(str(error))
        end = int(byte[1]) if byte else len(text)
        line = text.count(b"\n", 0, end) + 1
        raise BadScenario(f"{name}:{line}: {error}") from error


def _plan(decoded: object, where: str) -> Plan:
    """Return the plan, each step read by itself: only so is its number known if it is wrong."""
    if not isinstance(decoded, dict):
        raise BadScenario(f"{where.rstrip('.: ')}: a plan is an object, with a seed and steps")
    _check_version(decoded.get("version", PLAN_VERSION), PLAN_VERSION, f"{where}version")
    steps = decoded.get("steps")
    if isinstance(steps, list):
        for number, step in enumerate(steps):
            _check_step(step, f"{where}steps[{number}]")
    try:
        plan = msgspec.convert(decoded, Plan, str_keys=True)
    except msgspec.ValidationError as error:
        raise BadScenario(_placed(where, error)) from error
    unknown = _unknown_key(decoded, msgspec.to_builtins(plan, str_keys=True))
    if unknown is not None:
        raise BadScenario(f"{where}{unknown}: there is no such field")
    check_plan(plan, where=where)
    return plan


def _unknown_key(written: object, read: object) -> str | None:
    """Return the path of a key that was written and not read, if there is one."""
    if not isinstance(written, dict) or not isinstance(read, dict):
        return None
    for key, value in written.items():
        inner = _unknown_key(value, read[key]) if key in read else ""
        if inner is not None:
            return f"{key}.{inner}".rstrip(".")
    return None


def _check_step(step: object, where: str) -> None:
    kind = step.get("do") if isinstance(step, dict) else None
    if not isinstance(kind, str):
        raise BadScenario(f"{where}: a step is an object that says what to `do`")
    if kind not in STEPS:
        raise BadScenario(f"{where}.do: no step {kind!r}: there are {', '.join(STEPS)}")
    try:
        msgspec.convert(step, STEPS[kind])
    except msgspec.ValidationError as error:
        raise BadScenario(_placed(f"{where}.", error)) from error


def _check_version(version: object, spoken: int, where: str) -> None:
    if version != spoken:
        raise BadScenario(f"{where}: {version!r}: version {spoken} is spoken here")


def _placed(where: str, error: msgspec.ValidationError) -> str:
    reason, _, place = str(error).partition(" - at `$")
    inner = place.removesuffix("`").removeprefix(".")
    return f"{where}{inner}".rstrip(".: ") + f": {reason}"
