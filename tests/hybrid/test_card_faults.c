/* SPDX-License-Identifier: MIT
 *
 * A card that faults under a session: one line, the session answers it from then on, nothing waits
 * for ever, and the process goes on without a card.  Where nothing was computed yet, the host does
 * it, and nobody notices.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/model/device.h"
#include "src/model/forward.h"
#include "tests/device/fake_card.h"
#include "tests/fg_test.h"
#include "tests/hybrid/card_rig.h"
#include "tests/models.h"

static char path[PATH_MAX];
static const char *words;
static size_t step;
static bool faults; /* it is one of the card's, that nobody comes back from */

static void convert(void)
{
    CHECK(model_file(TINY_DIR, "q4") != NULL);
}

enum { N_TOK = 12 };

/* Tokens until it fails. */
static fg_status until(fg_session *s, const card_rig *r, fg_err *err)
{
    while (fg_session_pos(s) < N_TOK) {
        const fg_status st = fg_session_eval(s, r->ids + fg_session_pos(s), step, NULL, NULL, err);
        if (st != FG_OK) return st;
        CHECK(card_is_plain(r, s)); /* what was said before is right */
    }
    return FG_OK;
}

static void check_line(const fg_err *err)
{
    if (strncmp(err->msg, "gpu 0: ", 7) != 0 || strstr(err->msg, words) == NULL ||
        strchr(err->msg, '\n') != NULL) {
        fg_test_fail(__FILE__, __LINE__, "%s", err->msg);
    }
}

static void breaks(void)
{
    card_rig r;
    fg_err err = {0}, again = {0};
    fg_session *fork = NULL;
    const uint64_t begin = fg_clock_ns();
    REQUIRE(card_rig_open(&r, path, N_TOK, FG_KV_CHOICE_AUTO, NULL));
    fg_session *s = card_session(&r, 64);
    REQUIRE(s != NULL);
    const fg_status st = until(s, &r, &err);
    CHECK(st == FG_EIO);
    check_line(&err);
    const uint64_t pos = fg_session_pos(s);
    CHECK(fg_session_eval(s, r.ids, 1, NULL, NULL, &again) == st && again.code == st);
    CHECK_STR(again.msg, err.msg);
    CHECK_U64(fg_session_pos(s), pos);
    if (faults) { /* what is on the card is lost, and said to be */
        CHECK(fg_session_fork(&fork, s, &again) != FG_OK && fork == NULL);
        fg_session_reset(s); /* from here on nothing of the card is needed */
        CHECK_OK(fg_session_eval(s, r.ids, 1, NULL, NULL, &again), &again);
        CHECK(card_is_plain(&r, s));
    }
    fg_session_destroy(&s);
    fg_engine_close(&r.e);
    /* the same process without a card */
    r.e = model_open_file(path, 1, NULL);
    s = r.e == NULL ? NULL : card_session(&r, 64);
    CHECK(s != NULL && card_go_to(&r, s, N_TOK, 0));
    fg_session_destroy(&s);
    card_rig_close(&r);
    CHECK(fg_clock_ns() - begin < UINT64_C(60000000000));
}

static void check(const char *settings, const char *what, size_t at_once, bool of_card)
{
    words = what;
    step = at_once;
    faults = of_card;
    (void)fg_test_tmpdir();
    CHECK(fake_card_run(NULL, convert) == 0);
    if (fg_test_failed() || access(fake_card_driver(), R_OK) != 0) return;
    (void)snprintf(path, sizeof path, "%s", model_file(TINY_DIR, "q4"));
    CHECK(fake_card_run(settings, breaks) == 0);
}

FG_TEST(a_fault_in_a_token)
{
    check("fault=70", "CUDA_ERROR_LAUNCH_FAILED", 1, true);
    check("fault=195", "CUDA_ERROR_LAUNCH_FAILED", 1, true);
}

FG_TEST(a_fault_in_a_pass)
{
    check("fault=20", "CUDA_ERROR_LAUNCH_FAILED", 3, true);
    check("fault=130", "CUDA_ERROR_LAUNCH_FAILED", 4, true);
}

FG_TEST(a_launch_that_is_refused)
{
    check("launch=30", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", 3, false);
    check("launch=40", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", 1, false); /* while it is captured */
}

/* A card that never answers: its abort word does not help, what is on it is left there. */
FG_TEST(a_kernel_that_hangs)
{
    if (!fg_test_long()) return; /* patience takes 20 seconds */
    check("hang=70", "no answer for 20 seconds", 1, true);
}

FG_TEST(a_flag_that_is_lost)
{
    if (!fg_test_long()) return;
    check("lose=9", "no answer for 20 seconds", 1, true);
}

/* One allocation of the card's memory fails, whichever: what the card cannot begin the host does,
 * and no session is lost. */
static void goes_on(void)
{
    card_rig r;
    fg_engine_opts o = fg_engine_opts_default();
    o.n_thread = 1;
    o.gpu = FG_GPU_AUTO;
    REQUIRE(card_rig_open(&r, path, N_TOK, FG_KV_CHOICE_AUTO, &o));
    fg_session *s = card_session(&r, 64);
    REQUIRE(s != NULL);
    CHECK(card_go_to(&r, s, N_TOK, 4));
    fg_session_destroy(&s);
    card_rig_close(&r);
}

FG_TEST(an_allocation_that_fails)
{
    char settings[32];
    (void)fg_test_tmpdir();
    CHECK(fake_card_run(NULL, convert) == 0);
    if (fg_test_failed() || access(fake_card_driver(), R_OK) != 0) return;
    (void)snprintf(path, sizeof path, "%s", model_file(TINY_DIR, "q4"));
    for (int n = 1; n < 24 && !fg_test_failed(); n += fg_test_every(1, 3)) {
        (void)snprintf(settings, sizeof settings, "oom=%d", n);
        CHECK(fake_card_run(settings, goes_on) == 0);
    }
}

static void no_room(void)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_err err = {0};
    fg_engine *e = NULL;
    fg_session *s = NULL;
    o.n_thread = 1;
    o.gpu = 0;
    o.gpu_bytes = 4 << 20;
    REQUIRE_OK(fg_engine_open(&e, path, &o, &err), &err);
    fg_session_opts so = fg_session_opts_default();
    so.n_ctx = 2048;
    so.kv = FG_KV_CHOICE_F32;
    so.n_batch = 512;
    fg_status st = fg_session_create(&s, e, &so, &err);
    uint32_t ids[512];
    card_prompt(ids, 512, fg_engine_shape(e)->n_vocab);
    if (st == FG_OK) st = fg_session_eval(s, ids, 512, NULL, NULL, &err);
    CHECK(st == FG_ENOMEM);
    CHECK(strstr(err.msg, "try a smaller context or batch, or --gpu off") != NULL);
    fg_session_destroy(&s);
    so.n_ctx = 64; /* less fits */
    so.n_batch = 4;
    CHECK_OK(fg_session_create(&s, e, &so, &err), &err);
    if (s != NULL) CHECK_OK(fg_session_eval(s, ids, 9, NULL, NULL, &err), &err);
    fg_session_destroy(&s);
    fg_engine_close(&e);
}

FG_TEST(too_little_memory)
{
    (void)fg_test_tmpdir();
    CHECK(fake_card_run(NULL, convert) == 0);
    if (fg_test_failed() || access(fake_card_driver(), R_OK) != 0) return;
    (void)snprintf(path, sizeof path, "%s", model_file(TINY_DIR, "q4"));
    CHECK(fake_card_run("devices=1", no_room) == 0);
}

/* ---- a device that cannot begin ---- */

static int n_begun, n_ended;

static void count_embeddings(void *ctx, int32_t layer, uint64_t pos, uint64_t n_tok, const float *x,
                             size_t stride)
{
    (void)pos, (void)n_tok, (void)x, (void)stride;
    if (layer == -1) ++*(int *)ctx;
}

static fg_status refuse(fg_device *d, fg_batch *b, fg_err *err)
{
    (void)d, (void)b;
    n_begun++;
    return fg_fail(err, FG_ENOMEM, "stub: no memory, expected some");
}

static fg_status end(fg_device *d, fg_err *err)
{
    (void)d, (void)err;
    n_ended++;
    return FG_OK;
}

static void keep_logits(void *ctx, uint64_t pos, const float *logits)
{
    float *last = ctx;
    (void)pos;
    *last = logits[1];
}

/* The last token's logit 1 after a pass of n rows, with this device. */
static float one_pass(fg_engine *e, const fg_model *m, fg_device *d, uint32_t n,
                      const fg_taps *taps)
{
    float last = 0.0f;
    uint32_t ids[16];
    fg_err err = {0};
    fg_state *st = NULL;
    fg_scratch *s = NULL;
    card_prompt(ids, 16, m->shape->n_vocab);
    CHECK_OK(fg_state_create(&st, m->shape, 64, FG_KV_INT8, NULL, &err), &err);
    CHECK_OK(fg_scratch_create(&s, m, 64, 16, fg_engine_n_thread(e), &err), &err);
    if (st != NULL && s != NULL) {
        const fg_seq q = {.st = st,
                          .n = n,
                          .logits_from = n - 1,
                          .on_logits = keep_logits,
                          .on_logits_ctx = &last,
                          .taps = taps};
        fg_batch b = {.m = m, .s = s, .seq = &q, .n_seq = 1, .ids = ids, .n_tok = n, .device = d};
        CHECK_OK(fg_forward(fg_engine_team(e), &b, &err), &err);
        CHECK_U64(st->pos, n);
    }
    fg_scratch_destroy(&s);
    fg_state_destroy(&st);
    return last;
}

FG_TEST(a_pass_that_cannot_begin_is_done_here)
{
    static const fg_device_ops ops = {.name = "stub", .begin = refuse, .end = end};
    fg_device stub = {&ops};
    fg_model *m = NULL;
    fg_err err = {0};
    fg_engine *e = model_open(TINY_DIR, "q4", 1, NULL); /* others fork */
    REQUIRE(e != NULL);
    REQUIRE_OK(fg_model_create(&m, fg_engine_file(e), fg_engine_cpu_flags(e), &err), &err);
    for (uint32_t n = 1; n <= 9; n += 8) {
        int n_shown = 0;
        const fg_taps taps = {.hidden = count_embeddings, .ctx = &n_shown};
        n_begun = n_ended = 0;
        const float want = one_pass(e, m, NULL, n, NULL), got = one_pass(e, m, &stub, n, &taps);
        CHECK(want != 0.0f && memcmp(&want, &got, sizeof want) == 0);
        CHECK(n_begun == 1 && n_ended == 1 && n_shown == 1);
    }
    fg_model_destroy(&m);
    fg_engine_close(&e);
}
