"""Runs WASM programs in worker processes under limits, with the same bytes out on every device.

This front door loads neither the engine nor trio. `sandbox.pool` runs jobs; `sandbox.worker` and
`sandbox.compiler` are the programs of its child processes, and they alone load `sandbox.engine`.
"""

from sandbox.errors import (
    JobFailed,
    ModuleMissing,
    NotWasm,
    SandboxError,
    UnsupportedModule,
    UnusableCache,
)
from sandbox.job import Execution, Job
from sandbox.precheck import check_module
from sandbox.profile import ENGINE_PROFILE

__all__ = [
    "ENGINE_PROFILE",
    "Execution",
    "Job",
    "JobFailed",
    "ModuleMissing",
    "NotWasm",
    "SandboxError",
    "UnsupportedModule",
    "UnusableCache",
    "check_module",
]
