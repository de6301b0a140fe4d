"""The version of the installed release."""

from __future__ import annotations

import functools
import importlib.metadata

DISTRIBUTION = "meshd-node"


@functools.cache
def version() -> str:
    """Return the release, such as `0.1.0`; `0+unknown` when it runs without being installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
