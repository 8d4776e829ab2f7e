/* SPDX-License-Identifier: MIT
 *
 * What the parts of the bench share: bench.c (machine), bench_kernels.c, bench_model.c.
 */
#ifndef FG_SRC_ENGINE_BENCH_IMPL_H
#define FG_SRC_ENGINE_BENCH_IMPL_H

#include "src/engine/bench.h"
#include "src/model/forward.h"
#include "src/sys/bandwidth.h"
#include "src/sys/team.h"

struct fg_bench {
    fg_engine *e;
    uint32_t cpu_flags;
    fg_team *team;
    fg_model *model;
    fg_kv_choice kv;
    fg_bandwidth_buffer buffer; /* created at the first measurement */
};

/* Read bandwidth of anonymous memory, n_pass passes. */
fg_status fg_bench_read(fg_bench *b, uint32_t n_pass, fg_bandwidth *out, fg_err *err);

/* GMAC/s of the panel kernels; best run of a few. */
fg_status fg_bench_gemm(fg_bench *b, fg_bench_rates *out, fg_err *err);

/* Median of n > 0 values, which are sorted. */
double fg_bench_median(double *v, size_t n);

/* Fills bytes with numbers that are harmless in every format: as f32 and bf16 of size 0.5 to 1, as
 * f16 1 to 2, as codes and int8 scales anything.  A function of `seed`. */
void fg_bench_fill(void *p, uint64_t bytes, uint64_t seed);

/* Weight types as the machine's GEMM figures list them, and the index of a matrix's. */
typedef struct fg_bench_type {
    const char *name;
    const char *slot;
    fg_qtype type;
    const fg_lut *lut;
} fg_bench_type;
extern const fg_bench_type fg_bench_type_list[FG_BENCH_TYPES];
/* FG_BENCH_TYPES when it is none of them. */
size_t fg_bench_type_index(fg_qtype type, const fg_lut *lut);

#endif
