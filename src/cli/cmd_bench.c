/* SPDX-License-Identifier: MIT
 *
 * Runs the measurements of bench/bench.h, prints them as tables, and collects each figure under
 * a name for --json and --csv.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/csv.h"
#include "bench/bench.h"
#include "src/engine/session.h"

static int run(int argc, char **argv);

const command cmd_bench = {
    .name = "bench",
    .summary = "speed of this machine, the kernels and a model, against the limits",
    .synopsis = "MODEL",
    .example = "fulgur bench m1.fulgur -p 512 -n 32 --ctx 0,4096,32768 --kernels\n"
               "fulgur bench m1.fulgur --csv m1.csv --commit abc123",
    .description =
        "Measures the speed of memory and arithmetic on this machine, then of prompts and of "
        "generation at several positions of the context, and says what share of the machine's "
        "limits they reach. Medians of `--runs`.\n"
        "`--kernels` adds every kernel by itself, from cache and from memory; `--cold` adds a "
        "start with the file dropped from memory.",
    .run = run,
};

enum { MAX_CTX = 16, MAX_SHAPES = 16 };

typedef struct settings {
    const char *model, *ctx_list, *shapes, *csv, *commit, *flags;
    uint32_t n_prompt, n_gen, n_run;
    bool json, kernels, cold;
    uint64_t ctx[MAX_CTX];
    size_t n_ctx;
    fg_kv_choice kv;
    fg_engine_opts eo;
} settings;

/* One figure: name, number, unit. */
typedef struct metric {
    char name[72];
    double value;
    const char *unit;
} metric;

typedef struct report {
    const settings *o;
    metric *m;
    size_t n, cap;
    bool failed;
    fg_bench_machine machine;
} report;

static void note(report *r, double value, const char *unit, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void note(report *r, double value, const char *unit, const char *fmt, ...)
{
    void *p = r->m;
    if (!fg_mem_grow(&p, &r->cap, r->n + 1, sizeof *r->m)) {
        r->failed = true;
        return;
    }
    r->m = p;
    metric *m = &r->m[r->n++];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(m->name, sizeof m->name, fmt, ap);
    va_end(ap);
    m->value = isfinite(value) ? value : 0.0;
    m->unit = unit;
}

static double percent(double part, double whole)
{
    return whole > 0.0 ? 100.0 * part / whole : 0.0;
}

/* The tables go to stdout, but to nowhere when that carries JSON. */
static void say(const report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(const report *r, const char *fmt, ...)
{
    va_list ap;
    if (r->o->json) return;
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)fflush(stdout);
}

/* ---- machine ---- */

static fg_status bench_machine(report *r, fg_bench *b, fg_err *err)
{
    fg_bench_machine *m = &r->machine;
    FG_TRY(fg_bench_measure_machine(b, m, err));
    say(r, "machine     %s, %u threads, %s of memory, %s last-level cache\n", m->cpu, m->n_thread,
        cli_known_memory(m->ram_bytes), cli_memory((double)m->llc_bytes));
    if (m->n_core != 0) {
        say(r, "cores       %u physical, %u logical\n", m->n_core, m->n_cpu);
        note(r, m->n_core, "", "cores.physical");
        note(r, m->n_cpu, "", "cores.logical");
    }
    say(r, "read        %.1f GB/s (best %.1f), buffer of %s, %.0f %% on huge pages\n",
        m->anon.median_gbs, m->anon.best_gbs, cli_memory((double)m->anon.bytes),
        100.0 * m->anon.huge);
    if (m->map.bytes != 0) {
        say(r, "read file   %.1f GB/s (best %.1f), %s of the model's mapping%s\n",
            m->map.median_gbs, m->map.best_gbs, cli_bytes((double)m->map.bytes),
            m->map_in_cache ? ", in cache" : "");
    }
    say(r, "read limit  %.1f GB/s: %s\n", m->limit_gbs, m->limit_form);
    note(r, m->limit_gbs, "GB/s", "read.limit");
    note(r, m->anon.median_gbs, "GB/s", "read.anonymous");
    note(r, m->anon.best_gbs, "GB/s", "read.anonymous.best");
    note(r, 100.0 * m->anon.huge, "%", "read.anonymous.huge_pages");
    note(r, m->map.median_gbs, "GB/s", "read.mapping");
    note(r, m->map.best_gbs, "GB/s", "read.mapping.best");
    for (uint32_t i = 0; i < m->n_sync; i++) {
        const fg_bench_sync *y = &m->sync[i];
        say(r, "%s %u threads %.2f us (best %.2f)%s", i == 0 ? "barrier    " : ",", y->n_thread,
            y->median_us, y->best_us, i + 1 < m->n_sync ? "" : "\n");
        note(r, y->median_us, "us", "sync.threads=%u", y->n_thread);
        note(r, y->best_us, "us", "sync.threads=%u.best", y->n_thread);
    }
    say(r, "GEMM        GMAC/s from cache, one core (all):");
    for (int i = 0; i < FG_BENCH_TYPES; i++) {
        const double share = 100.0 * m->gemm.type[i].all_gmacs / m->gemm.unit_all_gmacs;
        say(r, " %s %.0f (%.0f", m->gemm.type[i].name, m->gemm.type[i].core_gmacs,
            m->gemm.type[i].all_gmacs);
        if (m->gemm.unit_all_gmacs > 0.0) {
            say(r, ", %.0f %% of the unit", share);
            note(r, share, "%", "gemm.%s.of_unit", m->gemm.type[i].name);
        }
        say(r, ")%s", i + 1 < FG_BENCH_TYPES ? "," : "\n");
        note(r, m->gemm.type[i].core_gmacs, "GMAC/s", "gemm.%s.core", m->gemm.type[i].name);
        note(r, m->gemm.type[i].all_gmacs, "GMAC/s", "gemm.%s.all", m->gemm.type[i].name);
    }
    if (m->gemm.unit_all_gmacs > 0.0) {
        say(r, "unit        %.0f GMAC/s a core, %.0f all: multiplications on registers alone\n",
            m->gemm.unit_core_gmacs, m->gemm.unit_all_gmacs);
        note(r, m->gemm.unit_core_gmacs, "GMAC/s", "unit.core");
        note(r, m->gemm.unit_all_gmacs, "GMAC/s", "unit.all");
    }
    say(r, "peak        %.0f GMAC/s a core, %.0f all (%s)\n", m->gemm.type[m->gemm.best].core_gmacs,
        m->gemm.type[m->gemm.best].all_gmacs, m->gemm.type[m->gemm.best].name);
    return FG_OK;
}

/* ---- kernels ---- */

static fg_status bench_kernels(report *r, fg_bench *b, fg_err *err)
{
    uint32_t n_col[MAX_SHAPES] = {6144, 8192, 9216}; /* of MiniMax-M1 */
    size_t n_shape = 3, n;
    fg_bench_kernel *rows;
    if (r->o->shapes != NULL) {
        FG_TRY(fg_bench_read_shapes(r->o->shapes, n_col, MAX_SHAPES, &n_shape, err));
    }
    FG_TRY(fg_bench_measure_kernels(b, n_col, n_shape, &rows, &n, err));
    say(r, "\nkernels, one core, %d rounds; matrices: a panel of 16 rows\n", FG_BENCH_ROUNDS);
    say(r, "%-16s %6s %6s %-7s %11s %11s %8s %8s %8s\n", "kernel", "length", "tokens", "from",
        "min ns", "median ns", "GB/s", "GMAC/s", "x scalar");
    for (size_t i = 0; i < n; i++) {
        const fg_bench_kernel *k = &rows[i];
        const char *from = k->cold ? "memory" : "cache";
        const double gbs = k->bytes / k->median_ns, gmacs = k->macs / k->median_ns;
        say(r, "%-16s %6u %6u %-7s %11.1f %11.1f %8.2f", k->slot, k->n, k->n_tok, from, k->min_ns,
            k->median_ns, gbs);
        if (gmacs > 0.0) say(r, " %8.1f", gmacs);
        if (gmacs <= 0.0) say(r, " %8s", "-");
        if (k->vs_scalar > 0.0) say(r, " %8.1f\n", k->vs_scalar);
        if (k->vs_scalar <= 0.0) say(r, " %8s\n", "-");
        char name[64];
        (void)snprintf(name, sizeof name, "kernel.%s.n=%u.t=%u.%s", k->slot, k->n, k->n_tok, from);
        note(r, k->min_ns, "ns", "%s.min", name);
        note(r, k->median_ns, "ns", "%s", name);
        note(r, gbs, "GB/s", "%s.bytes", name);
        if (gmacs > 0.0) note(r, gmacs, "GMAC/s", "%s.macs", name);
        if (k->vs_scalar > 0.0) note(r, k->vs_scalar, "x", "%s.vs_scalar", name);
    }
    fg_mem_free(rows);
    return FG_OK;
}

/* Products of many tokens on all cores; what they are compared with is the tile unit's work without
 * the rest of it, or the vector unit. */
static fg_status bench_many(report *r, fg_bench *b, fg_err *err)
{
    fg_bench_many m;
    FG_TRY(fg_bench_measure_many(b, &m, err));
    for (uint32_t l = 0; l < m.n_level; l++) {
        const char *name = m.level[l].name;
        const double pattern = m.level[l].pattern, peak = m.level[l].peak;
        const double limit = pattern > 0.0 ? pattern : peak;
        say(r, "\nGEMM, all %u threads, %s, rows of %d from memory, GMAC/s (%% of %s)\n",
            r->machine.n_thread, name, FG_BENCH_MANY_COLS,
            pattern > 0.0 ? "the pattern" : "the unit");
        for (int t = 0; t < FG_BENCH_TYPES; t++) {
            say(r, "  %-6s", r->machine.gemm.type[t].name);
            for (int i = 0; i < FG_BENCH_MANY_TOKS; i++) {
                const double gmacs = m.level[l].gmacs[t][i], share = percent(gmacs, limit);
                char key[64];
                (void)snprintf(key, sizeof key, "many.%s.%s.t=%u", name,
                               r->machine.gemm.type[t].name, m.n_tok[i]);
                say(r, "%s %u tokens %.0f (%.0f %%)", i == 0 ? "" : ",", m.n_tok[i], gmacs, share);
                note(r, gmacs, "GMAC/s", "%s", key);
                if (limit > 0.0) {
                    note(r, share, "%", "%s.of_%s", key, pattern > 0.0 ? "pattern" : "unit");
                }
            }
            say(r, "\n");
        }
        if (peak > 0.0) {
            say(r, "  unit   %.0f on registers alone\n", peak);
            note(r, peak, "GMAC/s", "many.%s.unit", name);
        }
        if (pattern > 0.0) {
            say(r,
                "  pattern %.0f: 512 rows, planes in the first-level cache, stores;"
                " 128 in the order of tiles %.0f\n",
                pattern, m.level[l].pattern_tiles);
            note(r, pattern, "GMAC/s", "many.%s.pattern", name);
            note(r, m.level[l].pattern_tiles, "GMAC/s", "many.%s.pattern.tiles", name);
        }
    }
    return FG_OK;
}

/* ---- the model ---- */

/* GMAC/s that all cores would reach on this mix of types at their GEMM rates. */
static double mix_limit(const fg_bench_run *x)
{
    double seconds = 0.0, gmac = 0.0;
    for (int i = 0; i < FG_BENCH_TYPES; i++) {
        if (x->gemm.type[i].all_gmacs <= 0.0) continue;
        seconds += x->gmac_type[i] / x->gemm.type[i].all_gmacs;
        gmac += x->gmac_type[i];
    }
    return seconds > 0.0 ? gmac / seconds : 0.0;
}

static void say_phases(report *r, const char *what, const fg_bench_run *x)
{
    say(r, "  time:");
    for (uint32_t i = 0; i < x->n_phase; i++) {
        say(r, "%s %s %.1f %%", i == 0 ? "" : ",", x->phase[i].name, 100.0 * x->phase[i].share);
        note(r, 100.0 * x->phase[i].share, "%", "%s.ctx=%" PRIu64 ".time.%s", what, x->ctx,
             x->phase[i].name);
    }
    say(r, "\n");
}

static void say_decode(report *r, const fg_bench_run *x)
{
    const fg_bench_machine *m = &r->machine;
    const double bytes = x->weight_bytes + x->state_bytes, gbs = x->tok_s * bytes * 1e-9;
    say(r, "decode  ctx %-7" PRIu64 " %9.2f tok/s (best %.2f), %s/token (%s state), %.2f GB/s",
        x->ctx, x->tok_s, x->best_tok_s, cli_bytes(bytes), cli_bytes(x->state_bytes), gbs);
    if (m->map_in_cache) {
        say(r, ", in cache\n");
    } else {
        say(r, ", %.0f %% of the read limit (%.1f: %.1f before, %.1f after%s)\n",
            percent(gbs, x->read_gbs), x->read_gbs, x->before_gbs, x->after_gbs,
            fg_bench_unsteady(x->before_gbs, x->after_gbs) ? ", not steady" : "");
        note(r, percent(gbs, x->read_gbs), "%", "decode.ctx=%" PRIu64 ".of_read", x->ctx);
        note(r, x->read_gbs, "GB/s", "decode.ctx=%" PRIu64 ".read", x->ctx);
        note(r, x->before_gbs, "GB/s", "decode.ctx=%" PRIu64 ".read.before", x->ctx);
        note(r, x->after_gbs, "GB/s", "decode.ctx=%" PRIu64 ".read.after", x->ctx);
    }
    note(r, x->tok_s, "tok/s", "decode.ctx=%" PRIu64, x->ctx);
    note(r, x->best_tok_s, "tok/s", "decode.ctx=%" PRIu64 ".best", x->ctx);
    note(r, bytes, "B", "decode.ctx=%" PRIu64 ".bytes_per_token", x->ctx);
    note(r, gbs, "GB/s", "decode.ctx=%" PRIu64 ".bandwidth", x->ctx);
    say_phases(r, "decode", x);
}

/* What softmax attention reaches in its share of the time, against its kernel from cache, which is
 * that of the int8 cache. */
static void say_attention(report *r, const fg_bench_run *x)
{
    for (uint32_t i = 0; i < x->n_phase && x->attn_gmac > 0.0; i++) {
        if (strcmp(x->phase[i].name, "softmax attention") != 0 || x->phase[i].share <= 0.0)
            continue;
        const double gmacs = x->tok_s * x->attn_gmac / x->phase[i].share;
        const double share = percent(gmacs, x->gemm.attn_gmacs);
        say(r, "  softmax attention %.0f GMAC/s, %.0f %% of its kernel from cache (%.0f)\n", gmacs,
            share, x->gemm.attn_gmacs);
        note(r, gmacs, "GMAC/s", "prefill.ctx=%" PRIu64 ".attention", x->ctx);
        note(r, share, "%", "prefill.ctx=%" PRIu64 ".attention.of_kernel", x->ctx);
    }
}

/* The experts' matrices in the experts' share of the time. */
static void say_experts(report *r, const fg_bench_run *x)
{
    for (uint32_t i = 0; i < x->n_phase && x->expert_gmac > 0.0; i++) {
        if (strcmp(x->phase[i].name, "experts") != 0 || x->phase[i].share <= 0.0) continue;
        const double gmacs = x->tok_s * x->expert_gmac / x->phase[i].share;
        say(r, "  experts %.0f GMAC/s\n", gmacs);
        note(r, gmacs, "GMAC/s", "prefill.ctx=%" PRIu64 ".experts", x->ctx);
    }
}

static void say_prefill(report *r, const fg_bench_run *x)
{
    const double gmacs = x->tok_s * x->gmac, mix = mix_limit(x);
    const double peak = x->gemm.type[x->gemm.best].core_gmacs * r->machine.n_thread;
    say(r, "prefill ctx %-7" PRIu64 " %9.2f tok/s (best %.2f), %u tokens, %.0f GMAC/s", x->ctx,
        x->tok_s, x->best_tok_s, x->n_tok, gmacs);
    say(r, ", %.0f %% of peak x cores, %.0f %% of GEMM for its types\n", percent(gmacs, peak),
        percent(gmacs, mix));
    say_experts(r, x);
    say_attention(r, x);
    note(r, x->tok_s, "tok/s", "prefill.ctx=%" PRIu64, x->ctx);
    note(r, x->best_tok_s, "tok/s", "prefill.ctx=%" PRIu64 ".best", x->ctx);
    note(r, gmacs, "GMAC/s", "prefill.ctx=%" PRIu64 ".macs", x->ctx);
    note(r, percent(gmacs, peak), "%", "prefill.ctx=%" PRIu64 ".of_peak", x->ctx);
    note(r, percent(gmacs, mix), "%", "prefill.ctx=%" PRIu64 ".of_gemm", x->ctx);
    say_phases(r, "prefill", x);
}

static fg_status bench_model(report *r, const fg_engine *e, fg_bench *b, fg_err *err)
{
    const settings *o = r->o;
    const uint64_t most = fg_engine_shape(e)->n_ctx_max;
    say(r, "\nmodel, %s, medians of %u runs\n", fg_engine_cpu(e), o->n_run);
    for (int decode = 1; decode >= 0; decode--) {
        const uint32_t n_tok = decode ? o->n_gen : o->n_prompt;
        for (size_t i = 0; i < o->n_ctx && n_tok > 0; i++) {
            fg_bench_run x;
            if (o->ctx[i] + n_tok > most) {
                say(r, "%s ctx %" PRIu64 ": left out, the model ends at %" PRIu64 "\n",
                    decode ? "decode " : "prefill", o->ctx[i], most);
                continue;
            }
            FG_TRY((decode ? fg_bench_decode : fg_bench_prefill)(b, o->ctx[i], n_tok, o->n_run, &x,
                                                                 err));
            (decode ? say_decode : say_prefill)(r, &x);
        }
    }
    return FG_OK;
}

static fg_status bench_start(report *r, bool cold, fg_err *err)
{
    fg_bench_start best = {0}, x;
    const char *name = cold ? "cold" : "warm";
    for (int i = 0; i < (cold ? 1 : 3); i++) { /* warm: the fastest of three */
        FG_TRY(fg_bench_measure_start(r->o->model, &r->o->eo, cold, &x, err));
        if (i == 0 || x.first_s < best.first_s) best = x;
    }
    say(r,
        "start %s  open %.3f s, first token after 9 %.3f s, %.0f %% of the file in memory before\n",
        name, best.open_s, best.first_s, 100.0 * best.resident);
    note(r, best.open_s, "s", "start.%s.open", name);
    note(r, best.first_s, "s", "start.%s.first_token", name);
    note(r, 100.0 * best.resident, "%", "start.%s.resident", name);
    return FG_OK;
}

/* ---- output ---- */

static fg_status print_json(const report *r, const char *level, fg_err *err)
{
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"file\": ");
    fg_json_put_str(&b, r->o->model, strlen(r->o->model));
    fg_buf_put_str(&b, ", \"cpu\": ");
    fg_json_put_str(&b, r->machine.cpu, strlen(r->machine.cpu));
    fg_buf_printf(&b, ", \"threads\": %u, \"level\": \"%s\", \"in_cache\": %s, \"metrics\": {",
                  r->machine.n_thread, level, r->machine.map_in_cache ? "true" : "false");
    for (size_t i = 0; i < r->n; i++) {
        fg_buf_put_str(&b, i == 0 ? "" : ", ");
        fg_json_put_str(&b, r->m[i].name, strlen(r->m[i].name));
        fg_buf_printf(&b, ": {\"value\": %.6g, \"unit\": \"%s\"}", r->m[i].value, r->m[i].unit);
    }
    fg_buf_put_str(&b, "}}\n");
    return print_buf(&b, err);
}

static fg_status write_csv(const report *r, const char *level, fg_err *err)
{
    const settings *o = r->o;
    char setup[256];
    char card[64] = "";
    if (o->eo.gpu >= 0) { /* else the machine decides */
        (void)snprintf(card, sizeof card, " gpu=%d gpu-mem=%llu", o->eo.gpu,
                       (unsigned long long)o->eo.gpu_bytes);
    }
    (void)snprintf(setup, sizeof setup, "%s%slevel=%s%s", o->flags, o->flags[0] == '\0' ? "" : " ",
                   level, card);
    fg_buf b = {0}, head = {0};
    csv_put_field(&head, r->machine.cpu);
    fg_buf_printf(&head, "%u,", r->machine.n_thread);
    csv_put_field(&head, o->commit);
    csv_put_field(&head, setup);
    fg_buf_printf(&head, "%s,", csv_now().s);
    const char *same = fg_buf_str(&head);
    fg_buf_put_str(&b, "machine,threads,commit,flags,date,metric,value,unit\n");
    for (size_t i = 0; same != NULL && i < r->n; i++) {
        fg_buf_put_str(&b, same);
        csv_put_field(&b, r->m[i].name);
        fg_buf_printf(&b, "%.6g,%s\n", r->m[i].value, r->m[i].unit);
    }
    const fg_status st = same == NULL ? fg_fail_nomem(err, o->csv) : write_buf(&b, o->csv, err);
    fg_buf_fini(&head);
    fg_buf_fini(&b);
    return st;
}

/* ---- the command ---- */

/* "0,4096,..." */
static bool parse_ctx(settings *o)
{
    const char *s = o->ctx_list;
    for (o->n_ctx = 0; o->n_ctx < MAX_CTX; s++) {
        char *end;
        if (*s < '0' || *s > '9') return false;
        errno = 0;
        const unsigned long long v = strtoull(s, &end, 10);
        if (errno != 0 || v > (uint64_t)1 << 31) return false;
        o->ctx[o->n_ctx++] = v;
        s = end;
        if (*s == '\0') return true;
        if (*s != ',') return false;
    }
    return false;
}

static fg_status bench_all(report *r, const char **level, fg_err *err)
{
    const settings *o = r->o;
    fg_engine *e = NULL;
    fg_bench *b = NULL;
    say_memory_limit();
    fg_status st = o->cold ? bench_start(r, true, err) : FG_OK;
    if (st == FG_OK) st = open_engine(&e, o->model, &o->eo, err);
    if (st == FG_OK) st = fg_bench_create(&b, e, err);
    if (st == FG_OK) fg_bench_set_cache(b, o->kv);
    if (st == FG_OK) st = bench_machine(r, b, err);
    if (st == FG_OK && o->kernels) st = bench_kernels(r, b, err);
    if (st == FG_OK && o->kernels) st = bench_many(r, b, err);
    if (st == FG_OK) st = bench_model(r, e, b, err);
    if (st == FG_OK) st = check_engine(e, err);
    if (st == FG_OK) print_store(e);
    if (st == FG_OK) *level = fg_engine_cpu(e); /* static text */
    fg_bench_destroy(&b);
    fg_engine_close(&e);
    if (st == FG_OK) st = bench_start(r, false, err);
    return st;
}

static int run(int argc, char **argv)
{
    settings o = {.ctx_list = "0,4096,32768,131072",
                  .commit = "",
                  .flags = "",
                  .n_prompt = 512,
                  .n_gen = 32,
                  .n_run = 5,
                  .eo = cli_engine_opts()};
    const opt opts[] = {
        {"prompt", 'p', OPT_U32, &o.n_prompt, 0, 65536, "N",
         "tokens of a prefill; 0: none (default: 512)"},
        {"n-predict", 'n', OPT_U32, &o.n_gen, 0, 65536, "N",
         "tokens of a decode run; 0: none (default: 32)"},
        {"ctx", 0, OPT_STR, &o.ctx_list, 0, 0, "LIST",
         "positions before them (default: 0,4096,32768,131072)"},
        {"runs", 'r', OPT_U32, &o.n_run, 1, 101, "N",
         "runs, of which the median counts (default: 5)"},
        {"kernels", 0, OPT_FLAG, &o.kernels, 0, 0, NULL,
         "also every kernel by itself, and GEMM of many tokens"},
        {"shapes", 0, OPT_STR, &o.shapes, 0, 0, "FILE",
         "for --kernels: lines 'name rows columns' (default: those of M1)"},
        {"cold", 0, OPT_FLAG, &o.cold, 0, 0, NULL,
         "also a cold start: drops the file from memory first"},
        {"csv", 0, OPT_STR, &o.csv, 0, 0, "FILE", "write all figures to FILE"},
        {"commit", 0, OPT_STR, &o.commit, 0, 0, "TEXT", "for --csv: what was measured"},
        {"flags", 0, OPT_STR, &o.flags, 0, 0, "TEXT", "for --csv: how it was built"},
        {"json", 0, OPT_FLAG, &o.json, 0, 0, NULL, "figures as JSON on stdout"},
        CACHE_OPT(o.kv),
        ENGINE_OPTS(o.eo),
        NUMA_OPTS(o.eo),
        GPU_OPTS(o.eo),
        STREAM_OPTS(o.eo),
    };
    int status;
    if (!args_parse(&cmd_bench, opts, sizeof opts / sizeof opts[0], argc, argv, &o.model, 1,
                    &status)) {
        return status;
    }
    if (!parse_ctx(&o)) {
        return args_usage(&cmd_bench, "--ctx: %s, expected up to %d numbers with commas between",
                          o.ctx_list, MAX_CTX);
    }
    if (o.json) cli_gpu_silent(&o.eo);
    fg_err err = {0};
    report r = {.o = &o};
    const char *level = "";
    fg_status st = check_output(o.csv, true, (const char *[]){o.model, o.shapes}, 2, &err);
    if (st == FG_OK) st = bench_all(&r, &level, &err);
    if (st == FG_OK && r.failed) st = fg_fail_nomem(&err, "bench");
    cli_catch_interrupt(); /* until here a signal ends it at once: nothing is written yet */
    if (st == FG_OK && o.json) st = print_json(&r, level, &err);
    if (st == FG_OK && o.csv != NULL) st = write_csv(&r, level, &err);
    fg_mem_free(r.m);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
