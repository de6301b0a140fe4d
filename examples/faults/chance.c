/* Prints the time, random bytes and the time again: virtual and seeded, so a run can be repeated.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o chance.wasm chance.c
 *   run:    meshctl submit examples/faults/chance.wasm
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(void) {
    unsigned char bytes[16];
    printf("%lld\n", (long long)time(NULL));
    if (getentropy(bytes, sizeof bytes) != 0) return 1;
    for (size_t i = 0; i < sizeof bytes; i++) printf("%02x", bytes[i]);
    sleep(3600);
    printf("\n%lld\n", (long long)time(NULL));
    return 0;
}
