/* Writes without end: stopped at its output limit.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o flood.wasm flood.c
 *   run:    meshctl submit examples/faults/flood.wasm
 */
#include <stdio.h>

int main(void) {
    for (;;) puts("all work and no play makes Jack a dull boy");
}
