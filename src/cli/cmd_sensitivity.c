/* SPDX-License-Identifier: MIT
 *
 * Measures what quantizing each part of a model costs, for convert --target-bpw and --target-gb.
 */
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/eval/sensitivity.h"

static int run(int argc, char **argv);

const command cmd_sensitivity = {
    .name = "sensitivity",
    .summary = "what 4 bits cost in each part of a model, for convert --target-bpw",
    .synopsis = "BASE LOW TEXT_FILE",
    .example =
        "fulgur sensitivity m1-bf16.fulgur m1-q4.fulgur calibration.txt -o m1.sensitivity\n"
        "fulgur convert MiniMax-M1-80k m1.fulgur --target-bpw 5 --sensitivity m1.sensitivity",
    .description =
        "Puts one part of LOW after another into BASE (the attention or the experts of a layer, "
        "the embedding, lm_head) and measures how far the logits on a text move. `fulgur "
        "convert --target-bpw` reads the figures and gives more bits to what needs them.",
    .run = run,
};

typedef struct request {
    const char *base, *low, *text, *out; /* out: NULL for standard output */
    fg_engine_opts eo;
    fg_sensitivity_opts so;
    bool special, force;
} request;

static fg_status measure(request *q, fg_engine *base, fg_engine *low, fg_err *err)
{
    const fg_tokenizer *t;
    fg_ids ids = {0};
    fg_sensitivity s = {0};
    fg_buf b = {0};
    char *text = NULL;
    size_t len = 0;
    progress p;
    fg_status st = fg_engine_tokenizer(base, &t, err);
    if (st == FG_OK) st = read_text(q->text, &text, &len, err);
    if (st == FG_OK) cli_tell_utf8("sensitivity", q->text, text, len);
    if (st == FG_OK) st = encode_text(t, text, len, q->special, &ids, err);
    if (st == FG_OK) {
        progress_start(&p, "sensitivity", "window");
        q->so.progress = progress_show;
        q->so.ctx = &p;
        st = fg_sensitivity_run(&s, base, low, ids.data, ids.len, &q->so, err);
        progress_end(&p);
    }
    if (st == FG_OK) st = check_engine(base, err);
    if (st == FG_OK) st = check_engine(low, err);
    if (st == FG_OK) {
        fg_sensitivity_put_json(&b, &s, base, low, fg_hash64(text, len), len);
        st = q->out == NULL ? print_buf(&b, err) : write_buf(&b, q->out, err);
    }
    fg_buf_fini(&b);
    fg_sensitivity_fini(&s);
    fg_ids_fini(&ids);
    fg_mem_free(text);
    return st;
}

static int run(int argc, char **argv)
{
    request q = {.eo = fg_engine_opts_default(), .so = {.n_token = FG_SENSITIVITY_TOKENS}};
    const opt opts[] = {
        {"output", 'o', OPT_STR, &q.out, 0, 0, "FILE", "the figures as JSON (default: -, stdout)"},
        FORCE_OPT(q.force),
        {"tokens", 'n', OPT_U64, &q.so.n_token, 1, 1e9, "N",
         "tokens of the text (default: 2048); costs 2 layers + 4 forward passes of each"},
        {"special", 0, OPT_FLAG, &q.special, 0, 0, NULL, "markup in the text counts as such"},
        ENGINE_OPTS(q.eo),
    };
    const char *operand[3];
    int status;
    if (!args_parse(&cmd_sensitivity, opts, sizeof opts / sizeof opts[0], argc, argv, operand, 3,
                    &status)) {
        return status;
    }
    q.base = operand[0];
    q.low = operand[1];
    q.text = operand[2];
    if (q.out != NULL && strcmp(q.out, "-") == 0) q.out = NULL;
    q.so.beside = q.out == NULL ? q.base : q.out;
    fg_err err = {0};
    fg_engine *base = NULL, *low = NULL;
    cli_catch_interrupt();
    fg_status st = /* else met by the final rename only, after hours */
        check_output(q.out, q.force, (const char *[]){q.base, q.low, q.text}, 3, &err);
    if (st == FG_OK) st = open_engine(&base, q.base, &q.eo, &err);
    if (st == FG_OK) st = open_engine(&low, q.low, &q.eo, &err);
    if (st == FG_OK) st = measure(&q, base, low, &err);
    fg_engine_close(&low);
    fg_engine_close(&base);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
