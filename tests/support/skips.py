"""In CI a test that skips itself has not been run: it fails the run, save for the reasons below."""

from __future__ import annotations

import os
import re

import pytest

# What no package and no right can bring to a machine, as patterns of the reason given to skip().
SKIPS_ALLOWED_IN_CI = (
    r"no netem: this kernel has no CONFIG_NET_SCH_NETEM",
    r"no IPv6 on this machine",
)


class SkipsFailTheRun:
    """A pytest plugin that turns a green run red if a test was skipped for another reason."""

    def __init__(self, allowed: tuple[str, ...] = SKIPS_ALLOWED_IN_CI) -> None:
        self._allowed = tuple(re.compile(pattern) for pattern in allowed)
        self._refused: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that was skipped. An expected failure is not a skip."""
        if not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that was skipped as a whole."""
        self._note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that would have passed, or that ran nothing but skips."""
        if self._refused and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which skips failed the run."""
        if self._refused:
            terminalreporter.section("skipped, which fails a run with CI=true", red=True)
            for line in self._refused:
                terminalreporter.line(line)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped:
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(pattern.search(reason) for pattern in self._allowed):
            self._refused.append(f"{report.nodeid}: {reason}")


def refuse_skips_in_ci(config: pytest.Config) -> None:
    """Register the plugin if this is a CI run (environment variable CI=true)."""
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(SkipsFailTheRun())
