"""A pool of real worker processes, over a cache that the whole session shares."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from support.wasm import ModuleShelf

from sandbox.pool import Pool


@pytest.fixture(scope="session")
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of compiled modules, so that each is compiled once a session."""
    return tmp_path_factory.mktemp("native")


@pytest.fixture
def shelf() -> ModuleShelf:
    """The modules this device has."""
    return ModuleShelf()


@pytest.fixture
async def pool(cache_directory: Path, shelf: ModuleShelf) -> AsyncIterator[Pool]:
    """A running pool of two workers."""
    pool = Pool(
        worker_count=2,
        cache_directory=cache_directory,
        cache_bytes_max=1 << 30,
        load_module=shelf.load,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield pool
        nursery.cancel_scope.cancel()
