/* SPDX-License-Identifier: MIT
 *
 * The f32 path against tiny checkpoints whose answers others computed: MiniMax's own layer code
 * (orig-*) and transformers (hf-*).  Bounds are the project's: logits 2e-4 absolute (their standard
 * deviation is about 1), hidden states 2e-4 relative in the 2-norm of a row, experts equal.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/forward.h"
#include "tests/fg_test.h"
#include "tests/golden.h"
#include "tests/models.h"
#include "src/engine/session.h"

static const double bound = 2e-4;

static double max_diff(const golden *g, const float *logits)
{
    double worst = 0.0;
    for (size_t i = 0; i < g->n_row; i++) {
        const float *got = logits + (size_t)g->rows[i] * g->n_vocab;
        for (size_t v = 0; v < g->n_vocab; v++) {
            const double d = fabs((double)got[v] - (double)g->logits[i * g->n_vocab + v]);
            if (!(d <= worst)) worst = d;
        }
    }
    return worst;
}

static void check_folder(const char *dir)
{
    char path[512];
    golden g;
    (void)snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    if (!golden_load(&g, path, "")) return;
    fg_engine *e = model_open(dir, "f32", 2, NULL);
    fg_session *s = e == NULL ? NULL : model_session(e, g.n_tok, 512);
    if (s == NULL) return;
    golden_watch w = {.g = &g, .n_layer = fg_engine_shape(e)->n_layer};
    fg_taps taps;
    golden_watch_taps(&w, &taps);
    fg_session_set_taps(s, &taps);
    float *whole = model_logits(s, e, (const uint32_t *)g.ids, g.n_tok, 0);
    REQUIRE(whole != NULL);
    const double diff = max_diff(&g, whole);
    printf("  %s: logits %.2e, hidden %.2e over %zu rows, %zu of %zu experts wrong\n", dir, diff,
           w.worst, w.n_hidden, w.n_wrong, w.n_expert);
    CHECK(diff <= bound);
    CHECK(w.worst <= bound);
    CHECK_U64(w.n_hidden, g.n_layer * g.n_row);
    CHECK_U64(w.n_wrong, 0);
    CHECK(g.experts == NULL || w.n_expert > 0);

    /* token by token: not only within the bound but equal bits */
    fg_session_set_taps(s, NULL);
    fg_session_reset(s);
    float *single = model_logits(s, e, (const uint32_t *)g.ids, g.n_tok, 1);
    REQUIRE(single != NULL);
    CHECK(memcmp(whole, single, g.n_tok * g.n_vocab * sizeof(float)) == 0);

    /* negative control: one wrong token of the prompt must be seen */
    fg_session_reset(s);
    uint32_t *wrong = malloc(g.n_tok * sizeof *wrong);
    memcpy(wrong, g.ids, g.n_tok * sizeof *wrong);
    wrong[0] = (wrong[0] + 1) % (uint32_t)g.n_vocab;
    float *other = model_logits(s, e, wrong, g.n_tok, 0);
    CHECK(other != NULL && max_diff(&g, other) > 10.0 * bound);
    free(wrong);
    free(other);
    free(single);
    free(whole);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    golden_free(&g);
}

static void check_committed(const char *name)
{
    char dir[256];
    (void)snprintf(dir, sizeof dir, "tests/vectors/oracle/%s", name);
    check_folder(dir);
}

static void check_shared(const char *name)
{
    char rel[128], dir[512];
    (void)snprintf(rel, sizeof rel, "oracle/%s", name);
    const char *shared = fg_test_shared(rel);
    if (shared == NULL) return;
    (void)snprintf(dir, sizeof dir, "%s", shared);
    check_folder(dir);
}

FG_TEST(orig_base)
{
    check_committed("orig-base");
}
FG_TEST(orig_heads6)
{
    check_committed("orig-heads6");
}
FG_TEST(orig_prenorm)
{
    check_committed("orig-prenorm");
}
FG_TEST(orig_top1)
{
    check_committed("orig-top1");
}
FG_TEST(orig_wide)
{
    check_committed("orig-wide");
}
FG_TEST(hf_long)
{
    check_committed("hf-long");
}

/* The same models and three more, with longer vectors. */
FG_TEST(all_of_the_shared_ones)
{
    static const char *const names[] = {"orig-base",       "orig-heads6", "orig-prenorm",
                                        "orig-top1",       "orig-wide",   "hf-base",
                                        "hf-fp32-sharded", "hf-long",     "hf-wide"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) check_shared(names[i]);
}
