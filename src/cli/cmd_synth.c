/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>

#include "convert/choose/recipe.h"
#include "convert/synth.h"
#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/split_option.h"

static int run(int argc, char **argv);

const command cmd_synth = {
    .name = "synth",
    .summary = "model of random weights at real dimensions, for benchmarks",
    .synopsis = "OUT.fulgur",
    .example = "fulgur synth bench.fulgur --shape m1 --layers 4 --type q4\n"
               "fulgur synth bench.fulgur --layers 10 --tokenizer MiniMax-M1-80k\n"
               "fulgur synth bench.fulgur --split /drive2/models",
    .description =
        "Writes a model of random weights at real dimensions, for measuring speed where there "
        "is no checkpoint. The text that it generates is noise; its speed is that of a real "
        "model of the same shape. `--type` and `--recipe` mean what they mean for `fulgur "
        "convert`.\n"
        "`--split` spreads every expert over the drive of OUT and those of the folders given, "
        "as `fulgur convert` does. No journal is kept: what a killed run leaves behind is "
        "named, all of it, by the next one, and is to be deleted.",
    .run = run,
};

static int run(int argc, char **argv)
{
    fg_synth_opts o = {0};
    bool json = false, force = false;
    const char *split_text = NULL;
    static split_dirs split;
    const opt opts[] = {
        {"shape", 0, OPT_STR, &o.shape, 0, 0, "NAME", "m1 (default), or a config.json"},
        {"layers", 0, OPT_U32, &o.n_layer, 1, FG_MAX_LAYER, "N",
         "layers (m1: 4); when none of several is softmax, the last one becomes so"},
        {"type", 0, OPT_STR, &o.type, 0, 0, "TYPE", fg_recipe_type_help},
        {"recipe", 0, OPT_STR, &o.recipe_path, 0, 0, "NAME|FILE",
         "fast, balanced (as q4), faithful; or lines 'pattern type', last match wins"},
        {"tokenizer", 0, OPT_STR, &o.tokenizer_dir, 0, 0, "DIR",
         "store the tokenizer of this folder (default: none; run and chat need one)"},
        SPLIT_OPT(split_text, "; delete a killed run's"),
        {"seed", 's', OPT_U64, &o.seed, 0, 9e15, "S", "random seed (default: 0)"},
        {"threads", 't', OPT_U32, &o.n_thread, 1, 1024, "N", "threads (default: physical cores)"},
        FORCE_OPT(force),
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "report as JSON on stdout"},
    };
    int status;
    if (!args_parse(&cmd_synth, opts, sizeof opts / sizeof opts[0], argc, argv, &o.out_path, 1,
                    &status)) {
        return status;
    }

    if (!parse_split(&cmd_synth, split_text, &split)) return EXIT_USAGE;
    o.split_dir = split.dir;
    o.n_split = split.n;
    o.keep_existing = !force;
    fg_err err = {0};
    fg_synth_report r;
    progress p;
    cli_catch_interrupt();
    progress_start(&p, "synth", "B");
    o.progress = progress_show;
    o.ctx = &p;
    const fg_status st = fg_synth(&o, &r, &err);
    progress_end(&p);
    if (st != FG_OK) return cli_fail(&err);
    const double rate = r.seconds > 0.0 ? (double)r.file_bytes / r.seconds : 0.0;
    if (json) {
        fg_buf b = {0};
        fg_buf_put_str(&b, "{\"file\": ");
        fg_json_put_str(&b, o.out_path, __builtin_strlen(o.out_path));
        fg_buf_printf(&b,
                      ", \"layers\": %u, \"file_bytes\": %" PRIu64 ", \"tensors\": %" PRIu64
                      ", \"weights\": %" PRIu64
                      ", \"seconds\": %.3f, \"bytes_per_second\": %.0f}\n",
                      r.shape.n_layer, r.file_bytes, r.n_tensor, r.n_weight, r.seconds, rate);
        if (print_buf(&b, &err) != FG_OK) return cli_fail(&err);
    } else {
        printf("%s: %s, %u layers, %s weights, %.1f s, %s/s\n", cli_shown(o.out_path),
               cli_bytes((double)r.file_bytes), r.shape.n_layer, cli_count(r.n_weight), r.seconds,
               cli_bytes(rate));
    }
    return cli_finish_made("synth", o.out_path);
}
