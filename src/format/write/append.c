/* SPDX-License-Identifier: MIT
 *
 * The new blob and a complete new directory go after the end of the file in one write; sync; then
 * the header slot that is not in force is written, which makes them valid; sync.  Nothing that the
 * slot in force refers to is ever written, so no crash can take the old generation away, and the
 * first sync keeps the new slot from reaching the disk before what it refers to.
 *
 * Directory and slot are edited as bytes instead of being encoded anew: what a newer writer left in
 * their unused fields survives an append by this one.
 */
#include "src/format/write/append.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/format/layout.h"

typedef unsigned long long ull; /* for %llu */

enum {
    LOCK_TRIES = 20, /* a tenth of a second apart */
    /* fields of a slot and of the directory's head (FORMAT.md 3, 4.1) */
    SLOT_WRITE_VERSION_AT = 12,
    SLOT_GENERATION_AT = 16,
    SLOT_FILE_BYTES_AT = 24,
    SLOT_DIR_OFFSET_AT = 32,
    SLOT_DIR_BYTES_AT = 40,
    SLOT_DIR_HASH_AT = 48,
    SLOT_HASH_AT = FG_SLOT_BYTES - 8,
    DIR_N_META_AT = 128,
};

struct fg_append {
    char *path;
    int fd;
    uint64_t size;       /* of the file at opening, a tail included */
    fg_model_file *file; /* the generation in force */
    fg_slot slot;
    uint8_t slot_bytes[FG_SLOT_BYTES];
    uint8_t *dir; /* [slot.dir_bytes] */
    bool done;
};

static fg_status fail_io(const fg_append *a, const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EIO, "%s: %s, expected %s", a->path, strerror(errno), wanted);
}

/* --- opening --- */

static fg_status lock(const fg_append *a, fg_err *err)
{
    for (int i = 0; flock(a->fd, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno != EWOULDBLOCK) return FG_OK; /* some network file systems know no flock */
        if (i == LOCK_TRIES) {
            return fg_fail(
                err, FG_EIO,
                "%s: another process is writing it, expected one writer; try again later", a->path);
        }
        const struct timespec tenth = {0, 100000000};
        (void)nanosleep(&tenth, NULL);
    }
    return FG_OK;
}

/* Between open and lock the name may have gone to a newly converted file. */
static fg_status check_name(fg_append *a, fg_err *err)
{
    struct stat mine, named;
    if (fstat(a->fd, &mine) != 0 || stat(a->path, &named) != 0) {
        return fail_io(a, "a file that stays in place", err);
    }
    if (mine.st_ino != named.st_ino || mine.st_dev != named.st_dev) {
        return fg_fail(err, FG_EIO, "%s: replaced by another file, expected it to stay; try again",
                       a->path);
    }
    a->size = (uint64_t)mine.st_size;
    return FG_OK;
}

/* Slot and directory in force, as bytes.  Their contents were checked when a->file was opened; the
 * hashes make sure that these are the same. */
static fg_status read_bytes(fg_append *a, fg_err *err)
{
    const fg_file io = {.fd = a->fd, .size = a->size, .path = a->path};
    uint8_t slots[FG_N_SLOT * FG_SLOT_BYTES];
    FG_TRY(fg_file_read(&io, slots, sizeof slots, 0, err));
    FG_TRY(fg_slot_read(&a->slot, slots, a->size, a->path, err));
    memcpy(a->slot_bytes, slots + (a->slot.generation - 1) % FG_N_SLOT * FG_SLOT_BYTES,
           sizeof a->slot_bytes);
    a->dir = fg_mem_alloc((size_t)a->slot.dir_bytes);
    if (a->dir == NULL) return fg_fail_nomem(err, a->path);
    FG_TRY(fg_file_read(&io, a->dir, (size_t)a->slot.dir_bytes, a->slot.dir_offset, err));
    if (fg_hash64(a->dir, (size_t)a->slot.dir_bytes) == a->slot.dir_hash) return FG_OK;
    return fg_fail(err, FG_ECHECKSUM, "%s: directory changes while it is read, expected one writer",
                   a->path);
}

/* What opening does not read and is small: chunk table and metadata. */
static fg_status check_hashes(const fg_append *a, fg_err *err)
{
    const fg_file io = {.fd = a->fd, .size = a->size, .path = a->path};
    for (uint64_t i = 0; i < fg_model_file_n_meta(a->file); i++) {
        const char *key, *bytes;
        uint64_t n;
        size_t len;
        fg_model_file_meta_at(a->file, i, &key, &n);
        FG_TRY(fg_model_file_meta(a->file, key, &bytes, &len, err));
    }
    const size_t n = (size_t)(8 * a->slot.n_chunk);
    uint8_t *table = fg_mem_alloc(n);
    if (table == NULL) return fg_fail_nomem(err, a->path);
    fg_status st = fg_file_read(&io, table, n, a->slot.table_offset, err);
    const uint64_t root = st == FG_OK ? fg_hash64(table, n) : 0;
    if (st == FG_OK && root != a->slot.data_root) {
        st = fg_fail(err, FG_ECHECKSUM,
                     "%s: chunk table has hash 0x%016llx, expected 0x%016llx; convert or copy the "
                     "file again",
                     a->path, (ull)root, (ull)a->slot.data_root);
    }
    fg_mem_free(table);
    return st;
}

static fg_status open_locked(fg_append *a, fg_err *err)
{
    a->fd = fg_io_open(a->path, O_RDWR | O_CLOEXEC);
    if (a->fd < 0) return fail_io(a, "a writable file", err);
    FG_TRY(lock(a, err));
    FG_TRY(fg_model_file_open(&a->file, a->path, err));
    FG_TRY(check_name(a, err));
    FG_TRY(read_bytes(a, err));
    return check_hashes(a, err);
}

fg_status fg_append_open(fg_append **out, const char *path, fg_err *err)
{
    *out = NULL;
    fg_append *a = fg_mem_zalloc(sizeof *a);
    if (a == NULL) return fg_fail_nomem(err, path);
    a->fd = -1;
    a->path = fg_mem_strndup(path, strlen(path));
    const fg_status st = a->path == NULL ? fg_fail_nomem(err, path) : open_locked(a, err);
    if (st != FG_OK) {
        fg_append_close(&a);
        return st;
    }
    *out = a;
    return FG_OK;
}

void fg_append_close(fg_append **out)
{
    fg_append *a = *out;
    if (a == NULL) return;
    fg_model_file_close(&a->file);
    if (a->fd >= 0) (void)close(a->fd);
    fg_mem_free(a->dir);
    fg_mem_free(a->path);
    fg_mem_free(a);
    *out = NULL;
}

const fg_model_file *fg_append_file(const fg_append *a)
{
    return a->file;
}

/* --- the new generation --- */

static void set_le(uint8_t *p, size_t n_byte, uint64_t v)
{
    for (size_t i = 0; i < n_byte; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static void pad_to(fg_buf *b, uint64_t len)
{
    while (b->len < len && !b->failed) fg_buf_u8(b, 0);
}

static void put_entry(fg_buf *b, const char *key, uint64_t offset, const void *bytes, uint64_t n)
{
    const uint64_t end = b->len + FG_META_KEY_BYTES;
    fg_buf_put_str(b, key);
    pad_to(b, end);
    fg_buf_u64(b, offset);
    fg_buf_u64(b, n);
    fg_buf_u64(b, fg_hash64(bytes, (size_t)n));
    fg_buf_u64(b, 0); /* reserved */
}

/* Where `key` stands, or belongs, among the entries of the directory. */
static uint32_t find_entry(const fg_append *a, const uint8_t *entries, const char *key, bool *there)
{
    const uint32_t n_meta = (uint32_t)fg_model_file_n_meta(a->file);
    for (uint32_t i = 0; i < n_meta; i++) {
        const int order = strcmp(key, (const char *)entries + (size_t)i * FG_META_RECORD_BYTES);
        *there = order == 0;
        if (order <= 0) return i;
    }
    *there = false;
    return n_meta;
}

/* Fills *tail with everything from the old end of the file on: padding, blob, padding, directory;
 * and *next with the slot that makes it valid. */
static fg_status build(const fg_append *a, const char *key, const void *bytes, uint64_t n,
                       fg_buf *tail, uint8_t *next, fg_err *err)
{
    const uint8_t *entries =
        a->dir + FG_DIR_HEAD_BYTES + fg_round_up(fg_model_file_shape(a->file)->n_layer, 16);
    const uint32_t n_meta = (uint32_t)fg_model_file_n_meta(a->file);
    bool there;
    const uint32_t at = find_entry(a, entries, key, &there);
    const uint64_t old_end = a->slot.file_bytes;
    const uint64_t offset = fg_round_up(old_end, FG_META_ALIGN);
    const uint64_t dir_offset = fg_round_up(offset + n, FG_META_ALIGN);
    const uint64_t dir_bytes = a->slot.dir_bytes + (there ? 0 : FG_META_RECORD_BYTES);
    if ((!there && n_meta == FG_MAX_META) || dir_bytes > FG_MAX_DIR_BYTES ||
        dir_offset > FG_MAX_FILE_BYTES - dir_bytes || a->slot.generation == UINT64_MAX) {
        return fg_fail(err, FG_ELIMIT,
                       "%s: %u metadata entries, generation %llu, no room for %s of %llu bytes, "
                       "expected at most %u entries",
                       a->path, n_meta, (ull)a->slot.generation, key, (ull)n,
                       (unsigned)FG_MAX_META);
    }
    pad_to(tail, offset - old_end);
    fg_buf_put(tail, bytes, (size_t)n);
    pad_to(tail, dir_offset - old_end);
    const size_t dir_at = tail->len;
    const uint8_t *here = entries + (size_t)at * FG_META_RECORD_BYTES;
    const uint8_t *rest = here + (there ? FG_META_RECORD_BYTES : 0);
    fg_buf_put(tail, a->dir, (size_t)(here - a->dir));
    put_entry(tail, key, offset, bytes, n);
    fg_buf_put(tail, rest, (size_t)(a->dir + a->slot.dir_bytes - rest));
    if (tail->failed) return fg_fail_nomem(err, a->path);
    set_le(tail->data + dir_at + DIR_N_META_AT, 4, n_meta + (there ? 0 : 1));

    const uint32_t version =
        a->slot.write_version > FG_WRITE_VERSION ? a->slot.write_version : FG_WRITE_VERSION;
    memcpy(next, a->slot_bytes, FG_SLOT_BYTES);
    set_le(next + SLOT_WRITE_VERSION_AT, 4, version);
    set_le(next + SLOT_GENERATION_AT, 8, a->slot.generation + 1);
    set_le(next + SLOT_FILE_BYTES_AT, 8, dir_offset + dir_bytes);
    set_le(next + SLOT_DIR_OFFSET_AT, 8, dir_offset);
    set_le(next + SLOT_DIR_BYTES_AT, 8, dir_bytes);
    set_le(next + SLOT_DIR_HASH_AT, 8, fg_hash64(tail->data + dir_at, (size_t)dir_bytes));
    set_le(next + SLOT_HASH_AT, 8, fg_hash64(next, SLOT_HASH_AT));
    return FG_OK;
}

/* --- writing --- */

static fg_status check_space(const fg_append *a, uint64_t new_size, fg_err *err)
{
    struct statvfs v;
    if (fstatvfs(a->fd, &v) != 0) return fail_io(a, "to ask for free space", err);
    uint64_t free_bytes;
    if (!fg_mul_u64(v.f_bavail, v.f_frsize, &free_bytes)) free_bytes = UINT64_MAX;
    if (new_size <= a->size || new_size - a->size <= free_bytes) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %llu bytes free on its file system, expected %llu; free space",
                   a->path, (ull)free_bytes, (ull)(new_size - a->size));
}

static fg_status sync_file(const fg_append *a, fg_err *err)
{
    return fsync(a->fd) == 0 ? FG_OK : fail_io(a, "to reach the disk", err);
}

static fg_status write_tail(const fg_append *a, const fg_buf *tail, fg_err *err)
{
    FG_TRY(check_space(a, a->slot.file_bytes + tail->len, err));
    fg_status st = fg_io_pwrite(a->fd, tail->data, tail->len, a->slot.file_bytes, a->path, err);
    if (st == FG_OK) st = sync_file(a, err);
    if (st == FG_OK) return FG_OK;
    const int ignored = ftruncate(a->fd, (off_t)a->size); /* else a tail, which readers ignore */
    (void)ignored;
    return st;
}

fg_status fg_append_meta(fg_append *a, const char *key, const void *bytes, uint64_t n, fg_err *err)
{
    if (a->done || !fg_meta_key_is_valid(key) || n > FG_MAX_FILE_BYTES / 2) {
        return fg_fail(err, FG_EINVAL, "%s: %s, expected %s", a->path,
                       a->done ? "a second append" : "bad metadata key or size",
                       a->done ? "one for each open" : "1 to 255 bytes of printable ASCII");
    }
    a->done = true;
    fg_buf tail = {0};
    uint8_t next[FG_SLOT_BYTES];
    const uint64_t slot_at = a->slot.generation % FG_N_SLOT * FG_SLOT_BYTES;
    fg_status st = build(a, key, bytes, n, &tail, next, err);
    if (st == FG_OK) st = write_tail(a, &tail, err);
    if (st == FG_OK) st = fg_io_pwrite(a->fd, next, sizeof next, slot_at, a->path, err);
    if (st == FG_OK) st = sync_file(a, err);
    fg_buf_fini(&tail);
    return st;
}

fg_status fg_model_file_append_meta(const char *path, const char *key, const void *bytes,
                                    uint64_t n, fg_err *err)
{
    fg_append *a;
    FG_TRY(fg_append_open(&a, path, err));
    const fg_status st = fg_append_meta(a, key, bytes, n, err);
    fg_append_close(&a);
    return st;
}
