"""What a worker is asked to do, and what came of it."""

from __future__ import annotations

from msgspec import Struct

from wire.execution import ExecutionStatus
from wire.ids import Digest
from wire.limits import Limits


class Job(Struct, frozen=True, kw_only=True):
    """One run of one module. `args` are the arguments after the program's name, which is "task".

    `job_id` is the caller's, for its logs. `seed` feeds the program's randomness: any length, the
    same bytes give the same run.
    """

    job_id: int
    module: Digest
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    stdin: bytes = b""
    limits: Limits = Limits()
    seed: bytes = b""


class Execution(Struct, frozen=True, kw_only=True):
    """How a run ended. All ends are results of the program, none a failure of the device.

    `exit_code` is the program's own, 0 to 2^32 - 1, and 0 when it never exited. `fuel_used` is
    exact for EXITED and OUT_OF_FUEL; after a trap the engine may report less. `wall_us` is the
    device's. `detail` is one line for people, empty when there is nothing to say.
    """

    status: ExecutionStatus
    exit_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    fuel_used: int = 0
    wall_us: int = 0
    detail: str = ""
