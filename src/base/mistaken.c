/* SPDX-License-Identifier: MIT
 *
 * Only asked when a file could not be read as what it should be, so that no good file is ever taken
 * for something else.
 */
#include "src/base/mistaken.h"

#include <string.h>
#include <strings.h>

#include "src/base/io.h"

enum { FIRST = 1024 }; /* bytes that are looked at */

/* What a file begins with, after blanks and a byte order mark when it is text. */
static const struct {
    const char *start;
    size_t n;
    bool text; /* blanks before it, letters of either case */
    const char *what;
} signs[] = {
#define TEXT(start)  start, sizeof(start) - 1, true
#define BYTES(start) start, sizeof(start) - 1, false
    {TEXT("version https://git-lfs"),
     "a Git LFS pointer, not the file itself (git lfs pull gets it)"},
    {TEXT("version http://git-media"),
     "a Git LFS pointer, not the file itself (git lfs pull gets it)"},
    {TEXT("/annex/objects/"), "a git-annex pointer, not the file itself (git annex get gets it)"},
    {TEXT("<!doctype html"), "a web page (HTML) that was saved in its place"},
    {TEXT("<html"), "a web page (HTML) that was saved in its place"},
    {TEXT("<head"), "a web page (HTML) that was saved in its place"},
    {TEXT("<body"), "a web page (HTML) that was saved in its place"},
    {TEXT("<!--"), "a web page (HTML) that was saved in its place"},
    {TEXT("<?xml"), "XML, such as a server's error message, saved in its place"},
    {TEXT("<error"), "XML, such as a server's error message, saved in its place"},
    {TEXT("access denied"), "a server's error message, saved in its place"},
    {TEXT("access to model"), "a server's error message, saved in its place"},
    {TEXT("invalid username or password"), "a server's error message, saved in its place"},
    {TEXT("invalid credentials"), "a server's error message, saved in its place"},
    {TEXT("repository not found"), "a server's error message, saved in its place"},
    {TEXT("entry not found"), "a server's error message, saved in its place"},
    {TEXT("not found"), "a server's error message, saved in its place"},
    {TEXT("unauthorized"), "a server's error message, saved in its place"},
    {TEXT("forbidden"), "a server's error message, saved in its place"},
    {TEXT("too many requests"), "a server's error message, saved in its place"},
    {TEXT("{\"error"), "a server's error message, saved in its place"},
    {TEXT("{\"message"), "a server's error message, saved in its place"},
    {BYTES("\x1f\x8b"), "compressed with gzip (gunzip unpacks it)"},
    {BYTES("\x28\xb5\x2f\xfd"), "compressed with zstd (unzstd unpacks it)"},
    {BYTES("\xfd"
           "7zXZ"),
     "compressed with xz (unxz unpacks it)"},
    {BYTES("BZh"), "compressed with bzip2 (bunzip2 unpacks it)"},
    {BYTES("PK\x03\x04"), "a zip archive (as PyTorch saves)"},
    {BYTES("GGUF"), "a GGUF file"},
    {BYTES("\xff\xfe"), "text in UTF-16"},
    {BYTES("\xfe\xff"), "text in UTF-16"},
#undef TEXT
#undef BYTES
};

static bool is_pickle(const uint8_t *p, size_t n)
{
    return n >= 2 && p[0] == 0x80 && p[1] >= 2 && p[1] <= 5 && memchr(p, '.', n) != NULL;
}

const char *fg_mistaken_kind(const uint8_t *first, size_t n)
{
    const uint8_t *p = first;
    size_t left = n;
    if (left >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0) p += 3, left -= 3;
    while (left > 0 && memchr(" \t\r\n", *p, 4) != NULL) p++, left--;
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
        const bool text = signs[i].text;
        const size_t m = signs[i].n;
        if ((text ? left : n) < m) continue;
        const bool same = text ? strncasecmp((const char *)p, signs[i].start, m) == 0
                               : memcmp(first, signs[i].start, m) == 0;
        if (same) return signs[i].what;
    }
    return is_pickle(first, n) ? "a Python pickle (as PyTorch saves)" : NULL;
}

/* The length of a JSON header, at most what safetensors allows, and the header. */
static bool is_shard(const uint8_t *p, size_t n)
{
    uint64_t header = 0;
    if (n < 9 || p[8] != '{') return false;
    for (int i = 7; i >= 0; i--) header = header << 8 | p[i];
    return header >= 2 && header <= 100000000;
}

/* Of a file's first bytes, n of them; who reads shards never takes one for something else. */
static const char *kind_of(const uint8_t *first, size_t n, bool shard_wanted)
{
    const char *kind = fg_mistaken_kind(first, n);
    size_t zero = 0;
    if (kind != NULL) return kind;
    while (zero < n && first[zero] == 0) zero++;
    if (n == FIRST && zero == n) return "zeros, as of a download that never came";
    return !shard_wanted && is_shard(first, n) ? "safetensors data" : NULL;
}

static fg_status refuse(const char *path, const char *kind, const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EFORMAT, "%s: %s, expected %s", path, kind, wanted);
}

fg_status fg_mistaken_refuse(const void *bytes, size_t n, const char *path, const char *wanted,
                             fg_err *err)
{
    const char *kind = kind_of(bytes, n < FIRST ? n : FIRST, false);
    return kind == NULL ? FG_OK : refuse(path, kind, wanted, err);
}

fg_status fg_mistaken_explain(fg_status st, const char *path, const char *wanted, bool *known,
                              fg_err *err)
{
    uint8_t first[FIRST] = {0};
    fg_file f;
    if (known != NULL) *known = false;
    if (st == FG_OK || st == FG_ENOMEM || fg_file_open(&f, path, false, NULL) != FG_OK) return st;
    const size_t n = f.size < FIRST ? (size_t)f.size : FIRST;
    const bool good = fg_file_read(&f, first, n, 0, NULL) == FG_OK;
    fg_file_close(&f);
    const char *kind = good ? fg_mistaken_kind(first, n) : NULL;
    if (known != NULL) *known = kind != NULL;
    if (good && n == 0) kind = "an empty file";
    if (good && kind == NULL) kind = kind_of(first, n, known != NULL);
    if (kind == NULL) return st;
    return refuse(path, kind, wanted, err);
}
