/* SPDX-License-Identifier: MIT
 *
 * Byte sequences: fg_buf grows and is written little-endian; fg_cursor reads little-endian with
 * bounds.  Both are "sticky": after the first failure every later call is a no-op, so that a
 * parser or encoder checks once, at the end.
 */
#ifndef FG_SRC_BASE_BUF_H
#define FG_SRC_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Growable bytes.  Zero-initialise; free with fg_buf_fini.  `data` may be NULL while len == 0. */
typedef struct fg_buf {
    uint8_t *data;
    size_t len;
    size_t cap;
    bool failed; /* out of memory at some point; contents then incomplete */
} fg_buf;

void fg_buf_fini(fg_buf *b);
void fg_buf_put(fg_buf *b, const void *bytes, size_t n);
void fg_buf_put_str(fg_buf *b, const char *s); /* without the NUL */
void fg_buf_printf(fg_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fg_buf_u8(fg_buf *b, uint8_t v);
void fg_buf_u32(fg_buf *b, uint32_t v);
void fg_buf_u64(fg_buf *b, uint64_t v);
void fg_buf_f64(fg_buf *b, double v);
/* Appends a NUL that is not counted in len and returns data as a C string; NULL when failed. */
const char *fg_buf_str(fg_buf *b);

/* Bounded reader over borrowed bytes. */
typedef struct fg_cursor {
    const uint8_t *p; /* next byte */
    size_t left;      /* bytes left */
    bool bad;         /* a read went past the end; all reads since returned 0 / NULL */
} fg_cursor;

static inline fg_cursor fg_cursor_make(const void *p, size_t n)
{
    return (fg_cursor){(const uint8_t *)p, n, false};
}
uint32_t fg_cursor_u32(fg_cursor *c);
uint64_t fg_cursor_u64(fg_cursor *c);
double fg_cursor_f64(fg_cursor *c);
/* Borrowed pointer to the next n bytes, or NULL. */
const uint8_t *fg_cursor_bytes(fg_cursor *c, size_t n);

#endif
