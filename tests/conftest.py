"""What holds for every test run."""

from __future__ import annotations

import pytest
from support.skips import refuse_skips_in_ci


def pytest_configure(config: pytest.Config) -> None:
    """Let no test skip itself unseen in CI."""
    refuse_skips_in_ci(config)
