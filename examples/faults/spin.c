/* Computes for ever: ends when its fuel is spent, or its time over.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o spin.wasm spin.c
 *   run:    meshctl submit examples/faults/spin.wasm --fuel 100000000      (exit code 105)
 *           meshctl submit examples/faults/spin.wasm --timeout 1s --fuel 1000000000000     (107)
 */
int main(void) {
    volatile unsigned turns = 0;
    for (;;) turns++;
}
