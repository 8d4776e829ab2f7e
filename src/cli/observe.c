/* SPDX-License-Identifier: MIT */
#include "src/cli/observe.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "src/base/hash.h"

static void on_hidden(void *ctx, int32_t layer, uint64_t pos, uint64_t n_tok, const float *x,
                      size_t stride)
{
    const observe *o = ctx;
    for (uint64_t t = 0; t < n_tok; t++) {
        const float *row = x + t * stride;
        double sum = 0.0;
        for (uint32_t i = 0; i < o->d_model; i++) sum += (double)row[i] * (double)row[i];
        fprintf(o->taps,
                "{\"layer\": %" PRId32 ", \"pos\": %" PRIu64 ", \"hash\": \"%016" PRIx64
                "\", \"norm\": %.9g}\n",
                layer, pos + t, fg_hash64(row, o->d_model * sizeof *row), sqrt(sum));
    }
}

static void on_experts(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok, const uint32_t *sel,
                       const float *weights)
{
    const observe *o = ctx;
    for (uint64_t t = 0; t < n_tok; t++, sel += o->n_used, weights += o->n_used) {
        fprintf(o->taps, "{\"layer\": %" PRIu32 ", \"pos\": %" PRIu64 ", \"experts\": [", layer,
                pos + t);
        for (uint32_t i = 0; i < o->n_used; i++) {
            fprintf(o->taps, "%s%" PRIu32, i == 0 ? "" : ", ", sel[i]);
        }
        fputs("], \"weights\": [", o->taps);
        for (uint32_t i = 0; i < o->n_used; i++) {
            fprintf(o->taps, "%s%.9g", i == 0 ? "" : ", ", (double)weights[i]);
        }
        fputs("]}\n", o->taps);
    }
}

fg_status observe_start(observe *o, fg_session *s, const char *path, bool profile, fg_err *err)
{
    const fg_shape *shape = fg_engine_shape(fg_session_engine(s));
    *o = (observe){.path = path, .d_model = shape->d_model, .n_used = shape->n_used};
    if (path != NULL) {
        o->taps = fopen(path, "we");
        if (o->taps == NULL) {
            return fg_fail(err, FG_EIO, "%s: %s, expected a writable file", path, strerror(errno));
        }
        const fg_taps taps = {.hidden = on_hidden, .experts = on_experts, .ctx = o};
        fg_session_set_taps(s, &taps);
    }
    if (profile) fg_session_set_profile(s, &o->profile);
    return FG_OK;
}

static void print_profile(const fg_profile *p)
{
    double sum = 0.0;
    for (int i = 0; i < FG_PHASE_COUNT; i++) sum += (double)p->ns[i];
    for (unsigned i = 0; i < FG_PHASE_COUNT && sum > 0.0; i++) {
        fprintf(stderr, "%-36s %10.1f ms %5.1f %%\n", fg_phase_name((fg_phase)i),
                (double)p->ns[i] * 1e-6, 100.0 * (double)p->ns[i] / sum);
    }
}

fg_status observe_end(observe *o, bool profile, fg_err *err)
{
    if (profile) print_profile(&o->profile);
    if (o->taps == NULL) return FG_OK;
    const bool bad = ferror(o->taps) != 0;
    const bool closed = fclose(o->taps) == 0;
    o->taps = NULL;
    if (!bad && closed) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s, expected room for the taps", o->path, strerror(errno));
}
