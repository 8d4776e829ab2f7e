/* SPDX-License-Identifier: MIT
 *
 * The same file and tokens give the same logits, bit for bit: for any thread count, CPU level,
 * batch size and split of the prompt.  One golden hash of the nano q4 file's logits is asserted for
 * every level, so that a silent change of the numerics is seen, and so that other machines can be
 * compared with this one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/base/rng.h"
#include "src/sys/cpu.h"
#include "tests/fg_test.h"
#include "tests/models.h"

/* XXH3-64 of the logits of `prompt` (300 ids) on nano.  Changes only when the numerics, the
 * quantizer or the recipe change on purpose; say so in the commit. */
static const uint64_t golden_q4 = 0x97d7af994b93d66e;

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

/* Hash of all logits; step: tokens a call (0: all at once). */
static uint64_t hash_kv(const char *src, const char *type, uint32_t n_thread, const char *cpu,
                        uint32_t n_batch, size_t step, size_t n, fg_kv_choice kv)
{
    fg_engine *e = model_open(src, type, n_thread, cpu);
    fg_session *s = e == NULL ? NULL : model_session_kv(e, n, n_batch, kv);
    if (s == NULL) return 0;
    const size_t n_vocab = fg_engine_shape(e)->n_vocab;
    uint32_t *ids = malloc(n * sizeof *ids);
    prompt(ids, n, (uint32_t)n_vocab);
    float *logits = model_logits(s, e, ids, n, step);
    const uint64_t h = logits == NULL ? 0 : fg_hash64(logits, n * n_vocab * sizeof(float));
    free(logits);
    free(ids);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return h;
}

static uint64_t hash(const char *src, const char *type, uint32_t n_thread, const char *cpu,
                     uint32_t n_batch, size_t step, size_t n)
{
    return hash_kv(src, type, n_thread, cpu, n_batch, step, n, FG_KV_CHOICE_AUTO);
}

static void check_all(const char *src, const char *type, size_t n)
{
    const uint64_t want = hash(src, type, 1, NULL, 512, 0, n);
    CHECK(want != 0);
    CHECK(hash(src, type, 2, NULL, 512, 0, n) == want);
    CHECK(hash(src, type, 3, NULL, 512, 0, n) == want);
    CHECK(hash(src, type, 7, NULL, 512, 0, n) == want);
    for (uint32_t i = FG_CPU_LEVEL_SCALAR; i < FG_CPU_LEVEL_COUNT; i++) {
        if (!has_level(i)) continue;
        CHECK(hash(src, type, 2, fg_cpu_level_name((fg_cpu_level)i), 512, 0, n) == want);
    }
    CHECK(hash(src, type, 2, NULL, 1, 0, n) == want);
    CHECK(hash(src, type, 2, NULL, 64, 0, n) == want);
    CHECK(hash(src, type, 2, NULL, 33, 0, n) == want);   /* not at chunk boundaries */
    CHECK(hash(src, type, 2, NULL, 512, 64, n) == want); /* prefill calls at chunk boundaries */
    CHECK(hash(src, type, 2, NULL, 512, 17, n) == want);
    CHECK(hash(src, type, 2, NULL, 512, 1, n) == want); /* decode */
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
    const uint64_t want = hash("tests/vectors/oracle/orig-wide", "q4", 1, NULL, 512, 0, 2000);
    CHECK(want != 0);
    CHECK(hash("tests/vectors/oracle/orig-wide", "q4", 2, NULL, 100, 0, 2000) == want);
    CHECK(hash("tests/vectors/oracle/orig-wide", "q4", 3, NULL, 512, 1, 2000) == want);
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
    const uint64_t h = hash(NANO_DIR, "q4", 2, NULL, 512, 0, 300);
    printf("  nano q4: %016llx\n", (unsigned long long)h);
    CHECK_U64(h, golden_q4);
}

FG_TEST(hash_sees_a_difference) /* negative control */
{
    CHECK(hash(NANO_DIR, "q4", 2, NULL, 512, 0, 130) != hash(NANO_DIR, "q6", 2, NULL, 512, 0, 130));
    CHECK(hash(NANO_DIR, "q4", 2, NULL, 512, 0, 130) != hash(NANO_DIR, "q4", 2, NULL, 512, 0, 131));
}
