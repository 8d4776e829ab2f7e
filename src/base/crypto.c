/* SPDX-License-Identifier: MIT */
#include "src/base/crypto.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/random.h>

#include "src/base/mem.h"

struct fg_sha {
    EVP_MD_CTX *ctx;
    bool bad;
};

/* Without the system's configuration of OpenSSL: what a hash is depends on no file. */
static void begin(void)
{
    (void)OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
}

/* --- hashes --- */

bool fg_sha256(const void *data, size_t n, uint8_t *out)
{
    begin();
    return SHA256(data, n, out) != NULL;
}

bool fg_sha512_head(const void *data, size_t n_data, uint8_t *out, size_t n)
{
    uint8_t all[64];
    begin();
    if (SHA512(data, n_data, all) == NULL) return false;
    memcpy(out, all, n);
    fg_forget(all, sizeof all);
    return true;
}

fg_sha *fg_sha_create(void)
{
    fg_sha *h = fg_mem_zalloc(sizeof *h);
    begin();
    if (h == NULL) return NULL;
    h->ctx = EVP_MD_CTX_new();
    if (h->ctx == NULL) {
        fg_mem_free(h);
        return NULL;
    }
    fg_sha_reset(h);
    return h;
}

void fg_sha_destroy(fg_sha *h)
{
    if (h == NULL) return;
    EVP_MD_CTX_free(h->ctx);
    fg_mem_free(h);
}

void fg_sha_reset(fg_sha *h)
{
    h->bad = EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1;
}

void fg_sha_add(fg_sha *h, const void *data, size_t n)
{
    if (!h->bad) h->bad = EVP_DigestUpdate(h->ctx, data, n) != 1;
}

void fg_sha_copy(fg_sha *to, const fg_sha *from)
{
    to->bad = from->bad || EVP_MD_CTX_copy_ex(to->ctx, from->ctx) != 1;
}

bool fg_sha_digest(fg_sha *h, uint8_t *out)
{
    if (!h->bad) h->bad = EVP_DigestFinal_ex(h->ctx, out, NULL) != 1;
    return !h->bad;
}

/* --- signatures --- */

bool fg_ed25519_public(const uint8_t *seed, uint8_t *public_key)
{
    size_t n = FG_ED25519_KEY_BYTES;
    begin();
    EVP_PKEY *k = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, n);
    const bool ok = k != NULL && EVP_PKEY_get_raw_public_key(k, public_key, &n) == 1;
    EVP_PKEY_free(k);
    return ok;
}

bool fg_ed25519_sign(const uint8_t *seed, const void *data, size_t n, uint8_t *sig)
{
    size_t len = FG_ED25519_SIG_BYTES;
    begin();
    EVP_PKEY *k = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, FG_ED25519_KEY_BYTES);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    const bool ok = k != NULL && c != NULL && EVP_DigestSignInit(c, NULL, NULL, NULL, k) == 1 &&
                    EVP_DigestSign(c, sig, &len, data, n) == 1;
    EVP_MD_CTX_free(c);
    EVP_PKEY_free(k);
    return ok;
}

bool fg_ed25519_verify(const uint8_t *public_key, const void *data, size_t n, const uint8_t *sig)
{
    begin();
    EVP_PKEY *k =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, FG_ED25519_KEY_BYTES);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    const bool ok = k != NULL && c != NULL && EVP_DigestVerifyInit(c, NULL, NULL, NULL, k) == 1 &&
                    EVP_DigestVerify(c, sig, FG_ED25519_SIG_BYTES, data, n) == 1;
    EVP_MD_CTX_free(c);
    EVP_PKEY_free(k);
    return ok;
}

bool fg_random_bytes(void *out, size_t n)
{
    return getrandom(out, n, 0) == (ssize_t)n; /* never cut short up to 256 bytes */
}

void fg_forget(void *p, size_t n)
{
    OPENSSL_cleanse(p, n);
}

/* --- texts --- */

void fg_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digit[bytes[i] >> 4];
        out[2 * i + 1] = digit[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool fg_unhex(const char *text, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        const int a = digit_of(text[2 * i]), b = a < 0 ? -1 : digit_of(text[2 * i + 1]);
        if (b < 0) return false;
        out[i] = (uint8_t)(a << 4 | b);
    }
    return true;
}

static const char base64_digit[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void fg_base64(const uint8_t *bytes, size_t n, char *out)
{
    for (size_t i = 0; i < n; i += 3) {
        const size_t left = n - i;
        const uint32_t v = (uint32_t)bytes[i] << 16 | (uint32_t)(left > 1 ? bytes[i + 1] : 0) << 8 |
                           (uint32_t)(left > 2 ? bytes[i + 2] : 0);
        *out++ = base64_digit[v >> 18];
        *out++ = base64_digit[v >> 12 & 63];
        *out++ = left > 1 ? base64_digit[v >> 6 & 63] : '=';
        *out++ = left > 2 ? base64_digit[v & 63] : '=';
    }
    *out = '\0';
}

/* One text for each value: what is decoded must be encoded as it was. */
bool fg_unbase64(const char *text, size_t len, uint8_t *out, size_t n)
{
    if (len != (n + 2) / 3 * 4) return false;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = 0;
        char again[5];
        for (size_t k = 0; k < 4; k++) {
            const char c = text[i / 3 * 4 + k];
            const char *at = c == '\0' ? NULL : strchr(base64_digit, c);
            v = v << 6 | (uint32_t)(at == NULL ? 0 : at - base64_digit);
        }
        const size_t m = n - i < 3 ? n - i : 3;
        for (size_t k = 0; k < m; k++) out[i + k] = (uint8_t)(v >> (16 - 8 * k));
        fg_base64(out + i, m, again);
        if (memcmp(again, text + i / 3 * 4, 4) != 0) return false;
    }
    return true;
}
