/* SPDX-License-Identifier: MIT
 *
 * Routing traces: `trace` records one while a text is evaluated, `trace replay` says what any
 * policy and predictor would have made of it within any memory.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/expert/heat.h"
#include "src/eval/quality.h"
#include "src/engine/session.h"
#include "src/eval/recorder.h"
#include "src/base/utf8.h"
#include "src/cli/held_back.h"

static int run(int argc, char **argv);
static int run_replay(int argc, char **argv);

static const command cmd_replay = {
    .name = "trace replay",
    .summary = "hits of every policy and predictor on a recorded trace, within any memory",
    .synopsis = "TRACE",
    .example = "fulgur trace replay book.trace --ram 24G\n"
               "fulgur trace replay book.trace --ram 24G --ahead 1 --json",
    .description =
        "Computes from a recorded trace, without the model, the hits, reads and wasted reads of "
        "every policy and predictor within any `--ram`, with Belady's optimum and a random "
        "policy to compare with, and how often a predictor was right, so many layers ahead and "
        "before a token's first layer. Where the trace has tokens, models of latent factors are "
        "trained on its first half and judged on the second, beside tables of tokens: `factor` "
        "with ADS and with the nonlinear PID of NPALF (`npid`); or `--predict-model` names models "
        "to judge on all of it.\n"
        "For the run that was recorded the counts are those of the live run exactly. Reads take "
        "every hint as read whole, where a live run gives up hints that turn out wrong, and so "
        "are an upper bound. `extra` are reads that there would not have been without hints, "
        "which keep other experts out of memory; hints that were wrong are counted in `wasted`.",
    .run = run_replay,
};

const command cmd_trace = {
    .name = "trace",
    .summary = "which experts a text uses, as a trace and as a heat map",
    .synopsis = "MODEL TEXT_FILE",
    .example = "fulgur trace m1.fulgur book.txt -o book.trace --tokens 10000 --ram 64G\n"
               "fulgur trace m1.fulgur book.txt --heat\n"
               "fulgur trace replay book.trace --ram 24G",
    .description =
        "Evaluates a text once and records which experts each token used. `-o` writes the "
        "routing as a trace, from which `fulgur trace replay` computes what any policy and "
        "predictor would make of it. A trace contains the text, as token ids, from which "
        "predictors learn; `--no-text` leaves them out. `--heat` keeps the counts in the model "
        "file, where "
        "`--policy pin` finds the hottest experts.\n" STREAM_ABOUT NUMA_ABOUT,
    .sub = &cmd_replay,
    .run = run,
};

/* ---- recording ---- */

typedef struct request {
    fg_engine_opts eo;
    fg_session_opts so;
    const char *model, *text, *out; /* out: NULL for none */
    uint64_t n_tok;                 /* at most; 0: all */
    bool heat, special, json, force, no_text;
} request;

static bool show(void *ctx, size_t done, size_t total)
{
    return progress_show(ctx, done, total);
}

static fg_status read_ids(const request *q, fg_engine *e, fg_ids *ids, fg_err *err)
{
    const fg_tokenizer *t;
    char *text = NULL;
    size_t n;
    FG_TRY(fg_engine_tokenizer(e, &t, err));
    FG_TRY(read_text(q->text, &text, &n, err));
    cli_tell_utf8("trace", q->text, text, n);
    fg_status st = encode_text(t, text, n, q->special, ids, err);
    fg_mem_free(text);
    if (st == FG_OK && q->n_tok > 0 && ids->len > q->n_tok) ids->len = (size_t)q->n_tok;
    if (st == FG_OK && ids->len == 0) {
        st = fg_fail(err, FG_EINVAL, "%s: no tokens, expected at least one", q->text);
    }
    return st;
}

static void print_recorded(const request *q, fg_engine *e, size_t n_tok)
{
    const fg_store_stats *s = fg_engine_store_stats(e);
    if (!q->json) {
        printf("%s tokens", cli_count(n_tok));
        if (q->out != NULL) {
            printf("; trace in %s, %s", cli_shown(q->out),
                   q->no_text ? "without the text" : "which contains the text, as token ids");
        }
        if (q->heat) printf("; heat map in %s", cli_shown(q->model));
        printf("\n");
        return;
    }
    printf("{\"tokens\": %zu, \"text\": %s", n_tok,
           q->out != NULL && !q->no_text ? "true" : "false");
    if (s != NULL) {
        const fg_cache_stats *c = &s->cache;
        printf(", \"slots\": %u, \"hits\": %" PRIu64 ", \"prefetch_hits\": %" PRIu64
               ", \"misses\": %" PRIu64 ", \"prefetches\": %" PRIu64 ", \"wasted\": %" PRIu64
               ", \"extra\": %" PRId64 ", \"switched_off\": %u",
               s->n_slot, c->n_hit, c->n_prefetch_hit, c->n_miss, c->n_prefetch, c->n_wasted,
               fg_cache_extra(c), s->n_switch);
    }
    printf("}\n");
}

static fg_status store_heat(const request *q, fg_engine *e, const fg_recorder *r, size_t n_tok,
                            fg_err *err)
{
    const fg_shape *s = fg_engine_shape(e);
    const size_t n = (size_t)s->n_layer * s->n_expert;
    fg_heat h = {.n_tok = n_tok,
                 .data_root = fg_model_file_data_root(fg_engine_file(e)),
                 .use = fg_mem_zalloc_array(n, sizeof *h.use)};
    if (h.use == NULL) return fg_fail_nomem(err, "heat map");
    memcpy(h.use, fg_recorder_heat(r), n * sizeof *h.use);
    fg_utf8_file_name(q->text, h.text, sizeof h.text);
    const fg_status st = fg_heat_store(q->model, &h, err);
    fg_mem_free(h.use);
    return st;
}

static fg_status record(request *q, fg_engine *e, fg_err *err)
{
    fg_ids ids = {0};
    fg_session *s = NULL;
    fg_recorder *r = NULL;
    progress p;
    fg_status st = read_ids(q, e, &ids, err);
    q->so.n_ctx = ids.len;
    if (st == FG_OK) st = fg_session_create(&s, e, &q->so, err);
    if (st == FG_OK) st = fg_recorder_create(&r, e, s, &q->eo, q->out, !q->no_text, err);
    if (st == FG_OK) {
        progress_start(&p, "trace", "token");
        fg_session_set_progress(s, show, &p);
        st = fg_session_eval(s, ids.data, ids.len, NULL, NULL, err);
        progress_end(&p);
    }
    if (st == FG_OK) st = check_engine(e, err);
    if (st == FG_OK) st = fg_recorder_finish(r, err);
    if (st == FG_OK && q->heat) st = store_heat(q, e, r, ids.len, err);
    if (st == FG_OK) {
        print_recorded(q, e, ids.len);
        print_store(e);
    }
    fg_recorder_destroy(&r);
    fg_session_destroy(&s);
    fg_ids_fini(&ids);
    return st;
}

static int run(int argc, char **argv)
{
    request q = {.eo = fg_engine_opts_default(), .so = fg_session_opts_default()};
    const char *operand[2];
    q.so.n_batch = 1;
    const opt opts[] = {
        {"out", 'o', OPT_STR, &q.out, 0, 0, "TRACE", "write the trace to this file"},
        FORCE_OPT(q.force),
        {"heat", 0, OPT_FLAG, &q.heat, 0, 0, NULL, "keep the counts in MODEL, for --policy pin"},
        {"no-text", 0, OPT_FLAG, &q.no_text, 0, 0, NULL,
         "leave the tokens out of the trace, and so the text"},
        {"tokens", 0, OPT_U64, &q.n_tok, 1, 1e12, "N", "tokens at most (default: all)"},
        {"batch", 'b', OPT_U32, &q.so.n_batch, 1, 4096, "N",
         "tokens evaluated together; 1 (default): as when they are generated"},
        {"special", 0, OPT_FLAG, &q.special, 0, 0, NULL, "markup in the text counts as such"},
        {"json", 0, OPT_FLAG, &q.json, 0, 0, NULL, "report as JSON on stdout"},
        CACHE_OPT(q.so.kv),
        ENGINE_OPTS(q.eo),
        NUMA_OPTS(q.eo),
        STREAM_OPTS(q.eo),
    };
    int status;
    if (!args_parse(&cmd_trace, opts, sizeof opts / sizeof opts[0], argc, argv, operand, 2,
                    &status)) {
        return status;
    }
    if (q.out == NULL && !q.heat) {
        return args_usage(&cmd_trace, "nothing to write, expected -o TRACE or --heat");
    }
    q.model = operand[0];
    q.text = operand[1];
    fg_err err = {0};
    fg_engine *e = NULL;
    cli_catch_interrupt();
    fg_status st = check_output(q.out, q.force, (const char *[]){q.model, q.text}, 2, &err);
    if (st == FG_OK) st = open_engine(&e, q.model, &q.eo, &err);
    if (st == FG_OK) st = record(&q, e, &err);
    fg_engine_close(&e);
    if (st != FG_OK) return cli_fail(&err);
    return cli_finish_made("trace", q.out == NULL ? q.model : q.out);
}

/* ---- replay ---- */

typedef struct row {
    fg_policy policy;
    fg_predict predict;
    bool as_recorded;
    fg_cache_stats s;
} row;

enum { N_ROW = FG_POLICY_COUNT * FG_PREDICT_COUNT };

typedef struct table {
    const char *path;
    const fg_trace *t;
    const fg_trace_head *h;
    uint64_t ram_bytes, card_bytes; /* card_bytes: 0: without */
    uint64_t n_resident;
    fg_replay_card card;
    uint32_t ahead, n_slot;
    bool file_heat; /* else that of the trace's first half */
    uint64_t *heat; /* [n_layer * n_expert] */
    row rows[N_ROW];
    const char *models; /* list of files, or NULL */
    held held;
} table;

typedef struct row_progress {
    progress p;
    uint64_t row;
} row_progress;

static bool show_row(void *ctx, uint64_t done, uint64_t total)
{
    row_progress *p = ctx;
    return progress_show(&p->p, p->row * total + done, N_ROW * total);
}

static fg_status fill_rows(table *x, fg_err *err)
{
    fg_future *future = NULL;
    row_progress p = {.row = 0};
    progress_start(&p.p, "replay", "pass");
    fg_status st = fg_future_create(&future, x->t, err);
    for (uint32_t i = 0; st == FG_OK && i < N_ROW; i++) {
        row *r = &x->rows[i];
        r->policy = (fg_policy)(i / FG_PREDICT_COUNT);
        r->predict = (fg_predict)(i % FG_PREDICT_COUNT);
        r->as_recorded = x->h->ram_bytes != 0 && x->ram_bytes == x->h->ram_bytes &&
                         x->ahead == x->h->ahead && r->policy == x->h->policy &&
                         r->predict == x->h->predict;
        /* who can do without a heat map starts from one when the live store does: when the file
         * has one */
        const fg_policy_heat heat = fg_policy_get(r->policy)->heat;
        const bool hot =
            heat == FG_POLICY_HEAT_NEEDED || (heat == FG_POLICY_HEAT_USED && x->file_heat);
        const fg_replay_opts o = {.n_slot = x->n_slot,
                                  .policy = r->policy,
                                  .heat = hot ? x->heat : NULL,
                                  .predict = r->predict,
                                  .ahead = x->ahead,
                                  .as_recorded = r->as_recorded,
                                  .future = future,
                                  .progress = show_row,
                                  .ctx = &p,
                                  .model = x->held.given ? x->held.model[0] : NULL};
        p.row = i;
        st = fg_replay_run(x->t, &o, &r->s, err);
    }
    progress_end(&p.p);
    fg_future_destroy(&future);
    return st;
}

static fg_status fill(table *x, fg_err *err)
{
    const fg_trace_head *h = x->h;
    FG_TRY(fg_trace_slots(h, x->ram_bytes, &x->n_slot, err));
    FG_TRY(held_open(&x->held, x->t, x->models, err));
    x->heat = fg_mem_zalloc_array((size_t)h->n_layer * h->n_expert, sizeof *x->heat);
    if (x->heat == NULL) return fg_fail_nomem(err, x->path);
    x->file_heat = fg_trace_get_heat(x->t, x->heat);
    if (!x->file_heat) FG_TRY(fg_replay_heat(x->t, 0, h->n_pass / 2, x->heat, err));
    FG_TRY(fill_rows(x, err));
    if (x->card_bytes != 0) {
        const uint64_t all = (uint64_t)h->n_layer * h->n_expert;
        x->n_resident = x->card_bytes / h->slot_bytes;
        if (x->n_resident > all) x->n_resident = all;
        FG_TRY(fg_replay_residents(x->t, x->n_resident, x->heat, &x->card, err));
    }
    return held_fill(&x->held, x->t, x->ahead, err);
}

static double share(uint64_t part, uint64_t of)
{
    return of == 0 ? 0.0 : (double)part / (double)of;
}

static uint64_t requests(const fg_cache_stats *s)
{
    return s->n_hit + s->n_prefetch_hit + s->n_miss;
}

static uint64_t reads(const fg_cache_stats *s)
{
    return s->n_miss + s->n_prefetch;
}

static double split_share(const table *x)
{
    return share(x->n_resident, (uint64_t)x->h->n_layer * x->h->n_expert);
}

static void print_card(const table *x)
{
    const fg_replay_card *c = &x->card;
    if (x->card_bytes == 0) return;
    printf("\ncard       %s of %u experts on it, reads served: heat map %.2f %%, running counts "
           "%.2f %% (%s moved), row split %.2f %%\n",
           cli_count(x->n_resident), x->h->n_layer * x->h->n_expert,
           100.0 * share(c->n_heat, c->n_read), 100.0 * share(c->n_running, c->n_read),
           cli_count(c->n_moved), 100.0 * split_share(x));
}

static void print_json_card(const table *x)
{
    const fg_replay_card *c = &x->card;
    if (x->card_bytes == 0) return;
    printf("\"card\": {\"bytes\": %" PRIu64 ", \"residents\": %" PRIu64 ", \"reads\": %" PRIu64
           ", \"heat\": %.6f, \"running\": %.6f, \"moved\": %" PRIu64 ", \"row_split\": %.6f},\n",
           x->card_bytes, x->n_resident, c->n_read, share(c->n_heat, c->n_read),
           share(c->n_running, c->n_read), c->n_moved, split_share(x));
}

static void print_text(const table *x)
{
    const fg_trace_head *h = x->h;
    printf("trace      %s: %s tokens in %s passes; %u layers of %u experts, %u "
           "used\n",
           cli_shown(x->path), cli_count(h->n_tok), cli_count(h->n_pass), h->n_layer, h->n_expert,
           h->n_used);
    printf("text       %s\n", h->n_vocab > 0 ? "inside, as token ids" : "not inside");
    if (h->ram_bytes == 0) {
        printf("recorded   from a mapped model\n");
    } else {
        printf("recorded   within %s, %s, %s %u ahead\n", cli_memory((double)h->ram_bytes),
               fg_policy_name(h->policy), fg_predict_name(h->predict), h->ahead);
    }
    printf("memory     %s: %u of %u experts, %s each\n", cli_memory((double)x->ram_bytes),
           x->n_slot, h->n_layer * h->n_expert, cli_bytes((double)h->slot_bytes));
    printf("heat map   %s\n",
           x->file_heat
               ? "of the model file"
               : "of the first half of this trace: pin knows half of what it is judged on");
    printf("\n%-8s %-13s %7s %10s %12s %14s %7s %8s\n", "policy", "predictor", "hits", "prefetched",
           "reads/token", "bytes/token", "wasted", "extra");
    for (int i = 0; i < N_ROW; i++) {
        const row *r = &x->rows[i];
        const double each = share(reads(&r->s), h->n_tok);
        printf("%-8s %-13s %6.2f%% %9.2f%% %12.3f %14s %6.1f%% %8" PRId64 "%s\n",
               fg_policy_name(r->policy), fg_predict_name(r->predict),
               100.0 * share(r->s.n_hit + r->s.n_prefetch_hit, requests(&r->s)),
               100.0 * share(r->s.n_prefetch_hit, requests(&r->s)), each,
               cli_bytes(each * (double)h->slot_bytes),
               100.0 * share(r->s.n_wasted, r->s.n_prefetch), fg_cache_extra(&r->s),
               r->as_recorded ? "  as recorded" : "");
    }
    print_card(x);
    held_print(&x->held, x->t);
}

static void print_json_rows(const table *x)
{
    for (int i = 0; i < N_ROW; i++) {
        const row *r = &x->rows[i];
        const fg_cache_stats *s = &r->s;
        const double each = share(reads(s), x->h->n_tok);
        printf("%s{\"policy\": \"%s\", \"predict\": \"%s\", \"as_recorded\": %s, \"hits\": %" PRIu64
               ", \"prefetch_hits\": %" PRIu64 ", \"misses\": %" PRIu64 ", \"prefetches\": %" PRIu64
               ", \"wasted\": %" PRIu64 ", \"extra\": %" PRId64,
               i == 0 ? "\n" : ",\n", fg_policy_name(r->policy), fg_predict_name(r->predict),
               r->as_recorded ? "true" : "false", s->n_hit, s->n_prefetch_hit, s->n_miss,
               s->n_prefetch, s->n_wasted, fg_cache_extra(s));
        printf(", \"hit_rate\": %.6f, \"reads_per_token\": %.6f, \"bytes_per_token\": %.0f}",
               share(s->n_hit + s->n_prefetch_hit, requests(s)), each,
               each * (double)x->h->slot_bytes);
    }
}

static void print_json(const table *x)
{
    const fg_trace_head *h = x->h;
    printf("{\"tokens\": %" PRIu64 ", \"passes\": %" PRIu64
           ", \"layers\": %u, \"experts\": %u, \"experts_per_token\": %u, \"model\": "
           "\"0x%016" PRIx64 "\", \"recorded_ram\": %" PRIu64 ", \"ram\": %" PRIu64
           ", \"slots\": %u, \"slot_bytes\": %" PRIu64
           ", \"ahead\": %u, \"text\": %s, \"heat\": \"%s\", "
           "\"rows\": [",
           h->n_tok, h->n_pass, h->n_layer, h->n_expert, h->n_used, h->data_root, h->ram_bytes,
           x->ram_bytes, x->n_slot, h->slot_bytes, x->ahead, h->n_vocab > 0 ? "true" : "false",
           x->file_heat ? "file" : "first half of the trace");
    print_json_rows(x);
    printf("],\n");
    print_json_card(x);
    held_print_json(&x->held, x->t);
}

static int run_replay(int argc, char **argv)
{
    table x = {.ahead = 0};
    bool json = false;
    const opt opts[] = {
        {"ram", 0, OPT_SIZE, &x.ram_bytes, 0, 0, "SIZE", "memory to use, as with run"},
        {"ahead", 0, OPT_U32, &x.ahead, 1, FG_PREDICT_AHEAD, "N",
         "layers that a predictor reads ahead (default: as recorded)"},
        {"predict-model", 0, OPT_STR, &x.models, 0, 0, "FILE,...",
         "models of factor train --trace to judge (default: of this trace's first half)"},
        {"gpu-mem", 0, OPT_SIZE, &x.card_bytes, 0, 0, "SIZE",
         "memory for experts on a card: what share of reads it would serve"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "JSON on stdout"},
    };
    int status;
    if (!args_parse(&cmd_replay, opts, sizeof opts / sizeof opts[0], argc, argv, &x.path, 1,
                    &status)) {
        return status;
    }
    if (x.ram_bytes == 0) return args_usage(&cmd_replay, "no --ram, expected a size");
    fg_err err = {0};
    fg_trace *t = NULL;
    cli_catch_interrupt();
    fg_status st = fg_trace_open(&t, x.path, &err);
    if (st == FG_OK) {
        x.t = t;
        x.h = fg_trace_get_head(t);
        if (x.ahead == 0) x.ahead = x.h->ahead;
        st = fill(&x, &err);
    }
    if (st == FG_OK) (json ? print_json : print_text)(&x);
    held_close(&x.held);
    fg_mem_free(x.heat);
    fg_trace_close(&t);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
