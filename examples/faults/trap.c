/* Writes a line and then fails as an assertion does: the program traps.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o trap.wasm trap.c
 *   run:    meshctl submit examples/faults/trap.wasm      (exit code 104)
 */
#include <stdio.h>

int main(void) {
    puts("this was written before the trap");
    fflush(stdout);
    __builtin_trap();
}
