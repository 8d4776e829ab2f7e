/* SPDX-License-Identifier: MIT
 *
 * The pattern of a tokenizer and a text: pieces cover the text, and it ends whatever the pattern.
 * Input: 1 byte of flags, the pattern, a NUL, the text.
 */
#include <string.h>

#include "src/base/utf8.h"
#include "src/text/pretoken.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(regex, 1200)

enum { LITERAL = 1, MATCHES = 2, NFC = 4, MAX_TEXT = 4096 };

static void seed_pattern(char flags, const char *pattern)
{
    static const char text[] =
        "aaaaaaaaaaaab 12 \xc3\xa9\xcc\x81 \xe1\x84\x80\xe1\x85\xa1\n  it's 1234";
    char seed[512];
    const size_t n = strlen(pattern);
    seed[0] = flags;
    memcpy(seed + 1, pattern, n + 1);
    memcpy(seed + n + 2, text, sizeof text);
    fuzz_seed(seed, n + 1 + sizeof text);
}

static void seeds(void)
{
    seed_pattern(
        NFC, "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
             "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+");
    seed_pattern(0, "(?:a+)+[\\p{N}]"); /* these have no end */
    seed_pattern(0, "(?:a|aa)+\\p{Lu}|a*a*a*a*b");
    seed_pattern(MATCHES, "(?<=a)b|(?>a+)b|\\x{e9}{1,3}");
    seed_pattern(LITERAL, "aa");
}

static fg_status emit(void *ctx, const uint8_t *word, size_t n, fg_err *err)
{
    (void)err;
    FUZZ_CHECK(n > 0 && fg_utf8_valid(word, n) == n);
    *(size_t *)ctx += n;
    return FG_OK;
}

static void split(fg_pretok *p, bool covers, const uint8_t *text, size_t n)
{
    static fg_pretok_state *s;
    fg_buf scratch = {0};
    fg_err err = {0};
    size_t got = 0;
    if (s == NULL && fg_pretok_state_create(&s, &err) != FG_OK) return;
    FUZZ_CHECK(fg_pretok_normalize(p, text, n, &scratch, &text, &n, &err) == FG_OK);
    const fg_status st = fg_pretok_run(p, s, text, n, emit, &got, &err);
    fuzz_check_status(st, &err);
    FUZZ_CHECK(st != FG_OK || !covers || got == n + (fuzz_planted ? 1 : 0));
    fg_buf_fini(&scratch);
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_pretok *p;
    const uint64_t flags = fuzz_take(&d, &n, 1);
    const uint8_t *nul = n == 0 ? NULL : memchr(d, 0, n);
    const size_t n_pattern = nul == NULL ? n : (size_t)(nul - d);
    const fg_cut kind = (flags & MATCHES) != 0 ? FG_CUT_MATCHES : FG_CUT_ISOLATED;
    if (fg_pretok_create(&p, (flags & NFC) != 0, &err) != FG_OK) return;
    const fg_status st =
        fg_pretok_add(p, (const char *)d, n_pattern, (flags & LITERAL) != 0, kind, "r", &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK && nul != NULL) {
        fg_buf text = {0};
        size_t left = n - n_pattern - 1;
        fg_utf8_repair(&text, nul + 1, left < MAX_TEXT ? left : MAX_TEXT);
        if (text.len > 0) split(p, kind == FG_CUT_ISOLATED, text.data, text.len);
        fg_buf_fini(&text);
    }
    fg_pretok_destroy(&p);
}
