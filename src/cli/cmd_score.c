/* SPDX-License-Identifier: MIT
 *
 * Perplexity, divergence from a reference, and the quality card.  A card is written after the
 * report, and only when asked for: score otherwise never changes a file.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/eval/quality.h"
#include "src/engine/session.h"
#include "src/eval/score.h"
#include "src/base/utf8.h"
#include "src/engine/memory.h"

static int run(int argc, char **argv);

const command cmd_score = {
    .name = "score",
    .summary = "perplexity of a text; KL divergence against another model file",
    .synopsis = "MODEL TEXT_FILE",
    .example = "fulgur score m1-q4.fulgur book.txt --window 512 --against m1-bf16.fulgur --card\n"
               "fulgur score m1-q4.fulgur book.txt --chunks 40 --json",
    .description =
        "Cuts a text into windows and prints how well the model predicts it: perplexity with "
        "its uncertainty. With `--against`, the same windows go through a reference model too, "
        "and what is reported is the distance of the two: KL divergence (mean and 99th "
        "percentile) and how often both have the same most likely token.\n"
        "`--card` keeps the figures in MODEL, with the name of the text, for `fulgur info "
        "--quality`.\n"
        "`--ram` bounds the memory of both models together.",
    .run = run,
};

static bool show(void *ctx, uint64_t done, uint64_t total, const fg_score *s)
{
    progress *p = ctx;
    double ci[2];
    fg_score_interval(s->ppl, s->ppl_stderr, ci);
    const int n =
        snprintf(p->note, sizeof p->note, "ppl %.3f (%.3f to %.3f)", s->ppl, ci[0], ci[1]);
    if (s->ref_ppl > 0.0 && n > 0 && (size_t)n < sizeof p->note) {
        (void)snprintf(p->note + n, sizeof p->note - (size_t)n, "  kld %.4f +- %.4f", s->kld_mean,
                       FG_SCORE_Z95 * s->kld_stderr);
    }
    return progress_show(p, done, total);
}

/* JSON has no infinity, which the perplexity of a text that could not be foreseen at all is. */
static void put(const char *name, double v)
{
    if (isfinite(v)) printf(", \"%s\": %.6f", name, v);
    if (!isfinite(v)) printf(", \"%s\": null", name);
}

static void put_interval(const char *name, const double ci[2])
{
    printf(", \"%s_ci95\": [", name);
    for (int i = 0; i < 2; i++) {
        if (isfinite(ci[i])) printf("%s%.9g", i == 0 ? "" : ", ", ci[i]);
        if (!isfinite(ci[i])) printf("%snull", i == 0 ? "" : ", ");
    }
    printf("]");
}

static void print_json(const fg_score *r, bool against, double seconds)
{
    double ci[2];
    printf("{\"tokens\": %" PRIu64, r->n_token);
    put("nll", r->nll);
    put("nll_stderr", r->nll_stderr);
    put("ppl", r->ppl);
    fg_score_interval(r->ppl, r->ppl_stderr, ci);
    put_interval("ppl", ci);
    if (against) {
        const double spread = FG_SCORE_Z95 * r->kld_stderr, low = r->kld_mean - spread;
        const double kld[2] = {low < 0.0 ? 0.0 : low, r->kld_mean + spread};
        put("ref_nll", r->ref_nll);
        put("ref_ppl", r->ref_ppl);
        put("ppl_ratio", r->ppl_ratio);
        put("ppl_ratio_stderr", r->ppl_ratio_stderr);
        fg_score_interval(r->ppl_ratio, r->ppl_ratio_stderr, ci);
        put_interval("ppl_ratio", ci);
        put("kld_mean", r->kld_mean);
        put("kld_stderr", r->kld_stderr);
        put_interval("kld", kld);
        put("kld_p99", r->kld_p99);
        put_interval("kld_p99", r->kld_p99_ci95);
        put("kld_max", r->kld_max);
        put("top1", r->top1);
        put("top1_stderr", r->top1_stderr);
    }
    printf(", \"seconds\": %.3f, \"tokens_per_s\": %.1f}\n", seconds,
           seconds > 0.0 ? (double)r->n_token / seconds : 0.0);
}

/* What stands after +- is half a 95 % interval, but for the nll: its standard error. */
static void print_text(const fg_score *r, bool against, double seconds)
{
    const double z = FG_SCORE_Z95;
    double ci[2];
    fg_score_interval(r->ppl, r->ppl_stderr, ci);
    printf("tokens      %s\n", cli_count(r->n_token));
    printf("nll         %.5f +- %.5f (standard error)\n", r->nll, r->nll_stderr);
    printf("perplexity  %.4f (%.4f to %.4f: 95 %%, here and below)\n", r->ppl, ci[0], ci[1]);
    if (against) {
        fg_score_interval(r->ref_ppl, r->ref_ppl_stderr, ci);
        printf("reference   nll %.5f, perplexity %.4f (%.4f to %.4f)\n", r->ref_nll, r->ref_ppl,
               ci[0], ci[1]);
        fg_score_interval(r->ppl_ratio, r->ppl_ratio_stderr, ci);
        printf("ratio       %.5f (%.5f to %.5f)\n", r->ppl_ratio, ci[0], ci[1]);
        printf("kld         mean %.5f +- %.5f, p99 %.5f (%.5f to %.5f), max %.4f\n", r->kld_mean,
               z * r->kld_stderr, r->kld_p99, r->kld_p99_ci95[0], r->kld_p99_ci95[1], r->kld_max);
        printf("top-1       %.2f %% +- %.2f\n", 100.0 * r->top1, 100.0 * z * r->top1_stderr);
    }
    printf("speed       %.0f tokens/s\n", seconds > 0.0 ? (double)r->n_token / seconds : 0.0);
}

typedef struct request {
    fg_engine_opts eo;
    fg_score_opts so;
    const char *model, *text, *against; /* against: NULL for none */
    bool json, special, card;
} request;

/* Tokens that fg_score_run gives to a session at once: equal parts of a window, of at most 512
 * tokens and 256 MiB of logits. */
static uint32_t part_tokens(uint32_t window, uint32_t n_vocab)
{
    uint32_t most = (uint32_t)(((uint64_t)256 << 20) / sizeof(float) / n_vocab);
    most = most < 1 ? 1 : most > 512 ? 512 : most;
    const uint32_t n_part = (window + most - 1) / most;
    return (window + n_part - 1) / n_part;
}

/* The least bound for one model's weights, session and program.  The session is made on the mapped
 * file, which touches neither. */
static fg_status least_bytes(const request *q, const char *path, fg_kv_choice kv, uint64_t *weights,
                             uint64_t *all, uint64_t *most, fg_err *err)
{
    fg_engine_opts eo = q->eo;
    fg_session_opts so = fg_session_opts_default();
    so.n_ctx = q->so.window;
    so.kv = kv;
    fg_engine *e = NULL;
    fg_session *s = NULL;
    eo.ram_bytes = 0;
    eo.gpu = FG_GPU_OFF;
    FG_TRY(open_engine(&e, path, &eo, err));
    so.n_batch = part_tokens(q->so.window, fg_engine_shape(e)->n_vocab);
    const fg_status st = fg_session_create(&s, e, &so, err);
    if (st == FG_OK) {
        *weights = fg_store_min_bytes(fg_engine_file(e));
        *all = *weights + fg_session_bytes(s) + FG_MEMORY_PROGRAM;
        *most = *all - *weights + fg_store_most_bytes(fg_engine_file(e));
    }
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return st;
}

/* The bound is one for both models: each has the least that it can do with, the rest is divided as
 * their weights are. */
static fg_status share_bound(const request *q, uint64_t *model, uint64_t *ref, fg_err *err)
{
    uint64_t ram = q->eo.ram_bytes, weights[2], least[2], most[2];
    fg_room room;
    *model = *ref = ram;
    if (ram == 0 || q->against == NULL) return FG_OK;
    FG_TRY(least_bytes(q, q->model, q->so.kv, &weights[0], &least[0], &most[0], err));
    FG_TRY(least_bytes(q, q->against, FG_KV_CHOICE_AUTO, &weights[1], &least[1], &most[1], err));
    fg_room_read(&room, "");
    ram = fg_memory_bound(ram, most[0] + most[1], room.bytes);
    if (ram != q->eo.ram_bytes) {
        char line[256];
        fg_memory_bound_text(line, sizeof line, q->eo.ram_bytes, ram, &room);
        fprintf(stderr, "fulgur: %s\n", line);
    }
    if (ram < least[0] + least[1]) {
        return fg_fail(err, FG_ELIMIT,
                       "memory: %s, expected at least %" PRIu64
                       " bytes (%s) for both with their sessions: %s %s, %s %s",
                       cli_memory((double)ram), least[0] + least[1],
                       cli_memory((double)(least[0] + least[1])), q->model,
                       cli_memory((double)least[0]), q->against, cli_memory((double)least[1]));
    }
    const double rest = (double)(ram - least[0] - least[1]);
    *ref = least[1] +
           (uint64_t)(rest * ((double)weights[1] / ((double)weights[0] + (double)weights[1])));
    *model = ram - *ref;
    return FG_OK;
}

/* A model that is its own reference has nothing to show. */
static fg_status check_card(const fg_engine *e, const fg_engine *ref, fg_err *err)
{
    const fg_model_file *f = fg_engine_file(e);
    if (fg_model_file_data_root(f) != fg_model_file_data_root(fg_engine_file(ref))) return FG_OK;
    return fg_fail(err, FG_EINVAL,
                   "%s: a card against the same weights, expected another reference",
                   fg_model_file_path(f));
}

static fg_status store_card(const request *q, const fg_engine *e, const fg_engine *ref,
                            const char *text, size_t n, const fg_score *score, fg_err *err)
{
    fg_card c = {.text_hash = fg_hash64(text, n),
                 .text_bytes = n,
                 .window = q->so.window,
                 .special = q->special,
                 .version = FG_VERSION,
                 .model = fg_card_model_of(fg_engine_file(e)),
                 .reference = fg_card_model_of(fg_engine_file(ref)),
                 .score = *score};
    fg_utf8_file_name(q->text, c.text, sizeof c.text);
    (void)snprintf(c.cache, sizeof c.cache, "%s", fg_card_cache_name(e, q->so.kv));
    c.numerics = fg_card_numerics(&c);
    return fg_card_store(q->model, &c, err);
}

static fg_status score(request *q, fg_engine *e, fg_engine *ref, fg_err *err)
{
    const fg_tokenizer *t;
    fg_ids ids = {0};
    char *text = NULL;
    size_t len = 0;
    fg_score r;
    progress p;
    fg_status st = q->card ? check_card(e, ref, err) : FG_OK;
    if (st == FG_OK) st = fg_engine_tokenizer(e, &t, err);
    if (st == FG_OK) st = read_text(q->text, &text, &len, err);
    if (st == FG_OK) cli_tell_utf8("score", q->text, text, len);
    if (st == FG_OK) st = encode_text(t, text, len, q->special, &ids, err);
    if (st == FG_OK) {
        progress_start(&p, "score", "token");
        q->so.progress = show;
        q->so.ctx = &p;
        st = fg_score_run(e, ref, ids.data, ids.len, &q->so, &r, err);
        progress_end(&p);
    }
    if (st == FG_OK) st = check_engine(e, err);
    if (st == FG_OK && ref != NULL) st = check_engine(ref, err);
    if (st == FG_OK) {
        const double seconds = (double)(fg_clock_ns() - p.start_ns) * 1e-9;
        (q->json ? print_json : print_text)(&r, ref != NULL, seconds);
    }
    if (st == FG_OK && q->card) st = store_card(q, e, ref, text, len, &r, err);
    fg_ids_fini(&ids);
    fg_mem_free(text);
    return st;
}

static int run(int argc, char **argv)
{
    request q = {.eo = cli_engine_opts(), .so = {.window = 512}};
    const char *operand[2];
    const opt opts[] = {
        {"window", 'w', OPT_U32, &q.so.window, 2, 1e7, "N", "tokens of a window (default: 512)"},
        {"chunks", 0, OPT_U64, &q.so.max_window, 0, 1e15, "N", "windows at most (default: all)"},
        {"against", 0, OPT_STR, &q.against, 0, 0, "REF",
         "reference model file; --ram is for both together"},
        {"card", 0, OPT_FLAG, &q.card, 0, 0, NULL, "with --against: keep the figures in MODEL"},
        {"special", 0, OPT_FLAG, &q.special, 0, 0, NULL, "markup in the text counts as such"},
        {"json", 0, OPT_FLAG, &q.json, 0, 0, NULL, "report as JSON on stdout"},
        CACHE_OPT(q.so.kv),
        ENGINE_OPTS(q.eo),
        NUMA_OPTS(q.eo),
        GPU_OPTS(q.eo),
        STREAM_OPTS(q.eo),
    };
    int status;
    if (!args_parse(&cmd_score, opts, sizeof opts / sizeof opts[0], argc, argv, operand, 2,
                    &status)) {
        return status;
    }
    if (q.card && q.against == NULL) return args_usage(&cmd_score, "--card, expected --against");
    if (q.json) cli_gpu_silent(&q.eo);
    q.model = operand[0];
    q.text = operand[1];
    fg_err err = {0};
    fg_engine *e = NULL, *ref = NULL;
    cli_catch_interrupt();
    uint64_t ram_ref;
    fg_status st = share_bound(&q, &q.eo.ram_bytes, &ram_ref, &err);
    if (st == FG_OK) st = open_engine(&e, q.model, &q.eo, &err);
    q.eo.ram_bytes = ram_ref;
    if (st == FG_OK && q.against != NULL) st = open_engine(&ref, q.against, &q.eo, &err);
    if (st == FG_OK) st = score(&q, e, ref, &err);
    if (st == FG_OK) print_store(e);
    fg_engine_close(&ref);
    fg_engine_close(&e);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
