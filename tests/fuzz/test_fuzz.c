/* SPDX-License-Identifier: MIT
 *
 * Runs the fuzz targets: see fuzz.h.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "src/base/rng.h"
#include "src/base/utf8.h"
#include "tests/fuzz/fuzz.h"

enum {
    MAX_SEED = 64,
    ROOM = 1 << 17, /* of the suite */
    GUARD = 4096,
    CONTROL_ROUNDS = 400,
};

#define CORPUS "tests/vectors/fuzz"

static struct seed {
    uint8_t *data;
    size_t n;
} seed[MAX_SEED];
static size_t n_seed;

bool fuzz_planted;
#ifndef FG_FUZZER
static size_t n_found; /* failures while a fault is planted */
#endif

/* ---- what targets call ---- */

void fuzz_failed(const char *file, int line, const char *what)
{
#ifdef FG_FUZZER
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    abort();
#else
    n_found++;
    if (!fuzz_planted) fg_test_fail(file, line, "%s", what);
#endif
}

void fuzz_check_status(fg_status st, fg_err *err)
{
    char again[sizeof err->msg];
    memcpy(again, err->msg, sizeof again);
    fg_utf8_clean(again);
    if (st != FG_OK) {
        FUZZ_CHECK(err->code == st && err->msg[0] != '\0');
        FUZZ_CHECK(strcmp(again, err->msg) == 0);
        FUZZ_CHECK(st == FG_ENOMEM || strstr(err->msg, "expected") != NULL ||
                   strlen(err->msg) > sizeof err->msg - 8);
    }
    *err = (fg_err){0};
}

const char *fuzz_put(const char *name, const void *bytes, size_t n)
{
    const char *path = fg_test_tmp(name);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) abort();
    return path;
}

uint64_t fuzz_get_le(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

void fuzz_put_le(uint8_t *p, unsigned bytes, uint64_t v)
{
    for (unsigned i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> (8 * i));
}

uint64_t fuzz_take(const uint8_t **d, size_t *n, unsigned bytes)
{
    const unsigned have = *n < bytes ? (unsigned)*n : bytes;
    const uint64_t v = fuzz_get_le(*d, have);
    *d += have;
    *n -= have;
    return v;
}

/* ---- seeds ---- */

void fuzz_seed(const void *bytes, size_t n)
{
    if (n_seed == MAX_SEED) abort();
    uint8_t *copy = malloc(n + 1);
    if (copy == NULL) abort();
    memcpy(copy, bytes, n);
    seed[n_seed++] = (struct seed){copy, n};
}

void fuzz_seed_text(const char *text)
{
    fuzz_seed(text, strlen(text));
}

uint8_t *fuzz_read(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0) abort();
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = malloc(*n + 1);
    if (data == NULL || fread(data, 1, *n, f) != *n) abort();
    (void)fclose(f);
    return data;
}

void fuzz_seed_file(const char *path)
{
    size_t n;
    uint8_t *data = fuzz_read(path, &n);
    fuzz_seed(data, n);
    free(data);
}

static void collect(const fuzz_target *t)
{
    while (n_seed > 0) free(seed[--n_seed].data);
    t->seeds();
    DIR *dir = opendir(CORPUS);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        const size_t n = strlen(t->name);
        char path[512];
        if (strncmp(e->d_name, t->name, n) != 0 || e->d_name[n] != '-') continue;
        (void)snprintf(path, sizeof path, CORPUS "/%s", e->d_name);
        fuzz_seed_file(path);
    }
    if (dir != NULL) (void)closedir(dir);
}

/* ---- running ---- */

/* The input stands right before a page that cannot be read, which finds what a sanitizer does not
 * see: libraries that were built without one. */
static void run_one(const fuzz_target *t, const uint8_t *data, size_t n)
{
    static uint8_t *room;
    if (room == NULL) {
        room = mmap(NULL, ROOM + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED || mprotect(room + ROOM, GUARD, PROT_NONE) != 0) abort();
    }
    if (n > ROOM) n = ROOM;
    uint8_t *at = room + ROOM - n;
    memcpy(at, data, n);
    t->one(at, n);
}

#ifdef FG_FUZZER

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* With FG_FUZZ_SEEDS=DIR the seeds are written there. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    const char *dir = getenv("FG_FUZZ_SEEDS");
    collect(fuzz_the_target);
    for (size_t i = 0; dir != NULL && i < n_seed; i++) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s/seed%zu", dir, i);
        FILE *f = fopen(path, "wb");
        if (f == NULL || fwrite(seed[i].data, 1, seed[i].n, f) != seed[i].n) abort();
        (void)fclose(f);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    run_one(fuzz_the_target, data, n);
    return 0;
}

#else

static size_t below(fg_rng *r, size_t n)
{
    return n == 0 ? 0 : (size_t)(fg_rng_u64(r) % n);
}

/* One small change to text[*n], which has room for ROOM. */
static void change(uint8_t *text, size_t *n, fg_rng *r)
{
    static const char *const words[] = {
        "null",       "-1",           "1e308", "18446744073709551615",
        "4294967296", "[]",           "{}",    "\"\"",
        "\\u0000",    "\\ud800",      "../",   "\xff",
        "\n",         "\xe2\x80\xae", "\x1b["};
    const size_t at = below(r, *n), len = 1 + below(r, *n - at < 16 ? *n - at : 16);
    const struct seed *other = &seed[below(r, n_seed)];
    if (*n == 0) *n = 1;
    switch (fg_rng_u64(r) % 8) {
    case 0: text[at] = (uint8_t)fg_rng_u64(r); break;
    case 1: text[at] ^= (uint8_t)(1u << fg_rng_u64(r) % 8); break;
    case 2: *n = at + 1; break;
    case 3: /* a stretch is lost */
        if (at + len >= *n) break;
        memmove(text + at, text + at + len, *n - at - len);
        *n -= len;
        break;
    case 4: /* a stretch comes twice */
        if (at + len > *n || *n + len > ROOM) break;
        memmove(text + at + len, text + at, *n - at);
        *n += len;
        break;
    case 5: { /* a word in place of what is there */
        const char *w = words[below(r, sizeof words / sizeof words[0])];
        const size_t m = strlen(w);
        if (at + m <= *n) memcpy(text + at, w, m);
        break;
    }
    case 6: { /* a stretch of another seed */
        const size_t from = below(r, other->n), left = other->n - from;
        const size_t m = left < *n - at ? left : *n - at;
        memcpy(text + at, other->data + from, m < 64 ? m : 64);
        break;
    }
    default: /* a number grows or shrinks */
        text[at] = (uint8_t)(text[at] + (fg_rng_u64(r) % 2 == 0 ? 1 : -1));
    }
}

static void run_mutant(const fuzz_target *t, fg_rng *r)
{
    static uint8_t text[ROOM];
    const struct seed *s = &seed[below(r, n_seed)];
    size_t n = s->n < ROOM ? s->n : ROOM;
    memcpy(text, s->data, n);
    for (uint64_t k = 1 + fg_rng_u64(r) % 4; k > 0; k--) change(text, &n, r);
    run_one(t, text, n);
}

void fuzz_replay(const fuzz_target *t)
{
    fg_rng r;
    collect(t);
    REQUIRE(n_seed > 0);
    fuzz_planted = false;
    for (size_t i = 0; i < n_seed && !fg_test_failed(); i++) {
        run_one(t, seed[i].data, seed[i].n);
        if (fg_test_failed()) printf("  seed %zu of %s\n", i, t->name);
    }
    fg_rng_init(&r, 1);
    const unsigned rounds = fg_test_long() ? 20 * t->rounds
                            : FG_TEST_SANITIZED ? t->rounds / 4
                                                : t->rounds;
    for (unsigned i = 0; i < rounds && !fg_test_failed(); i++) {
        run_mutant(t, &r);
        if (fg_test_failed()) printf("  mutation %u of %s\n", i, t->name);
    }
    fuzz_planted = true; /* control: a fault that is there is found */
    n_found = 0;
    for (size_t i = 0; i < n_seed && n_found == 0; i++) run_one(t, seed[i].data, seed[i].n);
    for (unsigned i = 0; i < CONTROL_ROUNDS && n_found == 0; i++) run_mutant(t, &r);
    fuzz_planted = false;
    CHECK(n_found > 0);
}

#endif
