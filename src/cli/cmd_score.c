/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"

static int run(int argc, char **argv);

const command cmd_score = {
    .name = "score",
    .summary = "perplexity of a text; KL divergence against another model file",
    .synopsis = "MODEL TEXT_FILE",
    .example = "fulgur score m1-q4.fulgur book.txt --window 512 --against m1-bf16.fulgur",
    .run = run,
};

static bool show(void *ctx, uint64_t done, uint64_t total, double ppl)
{
    progress *p = ctx;
    p->note = ppl;
    return progress_show(p, done, total);
}

static void print_report(const fg_score *r, bool json, bool against)
{
    if (json) {
        printf("{\"tokens\": %" PRIu64 ", \"nll\": %.6f, \"nll_stderr\": %.6f, \"ppl\": %.6f",
               r->n_token, r->nll, r->nll_stderr, r->ppl);
        if (against) {
            printf(", \"ref_nll\": %.6f, \"ref_ppl\": %.6f, \"kld_mean\": %.6f, "
                   "\"kld_p99\": %.6f, \"kld_max\": %.6f, \"top1\": %.6f",
                   r->ref_nll, r->ref_ppl, r->kld_mean, r->kld_p99, r->kld_max, r->top1);
        }
        printf("}\n");
        return;
    }
    printf("tokens      %" PRIu64 "\n", r->n_token);
    printf("nll         %.5f +- %.5f\n", r->nll, r->nll_stderr);
    printf("perplexity  %.4f\n", r->ppl);
    if (!against) return;
    printf("reference   nll %.5f, perplexity %.4f (ratio %.5f)\n", r->ref_nll, r->ref_ppl,
           r->ppl / r->ref_ppl);
    printf("kld         mean %.5f, p99 %.5f, max %.4f\n", r->kld_mean, r->kld_p99, r->kld_max);
    printf("top-1       %.2f %%\n", 100.0 * r->top1);
}

static int run(int argc, char **argv)
{
    fg_engine_opts eo = fg_engine_opts_default();
    fg_score_opts so = {.window = 512};
    const char *against = NULL, *operand[2];
    bool json = false, special = false;
    const char *cache = NULL;
    const opt opts[] = {
        {"window", 'w', OPT_U32, &so.window, 2, 1e7, "N", "tokens of a window (default: 512)"},
        {"chunks", 0, OPT_U64, &so.max_window, 0, 1e15, "N", "windows at most (default: all)"},
        {"against", 0, OPT_STR, &against, 0, 0, "REF", "reference model file"},
        {"special", 0, OPT_FLAG, &special, 0, 0, NULL, "markup in the text counts as such"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "report as JSON on stdout"},
        CACHE_OPT(cache),
        ENGINE_OPTS(eo),
    };
    int status;
    const int n =
        args_parse(&cmd_score, opts, sizeof opts / sizeof opts[0], argc, argv, operand, 2, &status);
    if (n < 0) return status;
    if (n < 2) return args_usage(&cmd_score, "%d operands, expected MODEL and TEXT_FILE", n);
    if (!parse_cache_type(&cmd_score, cache, &so.kv)) return EXIT_USAGE;
    fg_err err = {0};
    fg_engine *e = NULL, *ref = NULL;
    const fg_tokenizer *t;
    fg_ids ids = {0};
    char *text = NULL;
    size_t len;
    fg_score r;
    progress p;
    cli_catch_interrupt();
    fg_status st = fg_engine_open(&e, operand[0], &eo, &err);
    if (st == FG_OK && against != NULL) st = fg_engine_open(&ref, against, &eo, &err);
    if (st == FG_OK) st = fg_engine_tokenizer(e, &t, &err);
    if (st == FG_OK) st = read_text(operand[1], &text, &len, &err);
    if (st == FG_OK) st = fg_tokenizer_encode(t, NULL, text, len, special, &ids, &err);
    if (st == FG_OK) {
        progress_start(&p, "score", "token");
        p.note_name = "ppl";
        so.progress = show;
        so.ctx = &p;
        st = fg_score_run(e, ref, ids.data, ids.len, &so, &r, &err);
        progress_end(&p);
    }
    if (st == FG_OK) print_report(&r, json, ref != NULL);
    fg_ids_fini(&ids);
    fg_mem_free(text);
    fg_engine_close(&ref);
    fg_engine_close(&e);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
