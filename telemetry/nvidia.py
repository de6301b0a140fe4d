"""NVIDIA cards, read through the optional package nvidia-ml-py (imported as `pynvml`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from telemetry.errors import GpuUnavailable
from telemetry.sample import GPU_NAME_CHARACTERS_MAX, GPUS_MAX, Gpu

_Read = TypeVar("_Read")


class _Memory(Protocol):
    total: int
    free: int


class _Utilisation(Protocol):
    gpu: int  # percent


class Nvml(Protocol):
    """What of NVML is used here. The library spells its names like this."""

    NVML_TEMPERATURE_GPU: int

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: N802 - NVML's own name, as all below
    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: object) -> str: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> _Memory: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: object) -> _Utilisation: ...  # noqa: N802
    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int: ...  # noqa: N802


class NvidiaCards:
    """The cards of this device. Whoever has no driver at start has none until the next start."""

    def __init__(self, nvml: Nvml | None = None) -> None:
        """Open the driver's library; a test gives its own. Raises GpuUnavailable."""
        self._nvml = _import_nvml() if nvml is None else nvml
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise GpuUnavailable(f"no NVIDIA driver: {error}") from error

    def read(self) -> tuple[Gpu, ...]:
        """Return the first eight cards; a figure that a card refuses is absent.

        Raises GpuUnavailable if the driver no longer answers, as after its update.
        """
        try:
            count = min(self._nvml.nvmlDeviceGetCount(), GPUS_MAX)
            return tuple(self._card(index) for index in range(count))
        except self._nvml.NVMLError as error:
            raise GpuUnavailable(f"the NVIDIA driver does not answer: {error}") from error

    def _card(self, index: int) -> Gpu:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        memory = self._optional(lambda: self._nvml.nvmlDeviceGetMemoryInfo(handle))
        utilisation = self._optional(lambda: self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        celsius = self._optional(
            lambda: self._nvml.nvmlDeviceGetTemperature(handle, self._nvml.NVML_TEMPERATURE_GPU)
        )
        return Gpu(
            name=self._nvml.nvmlDeviceGetName(handle)[:GPU_NAME_CHARACTERS_MAX],
            memory_total_bytes=None if memory is None else memory.total,
            memory_free_bytes=None if memory is None else min(memory.free, memory.total),
            utilisation_permille=None if utilisation is None else min(utilisation, 100) * 10,
            temperature_millicelsius=None if celsius is None else celsius * 1_000,
        )

    def _optional(self, read: Callable[[], _Read]) -> _Read | None:
        # Small cards answer "not supported" to one question and well to the next.
        try:
            return read()
        except self._nvml.NVMLError:
            return None


def _import_nvml() -> Nvml:
    try:
        module = importlib.import_module("pynvml")
    except ImportError as error:
        raise GpuUnavailable("nvidia-ml-py is not installed") from error
    return cast(Nvml, module)
