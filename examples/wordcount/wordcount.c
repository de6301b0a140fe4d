/* Counts lines, words and bytes of a text, and lists its 20 most frequent words.
 *
 *   build:  make -C examples
 *           python -m ziglang cc -target wasm32-wasi -O2 -s -o wordcount.wasm wordcount.c
 *   run:    meshctl submit examples/wordcount/wordcount.wasm --input FILE
 *
 * The text comes from standard input. A word is a run of ASCII letters and digits and of bytes over
 * 127 (so that words in UTF-8 stay whole); an apostrophe inside a word belongs to it. ASCII letters
 * are folded to lower case. The list is sorted by count, the largest first, then by the word's
 * bytes, so every device prints the same.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOP_COUNT = 20, FIRST_SLOTS = 4096, WORD_BYTES_MAX = 256, READ_BYTES = 65536 };

struct entry {
    char *word; /* NULL marks a free slot */
    uint32_t length;
    uint64_t count;
};

/* An open-addressing hash table; its slot count is a power of two. */
static struct entry *table;
static size_t slot_count, used_count;

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) {
        fputs("wordcount: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* FNV-1a, 64 bits. */
static uint64_t hash(const char *word, size_t length) {
    uint64_t value = 14695981039346656037u;
    for (size_t i = 0; i < length; i++) value = (value ^ (unsigned char)word[i]) * 1099511628211u;
    return value;
}

static struct entry *find_slot(const char *word, size_t length) {
    size_t at = hash(word, length) & (slot_count - 1);
    while (table[at].word != NULL &&
           (table[at].length != length || memcmp(table[at].word, word, length) != 0))
        at = (at + 1) & (slot_count - 1);
    return &table[at];
}

static void grow_table(void) {
    struct entry *old = table;
    size_t old_count = slot_count;
    slot_count = old_count == 0 ? FIRST_SLOTS : 2 * old_count;
    table = allocate(slot_count, sizeof *table);
    for (size_t i = 0; i < old_count; i++)
        if (old[i].word != NULL) *find_slot(old[i].word, old[i].length) = old[i];
    free(old);
}

static void count_word(const char *word, size_t length) {
    if (2 * used_count >= slot_count) grow_table();
    struct entry *slot = find_slot(word, length);
    if (slot->word == NULL) {
        slot->word = allocate(length, 1);
        memcpy(slot->word, word, length);
        slot->length = (uint32_t)length;
        used_count++;
    }
    slot->count++;
}

static int is_word_byte(unsigned char byte) {
    return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte > 127;
}

static int compare(const void *left_pointer, const void *right_pointer) {
    const struct entry *left = left_pointer, *right = right_pointer;
    if (left->count != right->count) return left->count < right->count ? 1 : -1;
    size_t shorter = left->length < right->length ? left->length : right->length;
    int order = memcmp(left->word, right->word, shorter);
    return order != 0 ? order : (int)left->length - (int)right->length;
}

static void print_top(void) {
    size_t packed = 0;
    for (size_t i = 0; i < slot_count; i++)
        if (table[i].word != NULL) table[packed++] = table[i];
    qsort(table, packed, sizeof *table, compare);
    for (size_t i = 0; i < packed && i < TOP_COUNT; i++)
        printf("%8llu %.*s\n", (unsigned long long)table[i].count, (int)table[i].length,
               table[i].word);
}

int main(void) {
    static char text[READ_BYTES];
    char word[WORD_BYTES_MAX]; /* longer words are counted by their first bytes */
    size_t length = 0, size;
    int apostrophe = 0, in_word = 0;
    uint64_t lines = 0, words = 0, bytes = 0;
    grow_table();
    while ((size = fread(text, 1, sizeof text, stdin)) > 0) {
        bytes += size;
        for (size_t i = 0; i < size; i++) {
            unsigned char byte = (unsigned char)text[i];
            if (byte >= 'A' && byte <= 'Z') byte += 'a' - 'A';
            lines += byte == '\n';
            if (is_word_byte(byte)) {
                if (apostrophe && length < sizeof word) word[length++] = '\'';
                if (length < sizeof word) word[length++] = (char)byte;
                apostrophe = 0;
                in_word = 1;
            } else if (byte == '\'' && in_word && !apostrophe) {
                apostrophe = 1; /* counts only if the word goes on after it */
            } else if (in_word) {
                count_word(word, length);
                words++;
                length = 0;
                apostrophe = in_word = 0;
            }
        }
    }
    if (in_word) {
        count_word(word, length);
        words++;
    }
    printf("%llu lines, %llu words (%llu different), %llu bytes\n", (unsigned long long)lines,
           (unsigned long long)words, (unsigned long long)used_count, (unsigned long long)bytes);
    print_top();
    return 0;
}
