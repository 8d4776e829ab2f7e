/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>

#include "src/base/clock.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"

static int run(int argc, char **argv);

const command cmd_verify = {
    .name = "verify",
    .summary = "check every byte of a model file against its hashes",
    .synopsis = "MODEL",
    .example = "fulgur verify m1.fulgur\n"
               "fulgur verify m1.fulgur --json",
    .description =
        "Reads every byte of a model file and compares it with the hashes in the file. Opening "
        "a model checks header, directory and metadata only.",
    .run = run,
};

static int run(int argc, char **argv)
{
    bool json = false;
    const opt opts[] = {{"json", 0, OPT_FLAG, &json, 0, 0, NULL, "report as JSON on stdout"}};
    const char *path;
    int status;
    if (!args_parse(&cmd_verify, opts, 1, argc, argv, &path, 1, &status)) {
        return status;
    }
    fg_err err = {0};
    fg_model_file *f;
    if (fg_model_file_open(&f, path, &err) != FG_OK) return cli_fail(&err);
    progress p;
    cli_catch_interrupt();
    progress_start(&p, "verify", "B");
    const fg_status st = fg_model_file_verify(f, progress_show, &p, &err);
    progress_end(&p);
    const double bytes = (double)fg_model_file_size(f);
    const double s = (double)(fg_clock_ns() - p.start_ns) * 1e-9;
    if (st != FG_OK) {
        fg_model_file_close(&f);
        return cli_fail(&err);
    }
    if (json) {
        printf("{\"ok\": true, \"bytes\": %.0f, \"tensors\": %" PRIu64 ", \"seconds\": %.3f}\n",
               bytes, fg_model_file_n_tensor(f), s);
    } else {
        printf("%s: good, %s, %s tensors, %s/s\n", cli_shown(path), cli_bytes(bytes),
               cli_count(fg_model_file_n_tensor(f)), cli_bytes(bytes / s));
    }
    fg_model_file_close(&f);
    return cli_finish_stdout();
}
