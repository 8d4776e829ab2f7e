/* SPDX-License-Identifier: MIT
 *
 * Raw logits for outside comparison.  The output is written as a new file and renamed, so that a
 * failed run leaves nothing behind.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/engine/stream.h"

static int run(int argc, char **argv);

const command cmd_logits = {
    .name = "logits",
    .summary = "logits of a token sequence as raw f32",
    .synopsis = "MODEL --ids FILE --out FILE.f32",
    .example = "fulgur logits m1.fulgur --ids ids.txt --out logits.f32",
    .run = run,
};

/* A moment of the evaluation. */
typedef struct mark {
    uint64_t ns, read_bytes, busy_ns, n_hit, n_miss; /* of the expert store: zeros without it */
} mark;

typedef struct sink {
    FILE *f;
    size_t n_vocab;
    int error; /* errno of the first failed write */
    fg_engine *e;
    uint32_t warm; /* tokens that figures leave out */
    mark from;     /* behind them */
} sink;

static mark mark_now(fg_engine *e)
{
    const fg_store_stats *s = fg_engine_store_stats(e);
    mark m = {.ns = fg_clock_ns()};
    if (s == NULL) return m;
    m.read_bytes = s->io.bytes;
    m.busy_ns = s->io.busy_ns;
    m.n_hit = s->cache.n_hit + s->cache.n_prefetch_hit;
    m.n_miss = s->cache.n_miss;
    return m;
}

static void put(void *ctx, uint64_t pos, const float *logits)
{
    sink *k = ctx; /* f32 is little-endian on every supported host */
    if (pos + 1 == k->warm) k->from = mark_now(k->e);
    if (k->error == 0 && fwrite(logits, sizeof(float), k->n_vocab, k->f) != k->n_vocab) {
        k->error = errno;
    }
}

static bool show_progress(void *ctx, size_t done, size_t total)
{
    return progress_show(ctx, done, total);
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
    }
    printf("}\n");
}

/* *from, *to: begin and end of what figures are of. */
static fg_status write_logits(fg_engine *e, fg_session *s, const fg_ids *ids, const char *out,
                              uint32_t warm, mark *from, mark *to, fg_err *err)
{
    char *part = fg_mem_alloc(strlen(out) + 6);
    if (part == NULL) return fg_fail_nomem(err, out);
    /* a device such as /dev/stdout is written directly */
    const bool direct = fg_io_exists(out) && strncmp(out, "/dev/", 5) == 0;
    sprintf(part, "%s%s", out, direct ? "" : ".part");
    fg_status st = FG_OK;
    const size_t n_vocab = fg_engine_shape(e)->n_vocab;
    progress p;
    progress_start(&p, "logits", "token");
    fg_session_set_progress(s, show_progress, &p);
    sink k = {fopen(part, "wb"), n_vocab, 0, e, warm, mark_now(e)};
    if (k.f == NULL) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a writable file", out, strerror(errno));
        goto done;
    }
    st = fg_session_eval(s, ids->data, ids->len, put, &k, err);
    *to = mark_now(e);
    *from = k.from;
    progress_end(&p);
    if (st == FG_OK) print_store(e);
    if (fclose(k.f) != 0 && k.error == 0) k.error = errno;
    if (st == FG_OK && k.error != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to write %zu bytes", out, strerror(k.error),
                     ids->len * n_vocab * sizeof(float));
    }
    if (st == FG_OK && !direct && rename(part, out) != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to rename", out, strerror(errno));
    }
    if (st != FG_OK && !direct) (void)unlink(part);
done:
    fg_mem_free(part);
    return st;
}

static int run(int argc, char **argv)
{
    fg_engine_opts eo = fg_engine_opts_default();
    fg_session_opts so = fg_session_opts_default();
    const char *ids_path = NULL, *out = NULL, *model;
    bool json = false;
    const char *cache = NULL;
    uint32_t warm = 0;
    const opt opts[] = {
        {"ids", 0, OPT_STR, &ids_path, 0, 0, "FILE", "token ids as decimal text; - for stdin"},
        {"out", 0, OPT_STR, &out, 0, 0, "FILE.f32", "little-endian f32 [n_token][vocab]"},
        {"batch", 'b', OPT_U32, &so.n_batch, 1, 4096, "N", "tokens evaluated together (512)"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "report as JSON on stdout"},
        {"warm", 0, OPT_U32, &warm, 0, 1e9, "N", "for --json: tokens not counted in its rates (0)"},
        CACHE_OPT(cache),
        ENGINE_OPTS(eo),
        STREAM_OPTS(eo),
    };
    int status;
    const int n =
        args_parse(&cmd_logits, opts, sizeof opts / sizeof opts[0], argc, argv, &model, 1, &status);
    if (n < 0) return status;
    if (n < 1 || ids_path == NULL || out == NULL) {
        return args_usage(&cmd_logits, "incomplete, expected MODEL, --ids and --out");
    }
    if (!parse_cache_type(&cmd_logits, cache, &so.kv)) return EXIT_USAGE;
    fg_err err = {0};
    fg_engine *e = NULL;
    fg_session *s = NULL;
    fg_ids ids = {0};
    char *text = NULL;
    size_t len;
    mark from = {0}, to = {0};
    cli_catch_interrupt();
    fg_status st = read_text(ids_path, &text, &len, &err);
    if (st == FG_OK) st = parse_ids(text, len, ids_path, &ids, &err);
    if (st == FG_OK && ids.len == 0) {
        st = fg_fail(&err, FG_EFORMAT, "%s: no token ids, expected at least one", ids_path);
    }
    if (st == FG_OK && warm >= ids.len) {
        st = fg_fail(&err, FG_EINVAL, "--warm: %u tokens of %zu, expected fewer", warm, ids.len);
    }
    if (st == FG_OK) st = fg_engine_open(&e, model, &eo, &err);
    if (st == FG_OK) st = refuse_same_file(out, model, &err);
    if (st == FG_OK) st = refuse_same_file(out, ids_path, &err);
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
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
