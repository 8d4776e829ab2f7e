/* SPDX-License-Identifier: MIT
 *
 * The path of a tile unit through the whole network, on any machine: activations kept in its order
 * too, and panel kernels that take them, here in C by way of the plain ones.  The logits are those
 * of the plain path, bit for bit.  The unit's own kernels are checkasm's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/convert.h"
#include "src/model/forward.h"
#include "src/sys/cpu.h"
#include "tests/fg_test.h"
#include "tests/models.h"

enum { N_TOK = 150, N_CTX = 256, N_BATCH = 140, N_THREAD = 2 };

static fg_kernels plain;
static _Atomic uint64_t n_call, n_few;
static bool wrong_row; /* negative control */

/* Rows are rebuilt from tiles, one at a time. */
static void through_plain(fg_panel_fn *fn, const uint8_t *panel, const float *row_scale,
                          const fg_lut *lut, const fg_act_tiles *act, size_t first, size_t n_tok,
                          size_t n_sb, float *y, size_t y_stride)
{
    fg_act128 *row = aligned_alloc(64, (n_sb * sizeof *row + 63) / 64 * 64);
    if (row == NULL) abort();
    n_call++;
    if (n_tok < FG_TILE_TOKENS || n_tok > FG_TILE_PASS) n_few++;
    for (size_t t = 0; t < n_tok; t++) {
        const size_t r = first + (wrong_row && t + 1 == n_tok ? t - 1 : t);
        memset(row, 0, n_sb * sizeof *row);
        for (size_t i = 0; i < n_sb; i++) {
            row[i].d = act->d[i * act->rows + r];
            memcpy(row[i].q, act->q + (2 * i * act->rows + r) * 64, 64);
            memcpy(row[i].q + 64, act->q + ((2 * i + 1) * act->rows + r) * 64, 64);
            for (size_t k = 0; k < FG_SB_COLS; k++) {
                int16_t *sum = &row[i].sum[k / FG_GROUP_COLS];
                *sum = (int16_t)(*sum + row[i].q[k]);
            }
        }
        fn(panel, row_scale, lut, row, n_sb * sizeof *row, 1, n_sb, y + t * y_stride, y_stride);
    }
    free(row);
}

#define TILES(name)                                                                                \
    static void tiles_##name(const uint8_t *panel, size_t n_panel, size_t panel_stride,            \
                             const float *row_scale, const fg_lut *lut, const fg_act_tiles *act,   \
                             size_t first, size_t n_tok, size_t n_sb, float *y, size_t y_stride)   \
    {                                                                                              \
        for (size_t p = 0; p < n_panel; p++) {                                                     \
            through_plain(plain.panel_##name, panel + p * panel_stride,                            \
                          row_scale + FG_PANEL_ROWS * p, lut, act, first, n_tok, n_sb,             \
                          y + FG_PANEL_ROWS * p, y_stride);                                        \
        }                                                                                          \
    }
TILES(q4)
TILES(q4lin)
TILES(q5)
TILES(q6)
TILES(q8)

static void set(fg_matrix *w)
{
    static fg_tiles_fn *const fn[FG_KIND_QUANTIZED] = {tiles_q4, tiles_q4lin, tiles_q5, tiles_q6,
                                                       tiles_q8};
    if (w->quantized) w->tiles_fn = fn[fg_qkind_of((uint32_t)w->type, w->lut)];
}

static void set_all(fg_model *m)
{
    m->forms.tiles = true;
    set(&m->lm_head);
    for (uint32_t l = 0; l < m->shape->n_layer; l++) {
        fg_layer *y = &m->layers[l];
        fg_matrix *const dense[] = {&y->qkv, &y->out_gate, &y->q, &y->k, &y->v, &y->out};
        for (size_t i = 0; i < sizeof dense / sizeof dense[0]; i++) set(dense[i]);
        for (uint32_t e = 0; e < m->shape->n_expert; e++) {
            set(&y->experts[e].gate);
            set(&y->experts[e].up);
            set(&y->experts[e].down);
        }
    }
}

static void take(void *ctx, uint64_t pos, const float *logits)
{
    float *out = ctx;
    memcpy(out + pos * 512, logits, 512 * sizeof *out); /* the first of the vocabulary */
}

/* Logits of N_TOK tokens: a batch of N_BATCH, the rest one by one. */
static bool eval(const char *path, bool tiles, float *out)
{
    fg_model_file *f = NULL;
    fg_model *m = NULL;
    fg_team *team = NULL;
    fg_state *st = NULL;
    fg_scratch *s = NULL;
    fg_err err = {0};
    uint32_t ids[N_TOK];
    for (uint32_t i = 0; i < N_TOK; i++) ids[i] = (i * 197 + 61) % 509;
    bool ok = fg_model_file_open(&f, path, &err) == FG_OK;
    ok = ok && fg_model_create(&m, f, fg_cpu_detect() & ~(uint32_t)FG_CPU_AMX, &err) == FG_OK;
    if (ok && tiles) set_all(m);
    ok = ok && fg_team_create(&team, N_THREAD, false, &err) == FG_OK;
    ok = ok && fg_state_create(&st, m->shape, N_CTX, FG_KV_INT8, NULL, &err) == FG_OK;
    ok = ok && fg_scratch_create(&s, m, N_CTX, N_BATCH, N_THREAD, &err) == FG_OK;
    ok = ok && (s->n.q_tiles.q != NULL) == tiles;
    for (uint32_t i = 0; ok && i < N_TOK; i += i == 0 ? N_BATCH : 1) {
        const uint32_t n = i == 0 ? N_BATCH : 1;
        const fg_seq seq = {
            .st = st, .n = n, .logits_from = 0, .on_logits = take, .on_logits_ctx = out};
        fg_batch b = {.m = m, .s = s, .seq = &seq, .n_seq = 1, .ids = ids + i, .n_tok = n};
        ok = fg_forward(team, &b, &err) == FG_OK;
    }
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s: %s", path, err.msg);
    fg_scratch_destroy(&s);
    fg_state_destroy(&st);
    fg_team_destroy(&team);
    fg_model_destroy(&m);
    fg_model_file_close(&f);
    return ok;
}

/* nano with rotated inputs of experts, too: both orders of both forms. */
static const char *rotated(void)
{
    static char out[300], recipe[320];
    (void)snprintf(out, sizeof out, "%s/tiles.fulgur", fg_test_tmpdir());
    (void)snprintf(recipe, sizeof recipe, "%s.recipe", out);
    FILE *f = fopen(recipe, "w");
    if (f == NULL || fputs("*.experts.*.w[13].weight q5+h\n*.qkv_proj.weight q6+h\n", f) < 0 ||
        fclose(f) != 0) {
        abort();
    }
    const fg_convert_opts o = {
        .src_dir = NANO_DIR, .out_path = out, .type = "q4", .recipe_path = recipe};
    fg_err err = {0};
    if (fg_convert(&o, NULL, &err) == FG_OK) return out;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return NULL;
}

FG_TEST(tiles_give_the_logits_of_rows)
{
    const size_t bytes = (size_t)N_TOK * 512 * sizeof(float);
    float *want = calloc(1, bytes), *got = calloc(1, bytes);
    const char *const path[] = {model_file(NANO_DIR, "q4"), rotated()};
    REQUIRE(want != NULL && got != NULL);
    fg_kernels_init(&plain, fg_cpu_detect());
    for (size_t i = 0; i < 2; i++) {
        REQUIRE(path[i] != NULL && eval(path[i], false, want));
        n_call = n_few = 0;
        REQUIRE(eval(path[i], true, got));
        CHECK(n_call > 0 && n_few == 0); /* none by the tokens that came alone */
        CHECK(memcmp(want, got, bytes) == 0);
        wrong_row = true; /* control */
        REQUIRE(eval(path[i], true, got));
        CHECK(memcmp(want, got, bytes) != 0);
        wrong_row = false;
    }
    free(want);
    free(got);
}
