/* SPDX-License-Identifier: MIT
 *
 * Folders of saved sessions: names, the lock, and what can be done without a model.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/engine/saved_impl.h"

typedef unsigned long long ull;

#define ENDING ".fgs"

/* ---- names ---- */

fg_status fg_saved_check_name(const char *name, fg_err *err)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    const size_t n = strlen(name);
    const bool good = n > 0 && n <= FG_SAVED_NAME_MAX && strspn(name, letters) == n;
    if (good && name[0] != '-') return FG_OK; /* that would be an option */
    return fg_fail(err, FG_EINVAL,
                   "session \"%.*s\": expected a name of 1 to %d of A-Z a-z 0-9 _ -, not - first",
                   (int)FG_SAVED_NAME_MAX + 1, name, (int)FG_SAVED_NAME_MAX);
}

fg_status fg_folder_init_as(fg_folder *f, const char *dir, const char *name, const char *ending,
                            fg_err *err)
{
    char last[FG_SAVED_NAME_MAX + 16];
    *f = (fg_folder){0};
    FG_TRY(fg_saved_check_name(name, err));
    (void)snprintf(f->name, sizeof f->name, "%s", name);
    (void)snprintf(last, sizeof last, "%s%s", name, ending);
    f->dir = fg_mem_strndup(dir, strlen(dir));
    f->path = fg_io_join(dir, last);
    if (f->path != NULL) f->log_path = fg_io_join(f->path, "log");
    if (f->path != NULL) f->kv_path = fg_io_join(f->path, "kv");
    const bool ok = f->dir != NULL && f->log_path != NULL && f->kv_path != NULL;
    if (!ok) fg_folder_fini(f);
    return ok ? FG_OK : fg_fail_nomem(err, "session");
}

fg_status fg_folder_init(fg_folder *f, const char *dir, const char *name, fg_err *err)
{
    return fg_folder_init_as(f, dir, name, ENDING, err);
}

void fg_folder_fini(fg_folder *f)
{
    fg_mem_free(f->dir);
    fg_mem_free(f->path);
    fg_mem_free(f->log_path);
    fg_mem_free(f->kv_path);
    *f = (fg_folder){0};
}

char *fg_folder_snapshot(const fg_folder *f, uint64_t number, bool part)
{
    char name[48];
    (void)snprintf(name, sizeof name, "s.%" PRIu64 "%s", number, part ? ".part" : "");
    return fg_io_join(f->path, name);
}

static fg_status make_one(const char *path, fg_err *err)
{
    if (mkdir(path, 0700) == 0) return fg_io_sync_parent(path, err);
    if (errno == EEXIST && fg_io_is_dir(path)) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s, expected a folder that can be made", path,
                   strerror(errno));
}

fg_status fg_folder_make(const fg_folder *f, fg_err *err)
{
    char *above = fg_mem_strndup(f->dir, strlen(f->dir));
    if (above == NULL) return fg_fail_nomem(err, f->dir);
    fg_status st = FG_OK;
    for (char *p = above; st == FG_OK && *p != '\0';) { /* from the top */
        p += 1 + strcspn(p + 1, "/");
        const char was = *p;
        *p = '\0';
        if (!fg_io_is_dir(above)) st = make_one(above, err);
        *p = was;
    }
    fg_mem_free(above);
    return st == FG_OK ? make_one(f->path, err) : st;
}

/* ---- the lock ---- */

static fg_status fail_use(const fg_folder *f, fg_err *err)
{
    return fg_fail(err, FG_EIO, "session %s: in use by another process, expected it to be free",
                   f->name);
}

/* Whether the lock can be had.  Who only reads (list, verify) has a shared one for a moment, and is
 * waited for; who writes has it until its end. */
static bool take_lock(int fd)
{
    enum { TRIES = 100 };
    const struct timespec pause = {.tv_nsec = 20000000};
    for (int i = 0; i < TRIES; i++) {
        /* some network file systems know no flock: go on without */
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return true;
        if (flock(fd, LOCK_SH | LOCK_NB) != 0) return false;
        (void)flock(fd, LOCK_UN);
        (void)nanosleep(&pause, NULL);
    }
    return false;
}

fg_status fg_folder_lock(const fg_folder *f, bool create, int *fd, fg_err *err)
{
    struct stat sb, now;
    if (create) { /* a new one is its owner's alone; what there is, is looked at below */
        const int made = open(f->log_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (made >= 0) (void)close(made);
    }
    FG_TRY(fg_io_open_own(fd, f->log_path, create, err));
    if (*fd < 0) return FG_OK;
    const bool busy = !take_lock(*fd);
    /* and who removed it had the lock */
    const bool gone = fstat(*fd, &sb) != 0 || stat(f->log_path, &now) != 0 ||
                      sb.st_ino != now.st_ino || sb.st_dev != now.st_dev;
    if (!busy && !gone) return FG_OK;
    (void)close(*fd);
    *fd = -1;
    return fail_use(f, err);
}

/* The log for reading only; *busy: somebody has it open. */
static fg_status open_for_reading(const fg_folder *f, int *fd, bool *busy, fg_err *err)
{
    struct stat sb;
    *fd = lstat(f->log_path, &sb) == 0 && S_ISREG(sb.st_mode)
              ? open(f->log_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
              : -1;
    if (*fd < 0) {
        return fg_fail(err, FG_EINVAL, "session %s: not there, expected one in %s", f->name,
                       f->dir);
    }
    *busy = flock(*fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    return FG_OK;
}

/* ---- its files ---- */

/* Calls one for each name in the folder; false ends it. */
static fg_status each(const char *path, bool (*one)(void *ctx, const char *name), void *ctx,
                      fg_err *err)
{
    DIR *d = opendir(path);
    if (d == NULL) {
        if (errno == ENOENT) return FG_OK;
        return fg_fail(err, FG_EIO, "%s: %s, expected a folder", path, strerror(errno));
    }
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && !one(ctx, e->d_name)) {
            break;
        }
    }
    (void)closedir(d);
    return FG_OK;
}

/* The number of a snapshot's name; *part: of one that is not finished. */
static bool snapshot_number(const char *name, uint64_t *number, bool *part)
{
    char *end;
    if (strncmp(name, "s.", 2) != 0 || name[2] < '0' || name[2] > '9') return false;
    *number = strtoull(name + 2, &end, 10);
    *part = strcmp(end, ".part") == 0;
    return *part || *end == '\0';
}

typedef struct cleaning {
    const fg_folder *f;
    const fg_history *h;
    bool all; /* the log too */
} cleaning;

static bool clean_one(void *ctx, const char *name)
{
    const cleaning *c = ctx;
    uint64_t number = 0;
    bool part = false;
    bool goes = snapshot_number(name, &number, &part);
    for (size_t i = 0; goes && !part && c->h != NULL && i < c->h->n_mark; i++) {
        if (c->h->mark[i].number == number) goes = false;
    }
    if (c->h == NULL && strcmp(name, "kv") == 0) goes = true;
    if (c->all && strncmp(name, "log.lost", 8) == 0) goes = true;
    char *path = goes ? fg_io_join(c->f->path, name) : NULL;
    if (path != NULL) (void)unlink(path);
    fg_mem_free(path);
    return true;
}

void fg_folder_clean(const fg_folder *f, const fg_history *h)
{
    cleaning c = {f, h, false};
    (void)each(f->path, clean_one, &c, NULL);
}

fg_status fg_folder_empty(const fg_folder *f, fg_err *err)
{
    cleaning c = {f, NULL, true};
    FG_TRY(each(f->path, clean_one, &c, err));
    /* last: without it there is no session any more */
    if (unlink(f->log_path) != 0 && errno != ENOENT) {
        return fg_fail(err, FG_EIO, "%s: %s, expected to remove it", f->log_path, strerror(errno));
    }
    return FG_OK;
}

fg_status fg_folder_remove(const fg_folder *f, fg_err *err)
{
    FG_TRY(fg_folder_empty(f, err));
    if (rmdir(f->path) != 0 && errno != ENOENT) {
        return fg_fail(err, FG_EIO, "%s: %s, expected only the session's own files", f->path,
                       strerror(errno));
    }
    return fg_io_sync_parent(f->path, err);
}

fg_status fg_saved_remove(const char *dir, const char *name, fg_err *err)
{
    fg_folder f;
    int fd = -1;
    FG_TRY(fg_folder_init(&f, dir, name, err));
    fg_status st = fg_folder_lock(&f, false, &fd, err);
    if (st == FG_OK && fd < 0 && !fg_io_is_dir(f.path)) {
        st = fg_fail(err, FG_EINVAL, "session %s: not there, expected one in %s", name, dir);
    }
    if (st == FG_OK) st = fg_folder_remove(&f, err);
    if (fd >= 0) (void)close(fd);
    fg_folder_fini(&f);
    return st;
}

/* ---- the list ---- */

typedef struct entry {
    char name[FG_SAVED_NAME_MAX + 1];
    struct timespec time;
} entry;
typedef struct entries {
    const char *dir;
    entry *e;
    size_t n, cap;
    bool failed;
} entries;

static bool list_one(void *ctx, const char *file)
{
    entries *l = ctx;
    const size_t n = strlen(file), k = sizeof ENDING - 1;
    char name[FG_SAVED_NAME_MAX + 1];
    fg_folder f;
    struct stat sb;
    if (n <= k || n - k > FG_SAVED_NAME_MAX || strcmp(file + n - k, ENDING) != 0) return true;
    (void)snprintf(name, sizeof name, "%.*s", (int)(n - k), file);
    if (fg_saved_check_name(name, NULL) != FG_OK) return true;
    if (fg_folder_init(&f, l->dir, name, NULL) != FG_OK) {
        l->failed = true;
        return false;
    }
    const bool there = lstat(f.log_path, &sb) == 0 && S_ISREG(sb.st_mode);
    fg_folder_fini(&f);
    if (!there) return true;
    void *p = l->e;
    l->failed = !fg_mem_grow(&p, &l->cap, l->n + 1, sizeof *l->e);
    l->e = p;
    if (l->failed) return false;
    l->e[l->n].time = sb.st_mtim;
    memcpy(l->e[l->n++].name, name, sizeof name);
    return true;
}

static int later_first(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->time.tv_sec != y->time.tv_sec) return x->time.tv_sec < y->time.tv_sec ? 1 : -1;
    if (x->time.tv_nsec != y->time.tv_nsec) return x->time.tv_nsec < y->time.tv_nsec ? 1 : -1;
    return strcmp(x->name, y->name);
}

fg_status fg_saved_list(const char *dir, bool (*one)(void *ctx, const char *name), void *ctx,
                        fg_err *err)
{
    entries l = {.dir = dir};
    fg_status st = each(dir, list_one, &l, err);
    if (st == FG_OK && l.failed) st = fg_fail_nomem(err, dir);
    if (l.n > 0) qsort(l.e, l.n, sizeof *l.e, later_first);
    for (size_t i = 0; st == FG_OK && i < l.n; i++) {
        if (!one(ctx, l.e[i].name)) break;
    }
    fg_mem_free(l.e);
    return st;
}

/* ---- reading ---- */

typedef struct reading {
    fg_saved_info info; /* first: what is given out */
    fg_history h;
    fg_folder f;
    char *title;
} reading;

static bool add_bytes(void *ctx, const char *name)
{
    reading *r = ctx;
    struct stat sb;
    char *path = fg_io_join(r->f.path, name);
    if (path != NULL && lstat(path, &sb) == 0) {
        r->info.bytes += (uint64_t)sb.st_size;
        if (strcmp(name, "log") == 0) r->info.modified_s = sb.st_mtim.tv_sec;
    }
    fg_mem_free(path);
    return true;
}

static fg_status fill(reading *r, fg_err *err)
{
    fg_saved_info *o = &r->info;
    const fg_history *h = &r->h;
    const fg_saved_event *title = fg_history_last(h, FG_SAVED_TITLE),
                         *settings = fg_history_last(h, FG_SAVED_SETTINGS);
    o->model = h->open.model;
    o->n_ctx = h->open.n_ctx;
    o->ids = h->id;
    o->n_token = h->n_id;
    o->event = h->event;
    o->n_event = h->n_event;
    o->stripped = h->n_mark == 0;
    for (size_t i = 0; i < h->n_event; i++) o->n_message += h->event[i].kind == FG_SAVED_MESSAGE;
    if (settings != NULL) {
        o->settings = settings->payload;
        o->n_settings = settings->n;
    }
    for (size_t i = 0; i < h->n_event; i++) {
        const fg_saved_event *e = &h->event[i];
        if (e->kind == FG_SAVED_MESSAGE) o->in_reply = e->payload[0] == FG_MESSAGE_ASSISTANT;
        if (e->kind == FG_SAVED_END) o->in_reply = false;
    }
    o->state = h->state;
    o->n_state = h->state == NULL ? 0 : h->n_state;
    o->state_pos = h->state_pos;
    if (title != NULL) r->title = fg_mem_strndup((const char *)title->payload, title->n);
    if (title != NULL && r->title == NULL) return fg_fail_nomem(err, r->f.path);
    o->title = r->title;
    return each(r->f.path, add_bytes, r, err);
}

fg_status fg_saved_read(fg_saved_info **out, const char *dir, const char *name, fg_err *err)
{
    int fd = -1;
    *out = NULL;
    reading *r = fg_mem_zalloc(sizeof *r);
    if (r == NULL) return fg_fail_nomem(err, "session");
    fg_status st = fg_folder_init(&r->f, dir, name, err);
    if (st == FG_OK) st = open_for_reading(&r->f, &fd, &r->info.in_use, err);
    if (st == FG_OK) st = fg_history_read(&r->h, r->f.log_path, fd, err);
    if (fd >= 0) (void)close(fd);
    if (st == FG_OK && !r->h.is_begun) {
        st = fg_fail(err, FG_EFORMAT, "%s: empty, expected a session's log", r->f.log_path);
    }
    if (st == FG_OK) st = fill(r, err);
    fg_saved_info *info = &r->info;
    if (st != FG_OK) {
        fg_saved_info_free(&info);
    } else {
        *out = info;
    }
    return st;
}

void fg_saved_info_free(fg_saved_info **info)
{
    reading *r = (reading *)(void *)*info;
    if (r == NULL) return;
    fg_history_fini(&r->h);
    fg_folder_fini(&r->f);
    fg_mem_free(r->title);
    fg_mem_free(r);
    *info = NULL;
}

/* ---- strip ---- */

static fg_status strip(const fg_folder *f, int fd, uint64_t *bytes, fg_err *err)
{
    reading r = {.f = *f};
    fg_log g = {.fd = -1};
    FG_TRY(each(f->path, add_bytes, &r, err));
    const uint64_t before = r.info.bytes;
    fg_status st = fg_history_read(&r.h, f->log_path, fd, err);
    if (st == FG_OK && !r.h.is_begun) {
        st = fg_fail(err, FG_EFORMAT, "%s: empty, expected a session's log", f->log_path);
    }
    if (st == FG_OK && r.h.goes_on) { /* writing would cut off what lies behind it */
        st = fg_fail(err, FG_ECHECKSUM,
                     "%s: record %llu is damaged, expected a whole log; opening the session keeps "
                     "what is behind it",
                     f->log_path, (ull)r.h.n_record);
    }
    if (st == FG_OK) st = fg_log_start(&g, dup(fd), f->log_path, &r.h, err);
    /* what parts there were is void */
    if (st == FG_OK && !fg_log_put_open(&g, &r.h.open)) st = fg_fail_nomem(err, f->log_path);
    if (st == FG_OK) st = fg_log_commit(&g, err);
    if (st == FG_OK) {
        fg_folder_clean(f, NULL);
        r.info.bytes = 0;
        st = each(f->path, add_bytes, &r, err);
        *bytes = before > r.info.bytes ? before - r.info.bytes : 0;
    }
    fg_log_fini(&g);
    fg_history_fini(&r.h);
    return st;
}

fg_status fg_saved_strip(const char *dir, const char *name, uint64_t *bytes, fg_err *err)
{
    fg_folder f;
    int fd = -1;
    *bytes = 0;
    FG_TRY(fg_folder_init(&f, dir, name, err));
    fg_status st = fg_folder_lock(&f, false, &fd, err);
    if (st == FG_OK && fd < 0) {
        st = fg_fail(err, FG_EINVAL, "session %s: not there, expected one in %s", name, dir);
    }
    if (st == FG_OK) st = strip(&f, fd, bytes, err);
    if (fd >= 0) (void)close(fd);
    fg_folder_fini(&f);
    return st;
}

/* ---- verify ---- */

typedef struct checking {
    const fg_folder *f;
    fg_history h;
    bool (*progress)(void *ctx, uint64_t done, uint64_t total);
    void (*one)(void *ctx, const char *line);
    void *ctx;
    uint64_t done, total;
    fg_err first;
} checking;

static bool advance(void *ctx, uint64_t bytes)
{
    checking *c = ctx;
    c->done += bytes;
    return c->progress == NULL ||
           c->progress(c->ctx, c->done < c->total ? c->done : c->total, c->total);
}

/* A damaged part is told and counted; what ends the check is returned. */
static fg_status tell(checking *c, fg_status st, const fg_err *bad, fg_err *err)
{
    if (st == FG_OK) return FG_OK;
    if (st == FG_ECANCEL || st == FG_ENOMEM) {
        if (err != NULL) *err = *bad;
        return st;
    }
    if (c->first.code == FG_OK) c->first = *bad;
    if (c->one != NULL) c->one(c->ctx, bad->msg);
    return FG_OK;
}

static fg_status check_blocks(checking *c, fg_err *err)
{
    const uint64_t bytes = 64 * c->h.open.row_bytes;
    const size_t n = c->h.n_mark == 0 ? 0 : (size_t)(c->h.mark[c->h.n_mark - 1].pos / 64);
    fg_file f = FG_FILE_INIT;
    fg_err bad = {0};
    if (n == 0) return FG_OK;
    uint8_t *buf = fg_mem_alloc((size_t)bytes);
    if (buf == NULL) return fg_fail_nomem(err, c->f->kv_path);
    fg_status st = tell(c, fg_file_open(&f, c->f->kv_path, false, &bad), &bad, err);
    for (size_t b = 0; st == FG_OK && f.fd >= 0 && b < n; b++) {
        st = tell(c, fg_bulk_check_block(f.fd, c->f->kv_path, b, bytes, c->h.block[b], buf, &bad),
                  &bad, err);
        if (st == FG_OK && !advance(c, bytes)) {
            st = fg_fail(err, FG_ECANCEL, "%s: cancelled, expected to read it", c->f->kv_path);
        }
    }
    fg_file_close(&f);
    fg_mem_free(buf);
    return st;
}

static fg_status check_snapshots(checking *c, fg_err *err)
{
    uint8_t *buf = fg_mem_alloc(FG_SNAPSHOT_PIECE);
    if (buf == NULL) return fg_fail_nomem(err, c->f->path);
    fg_status st = FG_OK;
    for (size_t i = 0; st == FG_OK && i < c->h.n_mark; i++) {
        fg_err bad = {0};
        char *path = fg_folder_snapshot(c->f, c->h.mark[i].number, false);
        st = path == NULL
                 ? fg_fail_nomem(err, c->f->path)
                 : tell(c, fg_bulk_check_snapshot(path, c->h.mark[i].root, buf, advance, c, &bad),
                        &bad, err);
        fg_mem_free(path);
    }
    fg_mem_free(buf);
    return st;
}

static fg_status check(checking *c, int fd, fg_err *err)
{
    fg_err bad = {0};
    const fg_status read = fg_history_read(&c->h, c->f->log_path, fd, &bad);
    FG_TRY(tell(c, read, &bad, err));
    if (read != FG_OK) return FG_OK;
    if (c->h.n_after > 0) {
        const fg_status torn =
            fg_fail(&bad, FG_ECHECKSUM,
                    "%s: record %llu at offset %llu is damaged or was not "
                    "finished, and %llu bytes with it",
                    c->f->log_path, (ull)c->h.n_record, (ull)c->h.end, (ull)c->h.n_after);
        FG_TRY(tell(c, torn, &bad, err));
    }
    if (c->h.n_mark > 0) c->total = c->h.mark[c->h.n_mark - 1].pos / 64 * 64 * c->h.open.row_bytes;
    for (size_t i = 0; i < c->h.n_mark; i++) c->total += c->h.mark[i].bytes;
    FG_TRY(check_blocks(c, err));
    return check_snapshots(c, err);
}

fg_status fg_saved_verify(const char *dir, const char *name,
                          bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                          void (*one)(void *ctx, const char *line), void *ctx, fg_err *err)
{
    fg_folder f;
    bool busy = false;
    int fd = -1;
    FG_TRY(fg_folder_init(&f, dir, name, err));
    checking c = {.f = &f, .progress = progress, .one = one, .ctx = ctx};
    fg_status st = open_for_reading(&f, &fd, &busy, err);
    if (st == FG_OK && busy) st = fail_use(&f, err);
    if (st == FG_OK) st = check(&c, fd, err);
    if (st == FG_OK && c.first.code != FG_OK) {
        if (err != NULL) *err = c.first;
        st = c.first.code;
    }
    fg_history_fini(&c.h);
    if (fd >= 0) (void)close(fd);
    fg_folder_fini(&f);
    return st;
}
