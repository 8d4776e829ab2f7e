/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/origin.h"
#include "src/format/write/reseal.h"

static int run(int argc, char **argv);

const command cmd_verify = {
    .name = "verify",
    .summary = "check every byte of a model file against its hashes, and whose it is",
    .synopsis = "MODEL",
    .example = "fulgur verify m1.fulgur\n"
               "fulgur verify m1.fulgur --key ours.pub\n"
               "fulgur verify m1.fulgur --add-sha256",
    .description =
        "Reads every byte of a model file and compares it with the hashes in the file. Opening "
        "a model checks header, directory and metadata only. That finds damage; who forges a file "
        "makes its hashes right.\n"
        "With a signature, MODEL.sig, and a key that is pinned (`fulgur key pin`) or that `--key` "
        "names, it also says whose the model is: SHA-256 of every chunk and of all metadata but "
        "quality and heat must be as they were signed. A key that came with the model proves "
        "nothing: compare its fingerprint with one from elsewhere. A signature that was valid once "
        "stays so: who keeps an older version of the model and its signature can put both back.\n"
        "`--add-sha256` adds the SHA-256 hashes to a model of an older converter, as metadata; its "
        "weights are read once and not touched.",
    .run = run,
};

typedef struct request {
    const char *path;
    bool json, add;
    origin trust;
} request;

/* What was found out. */
typedef struct finding {
    bool sealed, is_signed;
    fg_public_key who;
    fg_buf loose;          /* metadata that is not signed, with commas between */
    const char *unchecked; /* why a signature that is there says nothing; NULL: it does */
} finding;

/* Metadata that the text leaves out is under XXH3 only. */
static fg_status check_loose(const fg_model_file *f, finding *x, fg_err *err)
{
    for (uint64_t i = 0; i < fg_model_file_n_meta(f); i++) {
        const char *key, *bytes;
        uint64_t size;
        size_t n;
        fg_model_file_meta_at(f, i, &key, &size);
        if (!fg_seal_leaves_out(key)) continue;
        FG_TRY(fg_model_file_meta(f, key, &bytes, &n, err));
        if (strcmp(key, FG_SEAL_KEY) == 0) continue;
        fg_buf_printf(&x->loose, "%s%s", x->loose.len == 0 ? "" : ", ", key);
    }
    return x->loose.failed ? fg_fail_nomem(err, fg_model_file_path(f)) : FG_OK;
}

/* The keys to ask; NULL: there is a signature, or none, that nobody asked for. */
static fg_status choose_keys(request *q, finding *x, const char **keys, fg_err *err)
{
    FG_TRY(origin_keys(&q->trust, keys, err));
    if (*keys != NULL) return FG_OK;
    char *sig = fg_signature_path(q->path);
    if (sig == NULL) return fg_fail_nomem(err, q->path);
    if (fg_io_is_named(sig)) {
        q->trust.require = true; /* it is there to be checked, by whoever is pinned */
        if (origin_keys(&q->trust, keys, NULL) != FG_OK) {
            *keys = NULL;
            x->unchecked = "no key is pinned, and there is no --key";
        }
    }
    fg_mem_free(sig);
    return FG_OK;
}

static fg_status check(request *q, const fg_model_file *f, const fg_seal_pass *pass, finding *x,
                       fg_err *err)
{
    fg_seal *s = NULL;
    const char *keys;
    FG_TRY(choose_keys(q, x, &keys, err));
    if (keys == NULL) {
        FG_TRY(fg_seal_open(&s, f, err));
    } else {
        FG_TRY(fg_signature_require(&s, f, keys, &x->who, err));
        x->is_signed = true;
    }
    if (s == NULL) return fg_model_file_verify(f, pass->progress, pass->ctx, err);
    x->sealed = true;
    fg_status st = check_loose(f, x, err);
    if (st == FG_OK) st = fg_seal_check_data(s, pass, err);
    fg_seal_close(&s);
    return st;
}

/* A file that has the text is checked, not given another: that is for who knows why it differs. */
static fg_status add(const fg_model_file *f, const fg_seal_pass *pass, fg_err *err)
{
    const char *text;
    size_t n;
    FG_TRY(fg_model_file_meta(f, FG_SEAL_KEY, &text, &n, err));
    if (text != NULL) {
        return fg_fail(err, FG_EINVAL, "%s: has metadata %s, expected a file without",
                       fg_model_file_path(f), FG_SEAL_KEY);
    }
    return fg_reseal(f, pass, err);
}

static void print_text(const request *q, const fg_model_file *f, finding *x, double s)
{
    const double bytes = (double)fg_model_file_size(f);
    const char *loose = x->loose.len == 0 ? NULL : fg_buf_str(&x->loose);
    char print[FG_FINGERPRINT_CHARS];
    printf("%s: good, %s, %s tensors, %s/s\n", cli_shown(q->path), cli_bytes(bytes),
           cli_count(fg_model_file_n_tensor(f)), cli_bytes(bytes / s));
    if (x->is_signed) {
        fg_key_fingerprint(&x->who, print);
        printf("signed      by key %s\n", print);
        if (loose != NULL) printf("not signed  metadata %s\n", loose);
    } else if (x->unchecked != NULL) {
        printf("signature   not checked: %s\n", x->unchecked);
    }
}

static void print_json(const fg_model_file *f, finding *x, double s)
{
    char print[FG_FINGERPRINT_CHARS] = "";
    if (x->is_signed) fg_key_fingerprint(&x->who, print);
    printf("{\"ok\": true, \"bytes\": %.0f, \"tensors\": %" PRIu64 ", \"seconds\": %.3f, "
           "\"sha256\": %s, \"signed_by\": %s%s%s}\n",
           (double)fg_model_file_size(f), fg_model_file_n_tensor(f), s,
           x->sealed ? "true" : "false", x->is_signed ? "\"" : "null", print,
           x->is_signed ? "\"" : "");
}

static fg_status verify(request *q, fg_err *err)
{
    fg_model_file *f;
    finding x = {0};
    progress p;
    FG_TRY(fg_model_file_open(&f, q->path, err));
    progress_start(&p, "verify", "B");
    const fg_seal_pass pass = {.progress = progress_show, .ctx = &p};
    const fg_status st = q->add ? add(f, &pass, err) : check(q, f, &pass, &x, err);
    progress_end(&p);
    const double s = (double)(fg_clock_ns() - p.start_ns) * 1e-9;
    if (st == FG_OK && q->json) print_json(f, &x, s);
    if (st == FG_OK && !q->json) print_text(q, f, &x, s);
    fg_buf_fini(&x.loose);
    fg_model_file_close(&f);
    return st;
}

static int run(int argc, char **argv)
{
    request q = {0};
    const opt opts[] = {
        {"json", 0, OPT_FLAG, &q.json, 0, 0, NULL, "report as JSON on stdout"},
        {"add-sha256", 0, OPT_FLAG, &q.add, 0, 0, NULL, "add SHA-256 hashes, which can be signed"},
        SIGNED_OPTS(q.trust),
    };
    int status;
    if (!args_parse(&cmd_verify, opts, sizeof opts / sizeof opts[0], argc, argv, &q.path, 1,
                    &status)) {
        return status;
    }
    fg_err err = {0};
    cli_catch_interrupt();
    const fg_status st = verify(&q, &err);
    origin_free(&q.trust);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
