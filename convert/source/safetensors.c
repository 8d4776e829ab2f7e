/* SPDX-License-Identifier: MIT
 *
 * The JSON is parsed as a whole (the release's headers are 3 KB); every number in it is checked
 * before it is used as a size or an offset.
 */
#include "convert/source/safetensors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/fp.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/mistaken.h"

/* Bits of the dtypes that the format defines; others are taken without a size check, since they
 * cannot be needed. */
static const struct {
    const char *name;
    uint32_t bits;
    fg_st_dtype dtype;
} dtypes[] = {
    {"F32", 32, FG_ST_F32},      {"BF16", 16, FG_ST_BF16},    {"F16", 16, FG_ST_F16},
    {"BOOL", 8, FG_ST_OTHER},    {"U8", 8, FG_ST_OTHER},      {"I8", 8, FG_ST_OTHER},
    {"F8_E4M3", 8, FG_ST_OTHER}, {"F8_E5M2", 8, FG_ST_OTHER}, {"F8_E8M0", 8, FG_ST_OTHER},
    {"I16", 16, FG_ST_OTHER},    {"U16", 16, FG_ST_OTHER},    {"I32", 32, FG_ST_OTHER},
    {"U32", 32, FG_ST_OTHER},    {"F64", 64, FG_ST_OTHER},    {"I64", 64, FG_ST_OTHER},
    {"U64", 64, FG_ST_OTHER},    {"C64", 64, FG_ST_OTHER},
};

void fg_st_fini(fg_st_shard *s)
{
    for (size_t i = 0; i < s->n_tensor; i++) fg_mem_free(s->tensor[i].name);
    fg_mem_free(s->tensor);
    fg_mem_free(s->header);
    fg_mem_free(s->path);
    *s = (fg_st_shard){0};
}

static fg_status fail_tensor(const char *path, const fg_st_tensor *t, const char *got,
                             const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EFORMAT, "%s: tensor %.128s: %s, expected %s", path, t->name, got,
                   wanted);
}

static fg_status parse_dtype(fg_st_tensor *t, const fg_json *node, const char *path, uint32_t *bits,
                             fg_err *err)
{
    const char *text;
    if (!fg_json_str(fg_json_get(node, "dtype"), &text)) {
        return fail_tensor(path, t, "no dtype", "a string", err);
    }
    const size_t n = strlen(text);
    memcpy(t->dtype_text, text, n < sizeof t->dtype_text ? n : sizeof t->dtype_text - 1);
    t->dtype = FG_ST_OTHER;
    *bits = 0;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(text, dtypes[i].name) != 0) continue;
        t->dtype = (uint8_t)dtypes[i].dtype;
        *bits = dtypes[i].bits;
    }
    return FG_OK;
}

static fg_status parse_shape(fg_st_tensor *t, const fg_json *node, const char *path,
                             uint64_t *n_element, fg_err *err)
{
    const fg_json *shape = fg_json_get(node, "shape");
    char shown[FG_JSON_SHOWN], got[FG_JSON_SHOWN + 16];
    if (!fg_json_is_array(shape)) {
        (void)snprintf(got, sizeof got, "shape %s", fg_json_show(shape, shown));
        return fail_tensor(path, t, got, "an array", err);
    }
    *n_element = 1;
    for (const fg_json *c = fg_json_first(shape); c != NULL; c = fg_json_next(c)) {
        uint64_t d;
        if (t->n_dim == FG_ST_MAX_DIM) {
            return fail_tensor(path, t, "more than 8 dimensions", "at most 8", err);
        }
        if (!fg_json_u64(c, &d)) {
            (void)snprintf(got, sizeof got, "dimension %s", fg_json_show(c, shown));
            return fail_tensor(path, t, got, "non-negative integers", err);
        }
        if (!fg_mul_u64(*n_element, d, n_element)) {
            return fail_tensor(path, t, "its shape overflows", "a size that fits 64 bits", err);
        }
        t->dim[t->n_dim++] = d;
    }
    return FG_OK;
}

static fg_status parse_tensor(fg_st_shard *s, fg_st_tensor *t, const fg_json *node, bool *growing,
                              fg_err *err)
{
    if (!fg_json_is_object(node)) return fail_tensor(s->path, t, "not an object", "one", err);
    uint32_t bits = 0;
    uint64_t n_element = 0, begin, end, want_bits;
    FG_TRY(parse_dtype(t, node, s->path, &bits, err));
    FG_TRY(parse_shape(t, node, s->path, &n_element, err));
    const fg_json *range = fg_json_get(node, "data_offsets");
    const fg_json *first = fg_json_is_array(range) ? fg_json_first(range) : NULL;
    const fg_json *second = first == NULL ? NULL : fg_json_next(first);
    if (!fg_json_u64(first, &begin) || !fg_json_u64(second, &end) || fg_json_next(second) != NULL ||
        begin > end) {
        char shown[FG_JSON_SHOWN], got[FG_JSON_SHOWN + 16];
        (void)snprintf(got, sizeof got, "data_offsets %s", fg_json_show(range, shown));
        return fail_tensor(s->path, t, got, "[begin, end] with begin <= end", err);
    }
    *growing = end > s->file_bytes - s->header_bytes;
    if (*growing) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: tensor %.128s: data to byte %llu, expected at most %llu; the file is "
                       "truncated",
                       s->path, t->name, (unsigned long long)(end + s->header_bytes),
                       (unsigned long long)s->file_bytes);
    }
    if (bits != 0 && (!fg_mul_u64(n_element, bits, &want_bits) || want_bits % 8 != 0 ||
                      end - begin != want_bits / 8)) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: tensor %.128s: %llu bytes, expected %llu elements of %s", s->path,
                       t->name, (unsigned long long)(end - begin), (unsigned long long)n_element,
                       t->dtype_text);
    }
    t->offset = s->header_bytes + begin;
    t->bytes = end - begin;
    return FG_OK;
}

static int by_offset(const void *a, const void *b)
{
    const fg_st_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static fg_status check_tiling(fg_st_shard *s, fg_err *err)
{
    if (s->n_tensor > 0) qsort(s->tensor, s->n_tensor, sizeof *s->tensor, by_offset);
    uint64_t at = s->header_bytes;
    for (size_t i = 0; i < s->n_tensor; i++) {
        const fg_st_tensor *t = &s->tensor[i];
        if (t->offset != at) {
            return fg_fail(err, FG_EFORMAT,
                           "%s: tensor %.128s: data from byte %llu, expected %llu"
                           "; tensors %s",
                           s->path, t->name, (unsigned long long)t->offset, (unsigned long long)at,
                           t->offset < at ? "overlap" : "leave a hole");
        }
        at += t->bytes;
    }
    if (at != s->file_bytes) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: %llu bytes, expected %llu; bytes follow the last "
                       "tensor",
                       s->path, (unsigned long long)s->file_bytes, (unsigned long long)at);
    }
    return FG_OK;
}

static fg_status parse_header(fg_st_shard *s, const fg_json *root, bool *growing, fg_err *err)
{
    if (!fg_json_is_object(root)) {
        return fg_fail(err, FG_EFORMAT, "%s: header is no JSON object, expected one", s->path);
    }
    const size_t n = fg_json_size(root);
    s->tensor = fg_mem_zalloc_array(n, sizeof *s->tensor);
    if (s->tensor == NULL) return fg_fail_nomem(err, s->path);
    for (const fg_json *c = fg_json_first(root); c != NULL; c = fg_json_next(c)) {
        const char *name = fg_json_name(c);
        if (strcmp(name, "__metadata__") == 0) continue;
        if (name[0] == '\0') {
            return fg_fail(err, FG_EFORMAT, "%s: tensor %zu: no name, expected one", s->path,
                           s->n_tensor);
        }
        fg_st_tensor *t = &s->tensor[s->n_tensor];
        t->name = fg_mem_strndup(name, strlen(name));
        if (t->name == NULL) return fg_fail_nomem(err, s->path);
        s->n_tensor++;
        FG_TRY(parse_tensor(s, t, c, growing, err));
    }
    return check_tiling(s, err);
}

/* The header's length from its first bytes, n < 8 of them when the file has no more. */
static fg_status take_length(fg_st_shard *s, const uint8_t *head, uint64_t file_bytes,
                             bool *growing, fg_err *err)
{
    *growing = file_bytes < 8;
    if (*growing) {
        return fg_fail(err, FG_EFORMAT, "%s: %llu bytes, expected a safetensors file", s->path,
                       (unsigned long long)file_bytes);
    }
    fg_cursor c = fg_cursor_make(head, 8);
    const uint64_t n = fg_cursor_u64(&c);
    const uint64_t most = file_bytes - 8 < FG_ST_MAX_HEADER ? file_bytes - 8 : FG_ST_MAX_HEADER;
    *growing = n == 0 || (n <= FG_ST_MAX_HEADER && n > most);
    if (n > most) {
        return fg_fail(err, FG_EFORMAT, "%s: header of %llu bytes, expected at most %llu", s->path,
                       (unsigned long long)n, (unsigned long long)most);
    }
    s->file_bytes = file_bytes;
    s->header_bytes = n + 8;
    s->header = fg_mem_alloc((size_t)s->header_bytes + 1);
    if (s->header == NULL) return fg_fail_nomem(err, s->path);
    s->header[s->header_bytes] = '\0';
    return FG_OK;
}

static fg_status read_header(fg_st_shard *s, const fg_file *f, bool *growing, fg_err *err)
{
    uint8_t head[8] = {0};
    if (f->size >= sizeof head) FG_TRY(fg_file_read(f, head, sizeof head, 0, err));
    FG_TRY(take_length(s, head, f->size, growing, err));
    return fg_file_read(f, s->header, (size_t)s->header_bytes, 0, err);
}

/* Everything after s->header. */
static fg_status take_header(fg_st_shard *s, bool *growing, fg_err *err)
{
    fg_json *root = NULL;
    const uint8_t *text = s->header + 8;
    if (text[0] != '{') {
        return fg_fail(err, FG_EFORMAT, "%s: header starts with byte 0x%02x, expected '{'", s->path,
                       (unsigned)text[0]);
    }
    fg_status st =
        fg_json_parse(&root, (const char *)text, (size_t)(s->header_bytes - 8), s->path, err);
    if (st == FG_OK) st = parse_header(s, root, growing, err);
    fg_json_free(root);
    return st;
}

fg_status fg_st_open_growing(fg_st_shard *s, const char *path, bool *growing, fg_err *err)
{
    fg_file f = FG_FILE_INIT;
    *s = (fg_st_shard){0};
    *growing = false;
    s->path = fg_mem_strndup(path, strlen(path));
    if (s->path == NULL) return fg_fail_nomem(err, path);
    fg_status st = fg_file_open(&f, path, false, err);
    if (st == FG_OK) (void)fg_stamp_take(&s->stamp, f.fd);
    if (st == FG_OK) st = read_header(s, &f, growing, err);
    if (st == FG_OK) st = take_header(s, growing, err);
    fg_file_close(&f);
    if (st == FG_OK) return FG_OK;
    bool known = false; /* for what it is: it will not grow into a shard */
    if (st != FG_EIO && s->path != NULL) {
        st = fg_mistaken_explain(st, path, "safetensors data", &known, err);
    }
    if (known) *growing = false;
    fg_st_fini(s);
    return st;
}

fg_status fg_st_open(fg_st_shard *s, const char *path, fg_err *err)
{
    bool growing;
    return fg_st_open_growing(s, path, &growing, err);
}

fg_status fg_st_from_header(fg_st_shard *s, const char *path, uint64_t file_bytes,
                            const uint8_t *header, uint64_t n, fg_err *err)
{
    bool growing;
    *s = (fg_st_shard){0};
    s->path = fg_mem_strndup(path, strlen(path));
    if (s->path == NULL) return fg_fail_nomem(err, path);
    fg_status st = FG_OK;
    if (n < 8)
        st = fg_fail(err, FG_EFORMAT, "%s: a header of %llu bytes, expected 8 at least", path,
                     (unsigned long long)n);
    if (st == FG_OK) st = take_length(s, header, file_bytes, &growing, err);
    if (st == FG_OK && s->header_bytes != n) {
        st = fg_fail(err, FG_EFORMAT, "%s: a header of %llu bytes, expected %llu", path,
                     (unsigned long long)n, (unsigned long long)s->header_bytes);
    }
    if (st == FG_OK) memcpy(s->header, header, (size_t)n);
    if (st == FG_OK) st = take_header(s, &growing, err);
    if (st != FG_OK) fg_st_fini(s);
    return st;
}
