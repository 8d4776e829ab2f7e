/* SPDX-License-Identifier: MIT
 *
 * The same file and tokens give the same logits, bit for bit: for any thread count, CPU level,
 * number of NUMA nodes, batch size and split of the prompt.  One golden hash of the nano q4 file's
 * logits is asserted for every level, so that a silent change of the numerics is seen, and so that
 * other machines can be compared with this one.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/rng.h"
#include "src/format/reader.h"
#include "src/sys/cpu.h"
#include "src/sys/topo.h"
#include "tests/fg_test.h"
#include "tests/golden.h"
#include "tests/models.h"
#include "src/engine/session.h"

/* XXH3-64 of the logits of `prompt` (300 ids) on nano.  Changes only when the numerics, the
 * quantizer or the recipe change on purpose; say so in the commit. */
static const uint64_t golden_q4 = 0xe3200b7576863a8b;
/* The same a token, to say where a difference is; FULGUR_TEST_GOLDEN=1 writes it anew. */
static const char golden_tokens[] = "tests/vectors/nano/golden_q4.txt";

enum { MOST_TOK = 2000, GOLDEN_TOK = 300 };
static uint64_t latest[MOST_TOK],
    kept[MOST_TOK]; /* a token: of the last run, of one to compare with */
static size_t n_latest;

/* This machine has the level. */
static bool has_level(uint32_t level)
{
    uint32_t flags;
    return fg_cpu_level_flags((fg_cpu_level)level, &flags, NULL) == FG_OK;
}

static void prompt(uint32_t *ids, size_t n, uint32_t n_vocab)
{
    fg_rng r;
    fg_rng_init(&r, 7);
    for (size_t i = 0; i < n; i++) ids[i] = (uint32_t)(fg_rng_u64(&r) % n_vocab);
}

/* Hash of all logits; step: tokens a call (0: all at once).  Closes the engine. */
static uint64_t hash_of(fg_engine *e, uint32_t n_batch, size_t step, size_t n, fg_kv_choice kv)
{
    fg_session *s = e == NULL ? NULL : model_session_kv(e, n, n_batch, kv);
    if (s == NULL) return 0;
    const size_t n_vocab = fg_engine_shape(e)->n_vocab;
    uint32_t *ids = malloc(n * sizeof *ids);
    prompt(ids, n, (uint32_t)n_vocab);
    float *logits = model_logits(s, e, ids, n, step);
    const uint64_t h = logits == NULL ? 0 : fg_hash64(logits, n * n_vocab * sizeof(float));
    n_latest = logits == NULL ? 0 : n;
    if (logits != NULL) golden_hash_tokens(latest, logits, n, n_vocab);
    free(logits);
    free(ids);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return h;
}

static uint64_t hash_kv(const char *src, const char *type, uint32_t n_thread, const char *cpu,
                        uint32_t n_batch, size_t step, size_t n, fg_kv_choice kv)
{
    return hash_of(model_open(src, type, n_thread, cpu), n_batch, step, n, kv);
}

static uint64_t hash(const char *src, const char *type, uint32_t n_thread, const char *cpu,
                     uint32_t n_batch, size_t step, size_t n)
{
    return hash_kv(src, type, n_thread, cpu, n_batch, step, n, FG_KV_CHOICE_AUTO);
}

/* What later runs are compared with. */
static uint64_t keep(uint64_t h)
{
    memcpy(kept, latest, sizeof kept);
    return h;
}

/* The run `call`, just done, gave `got`; `want` is that of keep(). */
static void check_same(int line, const char *call, uint64_t got, uint64_t want)
{
    if (got == want) return;
    fg_test_fail(__FILE__, line, "%s = %016llx, expected %016llx", call, (unsigned long long)got,
                 (unsigned long long)want);
    (void)golden_first_other(latest, kept, n_latest);
}
#define SAME(call, want) check_same(__LINE__, #call, call, want)

static void check_all(const char *src, const char *type, size_t n)
{
    const uint64_t want = keep(hash(src, type, 1, NULL, 512, 0, n));
    CHECK(want != 0);
    SAME(hash(src, type, 2, NULL, 512, 0, n), want);
    SAME(hash(src, type, 3, NULL, 512, 0, n), want);
    SAME(hash(src, type, 7, NULL, 512, 0, n), want);
    for (uint32_t i = FG_CPU_LEVEL_SCALAR; i < FG_CPU_LEVEL_COUNT; i++) {
        if (!has_level(i)) continue;
        SAME(hash(src, type, 2, fg_cpu_level_name((fg_cpu_level)i), 512, 0, n), want);
    }
    SAME(hash(src, type, 2, NULL, 1, 0, n), want);
    SAME(hash(src, type, 2, NULL, 64, 0, n), want);
    SAME(hash(src, type, 2, NULL, 33, 0, n), want);   /* not at chunk boundaries */
    SAME(hash(src, type, 2, NULL, 512, 64, n), want); /* prefill calls at chunk boundaries */
    SAME(hash(src, type, 2, NULL, 512, 17, n), want);
    SAME(hash(src, type, 2, NULL, 512, 1, n), want); /* decode */
}

FG_TEST(nano_q4)
{
    check_all(NANO_DIR, "q4", 300);
}
FG_TEST(nano_q6)
{
    check_all(NANO_DIR, "q6", 130);
}
FG_TEST(nano_q8)
{
    check_all(NANO_DIR, "q8", 130);
}
FG_TEST(nano_q5)
{
    check_all(NANO_DIR, "q5", 130);
}
FG_TEST(nano_bf16)
{
    check_all(NANO_DIR, "bf16", 130);
}
FG_TEST(tiny_f32)
{
    check_all("tests/vectors/oracle/orig-heads6", "f32", 600);
}
FG_TEST(tiny_q4)
{
    check_all("tests/vectors/oracle/orig-wide", "q4", 600);
}

/* Two attention spans of 1024 positions: split over workers in decode, walked by one in prefill. */
FG_TEST(long_context)
{
    const uint64_t want = keep(hash("tests/vectors/oracle/orig-wide", "q4", 1, NULL, 512, 0, 2000));
    CHECK(want != 0);
    SAME(hash("tests/vectors/oracle/orig-wide", "q4", 2, NULL, 100, 0, 2000), want);
    SAME(hash("tests/vectors/oracle/orig-wide", "q4", 3, NULL, 512, 1, 2000), want);
}

/* 1100 positions on the small model: two spans, the second of one block. */
FG_TEST(f16_cache)
{
    const fg_kv_choice f16 = FG_KV_CHOICE_F16;
    const char *tiny = "tests/vectors/oracle/orig-wide";
    const uint64_t want = hash_kv(NANO_DIR, "q4", 1, NULL, 512, 0, 130, f16);
    const uint64_t tiny_want = hash_kv(tiny, "f32", 1, NULL, 512, 0, 1100, f16);
    CHECK(want != 0 && tiny_want != 0);
    CHECK(hash_kv(NANO_DIR, "q4", 2, NULL, 512, 0, 130, f16) == want);
    CHECK(hash_kv(NANO_DIR, "q4", 2, NULL, 512, 1, 130, f16) == want);
    CHECK(hash_kv(tiny, "f32", 2, NULL, 512, 1, 1100, f16) == tiny_want);
    for (uint32_t i = FG_CPU_LEVEL_SCALAR; i < FG_CPU_LEVEL_COUNT; i++) {
        if (!has_level(i)) continue;
        const char *level = fg_cpu_level_name((fg_cpu_level)i);
        CHECK(hash_kv(NANO_DIR, "q4", 2, level, 512, 0, 130, f16) == want);
    }
    /* it is a cache of its own, and AUTO is not it */
    CHECK(hash_kv(NANO_DIR, "q4", 2, NULL, 512, 0, 130, FG_KV_CHOICE_F32) != want);
    CHECK(hash_kv(NANO_DIR, "q4", 2, NULL, 512, 0, 130, FG_KV_CHOICE_INT8) != want);
    CHECK(hash(NANO_DIR, "q4", 2, NULL, 512, 0, 130) ==
          hash_kv(NANO_DIR, "q4", 2, NULL, 512, 0, 130, FG_KV_CHOICE_INT8));
}

FG_TEST(golden_hash)
{
    const uint64_t h = hash(NANO_DIR, "q4", 2, NULL, 512, 0, GOLDEN_TOK);
    printf("  nano q4: %016llx\n", (unsigned long long)h);
    const char *renew = getenv("FULGUR_TEST_GOLDEN");
    if (renew != NULL) CHECK(golden_hashes_save(latest, GOLDEN_TOK, golden_tokens));
    REQUIRE(golden_hashes_load(kept, GOLDEN_TOK, golden_tokens));
    SAME(h, golden_q4);
    CHECK_U64(golden_first_other(latest, kept, GOLDEN_TOK), GOLDEN_TOK);
}

/* A file with one other weight: the scale of the embedding of a token first met at `t`.  A norm
 * follows, which takes out a positive factor. */
static size_t first_other_of(const char *path, size_t t, float factor)
{
    uint32_t ids[GOLDEN_TOK];
    fg_model_file *f;
    fg_err err = {0};
    prompt(ids, GOLDEN_TOK, 4096);
    if (fg_model_file_open(&f, path, &err) != FG_OK) return 0;
    const fg_tensor *e = fg_model_file_find(f, FG_ROLE_EMBED, FG_NO_LAYER, FG_NO_LAYER);
    const off_t at = (off_t)(e->scale_offset + ids[t] * sizeof(float));
    fg_model_file_close(&f);
    float was = 0.0f, now;
    const int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && pread(fd, &was, sizeof was, at) == (ssize_t)sizeof was && was > 0.0f);
    now = was * factor;
    CHECK(pwrite(fd, &now, sizeof now, at) == (ssize_t)sizeof now);
    fg_engine *engine = model_open_file(path, 2, NULL);
    fg_session *s = engine == NULL ? NULL : model_session(engine, GOLDEN_TOK, 512);
    float *logits = s == NULL ? NULL : model_logits(s, engine, ids, GOLDEN_TOK, 0);
    if (logits != NULL) golden_hash_tokens(latest, logits, GOLDEN_TOK, 4096);
    CHECK(pwrite(fd, &was, sizeof was, at) == (ssize_t)sizeof was);
    (void)close(fd);
    free(logits);
    fg_session_destroy(&s);
    fg_engine_close(&engine);
    return golden_first_other(latest, kept, GOLDEN_TOK);
}

FG_TEST(golden_names_the_token) /* negative control */
{
    const char *path = model_file(NANO_DIR, "q4");
    REQUIRE(path != NULL && golden_hashes_load(kept, GOLDEN_TOK, golden_tokens));
    static const size_t at[] = {0, 64, 131, GOLDEN_TOK - 1}; /* ids that no earlier token has */
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        CHECK_U64(first_other_of(path, at[i], -1.0f), at[i]);
    }
    CHECK_U64(first_other_of(path, 5, 1.0f), GOLDEN_TOK);
    float logits[3 * 8] = {0}; /* one logit */
    golden_hash_tokens(kept, logits, 3, 8);
    logits[1 * 8 + 7] = 1e-30f;
    golden_hash_tokens(latest, logits, 3, 8);
    CHECK_U64(golden_first_other(latest, kept, 3), 1);
}

/* ---- nodes ---- */

static uint64_t hash_nodes(const char *type, uint32_t n_thread, uint32_t nodes, size_t step,
                           size_t n)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e;
    fg_err err = {0};
    const char *path = model_file(NANO_DIR, type);
    o.n_thread = n_thread;
    o.pretend_nodes = nodes;
    if (path == NULL) return 0;
    if (fg_engine_open(&e, path, &o, &err) == FG_OK) {
        return hash_of(e, 512, step, n, FG_KV_CHOICE_AUTO);
    }
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return 0;
}

/* Nodes of n that own panels of a matrix. */
static uint32_t n_owner(const fg_tensor *t, uint32_t n)
{
    uint32_t owners = 0;
    for (uint32_t k = 0; k < n; k++) {
        uint64_t begin, end;
        fg_panel_split(fg_n_panel(t->n_row), fg_panel_group(t->panel_stride), n, k, &begin, &end);
        owners += begin < end;
    }
    return owners;
}

/* At bf16 a panel of nano is whole pages: each of 16 nodes owns a part of these, so that the tests
 * below are about something. */
FG_TEST(nodes_own_parts)
{
    const char *path = model_file(NANO_DIR, "bf16");
    fg_err err = {0};
    fg_model_file *f;
    REQUIRE(path != NULL && fg_model_file_open(&f, path, &err) == FG_OK);
    const fg_tensor *head = fg_model_file_find(f, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER);
    const fg_tensor *out = fg_model_file_find(f, FG_ROLE_LIGHT_OUT, 0, FG_NO_LAYER);
    CHECK_U64(n_owner(head, 16), 16);
    CHECK_U64(n_owner(out, 16), 16);
    CHECK_U64(n_owner(out, 1), 1);
    fg_model_file_close(&f);
    /* control: the engine takes the number of nodes */
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e;
    o.pretend_nodes = FG_MAX_NODE + 1;
    CHECK(fg_engine_open(&e, path, &o, &err) == FG_ELIMIT);
}

/* What weights are where, in which home, and 40 tokens of it. */
static uint64_t hash_home(uint32_t nodes, fg_numa numa, fg_residency residency, uint64_t ram)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e;
    fg_err err = {0};
    const char *path = model_file(NANO_DIR, "bf16");
    o.n_thread = 2;
    o.pretend_nodes = nodes;
    o.numa = numa;
    o.residency = residency;
    o.ram_bytes = ram;
    if (path == NULL) return 0;
    if (fg_engine_open(&e, path, &o, &err) == FG_OK) {
        return hash_of(e, 512, nodes % 2 == 0 ? 0 : 1, 40, FG_KV_CHOICE_AUTO);
    }
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return 0;
}

/* Memory for some of the experts only. */
enum { TIGHT_RAM = 150 << 20 };

FG_TEST(every_home_and_policy)
{
    static const uint32_t usual[] = {2, 5, 16}, all[] = {1, 2, 3, 4, 6, 7, 8, 12, 16};
    const bool whole = fg_test_long();
    const size_t n = whole ? sizeof all / sizeof all[0] : sizeof usual / sizeof usual[0];
    const uint64_t want = hash(NANO_DIR, "bf16", 1, NULL, 512, 0, 40);
    CHECK(want != 0);
    for (size_t i = 0; i < n; i++) {
        const uint32_t nodes = whole ? all[i] : usual[i];
        for (uint32_t numa = 0; numa < FG_NUMA_COUNT; numa++) {
            if (!whole && (numa == FG_NUMA_STRICT || numa == FG_NUMA_FIRST_TOUCH)) continue;
            CHECK_U64(hash_home(nodes, numa, FG_RESIDENCY_COPY, 0), want);
            if (!whole && nodes != 5) continue;
            if (numa != FG_NUMA_MIRROR) {
                CHECK_U64(hash_home(nodes, numa, FG_RESIDENCY_MAP, 0), want);
            }
            const uint64_t ram = TIGHT_RAM * (numa == FG_NUMA_MIRROR ? (uint64_t)nodes : 1);
            CHECK_U64(hash_home(nodes, numa, FG_RESIDENCY_AUTO, ram), want);
        }
    }
}

FG_TEST(golden_hash_on_any_number_of_nodes)
{
    for (uint32_t nodes = 1; nodes <= 16; nodes += (uint32_t)fg_test_every(5, 5)) {
        CHECK_U64(hash_nodes("q4", 1 + nodes % 3, nodes, 0, 300), golden_q4);
    }
}

FG_TEST(nodes_and_threads)
{
    const uint64_t want = hash(NANO_DIR, "bf16", 1, NULL, 512, 0, 40);
    CHECK(want != 0);
    for (uint32_t nodes = 1; nodes <= 16; nodes += (uint32_t)fg_test_every(3, 5)) {
        for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
            CHECK_U64(hash_nodes("bf16", n_thread, nodes, n_thread == 2 ? 1 : 0, 40), want);
        }
    }
}

/* Three spans of 1024 positions; the last tokens one by one, so that spans are shared out. */
static uint64_t hash_spans(uint32_t n_thread, uint32_t nodes, fg_kv_choice kv, uint32_t change)
{
    enum { BEFORE = 2100, AFTER = 6 };
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e;
    fg_err err = {0};
    const char *path = model_file(NANO_DIR, "q4");
    o.n_thread = n_thread;
    o.pretend_nodes = nodes;
    if (path == NULL || fg_engine_open(&e, path, &o, &err) != FG_OK) return 0;
    fg_session *s = model_session_kv(e, BEFORE + AFTER, 512, kv);
    uint32_t ids[BEFORE + AFTER];
    uint64_t h = 0;
    prompt(ids, BEFORE + AFTER, fg_engine_shape(e)->n_vocab);
    ids[0] += change;
    fg_status st = s == NULL ? FG_ENOMEM : fg_session_eval(s, ids, BEFORE, NULL, NULL, &err);
    for (size_t i = BEFORE; i < BEFORE + AFTER && st == FG_OK; i++) {
        st = fg_session_eval(s, ids + i, 1, NULL, NULL, &err);
        const float *y = fg_session_logits(s);
        if (st == FG_OK) h = h * 31 + fg_hash64(y, fg_engine_shape(e)->n_vocab * sizeof(float));
    }
    CHECK_OK(st, &err);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return st == FG_OK ? h : 0;
}

FG_TEST(spans_on_any_number_of_nodes)
{
    const int step = fg_test_every(4, 7);
    uint64_t want[FG_KV_CHOICE_COUNT];
    for (int kv = 1; kv < FG_KV_CHOICE_COUNT; kv++) {
        want[kv] = hash_spans(1, 0, (fg_kv_choice)kv, 0);
        CHECK(want[kv] != 0);
    }
    CHECK(hash_spans(2, 2, FG_KV_CHOICE_F16, 1) != want[FG_KV_CHOICE_F16]); /* negative control */
    for (int nodes = 16; nodes >= 1; nodes -= step) {
        const int kv = 1 + nodes / step % (FG_KV_CHOICE_COUNT - 1);
        CHECK_U64(hash_spans(1 + (uint32_t)nodes % 3, (uint32_t)nodes, (fg_kv_choice)kv, 0),
                  want[kv]);
    }
}

FG_TEST(hash_sees_a_difference) /* negative control */
{
    CHECK(hash(NANO_DIR, "q4", 2, NULL, 512, 0, 130) != hash(NANO_DIR, "q6", 2, NULL, 512, 0, 130));
    CHECK(hash(NANO_DIR, "q4", 2, NULL, 512, 0, 130) != hash(NANO_DIR, "q4", 2, NULL, 512, 0, 131));
}
