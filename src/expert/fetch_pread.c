/* SPDX-License-Identifier: MIT
 *
 * The pread backend: threads that take pieces from one list and put them on another.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/expert/fetch.h"
#include "src/sys/topo.h"

typedef struct list {
    fg_io_piece *head, **tail;
} list;

typedef struct pool {
    int fd;
    pthread_mutex_t lock; /* protects the lists and stop */
    pthread_cond_t work, finished;
    list todo, done;
    bool stop;
    uint32_t n_thread;
    pthread_t thread[FG_IO_MAX_DEPTH];
} pool;

static void put(list *l, fg_io_piece *p)
{
    p->next = NULL;
    *l->tail = p;
    l->tail = &p->next;
}

static fg_io_piece *take(list *l)
{
    fg_io_piece *p = l->head;
    if (p == NULL) return NULL;
    l->head = p->next;
    if (l->head == NULL) l->tail = &l->head;
    return p;
}

static void *pool_main(void *arg)
{
    pool *t = arg;
    fg_binding_clear(); /* whoever opens a store may be bound to a core */
    (void)pthread_mutex_lock(&t->lock);
    for (;;) {
        fg_io_piece *p;
        while ((p = take(&t->todo)) == NULL && !t->stop) {
            (void)pthread_cond_wait(&t->work, &t->lock);
        }
        if (p == NULL) break;
        (void)pthread_mutex_unlock(&t->lock);
        const ssize_t got = pread(t->fd, p->dst, p->bytes, (off_t)p->offset);
        p->result = got < 0 ? -errno : (int32_t)got;
        (void)pthread_mutex_lock(&t->lock);
        put(&t->done, p);
        (void)pthread_cond_signal(&t->finished);
    }
    (void)pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void pool_close(void *ctx)
{
    pool *t = ctx;
    (void)pthread_mutex_lock(&t->lock);
    t->stop = true;
    (void)pthread_cond_broadcast(&t->work);
    (void)pthread_mutex_unlock(&t->lock);
    for (uint32_t i = 0; i < t->n_thread; i++) (void)pthread_join(t->thread[i], NULL);
    (void)pthread_cond_destroy(&t->work);
    (void)pthread_cond_destroy(&t->finished);
    (void)pthread_mutex_destroy(&t->lock);
    fg_mem_free(t);
}

/* The caller has blocked all signals, which the threads inherit. */
static fg_status pool_open(void **ctx, int fd, uint32_t depth, fg_err *err)
{
    *ctx = NULL;
    pool *t = fg_mem_zalloc(sizeof *t);
    if (t == NULL) return fg_fail_nomem(err, "reading threads");
    t->fd = fd;
    t->todo.tail = &t->todo.head;
    t->done.tail = &t->done.head;
    (void)pthread_mutex_init(&t->lock, NULL);
    (void)pthread_cond_init(&t->work, NULL);
    (void)pthread_cond_init(&t->finished, NULL);
    while (t->n_thread < depth) {
        if (pthread_create(&t->thread[t->n_thread], NULL, pool_main, t) != 0) break;
        t->n_thread++;
    }
    if (t->n_thread == 0) {
        pool_close(t);
        return fg_fail(err, FG_EIO, "reading threads: none could be started, expected %u", depth);
    }
    *ctx = t;
    return FG_OK;
}

static void pool_submit(void *ctx, fg_io_piece *p)
{
    pool *t = ctx;
    (void)pthread_mutex_lock(&t->lock);
    put(&t->todo, p);
    (void)pthread_cond_signal(&t->work);
    (void)pthread_mutex_unlock(&t->lock);
}

static uint32_t pool_reap(void *ctx, fg_io_piece **done, uint32_t max)
{
    pool *t = ctx;
    uint32_t n = 0;
    (void)pthread_mutex_lock(&t->lock);
    while (t->done.head == NULL) (void)pthread_cond_wait(&t->finished, &t->lock);
    while (n < max && t->done.head != NULL) done[n++] = take(&t->done);
    (void)pthread_mutex_unlock(&t->lock);
    return n;
}

const fg_io_ops fg_io_pread = {"pread", pool_open, pool_close, pool_submit, pool_reap};
