/* SPDX-License-Identifier: MIT */
#include "src/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"

void fg_buf_fini(fg_buf *b)
{
    fg_mem_free(b->data);
    *b = (fg_buf){0};
}

static bool reserve(fg_buf *b, size_t more)
{
    if (b->failed) return false;
    void *p = b->data;
    if (more > SIZE_MAX - b->len || !fg_mem_grow(&p, &b->cap, b->len + more, 1)) {
        b->failed = true;
        return false;
    }
    b->data = p;
    return true;
}

void fg_buf_put(fg_buf *b, const void *bytes, size_t n)
{
    if (n == 0 || !reserve(b, n)) return;
    memcpy(b->data + b->len, bytes, n);
    b->len += n;
}

void fg_buf_put_str(fg_buf *b, const char *s)
{
    fg_buf_put(b, s, strlen(s));
}

void fg_buf_printf(fg_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
    } else if (reserve(b, (size_t)n + 1)) {
        (void)vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

static void put_le(fg_buf *b, uint64_t v, size_t n)
{
    uint8_t le[8];
    for (size_t i = 0; i < n; i++) le[i] = (uint8_t)(v >> (8 * i));
    fg_buf_put(b, le, n);
}

void fg_buf_u8(fg_buf *b, uint8_t v)
{
    put_le(b, v, 1);
}

void fg_buf_u32(fg_buf *b, uint32_t v)
{
    put_le(b, v, 4);
}

void fg_buf_u64(fg_buf *b, uint64_t v)
{
    put_le(b, v, 8);
}

void fg_buf_f64(fg_buf *b, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_le(b, bits, 8);
}

const char *fg_buf_str(fg_buf *b)
{
    if (!reserve(b, 1)) return NULL;
    b->data[b->len] = 0;
    return (const char *)b->data;
}

const uint8_t *fg_cursor_bytes(fg_cursor *c, size_t n)
{
    if (c->bad || n > c->left) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *p = c->p;
    c->p += n;
    c->left -= n;
    return p;
}

static uint64_t get_le(fg_cursor *c, size_t n)
{
    const uint8_t *p = fg_cursor_bytes(c, n);
    uint64_t v = 0;
    for (size_t i = 0; p != NULL && i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint32_t fg_cursor_u32(fg_cursor *c)
{
    return (uint32_t)get_le(c, 4);
}

uint64_t fg_cursor_u64(fg_cursor *c)
{
    return get_le(c, 8);
}

double fg_cursor_f64(fg_cursor *c)
{
    const uint64_t bits = get_le(c, 8);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
