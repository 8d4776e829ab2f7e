/* SPDX-License-Identifier: MIT */
#include "src/carry/feed.h"

#include <pthread.h>
#include <stdbool.h>

#include "src/base/mem.h"
#include "src/carry/stick.h"

enum { READERS = 3, RING = 8 };

typedef struct slot {
    fg_block_buffer buf;
    fg_feed_block block;
    bool full;
} slot;

struct fg_feed {
    fg_feed_read *read;
    void *ctx;
    uint32_t n, begun, taken; /* blocks in all, begun by a reader, given out */
    slot slot[RING];
    bool stop;
    size_t n_thread;
    pthread_t thread[READERS];
    pthread_mutex_t lock;
    pthread_cond_t moved; /* anything of the above */
};

static void fill(fg_feed *f, uint32_t i)
{
    slot *s = &f->slot[i % RING];
    fg_feed_block *b = &s->block;
    b->err = (fg_err){0};
    b->n = 0;
    b->p = s->buf.p;
    b->st = f->read(f->ctx, i, s->buf.p, &b->n, &b->err);
    if (b->st == FG_OK && b->n > 0 && !fg_sha256(b->p, b->n, b->sha))
        b->st = fg_fail_nomem(&b->err, "carry");
}

static void *reader(void *ctx)
{
    fg_feed *f = ctx;
    (void)pthread_mutex_lock(&f->lock);
    while (!f->stop && f->begun < f->n) {
        /* the one that was given out last is still in use */
        if (f->begun + 1 >= f->taken + RING) {
            (void)pthread_cond_wait(&f->moved, &f->lock);
            continue;
        }
        const uint32_t i = f->begun++;
        (void)pthread_mutex_unlock(&f->lock);
        fill(f, i);
        (void)pthread_mutex_lock(&f->lock);
        f->slot[i % RING].full = true;
        (void)pthread_cond_broadcast(&f->moved);
    }
    (void)pthread_mutex_unlock(&f->lock);
    return NULL;
}

fg_status fg_feed_start(fg_feed **out, fg_feed_read *read, void *ctx, uint32_t n, fg_err *err)
{
    fg_feed *f = *out = fg_mem_zalloc(sizeof *f);
    if (f == NULL) return fg_fail_nomem(err, "carry");
    f->read = read;
    f->ctx = ctx;
    f->n = n;
    bool ok = true;
    for (int i = 0; i < RING; i++) ok = ok && fg_block_buffer_make(&f->slot[i].buf);
    (void)pthread_mutex_init(&f->lock, NULL);
    (void)pthread_cond_init(&f->moved, NULL);
    if (!ok) {
        fg_feed_stop(out);
        return fg_fail_nomem(err, "carry");
    }
    while (n > 1 && f->n_thread < READERS &&
           pthread_create(&f->thread[f->n_thread], NULL, reader, f) == 0)
        f->n_thread++;
    return FG_OK;
}

const fg_feed_block *fg_feed_next(fg_feed *f)
{
    slot *s = &f->slot[f->taken % RING];
    if (f->n_thread == 0) {
        fill(f, f->taken++);
        return &s->block;
    }
    (void)pthread_mutex_lock(&f->lock);
    while (!s->full) (void)pthread_cond_wait(&f->moved, &f->lock);
    s->full = false;
    f->taken++;
    (void)pthread_cond_broadcast(&f->moved);
    (void)pthread_mutex_unlock(&f->lock);
    return &s->block;
}

void fg_feed_stop(fg_feed **out)
{
    fg_feed *f = *out;
    if (f == NULL) return;
    (void)pthread_mutex_lock(&f->lock);
    f->stop = true;
    (void)pthread_cond_broadcast(&f->moved);
    (void)pthread_mutex_unlock(&f->lock);
    while (f->n_thread > 0) (void)pthread_join(f->thread[--f->n_thread], NULL);
    (void)pthread_cond_destroy(&f->moved);
    (void)pthread_mutex_destroy(&f->lock);
    for (int i = 0; i < RING; i++) fg_block_buffer_free(&f->slot[i].buf);
    fg_mem_free(f);
    *out = NULL;
}
