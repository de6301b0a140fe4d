/* Exits with the code it is given: 0 to 99 become the exit code of `meshctl submit`.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o exit_code.wasm exit_code.c
 *   run:    meshctl submit examples/faults/exit_code.wasm 7
 */
#include <stdlib.h>

int main(int argc, char **argv) { return argc > 1 ? atoi(argv[1]) : 0; }
