/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/origin.h"
#include "src/cli/state_dir.h"

static int show(int argc, char **argv);
static int create(int argc, char **argv);
static int pin(int argc, char **argv);

static const command cmd_key_pin = {
    .name = "key pin",
    .summary = "trust a public key from now on",
    .synopsis = "KEY_FILE FINGERPRINT",
    .example = "fulgur key pin ours.pub '3f2a 90c1 ...'",
    .description =
        "Adds a public key to those that `fulgur verify`, `fulgur run --require-signature` and "
        "`fulgur chat --require-signature` believe, in $XDG_CONFIG_HOME/fulgur/keys or "
        "~/.config/fulgur/keys. FINGERPRINT is typed from paper, or from wherever else the key's "
        "owner gave it: a file that came with the model says nothing about the model.",
    .run = pin,
};

static const command cmd_key_new = {
    .name = "key new",
    .summary = "make a pair of keys for signatures",
    .synopsis = "NAME",
    .example = "fulgur key new ours",
    .description =
        "Writes NAME.sec, which signs and is to be kept from others, and NAME.pub, and prints the "
        "fingerprint that those who get models are to be given on paper. The files are in the "
        "format of OpenBSD's signify; the secret key has no passphrase.",
    .sub = &cmd_key_pin,
    .run = create,
};

const command cmd_key = {
    .name = "key",
    .summary = "fingerprint of a public key; make and pin keys",
    .synopsis = "KEY_FILE",
    .example = "fulgur key ours.pub",
    .description =
        "Prints the fingerprint of each public key of a file, and whether it is pinned: SHA-256 of "
        "the key in groups of four digits, to compare with the one on paper.",
    .sub = &cmd_key_new,
    .run = show,
};

static int show(int argc, char **argv)
{
    const char *path;
    int status;
    if (!args_parse(&cmd_key, NULL, 0, argc, argv, &path, 1, &status)) return status;
    fg_err err = {0};
    fg_keys *keys = fg_mem_zalloc(sizeof *keys);
    const fg_status st = keys == NULL ? fg_fail_nomem(&err, path) : fg_keys_read(keys, path, &err);
    for (size_t i = 0; st == FG_OK && i < keys->n; i++) {
        char print[FG_FINGERPRINT_CHARS];
        fg_key_fingerprint(&keys->key[i], print);
        printf("%s%s\n", print, origin_is_pinned(&keys->key[i]) ? "  pinned" : "");
    }
    fg_mem_free(keys);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}

/* A new file; a secret one is its owner's alone from the start. */
static fg_status write_key(const char *name, const char *ending, const fg_buf *b, mode_t mode,
                           fg_err *err)
{
    fg_buf path = {0};
    fg_buf_printf(&path, "%s%s", name, ending);
    const char *p = fg_buf_str(&path);
    fg_status st = p == NULL ? fg_fail_nomem(err, name) : FG_OK;
    const int fd =
        st == FG_OK ? open(p, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode) : -1;
    if (st == FG_OK && fd < 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected a new file", p, strerror(errno));
    }
    if (st == FG_OK) st = fg_io_pwrite(fd, b->data, b->len, 0, p, err);
    if (st == FG_OK && fsync(fd) != 0) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to reach the disk", p, strerror(errno));
    }
    if (fd >= 0 && st != FG_OK) (void)unlink(p);
    if (fd >= 0) (void)close(fd);
    fg_buf_fini(&path);
    return st;
}

static int create(int argc, char **argv)
{
    const char *name;
    int status;
    if (!args_parse(&cmd_key_new, NULL, 0, argc, argv, &name, 1, &status)) return status;
    fg_err err = {0};
    fg_secret_key secret;
    fg_public_key key;
    fg_buf sec = {0}, pub = {0};
    char print[FG_FINGERPRINT_CHARS];
    fg_status st = fg_key_pair(&secret, &key, &err);
    if (st == FG_OK) st = fg_secret_key_print(&sec, &secret, &err);
    if (st == FG_OK) fg_public_key_print(&pub, &key);
    if (st == FG_OK && pub.failed) st = fg_fail_nomem(&err, name);
    if (st == FG_OK) st = write_key(name, ".sec", &sec, 0600, &err);
    if (st == FG_OK) st = write_key(name, ".pub", &pub, 0666, &err);
    fg_forget(&secret, sizeof secret);
    if (sec.data != NULL) fg_forget(sec.data, sec.len);
    fg_buf_fini(&sec);
    fg_buf_fini(&pub);
    if (st != FG_OK) return cli_fail(&err);
    fg_key_fingerprint(&key, print);
    cli_note("fulgur: %s.sec signs and is to be kept from others, %s.pub is to be given away; its "
             "fingerprint, for paper:\n",
             cli_shown(name), cli_shown(name));
    printf("%s\n", print);
    return cli_finish_stdout();
}

/* Digits alone: spaces and capitals are as people type. */
static void digits_of(const char *text, char *out, size_t size)
{
    size_t n = 0;
    for (; *text != '\0' && n + 1 < size; text++) {
        const char c = *text;
        if (c != ' ' && c != ':' && c != '-') out[n++] = (char)(c >= 'A' && c <= 'F' ? c + 32 : c);
    }
    out[n] = '\0';
}

/* All that were there and this one, in a file that takes the place of the old one. */
static fg_status add_pinned(const fg_public_key *k, fg_err *err)
{
    char *path = origin_pinned_path(err), *old = NULL;
    size_t n = 0;
    fg_buf b = {0};
    if (path == NULL) return FG_EIO;
    fg_status st = FG_OK;
    if (fg_io_exists(path)) st = fg_io_read_all(path, 1 << 16, &old, &n, err);
    if (st == FG_OK) {
        cli_make_folders(path);
        fg_buf_put(&b, old, n);
        if (n > 0 && old[n - 1] != '\n') fg_buf_u8(&b, '\n');
        fg_public_key_print(&b, k);
        st = b.failed ? fg_fail_nomem(err, path) : write_buf(&b, path, err);
    }
    fg_buf_fini(&b);
    fg_mem_free(old);
    fg_mem_free(path);
    return st;
}

static fg_status pin_one(const char *path, const char *typed, fg_err *err)
{
    char want[2 * FG_FINGERPRINT_CHARS], have[2 * FG_FINGERPRINT_CHARS],
        print[FG_FINGERPRINT_CHARS];
    fg_keys *keys = fg_mem_zalloc(sizeof *keys);
    fg_status st = keys == NULL ? fg_fail_nomem(err, path) : fg_keys_read(keys, path, err);
    if (st == FG_OK && keys->n != 1) {
        st = fg_fail(err, FG_EFORMAT, "%s: %zu keys, expected one", path, keys->n);
    }
    if (st == FG_OK) {
        fg_key_fingerprint(&keys->key[0], print);
        digits_of(print, have, sizeof have);
        digits_of(typed, want, sizeof want);
        if (strcmp(want, have) != 0) {
            st = fg_fail(err, FG_ECHECKSUM, "%s: key %s, expected %s as on paper", path, print,
                         typed);
        }
    }
    if (st == FG_OK && !origin_is_pinned(&keys->key[0])) st = add_pinned(&keys->key[0], err);
    fg_mem_free(keys);
    return st;
}

static int pin(int argc, char **argv)
{
    const char *operand[2];
    int status;
    if (!args_parse(&cmd_key_pin, NULL, 0, argc, argv, operand, 2, &status)) return status;
    fg_err err = {0};
    if (pin_one(operand[0], operand[1], &err) != FG_OK) return cli_fail(&err);
    return EXIT_OK;
}
