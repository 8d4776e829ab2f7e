/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/origin.h"
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
        "By default the file is mapped, and the system's page cache holds it.\n" STREAM_ABOUT
            GEN_ABOUT NUMA_ABOUT GPU_ABOUT SIGNED_ABOUT,
    .run = run,
};

/* Collects instead of printing, for --json. */
static bool collect(void *ctx, fg_think_part part, const char *bytes, size_t n)
{
    (void)part;
    fg_buf_put(ctx, bytes, n);
    return true;
}

static fg_status print_json(const fg_buf *text, const gen_stats *g, fg_err *err)
{
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"text\": ");
    fg_json_put_str(&b, (const char *)text->data, text->len);
    fg_buf_printf(&b,
                  ", \"prompt_tokens\": %" PRIu64 ", \"generated_tokens\": %" PRIu64
                  ", \"ended_by_model\": %s, \"end\": \"%s\", \"prompt_seconds\": %.6f, "
                  "\"generation_seconds\": %.6f, \"thought_tokens\": %" PRIu64
                  ", \"forced_tokens\": %" PRIu64 ", \"guessed_tokens\": %" PRIu64
                  ", \"guessed_right\": %" PRIu64 "}\n",
                  g->n_prompt, g->reply.n_gen, g->reply.end == FG_END_MODEL ? "true" : "false",
                  fg_end_name(g->reply.end), g->prompt_s, g->reply.seconds, g->more.n_thought,
                  g->more.n_forced, g->more.n_drafted, g->more.n_accepted);
    return print_buf(&b, err);
}

static bool emit(void *ctx, fg_think_part part, const char *bytes, size_t n)
{
    (void)ctx;
    (void)part;
    /* a reader that has gone away ends the run; cli_finish_stdout says so */
    return cli_write(bytes, n) && cli_flush();
}

/* What was asked for. */
typedef struct request {
    fg_engine_opts eo;
    fg_session_opts so;
    gen_opts go;
    bool json, profile;
    const char *prompt, *file, *taps, *model;
} request;

/* What it takes. */
typedef struct work {
    fg_engine *e;
    fg_session *s;
    fg_sampler *sampler;
    char *text; /* of a file */
    size_t n_text;
    fg_ids ids;
    observe watch;
} work;

static fg_status encode(const request *q, work *w, fg_err *err)
{
    const fg_tokenizer *t;
    FG_TRY(fg_engine_tokenizer(w->e, &t, err));
    const char *text = q->file == NULL ? q->prompt : w->text;
    const size_t n = q->file == NULL ? strlen(q->prompt) : w->n_text;
    FG_TRY(encode_text(t, text, n, q->go.special, &w->ids, err));
    if (w->ids.len > 0) return FG_OK;
    return fg_fail(err, FG_EINVAL, "prompt: empty, expected at least one token");
}

static fg_status prepare(request *q, work *w, fg_err *err)
{
    if (q->taps != NULL && !is_stream(q->taps)) {
        FG_TRY(check_output(q->taps, true, (const char *[]){q->model, q->file}, 2, err));
    }
    if (q->file != NULL) FG_TRY(read_text(q->file, &w->text, &w->n_text, err));
    FG_TRY(open_engine(&w->e, q->model, &q->eo, err));
    FG_TRY(encode(q, w, err));
    if (q->so.n_ctx == 0) { /* what this run can use */
        const uint64_t most = fg_engine_shape(w->e)->n_ctx_max, len = w->ids.len;
        q->so.n_ctx = q->go.n_predict < most ? len + q->go.n_predict : most;
        if (q->so.n_ctx > most && len < most) q->so.n_ctx = most;
    }
    FG_TRY(fg_session_create(&w->s, w->e, &q->so, err));
    FG_TRY(gen_sampler(w->e, &q->go, &w->sampler, err));
    return observe_start(&w->watch, w->s, q->taps, q->profile, err);
}

static fg_status complete(request *q, work *w, fg_err *err)
{
    gen_stats stats;
    fg_buf out = {0};
    fg_err late = {0};
    fg_status st = prepare(q, w, err);
    if (st == FG_OK && !q->json) measure_read(w->e, q->go.n_predict);
    if (st == FG_OK) {
        st = generate(w->s, w->sampler, &w->ids, &q->go, q->json ? collect : emit, &out, &stats,
                      err);
    }
    if (st == FG_OK && q->json) st = check_engine(w->e, err);
    const fg_status closed = observe_end(&w->watch, q->profile && st == FG_OK, &late);
    if (st == FG_OK && closed != FG_OK) {
        st = closed;
        *err = late;
    }
    if (st == FG_OK && out.failed) st = fg_fail_nomem(err, "text of the answer");
    if (st == FG_OK && q->json) {
        st = print_json(&out, &stats, err);
    } else if (st == FG_OK) {
        (void)putchar('\n');
        if (cli_flush()) print_speed(w->e, &stats);
        st = check_engine(w->e, err); /* the last act: the text is out already */
    }
    if (st == FG_OK && stats.reply.end == FG_END_CONTEXT) {
        fprintf(stderr, "(the context of %" PRIu64 " tokens is full; -c makes it larger)\n",
                fg_session_n_ctx(w->s));
    }
    fg_buf_fini(&out);
    return st;
}

static int run(int argc, char **argv)
{
    request q = {
        .eo = cli_engine_opts(), .so = fg_session_opts_default(), .go = gen_opts_default()};
    q.so.stops = true;
    origin trust = {0};
    const opt opts[] = {
        {"prompt", 'p', OPT_STR, &q.prompt, 0, 0, "TEXT", "the text to continue"},
        {"file", 'f', OPT_STR, &q.file, 0, 0, "FILE", "read the text from FILE; - for stdin"},
        GEN_OPTS(q.go, "256"),
        {"ctx-size", 'c', OPT_U64, &q.so.n_ctx, 1, 1e10, "N", "positions (default: as needed)"},
        {"special", 0, OPT_FLAG, &q.go.special, 0, 0, NULL,
         "markup tokens in TEXT count as such and are printed"},
        {"json", 0, OPT_FLAG, &q.json, 0, 0, NULL, "text and figures as JSON at the end"},
        {"ignore-eos", 0, OPT_FLAG, &q.go.ignore_eos, 0, 0, NULL, "go on after the end token"},
        {"taps", 0, OPT_STR, &q.taps, 0, 0, "FILE",
         "write hash and norm of each layer's hidden state, and its experts"},
        {"profile", 0, OPT_FLAG, &q.profile, 0, 0, NULL, "say where the time went, by phase"},
        CACHE_OPT(q.so.kv),
        ENGINE_OPTS(q.eo),
        NUMA_OPTS(q.eo),
        GPU_OPTS(q.eo),
        STREAM_OPTS(q.eo),
        SIGNED_OPTS(trust),
    };
    int status;
    if (!args_parse(&cmd_run, opts, sizeof opts / sizeof opts[0], argc, argv, &q.model, 1,
                    &status)) {
        return status;
    }
    if ((q.prompt == NULL) == (q.file == NULL)) {
        return args_usage(&cmd_run, "%s, expected one of -p and -f",
                          q.prompt == NULL ? "no text" : "both -p and -f");
    }
    if (q.json) cli_gpu_silent(&q.eo);
    fg_err err = {0};
    work w = {0};
    cli_catch_interrupt();
    fg_status st = origin_require(&trust, &q.eo, &err);
    if (st == FG_OK) st = complete(&q, &w, &err);
    fg_sampler_destroy(&w.sampler);
    fg_session_destroy(&w.s);
    fg_engine_close(&w.e);
    fg_ids_fini(&w.ids);
    fg_mem_free(w.text);
    if (st == FG_OK && cli_terminated()) return EXIT_FAILED; /* it was not to end here */
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
