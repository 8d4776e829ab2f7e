/* SPDX-License-Identifier: MIT
 *
 * Signatures of model files: Ed25519 of the file's SHA-256 text (seal.h), in the format of
 * OpenBSD's signify, so that signify can make and check them too (FORMAT.md 4.6).  The signature of
 * NAME is NAME.sig beside it.
 *
 * Which key is believed is never said by the file or by what lies beside it: a caller names a file
 * of keys, and how they came there is its affair.
 */
#ifndef FG_SRC_FORMAT_SIGNATURE_H
#define FG_SRC_FORMAT_SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/crypto.h"
#include "src/base/status.h"
#include "src/format/seal.h"

enum {
    FG_KEY_ID_BYTES = 8,
    FG_MAX_KEYS = 64,               /* of a file of them */
    FG_FINGERPRINT_CHARS = 64 + 16, /* with spaces, and the NUL */
};

typedef struct fg_public_key {
    uint8_t id[FG_KEY_ID_BYTES];
    uint8_t key[FG_ED25519_KEY_BYTES];
} fg_public_key;

typedef struct fg_secret_key {
    uint8_t id[FG_KEY_ID_BYTES];
    uint8_t seed[FG_ED25519_KEY_BYTES];
} fg_secret_key;

typedef struct fg_keys {
    fg_public_key key[FG_MAX_KEYS];
    size_t n;
} fg_keys;

/* Public keys of a text of n bytes, signify's files one after another: lines "untrusted comment:
 * ..." mean nothing, every other one is a key.  name: for messages.  FG_EFORMAT, FG_ELIMIT. */
fg_status fg_keys_parse(fg_keys *k, const char *text, size_t n, const char *name, fg_err *err);
/* The same of a file, which must have one at least. */
fg_status fg_keys_read(fg_keys *k, const char *path, fg_err *err);

/* SHA-256 of the public key in groups of four digits, for a person to compare. */
void fg_key_fingerprint(const fg_public_key *k, char *out);

/* A new pair.  FG_ENOMEM. */
fg_status fg_key_pair(fg_secret_key *secret, fg_public_key *key, fg_err *err);
/* signify's texts of the two, comment line included, appended. */
void fg_public_key_print(fg_buf *b, const fg_public_key *k);
fg_status fg_secret_key_print(fg_buf *b, const fg_secret_key *k, fg_err *err);
/* One that has no passphrase.  FG_EIO, FG_EFORMAT, FG_ENOTSUP (a passphrase: signify itself can
 * sign the text). */
fg_status fg_secret_key_read(fg_secret_key *k, const char *path, fg_err *err);

/* The text of a signature of the seal's bytes. */
fg_status fg_signature_make(fg_buf *b, const fg_secret_key *k, const fg_seal *s, const char *name,
                            fg_err *err);

/* All that can be said of a file before its weights are read: its own text agrees with it, and
 * NAME.sig is that text's, by a key of the file `keys_path`.  *seal is closed by fg_seal_close; who
 * is filled in.  Errors: those of the above; FG_EIO (no signature), FG_EFORMAT (no text). */
fg_status fg_signature_require(fg_seal **seal, const fg_model_file *f, const char *keys_path,
                               fg_public_key *who, fg_err *err);

/* path + ".sig"; NULL when out of memory; freed with fg_mem_free. */
char *fg_signature_path(const char *path);

#endif
