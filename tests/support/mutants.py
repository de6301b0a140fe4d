"""Compiles and runs mutated modules in this process: `python mutants.py SEED COUNT`.

A process of its own, as a mutant that breaks the engine would take the tests with it. Prints how
many were refused and how many ran.
"""

from __future__ import annotations

import random
import sys

from support.wasm import calling, example, job_of, wat

from sandbox.engine import Engine, compile_module
from sandbox.errors import UnsupportedModule
from sandbox.precheck import check_module
from wire.limits import MIB, Limits

LIMITS = Limits(fuel=1_000_000, memory_bytes=32 * MIB, output_bytes=10_000)
SEEDS = (
    example("faults/spin"),
    example("faults/flood"),
    example("faults/trap"),
    calling("poll_oneoff", "(drop (call $f (i32.const 0)(i32.const 8)(i32.const 1)(i32.const 9)))"),
    wat(
        """(module (memory (export "memory") 1) (table 4 funcref) (elem (i32.const 0) $a $a)
        (data (i32.const 0) "abc") (global $g (mut i64) (i64.const 5))
        (func $a (param f64) (result f64) local.get 0 f64.sqrt)
        (func (export "_start") (local v128)
        (loop (drop (call_indirect (param f64) (result f64) (f64.const 2) (i32.const 1)))
        (drop (memory.grow (i32.const 3))) (br_if 0 (i32.const 0)))
        (drop (i32x4.add (local.get 0) (local.get 0)))))"""
    ),
)


def mutate(module: bytes, rng: random.Random) -> bytes:
    """Return `module` with a few bytes changed, removed or added."""
    mutant = bytearray(module)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(8, len(mutant))
        match rng.randrange(4):
            case 0 | 1:
                mutant[at] = rng.randrange(256)
            case 2:
                mutant[at] ^= 1 << rng.randrange(8)
            case _:
                mutant[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(mutant)


def main() -> None:
    """Run the mutants."""
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    rng, engine = random.Random(seed), Engine()
    refused_count = 0
    for _ in range(count):
        mutant = mutate(rng.choice(SEEDS), rng)
        try:
            check_module(mutant)
            native = compile_module(mutant)
        except UnsupportedModule:
            refused_count += 1
            continue
        engine.run(engine.load(native), job_of(mutant, limits=LIMITS))
    sys.stdout.write(f"{refused_count} refused, {count - refused_count} ran\n")


if __name__ == "__main__":
    main()
