/* SPDX-License-Identifier: MIT
 *
 * Raw logits for outside comparison.  The output is written as a new file and renamed, so that a
 * failed run leaves nothing behind.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/engine/session.h"

static int run(int argc, char **argv);

const command cmd_logits = {
    .name = "logits",
    .summary = "logits of a token sequence as raw f32",
    .synopsis = "MODEL --ids FILE --out FILE.f32",
    .example = "fulgur logits m1.fulgur --ids ids.txt --out logits.f32\n"
               "fulgur tokenize m1.fulgur -f book.txt | fulgur logits m1.fulgur --ids - --out "
               "logits.f32",
    .description =
        "Evaluates a sequence of tokens and writes the logits of every position, for comparison "
        "with other programs: little-endian f32, one row of the vocabulary's size for each "
        "token. Ids are decimal numbers with white space, commas or brackets between them, as "
        "`fulgur tokenize` prints them.",
    .run = run,
};

/* A moment of the evaluation. */
typedef struct mark {
    /* of the expert store: zeros without it */
    uint64_t read_bytes, busy_ns, n_hit, n_miss, n_single, n_hinted, ns;
} mark;

typedef struct sink {
    FILE *f;
    size_t n_vocab;
    int error; /* errno of the first failed write */
} sink;

typedef struct meter {
    progress p;
    size_t from, n_tok; /* before this call; of all */
} meter;

static mark mark_now(fg_engine *e)
{
    const fg_store_stats *s = fg_engine_store_stats(e);
    mark m = {.ns = fg_clock_ns()};
    if (s == NULL) return m;
    m.read_bytes = s->io.bytes;
    m.busy_ns = s->io.busy_ns;
    m.n_hit = s->cache.n_hit + s->cache.n_prefetch_hit;
    m.n_miss = s->cache.n_miss;
    m.n_single = s->n_single;
    m.n_hinted = s->n_hinted;
    return m;
}

static void put(void *ctx, uint64_t pos, const float *logits)
{
    sink *k = ctx; /* f32 is little-endian on every supported host */
    (void)pos;
    if (k->error == 0 && fwrite(logits, sizeof(float), k->n_vocab, k->f) != k->n_vocab) {
        k->error = errno;
    }
}

static bool show_progress(void *ctx, size_t done, size_t total)
{
    meter *m = ctx;
    (void)total;
    return progress_show(&m->p, m->from + done, m->n_tok);
}

static void print_json(fg_engine *e, const mark *from, const mark *to, size_t n, size_t n_counted)
{
    const double seconds = (double)(to->ns - from->ns) * 1e-9;
    printf("{\"tokens\": %zu, \"vocabulary\": %u, \"seconds\": %.3f, \"tokens_per_s\": %.4g", n,
           fg_engine_shape(e)->n_vocab, seconds, seconds > 0.0 ? (double)n_counted / seconds : 0.0);
    if (fg_engine_store_stats(e) != NULL) {
        const double busy = (double)(to->busy_ns - from->busy_ns);
        const double hit = (double)(to->n_hit - from->n_hit),
                     all = hit + (double)(to->n_miss - from->n_miss);
        printf(", \"read_bytes\": %" PRIu64 ", \"read_gbs\": %.4g, \"hit_percent\": %.4g",
               to->read_bytes - from->read_bytes,
               busy > 0.0 ? (double)(to->read_bytes - from->read_bytes) / busy : 0.0,
               all > 0.0 ? 100.0 * hit / all : 0.0);
        const double single = (double)(to->n_single - from->n_single);
        printf(", \"predictor_on_percent\": %.4g",
               single > 0.0 ? 100.0 * (double)(to->n_hinted - from->n_hinted) / single : 0.0);
    }
    printf("}\n");
}

/* *from, *to: begin and end of what figures are of.  The first `warm` tokens are a call of their
 * own, since a batch that went on after them would be counted whole, or not at all. */
static fg_status eval(fg_engine *e, fg_session *s, const fg_ids *ids, uint32_t warm, sink *k,
                      mark *from, mark *to, fg_err *err)
{
    meter m = {.n_tok = ids->len};
    fg_status st = FG_OK;
    progress_start(&m.p, "logits", "token");
    fg_session_set_progress(s, show_progress, &m);
    if (warm > 0) st = fg_session_eval(s, ids->data, warm, put, k, err);
    m.from = warm;
    *from = mark_now(e);
    if (st == FG_OK) st = fg_session_eval(s, ids->data + warm, ids->len - warm, put, k, err);
    *to = mark_now(e);
    progress_end(&m.p);
    return st;
}

static fg_status write_logits(fg_engine *e, fg_session *s, const fg_ids *ids, const char *out,
                              uint32_t warm, mark *from, mark *to, fg_err *err)
{
    const bool direct = is_stream(out);
    fg_new_file file = {.f = NULL};
    sink k = {.n_vocab = fg_engine_shape(e)->n_vocab};
    if (!direct) FG_TRY(fg_new_file_open(&file, out, err));
    k.f = direct ? fopen(out, "wb") : file.f;
    if (k.f == NULL) {
        return fg_fail(err, FG_EIO, "%s: %s, expected a writable file", out, strerror(errno));
    }
    fg_status st = eval(e, s, ids, warm, &k, from, to, err);
    if (st == FG_OK) st = check_engine(e, err);
    if (st == FG_OK) print_store(e);
    if (direct && fclose(k.f) != 0 && k.error == 0) k.error = errno;
    if (st == FG_OK && k.error != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to write %zu bytes", out, strerror(k.error),
                     ids->len * k.n_vocab * sizeof(float));
    }
    if (st == FG_OK && !direct) st = fg_new_file_commit(&file, err);
    fg_new_file_close(&file);
    return st;
}

static int run(int argc, char **argv)
{
    fg_engine_opts eo = cli_engine_opts();
    fg_session_opts so = fg_session_opts_default();
    const char *ids_path = NULL, *out = NULL, *model;
    bool json = false;
    uint32_t warm = 0;
    const opt opts[] = {
        {"ids", 0, OPT_STR, &ids_path, 0, 0, "FILE", "token ids as decimal text; - for stdin"},
        {"out", 0, OPT_STR, &out, 0, 0, "FILE.f32", "little-endian f32 [n_token][vocab]"},
        {"batch", 'b', OPT_U32, &so.n_batch, 1, 4096, "N",
         "tokens evaluated together (default: up to 2048, with a card 16,384; --ram: for long "
         "texts what reads least)"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "report as JSON on stdout"},
        {"warm", 0, OPT_U32, &warm, 0, 1e9, "N",
         "for --json: tokens not counted in its rates (default: 0)"},
        CACHE_OPT(so.kv),
        ENGINE_OPTS(eo),
        NUMA_OPTS(eo),
        GPU_OPTS(eo),
        STREAM_OPTS(eo),
    };
    int status;
    if (!args_parse(&cmd_logits, opts, sizeof opts / sizeof opts[0], argc, argv, &model, 1,
                    &status)) {
        return status;
    }
    if (ids_path == NULL || out == NULL) {
        return args_usage(&cmd_logits, "no %s, expected --ids and --out",
                          ids_path == NULL ? "--ids" : "--out");
    }
    if (json) cli_gpu_silent(&eo);
    fg_err err = {0};
    fg_engine *e = NULL;
    fg_session *s = NULL;
    fg_ids ids = {0};
    char *text = NULL;
    size_t len;
    mark from = {0}, to = {0};
    cli_catch_interrupt();
    fg_status st = is_stream(out)
                       ? FG_OK
                       : check_output(out, true, (const char *[]){model, ids_path}, 2, &err);
    if (st == FG_OK) st = read_text(ids_path, &text, &len, &err);
    if (st == FG_OK) st = parse_ids(text, len, ids_path, &ids, &err);
    if (st == FG_OK && ids.len == 0) {
        st = fg_fail(&err, FG_EFORMAT, "%s: no token ids, expected at least one", ids_path);
    }
    if (st == FG_OK && warm >= ids.len) {
        st = fg_fail(&err, FG_EINVAL, "--warm: %u tokens of %zu, expected fewer", warm, ids.len);
    }
    if (st == FG_OK) st = open_engine(&e, model, &eo, &err);
    so.n_ctx = ids.len;
    if (st == FG_OK) st = fg_session_create(&s, e, &so, &err);
    if (st == FG_OK) st = write_logits(e, s, &ids, out, warm, &from, &to, &err);
    if (st == FG_OK && json) {
        print_json(e, &from, &to, ids.len, ids.len - warm);
    }
    fg_session_destroy(&s);
    fg_engine_close(&e);
    fg_ids_fini(&ids);
    fg_mem_free(text);
    return st == FG_OK ? cli_finish_made("logits", out) : cli_fail(&err);
}
