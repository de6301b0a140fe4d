"""What tests in network namespaces measured, for the end of the run's report."""

from __future__ import annotations

MEASURED: list[str] = []


def measured(what: str, *seconds: float) -> None:
    """Note a duration, or several of one kind."""
    MEASURED.append(f"{what}: {', '.join(f'{one:.1f}' for one in seconds)} s")
