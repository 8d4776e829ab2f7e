/* SPDX-License-Identifier: MIT
 *
 * The driver that is none: modules, streams, events and graphs.  One lock is over all of it; work
 * is done without it, so that what host and card do at once is seen by a thread sanitizer.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/emulate/cuda/fake_driver.h"

#include "simd/cuda/rows_args.h"
#include "tests/emulate/cuda/cuda_emu.h"

enum { PATIENCE_S = 30, USUAL_SHARED = 48 * 1024 };

#define FG_CUDA_KERNEL(name) extern const size_t fg_card_args_##name;
#include "simd/cuda/cuda_kernels.inc"

static const size_t *const n_args_of[FG_CUDA_KERNEL_COUNT] = {
#define FG_CUDA_KERNEL(name) &fg_card_args_##name,
#include "simd/cuda/cuda_kernels.inc"
};

/* ---- modules ---- */

struct fg_cu_function_ {
    fg_cuda_kernel kernel;
    uint32_t max_shared;
};
static struct fg_cu_module_ {
    struct fg_cu_function_ function[FG_CUDA_KERNEL_COUNT];
    bool loaded;
} module;

int fg_fake_module_load(fg_cu_module *out, const void *image)
{
    const int r = fake_enter();
    if (r != 0) return r;
    if (image == NULL || module.loaded) return CU_INVALID_VALUE;
    module.loaded = true;
    for (uint32_t k = 0; k < FG_CUDA_KERNEL_COUNT; k++) {
        module.function[k] = (struct fg_cu_function_){(fg_cuda_kernel)k, USUAL_SHARED};
    }
    *out = &module;
    return 0;
}

int fg_fake_module_unload(fg_cu_module m)
{
    const int r = fake_enter();
    if (r != 0) return r;
    m->loaded = false;
    return 0;
}

int fg_fake_module_function(fg_cu_function *out, fg_cu_module m, const char *name)
{
    const int r = fake_enter();
    if (r != 0) return r;
    for (uint32_t k = 0; k < FG_CUDA_KERNEL_COUNT; k++) {
        if (strcmp(name, fg_cuda_kernel_name[k]) != 0) continue;
        *out = &m->function[k];
        return 0;
    }
    return CU_NOT_FOUND;
}

int fg_fake_function_get(int *value, int attribute, fg_cu_function f)
{
    (void)f;
    *value = 0;
    return attribute == 1 ? 0 : CU_INVALID_VALUE;
}

int fg_fake_function_set(fg_cu_function f, int attribute, int value)
{
    if (attribute != 8 || value < 0 || value > FG_EMU_SHARED) return CU_INVALID_VALUE;
    f->max_shared = (uint32_t)value;
    return 0;
}

/* ---- operations ---- */

typedef enum op_kind { OP_KERNEL, OP_COPY, OP_FILL, OP_RECORD, OP_WAIT, OP_GRAPH } op_kind;
typedef struct op {
    struct op *next;
    op_kind kind;
    fg_cuda_kernel kernel;
    uint32_t grid[3], block, shared;
    bool early; /* launched by fg_fake_launch_ex */
    void *args; /* a copy of the launch's, or of what a copy from pageable memory has read */
    void *to;
    const void *from;
    size_t bytes;
    unsigned char value;
    fg_cu_event event;
    uint64_t turn; /* of the event */
    fg_cu_graph_exec exec;
} op;

typedef struct op_list {
    op *first, *last;
    uint64_t n;
} op_list;

struct fg_cu_graph_ {
    op_list list;
    fg_cu_stream origin; /* while it is captured */
};
struct fg_cu_graph_exec_ {
    op_list list;
    uint64_t n_queued;
    bool destroyed;
};
struct fg_cu_event_ {
    uint64_t asked, done; /* records */
    bool has_time;
    struct timespec at;
    fg_cu_graph graph; /* recorded into, in a capture; of `stream` after n operations */
    fg_cu_stream stream;
    uint64_t n;
};
struct fg_cu_stream_ {
    struct fg_cu_stream_ *next;
    pthread_cond_t more, idle;
    op_list list;
    bool busy, closing;
    fg_cu_graph graph; /* that it is captured into */
    uint64_t n_captured, n_joined;
};

static fg_cu_stream streams; /* all */
static pthread_cond_t event_done = PTHREAD_COND_INITIALIZER;

static void put(op_list *l, const op *o)
{
    op *copy = malloc(sizeof *copy);
    if (copy == NULL) abort();
    *copy = *o;
    copy->next = NULL;
    if (l->last != NULL) l->last->next = copy;
    if (l->last == NULL) l->first = copy;
    l->last = copy;
    l->n++;
}

static void drop(op_list *l)
{
    for (op *o = l->first; o != NULL;) {
        op *next = o->next;
        free(o->args);
        free(o);
        o = next;
    }
    *l = (op_list){0};
}

/* Waits for cond with the lock held; ends the process when nothing happens for so long that the
 * real program would hang. */
static void wait_for(pthread_cond_t *cond, const char *what)
{
    struct timespec end;
    (void)clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += PATIENCE_S;
    if (pthread_cond_timedwait(cond, &fake_mutex, &end) != ETIMEDOUT) return;
    (void)fake_misuse(0, "%s waits for ever", what);
    abort();
}

static void run_kernel(const op *o)
{
    static fg_cuda_mailbox nobodys;
    fake_lock();
    const uint64_t n = ++fake.n_run;
    const bool hang = n == fake.hang, fault = n == fake.fault, wrong = n == fake.wrong;
    bool lose = false;
    fg_route_args route = {0};
    if (o->kernel == FG_CUDA_router_f32 || o->kernel == FG_CUDA_router_bf16) {
        memcpy(&route, o->args, sizeof route);
        lose = route.post.box != NULL && ++fake.n_post == fake.lose;
    }
    fake.hangs = fake.hangs || hang;
    if (fault) fake.sticky = CU_LAUNCH_FAILED;
    fake_unlock();
    while (hang) (void)nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    if (fault || wrong) return;
    const void *args = o->args;
    if (lose) {
        route.post.box = &nobodys;
        args = &route;
    }
    const int r = fg_emu_run(o->kernel, o->grid, o->block, o->shared, args, *n_args_of[o->kernel]);
    if (r == 0 && (!o->early || fg_emu_has_waited(o->grid, o->block))) return;
    fake_lock();
    fake.sticky = CU_LAUNCH_FAILED;
    fake_unlock();
}

/* Without the lock, but for what says otherwise. */
static void run_op(const op *o)
{
    switch (o->kind) {
    case OP_KERNEL: run_kernel(o); break;
    case OP_COPY: memcpy(o->to, o->args != NULL ? o->args : o->from, o->bytes); break;
    case OP_FILL: memset(o->to, o->value, o->bytes); break;
    case OP_RECORD:
        fake_lock();
        o->event->done = o->turn;
        (void)clock_gettime(CLOCK_MONOTONIC, &o->event->at);
        (void)pthread_cond_broadcast(&event_done);
        fake_unlock();
        break;
    case OP_WAIT:
        fake_lock();
        while (o->event->done < o->turn && fake.sticky == 0) {
            (void)pthread_cond_wait(&event_done, &fake_mutex);
        }
        fake_unlock();
        break;
    case OP_GRAPH:
        for (const op *p = o->exec->list.first; p != NULL; p = p->next) {
            fake_lock();
            const bool broken = fake.sticky != 0;
            fake_unlock();
            if (!broken) run_op(p);
        }
        break;
    }
}

static void finish_graph(fg_cu_graph_exec x)
{
    if (--x->n_queued > 0 || !x->destroyed) return;
    drop(&x->list);
    free(x);
}

static void *serve(void *arg)
{
    fg_cu_stream s = arg;
    fake_lock();
    for (;;) {
        while (s->list.first == NULL && !s->closing) {
            (void)pthread_cond_wait(&s->more, &fake_mutex);
        }
        op *o = s->list.first;
        if (o == NULL) break;
        s->list.first = o->next;
        if (o->next == NULL) s->list.last = NULL;
        s->busy = true;
        const bool broken = fake.sticky != 0;
        fake_unlock();
        if (!broken) run_op(o);
        fake_lock();
        if (fake.sticky != 0) (void)pthread_cond_broadcast(&event_done);
        if (o->kind == OP_GRAPH) finish_graph(o->exec);
        free(o->args);
        free(o);
        s->busy = false;
        if (s->list.first == NULL) (void)pthread_cond_broadcast(&s->idle);
    }
    fake_unlock();
    (void)pthread_cond_destroy(&s->more);
    (void)pthread_cond_destroy(&s->idle);
    free(s);
    return NULL;
}

/* ---- streams ---- */

int fg_fake_stream_create(fg_cu_stream *out, unsigned flags)
{
    pthread_t thread;
    const int r = fake_enter();
    *out = NULL;
    if (r != 0) return r;
    if (flags > FG_CU_STREAM_NO_WAIT) return CU_INVALID_VALUE;
    fg_cu_stream s = calloc(1, sizeof *s);
    if (s == NULL) abort();
    (void)pthread_cond_init(&s->more, NULL);
    (void)pthread_cond_init(&s->idle, NULL);
    if (pthread_create(&thread, NULL, serve, s) != 0) abort();
    (void)pthread_detach(thread);
    fake_lock();
    s->next = streams;
    streams = s;
    fake.n_stream++;
    fake_unlock();
    *out = s;
    return 0;
}

/* With the lock held. */
static bool is_stream(fg_cu_stream s)
{
    fg_cu_stream p = streams;
    while (p != NULL && p != s) p = p->next;
    return p != NULL;
}

/* Enters, with the lock held when it succeeds. */
static int enter_stream(fg_cu_stream s)
{
    int r = fake_enter();
    if (r != 0) return r;
    fake_lock();
    if (is_stream(s)) return 0;
    fake_unlock();
    return fake_misuse(CU_INVALID_HANDLE, "stream %p, which is none", (void *)s);
}

int fg_fake_stream_destroy(fg_cu_stream s)
{
    const int r = enter_stream(s);
    if (r != 0) return r;
    fg_cu_stream *at = &streams;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    s->closing = true;
    fake.n_stream--;
    (void)pthread_cond_signal(&s->more);
    fake_unlock();
    return 0;
}

static bool is_idle(const struct fg_cu_stream_ *s)
{
    return s->list.first == NULL && !s->busy;
}

int fg_fake_stream_sync(fg_cu_stream s)
{
    int r = enter_stream(s);
    if (r != 0) return r;
    if (s->graph != NULL) r = CU_CAPTURE_UNSUPPORTED;
    while (r == 0 && !is_idle(s)) wait_for(&s->idle, "cuStreamSynchronize");
    if (r == 0) r = fake.sticky;
    fake_unlock();
    return r;
}

int fg_fake_stream_query(fg_cu_stream s)
{
    int r = enter_stream(s);
    if (r != 0) return r;
    if (s->graph != NULL) r = CU_CAPTURE_UNSUPPORTED;
    if (r == 0 && !is_idle(s)) r = FG_CU_NOT_READY;
    if (fake.sticky != 0) r = fake.sticky;
    fake_unlock();
    return r;
}

void fake_wait_for_streams(void)
{
    for (fg_cu_stream s = streams; s != NULL;) {
        if (is_idle(s)) {
            s = s->next;
            continue;
        }
        wait_for(&s->idle, "freeing memory");
        s = streams; /* it may be gone */
    }
}

/* With the lock held: does it, or captures it. */
static int submit(fg_cu_stream s, const op *o)
{
    if (s->graph != NULL) {
        put(&s->graph->list, o);
        s->n_captured++;
        return 0;
    }
    put(&s->list, o);
    (void)pthread_cond_signal(&s->more);
    return 0;
}

int fg_fake_stream_wait(fg_cu_stream s, fg_cu_event event, unsigned flags)
{
    int r = enter_stream(s);
    if (r != 0) return r;
    if (flags != 0) r = CU_INVALID_VALUE;
    if (r == 0 && event->graph != NULL) {
        /* order is that of capturing: a fork joins, a join is known for what it is */
        if (s->graph == NULL) s->n_captured = 1, s->n_joined = 0;
        s->graph = event->graph;
        if (event->stream->n_captured == event->n) event->stream->n_joined = event->n;
    } else if (r == 0 && s->graph != NULL) {
        r = CU_CAPTURE_UNSUPPORTED;
    } else if (r == 0 && event->asked > 0) {
        r = submit(s, &(op){.kind = OP_WAIT, .event = event, .turn = event->asked});
    }
    fake_unlock();
    return r;
}

/* ---- events ---- */

int fg_fake_event_create(fg_cu_event *out, unsigned flags)
{
    const int r = fake_enter();
    *out = NULL;
    if (r != 0) return r;
    *out = calloc(1, sizeof **out);
    if (*out == NULL) abort();
    (*out)->has_time = (flags & FG_CU_EVENT_NO_TIME) == 0;
    fake_lock();
    fake.n_event++;
    fake_unlock();
    return 0;
}

int fg_fake_event_destroy(fg_cu_event event)
{
    int r = fake_enter();
    if (r != 0) return r;
    fake_lock();
    if (event->asked != event->done && fake.sticky == 0) {
        r = fake_misuse(0, "an event destroyed that is still waited for");
    } else {
        free(event);
    }
    fake.n_event--;
    fake_unlock();
    return r;
}

int fg_fake_event_record(fg_cu_event event, fg_cu_stream s)
{
    int r = enter_stream(s);
    if (r != 0) return r;
    event->graph = s->graph;
    if (s->graph != NULL) {
        event->stream = s;
        event->n = s->n_captured;
    } else {
        event->asked++;
        r = submit(s, &(op){.kind = OP_RECORD, .event = event, .turn = event->asked});
    }
    fake_unlock();
    return r;
}

int fg_fake_event_query(fg_cu_event event)
{
    int r = fake_enter();
    fake_lock();
    if (r == 0 && event->graph != NULL) r = CU_CAPTURED_EVENT;
    if (r == 0 && event->done < event->asked) r = FG_CU_NOT_READY;
    fake_unlock();
    return r;
}

int fg_fake_event_sync(fg_cu_event event)
{
    int r = fake_enter();
    fake_lock();
    if (r == 0 && event->graph != NULL) r = CU_CAPTURED_EVENT;
    while (r == 0 && event->done < event->asked && fake.sticky == 0) {
        wait_for(&event_done, "cuEventSynchronize");
    }
    if (r == 0) r = fake.sticky;
    fake_unlock();
    return r;
}

int fg_fake_event_time(float *ms, fg_cu_event from, fg_cu_event to)
{
    int r = fake_enter();
    if (r != 0) return r;
    fake_lock();
    if (!from->has_time || !to->has_time || from->asked == 0 || to->asked == 0) {
        r = CU_INVALID_HANDLE;
    } else if (from->done < from->asked || to->done < to->asked) {
        r = FG_CU_NOT_READY;
    } else {
        *ms = (float)((double)(to->at.tv_sec - from->at.tv_sec) * 1e3 +
                      (double)(to->at.tv_nsec - from->at.tv_nsec) * 1e-6);
    }
    fake_unlock();
    return r;
}

/* ---- launches and copies ---- */

static int launch(fg_cu_function f, const fg_cu_config *c, bool early, void **params, void **extra)
{
    const size_t n_args = *n_args_of[f->kernel];
    int r = enter_stream(c->stream);
    if (r != 0) return r;
    const uint64_t blocks = (uint64_t)c->block[0] * c->block[1] * c->block[2];
    op o = {.kind = OP_KERNEL,
            .kernel = f->kernel,
            .grid = {c->grid[0], c->grid[1], c->grid[2]},
            .block = c->block[0],
            .shared = c->shared,
            .early = early};
    if (++fake.n_launch == fake.launch) {
        r = CU_LAUNCH_OUT_OF_RESOURCES;
    } else if (extra != NULL || blocks == 0 || blocks > 1024 || c->block[0] != blocks ||
               c->grid[0] == 0 || c->grid[0] >> 31 != 0 || c->grid[1] == 0 || c->grid[1] > 65535 ||
               c->grid[2] == 0 || c->grid[2] > 65535 || c->shared > f->max_shared) {
        r = fake_misuse(CU_INVALID_VALUE, "%s: grid %u %u %u, block %u, shared %u",
                        fg_cuda_kernel_name[f->kernel], c->grid[0], c->grid[1], c->grid[2],
                        c->block[0], c->shared);
    } else {
        o.args = malloc(n_args);
        if (o.args == NULL) abort();
        memcpy(o.args, params[0], n_args);
        r = submit(c->stream, &o);
    }
    fake_unlock();
    return r;
}

int fg_fake_launch(fg_cu_function f, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   fg_cu_stream stream, void **params, void **extra)
{
    const fg_cu_config c = {.grid = {grid_x, grid_y, grid_z},
                            .block = {block_x, block_y, block_z},
                            .shared = shared,
                            .stream = stream};
    return launch(f, &c, false, params, extra);
}

int fg_fake_launch_ex(const fg_cu_config *c, fg_cu_function f, void **params, void **extra)
{
    const bool known = c->n_attribute == 1 && c->attribute->id == FG_CU_EARLY;
    if (!known) return CU_INVALID_VALUE;
    return launch(f, c, c->attribute->value == 1, params, extra);
}

/* What is not pinned is read at once, as a driver stages it, or waited for. */
static int copy(void *to, const void *from, size_t bytes, fg_cu_stream s, unsigned to_kind,
                unsigned from_kind)
{
    int r = enter_stream(s);
    if (r != 0) return r;
    const unsigned host = FAKE_PINNED | FAKE_REGISTERED;
    const bool pinned = fake_holds(to_kind == 0 ? to : from, bytes, host);
    op o = {.kind = OP_COPY, .to = to, .from = from, .bytes = bytes};
    if ((to_kind != 0 && !fake_holds(to, bytes, to_kind)) ||
        (from_kind != 0 && !fake_holds(from, bytes, from_kind))) {
        r = fake_misuse(CU_INVALID_VALUE, "a copy of %zu bytes from %p to %p, beyond its memory",
                        bytes, from, to);
    } else if (bytes > 0) {
        if (from_kind == 0 && !pinned && s->graph == NULL) {
            o.args = malloc(bytes);
            if (o.args == NULL) abort();
            memcpy(o.args, from, bytes);
        }
        r = submit(s, &o);
        while (r == 0 && to_kind == 0 && !pinned && s->graph == NULL && !is_idle(s)) {
            wait_for(&s->idle, "a copy to memory that is not pinned");
        }
    }
    fake_unlock();
    return r;
}

int fg_fake_copy_in(uint64_t to, const void *from, size_t bytes, fg_cu_stream stream)
{
    return copy((void *)(uintptr_t)to, from, bytes, stream, FAKE_CARD, 0);
}

int fg_fake_copy_out(void *to, uint64_t from, size_t bytes, fg_cu_stream stream)
{
    return copy(to, (const void *)(uintptr_t)from, bytes, stream, 0, FAKE_CARD);
}

int fg_fake_copy_on(uint64_t to, uint64_t from, size_t bytes, fg_cu_stream stream)
{
    return copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, stream, FAKE_CARD,
                FAKE_CARD);
}

int fg_fake_fill(uint64_t p, unsigned char value, size_t bytes, fg_cu_stream stream)
{
    int r = enter_stream(stream);
    if (r != 0) return r;
    void *to = (void *)(uintptr_t)p;
    if (!fake_holds(to, bytes, FAKE_CARD)) {
        r = fake_misuse(CU_INVALID_VALUE, "%zu bytes filled at %p, beyond its memory", bytes, to);
    } else if (bytes > 0) {
        r = submit(stream, &(op){.kind = OP_FILL, .to = to, .bytes = bytes, .value = value});
    }
    fake_unlock();
    return r;
}

/* ---- graphs ---- */

int fg_fake_capture_begin(fg_cu_stream stream, int mode)
{
    int r = enter_stream(stream);
    if (r != 0) return r;
    if (mode < 0 || mode > 2 || stream->graph != NULL) {
        r = CU_INVALID_VALUE;
    } else {
        stream->graph = calloc(1, sizeof *stream->graph);
        if (stream->graph == NULL) abort();
        stream->graph->origin = stream;
        fake.n_graph++;
    }
    fake_unlock();
    return r;
}

int fg_fake_capture_end(fg_cu_stream stream, fg_cu_graph *out)
{
    int r = enter_stream(stream);
    *out = NULL;
    if (r != 0) return r;
    fg_cu_graph g = stream->graph;
    if (g == NULL || g->origin != stream) {
        fake_unlock();
        return CU_CAPTURE_UNMATCHED;
    }
    for (fg_cu_stream s = streams; s != NULL; s = s->next) {
        if (s->graph != g) continue;
        if (s != stream && s->n_joined != s->n_captured) r = CU_CAPTURE_UNJOINED;
        s->graph = NULL;
    }
    *out = g;
    fake_unlock();
    return r;
}

int fg_fake_graph_make(fg_cu_graph_exec *out, fg_cu_graph graph, unsigned long long flags)
{
    const int r = fake_enter();
    *out = NULL;
    if (r != 0) return r;
    if (flags != 0) return CU_INVALID_VALUE;
    fg_cu_graph_exec x = calloc(1, sizeof *x);
    if (x == NULL) abort();
    for (const op *o = graph->list.first; o != NULL; o = o->next) {
        op c = *o;
        if (o->kind == OP_KERNEL) {
            const size_t n_args = *n_args_of[o->kernel];
            c.args = malloc(n_args);
            if (c.args == NULL) abort();
            memcpy(c.args, o->args, n_args);
        }
        put(&x->list, &c);
    }
    fake_lock();
    fake.n_graph++;
    fake_unlock();
    *out = x;
    return 0;
}

int fg_fake_graph_launch(fg_cu_graph_exec exec, fg_cu_stream stream)
{
    int r = enter_stream(stream);
    if (r != 0) return r;
    if (stream->graph != NULL) {
        r = CU_CAPTURE_UNSUPPORTED;
    } else {
        exec->n_queued++;
        fake.n_graph_launch++;
        r = submit(stream, &(op){.kind = OP_GRAPH, .exec = exec});
    }
    fake_unlock();
    return r;
}

int fg_fake_graph_destroy(fg_cu_graph graph)
{
    const int r = fake_enter();
    if (r != 0) return r;
    fake_lock();
    fake.n_graph--;
    fake_unlock();
    drop(&graph->list);
    free(graph);
    return 0;
}

int fg_fake_graph_exec_destroy(fg_cu_graph_exec exec)
{
    const int r = fake_enter();
    if (r != 0) return r;
    fake_lock();
    fake.n_graph--;
    exec->destroyed = true;
    exec->n_queued++;
    finish_graph(exec);
    fake_unlock();
    return 0;
}
