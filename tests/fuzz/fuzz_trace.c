/* SPDX-License-Identifier: MIT
 *
 * A routing trace, its hashes made right again: every policy and predictor replays what was
 * accepted.  Input: 1 byte of mode, the file.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/eval/replay.h"
#include "tests/eval/traces.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(trace, 1200)

enum { HEAD = 128, RAW = 1, COUNT = 2 };

static void put_seed(uint32_t n_layer, uint32_t n_expert, uint32_t n_tok, unsigned mode)
{
    const fg_trace_head head = {.n_layer = n_layer,
                                .n_expert = n_expert,
                                .n_used = 2,
                                .data_root = 7,
                                .dense_bytes = 1000,
                                .slot_bytes = 100,
                                .session_bytes = 500,
                                .ram_bytes = 77,
                                .policy = FG_POLICY_LFU,
                                .predict = FG_PREDICT_PREVIOUS,
                                .ahead = 2,
                                .n_vocab = (mode & 0x40) != 0 ? 50 : 0};
    uint64_t heat[64] = {3, 1, 2};
    fg_trace_writer *w;
    fg_err err = {0};
    const char *path = fg_test_tmp("seed.trace");
    if (fg_trace_create(&w, path, &head, mode == 0 ? heat : NULL, &err) != FG_OK) abort();
    for (uint32_t p = 0; p < 6; p++) {
        uint32_t sel[16];
        if (p == 4) fg_trace_at(w, 1); /* undone */
        fg_trace_begin(w, p == 0 ? n_tok : 1, true);
        for (uint32_t l = 0; l < n_layer; l++) {
            for (uint32_t i = 0; i < 2 * n_tok; i++) sel[i] = (i + l + p) % n_expert;
            fg_trace_layer(w, l, sel);
            const fg_guess guess = {0};
            if (p > 0 || n_tok == 1) fg_trace_guess(w, l, &guess);
        }
    }
    if (fg_trace_finish(w, &err) != FG_OK) abort();
    fg_trace_writer_destroy(&w);
    size_t n;
    uint8_t *file = fuzz_read(path, &n), seed[4096];
    seed[0] = (uint8_t)mode;
    memcpy(seed + 1, file, n < 4095 ? n : 4095);
    fuzz_seed(seed, 1 + (n < 4095 ? n : 4095));
    free(file);
}

static void seeds(void)
{
    put_seed(3, 5, 4, 0);
    put_seed(2, 4, 1, COUNT);
    put_seed(4, 9, 8, COUNT | 0x40);
    put_seed(1, 3, 2, 0xe0);
}

/* Header fields that follow from the rest. */
static void rehash(uint8_t *f, size_t n)
{
    fuzz_put_le(f + 96, 8, n - HEAD);
    fuzz_put_le(f + 104, 8, fg_hash64(f + HEAD, n - HEAD));
    fuzz_put_le(f + 120, 8, fg_hash64(f, 120));
}

static void replay(const fg_trace *t, unsigned mode)
{
    const fg_trace_head *h = fg_trace_get_head(t);
    const uint64_t n = (uint64_t)h->n_layer * h->n_expert;
    if (n > 100000 || h->n_pass > 2000) return;
    uint64_t *heat = calloc(n + 1, sizeof *heat);
    fg_err err = {0};
    fg_future *future = NULL;
    const bool has_heat = fg_trace_get_heat(t, heat);
    fg_status st = fg_future_create(&future, t, &err);
    fuzz_check_status(st, &err);
    for (unsigned k = 0; k < FG_POLICY_COUNT * FG_PREDICT_COUNT; k++) {
        fg_cache_stats s = {0};
        fg_replay_opts o = {.policy = (fg_policy)(k % FG_POLICY_COUNT),
                            .predict = (fg_predict)(k / FG_POLICY_COUNT),
                            .ahead = 1 + mode / 8 % FG_PREDICT_AHEAD,
                            .as_recorded = mode >= 128};
        o.heat = has_heat ? heat : NULL;
        o.n_slot = (uint32_t)(1 + (mode >> 5) * n / 7);
        o.future = o.policy == FG_POLICY_OPTIMAL ? future : NULL;
        st = fg_replay_run(t, &o, &s, &err);
        fuzz_check_status(st, &err);
        const uint64_t asked = s.n_hit + s.n_prefetch_hit + s.n_miss;
        FUZZ_CHECK(st != FG_OK || asked <= (fuzz_planted ? 0 : h->n_tok * h->n_layer * h->n_used));
    }
    fg_recall_row recall[FG_PREDICT_COUNT];
    st = recall_of_all(t, recall, &err);
    fuzz_check_status(st, &err);
    st = fg_replay_heat(t, 0, h->n_pass, heat, &err);
    fuzz_check_status(st, &err);
    fg_future_destroy(&future);
    free(heat);
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_trace *t;
    const unsigned mode = (unsigned)fuzz_take(&d, &n, 1);
    uint8_t *f = malloc(n + 1);
    memcpy(f, d, n);
    if (n >= HEAD && (mode & RAW) == 0) rehash(f, n);
    const fg_status st = fg_trace_open(&t, fuzz_put("t.trace", f, n), &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) replay(t, mode);
    fg_trace_close(&t);
    free(f);
}
