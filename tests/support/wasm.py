"""Modules for tests: the examples, and small ones written as text."""

from __future__ import annotations

from pathlib import Path

import trio
import wasmtime

from sandbox.errors import ModuleMissing
from sandbox.job import Job
from sandbox.wasi_abi import PARAMETERS, WASI_MODULE, results_of
from wire.blobs import blob_ref
from wire.ids import Digest
from wire.limits import Limits

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

NOTHING = '(module (memory (export "memory") 1) (func (export "_start")))'


def wat(text: str) -> bytes:
    """Return the binary of a module written as text."""
    return bytes(wasmtime.wat2wasm(text))


def example(name: str) -> bytes:
    """Return an example's module, such as `faults/spin`."""
    return (EXAMPLES / f"{name}.wasm").read_bytes()


def digest_of(module: bytes) -> Digest:
    """Return the digest under which the mesh knows a module."""
    return blob_ref(module).digest


def calling(function: str, body: str) -> bytes:
    """Return a module with one page of memory whose `_start` is `body`, calling `$f`."""
    kinds = {"i": "i32", "I": "i64"}
    parameters = " ".join(kinds[letter] for letter in PARAMETERS[function])
    results = " ".join(kinds[letter] for letter in results_of(function))
    return wat(
        f'(module (import "{WASI_MODULE}" "{function}" '
        f"(func $f (param {parameters}) (result {results})))"
        f'(memory (export "memory") 1) (func (export "_start") {body}))'
    )


def job_of(
    module: bytes,
    *args: str,
    stdin: bytes = b"",
    env: tuple[tuple[str, str], ...] = (),
    seed: bytes = b"",
    limits: Limits | None = None,
) -> Job:
    """Return a job that runs `module`."""
    return Job(
        job_id=1,
        module=digest_of(module),
        args=args,
        env=env,
        stdin=stdin,
        limits=limits or Limits(),
        seed=seed,
    )


class ModuleShelf:
    """Modules by digest, counting how often each was asked for."""

    def __init__(self) -> None:
        self._modules: dict[Digest, bytes] = {}
        self.load_count = 0

    def add(self, module: bytes) -> bytes:
        """Put a module on the shelf and return it."""
        self._modules[digest_of(module)] = module
        return module

    async def load(self, digest: Digest) -> bytes:
        """Return a module, as the daemon's blob store does."""
        self.load_count += 1
        await trio.lowlevel.checkpoint()
        if digest not in self._modules:
            raise ModuleMissing("this device does not have the module")
        return self._modules[digest]
