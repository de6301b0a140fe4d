"""What holds for the tests against js-libp2p: daemons, and their logs with a failure."""

from support.daemon_fixtures import daemons, pytest_runtest_makereport

__all__ = ["daemons", "pytest_runtest_makereport"]
