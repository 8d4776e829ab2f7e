/* SPDX-License-Identifier: MIT
 *
 * signify's files are two lines: a comment that nobody vouches for, and base64 of
 *
 *   public key   "Ed", id[8], key[32]
 *   secret key   "Ed", "BK", u32 rounds of the passphrase (0: none), salt[16], first 8 bytes of the
 *                SHA-512 of what follows the id, id[8], seed[32], key[32]
 *   signature    "Ed", id[8], signature[64]
 */
#include "src/format/signature.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/mem.h"

typedef unsigned long long ull; /* for %llu */

enum {
    PUBLIC_BYTES = 2 + 8 + 32,
    SECRET_BYTES = 2 + 2 + 4 + 16 + 8 + 8 + 64,
    SIG_BYTES = 2 + 8 + 64,
    MAX_KEY_FILE = 1 << 16,
    ID_CHARS = 2 * FG_KEY_ID_BYTES + 1,
};

#define COMMENT "untrusted comment: "

/* --- lines --- */

/* The next line of the text that is no comment and not empty; false at the end. */
static bool next_line(const char **text, size_t *left, const char **line, size_t *n)
{
    while (*left > 0) {
        const char *p = *text, *end = memchr(p, '\n', *left);
        const size_t len = end == NULL ? *left : (size_t)(end - p);
        *text += len + (end != NULL);
        *left -= len + (end != NULL);
        *line = p;
        *n = len > 0 && p[len - 1] == '\r' ? len - 1 : len;
        if (*n > 0 && (*n < sizeof COMMENT - 1 || memcmp(p, COMMENT, sizeof COMMENT - 1) != 0))
            return true;
    }
    return false;
}

/* One value of n bytes, which begins with "Ed". */
static bool read_value(const char *text, size_t n_text, uint8_t *out, size_t n)
{
    const char *line, *more;
    size_t len, rest;
    if (!next_line(&text, &n_text, &line, &len) || next_line(&text, &n_text, &more, &rest))
        return false;
    return fg_unbase64(line, len, out, n) && memcmp(out, "Ed", 2) == 0;
}

static void put_value(fg_buf *b, const uint8_t *bytes, size_t n)
{
    char text[4 * ((SECRET_BYTES + 2) / 3) + 1];
    fg_base64(bytes, n, text);
    fg_buf_put_str(b, text);
    fg_buf_u8(b, '\n');
    fg_forget(text, sizeof text);
}

/* --- public keys --- */

fg_status fg_keys_parse(fg_keys *k, const char *text, size_t n, const char *name, fg_err *err)
{
    const char *line;
    size_t len;
    k->n = 0;
    while (next_line(&text, &n, &line, &len)) {
        uint8_t b[PUBLIC_BYTES];
        if (!fg_unbase64(line, len, b, sizeof b) || memcmp(b, "Ed", 2) != 0) {
            return fg_fail(err, FG_EFORMAT,
                           "%s: a line of %zu bytes that is no public key, expected one of signify",
                           name, len);
        }
        if (k->n == FG_MAX_KEYS) {
            return fg_fail(err, FG_ELIMIT, "%s: more than %d keys, expected fewer", name,
                           FG_MAX_KEYS);
        }
        memcpy(k->key[k->n].id, b + 2, FG_KEY_ID_BYTES);
        memcpy(k->key[k->n].key, b + 2 + FG_KEY_ID_BYTES, FG_ED25519_KEY_BYTES);
        k->n++;
    }
    return FG_OK;
}

fg_status fg_keys_read(fg_keys *k, const char *path, fg_err *err)
{
    char *text;
    size_t n;
    k->n = 0;
    FG_TRY(fg_io_read_all(path, MAX_KEY_FILE, &text, &n, err));
    const fg_status st = fg_keys_parse(k, text, n, path, err);
    fg_mem_free(text);
    FG_TRY(st);
    return k->n > 0 ? FG_OK : fg_fail(err, FG_EFORMAT, "%s: no key, expected a public one", path);
}

void fg_key_fingerprint(const fg_public_key *k, char *out)
{
    uint8_t sha[FG_SHA256_BYTES] = {0};
    char hex[2 * FG_SHA256_BYTES + 1];
    (void)fg_sha256(k->key, sizeof k->key, sha);
    fg_hex(sha, sizeof sha, hex);
    for (size_t i = 0; i < 2 * FG_SHA256_BYTES; i++) {
        *out++ = hex[i];
        if (i % 4 == 3) *out++ = ' ';
    }
    out[-1] = '\0';
}

void fg_public_key_print(fg_buf *b, const fg_public_key *k)
{
    uint8_t v[PUBLIC_BYTES] = "Ed";
    memcpy(v + 2, k->id, FG_KEY_ID_BYTES);
    memcpy(v + 2 + FG_KEY_ID_BYTES, k->key, FG_ED25519_KEY_BYTES);
    fg_buf_put_str(b, COMMENT "fulgur public key\n");
    put_value(b, v, sizeof v);
}

/* --- secret keys --- */

fg_status fg_key_pair(fg_secret_key *secret, fg_public_key *key, fg_err *err)
{
    if (!fg_random_bytes(secret->id, sizeof secret->id) ||
        !fg_random_bytes(secret->seed, sizeof secret->seed) ||
        !fg_ed25519_public(secret->seed, key->key)) {
        return fg_fail(err, FG_ENOMEM, "key: no random bytes or memory, expected both");
    }
    memcpy(key->id, secret->id, sizeof key->id);
    return FG_OK;
}

fg_status fg_secret_key_print(fg_buf *b, const fg_secret_key *k, fg_err *err)
{
    uint8_t v[SECRET_BYTES] = "EdBK"; /* no rounds, no salt */
    uint8_t *sum = v + 24, *id = sum + 8, *seed = id + 8;
    memcpy(id, k->id, FG_KEY_ID_BYTES);
    memcpy(seed, k->seed, FG_ED25519_KEY_BYTES);
    const bool ok =
        fg_ed25519_public(k->seed, seed + FG_ED25519_KEY_BYTES) && fg_sha512_head(seed, 64, sum, 8);
    if (ok) {
        fg_buf_put_str(b, COMMENT "fulgur secret key\n");
        put_value(b, v, sizeof v);
    }
    fg_forget(v, sizeof v);
    return ok && !b->failed ? FG_OK : fg_fail_nomem(err, "key");
}

fg_status fg_secret_key_read(fg_secret_key *k, const char *path, fg_err *err)
{
    char *text;
    size_t n;
    uint8_t v[SECRET_BYTES], sum[8];
    FG_TRY(fg_io_read_all(path, MAX_KEY_FILE, &text, &n, err));
    bool good = read_value(text, n, v, sizeof v) && memcmp(v + 2, "BK", 2) == 0;
    fg_forget(text, n);
    fg_mem_free(text);
    fg_status st = FG_OK;
    if (good && memcmp(v + 4, "\0\0\0", 4) != 0) {
        st = fg_fail(err, FG_ENOTSUP,
                     "%s: a key with a passphrase, expected one without; signify can sign what "
                     "fulgur info --meta sha256 prints",
                     path);
    } else {
        good = good && fg_sha512_head(v + 40, 64, sum, sizeof sum) && memcmp(sum, v + 24, 8) == 0;
        if (!good) st = fg_fail(err, FG_EFORMAT, "%s: expected a secret key of signify", path);
    }
    memcpy(k->id, v + 32, FG_KEY_ID_BYTES);
    memcpy(k->seed, v + 40, FG_ED25519_KEY_BYTES);
    fg_forget(v, sizeof v);
    return st;
}

/* --- signatures --- */

fg_status fg_signature_make(fg_buf *b, const fg_secret_key *k, const fg_seal *s, const char *name,
                            fg_err *err)
{
    uint8_t v[SIG_BYTES] = "Ed";
    size_t n;
    const char *text = fg_seal_text(s, &n), *slash = strrchr(name, '/');
    memcpy(v + 2, k->id, FG_KEY_ID_BYTES);
    if (!fg_ed25519_sign(k->seed, text, n, v + 2 + FG_KEY_ID_BYTES))
        return fg_fail_nomem(err, name);
    fg_buf_printf(b, COMMENT "generation %llu, of ", (ull)fg_seal_generation(s));
    for (const char *p = slash == NULL ? name : slash + 1; *p != '\0'; p++)
        fg_buf_u8(b, (uint8_t)(*p < ' ' ? '?' : *p));
    fg_buf_u8(b, '\n');
    put_value(b, v, sizeof v);
    return b->failed ? fg_fail_nomem(err, name) : FG_OK;
}

/* The generation that the comment speaks of, 0: of none.  Nobody vouches for it: it says in a
 * message what to look for. */
static uint64_t comment_generation(const char *text, size_t n)
{
    static const char head[] = COMMENT "generation ";
    uint64_t g = 0;
    if (n < sizeof head || memcmp(text, head, sizeof head - 1) != 0) return 0;
    for (const char *p = text + sizeof head - 1; p < text + n && *p >= '0' && *p <= '9'; p++) {
        if (g > UINT64_MAX / 10 - 1) return 0;
        g = 10 * g + (uint64_t)(*p - '0');
    }
    return g;
}

static fg_status fail_text(const fg_seal *s, const char *text, size_t n, const char *name,
                           fg_err *err)
{
    const uint64_t mine = fg_seal_generation(s), g = comment_generation(text, n);
    if (g != 0 && g != mine) {
        return fg_fail(err, FG_ECHECKSUM,
                       "%s: made for generation %llu, expected that of the file, %llu: an %s "
                       "generation is in force",
                       name, (ull)g, (ull)mine, g > mine ? "older" : "another");
    }
    return fg_fail(err, FG_ECHECKSUM,
                   "%s: not of this file, expected a signature of its SHA-256 text: the file was "
                   "changed, or it is another's",
                   name);
}

/* Whether the text is a signature of the seal's bytes by one of the keys, and by which (borrowed).
 * name, keys_name: for messages.  FG_EFORMAT; FG_ECHECKSUM: by another key, or of another text. */
static fg_status check(const fg_seal *s, const char *text, size_t n, const char *name,
                       const fg_keys *keys, const char *keys_name, const fg_public_key **who,
                       fg_err *err)
{
    uint8_t v[SIG_BYTES];
    char id[ID_CHARS];
    size_t n_text;
    const char *signed_text = fg_seal_text(s, &n_text);
    bool known = false;
    *who = NULL;
    if (!read_value(text, n, v, sizeof v))
        return fg_fail(err, FG_EFORMAT, "%s: expected a signature of signify", name);
    for (size_t i = 0; i < keys->n; i++) {
        if (memcmp(keys->key[i].id, v + 2, FG_KEY_ID_BYTES) != 0) continue;
        known = true;
        if (!fg_ed25519_verify(keys->key[i].key, signed_text, n_text, v + 2 + FG_KEY_ID_BYTES))
            continue;
        *who = &keys->key[i];
        return FG_OK;
    }
    if (known) return fail_text(s, text, n, name, err);
    fg_hex(v + 2, FG_KEY_ID_BYTES, id);
    return fg_fail(err, FG_ECHECKSUM, "%s: by a foreign key, number %s, expected one of %s", name,
                   id, keys_name);
}

char *fg_signature_path(const char *path)
{
    const size_t n = strlen(path);
    char *p = fg_mem_alloc(n + sizeof ".sig");
    if (p == NULL) return NULL;
    memcpy(p, path, n);
    memcpy(p + n, ".sig", sizeof ".sig");
    return p;
}

/* What is at the path, compared with the seal. */
static fg_status check_file(const fg_seal *s, const char *path, const char *keys_path,
                            fg_public_key *who, fg_err *err)
{
    char *text = NULL;
    size_t n = 0;
    const fg_public_key *found;
    fg_keys *keys = fg_mem_zalloc(sizeof *keys);
    fg_status st = keys == NULL ? fg_fail_nomem(err, path) : fg_keys_read(keys, keys_path, err);
    if (st == FG_OK && !fg_io_is_named(path)) {
        st = fg_fail(err, FG_EIO, "%s: no such file, expected the signature of the model", path);
    }
    if (st == FG_OK) st = fg_io_read_all(path, MAX_KEY_FILE, &text, &n, err);
    if (st == FG_OK) st = check(s, text, n, path, keys, keys_path, &found, err);
    if (st == FG_OK) *who = *found;
    fg_mem_free(text);
    fg_mem_free(keys);
    return st;
}

fg_status fg_signature_require(fg_seal **seal, const fg_model_file *f, const char *keys_path,
                               fg_public_key *who, fg_err *err)
{
    const char *name = fg_model_file_path(f);
    *seal = NULL;
    FG_TRY(fg_seal_open(seal, f, err));
    if (*seal == NULL) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: no metadata %s, expected it, which a signature is of; fulgur verify "
                       "--add-sha256 adds it",
                       name, FG_SEAL_KEY);
    }
    char *path = fg_signature_path(name);
    const fg_status st =
        path == NULL ? fg_fail_nomem(err, name) : check_file(*seal, path, keys_path, who, err);
    fg_mem_free(path);
    if (st != FG_OK) fg_seal_close(seal);
    return st;
}
