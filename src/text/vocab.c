/* SPDX-License-Identifier: MIT */
#include "src/text/vocab.h"

#include <string.h>

#include "src/base/hash.h"
#include "src/base/mem.h"
#include "src/base/utf8.h"

void fg_vocab_fini(fg_vocab *v)
{
    fg_buf_fini(&v->bytes);
    fg_mem_free(v->token);
    fg_mem_free(v->slot);
    *v = (fg_vocab){0};
}

/* The byte that a character of the alphabet stands for, or -1. */
static int byte_of_char(uint32_t cp)
{
    if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xac) || (cp >= 0xae && cp <= 0xff)) {
        return (int)cp;
    }
    if (cp < 0x100 || cp >= 0x144) return -1;
    const int k = (int)cp - 0x100; /* order among the bytes 00-20, 7f-a0, ad */
    return k <= 0x20 ? k : k <= 0x42 ? k - 0x21 + 0x7f : 0xad;
}

bool fg_bytes_of_token(const char *text, size_t n, fg_buf *out)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + n;
    uint8_t part[64];
    size_t n_part = 0;
    while (p < end) {
        uint32_t cp;
        p += fg_utf8_next(p, (size_t)(end - p), &cp);
        const int byte = byte_of_char(cp);
        if (byte < 0) return false;
        part[n_part++] = (uint8_t)byte;
        if (n_part == sizeof part) {
            fg_buf_put(out, part, n_part);
            n_part = 0;
        }
    }
    fg_buf_put(out, part, n_part);
    return true;
}

bool fg_vocab_set(fg_vocab *v, uint32_t id, const uint8_t *bytes, size_t n, uint32_t flags)
{
    void *p = v->token;
    const size_t old = v->cap;
    if (!fg_mem_grow(&p, &v->cap, (size_t)id + 1, sizeof *v->token)) return false;
    v->token = p;
    if (v->cap > old) memset(v->token + old, 0, (v->cap - old) * sizeof *v->token);
    if (n > UINT32_MAX - v->bytes.len) return false;
    v->token[id] = (fg_token){(uint32_t)v->bytes.len, (uint32_t)n, flags | FG_TOKEN_PRESENT};
    fg_buf_put(&v->bytes, bytes, n);
    if (v->bytes.failed) return false;
    if (id >= v->n_id) v->n_id = id + 1;
    v->n_token++;
    return true;
}

bool fg_vocab_index(fg_vocab *v, size_t n)
{
    size_t n_slot = 64;
    while (n_slot / 2 < n) n_slot *= 2; /* at most half full */
    v->slot = fg_mem_alloc(n_slot * sizeof *v->slot);
    if (v->slot == NULL) return false;
    memset(v->slot, 0xff, n_slot * sizeof *v->slot);
    v->n_slot = n_slot;
    return true;
}

static uint32_t *find_slot(const fg_vocab *v, const uint8_t *bytes, size_t n)
{
    const size_t mask = v->n_slot - 1;
    for (size_t i = (size_t)fg_hash64(bytes, n) & mask;; i = (i + 1) & mask) {
        if (v->slot[i] == FG_NO_TOKEN) return &v->slot[i];
        const fg_token *t = &v->token[v->slot[i]];
        if (t->len == n && memcmp(v->bytes.data + t->begin, bytes, n) == 0) return &v->slot[i];
    }
}

bool fg_vocab_enter(fg_vocab *v, uint32_t id, uint32_t *other)
{
    const fg_token *t = &v->token[id];
    uint32_t *slot = find_slot(v, v->bytes.data + t->begin, t->len);
    *other = *slot;
    if (*slot != FG_NO_TOKEN) return false;
    *slot = id;
    return true;
}

uint32_t fg_vocab_find(const fg_vocab *v, const uint8_t *bytes, size_t n)
{
    return v->slot == NULL ? FG_NO_TOKEN : *find_slot(v, bytes, n);
}
