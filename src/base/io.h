/* SPDX-License-Identifier: MIT
 *
 * Files: read-only views by mmap, full positional reads and writes, whole small files, new files
 * that appear complete or not at all.
 * All offsets and sizes are 64-bit; EINTR is retried; a short read is an error here.
 */
#ifndef FG_SRC_BASE_IO_H
#define FG_SRC_BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "src/base/status.h"

/* A file opened for reading.  Zero-initialise fd to -1 through FG_FILE_INIT. */
typedef struct fg_file {
    int fd;        /* -1 when closed */
    uint64_t size; /* bytes, at the time of opening */
    const uint8_t
        *data;  /* whole file mapped for reading (mapping.h); NULL unless mapped or size 0 */
    char *path; /* owned copy, for messages */
} fg_file;

#define FG_FILE_INIT ((fg_file){.fd = -1})

/* Opens `path`, a regular file, for reading; with `map` the contents are mapped (no page is
 * touched).  On failure *f is closed.  Errors: FG_EIO, FG_ENOMEM. */
fg_status fg_file_open(fg_file *f, const char *path, bool map, fg_err *err);

/* Accepts any half-built object; leaves it closed. */
void fg_file_close(fg_file *f);

/* Reads exactly n bytes at `offset`; fewer is FG_EIO naming f->path. */
fg_status fg_file_read(const fg_file *f, void *dst, size_t n, uint64_t offset, fg_err *err);

/* What shows that somebody may have written to a file.  The time of its last change cannot be put
 * back, but links, names and modes move it too. */
typedef struct fg_stamp {
    uint64_t size;
    int64_t modified_s, changed_s;
    int64_t modified_ns, changed_ns;
} fg_stamp;
/* False with errno; *s is zero then. */
bool fg_stamp_take(fg_stamp *s, int fd);
/* Whether fd has another stamp by now, or none can be had. */
bool fg_stamp_moved(const fg_stamp *was, int fd);

/* Writes exactly n bytes at `offset` of fd; `path` is for the message. */
fg_status fg_io_pwrite(int fd, const void *src, size_t n, uint64_t offset, const char *path,
                       fg_err *err);

/* What becomes of a write for which the disk, or the user's quota, has no room: `full` is called
 * with the file's name and the bytes still to be written, and true means to try again; it waits
 * itself.  NULL, as at the start: the write fails.  Holds for fg_io_pwrite and fg_io_map_unnamed of
 * the whole process; to be set while no other thread writes. */
typedef bool fg_io_full_fn(void *ctx, const char *path, uint64_t bytes);
void fg_io_on_full(fg_io_full_fn *full, void *ctx);

/* open(2) and openat(2) of what is there.  Where a scanner reads the file first, or its drive has
 * to wake, that takes minutes: after 5 seconds and then every 30 `slow` is told, by a thread that
 * lives as long as the call.  NULL, as at the start: nobody is.  -1 with errno. */
typedef void fg_io_slow_fn(const char *path, uint64_t seconds);
void fg_io_on_slow(fg_io_slow_fn *slow);
int fg_io_open(const char *path, int flags);
int fg_io_open_at(int dir, const char *path, int flags);

/* Reads a whole file of at most max_bytes into *out (NUL appended, not counted; caller frees with
 * fg_mem_free). */
fg_status fg_io_read_all(const char *path, uint64_t max_bytes, char **out, size_t *len,
                         fg_err *err);

/* dir + "/" + name in a new string; NULL when out of memory. */
char *fg_io_join(const char *dir, const char *name);

/* Before `out` is written.  FG_EINVAL when it is the file `in`, through links too, or one of the
 * parts of a split model `in` (in.1, in.2, ...). */
fg_status fg_io_refuse_input(const char *out, const char *in, fg_err *err);
/* FG_EINVAL when something has the name already. */
fg_status fg_io_refuse_existing(const char *out, fg_err *err);
/* Whether a rename may put a file at `out`.  FG_EINVAL when something else than a regular file is
 * there: a folder, a device, or a link, which it would replace instead of writing where the link
 * leads (/dev/stdout is one); or for "-", by which nobody means a file.  FG_EIO when the folder is
 * not there, or cannot be written to. */
fg_status fg_io_check_output(const char *out, fg_err *err);

bool fg_io_is_dir(const char *path);
bool fg_io_exists(const char *path);
/* The same, but a link that leads nowhere counts: opening it says what is wrong. */
bool fg_io_is_named(const char *path);

/* Opens a new file without a name, so that nothing can be left behind, in the folder of
 * `beside`. */
fg_status fg_io_open_unnamed(int *fd, const char *beside, fg_err *err);

/* Maps `bytes` (> 0) of a new file without a name beside `beside`, zeros, shared with the file: the
 * kernel writes them out when memory is short.  The room is allocated now, since a mapping on a
 * full disk faults; it still may where blocks are copied on write.  `beside` is
 * borrowed, for whoever says so.  Closed with fg_mapping_close. */
fg_status fg_io_map_unnamed(void **out, size_t bytes, const char *beside, fg_err *err);

/* A file that is written under another name and takes the place of `path` once it is complete. */
typedef struct fg_new_file {
    FILE *f;           /* for the caller to write to; NULL when closed */
    char *path, *part; /* owned; part: the name till then, beside path */
} fg_new_file;

/* Opens one.  `part` is a name that nothing had before: whatever lies beside `path`, it is not
 * touched.  On failure *n is closed.  Errors: those of fg_io_check_output,
 * FG_ENOMEM. */
fg_status fg_new_file_open(fg_new_file *n, const char *path, fg_err *err);

/* Puts the file on the disk and under its name, and closes n->f; the caller's writes have
 * succeeded.  FG_EIO, before the rename only: a complete file under its name is no failure. */
fg_status fg_new_file_commit(fg_new_file *n, fg_err *err);

/* Removes what was not committed.  Accepts a zeroed object, and one that is closed. */
void fg_new_file_close(fg_new_file *n);

/* For a handler of a signal that ends the process: removes those that are not committed, of 16 at
 * most.  Async-signal-safe. */
void fg_new_file_drop_all(void);

/* Opens `path` for reading and writing; when nothing has that name, creates it, or leaves *fd -1.
 * A link is not followed, and nothing but a regular file is opened.  FG_EIO, FG_EINVAL. */
fg_status fg_io_open_own(int *fd, const char *path, bool create, fg_err *err);

/* fsync of the directory that holds `path`, so that a rename in it survives power loss.  Some file
 * systems (FUSE, network) have no such thing: that is no failure. */
fg_status fg_io_sync_parent(const char *path, fg_err *err);

#endif
