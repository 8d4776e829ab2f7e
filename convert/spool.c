/* SPDX-License-Identifier: MIT
 *
 * Memory first, then the file; replay is memory, then file.  The file is reused from its start by
 * the next group, so it never grows beyond the largest one.
 */
#include "convert/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/fp.h"
#include "src/base/io.h"
#include "src/base/mem.h"

enum {
    REPLAY_BYTES = 1 << 20,
};

void fg_spool_init(fg_spool *s, const char *path, uint64_t limit)
{
    *s = (fg_spool){.path = path, .limit = limit, .fd = -1};
}

void fg_spool_fini(fg_spool *s)
{
    fg_mem_free(s->mem);
    if (s->fd >= 0) (void)close(s->fd);
    fg_spool_init(s, NULL, 0);
}

fg_status fg_spool_start(fg_spool *s, uint64_t expect, fg_err *err)
{
    const uint64_t want = expect < s->limit ? expect : s->limit;
    s->mem_used = 0;
    s->file_used = 0;
    if (want <= s->mem_bytes) return FG_OK;
    fg_mem_free(s->mem);
    s->mem_bytes = 0;
    s->mem = fg_mem_alloc((size_t)want);
    if (s->mem == NULL) return fg_fail_nomem(err, s->path);
    s->mem_bytes = (size_t)want;
    return FG_OK;
}

fg_status fg_spool_append(fg_spool *s, const void *bytes, uint64_t n, fg_err *err)
{
    const uint8_t *p = bytes;
    const uint64_t room = s->mem_bytes - s->mem_used, head = n < room ? n : room;
    if (head > 0) memcpy(s->mem + s->mem_used, p, (size_t)head);
    s->mem_used += (size_t)head;
    if (head == n) return FG_OK;
    if (s->fd < 0) FG_TRY(fg_io_open_unnamed(&s->fd, s->path, err));
    FG_TRY(fg_io_pwrite(s->fd, p + head, (size_t)(n - head), s->file_used, s->path, err));
    s->file_used += n - head;
    return FG_OK;
}

/* Bytes at `at` of the temporary file. */
static fg_status read_back(const fg_spool *s, uint8_t *dst, size_t n, uint64_t at, fg_err *err)
{
    while (n > 0) {
        const ssize_t got = pread(s->fd, dst, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            return fg_fail(err, FG_EIO, "%s: %s, expected to read back its temporary file", s->path,
                           got < 0 ? strerror(errno) : "it ends early");
        }
        dst += got;
        n -= (size_t)got;
        at += (uint64_t)got;
    }
    return FG_OK;
}

fg_status fg_spool_replay(fg_spool *s, fg_spool_sink *sink, void *ctx, fg_err *err)
{
    if (s->mem_used > 0) FG_TRY(sink(ctx, s->mem, s->mem_used, err));
    if (s->file_used == 0) return FG_OK;
    uint8_t *window = fg_mem_alloc(REPLAY_BYTES);
    if (window == NULL) return fg_fail_nomem(err, s->path);
    fg_status st = FG_OK;
    for (uint64_t at = 0; at < s->file_used && st == FG_OK; at += REPLAY_BYTES) {
        const uint64_t left = s->file_used - at;
        const size_t n = left < REPLAY_BYTES ? (size_t)left : REPLAY_BYTES;
        st = read_back(s, window, n, at, err);
        if (st == FG_OK) st = sink(ctx, window, n, err);
    }
    fg_mem_free(window);
    return st;
}

/* --- a unit on its way to the writer --- */

fg_status fg_spool_begin(fg_spool *s, fg_writer *w, const fg_spool_hold *hold, fg_err *err)
{
    s->writer = w;
    s->holding = hold != NULL;
    if (hold == NULL) return FG_OK;
    s->pos = hold->first;
    s->limit = hold->limit;
    return fg_spool_start(s, hold->expect, err);
}

fg_status fg_spool_put(void *spool, uint64_t pos, const void *bytes, uint64_t n, fg_err *err)
{
    static const uint8_t zeros[4096];
    fg_spool *s = spool;
    if (!s->holding) {
        FG_TRY(fg_writer_pad(s->writer, pos, err));
        return fg_writer_write(s->writer, bytes, n, err);
    }
    while (s->pos < pos) {
        const uint64_t gap = pos - s->pos;
        const uint64_t len = gap < sizeof zeros ? gap : sizeof zeros;
        FG_TRY(fg_spool_append(s, zeros, len, err));
        s->pos += len;
    }
    s->pos += n;
    return fg_spool_append(s, bytes, n, err);
}

static fg_status write_scales(fg_spool *s, const fg_spool_scales *x, fg_err *err)
{
    enum { STEP = 1024 };
    uint8_t bytes[STEP * sizeof(float)];
    FG_TRY(fg_writer_pad(s->writer, x->offset, err));
    for (size_t i = 0; i < x->n; i += STEP) {
        const size_t n = x->n - i < STEP ? x->n - i : STEP;
        fg_f32_put_le(bytes, x->v + i, n);
        FG_TRY(fg_writer_write(s->writer, bytes, n * sizeof(float), err));
    }
    return FG_OK;
}

static fg_status replay_to_writer(void *ctx, const void *bytes, uint64_t n, fg_err *err)
{
    fg_spool *s = ctx;
    return fg_writer_write(s->writer, bytes, n, err);
}

fg_status fg_spool_end(fg_spool *s, const fg_spool_scales *scales, size_t n, uint64_t first,
                       fg_err *err)
{
    if (!s->holding) return FG_OK;
    s->holding = false;
    for (size_t i = 0; i < n; i++) {
        if (scales[i].n != 0) FG_TRY(write_scales(s, &scales[i], err));
    }
    FG_TRY(fg_writer_pad(s->writer, first, err));
    return fg_spool_replay(s, replay_to_writer, s, err);
}
