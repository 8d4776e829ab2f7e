/* SPDX-License-Identifier: MIT
 *
 * The rotation (quant/hadamard.h): its definition against the formula of FORMAT.md 6.2 in double,
 * its algebra, and the kernel quantize_act_rot of every level, bit for bit, against the definition
 * followed by the plain quantizer.
 */
#include "tests/checkasm/checkasm.h"

#include "quant/hadamard.h"
#include "src/base/hash.h"

enum { B = FG_SB_COLS, MAX_N = 13 * B };

/* The bytes of FORMAT.md 6.2. */
static const uint8_t signs[16] = {0xac, 0x39, 0x30, 0x2b, 0xad, 0xac, 0xe7, 0xda,
                                  0xd6, 0x02, 0x7e, 0xca, 0xd9, 0x24, 0x94, 0xe8};

static int sign_of(size_t i)
{
    return (signs[i / 8] >> i % 8 & 1) != 0 ? -1 : 1;
}

static int h_of(size_t i, size_t j)
{
    return __builtin_parityll((unsigned long long)(i & j)) != 0 ? -1 : 1;
}

/* R^T x of one block from the formula, and the sum of magnitudes behind each result. */
static void formula(const float *x, double *y, double *size)
{
    for (size_t j = 0; j < B; j++) {
        y[j] = size[j] = 0.0;
        for (size_t i = 0; i < B; i++) {
            const double p = (double)x[i] * sign_of(i) * h_of(i, j) / sqrt((double)B);
            y[j] += p;
            size[j] += fabs(p);
        }
    }
}

/* ---- the definition ------------------------------------------------------------------------- */

FG_TEST(rotation_is_the_formula)
{
    fg_rng r;
    fg_rng_init(&r, 1);
    for (int it = 0; it < 20 * N_FINITE; it++) {
        float x[2 * B], z[2 * B];
        double y[B], size[B];
        fill_floats(&r, it % N_FINITE, x, 2 * B);
        memcpy(z, x, sizeof x);
        fg_hadamard_rotate(z, 2 * B);
        for (size_t b = 0; b < 2; b++) {
            formula(x + b * B, y, size);
            for (size_t j = 0; j < B; j++) { /* factor, product, seven sums */
                CHECK_NEAR(z[b * B + j], y[j], gamma_of(9) * size[j] + B * 0x1p-149);
            }
        }
    }
}

FG_TEST(diagonal_is_the_documents_and_mixes)
{
    /* largest Walsh coefficient over aligned parts of the block: what a run of equal values
     * gives */
    static const struct {
        size_t part;
        int most;
    } want[] = {{128, 20}, {64, 16}, {32, 12}, {16, 10}};
    int negative = 0;
    for (size_t i = 0; i < B; i++) {
        CHECK(fg_hadamard_diag[i] == (float)sign_of(i) * (float)(1.0 / sqrt((double)B)));
        negative += sign_of(i) < 0;
    }
    CHECK_U64(negative, 64);
    for (size_t k = 0; k < sizeof want / sizeof want[0]; k++) {
        int most = 0;
        for (size_t at = 0; at < B; at += want[k].part) {
            for (size_t j = 0; j < want[k].part; j++) {
                int sum = 0;
                for (size_t i = 0; i < want[k].part; i++) sum += sign_of(at + i) * h_of(i, j);
                most = abs(sum) > most ? abs(sum) : most;
            }
        }
        CHECK_U64(most, want[k].most);
    }
}

/* R of the rotated vector is the vector again, and its length is the same. */
FG_TEST(rotation_is_orthogonal)
{
    fg_rng r;
    fg_rng_init(&r, 2);
    for (int kind = 0; kind < N_FINITE; kind++) {
        float x[B], z[B];
        double before = 0.0, after = 0.0;
        fill_floats(&r, kind, x, B);
        memcpy(z, x, sizeof x);
        fg_hadamard_rotate(z, B);
        double size = 0.0;
        for (size_t i = 0; i < B; i++) {
            before += (double)x[i] * (double)x[i];
            after += (double)z[i] * (double)z[i];
            size += fabs((double)x[i]);
        }
        /* each of z errs by gamma_9 sum |x| / sqrt(128), hence the vector by gamma_9 sum |x| */
        const double off = gamma_of(9) * size + B * 0x1p-145;
        CHECK_NEAR(sqrt(after), sqrt(before), off);
        for (size_t i = 0; i < B; i++) {
            double back = 0.0;
            for (size_t j = 0; j < B; j++) {
                back += sign_of(i) * h_of(i, j) * (double)z[j] / sqrt((double)B);
            }
            CHECK_NEAR(back, x[i], off);
        }
    }
}

/* (W R)(R^T x) = W x, both rotated by the one function. */
FG_TEST(rotated_product_is_the_product)
{
    enum { N = 5 * B };
    fg_rng r;
    fg_rng_init(&r, 3);
    for (int it = 0; it < 50; it++) {
        float w[N], x[N], wr[N], xr[N];
        fill_floats(&r, it % N_FINITE, w, N);
        fill_floats(&r, IN_OUTLIER, x, N);
        memcpy(wr, w, sizeof w);
        memcpy(xr, x, sizeof x);
        fg_hadamard_rotate(wr, N);
        fg_hadamard_rotate(xr, N);
        double want = 0.0, got = 0.0, other = 0.0, size = 0.0, w1 = 0.0, x1 = 0.0;
        for (size_t i = 0; i < N; i++) {
            want += (double)w[i] * (double)x[i];
            got += (double)wr[i] * (double)xr[i];
            other += (double)wr[i] * (double)x[i];
            w1 += fabs((double)w[i]);
            x1 += fabs((double)x[i]);
            if (i % B != B - 1) continue;
            size += w1 * x1; /* above |w| |x| sqrt(128), what the errors of wr and xr multiply */
            w1 = x1 = 0.0;
        }
        CHECK_NEAR(got, want, 2.0 * gamma_of(10) * size + 1e-40);
        if (it % N_FINITE == IN_NORMAL) CHECK(fabs(other - want) > 0.01 * fabs(want)); /* control */
    }
}

/* ---- the kernels ---------------------------------------------------------------------------- */

typedef fg_quantize_act_rot_fn kernel;

/* False when it faulted or wrote in front of a buffer (behind is a fault). */
static bool run(kernel *fn, int input, uint64_t seed, size_t n, fg_act128 *out)
{
    static guarded x, y; /* static: live across the jump of a fault */
    fg_rng r;
    fg_rng_init(&r, seed);
    x = guard_alloc(n * sizeof(float));
    y = guard_alloc(n / B * sizeof *out);
    float *in = (float *)(void *)x.p;
    fill_floats(&r, input, in, n);
    const uint64_t before = fg_hash64(in, n * sizeof *in);
    bool faulted;
    RUN_CAUGHT(faulted, fn(in, n, (fg_act128 *)(void *)y.p));
    bool clean = !faulted && fg_hash64(in, n * sizeof *in) == before;
    for (uint8_t *b = x.map; b < x.p; b++) clean = clean && *b == 0;
    for (uint8_t *b = y.map; b < y.p; b++) clean = clean && *b == 0;
    memcpy(out, y.p, n / B * sizeof *out);
    guard_free(&x);
    guard_free(&y);
    return clean;
}

/* Rotated by the definition, then quantized. */
static void reference(const float *x, size_t n, fg_act128 *out)
{
    float z[MAX_N];
    memcpy(z, x, n * sizeof *x);
    fg_hadamard_rotate(z, n);
    fg_quantize_act__scalar(z, n, out);
}

static bool agrees(kernel *fn, int input, uint64_t seed, size_t n)
{
    static fg_act128 want[MAX_N / B], got[MAX_N / B];
    CHECK(run(reference, input, seed, n, want));
    if (!run(fn, input, seed, n, got)) return false;
    for (size_t b = 0; b < n / B; b++) { /* d of a block with NaN is any NaN */
        if (!same_floats(&want[b].d, &got[b].d, 1)) return false;
        if (memcmp(want[b].sum, got[b].sum, sizeof want[b] - sizeof want[b].d) != 0) return false;
    }
    return true;
}

FG_TEST(kernels_equal_the_definition)
{
    size_t n_run = 0;
    for (size_t i = 0; i < N_VARIANTS; i++) {
        const variant *v = &variants[i];
        if (strcmp(v->slot, "quantize_act_rot") != 0 || !runnable(v)) continue;
        for (size_t n = 0; n <= MAX_N; n += B) {
            for (int input = 0; input < N_INPUTS; input++) {
                for (uint64_t seed = 0; n > 0 && seed < 5; seed++) {
                    if (agrees((kernel *)v->fn, input, 100 * n + seed, n)) continue;
                    fg_test_fail(__FILE__, __LINE__, "%s: %zu values, input %d, seed %llu", v->name,
                                 n, input, (unsigned long long)(100 * n + seed));
                }
            }
        }
        n_run++;
    }
    CHECK(n_run >= 1);
}

/* Values near both ends of f32: nothing faults, a block that overflows says NaN. */
FG_TEST(ends_of_the_range)
{
    for (size_t i = 0; i < N_VARIANTS; i++) {
        if (strcmp(variants[i].slot, "quantize_act_rot") != 0 || !runnable(&variants[i])) continue;
        kernel *fn = (kernel *)variants[i].fn;
        float x[B];
        fg_act128 a;
        for (size_t k = 0; k < B; k++) x[k] = (float)sign_of(k) * 3.0e38f; /* one sum has all */
        fn(x, B, &a);
        CHECK(a.d != a.d && a.q[0] == 0 && a.sum[0] == 0);
        for (size_t k = 0; k < B; k++) x[k] = (float)sign_of(k) * 3.0e37f;
        fn(x, B, &a);
        CHECK(a.d > 1e36f && a.q[0] == 127 && a.q[1] == 0 && a.sum[0] == 127 && a.sum[3] == 0);
        for (size_t k = 0; k < B; k++) x[k] = 0x1p-140f;
        fn(x, B, &a);
        CHECK(a.d == 0.0f && a.q[0] == 0);
        x[77] = INFINITY;
        fn(x, B, &a);
        CHECK(a.d != a.d && a.q[0] == 0);
    }
}

/* The bits themselves, so that a compiler that changes all levels at once is noticed. */
FG_TEST(golden_bits)
{
    static fg_act128 out[5];
    for (size_t i = 0; i < N_VARIANTS; i++) {
        if (strcmp(variants[i].slot, "quantize_act_rot") != 0 || !runnable(&variants[i])) continue;
        CHECK(run((kernel *)variants[i].fn, IN_UNIFORM, 11, 5 * B, out));
        const uint64_t h = fg_hash64(out, sizeof out);
        if (h == 0xe2931da753447c74u) continue;
        fg_test_fail(__FILE__, __LINE__, "%s: hash 0x%016llx", variants[i].name,
                     (unsigned long long)h);
    }
}

/* ---- negative controls
 * ------------------------------------------------------------------------ */

/* Orthogonal as well, and the same but for rounding. */
static void stages_in_other_order(const float *x, size_t n, fg_act128 *out)
{
    float z[MAX_N];
    for (size_t i = 0; i < n; i++) z[i] = x[i] * fg_hadamard_diag[i % B];
    for (size_t d = 1; d < B; d *= 2) {
        for (size_t i = 0; i < n; i++) {
            if ((i & d) != 0) continue;
            const float lo = z[i], hi = z[i + d];
            z[i] = lo + hi;
            z[i + d] = lo - hi;
        }
    }
    fg_quantize_act__scalar(z, n, out);
}

static void not_rotated(const float *x, size_t n, fg_act128 *out)
{
    fg_quantize_act__scalar(x, n, out);
}

static void reads_past(const float *x, size_t n, fg_act128 *out)
{
    volatile float sink = x[n];
    (void)sink;
    reference(x, n, out);
}

static void writes_before(const float *x, size_t n, fg_act128 *out)
{
    reference(x, n, out);
    ((uint8_t *)out)[-1] = 1;
}

static void rotates_in_place(const float *x, size_t n, fg_act128 *out)
{
    reference(x, n, out);
    memset((float *)(uintptr_t)x, 0, n * sizeof *x);
}

static void drops_tail(const float *x, size_t n, fg_act128 *out)
{
    reference(x, n - B, out);
}

FG_TEST(broken_kernels_are_caught)
{
    static kernel *const broken[] = {stages_in_other_order, not_rotated,      reads_past,
                                     writes_before,         rotates_in_place, drops_tail};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        if (agrees(broken[i], IN_NORMAL, i, 7 * B)) {
            fg_test_fail(__FILE__, __LINE__, "broken kernel %zu was not caught", i);
        }
    }
    CHECK(agrees(reference, IN_NORMAL, 0, 7 * B));
}
