"""The writes of one simulated process: durable after a while, in order, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from simulations.device import HostSettings
from simulations.disk import Disk, DiskFate
from simulations.engine import Action, Engine
from wire.effects import Effect, Persist
from wire.events import Event, PersistFailed


class Writing:
    """Carries out `Persist`. A disk that was full once takes nothing until the next start."""

    def __init__(
        self,
        disk: Disk,
        engine: Engine,
        settings: HostSettings,
        rng: Random,
        *,
        later: Callable[[int, Action], None],
        on_durable: Callable[[Sequence[Effect]], None],
        deliver: Callable[[Event], None],
    ) -> None:
        self._disk = disk
        self._engine = engine
        self._settings = settings
        self._rng = rng
        self._later = later
        self._on_durable = on_durable
        self._deliver = deliver
        self._synced_at_us = 0
        self._is_broken = False

    def start(self) -> None:
        """Open the store again."""
        self._is_broken = False
        self._synced_at_us = 0

    def crash(self, fate: DiskFate) -> None:
        """Leave on the disk what `fate` leaves; how much of a torn tail is left is drawn."""
        torn_kept_count = 0
        if fate is DiskFate.TORN_TAIL:
            torn_kept_count = self._rng.randrange(self._disk.unsynced_count + 1)
        self._disk.crash(fate, torn_kept_count=torn_kept_count)

    def put(self, persist: Persist) -> None:
        """Write rows after all that were put before; what waits for them is done when they are
        durable.
        """
        now_us = self._engine.now_us
        jitter_us = self._rng.randrange(self._settings.sync_jitter_us + 1)
        due_us = now_us + self._settings.sync_us + jitter_us
        self._synced_at_us = max(self._synced_at_us, due_us)  # writes are synced in order
        delay_us = self._synced_at_us - now_us
        if self._disk.is_full or self._is_broken:
            self._is_broken = True  # as the daemon's: nothing is written until a restart
            self._later(delay_us, partial(self._deliver, PersistFailed("no space left")))
        else:
            self._disk.write(persist.rows)
            self._later(delay_us, partial(self._synced, persist.then))

    def _synced(self, then: Sequence[Effect]) -> None:
        self._disk.sync_next()
        if then:
            self._on_durable(then)
