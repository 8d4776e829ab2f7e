/* SPDX-License-Identifier: MIT
 *
 * Read backends that go wrong on purpose, in front of a real one, and a small model on top of a
 * store: what the tests of this folder share.
 */
#ifndef FG_TESTS_EXPERT_FAULTY_H
#define FG_TESTS_EXPERT_FAULTY_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/rng.h"
#include "src/expert/fetch.h"

typedef struct fault_plan {
    const fg_io_ops *base;
    uint32_t short_one_in;     /* pieces cut short: one in so many; 0: none */
    uint32_t interrupt_one_in; /* pieces that end with EINTR or EAGAIN, nothing read */
    uint32_t cancel_one_in;    /* pieces that end with ECANCELED, nothing read */
    uint32_t interrupt_times;  /* so many pieces before all others end so */
    uint32_t fail_times;       /* so many pieces in [fail_from, fail_to) end with EIO */
    uint64_t fail_from, fail_to;
    bool shuffle;      /* arrivals in another order */
    uint32_t sleep_us; /* before each arrival */
    uint64_t flip_at;  /* the byte at this offset of the file is flipped; 0: none */
} fault_plan;

/* The plan of all readers opened after it is set; the state is of the reader opened last. */
static fault_plan plan;

typedef struct faulty {
    fault_plan p;
    void *base;
    fg_rng rng;
    uint32_t n_base; /* in flight below */
    fg_io_piece *held[FG_IO_MAX_DEPTH];
    uint32_t n_held;
    struct {
        fg_io_piece *piece; /* the reader's, which is not to be changed */
        fg_io_piece own;    /* what the backend below gets */
    } cut[FG_IO_MAX_DEPTH];
} faulty;

static fg_status faulty_open(void **ctx, int fd, uint32_t depth, fg_err *err)
{
    faulty *f = calloc(1, sizeof *f);
    f->p = plan;
    fg_rng_init(&f->rng, 5);
    const fg_status st = plan.base->open(&f->base, fd, depth, err);
    *ctx = f;
    if (st == FG_OK) return st;
    free(f);
    *ctx = NULL;
    return st;
}

static void faulty_close(void *ctx)
{
    faulty *f = ctx;
    f->p.base->close(f->base);
    free(f);
}

static bool one_in(faulty *f, uint32_t n)
{
    return n != 0 && fg_rng_u64(&f->rng) % n == 0;
}

static void faulty_submit(void *ctx, fg_io_piece *p)
{
    faulty *f = ctx;
    p->result = 0;
    if (f->p.interrupt_times != 0) {
        f->p.interrupt_times--;
        p->result = -EINTR;
    } else if (f->p.fail_times != 0 && p->offset < f->p.fail_to &&
               p->offset + p->bytes > f->p.fail_from) {
        f->p.fail_times--;
        p->result = -EIO;
    } else if (one_in(f, f->p.interrupt_one_in)) {
        p->result = one_in(f, 2) ? -EINTR : -EAGAIN;
    } else if (one_in(f, f->p.cancel_one_in)) {
        p->result = -ECANCELED;
    }
    if (p->result != 0) {
        f->held[f->n_held++] = p;
        return;
    }
    uint32_t i = 0;
    while (f->cut[i].piece != NULL) i++;
    fg_io_piece *own = &f->cut[i].own;
    f->cut[i].piece = p;
    *own = (fg_io_piece){.dst = p->dst, .offset = p->offset, .bytes = p->bytes};
    if (p->bytes > FG_IO_ALIGN && one_in(f, f->p.short_one_in)) {
        own->bytes =
            (uint32_t)(1 + fg_rng_u64(&f->rng) % (p->bytes / FG_IO_ALIGN - 1)) * FG_IO_ALIGN;
    }
    f->n_base++;
    f->p.base->submit(f->base, own);
}

static void arrived(faulty *f, const fg_io_piece *own)
{
    uint32_t i = 0;
    while (&f->cut[i].own != own) i++;
    fg_io_piece *p = f->cut[i].piece;
    p->result = own->result;
    /* a cut piece also loses its last bytes, so that the next read would be unaligned */
    if (own->bytes != p->bytes && p->result > 100) p->result -= 100;
    f->cut[i].piece = NULL;
    if (f->p.flip_at != 0 && f->p.flip_at >= p->offset && f->p.flip_at < p->offset + p->bytes &&
        p->result > 0) {
        p->dst[f->p.flip_at - p->offset] ^= 0x40;
    }
    f->held[f->n_held++] = p;
    f->n_base--;
}

static uint32_t faulty_reap(void *ctx, fg_io_piece **done, uint32_t max)
{
    faulty *f = ctx;
    fg_io_piece *got[FG_IO_MAX_DEPTH];
    if (f->p.sleep_us != 0) (void)usleep(f->p.sleep_us);
    /* shuffled: all that is in flight is held back, and given out in a random order */
    while (f->n_base > 0 && (f->n_held == 0 || f->p.shuffle)) {
        const uint32_t n = f->p.base->reap(f->base, got, FG_IO_MAX_DEPTH - f->n_held);
        for (uint32_t i = 0; i < n; i++) arrived(f, got[i]);
    }
    uint32_t n = 0;
    while (n < max && f->n_held > 0 && (n == 0 || !f->p.shuffle || one_in(f, 2))) {
        const uint64_t k = f->p.shuffle ? fg_rng_u64(&f->rng) % f->n_held : 0;
        done[n++] = f->held[k];
        f->held[k] = f->held[--f->n_held];
    }
    return n;
}

static const fg_io_ops faulty_ops = {"faulty", faulty_open, faulty_close, faulty_submit,
                                     faulty_reap};

#endif
