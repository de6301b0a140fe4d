"""docs/protocol/ lists exactly what the code has: tags, domains, fields, contexts and faults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.protocol_pages import PAGES, all_enums, all_kinds, filled, marked

from scheduler.verdict import CheckName, Fault

ROOT = PAGES.parent.parent
NAMES = [
    "README",
    "encoding",
    "ids",
    "records",
    "removal",
    "reputation",
    "signatures",
    "tasks",
    "verification",
]
TEXTS = {name: (PAGES / f"{name}.md").read_text("utf-8") for name in NAMES}
EVERYTHING = "\n".join(TEXTS.values())
_ROW = re.compile(r"^\| `(\w+)` \| .* \| (.*) \|$", re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_of_a_page_are_what_the_code_has(name: str) -> None:
    """If the wire was meant to change: `PYTHONPATH=tests python tests/wire/make_pages.py`."""
    assert TEXTS[name] == filled(TEXTS[name])


def test_every_struct_and_every_enumeration_of_the_wire_has_its_table() -> None:
    assert marked(EVERYTHING, "fields") == set(all_kinds())
    assert marked(EVERYTHING, "values") == set(all_enums())
    assert marked(EVERYTHING, "tags") == {"link", "join"}
    assert marked(EVERYTHING, "domains") == {"all"}


def test_every_context_of_the_wire_is_in_the_table_and_no_other() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "wire").glob("*.py"))
    used = set(re.findall(r'"(meshd 2026 [a-z ]+)"', sources))
    assert len(used) == 10
    assert set(re.findall(r"^\| `(meshd 2026 [a-z ]+)`", TEXTS["signatures"], re.MULTILINE)) == used


def test_every_check_of_a_receipt_is_listed_in_order_and_every_fault_with_it() -> None:
    table = TEXTS["tasks"].split("| check | claim | faults |")[1]
    rows = _ROW.findall(table)
    assert [name for name, _ in rows] == [check.value for check in CheckName]
    named = {fault for _, faults in rows for fault in re.findall(r"`(\w+)`", faults)}
    assert named == {fault.value for fault in Fault}


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (PAGES / target).resolve().exists(), f"{name}.md: {target}"


def test_the_vectors_that_the_pages_name_are_all_there_are() -> None:
    named = set(re.findall(r"vectors/(\w+\.json)", EVERYTHING))
    assert named == {path.name for path in Path(__file__).parent.joinpath("vectors").iterdir()}
