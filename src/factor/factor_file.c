/* SPDX-License-Identifier: MIT */
#include "src/factor/factor_file.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/fp.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"

static const char magic[] = "FGFACTOR";
enum { VERSION = 1, HEAD = 8 + 6 * 4 + 2 * 8 + 3 * 8, TAIL = 8 };
#define MAX_FILE ((uint64_t)1 << 36)

/* ---- writing ---- */

typedef struct sink {
    FILE *f;
    fg_hasher *h;
    bool failed;
} sink;

static void put(sink *s, const void *p, size_t n)
{
    fg_hasher_add(s->h, p, n);
    if (n > 0 && fwrite(p, 1, n, s->f) != n) s->failed = true;
}

/* Rows of `rank` floats, `stride` apart. */
static void put_floats(sink *s, const float *p, size_t n, size_t rank, size_t stride)
{
    uint8_t row[4 * FG_FACTOR_MAX_RANK];
    for (size_t i = 0; i < n; i++) {
        fg_f32_put_le(row, p + i * stride, rank);
        put(s, row, 4 * rank);
    }
}

static void put_head(sink *s, const fg_factor_model *m, const fg_id_table *row,
                     const fg_id_table *col)
{
    fg_buf b = {0};
    fg_buf_put(&b, magic, 8);
    fg_buf_u32(&b, VERSION);
    fg_buf_u32(&b, (uint32_t)m->algo);
    fg_buf_u32(&b, m->rank);
    fg_buf_u32(&b, m->bx != NULL);
    fg_buf_u32(&b, m->n_row);
    fg_buf_u32(&b, m->n_col);
    fg_buf_u64(&b, row->n_text);
    fg_buf_u64(&b, col->n_text);
    fg_buf_f64(&b, (double)m->mean);
    fg_buf_f64(&b, (double)m->low);
    fg_buf_f64(&b, (double)m->high);
    s->failed |= b.failed;
    if (!b.failed) put(s, b.data, b.len);
    fg_buf_fini(&b);
}

fg_status fg_factor_save(const char *path, const fg_factor_model *m, const fg_id_table *row,
                         const fg_id_table *col, fg_err *err)
{
    fg_new_file f = {0};
    sink s = {.h = fg_hasher_create()};
    if (s.h == NULL) return fg_fail_nomem(err, "hash");
    fg_status st = fg_new_file_open(&f, path, err);
    if (st == FG_OK) {
        s.f = f.f;
        put_head(&s, m, row, col);
        put(&s, row->text, row->n_text);
        put(&s, col->text, col->n_text);
        put(&s, m->row_met, m->n_row);
        put(&s, m->col_met, m->n_col);
        put_floats(&s, m->x, m->n_row, m->rank, m->stride);
        put_floats(&s, m->y, m->n_col, m->rank, m->stride);
        if (m->bx != NULL) {
            put_floats(&s, m->bx, m->n_row, 1, 1);
            put_floats(&s, m->by, m->n_col, 1, 1);
        }
        uint8_t sum[TAIL];
        const uint64_t digest = fg_hasher_digest(s.h);
        for (int i = 0; i < TAIL; i++) sum[i] = (uint8_t)(digest >> (8 * i));
        put(&s, sum, sizeof sum);
        if (s.failed) st = fg_fail(err, FG_EIO, "%s: not written, expected room for it", path);
    }
    if (st == FG_OK) st = fg_new_file_commit(&f, err);
    fg_new_file_close(&f);
    fg_hasher_destroy(s.h);
    return st;
}

/* ---- reading ---- */

static fg_status damaged(const char *name, const char *what, fg_err *err)
{
    return fg_fail(err, FG_EFORMAT, "%s: %s, expected a model of fulgur factor train", name, what);
}

static fg_status take_ids(fg_cursor *c, uint64_t bytes, uint32_t n, fg_id_table *t,
                          const char *name, fg_err *err)
{
    const char *text = (const char *)fg_cursor_bytes(c, (size_t)bytes);
    if (text == NULL && bytes > 0) return damaged(name, "ids cut short", err);
    uint64_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        const char *end = at < bytes ? memchr(text + at, '\0', (size_t)(bytes - at)) : NULL;
        uint32_t id = 0;
        if (end == NULL) return damaged(name, "fewer ids than rows", err);
        FG_TRY(fg_id_add(t, text + at, (size_t)(end - (text + at)), &id, err));
        if (id != i) return damaged(name, "an id twice", err);
        at = (uint64_t)(end - text) + 1;
    }
    return at == bytes ? FG_OK : damaged(name, "more ids than rows", err);
}

static bool take_floats(fg_cursor *c, float *p, size_t n, size_t rank, size_t stride)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < rank; k++) {
            p[i * stride + k] = fg_f32_from_bits(fg_cursor_u32(c));
            finite = finite && isfinite(p[i * stride + k]);
        }
    }
    return finite;
}

static bool take_met(fg_cursor *c, uint8_t *met, uint32_t n)
{
    const uint8_t *p = fg_cursor_bytes(c, n);
    bool ok = p != NULL || n == 0;
    for (uint32_t i = 0; ok && i < n; i++) {
        met[i] = p[i];
        ok = p[i] <= 1;
    }
    return ok;
}

static fg_status take_model(fg_cursor *c, const char *name, fg_factor_model **out, fg_id_table *row,
                            fg_id_table *col, fg_err *err)
{
    (void)fg_cursor_u32(c); /* version */
    const uint32_t algo = fg_cursor_u32(c), rank = fg_cursor_u32(c), bias = fg_cursor_u32(c);
    const uint32_t n_row = fg_cursor_u32(c), n_col = fg_cursor_u32(c);
    const uint64_t row_bytes = fg_cursor_u64(c), col_bytes = fg_cursor_u64(c);
    const double mean = fg_cursor_f64(c), low = fg_cursor_f64(c), high = fg_cursor_f64(c);
    const uint64_t keys = (uint64_t)n_row + n_col;
    const uint64_t rest = keys + keys * 4 * ((uint64_t)rank + bias);
    if (algo >= FG_ALGO_COUNT || rank < 1 || rank > FG_FACTOR_MAX_RANK || bias > 1 ||
        n_row == UINT32_MAX || n_col == UINT32_MAX || row_bytes > c->left || col_bytes > c->left ||
        row_bytes + col_bytes + rest != c->left || !isfinite(mean) || !(low <= high)) {
        return damaged(name, "sizes that do not fit", err);
    }
    FG_TRY(take_ids(c, row_bytes, n_row, row, name, err));
    FG_TRY(take_ids(c, col_bytes, n_col, col, name, err));
    FG_TRY(fg_factor_model_alloc(out, n_row, n_col, rank, bias == 1, err));
    fg_factor_model *m = *out;
    m->algo = (fg_factor_algo)algo;
    m->mean = (float)mean;
    m->low = (float)low;
    m->high = (float)high;
    bool ok = take_met(c, m->row_met, n_row) && take_met(c, m->col_met, n_col);
    ok = ok && take_floats(c, m->x, n_row, rank, m->stride);
    ok = ok && take_floats(c, m->y, n_col, rank, m->stride);
    if (bias == 1) ok = ok && take_floats(c, m->bx, n_row, 1, 1);
    if (bias == 1) ok = ok && take_floats(c, m->by, n_col, 1, 1);
    return ok && !c->bad ? FG_OK : damaged(name, "values that cannot be", err);
}

fg_status fg_factor_read(const void *bytes, size_t n, const char *name, fg_factor_model **m,
                         fg_id_table *row, fg_id_table *col, fg_err *err)
{
    *m = NULL;
    *row = *col = (fg_id_table){0};
    if (n < HEAD + TAIL || memcmp(bytes, magic, 8) != 0) return damaged(name, "another file", err);
    fg_cursor head = fg_cursor_make((const uint8_t *)bytes + 8, 4);
    const uint32_t version = fg_cursor_u32(&head); /* first: others may have another checksum */
    if (version != VERSION) {
        return fg_fail(err, FG_EVERSION, "%s: version %u, expected %d", name, version, VERSION);
    }
    fg_cursor tail = fg_cursor_make((const uint8_t *)bytes + n - TAIL, TAIL);
    if (fg_cursor_u64(&tail) != fg_hash64(bytes, n - TAIL)) {
        return damaged(name, "a wrong checksum", err);
    }
    fg_cursor c = fg_cursor_make((const uint8_t *)bytes + 8, n - TAIL - 8);
    const fg_status st = take_model(&c, name, m, row, col, err);
    if (st != FG_OK) {
        fg_factor_model_destroy(m);
        fg_id_table_fini(row);
        fg_id_table_fini(col);
    }
    return st;
}

fg_status fg_factor_load(const char *path, fg_factor_model **m, fg_id_table *row, fg_id_table *col,
                         fg_err *err)
{
    char *bytes = NULL;
    size_t n = 0;
    *m = NULL;
    *row = *col = (fg_id_table){0};
    FG_TRY(fg_io_read_all(path, MAX_FILE, &bytes, &n, err));
    const fg_status st = fg_factor_read(bytes, n, path, m, row, col, err);
    fg_mem_free(bytes);
    return st;
}
