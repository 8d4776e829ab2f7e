/* SPDX-License-Identifier: MIT
 *
 * The tokenizer against ids recorded from the reference (scripts/make_text_vectors.py), its own
 * invariants, and bad input.  Tests with the release's tokenizer need ../shared.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/text/bpe.h"
#include "src/text/stream.h"
#include "src/text/tokenizer.h"
#include "src/base/utf8.h"
#include "tests/fg_test.h"

#define VECTORS "tests/vectors/text/"

static const char *nano_path(void)
{
    const char *path = "tests/models/m1-nano/tokenizer.json";
    return fg_io_exists(path) ? path : fg_test_shared("models/m1-nano/tokenizer.json");
}

/* A file, or nothing and the test fails. */
static bool read_file(const char *path, char **text, size_t *n)
{
    fg_err err = {0};
    if (fg_io_read_all(path, 1u << 30, text, n, &err) == FG_OK) return true;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return false;
}

static fg_tokenizer *open_tokenizer(const char *path)
{
    char *json;
    size_t n;
    fg_tokenizer *t = NULL;
    fg_err err = {0};
    if (path == NULL || !read_file(path, &json, &n)) return NULL;
    if (fg_tokenizer_create(&t, json, n, path, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    fg_mem_free(json);
    return t;
}

static fg_tokenizer *open_nano(void)
{
    return open_tokenizer(nano_path());
}

static fg_tokenizer *open_release(void)
{
    return open_tokenizer(fg_test_shared("m1-release/tokenizer.json"));
}

/* The release's where it is there. */
static fg_tokenizer *open_larger(void)
{
    return fg_test_beside("m1-release/tokenizer.json") == NULL ? open_nano() : open_release();
}

static bool encode(const fg_tokenizer *t, const char *text, size_t n, bool special, fg_ids *ids)
{
    fg_err err = {0};
    ids->len = 0;
    if (fg_tokenizer_encode(t, NULL, text, n, special, ids, &err) == FG_OK) return true;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return false;
}

static bool decode(const fg_tokenizer *t, const fg_ids *ids, fg_buf *out)
{
    fg_err err = {0};
    out->len = 0;
    if (fg_tokenizer_decode(t, ids->data, ids->len, false, out, &err) == FG_OK) return true;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return false;
}

/* Position of the first difference, or SIZE_MAX when equal. */
static size_t difference(const uint32_t *a, size_t n_a, const uint32_t *b, size_t n_b)
{
    for (size_t i = 0; i < n_a && i < n_b; i++) {
        if (a[i] != b[i]) return i;
    }
    return n_a == n_b ? SIZE_MAX : n_a < n_b ? n_a : n_b;
}

static void check_same(const char *what, const fg_ids *got, const uint32_t *want, size_t n)
{
    const size_t at = difference(got->data, got->len, want, n);
    if (at == SIZE_MAX) return;
    fg_test_fail(__FILE__, __LINE__, "%s: id %zu of %zu is %ld, expected %ld of %zu", what, at,
                 got->len, at < got->len ? (long)got->data[at] : -1L, at < n ? (long)want[at] : -1L,
                 n);
}

/* ---- recorded ids --------------------------------------------------------------------------- */

static const struct vector {
    const char *text;
    uint32_t id[48];
    size_t n;
} vectors[] = {
    {"Hello, world!", {19739, 44, 2035, 33}, 4},
    {"1234567890", {10010, 26551, 39490, 48}, 4},
    {"I'm DON'T they'll", {11928, 197932, 42003}, 3},
    {"  leading and   multiple   spaces ", {32, 7440, 306, 256, 5537, 256, 14525, 32}, 8},
    {"tab\there\r\nnewline\n\n", {2434, 9, 11475, 2535, 106474, 367}, 6},
    {"你好，世界", {56658, 69511}, 2},
    {"Привет мир", {45775, 31016, 158440}, 3},
    {"e\xcc\x81 vs \xc3\xa9", {337, 9603, 886}, 3},
    {"def f(x):\n    return x**2\n", {2601, 284, 4704, 3345, 326, 1126, 1905, 705, 50, 10}, 10},
    {"👩‍👩‍👧 emoji", {44026, 169, 61587, 44026, 169, 61587, 44026, 167, 113958}, 9},
    {"The quick brown fox jumps over the lazy dog.",
     {758, 4729, 15801, 62222, 58841, 1049, 275, 34810, 6787, 46},
     10},
    {"<begin_of_document><beginning_of_sentence>system ai_setting=assistant\nYou are a helpful "
     "assistant.<end_of_sentence>\n<beginning_of_sentence>user name=user\nHello, what is the "
     "weather today?<end_of_sentence>\n<beginning_of_sentence>ai name=assistant\n",
     {200034, 200019, 28463, 28609, 100932, 61,     153156, 10,   2985, 457,
      258,    12473,  23413, 46,    200020, 10,     200019, 3995, 1925, 133646,
      10,     19739,  44,    1094,  355,    275,    12562,  4380, 63,   200020,
      10,     200019, 1361,  1925,  61,     153156, 10},
     37},
};

static void check_release_vectors(void)
{
    fg_tokenizer *t = open_release();
    if (t == NULL) return;
    CHECK_U64(fg_tokenizer_n_id(t), 200036);
    CHECK_U64(fg_tokenizer_n_token(t), 200036);
    CHECK(fg_tokenizer_has(t, 200035) && !fg_tokenizer_has(t, 200036));
    fg_ids ids = {0};
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        if (!encode(t, vectors[i].text, strlen(vectors[i].text), true, &ids)) break;
        check_same(vectors[i].text, &ids, vectors[i].id, vectors[i].n);
    }
    fg_ids_fini(&ids);
    fg_tokenizer_destroy(&t);
}

static void check_recorded(fg_tokenizer *t, const char *path, size_t width)
{
    char *text = NULL, *raw = NULL;
    size_t n, n_raw;
    fg_ids ids = {0};
    if (t != NULL && read_file(VECTORS "mixed.txt", &text, &n) && read_file(path, &raw, &n_raw) &&
        encode(t, text, n, true, &ids)) {
        const size_t n_want = n_raw / width;
        uint32_t *want = fg_mem_zalloc_array(n_want, sizeof *want);
        for (size_t i = 0; i < n_raw; i++) {
            want[i / width] |= (uint32_t)(uint8_t)raw[i] << (8 * (i % width));
        }
        check_same(path, &ids, want, n_want);
        CHECK(n_want > 10000);
        want[n_want / 2]++; /* negative control: the comparison sees one wrong id */
        CHECK_U64(difference(ids.data, ids.len, want, n_want), n_want / 2);
        fg_mem_free(want);
    }
    fg_ids_fini(&ids);
    fg_mem_free(text);
    fg_mem_free(raw);
    fg_tokenizer_destroy(&t);
}

FG_TEST(release_equals_the_reference)
{
    check_release_vectors();
    check_recorded(open_release(), VECTORS "mixed.release.u32", 4);
}

FG_TEST(nano_equals_the_reference_on_mixed_text)
{
    check_recorded(open_nano(), VECTORS "mixed.nano.u16", 2);
}

static void check_json_ids(const char *name, const char *text, const fg_ids *got,
                           const fg_json *want)
{
    fg_ids ids = {0};
    for (const fg_json *c = fg_json_first(want); c != NULL; c = fg_json_next(c)) {
        uint64_t id = 0;
        CHECK(fg_json_u64(c, &id) && fg_ids_push(&ids, (uint32_t)id));
    }
    const size_t at = difference(got->data, got->len, ids.data, ids.len);
    if (at != SIZE_MAX) {
        fg_test_fail(__FILE__, __LINE__, "%s: \"%s\" differs from id %zu on", name, text, at);
    }
    fg_ids_fini(&ids);
}

FG_TEST(every_supported_kind_equals_the_reference)
{
    fg_json *root;
    fg_err err = {0};
    REQUIRE_OK(fg_json_parse_file(&root, VECTORS "variants.json", 1 << 24, &err), &err);
    size_t n_case = 0;
    fg_ids ids = {0};
    for (const fg_json *v = fg_json_first(root); v != NULL; v = fg_json_next(v)) {
        const char *name = NULL;
        CHECK(fg_json_str(fg_json_get(v, "name"), &name));
        fg_buf json = {0};
        fg_json_put_node(&json, fg_json_get(v, "tokenizer"));
        fg_tokenizer *t;
        if (fg_tokenizer_create(&t, (const char *)json.data, json.len, name, &err) != FG_OK) {
            fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        } else {
            for (const fg_json *c = fg_json_first(fg_json_get(v, "cases")); c != NULL;
                 c = fg_json_next(c)) {
                const fg_json *text = fg_json_first(c), *parsed = fg_json_next(text);
                const char *s = NULL;
                CHECK(fg_json_str(text, &s));
                if (encode(t, s, strlen(s), true, &ids)) check_json_ids(name, s, &ids, parsed);
                if (encode(t, s, strlen(s), false, &ids)) {
                    check_json_ids(name, s, &ids, fg_json_next(parsed));
                }
                n_case++;
            }
            fg_tokenizer_destroy(&t);
        }
        fg_buf_fini(&json);
    }
    CHECK(n_case >= 600);
    fg_ids_fini(&ids);
    fg_json_free(root);
}

/* Two megabytes against the Python package itself, where it is installed. */
FG_TEST(release_equals_the_live_reference_on_two_megabytes)
{
    const char *python = getenv("FULGUR_PYTHON");
    if (python == NULL) python = "python3";
    char cmd[1024];
    (void)snprintf(cmd, sizeof cmd, "%s -c 'import tokenizers' >/dev/null 2>&1", python);
    if (system(cmd) != 0) {
        fg_test_skip("%s has no package tokenizers (FULGUR_PYTHON names another)", python);
        return;
    }
    const char *json = fg_test_shared("m1-release/tokenizer.json");
    if (json == NULL) return;
    const char *text_path = fg_test_tmp("big.txt"), *ids_path = fg_test_tmp("big.ids");
    (void)snprintf(cmd, sizeof cmd,
                   "%s scripts/make_text_vectors.py stream %s %s %s --seed 11 >/dev/null", python,
                   json, text_path, ids_path);
    REQUIRE(system(cmd) == 0);
    fg_tokenizer *t = open_release();
    char *text = NULL, *want = NULL;
    size_t n, n_want;
    fg_ids ids = {0};
    if (t != NULL && read_file(text_path, &text, &n) && read_file(ids_path, &want, &n_want) &&
        encode(t, text, n, true, &ids)) {
        CHECK(n >= 2000000);
        check_same("2 MB", &ids, (const uint32_t *)(const void *)want, n_want / 4);
    }
    fg_ids_fini(&ids);
    fg_mem_free(text);
    fg_mem_free(want);
    fg_tokenizer_destroy(&t);
}

/* ---- invariants ----------------------------------------------------------------------------- */

/* Nano has no normalizer: decoding gives the text back, with U+FFFD for what was not UTF-8. */
FG_TEST(decode_inverts_encode)
{
    fg_tokenizer *t = open_nano();
    char *text = NULL;
    size_t n;
    fg_ids ids = {0};
    fg_buf want = {0}, got = {0};
    if (t == NULL || !read_file(VECTORS "mixed.txt", &text, &n)) return;
    fg_utf8_repair(&want, (const uint8_t *)text, n);
    for (int special = 0; special < 2; special++) {
        if (!encode(t, text, n, special != 0, &ids) || !decode(t, &ids, &got)) break;
        CHECK(got.len == want.len && memcmp(got.data, want.data, got.len) == 0);
        size_t n_special = 0;
        for (size_t i = 0; i < ids.len; i++) n_special += fg_tokenizer_is_special(t, ids.data[i]);
        CHECK(special != 0 ? n_special > 20 : n_special == 0);
    }
    const uint32_t unknown = 5000;
    fg_err err = {0};
    CHECK(fg_tokenizer_decode(t, &unknown, 1, false, &got, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "id 5000") != NULL);
    fg_buf_fini(&want);
    fg_buf_fini(&got);
    fg_ids_fini(&ids);
    fg_mem_free(text);
    fg_tokenizer_destroy(&t);
}

/* With NFC: once normalized, text survives unchanged, and keeps its ids. */
FG_TEST(normalized_text_is_a_fixed_point)
{
    fg_tokenizer *t = open_larger();
    char *text = NULL;
    size_t n;
    fg_ids once = {0}, twice = {0};
    fg_buf a = {0}, b = {0};
    if (t == NULL || !read_file(VECTORS "mixed.txt", &text, &n)) return;
    if (encode(t, text, n, true, &once) && decode(t, &once, &a) &&
        encode(t, (const char *)a.data, a.len, true, &twice) && decode(t, &twice, &b)) {
        /* A gap that begins with a mark stays apart from the token before it, so that the second
         * run sees the same gaps. */
        check_same("second run", &twice, once.data, once.len);
        CHECK(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
    }
    fg_buf_fini(&a);
    fg_buf_fini(&b);
    fg_ids_fini(&once);
    fg_ids_fini(&twice);
    fg_mem_free(text);
    fg_tokenizer_destroy(&t);
}

typedef struct job {
    const fg_tokenizer *t;
    const char *text;
    size_t n;
    fg_ids ids;
    fg_status st;
} job;

static void *encode_twice(void *p)
{
    job *j = p;
    fg_tok_state *s;
    j->st = fg_tok_state_create(&s, j->t, NULL);
    for (int i = 0; i < 2 && j->st == FG_OK; i++) { /* cold, then warm cache */
        j->ids.len = 0;
        j->st = fg_tokenizer_encode(j->t, s, j->text, j->n, true, &j->ids, NULL);
    }
    fg_tok_state_destroy(&s);
    return NULL;
}

FG_TEST(threads_and_caches_change_nothing)
{
    fg_tokenizer *t = open_nano();
    char *text = NULL;
    size_t n;
    fg_ids want = {0};
    if (t == NULL || !read_file(VECTORS "mixed.txt", &text, &n)) return;
    if (encode(t, text, n, true, &want)) {
        job jobs[4];
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) {
            jobs[i] = (job){.t = t, .text = text, .n = n};
            CHECK(pthread_create(&threads[i], NULL, encode_twice, &jobs[i]) == 0);
        }
        for (int i = 0; i < 4; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
            CHECK(jobs[i].st == FG_OK);
            check_same("thread", &jobs[i].ids, want.data, want.len);
            fg_ids_fini(&jobs[i].ids);
        }
    }
    fg_ids_fini(&want);
    fg_mem_free(text);
    fg_tokenizer_destroy(&t);
}

/* Megabytes of one class: quadratic time would take hours, a match limit would be an error. */
FG_TEST(long_runs_take_linear_time)
{
    static const char *const units[] = {"a",
                                        "A",
                                        " ",
                                        "\n",
                                        "1",
                                        "-",
                                        "\xe4\xbd\xa0",
                                        "\xcc\x81",
                                        "a\xcc\x81\xcc\xa3",
                                        "\xe1\x84\x80\xe1\x85\xa1"};
    fg_tokenizer *t = open_larger();
    if (t == NULL) return;
    fg_ids ids = {0};
    fg_buf text = {0}, back = {0};
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        text.len = 0;
        const size_t n = u < 3 ? 5000000 : 1000000;
        while (text.len < n) fg_buf_put_str(&text, units[u]);
        if (u == 7) fg_buf_put_str(&text, "\xcc\xa3\xcc\x81"); /* marks out of order */
        if (!encode(t, (const char *)text.data, text.len, true, &ids)) break;
        if (!decode(t, &ids, &back)) break;
        if (u < 7) CHECK(back.len == text.len && memcmp(back.data, text.data, back.len) == 0);
    }
    fg_buf_fini(&text);
    fg_buf_fini(&back);
    fg_ids_fini(&ids);
    fg_tokenizer_destroy(&t);
}

/* Random merges over three letters; the plain definition, on a list, as the other side. */
static size_t merge_plainly(const fg_merge *merge, const uint32_t *result, uint32_t n_merge,
                            uint32_t *id, size_t n)
{
    for (;;) {
        uint32_t best = n_merge;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            for (uint32_t k = 0; k < best; k++) {
                if (merge[k].left == id[i] && merge[k].right == id[i + 1]) {
                    best = k;
                    at = i;
                }
            }
        }
        if (best == n_merge) return n;
        id[at] = result[best];
        n--;
        for (size_t i = at + 1; i < n; i++) id[i] = id[i + 1];
    }
}

FG_TEST(short_and_long_words_merge_by_the_definition)
{
    enum { N_MERGE = 60, MAX_WORD = 300 };
    fg_rng r;
    fg_rng_init(&r, 3);
    fg_bpe_state *s;
    REQUIRE(fg_bpe_state_create(&s));
    fg_ids ids = {0};
    for (int round = 0; round < 30; round++) {
        fg_bpe b = {0};
        fg_merge merge[N_MERGE];
        uint32_t result[N_MERGE], n_merge = 0;
        CHECK(fg_bpe_init(&b, N_MERGE));
        for (uint32_t i = 0; i < 256; i++) b.byte_id[i] = i;
        while (n_merge < N_MERGE) {
            const uint64_t x = fg_rng_u64(&r) % (3 + n_merge), y = fg_rng_u64(&r) % (3 + n_merge);
            const fg_merge m = {(uint32_t)(x < 3 ? 'a' + x : 253 + x),
                                (uint32_t)(y < 3 ? 'a' + y : 253 + y), n_merge};
            bool known = false;
            for (uint32_t k = 0; k < n_merge; k++) {
                known = known || (merge[k].left == m.left && merge[k].right == m.right);
            }
            if (known) continue;
            merge[n_merge] = m;
            result[n_merge] = 256 + n_merge;
            fg_bpe_add(&b, n_merge, m.left, m.right, result[n_merge]);
            n_merge++;
        }
        for (size_t n = 1; n <= MAX_WORD; n += 1 + n / 16) {
            uint8_t word[MAX_WORD];
            uint32_t want[MAX_WORD];
            for (size_t i = 0; i < n; i++) {
                want[i] = word[i] = (uint8_t)('a' + fg_rng_u64(&r) % 3);
            }
            const size_t n_want = merge_plainly(merge, result, N_MERGE, want, n);
            ids.len = 0;
            CHECK(fg_bpe_word(&b, s, word, n, &ids, NULL) == FG_OK);
            check_same("merged word", &ids, want, n_want);
        }
        fg_bpe_fini(&b);
        fg_bpe_state_destroy(&s); /* its cache belongs to these merges */
        REQUIRE(fg_bpe_state_create(&s));
    }
    fg_ids_fini(&ids);
    fg_bpe_state_destroy(&s);
}

/* ---- streaming ------------------------------------------------------------------------------ */

FG_TEST(streamed_text_is_whole_characters)
{
    fg_tokenizer *t = open_nano();
    if (t == NULL) return;
    fg_rng r;
    fg_rng_init(&r, 5);
    fg_buf raw = {0}, want = {0}, got = {0};
    size_t n_held = 0;
    for (int round = 0; round < 300; round++) {
        fg_detok d;
        fg_detok_init(&d, t, round % 2 == 0 ? FG_DETOK_PRINT : FG_DETOK_SKIP);
        raw.len = want.len = got.len = 0;
        for (int i = 0; i < 60; i++) {
            /* half of them single bytes, so that sequences begin, go on and break off */
            uint32_t id = (uint32_t)(fg_rng_u64(&r) % 4096);
            if (fg_rng_u64(&r) % 2 == 0) id %= 256;
            CHECK(fg_tokenizer_decode(t, &id, 1, round % 2 != 0, &raw, NULL) == FG_OK);
            const size_t before = got.len;
            fg_detok_feed(&d, id, &got);
            CHECK(fg_utf8_valid(got.data + before, got.len - before) == got.len - before);
            CHECK(d.n_held <= 3);
            n_held += d.n_held > 0;
        }
        fg_detok_flush(&d, &got);
        fg_utf8_repair(&want, raw.data, raw.len);
        CHECK(got.len == want.len && memcmp(got.data, want.data, got.len) == 0);
    }
    CHECK(n_held > 100); /* the case was met */
    fg_buf_fini(&raw);
    fg_buf_fini(&want);
    fg_buf_fini(&got);
    fg_tokenizer_destroy(&t);
}

FG_TEST(special_tokens_are_printed_by_choice)
{
    static const char *const want[] = {"a", "<think>a", "<think>a<end_of_sentence>"};
    fg_tokenizer *t = open_nano();
    if (t == NULL) return;
    fg_ids ids = {0};
    fg_buf out = {0};
    if (encode(t, "<think>a<end_of_sentence>", 25, true, &ids)) {
        CHECK_U64(ids.len, 3);
        for (int i = 0; i < 3; i++) {
            fg_detok d;
            fg_detok_init(&d, t, (fg_detok_special)i);
            out.len = 0;
            for (size_t k = 0; k < ids.len; k++) fg_detok_feed(&d, ids.data[k], &out);
            CHECK_STR(fg_buf_str(&out), want[i]);
        }
    }
    fg_buf_fini(&out);
    fg_ids_fini(&ids);
    fg_tokenizer_destroy(&t);
}

FG_TEST(repair_replaces_maximal_subparts)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xe4\xbd", "\xef\xbf\xbd"},                             /* cut: one */
        {"\xe4\xbd\xe4\xbd\xa0", "\xef\xbf\xbd\xe4\xbd\xa0"},     /* broken off: one */
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* surrogate: three */
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong */
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
    };
    fg_buf out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        out.len = 0;
        fg_utf8_repair(&out, (const uint8_t *)cases[i].text, strlen(cases[i].text));
        CHECK_STR(fg_buf_str(&out), cases[i].want);
    }
    fg_buf_fini(&out);
}

FG_TEST(lookups)
{
    fg_tokenizer *t = open_nano();
    if (t == NULL) return;
    uint32_t id = 0;
    CHECK(fg_tokenizer_find_added(t, "<think>", &id) && id == 4092);
    CHECK(!fg_tokenizer_find_added(t, "the", &id));
    CHECK(fg_tokenizer_is_special(t, 4092) && !fg_tokenizer_is_special(t, 0));
    CHECK(!fg_tokenizer_has(t, 4096) && !fg_tokenizer_has(t, UINT32_MAX));
    size_t begin = 0, len = 0;
    CHECK(fg_tokenizer_find_special(t, "a <thin</think>", 15, &id, &begin, &len));
    CHECK(id == 4093 && begin == 7 && len == 8);
    CHECK(!fg_tokenizer_find_special(t, "a <thin", 7, &id, &begin, &len));
    uint64_t mask[65];
    fg_tokenizer_mask(t, mask, 4100);
    CHECK_U64(mask[0], UINT64_MAX);
    CHECK_U64(mask[63], UINT64_MAX);
    CHECK_U64(mask[64], 0);
    fg_tokenizer_destroy(&t);
}
