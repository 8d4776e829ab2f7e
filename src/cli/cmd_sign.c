/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/format/signature.h"

static int run(int argc, char **argv);

const command cmd_sign = {
    .name = "sign",
    .summary = "sign a model file, for those who get it",
    .synopsis = "MODEL --key SECRET_KEY",
    .example = "fulgur key new ours\n"
               "fulgur sign m1.fulgur --key ours.sec",
    .description =
        "Reads the whole model, compares it with its hashes, and writes MODEL.sig: an Ed25519 "
        "signature, in the format of OpenBSD's signify, of the text that `fulgur info MODEL --meta "
        "sha256` prints. It stands for shape, tensors, every chunk of the weights, and all "
        "metadata "
        "but quality and heat, which are measured later and may be anybody's. A model of an older "
        "converter gets the text first, by `fulgur verify MODEL --add-sha256`.\n"
        "A key with a passphrase is signify's to use: let it sign the text with `-x MODEL.sig`.",
    .run = run,
};

static fg_status sign(const char *path, const fg_secret_key *k, const char *out, fg_err *err)
{
    fg_model_file *f;
    fg_seal *s = NULL;
    fg_buf b = {0};
    progress p;
    FG_TRY(fg_model_file_open(&f, path, err));
    progress_start(&p, "sign", "B");
    const fg_seal_pass pass = {.progress = progress_show, .ctx = &p};
    fg_status st = fg_seal_open(&s, f, err);
    if (st == FG_OK && s == NULL) {
        st = fg_fail(err, FG_EFORMAT,
                     "%s: no metadata sha256, expected it; fulgur verify --add-sha256 adds it",
                     path);
    }
    if (st == FG_OK) st = fg_seal_check_data(s, &pass, err);
    progress_end(&p);
    if (st == FG_OK) st = fg_signature_make(&b, k, s, path, err);
    if (st == FG_OK) st = write_buf(&b, out, err);
    fg_buf_fini(&b);
    fg_seal_close(&s);
    fg_model_file_close(&f);
    return st;
}

static int run(int argc, char **argv)
{
    const char *path, *key = NULL;
    const opt opts[] = {
        {"key", 0, OPT_STR, &key, 0, 0, "FILE", "the secret key, from fulgur key new or signify"}};
    int status;
    if (!args_parse(&cmd_sign, opts, 1, argc, argv, &path, 1, &status)) return status;
    if (key == NULL) return args_usage(&cmd_sign, "no --key, expected a secret key");
    fg_err err = {0};
    fg_secret_key k;
    cli_catch_interrupt();
    char *out = fg_signature_path(path);
    fg_status st = out == NULL ? fg_fail_nomem(&err, path) : fg_secret_key_read(&k, key, &err);
    if (st == FG_OK) st = sign(path, &k, out, &err);
    fg_forget(&k, sizeof k);
    if (st == FG_OK) printf("%s: written\n", cli_shown(out));
    status = st == FG_OK ? cli_finish_made("sign", out) : cli_fail(&err);
    fg_mem_free(out);
    return status;
}
