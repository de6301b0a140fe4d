"""Real worker processes: ends, failures, deaths and restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import trio
import trio.testing
from support.wasm import NOTHING, ModuleShelf, example, job_of, wat

from sandbox.cache_entry import entry_name
from sandbox.child import Child
from sandbox.compilation import CompilerLimits
from sandbox.errors import JobFailed, UnusableCache
from sandbox.job import Execution, Job
from sandbox.pool import Pool
from sandbox.precheck import FUNCTION_COUNT_MAX
from wire.execution import ExecutionFailure, ExecutionStatus
from wire.limits import MIB, Limits

PATIENCE_S = 30
FOREVER = Limits(fuel=1_000_000_000_000, wall_us=60_000_000)


async def until(claim: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not claim():  # noqa: ASYNC110 - other processes change what is claimed, not tasks
            await trio.sleep(0.01)


async def failure_of(pool: Pool, job: Job) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        await pool.execute(job)
    return caught.value


def is_gone(pid: int) -> bool:
    """Say whether there is no such process, not even a zombie."""
    return not psutil.pid_exists(pid)


def pool_over(directory: Path, shelf: ModuleShelf, **changes: object) -> Pool:
    arguments: dict[str, object] = {
        "worker_count": 1,
        "cache_directory": directory,
        "cache_bytes_max": 1 << 30,
        "load_module": shelf.load,
    }
    return Pool(**(arguments | changes))  # type: ignore[arg-type] # tests change one of them


@pytest.mark.parametrize(
    ("name", "limits", "status", "detail"),
    [
        ("faults/spin", Limits(fuel=10**7), ExecutionStatus.OUT_OF_FUEL, "fuel"),
        (
            "faults/spin",
            Limits(fuel=10**12, wall_us=50_000),
            ExecutionStatus.OUT_OF_TIME,
            "more than 0.05 s",
        ),
        ("faults/trap", Limits(), ExecutionStatus.TRAPPED, "unreachable"),
        (
            "faults/memory_hog",
            Limits(memory_bytes=32 * MIB),
            ExecutionStatus.OUT_OF_MEMORY,
            "33554432 is its limit",
        ),
        ("faults/flood", Limits(output_bytes=100), ExecutionStatus.OUT_OF_OUTPUT, "output"),
        ("faults/exit_code", Limits(), ExecutionStatus.EXITED, ""),
    ],
)
async def test_every_end_has_its_own_status(
    pool: Pool, shelf: ModuleShelf, name: str, limits: Limits, status: str, detail: str
) -> None:
    execution = await pool.execute(job_of(shelf.add(example(name)), limits=limits))
    assert execution.status is status
    assert detail in execution.detail


async def test_what_was_written_before_a_trap_is_kept(pool: Pool, shelf: ModuleShelf) -> None:
    execution = await pool.execute(job_of(shelf.add(example("faults/trap"))))
    assert execution.stdout == b"this was written before the trap\n"


async def test_arguments_environment_and_megabytes_go_through(
    pool: Pool, shelf: ModuleShelf
) -> None:
    stdin = os.urandom(5 * MIB)
    module = shelf.add(example("faults/echo"))
    execution = await pool.execute(job_of(module, "é", stdin=stdin, env=(("K", "V"),)))
    head = "argument 0: task\nargument 1: é\nenvironment: K=V\n".encode()
    assert execution.stdout == head + stdin


async def test_repeated_runs_agree_and_randomness_is_the_seeds(
    pool: Pool, shelf: ModuleShelf
) -> None:
    module = shelf.add(example("faults/chance"))
    runs = [await pool.execute(job_of(module, seed=seed)) for seed in (b"a", b"a", b"b")]
    first, again, other = [(run.stdout, run.fuel_used) for run in runs]
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("module", "reason", "detail"),
    [
        (b"hello", ExecutionFailure.NOT_WASM, "not WebAssembly"),
        (b"\0asm\x0d\0\1\0", ExecutionFailure.UNSUPPORTED_MODULE, "component"),
        (wat("(module)"), ExecutionFailure.UNSUPPORTED_MODULE, "_start"),
        (
            wat('(module (import "env" "evil" (func)) (func (export "_start")))'),
            ExecutionFailure.UNSUPPORTED_MODULE,
            "env.evil",
        ),
        (
            wat('(module (memory i64 1) (func (export "_start")))'),
            ExecutionFailure.UNSUPPORTED_MODULE,
            "memory64",
        ),
    ],
    ids=["garbage", "component", "no start", "unknown import", "64-bit memory"],
)
async def test_a_module_that_cannot_run_is_refused_once_and_for_all(
    pool: Pool, shelf: ModuleShelf, module: bytes, reason: ExecutionFailure, detail: str
) -> None:
    for _ in range(2):
        failure = await failure_of(pool, job_of(shelf.add(module)))
        assert failure.reason is reason
        assert detail in failure.detail
    assert shelf.load_count == 1


async def test_a_missing_module_is_asked_for_again(pool: Pool, shelf: ModuleShelf) -> None:
    job = job_of(wat('(module (func (export "_start") nop nop))'))
    assert (await failure_of(pool, job)).reason is ExecutionFailure.MODULE_MISSING
    shelf.add(wat('(module (func (export "_start") nop nop))'))
    assert (await pool.execute(job)).status is ExecutionStatus.EXITED


async def test_more_jobs_than_workers_wait_their_turn(pool: Pool, shelf: ModuleShelf) -> None:
    module = shelf.add(example("faults/exit_code"))
    codes: list[int] = []

    async def run(number: int) -> None:
        codes.append((await pool.execute(job_of(module, str(number)))).exit_code)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(run, number)
    assert sorted(codes) == list(range(20))
    assert shelf.load_count <= 1
    await until(lambda: pool.state().ready_count == 2)
    assert (pool.state().busy_count, pool.state().waiting_count) == (0, 0)


async def test_a_killed_worker_fails_its_own_job_only(pool: Pool, shelf: ModuleShelf) -> None:
    spin, echo = shelf.add(example("faults/spin")), shelf.add(example("faults/echo"))
    await until(lambda: pool.state().ready_count == 2)
    failures: list[JobFailed] = []

    async def spin_until_killed() -> None:
        failures.append(await failure_of(pool, job_of(spin, limits=FOREVER)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin_until_killed)
        await until(lambda: pool.state().busy_count == 1)
        [victim] = [pid for pid in pool.worker_pids() if psutil.Process(pid).cpu_percent(0.2) > 10]
        os.kill(victim, signal.SIGKILL)
        assert (await pool.execute(job_of(echo, stdin=b"x"))).stdout.endswith(b"x")
    assert failures[0].reason is ExecutionFailure.WORKER_DIED
    await until(lambda: pool.state().ready_count == 2 and victim not in pool.worker_pids())
    assert is_gone(victim)
    for _ in range(4):
        assert (await pool.execute(job_of(echo, stdin=b"x"))).stdout.endswith(b"x")


async def test_a_worker_that_dies_idle_is_replaced_and_fails_no_job(
    pool: Pool, shelf: ModuleShelf
) -> None:
    echo = shelf.add(example("faults/echo"))
    for _ in range(4):  # whether the pool or the job notices the death first is a matter of chance
        await until(lambda: pool.state().ready_count == 2)
        for pid in pool.worker_pids():
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it is dead
        assert (await pool.execute(job_of(echo, stdin=b"x"))).stdout.endswith(b"x")


async def test_cancelling_a_job_kills_its_worker_and_starts_another(
    pool: Pool, shelf: ModuleShelf
) -> None:
    spin = shelf.add(example("faults/spin"))
    await until(lambda: pool.state().ready_count == 2)
    before = set(pool.worker_pids())
    with trio.move_on_after(0.5) as scope:
        await pool.execute(job_of(spin, limits=FOREVER))
    assert scope.cancelled_caught
    await until(lambda: pool.state().ready_count == 2 and set(pool.worker_pids()) != before)
    [killed] = before - set(pool.worker_pids())
    assert is_gone(killed)


async def test_cancelling_a_job_that_waits_disturbs_nobody(pool: Pool, shelf: ModuleShelf) -> None:
    spin = shelf.add(example("faults/spin"))
    limits = Limits(fuel=10**12, wall_us=500_000)
    ends: list[str] = []

    async def spin_once() -> None:
        ends.append((await pool.execute(job_of(spin, limits=limits))).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin_once)
        nursery.start_soon(spin_once)
        await until(lambda: pool.state().busy_count == 2)
        with trio.move_on_after(0.05) as scope:
            await pool.execute(job_of(spin, limits=limits))
        assert scope.cancelled_caught
        assert pool.state().waiting_count == 0
    assert ends == [ExecutionStatus.OUT_OF_TIME] * 2


def bomb() -> bytes:
    """Return a small module that keeps a compiler busy for long."""
    return wat("(module " + "(func)" * (FUNCTION_COUNT_MAX - 1) + '(func (export "_start")))')


async def test_a_compile_bomb_is_stopped_and_remembered(tmp_path: Path, shelf: ModuleShelf) -> None:
    pool = pool_over(tmp_path, shelf, compiler_limits=CompilerLimits(cpu_s=1))
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        job = job_of(shelf.add(bomb()))
        for _ in range(2):
            failure = await failure_of(pool, job)
            assert failure.reason is ExecutionFailure.COMPILER_LIMIT
            assert "1 s of CPU time" in failure.detail
        assert shelf.load_count == 1
        assert os.listdir(tmp_path) == ["key"]  # noqa: PTH208 - pathlib blocks, says the linter
        module = shelf.add(wat(NOTHING))
        assert (await pool.execute(job_of(module))).status is ExecutionStatus.EXITED
        nursery.cancel_scope.cancel()


async def test_a_compiler_that_takes_too_much_memory_is_stopped(
    tmp_path: Path, shelf: ModuleShelf
) -> None:
    limits = CompilerLimits(cpu_s=20, memory_bytes=300 * MIB)
    pool = pool_over(tmp_path, shelf, compiler_limits=limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        failure = await failure_of(pool, job_of(shelf.add(bomb())))
        assert failure.reason is ExecutionFailure.COMPILER_LIMIT
        assert str(300 * MIB) in failure.detail
        nursery.cancel_scope.cancel()


async def run_once(pool: Pool, job: Job) -> Execution:
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        execution = await pool.execute(job)
        nursery.cancel_scope.cancel()
    return execution


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


async def test_native_code_is_made_once_and_a_damaged_entry_is_made_again(
    tmp_path: Path, shelf: ModuleShelf
) -> None:
    module = shelf.add(example("faults/exit_code"))
    job = job_of(module, "5")
    for load_count in (1, 1, 2):
        if load_count == 2:
            flip_last_byte(tmp_path / entry_name(job.module))
        assert (await run_once(pool_over(tmp_path, shelf), job)).exit_code == 5
        assert shelf.load_count == load_count


async def test_an_entry_planted_under_another_name_is_not_run(
    tmp_path: Path, shelf: ModuleShelf
) -> None:
    ours, planted = shelf.add(wat(NOTHING)), shelf.add(example("faults/trap"))
    await run_once(pool_over(tmp_path, shelf), job_of(planted))
    (tmp_path / entry_name(job_of(planted).module)).rename(
        tmp_path / entry_name(job_of(ours).module)
    )
    execution = await run_once(pool_over(tmp_path, shelf), job_of(ours))
    assert execution.status is ExecutionStatus.EXITED


async def test_workers_that_do_not_start_fail_jobs_and_say_why_until_they_do(
    tmp_path: Path, shelf: ModuleShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = shelf.add(wat(NOTHING))
    await run_once(pool_over(tmp_path, shelf), job_of(module))
    with monkeypatch.context() as broken:
        broken.setattr("sandbox.pool.Child", lambda _: Child("sandbox.no_such_module"))
        pool = pool_over(tmp_path, shelf)
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            failure = await failure_of(pool, job_of(module))
            assert failure.reason is ExecutionFailure.WORKER_DIED
            assert "sandbox.no_such_module" in failure.detail
            assert "sandbox.no_such_module" in pool.state().start_failure
            broken.undo()
            await until(lambda: pool.state().ready_count == 1)
            assert pool.state().start_failure == ""
            assert (await pool.execute(job_of(module))).status is ExecutionStatus.EXITED
            nursery.cancel_scope.cancel()


async def test_closing_fails_jobs_and_leaves_no_process(tmp_path: Path, shelf: ModuleShelf) -> None:
    spin = shelf.add(example("faults/spin"))
    pool = pool_over(tmp_path, shelf)
    failures: list[JobFailed] = []

    async def spin_until_closed() -> None:
        failures.append(await failure_of(pool, job_of(spin, limits=FOREVER)))

    before = set(psutil.Process().children())
    async with trio.open_nursery() as jobs, trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        jobs.start_soon(spin_until_closed)
        await until(lambda: pool.state().busy_count == 1)
        jobs.start_soon(spin_until_closed)
        await until(lambda: pool.state().waiting_count == 1)
        nursery.cancel_scope.cancel()
    assert [failure.reason for failure in failures] == [ExecutionFailure.KILLED] * 2
    assert (await failure_of(pool, job_of(spin))).reason is ExecutionFailure.KILLED
    assert set(psutil.Process().children()) == before


async def test_a_cache_that_cannot_be_used_is_an_error_at_the_start(
    tmp_path: Path, shelf: ModuleShelf
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.RaisesGroup(UnusableCache):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool_over(tmp_path / "file", shelf).run)


async def test_status_says_what_is_enforced(pool: Pool) -> None:
    await until(lambda: pool.state().ready_count == 2)
    state = pool.state()
    assert (state.worker_count, state.busy_count, state.start_failure) == (2, 0, "")
    expected = {"dies_with_parent", "no_new_privileges", "few_files", "no_core", "unprivileged"}
    assert set(state.enforced) >= expected


async def test_the_daemons_memory_does_not_grow_with_jobs(pool: Pool, shelf: ModuleShelf) -> None:
    module, stdin = shelf.add(example("faults/echo")), bytes(4 * MIB)
    sizes = []
    for _ in range(3):
        for _ in range(10):
            assert len((await pool.execute(job_of(module, stdin=stdin))).stdout) > 4 * MIB
        sizes.append(psutil.Process().memory_info().rss)
    assert sizes[2] - sizes[0] < 10 * MIB


def test_the_daemon_never_loads_the_engine() -> None:
    program = "import sys, sandbox, sandbox.pool; sys.exit('wasmtime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


DAEMON = """
import sys, trio
from pathlib import Path
from support.wasm import ModuleShelf, example, job_of
from sandbox.pool import Pool
from wire.limits import Limits
async def main():
    shelf = ModuleShelf()
    spin = job_of(shelf.add(example("faults/spin")), limits=Limits(fuel=10**12, wall_us=10**9))
    pool = Pool(worker_count=2, cache_directory=Path(sys.argv[1]), cache_bytes_max=1 << 30,
                load_module=shelf.load)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        nursery.start_soon(pool.execute, spin)
        while pool.state().busy_count != 1 or pool.state().ready_count != 2:
            await trio.sleep(0.01)
        print("pids", *pool.worker_pids(), flush=True)
trio.run(main)
"""


async def test_no_worker_outlives_a_daemon_that_was_killed(cache_directory: Path) -> None:
    tests = str(Path(__file__).parent.parent)
    daemon = subprocess.Popen(  # noqa: ASYNC220 - only started here, not waited for
        [sys.executable, "-c", DAEMON, str(cache_directory)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": tests},
    )
    try:
        with daemon:
            assert daemon.stdout is not None
            line = b"not yet"
            while line and not line.startswith(b"pids"):
                line = await trio.to_thread.run_sync(daemon.stdout.readline)
            pids = [int(pid) for pid in line.split()[1:]]
            assert len(pids) == 2
            daemon.kill()
    finally:
        daemon.kill()
    # Whoever adopts orphans here may not collect them, so a dead one may stay as a zombie.
    await until(lambda: all(is_gone(pid) or is_zombie(pid) for pid in pids))


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_jobs_that_wait_for_one_compilation_share_its_failure(
    tmp_path: Path, shelf: ModuleShelf
) -> None:
    job = job_of(wat(NOTHING))  # not on the shelf
    pool = pool_over(tmp_path, shelf)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        async with trio.open_nursery() as jobs:
            for _ in range(5):
                jobs.start_soon(failure_of, pool, job)
        nursery.cancel_scope.cancel()
    assert shelf.load_count == 1


async def test_cancelling_the_job_that_compiles_lets_the_next_compile(
    tmp_path: Path, shelf: ModuleShelf
) -> None:
    job = job_of(shelf.add(wat(NOTHING)))
    pool = pool_over(tmp_path, shelf)
    statuses: list[str] = []

    first = trio.CancelScope()

    async def run_first() -> None:
        with first:
            await pool.execute(job)

    async def run_next() -> None:
        statuses.append((await pool.execute(job)).status)

    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        async with trio.open_nursery() as jobs:
            jobs.start_soon(run_first)
            await until(lambda: shelf.load_count == 1)
            jobs.start_soon(run_next)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
        nursery.cancel_scope.cancel()
    assert first.cancelled_caught
    assert (statuses, shelf.load_count) == ([ExecutionStatus.EXITED], 2)


async def test_a_service_managers_signals_are_left_to_the_daemon(
    pool: Pool, shelf: ModuleShelf
) -> None:
    echo = shelf.add(example("faults/echo"))
    await until(lambda: pool.state().ready_count == 2)
    before = pool.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert (await pool.execute(job_of(echo, stdin=b"x"))).stdout.endswith(b"x")
    assert pool.worker_pids() == before
