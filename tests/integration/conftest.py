"""What holds for the tests with real processes: light ones first, and logs with every failure."""

from __future__ import annotations

import pytest
from support.daemon_fixtures import daemons, pytest_runtest_makereport

__all__ = [
    "daemons",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_makereport",
]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of tests that take tens of seconds of two cores."""
    config.addinivalue_line("markers", "heavy: many daemons at once; runs after all others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the heavy ones last, so that a simple defect shows early."""
    items.sort(key=lambda item: item.get_closest_marker("heavy") is not None)
