/* SPDX-License-Identifier: MIT
 *
 * A conversation moves between the host and the card at any token, is marked, rewound, forked,
 * stopped and evaluated in company, and its logits are those of a plain run on the host.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/device/gpu_memory.h"
#include "src/engine/engine_impl.h"
#include "src/engine/memory.h"
#include "src/engine/saved.h"
#include "tests/device/fake_card.h"
#include "tests/fg_test.h"
#include "tests/hybrid/card_rig.h"
#include "tests/models.h"

static char path[PATH_MAX];
static uint64_t card_bytes; /* of the card that may be used */

static void convert(void)
{
    CHECK(model_file(TINY_DIR, "q4") != NULL);
}

static void with_card(void (*run)(void))
{
    (void)fg_test_tmpdir();
    CHECK(fake_card_run(NULL, convert) == 0);
    if (fg_test_failed() || access(fake_card_driver(), R_OK) != 0) return;
    (void)snprintf(path, sizeof path, "%s", model_file(TINY_DIR, "q4"));
    CHECK(fake_card_run("devices=1", run) == 0);
}

/* ---- below the session: passes on either side ---- */

typedef struct raw {
    card_rig r;
    fg_state *st;
    fg_scratch *s;
    bool same; /* all logits so far */
} raw;

static void compare(void *ctx, uint64_t pos, const float *logits)
{
    raw *w = ctx;
    const size_t n = w->r.n_vocab;
    w->same = w->same && memcmp(logits, w->r.want + pos * n, n * sizeof *logits) == 0;
}

/* A state that has nothing, on either side. */
static bool raw_state(raw *w, fg_kv_type kv)
{
    fg_engine *e = w->r.e;
    fg_err err = {0};
    fg_state_destroy(&w->st);
    fg_status st =
        fg_state_create(&w->st, e->model->shape, CARD_MOST, kv, fg_team_place(e->team), &err);
    if (st == FG_OK) st = e->device->ops->attach(e->device, w->st, w->s, &err);
    CHECK_OK(st, &err);
    w->same = true;
    return st == FG_OK;
}

static bool raw_open(raw *w, size_t n, fg_kv_type kv, fg_kv_choice choice, uint32_t nodes)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_err err = {0};
    *w = (raw){.same = true};
    o.n_thread = nodes > 1 ? 2 : 1;
    o.pretend_nodes = nodes;
    if (!card_rig_open(&w->r, path, n, choice, &o)) return false;
    const fg_model *m = w->r.e->model;
    CHECK_OK(fg_scratch_create(&w->s, m, CARD_MOST, 512, o.n_thread, &err), &err);
    return raw_state(w, kv) && !fg_test_failed();
}

static void raw_close(raw *w)
{
    fg_scratch_destroy(&w->s);
    fg_state_destroy(&w->st);
    card_rig_close(&w->r);
}

/* The text's next n tokens in one pass; true: all logits so far are the plain run's. */
static bool raw_eval(raw *w, uint32_t n, bool card)
{
    const fg_seq seq = {.st = w->st, .n = n, .on_logits = compare, .on_logits_ctx = w};
    fg_batch b = {.m = w->r.e->model,
                  .s = w->s,
                  .seq = &seq,
                  .n_seq = 1,
                  .ids = w->r.ids + w->st->pos,
                  .n_tok = n,
                  .device = card ? w->r.e->device : NULL};
    fg_err err = {0};
    CHECK_OK(fg_forward(w->r.e->team, &b, &err), &err);
    return w->same && err.code == FG_OK;
}

/* The next n one by one. */
static bool raw_steps(raw *w, uint32_t n, bool card)
{
    while (n-- > 0) {
        if (!raw_eval(w, 1, card)) return false;
    }
    return true;
}

#define SAME(call)                                                                                 \
    do {                                                                                           \
        if (!(call)) {                                                                             \
            fg_test_fail(__FILE__, __LINE__, "%s: other logits at %llu", #call,                    \
                         (unsigned long long)w.st->pos);                                           \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* Forth and back, at the begin, in and at the end of chunks of 64. */
static void hands_over(void)
{
    raw w;
    REQUIRE(raw_open(&w, 200, FG_KV_INT8, FG_KV_CHOICE_INT8, 1));
    SAME(raw_eval(&w, 5, true));
    SAME(raw_steps(&w, 1, false));
    SAME(raw_steps(&w, 2, true));
    SAME(raw_eval(&w, 9, false));
    SAME(raw_eval(&w, 46, false)); /* 63 */
    SAME(raw_steps(&w, 1, true));  /* fills the chunk */
    SAME(raw_steps(&w, 1, false)); /* folds it */
    SAME(raw_steps(&w, 1, true));
    SAME(raw_eval(&w, 62, false)); /* 128, not folded */
    SAME(raw_steps(&w, 2, true));  /* folds there */
    SAME(raw_steps(&w, 1, false));
    SAME(raw_eval(&w, 61, true)); /* 192 */
    SAME(raw_eval(&w, 5, false));
    /* back within the chunk, and another way forth */
    CHECK(fg_state_rewind(w.st, 193));
    SAME(raw_steps(&w, 1, true));
    CHECK(fg_state_rewind(w.st, 192));
    SAME(raw_eval(&w, 3, false));
    CHECK(fg_state_rewind(w.st, 194));
    SAME(raw_eval(&w, 6, true));
    raw_close(&w);
}

FG_TEST(hands_over_at_any_token)
{
    with_card(hands_over);
}

static void at_spans(fg_kv_type kv, fg_kv_choice choice, uint32_t nodes)
{
    raw w;
    REQUIRE(raw_open(&w, 1034, kv, choice, nodes));
    SAME(raw_eval(&w, 500, false));
    SAME(raw_eval(&w, 512, false)); /* 1012 */
    SAME(raw_eval(&w, 9, true));
    SAME(raw_steps(&w, 2, false));
    SAME(raw_steps(&w, 2, true)); /* 1025 */
    SAME(raw_steps(&w, 2, false));
    SAME(raw_eval(&w, 7, true));
    raw_close(&w);
}

static void spans_of_one_node(void)
{
    at_spans(FG_KV_F16, FG_KV_CHOICE_F16, 1);
}
static void spans_of_nodes(void)
{
    at_spans(FG_KV_INT8, FG_KV_CHOICE_INT8, 3);
    if (fg_test_long()) at_spans(FG_KV_F32, FG_KV_CHOICE_F32, 2);
}

FG_TEST(hands_over_across_spans)
{
    with_card(spans_of_one_node);
    with_card(spans_of_nodes);
}

/* What has to be brought, is: without, other logits come out. */
typedef enum lie { LIE_NONE, LIE_LIGHT_THERE, LIE_ROWS_THERE, LIE_LIGHT_HERE, LIE_ROWS_HERE } lie;

static bool with_lie(raw *w, lie what)
{
    const bool to_card = what == LIE_LIGHT_THERE || what == LIE_ROWS_THERE;
    if (!raw_state(w, FG_KV_INT8)) return false;
    if (!raw_eval(w, 9, true) || !raw_eval(w, 9, !to_card)) return false;
    if (what == LIE_LIGHT_THERE) w->st->light_there = true;
    if (what == LIE_ROWS_THERE) w->st->rows_there = UINT64_MAX;
    if (what == LIE_LIGHT_HERE) w->st->light_here = true;
    if (what == LIE_ROWS_HERE) w->st->rows_here = UINT64_MAX;
    return raw_eval(w, 1, to_card);
}

static void lies(void)
{
    raw w;
    REQUIRE(raw_open(&w, 19, FG_KV_INT8, FG_KV_CHOICE_INT8, 1));
    CHECK(with_lie(&w, LIE_NONE));
    for (lie i = LIE_LIGHT_THERE; i <= LIE_ROWS_HERE; i++) {
        CHECK(!with_lie(&w, i));
    }
    raw_close(&w);
}

FG_TEST(a_state_that_is_not_brought_is_seen) /* negative control */
{
    with_card(lies);
}

/* ---- sessions ---- */

static uint64_t back_to(fg_session *s, uint64_t pos)
{
    uint64_t at = UINT64_MAX;
    fg_err err = {0};
    CHECK_OK(fg_session_rewind(s, pos, &at, &err), &err);
    return at;
}

static void marks_and_forks(void)
{
    card_rig r;
    fg_err err = {0};
    REQUIRE(card_rig_open(&r, path, 140, FG_KV_CHOICE_AUTO, NULL));
    fg_session *a = card_session(&r, 100), *b = NULL;
    REQUIRE(a != NULL && card_go_to(&r, a, 70, 0));
    CHECK_OK(fg_session_mark(a, &err), &err);
    REQUIRE(card_go_to(&r, a, 72, 1));
    REQUIRE_OK(fg_session_fork(&b, a, &err), &err);
    CHECK(card_is_plain(&r, b));
    const uint32_t stray[3] = {1, 2, 3};
    CHECK_OK(fg_session_eval(a, stray, 3, NULL, NULL, &err), &err);
    CHECK(!card_is_plain(&r, a)); /* negative control */
    REQUIRE(card_go_to(&r, b, 74, 1));
    CHECK_U64(back_to(a, 71), 71); /* within the chunk */
    REQUIRE(card_go_to(&r, a, 73, 1));
    REQUIRE(card_go_to(&r, b, 135, 0));
    REQUIRE(card_go_to(&r, a, 131, 0));
    CHECK_U64(back_to(a, 100), 70); /* to the mark */
    REQUIRE(card_go_to(&r, a, 72, 1));
    REQUIRE(card_go_to(&r, a, 90, 0));
    REQUIRE(card_go_to(&r, b, 137, 1));
    fg_session_reset(b);
    REQUIRE(card_go_to(&r, b, 3, 0));
    fg_session_destroy(&b);
    fg_session_destroy(&a);
    card_rig_close(&r);
}

FG_TEST(marks_rewinds_and_forks)
{
    with_card(marks_and_forks);
}

/* Saved with the card, opened with it and without. */
static void saved(void)
{
    card_rig r;
    fg_err err = {0};
    fg_saved *k = NULL;
    fg_engine *host = NULL;
    char dir[600];
    (void)snprintf(dir, sizeof dir, "%.500s.sessions", path);
    REQUIRE(card_rig_open(&r, path, 140, FG_KV_CHOICE_AUTO, NULL));
    fg_session *a = card_session(&r, 100), *b = card_session(&r, 100);
    REQUIRE(a != NULL && b != NULL && card_go_to(&r, a, 70, 0));
    REQUIRE_OK(fg_saved_open(&k, a, dir, "card", NULL, &err), &err);
    CHECK_OK(fg_saved_save(k, NULL, 0, &err), &err);
    REQUIRE(card_go_to(&r, a, 129, 30));
    CHECK_OK(fg_saved_rewind(k, 80, &err), &err); /* from the snapshot, to the card */
    CHECK(card_is_plain(&r, a) && card_go_to(&r, a, 101, 20));
    CHECK_OK(fg_saved_save(k, NULL, 0, &err), &err);
    fg_saved_close(&k);
    CHECK_OK(fg_saved_open(&k, b, dir, "card", NULL, &err), &err);
    CHECK(fg_session_pos(b) == 101 && card_is_plain(&r, b) && card_go_to(&r, b, 105, 1));
    fg_saved_close(&k);
    fg_engine_opts o = fg_engine_opts_default();
    o.gpu = FG_GPU_OFF;
    o.n_thread = 1;
    REQUIRE_OK(fg_engine_open(&host, path, &o, &err), &err);
    fg_session *c = model_session(host, 140, 64);
    REQUIRE(c != NULL);
    CHECK_OK(fg_saved_open(&k, c, dir, "card", NULL, &err), &err);
    CHECK(fg_session_pos(c) == 101 && card_is_plain(&r, c) && card_go_to(&r, c, 131, 1));
    fg_saved_close(&k);
    fg_session_destroy(&a);
    fg_session_destroy(&b);
    fg_session_destroy(&c);
    fg_engine_close(&host);
    card_rig_close(&r);
    CHECK_OK(fg_saved_remove(dir, "card", &err), &err);
    CHECK(rmdir(dir) == 0);
}

FG_TEST(saved_with_the_card_and_opened_without)
{
    with_card(saved);
}

/* Two sessions at different places in one pass. */
static void in_company(void)
{
    static const size_t n[][2] = {{5, 3}, {1, 1}, {1, 1}, {40, 1}, {1, 66}, {1, 1}};
    card_rig r;
    fg_err err = {0};
    REQUIRE(card_rig_open(&r, path, 100, FG_KV_CHOICE_AUTO, NULL));
    fg_session *s[2] = {card_session(&r, 100), card_session(&r, 100)};
    REQUIRE(s[0] != NULL && s[1] != NULL);
    for (size_t i = 0; i < sizeof n / sizeof n[0]; i++) {
        fg_eval_item item[2];
        for (size_t k = 0; k < 2; k++) {
            item[k] =
                (fg_eval_item){.session = s[k], .ids = r.ids + fg_session_pos(s[k]), .n = n[i][k]};
        }
        REQUIRE_OK(fg_session_eval_many(item, 2, &err), &err);
        CHECK(card_is_plain(&r, s[0]) && card_is_plain(&r, s[1]));
        if (i == 2) REQUIRE(card_go_to(&r, s[1], fg_session_pos(s[1]) + 2, 1)); /* one alone */
    }
    fg_session_destroy(&s[0]);
    fg_session_destroy(&s[1]);
    card_rig_close(&r);
}

FG_TEST(two_sessions_in_one_pass)
{
    with_card(in_company);
}

/* More sessions in turns than tokens are kept as graphs of; one goes, another comes in its place.
 * */
static void in_turns(void)
{
    enum { N = 6 };
    card_rig r;
    REQUIRE(card_rig_open(&r, path, 12, FG_KV_CHOICE_AUTO, NULL));
    fg_session *s[N];
    for (size_t i = 0; i < N; i++) {
        s[i] = card_session(&r, 4);
        REQUIRE(s[i] != NULL && card_go_to(&r, s[i], 1 + i % 3, 0));
    }
    for (size_t turn = 0; turn < 12; turn++) {
        const size_t i = turn % (turn < 6 ? 2 : N);
        if (turn == 8) {
            fg_session_destroy(&s[i]);
            s[i] = card_session(&r, 4);
            REQUIRE(s[i] != NULL);
        }
        REQUIRE(card_go_to(&r, s[i], fg_session_pos(s[i]) + 1, 1));
    }
    for (size_t i = 0; i < N; i++) fg_session_destroy(&s[i]);
    card_rig_close(&r);
}

FG_TEST(sessions_in_turns)
{
    with_card(in_turns);
}

/* Stops at the k-th question. */
typedef struct stopper {
    int left;
} stopper;

static bool ask(void *ctx, size_t done, size_t total)
{
    stopper *k = ctx;
    (void)done;
    (void)total;
    return k->left-- > 0;
}

static void stops(void)
{
    card_rig r;
    fg_err err = {0};
    fg_session *s = NULL;
    int n_stopped = 0;
    REQUIRE(card_rig_open(&r, path, 100, FG_KV_CHOICE_AUTO, NULL));
    fg_session_opts o = fg_session_opts_default();
    o.n_ctx = CARD_MOST;
    o.n_batch = 64;
    o.stops = true;
    REQUIRE_OK(fg_session_create(&s, r.e, &o, &err), &err);
    fg_session_ask_always(s);
    REQUIRE(card_go_to(&r, s, 50, 0));
    for (int after = 0; after < 8; after += 1 + after / 2) {
        stopper k = {after};
        fg_session_set_progress(s, ask, &k);
        const fg_status st = fg_session_eval(s, r.ids + 50, 30, NULL, NULL, &err);
        fg_session_set_progress(s, NULL, NULL);
        if (st == FG_OK) break;
        CHECK(st == FG_ECANCEL);
        CHECK_U64(fg_session_pos(s), 50);
        n_stopped++;
        REQUIRE(card_go_to(&r, s, 52, 1)); /* and goes on */
        CHECK_U64(back_to(s, 50), 50);
    }
    CHECK(n_stopped >= 4);
    if (fg_session_pos(s) == 50) REQUIRE(card_go_to(&r, s, 90, 0));
    fg_session_destroy(&s);
    card_rig_close(&r);
}

FG_TEST(stopped_in_the_middle_and_goes_on)
{
    with_card(stops);
}

/* ---- what the card has need not be here ---- */

/* Bytes that a copy is without; *n_both: experts that the card has as well. */
static uint64_t bytes_left_out(fg_engine *e, uint32_t *n_both)
{
    const fg_shape *s = e->model->shape;
    uint64_t sum = 0;
    *n_both = 0;
    for (uint32_t k = 0; k < fg_slices_n_node(e->slices) && !fg_copy_has_products(e->copy); k++) {
        sum += fg_slices_products(e->slices, k);
    }
    for (uint32_t i = 0; i < s->n_layer * s->n_expert; i++) {
        const uint32_t l = i / s->n_expert, x = i % s->n_expert;
        *n_both += e->device->ops->has(e->device, l, x) && fg_copy_has(e->copy, l, x);
        for (uint32_t k = 0; k < fg_slices_n_node(e->slices) && !fg_copy_has(e->copy, l, x); k++) {
            sum += fg_slices_bytes(e->slices, l, x, k);
        }
    }
    return sum;
}

/* Bytes of the mapped file that are memory of this process. */
static uint64_t mapped_rss(void)
{
    char line[2 * PATH_MAX];
    unsigned long kib;
    uint64_t sum = 0;
    bool of_file = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strchr(line, '-') != NULL && strchr(line, '-') < strchr(line, ' ')) {
            of_file = strstr(line, path) != NULL;
        }
        if (of_file && sscanf(line, "Rss: %lu kB", &kib) == 1) sum += (uint64_t)kib << 10;
    }
    if (f != NULL) (void)fclose(f);
    return sum;
}

/* Of attention's first matrix, panels of node 1: nothing is in their place, and the host has them
 * where they are mapped. */
static void are_not_here(const fg_engine *e)
{
    const fg_matrix *m = &e->model->layers[0].qkv;
    const uint64_t at = fg_slices_panels(e->slices, m->tensor, 1);
    const uint8_t *p = fg_copy_area(e->copy, 1) + at, nothing[64] = {0};
    const fg_panel_run run = fg_weights_run(e->model->weights, m, FG_NO_LAYER, 1);
    CHECK(run.panels == m->panels && run.first == 0 && run.n == m->n_panel);
    CHECK(memcmp(p, nothing, sizeof nothing) == 0 && memcmp(run.panels, nothing, 64) != 0);
    const fg_panel_run router =
        fg_weights_run(e->model->weights, &e->model->layers[0].router, FG_NO_LAYER, 1);
    CHECK(router.panels != e->model->layers[0].router.panels);
    CHECK(memcmp(router.panels, e->model->layers[0].router.panels, 64) == 0);
}

/* A copy on three nodes, experts that change places, and a host that has to do all of it. */
static void copies_less(void)
{
    raw w = {.same = true};
    fg_engine_opts o = fg_engine_opts_default();
    fg_err err = {0};
    uint64_t all = 0, card = 0, products = 0;
    uint32_t n_both;
    o.n_thread = 2;
    o.pretend_nodes = 3;
    o.residency = FG_RESIDENCY_COPY;
    o.gpu_bytes = card_bytes;
    REQUIRE(card_rig_open(&w.r, path, 60, FG_KV_CHOICE_AUTO, &o));
    fg_engine *e = w.r.e;
    for (uint32_t k = 0; k < 3; k++) {
        products += fg_slices_products(e->slices, k);
        all += fg_slices_area(e->slices, k);
        card += fg_engine_placement(e)->node[k].card * FG_PAGE_BYTES;
    }
    const uint64_t less = bytes_left_out(e, &n_both);
    CHECK(less > 0 && n_both == 0 && less < all);
    CHECK_U64(fg_copy_read_bytes(e->copy), all - less);
    CHECK_U64(card, less);
    CHECK(!fg_copy_has_products(e->copy) && mapped_rss() < products);
    are_not_here(e);
    CHECK_OK(fg_scratch_create(&w.s, e->model, CARD_MOST, 512, 2, &err), &err);
    REQUIRE(raw_state(&w, FG_KV_INT8));
    fg_device_cuda_restless(e->device);
    SAME(raw_eval(&w, 20, true));
    SAME(raw_steps(&w, 12, true));
    (void)bytes_left_out(e, &n_both);
    CHECK_U64(n_both, 0); /* what came to the card meanwhile was given back here */
    SAME(raw_eval(&w, 17, false));
    SAME(raw_steps(&w, 3, false));
    (void)bytes_left_out(e, &n_both);
    CHECK(n_both > 0 && mapped_rss() >= products); /* control: the host has read what it needed */
    SAME(raw_steps(&w, 5, true));
    raw_close(&w);
}

/* ---- nor within a bound ---- */

/* Slots within the bound, and what is dense of it; the engine's. */
static uint32_t slots_of(fg_engine *e, uint64_t *dense)
{
    const fg_store_stats *st = fg_engine_store_stats(e);
    *dense = st->dense_bytes;
    CHECK(*dense + st->n_slot * st->slot_bytes + FG_MEMORY_PROGRAM <= e->ram_bytes);
    return st->n_slot;
}

/* The least bound with which the host could do it alone: with a card there are more slots, until it
 * has to. */
static void counts_less(void)
{
    raw w = {.same = true};
    fg_engine_opts o = fg_engine_opts_default();
    fg_err err = {0};
    fg_engine *host = NULL;
    uint64_t products = 0, dense, dense_host, dense_card;
    o.n_thread = 2;
    o.pretend_nodes = 3;
    o.gpu_bytes = card_bytes;
    REQUIRE_OK(fg_engine_open(&host, path, &o, &err), &err);
    o.ram_bytes = FG_MEMORY_PROGRAM + fg_store_least_of(host->file, host->slices);
    fg_engine_close(&host);
    REQUIRE_OK(fg_engine_open(&host, path, &o, &err), &err);
    const uint32_t alone = slots_of(host, &dense_host);
    fg_engine_close(&host);
    o.gpu = FG_GPU_AUTO; /* a card that is too small: as without */
    o.gpu_bytes = 1;
    REQUIRE_OK(fg_engine_open(&host, path, &o, &err), &err);
    CHECK(host->device == NULL && slots_of(host, &dense) == alone && dense == dense_host);
    fg_engine_close(&host);
    o.gpu = FG_GPU_OFF; /* the rig's */
    o.gpu_bytes = card_bytes;
    REQUIRE(card_rig_open(&w.r, path, 60, FG_KV_CHOICE_AUTO, &o));
    fg_engine *e = w.r.e;
    for (uint32_t k = 0; k < 3; k++) products += fg_slices_products(e->slices, k);
    const uint32_t more = slots_of(e, &dense_card);
    CHECK_U64(dense_host - dense_card, products);
    CHECK(more > alone && more <= fg_engine_store_stats(e)->n_total);
    CHECK_OK(fg_scratch_create(&w.s, e->model, CARD_MOST, 512, 2, &err), &err);
    REQUIRE(raw_state(&w, FG_KV_INT8));
    SAME(raw_eval(&w, 20, true));
    SAME(raw_steps(&w, 3, true));
    CHECK(slots_of(e, &dense) == more && dense == dense_card);
    SAME(raw_eval(&w, 17, false));
    CHECK(slots_of(e, &dense) == alone && dense == dense_host);
    SAME(raw_steps(&w, 3, false));
    SAME(raw_steps(&w, 5, true));
    CHECK(slots_of(e, &dense) == alone && dense == dense_host);
    raw_close(&w);
}

/* Memory of the card for some of the experts. */
static void find_card_bytes(void)
{
    card_rig r;
    fg_device_stats st = {.dense_bytes = 0};
    REQUIRE(card_rig_open(&r, path, 2, FG_KV_CHOICE_AUTO, NULL));
    fg_session *s = card_session(&r, 512);
    CHECK(s != NULL && card_go_to(&r, s, 2, 0) && fg_engine_device_stats(r.e, &st));
    fg_session_destroy(&s);
    card_rig_close(&r);
    card_bytes = FG_GPU_RESERVE_BYTES + st.dense_bytes + st.state_bytes + st.work_bytes +
                 st.resident_bytes / 3;
}

static void copies_less_of_some(void)
{
    find_card_bytes();
    if (!fg_test_failed()) copies_less();
    if (!fg_test_failed()) counts_less();
}

FG_TEST(what_the_card_has_is_not_copied)
{
    with_card(copies_less_of_some);
}

/* ---- hidden states ---- */

/* Embedding, layers and the final norm of some. */
enum { TAP_TOK = 12, TAP_LAYERS = 6, TAP_D = 64 };
typedef struct tapped {
    float x[TAP_LAYERS][TAP_TOK][TAP_D];
    size_t n;
} tapped;

static void keep(void *ctx, int32_t layer, uint64_t pos, uint64_t n_tok, const float *x,
                 size_t stride)
{
    tapped *t = ctx;
    for (uint64_t i = 0; i < n_tok; i++, t->n++) {
        memcpy(t->x[layer + 1][pos + i], x + i * stride, TAP_D * sizeof *x);
    }
}

static bool tap(tapped *t, fg_engine *e, const uint32_t *ids)
{
    static const size_t parts[] = {9, 1, 2};
    fg_session *s = e == NULL ? NULL : model_session(e, 100, 64);
    const fg_taps taps = {.hidden = keep, .ctx = t};
    fg_err err = {0};
    fg_status st = s == NULL ? FG_ENOMEM : FG_OK;
    if (st == FG_OK) fg_session_set_taps(s, &taps);
    for (size_t i = 0, at = 0; i < 3 && st == FG_OK; at += parts[i++]) {
        st = fg_session_eval(s, ids + at, parts[i], NULL, NULL, &err);
    }
    fg_session_destroy(&s);
    CHECK(t->n >= (size_t)TAP_TOK * (TAP_LAYERS - 1));
    return st == FG_OK;
}

static void taps(void)
{
    static tapped card, host;
    card_rig r;
    REQUIRE(card_rig_open(&r, path, 2, FG_KV_CHOICE_AUTO, NULL));
    const fg_shape *y = fg_engine_shape(r.e);
    REQUIRE(y->n_layer + 2 == TAP_LAYERS && y->d_model == TAP_D);
    fg_engine *e = model_open_file(path, 1, NULL);
    CHECK(tap(&card, r.e, r.ids) && tap(&host, e, r.ids));
    CHECK_U64(card.n, host.n);
    for (int l = 0; l < TAP_LAYERS; l++) {
        for (int t = 0; t < TAP_TOK; t++) {
            if (memcmp(card.x[l][t], host.x[l][t], sizeof host.x[l][t]) == 0) continue;
            fg_test_fail(__FILE__, __LINE__, "layer %d, token %d: other hidden state", l - 1, t);
            return;
        }
    }
    fg_engine_close(&e);
    card_rig_close(&r);
}

FG_TEST(hidden_states_are_equal)
{
    with_card(taps);
}

/* ---- whose an expert is, before the card has it ---- */

static const char *signed_keys;

static void convert_signed(void)
{
    CHECK(model_sign(NANO_DIR, fg_test_tmp("signed.fulgur"), &signed_keys));
}

static fg_status evaluate_signed(fg_err *err)
{
    static const uint32_t ids[] = {300};
    fg_engine *e = NULL;
    fg_engine_opts o = fg_engine_opts_default();
    o.n_thread = 1;
    o.gpu = 0;
    o.signers = signed_keys;
    fg_status st = fg_engine_open(&e, path, &o, err);
    fg_session *s = st == FG_OK ? model_session(e, 64, 1) : NULL;
    if (st == FG_OK) st = fg_session_eval(s, ids, 1, NULL, NULL, err);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return st;
}

static void checks_experts(void)
{
    fg_model_file *f = NULL;
    fg_err err = {0};
    REQUIRE_OK(fg_model_file_open(&f, path, &err), &err);
    /* all experts of so small a model are copied to the card with the first token */
    const uint64_t at = fg_model_file_expert_extent(f, 1, 20).offset;
    fg_model_file_close(&f);
    CHECK_OK(evaluate_signed(&err), &err);
    model_flip(path, at);
    CHECK(evaluate_signed(&err) == FG_ECHECKSUM && strstr(err.msg, "chunk ") != NULL);
    const char *keys = signed_keys;
    signed_keys = NULL; /* control: nobody asks */
    CHECK_OK(evaluate_signed(&err), &err);
    signed_keys = keys;
    model_flip(path, at);
}

FG_TEST(signed_experts)
{
    (void)fg_test_tmpdir();
    (void)snprintf(path, sizeof path, "%s", fg_test_tmp("signed.fulgur"));
    signed_keys = fg_test_tmp("keys");
    CHECK(fake_card_run(NULL, convert_signed) == 0);
    if (fg_test_failed() || access(fake_card_driver(), R_OK) != 0) return;
    CHECK(fake_card_run("devices=1", checks_experts) == 0);
}
