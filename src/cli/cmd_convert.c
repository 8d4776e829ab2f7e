/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "convert/convert.h"
#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/info.h"

static int run(int argc, char **argv);

const command cmd_convert = {
    .name = "convert",
    .summary = "Hugging Face checkpoint folder to one .fulgur file",
    .synopsis = "SRC_DIR OUT.fulgur",
    .example = "fulgur convert MiniMax-M1-80k m1.fulgur --type q4",
    .run = run,
};

typedef struct status_line {
    progress p;
    uint64_t from; /* bytes that earlier runs converted: no part of this run's rate */
} status_line;

static bool show(void *arg, uint64_t done, uint64_t total)
{
    status_line *s = arg;
    return progress_show(&s->p, done - s->from, total - s->from);
}

static void resumed(void *arg, uint64_t done, uint64_t total)
{
    status_line *s = arg;
    s->from = done;
    fprintf(stderr, "convert: resuming at %s of %s\n", cli_bytes((double)done),
            cli_bytes((double)total));
}

static fg_status print_json(const fg_convert_opts *o, const fg_convert_report *r, fg_err *err)
{
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"file\": ");
    fg_json_put_str(&b, o->out_path, strlen(o->out_path));
    fg_buf_printf(&b,
                  ", \"source_bytes\": %" PRIu64 ", \"file_bytes\": %" PRIu64
                  ", \"tensors\": %" PRIu64 ", \"bits_per_weight\": %.4f, "
                  "\"worst_rms\": %.6f, \"worst_tensor\": \"%s\"",
                  r->source_bytes, r->file_bytes, r->n_tensor, r->bits_per_weight, r->worst_rms,
                  r->worst_name);
    if (o->calib_path != NULL) {
        fg_buf_printf(&b,
                      ", \"calibration_tokens\": %" PRIu64 ", \"experts\": %" PRIu64
                      ", \"experts_topped_up\": %" PRIu64 ", \"least_routed_tokens\": %" PRIu64,
                      r->calib.n_token, r->calib.n_expert, r->calib.n_topped, r->calib.min_routed);
    }
    fg_buf_printf(&b, ", \"peak_rss_bytes\": %" PRIu64 ", \"seconds\": %.3f}\n", r->peak_rss_bytes,
                  r->seconds);
    const fg_status st = b.failed ? fg_fail_nomem(err, "report") : FG_OK;
    if (st == FG_OK) (void)fwrite(b.data, 1, b.len, stdout);
    fg_buf_fini(&b);
    return st;
}

/* The errors come from the finished file, as fulgur info would show them. */
static fg_status print_report(const fg_convert_opts *o, const fg_convert_report *r, fg_err *err)
{
    fg_model_file *f;
    FG_TRY(fg_model_file_open(&f, o->out_path, err));
    info_print_roles(f);
    fg_model_file_close(&f);
    if (o->calib_path != NULL) {
        const fg_calib_report *c = &r->calib;
        printf("calibrated with %" PRIu64 " tokens, of which the router sent an expert %" PRIu64
               " at least",
               c->n_token, c->min_routed);
        if (c->n_dead > 0) {
            printf("; %" PRIu64 " inputs were zero throughout", c->n_dead);
        }
        if (c->n_topped > 0 && c->min_routed < c->min_used) {
            printf("; %" PRIu64 " of %" PRIu64 " experts got fewer than %d and were also given the "
                   "tokens next in line",
                   c->n_topped, c->n_expert, FG_CALIB_MIN_TOKENS);
        }
        printf("\n");
    }
    printf("%s: %s from %s, %" PRIu64
           " tensors, %.2f bits per weight, %.1f s; each tensor's error: "
           "fulgur info --tensors\n",
           o->out_path, cli_bytes((double)r->file_bytes), cli_bytes((double)r->source_bytes),
           r->n_tensor, r->bits_per_weight, r->seconds);
    return FG_OK;
}

static int run(int argc, char **argv)
{
    fg_convert_opts o = {0};
    bool json = false;
    double target_gb = 0.0;
    const opt opts[] = {
        {"type", 0, OPT_STR, &o.type, 0, 0, "TYPE", "q4 (default), q5, q6, q8, bf16, f32"},
        {"recipe", 0, OPT_STR, &o.recipe_path, 0, 0, "NAME|FILE",
         "fast, balanced (as q4), faithful; or lines 'pattern type', last match wins"},
        {"target-bpw", 0, OPT_F64, &o.target_bpw, 1, 32, "X",
         "choose types for at most X bits per weight; needs --sensitivity"},
        {"target-gb", 0, OPT_F64, &target_gb, 1e-3, 1e6, "Y",
         "choose types for a file of at most Y GB; needs --sensitivity"},
        {"sensitivity", 0, OPT_STR, &o.sensitivity_path, 0, 0, "FILE",
         "measured by fulgur sensitivity on the same model"},
        {"calib", 0, OPT_STR, &o.calib_path, 0, 0, "TEXT",
         "text to calibrate the quantization with (slower, better)"},
        {"calib-diagonal", 0, OPT_FLAG, &o.calib_diagonal, 0, 0, NULL,
         "calibrate scales only, without error feedback (less time and memory)"},
        {"threads", 't', OPT_U32, &o.n_thread, 1, 1024, "N", "threads (default: physical cores)"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "report as JSON on stdout"},
    };
    const char *operand[2];
    int status;
    const int n = args_parse(&cmd_convert, opts, sizeof opts / sizeof opts[0], argc, argv, operand,
                             2, &status);
    if (n < 0) return status;
    if (n < 2) return args_usage(&cmd_convert, "%d operands, expected SRC_DIR and OUT.fulgur", n);
    if (o.calib_diagonal && o.calib_path == NULL) {
        return args_usage(&cmd_convert, "--calib-diagonal without a text, expected --calib TEXT");
    }
    o.target_bytes = (uint64_t)(target_gb * 1e9);
    o.src_dir = operand[0];
    o.out_path = operand[1];

    fg_err err = {0};
    fg_convert_report r;
    status_line line = {.from = 0};
    cli_catch_interrupt();
    progress_start(&line.p, "convert", "B");
    o.progress = show;
    o.resumed = resumed;
    o.ctx = &line;
    const fg_status st = fg_convert(&o, &r, &err);
    progress_end(&line.p);
    if (st != FG_OK) return cli_fail(&err);
    const fg_status shown = json ? print_json(&o, &r, &err) : print_report(&o, &r, &err);
    if (shown != FG_OK) return cli_fail(&err);
    return cli_finish_stdout();
}
