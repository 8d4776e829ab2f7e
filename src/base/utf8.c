/* SPDX-License-Identifier: MIT */
#include "src/base/utf8.h"

#include <stdio.h>
#include <string.h>

size_t fg_utf8_next(const uint8_t *p, size_t n, uint32_t *cp)
{
    const uint8_t c = p[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    /* The second byte's range excludes overlong forms, surrogates and values above 0x10ffff. */
    uint32_t len, v;
    uint8_t lo = 0x80, hi = 0xbf;
    if (c >= 0xc2 && c <= 0xdf) {
        len = 2;
        v = c & 0x1fu;
    } else if (c >= 0xe0 && c <= 0xef) {
        len = 3;
        v = c & 0x0fu;
        if (c == 0xe0) lo = 0xa0;
        if (c == 0xed) hi = 0x9f;
    } else if (c >= 0xf0 && c <= 0xf4) {
        len = 4;
        v = c & 0x07u;
        if (c == 0xf0) lo = 0x90;
        if (c == 0xf4) hi = 0x8f;
    } else {
        *cp = FG_UTF8_BAD;
        return 1;
    }
    for (uint32_t i = 1; i < len; i++) {
        if (i == n) {
            *cp = FG_UTF8_CUT;
            return i;
        }
        if (p[i] < lo || p[i] > hi) {
            *cp = FG_UTF8_BAD;
            return i;
        }
        v = (v << 6) | (p[i] & 0x3fu);
        lo = 0x80;
        hi = 0xbf;
    }
    *cp = v;
    return len;
}

void fg_utf8_put(fg_buf *b, uint32_t cp)
{
    uint8_t u[4];
    size_t n = 0;
    if (cp < 0x80) {
        u[n++] = (uint8_t)cp;
    } else if (cp < 0x800) {
        u[n++] = (uint8_t)(0xc0u | (cp >> 6));
        u[n++] = (uint8_t)(0x80u | (cp & 0x3fu));
    } else if (cp < 0x10000) {
        u[n++] = (uint8_t)(0xe0u | (cp >> 12));
        u[n++] = (uint8_t)(0x80u | ((cp >> 6) & 0x3fu));
        u[n++] = (uint8_t)(0x80u | (cp & 0x3fu));
    } else {
        u[n++] = (uint8_t)(0xf0u | (cp >> 18));
        u[n++] = (uint8_t)(0x80u | ((cp >> 12) & 0x3fu));
        u[n++] = (uint8_t)(0x80u | ((cp >> 6) & 0x3fu));
        u[n++] = (uint8_t)(0x80u | (cp & 0x3fu));
    }
    fg_buf_put(b, u, n);
}

size_t fg_utf8_valid(const uint8_t *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        if (n - i >= sizeof word) {
            memcpy(&word, p + i, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                i += sizeof word;
                continue;
            }
        }
        uint32_t cp;
        const size_t len = fg_utf8_next(p + i, n - i, &cp);
        if (cp >= FG_UTF8_CUT) return i;
        i += len;
    }
    return n;
}

void fg_utf8_repair(fg_buf *b, const uint8_t *p, size_t n)
{
    while (n > 0) {
        const size_t good = fg_utf8_valid(p, n);
        fg_buf_put(b, p, good);
        p += good;
        n -= good;
        if (n == 0) break;
        uint32_t cp;
        const size_t bad = fg_utf8_next(p, n, &cp);
        fg_utf8_put(b, FG_UTF8_REPLACEMENT);
        p += bad;
        n -= bad;
    }
}

bool fg_utf8_is_control(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7f && cp <= 0x9f) || cp == 0x61c || cp == 0x200e || cp == 0x200f ||
           (cp >= 0x2028 && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069);
}

void fg_utf8_clean(char *s)
{
    const uint8_t *p = (const uint8_t *)s;
    size_t left = strlen(s);
    while (left > 0) { /* what is written is never longer than what was read */
        uint32_t cp;
        const size_t n = fg_utf8_next(p, left, &cp);
        if (cp >= FG_UTF8_CUT || fg_utf8_is_control(cp)) {
            *s++ = '?';
        } else {
            memmove(s, p, n);
            s += n;
        }
        p += n;
        left -= n;
    }
    *s = '\0';
}

void fg_utf8_put_shown(fg_buf *b, const uint8_t *p, size_t n)
{
    size_t plain = 0; /* bytes before p that are to be copied */
    while (n > 0) {
        uint32_t cp;
        const size_t len = fg_utf8_next(p, n, &cp);
        const bool bad = cp >= FG_UTF8_CUT;
        p += len;
        n -= len;
        if (!bad && (cp == '\n' || cp == '\t' || !fg_utf8_is_control(cp))) {
            plain += len;
            continue;
        }
        fg_buf_put(b, p - len - plain, plain);
        plain = 0;
        if (bad) {
            fg_utf8_put(b, FG_UTF8_REPLACEMENT);
        } else {
            fg_buf_printf(b, cp < 0x100 ? "\\x%02x" : "\\u%04x", (unsigned)cp);
        }
    }
    fg_buf_put(b, p - plain, plain);
}

static const char *by_order_mark(const uint8_t *p, size_t n)
{
    if (n >= 4 && (memcmp(p, "\xff\xfe\0\0", 4) == 0 || memcmp(p, "\0\0\xfe\xff", 4) == 0)) {
        return "UTF-32";
    }
    if (n >= 2 && (memcmp(p, "\xff\xfe", 2) == 0 || memcmp(p, "\xfe\xff", 2) == 0)) {
        return "UTF-16";
    }
    return NULL;
}

void fg_utf8_judge(const uint8_t *p, size_t n, fg_utf8_flaws *out)
{
    *out = (fg_utf8_flaws){.n_byte = n, .first = n, .really = by_order_mark(p, n)};
    const uint8_t *nul = n == 0 ? NULL : memchr(p, 0, n);
    if (nul != NULL) out->first = (uint64_t)(nul - p);
    for (; nul != NULL; nul = memchr(nul + 1, 0, n - (size_t)(nul + 1 - p))) out->n_nul++;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += fg_utf8_valid(p + i, n - i);
        if (i == n) break;
        const size_t bad = fg_utf8_next(p + i, n - i, &cp);
        if (out->n_bad == 0 && i < out->first) out->first = i;
        out->n_bad += bad;
        i += bad;
    }
    /* of UTF-16 without a mark, half of what is English */
    if (out->really == NULL && out->n_nul > n / 10) out->really = "UTF-16 or no text at all";
}

bool fg_utf8_is_other(const fg_utf8_flaws *f)
{
    return f->really != NULL || f->n_bad + f->n_nul > f->n_byte / 100;
}

bool fg_utf8_describe(const fg_utf8_flaws *f, char *text, size_t size)
{
    if (f->n_bad == 0 && f->n_nul == 0 && f->really == NULL) return false;
    char nul[64] = "";
    if (f->n_nul > 0) {
        (void)snprintf(nul, sizeof nul, " and %llu zero bytes", (unsigned long long)f->n_nul);
    }
    (void)snprintf(text, size,
                   "%s%s%llu of %llu bytes that are not valid UTF-8%s, from byte %llu on",
                   f->really == NULL ? "" : f->really, f->really == NULL ? "" : ", with ",
                   (unsigned long long)f->n_bad, (unsigned long long)f->n_byte, nul,
                   (unsigned long long)f->first);
    return true;
}

void fg_utf8_file_name(const char *path, char *out, size_t n)
{
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
    if (strcmp(path, "-") == 0) name = "(stdin)";
    const uint8_t *p = (const uint8_t *)name;
    size_t left = strlen(name), len = 0;
    while (left > 0) {
        uint32_t cp;
        const size_t m = fg_utf8_next(p, left, &cp);
        const bool good = cp < FG_UTF8_CUT && !fg_utf8_is_control(cp);
        if (len + (good ? m : 1) >= n) break;
        memcpy(out + len, good ? (const char *)p : "?", good ? m : 1);
        len += good ? m : 1;
        p += m;
        left -= m;
    }
    out[len] = '\0';
}
