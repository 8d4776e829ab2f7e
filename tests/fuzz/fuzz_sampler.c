/* SPDX-License-Identifier: MIT
 *
 * Sampling from any logits with any options: the choice is one that may be made, and the best one
 * at temperature 0.  Input: options (16 bytes), then logits of 4 bytes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/text/sampler.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(sampler, 4000)

enum { MAX_VOCAB = 4096, MASKED = 1, GREEDY = 2, RAW = 4 };

static void seeds(void)
{
    static const float odd[] = {1, -INFINITY, NAN, INFINITY, -0.0f, 1e38f};
    for (unsigned flags = 0; flags < 6; flags++) {
        uint8_t seed[16 + 4 * 60] = {(uint8_t)flags, 10, 240, (uint8_t)(flags * 20), 5, 0, 7};
        for (unsigned i = 0; i < 60; i++) {
            float v = i == 3 && flags > 2 ? odd[flags] : (float)(i * 37 % 41) / 7.0f;
            memcpy(seed + 16 + 4 * i, &v, sizeof v);
        }
        fuzz_seed(seed, sizeof seed);
    }
}

static bool may(const uint64_t *mask, size_t i)
{
    return mask == NULL || (mask[i / 64] >> (i % 64) & 1) != 0;
}

static void check_pick(const float *logit, size_t n, const uint64_t *mask, uint32_t id, double lp,
                       bool best)
{
    FUZZ_CHECK(id < n);
    if (id >= n) return;
    FUZZ_CHECK(may(mask, id) && logit[id] > -INFINITY);
    FUZZ_CHECK(lp <= 1e-6); /* and no NaN */
    for (size_t i = 0; best && i < n; i++) {
        FUZZ_CHECK(!may(mask, i) || logit[i] < logit[id] || (logit[i] == logit[id] && i >= id));
    }
}

static void one(const uint8_t *d, size_t n)
{
    const uint64_t flags = fuzz_take(&d, &n, 1);
    fg_sampler_opts o = fg_sampler_opts_default();
    o.temp = (double)fuzz_take(&d, &n, 1) / 10.0;
    o.top_p = (double)(1 + fuzz_take(&d, &n, 1)) / 256.0;
    o.min_p = (double)fuzz_take(&d, &n, 1) / 255.0;
    o.top_k = (uint32_t)fuzz_take(&d, &n, 2);
    o.seed = fuzz_take(&d, &n, 2);
    const uint64_t raw = fuzz_take(&d, &n, 8);
    if ((flags & GREEDY) != 0) o.temp = 0;
    if ((flags & RAW) != 0) memcpy(&o.temp, &raw, sizeof o.temp); /* any double */
    size_t n_vocab = n / 4 < MAX_VOCAB ? n / 4 : MAX_VOCAB;
    if (n_vocab == 0) return;
    float *logit = malloc(n_vocab * sizeof *logit);
    uint64_t *mask = (flags & MASKED) != 0 ? calloc(n_vocab / 64 + 1, sizeof *mask) : NULL;
    memcpy(logit, d, n_vocab * sizeof *logit);
    bool broken = false, any = false;
    for (size_t i = 0; i < n_vocab; i++) {
        if (mask != NULL && i * 2654435761u / 128 % 3 != 0) mask[i / 64] |= (uint64_t)1 << (i % 64);
        broken = broken || isnan(logit[i]) || logit[i] == INFINITY;
        any = any || (may(mask, i) && logit[i] > -INFINITY);
    }
    fg_err err = {0};
    fg_sampler *s;
    fg_status st = fg_sampler_create(&s, &o, (uint32_t)n_vocab, mask, &err);
    fuzz_check_status(st, &err);
    for (int turn = 0; st == FG_OK && turn < 3; turn++) {
        uint32_t id = UINT32_MAX;
        double lp = (double)NAN;
        const fg_status picked = fg_sampler_pick(s, logit, &id, &lp, &err);
        fuzz_check_status(picked, &err);
        FUZZ_CHECK((picked == FG_OK) == (!broken && any));
        if (picked == FG_OK)
            check_pick(logit, n_vocab, mask, fuzz_planted ? id + 1 : id, lp, o.temp == 0);
    }
    fg_sampler_destroy(&s);
    free(logit);
    free(mask);
}
