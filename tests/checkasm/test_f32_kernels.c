/* SPDX-License-Identifier: MIT
 *
 * The f32 kernels.  Each is run through one wrapper that puts its inputs into guarded buffers and
 * collects all its outputs, so that variants are compared with the scalar reference bit for bit,
 * and broken copies by the same comparison.  The reference is checked in double against bounds
 * derived from its summation order.
 *
 * The exponential inside is tested through a private instance of the body.  More than 800 lines:
 * all kernels share the wrapper, and splitting it would spell their shapes twice.
 */
#include "tests/checkasm/checkasm.h"

#include "src/base/fp.h"
#include "src/base/hash.h"

/* Instance of the body for this file: probe_rmsnorm and so on, and v16_exp. */
#define FG_KERNEL(slot, type, symbol, features) fg_##type##_fn probe_##slot;
#include "simd/kernels.inc"
#undef FG_KERNEL
#define FG_LEVEL(op) probe_##op
#include "simd/vec_scalar.h"

#include "simd/f32_body.h"

/* ---- running one kernel on one problem ------------------------------------------------------ */

enum { MAX_OUT = 64 * 160 + 256 * 160, MAX_IN = 12 };

typedef struct problem {
    const char *slot;
    size_t n, a, b; /* sizes; meaning by slot, see run() */
    int input;
    uint64_t seed;
} problem;

typedef struct arena {
    guarded g[MAX_IN];
    int n;
    fg_rng rng;
    int input;
} arena;

/* n floats of the problem's input kind in a buffer of their own. */
static float *floats(arena *m, size_t n)
{
    m->g[m->n] = guard_alloc(n * sizeof(float));
    float *p = (float *)(void *)m->g[m->n++].p;
    fill_floats(&m->rng, m->input, p, n);
    return p;
}

static int8_t *bytes(arena *m, size_t n)
{
    m->g[m->n] = guard_alloc(n);
    int8_t *p = (int8_t *)m->g[m->n++].p;
    for (size_t i = 0; i < n; i++) {
        p[i] = m->input == IN_MAX   ? 127
               : m->input == IN_MIN ? -128
                                    : (int8_t)(fg_rng_u64(&m->rng) >> 40);
    }
    return p;
}

/* For the caller to fill. */
static int16_t *shorts(arena *m, size_t n)
{
    m->g[m->n] = guard_alloc(n * sizeof(int16_t));
    return (int16_t *)(void *)m->g[m->n++].p;
}

static uint16_t *halves(arena *m, size_t n)
{
    const float *x = floats(m, n);
    m->g[m->n] = guard_alloc(n * sizeof(uint16_t));
    uint16_t *p = (uint16_t *)(void *)m->g[m->n++].p;
    for (size_t i = 0; i < n; i++) p[i] = fg_f32_to_f16(x[i]);
    return p;
}

static float *decay_table(arena *m, double ratio)
{
    float *p = floats(m, FG_LIGHT_CHUNK + 1);
    for (int i = 0; i <= FG_LIGHT_CHUNK; i++) p[i] = (float)pow(ratio, i);
    return p;
}

typedef struct result {
    float f[MAX_OUT];
    size_t n;
} result;

static void emit(result *r, const float *p, size_t n)
{
    if (r->n + n > MAX_OUT) abort();
    memcpy(r->f + r->n, p, n * sizeof *p);
    r->n += n;
}

static bool is(const problem *p, const char *slot)
{
    return strcmp(p->slot, slot) == 0;
}

static void run_vector_op(const problem *p, any_fn *fn, arena *m, result *r)
{
    float *x = floats(m, p->n), *y = floats(m, p->n), *z = floats(m, p->n);
    if (is(p, "rmsnorm")) ((fg_rmsnorm_fn *)fn)(x, y, p->n, 1e-6f, p->a != 0 ? x : z);
    if (is(p, "axpby")) ((fg_axpby_fn *)fn)(1.7f, x, 0.3f, y, p->n, p->a != 0 ? y : z);
    if (is(p, "axpy")) ((fg_axpy_fn *)fn)(-1.3f, x, p->n, y);
    if (is(p, "silu")) ((fg_silu_fn *)fn)(x, p->n);
    if (is(p, "silu_mul")) ((fg_silu_mul_fn *)fn)(x, y, p->n, p->a != 0 ? x : z);
    if (is(p, "sigmoid_mul")) ((fg_sigmoid_mul_fn *)fn)(x, y, p->n);
    emit(r, x, p->n);
    emit(r, y, p->n);
    emit(r, z, p->n);
}

static void run_light(const problem *p, any_fn *fn, arena *m, result *r)
{
    const size_t d = p->n, i0 = p->a, n = p->b, stride = d + 16;
    float *kt = floats(m, d * FG_LIGHT_CHUNK), *v = floats(m, FG_LIGHT_CHUNK * d);
    float *s = floats(m, d * d), *decay = decay_table(m, p->input == IN_UNIFORM ? 0.5 : 0.93);
    if (is(p, "light_fold")) {
        ((fg_light_fold_fn *)fn)(d, kt, v, decay, s);
        emit(r, s, d * d);
        return;
    }
    /* keys beyond the last token are rubbish that must not matter; values are not to be read */
    for (size_t c = 0; c < d; c++) {
        for (size_t j = i0 + n; j < FG_LIGHT_CHUNK; j++) kt[c * FG_LIGHT_CHUNK + j] = NAN;
    }
    for (size_t j = (i0 + n) * d; j < FG_LIGHT_CHUNK * d; j++) v[j] = NAN;
    float *q = floats(m, (n - 1) * stride + d), *o = floats(m, (n - 1) * stride + d);
    ((fg_light_out_fn *)fn)(q, stride, i0, n, d, kt, v, s, decay, o, stride);
    emit(r, o, (n - 1) * stride + d);
}

static void run_attn(const problem *p, any_fn *fn, arena *m, result *r)
{
    const size_t d = p->n, n_q = p->a, n_pos = p->b, up = (n_pos + 15) / 16 * 16;
    float *q = floats(m, n_q * d), *ml = floats(m, 2 * n_q), *o = floats(m, n_q * d);
    (void)floats(m, FG_KV_BLOCK); /* keeps the inputs those of the golden hashes */
    if (is(p, "attn_f32")) {
        const float *k = floats(m, up * d), *v = floats(m, n_pos * d);
        ((fg_attn_f32_fn *)fn)(q, n_q, d, n_pos, k, v, ml, o);
    } else if (is(p, "attn_f16")) {
        const uint16_t *k = halves(m, up * d), *v = halves(m, n_pos * d);
        ((fg_attn_f16_fn *)fn)(q, n_q, d, n_pos, k, v, ml, o);
    } else {
        const size_t rows = (n_pos + 63) / 64 * 64;
        const int8_t *k = bytes(m, rows * d), *v = bytes(m, rows * d);
        float *ks = floats(m, n_pos), *vs = floats(m, n_pos), *qs = floats(m, n_q);
        for (size_t i = 0; i < n_pos; i++) {
            ks[i] = fabsf(ks[i]) * 0.01f;
            vs[i] = fabsf(vs[i]) * 0.01f;
        }
        int16_t *q16 = shorts(m, n_q * d);
        uint16_t *seen = (uint16_t *)shorts(m, n_q);
        for (size_t i = 0; i < n_q; i++) { /* in any order; some see all */
            seen[i] = (uint16_t)(i % 3 == 0 ? n_pos : 1 + (i * 37 + n_pos / 2) % n_pos);
            qs[i] = fg_quantize_i16__scalar(q + i * d, d, q16 + i * d);
        }
        const fg_attn_next next = {k, v, ks, vs}; /* asked for, not read: it is too short */
        ((fg_attn_i8_fn *)fn)(q16, qs, seen, n_q, d, k, ks, v, vs, ml, o, n_q % 2 ? &next : NULL);
    }
    emit(r, ml, 2 * n_q);
    emit(r, o, n_q * d);
}

static void run_rest(const problem *p, any_fn *fn, arena *m, result *r)
{
    if (is(p, "quantize_act")) {
        const float *x = floats(m, p->n);
        const size_t n = p->n / 128;
        fg_act128 *a = (fg_act128 *)(void *)floats(m, n * sizeof *a / 4);
        ((fg_quantize_act_fn *)fn)(x, p->n, a);
        for (size_t i = 0; i < n; i++) {
            emit(r, &a[i].d, 1);
            for (size_t k = 4; k < sizeof *a; k++) {
                const float v = (float)((const uint8_t *)&a[i])[k];
                emit(r, &v, 1);
            }
        }
    } else if (is(p, "quantize_i16")) {
        const float *x = floats(m, p->n);
        int16_t *q = shorts(m, p->n);
        const float scale = ((fg_quantize_i16_fn *)fn)(x, p->n, q);
        emit(r, &scale, 1);
        for (size_t i = 0; i < p->n; i++) {
            const float v = (float)q[i];
            emit(r, &v, 1);
        }
    } else if (is(p, "rope")) {
        float *x = floats(m, 2 * p->n), *c = floats(m, p->n), *s = floats(m, p->n);
        ((fg_rope_fn *)fn)(x, c, s, p->n);
        emit(r, x, 2 * p->n);
    } else if (is(p, "softmax_num")) {
        float *x = floats(m, p->n);
        const float sum = ((fg_softmax_num_fn *)fn)(x, p->n);
        emit(r, &sum, 1);
        emit(r, x, p->n);
    } else if (is(p, "attn_merge")) {
        float *ml = floats(m, 2), *o = floats(m, p->n);
        const float *mb = floats(m, 2), *ob = floats(m, p->n);
        ((fg_attn_merge_fn *)fn)(ml, o, mb, ob, p->n);
        emit(r, ml, 2);
        emit(r, o, p->n);
    } else {
        abort();
    }
}

/* False when the kernel faulted or wrote in front of a buffer (behind is a fault). */
static bool run(const problem *p, any_fn *fn, result *r)
{
    static arena m; /* static: lives across the jump of a fault */
    memset(&m, 0, sizeof m);
    m.input = p->input;
    fg_rng_init(&m.rng, p->seed);
    r->n = 0;
    bool faulted;
    if (strncmp(p->slot, "light", 5) == 0) {
        RUN_CAUGHT(faulted, run_light(p, fn, &m, r));
    } else if (is(p, "attn_f32") || is(p, "attn_f16") || is(p, "attn_i8")) {
        RUN_CAUGHT(faulted, run_attn(p, fn, &m, r));
    } else if (is(p, "quantize_act") || is(p, "quantize_i16") || is(p, "rope") ||
               is(p, "softmax_num") || is(p, "attn_merge")) {
        RUN_CAUGHT(faulted, run_rest(p, fn, &m, r));
    } else {
        RUN_CAUGHT(faulted, run_vector_op(p, fn, &m, r));
    }
    bool clean = !faulted;
    for (int i = 0; i < m.n; i++) {
        for (uint8_t *b = m.g[i].map; b < m.g[i].p; b++) clean = clean && *b == 0;
        guard_free(&m.g[i]);
    }
    return clean;
}

static result want, got;

static bool agrees(const problem *p, any_fn *fn)
{
    if (!run(p, reference_of(p->slot)->fn, &want)) {
        fg_test_fail(__FILE__, __LINE__, "%s: reference faulted", p->slot);
    }
    return run(p, fn, &got) && want.n == got.n && same_floats(want.f, got.f, want.n);
}

static void check_variants(const problem *p)
{
    for (size_t i = 0; i < N_VARIANTS; i++) {
        const variant *v = &variants[i];
        if (strcmp(v->slot, p->slot) != 0 || v->features == 0 || !runnable(v)) continue;
        if (!agrees(p, v->fn)) {
            fg_test_fail(__FILE__, __LINE__,
                         "%s: differs from the reference, sizes %zu %zu %zu, input %d, seed %llu",
                         v->name, p->n, p->a, p->b, p->input, (unsigned long long)p->seed);
        }
    }
}

static void check_all_inputs(problem p)
{
    for (p.input = 0; p.input < N_INPUTS; p.input++) {
        p.seed = p.n * 1000 + p.a * 100 + p.b * 10 + (uint64_t)p.input;
        check_variants(&p);
    }
}

FG_TEST(vector_kernels_equal_the_reference)
{
    static const char *const slots[] = {"rmsnorm",  "axpby",       "axpy",         "silu",
                                        "silu_mul", "sigmoid_mul", "quantize_act", "quantize_i16"};
    static const size_t sizes[] = {16, 32, 48, 112, 128, 144, 256, 640, 1536};
    for (size_t s = 0; s < sizeof slots / sizeof slots[0]; s++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            problem p = {.slot = slots[s], .n = sizes[i]};
            if (is(&p, "quantize_act") && p.n % 128 != 0) continue;
            if (is(&p, "quantize_i16") && p.n > 1024) continue;
            check_all_inputs(p);
            p.a = 1; /* output over an input */
            check_all_inputs(p);
        }
    }
}

FG_TEST(any_length_kernels_equal_the_reference)
{
    for (size_t n = 1; n <= 70; n++) {
        check_all_inputs((problem){.slot = "rope", .n = n});
        check_all_inputs((problem){.slot = "softmax_num", .n = n});
    }
    check_all_inputs((problem){.slot = "softmax_num", .n = 4099});
    for (size_t n = 16; n <= 144; n += 16)
        check_all_inputs((problem){.slot = "attn_merge", .n = n});
}

FG_TEST(light_kernels_equal_the_reference)
{
    static const size_t spans[][2] = {{0, 1},  {0, 64}, {1, 1},  {63, 1}, {0, 3},
                                      {5, 17}, {15, 2}, {16, 5}, {30, 34}};
    for (size_t d = 16; d <= 128; d += d == 16 ? 16 : 96) {
        for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
            check_all_inputs(
                (problem){.slot = "light_out", .n = d, .a = spans[i][0], .b = spans[i][1]});
        }
        check_all_inputs((problem){.slot = "light_fold", .n = d});
    }
}

FG_TEST(attention_kernels_equal_the_reference)
{
    static const char *const slots[] = {"attn_f32", "attn_f16", "attn_i8"};
    static const size_t heads[] = {1, 2, 3, 4, 5, 8, 9};
    static const size_t positions[] = {1, 2, 15, 16, 17, 31, 100, 255, 256};
    for (size_t h = 0; h < sizeof heads / sizeof heads[0]; h++) {
        for (size_t i = 0; i < sizeof positions / sizeof positions[0]; i++) {
            const size_t d = heads[h] == 3 ? 128 : 16 + 16 * (h % 3);
            for (size_t k = 0; k < 3; k++) {
                check_all_inputs(
                    (problem){.slot = slots[k], .n = d, .a = heads[h], .b = positions[i]});
            }
        }
    }
}

/* Rows beyond one tile, and heads of all sizes: 64, 128 and more have kernels of their own. */
FG_TEST(integer_attention_equals_the_reference)
{
    static const struct {
        size_t rows, d, positions;
    } set[] = {{40, 128, 256}, {33, 64, 65}, {16, 128, 63}, {17, 192, 129}, {9, 80, 64},
               {2, 512, 48},   {3, 528, 17}, {1, 1024, 1},  {35, 64, 1}};
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
        check_all_inputs(
            (problem){.slot = "attn_i8", .n = set[i].d, .a = set[i].rows, .b = set[i].positions});
    }
}

/* The bits themselves, so that a compiler or C library that changes them on all levels at once is
 * noticed.  Inputs are uniform and the decay 1/2, made without libm. */
FG_TEST(golden_bits)
{
    static const problem set[] = {
        {.slot = "rmsnorm", .n = 6144},     {.slot = "axpby", .n = 48},
        {.slot = "axpy", .n = 48},          {.slot = "silu", .n = 640},
        {.slot = "silu_mul", .n = 640},     {.slot = "sigmoid_mul", .n = 640},
        {.slot = "quantize_act", .n = 640}, {.slot = "rope", .n = 37},
        {.slot = "softmax_num", .n = 77},   {.slot = "light_out", .n = 64, .a = 3, .b = 40},
        {.slot = "light_fold", .n = 64},    {.slot = "attn_f32", .n = 64, .a = 5, .b = 99},
        {.slot = "attn_merge", .n = 64},    {.slot = "attn_i8", .n = 64, .a = 5, .b = 99},
        {.slot = "attn_merge", .n = 128},   {.slot = "attn_f16", .n = 64, .a = 5, .b = 99},
        {.slot = "quantize_i16", .n = 128},
    };
    static const uint64_t golden[sizeof set / sizeof set[0]] = {
        0x7534309f36210e82, 0x60311cb2ef93a32b, 0xcd284190ab328cf6, 0xd32412f188a18a34,
        0xa9f5ac254dc0a278, 0x891a89f9443e867d, 0xfe165c877c5a4645, 0x2bd2215f116f4893,
        0xf5db484613bc78f5, 0xae5195ae45722b5b, 0x817d6ea51b4d9d6c, 0xc485ca344e8b5da8,
        0x88f393d38ced1767, 0x04265607d572cdd2, 0xf0dfde2a961195c1, 0x709c486078bbe83a,
        0x1c98c551ebf2590e,
    };
    for (size_t i = 0; i < N_VARIANTS; i++) {
        if (!runnable(&variants[i])) continue;
        for (size_t k = 0; k < sizeof set / sizeof set[0]; k++) {
            problem p = set[k];
            if (strcmp(p.slot, variants[i].slot) != 0) continue;
            p.input = IN_UNIFORM;
            p.seed = 11;
            CHECK(run(&p, variants[i].fn, &got));
            const uint64_t h = fg_hash64(got.f, got.n * sizeof got.f[0]);
            if (h != golden[k]) {
                fg_test_fail(__FILE__, __LINE__, "%s: hash 0x%016llx", variants[i].name,
                             (unsigned long long)h);
            }
        }
    }
}

/* ---- the reference against double ------------------------------------------------------------ */

static float *alloc_filled(fg_rng *r, int kind, size_t n)
{
    float *p = calloc(n + 16, sizeof *p);
    if (p == NULL) abort();
    fill_floats(r, kind, p, n);
    return p;
}

/* Largest error of v16_exp in units in the last place of the result. */
static double exp_ulps(float x)
{
    const double w = exp((double)x);
    const float y = v16_first(v16_exp(v16_set1(x)));
    const double ulp = ldexp(1.0, ilogb(w) - 23);
    return fabs((double)y - w) / ulp;
}

FG_TEST(exp_is_within_one_ulp)
{
    double worst = 0.0;
    const uint32_t step = 131u * (uint32_t)fg_test_every(7, 7);
    for (uint32_t u = 0x30000000u; u < 0x42ae0000u; u += step) { /* 4.7e-10 .. 87 */
        const float x = v16_from_bits(u);
        const double a = exp_ulps(x), b = x < 86.98f ? exp_ulps(-x) : 0.0;
        worst = fg_test_worst(worst, fmax(a, b));
    }
    for (float x = 87.0f; x < 88.72f; x += 0.0001f) worst = fg_test_worst(worst, exp_ulps(x));
    CHECK(worst < 1.0);
    CHECK(worst > 0.5); /* it is a polynomial: less would mean that nothing was measured */
}

FG_TEST(exp_ends)
{
    const float in[16] = {0.0f,    -0.0f,  INFINITY, -INFINITY, NAN,       89.0f,
                          1e30f,   -1e30f, -87.0f,   -86.9794f, 0x1p-149f, -0x1p-149f,
                          88.722f, 88.73f, 1e-9f,    -104.0f};
    float out[16];
    v16_store(out, v16_exp(v16_load(in)));
    CHECK(out[0] == 1.0f && out[1] == 1.0f && out[10] == 1.0f && out[11] == 1.0f);
    CHECK(out[2] == INFINITY && out[5] == INFINITY && out[6] == INFINITY && out[13] == INFINITY);
    CHECK(out[3] == 0.0f && out[7] == 0.0f && out[8] == 0.0f && out[15] == 0.0f);
    CHECK(out[4] != out[4]);
    CHECK(out[9] > 0x1p-126f && out[12] > 3.399e38f && out[12] < INFINITY);
    float before = 0.0f; /* monotone over the small end, no gap of subnormals */
    for (float x = -87.3f; x < -86.5f; x += 0.001f) {
        const float y = v16_first(v16_exp(v16_set1(x)));
        CHECK(y == 0.0f || (y >= 0x1p-126f && y >= before));
        before = y;
    }
}

/* 1 + e^-x: one ulp (2 units) and one rounding; the division one more. */
FG_TEST(silu_and_sigmoid_are_accurate)
{
    for (double v = -100.0; v < 100.0; v += 0.013) {
        float x[16], g[16], u[16], h[16];
        for (int i = 0; i < 16; i++) {
            g[i] = x[i] = (float)(v + 0.0007 * i);
            u[i] = 1.5f + (float)i;
        }
        fg_silu_mul__scalar(g, u, 16, h);
        fg_silu__scalar(x, 16);
        for (int i = 0; i < 16; i++) {
            const double z = (double)g[i], s = 1.0 / (1.0 + exp(-z));
            const double tol = 5.0 * unit * fabs(z * s) + 4e-37; /* e^-z overflows below -88.7 */
            CHECK_NEAR(x[i], z * s, tol);
            CHECK_NEAR(h[i], z * s * (double)u[i], (tol + unit * fabs(z * s)) * (double)u[i]);
        }
        fg_sigmoid_mul__scalar(u, g, 16);
        for (int i = 0; i < 16; i++) {
            const double s = (1.5 + i) / (1.0 + exp(-(double)g[i]));
            CHECK_NEAR(u[i], s, 6.0 * unit * s + 1e-37);
        }
    }
}

FG_TEST(quantize_act_is_exact)
{
    fg_rng r;
    fg_rng_init(&r, 3);
    for (int it = 0; it < 2000; it++) {
        float x[128];
        fg_act128 a;
        fill_floats(&r, it % N_FINITE, x, 128);
        const float grow = ldexpf(1.0f, it % 200 - 100);
        for (int i = 0; i < 128; i++) x[i] *= grow;
        double max = 0.0;
        for (int i = 0; i < 128; i++) max = fmax(max, fabs((double)x[i]));
        fg_quantize_act__scalar(x, 128, &a);
        if (max < 0x1p-121) {
            CHECK(a.d == 0.0f && a.q[0] == 0 && a.q[127] == 0 && a.sum[3] == 0);
            continue;
        }
        const float inv = (float)(127.0 / max); /* f32 quotients survive the way through double */
        int sum = 0;
        CHECK(a.d == (float)(max / 127.0));
        for (int i = 0; i < 128; i++) {
            const int q = (int)rint((double)(float)((double)x[i] * (double)inv));
            CHECK(a.q[i] == q && q >= -127 && q <= 127);
            sum += q;
            if (i % 32 == 31) {
                CHECK(a.sum[i / 32] == sum);
                sum = 0;
            }
        }
    }
}

FG_TEST(quantize_act_finds_nan_and_infinity)
{
    for (int i = 0; i < 128; i++) {
        for (int k = 0; k < 3; k++) {
            float x[256];
            fg_act128 a[2];
            for (int j = 0; j < 256; j++) x[j] = (float)(j - 100);
            x[i] = k == 0 ? NAN : k == 1 ? INFINITY : -INFINITY;
            fg_quantize_act__scalar(x, 256, a);
            CHECK(a[0].d != a[0].d && a[0].q[5] == 0 && a[0].sum[1] == 0);
            CHECK(a[1].d == 155.0f / 127.0f && a[1].q[127] == 127);
        }
    }
}

FG_TEST(rmsnorm_is_within_its_bound)
{
    fg_rng r;
    fg_rng_init(&r, 4);
    for (int kind = 0; kind < N_FINITE; kind++) {
        const size_t n = 1536;
        float *x = alloc_filled(&r, kind, n), *w = alloc_filled(&r, IN_NORMAL, n), y[1536];
        double sum = 0.0;
        for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
        const double s = 1.0 / sqrt(sum / (double)n + (double)1e-6f);
        fg_rmsnorm__scalar(x, w, n, 1e-6f, y);
        for (size_t i = 0; i < n; i++) {
            /* half the relative error of the sum, then seven roundings */
            const double v = (double)x[i] * s * (double)w[i];
            const double rel = gamma_of((double)n / 16 + 5) / 2 + gamma_of(7);
            CHECK_NEAR(y[i], v, rel * fabs(v) + 0x1p-148);
        }
        free(x);
        free(w);
    }
}

FG_TEST(simple_kernels_are_correctly_rounded)
{
    fg_rng r;
    fg_rng_init(&r, 5);
    float *a = alloc_filled(&r, IN_NORMAL, 64), *b = alloc_filled(&r, IN_NORMAL, 64), y[64], x[64];
    fg_axpby__scalar(1.25f, a, 0.3f, b, 64, y);
    for (int i = 0; i < 64; i++) CHECK(y[i] == fmaf(1.25f, a[i], 0.3f * b[i]));
    memcpy(y, b, sizeof y);
    fg_axpy__scalar(0.7f, a, 64, y);
    for (int i = 0; i < 64; i++) CHECK(y[i] == fmaf(0.7f, a[i], b[i]));
    memcpy(x, a, sizeof x);
    fg_rope__scalar(x, b, b + 32, 27);
    for (int i = 0; i < 27; i++) {
        const float c = b[i], s = b[32 + i];
        CHECK(x[i] == a[i] * c - a[i + 27] * s && x[i + 27] == a[i + 27] * c + a[i] * s);
    }
    for (int i = 54; i < 64; i++) CHECK(x[i] == a[i]);
    free(a);
    free(b);
}

FG_TEST(softmax_num_is_within_its_bound)
{
    fg_rng r;
    fg_rng_init(&r, 6);
    for (size_t n = 1; n < 100; n++) {
        float *x = alloc_filled(&r, n % 2 == 0 ? IN_OUTLIER : IN_NORMAL, n), m = -INFINITY;
        double sum = 0.0, w[100];
        for (size_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
        for (size_t i = 0; i < n; i++) sum += w[i] = exp((double)(x[i] - m));
        const double got_sum = (double)fg_softmax_num__scalar(x, n);
        CHECK_NEAR(got_sum, sum, sum * gamma_of(2.0 + (double)n / 16 + 5) + 1e-35);
        for (size_t i = 0; i < n; i++) CHECK_NEAR(x[i], w[i], 2.0 * unit * w[i] + 2e-38);
        free(x);
    }
}

FG_TEST(light_out_is_within_its_bound)
{
    enum { D = 48, C = FG_LIGHT_CHUNK };
    fg_rng r;
    fg_rng_init(&r, 7);
    float *q = alloc_filled(&r, IN_NORMAL, C * D), *kt = alloc_filled(&r, IN_NORMAL, D * C);
    float *v = alloc_filled(&r, IN_NORMAL, C * D), *s = alloc_filled(&r, IN_OUTLIER, D * D);
    static float o[C * D], decay[C + 1];
    for (int i = 0; i <= C; i++) decay[i] = (float)pow(0.9, i);
    fg_light_out__scalar(q, D, 0, C, D, kt, v, s, decay, o, D);
    for (int i = 0; i < C; i++) {
        for (int e = 0; e < D; e++) {
            double sum = 0.0, size = 0.0;
            for (int d = 0; d < D; d++) {
                const double p = (double)q[i * D + d] * (double)s[d * D + e];
                sum += (double)decay[i + 1] * p;
                size += (double)decay[i + 1] * fabs(p);
            }
            for (int j = 0; j <= i; j++) {
                const double f = (double)decay[i - j] * (double)v[j * D + e];
                for (int d = 0; d < D; d++) {
                    const double p = (double)q[i * D + d] * (double)kt[d * C + j] * f;
                    sum += p;
                    size += fabs(p);
                }
            }
            CHECK_NEAR(o[i * D + e], sum, gamma_of(D + i + 3) * size);
        }
    }
    /* the fold: one more decayed sum */
    static float t[D * D];
    memcpy(t, s, sizeof t);
    fg_light_fold__scalar(D, kt, v, decay, t);
    for (int d = 0; d < D; d++) {
        for (int e = 0; e < D; e++) {
            double sum = (double)decay[C] * (double)s[d * D + e], size = fabs(sum);
            for (int j = 0; j < C; j++) {
                const double p =
                    (double)decay[C - 1 - j] * (double)kt[d * C + j] * (double)v[j * D + e];
                sum += p;
                size += fabs(p);
            }
            CHECK_NEAR(t[d * D + e], sum, gamma_of(C + 3) * size);
        }
    }
    free(q);
    free(kt);
    free(v);
    free(s);
}

FG_TEST(attention_is_within_its_bound)
{
    enum { D = 32, P = 200, Q = 3 };
    fg_rng r;
    fg_rng_init(&r, 8);
    float *q = alloc_filled(&r, IN_NORMAL, Q * D), *k = alloc_filled(&r, IN_NORMAL, 208 * D);
    float *v = alloc_filled(&r, IN_NORMAL, P * D), ml[2 * Q], o[Q * D];
    fg_attn_f32__scalar(q, Q, D, P, k, v, ml, o);
    for (int h = 0; h < Q; h++) {
        double s[P], m = -1e300, off = 0.0, l = 0.0;
        for (int p = 0; p < P; p++) {
            double size = 0.0;
            s[p] = 0.0;
            for (int d = 0; d < D; d++) {
                const double x = (double)q[h * D + d] * (double)k[(p / 16 * D + d) * 16 + p % 16];
                s[p] += x;
                size += fabs(x);
            }
            m = fmax(m, s[p]);
            off = fmax(off, gamma_of(D) * size); /* largest error of a score */
        }
        CHECK_NEAR(ml[2 * h], m, off);
        /* relative error of a weight: score and maximum, the difference's rounding, exp */
        const double rel = expm1(2.0 * off + 40.0 * unit) + 2.0 * unit;
        for (int p = 0; p < P; p++) l += s[p] = exp(s[p] - m);
        CHECK_NEAR(ml[2 * h + 1], l, l * (rel + gamma_of(P / 16 + 5)));
        for (int e = 0; e < D; e++) {
            double sum = 0.0, size = 0.0;
            for (int p = 0; p < P; p++) {
                sum += s[p] * (double)v[p * D + e];
                size += s[p] * fabs((double)v[p * D + e]);
            }
            CHECK_NEAR(o[h * D + e], sum, size * (rel + gamma_of(P)));
        }
    }
    /* two merged halves against the whole: the block partials must describe the same softmax */
    float ml2[2 * Q], o2[Q * D];
    fg_attn_f32__scalar(q, Q, D, 96, k, v, ml, o);
    fg_attn_f32__scalar(q, Q, D, P - 96, k + 96 * D, v + 96 * D, ml2, o2);
    float whole_ml[2 * Q], whole[Q * D];
    fg_attn_f32__scalar(q, Q, D, P, k, v, whole_ml, whole);
    for (int h = 0; h < Q; h++) {
        fg_attn_merge__scalar(ml + 2 * h, o + h * D, ml2 + 2 * h, o2 + h * D, D);
        CHECK(ml[2 * h] == whole_ml[2 * h]);
        for (int e = 0; e < D; e++) {
            const double a = (double)o[h * D + e] / (double)ml[2 * h + 1];
            CHECK_NEAR(a, (double)whole[h * D + e] / (double)whole_ml[2 * h + 1], 300.0 * unit);
        }
    }
    free(q);
    free(k);
    free(v);
}

/* The formulas of kernels.h, sums in 64 bits, the rest in f32 as written there. */
static void attend_by_formula(const int16_t *q, float q_scale, size_t n, size_t d, const int8_t *k,
                              const float *ks, const int8_t *v, const float *vs, float *ml,
                              float *o)
{
    _Alignas(64) float w[FG_KV_BLOCK], x[FG_KV_BLOCK];
    int16_t u[FG_KV_BLOCK];
    float sum[16] = {0}, most = 0.0f;
    ml[0] = -INFINITY;
    for (size_t p = 0; p < n; p++) {
        int64_t s = 0;
        for (size_t i = 0; i < d; i++)
            s += q[i] * k[p / 16 * 16 * d + i / 4 * 64 + p % 16 * 4 + i % 4];
        CHECK(s == (int32_t)s);
        w[p] = (float)s * ks[p];
        w[p] = w[p] * q_scale;
        ml[0] = w[p] > ml[0] ? w[p] : ml[0];
    }
    for (size_t p = 0; p < n; p++) {
        w[p] = v16_first(v16_exp(v16_set1(w[p] - ml[0])));
        sum[p % 16] += w[p];
        x[p] = w[p] * vs[p];
        most = x[p] > most ? x[p] : most;
    }
    for (size_t i = 8; i > 0; i /= 2) {
        for (size_t j = 0; j < i; j++) sum[j] += sum[j + i];
    }
    ml[1] = sum[0];
    for (size_t p = 0; p < n; p++) u[p] = (int16_t)lrintf(x[p] * (32512.0f / most));
    for (size_t e = 0; e < d; e++) {
        int64_t s = 0;
        for (size_t p = 0; p < n; p++) s += u[p] * v[p / 4 * 4 * d + 4 * e + p % 4];
        CHECK(s == (int32_t)s);
        o[e] = (float)s * (most / 32512.0f);
    }
}

/* Largest sums included: all of q, K, U and V at their ends. */
FG_TEST(integer_attention_is_its_formula)
{
    static const size_t dims[] = {16, 64, 128, 512, 1024};
    fg_rng r;
    fg_rng_init(&r, 9);
    for (int kind = 0; kind < 6; kind++) {
        const size_t d = dims[kind % 5], n = kind == 0 ? 77 : 256 - (size_t)kind % 2;
        float *x = alloc_filled(&r, IN_NORMAL, d), *ks = alloc_filled(&r, IN_NORMAL, n),
              *vs = alloc_filled(&r, IN_NORMAL, n), ml[2], want_ml[2];
        _Alignas(64) static float o[1024], want_o[1024];
        _Alignas(64) static int16_t q[1024];
        static int8_t k[256 * 1024], v[256 * 1024];
        const bool ends = kind > 2;
        for (size_t i = 0; i < d && ends; i++) x[i] = 3.0f;
        for (size_t i = 0; i < n; i++) ks[i] = ends ? 1e-6f : fabsf(ks[i]) * 0.01f;
        for (size_t i = 0; i < n; i++) vs[i] = ends ? 0.5f : fabsf(vs[i]) * 0.01f;
        for (size_t i = 0; i < 256 * d; i++) {
            k[i] = ends ? 127 : (int8_t)(fg_rng_u64(&r) >> 20);
            v[i] = ends ? -127 : (int8_t)(fg_rng_u64(&r) >> 20);
        }
        const float q_scale = fg_quantize_i16__scalar(x, d, q);
        CHECK_U64((uint64_t)q[0], ends ? (d > 512 ? 16256 : 32512) : (uint64_t)q[0]);
        const uint16_t seen = (uint16_t)n;
        attend_by_formula(q, q_scale, n, d, k, ks, v, vs, want_ml, want_o);
        fg_attn_i8__scalar(q, &q_scale, &seen, 1, d, k, ks, v, vs, ml, o, NULL);
        CHECK(memcmp(ml, want_ml, sizeof ml) == 0);
        CHECK(memcmp(o, want_o, d * sizeof *o) == 0);
        free(x);
        free(ks);
        free(vs);
    }
}

/* int8 attention against the same numbers in f32: within what 15 bits of q and of the weights
 * leave. */
FG_TEST(integer_attention_is_near_f32)
{
    enum { D = 64, P = 200, UP = 256, Q = 5 };
    fg_rng r;
    fg_rng_init(&r, 9);
    static int8_t k8[UP * D], v8[UP * D];
    static float k[UP * D], v[P * D], ks[UP], vs[UP], q[Q * D];
    _Alignas(64) static int16_t q16[Q * D];
    float q_scale[Q];
    uint16_t seen[Q];
    fill_floats(&r, IN_NORMAL, q, Q * D);
    for (size_t p = 0; p < P; p++) {
        ks[p] = (float)(0.01 * (0.5 + fg_rng_f64(&r)));
        vs[p] = (float)(0.01 * (0.5 + fg_rng_f64(&r)));
        for (size_t i = 0; i < D; i++) {
            const int8_t a = (int8_t)((int)(fg_rng_u64(&r) % 255) - 127),
                         b = (int8_t)((int)(fg_rng_u64(&r) % 255) - 127);
            k8[p / 16 * 16 * D + i / 4 * 64 + p % 16 * 4 + i % 4] = a;
            v8[p / 4 * 4 * D + 4 * i + p % 4] = b;
            k[(p / 16 * D + i) * 16 + p % 16] = (float)a * ks[p];
            v[p * D + i] = (float)b * vs[p];
        }
    }
    for (size_t h = 0; h < Q; h++) {
        q_scale[h] = fg_quantize_i16__scalar(q + h * D, D, q16 + h * D);
        seen[h] = P;
    }
    float ml[2][2 * Q], o[2][Q * D];
    fg_attn_f32__scalar(q, Q, D, P, k, v, ml[0], o[0]);
    fg_attn_i8__scalar(q16, q_scale, seen, Q, D, k8, ks, v8, vs, ml[1], o[1], NULL);
    for (size_t h = 0; h < Q; h++) {
        /* half a step of q in each of D products; then, relative, e^(twice that) of the weights */
        const double off = 0.5 * (double)q_scale[h] * D * 127.0 * 0.015 + 1e-5;
        CHECK_NEAR(ml[1][2 * h], ml[0][2 * h], off);
        CHECK_NEAR(ml[1][2 * h + 1], ml[0][2 * h + 1], (double)ml[0][2 * h + 1] * 2.1 * off);
        for (size_t e = 0; e < D; e++) { /* half a step of each weight, times a value below 1.9 */
            const double size = (double)ml[0][2 * h + 1] * 1.905;
            CHECK_NEAR(o[1][h * D + e], o[0][h * D + e],
                       2.1 * off * size + P * 0.5 * 0.015 * 127.0 / 32512.0);
        }
    }
}

/* On every level: the bits of the f32 reference on the same numbers, normal and subnormal. */
FG_TEST(attention_f16_equals_f32_on_its_values)
{
    enum { D = 48, P = 77, UP = 80, Q = 5 };
    static uint16_t k16[UP * D], v16h[P * D];
    static float k[UP * D], v[P * D], q[Q * D];
    fg_rng r;
    fg_rng_init(&r, 10);
    fill_floats(&r, IN_NORMAL, q, Q * D);
    for (int i = 0; i < UP * D; i++) {
        const float size = i % 7 == 3 ? 0x1p-16f : 1.0f;
        k16[i] = fg_f32_to_f16((float)normal_of(&r) * size);
        k[i] = fg_f16_to_f32(k16[i]);
        if (i >= P * D) continue;
        v16h[i] = fg_f32_to_f16((float)normal_of(&r) * size);
        v[i] = fg_f16_to_f32(v16h[i]);
    }
    float ml[2][2 * Q], o[2][Q * D];
    fg_attn_f32__scalar(q, Q, D, P, k, v, ml[0], o[0]);
    for (size_t i = 0; i < N_VARIANTS; i++) {
        if (strcmp(variants[i].slot, "attn_f16") != 0 || !runnable(&variants[i])) continue;
        ((fg_attn_f16_fn *)variants[i].fn)(q, Q, D, P, k16, v16h, ml[1], o[1]);
        CHECK(same_floats(ml[0], ml[1], 2 * Q) && same_floats(o[0], o[1], Q * D));
    }
}

/* Every half there is: with one position the weight is 1, and the output the value itself. */
FG_TEST(attention_f16_reads_all_halves)
{
    static const float q[16];
    static const uint16_t k[256];
    for (size_t i = 0; i < N_VARIANTS; i++) {
        if (strcmp(variants[i].slot, "attn_f16") != 0 || !runnable(&variants[i])) continue;
        for (uint32_t h = 0; h < 65536; h += 16) {
            uint16_t v[16];
            float ml[2], o[16], x[16];
            for (uint32_t e = 0; e < 16; e++) {
                v[e] = (uint16_t)(h + e);
                x[e] = 0.0f + fg_f16_to_f32(v[e]); /* -0 becomes 0 */
            }
            ((fg_attn_f16_fn *)variants[i].fn)(q, 1, 16, 1, k, v, ml, o);
            if (!same_floats(o, x, 16)) {
                fg_test_fail(__FILE__, __LINE__, "%s: half %04x", variants[i].name, h);
            }
        }
    }
}

/* ---- negative controls
 * ------------------------------------------------------------------------ */

static void rmsnorm_other_order(const float *x, const float *w, size_t n, float eps, float *y)
{
    float sum = 0.0f; /* one lane instead of sixteen */
    for (size_t i = 0; i < n; i++) sum = fmaf(x[i], x[i], sum);
    const float s = 1.0f / sqrtf(sum / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = (x[i] * s) * w[i];
}

static void axpby_not_fused(float alpha, const float *r, float beta, const float *a, size_t n,
                            float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = alpha * r[i] + beta * a[i];
}

static void silu_drops_tail(float *x, size_t n)
{
    fg_silu__scalar(x, n - 16);
}

static void rope_reads_past(float *x, const float *cos_t, const float *sin_t, size_t half)
{
    volatile float sink = sin_t[half];
    (void)sink;
    fg_rope__scalar(x, cos_t, sin_t, half);
}

static void rope_writes_before(float *x, const float *cos_t, const float *sin_t, size_t half)
{
    fg_rope__scalar(x, cos_t, sin_t, half);
    x[-1] = 1.0f;
}

static float softmax_libm(float *x, size_t n) /* within a few ulp, but not our bits */
{
    float m = x[0], sum = 0.0f;
    for (size_t i = 1; i < n; i++) m = fmaxf(m, x[i]);
    for (size_t i = 0; i < n; i++) sum += x[i] = expf(x[i] - m);
    return sum;
}

/* The inter-chunk term with lambda^i instead of lambda^(i+1). */
static void light_out_late_decay(const float *q, size_t q_stride, size_t i0, size_t n, size_t d,
                                 const float *kt, const float *v, const float *s,
                                 const float *decay, float *o, size_t o_stride)
{
    float late[FG_LIGHT_CHUNK + 1];
    for (size_t t = 0; t < n; t++) {
        memcpy(late, decay, sizeof late);
        late[i0 + t + 1] = decay[i0 + t];
        fg_light_out__scalar(q + t * q_stride, q_stride, i0 + t, 1, d, kt, v, s, late,
                             o + t * o_stride, o_stride);
    }
}

static void quantize_truncates(const float *x, size_t n, fg_act128 *out)
{
    fg_quantize_act__scalar(x, n, out);
    for (size_t b = 0; b < n / 128; b++) {
        for (size_t i = 0; i < 128 && out[b].d > 0.0f; i++) {
            out[b].q[i] = (int8_t)(x[128 * b + i] / out[b].d);
        }
    }
}

static void attn_forgets_last(const float *q, size_t n_q, size_t d, size_t n_pos, const float *k,
                              const float *v, float *ml, float *o)
{
    fg_attn_f32__scalar(q, n_q, d, n_pos - 1, k, v, ml, o);
}

/* Values behind a row's last position count, as if they had a weight. */
static void attn_i8_sees_all(const int16_t *q, const float *q_scale, const uint16_t *n_pos,
                             size_t n_row, size_t d, const int8_t *k, const float *k_scale,
                             const int8_t *v, const float *v_scale, float *ml, float *o,
                             const fg_attn_next *next)
{
    uint16_t most[64] = {0};
    for (size_t i = 0; i < n_row; i++) most[0] = n_pos[i] > most[0] ? n_pos[i] : most[0];
    for (size_t i = 0; i < n_row; i++) most[i] = most[0];
    fg_attn_i8__scalar(q, q_scale, most, n_row, d, k, k_scale, v, v_scale, ml, o, next);
}

/* One of 32512 steps. */
static float quantize_i16_cuts(const float *x, size_t n, int16_t *q)
{
    const float scale = fg_quantize_i16__scalar(x, n, q);
    for (size_t i = 0; i < n; i++) q[i] = (int16_t)(x[i] / scale);
    return scale;
}

FG_TEST(broken_kernels_are_caught)
{
    const struct {
        problem p;
        any_fn *fn;
    } broken[] = {
        {{.slot = "rmsnorm", .n = 6144}, (any_fn *)rmsnorm_other_order},
        {{.slot = "axpby", .n = 640}, (any_fn *)axpby_not_fused},
        {{.slot = "silu", .n = 64}, (any_fn *)silu_drops_tail},
        {{.slot = "rope", .n = 21}, (any_fn *)rope_reads_past},
        {{.slot = "rope", .n = 21}, (any_fn *)rope_writes_before},
        {{.slot = "softmax_num", .n = 37}, (any_fn *)softmax_libm},
        {{.slot = "light_out", .n = 32, .a = 3, .b = 9}, (any_fn *)light_out_late_decay},
        {{.slot = "quantize_act", .n = 256}, (any_fn *)quantize_truncates},
        {{.slot = "attn_f32", .n = 32, .a = 3, .b = 33}, (any_fn *)attn_forgets_last},
        {{.slot = "attn_i8", .n = 64, .a = 3, .b = 33}, (any_fn *)attn_i8_sees_all},
        {{.slot = "quantize_i16", .n = 128}, (any_fn *)quantize_i16_cuts},
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        problem p = broken[i].p;
        p.input = IN_NORMAL;
        p.seed = i;
        CHECK(agrees(&p, reference_of(p.slot)->fn));
        if (agrees(&p, broken[i].fn)) {
            fg_test_fail(__FILE__, __LINE__, "%s: broken kernel %zu was not caught", p.slot, i);
        }
    }
}
