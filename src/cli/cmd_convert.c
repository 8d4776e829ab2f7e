/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "convert/choose/recipe.h"
#include "convert/convert.h"
#include "convert/dry_run.h"
#include "convert/metadata.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/utf8.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/info.h"
#include "src/cli/split_option.h"

static int run(int argc, char **argv);

const command cmd_convert = {
    .name = "convert",
    .summary = "Hugging Face checkpoint folder to one .fulgur file",
    .synopsis = "SRC_DIR OUT.fulgur",
    .example = "fulgur convert MiniMax-M1-80k m1.fulgur --type q4\n"
               "fulgur convert MiniMax-M1-80k m1.fulgur --recipe fast --calib text.txt\n"
               "fulgur convert MiniMax-M1-80k m1.fulgur --dry-run\n"
               "fulgur convert MiniMax-M1-80k m1.fulgur --delete-consumed --wait-for-shards\n"
               "fulgur convert MiniMax-M1-80k m1.fulgur --split /drive2/models,/drive3/models\n"
               "fulgur convert MiniMax-M1-80k m1.fulgur --only-tokenizer",
    .description =
        "Reads a checkpoint folder as Hugging Face has it and writes one file: weights, "
        "configuration, tokenizer, recipe, hashes of the source and the error of each quantized "
        "tensor, with a checksum for every megabyte.\n"
        "Types are `f32` and `bf16` (for reference), `q8`, `q6`, `q5` and `q4` (8.25 to 4.25 "
        "bits a weight). Recipes: `balanced` is what `--type q4` means, experts q4, attention "
        "q6, embedding and lm_head q8; M1 then reads 30 GB a token. `fast` is q4 but for "
        "embedding and lm_head (25.5 GB); `faithful` is all q8. Routers and norms are always "
        "f32. A recipe file overrides types by tensor name, with lines of a pattern and a type, "
        "of which the last match wins. `--target-bpw` and `--target-gb` let the types be "
        "chosen: what `fulgur sensitivity` measured for the attention and the experts of each "
        "layer is traded against bytes.\n"
        "Each byte is read once, in 0.3 GiB of memory. A conversion that is killed at any moment "
        "goes on when the same command is given again: what is there is read back first, at the "
        "speed of the disk, and what differs from what was written is made again; where a shard "
        "was written to since, what was read of it is compared, and other bytes are refused. "
        "SIGINT, SIGTERM "
        "and SIGHUP end it in order: what is done is kept in OUT.part and OUT.part.journal, the "
        "command that goes on is printed, and the status is 128 and the signal's number; a second "
        "one kills. When the disk is full it waits until there is room again (`--on-full wait`) or "
        "ends (`stop`). Where standard error is no terminal, a line every ten minutes says how far "
        "it is. A finished OUT is replaced with `--force` only. `--dry-run` prints the plan: "
        "sizes, disk, memory.\n"
        "A folder without tokenizer.json is converted with a warning, but not with "
        "`--delete-consumed`. `--only-tokenizer` puts the tokenizer of SRC_DIR, its configuration "
        "and the chat template into a finished OUT, in place of what it has; the weights are not "
        "touched. Matrices that are zero throughout, as where a shard was reserved and never "
        "filled, are named; an embedding, lm_head or norm that is so ends the conversion.\n"
        "`--delete-consumed` removes a shard when all that was made of it is on the disk, and "
        "`--wait-for-shards` takes shards as they arrive, so that download and conversion "
        "overlap within 4.5 GB of shards (calibrated: 234 GB, because the release keeps an "
        "expert of twenty layers together). A shard has arrived when it is as long as its "
        "header says, has rested for 5 s, and has no `.aria2`, `.incomplete`, `.part` or "
        "`.crdownload` file beside it. A downloader that reserves the whole length under the "
        "final name without such a file cannot be seen through; but a shard that is written to "
        "after its header was read ends the conversion.\n"
        "`--split` spreads every expert over the drive of OUT and those of the folders given: "
        "parts OUT.1, OUT.2 and so on, linked beside OUT, which `--ram` reads in parallel. The "
        "parts are sparse files: copy them with `cp --sparse=always` or `rsync -S`, and link "
        "one anew after moving it. All are needed, and they are checked against each other when "
        "the file is opened. The drives must have room for their whole parts at the start, with "
        "`--delete-consumed` too. When a drive is not mounted while a conversion goes on, its "
        "part is reported as missing: mount it. Linux limits a process to 65,530 mappings "
        "(`vm.max_map_count`): the release in 16 parts takes 40,960, and two models opened in "
        "one process take the sum. The names of the folders have no commas.\n"
        "`--calib` runs a text through the model while it is written, layer by layer, and "
        "encodes each matrix so that its outputs on the text change least; experts that the "
        "router neglects are given the tokens next in line. It works on the half-written file, "
        "so nothing is read twice, and resumes like any conversion (on the same kind of CPU: "
        "the algebra is OpenBLAS's). For the release it takes, extrapolated from one layer of "
        "its size, 25 core hours, and for each 100,000 tokens 16 more and 14 GB of temporary "
        "disk, in 1.5 GiB of memory. The text should look like the use: prose, code, chat turns "
        "with their markup.",
    .run = run,
};

static void resumed(void *arg, uint64_t done, uint64_t total)
{
    progress *p = arg;
    p->from = done;
    cli_note("convert: resuming at %s of %s\n", cli_bytes((double)done), cli_bytes((double)total));
}

/* The wait is part of the time that the rate is of: what is left comes no faster. */
static void waiting(void *arg, const char *shard)
{
    progress *p = arg;
    p->note[0] = '\0';
    if (shard != NULL) (void)snprintf(p->note, sizeof p->note, "waiting for %.70s", shard);
    fg_utf8_clean(p->note);
    if (shard != NULL && !p->on) cli_note("convert: %s\n", p->note);
}

static void tell(void *arg, const char *text)
{
    const progress *p = arg;
    cli_warn(p->what, text);
}

/* What earlier lives wrote is read back before the work: a progress of its own. */
static bool checking(void *arg, uint64_t done, uint64_t total)
{
    static progress check;
    (void)arg;
    if (check.start_ns == 0) progress_start(&check, "convert: reading back", "B");
    const bool go_on = progress_show(&check, done, total);
    if (done == total) progress_end(&check);
    return go_on;
}

/* --- a full disk --- */

typedef enum on_full { ON_FULL_WAIT, ON_FULL_STOP, ON_FULL_COUNT } on_full;

static const char *on_full_name(unsigned v)
{
    static const char *const names[ON_FULL_COUNT] = {"wait", "stop"};
    return names[v];
}

#define SAY_AGAIN_NS ((uint64_t)60 * 1000000000)

/* A second's wait; said once, and again when it comes back after a while. */
static bool wait_for_room(void *arg, const char *path, uint64_t need, uint64_t have)
{
    static uint64_t tried_ns;
    progress *p = arg;
    const uint64_t now = fg_clock_ns();
    if (tried_ns == 0 || now - tried_ns > SAY_AGAIN_NS) {
        char line[512];
        (void)snprintf(line, sizeof line,
                       "%.300s: the disk is full: %s free, %s needed to the end; it goes on when "
                       "there is room",
                       path, cli_bytes((double)have), cli_bytes((double)need));
        cli_warn(p->what, line);
    }
    (void)snprintf(p->note, sizeof p->note, "the disk is full");
    for (int i = 0; i < 10 && !cli_interrupted(); i++) {
        const struct timespec tenth = {0, 100000000};
        (void)nanosleep(&tenth, NULL);
    }
    tried_ns = fg_clock_ns();
    return !cli_interrupted();
}

/* --- the command that goes on --- */

static void put_word(const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-+=:,./@%";
    if (s[0] != '\0' && strspn(s, plain) == strlen(s)) {
        fprintf(stderr, " %s", s);
        return;
    }
    fprintf(stderr, " '");
    for (; *s != '\0'; s++) {
        if (*s == '\'') {
            fprintf(stderr, "'\\''");
        } else {
            (void)fputc((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s, stderr);
        }
    }
    (void)fputc('\'', stderr);
}

static void print_command(const fg_convert_opts *o, int argc, char *const *argv)
{
    char part[4096];
    const int n = snprintf(part, sizeof part, "%s.part", o->out_path);
    if (!cli_interrupted() || n < 0 || (size_t)n >= sizeof part || !fg_io_exists(part) ||
        argc == 0) {
        return;
    }
    fprintf(stderr, "go on with: fulgur");
    for (int i = 0; i < argc; i++) put_word(argv[i]);
    (void)fputc('\n', stderr);
}

/* --- dry run --- */

static fg_status print_forecast_json(const fg_convert_opts *o, const fg_dry_run *f, fg_err *err)
{
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"dry_run\": true, \"file\": ");
    fg_json_put_str(&b, o->out_path, strlen(o->out_path));
    fg_buf_printf(
        &b,
        ", \"shards\": %" PRIu64 ", \"shards_here\": %" PRIu64 ", \"source_bytes\": %" PRIu64
        ", \"file_bytes\": %" PRIu64 ", \"tensors\": %" PRIu64 ", \"weights\": %" PRIu64
        ", \"bits_per_weight\": %.4f, \"temporary_bytes\": %" PRIu64 ", \"need_bytes\": %" PRIu64
        ", \"free_bytes\": %" PRIu64 ", \"fits\": %s, \"overlap_bytes\": %" PRIu64
        ", \"memory_bytes\": %" PRIu64 ", \"threads\": %u, \"tokenizer\": %s, \"links\": %" PRIu64
        ", \"parts\": [",
        f->n_shard, f->n_here, f->source_bytes, f->file_bytes, f->n_tensor, f->n_weight,
        f->bits_per_weight, f->temp_bytes, f->need_bytes, f->free_bytes,
        f->free_bytes >= f->need_bytes && f->parts_fit ? "true" : "false", f->overlap_bytes,
        f->memory_bytes, f->n_thread, f->has_tokenizer ? "true" : "false", f->n_link);
    for (size_t i = 0; i < f->n_sum; i++) {
        const fg_dry_run_sum *s = &f->sum[i];
        fg_buf_printf(&b,
                      "%s{\"part\": \"%s\", \"type\": \"%s\", \"tensors\": %" PRIu64
                      ", \"weights\": %" PRIu64 ", \"bytes\": %" PRIu64 "}",
                      i == 0 ? "" : ", ", info_role_name((uint32_t)s->role),
                      fg_qtype_get(s->type)->name, s->n_tensor, s->n_weight, s->bytes);
    }
    fg_buf_put_str(&b, "]}\n");
    const fg_status st = b.failed ? fg_fail_nomem(err, "report") : FG_OK;
    if (st == FG_OK) (void)fwrite(b.data, 1, b.len, stdout);
    fg_buf_fini(&b);
    return st;
}

static void print_forecast(const fg_convert_opts *o, const fg_dry_run *f)
{
    printf("%-16s %-5s %8s %16s %12s\n", "part", "type", "tensors", "weights", "size");
    for (size_t i = 0; i < f->n_sum; i++) {
        const fg_dry_run_sum *s = &f->sum[i];
        printf("%-16s %-5s %8s %16s %12s\n", info_role_name((uint32_t)s->role),
               fg_qtype_get(s->type)->name, cli_count(s->n_tensor), cli_count(s->n_weight),
               cli_bytes((double)s->bytes));
    }
    printf("\n%-16s %s, %s tensors, %.2f bits per weight\n", "file",
           cli_bytes((double)f->file_bytes), cli_count(f->n_tensor), f->bits_per_weight);
    printf("%-16s %s in %s shards, each byte once", "to read", cli_bytes((double)f->source_bytes),
           cli_count(f->n_shard));
    if (f->n_here < f->n_shard) {
        printf("; %" PRIu64 " shards are not here, taken for bf16", f->n_shard - f->n_here);
    }
    printf("\n%-16s %s of shards at once%s\n", "overlap", cli_bytes((double)f->overlap_bytes),
           o->calib_path == NULL ? ", with --delete-consumed and --wait-for-shards"
                                 : ", calibrated: with --delete-consumed and --wait-for-shards");
    printf("%-16s %s with %u threads%s\n", "memory", cli_memory((double)f->memory_bytes),
           f->n_thread, o->calib_path == NULL ? "" : ", without what calibration takes");
    printf("%-16s %s\n", "temporary files", cli_bytes((double)f->temp_bytes));
    printf("%-16s %s needed, %s free: %s\n", "disk", cli_bytes((double)f->need_bytes),
           cli_bytes((double)f->free_bytes),
           f->free_bytes >= f->need_bytes ? "it fits" : "IT DOES NOT FIT");
    for (uint32_t k = 1; k < f->n_part; k++) {
        printf("part %-11u %s in %s, %s free%s\n", k, cli_bytes((double)f->part_bytes[k]),
               cli_shown(o->split_dir[k - 1]), cli_bytes((double)f->part_free[k]),
               k + 1 < f->n_part || f->parts_fit ? "" : ": THE PARTS DO NOT FIT");
    }
}

static int dry_run(fg_convert_opts *o, bool json)
{
    static fg_dry_run f;
    static progress p = {.what = "convert"};
    fg_err err = {0};
    o->warn = tell;
    o->ctx = &p;
    fg_status st = fg_convert_dry_run(o, &f, &err);
    if (st == FG_OK && json) st = print_forecast_json(o, &f, &err);
    if (st != FG_OK) return cli_fail(&err);
    if (!json) print_forecast(o, &f);
    return cli_finish_stdout();
}

/* --- reports --- */

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
    if (o->delete_consumed) {
        fg_buf_printf(&b,
                      ", \"shards_deleted\": %" PRIu64 ", \"deleted_bytes\": %" PRIu64
                      ", \"shards_left_alone\": %" PRIu64,
                      r->n_deleted, r->deleted_bytes, r->n_left_alone);
    }
    fg_buf_printf(&b, ", \"zero_matrices\": %" PRIu64, r->n_zero);
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
        printf("calibrated with %s tokens, of which the router sent an expert %s at least",
               cli_count(c->n_token), cli_count(c->min_routed));
        if (c->n_dead > 0) {
            printf("; %s inputs were zero throughout", cli_count(c->n_dead));
        }
        if (c->n_topped > 0 && c->min_routed < c->min_used) {
            printf("; %s of %s experts got fewer than %d and were also given the tokens next in "
                   "line",
                   cli_count(c->n_topped), cli_count(c->n_expert), FG_CALIB_MIN_TOKENS);
        }
        printf("\n");
    }
    if (o->delete_consumed) {
        printf("deleted %" PRIu64 " consumed shards (%s)", r->n_deleted,
               cli_bytes((double)r->deleted_bytes));
        if (r->n_left_alone > 0) {
            printf("; left alone %" PRIu64 " that are links", r->n_left_alone);
        }
        printf("\n");
    }
    if (o->n_split > 0) {
        printf("split: parts 1 to %u beside the main file; all of them are needed\n", o->n_split);
    }
    printf("%s: %s from %s, %s tensors, %.2f bits per weight, %.1f s; each tensor's error: "
           "fulgur info --tensors\n",
           cli_shown(o->out_path), cli_bytes((double)r->file_bytes),
           cli_bytes((double)r->source_bytes), cli_count(r->n_tensor), r->bits_per_weight,
           r->seconds);
    return FG_OK;
}

/* OUT is complete: whatever becomes of the report, the conversion has not failed. */
static int report(const fg_convert_opts *o, const fg_convert_report *r, bool json)
{
    fg_err err = {0};
    const fg_status st = json ? print_json(o, r, &err) : print_report(o, r, &err);
    if (st != FG_OK) cli_warn("convert", err.msg);
    return cli_finish_made("convert", o->out_path);
}

static int convert(fg_convert_opts *o, on_full full, bool json, int argc, char *const *argv)
{
    fg_err err = {0};
    fg_convert_report r;
    progress p;
    cli_catch_interrupt();
    progress_start(&p, "convert", "B");
    o->progress = progress_show;
    o->resumed = resumed;
    o->waiting = waiting;
    o->warn = tell;
    o->checking = checking;
    o->full = full == ON_FULL_WAIT ? wait_for_room : NULL;
    o->ctx = &p;
    const fg_status st = fg_convert(o, &r, &err);
    progress_end(&p);
    if (st != FG_OK) {
        const int status = cli_fail(&err);
        print_command(o, argc, argv);
        return status;
    }
    return report(o, &r, json);
}

static int add_tokenizer(const fg_convert_opts *o)
{
    fg_err err = {0};
    cli_catch_interrupt();
    if (fg_metadata_store_tokenizer(o->src_dir, o->out_path, &err) != FG_OK) return cli_fail(&err);
    printf("%s: has the tokenizer of %s\n", o->out_path, o->src_dir);
    return cli_finish_made("convert", o->out_path);
}

static int run(int argc, char **argv)
{
    fg_convert_opts o = {0};
    bool json = false, dry = false, force = false, only_tokenizer = false;
    on_full full = ON_FULL_WAIT;
    char *given[64]; /* parsing moves the operands */
    const int n_given = argc <= 64 ? argc : 0;
    memcpy(given, argv, (size_t)n_given * sizeof *given);
    double target_gb = 0.0;
    const char *split_text = NULL;
    static split_dirs split;
    const opt opts[] = {
        {"type", 0, OPT_STR, &o.type, 0, 0, "TYPE", fg_recipe_type_help},
        {"recipe", 0, OPT_STR, &o.recipe_path, 0, 0, "NAME|FILE",
         "fast, balanced (as q4), faithful; or lines 'pattern type', last match wins"},
        {"target-bpw", 0, OPT_F64, &o.target_bpw, 1, 32, "X",
         "choose types for at most X bits per weight; needs --sensitivity"},
        {"target-gb", 0, OPT_F64, &target_gb, 1e-3, 1e6, "Y",
         "choose types for a file of at most Y GB; needs --sensitivity"},
        {"sensitivity", 0, OPT_STR, &o.sensitivity_path, 0, 0, "FILE",
         "measured by fulgur sensitivity on the same model"},
        {"calib", 0, OPT_STR, &o.calib_path, 0, 0, "TEXT_FILE",
         "text to calibrate the quantization with (slower, better)"},
        {"calib-diagonal", 0, OPT_FLAG, &o.calib_diagonal, 0, 0, NULL,
         "calibrate scales only, without error feedback (less time and memory)"},
        {"threads", 't', OPT_U32, &o.n_thread, 1, 1024, "N", "threads (default: physical cores)"},
        {"jobs", 'j', OPT_U32, &o.n_thread, 1, 1024, "N", "the same as --threads"},
        SPLIT_OPT(split_text, ""),
        {"dry-run", 0, OPT_FLAG, &dry, 0, 0, NULL,
         "print the plan: sizes, disk, memory; write nothing (no shard needs to be there)"},
        {"delete-consumed", 0, OPT_FLAG, &o.delete_consumed, 0, 0, NULL,
         "delete each shard when all made from it is safely on the disk"},
        {"wait-for-shards", 0, OPT_FLAG, &o.wait_for_shards, 0, 0, NULL,
         "start with the shards that are there, wait for the others to arrive"},
        FORCE_OPT(force),
        {"on-full", 0, OPT_CHOICE, CHOICE(full, on_full_name, ON_FULL_COUNT), 0, 0, "WHAT",
         "when the disk is full: wait for room, or stop"},
        {"only-tokenizer", 0, OPT_FLAG, &only_tokenizer, 0, 0, NULL,
         "put the tokenizer of SRC_DIR into the finished OUT, nothing else"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "report as JSON on stdout"},
    };
    const char *operand[2];
    int status;
    if (!args_parse(&cmd_convert, opts, sizeof opts / sizeof opts[0], argc, argv, operand, 2,
                    &status)) {
        return status;
    }
    if (o.calib_diagonal && o.calib_path == NULL) {
        return args_usage(&cmd_convert, "--calib-diagonal without a text, expected --calib TEXT");
    }
    if (!parse_split(&cmd_convert, split_text, &split)) return EXIT_USAGE;
    o.split_dir = split.dir;
    o.n_split = split.n;
    o.target_bytes = (uint64_t)(target_gb * 1e9);
    o.src_dir = operand[0];
    o.out_path = operand[1];

    o.keep_existing = !force;
    if (only_tokenizer) return add_tokenizer(&o);
    return dry ? dry_run(&o, json) : convert(&o, full, json, n_given, given);
}
