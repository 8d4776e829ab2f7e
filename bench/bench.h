/* SPDX-License-Identifier: MIT
 *
 * Measuring: what this machine can do (memory, integer units), what the kernels reach of it, and
 * what the whole model reaches.  Used by `fulgur bench`; the quick bandwidth figure also by the
 * line after every run.
 *
 * A bench has its own team, tables and sequence state beside the engine's, on the same mapping, so
 * that a context of any length can be had without evaluating it: caches and states are filled with
 * random numbers.  Not for use while the engine is evaluating.
 *
 * Every figure is the median of several runs; "best" stands beside it where the machine is shared.
 * GB and GMAC are 1e9; a MAC is one multiplication and addition.
 */
#ifndef FG_BENCH_BENCH_H
#define FG_BENCH_BENCH_H

#include "src/engine/session.h"

/* GB/s that a plain read loop on as many threads as the engine has reaches, measured in 0.1 s and
 * what it takes to touch 8 times the caches, a second or two where they have hundreds of MB; 0, at
 * once, where a token's weights stay in them, so that memory is not what it waits for.  Not kept: a
 * property of the machine and the moment.  Errors: FG_ENOMEM, FG_EIO. */
fg_status fg_engine_read_bandwidth(const fg_engine *e, double *gbs, fg_err *err);

typedef struct fg_bench fg_bench;

/* e is borrowed and must outlive the bench. */
fg_status fg_bench_create(fg_bench **out, fg_engine *e, fg_err *err);
void fg_bench_destroy(fg_bench **b); /* accepts NULL */

/* Key-value cache of the model's runs, AUTO until then. */
void fg_bench_set_cache(fg_bench *b, fg_kv_choice kv);

/* ---- the machine ---- */

/* Quantized kinds of quant/types.inc, in its order. */
enum { FG_BENCH_TYPES = FG_KIND_QUANTIZED };

/* GEMM of 64 tokens from the second-level cache, GMAC/s, by weight type. */
typedef struct fg_bench_rates {
    struct {
        const char *name;  /* "q4", "q4lin", ... */
        double core_gmacs; /* one core, the others idle */
        double all_gmacs;  /* all workers at once, together */
    } type[FG_BENCH_TYPES];
    uint32_t best; /* index of the fastest one on one core: the integer peak */
    /* what the unit that multiplies them does on registers alone; 0: not measured on this level */
    double unit_core_gmacs, unit_all_gmacs;
    /* attn_i8 of 128 rows on a block of 256 positions in that cache, all workers at once */
    double attn_gmacs;
} fg_bench_rates;

/* What it takes the first n workers of a team to wait for each other, microseconds. */
typedef struct fg_bench_sync {
    uint32_t n_thread;
    double median_us, best_us;
} fg_bench_sync;
enum { FG_BENCH_SYNCS = 12 };

/* For 2, 4, 8, ... workers and all of them; a few hundredths of a second each. */
uint32_t fg_bench_measure_sync(fg_team *t, fg_bench_sync out[FG_BENCH_SYNCS]);

typedef struct fg_bench_machine {
    char cpu[96]; /* as the system names it */
    uint32_t n_thread;
    uint32_t n_core, n_cpu; /* physical and logical ones that may be used; 0: not known */
    uint64_t llc_bytes, ram_bytes;
    struct {
        double median_gbs, best_gbs, huge; /* huge: share of the buffer on huge pages */
        uint64_t bytes;
    } anon, map; /* an anonymous buffer; the model's own mapping (page cache) */
    /* The read limit: the best of both, of several streams a thread, of fewer threads. */
    double limit_gbs;
    char limit_form[80];
    bool map_in_cache; /* the part read is not large against the last-level cache */
    fg_bench_rates gemm;
    uint32_t n_sync;
    fg_bench_sync sync[FG_BENCH_SYNCS];
} fg_bench_machine;

fg_status fg_bench_measure_machine(fg_bench *b, fg_bench_machine *out, fg_err *err);

/* ---- kernels, one core ---- */

typedef struct fg_bench_kernel {
    const char *slot; /* field of fg_kernels */
    uint32_t n;       /* elements of a row: columns of the matrix, or length of the vector */
    uint32_t n_tok;
    bool cold;          /* weights from memory, else from the second-level cache */
    double min_ns;      /* of one call */
    double median_ns;   /* of FG_BENCH_ROUNDS interleaved samples */
    double bytes, macs; /* of one call: weights (or all operands) and multiply-adds */
    double vs_scalar;   /* median time of the scalar kernel in the same rounds / this; 0: not run */
} fg_bench_kernel;

enum { FG_BENCH_ROUNDS = 21 };

/* Panel kernels of every type for rows of n_col[i] columns (multiples of 128), n_tok 1 to 64 from
 * cache and 1 from memory, then the other kernels at the model's dimensions.  *rows [*n] is freed
 * with fg_mem_free. */
fg_status fg_bench_measure_kernels(fg_bench *b, const uint32_t *n_col, size_t n_shape,
                                   fg_bench_kernel **rows, size_t *n, fg_err *err);

/* ---- products of many tokens, all workers ---- */

enum { FG_BENCH_MANY_COLS = 6144, FG_BENCH_MANY_LEVELS = 3, FG_BENCH_MANY_TOKS = 3 };

/* GMAC/s of all workers together, each by its own clock: medians of a few runs in turns. */
typedef struct fg_bench_many {
    uint32_t n_tok[FG_BENCH_MANY_TOKS];
    uint32_t n_level;
    struct {
        const char *name; /* of the CPU level */
        double gmacs[FG_BENCH_TYPES][FG_BENCH_MANY_TOKS];
        double peak; /* of the unit on registers alone; 0: not measured on this level */
        /* with a tile unit, else 0: the same products without unpacking and sums, planes in the
         * first-level cache (fg_pattern_fn), for 512 rows of activations at the stride of plain
         * rows, and for 128 in the order of tiles */
        double pattern, pattern_tiles;
    } level[FG_BENCH_MANY_LEVELS];
} fg_bench_many;

/* Panels of every type as a prefill multiplies them, of rows of FG_BENCH_MANY_COLS columns, from
 * memory, on the best levels that the engine's allows (not the scalar one).  FG_ENOMEM. */
fg_status fg_bench_measure_many(fg_bench *b, fg_bench_many *out, fg_err *err);

/* Reads "name rows columns" lines ('#' starts a comment) and returns the different column counts,
 * at most max of them. */
fg_status fg_bench_read_shapes(const char *path, uint32_t *n_col, size_t max, size_t *n,
                               fg_err *err);

/* ---- the model ---- */

enum { FG_BENCH_PHASES = 16 };

typedef struct fg_bench_run {
    uint64_t ctx;   /* positions before the first token */
    uint32_t n_tok; /* tokens of a run */
    uint32_t n_run;
    double tok_s, best_tok_s; /* median and best of the runs */
    double weight_bytes;      /* read for one token (decode) or for the batch (prefill: each expert
                               * that random tokens meet once) */
    double state_bytes;       /* key-value cache and lightning state, the same */
    double gmac;              /* multiply-adds in weight products for one token, 1e9 */
    double expert_gmac;       /* of those in experts */
    double attn_gmac;         /* in softmax attention for one token, on average */
    double
        gmac_type[FG_BENCH_TYPES + 1]; /* of those by type, as in fg_bench_machine; last: others */
    /* Limits, measured between the runs, so that a busy moment hits both sides: */
    double read_gbs;              /* decode: the read limit, median */
    double before_gbs, after_gbs; /* the first and the last of them */
    fg_bench_rates gemm;          /* prefill */
    uint32_t n_phase;             /* share of worker 0's time by phase; 0: not available */
    struct {
        const char *name;
        double share;
    } phase[FG_BENCH_PHASES];
} fg_bench_run;

/* n_tok tokens one by one, n_run times, after ctx synthetic positions. */
fg_status fg_bench_decode(fg_bench *b, uint64_t ctx, uint32_t n_tok, uint32_t n_run,
                          fg_bench_run *out, fg_err *err);
/* n_tok tokens in batches of the session's default size, logits of the last one. */
fg_status fg_bench_prefill(fg_bench *b, uint64_t ctx, uint32_t n_tok, uint32_t n_run,
                           fg_bench_run *out, fg_err *err);

/* ---- also for src/plan and src/cli ---- */

/* Two bandwidths of the same loop are more than a tenth apart: a percentage of them says little. */
bool fg_bench_unsteady(double before_gbs, double after_gbs);

/* Median of n > 0 values, which are sorted. */
double fg_bench_median(double *v, size_t n);

/* Fills bytes with numbers that are harmless in every format: as f32 and bf16 of size 0.5 to 1, as
 * f16 1 to 2, as codes and int8 scales anything.  A function of `seed`. */
void fg_bench_fill(void *p, uint64_t bytes, uint64_t seed);

/* ---- start ---- */

typedef struct fg_bench_start {
    double open_s;      /* engine and session */
    double first_s;     /* from the beginning to the logits after a prompt of 9 tokens */
    double resident;    /* share of the data in memory between the two */
    uint64_t rss_bytes; /* of the process afterwards */
} fg_bench_start;

/* Opens the file, evaluates, closes.  cold: the kernel is first asked to drop it from memory, which
 * works when no process has it open. */
fg_status fg_bench_measure_start(const char *path, const fg_engine_opts *opts, bool cold,
                                 fg_bench_start *out, fg_err *err);

#endif
