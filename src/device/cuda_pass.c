/* SPDX-License-Identifier: MIT
 *
 * A pass on the card.  A decoded token of one sequence is one graph, which waits for the host's
 * experts by way of the mailbox; everything else is launched layer by layer, since the host has to
 * wait for the routing anyway.  Both launch the same operations: attend() is the first half of a
 * layer, up to its routing.
 */
#include <stdatomic.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/device/cuda_impl.h"

static uint64_t pointer(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

/* ---- a layer ---- */

/* What the joins of a pass have in common: x, n and the model's constants. */
static fg_cuda_join join_of(const cu_device *c, uint32_t n_row)
{
    const fg_shape *s = c->m->shape;
    return (fg_cuda_join){.n_row = n_row,
                          .d = s->d_model,
                          .x = c->work.x.f,
                          .x_stride = c->work.x.f_stride,
                          .a = c->work.a.f,
                          .a_stride = c->work.a.f_stride,
                          .postnorm = s->postnorm,
                          .eps = (float)s->norm_eps,
                          .n = c->work.n};
}

/* The join adds up the experts' outputs, and then the residual. */
static void add_experts(const cu_device *c, fg_cuda_join *j, const float *y_host,
                        const uint32_t *row_of)
{
    j->row_of = row_of;
    j->sel_w = c->work.sel_w;
    j->y_host = y_host;
    j->y_card = c->work.y.f;
    j->y_stride = c->work.y.f_stride;
    j->n_used = c->m->shape->n_used;
    j->residual = true;
    j->alpha = c->m->alpha_mlp;
    j->beta = c->m->beta_mlp;
}

static void lightning(cu_device *c, uint32_t l)
{
    const fg_shape *s = c->m->shape;
    const cu_layer *y = &c->layer[l];
    const cu_work *w = &c->work;
    const fg_cuda_product in[] = {{&y->qkv, w->n, w->qkv.f, w->qkv.f_stride},
                                  {&y->out_gate, w->n, w->gate.f, w->gate.f_stride}};
    fg_cuda_multiply(&c->ops, in, 2, c->b->n_tok, w->multiply);
    for (uint32_t i = 0; i < c->b->n_seq; i++) {
        const cu_state *st = c->b->seq[i].st->card;
        fg_cuda_lightning(&c->ops, &(fg_cuda_light){
                                       .seq = &((cu_block *)(uintptr_t)c->block.p)->seq[i],
                                       .n_most = c->b->seq[i].n,
                                       .n_head = s->n_head,
                                       .d = s->d_head,
                                       .qkv = w->qkv.f,
                                       .qkv_stride = w->qkv.f_stride,
                                       .s = st->layer[l].s,
                                       .kt = st->layer[l].kt,
                                       .v = st->layer[l].v,
                                       .decay = y->decay,
                                       .u = w->u.f,
                                       .u_stride = w->u.f_stride,
                                       .work = w->light,
                                   });
    }
    fg_cuda_gate_rows(&c->ops, &(fg_cuda_gate){.n_row = c->b->n_tok,
                                               .d = s->n_head * s->d_head,
                                               .u = w->u,
                                               .w = y->inner_norm,
                                               .gate = w->gate.f,
                                               .gate_stride = w->gate.f_stride,
                                               .eps = (float)s->inner_norm_eps});
}

static fg_cuda_softmax softmax_of(const cu_device *c, uint32_t i, uint32_t l)
{
    const fg_shape *s = c->m->shape;
    const cu_work *w = &c->work;
    const fg_seq *q = &c->b->seq[i];
    const cu_state *st = q->st->card;
    return (fg_cuda_softmax){
        .seq = &((cu_block *)(uintptr_t)c->block.p)->seq[i],
        .n_most = q->n,
        .pos_most = c->in_graph ? c->now->pos_most : q->st->pos + q->n,
        .n_pos = q->st->n_pos,
        .n_head = s->n_head,
        .n_kv_head = s->n_kv_head,
        .d = s->d_head,
        .half = s->d_rotary / 2,
        .kv_type = (uint32_t)q->st->kv_type,
        .k_cache = st->layer[l].k_cache,
        .v_cache = st->layer[l].v_cache,
        .k_scale = st->layer[l].k_scale,
        .v_scale = st->layer[l].v_scale,
        .qkv = w->qkv.f,
        .qkv_stride = w->qkv.f_stride,
        .cos = w->cos,
        .sin = w->sin,
        .u = w->u.f,
        .u_stride = w->u.f_stride,
        .work = (void *)(uintptr_t)c->attn.p,
    };
}

static void softmax(cu_device *c, uint32_t l)
{
    const fg_shape *s = c->m->shape;
    const cu_layer *y = &c->layer[l];
    const cu_work *w = &c->work;
    const uint32_t stride = w->qkv.f_stride;
    float *k = w->qkv.f + (size_t)s->n_head * s->d_head;
    float *v = k + (size_t)s->n_kv_head * s->d_head;
    const fg_cuda_product in[] = {
        {&y->q, w->n, w->qkv.f, stride}, {&y->k, w->n, k, stride}, {&y->v, w->n, v, stride}};
    fg_cuda_multiply(&c->ops, in, 3, c->b->n_tok, w->multiply);
    for (uint32_t i = 0; i < c->b->n_seq; i++) {
        const fg_cuda_softmax a = softmax_of(c, i, l);
        fg_cuda_attention(&c->ops, &a);
    }
    fg_cuda_gate_rows(&c->ops,
                      &(fg_cuda_gate){.n_row = c->b->n_tok, .d = s->n_head * s->d_head, .u = w->u});
}

/* From normed rows to the routing of layer l, which the host is told of by post (NULL: is not). */
static void attend(cu_device *c, uint32_t l, const fg_cuda_post *post)
{
    const fg_shape *s = c->m->shape;
    const cu_layer *y = &c->layer[l];
    const fg_layer *m = &c->m->layers[l];
    const cu_work *w = &c->work;
    if (s->attn[l] == FG_ATTN_LIGHTNING) {
        lightning(c, l);
    } else {
        softmax(c, l);
    }
    const fg_cuda_product out = {&y->out, w->u, w->a.f, w->a.f_stride};
    fg_cuda_multiply(&c->ops, &out, 1, c->b->n_tok, w->multiply);
    fg_cuda_join j = join_of(c, c->b->n_tok);
    j.residual = true;
    j.alpha = m->alpha_attn;
    j.beta = m->beta_attn;
    j.w = y->mlp_norm;
    fg_cuda_join_rows(&c->ops, &j);
    fg_cuda_route(&c->ops,
                  &(fg_cuda_router){.n_tok = c->b->n_tok,
                                    .n_expert = s->n_expert,
                                    .n_used = s->n_used,
                                    .m = y->router,
                                    .n = w->n.f,
                                    .n_stride = w->n.f_stride,
                                    .sel = w->sel,
                                    .sel_w = w->sel_w,
                                    .work = w->route},
                  post);
}

/* ---- what passes between card and host ---- */

/* The host's inputs of its experts: rows of n in the forms that there are. */
typedef struct piece {
    const void *from;
    void *to;
    uint64_t bytes;
} piece;

/* For the host: the rows of n (of x, where looking ahead starts from it). */
static uint32_t pieces_of(const cu_device *c, piece *p)
{
    const cu_work *w = &c->work;
    const fg_scratch *s = c->b->s;
    const uint64_t T = c->b->n_tok;
    const uint64_t q = T * s->n.q_stride * sizeof(fg_act128);
    uint32_t n = 0;
    if (s->n.q != NULL) p[n++] = (piece){w->n.q, s->n.q, q};
    if (s->n.rot != NULL) p[n++] = (piece){w->n.rot, s->n.rot, q};
    if (c->floats || T == 1) { /* T = 1: what looks ahead starts from it */
        p[n++] = (piece){w->n.f, s->n.f, T * s->n.f_stride * sizeof(float)};
    }
    if (T == 1 && !c->m->shape->postnorm) {
        p[n++] = (piece){w->x.f, s->x.f, s->x.f_stride * sizeof(float)};
    }
    return n;
}

static fg_status copy_in(cu_device *c, const void *to, const void *from, uint64_t bytes,
                         fg_err *err)
{
    return fg_cu_check(c, c->d->copy_in(pointer(to), from, (size_t)bytes, c->main), "copy", err);
}

/* Embedding rows, angles and positions. */
static fg_status send_rows(cu_device *c, fg_err *err)
{
    const fg_scratch *s = c->b->s;
    const uint64_t T = c->b->n_tok, half = c->m->shape->d_rotary / 2;
    FG_TRY(copy_in(c, c->work.x.f, s->x.f, T * s->x.f_stride * sizeof(float), err));
    if (half > 0) {
        FG_TRY(copy_in(c, c->work.cos, s->cos, T * half * sizeof(float), err));
        FG_TRY(copy_in(c, c->work.sin, s->sin, T * half * sizeof(float), err));
    }
    return copy_in(c, (void *)(uintptr_t)c->block.p, c->staged, sizeof *c->staged, err);
}

/* ---- a token as a graph ---- */

/* What the host is told when layer l is routed: it begins with its experts then. */
static fg_cuda_post post_of(const cu_device *c, uint32_t l)
{
    const fg_scratch *s = c->b->s;
    piece p[FG_CUDA_POSTS];
    fg_cuda_post a = {.pass = &((cu_block *)(uintptr_t)c->block.p)->pass,
                      .layer = l,
                      .n = pieces_of(c, p),
                      .sel = fg_cu_host(c, s->sel),
                      .sel_w = fg_cu_host(c, s->sel_w),
                      .box = c->box};
    for (uint32_t i = 0; i < a.n; i++) {
        a.piece[i].from = p[i].from;
        a.piece[i].to = fg_cu_host(c, p[i].to);
        a.piece[i].bytes = p[i].bytes;
    }
    return a;
}

/* Everything of a token goes into the stream that is being captured. */
static fg_status record(cu_device *c, fg_err *err)
{
    const fg_shape *s = c->m->shape;
    const fg_scratch *h = c->b->s;
    const cu_work *w = &c->work;
    FG_TRY(send_rows(c, err));
    fg_cuda_join j = join_of(c, 1);
    j.a = NULL;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        j.w = c->layer[l].attn_norm;
        fg_cuda_join_rows(&c->ops, &j);
        const fg_cuda_post post = post_of(c, l);
        attend(c, l, &post);
        if (c->now->few) fg_cu_experts_few(c, l);
        j = join_of(c, 1);
        j.await = (fg_cuda_await){.pass = post.pass, .layer = l, .box = c->box};
        add_experts(c, &j, fg_cu_host(c, h->y.f), fg_cu_host(c, h->row_of));
    }
    j.w = c->final_norm;
    fg_cuda_join_rows(&c->ops, &j);
    const fg_cuda_product head = {&c->head, w->n, w->logits.f, w->logits.f_stride};
    fg_cuda_multiply(&c->ops, &head, 1, 1, w->multiply);
    FG_TRY(fg_cu_launched(c, err));
    FG_TRY(fg_cu_check(c,
                       c->d->copy_out(h->n.f, pointer(w->n.f), s->d_model * sizeof(float), c->main),
                       "copy", err));
    return fg_cu_check(
        c, c->d->copy_out(h->logits.f, pointer(w->logits.f), s->n_vocab * sizeof(float), c->main),
        "copy", err);
}

/* Spans that a graph is made for: doubling, so that few are made in a conversation. */
static uint64_t positions_for(const fg_state *st)
{
    uint64_t n = 4096;
    while (n < st->pos + 1) n *= 2;
    return n < st->n_pos ? n : st->n_pos;
}

static void drop(cu_device *c, cu_graph *g)
{
    if (g->exec != NULL && !c->gpu->hangs) (void)c->d->graph_exec_destroy(g->exec);
    *g = (cu_graph){0};
}

void fg_cu_drop_graphs(cu_device *c, const fg_state *st, const fg_scratch *s)
{
    for (uint32_t i = 0; i < CU_GRAPHS; i++) {
        cu_graph *g = &c->graph[i];
        if ((st == NULL || g->st == st) && (s == NULL || g->s == s)) drop(c, g);
    }
}

static fg_status capture(cu_device *c, fg_err *err)
{
    fg_cu_graph graph = NULL;
    FG_TRY(fg_cu_check(c, c->d->capture_begin(c->main, FG_CU_CAPTURE_THREAD), "graph", err));
    const fg_status recorded = record(c, err);
    const int ended = c->d->capture_end(c->main, &graph);
    if (recorded != FG_OK && graph != NULL) (void)c->d->graph_destroy(graph);
    FG_TRY(recorded);
    FG_TRY(fg_cu_check(c, ended, "graph", err));
    const int made = c->d->graph_make(&c->now->exec, graph, 0);
    (void)c->d->graph_destroy(graph);
    return fg_cu_check(c, made, "graph", err);
}

/* The graph for the running pass, or the place of the one that was launched longest ago. */
static cu_graph *find_graph(cu_device *c, const cu_graph *wanted)
{
    cu_graph *oldest = &c->graph[0];
    for (uint32_t i = 0; i < CU_GRAPHS; i++) {
        cu_graph *g = &c->graph[i];
        const bool same = g->exec != NULL && g->st == wanted->st && g->s == wanted->s &&
                          g->pos_most == wanted->pos_most && g->few == wanted->few;
        if (same) return g;
        if (g->used < oldest->used) oldest = g;
    }
    drop(c, oldest);
    *oldest = *wanted;
    return oldest;
}

static fg_status attention_work(cu_device *c, fg_err *err)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < c->b->n_seq; i++) {
        for (uint32_t l = 0; l < c->m->shape->n_layer; l++) {
            if (c->m->shape->attn[l] != FG_ATTN_SOFTMAX) continue;
            const fg_cuda_softmax a = softmax_of(c, i, l);
            const uint64_t bytes = fg_cuda_softmax_bytes(&a);
            if (bytes > most) most = bytes;
            break;
        }
    }
    if (most <= c->attn.bytes) return FG_OK;
    fg_cu_drop_graphs(c, NULL, NULL); /* they have the old address */
    c->stats.work_bytes -= c->attn.bytes;
    const fg_status st = fg_cu_take_first(c, &c->attn, most, "attention", err);
    c->stats.work_bytes += c->attn.bytes;
    return st;
}

static fg_status begin_token(cu_device *c, fg_err *err)
{
    fg_state *st = c->b->seq[0].st;
    cu_graph wanted = {
        .st = st, .s = c->b->s, .pos_most = positions_for(st), .few = c->stats.n_resident > 0};
    c->now = &wanted;
    FG_TRY(attention_work(c, err));
    c->now = find_graph(c, &wanted);
    if (c->now->exec == NULL) FG_TRY(capture(c, err));
    c->now->used = ++c->stats.n_graph;
    return fg_cu_check(c, c->d->graph_launch(c->now->exec, c->main), "graph", err);
}

/* Waits for the card's ticket of a layer. */
static fg_status await_ticket(cu_device *c, uint32_t ticket, fg_err *err)
{
    _Atomic uint32_t *routed = (_Atomic uint32_t *)&c->box->routed;
    const uint64_t begin = fg_clock_ns();
    for (uint64_t turn = 1;; turn++) {
        if (atomic_load_explicit(routed, memory_order_acquire) == ticket) return FG_OK;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        if (turn % 4096 != 0) continue; /* once in a while: is it alive at all? */
        const int result = c->d->stream_query(c->main);
        if (result != FG_CU_NOT_READY && result != 0) return fg_cu_check(c, result, "token", err);
        const bool over =
            result == 0 && atomic_load_explicit(routed, memory_order_acquire) != ticket;
        if (!over && fg_clock_ns() - begin < UINT64_C(20000000000)) continue;
        fg_cu_give_up(c);
        return fg_fail(err, FG_EIO, "gpu %u: token: %s, expected the routing of a layer",
                       c->gpu->idx, over ? "ended" : "no answer for 20 seconds");
    }
}

/* ---- the pass ---- */

static void set_abort(cu_device *c, uint32_t value)
{
    atomic_store_explicit((_Atomic uint32_t *)&c->box->abort, value, memory_order_release);
}

static void stage_block(cu_device *c)
{
    const fg_batch *b = c->b;
    c->ticket += c->m->shape->n_layer + 1;
    c->staged->pass = (fg_cuda_pass){.ticket = c->ticket, .n_tok = b->n_tok};
    for (uint32_t i = 0; i < b->n_seq; i++) {
        const fg_seq *q = &b->seq[i];
        c->staged->seq[i] = (fg_cuda_seq){q->st->pos, q->st->folded, q->first, q->n};
    }
}

static bool shows_hidden(const fg_batch *b)
{
    for (uint32_t i = 0; i < b->n_seq; i++) {
        if (b->seq[i].taps != NULL && b->seq[i].taps->hidden != NULL) return true;
    }
    return false;
}

/* First half of a layer that is not in a graph: from x to the routing, which is copied out. */
static fg_status launch_layer(cu_device *c, uint32_t l, fg_err *err)
{
    piece p[FG_CUDA_POSTS + 2];
    fg_cuda_join j = join_of(c, c->b->n_tok);
    j.a = NULL;
    j.w = c->layer[l].attn_norm;
    fg_cuda_join_rows(&c->ops, &j);
    attend(c, l, NULL);
    FG_TRY(fg_cu_launched(c, err));
    const uint64_t sel_bytes = c->b->n_tok * (uint64_t)c->m->shape->n_used * sizeof(uint32_t);
    uint32_t n = pieces_of(c, p);
    p[n++] = (piece){c->work.sel, c->b->s->sel, sel_bytes};
    p[n++] = (piece){c->work.sel_w, c->b->s->sel_w, sel_bytes};
    for (uint32_t i = 0; i < n; i++) {
        const int result = c->d->copy_out(p[i].to, pointer(p[i].from), (size_t)p[i].bytes, c->main);
        FG_TRY(fg_cu_check(c, result, "copy", err));
    }
    return fg_cu_check(c, c->d->event_record(c->routed, c->main), "event", err);
}

static fg_status launch_next(cu_device *c, fg_err *err)
{
    return c->next < c->m->shape->n_layer ? launch_layer(c, c->next, err) : FG_OK;
}

fg_status fg_cu_begin(fg_device *dev, fg_batch *b, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    c->b = b;
    c->in_graph = false;
    if (c->broken != FG_OK) {
        return fg_fail(err, c->broken, "gpu %u: broken by an earlier fault, expected a working one",
                       c->gpu->idx);
    }
    FG_TRY(fg_gpu_enter(c->gpu, err));
    if (b->n_seq > CU_MAX_SEQ) {
        return fg_fail(err, FG_ELIMIT, "gpu %u: %u sequences, expected at most %d", c->gpu->idx,
                       b->n_seq, CU_MAX_SEQ);
    }
    FG_TRY(fg_cu_see_scratch(c, b->s, err));
    FG_TRY(fg_cu_work_reserve(c, b->n_tok, err));
    FG_TRY(fg_cu_experts_fill(c, err));
    FG_TRY(fg_cu_experts_move(c, err));
    fg_cu_experts_begin(c);
    for (uint32_t i = 0; i < b->n_seq; i++) {
        fg_state *st = b->seq[i].st;
        FG_TRY(fg_cu_bring(c, st, err));
        st->light_here = false;
        if (st->rows_here > st->pos) st->rows_here = st->pos;
    }
    c->patience_ns = 0; /* attention behind a million positions takes its time */
    for (uint32_t i = 0; i < b->n_seq; i++) {
        c->patience_ns += b->seq[i].n * (b->seq[i].st->pos + b->seq[i].n) * 10;
    }
    c->queue.result = 0;
    c->few = b->n_tok <= FG_CUDA_FEW;
    c->in_graph = b->n_tok == 1 && !shows_hidden(b);
    stage_block(c);
    set_abort(c, 0);
    if (c->in_graph) return begin_token(c, err);
    FG_TRY(attention_work(c, err));
    FG_TRY(send_rows(c, err));
    return launch_layer(c, 0, err);
}

fg_status fg_cu_routed(fg_device *dev, uint32_t l, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    return c->in_graph ? await_ticket(c, c->ticket + l + 1, err)
                       : fg_cu_wait(c, c->routed, "layer", err);
}

fg_status fg_cu_start(fg_device *dev, uint32_t l, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    /* in a graph they run already */
    const fg_status st = c->in_graph ? FG_OK : fg_cu_experts_start(c, l, err);
    c->started_ns = fg_clock_ns(); /* the host's time, not that of copies which keep this thread */
    return st;
}

fg_status fg_cu_done(fg_device *dev, uint32_t l, fg_status status, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    if (status != FG_OK) set_abort(c, 1);
    if (c->few && status == FG_OK) fg_cu_experts_order(c); /* nobody else reads it any more */
    if (c->in_graph) {
        atomic_store_explicit((_Atomic uint32_t *)&c->box->done, c->ticket + l + 1,
                              memory_order_release);
        return FG_OK;
    }
    if (status != FG_OK) return FG_OK;
    FG_TRY(fg_cu_experts_done(c, l, err));
    fg_cuda_join j = join_of(c, c->b->n_tok);
    if (c->few) { /* the host's rows are few, too: they are read where they are */
        const fg_scratch *s = c->b->s;
        add_experts(c, &j, fg_cu_host(c, s->y.f), fg_cu_host(c, s->row_of));
    } else {
        add_experts(c, &j, c->work.y.f, c->work.row_of);
    }
    fg_cuda_join_rows(&c->ops, &j);
    FG_TRY(fg_cu_launched(c, err));
    c->next = l + 1;
    /* x is shown before the next layer has its way with it */
    return shows_hidden(c->b) ? FG_OK : launch_next(c, err);
}

fg_status fg_cu_hidden(fg_device *dev, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    const fg_scratch *s = c->b->s;
    const uint64_t bytes = (uint64_t)c->b->n_tok * s->x.f_stride * sizeof(float);
    FG_TRY(fg_cu_check(c, c->d->copy_out(s->x.f, pointer(c->work.x.f), (size_t)bytes, c->main),
                       "copy", err));
    FG_TRY(fg_cu_drain(c, "hidden state", err));
    return launch_next(c, err);
}

fg_status fg_cu_logits(fg_device *dev, const uint32_t *rows, uint32_t n, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    const fg_scratch *s = c->b->s;
    const cu_work *w = &c->work;
    if (!c->in_graph) {
        const fg_cuda_product head = {&c->head, w->n, w->logits.f, w->logits.f_stride};
        FG_TRY(copy_in(c, w->from, rows, n * sizeof *rows, err));
        fg_cuda_join j = join_of(c, n);
        j.a = NULL;
        j.w = c->final_norm;
        j.from = w->from;
        fg_cuda_join_rows(&c->ops, &j);
        fg_cuda_multiply(&c->ops, &head, 1, n, w->multiply);
        FG_TRY(fg_cu_launched(c, err));
        const uint64_t normed = (uint64_t)n * s->n.f_stride * sizeof(float);
        const uint64_t logits = (uint64_t)n * s->logits.f_stride * sizeof(float);
        FG_TRY(fg_cu_check(c, c->d->copy_out(s->n.f, pointer(w->n.f), (size_t)normed, c->main),
                           "copy", err));
        FG_TRY(fg_cu_check(
            c, c->d->copy_out(s->logits.f, pointer(w->logits.f), (size_t)logits, c->main), "copy",
            err));
    }
    FG_TRY(fg_cu_check(c, c->d->event_record(c->routed, c->main), "event", err));
    return fg_cu_wait(c, c->routed, "logits", err);
}

fg_status fg_cu_end(fg_device *dev, fg_err *err)
{
    cu_device *c = (cu_device *)dev;
    const uint64_t done = c->ticket + c->m->shape->n_layer + 1;
    if (c->broken != FG_OK) { /* said already; whatever waits is to end */
        set_abort(c, 1);
        return FG_OK;
    }
    if (c->in_graph && c->box->done + 1 != done) set_abort(c, 1); /* it was given up on the way */
    if (c->main == NULL) return FG_OK;
    FG_TRY(fg_cu_check(c, c->d->event_record(c->routed, c->main), "event", err));
    const fg_status st = fg_cu_wait(c, c->routed, "pass", err);
    c->b = NULL;
    return st;
}
