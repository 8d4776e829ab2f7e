/* SPDX-License-Identifier: MIT
 *
 * The writer's lives: how one begins, what it leaves for the next, and how the next goes on.
 *
 * Data first: a checkpoint syncs PATH.part, then the record that says so.  A record that is torn is
 * not believed, nor are those behind it.  Of the others every span is read back and compared: one
 * that is not in the file as its record says is written again, and said again by a later record,
 * with equal hashes, since equal work gives equal bytes.  What is between the spans may hold
 * anything: it is written again, padding included.
 *
 * A file of the user's under one of our names is not ours to write: PATH.part has a mark where the
 * header will be, on the disk before anything else is in it (layout.h).
 *
 * The lock on PATH.part is an advisory flock, which the kernel drops when the process dies: a
 * leftover of a killed writer is taken over, a live one is refused.  It guards the journal too.
 * The other parts of a split file (writer_parts.c) are locked likewise, because their folders may
 * be shared.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/format/write/writer_impl.h"

/* --- begin --- */

/* True when `path` still names the file that fd holds: between our open and our lock its former
 * owner may have finished and renamed it, and what we would truncate is the finished model. */
static bool is_still_named(const char *path, int fd)
{
    struct stat mine, named;
    return fstat(fd, &mine) == 0 && lstat(path, &named) == 0 && mine.st_ino == named.st_ino &&
           mine.st_dev == named.st_dev;
}

fg_status fg_writer_lock(const char *path, int *out, bool *is_empty, fg_err *err)
{
    struct stat sb;
    int fd;
    FG_TRY(fg_io_open_own(&fd, path, true, err));
    /* Some network file systems know no flock: go on without. */
    const bool refused = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (refused || !is_still_named(path, fd)) {
        (void)close(fd);
        return fg_fail(err, FG_EIO,
                       "%s: another process is writing it, expected one writer; wait for it or "
                       "choose another name",
                       path);
    }
    if (fstat(fd, &sb) != 0) {
        (void)close(fd);
        return fg_fail(err, FG_EIO, "%s: %s, expected to ask for its size", path, strerror(errno));
    }
    *is_empty = sb.st_size == 0;
    *out = fd;
    return FG_OK;
}

/* The beginning of a file that is not empty. */
static fg_status read_head(fg_writer *w, fg_file_kind *head, bool *is_empty, fg_err *err)
{
    uint8_t first[FG_KIND_BYTES] = {0};
    const ssize_t n = pread(w->fd, first, sizeof first, 0);
    if (n < 0) return fg_writer_fail_io(w, "a readable file", err);
    size_t zero = 0;
    while (zero < (size_t)n && first[zero] == 0) zero++;
    /* power was lost before the mark had reached the disk */
    *is_empty = (size_t)n < sizeof first && zero == (size_t)n;
    *head = fg_file_kind_of(first);
    return FG_OK;
}

static fg_status open_part(fg_writer *w, fg_err *err)
{
    bool is_empty;
    fg_file_kind head = FG_KIND_UNFINISHED;
    FG_TRY(fg_writer_lock(w->part, &w->fd, &is_empty, err));
    w->kept = true; /* until it is known that there is nothing to keep */
    w->parts.fd[0] = w->fd;
    if (!is_empty) FG_TRY(read_head(w, &head, &is_empty, err));
    w->kept = !is_empty;
    w->stranger = !is_empty && head == FG_KIND_OTHER;
    w->is_model = !is_empty && head == FG_KIND_MODEL;
    w->state = FG_WRITER_BROKEN; /* until begin succeeds */
    return FG_OK; /* from here on ours: destroy removes it, unless it is worth keeping */
}

static dev_t drive_of(const fg_writer *w, uint32_t part)
{
    struct stat sb;
    return fstat(w->parts.fd[part], &sb) == 0 ? sb.st_dev : 0;
}

/* On the file system of one part; have[n_part]: bytes of the parts that are there already. */
static fg_status check_drive(const fg_writer *w, uint32_t part, const uint64_t *have, fg_err *err)
{
    struct statvfs v;
    const dev_t drive = drive_of(w, part);
    uint64_t need = 0, free_bytes;
    for (uint32_t k = 0; k < w->parts.n; k++) {
        uint64_t more = 0;
        if (drive_of(w, k) == drive)
            more = fg_file_plan_share(&w->plan, k, 0, w->plan.slot.file_bytes) - have[k];
        if (k == 0 && drive_of(w, 0) == drive) {
            if (w->reserve_bytes == UINT64_MAX) return FG_OK;
            if (!fg_add_u64(more, w->reserve_bytes, &more)) more = UINT64_MAX;
        }
        if (!fg_add_u64(need, more, &need)) need = UINT64_MAX;
    }
    const char *path = w->parts.path[part];
    if (fstatvfs(w->parts.fd[part], &v) != 0) {
        return fg_fail(err, FG_EIO, "%s: %s, expected to ask for free space", path,
                       strerror(errno));
    }
    if (!fg_mul_u64(v.f_bavail, v.f_frsize, &free_bytes)) free_bytes = UINT64_MAX;
    if (free_bytes >= need) return FG_OK;
    return fg_fail(err, FG_EIO,
                   "%s: %llu bytes free on its file system, expected %llu; free space or "
                   "choose another folder",
                   path, (ull)free_bytes, (ull)need);
}

static fg_status check_space(const fg_writer *w, const uint64_t *have, fg_err *err)
{
    for (uint32_t k = 0; k < w->parts.n; k++) FG_TRY(check_drive(w, k, have, err));
    return FG_OK;
}

void fg_writer_reserve(fg_writer *w, uint64_t bytes)
{
    w->reserve_bytes = bytes;
}

/* size[n_part] */
static fg_status part_sizes(const fg_writer *w, uint64_t *size, fg_err *err)
{
    for (uint32_t k = 0; k < w->parts.n; k++) {
        struct stat sb = {0};
        if (w->parts.fd[k] >= 0 && fstat(w->parts.fd[k], &sb) != 0) {
            return fg_fail(err, FG_EIO, "%s: %s, expected to ask for its size", w->parts.path[k],
                           strerror(errno));
        }
        size[k] = (uint64_t)sb.st_size;
    }
    return FG_OK;
}

/* True when the journal describes something that is there. */
static bool has_work(const fg_writer *w, const uint64_t *size)
{
    for (size_t i = 0; i < fg_journal_n_record(w->journal); i++) {
        if (fg_journal_record(w->journal, i)->n_span > 0) return size[0] > w->plan.slot.data_offset;
    }
    return false;
}

/* Somebody's own file, that happens to have our name. */
static fg_status refuse_stranger(const fg_writer *w, fg_err *err)
{
    return fg_fail(err, FG_EINVAL,
                   "%s: not a file that a conversion left, expected one or nothing there; move it "
                   "away or choose another name",
                   w->part);
}

/* A whole model is ours when a conversion to it died before the rename: then it has a journal. */
static fg_status check_stranger(const fg_writer *w, const uint64_t *size, fg_err *err)
{
    const bool foreign = w->stranger || (w->is_model && !fg_journal_is_begun(w->journal));
    return foreign && !has_work(w, size) ? refuse_stranger(w, err) : FG_OK;
}

/* Opens PATH.part, reads the journal, opens the other parts; size[n_part]. */
static fg_status prepare_begin(fg_writer *w, uint64_t *size, fg_err *err)
{
    if (w->state != FG_WRITER_NEW)
        return fg_writer_misuse(w, "begin of a writer that has begun", "a new one", err);
    /* What a refused attempt left is kept for the next. */
    if (w->buf == NULL) w->buf = fg_mem_alloc(FG_WRITER_BUFFER);
    if (w->hasher == NULL) w->hasher = fg_hasher_create();
    if (w->mark_hasher == NULL) w->mark_hasher = fg_hasher_create();
    if (w->changed == NULL) w->changed = fg_mem_zalloc((size_t)w->plan.dir.n_tensor);
    if (w->done == NULL) w->done = fg_mem_zalloc((size_t)w->plan.dir.n_tensor);
    if (w->buf == NULL || w->hasher == NULL || w->mark_hasher == NULL || w->changed == NULL ||
        w->done == NULL) {
        return fg_fail_nomem(err, w->path);
    }
    FG_TRY(open_part(w, err));
    FG_TRY(part_sizes(w, size, err));
    FG_TRY(fg_journal_load(&w->journal, w->log, err));
    FG_TRY(check_stranger(w, size, err));
    FG_TRY(fg_writer_open_parts(w, has_work(w, size), err));
    return part_sizes(w, size, err);
}

/* A resume takes them while it reads back. */
static fg_status prepare_sha(fg_writer *w, fg_err *err)
{
    if (w->sha == NULL || w->chunk_sha != NULL) return FG_OK;
    w->chunk_sha = fg_mem_zalloc_array((size_t)w->plan.slot.n_chunk, FG_SHA256_BYTES);
    return w->chunk_sha == NULL ? fg_fail_nomem(err, w->path) : FG_OK;
}

/* With the hash table, only when it is known that the file fits the disk: the table of one that
 * does not might not fit the memory. */
static fg_status enter_begun(fg_writer *w, fg_err *err)
{
    w->chunk = fg_mem_zalloc_array((size_t)w->plan.slot.n_chunk, sizeof *w->chunk);
    w->known = fg_mem_zalloc((size_t)w->plan.slot.n_chunk);
    if (w->chunk == NULL || w->known == NULL) return fg_fail_nomem(err, w->path);
    FG_TRY(prepare_sha(w, err));
    memset(w->done, 0, (size_t)w->plan.dir.n_tensor);
    w->saved_ns = fg_clock_ns();
    fg_writer_start_span(w, 0);
    return FG_OK;
}

/* Puts the mark there, before anything else can be in the file. */
static fg_status put_mark(fg_writer *w, fg_err *err)
{
    FG_TRY(fg_io_pwrite(w->fd, fg_unfinished_mark, sizeof fg_unfinished_mark, 0, w->part, err));
    return fdatasync(w->fd) == 0 ? FG_OK : fg_writer_fail_io(w, "to reach the disk", err);
}

/* Over whatever is there.  The old journal goes first: its records must never meet new data. */
static fg_status begin_anew(fg_writer *w, const uint64_t *identity, fg_err *err)
{
    const uint64_t have[FG_MAX_PART] = {0};
    const bool ours = identity != NULL && fg_journal_identity(w->journal) == *identity;
    FG_TRY(fg_writer_check_parts(w, ours, err));
    w->kept = false;
    if (!fg_journal_remove(w->journal)) {
        return fg_fail(err, FG_EIO, "%s: %s, expected to remove it", w->log, strerror(errno));
    }
    if (identity == NULL) fg_journal_close(&w->journal);
    FG_TRY(fg_io_sync_parent(w->path, err));
    FG_TRY(fg_writer_cut_parts(w, 0, err));
    FG_TRY(put_mark(w, err));
    /* has_work is to find it so, even if all that is written first goes to other parts */
    if (w->parts.n > 1 && ftruncate(w->fd, (off_t)w->plan.slot.data_offset + 1) != 0) {
        return fg_writer_fail_io(w, "to extend it", err);
    }
    FG_TRY(check_space(w, have, err));
    FG_TRY(enter_begun(w, err));
    FG_TRY(fg_writer_sync_names(w, err)); /* the journal is about these very files */
    if (identity != NULL) FG_TRY(fg_journal_start(w->journal, *identity, err));
    w->state = FG_WRITER_BEGUN;
    return FG_OK;
}

/* Hours of work of somebody else's are not overwritten without being asked. */
static fg_status refuse_other(const fg_writer *w, fg_err *err)
{
    return fg_fail(err, FG_EINVAL,
                   "%s: the unfinished file of another conversion (other source or options%s), "
                   "expected this one's; delete it or choose another name",
                   w->part, w->parts.n > 1 ? ", other folders" : "");
}

/* A part that is not there may be on a drive that is not mounted: no reason to delete the
 * others. */
static fg_status refuse_unlike(const fg_writer *w, fg_err *err)
{
    const uint32_t k = fg_writer_missing_part(w);
    if (k == 0) return refuse_other(w, err);
    return fg_fail(err, FG_EINVAL,
                   "%s: missing, expected part %u of the unfinished %s; mount or restore it, or "
                   "delete %s",
                   w->parts.path[k], k, w->path, w->part);
}

fg_status fg_writer_begin(fg_writer *w, fg_err *err)
{
    uint64_t size[FG_MAX_PART];
    FG_TRY(prepare_begin(w, size, err));
    if (has_work(w, size)) return refuse_other(w, err);
    return begin_anew(w, NULL, err);
}

/* --- resume --- */

/* Hash of everything planned that determines the file, and of what the caller says of the data. */
static fg_status plan_identity(const fg_writer *w, uint64_t caller, uint64_t *out, fg_err *err)
{
    fg_buf b = {0};
    fg_directory_encode(&w->plan.dir, &b);
    for (uint32_t i = 0; i < w->plan.dir.n_meta; i++) {
        fg_buf_u64(&b, fg_hash64(w->blob[i], (size_t)w->plan.dir.meta[i].bytes));
    }
    fg_buf_u32(&b, w->plan.slot.write_version);
    fg_buf_u64(&b, w->plan.slot.data_offset);
    fg_buf_u64(&b, caller);
    fg_writer_identify_parts(w, &b);
    *out = b.failed ? 0 : fg_hash64(b.data, b.len);
    const bool failed = b.failed;
    fg_buf_fini(&b);
    return failed ? fg_fail_nomem(err, w->path) : FG_OK;
}

/* True when a span may begin, and the one before it end, at tensor idx. */
static bool is_boundary(const fg_writer *w, uint64_t idx)
{
    if (idx >= w->plan.dir.n_tensor) return idx == w->plan.dir.n_tensor;
    const uint32_t role = w->plan.dir.tensor[idx].role;
    return role != FG_ROLE_EXPERT_UP && role != FG_ROLE_EXPERT_DOWN;
}

/* A span of the plan, not empty, none of it in seen[n_tensor]. */
static bool is_span(const fg_writer *w, fg_span s, const uint8_t *seen)
{
    return s.first < s.end && is_boundary(w, s.first) && is_boundary(w, s.end) &&
           memchr(seen + s.first, 1, (size_t)(s.end - s.first)) == NULL;
}

static uint64_t n_piece(const fg_writer *w, fg_span s)
{
    const uint64_t from = fg_file_plan_place(&w->plan, s.first) - w->plan.slot.data_offset;
    const uint64_t to = fg_file_plan_place(&w->plan, s.end) - w->plan.slot.data_offset;
    return (to - 1) / FG_FILE_CHUNK - from / FG_FILE_CHUNK + 1;
}

/* True when parts of these sizes can hold the span. */
static bool fits_sizes(const fg_writer *w, fg_span s, const uint64_t *size)
{
    const uint64_t to = fg_file_plan_place(&w->plan, s.end);
    for (uint64_t at = fg_file_plan_place(&w->plan, s.first), end; at < to; at = end) {
        const uint32_t k = fg_parts_at(&w->parts, at, &end);
        if (end > to) end = to;
        if (end > size[k]) return false;
    }
    return true;
}

/* True when the record fits the plan; seen[n_tensor] is for use here. */
static bool fits_plan(const fg_writer *w, const fg_checkpoint *c, uint8_t *seen)
{
    uint64_t n_hash = 0;
    memset(seen, 0, (size_t)w->plan.dir.n_tensor);
    for (uint64_t i = 0; i < c->n_span; i++) {
        const fg_span s = fg_checkpoint_span(c, i);
        if (!is_span(w, s, seen)) return false;
        memset(seen + s.first, 1, (size_t)(s.end - s.first));
        n_hash += n_piece(w, s);
    }
    return n_hash == c->n_hash;
}

/* What is believed of a journal. */
typedef struct trust {
    size_t n_record; /* from the first on, that fit the plan */
    uint8_t *good;   /* [n_span] of all of them in turn: its bytes are in the file */
    uint64_t n_span, n_good;
    uint64_t total, looked;     /* bytes of all spans; of those that were compared */
    uint64_t bad_bytes, bad_at; /* of tensors that are to be written again; the first byte */
} trust;

static uint64_t span_bytes(const fg_writer *w, fg_span s)
{
    return fg_file_plan_place(&w->plan, s.end) - fg_file_plan_place(&w->plan, s.first);
}

static fg_status count_records(fg_writer *w, trust *t, fg_err *err)
{
    uint8_t *seen = fg_mem_zalloc((size_t)w->plan.dir.n_tensor);
    if (seen == NULL) return fg_fail_nomem(err, w->path);
    for (; t->n_record < fg_journal_n_record(w->journal); t->n_record++) {
        const fg_checkpoint *c = fg_journal_record(w->journal, t->n_record);
        if (!fits_plan(w, c, seen)) break;
        t->n_span += c->n_span;
        for (uint64_t i = 0; i < c->n_span; i++)
            t->total += span_bytes(w, fg_checkpoint_span(c, i));
    }
    fg_mem_free(seen);
    t->good = fg_mem_zalloc((size_t)t->n_span + 1);
    return t->good == NULL ? fg_fail_nomem(err, w->path) : FG_OK;
}

/* Whether a span, whose pieces have the hashes from number `at` of the record on, is in the file.
 * What cannot be read is not there. */
static bool is_in_file(fg_writer *w, const fg_checkpoint *c, fg_span s, uint64_t at,
                       const uint64_t *size)
{
    const uint64_t to = fg_file_plan_place(&w->plan, s.end);
    if (!fits_sizes(w, s, size)) return false;
    for (uint64_t p = fg_file_plan_place(&w->plan, s.first), cut; p < to; p = cut) {
        cut = fg_writer_cut(w, p, to);
        if (fg_parts_read(&w->parts, w->buf, (size_t)(cut - p), p, NULL) != FG_OK) return false;
        if (fg_hash64(w->buf, (size_t)(cut - p)) != fg_checkpoint_hash(c, at++)) return false;
        const uint64_t rel = p - w->plan.slot.data_offset, idx = rel / FG_FILE_CHUNK;
        const bool whole =
            rel % FG_FILE_CHUNK == 0 && (cut - p == FG_FILE_CHUNK || cut == fg_writer_data_end(w));
        if (whole && fg_writer_hash_chunk(w, idx, w->buf, (size_t)(cut - p), NULL) != FG_OK)
            return false;
    }
    return true;
}

/* Marks a span that is in the file, when it says something new; counts one that is not. */
static void judge(fg_writer *w, trust *t, uint64_t idx, fg_span s, bool same)
{
    const size_t n = (size_t)(s.end - s.first);
    t->good[idx] = same && memchr(w->done + s.first, 1, n) == NULL;
    t->n_good += t->good[idx];
    if (t->good[idx]) memset(w->done + s.first, 1, n);
}

/* Reads back all that the journal says is written. */
static fg_status compare(fg_writer *w, trust *t, const uint64_t *size, const fg_resume_calls *calls,
                         fg_err *err)
{
    uint64_t idx = 0;
    for (size_t i = 0; i < t->n_record; i++) {
        const fg_checkpoint *c = fg_journal_record(w->journal, i);
        for (uint64_t k = 0, at = 0; k < c->n_span; k++, idx++) {
            const fg_span s = fg_checkpoint_span(c, k);
            judge(w, t, idx, s, is_in_file(w, c, s, at, size));
            at += n_piece(w, s);
            t->looked += span_bytes(w, s);
            if (calls->progress != NULL && !calls->progress(calls->ctx, t->looked, t->total)) {
                return fg_fail(err, FG_ECANCEL,
                               "%s: cancelled while it was read back, expected to finish", w->part);
            }
        }
    }
    return FG_OK;
}

/* Work in order has nothing behind what is to be done. */
static void forget_behind(fg_writer *w, trust *t)
{
    const uint8_t *left = memchr(w->done, 0, (size_t)w->plan.dir.n_tensor);
    const uint64_t first = left == NULL ? UINT64_MAX : (uint64_t)(left - w->done);
    uint64_t idx = 0;
    for (size_t i = 0; i < t->n_record; i++) {
        const fg_checkpoint *c = fg_journal_record(w->journal, i);
        for (uint64_t k = 0; k < c->n_span; k++, idx++) {
            const fg_span s = fg_checkpoint_span(c, k);
            if (t->good[idx] == 0 || s.first < first) continue;
            t->good[idx] = 0;
            memset(w->done + s.first, 0, (size_t)(s.end - s.first));
        }
    }
}

/* Tensors that a record has and that are to be written again, each once: a record of a later life
 * may have made good what an earlier one says. */
static fg_status count_damage(const fg_writer *w, trust *t, fg_err *err)
{
    uint8_t *seen = fg_mem_zalloc((size_t)w->plan.dir.n_tensor);
    if (seen == NULL) return fg_fail_nomem(err, w->path);
    for (size_t r = 0; r < t->n_record; r++) {
        const fg_checkpoint *c = fg_journal_record(w->journal, r);
        for (uint64_t k = 0; k < c->n_span; k++) {
            const fg_span s = fg_checkpoint_span(c, k);
            memset(seen + s.first, 1, (size_t)(s.end - s.first));
        }
    }
    for (uint64_t i = 0; i < w->plan.dir.n_tensor; i++) {
        if (seen[i] == 0 || w->done[i] != 0) continue;
        if (t->bad_bytes == 0) t->bad_at = fg_file_plan_place(&w->plan, i);
        t->bad_bytes += span_bytes(w, (fg_span){i, i + 1});
    }
    fg_mem_free(seen);
    return FG_OK;
}

static fg_status weigh(fg_writer *w, trust *t, const uint64_t *size, const fg_resume_calls *calls,
                       fg_err *err)
{
    memset(w->done, 0, (size_t)w->plan.dir.n_tensor);
    FG_TRY(count_records(w, t, err));
    if (t->n_record > 0) FG_TRY(prepare_sha(w, err));
    FG_TRY(compare(w, t, size, calls, err));
    if (w->stranger && t->n_good == 0) return refuse_stranger(w, err);
    if (calls->in_order) forget_behind(w, t);
    FG_TRY(count_damage(w, t, err));
    if (t->bad_bytes > 0 && calls->damaged != NULL) {
        calls->damaged(calls->ctx, t->bad_bytes, t->bad_at);
    }
    return FG_OK;
}

/* The caller's part, before anything is changed. */
static fg_status ask_caller(const fg_writer *w, const trust *t, const fg_resume_calls *calls,
                            fg_err *err)
{
    for (size_t i = 0; i < t->n_record && calls->payload != NULL; i++) {
        const fg_checkpoint *c = fg_journal_record(w->journal, i);
        FG_TRY(calls->payload(calls->ctx, c->payload, c->n_payload, err));
    }
    return calls->check == NULL ? FG_OK : calls->check(calls->ctx, err);
}

/* What stands before and after the data is written at the end; an interrupted end may have left
 * anything there, even a header. */
static fg_status clear_around(fg_writer *w, uint64_t pos, fg_err *err)
{
    FG_TRY(fg_writer_cut_parts(w, pos, err));
    memset(w->buf, 0, FG_WRITER_BUFFER);
    for (uint64_t at = 0; at < w->plan.slot.data_offset; at += FG_WRITER_BUFFER) {
        const uint64_t left = w->plan.slot.data_offset - at;
        const uint64_t n = left < FG_WRITER_BUFFER ? left : FG_WRITER_BUFFER;
        const bool marked = at == 0;
        memcpy(w->buf, fg_unfinished_mark, marked ? sizeof fg_unfinished_mark : 0);
        FG_TRY(fg_io_pwrite(w->fd, w->buf, (size_t)n, at, w->part, err));
        memset(w->buf, 0, sizeof fg_unfinished_mark);
    }
    return FG_OK;
}

/* good[n_span]: those of its spans that are in the file. */
static fg_status take_record(fg_writer *w, const fg_checkpoint *c, const uint8_t *good, fg_err *err)
{
    uint64_t n = 0;
    if (!fg_checkpoint_results(c, w->plan.dir.tensor, w->plan.dir.n_tensor)) {
        return fg_fail(err, FG_EFORMAT, "%s: a result that fits no tensor, expected one; delete it",
                       w->log);
    }
    for (uint64_t i = 0; i < c->n_span; i++) {
        const fg_span s = fg_checkpoint_span(c, i);
        if (good[i] != 0) FG_TRY(fg_writer_take_span(w, s, c->hash + 8 * n, err));
        n += n_piece(w, s);
    }
    return FG_OK;
}

/* Where the last good span ends in the file; have: bytes of all of them, by part. */
static uint64_t measure_good(const fg_writer *w, const trust *t, uint64_t *have)
{
    uint64_t end = w->plan.slot.data_offset, idx = 0;
    for (size_t i = 0; i < t->n_record; i++) {
        const fg_checkpoint *c = fg_journal_record(w->journal, i);
        for (uint64_t k = 0; k < c->n_span; k++, idx++) {
            const fg_span s = fg_checkpoint_span(c, k);
            const uint64_t from = fg_file_plan_place(&w->plan, s.first),
                           to = fg_file_plan_place(&w->plan, s.end);
            if (t->good[idx] == 0) continue;
            for (uint32_t p = 0; p < w->parts.n; p++) {
                have[p] += fg_parts_share(&w->parts, p, from, to);
            }
            if (to > end) end = to;
        }
    }
    return end;
}

static fg_status continue_from(fg_writer *w, const trust *t, uint64_t *next, fg_err *err)
{
    uint64_t have[FG_MAX_PART] = {0}, idx = 0;
    const uint64_t end = measure_good(w, t, have);
    FG_TRY(fg_journal_keep(w->journal, t->n_record, err));
    FG_TRY(clear_around(w, end, err));
    FG_TRY(check_space(w, have, err));
    FG_TRY(enter_begun(w, err));
    for (size_t i = 0; i < t->n_record; i++) {
        const fg_checkpoint *c = fg_journal_record(w->journal, i);
        FG_TRY(take_record(w, c, t->good + idx, err));
        idx += c->n_span;
    }
    const uint8_t *left = memchr(w->done, 0, (size_t)w->plan.dir.n_tensor);
    *next = left == NULL ? w->plan.dir.n_tensor : (uint64_t)(left - w->done);
    fg_writer_start_span(w, *next);
    w->state = FG_WRITER_BEGUN;
    return FG_OK;
}

fg_status fg_writer_resume(fg_writer *w, uint64_t identity, const fg_resume_calls *calls,
                           uint64_t *next_tensor, fg_err *err)
{
    static const fg_resume_calls none;
    uint64_t size[FG_MAX_PART], own = 0;
    trust t = {0};
    *next_tensor = 0;
    if (calls == NULL) calls = &none;
    FG_TRY(prepare_begin(w, size, err));
    FG_TRY(plan_identity(w, identity, &own, err));
    const bool goes_on = has_work(w, size);
    if (goes_on && fg_journal_identity(w->journal) != own) return refuse_unlike(w, err);
    fg_status st = goes_on ? weigh(w, &t, size, calls, err) : FG_OK;
    if (st == FG_OK) st = ask_caller(w, &t, calls, err);
    if (st == FG_OK && goes_on) st = fg_writer_unname_parts(w, err);
    if (st == FG_OK) {
        st = t.n_record > 0 ? continue_from(w, &t, next_tensor, err) : begin_anew(w, &own, err);
    }
    fg_mem_free(t.good);
    return st;
}

void fg_writer_keep(fg_writer *w)
{
    w->kept = w->kept || (w->journal != NULL && w->chunk != NULL);
}

bool fg_writer_is_kept(const fg_writer *w)
{
    return w->kept && w->chunk != NULL && w->state != FG_WRITER_DONE;
}

/* --- checkpoint --- */

void fg_writer_checkpoint_every(fg_writer *w, uint64_t bytes, uint64_t ns)
{
    w->every_bytes = bytes;
    w->every_ns = ns;
}

bool fg_writer_checkpoint_due(const fg_writer *w)
{
    return w->journal != NULL && (w->n_written - w->saved_written >= w->every_bytes ||
                                  fg_clock_ns() - w->saved_ns >= w->every_ns);
}

/* Everything in the new spans is on the disk: says so in the journal. */
static fg_status append_record(fg_writer *w, const void *payload, uint64_t n, fg_err *err)
{
    fg_buf result = {0};
    for (uint64_t i = 0; i < w->plan.dir.n_tensor; i++) {
        uint8_t bytes[FG_RESULT_BYTES];
        if (w->changed[i] == 0) continue;
        fg_result_encode(i, &w->plan.dir.tensor[i], bytes);
        fg_buf_put(&result, bytes, sizeof bytes);
    }
    const fg_checkpoint c = {
        .n_span = w->n_new_span,
        .n_hash = w->new_hash.len / 8,
        .n_result = result.len / FG_RESULT_BYTES,
        .n_payload = n,
        .span = w->new_span.data,
        .hash = w->new_hash.data,
        .result = result.data,
        .payload = payload,
    };
    const fg_status st =
        result.failed ? fg_fail_nomem(err, w->log) : fg_journal_append(w->journal, &c, err);
    fg_buf_fini(&result);
    return st;
}

fg_status fg_writer_checkpoint(fg_writer *w, const void *payload, uint64_t n, fg_err *err)
{
    if (w->state != FG_WRITER_BEGUN)
        return fg_writer_misuse(w, "checkpoint of a writer not begun", "begin", err);
    if (w->journal == NULL) return FG_OK;
    fg_status st = fg_writer_end_span(w, err);
    if (st == FG_EINVAL) return st;
    if (st == FG_OK) st = fg_writer_sync(w, true, err);
    if (st == FG_OK) st = append_record(w, payload, n, err);
    if (st != FG_OK) {
        w->state = FG_WRITER_BROKEN;
        return st;
    }
    memset(w->changed, 0, (size_t)w->plan.dir.n_tensor);
    w->new_span.len = w->new_hash.len = 0;
    w->n_new_span = 0;
    w->kept = true;
    w->saved_written = w->n_written;
    w->saved_ns = fg_clock_ns();
    return FG_OK;
}
