/* SPDX-License-Identifier: MIT
 *
 * Stream, seal.
 *
 * The header slot is the last thing written, after everything else is on the disk, so that
 * PATH.part never opens as a model before it is complete; the rename comes after that.  Data passes
 * through one buffer, chunk hashes are taken on the way: memory is bounded by the buffer, the
 * directory and 8 bytes for each MiB of data, whatever the size of the model. How a writer begins,
 * and how it goes on after its process died, is in resume.c.
 */
#include "src/format/write/writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/format/seal.h"
#include "src/format/seal_text.h"
#include "src/format/view.h"
#include "src/format/write/writer_impl.h"

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

/* --- metadata --- */

fg_status fg_writer_set_meta(fg_writer *w, const char *key, const void *bytes, uint64_t n,
                             fg_err *err)
{
    const fg_directory *d = &w->plan.dir;
    uint32_t i = 0;
    while (i < d->n_meta && strcmp(d->meta[i].key, key) != 0) i++;
    if (w->state == FG_WRITER_DONE || i == d->n_meta || d->meta[i].bytes != n) {
        return fg_fail(err, FG_EINVAL, "%s: metadata %s of %llu bytes, expected %llu", w->path, key,
                       (ull)n, i == d->n_meta ? (ull)0 : (ull)d->meta[i].bytes);
    }
    if (w->blob[i] == NULL) w->blob[i] = fg_mem_alloc((size_t)n);
    if (w->blob[i] == NULL) return fg_fail_nomem(err, w->path);
    if (n != 0) memcpy(w->blob[i], bytes, (size_t)n);
    return FG_OK;
}

/* The entry of a planned "sha256" that the caller does not give: zeros until the end. */
static fg_status take_seal(fg_writer *w, size_t n, fg_err *err)
{
    const fg_directory *d = &w->plan.dir;
    if (n + 1 != d->n_meta) return FG_OK;
    while (w->seal < d->n_meta && strcmp(d->meta[w->seal].key, FG_SEAL_KEY) != 0) w->seal++;
    if (w->seal == d->n_meta) return FG_OK;
    w->blob[w->seal] = fg_mem_zalloc((size_t)d->meta[w->seal].bytes + 1);
    w->sha = fg_sha_create();
    w->mark_sha = fg_sha_create();
    const bool ok = w->blob[w->seal] != NULL && w->sha != NULL && w->mark_sha != NULL;
    return ok ? FG_OK : fg_fail_nomem(err, w->path);
}

/* Keys are unique in the plan: as many entries, each of them planned, are all of them. */
static fg_status take_meta(fg_writer *w, const fg_meta *meta, size_t n, fg_err *err)
{
    const fg_directory *d = &w->plan.dir;
    w->blob = fg_mem_zalloc_array((size_t)d->n_meta + 1, sizeof *w->blob);
    if (w->blob == NULL) return fg_fail_nomem(err, w->path);
    FG_TRY(take_seal(w, n, err));
    if (n + (w->sha != NULL) != d->n_meta) {
        return fg_fail(err, FG_EINVAL, "%s: %zu metadata entries, expected the %u of the plan",
                       w->path, n, d->n_meta);
    }
    for (size_t i = 0; i < n; i++) {
        FG_TRY(fg_writer_set_meta(w, meta[i].key, meta[i].data, meta[i].bytes, err));
    }
    for (size_t i = 0; i < d->n_meta; i++) {
        if (w->blob[i] != NULL) continue;
        return fg_fail(err, FG_EINVAL, "%s: no metadata %s, expected all of the plan", w->path,
                       d->meta[i].key);
    }
    return FG_OK;
}

/* --- the plan --- */

static fg_status copy_plan(fg_writer *w, const fg_file_plan *p, fg_err *err)
{
    const fg_directory *from = &p->dir;
    fg_directory *d = &w->plan.dir;
    const uint64_t n_expert = (uint64_t)from->shape.n_layer * from->shape.n_expert;
    FG_TRY(fg_directory_init(d, &from->shape, from->n_meta, w->path, err));
    if (d->n_meta > 0) memcpy(d->meta, from->meta, d->n_meta * sizeof *d->meta);
    memcpy(d->dense, from->dense, d->shape.n_layer * sizeof *d->dense);
    memcpy(d->expert, from->expert, (size_t)n_expert * sizeof *d->expert);
    memcpy(d->tensor, from->tensor, (size_t)d->n_tensor * sizeof *d->tensor);
    w->plan.slot = p->slot;
    w->pos = w->flushed = w->limit = p->slot.data_offset;
    return FG_OK;
}

const fg_file_plan *fg_writer_plan(const fg_writer *w)
{
    return &w->plan;
}

/* --- life --- */

static fg_status name_files(fg_writer *w, const char *path, fg_err *err)
{
    const size_t n = strlen(path);
    w->path = fg_mem_strndup(path, n);
    w->part = fg_mem_alloc(n + sizeof ".part");
    w->log = fg_mem_alloc(n + sizeof ".part.journal");
    if (w->path == NULL || w->part == NULL || w->log == NULL) return fg_fail_nomem(err, path);
    memcpy(w->part, path, n);
    memcpy(w->part + n, ".part", sizeof ".part");
    w->parts.path[0] = w->part;
    memcpy(w->log, path, n);
    memcpy(w->log + n, ".part.journal", sizeof ".part.journal");
    return FG_OK;
}

fg_status fg_writer_create(fg_writer **out, const char *path, const fg_file_plan *plan,
                           const fg_meta *meta, size_t n_meta, const char *const *split_dir,
                           fg_err *err)
{
    *out = NULL;
    fg_writer *w = fg_mem_zalloc(sizeof *w);
    if (w == NULL) return fg_fail_nomem(err, path);
    w->fd = -1;
    fg_parts_init(&w->parts);
    w->parts.dir = &w->plan.dir;
    w->every_bytes = CHECKPOINT_BYTES;
    w->every_ns = CHECKPOINT_NS;
    w->fresh = !fg_io_is_named(path);
    fg_status st = name_files(w, path, err);
    if (st == FG_OK) st = copy_plan(w, plan, err);
    if (st == FG_OK) st = take_meta(w, meta, n_meta, err);
    if (st == FG_OK) st = fg_writer_name_split(w, split_dir, err);
    if (st != FG_OK) fg_writer_destroy(&w);
    *out = w;
    return st;
}

void fg_writer_destroy(fg_writer **out)
{
    fg_writer *w = *out;
    if (w == NULL) return;
    /* An open descriptor means that the lock is ours; unlink before it is given up. */
    if (w->fd >= 0 && w->state != FG_WRITER_DONE && !w->kept) {
        if (w->journal != NULL) (void)fg_journal_remove(w->journal);
        fg_writer_drop_parts(w);
        if (fg_io_is_same(w->fd, w->part)) (void)unlink(w->part);
    }
    fg_writer_close_parts(w);
    fg_journal_close(&w->journal);
    fg_model_file_close(&w->view);
    if (w->fd >= 0) (void)close(w->fd);
    for (uint32_t i = 0; w->blob != NULL && i < w->plan.dir.n_meta; i++) fg_mem_free(w->blob[i]);
    fg_mem_free(w->blob);
    fg_directory_fini(&w->plan.dir);
    fg_hasher_destroy(w->hasher);
    fg_hasher_destroy(w->mark_hasher);
    fg_sha_destroy(w->sha);
    fg_sha_destroy(w->mark_sha);
    fg_mem_free(w->chunk_sha);
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

/* --- data --- */

uint64_t fg_writer_pos(const fg_writer *w)
{
    return w->pos;
}

uint64_t fg_writer_cut(const fg_writer *w, uint64_t pos, uint64_t to)
{
    const uint64_t at = pos - w->plan.slot.data_offset;
    const uint64_t end = pos + FG_FILE_CHUNK - at % FG_FILE_CHUNK;
    return end < to ? end : to;
}

/* The piece ends at `end`. */
static void end_piece(fg_writer *w, uint64_t end)
{
    fg_buf_u64(&w->piece, fg_hasher_digest(w->hasher));
    fg_hasher_reset(w->hasher);
    if (w->sha == NULL) return;
    const uint64_t idx = (end - 1 - w->plan.slot.data_offset) / FG_FILE_CHUNK;
    if (!fg_sha_digest(w->sha, w->chunk_sha + idx * FG_SHA256_BYTES)) w->piece.failed = true;
    fg_sha_reset(w->sha);
}

fg_status fg_writer_hash_chunk(fg_writer *w, uint64_t idx, const uint8_t *bytes, size_t n,
                               fg_err *err)
{
    if (w->sha == NULL || fg_sha256(bytes, n, w->chunk_sha + idx * FG_SHA256_BYTES)) return FG_OK;
    return fg_fail_nomem(err, w->path);
}

static void hash_bytes(fg_writer *w, const uint8_t *p, uint64_t n)
{
    const uint64_t to = w->pos + n;
    for (uint64_t at = w->pos; at < to;) {
        const uint64_t cut = fg_writer_cut(w, at, fg_writer_data_end(w));
        const uint64_t m = (cut < to ? cut : to) - at;
        fg_hasher_add(w->hasher, p, (size_t)m);
        if (w->sha != NULL) fg_sha_add(w->sha, p, (size_t)m);
        at += m;
        p += m;
        if (at == cut) end_piece(w, at);
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

/* fg_writer_drop will come back here. */
static void mark_place(fg_writer *w)
{
    w->mark = w->pos;
    w->mark_piece = w->piece.len;
    fg_hasher_copy(w->mark_hasher, w->hasher);
    if (w->sha != NULL) fg_sha_copy(w->mark_sha, w->sha);
}

/* --- spans --- */

void fg_writer_start_span(fg_writer *w, uint64_t first)
{
    w->span = (fg_span){first, first};
    w->pos = w->flushed = fg_file_plan_place(&w->plan, first);
    w->piece.len = 0;
    fg_hasher_reset(w->hasher);
    if (w->sha != NULL) fg_sha_reset(w->sha);
    while (first < w->plan.dir.n_tensor && w->done[first] == 0) first++;
    w->limit = fg_file_plan_place(&w->plan, first);
    mark_place(w);
}

void fg_writer_drop(fg_writer *w)
{
    if (w->state != FG_WRITER_BEGUN) return;
    w->pos = w->mark;
    w->piece.len = w->mark_piece;
    fg_hasher_copy(w->hasher, w->mark_hasher);
    if (w->sha != NULL) fg_sha_copy(w->sha, w->mark_sha);
    if (w->flushed > w->pos) w->flushed = w->pos; /* what is there will be written over */
}

fg_status fg_writer_take_span(fg_writer *w, fg_span s, const uint8_t *hash, fg_err *err)
{
    const uint64_t to = fg_file_plan_place(&w->plan, s.end);
    uint64_t at = fg_file_plan_place(&w->plan, s.first), cut;
    fg_cursor c = fg_cursor_make(hash, SIZE_MAX);
    for (; at < to; at = cut) {
        const uint64_t rel = at - w->plan.slot.data_offset;
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

/* The first tensor that begins at or after pos; those before it must end there. */
static fg_status find_end(const fg_writer *w, uint64_t *out, fg_err *err)
{
    uint64_t low = w->span.first, high = w->plan.dir.n_tensor;
    while (low < high) {
        const uint64_t mid = low + (high - low) / 2;
        if (fg_file_plan_place(&w->plan, mid) >= w->pos) high = mid;
        if (fg_file_plan_place(&w->plan, mid) < w->pos) low = mid + 1;
    }
    *out = low;
    if (low > w->span.first && fg_tensor_end(&w->plan.dir.tensor[low - 1]) > w->pos) {
        return fg_writer_misuse(w, "an end inside a tensor", "one between tensors", err);
    }
    return FG_OK;
}

fg_status fg_writer_end_span(fg_writer *w, fg_err *err)
{
    FG_TRY(find_end(w, &w->span.end, err));
    const fg_span s = w->span;
    if (s.end == s.first) return FG_OK;
    FG_TRY(fg_writer_pad(w, fg_file_plan_place(&w->plan, s.end), err));
    FG_TRY(fg_writer_flush(w, err));
    const uint64_t last = w->pos - w->plan.slot.data_offset;
    if (last % FG_FILE_CHUNK != 0 && last != w->plan.slot.data_bytes) end_piece(w, w->pos);
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
    if (idx == end) {
        FG_TRY(fg_writer_pad(w, fg_file_plan_place(&w->plan, end), err));
        mark_place(w);
        return FG_OK;
    }
    FG_TRY(fg_writer_end_span(w, err));
    const uint32_t role =
        idx < w->plan.dir.n_tensor ? w->plan.dir.tensor[idx].role : FG_ROLE_EXPERT_UP;
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
    w->plan.dir.tensor[idx].err_rms = e->err_rms;
    w->plan.dir.tensor[idx].err_max_row = e->err_max_row;
    w->plan.dir.tensor[idx].err_out = e->err_out;
    w->plan.dir.tensor[idx].peak = e->peak;
    if (w->changed != NULL) w->changed[idx] = 1;
}

fg_status fg_writer_set_lut(fg_writer *w, uint64_t idx, const fg_lut *lut, fg_err *err)
{
    fg_tensor *t = &w->plan.dir.tensor[idx];
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
        FG_TRY(fg_writer_cut_parts(w, w->plan.slot.file_bytes, err));
        FG_TRY(fg_model_file_view(&w->view, &w->parts, &w->plan, err));
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
    const uint64_t i = (from - w->plan.slot.data_offset) / FG_FILE_CHUNK;
    w->chunk[i] = fg_hash64(w->buf, (size_t)(end - from));
    w->known[i] = 1;
    return fg_writer_hash_chunk(w, i, w->buf, (size_t)(end - from), err);
}

/* Everything must be written.  Afterwards all chunk hashes are known. */
static fg_status complete_chunks(fg_writer *w, fg_err *err)
{
    FG_TRY(fg_writer_end_span(w, err));
    const uint8_t *missing = memchr(w->done, 0, (size_t)w->plan.dir.n_tensor);
    if (missing != NULL) {
        return fg_fail(err, FG_EINVAL, "%s: no data of tensor %llu, expected all %llu", w->path,
                       (ull)(missing - w->done), (ull)w->plan.dir.n_tensor);
    }
    if (w->n_edge > 1) qsort(w->edge, w->n_edge, sizeof *w->edge, edge_compare);
    for (size_t i = 0, n = 0; i < w->n_edge; i += n) FG_TRY(hash_edges(w, w->edge + i, &n, err));
    w->n_edge = 0;
    return FG_OK;
}

/* The text of all SHA-256 hashes into its blob. */
static fg_status make_seal(fg_writer *w, fg_err *err)
{
    const fg_directory *d = &w->plan.dir;
    fg_buf b = {0};
    if (w->sha == NULL) return FG_OK;
    uint8_t *meta = fg_mem_zalloc((size_t)d->n_meta * FG_SHA256_BYTES);
    bool ok = meta != NULL;
    for (uint32_t i = 0; ok && i < d->n_meta; i++)
        ok = fg_sha256(w->blob[i], (size_t)d->meta[i].bytes, meta + (size_t)i * FG_SHA256_BYTES);
    ok =
        ok && fg_seal_text_print(&b, d, &w->plan.slot, w->plan.slot.generation, meta, w->chunk_sha);
    ok = ok && b.len == d->meta[w->seal].bytes;
    if (ok) memcpy(w->blob[w->seal], b.data, b.len);
    fg_buf_fini(&b);
    fg_mem_free(meta);
    return ok ? FG_OK : fg_fail_nomem(err, w->path);
}

static fg_status write_meta(fg_writer *w, fg_err *err)
{
    FG_TRY(make_seal(w, err));
    for (uint32_t i = 0; i < w->plan.dir.n_meta; i++) {
        fg_meta_entry *m = &w->plan.dir.meta[i];
        m->hash = fg_hash64(w->blob[i], (size_t)m->bytes);
        FG_TRY(put(w, w->blob[i], m->bytes, m->offset, err));
    }
    return FG_OK;
}

static fg_status write_table_and_directory(fg_writer *w, fg_err *err)
{
    fg_slot *s = &w->plan.slot;
    fg_buf table = {0}, dir = {0};
    for (uint64_t i = 0; i < s->n_chunk; i++) fg_buf_u64(&table, w->chunk[i]);
    fg_directory_encode(&w->plan.dir, &dir);
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

/* The parts have their headers before the main file has one, and their names before it has its
 * own. */
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

/* PATH is complete under its name: what goes wrong now is a note. */
static void tidy_up(fg_writer *w)
{
    fg_err sync = {0};
    if (fg_io_sync_parent(w->path, &sync) != FG_OK) {
        (void)fg_fail(&w->note, FG_OK,
                      "%.200s is complete, but a loss of power now may undo it (%s)", w->path,
                      sync.msg);
    }
    /* Without PATH.part the journal is void, whenever its removal reaches the disk. */
    if (w->journal != NULL && !fg_journal_remove(w->journal)) {
        (void)fg_fail(&w->note, FG_OK, "%.200s is complete; %.200s could not be removed: %s",
                      w->path, w->log, strerror(errno));
    }
}

const char *fg_writer_note(const fg_writer *w)
{
    return w->note.msg;
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
    fg_slot_encode(&w->plan.slot, slot);
    FG_TRY(put(w, slot, sizeof slot, 0, err));
    FG_TRY(fg_writer_sync(w, false, err));
    FG_TRY(name_parts(w, err));
    w->state = FG_WRITER_BROKEN;
    FG_TRY(fg_io_rename(w->fd, w->part, w->path, w->fresh, err));
    w->state = FG_WRITER_DONE;
    tidy_up(w);
    return FG_OK;
}
