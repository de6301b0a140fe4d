/* Draws one horizontal band of a picture of the Mandelbrot set, as raw RGB bytes.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o mandelbrot.wasm mandelbrot.c
 *   run:    meshctl submit examples/mandelbrot/mandelbrot.wasm 1920 1080 0 32 1000 --to band0.rgb
 *
 * Arguments: width height tile_index tile_count max_iterations. Band i of n has the rows from
 * height * i / n up to height * (i + 1) / n, so bands differ by one row at most, and the bands of
 * all tiles, one after another, are the picture. Only basic arithmetic is used, which IEEE 754
 * defines to the last bit: every device draws the same bytes.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The view: a valley of spirals beside the main body. */
static const double CENTER_X = -0.743643887, CENTER_Y = 0.131825904, VIEW_WIDTH = 0.0065;
static const double ESCAPE_RADIUS_SQUARED = 65536.0; /* far out, so that colours flow smoothly */
static const double COLOURS_PER_TURN = 96.0;

/* The palette: night blue, sky, ivory, amber, ember, and around again. */
static const unsigned char STOPS[][3] = {
    {6, 10, 44}, {24, 92, 170}, {236, 246, 240}, {250, 178, 44}, {122, 28, 22}, {14, 6, 24}};
enum { STOP_COUNT = sizeof STOPS / sizeof STOPS[0] };

static unsigned parse(const char *text, const char *what, unsigned minimum, unsigned maximum) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value < minimum || value > maximum) {
        fprintf(stderr, "mandelbrot: %s must be a number from %u to %u, not %s\n", what, minimum,
                maximum, text);
        exit(2);
    }
    return (unsigned)value;
}

/* log2 of a positive number, in plain arithmetic: a library's may differ in the last bit. */
static double log2_of(double value) {
    union { double number; uint64_t bits; } raw = {value};
    double exponent = (double)(int)((raw.bits >> 52) & 0x7ff) - 1023.0;
    raw.bits = (raw.bits & 0xfffffffffffffu) | 0x3ff0000000000000u; /* now 1 <= number < 2 */
    double t = (raw.number - 1.0) / (raw.number + 1.0), t2 = t * t;
    double series = t * (2.0 + t2 * (2.0 / 3 + t2 * (2.0 / 5 + t2 * (2.0 / 7 + t2 * (2.0 / 9)))));
    return exponent + series * 1.4426950408889634;
}

static int is_inside(double x, double y) {
    double q = (x - 0.25) * (x - 0.25) + y * y; /* the main cardioid and the disc beside it */
    return q * (q + (x - 0.25)) <= 0.25 * y * y || (x + 1) * (x + 1) + y * y <= 0.0625;
}

/* Returns how fast a point escapes, smoothed between whole iterations, or -1 if it does not. */
static double escape_time(double x, double y, unsigned max_iterations) {
    if (is_inside(x, y)) return -1;
    double zx = 0, zy = 0, zx2 = 0, zy2 = 0, old_x = 0, old_y = 0;
    unsigned next_check = 8;
    for (unsigned i = 0; i < max_iterations; i++) {
        zy = 2 * zx * zy + y;
        zx = zx2 - zy2 + x;
        zx2 = zx * zx;
        zy2 = zy * zy;
        if (zx2 + zy2 > ESCAPE_RADIUS_SQUARED)
            return (double)i + 1 - log2_of(0.5 * log2_of(zx2 + zy2));
        if (zx == old_x && zy == old_y) return -1; /* it goes around: it never leaves */
        if (i == next_check) {
            old_x = zx;
            old_y = zy;
            next_check *= 2;
        }
    }
    return -1;
}

static void add_colour(double time, double sum[3]) {
    if (time < 0) return; /* inside: black */
    double turn = time > 0 ? time / COLOURS_PER_TURN : 0;
    double at = (turn - (double)(uint64_t)turn) * STOP_COUNT;
    unsigned from = (unsigned)at % STOP_COUNT, to = (from + 1) % STOP_COUNT;
    double mix = at - (double)(unsigned)at;
    mix = mix * mix * (3 - 2 * mix);
    for (int i = 0; i < 3; i++) sum[i] += STOPS[from][i] + (STOPS[to][i] - STOPS[from][i]) * mix;
}

static void draw_row(unsigned row, unsigned width, unsigned height, unsigned max_iterations,
                     unsigned char *pixels) {
    double step = VIEW_WIDTH / width;
    double y = CENTER_Y + ((double)height / 2 - row - 0.5) * step;
    for (unsigned column = 0; column < width; column++) {
        double x = CENTER_X + (column + 0.5 - (double)width / 2) * step;
        double sum[3] = {0, 0, 0};
        add_colour(escape_time(x, y, max_iterations), sum);
        for (int i = 0; i < 3; i++) pixels[3 * column + i] = (unsigned char)(sum[i] + 0.5);
    }
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fputs("mandelbrot: give width height tile_index tile_count max_iterations\n", stderr);
        return 2;
    }
    unsigned width = parse(argv[1], "width", 1, 16384);
    unsigned height = parse(argv[2], "height", 1, 16384);
    unsigned tile_count = parse(argv[4], "tile_count", 1, height);
    unsigned tile = parse(argv[3], "tile_index", 0, tile_count - 1);
    unsigned max_iterations = parse(argv[5], "max_iterations", 1, 1000000);
    unsigned char *pixels = malloc(3 * (size_t)width);
    if (pixels == NULL) {
        fputs("mandelbrot: out of memory\n", stderr);
        return 1;
    }
    unsigned first = (unsigned)((uint64_t)height * tile / tile_count);
    unsigned end = (unsigned)((uint64_t)height * (tile + 1) / tile_count);
    for (unsigned row = first; row < end; row++) {
        draw_row(row, width, height, max_iterations, pixels);
        if (fwrite(pixels, 3, width, stdout) != width) return 1;
    }
    return 0;
}
