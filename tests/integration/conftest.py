"""What holds for the tests with real processes: light ones first, and logs with every failure."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from support.daemons import Daemons, logs_of_open_daemons


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of tests that take tens of seconds of two cores."""
    config.addinivalue_line("markers", "heavy: many daemons at once; runs after all others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the heavy ones last, so that a simple defect shows early."""
    items.sort(key=lambda item: item.get_closest_marker("heavy") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the daemons' logs with a failure."""
    del item
    report = yield
    if report.failed:
        report.sections += [(f"daemon {name}", log) for name, log in logs_of_open_daemons()]
    return report


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """Return daemons that all tests of a module share; all are ended after it."""
    with Daemons(tmp_path_factory.mktemp("mesh")) as started:
        yield started
