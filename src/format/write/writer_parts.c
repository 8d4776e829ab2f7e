/* SPDX-License-Identifier: MIT
 *
 * The writer's other files, when the model is split (FORMAT.md 3.1).
 *
 * Part k grows as DIR/NAME.k.part beside the other drives' files, and gets its name before the main
 * file gets its own: a main file under its name has all its parts.  A kill in between leaves parts
 * that no main file refers to; the next life of the same conversion takes their names back first.
 * Parts are never written over, other than the main file: several files cannot be replaced at one
 * moment.  And only what is this conversion's is removed: a part with bytes in it may be another's,
 * locked though it is.
 *
 * What a journal says is true of the very files that were written then, so their inode numbers are
 * part of its identity: with other folders, or with a part deleted, the conversion is another one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/format/write/writer_impl.h"

/* dir + "/" + name + "." + part + suffix; NULL when out of memory. */
static char *part_name(const char *dir, const char *name, uint32_t part, const char *suffix)
{
    const size_t n = strlen(dir) + strlen(name) + strlen(suffix) + 16;
    char *p = fg_mem_alloc(n);
    if (p != NULL) {
        (void)snprintf(p, n, "%s%s%s.%u%s", dir, dir[0] == '\0' ? "" : "/", name, part, suffix);
    }
    return p;
}

static bool is_same_folder(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* --- names, drives --- */

/* The folder that `path` is in; caller frees. */
static char *home_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? fg_mem_strndup(".", 1)
                         : fg_mem_strndup(path, (size_t)(slash + 1 - path));
}

/* What part of the file at `path` goes to dir.  *full: its absolute name, for free() of the C
 * library. */
static fg_status find_folder(const char *path, const char *dir, char **full, fg_err *err)
{
    *full = realpath(dir, NULL);
    if (*full != NULL && fg_io_is_dir(*full)) return FG_OK;
    free(*full);
    *full = NULL;
    return fg_fail(err, FG_EIO, "%s: no folder %s, expected it to exist; mount or create it", path,
                   dir);
}

/* Names of part k, which goes to dir.  home: the main file's folder. */
static fg_status name_part(fg_writer *w, uint32_t k, const char *dir, const char *home,
                           const char *leaf, fg_err *err)
{
    char *full;
    FG_TRY(find_folder(w->path, dir, &full, err));
    fg_part_file *s = &w->split[k];
    w->parts.path[k] = part_name(dir, leaf, k, ".part");
    s->path = part_name(dir, leaf, k, "");
    bool ok = w->parts.path[k] != NULL && s->path != NULL;
    if (!is_same_folder(dir, home)) {
        s->target = part_name(full, leaf, k, "");
        s->link = part_name("", w->path, k, "");
        ok = ok && s->target != NULL && s->link != NULL;
    }
    free(full);
    return ok ? FG_OK : fg_fail_nomem(err, w->path);
}

fg_status fg_writer_name_split(fg_writer *w, const char *const *dir, fg_err *err)
{
    const char *slash = strrchr(w->path, '/'), *leaf = slash == NULL ? w->path : slash + 1;
    const uint32_t n = fg_file_plan_n_part(&w->plan);
    char *home = home_of(w->path);
    fg_status st = home == NULL ? fg_fail_nomem(err, w->path) : FG_OK;
    for (uint32_t k = 1; k < n && st == FG_OK; k++) {
        st = name_part(w, k, dir[k - 1], home, leaf, err);
    }
    fg_mem_free(home);
    if (st == FG_OK) w->parts.n = n;
    return st;
}

/* The number of the file system that a folder is on. */
static fg_status find_drive(const char *path, const char *dir, uint64_t *drive, fg_err *err)
{
    struct stat sb;
    char *full;
    FG_TRY(find_folder(path, dir, &full, err));
    const bool ok = stat(full, &sb) == 0;
    free(full);
    if (!ok) return fg_fail(err, FG_EIO, "%s: %s, expected a folder", dir, strerror(errno));
    *drive = (uint64_t)sb.st_dev;
    return FG_OK;
}

fg_status fg_part_drives_find(fg_part_drives *d, const char *path, const char *const *dir,
                              uint32_t n_dir, fg_err *err)
{
    *d = (fg_part_drives){.n = 1};
    if (n_dir >= FG_MAX_PART) {
        return fg_fail(err, FG_EINVAL, "%s: split into %u folders, expected 1 to %u", path, n_dir,
                       (unsigned)FG_MAX_PART - 1);
    }
    if (n_dir == 0) return FG_OK;
    char *home = home_of(path);
    if (home == NULL) return fg_fail_nomem(err, path);
    fg_status st = find_drive(path, home, &d->drive[0], err);
    for (uint32_t i = 0; i < n_dir && st == FG_OK; i++) {
        st = find_drive(path, dir[i], &d->drive[i + 1], err);
    }
    fg_mem_free(home);
    d->n = n_dir + 1;
    return st;
}

uint64_t fg_part_drives_share(const fg_part_drives *d, const fg_file_plan *plan, uint32_t part,
                              uint64_t from, uint64_t to)
{
    uint64_t sum = 0;
    for (uint32_t k = 0; k < d->n; k++) {
        if (d->drive[k] == d->drive[part]) sum += fg_file_plan_share(plan, k, from, to);
    }
    return sum;
}

/* --- begin --- */

static bool is_there(const char *path)
{
    struct stat sb;
    return lstat(path, &sb) == 0;
}

/* True for a link that an earlier life made. */
static bool is_own_link(const fg_part_file *s)
{
    char to[4096];
    const ssize_t n = readlink(s->link, to, sizeof to);
    return n >= 0 && (size_t)n == strlen(s->target) && memcmp(to, s->target, (size_t)n) == 0;
}

/* Files that are in the way, as many as a message has room for. */
typedef struct leftovers {
    char text[300];
    uint32_t n, n_more;
} leftovers;

static void note(leftovers *l, const char *path)
{
    const size_t at = strlen(l->text);
    if (l->n++ > 0 && at + strlen(path) + 3 > sizeof l->text) {
        l->n_more++;
        return;
    }
    (void)snprintf(l->text + at, sizeof l->text - at, "%s%s", at == 0 ? "" : ", ", path);
}

static fg_status refuse(const leftovers *l, fg_err *err)
{
    char more[32] = "";
    if (l->n_more > 0) (void)snprintf(more, sizeof more, " and %u more", l->n_more);
    return fg_fail(err, FG_EINVAL,
                   "%s%s: there already, expected no such file%s; delete %s or choose another name",
                   l->text, more, l->n == 1 ? "" : "s", l->n == 1 ? "it" : "them");
}

/* Finished parts, and links that lead elsewhere. */
static void note_names(const fg_writer *w, leftovers *l)
{
    for (uint32_t k = 1; k < w->parts.n; k++) {
        const fg_part_file *s = &w->split[k];
        if (!s->is_named && is_there(s->path)) note(l, s->path);
        if (s->link != NULL && is_there(s->link) && !is_own_link(s)) note(l, s->link);
    }
}

static void note_parts(const fg_writer *w, leftovers *l)
{
    for (uint32_t k = 1; k < w->parts.n; k++) {
        if (w->parts.fd[k] >= 0 && !w->split[k].is_ours) note(l, w->parts.path[k]);
    }
}

fg_status fg_writer_open_parts(fg_writer *w, bool go_on, fg_err *err)
{
    leftovers there = {0};
    for (uint32_t k = 1; k < w->parts.n; k++) {
        fg_part_file *s = &w->split[k];
        const char *path = w->parts.path[k];
        s->is_named = go_on && !is_there(path) && is_there(s->path);
        if (s->is_named) path = s->path;
        if (go_on && !is_there(path)) continue; /* its identity is 0, which is another one */
        FG_TRY(fg_writer_lock(path, &w->parts.fd[k], &s->is_ours, err));
    }
    note_names(w, &there);
    if (there.n == 0) return FG_OK;
    if (!go_on) note_parts(w, &there); /* they go with those */
    return refuse(&there, err);
}

fg_status fg_writer_check_parts(fg_writer *w, bool ours, fg_err *err)
{
    leftovers there = {0};
    if (!ours) note_parts(w, &there);
    if (there.n > 0) return refuse(&there, err);
    for (uint32_t k = 1; k < w->parts.n; k++) w->split[k].is_ours = true;
    return FG_OK;
}

uint32_t fg_writer_missing_part(const fg_writer *w)
{
    uint32_t k = 1;
    while (k < w->parts.n && w->parts.fd[k] >= 0) k++;
    return k == w->parts.n ? 0 : k;
}

void fg_writer_identify_parts(const fg_writer *w, fg_buf *b)
{
    if (w->parts.n == 1) return;
    fg_buf_u32(b, w->parts.n);
    for (uint32_t k = 1; k < w->parts.n; k++) {
        struct stat sb = {0};
        if (w->parts.fd[k] >= 0 && fstat(w->parts.fd[k], &sb) != 0) sb.st_ino = 0;
        fg_buf_u64(b, (uint64_t)sb.st_ino);
    }
}

static fg_status move(fg_part_file *s, int fd, const char *from, const char *to, fg_err *err)
{
    FG_TRY(fg_io_rename(fd, from, to, true, err));
    s->is_named = to == s->path;
    return fg_io_sync_parent(to, err);
}

fg_status fg_writer_unname_parts(fg_writer *w, fg_err *err)
{
    for (uint32_t k = 1; k < w->parts.n; k++) {
        fg_part_file *s = &w->split[k];
        if (s->is_named) FG_TRY(move(s, w->parts.fd[k], s->path, w->parts.path[k], err));
    }
    return FG_OK;
}

fg_status fg_writer_cut_parts(const fg_writer *w, uint64_t bytes, fg_err *err)
{
    for (uint32_t k = 0; k < w->parts.n; k++) {
        if (ftruncate(w->parts.fd[k], (off_t)bytes) == 0) continue;
        return fg_fail(err, FG_EIO, "%s: %s, expected to set its length to %llu", w->parts.path[k],
                       strerror(errno), (ull)bytes);
    }
    return FG_OK;
}

fg_status fg_writer_sync_names(const fg_writer *w, fg_err *err)
{
    for (uint32_t k = 1; k < w->parts.n; k++) FG_TRY(fg_io_sync_parent(w->parts.path[k], err));
    return FG_OK;
}

/* --- finish --- */

fg_status fg_writer_seal_parts(fg_writer *w, fg_err *err)
{
    uint8_t header[FG_PART_HEADER_BYTES];
    for (uint32_t k = 1; k < w->parts.n; k++) {
        const uint64_t end = fg_writer_data_end(w);
        fg_part_encode(&w->plan.slot, k, header);
        if (ftruncate(w->parts.fd[k], (off_t)end) != 0) {
            return fg_fail(err, FG_EIO, "%s: %s, expected to set its length to %llu",
                           w->parts.path[k], strerror(errno), (ull)end);
        }
        FG_TRY(fg_io_pwrite(w->parts.fd[k], header, sizeof header, 0, w->parts.path[k], err));
    }
    return FG_OK;
}

static fg_status make_link(fg_part_file *s, fg_err *err)
{
    if (symlink(s->target, s->link) != 0) {
        if (errno == EEXIST && is_own_link(s)) return FG_OK;
        return fg_fail(err, FG_EIO, "%s: %s, expected to link it to %s", s->link, strerror(errno),
                       s->target);
    }
    s->is_linked = true;
    return fg_io_sync_parent(s->link, err);
}

fg_status fg_writer_name_parts(fg_writer *w, fg_err *err)
{
    for (uint32_t k = 1; k < w->parts.n; k++) {
        fg_part_file *s = &w->split[k];
        leftovers there = {0};
        if (is_there(s->path)) note(&there, s->path);
        if (there.n > 0) return refuse(&there, err);
        FG_TRY(move(s, w->parts.fd[k], w->parts.path[k], s->path, err));
        if (s->link != NULL) FG_TRY(make_link(s, err));
    }
    return FG_OK;
}

/* --- end --- */

void fg_writer_drop_parts(fg_writer *w)
{
    for (uint32_t k = 1; k < w->parts.n; k++) {
        const fg_part_file *s = &w->split[k];
        const char *name = s->is_named ? s->path : w->parts.path[k];
        if (!s->is_ours) continue;
        if (fg_io_is_same(w->parts.fd[k], name)) (void)unlink(name);
        if (s->is_linked) (void)unlink(s->link);
    }
}

void fg_writer_close_parts(fg_writer *w)
{
    for (uint32_t k = 1; k < FG_MAX_PART; k++) {
        fg_mem_free(w->split[k].path);
        fg_mem_free(w->split[k].link);
        fg_mem_free(w->split[k].target);
    }
    fg_parts_close(&w->parts);
}
