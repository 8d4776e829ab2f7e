/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>

#include "convert/convert.h"
#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"

static int run(int argc, char **argv);

const command cmd_convert = {
    .name = "convert",
    .summary = "Hugging Face checkpoint folder to one .fulgur file",
    .synopsis = "SRC_DIR OUT.fulgur",
    .example = "fulgur convert MiniMax-M1-80k m1.fulgur --type q4",
    .run = run,
};

static int run(int argc, char **argv)
{
    fg_convert_opts o = {0};
    bool json = false;
    const opt opts[] = {
        {"type", 0, OPT_STR, &o.type, 0, 0, "TYPE", "q4 (default), q5, q6, q8, bf16, f32"},
        {"recipe", 0, OPT_STR, &o.recipe_path, 0, 0, "FILE",
         "types by tensor name: lines 'pattern type', last match wins"},
        {"threads", 't', OPT_U32, &o.n_thread, 1, 1024, "N", "threads (default: physical cores)"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "report as JSON on stdout"},
    };
    const char *operand[2];
    int status;
    const int n = args_parse(&cmd_convert, opts, sizeof opts / sizeof opts[0], argc, argv, operand,
                             2, &status);
    if (n < 0) return status;
    if (n < 2) return args_usage(&cmd_convert, "%d operands, expected SRC_DIR and OUT.fulgur", n);
    o.src_dir = operand[0];
    o.out_path = operand[1];

    fg_err err = {0};
    fg_convert_report r;
    progress p;
    cli_catch_interrupt();
    progress_start(&p, "convert", "B");
    o.progress = progress_show;
    o.ctx = &p;
    const fg_status st = fg_convert(&o, &r, &err);
    progress_end(&p);
    if (st != FG_OK) return cli_fail(&err);
    if (json) {
        fg_buf b = {0};
        fg_buf_put_str(&b, "{\"file\": ");
        fg_json_put_str(&b, o.out_path, __builtin_strlen(o.out_path));
        fg_buf_printf(&b,
                      ", \"source_bytes\": %" PRIu64 ", \"file_bytes\": %" PRIu64
                      ", \"tensors\": %" PRIu64 ", \"bits_per_weight\": %.4f, "
                      "\"seconds\": %.3f}\n",
                      r.source_bytes, r.file_bytes, r.n_tensor, r.bits_per_weight, r.seconds);
        fwrite(b.data, 1, b.len, stdout);
        fg_buf_fini(&b);
    } else {
        printf("%s: %s from %s, %" PRIu64 " tensors, %.2f bits per weight, %.1f s\n", o.out_path,
               cli_bytes((double)r.file_bytes), cli_bytes((double)r.source_bytes), r.n_tensor,
               r.bits_per_weight, r.seconds);
    }
    return cli_finish_stdout();
}
