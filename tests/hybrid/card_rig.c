/* SPDX-License-Identifier: MIT */
#include "tests/hybrid/card_rig.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/fg_test.h"
#include "tests/models.h"

void card_prompt(uint32_t *ids, size_t n, uint32_t n_vocab)
{
    fg_rng r;
    fg_rng_init(&r, 7);
    for (size_t i = 0; i < n; i++) ids[i] = (uint32_t)(fg_rng_u64(&r) % n_vocab);
}

bool card_rig_open(card_rig *r, const char *path, size_t n, fg_kv_choice kv,
                   const fg_engine_opts *o)
{
    fg_err err = {0};
    *r = (card_rig){.n = n, .kv = kv};
    if (path == NULL) return false;
    fg_engine *host = model_open_file(path, o == NULL ? 1 : o->n_thread, NULL);
    if (host == NULL) return false;
    r->n_vocab = fg_engine_shape(host)->n_vocab;
    card_prompt(r->ids, CARD_MOST, r->n_vocab);
    fg_session *s = model_session_kv(host, CARD_MOST, 512, kv);
    if (s != NULL) r->want = model_logits(s, host, r->ids, n, 0);
    fg_session_destroy(&s);
    fg_engine_close(&host);
    fg_engine_opts mine = o != NULL ? *o : fg_engine_opts_default();
    if (o == NULL) mine.n_thread = 1;
    if (mine.gpu == FG_GPU_OFF) mine.gpu = 0;
    if (r->want != NULL && fg_engine_open(&r->e, path, &mine, &err) == FG_OK) return true;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return false;
}

void card_rig_close(card_rig *r)
{
    free(r->want);
    fg_engine_close(&r->e);
}

fg_session *card_session(const card_rig *r, uint32_t n_batch)
{
    return model_session_kv(r->e, CARD_MOST, n_batch, r->kv);
}

typedef struct watch {
    const card_rig *r;
    uint64_t first_other;
} watch;

static void compare(void *ctx, uint64_t pos, const float *logits)
{
    watch *w = ctx;
    const size_t n = w->r->n_vocab;
    if (pos >= w->first_other) return;
    if (memcmp(logits, w->r->want + pos * n, n * sizeof *logits) != 0) w->first_other = pos;
}

uint64_t card_first_other(const card_rig *r, fg_session *s, uint64_t to, size_t step)
{
    fg_err err = {0};
    watch w = {.r = r, .first_other = to};
    while (fg_session_pos(s) < to) {
        const uint64_t pos = fg_session_pos(s), left = to - pos;
        const size_t n = step == 0 || left < step ? (size_t)left : step;
        if (fg_session_eval(s, r->ids + pos, n, compare, &w, &err) == FG_OK) continue;
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return pos;
    }
    return w.first_other;
}

bool card_go_to(const card_rig *r, fg_session *s, uint64_t to, size_t step)
{
    const uint64_t first = card_first_other(r, s, to, step);
    if (first == to) return !fg_test_failed();
    fg_test_fail(__FILE__, __LINE__, "token %llu of %llu, %zu at a time, has other logits",
                 (unsigned long long)first, (unsigned long long)to, step);
    return false;
}

bool card_is_plain(const card_rig *r, const fg_session *s)
{
    const uint64_t pos = fg_session_pos(s);
    const float *got = fg_session_logits(s);
    return got != NULL && pos > 0 && pos <= r->n &&
           memcmp(got, r->want + (pos - 1) * r->n_vocab, r->n_vocab * sizeof *got) == 0;
}
