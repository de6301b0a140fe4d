"""How the run of a program ended, whoever ran it."""

from __future__ import annotations

import enum


class ExecutionStatus(enum.StrEnum):
    """The end of a program's run. All are results of the program, none a failure of the device."""

    EXITED = "exited"  # it returned or called proc_exit; the exit code says which
    TRAPPED = "trapped"  # unreachable, out of bounds, stack overflow, ...
    OUT_OF_FUEL = "out_of_fuel"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_TIME = "out_of_time"  # depends on the device's speed, so never compared
    OUT_OF_OUTPUT = "out_of_output"

    @property
    def is_comparable(self) -> bool:
        """Whether two honest devices of one engine profile must agree on such a result."""
        return self in (ExecutionStatus.EXITED, ExecutionStatus.OUT_OF_FUEL)


class ExecutionFailure(enum.StrEnum):
    """Why a device could not run a program to an end. The task goes elsewhere."""

    NOT_WASM = "not_wasm"
    UNSUPPORTED_MODULE = "unsupported_module"
    MODULE_MISSING = "module_missing"
    INPUT_MISSING = "input_missing"
    INPUT_UNREADABLE = "input_unreadable"
    COMPILER_LIMIT = "compiler_limit"
    WORKER_DIED = "worker_died"
    KILLED = "killed"

    @property
    def is_of_module(self) -> bool:
        """Whether the module itself is at fault: a second device would say the same."""
        return self in (
            ExecutionFailure.NOT_WASM,
            ExecutionFailure.UNSUPPORTED_MODULE,
            ExecutionFailure.COMPILER_LIMIT,
        )

    @property
    def is_of_device(self) -> bool:
        """Whether the device is at fault; what could not be fetched or opened may be another's."""
        return self in (ExecutionFailure.WORKER_DIED, ExecutionFailure.KILLED)
