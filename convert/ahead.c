/* SPDX-License-Identifier: MIT */
#include "convert/ahead.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "src/base/mem.h"

struct fg_ahead {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    void (*fn)(void *arg); /* NULL: nothing is running */
    void *arg;
    bool stop;
};

static void *serve(void *arg)
{
    fg_ahead *a = arg;
    (void)pthread_mutex_lock(&a->lock);
    while (!a->stop) {
        if (a->fn == NULL) {
            (void)pthread_cond_wait(&a->changed, &a->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&a->lock);
        a->fn(a->arg); /* the caller does not touch them until fn is NULL */
        (void)pthread_mutex_lock(&a->lock);
        a->fn = NULL;
        (void)pthread_cond_broadcast(&a->changed);
    }
    (void)pthread_mutex_unlock(&a->lock);
    return NULL;
}

fg_status fg_ahead_create(fg_ahead **out, fg_err *err)
{
    fg_ahead *a = *out = fg_mem_zalloc(sizeof *a);
    if (a == NULL) return fg_fail_nomem(err, "reader");
    (void)pthread_mutex_init(&a->lock, NULL);
    (void)pthread_cond_init(&a->changed, NULL);
    const int e = pthread_create(&a->thread, NULL, serve, a);
    if (e == 0) return FG_OK;
    (void)pthread_cond_destroy(&a->changed);
    (void)pthread_mutex_destroy(&a->lock);
    fg_mem_free(a);
    *out = NULL;
    return fg_fail(err, FG_EIO, "reader: %s, expected a thread", strerror(e));
}

void fg_ahead_destroy(fg_ahead **out)
{
    fg_ahead *a = *out;
    if (a == NULL) return;
    fg_ahead_wait(a);
    (void)pthread_mutex_lock(&a->lock);
    a->stop = true;
    (void)pthread_cond_broadcast(&a->changed);
    (void)pthread_mutex_unlock(&a->lock);
    (void)pthread_join(a->thread, NULL);
    (void)pthread_cond_destroy(&a->changed);
    (void)pthread_mutex_destroy(&a->lock);
    fg_mem_free(a);
    *out = NULL;
}

void fg_ahead_start(fg_ahead *a, void (*fn)(void *arg), void *arg)
{
    (void)pthread_mutex_lock(&a->lock);
    a->fn = fn;
    a->arg = arg;
    (void)pthread_cond_broadcast(&a->changed);
    (void)pthread_mutex_unlock(&a->lock);
}

void fg_ahead_wait(fg_ahead *a)
{
    (void)pthread_mutex_lock(&a->lock);
    while (a->fn != NULL) (void)pthread_cond_wait(&a->changed, &a->lock);
    (void)pthread_mutex_unlock(&a->lock);
}
