/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/observe.h"
#include "src/engine/session.h"

static int run(int argc, char **argv);

const command cmd_run = {
    .name = "run",
    .summary = "complete a text, streaming the continuation",
    .synopsis = "MODEL -p TEXT",
    .example = "fulgur run m1.fulgur -p 'Once upon a time' -n 128 --temp 0\n"
               "fulgur run m1.fulgur -f prompt.txt --seed 7\n"
               "fulgur run m1.fulgur --ram 64G -p 'Once upon a time'",
    .description =
        "Continues a text and prints the continuation as it comes, then one line on standard "
        "error with the tokens and the speed of prompt and generation. It ends at the model's "
        "end token, after `--n-predict` tokens, when the context is full, or at Ctrl-C.\n"
        "By default the file is mapped, and the system's page cache holds it.\n" STREAM_ABOUT,
    .run = run,
};

/* Collects instead of printing, for --json. */
static bool collect(void *ctx, fg_think_part part, const char *bytes, size_t n)
{
    (void)part;
    fg_buf_put(ctx, bytes, n);
    return true;
}

static void print_json(const fg_buf *text, const gen_stats *g)
{
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"text\": ");
    fg_json_put_str(&b, (const char *)text->data, text->len);
    fg_buf_printf(&b,
                  ", \"prompt_tokens\": %" PRIu64 ", \"generated_tokens\": %" PRIu64
                  ", \"ended_by_model\": %s, \"end\": \"%s\", \"prompt_seconds\": %.6f, "
                  "\"generation_seconds\": %.6f}\n",
                  g->n_prompt, g->reply.n_gen, g->reply.end == FG_END_MODEL ? "true" : "false",
                  fg_end_name(g->reply.end), g->prompt_s, g->reply.seconds);
    fwrite(b.data, 1, b.len, stdout);
    fg_buf_fini(&b);
}

static bool emit(void *ctx, fg_think_part part, const char *bytes, size_t n)
{
    (void)ctx;
    (void)part;
    /* a reader that has gone away ends the run; cli_finish_stdout says so */
    return fwrite(bytes, 1, n, stdout) == n && fflush(stdout) == 0;
}

static int run(int argc, char **argv)
{
    fg_engine_opts eo = fg_engine_opts_default();
    fg_session_opts so = fg_session_opts_default();
    so.stops = true;
    gen_opts go = gen_opts_default();
    bool json = false, profile = false;
    const char *taps = NULL;
    const char *prompt = NULL, *file = NULL, *model;
    const opt opts[] = {
        {"prompt", 'p', OPT_STR, &prompt, 0, 0, "TEXT", "the text to continue"},
        {"file", 'f', OPT_STR, &file, 0, 0, "FILE", "read the text from FILE; - for stdin"},
        GEN_OPTS(go),
        {"ctx-size", 'c', OPT_U64, &so.n_ctx, 1, 1e10, "N", "positions (default: as needed)"},
        {"special", 0, OPT_FLAG, &go.special, 0, 0, NULL,
         "markup tokens in TEXT count as such and are printed"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "text and figures as JSON at the end"},
        {"ignore-eos", 0, OPT_FLAG, &go.ignore_eos, 0, 0, NULL, "go on after the end token"},
        {"taps", 0, OPT_STR, &taps, 0, 0, "FILE",
         "write hash and norm of each layer's hidden state, and its experts"},
        {"profile", 0, OPT_FLAG, &profile, 0, 0, NULL, "say where the time went, by phase"},
        CACHE_OPT(so.kv),
        ENGINE_OPTS(eo),
        STREAM_OPTS(eo),
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
    if (st == FG_OK) st = fg_engine_sampler(e, &go.sampler, &sampler, &err);
    observe watch = {0};
    if (st == FG_OK) st = observe_start(&watch, s, taps, profile, &err);
    fg_buf out = {0};
    if (st == FG_OK) {
        st = generate(s, sampler, &ids, &go, json ? collect : emit, &out, &stats, &err);
    }
    if (s != NULL) {
        fg_err tap_err = {0};
        const fg_status closed = observe_end(&watch, profile && st == FG_OK, &tap_err);
        if (st == FG_OK && closed != FG_OK) {
            st = closed;
            err = tap_err;
        }
    }
    if (st == FG_OK && json) {
        print_json(&out, &stats);
    } else if (st == FG_OK) {
        (void)putchar('\n');
        (void)fflush(stdout);
        print_speed(e, &stats);
    }
    fg_buf_fini(&out);
    fg_sampler_destroy(&sampler);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    fg_ids_fini(&ids);
    fg_mem_free(text);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
