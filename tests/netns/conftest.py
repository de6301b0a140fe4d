"""What holds for the tests in network namespaces.

Those marked `minutes` run only if asked for by a mark: `make test-netns` runs `pytest -m netns`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon_fixtures import pytest_runtest_makereport
from support.daemons import Daemons
from support.netns import why_no_fabric
from support.netns_measured import MEASURED

__all__ = [
    "daemons",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_makereport",
    "pytest_terminal_summary",
]

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "netns: needs network namespaces, so root; all tests here")
    config.addinivalue_line("markers", "minutes: takes a minute or more; only when -m is given")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all tests of this directory, and leave out those of minutes unless marks were chosen."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.netns)
    long = [item for item in ours if item.get_closest_marker("minutes")]
    if long and not config.option.markexpr:
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured."""
    if MEASURED:
        terminalreporter.section("measured in real networks")
        for line in MEASURED:
            terminalreporter.line(line)


@pytest.fixture(scope="session", autouse=True)
def _networks_can_be_made() -> None:
    """Skip everything here where the kernel or its user cannot make networks."""
    if reason := why_no_fabric():
        pytest.skip(reason)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """Return the daemons of one test; all are ended after it."""
    with Daemons(tmp_path) as started:
        yield started
