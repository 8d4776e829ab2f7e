/* SPDX-License-Identifier: MIT
 *
 * Raw logits for outside comparison.  The output is written as a new file and renamed, so that a
 * failed run leaves nothing behind.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"

static int run(int argc, char **argv);

const command cmd_logits = {
    .name = "logits",
    .summary = "logits of a token sequence as raw f32",
    .synopsis = "MODEL --ids FILE --out FILE.f32",
    .example = "fulgur logits m1.fulgur --ids ids.txt --out logits.f32",
    .run = run,
};

/* Decimal numbers separated by white space or commas. */
static fg_status parse_ids(const char *text, const char *name, fg_ids *ids, fg_err *err)
{
    for (const char *p = text;;) {
        p += strspn(p, " \t\r\n,");
        if (*p == '\0') return FG_OK;
        char *end;
        errno = 0;
        const unsigned long long v = strtoull(p, &end, 10);
        if (*p < '0' || *p > '9' || errno != 0 || v > UINT32_MAX - 1) {
            return fg_fail(err, FG_EFORMAT, "%s: '%.16s' at byte %zu, expected a token id", name, p,
                           (size_t)(p - text));
        }
        if (!fg_ids_push(ids, (uint32_t)v)) return fg_fail_nomem(err, name);
        p = end;
    }
}

typedef struct sink {
    FILE *f;
    size_t n_vocab;
    int error; /* errno of the first failed write */
} sink;

static void put(void *ctx, uint64_t pos, const float *logits)
{
    (void)pos;
    sink *k = ctx; /* f32 is little-endian on every supported host */
    if (k->error == 0 && fwrite(logits, sizeof(float), k->n_vocab, k->f) != k->n_vocab) {
        k->error = errno;
    }
}

static fg_status write_logits(fg_session *s, size_t n_vocab, const fg_ids *ids, const char *out,
                              fg_err *err)
{
    char *part = fg_mem_alloc(strlen(out) + 6);
    if (part == NULL) return fg_fail_nomem(err, out);
    /* a device such as /dev/stdout is written directly */
    const bool direct = fg_io_exists(out) && strncmp(out, "/dev/", 5) == 0;
    sprintf(part, "%s%s", out, direct ? "" : ".part");
    fg_status st = FG_OK;
    sink k = {fopen(part, "wb"), n_vocab, 0};
    if (k.f == NULL) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a writable file", out, strerror(errno));
        goto done;
    }
    st = fg_session_eval(s, ids->data, ids->len, put, &k, err);
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
    const opt opts[] = {
        {"ids", 0, OPT_STR, &ids_path, 0, 0, "FILE", "token ids as decimal text; - for stdin"},
        {"out", 0, OPT_STR, &out, 0, 0, "FILE.f32", "little-endian f32 [n_token][vocab]"},
        {"batch", 'b', OPT_U32, &so.n_batch, 1, 4096, "N", "tokens evaluated together (512)"},
        ENGINE_OPTS(eo),
    };
    int status;
    const int n =
        args_parse(&cmd_logits, opts, sizeof opts / sizeof opts[0], argc, argv, &model, 1, &status);
    if (n < 0) return status;
    if (n < 1 || ids_path == NULL || out == NULL) {
        return args_usage(&cmd_logits, "incomplete, expected MODEL, --ids and --out");
    }
    fg_err err = {0};
    fg_engine *e = NULL;
    fg_session *s = NULL;
    fg_ids ids = {0};
    char *text = NULL;
    size_t len;
    fg_status st = read_text(ids_path, &text, &len, &err);
    if (st == FG_OK) st = parse_ids(text, ids_path, &ids, &err);
    if (st == FG_OK && ids.len == 0) {
        st = fg_fail(&err, FG_EFORMAT, "%s: no token ids, expected at least one", ids_path);
    }
    if (st == FG_OK) st = fg_engine_open(&e, model, &eo, &err);
    so.n_ctx = ids.len;
    if (st == FG_OK) st = fg_session_create(&s, e, &so, &err);
    if (st == FG_OK) st = write_logits(s, fg_engine_shape(e)->n_vocab, &ids, out, &err);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    fg_ids_fini(&ids);
    fg_mem_free(text);
    return st == FG_OK ? EXIT_OK : cli_fail(&err);
}
