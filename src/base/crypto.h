/* SPDX-License-Identifier: MIT
 *
 * SHA-256 and Ed25519 of libcrypto, whose headers are included in crypto.c alone.  What guards
 * against damage only is in hash.h, which is ten times as fast.
 */
#ifndef FG_SRC_BASE_CRYPTO_H
#define FG_SRC_BASE_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FG_SHA256_BYTES = 32,
    FG_ED25519_KEY_BYTES = 32, /* of either key; the secret one is the seed */
    FG_ED25519_SIG_BYTES = 64,
};

/* False when libcrypto fails, which is for want of memory. */
bool fg_sha256(const void *data, size_t n, uint8_t *out);

/* The first n (<= 64) bytes of the SHA-512. */
bool fg_sha512_head(const void *data, size_t n_data, uint8_t *out, size_t n);

/* Streaming form.  After a failure the digest is false. */
typedef struct fg_sha fg_sha;
fg_sha *fg_sha_create(void);    /* NULL when out of memory */
void fg_sha_destroy(fg_sha *h); /* accepts NULL */
void fg_sha_reset(fg_sha *h);
void fg_sha_add(fg_sha *h, const void *data, size_t n);
void fg_sha_copy(fg_sha *to, const fg_sha *from);
/* Once between two resets. */
bool fg_sha_digest(fg_sha *h, uint8_t *out);

bool fg_ed25519_public(const uint8_t *seed, uint8_t *public_key);
bool fg_ed25519_sign(const uint8_t *seed, const void *data, size_t n, uint8_t *sig);
bool fg_ed25519_verify(const uint8_t *public_key, const void *data, size_t n, const uint8_t *sig);

/* Random bytes that nobody can guess. */
bool fg_random_bytes(void *out, size_t n);

/* Overwrites a secret. */
void fg_forget(void *p, size_t n);

/* 2 n lower-case digits and a NUL. */
void fg_hex(const uint8_t *bytes, size_t n, char *out);
/* n bytes from 2 n lower-case digits; false for any other character. */
bool fg_unhex(const char *text, size_t n, uint8_t *out);

/* RFC 4648, with padding; out: 4 ceil(n / 3) + 1 characters. */
void fg_base64(const uint8_t *bytes, size_t n, char *out);
/* Exactly n bytes from len characters; false for any other text. */
bool fg_unbase64(const char *text, size_t len, uint8_t *out, size_t n);

#endif
