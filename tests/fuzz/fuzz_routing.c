/* SPDX-License-Identifier: MIT
 *
 * A routing model, its checksum made right again: what was accepted scores, learns and forgets, and
 * comes out of its own file again.  Input: 1 byte of mode, the file.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/factor/routing_row.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(routing, 600)

static void seeds(void)
{
    const char *path = fg_test_tmp("seed.predict");
    for (uint32_t rank = 0; rank < 3; rank += 2) {
        const fg_routing_shape of = {2, 4, 1, 9, 77};
        fg_routing_model *m;
        fg_err err = {0};
        if (fg_routing_create(&m, &of, rank, &err) != FG_OK) abort();
        for (uint32_t i = 0; i < 8 * rank; i++) m->y[i] = 0.1f * (float)(i % 5);
        for (uint32_t i = 0; i < rank; i++) m->prior[i * rank + i] = 1.0f;
        for (uint32_t t = 0; t < 5; t++) {
            (void)fg_routing_count(m, t % 3, (const uint16_t[]){(uint16_t)(t % 4), 1}, 1);
        }
        if (fg_routing_save(path, m, &err) != FG_OK) abort();
        fg_routing_destroy(&m);
        size_t n;
        uint8_t *file = fuzz_read(path, &n), seed[4096];
        seed[0] = (uint8_t)rank;
        memcpy(seed + 1, file, n < 4095 ? n : 4095);
        fuzz_seed(seed, 1 + (n < 4095 ? n : 4095));
        free(file);
    }
}

static void use(const fg_routing_model *m)
{
    fg_routing_row *r;
    fg_err err = {0};
    const fg_routing_shape *s = &m->of;
    if (fg_routing_n_col(s) > 5000 || s->n_vocab > 1000000) return;
    float *score = calloc(s->n_expert, sizeof *score);
    uint32_t *sel = calloc(s->n_used, sizeof *sel);
    const fg_status st = fg_routing_row_create(&r, m, &err);
    fuzz_check_status(st, &err);
    for (uint32_t t = 0; st == FG_OK && t < 3; t++) {
        const uint32_t id = t % s->n_vocab;
        fg_routing_row_begin(r, 1, t, &id, 1);
        for (uint32_t l = 0; l < s->n_layer; l++) {
            FUZZ_CHECK(fg_routing_row_score(r, l, FG_ROUTING_ALL, score));
            for (uint32_t e = 0; e < s->n_expert; e++) {
                const float p = fg_routing_chance(m, score[e]);
                FUZZ_CHECK(p >= 0.0f && p <= (fuzz_planted ? -1.0f : 1.0f));
            }
            fg_routing_row_layer(r, l, sel);
        }
    }
    if (st == FG_OK) {
        fg_routing_row_forget(r, 1, 0);
        FUZZ_CHECK(fg_routing_row_model(r)->n_tok == m->n_tok);
        fg_routing_row_destroy(&r);
    }
    free(score);
    free(sel);
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_routing_model *m;
    const unsigned mode = (unsigned)fuzz_take(&d, &n, 1);
    uint8_t *f = malloc(n + 1);
    memcpy(f, d, n);
    if (n >= 16 && (mode & 1) == 0) fuzz_put_le(f + n - 8, 8, fg_hash64(f, n - 8));
    const fg_status st = fg_routing_read(f, n, "m.predict", &m, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) use(m);
    fg_routing_destroy(&m);
    free(f);
}
