/* SPDX-License-Identifier: MIT
 *
 * The io_uring backend: the only file that knows liburing.  A ring of one thread, no registered
 * buffers: pinning tens of gigabytes needs a privilege that most users lack, and with pieces of a
 * megabyte in huge pages the page look-ups that it would save do not show.
 */
#include <errno.h>
#include <liburing.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/expert/fetch.h"

typedef struct uring {
    struct io_uring ring;
    int fd;
} uring;

/* One read for real: a filter may allow the set-up and refuse to enter, and kernels before 5.6 have
 * rings without this operation. */
static int try_read(uring *u)
{
    void *page = fg_mem_map((size_t)FG_PAGE_BYTES); /* zeros of nobody; aligned for direct reads */
    struct io_uring_cqe *cqe = NULL;
    if (page == NULL) return -ENOMEM;
    io_uring_prep_read(io_uring_get_sqe(&u->ring), u->fd, page, (unsigned)FG_PAGE_BYTES, 0);
    int rc = io_uring_submit(&u->ring);
    if (rc >= 0) rc = io_uring_wait_cqe(&u->ring, &cqe);
    if (cqe != NULL) {
        rc = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
    }
    fg_mem_unmap(page, (size_t)FG_PAGE_BYTES);
    return rc;
}

static fg_status uring_open(void **ctx, int fd, uint32_t depth, fg_err *err)
{
    *ctx = NULL;
    uring *u = fg_mem_zalloc(sizeof *u);
    if (u == NULL) return fg_fail_nomem(err, "io_uring");
    u->fd = fd;
    int rc = io_uring_queue_init(depth, &u->ring, 0);
    if (rc == 0 && (rc = try_read(u)) < 0) io_uring_queue_exit(&u->ring);
    if (rc < 0) {
        fg_mem_free(u);
        return fg_fail(err, FG_ENOTSUP, "io_uring: %s, expected a kernel that allows it",
                       strerror(-rc));
    }
    *ctx = u;
    return FG_OK;
}

static void uring_close(void *ctx)
{
    uring *u = ctx;
    io_uring_queue_exit(&u->ring);
    fg_mem_free(u);
}

static void uring_submit(void *ctx, fg_io_piece *p)
{
    uring *u = ctx;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring); /* the ring has `depth` of them */
    io_uring_prep_read(sqe, u->fd, p->dst, p->bytes, p->offset);
    io_uring_sqe_set_data(sqe, p);
}

static uint32_t uring_reap(void *ctx, fg_io_piece **done, uint32_t max)
{
    uring *u = ctx;
    (void)io_uring_submit_and_wait(&u->ring, 1); /* worked in try_read; what fails now passes */
    uint32_t n = 0;
    struct io_uring_cqe *cqe;
    while (n < max && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        fg_io_piece *p = io_uring_cqe_get_data(cqe);
        p->result = cqe->res;
        done[n++] = p;
        io_uring_cqe_seen(&u->ring, cqe);
    }
    return n;
}

const fg_io_ops fg_io_uring = {"io_uring", uring_open, uring_close, uring_submit, uring_reap};
