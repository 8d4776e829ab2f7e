/* SPDX-License-Identifier: MIT
 *
 * UTF-8: decoding with exact knowledge of what is ill-formed, and repair.  An ill-formed stretch is
 * cut into "maximal subparts" (Unicode 3.9, table 3-8), each standing for one U+FFFD, which is what
 * Python's bytes.decode("utf-8", "replace") and Rust's from_utf8_lossy do.
 */
#ifndef FG_SRC_BASE_UTF8_H
#define FG_SRC_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"

#define FG_UTF8_BAD UINT32_MAX       /* a maximal subpart of an ill-formed sequence */
#define FG_UTF8_CUT (UINT32_MAX - 1) /* the text ends inside a sequence that is valid so far */

enum { FG_UTF8_REPLACEMENT = 0xfffd };

/* Decodes at p (n > 0 bytes left).  Returns the bytes consumed, at least 1; *cp is the code point,
 * FG_UTF8_BAD or FG_UTF8_CUT. */
size_t fg_utf8_next(const uint8_t *p, size_t n, uint32_t *cp);

/* Appends the encoding of a code point (not a surrogate, <= 0x10ffff). */
void fg_utf8_put(fg_buf *b, uint32_t cp);

/* Length of the longest valid prefix. */
size_t fg_utf8_valid(const uint8_t *p, size_t n);

/* Appends the text with every ill-formed maximal subpart replaced by U+FFFD. */
void fg_utf8_repair(fg_buf *b, const uint8_t *p, size_t n);

/* Whether a terminal would act on the character instead of showing it: C0, DEL and C1 controls,
 * line separators, and the marks that turn the direction of text, behind which a name can look like
 * another one. */
bool fg_utf8_is_control(uint32_t cp);

/* Makes a C string fit to be shown on one line: every control character and every ill-formed
 * stretch becomes one '?', in place. */
void fg_utf8_clean(char *s);

/* Appends text with its control characters written out, \x1b or \u202e; line feeds and tabs stay,
 * and ill-formed stretches become U+FFFD. */
void fg_utf8_put_shown(fg_buf *b, const uint8_t *p, size_t n);

/* What of a text is not UTF-8. */
typedef struct fg_utf8_flaws {
    uint64_t n_byte;    /* of the text */
    uint64_t n_bad;     /* bytes of ill-formed sequences */
    uint64_t n_nul;     /* zero bytes: valid, yet in no text, but every second one of UTF-16 */
    uint64_t first;     /* offset of the first of either */
    const char *really; /* what it is instead; NULL: not known */
} fg_utf8_flaws;
void fg_utf8_judge(const uint8_t *p, size_t n, fg_utf8_flaws *out);
/* False when there are none; else fills `text` with what they are, without the file's name. */
bool fg_utf8_describe(const fg_utf8_flaws *f, char *text, size_t size);
/* True when more than 1 % of the text is not UTF-8. */
bool fg_utf8_is_other(const fg_utf8_flaws *f);

/* Fills `out` (n bytes) with the last part of a path, as UTF-8 without control characters, cut to
 * what fits; "(stdin)" for "-". */
void fg_utf8_file_name(const char *path, char *out, size_t n);

#endif
