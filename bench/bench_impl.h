/* SPDX-License-Identifier: MIT
 *
 * What the parts of the bench share: bench.c (machine), bench_kernels.c, bench_model.c.
 */
#ifndef FG_BENCH_BENCH_IMPL_H
#define FG_BENCH_BENCH_IMPL_H

#include "bench/bench.h"
#include "src/model/forward.h"
#include "src/sys/bandwidth.h"
#include "src/sys/team.h"
#include "src/engine/session.h"

struct fg_bench {
    fg_engine *e;
    uint32_t cpu_flags;
    fg_team *team;
    fg_model *model;
    fg_kv_choice kv;
    fg_bandwidth_buffer buffer; /* created at the first measurement */
    fg_read_form form;          /* the fastest here; n_stream 0: not looked for yet */
    fg_read_span limit;         /* what it reads */
    bool limit_is_map;
};

/* Read bandwidth of anonymous memory, n_pass passes. */
fg_status fg_bench_read(fg_bench *b, uint32_t n_pass, fg_bandwidth *out, fg_err *err);

/* The read limit: the fastest form over anonymous memory and over the mapping, where that is larger
 * than the caches; looked for once, then measured. */
fg_status fg_bench_limit(fg_bench *b, uint32_t n_pass, fg_bandwidth *out, fg_err *err);

/* GMAC/s of the panel kernels; best run of a few. */
fg_status fg_bench_gemm(fg_bench *b, fg_bench_rates *out, fg_err *err);

#endif
