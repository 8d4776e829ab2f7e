/* SPDX-License-Identifier: MIT
 *
 * Panel kernels.  Each variant against the scalar reference, bit for bit, over shapes at, below
 * and above the tiles; the reference against the packing rule of FORMAT.md as this file states it,
 * in exact integers (quantized types) or within the bound of its summation order (f32, bf16).
 * Broken kernels, compiled in, must be caught by the same comparison.
 */
#include "tests/checkasm/checkasm.h"

#include "src/base/fp.h"

enum {
    Q4LIN = FG_KIND_Q4LIN,
    Q6 = FG_KIND_Q6,
    N_KINDS = FG_KIND_COUNT,
    N_QUANTIZED = FG_KIND_QUANTIZED, /* the first of them */
};

typedef struct kind_info {
    const char *slot;
    fg_qtype type;
    int n_code;       /* number of codes */
    size_t group_len; /* bytes of a group */
    fg_packing packing;
    fg_value_grid grid;
} kind_info;

static const kind_info kinds[N_KINDS] = {
#define FG_QTYPE(id, name, value, pack, n, grid, ...)                                              \
    [FG_KIND_##id] = {"panel_" #name, FG_TYPE_##id,  n, (n) > 0 ? 64 * FG_PACK_##pack : 0,         \
                      FG_PACK_##pack, FG_GRID_##grid},
#define FG_QKIND(id, name, of, table)                                                              \
    [FG_KIND_##id] = {"panel_" #name, FG_TYPE_##of, 16, 256, FG_PACK_NIBBLES, FG_GRID_TABLE},
#include "quant/types.inc"
};

/* Inputs of one call.  Weights as signed values and group scales, so that the reference value
 * needs no unpacking; for f32 and bf16 as floats. */
typedef struct job {
    int kind;
    size_t n_tok, n_sb, act_stride, y_stride;
    guarded panel, row_scale, lut, act, y;
    int8_t *value; /* [16][128 * n_sb] */
    int8_t *scale; /* [16][4 * n_sb] */
    float *weight; /* [16][128 * n_sb] */
} job;

/* Integer input patterns, for weights and activations alike. */
enum { P_ZERO, P_MAX, P_MIN, P_ALTERNATE, P_ONE_HOT, P_UNIFORM, P_BELL, N_PATTERNS };

static int pattern(fg_rng *r, int kind, size_t i, int lo, int hi)
{
    switch (kind) {
    case P_ZERO: return lo <= 0 ? 0 : lo;
    case P_MAX: return hi;
    case P_MIN: return lo;
    case P_ALTERNATE: return i % 2 == 0 ? hi : lo;
    case P_ONE_HOT: return i % 61 == 7 ? hi : 0;
    case P_UNIFORM: return lo + (int)(fg_rng_u64(r) % (uint64_t)(hi - lo + 1));
    default: {
        const int v = (int)lrint(normal_of(r) * (hi - lo) / 8.0);
        return v < lo ? lo : v > hi ? hi : v;
    }
    }
}

/* By FORMAT.md 6; the group is all zeros before. */
static void put_code(int kind, uint8_t *group, size_t r, size_t k, unsigned code)
{
    const size_t half = k / 16, j = k % 16 / 4, b = k % 4;
    switch (kinds[kind].packing) {
    case FG_PACK_BYTES: group[64 * (k / 4) + 4 * r + k % 4] = (uint8_t)code; return;
    case FG_PACK_NIBBLES_1: group[256 + 4 * r + b] |= (uint8_t)((code >> 4) << (k / 4)); break;
    case FG_PACK_NIBBLES_2:
        group[256 + 64 * half + 4 * r + b] |= (uint8_t)((code >> 4) << (2 * j));
        break;
    case FG_PACK_NIBBLES:
    case FG_PACK_BF16:
    case FG_PACK_F32: break;
    }
    group[64 * j + 4 * r + b] |= (uint8_t)((code & 15u) << (4 * half));
}

/* Of the code that is `above` the lowest one. */
static int value_of(int kind, const fg_lut *lut, int above)
{
    switch (kinds[kind].grid) {
    case FG_GRID_TABLE: return lut->v[above];
    case FG_GRID_OFFSET:
    case FG_GRID_INT8: return above - kinds[kind].n_code / 2;
    case FG_GRID_NONE: break;
    }
    return 0;
}

static void make_int_weights(job *j, fg_rng *rng, int pat, int scale_pat)
{
    const size_t n_col = 128 * j->n_sb, glen = kinds[j->kind].group_len;
    const fg_lut *lut = (const fg_lut *)(const void *)j->lut.p;
    memset(j->panel.p, 0, j->n_sb * (64 + 4 * glen));
    const int n_code = kinds[j->kind].n_code;
    for (size_t r = 0; r < 16; r++) {
        for (size_t g = 0; g < 4 * j->n_sb; g++) {
            uint8_t *sb = j->panel.p + g / 4 * (64 + 4 * glen);
            const int s = pattern(rng, scale_pat, g + r, -128, 127);
            j->scale[r * 4 * j->n_sb + g] = (int8_t)s;
            sb[4 * r + g % 4] = (uint8_t)s;
            for (size_t k = 0; k < 32; k++) {
                const int zero = n_code / 2;
                int code = zero + pattern(rng, pat, r + 32 * g + k, -zero, zero - 1);
                const bool is_int8 = kinds[j->kind].grid == FG_GRID_INT8;
                if (is_int8 && code == 0) code = 1; /* -127..127 */
                put_code(j->kind, sb + 64 + glen * (g % 4), r, k,
                         (unsigned)(is_int8 ? code - zero : code) & 0xffu);
                j->value[r * n_col + 32 * g + k] = (int8_t)value_of(j->kind, lut, code);
            }
        }
    }
}

static void make_float_weights(job *j, fg_rng *rng, int input)
{
    const size_t n_col = 128 * j->n_sb;
    fill_floats(rng, input, j->weight, 16 * n_col);
    for (size_t r = 0; r < 16; r++) {
        for (size_t k = 0; k < n_col; k++) {
            float *w = &j->weight[r * n_col + k];
            if (kinds[j->kind].packing == FG_PACK_BF16) {
                const uint16_t h = fg_f32_to_bf16(*w);
                *w = fg_bf16_to_f32(h);
                memcpy(j->panel.p + 2 * (16 * k + r), &h, sizeof h);
            } else {
                memcpy(j->panel.p + 4 * (16 * k + r), w, sizeof *w);
            }
        }
    }
}

static fg_act128 *act_of(const job *j, size_t t)
{
    return (fg_act128 *)(void *)(j->act.p + t * j->act_stride);
}

static void make_int_acts(job *j, fg_rng *rng, int pat)
{
    for (size_t t = 0; t < j->n_tok; t++) {
        for (size_t i = 0; i < j->n_sb; i++) {
            fg_act128 *a = &act_of(j, t)[i];
            memset(a, 0, sizeof *a);
            a->d = (float)(0.001 + fg_rng_f64(rng));
            if (pat == P_BELL && i == 1) a->d = 0x1.8p-130f;
            for (size_t k = 0; k < 128; k++) {
                a->q[k] = (int8_t)pattern(rng, pat, k + i + t, -127, 127);
                a->sum[k / 32] = (int16_t)(a->sum[k / 32] + a->q[k]);
            }
        }
    }
}

static void make_job(job *j, int kind, size_t n_tok, size_t n_sb)
{
    const bool is_float = kinds[kind].group_len == 0;
    const size_t row = n_sb * (is_float ? 512 : sizeof(fg_act128));
    *j = (job){.kind = kind, .n_tok = n_tok, .n_sb = n_sb};
    j->act_stride = row + 48; /* rows only 16-byte aligned, more than needed apart */
    if (n_tok % 2 == 0) j->act_stride = row;
    j->y_stride = n_tok % 3 == 0 ? 16 : 48;
    j->panel = guard_alloc((size_t)fg_panel_bytes(kinds[kind].type, 128 * n_sb));
    j->row_scale = guard_alloc(64);
    j->lut = guard_alloc(16);
    j->act = guard_alloc((n_tok - 1) * j->act_stride + row);
    j->y = guard_alloc(4 * ((n_tok - 1) * j->y_stride + 16));
    j->value = calloc(16 * 128 * n_sb, 1);
    j->scale = calloc(16 * 4 * n_sb, 1);
    j->weight = calloc(16 * 128 * n_sb, sizeof(float));
    if (j->value == NULL || j->scale == NULL || j->weight == NULL) abort();
}

static void fill_job(job *j, uint64_t seed, int weights, int scales, int acts)
{
    fg_rng rng;
    fg_rng_init(&rng, seed);
    float rs[16];
    for (int r = 0; r < 16; r++) rs[r] = (float)(0.01 + fg_rng_f64(&rng));
    memcpy(j->row_scale.p, rs, sizeof rs);
    const fg_lut *lut = fg_qkinds[j->kind].lut;
    memcpy(j->lut.p, lut != NULL ? lut : &fg_lut_grid6, 16);
    const bool any_table =
        lut != NULL && fg_qtype_get(kinds[j->kind].type)->kind == (fg_qkind)j->kind;
    if (any_table && weights == P_UNIFORM) { /* the widest table that is allowed */
        int8_t v[16] = {-32, -31, -30, -20, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 30, 31};
        memcpy(j->lut.p, v, 16);
    }
    if (kinds[j->kind].group_len != 0) {
        make_int_weights(j, &rng, weights, scales);
        make_int_acts(j, &rng, acts);
        return;
    }
    make_float_weights(j, &rng, weights);
    for (size_t t = 0; t < j->n_tok; t++) {
        fill_floats(&rng, acts, (float *)(void *)act_of(j, t), 128 * j->n_sb);
    }
}

static void free_job(job *j)
{
    guard_free(&j->panel);
    guard_free(&j->row_scale);
    guard_free(&j->lut);
    guard_free(&j->act);
    guard_free(&j->y);
    free(j->value);
    free(j->scale);
    free(j->weight);
}

/* Runs fn; *out gets n_tok rows of 16.  False when it faulted or wrote outside its rows. */
static bool run_job(job *j, fg_panel_fn *fn, float *out)
{
    const size_t n = (j->n_tok - 1) * j->y_stride + 16;
    bool faulted;
    float *y = (float *)(void *)j->y.p;
    memset(y, 0xa5, 4 * n);
    RUN_CAUGHT(faulted, fn(j->panel.p, (const float *)(const void *)j->row_scale.p,
                           (const fg_lut *)(const void *)j->lut.p, j->act.p, j->act_stride,
                           j->n_tok, j->n_sb, y, j->y_stride));
    if (faulted) return false;
    for (size_t i = 0, at = 0; i < 4 * n; i++) {
        if (at >= 16 && j->y.p[i] != 0xa5) return false;
        if (i % 4 == 3 && ++at == j->y_stride) at = 0;
    }
    for (uint8_t *p = j->y.map; p < j->y.p; p++) {
        if (*p != 0) return false; /* in front of the buffer */
    }
    for (size_t t = 0; t < j->n_tok; t++) memcpy(out + 16 * t, y + t * j->y_stride, 64);
    return true;
}

/* Slot panel_TYPE or tiles_TYPE. */
static bool is_of_kind(const variant *v, int kind)
{
    return (strcmp(v->type, "panel") == 0 || strcmp(v->type, "tiles") == 0) &&
           strcmp(strchr(v->slot, '_'), strchr(kinds[kind].slot, '_')) == 0;
}

/* Kernels of a tile unit behind the contract of the plain ones: the rows of the call are put in the
 * order of tiles, behind `FIRST` others, in memory that ends with the last of them, and the panel
 * is one of several, of which the others are filled with bytes of no meaning. */
static fg_tiles_fn *tiles_base;
static size_t tiles_group_len; /* of the kind */
static uint32_t tiles_call;    /* so that panels differ in number and place from call to call */
static void in_tiles(const uint8_t *panel, const float *row_scale, const fg_lut *lut,
                     const void *act, size_t act_stride, size_t n_tok, size_t n_sb, float *y,
                     size_t y_stride)
{
    enum { FIRST = 3, GAP = 64 };
    const size_t n_panel = 1 + tiles_call % 6, which = tiles_call / 6 % n_panel;
    const size_t bytes = n_sb * (64 + 4 * tiles_group_len), stride = bytes + GAP,
                 width = 16 * n_panel;
    fg_act_tiles a = {.rows = FIRST + n_tok};
    guarded q = guard_alloc(2 * n_sb * a.rows * 64), d = guard_alloc(n_sb * a.rows * sizeof *a.d);
    guarded w = guard_alloc((n_panel - 1) * stride + bytes), s = guard_alloc(width * sizeof(float)),
            out = guard_alloc(n_tok * width * sizeof(float));
    tiles_call++;
    a.q = (int8_t *)q.p;
    a.d = (float *)(void *)d.p;
    memset(q.p, 0x55, 2 * n_sb * a.rows * 64);
    for (size_t t = 0; t < n_tok; t++) {
        const fg_act128 *b = (const void *)((const uint8_t *)act + t * act_stride);
        for (size_t i = 0; i < n_sb; i++) {
            memcpy(a.q + (2 * i * a.rows + FIRST + t) * 64, b[i].q, 64);
            memcpy(a.q + ((2 * i + 1) * a.rows + FIRST + t) * 64, b[i].q + 64, 64);
            a.d[i * a.rows + FIRST + t] = b[i].d;
        }
    }
    memset(w.p, 0x5a, (n_panel - 1) * stride + bytes);
    memset(s.p, 0, width * sizeof(float));
    memcpy(w.p + which * stride, panel, bytes);
    memcpy(s.p + 64 * which, row_scale, 64);
    tiles_base(w.p, n_panel, stride, (const float *)(const void *)s.p, lut, &a, FIRST, n_tok, n_sb,
               (float *)(void *)out.p, width);
    for (size_t t = 0; t < n_tok; t++) {
        memcpy(y + t * y_stride, out.p + (t * width + 16 * which) * sizeof(float), 64);
    }
    guard_free(&q);
    guard_free(&d);
    guard_free(&w);
    guard_free(&s);
    guard_free(&out);
}

static fg_panel_fn *plain_fn(const variant *v)
{
    if (strcmp(v->type, "tiles") != 0) return (fg_panel_fn *)v->fn;
    tiles_base = (fg_tiles_fn *)v->fn;
    for (int kind = 0; kind < N_KINDS; kind++) {
        if (is_of_kind(v, kind)) tiles_group_len = kinds[kind].group_len;
    }
    return in_tiles;
}

/* What the reference makes of this job, to be freed. */
static float *wanted(job *j)
{
    float *want = calloc(16 * j->n_tok, 4);
    if (want == NULL) abort();
    if (!run_job(j, (fg_panel_fn *)reference_of(kinds[j->kind].slot)->fn, want)) {
        fg_test_fail(__FILE__, __LINE__, "%s: reference faulted", kinds[j->kind].slot);
    }
    return want;
}

static bool gives(job *j, fg_panel_fn *fn, const float *want)
{
    float *got = calloc(16 * j->n_tok, 4);
    if (got == NULL) abort();
    const bool ok = run_job(j, fn, got) && same_floats(want, got, 16 * j->n_tok);
    free(got);
    return ok;
}

/* The comparison under test: variant against reference on this job. */
static bool agrees(job *j, fg_panel_fn *fn)
{
    float *want = wanted(j);
    const bool ok = gives(j, fn, want);
    free(want);
    return ok;
}

static void check_variants(job *j, const char *what)
{
    float *want = wanted(j);
    for (size_t i = 0; i < N_VARIANTS; i++) {
        const variant *v = &variants[i];
        if (!is_of_kind(v, j->kind) || v->features == 0 || !runnable(v)) continue;
        if (!gives(j, plain_fn(v), want)) {
            fg_test_fail(__FILE__, __LINE__,
                         "%s: differs from the reference, n_tok %zu n_sb %zu %s", v->name, j->n_tok,
                         j->n_sb, what);
        }
    }
    free(want);
}

/* Reference against exact integers: |y - y_exact| within gamma(n_sb + 1) of the absolute sum, and
 * with one block of scale 1 exactly the integer. */
static void check_reference_int(job *j)
{
    float *y = calloc(16 * j->n_tok, 4);
    const size_t n_col = 128 * j->n_sb;
    if (y == NULL) abort();
    CHECK(run_job(j, (fg_panel_fn *)reference_of(kinds[j->kind].slot)->fn, y));
    const float *rs = (const float *)(const void *)j->row_scale.p;
    for (size_t t = 0; t < j->n_tok; t++) {
        for (size_t r = 0; r < 16; r++) {
            double exact = 0.0, size = 0.0;
            for (size_t i = 0; i < j->n_sb; i++) {
                const fg_act128 *a = &act_of(j, t)[i];
                int64_t isum = 0;
                for (size_t k = 0; k < 128; k++) {
                    isum += (int64_t)j->scale[r * 4 * j->n_sb + 4 * i + k / 32] * a->q[k] *
                            j->value[r * n_col + 128 * i + k];
                }
                exact += (double)isum * (double)a->d;
                size += fabs((double)isum * (double)a->d);
            }
            const double tol = gamma_of((double)j->n_sb + 2.0) * size * (double)rs[r] + 0x1p-148;
            CHECK_NEAR((double)y[16 * t + r], exact * (double)rs[r], tol);
            if (j->n_sb == 1 && act_of(j, t)->d == 1.0f && rs[r] == 1.0f) {
                CHECK(y[16 * t + r] == (float)exact);
            }
        }
    }
    free(y);
}

static void check_reference_float(job *j)
{
    float *y = calloc(16 * j->n_tok, 4);
    const size_t n_col = 128 * j->n_sb;
    if (y == NULL) abort();
    CHECK(run_job(j, (fg_panel_fn *)reference_of(kinds[j->kind].slot)->fn, y));
    for (size_t t = 0; t < j->n_tok; t++) {
        const float *x = (const float *)(const void *)act_of(j, t);
        for (size_t r = 0; r < 16; r++) {
            double exact = 0.0, size = 0.0;
            for (size_t k = 0; k < n_col; k++) {
                const double p = (double)x[k] * (double)j->weight[r * n_col + k];
                exact += p;
                size += fabs(p);
            }
            const double tol = gamma_of(128.0 + (double)j->n_sb) * size + (double)n_col * 0x1p-149;
            CHECK_NEAR((double)y[16 * t + r], exact, tol);
        }
    }
    free(y);
}

static const size_t token_counts[] = {1,  2,  3,  4,  5,  6,  7,  8,   9,  12,
                                      15, 16, 17, 33, 48, 64, 67, 131, 259};

static void check_kind(int kind)
{
    const bool is_float = kinds[kind].group_len == 0;
    const int n_pat = is_float ? N_INPUTS : N_PATTERNS;
    /* all pairs on small jobs, the diagonal on large ones */
    const size_t few = fg_test_long() ? 9 : 4, many = fg_test_long() ? SIZE_MAX : 67;
    uint64_t seed = 1000 * (uint64_t)kind;
    for (size_t c = 0; c < sizeof token_counts / sizeof token_counts[0]; c++) {
        for (size_t n_sb = token_counts[c] > many ? 3 : 1; n_sb <= 3; n_sb++) {
            job j;
            make_job(&j, kind, token_counts[c], n_sb);
            for (int w = 0; w < n_pat && !fg_test_failed(); w++) {
                for (int a = 0; a < n_pat; a++) {
                    if (token_counts[c] > few && w != a) continue;
                    const int s = (w + 3 * a + (int)n_sb) % N_PATTERNS;
                    char what[64];
                    (void)snprintf(what, sizeof what, "inputs %d %d %d seed %llu", w, s, a,
                                   (unsigned long long)seed);
                    fill_job(&j, seed++, w, s, a);
                    check_variants(&j, what);
                    if (token_counts[c] > 4) continue;
                    if (!is_float) check_reference_int(&j);
                    if (is_float && w < N_FINITE && a < N_FINITE) check_reference_float(&j);
                }
            }
            free_job(&j);
        }
    }
    const size_t big[][2] = {{1, 48}, {5, 48}, {64, 48}, {1, 72}, {3, 72}, {66, 72}};
    for (size_t i = 0; i < sizeof big / sizeof big[0]; i++) {
        job j;
        make_job(&j, kind, big[i][0], big[i][1]);
        fill_job(&j, seed++, is_float ? IN_NORMAL : P_BELL, P_UNIFORM,
                 is_float ? IN_NORMAL : P_UNIFORM);
        check_variants(&j, "model size");
        if (is_float && big[i][0] < 10) check_reference_float(&j);
        if (!is_float && big[i][0] < 10) check_reference_int(&j);
        free_job(&j);
    }
}

#define FG_QTYPE(id, name, ...)                                                                    \
    FG_TEST(panel_##name)                                                                          \
    {                                                                                              \
        check_kind(FG_KIND_##id);                                                                  \
    }
#define FG_QKIND(id, name, ...) FG_QTYPE(id, name, )
#include "quant/types.inc"

FG_TEST(exact_integers_at_unit_scale)
{
    for (int kind = 0; kind < N_QUANTIZED; kind++) {
        for (int w = 0; w < N_PATTERNS; w++) {
            job j;
            const float one[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
            make_job(&j, kind, 3, 1);
            fill_job(&j, (uint64_t)w, w, P_MIN, w == P_ZERO ? P_MAX : w);
            memcpy(j.row_scale.p, one, sizeof one);
            for (size_t t = 0; t < 3; t++) act_of(&j, t)->d = 1.0f;
            check_reference_int(&j);
            check_variants(&j, "unit scales");
            free_job(&j);
        }
    }
}

FG_TEST(nan_scale_gives_nan)
{
    for (int kind = 0; kind < N_QUANTIZED; kind++) {
        job j;
        float y[5 * 16];
        make_job(&j, kind, 5, 3);
        fill_job(&j, 9, P_UNIFORM, P_UNIFORM, P_UNIFORM);
        memset(&act_of(&j, 1)[1], 0, sizeof(fg_act128));
        act_of(&j, 1)[1].d = NAN;
        check_variants(&j, "NaN block");
        CHECK(run_job(&j, (fg_panel_fn *)reference_of(kinds[kind].slot)->fn, y));
        CHECK(y[15] == y[15] && y[16] != y[16] && y[31] != y[31] && y[32] == y[32]);
        free_job(&j);
    }
}

FG_TEST(gemm_equals_gemv)
{
    for (size_t i = 0; i < N_VARIANTS; i++) {
        const variant *v = &variants[i];
        int kind = 0;
        while (kind < N_KINDS && !is_of_kind(v, kind)) kind++;
        if (kind == N_KINDS || !runnable(v)) continue;
        fg_panel_fn *const fn = plain_fn(v);
        const bool is_float = kinds[kind].group_len == 0;
        job j;
        float all[13 * 16], one[16];
        make_job(&j, kind, 13, 3);
        fill_job(&j, i, is_float ? IN_NORMAL : P_UNIFORM, P_UNIFORM,
                 is_float ? IN_NORMAL : P_UNIFORM);
        CHECK(run_job(&j, fn, all));
        for (size_t t = 0; t < 13; t++) {
            job k = j;
            k.n_tok = 1;
            k.act.p += t * j.act_stride;
            fn(k.panel.p, (const float *)(const void *)k.row_scale.p,
               (const fg_lut *)(const void *)k.lut.p, k.act.p, k.act_stride, 1, 3, one, 16);
            CHECK(same_floats(one, all + 16 * t, 16));
        }
        free_job(&j);
    }
}

/* ---- negative controls: kernels with one fault each, built on the reference ----------------- */

#define BROKEN_ARGS                                                                                \
    const uint8_t *panel, const float *row_scale, const fg_lut *lut, const void *act,              \
        size_t act_stride, size_t n_tok, size_t n_sb, float *y, size_t y_stride

static fg_panel_fn *broken_base;
static size_t broken_group;

static uint8_t *copy_panel(const uint8_t *panel, size_t n_sb)
{
    const size_t n = n_sb * (64 + 4 * broken_group);
    uint8_t *p = aligned_alloc(64, n);
    if (p == NULL) abort();
    memcpy(p, panel, n);
    return p;
}

static void drops_last_superblock(BROKEN_ARGS)
{
    broken_base(panel, row_scale, lut, act, act_stride, n_tok, n_sb - 1, y, y_stride);
}

static void swaps_nibbles(BROKEN_ARGS)
{
    uint8_t *p = copy_panel(panel, n_sb);
    for (size_t i = 0; i < n_sb * 4; i++) {
        uint8_t *group = p + i / 4 * (64 + 4 * broken_group) + 64 + i % 4 * broken_group;
        for (size_t b = 0; b < 256; b++) group[b] = (uint8_t)(group[b] << 4 | group[b] >> 4);
    }
    broken_base(p, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
    free(p);
}

static void forgets_group_scale(BROKEN_ARGS)
{
    uint8_t *p = copy_panel(panel, n_sb);
    for (size_t i = 0; i < n_sb; i++) memset(p + i * (64 + 4 * broken_group), 1, 64);
    broken_base(p, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
    free(p);
}

static void drops_last_group(BROKEN_ARGS)
{
    uint8_t *p = copy_panel(panel, n_sb);
    for (size_t r = 0; r < 16; r++) p[(n_sb - 1) * (64 + 4 * broken_group) + 4 * r + 3] = 0;
    broken_base(p, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
    free(p);
}

static void shifts_rows(BROKEN_ARGS)
{
    broken_base(panel, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
    for (size_t t = 0; t < n_tok; t++) {
        float *row = y + t * y_stride, last = row[15];
        memmove(row + 1, row, 15 * sizeof *row);
        row[0] = last;
    }
}

static void drops_last_token(BROKEN_ARGS)
{
    broken_base(panel, row_scale, lut, act, act_stride, n_tok - 1, n_sb, y, y_stride);
}

static void multiplies_row_scale_first(BROKEN_ARGS) /* one rounding elsewhere: must show too */
{
    float one[16];
    for (int r = 0; r < 16; r++) one[r] = 1.0f;
    for (size_t t = 0; t < n_tok; t++) {
        float *row = y + t * y_stride, sum[16] = {0};
        for (size_t i = 0; i < n_sb; i++) {
            broken_base(panel + i * (64 + 4 * broken_group), one, lut,
                        (const uint8_t *)act + t * act_stride + i * sizeof(fg_act128), act_stride,
                        1, 1, row, 16);
            for (int r = 0; r < 16; r++) sum[r] += row[r] * row_scale[r];
        }
        memcpy(row, sum, sizeof sum);
    }
}

static void writes_past_row(BROKEN_ARGS)
{
    broken_base(panel, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
    y[16] = 0.0f;
}

static void reads_past_panel(BROKEN_ARGS)
{
    volatile uint8_t sink = panel[n_sb * (64 + 4 * broken_group)];
    (void)sink;
    broken_base(panel, row_scale, lut, act, act_stride, n_tok, n_sb, y, y_stride);
}

static fg_panel_fn *const broken[] = {
    drops_last_superblock, swaps_nibbles,    forgets_group_scale,
    drops_last_group,      shifts_rows,      drops_last_token,
    writes_past_row,       reads_past_panel, multiplies_row_scale_first,
};

FG_TEST(broken_kernels_are_caught)
{
    for (int kind = 0; kind < N_QUANTIZED; kind++) {
        broken_base = (fg_panel_fn *)reference_of(kinds[kind].slot)->fn;
        broken_group = kinds[kind].group_len;
        job j;
        make_job(&j, kind, 5, 48);
        fill_job(&j, 77, P_UNIFORM, P_UNIFORM, P_UNIFORM);
        CHECK(agrees(&j, broken_base));
        for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
            if (agrees(&j, broken[i])) {
                fg_test_fail(__FILE__, __LINE__, "%s: broken kernel %zu was not caught",
                             kinds[kind].slot, i);
            }
        }
        free_job(&j);
    }
}

static void wrong_offset(BROKEN_ARGS)
{
    fg_lut shifted = *lut;
    for (int c = 0; c < 16; c++) shifted.v[c] = (int8_t)(shifted.v[c] + 1);
    ((fg_panel_fn *)reference_of("panel_q4")->fn)(panel, row_scale, &shifted, act, act_stride,
                                                  n_tok, n_sb, y, y_stride);
}

/* q6 the way of a kernel that adds four quads in int16, twice what fits: only inputs near the
 * ends of both ranges show it, so this checks that the patterns get there. */
static void overflows_int16(BROKEN_ARGS)
{
    (void)lut;
    (void)n_sb;
    for (size_t t = 0; t < n_tok; t++) {
        const fg_act128 *a = (const void *)((const uint8_t *)act + t * act_stride);
        for (size_t r = 0; r < 16; r++) {
            int32_t isum = 0;
            for (size_t g = 0; g < 4; g++) {
                const uint8_t *p = panel + 64 + 384 * g + 4 * r;
                int32_t dot = -32 * a->sum[g];
                for (size_t part = 0; part < 4; part++) { /* 16 columns, even or odd pairs */
                    uint32_t sum = 0;
                    for (size_t k = 16 * (part / 2); k < 16 * (part / 2) + 16; k++) {
                        if (k % 4 / 2 != part % 2) continue;
                        const unsigned byte = p[64 * (k % 16 / 4) + k % 4];
                        const unsigned top = p[256 + 64 * (k / 16) + k % 4];
                        const unsigned code = (k < 16 ? byte & 15u : byte >> 4) |
                                              (top >> (2 * (k % 16 / 4)) & 3u) << 4;
                        sum += code * (uint32_t)(int32_t)a->q[32 * g + k];
                    }
                    dot += (int16_t)(uint16_t)sum;
                }
                isum += dot * (int8_t)panel[4 * r + g];
            }
            y[t * y_stride + r] = fmaf((float)isum, a->d, 0.0f) * row_scale[r];
        }
    }
}

FG_TEST(offset_and_overflow_are_caught)
{
    job j;
    make_job(&j, Q4LIN, 3, 2);
    fill_job(&j, 5, P_UNIFORM, P_UNIFORM, P_UNIFORM);
    CHECK(!agrees(&j, wrong_offset));
    free_job(&j);
    make_job(&j, Q6, 3, 1);
    fill_job(&j, 5, P_BELL, P_UNIFORM, P_BELL);
    CHECK(agrees(&j, overflows_int16)); /* right on everyday inputs */
    fill_job(&j, 5, P_MAX, P_MAX, P_MAX);
    CHECK(!agrees(&j, overflows_int16));
    free_job(&j);
}

FG_TEST(dispatch_takes_the_best_permitted)
{
    fg_kernels scalar, best;
    memset(&scalar, 0, sizeof scalar);
    memset(&best, 0, sizeof best);
    fg_kernels_init(&scalar, FG_CPU_SCALAR);
    fg_kernels_init(&best, fg_cpu_detect());
    any_fn *const *p = (any_fn *const *)(const void *)&scalar;
    for (size_t i = 0; i < offsetof(fg_kernels, tiles) / sizeof *p; i++) CHECK(p[i] != NULL);
    for (size_t i = 0; i < FG_KIND_QUANTIZED; i++) CHECK(scalar.tiles[i] == NULL);
    CHECK(scalar.panel_q4lin == fg_panel_q4lin__scalar && scalar.rmsnorm == fg_rmsnorm__scalar);
#if defined(__x86_64__)
    const uint32_t have = fg_cpu_detect();
    fg_kernels avx2, vnni;
    fg_kernels_init(&avx2, FG_CPU_AVX2);
    fg_kernels_init(&vnni, FG_CPU_AVX2 | FG_CPU_AVX512VNNI);
    CHECK(avx2.panel_q4 == fg_panel_q4__avx2 && avx2.attn_merge == fg_attn_merge__avx2);
    CHECK(vnni.panel_q4 == fg_panel_q4__avx512vnni && vnni.rmsnorm == fg_rmsnorm__avx512vnni);
    if (have == FG_CPU_AVX2) CHECK(memcmp(&best, &avx2, sizeof best) == 0);
    if (have == (FG_CPU_AVX2 | FG_CPU_AVX512VNNI)) CHECK(memcmp(&best, &vnni, sizeof best) == 0);
#endif
    CHECK(fg_kernels_panel(&best, FG_TYPE_Q4, &fg_lut_linear) == best.panel_q4lin);
    CHECK(fg_kernels_panel(&best, FG_TYPE_Q4, &fg_lut_grid6) == best.panel_q4);
    CHECK(fg_kernels_panel(&best, FG_TYPE_Q4, NULL) == NULL);
    CHECK(fg_kernels_panel(&best, FG_TYPE_Q8, NULL) == best.panel_q8);
    CHECK(fg_kernels_panel(&best, (fg_qtype)3, NULL) == NULL);
    for (uint32_t i = 0; i < FG_KIND_COUNT; i++) {
        const fg_qkind_info *k = &fg_qkinds[i];
        CHECK(fg_kernels_panel(&best, k->type, k->lut) == best.panel[i]);
    }
}

/* ---- a level has the kernels of every type or of none ---------------------------------------- */

/* Some other kind of its sort, quantized or float, has a kernel with these features, and `kind` has
 * none.  shim: of the AMX kernels over a tile unit in C. */
static bool lacks_level(int kind, uint32_t features, bool shim)
{
    for (size_t i = 0; i < N_VARIANTS; i++) {
        const bool is_shim = strncmp(variants[i].name, "shim_", 5) == 0;
        if (variants[i].features == features && is_shim == shim && is_of_kind(&variants[i], kind)) {
            return false;
        }
    }
    return true;
}

static bool is_quantized(const variant *v)
{
    int kind = 0;
    while (!is_of_kind(v, kind)) kind++;
    return kind < N_QUANTIZED;
}

FG_TEST(no_level_lacks_a_type)
{
    for (size_t i = 0; i < N_VARIANTS; i++) {
        const variant *v = &variants[i];
        if (strcmp(v->type, "panel") != 0 && strcmp(v->type, "tiles") != 0) continue;
        const bool shim = strncmp(v->name, "shim_", 5) == 0, quantized = is_quantized(v);
        for (int kind = quantized ? 0 : N_QUANTIZED; kind < (quantized ? N_QUANTIZED : N_KINDS);
             kind++) {
            if (lacks_level(kind, v->features, shim)) {
                fg_test_fail(__FILE__, __LINE__, "%s has no kernel of the level of %s",
                             kinds[kind].slot, v->name);
            }
        }
    }
#if defined(__x86_64__)
    CHECK(
        lacks_level(FG_KIND_F32, FG_CPU_AVX512VNNI | FG_CPU_AMX, false)); /* control: it has none */
    CHECK(!lacks_level(Q6, FG_CPU_AVX512VNNI | FG_CPU_AMX, false));
#endif
}
