/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"

static int run(int argc, char **argv);

const command cmd_run = {
    .name = "run",
    .summary = "complete a text, streaming the continuation",
    .synopsis = "MODEL -p TEXT",
    .example = "fulgur run m1.fulgur -p 'Once upon a time' -n 128 --temp 0",
    .run = run,
};

static bool emit(void *ctx, const char *bytes, size_t n)
{
    (void)ctx;
    /* a reader that has gone away ends the run; cli_finish_stdout says so */
    return fwrite(bytes, 1, n, stdout) == n && fflush(stdout) == 0;
}

static int run(int argc, char **argv)
{
    fg_engine_opts eo = fg_engine_opts_default();
    fg_session_opts so = fg_session_opts_default();
    gen_opts go = gen_opts_default();
    const char *prompt = NULL, *file = NULL, *model;
    const opt opts[] = {
        {"prompt", 'p', OPT_STR, &prompt, 0, 0, "TEXT", "the text to continue"},
        {"file", 'f', OPT_STR, &file, 0, 0, "FILE", "read the text from FILE; - for stdin"},
        GEN_OPTS(go),
        {"ctx-size", 'c', OPT_U64, &so.n_ctx, 1, 1e10, "N", "positions (default: as needed)"},
        {"special", 0, OPT_FLAG, &go.special, 0, 0, NULL,
         "markup tokens in TEXT count as such and are printed"},
        {"ignore-eos", 0, OPT_FLAG, &go.ignore_eos, 0, 0, NULL, "go on behind the end token"},
        ENGINE_OPTS(eo),
    };
    int status;
    const int n =
        args_parse(&cmd_run, opts, sizeof opts / sizeof opts[0], argc, argv, &model, 1, &status);
    if (n < 0) return status;
    if (n < 1) return args_usage(&cmd_run, "no operand, expected MODEL");
    if ((prompt == NULL) == (file == NULL)) {
        return args_usage(&cmd_run, "%s, expected one of -p and -f",
                          prompt == NULL ? "no text" : "both -p and -f");
    }
    fg_err err = {0};
    fg_engine *e = NULL;
    fg_session *s = NULL;
    const fg_tokenizer *t;
    fg_ids ids = {0};
    char *text = NULL;
    size_t len = 0;
    gen_stats stats;
    fg_sampler *sampler = NULL;
    cli_catch_interrupt();
    fg_status st = file == NULL ? FG_OK : read_text(file, &text, &len, &err);
    if (st == FG_OK) st = fg_engine_open(&e, model, &eo, &err);
    if (st == FG_OK) st = fg_engine_tokenizer(e, &t, &err);
    if (st == FG_OK) {
        st = file == NULL
                 ? fg_tokenizer_encode(t, NULL, prompt, strlen(prompt), go.special, &ids, &err)
                 : fg_tokenizer_encode(t, NULL, text, len, go.special, &ids, &err);
    }
    if (st == FG_OK && ids.len == 0) {
        st = fg_fail(&err, FG_EINVAL, "prompt: empty, expected at least one token");
    }
    if (st == FG_OK && so.n_ctx == 0) { /* what this run can use */
        const uint64_t most = fg_engine_shape(e)->n_ctx_max;
        so.n_ctx = go.n_predict < most ? ids.len + go.n_predict : most;
        if (so.n_ctx > most && ids.len < most) so.n_ctx = most;
    }
    if (st == FG_OK) st = fg_session_create(&s, e, &so, &err);
    if (st == FG_OK) st = open_sampler(e, &go, &sampler, &err);
    if (st == FG_OK) st = generate(s, sampler, t, &ids, &go, emit, NULL, &stats, &err);
    if (st == FG_OK) {
        (void)putchar('\n');
        (void)fflush(stdout);
        print_speed(e, &stats);
    }
    fg_sampler_destroy(&sampler);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    fg_ids_fini(&ids);
    fg_mem_free(text);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
