/* SPDX-License-Identifier: MIT
 *
 * The AVX-512-VNNI kernels on an emulated CPU that has the instructions (Bochs, model tigerlake),
 * without an operating system: every panel type and the f32 kernels against the scalar reference,
 * by bits.  The objects are those of the program, but for -ffreestanding.
 * Result lines go to the first serial port: "ok NAME", "FAIL NAME", at the end "done".
 */
#include <math.h>
#include <string.h>

#include "simd/kernels_decl.h"
#include "src/base/rng.h"

enum { MAX_TOK = 19, N_SB = 3, COLS = 128 * N_SB, SERIAL = 0x3f8 };

void emu_main(void);

/* ---- what a C library would give ---------------------------------------------------------- */

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    void *d = to;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int value, size_t n)
{
    void *d = to;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(value) : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < n; i++) {
        if (x[i] != y[i]) return x[i] - y[i];
    }
    return 0;
}

float fmaf(float a, float b, float c) /* the CPU's own; the reference is built without FMA */
{
    __asm__("vfmadd213ss %2, %1, %0" : "+x"(a) : "x"(b), "x"(c));
    return a;
}

float sqrtf(float x)
{
    __asm__("sqrtss %0, %0" : "+x"(x));
    return x;
}

static void out8(int port, int value)
{
    __asm__ volatile("outb %b0, %w1" : : "a"(value), "d"(port));
}

static void serial_wait(unsigned bits)
{
    uint8_t status;
    do {
        __asm__ volatile("inb %w1, %b0" : "=a"(status) : "d"(SERIAL + 5));
    } while ((status & bits) != bits);
}

static void serial_init(void) /* 115200 baud, 8 bits */
{
    out8(SERIAL + 3, 0x83);
    out8(SERIAL, 1);
    out8(SERIAL + 1, 0);
    out8(SERIAL + 3, 0x03);
}

static void put(const char *s)
{
    for (; *s != '\0'; s++) {
        serial_wait(0x20);
        out8(SERIAL, *s);
    }
}

static void verdict(bool ok, const char *name)
{
    put(ok ? "ok " : "FAIL ");
    put(name);
    put("\n");
}

/* ---- inputs ------------------------------------------------------------------------------- */

static uint8_t panel[N_SB * (64 + 4 * 2048)] __attribute__((aligned(64)));
static float x[MAX_TOK * COLS] __attribute__((aligned(64)));
static float u[MAX_TOK * COLS] __attribute__((aligned(64)));
static fg_act128 act[MAX_TOK * N_SB] __attribute__((aligned(64)));
static float row_scale[16] __attribute__((aligned(64)));
static float y[2][MAX_TOK * COLS] __attribute__((aligned(64)));

enum { RANDOM, LARGEST, SMALLEST, N_PATTERNS };

static void fill(fg_rng *r, int pattern)
{
    for (size_t i = 0; i < sizeof panel; i++) {
        const uint8_t random = (uint8_t)fg_rng_u64(r);
        panel[i] = pattern == RANDOM ? random : pattern == LARGEST ? 0x7f : 0x80;
    }
    for (size_t i = 0; i < MAX_TOK * N_SB; i++) {
        memset(&act[i], 0, sizeof act[i]);
        act[i].d = (float)(0.001 + fg_rng_f64(r));
        for (size_t k = 0; k < 128; k++) {
            const int random = (int)(fg_rng_u64(r) % 255) - 127;
            const int q = pattern == RANDOM ? random : pattern == LARGEST ? 127 : -127;
            act[i].q[k] = (int8_t)q;
            act[i].sum[k / 32] = (int16_t)(act[i].sum[k / 32] + q);
        }
    }
    for (size_t i = 0; i < 16; i++) row_scale[i] = (float)(0.01 + fg_rng_f64(r));
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) {
        x[i] = (float)(12.0 * fg_rng_f64(r) - 6.0);
        u[i] = (float)(2.0 * fg_rng_f64(r) - 1.0);
    }
}

/* f32 and bf16 weights that are numbers. */
static void fill_float_panel(bool bf16)
{
    for (size_t i = 0; i < 16 * 128; i++) {
        uint32_t bits;
        memcpy(&bits, &u[i], sizeof bits);
        const uint16_t half = (uint16_t)(bits >> 16);
        if (bf16) memcpy(panel + 2 * i, &half, sizeof half);
        if (!bf16) memcpy(panel + 4 * i, &bits, sizeof bits);
    }
}

/* ---- checks ------------------------------------------------------------------------------- */

static const size_t token_counts[] = {1, 2, 3, 5, 8, 13, MAX_TOK};
enum { N_COUNTS = sizeof token_counts / sizeof token_counts[0] };

static bool same_panels(fg_panel_fn *ref, fg_panel_fn *fn, const void *acts, size_t stride,
                        size_t n_sb)
{
    for (size_t c = 0; c < N_COUNTS; c++) {
        const size_t n = token_counts[c];
        memset(y, 0, sizeof y);
        ref(panel, row_scale, &fg_lut_grid6, acts, stride, n, n_sb, y[0], 16);
        fn(panel, row_scale, &fg_lut_grid6, acts, stride, n, n_sb, y[1], 16);
        if (memcmp(y[0], y[1], sizeof y[0]) != 0) return false;
    }
    return true;
}

static const struct {
    const char *name;
    fg_panel_fn *ref, *fn;
} panels[] = {
    {"panel_q4", fg_panel_q4__scalar, fg_panel_q4__avx512vnni},
    {"panel_q4lin", fg_panel_q4lin__scalar, fg_panel_q4lin__avx512vnni},
    {"panel_q5", fg_panel_q5__scalar, fg_panel_q5__avx512vnni},
    {"panel_q6", fg_panel_q6__scalar, fg_panel_q6__avx512vnni},
    {"panel_q8", fg_panel_q8__scalar, fg_panel_q8__avx512vnni},
};
_Static_assert(sizeof panels / sizeof panels[0] == FG_KIND_QUANTIZED, "one of each type");

static void check_panels(fg_rng *r)
{
    const size_t stride = N_SB * sizeof(fg_act128);
    for (size_t i = 0; i < sizeof panels / sizeof panels[0]; i++) {
        bool ok = true;
        for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
            fill(r, pattern);
            ok = same_panels(panels[i].ref, panels[i].fn, act, stride, N_SB) && ok;
        }
        verdict(ok, panels[i].name);
    }
    fill(r, RANDOM);
    fill_float_panel(false);
    verdict(same_panels(fg_panel_f32__scalar, fg_panel_f32__avx512vnni, x, 512, 1), "panel_f32");
    fill_float_panel(true);
    verdict(same_panels(fg_panel_bf16__scalar, fg_panel_bf16__avx512vnni, x, 512, 1), "panel_bf16");
}

static void check_f32(fg_rng *r)
{
    static fg_act128 q[2][MAX_TOK * N_SB] __attribute__((aligned(64)));
    const size_t n = sizeof x / sizeof x[0];
    float sum[2];
    fill(r, RANDOM);
    memset(q, 0, sizeof q);
    fg_quantize_act__scalar(x, n, q[0]);
    fg_quantize_act__avx512vnni(x, n, q[1]);
    verdict(memcmp(q[0], q[1], sizeof q[0]) == 0, "quantize_act");
    fg_rmsnorm__scalar(x, u, n, 1e-6f, y[0]);
    fg_rmsnorm__avx512vnni(x, u, n, 1e-6f, y[1]);
    verdict(memcmp(y[0], y[1], sizeof y[0]) == 0, "rmsnorm");
    fg_silu_mul__scalar(x, u, n, y[0]);
    fg_silu_mul__avx512vnni(x, u, n, y[1]);
    verdict(memcmp(y[0], y[1], sizeof y[0]) == 0, "silu_mul");
    memcpy(y[0], x, sizeof y[0]);
    memcpy(y[1], x, sizeof y[1]);
    sum[0] = fg_softmax_num__scalar(y[0], n - 5);
    sum[1] = fg_softmax_num__avx512vnni(y[1], n - 5);
    verdict(memcmp(y[0], y[1], sizeof y[0]) == 0 && memcmp(&sum[0], &sum[1], 4) == 0,
            "softmax_num");
}

/* A kernel that drops one bit of one weight must be seen. */
static void broken(const uint8_t *p, const float *rs, const fg_lut *lut, const void *a,
                   size_t stride, size_t n_tok, size_t n_sb, float *out, size_t out_stride)
{
    panel[200] ^= 1;
    fg_panel_q6__avx512vnni(p, rs, lut, a, stride, n_tok, n_sb, out, out_stride);
    panel[200] ^= 1;
}

void emu_main(void)
{
    fg_rng r;
    fg_rng_init(&r, 1);
    serial_init();
    check_panels(&r);
    check_f32(&r);
    fill(&r, RANDOM);
    verdict(!same_panels(fg_panel_q6__scalar, broken, act, N_SB * sizeof(fg_act128), N_SB),
            "broken_kernel_is_caught");
    put("done\n");
    serial_wait(0x60); /* sent, not only taken */
}
