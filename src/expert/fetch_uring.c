/* SPDX-License-Identifier: MIT
 *
 * The io_uring backend: the only file that knows liburing.  A ring of one thread, no registered
 * buffers: pinning tens of gigabytes needs a privilege that most users lack, and with pieces of a
 * megabyte in huge pages the page look-ups that it would save do not show.
 *
 * A ring would be a way around a filter of system calls (src/sys/sandbox.h): so it starts disabled
 * and learns that it reads and does nothing else, for good, before it is enabled.  A sandbox makes
 * no new one, hence rings that were made before it are kept, and taken again when free.
 */
#include <errno.h>
#include <liburing.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

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

/* A ring that reads only.  0, or -errno. */
static int make(struct io_uring *ring, uint32_t depth)
{
    struct io_uring_restriction only[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ_FIXED},
    };
    int rc = io_uring_queue_init(depth, ring, IORING_SETUP_R_DISABLED);
    if (rc != 0) return rc;
    /* Debian 12's library declares functions for these, and does not have them */
    const bool good =
        syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, only,
                sizeof only / sizeof only[0]) == 0 &&
        syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) == 0;
    rc = good ? 0 : -errno;
    if (!good) io_uring_queue_exit(ring);
    return rc;
}

static struct {
    uring ring[FG_FETCH_MOST_KEPT];
    atomic_flag taken[FG_FETCH_MOST_KEPT];
    uint32_t n;
} kept;

void fg_fetch_reserve(uint32_t n)
{
    while (kept.n < n && kept.n < FG_FETCH_MOST_KEPT) {
        if (make(&kept.ring[kept.n].ring, FG_IO_MAX_DEPTH) != 0) return;
        atomic_flag_clear(&kept.taken[kept.n++]);
    }
}

static bool is_kept(const uring *u)
{
    return u >= kept.ring && u < kept.ring + kept.n;
}

static void uring_close(void *ctx)
{
    uring *u = ctx;
    if (is_kept(u)) {
        atomic_flag_clear(&kept.taken[u - kept.ring]);
        return;
    }
    io_uring_queue_exit(&u->ring);
    fg_mem_free(u);
}

/* One that is free among those that are kept, or a new one. */
static int take(uring **out, uint32_t depth)
{
    for (uint32_t i = 0; i < kept.n; i++) {
        *out = &kept.ring[i];
        if (!atomic_flag_test_and_set(&kept.taken[i])) return 0;
    }
    uring *u = *out = fg_mem_zalloc(sizeof *u);
    const int rc = u == NULL ? -ENOMEM : make(&u->ring, depth);
    if (rc != 0) fg_mem_free(u);
    return rc;
}

static fg_status uring_open(void **ctx, int fd, uint32_t depth, fg_err *err)
{
    uring *u = NULL;
    *ctx = NULL;
    int rc = take(&u, depth);
    if (rc == 0) {
        u->fd = fd;
        rc = try_read(u);
        if (rc < 0) uring_close(u);
    }
    if (u == NULL) return fg_fail_nomem(err, "io_uring");
    if (rc < 0) {
        return fg_fail(err, FG_ENOTSUP, "io_uring: %s, expected a kernel that allows it",
                       strerror(-rc));
    }
    *ctx = u;
    return FG_OK;
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
