"""For a conftest.py whose tests run real daemons: the daemons, and their logs with a failure."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from support.daemons import Daemons, logs_of_open_daemons

__all__ = ["daemons", "pytest_runtest_makereport"]


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
