"""A program that computes for some seconds, whoever runs it, and whose answer is known beforehand.

It steps the generator of Knuth's MMIX (The Art of Computer Programming, volume 2, 3.3.4): each step
needs the one before, so no compiler and no processor takes a short cut. We may: steps compose.
"""

from __future__ import annotations

from support.wasm import wat

from sandbox.wasi_abi import WASI_MODULE

TURNS_COUNT = 2_000_000_000  # three seconds of one core
FACTOR, SUMMAND = 6_364_136_223_846_793_005, 1_442_695_040_888_963_407

_PROGRAM = f"""
(module
  (import "{WASI_MODULE}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $turns i64) (local $state i64)
    (local.set $turns (i64.const {TURNS_COUNT}))
    (loop $again
      (local.set $state
        (i64.add (i64.mul (local.get $state) (i64.const {FACTOR})) (i64.const {SUMMAND})))
      (local.set $turns (i64.sub (local.get $turns) (i64.const 1)))
      (br_if $again (i64.ne (local.get $turns) (i64.const 0))))
    (i64.store (i32.const 16) (local.get $state))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 8))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
"""


def toil() -> bytes:
    """Return the module."""
    return wat(_PROGRAM)


def fruit_of_toil() -> bytes:
    """Return what it puts out: the state after all turns, from zero."""
    factor, summand = 1, 0  # of the step that all turns so far are
    square_factor, square_summand = FACTOR, SUMMAND  # of 1, 2, 4, ... turns
    turns = TURNS_COUNT
    while turns:
        if turns & 1:
            factor, summand = factor * square_factor, summand * square_factor + square_summand
        square_summand += square_factor * square_summand
        square_factor *= square_factor
        factor, summand, square_factor, square_summand = (
            one % 2**64 for one in (factor, summand, square_factor, square_summand)
        )
        turns >>= 1
    return summand.to_bytes(8, "little")
