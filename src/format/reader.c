/* SPDX-License-Identifier: MIT
 *
 * Open, look up, verify.
 *
 * Header slots and directory are read into memory of our own and checked there, not in the
 * mapping: what was checked can then not change when another process writes to the file.  Opening
 * touches no page of tensor data; a file of 250 GB opens in milliseconds.  The whole-file check
 * reads through one buffer instead of the mapping, so that verifying does not push the weights of
 * a running model out of this process' resident set.
 */
#include "src/format/reader.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"
#include "src/format/parts.h"
#include "src/format/view.h"

typedef unsigned long long ull; /* for %llu */

enum {
    VERIFY_CHUNKS = 4, /* chunks of one read */
};

struct fg_model_file {
    fg_file file; /* data is NULL where the weights could not be mapped */
    fg_file_plan plan;
    fg_parts parts;
    bool is_view;                /* the plan's arrays belong to the writer */
    fg_err no_map;               /* why not; code FG_OK: they are */
    fg_stamp stamp[FG_MAX_PART]; /* of each part when it was opened */
    _Atomic(char *) *meta;       /* [n_meta] copies, NULL until asked for */
    _Atomic(char *) table;       /* chunk hashes, likewise */
};

static fg_status read_slots(fg_model_file *f, fg_err *err)
{
    uint8_t slots[FG_N_SLOT * FG_SLOT_BYTES];
    if (f->file.size < sizeof slots) {
        FG_TRY(fg_file_read(&f->file, slots, (size_t)f->file.size, 0, err));
        FG_TRY(fg_layout_refuse(slots, (size_t)f->file.size, f->file.path, err));
        return fg_fail(err, FG_EFORMAT, "%s: %llu bytes, expected at least %zu of a .fulgur file",
                       f->file.path, (ull)f->file.size, sizeof slots);
    }
    FG_TRY(fg_file_read(&f->file, slots, sizeof slots, 0, err));
    return fg_slot_read(&f->plan.slot, slots, f->file.size, f->file.path, err);
}

static fg_status read_directory(fg_model_file *f, fg_err *err)
{
    const fg_slot *s = &f->plan.slot;
    const char *path = f->file.path;
    uint8_t *bytes = fg_mem_alloc((size_t)s->dir_bytes);
    if (bytes == NULL) return fg_fail_nomem(err, path);
    fg_status st = fg_file_read(&f->file, bytes, (size_t)s->dir_bytes, s->dir_offset, err);
    if (st == FG_OK) {
        const uint64_t h = fg_hash64(bytes, (size_t)s->dir_bytes);
        if (h != s->dir_hash) {
            st = fg_fail(err, FG_ECHECKSUM,
                         "%s: directory has hash 0x%016llx, expected 0x%016llx; convert or copy "
                         "the file again",
                         path, (ull)h, (ull)s->dir_hash);
        } else {
            st = fg_directory_decode(&f->plan.dir, bytes, (size_t)s->dir_bytes, s, path, err);
        }
    }
    fg_mem_free(bytes);
    return st;
}

static fg_status open_parts(fg_model_file *f, fg_err *err)
{
    f->parts.dir = &f->plan.dir;
    f->parts.fd[0] = f->file.fd;
    f->parts.path[0] = f->file.path;
    FG_TRY(fg_parts_open(&f->parts, &f->plan.slot, err));
    for (uint32_t k = 1; k < f->parts.n; k++) (void)fg_stamp_take(&f->stamp[k], f->parts.fd[k]);
    f->meta = fg_mem_zalloc_array(f->plan.dir.n_meta, sizeof *f->meta);
    return f->meta == NULL ? fg_fail_nomem(err, f->file.path) : FG_OK;
}

/* Whoever reads the weights needs no mapping: a failure is for those who do. */
static void map_weights(fg_model_file *f)
{
    fg_file *io = &f->file;
    io->data = fg_mapping_open(io->fd, io->size, false, io->path);
    if (io->data == NULL) {
        (void)fg_fail(&f->no_map, FG_EIO, "%s: %s, expected to map %llu bytes", io->path,
                      strerror(errno), (ull)io->size);
        return;
    }
    fg_mapping_set_path(io->data, fg_parts_path_at, &f->parts);
    if (fg_parts_map(&f->parts, io->data, &f->no_map) == FG_OK) return;
    fg_mapping_close(io->data, io->size);
    io->data = NULL;
}

fg_status fg_model_file_open(fg_model_file **out, const char *path, fg_err *err)
{
    *out = NULL;
    fg_model_file *f = fg_mem_zalloc(sizeof *f);
    if (f == NULL) return fg_fail_nomem(err, path);
    fg_parts_init(&f->parts);
    fg_status st = fg_file_open(&f->file, path, false, err); /* sets or closes f->file */
    if (st == FG_OK) (void)fg_stamp_take(&f->stamp[0], f->file.fd);
    if (st == FG_OK) st = read_slots(f, err);
    if (st == FG_OK) st = read_directory(f, err);
    if (st == FG_OK) st = open_parts(f, err);
    if (st != FG_OK) {
        fg_model_file_close(&f);
        return st;
    }
    map_weights(f);
    *out = f;
    return FG_OK;
}

fg_status fg_model_file_view(fg_model_file **out, const fg_parts *parts, const fg_file_plan *plan,
                             fg_err *err)
{
    const char *path = parts->path[0];
    *out = NULL;
    fg_model_file *f = fg_mem_zalloc(sizeof *f);
    if (f == NULL) return fg_fail_nomem(err, path);
    fg_status st = FG_OK;
    f->is_view = true;
    fg_parts_init(&f->parts);
    f->plan = *plan;
    f->plan.dir.n_meta = 0;
    f->file = FG_FILE_INIT;
    f->file.path = fg_mem_strndup(path, strlen(path));
    if (f->file.path == NULL) {
        st = fg_fail_nomem(err, path);
        goto fail;
    }
    f->file.fd = fcntl(parts->fd[0], F_DUPFD_CLOEXEC, 0);
    f->file.size = plan->slot.file_bytes;
    if (f->file.fd >= 0) {
        f->file.data = fg_mapping_open(f->file.fd, f->file.size, false, f->file.path);
    }
    if (f->file.data == NULL) {
        st = fg_fail(err, FG_EIO, "%s: %s, expected to map %llu bytes", path, strerror(errno),
                     (ull)plan->slot.file_bytes);
        goto fail;
    }
    st = fg_parts_map(parts, f->file.data, err);
    if (st != FG_OK) goto fail;
    *out = f;
    return FG_OK;
fail:
    fg_model_file_close(&f);
    return st;
}

void fg_model_file_close(fg_model_file **f)
{
    if (*f == NULL) return;
    fg_mapping_close((*f)->file.data, (*f)->file.size); /* before what it borrows */
    (*f)->file.data = NULL;
    for (uint32_t i = 0; (*f)->meta != NULL && i < (*f)->plan.dir.n_meta; i++)
        fg_mem_free((*f)->meta[i]);
    fg_mem_free((*f)->meta);
    fg_mem_free((*f)->table);
    if (!(*f)->is_view) fg_directory_fini(&(*f)->plan.dir);
    fg_parts_close(&(*f)->parts);
    fg_file_close(&(*f)->file);
    fg_mem_free(*f);
    *f = NULL;
}

/* --- access --- */

const char *fg_model_file_path(const fg_model_file *f)
{
    return f->file.path;
}

uint64_t fg_model_file_size(const fg_model_file *f)
{
    return f->file.size;
}

const fg_file_plan *fg_model_file_plan(const fg_model_file *f)
{
    return &f->plan;
}

const fg_shape *fg_model_file_shape(const fg_model_file *f)
{
    return &f->plan.dir.shape;
}

uint64_t fg_model_file_data_root(const fg_model_file *f)
{
    return f->plan.slot.data_root;
}

uint32_t fg_model_file_n_part(const fg_model_file *f)
{
    return f->parts.n;
}

const char *fg_model_file_part_path(const fg_model_file *f, uint32_t part)
{
    assert(part < f->parts.n);
    return f->parts.path[part];
}

uint32_t fg_model_file_part_at(const fg_model_file *f, uint64_t offset, uint64_t *end)
{
    return fg_parts_at(&f->parts, offset, end);
}

fg_status fg_model_file_check_head(const fg_model_file *f, uint32_t part, const uint8_t *head,
                                   fg_err *err)
{
    fg_slot s;
    const char *path = fg_model_file_part_path(f, part);
    if (part != 0) return fg_part_check(head, &f->plan.slot, part, path, f->file.path, err);
    FG_TRY(fg_slot_read(&s, head, f->file.size, path, err));
    if (s.data_root == f->plan.slot.data_root && s.n_part == f->plan.slot.n_part) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: changed while being opened, expected one file", path);
}

uint64_t fg_model_file_n_tensor(const fg_model_file *f)
{
    return f->plan.dir.n_tensor;
}

const fg_tensor *fg_model_file_tensor(const fg_model_file *f, uint64_t idx)
{
    assert(idx < f->plan.dir.n_tensor);
    return &f->plan.dir.tensor[idx];
}

const fg_tensor *fg_model_file_find(const fg_model_file *f, fg_role role, uint32_t layer,
                                    uint32_t expert)
{
    const uint64_t idx = fg_order_index(&f->plan.dir.shape, role, layer, expert);
    return idx == UINT64_MAX ? NULL : &f->plan.dir.tensor[idx];
}

fg_extent fg_model_file_dense_extent(const fg_model_file *f, uint32_t layer)
{
    assert(layer < f->plan.dir.shape.n_layer);
    return f->plan.dir.dense[layer];
}

fg_extent fg_model_file_expert_extent(const fg_model_file *f, uint32_t layer, uint32_t expert)
{
    assert(layer < f->plan.dir.shape.n_layer && expert < f->plan.dir.shape.n_expert);
    return f->plan.dir.expert[(uint64_t)layer * f->plan.dir.shape.n_expert + expert];
}

const uint8_t *fg_model_file_data(const fg_model_file *f, uint64_t offset)
{
    assert(offset >= f->plan.slot.data_offset &&
           offset - f->plan.slot.data_offset < f->plan.slot.data_bytes);
    /* without a mapping an address of nothing: distances are all that a reader of it asks for */
    return (f->file.data != NULL ? f->file.data : (const uint8_t *)FG_HUGE_PAGE_BYTES) + offset;
}

fg_status fg_model_file_mapped(const fg_model_file *f, fg_err *err)
{
    if (f->no_map.code != FG_OK && err != NULL) *err = f->no_map;
    return f->no_map.code;
}

void fg_model_file_let_go(const fg_model_file *f, uint64_t offset, uint64_t bytes)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint8_t *p = (uint8_t *)(uintptr_t)fg_model_file_data(f, offset);
    const uint64_t before = (uintptr_t)p % page;
    (void)madvise(p - before, (size_t)(bytes + before), MADV_DONTNEED);
}

/* --- metadata --- */

/* *out, freed with fg_mem_free, has a NUL after its bytes. */
static fg_status read_meta(const fg_model_file *f, const fg_meta_entry *m, char **out, fg_err *err)
{
    *out = NULL;
    char *p = fg_mem_alloc((size_t)m->bytes + 1);
    if (p == NULL) return fg_fail_nomem(err, f->file.path);
    fg_status st = fg_file_read(&f->file, p, (size_t)m->bytes, m->offset, err);
    const uint64_t h = st == FG_OK ? fg_hash64(p, (size_t)m->bytes) : 0;
    if (st == FG_OK && h != m->hash) {
        st = fg_fail(err, FG_ECHECKSUM,
                     "%s: metadata %s has hash 0x%016llx, expected 0x%016llx; convert or copy the "
                     "file again",
                     f->file.path, m->key, (ull)h, (ull)m->hash);
    }
    p[m->bytes] = '\0';
    if (st == FG_OK) *out = p;
    if (st != FG_OK) fg_mem_free(p);
    return st;
}

/* Keeps p in *slot, or what another thread has put there before. */
static void *keep(_Atomic(char *) *slot, char *p)
{
    char *there = NULL;
    if (atomic_compare_exchange_strong(slot, &there, p)) return p;
    fg_mem_free(p);
    return there;
}

fg_status fg_model_file_meta(const fg_model_file *f, const char *key, const char **bytes, size_t *n,
                             fg_err *err)
{
    *bytes = NULL;
    *n = 0;
    uint32_t lo = 0, hi = f->plan.dir.n_meta; /* keys are ascending */
    while (lo < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        const fg_meta_entry *m = &f->plan.dir.meta[mid];
        const int order = strcmp(key, m->key);
        if (order == 0) {
            char *p = atomic_load(&f->meta[mid]);
            if (p == NULL) {
                FG_TRY(read_meta(f, m, &p, err));
                p = keep(&f->meta[mid], p);
            }
            *bytes = p;
            *n = (size_t)m->bytes;
            return FG_OK;
        }
        if (order < 0) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return FG_OK;
}

uint64_t fg_model_file_n_meta(const fg_model_file *f)
{
    return f->plan.dir.n_meta;
}

void fg_model_file_meta_at(const fg_model_file *f, uint64_t idx, const char **key, uint64_t *n)
{
    assert(idx < f->plan.dir.n_meta);
    *key = f->plan.dir.meta[idx].key;
    *n = f->plan.dir.meta[idx].bytes;
}

/* --- verification --- */

/* Describes the tensors with bytes in [begin, end): the first by name, the others by number. */
static void name_tensors(const fg_model_file *f, uint64_t begin, uint64_t end, char *buf, size_t n)
{
    char name[96] = "padding";
    uint64_t count = 0;
    for (uint64_t i = 0; i < f->plan.dir.n_tensor; i++) {
        const fg_tensor *t = &f->plan.dir.tensor[i];
        const uint64_t scales =
            t->scale_offset == 0 ? 0 : FG_PANEL_ROWS * sizeof(float) * fg_n_panel(t->n_row);
        const bool hit = (t->offset < end && fg_tensor_end(t) > begin) ||
                         (scales != 0 && t->scale_offset < end && t->scale_offset + scales > begin);
        if (!hit) continue;
        if (count++ == 0) fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    }
    if (count > 1) {
        (void)snprintf(buf, n, "%s and %llu more", name, (ull)(count - 1));
    } else {
        (void)snprintf(buf, n, "%s", name);
    }
}

/* Of a split file, which of its parts have bytes in [begin, end): " in parts 0, 2". */
static void name_parts(const fg_model_file *f, uint64_t begin, uint64_t end, char *buf, size_t n)
{
    const char *before = " in part ";
    size_t len = 0;
    buf[0] = '\0';
    for (uint32_t k = 0; f->parts.n > 1 && k < f->parts.n && len < n; k++) {
        if (fg_parts_share(&f->parts, k, begin, end) == 0) continue;
        len += (size_t)snprintf(buf + len, n - len, "%s%u", before, k);
        before = ", ";
    }
}

static fg_status check_chunk(const fg_model_file *f, uint64_t chunk, const uint8_t *bytes, size_t n,
                             const uint8_t *table, fg_err *err)
{
    fg_cursor c = fg_cursor_make(table + 8 * chunk, 8);
    const uint64_t want = fg_cursor_u64(&c), got = fg_hash64(bytes, n);
    if (got == want) return FG_OK;
    char names[160], parts[128];
    const uint64_t begin = f->plan.slot.data_offset + chunk * FG_FILE_CHUNK;
    name_tensors(f, begin, begin + n, names, sizeof names);
    name_parts(f, begin, begin + n, parts, sizeof parts);
    return fg_fail(err, FG_ECHECKSUM,
                   "%s: chunk %llu (%s%s) has hash 0x%016llx, expected 0x%016llx; convert or copy "
                   "the file again",
                   f->file.path, (ull)chunk, names, parts, (ull)got, (ull)want);
}

/* The hashes of all chunks, checked, 8 * n_chunk bytes; freed with fg_mem_free. */
static fg_status read_table(const fg_model_file *f, uint8_t **out, fg_err *err)
{
    const fg_slot *s = &f->plan.slot;
    const size_t n = (size_t)(8 * s->n_chunk);
    *out = NULL;
    uint8_t *table = fg_mem_alloc(n);
    if (table == NULL) return fg_fail_nomem(err, f->file.path);
    fg_status st = fg_file_read(&f->file, table, n, s->table_offset, err);
    const uint64_t root = st == FG_OK ? fg_hash64(table, n) : 0;
    if (st == FG_OK && root != s->data_root) {
        st = fg_fail(err, FG_ECHECKSUM,
                     "%s: chunk table has hash 0x%016llx, expected 0x%016llx; convert or copy "
                     "the file again",
                     f->file.path, (ull)root, (ull)s->data_root);
    }
    if (st == FG_OK) *out = table;
    if (st != FG_OK) fg_mem_free(table);
    return st;
}

static fg_status verify_chunks(const fg_model_file *f, uint8_t *buf, const uint8_t *table,
                               bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                               void *ctx, fg_err *err)
{
    const fg_slot *s = &f->plan.slot;
    for (uint32_t k = 0; k < f->parts.n; k++) {
        (void)posix_fadvise(f->parts.fd[k], (off_t)s->data_offset, (off_t)s->data_bytes,
                            POSIX_FADV_SEQUENTIAL);
    }
    for (uint64_t at = 0; at < s->data_bytes;) {
        const uint64_t left = s->data_bytes - at, most = VERIFY_CHUNKS * FG_FILE_CHUNK;
        const size_t n = (size_t)(left < most ? left : most);
        FG_TRY(fg_parts_read(&f->parts, buf, n, s->data_offset + at, err));
        for (size_t i = 0; i < n; i += (size_t)FG_FILE_CHUNK) {
            const size_t m = n - i < FG_FILE_CHUNK ? n - i : (size_t)FG_FILE_CHUNK;
            FG_TRY(check_chunk(f, (at + i) / FG_FILE_CHUNK, buf + i, m, table, err));
        }
        at += n;
        if (progress != NULL && !progress(ctx, at, s->data_bytes)) {
            return fg_fail(err, FG_ECANCEL, "%s: cancelled after %llu bytes, expected %llu",
                           f->file.path, (ull)at, (ull)s->data_bytes);
        }
    }
    return FG_OK;
}

static fg_status verify_data(const fg_model_file *f,
                             bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                             fg_err *err)
{
    uint8_t *table, *buf = fg_mem_alloc((size_t)(VERIFY_CHUNKS * FG_FILE_CHUNK));
    if (buf == NULL) return fg_fail_nomem(err, f->file.path);
    fg_status st = read_table(f, &table, err);
    if (st == FG_OK) st = verify_chunks(f, buf, table, progress, ctx, err);
    fg_mem_free(buf);
    fg_mem_free(table);
    return st;
}

fg_status fg_model_file_verify(const fg_model_file *f,
                               bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                               void *ctx, fg_err *err)
{
    for (uint32_t i = 0; i < f->plan.dir.n_meta; i++) {
        char *p;
        FG_TRY(read_meta(f, &f->plan.dir.meta[i], &p, err));
        fg_mem_free(p);
    }
    return verify_data(f, progress, ctx, err);
}

/* --- while it is in use --- */

static fg_status fail_changed(const fg_model_file *f, const char *path, const fg_err *why,
                              fg_err *err)
{
    if (why->code == FG_ENOMEM || why->code == FG_ECANCEL) {
        if (err != NULL) *err = *why;
        return why->code;
    }
    return fg_fail(err, FG_EIO, "%s: changed while in use, expected the file as it was opened",
                   path == NULL ? f->file.path : path);
}

fg_status fg_model_file_check_use(fg_model_file *f,
                                  bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                                  void *ctx, fg_err *err)
{
    fg_stamp now[FG_MAX_PART];
    const char *moved = NULL;
    fg_err why = {0};
    for (uint32_t k = 0; k < f->parts.n; k++) {
        if (moved == NULL && fg_stamp_moved(&f->stamp[k], f->parts.fd[k])) moved = f->parts.path[k];
        /* before the bytes are read; what is behind the weights was read when it was opened, and is
         * added to, but never shorter */
        const bool known = fg_stamp_take(&now[k], f->parts.fd[k]);
        if (known && now[k].size < f->stamp[k].size) {
            return fail_changed(f, f->parts.path[k], &why, err);
        }
    }
    if (moved == NULL) return FG_OK;
    if (verify_data(f, progress, ctx, &why) != FG_OK) return fail_changed(f, moved, &why, err);
    for (uint32_t k = 0; k < f->parts.n; k++) f->stamp[k] = now[k];
    return FG_OK;
}

/* What of a chunk is not among bytes[n] at offset is read. */
static fg_status check_bytes(const fg_model_file *f, const uint8_t *bytes, uint64_t n,
                             uint64_t offset, uint8_t *chunk, const uint8_t *table, fg_err *err)
{
    const fg_slot *s = &f->plan.slot;
    const uint64_t from = offset - s->data_offset, to = from + n;
    for (uint64_t i = from / FG_FILE_CHUNK; i * FG_FILE_CHUNK < to && i < s->n_chunk; i++) {
        const uint64_t begin = i * FG_FILE_CHUNK, left = s->data_bytes - begin;
        const uint64_t end = begin + (left < FG_FILE_CHUNK ? left : FG_FILE_CHUNK);
        const uint64_t a = from > begin ? from : begin, b = to < end ? to : end;
        FG_TRY(fg_parts_read(&f->parts, chunk, (size_t)(a - begin), s->data_offset + begin, err));
        memcpy(chunk + (a - begin), bytes + (a - from), (size_t)(b - a));
        FG_TRY(fg_parts_read(&f->parts, chunk + (b - begin), (size_t)(end - b), s->data_offset + b,
                             err));
        FG_TRY(check_chunk(f, i, chunk, (size_t)(end - begin), table, err));
    }
    return FG_OK;
}

fg_status fg_model_file_check_bytes(const fg_model_file *file, const uint8_t *bytes, uint64_t n,
                                    uint64_t offset, fg_err *err)
{
    fg_model_file *f = (fg_model_file *)(uintptr_t)file; /* only the copy of the table is new */
    uint8_t *table = (uint8_t *)atomic_load(&f->table),
            *chunk = fg_mem_alloc((size_t)FG_FILE_CHUNK);
    fg_err why = {0};
    assert(offset >= f->plan.slot.data_offset);
    fg_status st = chunk == NULL ? fg_fail_nomem(&why, f->file.path) : FG_OK;
    if (st == FG_OK && table == NULL && (st = read_table(f, &table, &why)) == FG_OK) {
        table = keep(&f->table, (char *)table);
    }
    if (st == FG_OK) st = check_bytes(f, bytes, n, offset, chunk, table, &why);
    fg_mem_free(chunk);
    return st == FG_OK ? FG_OK : fail_changed(f, NULL, &why, err);
}

fg_status fg_model_file_read_chunk(const fg_model_file *file, uint64_t idx, uint8_t *buf, size_t *n,
                                   fg_err *err)
{
    fg_model_file *f = (fg_model_file *)(uintptr_t)file; /* only the copy of the table is new */
    const fg_slot *s = &f->plan.slot;
    const uint64_t at = idx * FG_FILE_CHUNK, left = s->data_bytes - at;
    uint8_t *table = (uint8_t *)atomic_load(&f->table);
    assert(idx < s->n_chunk);
    if (table == NULL) {
        FG_TRY(read_table(f, &table, err));
        table = keep(&f->table, (char *)table);
    }
    *n = (size_t)(left < FG_FILE_CHUNK ? left : FG_FILE_CHUNK);
    FG_TRY(fg_parts_read(&f->parts, buf, *n, s->data_offset + at, err));
    return check_chunk(f, idx, buf, *n, table, err);
}

void fg_model_file_name_chunk(const fg_model_file *f, uint64_t idx, char *buf, size_t n)
{
    const uint64_t begin = f->plan.slot.data_offset + idx * FG_FILE_CHUNK;
    char names[128], parts[64];
    name_tensors(f, begin, begin + FG_FILE_CHUNK, names, sizeof names);
    name_parts(f, begin, begin + FG_FILE_CHUNK, parts, sizeof parts);
    (void)snprintf(buf, n, "%s%s", names, parts);
}
