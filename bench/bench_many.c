/* SPDX-License-Identifier: MIT
 *
 * Products of many tokens on all workers, through the same blocking as a prefill, weights from
 * memory, beside what the unit does without the rest of the work.
 *
 * Every worker has panels of its own and its own clock: one that a neighbour slows down does not
 * hold up the others, as in a model, where the workers share out the panels.
 */
#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "bench/bench_impl.h"
#include "src/model/stages.h"
#include "src/sys/bandwidth.h"
#include "src/sys/cpu.h"
#include "src/sys/room.h"

enum {
    TURNS = 5,
    N_SB = FG_BENCH_MANY_COLS / FG_SB_COLS,
    MOST_TOK = 2048,
    GROUP = 16, /* panels of a worker; matmul.c keeps about as many in the second-level cache */
    PATTERN_STRIDE = N_SB * (int)sizeof(fg_act128), /* of plain rows */
    PATTERN_TOK = 512,
    TILES_TOK = 128,
    PATTERN_REPEATS = 8, /* times the walk: a run is then some milliseconds */
    PEAK_ROUNDS = 1 << 16,
};

typedef struct many_level {
    const char *name;
    fg_kernels k;
} many_level;

typedef enum many_what { PRODUCT, PEAK, PATTERN, PATTERN_TILES } many_what;

/* What is measured in turns. */
typedef struct many_item {
    const many_level *level;
    many_what what;
    uint32_t type, n_tok; /* of a product */
    double *gmacs;        /* where the result belongs */
} many_item;

enum { MAX_ITEMS = FG_BENCH_MANY_LEVELS * (FG_BENCH_TYPES * FG_BENCH_MANY_TOKS + 3) };

typedef struct many_job {
    many_level level[FG_BENCH_MANY_LEVELS];
    many_item item[MAX_ITEMS];
    size_t n_item;
    uint32_t n_worker;
    fg_acts x, y;
    float *scales;
    uint8_t *cold; /* panels */
    uint64_t cold_bytes;
    double *ns; /* [worker][item][TURNS] */
} many_job;

static void many_fill(fg_worker *w, void *arg)
{
    const many_job *j = arg;
    uint64_t begin, end;
    fg_worker_range(w, j->cold_bytes / FG_PAGE_BYTES, &begin, &end);
    fg_bench_fill(j->cold + begin * FG_PAGE_BYTES, (end - begin) * FG_PAGE_BYTES, w->idx + 1);
    fg_worker_range(w, MOST_TOK, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        fg_bench_fill(j->x.f + t * j->x.f_stride, j->x.f_stride * sizeof(float), t + 1);
        fg_acts_quantize(&j->level[0].k, &j->x, t, MOST_TOK);
    }
}

static double macs_of(const many_item *it)
{
    const double panel = FG_PANEL_ROWS * (double)FG_BENCH_MANY_COLS;
    switch (it->what) {
    case PRODUCT: return panel * GROUP * it->n_tok;
    case PATTERN: return panel * PATTERN_REPEATS * PATTERN_TOK;
    case PATTERN_TILES: return panel * PATTERN_REPEATS * TILES_TOK;
    case PEAK: break;
    }
    return (double)it->level->k.peak(1) * PEAK_ROUNDS;
}

/* The run `turn` of a product takes panels that none has touched for long. */
static void product(const many_job *j, const fg_worker *w, const many_item *it, uint64_t turn)
{
    const fg_qkind_info *t = &fg_qkinds[it->type];
    const fg_kernels *k = &it->level->k;
    const fg_matrix m = {
        .lut = t->lut,
        .panel_fn = fg_kernels_panel(k, t->type, t->lut),
        .tiles_fn = fg_kernels_tiles(k, t->type, t->lut),
        .panel_stride = fg_panel_bytes(t->type, FG_BENCH_MANY_COLS),
        .n_row = (uint64_t)j->n_worker * GROUP * FG_PANEL_ROWS,
        .n_col = FG_BENCH_MANY_COLS,
        .n_panel = (uint64_t)j->n_worker * GROUP,
        .n_sb = N_SB,
        .type = t->type,
        .quantized = true,
    };
    const uint64_t bytes = m.n_panel * m.panel_stride, begin = (uint64_t)w->idx * GROUP;
    const fg_panel_run run = {j->cold + turn % (j->cold_bytes / bytes) * bytes, j->scales, 0,
                              m.n_panel};
    fg_multiply_panels(&m, &run, &j->x, 0, it->n_tok, j->y.f + begin * FG_PANEL_ROWS, j->y.f_stride,
                       begin, begin + GROUP);
}

static void once(const many_job *j, const fg_worker *w, const many_item *it, uint64_t turn)
{
    const int8_t *q = (const int8_t *)(const void *)j->x.q;
    switch (it->what) {
    case PRODUCT: product(j, w, it, turn); break;
    case PEAK: (void)it->level->k.peak(PEAK_ROUNDS); break;
    case PATTERN:
        for (int i = 0; i < PATTERN_REPEATS; i++) {
            it->level->k.pattern(q, FG_SB_COLS / 2, PATTERN_STRIDE, PATTERN_TOK, N_SB);
        }
        break;
    case PATTERN_TILES:
        for (int i = 0; i < PATTERN_REPEATS; i++) {
            it->level->k.pattern(q, (size_t)TILES_TOK * FG_SB_COLS / 2, FG_SB_COLS / 2, TILES_TOK,
                                 N_SB);
        }
        break;
    }
}

static void many_run(fg_worker *w, void *arg)
{
    const many_job *j = arg;
    uint64_t n = 0;                             /* runs so far: each has its own panels */
    for (int turn = -1; turn < TURNS; turn++) { /* the first does not count */
        for (size_t i = 0; i < j->n_item; i++, n++) {
            fg_worker_sync(w);
            const uint64_t t0 = fg_clock_ns();
            once(j, w, &j->item[i], n);
            const double ns = (double)(fg_clock_ns() - t0);
            if (turn >= 0) j->ns[(w->idx * j->n_item + i) * TURNS + (size_t)turn] = ns;
        }
    }
}

/* The engine's level and those below it that have panels of their own. */
static fg_status find_levels(many_job *j, uint32_t flags, fg_bench_many *out, fg_err *err)
{
    for (int l = FG_CPU_LEVEL_COUNT - 1; l > FG_CPU_LEVEL_SCALAR; l--) {
        uint32_t of_level;
        if (fg_cpu_level_flags((fg_cpu_level)l, &of_level, err) != FG_OK) continue;
        if ((of_level & ~flags) != 0 || out->n_level == FG_BENCH_MANY_LEVELS) continue;
        many_level *to = &j->level[out->n_level];
        fg_kernels_init(&to->k, of_level);
        const fg_kernels *last = out->n_level == 0 ? NULL : &to[-1].k;
        if (last != NULL && to->k.panel[0] == last->panel[0] && to->k.tiles[0] == last->tiles[0]) {
            continue;
        }
        to->name = fg_cpu_level_name((fg_cpu_level)l);
        out->level[out->n_level++].name = to->name;
    }
    return FG_OK;
}

static void add_item(many_job *j, uint32_t level, many_what what, uint32_t type, uint32_t n_tok,
                     double *gmacs)
{
    j->item[j->n_item] = (many_item){.level = &j->level[level], .type = type, .n_tok = n_tok};
    j->item[j->n_item].gmacs = gmacs;
    j->item[j->n_item++].what = what;
}

static void list_items(many_job *j, fg_bench_many *out)
{
    static const uint32_t n_tok[FG_BENCH_MANY_TOKS] = {128, 512, MOST_TOK};
    memcpy(out->n_tok, n_tok, sizeof n_tok);
    for (uint32_t l = 0; l < out->n_level; l++) {
        for (uint32_t t = 0; t < FG_BENCH_TYPES; t++) {
            for (uint32_t i = 0; i < FG_BENCH_MANY_TOKS; i++) {
                add_item(j, l, PRODUCT, t, n_tok[i], &out->level[l].gmacs[t][i]);
            }
        }
        if (j->level[l].k.peak(1) != 0) add_item(j, l, PEAK, 0, 0, &out->level[l].peak);
        if (j->level[l].k.pattern == NULL) continue;
        add_item(j, l, PATTERN, 0, 0, &out->level[l].pattern);
        add_item(j, l, PATTERN_TILES, 0, 0, &out->level[l].pattern_tiles);
    }
}

static fg_status allocate_many(many_job *j, fg_err *err)
{
    const uint64_t one = (uint64_t)j->n_worker * GROUP * fg_panel_bytes_most(FG_BENCH_MANY_COLS);
    uint64_t bytes = fg_room_share(fg_bandwidth_default_bytes(), 8);
    if (bytes < one) bytes = one;
    fg_acts *x = &j->x, *y = &j->y;
    x->f_stride = FG_BENCH_MANY_COLS;
    x->q_stride = N_SB;
    y->f_stride = (size_t)j->n_worker * GROUP * FG_PANEL_ROWS;
    j->cold_bytes = fg_round_up(bytes, FG_PAGE_BYTES);
    j->cold = fg_mem_map((size_t)j->cold_bytes);
    j->scales = fg_mem_zalloc_array(y->f_stride, sizeof(float));
    j->ns = fg_mem_zalloc_array(j->n_worker * j->n_item, TURNS * sizeof *j->ns);
    x->f = fg_mem_zalloc_array(MOST_TOK, x->f_stride * sizeof(float));
    x->q = fg_mem_zalloc_array(MOST_TOK, x->q_stride * sizeof *x->q);
    y->f = fg_mem_zalloc_array(MOST_TOK, y->f_stride * sizeof(float));
    bool ok = j->cold != NULL && j->scales != NULL && j->ns != NULL && x->f != NULL &&
              x->q != NULL && y->f != NULL;
    if (j->level[0].k.tiles[0] != NULL) {
        x->q_tiles.rows = fg_tile_rows(MOST_TOK);
        x->q_tiles.q = fg_mem_zalloc_array(x->q_tiles.rows, FG_BENCH_MANY_COLS);
        x->q_tiles.d = fg_mem_zalloc_array(x->q_tiles.rows, N_SB * sizeof(float));
        ok = ok && x->q_tiles.q != NULL && x->q_tiles.d != NULL;
    }
    return ok ? FG_OK : fg_fail_nomem(err, "bench of many tokens");
}

fg_status fg_bench_measure_many(fg_bench *b, fg_bench_many *out, fg_err *err)
{
    many_job j = {.n_worker = fg_team_size(b->team)};
    *out = (fg_bench_many){0};
    FG_TRY(find_levels(&j, b->cpu_flags, out, err));
    if (out->n_level == 0) return FG_OK;
    list_items(&j, out);
    const fg_status st = allocate_many(&j, err);
    if (st == FG_OK) {
        fg_team_run(b->team, many_fill, &j);
        fg_team_run(b->team, many_run, &j);
        for (size_t i = 0; i < j.n_item; i++) {
            for (uint32_t w = 0; w < j.n_worker; w++) {
                *j.item[i].gmacs +=
                    macs_of(&j.item[i]) / fg_bench_median(j.ns + (w * j.n_item + i) * TURNS, TURNS);
            }
        }
    }
    fg_mem_unmap(j.cold, (size_t)j.cold_bytes);
    fg_mem_free(j.scales);
    fg_mem_free(j.ns);
    fg_mem_free(j.x.f);
    fg_mem_free(j.x.q);
    fg_mem_free(j.x.q_tiles.q);
    fg_mem_free(j.x.q_tiles.d);
    fg_mem_free(j.y.f);
    return st;
}
