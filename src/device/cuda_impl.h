/* SPDX-License-Identifier: MIT
 *
 * The inside of the CUDA device, for the files of this folder: cuda.c opens it and copies the dense
 * weights, cuda_state.c has the states, cuda_work.c the buffers of a pass, cuda_pass.c runs it,
 * cuda_experts.c has the experts on the card.
 */
#ifndef FG_SRC_DEVICE_CUDA_IMPL_H
#define FG_SRC_DEVICE_CUDA_IMPL_H

#include "src/device/driver.h"
#include "src/device/gpu_memory.h"
#include "src/device/share.h"
#include "src/expert/hot.h"
#include "src/model/device.h"

_Static_assert(FG_ROW_ELSEWHERE == FG_CUDA_ON_CARD, "one mark in row_of");

/* Memory of the card. */
typedef struct cu_memory {
    uint64_t p, bytes;
} cu_memory;

/* Dense weights of a layer on the card. */
typedef struct cu_layer {
    fg_cuda_matrix qkv, out_gate, q, k, v, out, router;
    const float *attn_norm, *mlp_norm, *inner_norm, *decay;
    bool alike; /* its experts have the same types, strides and tables: they may be on the card */
    fg_cuda_matrix gate, up, down; /* of each of them, without pointers */
    uint64_t expert_bytes;
} cu_layer;

/* Buffers of a pass of up to n_row rows; host: addresses of scratch as the card sees it. */
typedef struct cu_work {
    cu_memory memory;
    uint32_t n_row;
    fg_cuda_acts x, n, u, a, qkv, gate, xs, g, up, h, y, logits;
    float *cos, *sin, *sel_w;
    uint32_t *sel, *row_of,
        *from; /* from: token of each sorted row; rows whose logits are wanted */
    void *multiply, *light, *route;
} cu_work;

/* An expert that is there for one pass: a slot, what fills it and what empties it. */
typedef struct cu_slot {
    uint64_t p;
    fg_cu_event filled, free;
    size_t ahead; /* expert that it was filled with before the routing was known, or CU_NONE */
} cu_slot;
#define CU_NONE SIZE_MAX
enum { CU_SLOTS = FG_GPU_SLOTS, CU_MAX_SEQ = 256 };

/* An expert on its way to the place of one that was on the card. */
typedef struct cu_move {
    bool busy;
    size_t in;        /* layer * n_expert + expert */
    cu_memory memory; /* its place, which is no resident's meanwhile */
    fg_cu_event copied;
    uint64_t next_ns; /* none before */
} cu_move;

/* What goes to the card at the begin of each pass. */
typedef struct cu_block {
    fg_cuda_pass pass;
    fg_cuda_seq seq[CU_MAX_SEQ];
} cu_block;

/* A decoded token as one graph: valid for these.  Several, since sessions may take turns. */
enum { CU_GRAPHS = 4 };
typedef struct cu_graph {
    fg_cu_graph_exec exec;
    const fg_state *st;
    const fg_scratch *s;
    uint64_t pos_most;
    bool few;      /* with experts on the card */
    uint64_t used; /* number of its last launch */
} cu_graph;

typedef struct cu_state cu_state;

typedef struct cu_device {
    fg_device base;
    fg_gpu *gpu;
    const fg_driver *d;
    const fg_model *m;
    uint64_t limit; /* of the card's memory */
    fg_cu_stream main, copy;
    fg_gpu_queue queue;
    fg_cuda_queue ops;
    cu_memory dense;
    cu_layer *layer; /* [n_layer] */
    fg_cuda_matrix head;
    const float *final_norm;

    cu_work work;
    cu_memory attn;       /* work of softmax attention */
    cu_memory block;      /* cu_block */
    cu_block *staged;     /* the same, pinned */
    fg_cuda_mailbox *box; /* pinned */
    uint32_t ticket;
    cu_graph graph[CU_GRAPHS];
    cu_graph *now; /* the running pass's */

    /* experts */
    bool floats;         /* some take f32 inputs */
    cu_memory table;     /* fg_cuda_expert [n_layer * n_expert] */
    cu_memory *resident; /* [n_layer * n_expert] */
    fg_hot hot;          /* of them all */
    cu_move move;
    bool restless;       /* for tests */
    bool *chosen;        /* [n_layer * n_expert] they come first; while !filled */
    bool *pinned;        /* [n_layer * n_expert] its bytes in the mapping are registered */
    uint64_t pin_left;   /* bytes that may be registered yet */
    uint64_t most_bytes; /* of an expert */
    bool filled;         /* slots were made, and counts begun */
    uint64_t fill_ns;    /* no resident is added before; 0: none was looked for yet */
    cu_memory slots;     /* none: experts are not copied for a pass */
    cu_slot slot[CU_SLOTS];
    uint32_t turn;     /* slot that is next */
    uint32_t n_copied; /* experts of this layer that came through one */
    fg_cu_event rows;  /* the host's rows of this layer are on the card */
    bool *mine;        /* [n_expert] of this layer */
    uint32_t *from;    /* [from_room] token of each sorted row */
    uint64_t from_room;
    fg_share_rates rates;
    uint64_t started_ns; /* the host's experts of this layer */

    /* the pass */
    fg_batch *b;
    const fg_scratch *host; /* scratch whose address on the card is host_base */
    uint64_t host_base;
    bool in_graph, few;
    uint32_t next; /* layer to be launched after this one */
    fg_cu_event routed;
    uint64_t patience_ns; /* beyond a minute */
    fg_status broken;     /* the card is of no use any more */
    fg_device_stats stats;
} cu_device;

/* ---- memory ---- */
fg_status fg_cu_take(cu_device *c, cu_memory *m, uint64_t bytes, const char *what, fg_err *err);
/* The same; residents give way to it. */
fg_status fg_cu_take_first(cu_device *c, cu_memory *m, uint64_t bytes, const char *what,
                           fg_err *err);
void fg_cu_give(cu_device *c, cu_memory *m);
/* The status of a driver call of the device; a fault of the card is remembered. */
fg_status fg_cu_check(cu_device *c, int result, const char *what, fg_err *err);
/* Of all launches so far. */
fg_status fg_cu_launched(cu_device *c, fg_err *err);
/* The card does not answer: it is broken, and hangs when the abort word does not help. */
void fg_cu_give_up(cu_device *c);
/* Waits for all that is in the main stream, a minute at most. */
fg_status fg_cu_drain(cu_device *c, const char *what, fg_err *err);
/* Waits for a stream, with an end to its patience. */
fg_status fg_cu_wait(cu_device *c, fg_cu_event event, const char *what, fg_err *err);

/* ---- weights ---- */
/* The host has them in the mapping, and nowhere else. */
bool fg_cu_mapped(const cu_device *c);
fg_status fg_cu_dense_load(cu_device *c, const fg_device_opts *o, fg_err *err);

/* ---- states ---- */
struct cu_state {
    cu_memory memory;
    struct {
        float *s, *kt, *v;
        void *k_cache, *v_cache;
        float *k_scale, *v_scale;
    } * layer; /* [n_layer] */
};
fg_status fg_cu_attach(fg_device *d, fg_state *st, fg_scratch *s, fg_err *err);
void fg_cu_detach(fg_device *d, fg_state *st);
fg_status fg_cu_fetch(fg_device *d, fg_state *st, fg_err *err);
/* What is newer in memory goes to the card. */
fg_status fg_cu_bring(cu_device *c, fg_state *st, fg_err *err);

/* ---- buffers ---- */
fg_status fg_cu_work_reserve(cu_device *c, uint32_t n_row, fg_err *err);
uint32_t fg_cu_most_rows(fg_device *d);
fg_status fg_cu_see_scratch(cu_device *c, fg_scratch *s, fg_err *err);
void fg_cu_forget(fg_device *d, fg_scratch *s);
/* Graphs of this state and scratch go; NULL: of any. */
void fg_cu_drop_graphs(cu_device *c, const fg_state *st, const fg_scratch *s);
/* Address of something in the scratch of the pass as the card sees it. */
void *fg_cu_host(const cu_device *c, const void *p);

/* ---- experts ---- */
fg_status fg_cu_experts_open(cu_device *c, fg_err *err);
void fg_cu_experts_close(cu_device *c);
/* Slots, and as many residents as fit, some at a time. */
fg_status fg_cu_experts_fill(cu_device *c, fg_err *err);
fg_status fg_cu_fill(fg_device *d, fg_err *err);
bool fg_cu_has(const fg_device *d, uint32_t layer, uint32_t expert);
/* Between two passes: an expert that has come takes its place, and the next one sets out. */
fg_status fg_cu_experts_move(cu_device *c, fg_err *err);
/* Gives up the coldest resident; false: there is none. */
bool fg_cu_experts_yield(cu_device *c);
/* Those of few rows that are there, decided on the card; order: where the host finds them. */
void fg_cu_experts_few(cu_device *c, uint32_t layer);
void fg_cu_experts_order(cu_device *c);
void fg_cu_experts_take(fg_device *d, uint32_t layer, const uint32_t *n_row, bool *mine);
/* At the begin of a pass: what an earlier one left in the slots is nobody's. */
void fg_cu_experts_begin(cu_device *c);
fg_status fg_cu_experts_start(cu_device *c, uint32_t layer, fg_err *err);
/* Rows of the host's experts go to the card, and what it took is noted. */
fg_status fg_cu_experts_done(cu_device *c, uint32_t layer, fg_err *err);

/* ---- the pass ---- */
fg_status fg_cu_begin(fg_device *d, fg_batch *b, fg_err *err);
fg_status fg_cu_routed(fg_device *d, uint32_t layer, fg_err *err);
fg_status fg_cu_start(fg_device *d, uint32_t layer, fg_err *err);
fg_status fg_cu_done(fg_device *d, uint32_t layer, fg_status status, fg_err *err);
fg_status fg_cu_hidden(fg_device *d, fg_err *err);
fg_status fg_cu_logits(fg_device *d, const uint32_t *rows, uint32_t n, fg_err *err);
fg_status fg_cu_end(fg_device *d, fg_err *err);

#endif
