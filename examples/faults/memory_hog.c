/* Takes memory until it gets no more, then gives up.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o memory_hog.wasm memory_hog.c
 *   run:    meshctl submit examples/faults/memory_hog.wasm --memory 64MiB      (exit code 106)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *volatile newest; /* volatile, or the compiler sees that nobody needs the memory */

int main(void) {
    size_t piece = 1 << 20, taken = 0;
    while ((newest = malloc(piece)) != NULL) {
        memset(newest, 1, piece);
        taken += piece;
    }
    fprintf(stderr, "memory_hog: no more after %zu MiB\n", taken >> 20);
    return 1;
}
