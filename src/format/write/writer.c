/* SPDX-License-Identifier: MIT
 *
 * Plan, stream, seal.
 *
 * The header slot is the last thing written, after everything else is on the disk, so that PATH.part
 * never opens as a model before it is complete; the rename comes after that.  Data passes through
 * one buffer, chunk hashes are taken on the way: memory is bounded by the buffer, the directory
 * and 8 bytes for each MiB of data, whatever the size of the model.
 * How a writer begins, and how it goes on after its process died, is in resume.c.
 */
#include "src/format/write/writer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/format/view.h"
#include "src/format/write/writer_impl.h"

typedef fg_blob blob;

/* A checkpoint is due after this much. */
#define CHECKPOINT_BYTES ((uint64_t)4 << 30)
#define CHECKPOINT_NS    ((uint64_t)30 * 1000000000)

fg_status fg_writer_misuse(const fg_writer *w, const char *got, const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EINVAL, "%s: %s, expected %s", w->path, got, wanted);
}

fg_status fg_writer_fail_io(const fg_writer *w, const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EIO, "%s: %s, expected %s", w->part, strerror(errno), wanted);
}

fg_status fg_writer_create(fg_writer **out, const char *path, const fg_shape *shape, fg_err *err)
{
    *out = NULL;
    FG_TRY(fg_shape_check(shape, path, err));
    fg_writer *w = fg_mem_zalloc(sizeof *w);
    if (w == NULL) return fg_fail_nomem(err, path);
    const size_t n = strlen(path);
    w->fd = -1;
    fg_parts_init(&w->parts);
    w->parts.dir = &w->dir;
    w->shape = *shape;
    w->every_bytes = CHECKPOINT_BYTES;
    w->every_ns = CHECKPOINT_NS;
    w->path = fg_mem_strndup(path, n);
    w->part = fg_mem_alloc(n + sizeof ".part");
    w->log = fg_mem_alloc(n + sizeof ".part.journal");
    if (w->path == NULL || w->part == NULL || w->log == NULL) {
        fg_writer_destroy(&w);
        return fg_fail_nomem(err, path);
    }
    memcpy(w->part, path, n);
    memcpy(w->part + n, ".part", sizeof ".part");
    w->parts.path[0] = w->part;
    memcpy(w->log, path, n);
    memcpy(w->log + n, ".part.journal", sizeof ".part.journal");
    *out = w;
    return FG_OK;
}

void fg_writer_destroy(fg_writer **out)
{
    fg_writer *w = *out;
    if (w == NULL) return;
    /* An open descriptor means that the lock is ours; unlink before it is given up. */
    if (w->fd >= 0 && w->state != FG_WRITER_DONE && !w->kept) {
        if (w->journal != NULL) fg_journal_remove(w->journal);
        fg_writer_drop_parts(w);
        (void)unlink(w->part);
    }
    fg_writer_close_parts(w);
    fg_journal_close(&w->journal);
    fg_model_file_close(&w->view);
    if (w->fd >= 0) (void)close(w->fd);
    for (size_t i = 0; i < w->n_blob; i++) {
        fg_mem_free(w->blob[i].key);
        fg_mem_free(w->blob[i].data);
    }
    fg_mem_free(w->blob);
    fg_directory_fini(&w->dir);
    fg_hasher_destroy(w->hasher);
    fg_buf_fini(&w->piece);
    fg_buf_fini(&w->new_span);
    fg_buf_fini(&w->new_hash);
    fg_mem_free(w->edge);
    fg_mem_free(w->known);
    fg_mem_free(w->chunk);
    fg_mem_free(w->done);
    fg_mem_free(w->changed);
    fg_mem_free(w->buf);
    fg_mem_free(w->log);
    fg_mem_free(w->part);
    fg_mem_free(w->path);
    fg_mem_free(w);
    *out = NULL;
}

/* --- metadata --- */

static blob *find_blob(const fg_writer *w, const char *key)
{
    for (size_t i = 0; i < w->n_blob; i++) {
        if (strcmp(w->blob[i].key, key) == 0) return &w->blob[i];
    }
    return NULL;
}

fg_status fg_writer_add_meta(fg_writer *w, const char *key, const void *bytes, uint64_t n,
                             fg_err *err)
{
    if (w->state != FG_WRITER_OPEN)
        return fg_writer_misuse(w, "metadata after the plan", "it before", err);
    if (!fg_meta_key_is_valid(key)) {
        return fg_writer_misuse(w, "bad metadata key", "1 to 255 bytes of printable ASCII", err);
    }
    if (find_blob(w, key) != NULL) {
        return fg_fail(err, FG_EINVAL, "%s: metadata %s is there, expected a new key", w->path,
                       key);
    }
    if (w->n_blob >= FG_MAX_META || n > FG_MAX_FILE_BYTES) {
        return fg_fail(err, FG_ELIMIT, "%s: metadata entry %zu of %llu bytes, expected at most %u",
                       w->path, w->n_blob + 1, (ull)n, (unsigned)FG_MAX_META);
    }
    void *p = w->blob;
    const bool grown = fg_mem_grow(&p, &w->cap_blob, w->n_blob + 1, sizeof *w->blob);
    w->blob = p;
    blob b = {NULL, NULL, n};
    if (grown) b.key = fg_mem_strndup(key, strlen(key));
    if (b.key != NULL) b.data = fg_mem_alloc((size_t)n);
    if (b.data == NULL) {
        fg_mem_free(b.key);
        return fg_fail_nomem(err, w->path);
    }
    if (n != 0) memcpy(b.data, bytes, (size_t)n);
    w->blob[w->n_blob++] = b;
    return FG_OK;
}

fg_status fg_writer_set_meta(fg_writer *w, const char *key, const void *bytes, uint64_t n,
                             fg_err *err)
{
    blob *b = find_blob(w, key);
    if (w->state == FG_WRITER_DONE || b == NULL || b->bytes != n) {
        return fg_fail(err, FG_EINVAL, "%s: metadata %s of %llu bytes, expected %llu", w->path, key,
                       (ull)n, b == NULL ? (ull)0 : (ull)b->bytes);
    }
    if (n != 0) memcpy(b->data, bytes, (size_t)n);
    return FG_OK;
}

/* --- plan --- */

static int blob_compare(const void *a, const void *b)
{
    return strcmp(((const blob *)a)->key, ((const blob *)b)->key);
}

/* Blobs stand in key order between the header and the data region. */
static uint64_t place_meta(fg_writer *w)
{
    uint64_t pos = FG_N_SLOT * FG_SLOT_BYTES;
    if (w->n_blob > 1) qsort(w->blob, w->n_blob, sizeof *w->blob, blob_compare);
    for (size_t i = 0; i < w->n_blob; i++) {
        fg_meta_entry *m = &w->dir.meta[i];
        memcpy(m->key, w->blob[i].key, strlen(w->blob[i].key)); /* the rest is zero */
        m->offset = pos;
        m->bytes = w->blob[i].bytes;
        pos = fg_round_up(pos + m->bytes, FG_META_ALIGN);
    }
    return pos;
}

static fg_status check_rotation(const fg_writer *w, const fg_tensor *t, fg_err *err)
{
    const bool alike = t->role != FG_ROLE_EXPERT_UP || t->rotated == t[-1].rotated;
    if (alike && (!t->rotated || fg_tensor_may_rotate(t))) return FG_OK;
    char name[96];
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    return fg_fail(err, FG_EINVAL, "%s: rotation chosen for %s, %llu columns of %s, expected %s",
                   w->path, name, (ull)t->n_col, fg_qtype_get(t->type)->name,
                   alike ? "it for a quantized, multiplied matrix of whole blocks of 128 columns"
                         : "it for both gate and up of an expert or for neither");
}

/* Oldest reader that understands the planned file. */
static uint32_t read_version(const fg_directory *d, uint32_t n_part)
{
    uint32_t version = n_part > 1 ? FG_SPLIT_READ_VERSION : 1;
    for (uint64_t i = 0; i < d->n_tensor; i++) {
        const uint32_t least = fg_tensor_read_version(&d->tensor[i]);
        if (least > version) version = least;
    }
    return version;
}

static fg_status choose_types(fg_writer *w, fg_choose_fn *choose, void *ctx, fg_err *err)
{
    for (uint64_t i = 0; i < w->dir.n_tensor; i++) {
        fg_tensor *t = &w->dir.tensor[i];
        fg_order_at(&w->shape, i, t);
        t->type = FG_TYPE_F32;
        t->err_rms = t->err_max_row = NAN;
        const bool fixed = fg_role_is_vector((fg_role)t->role) || t->role == FG_ROLE_ROUTER;
        if (!fixed) {
            const fg_tensor_choice c = choose(ctx, (fg_role)t->role, t->layer, t->expert);
            t->type = (uint32_t)c.type;
            if (fg_qtype_has_table(t->type)) t->lut = c.lut;
            t->rotated = c.rotate;
        }
        if (t->type == FG_TYPE_F32) t->err_rms = t->err_max_row = 0.0f;
        if (fg_qtype_get(t->type) == NULL ||
            (fg_qtype_has_table(t->type) && !fg_lut_is_valid(&t->lut))) {
            char name[96];
            fg_role_name((fg_role)t->role, t->layer, t->expert, name);
            return fg_fail(err, FG_EINVAL,
                           "%s: type %u or its code table chosen for %s, expected a valid one",
                           w->path, t->type, name);
        }
        FG_TRY(check_rotation(w, t, err));
    }
    return FG_OK;
}

fg_status fg_writer_plan(fg_writer *w, fg_choose_fn *choose, void *ctx, fg_err *err)
{
    if (w->state != FG_WRITER_OPEN) return fg_writer_misuse(w, "a second plan", "one", err);
    fg_directory_fini(&w->dir); /* of a plan that failed */
    FG_TRY(fg_directory_init(&w->dir, &w->shape, (uint32_t)w->n_blob, w->path, err));
    FG_TRY(choose_types(w, choose, ctx, err));
    uint64_t meta_bytes = 0, data_end;
    for (size_t i = 0; i < w->n_blob; i++) {
        if (!fg_add_u64(meta_bytes, w->blob[i].bytes, &meta_bytes)) meta_bytes = UINT64_MAX / 2;
    }
    fg_slot *s = &w->slot;
    bool fits = meta_bytes <= FG_MAX_FILE_BYTES / 2;
    if (fits) {
        s->data_offset = fg_round_up(place_meta(w), FG_HUGE_PAGE_BYTES);
        fits = fg_directory_place(&w->dir, s->data_offset, &data_end) &&
               data_end <= FG_MAX_FILE_BYTES / 2;
    }
    if (!fits) {
        return fg_fail(err, FG_ELIMIT, "%s: more than 2^59 bytes, expected a smaller model",
                       w->path);
    }
    s->n_part = w->parts.n > 1 ? w->parts.n : 0;
    s->read_version = read_version(&w->dir, s->n_part);
    s->write_version =
        s->read_version > FG_WRITE_VERSION ? s->read_version : (uint32_t)FG_WRITE_VERSION;
    s->generation = 1;
    s->data_bytes = data_end - s->data_offset;
    s->n_chunk = fg_round_up(s->data_bytes, FG_FILE_CHUNK) / FG_FILE_CHUNK;
    s->table_offset = fg_round_up(data_end, FG_META_ALIGN);
    s->dir_offset = fg_round_up(s->table_offset + 8 * s->n_chunk, FG_META_ALIGN);
    s->dir_bytes = fg_directory_bytes(&w->shape, (uint32_t)w->n_blob);
    s->file_bytes = s->dir_offset + s->dir_bytes;
    w->pos = w->flushed = w->limit = s->data_offset;
    w->state = FG_WRITER_PLANNED;
    return FG_OK;
}

uint64_t fg_writer_n_tensor(const fg_writer *w)
{
    return w->dir.n_tensor;
}

const fg_tensor *fg_writer_tensor(const fg_writer *w, uint64_t idx)
{
    return &w->dir.tensor[idx];
}

uint64_t fg_writer_data_offset(const fg_writer *w)
{
    return w->slot.data_offset;
}

uint64_t fg_writer_data_bytes(const fg_writer *w)
{
    return w->slot.data_bytes;
}

uint64_t fg_writer_file_bytes(const fg_writer *w)
{
    return w->slot.file_bytes;
}

uint64_t fg_writer_part_bytes(const fg_writer *w, uint32_t part)
{
    return fg_parts_share(&w->parts, part, 0, w->slot.file_bytes);
}

/* --- data --- */

uint64_t fg_writer_pos(const fg_writer *w)
{
    return w->pos;
}

uint64_t fg_writer_place(const fg_writer *w, uint64_t idx)
{
    if (idx == 0) return w->slot.data_offset;
    if (idx == w->dir.n_tensor) return fg_writer_data_end(w);
    const fg_tensor *t = &w->dir.tensor[idx];
    return t->expert == FG_NO_LAYER
               ? fg_tensor_begin(t)
               : w->dir.expert[(uint64_t)t->layer * w->shape.n_expert + t->expert].offset;
}

uint64_t fg_writer_cut(const fg_writer *w, uint64_t pos, uint64_t to)
{
    const uint64_t at = pos - w->slot.data_offset;
    const uint64_t end = pos + FG_FILE_CHUNK - at % FG_FILE_CHUNK;
    return end < to ? end : to;
}

static void end_piece(fg_writer *w)
{
    fg_buf_u64(&w->piece, fg_hasher_digest(w->hasher));
    fg_hasher_reset(w->hasher);
}

static void hash_bytes(fg_writer *w, const uint8_t *p, uint64_t n)
{
    const uint64_t to = w->pos + n;
    for (uint64_t at = w->pos; at < to;) {
        const uint64_t cut = fg_writer_cut(w, at, fg_writer_data_end(w));
        const uint64_t m = (cut < to ? cut : to) - at;
        fg_hasher_add(w->hasher, p, (size_t)m);
        at += m;
        p += m;
        if (at == cut) end_piece(w);
    }
}

/* pwrite of n bytes at `offset`; a failure ends the life of this writer. */
static fg_status put(fg_writer *w, const void *bytes, uint64_t n, uint64_t offset, fg_err *err)
{
    if (n == 0) return FG_OK;
    const fg_status st = fg_parts_write(&w->parts, bytes, (size_t)n, offset, err);
    if (st != FG_OK) w->state = FG_WRITER_BROKEN;
    return st;
}

fg_status fg_writer_flush(fg_writer *w, fg_err *err)
{
    FG_TRY(put(w, w->buf, w->pos - w->flushed, w->flushed, err));
    w->flushed = w->pos;
    return FG_OK;
}

fg_status fg_writer_write(fg_writer *w, const void *bytes, uint64_t n, fg_err *err)
{
    if (w->state != FG_WRITER_BEGUN)
        return fg_writer_misuse(w, "write to a writer not begun", "begin first", err);
    if (n > w->limit - w->pos) {
        return fg_fail(err, FG_EINVAL, "%s: %llu bytes at offset %llu, expected at most %llu",
                       w->path, (ull)n, (ull)w->pos, (ull)(w->limit - w->pos));
    }
    if (n == 0) return FG_OK;
    hash_bytes(w, bytes, n);
    if (n > FG_WRITER_BUFFER - (w->pos - w->flushed)) FG_TRY(fg_writer_flush(w, err));
    if (n >= FG_WRITER_BUFFER) {
        FG_TRY(put(w, bytes, n, w->pos, err));
        w->flushed += n;
    } else {
        memcpy(w->buf + (w->pos - w->flushed), bytes, (size_t)n);
    }
    w->pos += n;
    w->n_written += n;
    return FG_OK;
}

fg_status fg_writer_pad(fg_writer *w, uint64_t to, fg_err *err)
{
    static const uint8_t zeros[64 << 10];
    if (to < w->pos) {
        return fg_fail(err, FG_EINVAL, "%s: padding to offset %llu, expected at least %llu",
                       w->path, (ull)to, (ull)w->pos);
    }
    while (w->pos < to) {
        const uint64_t left = to - w->pos;
        FG_TRY(fg_writer_write(w, zeros, left < sizeof zeros ? left : sizeof zeros, err));
    }
    return FG_OK;
}

/* --- spans --- */

void fg_writer_start_span(fg_writer *w, uint64_t first)
{
    w->span = (fg_span){first, first};
    w->pos = w->flushed = fg_writer_place(w, first);
    w->piece.len = 0;
    fg_hasher_reset(w->hasher);
    while (first < w->dir.n_tensor && w->done[first] == 0) first++;
    w->limit = fg_writer_place(w, first);
}

fg_status fg_writer_take_span(fg_writer *w, fg_span s, const uint8_t *hash, fg_err *err)
{
    const uint64_t to = fg_writer_place(w, s.end);
    uint64_t at = fg_writer_place(w, s.first), cut;
    fg_cursor c = fg_cursor_make(hash, SIZE_MAX);
    for (; at < to; at = cut) {
        const uint64_t rel = at - w->slot.data_offset;
        const fg_edge piece = {at, (cut = fg_writer_cut(w, at, to)) - at, fg_cursor_u64(&c)};
        if (rel % FG_FILE_CHUNK == 0 &&
            (piece.bytes == FG_FILE_CHUNK || cut == fg_writer_data_end(w))) {
            w->chunk[rel / FG_FILE_CHUNK] = piece.hash;
            w->known[rel / FG_FILE_CHUNK] = 1;
            continue;
        }
        void *p = w->edge;
        const bool grown = fg_mem_grow(&p, &w->cap_edge, w->n_edge + 1, sizeof *w->edge);
        w->edge = p;
        if (!grown) return fg_fail_nomem(err, w->path);
        w->edge[w->n_edge++] = piece;
    }
    memset(w->done + s.first, 1, (size_t)(s.end - s.first));
    return FG_OK;
}

/* The first tensor that begins at or behind pos; those before it must end there. */
static fg_status find_end(const fg_writer *w, uint64_t *out, fg_err *err)
{
    uint64_t low = w->span.first, high = w->dir.n_tensor;
    while (low < high) {
        const uint64_t mid = low + (high - low) / 2;
        if (fg_writer_place(w, mid) >= w->pos) high = mid;
        if (fg_writer_place(w, mid) < w->pos) low = mid + 1;
    }
    *out = low;
    if (low > w->span.first && fg_tensor_end(&w->dir.tensor[low - 1]) > w->pos) {
        return fg_writer_misuse(w, "an end inside a tensor", "one between tensors", err);
    }
    return FG_OK;
}

fg_status fg_writer_end_span(fg_writer *w, fg_err *err)
{
    FG_TRY(find_end(w, &w->span.end, err));
    const fg_span s = w->span;
    if (s.end == s.first) return FG_OK;
    FG_TRY(fg_writer_pad(w, fg_writer_place(w, s.end), err));
    FG_TRY(fg_writer_flush(w, err));
    const uint64_t last = w->pos - w->slot.data_offset;
    if (last % FG_FILE_CHUNK != 0 && last != w->slot.data_bytes) end_piece(w);
    if (w->journal != NULL) {
        fg_buf_u64(&w->new_span, s.first);
        fg_buf_u64(&w->new_span, s.end);
        fg_buf_put(&w->new_hash, w->piece.data, w->piece.len);
        w->n_new_span++;
    }
    if (w->piece.failed || w->new_span.failed || w->new_hash.failed) {
        return fg_fail_nomem(err, w->path);
    }
    FG_TRY(fg_writer_take_span(w, s, w->piece.data, err));
    fg_writer_start_span(w, s.end);
    return FG_OK;
}

fg_status fg_writer_seek(fg_writer *w, uint64_t idx, fg_err *err)
{
    uint64_t end;
    if (w->state != FG_WRITER_BEGUN)
        return fg_writer_misuse(w, "seek of a writer not begun", "begin first", err);
    FG_TRY(find_end(w, &end, err));
    if (idx == end) return fg_writer_pad(w, fg_writer_place(w, end), err);
    FG_TRY(fg_writer_end_span(w, err));
    const uint32_t role = idx < w->dir.n_tensor ? w->dir.tensor[idx].role : FG_ROLE_EXPERT_UP;
    if (role == FG_ROLE_EXPERT_UP || role == FG_ROLE_EXPERT_DOWN || w->done[idx] != 0) {
        return fg_writer_misuse(w, "a seek to a tensor that is written, or to none",
                                "one to be written, an expert's gate", err);
    }
    fg_writer_start_span(w, idx);
    return FG_OK;
}

bool fg_writer_is_done(const fg_writer *w, uint64_t idx)
{
    return w->done != NULL && w->done[idx] != 0;
}

void fg_writer_set_error(fg_writer *w, uint64_t idx, const fg_tensor_error *e)
{
    w->dir.tensor[idx].err_rms = e->err_rms;
    w->dir.tensor[idx].err_max_row = e->err_max_row;
    w->dir.tensor[idx].err_out = e->err_out;
    w->dir.tensor[idx].peak = e->peak;
    if (w->changed != NULL) w->changed[idx] = 1;
}

fg_status fg_writer_set_lut(fg_writer *w, uint64_t idx, const fg_lut *lut, fg_err *err)
{
    fg_tensor *t = &w->dir.tensor[idx];
    if (!fg_qtype_has_table(t->type) || !fg_lut_is_valid(lut)) {
        return fg_writer_misuse(w, "a bad code table, or one for another type",
                                "16 ascending values for a type with a table", err);
    }
    t->lut = *lut;
    if (w->changed != NULL) w->changed[idx] = 1;
    return FG_OK;
}

fg_status fg_writer_view(fg_writer *w, const fg_model_file **out, fg_err *err)
{
    *out = NULL;
    if (w->state != FG_WRITER_BEGUN)
        return fg_writer_misuse(w, "view of a writer not begun", "begin first", err);
    FG_TRY(fg_writer_flush(w, err));
    if (w->view == NULL) {
        /* Its full length now: a mapping beyond the end of a file faults. */
        FG_TRY(fg_writer_cut_parts(w, w->slot.file_bytes, err));
        FG_TRY(fg_model_file_view(&w->view, &w->parts, &w->slot, &w->dir, err));
    }
    *out = w->view;
    return FG_OK;
}

/* --- finish --- */

static int edge_compare(const void *a, const void *b)
{
    const fg_edge *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Hashes the chunk that edge[0] begins, from what is in the file; *n: how many edges it has. */
static fg_status hash_edges(fg_writer *w, const fg_edge *edge, size_t *n, fg_err *err)
{
    const uint64_t from = edge->offset, end = fg_writer_cut(w, from, fg_writer_data_end(w));
    FG_TRY(fg_parts_read(&w->parts, w->buf, (size_t)(end - from), from, err));
    for (*n = 0; edge[*n].offset + edge[*n].bytes <= end; ++*n) {
        const fg_edge *e = &edge[*n];
        if (fg_hash64(w->buf + (e->offset - from), (size_t)e->bytes) != e->hash) {
            return fg_fail(err, FG_EIO,
                           "%s: other bytes at offset %llu, expected what was written there; the "
                           "disk lost it, delete the file and start again",
                           w->part, (ull)e->offset);
        }
        if (e->offset + e->bytes == end) break;
    }
    ++*n;
    const uint64_t i = (from - w->slot.data_offset) / FG_FILE_CHUNK;
    w->chunk[i] = fg_hash64(w->buf, (size_t)(end - from));
    w->known[i] = 1;
    return FG_OK;
}

/* Everything must be written.  Afterwards all chunk hashes are known. */
static fg_status complete_chunks(fg_writer *w, fg_err *err)
{
    FG_TRY(fg_writer_end_span(w, err));
    const uint8_t *missing = memchr(w->done, 0, (size_t)w->dir.n_tensor);
    if (missing != NULL) {
        return fg_fail(err, FG_EINVAL, "%s: no data of tensor %llu, expected all %llu", w->path,
                       (ull)(missing - w->done), (ull)w->dir.n_tensor);
    }
    if (w->n_edge > 1) qsort(w->edge, w->n_edge, sizeof *w->edge, edge_compare);
    for (size_t i = 0, n = 0; i < w->n_edge; i += n) FG_TRY(hash_edges(w, w->edge + i, &n, err));
    w->n_edge = 0;
    return FG_OK;
}

static fg_status write_meta(fg_writer *w, fg_err *err)
{
    for (uint32_t i = 0; i < w->dir.n_meta; i++) {
        fg_meta_entry *m = &w->dir.meta[i];
        m->hash = fg_hash64(w->blob[i].data, (size_t)m->bytes);
        FG_TRY(put(w, w->blob[i].data, m->bytes, m->offset, err));
    }
    return FG_OK;
}

static fg_status write_table_and_directory(fg_writer *w, fg_err *err)
{
    fg_slot *s = &w->slot;
    fg_buf table = {0}, dir = {0};
    for (uint64_t i = 0; i < s->n_chunk; i++) fg_buf_u64(&table, w->chunk[i]);
    fg_directory_encode(&w->dir, &dir);
    fg_status st = FG_OK;
    if (table.failed || dir.failed || dir.len != s->dir_bytes) {
        st = fg_fail_nomem(err, w->path);
    } else {
        s->data_root = fg_hash64(table.data, table.len);
        s->dir_hash = fg_hash64(dir.data, dir.len);
        st = put(w, table.data, table.len, s->table_offset, err);
        if (st == FG_OK) st = put(w, dir.data, dir.len, s->dir_offset, err);
    }
    fg_buf_fini(&table);
    fg_buf_fini(&dir);
    return st;
}

fg_status fg_writer_sync(fg_writer *w, bool data_only, fg_err *err)
{
    for (uint32_t k = 0; k < w->parts.n; k++) {
        const int fd = w->parts.fd[k];
        if ((data_only ? fdatasync(fd) : fsync(fd)) == 0) continue;
        w->state = FG_WRITER_BROKEN;
        return fg_fail(err, FG_EIO, "%s: %s, expected to reach the disk", w->parts.path[k],
                       strerror(errno));
    }
    return FG_OK;
}

/* The parts have their headers before the main file has one, and their names before it has its own. */
static fg_status finish_parts(fg_writer *w, fg_err *err)
{
    if (w->parts.n == 1) return FG_OK;
    w->state = FG_WRITER_BROKEN; /* until it is done */
    FG_TRY(fg_writer_seal_parts(w, err));
    FG_TRY(fg_writer_sync(w, false, err));
    w->state = FG_WRITER_BEGUN;
    return FG_OK;
}

static fg_status name_parts(fg_writer *w, fg_err *err)
{
    w->state = FG_WRITER_BROKEN;
    FG_TRY(fg_writer_name_parts(w, err));
    w->state = FG_WRITER_BEGUN;
    return FG_OK;
}

fg_status fg_writer_finish(fg_writer *w, fg_err *err)
{
    if (w->state != FG_WRITER_BEGUN)
        return fg_writer_misuse(w, "finish of a writer not begun", "begin first", err);
    FG_TRY(complete_chunks(w, err));
    FG_TRY(write_meta(w, err));
    FG_TRY(write_table_and_directory(w, err));
    FG_TRY(fg_writer_sync(w, false, err));
    FG_TRY(finish_parts(w, err));
    uint8_t slot[FG_SLOT_BYTES];
    fg_slot_encode(&w->slot, slot);
    FG_TRY(put(w, slot, sizeof slot, 0, err));
    FG_TRY(fg_writer_sync(w, false, err));
    FG_TRY(name_parts(w, err));
    if (rename(w->part, w->path) != 0) {
        w->state = FG_WRITER_BROKEN;
        return fg_fail(err, FG_EIO, "%s: %s, expected to rename it to %s", w->part, strerror(errno),
                       w->path);
    }
    w->state = FG_WRITER_DONE;
    const fg_status st = fg_io_sync_parent(w->path, err);
    /* Without PATH.part the journal is void, whenever its removal reaches the disk. */
    if (w->journal != NULL) fg_journal_remove(w->journal);
    return st;
}
