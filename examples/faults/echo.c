/* Copies standard input to standard output; lists its arguments and environment before it.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o echo.wasm echo.c
 *   run:    meshctl submit examples/faults/echo.wasm one two --env K=V --input FILE
 */
#include <stdio.h>

extern char **environ;

int main(int argc, char **argv) {
    static char piece[65536];
    for (int i = 0; i < argc; i++) printf("argument %d: %s\n", i, argv[i]);
    for (char **variable = environ; variable != NULL && *variable != NULL; variable++)
        printf("environment: %s\n", *variable);
    for (size_t size; (size = fread(piece, 1, sizeof piece, stdin)) > 0;)
        fwrite(piece, 1, size, stdout);
    return 0;
}
