/* SPDX-License-Identifier: MIT
 *
 * Keys and signatures as texts of others.  Input: a byte that says which, the text.
 */
#include <string.h>

#include "src/format/signature.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(signature, 3000)

static void seeds(void)
{
    static const uint8_t seed_of[FG_ED25519_KEY_BYTES] = {1, 2, 3};
    fg_public_key k = {.id = {9, 8, 7}};
    fg_buf b = {0};
    (void)fg_ed25519_public(seed_of, k.key);
    fg_buf_u8(&b, 0);
    fg_public_key_print(&b, &k);
    fuzz_seed(b.data, b.len);
    fg_public_key_print(&b, &k);
    fuzz_seed(b.data, b.len);
    b.len = 0;
    fg_secret_key s = {.id = {9, 8, 7}, .seed = {1, 2, 3}};
    fg_buf_u8(&b, 1);
    (void)fg_secret_key_print(&b, &s, NULL);
    fuzz_seed(b.data, b.len);
    fg_buf_fini(&b);
}

/* Keys that are read are printed as they were. */
static void one_public(const uint8_t *d, size_t n)
{
    static fg_keys k, again;
    fg_err err = {0};
    fg_buf b = {0};
    const fg_status st = fg_keys_parse(&k, (const char *)d, n, "keys", &err);
    fuzz_check_status(st, &err);
    if (st != FG_OK) return;
    for (size_t i = 0; i < k.n; i++) fg_public_key_print(&b, &k.key[i]);
    FUZZ_CHECK(fg_keys_parse(&again, (const char *)b.data, b.len, "keys", &err) == FG_OK);
    if (fuzz_planted && again.n > 0) again.key[0].id[0] ^= 1;
    FUZZ_CHECK(again.n == k.n && memcmp(again.key, k.key, k.n * sizeof k.key[0]) == 0);
    fg_buf_fini(&b);
}

static void one_secret(const uint8_t *d, size_t n)
{
    fg_secret_key k;
    fg_err err = {0};
    const fg_status st = fg_secret_key_read(&k, fuzz_put("key", d, n), &err);
    fuzz_check_status(st, &err);
}

static void one(const uint8_t *d, size_t n)
{
    if (n == 0) return;
    if (d[0] % 2 == 0) {
        one_public(d + 1, n - 1);
    } else {
        one_secret(d + 1, n - 1);
    }
}
