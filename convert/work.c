/* SPDX-License-Identifier: MIT
 *
 * What to do next, and what becomes of the shards.
 *
 * A shard is deleted when all work that reads it is after a checkpoint, that is, on the disk and in
 * the journal.  Its header is in the journal by then: provenance needs it, and the next life plans
 * with it.  Only what was read is deleted: a regular file with one name; a symbolic link (as in a
 * download cache) or a file with other links is left alone, since removing it would free nothing.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "convert/convert_impl.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"

typedef unsigned long long ull; /* for %llu */

enum {
    POLL_MS = 500,
    NAP_MS = 100, /* an interrupt is noticed after so long */
    COMPARE_BYTES = 4 << 20,
};
/* A shard under its final name is taken for complete when it is as long as it says and has not
 * changed for so long. */
#define SETTLE_NS ((uint64_t)5 * 1000000000)

/* --- the list --- */

static int by_shard(const void *a, const void *b)
{
    const fg_work *x = a, *y = b;
    if (x->last_shard != y->last_shard) return x->last_shard < y->last_shard ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

static int by_tensor(const void *a, const void *b)
{
    const fg_work *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static void find_shards(const fg_run *r, fg_work *u)
{
    for (uint32_t i = 0; i < u->n; i++) {
        const fg_tensor *t = fg_file_plan_tensor(r->out.plan, u->first + i);
        const uint32_t s = r->in.catalog.piece[fg_run_weight(r, t)].shard;
        uint32_t k = 0;
        while (k < u->n_shard && u->shard[k] != s) k++;
        if (k == u->n_shard) u->shard[u->n_shard++] = s;
        if (s > u->last_shard) u->last_shard = s;
    }
}

fg_status fg_work_create(fg_run *r, fg_err *err)
{
    const uint64_t n = fg_file_plan_n_tensor(r->out.plan);
    r->work.list = fg_mem_zalloc_array((size_t)n, sizeof *r->work.list);
    r->in.supply = fg_mem_zalloc_array(r->in.catalog.ckpt.n_shard, sizeof *r->in.supply);
    if (r->work.list == NULL || r->in.supply == NULL) return fg_fail_nomem(err, r->opts->out_path);
    for (uint64_t i = 0; i < n; i += r->work.list[r->work.n++].n) {
        const bool expert = fg_file_plan_tensor(r->out.plan, i)->role == FG_ROLE_EXPERT_GATE;
        fg_work *u = &r->work.list[r->work.n];
        u->first = i;
        u->n = expert ? FG_WORK_TENSORS : 1;
        find_shards(r, u);
        for (uint32_t k = 0; k < u->n_shard; k++) r->in.supply[u->shard[k]].left++;
    }
    qsort(r->work.list, r->work.n, sizeof *r->work.list,
          r->opts->calib_path == NULL ? by_shard : by_tensor);
    for (size_t s = 0; s < r->in.catalog.ckpt.n_shard; s++) {
        r->in.supply[s].here = fg_hf_is_known(&r->in.catalog.ckpt, s);
    }
    return FG_OK;
}

void fg_work_set_done(fg_run *r, size_t idx)
{
    fg_work *u = &r->work.list[idx];
    u->done = true;
    for (uint32_t k = 0; k < u->n_shard; k++) r->in.supply[u->shard[k]].left--;
    for (uint32_t i = 0; i < u->n; i++) fg_buf_u64(&r->progress.new_tensor, u->first + i);
}

/* --- shards that come --- */

static uint64_t settle_ns(const fg_run *r)
{
    return r->opts->settle_ns != 0 ? r->opts->settle_ns : SETTLE_NS;
}

/* True when the file has not changed for a while: by its own time, or as long as it was watched. */
static bool is_settled(const fg_run *r, fg_supply *s, const struct stat *sb)
{
    const int64_t mtime = (int64_t)sb->st_mtim.tv_sec * 1000000000 + sb->st_mtim.tv_nsec;
    struct timespec now;
    const uint64_t clock = fg_clock_ns();
    if (s->since == 0 || s->bytes != (uint64_t)sb->st_size || s->mtime_ns != mtime) {
        s->bytes = (uint64_t)sb->st_size;
        s->mtime_ns = mtime;
        s->since = clock;
    }
    if (clock - s->since >= settle_ns(r)) return true;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return false;
    const int64_t age = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - mtime;
    return age >= (int64_t)settle_ns(r);
}

static bool is_same(const fg_st_shard *a, const fg_st_shard *b)
{
    return a->file_bytes == b->file_bytes && a->header_bytes == b->header_bytes &&
           memcmp(a->header, b->header, (size_t)a->header_bytes) == 0;
}

static fg_status refuse_shard(const fg_run *r, uint32_t s, fg_err *err)
{
    return fg_fail(err, FG_EINVAL,
                   "%s: another file than the one that %s.part was begun with, expected the same; "
                   "delete one of them or choose another name",
                   r->in.catalog.ckpt.shard[s].path, r->opts->out_path);
}

/* Takes *shard, which is emptied, for shard s: plans with it, or compares it with what was
 * planned. */
static fg_status accept(fg_run *r, uint32_t s, fg_st_shard *shard, fg_err *err)
{
    if (!fg_hf_is_known(&r->in.catalog.ckpt, s))
        return fg_catalog_take(&r->in.catalog, s, shard, err);
    const bool same = is_same(shard, &r->in.catalog.ckpt.shard[s]);
    fg_st_fini(shard);
    return same ? FG_OK : refuse_shard(r, s, err);
}

/* True when a downloader's file beside it says so: aria2's control file, or the file that a
 * browser, or another program, will rename.  A file that was given its whole length and its header
 * first, under its final name and without such a sign, cannot be told from a complete one while it
 * rests. */
static bool is_downloading(const char *path)
{
    static const char *const sign[] = {".aria2", ".incomplete", ".part", ".crdownload"};
    char name[4096];
    for (size_t i = 0; i < sizeof sign / sizeof sign[0]; i++) {
        const int n = snprintf(name, sizeof name, "%s%s", path, sign[i]);
        if (n > 0 && (size_t)n < sizeof name && fg_io_exists(name)) return true;
    }
    return false;
}

/* Looks whether shard s is there and complete. */
static fg_status look(fg_run *r, uint32_t s, fg_err *err)
{
    const char *path = r->in.catalog.ckpt.shard[s].path;
    struct stat sb;
    fg_st_shard shard;
    bool growing;
    if (stat(path, &sb) != 0 || is_downloading(path)) return FG_OK;
    const bool settled = is_settled(r, &r->in.supply[s], &sb);
    fg_err why; /* of no interest while it may still change */
    const fg_status st = fg_st_open_growing(&shard, path, &growing, &why);
    if (st != FG_OK) return settled && !growing ? fg_fail(err, st, "%s", why.msg) : FG_OK;
    if (!settled) {
        fg_st_fini(&shard);
        return FG_OK;
    }
    r->in.supply[s].here = true;
    return accept(r, s, &shard, err);
}

fg_status fg_work_look(fg_run *r, fg_err *err)
{
    for (uint32_t s = 0; s < r->in.catalog.ckpt.n_shard; s++) {
        if (!r->in.supply[s].here && !r->in.supply[s].gone) FG_TRY(look(r, s, err));
    }
    r->in.polled_ns = fg_clock_ns();
    return FG_OK;
}

static bool is_ready(const fg_run *r, const fg_work *u)
{
    for (uint32_t k = 0; k < u->n_shard; k++) {
        if (!r->in.supply[u->shard[k]].here) return false;
    }
    return true;
}

/* The first whose shards are there; work.n when none is. */
static size_t find_ready(const fg_run *r)
{
    for (size_t i = r->work.next; i < r->work.n; i++) {
        if (!r->work.list[i].done && is_ready(r, &r->work.list[i])) return i;
        if (r->opts->calib_path != NULL) break; /* in order */
    }
    return r->work.n;
}

static const char *missing_shard(const fg_run *r)
{
    const fg_work *u = &r->work.list[r->work.next];
    uint32_t k = 0;
    while (r->work.next < r->work.n && k < u->n_shard && r->in.supply[u->shard[k]].here) k++;
    return r->in.catalog.ckpt
        .shard_name[r->work.next < r->work.n && k < u->n_shard ? u->shard[k] : 0];
}

/* A while of waiting for *what; NULL: until now there was nothing to wait for. */
static fg_status nap(fg_run *r, bool *waiting, const char *what, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    if (!*waiting && o->waiting != NULL) o->waiting(o->ctx, what);
    *waiting = true;
    const struct timespec t = {0, NAP_MS * 1000000};
    (void)nanosleep(&t, NULL);
    return fg_run_tick(r, 0, err);
}

static void stop_waiting(const fg_run *r, bool waiting)
{
    if (waiting && r->opts->waiting != NULL) r->opts->waiting(r->opts->ctx, NULL);
}

static bool must_look(const fg_run *r)
{
    return r->opts->wait_for_shards &&
           fg_clock_ns() - r->in.polled_ns >= (uint64_t)POLL_MS * 1000000;
}

fg_status fg_work_next(fg_run *r, size_t *out, fg_err *err)
{
    bool waiting = false;
    for (;;) {
        while (r->work.next < r->work.n && r->work.list[r->work.next].done) r->work.next++;
        if (r->work.next < r->work.n && must_look(r)) FG_TRY(fg_work_look(r, err));
        *out = find_ready(r);
        if (*out < r->work.n || r->work.next == r->work.n) break;
        FG_TRY(nap(r, &waiting, missing_shard(r), err));
    }
    stop_waiting(r, waiting);
    return FG_OK;
}

fg_status fg_work_wait_all(fg_run *r, fg_err *err)
{
    const fg_hf_checkpoint *c = &r->in.catalog.ckpt;
    bool waiting = false;
    for (size_t s = 0; s < c->n_shard;) { /* those without any weight */
        if (fg_hf_is_known(c, s)) {
            s++;
            continue;
        }
        if (must_look(r)) FG_TRY(fg_work_look(r, err));
        if (!fg_hf_is_known(c, s)) FG_TRY(nap(r, &waiting, c->shard_name[s], err));
    }
    stop_waiting(r, waiting);
    return FG_OK;
}

/* --- checkpoints --- */

fg_status fg_work_put(const fg_run *r, fg_buf *b, fg_err *err)
{
    const fg_hf_checkpoint *c = &r->in.catalog.ckpt;
    uint64_t n = 0;
    for (size_t s = 0; s < c->n_shard; s++) n += fg_hf_is_known(c, s) && !r->in.supply[s].logged;
    fg_buf_u64(b, n);
    for (size_t s = 0; s < c->n_shard; s++) {
        if (!fg_hf_is_known(c, s) || r->in.supply[s].logged) continue;
        fg_buf_u64(b, s);
        fg_buf_u64(b, c->shard[s].file_bytes);
        fg_buf_u64(b, c->shard[s].header_bytes);
        fg_buf_put(b, c->shard[s].header, (size_t)c->shard[s].header_bytes);
    }
    fg_cursor k = fg_cursor_make(r->progress.new_tensor.data, r->progress.new_tensor.len);
    while (k.left > 0) {
        const uint64_t idx = fg_cursor_u64(&k);
        fg_buf_u64(b, idx);
        fg_buf_u64(b, r->progress.hash[fg_run_weight(r, fg_file_plan_tensor(r->out.plan, idx))]);
    }
    return b->failed || r->progress.new_tensor.failed ? fg_fail_nomem(err, r->opts->out_path)
                                                      : FG_OK;
}

void fg_work_put_done(fg_run *r)
{
    for (size_t s = 0; s < r->in.catalog.ckpt.n_shard; s++) {
        r->in.supply[s].logged = fg_hf_is_known(&r->in.catalog.ckpt, s);
    }
    r->progress.new_tensor.len = 0;
}

static fg_status fail_journal(const fg_run *r, fg_err *err)
{
    return fg_fail(err, FG_EFORMAT,
                   "%s.part.journal: a record that fits no plan, expected one of "
                   "this conversion; delete it",
                   r->opts->out_path);
}

static fg_status take_header(fg_run *r, fg_cursor *c, fg_err *err)
{
    const uint64_t s = fg_cursor_u64(c), file_bytes = fg_cursor_u64(c), n = fg_cursor_u64(c);
    const uint8_t *bytes = c->bad || n > c->left ? NULL : fg_cursor_bytes(c, (size_t)n);
    fg_st_shard shard;
    if (bytes == NULL || s >= r->in.catalog.ckpt.n_shard) return fail_journal(r, err);
    FG_TRY(fg_st_from_header(&shard, r->in.catalog.ckpt.shard[s].path, file_bytes, bytes, n, err));
    r->in.supply[s].logged = true;
    return accept(r, (uint32_t)s, &shard, err);
}

fg_status fg_work_take(void *run, const void *bytes, uint64_t n, fg_err *err)
{
    fg_run *r = run;
    fg_cursor c = fg_cursor_make(bytes, (size_t)n);
    for (uint64_t n_header = fg_cursor_u64(&c); n_header > 0 && !c.bad; n_header--) {
        FG_TRY(take_header(r, &c, err));
    }
    while (c.left > 0) {
        const uint64_t idx = fg_cursor_u64(&c), hash = fg_cursor_u64(&c);
        if (c.bad || idx >= fg_file_plan_n_tensor(r->out.plan)) break;
        const uint64_t weight = fg_run_weight(r, fg_file_plan_tensor(r->out.plan, idx));
        r->progress.hash[weight] = hash;
        r->progress.hashed[weight] = 1;
    }
    return c.bad || c.left > 0 ? fail_journal(r, err) : FG_OK;
}

/* What earlier lives have done: of all of it the hashes of the source must be known. */
static fg_status mark_done(fg_run *r, fg_err *err)
{
    for (size_t i = 0; i < r->work.n; i++) {
        const fg_work *u = &r->work.list[i];
        if (!fg_writer_is_done(r->out.writer, u->first)) continue;
        fg_work_set_done(r, i);
        for (uint32_t k = 0; k < u->n; k++) {
            const fg_tensor *t = fg_file_plan_tensor(r->out.plan, u->first + k);
            const uint64_t weight = fg_run_weight(r, t);
            if (r->progress.hashed[weight] == 0) return fail_journal(r, err);
            r->progress.done_bytes += r->in.catalog.piece[weight].bytes;
        }
    }
    r->progress.new_tensor.len = 0; /* they are in the journal */
    return FG_OK;
}

/* Weight w, of which the journal has the hash, is what the shard holds now. */
static fg_status compare(fg_run *r, uint64_t w, uint8_t *buf, fg_hasher *h, fg_err *err)
{
    const fg_piece *p = &r->in.catalog.piece[w];
    fg_hasher_reset(h);
    for (uint64_t at = 0, n; at < p->bytes; at += n) {
        n = p->bytes - at < COMPARE_BYTES ? p->bytes - at : COMPARE_BYTES;
        FG_TRY(fg_run_tick(r, 0, err));
        FG_TRY(fg_shards_read(&r->in.shards, p->shard, buf, (size_t)n, p->offset + at, err));
        fg_hasher_add(h, buf, (size_t)n);
    }
    return fg_hasher_digest(h) == r->progress.hash[w] ? FG_OK : refuse_shard(r, p->shard, err);
}

/* Of a file that is there: its status was changed, as by whoever wrote or replaced it, after the
 * last checkpoint. */
static bool is_newer(const struct stat *sb, const struct stat *journal)
{
    const struct timespec a = sb->st_ctim, b = journal->st_mtim;
    return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec >= b.tv_nsec;
}

/* One that comes again, since it had been deleted, need not be there yet. */
static bool is_whole(const fg_run *r, uint32_t s, const struct stat *sb)
{
    const fg_st_shard *shard = &r->in.catalog.ckpt.shard[s];
    return (uint64_t)sb->st_size == shard->file_bytes && !is_downloading(shard->path) &&
           (!r->opts->wait_for_shards || is_settled(r, &r->in.supply[s], sb));
}

/* What was made of a shard must not stand beside what is made of another one: where one was written
 * to between two lives, or in the one that it ended, its bytes are compared with those that were
 * read. */
static fg_status compare_newer(fg_run *r, uint8_t *buf, fg_hasher *h, fg_err *err)
{
    char path[PATH_MAX];
    struct stat journal, sb;
    const int n = snprintf(path, sizeof path, "%s.part.journal", r->opts->out_path);
    if (n >= PATH_MAX || stat(path, &journal) != 0) return FG_OK;
    for (uint32_t s = 0; s < r->in.catalog.ckpt.n_shard; s++) {
        if (stat(r->in.catalog.ckpt.shard[s].path, &sb) != 0 || !is_newer(&sb, &journal) ||
            !is_whole(r, s, &sb))
            continue;
        for (uint64_t w = 0; w < r->in.catalog.n_weight; w++) {
            if (r->in.catalog.piece[w].shard != s || r->progress.hashed[w] == 0) continue;
            FG_TRY(compare(r, w, buf, h, err));
        }
    }
    return FG_OK;
}

static fg_status check_written(fg_run *r, fg_err *err)
{
    uint8_t *buf = fg_mem_alloc(COMPARE_BYTES);
    fg_hasher *h = fg_hasher_create();
    const fg_status st = buf == NULL || h == NULL ? fg_fail_nomem(err, r->opts->out_path)
                                                  : compare_newer(r, buf, h, err);
    fg_hasher_destroy(h);
    fg_mem_free(buf);
    return st;
}

fg_status fg_work_check(fg_run *r, fg_err *err)
{
    FG_TRY(mark_done(r, err));
    FG_TRY(check_written(r, err));
    if (r->opts->wait_for_shards) return fg_work_look(r, err);
    for (size_t s = 0; s < r->in.catalog.ckpt.n_shard; s++) {
        if (r->in.supply[s].here || (r->in.supply[s].left == 0 && r->in.supply[s].logged)) continue;
        fg_st_shard shard;
        FG_TRY(fg_st_open(&shard, r->in.catalog.ckpt.shard[s].path, err)); /* says what is wrong */
        r->in.supply[s].here = true;                                       /* it came in between */
        FG_TRY(accept(r, (uint32_t)s, &shard, err));
    }
    return FG_OK;
}

/* --- shards that go --- */

static bool is_spent(const fg_run *r, size_t s)
{
    const fg_supply *x = &r->in.supply[s];
    return r->opts->delete_consumed && x->left == 0 && x->here && !x->gone;
}

bool fg_work_can_delete(const fg_run *r)
{
    for (size_t s = 0; s < r->in.catalog.ckpt.n_shard; s++) {
        if (is_spent(r, s)) return true;
    }
    return false;
}

bool fg_work_is_link(const struct stat *sb)
{
    return !S_ISREG(sb->st_mode) || sb->st_nlink != 1;
}

fg_status fg_work_delete(fg_run *r, fg_err *err)
{
    for (size_t s = 0; s < r->in.catalog.ckpt.n_shard; s++) {
        const char *path = r->in.catalog.ckpt.shard[s].path;
        struct stat sb;
        if (!is_spent(r, s) || !r->in.supply[s].logged) continue;
        r->in.supply[s].gone = true;
        fg_shards_forget(&r->in.shards, (uint32_t)s);
        if (lstat(path, &sb) != 0) continue;
        if (fg_work_is_link(&sb)) {
            r->progress.n_left_alone++;
            continue;
        }
        if (unlink(path) != 0 && errno != ENOENT) {
            return fg_fail(err, FG_EIO, "%s: %s, expected to delete it", path, strerror(errno));
        }
        r->progress.n_deleted++;
        r->progress.deleted_bytes += (uint64_t)sb.st_size;
    }
    return FG_OK;
}

/* --- sums --- */

static uint64_t shard_bytes(const fg_run *r, size_t s)
{
    uint64_t n = r->in.catalog.ckpt.shard[s].file_bytes;
    for (uint64_t i = 0; !fg_hf_is_known(&r->in.catalog.ckpt, s) && i < r->in.catalog.n_weight;
         i++) {
        if (r->in.catalog.piece[i].shard == s) n += r->in.catalog.piece[i].bytes;
    }
    return n;
}

/* What deleting shard s gives back to OUT's file system. */
static uint64_t returned_bytes(const fg_run *r, size_t s, dev_t device)
{
    struct stat sb;
    const bool will = r->in.supply[s].here && !r->in.supply[s].gone &&
                      lstat(r->in.catalog.ckpt.shard[s].path, &sb) == 0 && !fg_work_is_link(&sb) &&
                      sb.st_dev == device;
    return will ? (uint64_t)sb.st_size : 0;
}

/* On OUT's file system. */
static uint64_t place_bytes(const fg_run *r, const fg_work *u)
{
    return fg_part_drives_share(&r->out.drives, r->out.plan, 0,
                                fg_file_plan_place(r->out.plan, u->first),
                                fg_file_plan_place(r->out.plan, u->first + u->n));
}

fg_status fg_work_need(const fg_run *r, const char *beside, uint64_t *need, fg_err *err)
{
    const fg_file_plan *p = r->out.plan;
    const size_t n_shard = r->in.catalog.ckpt.n_shard;
    struct stat sb = {0};
    uint64_t now = fg_file_plan_file_bytes(p) - fg_file_plan_data_bytes(p) + r->work.temp_bytes,
             peak = now;
    uint64_t freed = 0, *left = fg_mem_zalloc_array(n_shard, sizeof *left);
    if (left == NULL) return fg_fail_nomem(err, r->opts->out_path);
    const bool deletes = r->opts->delete_consumed && stat(beside, &sb) == 0;
    for (size_t s = 0; s < n_shard; s++) left[s] = r->in.supply[s].left;
    for (size_t i = 0; i < r->work.n; i++) {
        const fg_work *u = &r->work.list[i];
        if (u->done) continue;
        now += place_bytes(r, u);
        if (now > freed && now - freed > peak) peak = now - freed;
        for (uint32_t k = 0; k < u->n_shard; k++) {
            const bool last = --left[u->shard[k]] == 0;
            if (last && deletes) freed += returned_bytes(r, u->shard[k], sb.st_dev);
        }
    }
    fg_mem_free(left);
    *need = peak;
    return FG_OK;
}

fg_status fg_work_overlap(const fg_run *r, uint64_t *bytes, fg_err *err)
{
    const size_t n_shard = r->in.catalog.ckpt.n_shard;
    uint64_t *left = fg_mem_zalloc_array(n_shard, sizeof *left);
    uint64_t *size = fg_mem_zalloc_array(n_shard, sizeof *size);
    uint64_t now = 0, come = 0;
    fg_status st = left == NULL || size == NULL ? fg_fail_nomem(err, r->opts->out_path) : FG_OK;
    *bytes = 0;
    for (size_t s = 0; s < n_shard && st == FG_OK; s++) {
        left[s] = r->in.supply[s].left;
        size[s] = shard_bytes(r, s);
    }
    for (size_t i = 0; i < r->work.n && st == FG_OK; i++) {
        const fg_work *u = &r->work.list[i];
        for (; come <= u->last_shard; come++) now += size[come];
        if (now > *bytes) *bytes = now;
        for (uint32_t k = 0; k < u->n_shard; k++) {
            if (--left[u->shard[k]] == 0) now -= size[u->shard[k]];
        }
    }
    fg_mem_free(left);
    fg_mem_free(size);
    return st;
}
