/* SPDX-License-Identifier: MIT
 *
 * The network's operations on a card, in the words of src/device, and what simd/cuda makes of them:
 * launches of kernels, put into a queue in order.  A queue is a stream of the driver, one that
 * is being captured into a graph, or in tests the emulator: operations know none of them, allocate
 * nothing, wait for nothing and read no device memory.
 *
 * Results are the bits of the CPU's kernels (simd/kernels.h; numerics contract, KERNELS.md): the
 * operation of a name does what the slots named beside it do, in their order of sums.
 *
 * Pointers are addresses of the card unless marked host.  Rows are f_stride, q_stride apart as in
 * fg_acts, padded with zeros to a multiple of 128; buffers are 256-byte aligned.  What a graph
 * cannot bake in, since it differs from token to token, is read from fg_cuda_pass and fg_cuda_seq
 * in the card's memory; bounds of it that size a grid are arguments ("most").
 */
#ifndef FG_SIMD_CUDA_OPS_H
#define FG_SIMD_CUDA_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "simd/kernels.h"

/* ---- the queue ---- */

/* Kernels by number; the names in the module are fg_card_<name>.  FG_CUDA_KERNEL(name) a line. */
typedef enum fg_cuda_kernel {
#define FG_CUDA_KERNEL(name) FG_CUDA_##name,
#include "simd/cuda/cuda_kernels.inc"
    FG_CUDA_KERNEL_COUNT
} fg_cuda_kernel;
extern const char *const fg_cuda_kernel_name[FG_CUDA_KERNEL_COUNT];

typedef struct fg_cuda_launch {
    fg_cuda_kernel kernel;
    uint32_t grid[3], block;
    uint32_t shared;  /* bytes of dynamic shared memory, at most 227 KiB on sm_90, 99 on sm_86 */
    const void *args; /* host: the kernel's one parameter, a struct; copied by the queue */
    size_t n_args;
    bool early; /* may begin before the kernel in front of it is done: it waits for it by itself */
} fg_cuda_launch;

typedef struct fg_cuda_queue {
    void (*launch)(void *ctx, const fg_cuda_launch *l); /* remembers its first error itself */
    void *ctx;
    uint32_t n_sm;       /* multiprocessors of the card */
    uint32_t max_shared; /* bytes of shared memory that a block may ask for */
} fg_cuda_queue;

/* ---- what operations work on ---- */

/* Of a pass; the card's own copy. */
typedef struct fg_cuda_pass {
    uint32_t ticket; /* layer l of this pass answers to ticket + l + 1 (mailbox) */
    uint32_t n_tok;
} fg_cuda_pass;

/* Rows first .. first + n - 1 of the pass: the tokens of one sequence that follow pos. */
typedef struct fg_cuda_seq {
    uint64_t pos, folded; /* as fg_state's */
    uint32_t first, n;
} fg_cuda_seq;

/* As fg_acts, without tiles. */
typedef struct fg_cuda_acts {
    float *f;
    fg_act128 *q, *rot; /* NULL: not kept */
    uint32_t f_stride, q_stride;
} fg_cuda_acts;

/* As fg_matrix. */
typedef struct fg_cuda_matrix {
    const uint8_t *panels;
    const float *scales;
    uint64_t panel_stride;
    uint32_t n_panel, n_sb;
    fg_qkind kind; /* which decides the kernel; float kinds take x.f */
    bool rotated;
    uint8_t lut[16]; /* FG_KIND_Q4 only: the table itself */
} fg_cuda_matrix;

/* ---- operations ---- */

/* panel_<kind>: y[t] = W x[t], n_tok rows; all products of a call may run together.  work:
 * fg_cuda_multiply_bytes of the largest, used when n_tok > 1. */
typedef struct fg_cuda_product {
    const fg_cuda_matrix *m; /* host */
    fg_cuda_acts x;
    float *y;
    uint32_t y_stride;
} fg_cuda_product;
uint64_t fg_cuda_multiply_bytes(uint32_t n_tok, uint32_t n_sb);
void fg_cuda_multiply(const fg_cuda_queue *q, const fg_cuda_product *p, size_t n, uint32_t n_tok,
                      void *work);

/* ---- the mailbox, in host memory that both sides see ---- */

typedef struct fg_cuda_mailbox {
    _Alignas(64) uint32_t routed; /* written by the card: ticket of the layer that is ready */
    _Alignas(64) uint32_t done;   /* written by the host: the layer whose experts are ready */
    uint32_t abort;               /* written by the host: not 0, nothing is waited for any more */
} fg_cuda_mailbox;

/* Up to FG_CUDA_POSTS pieces go to host memory, and the selection of a routing; then, visible after
 * them, the ticket of `layer` to box->routed. */
enum { FG_CUDA_POSTS = 4 };
typedef struct fg_cuda_post {
    const fg_cuda_pass *pass;
    uint32_t layer, n;
    struct {
        const void *from;
        void *to; /* 16-byte aligned, as bytes is a multiple of 4 */
        uint64_t bytes;
    } piece[FG_CUDA_POSTS];
    uint32_t *sel; /* [n_used] of the one row that is routed */
    float *sel_w;
    fg_cuda_mailbox *box;
} fg_cuda_post;

/* Until box->done is the ticket of `layer`, or abort. */
typedef struct fg_cuda_await {
    const fg_cuda_pass *pass;
    uint32_t layer;
    const fg_cuda_mailbox *box;
} fg_cuda_await;

/* What stands between two products, a row at a time, each step left out where its pointer is NULL:
 *   a = 0, then a = axpy(sel_w[i], y of the row's expert i), i = 0 .. n_used-1   [row_of]
 *   x = axpby(alpha, r, beta, a), r = n as it is before this call with postnorm, else x  [a]
 *   n = rmsnorm(x) * w; n.q, n.rot = quantize_act, quantize_act_rot of it        [w]
 * from: row t of n is made of row from[t] of x (n_row = length of from), with neither combination
 * nor residual; NULL: of row t. */
#define FG_CUDA_ON_CARD 0x80000000u /* in row_of: the output lies in y_card */
typedef struct fg_cuda_join {
    uint32_t n_row, d; /* d: true width */
    float *x;
    uint32_t x_stride;
    const uint32_t *row_of; /* [n_row][n_used] rows of y, host memory that the card sees or not */
    const float *sel_w;     /* [n_row][n_used] */
    const float *y_host, *y_card;
    uint32_t n_used, y_stride;
    const float *a; /* where combining is left out: the sub-layer's output; also its place else */
    uint32_t a_stride;
    bool residual, postnorm;
    float alpha, beta, eps;
    const float *w;
    const uint32_t *from;
    fg_cuda_acts n;
    fg_cuda_await await; /* before the host's outputs are read; box NULL: nothing is waited for */
} fg_cuda_join;
void fg_cuda_join_rows(const fg_cuda_queue *q, const fg_cuda_join *j);

/* rmsnorm, sigmoid_mul, quantize_act: u = rmsnorm(u) * w * sigmoid(gate), quantized.  gate NULL:
 * quantized only. */
typedef struct fg_cuda_gate {
    uint32_t n_row, d;
    fg_cuda_acts u;
    const float *w, *gate;
    uint32_t gate_stride;
    float eps;
} fg_cuda_gate;
void fg_cuda_gate_rows(const fg_cuda_queue *q, const fg_cuda_gate *g);

/* silu_mul, quantize_act: h = silu(g) * up, quantized. */
typedef struct fg_cuda_hidden {
    uint32_t n_row, d;
    const float *g, *up;
    uint32_t g_stride;
    fg_cuda_acts h;
} fg_cuda_hidden;
void fg_cuda_hidden_rows(const fg_cuda_queue *q, const fg_cuda_hidden *h);

/* Rows of y become rows of x (quantized forms where both have them, else f): row t of y is row
 * from[t] of x; all of it, as far as the smaller stride goes. */
typedef struct fg_cuda_gather {
    uint32_t n_row;
    const uint32_t *from;
    fg_cuda_acts x, y;
} fg_cuda_gather;
void fg_cuda_gather_rows(const fg_cuda_queue *q, const fg_cuda_gather *g);

/* panel_f32 or panel_bf16, softmax_num, selection as src/model/router.c: sel and sel_w, best
 * first, ties to the lower index, NaN never best.  At most FG_MAX_EXPERT experts.  post: what the
 * host is told of the only row; NULL: nothing. */
typedef struct fg_cuda_router {
    uint32_t n_tok, n_expert, n_used;
    fg_cuda_matrix m;
    const float *n;
    uint32_t n_stride;
    uint32_t *sel; /* [n_tok][n_used] */
    float *sel_w;
    float *work; /* fg_cuda_route_bytes(n_tok or more, ..), zeros before the first call */
} fg_cuda_router;
uint64_t fg_cuda_route_bytes(uint32_t n_tok, uint32_t n_expert, uint32_t n_sb);
void fg_cuda_route(const fg_cuda_queue *q, const fg_cuda_router *r, const fg_cuda_post *post);

/* silu, light_fold, light_out of one sequence, as src/model/lightning.c: qkv rows [head][q k v][d]
 * to u rows, state moved on (S folded when seq->pos says so, kt and v written).  qkv may be
 * overwritten.  n_most: rows at most.  work: fg_cuda_light_bytes(n_most, n_head). */
typedef struct fg_cuda_light {
    const fg_cuda_seq *seq;
    uint32_t n_most, n_head, d;
    float *qkv;
    uint32_t qkv_stride;
    float *s, *kt, *v;  /* of the layer: [n_head][d][d], [n_head][d][64], [n_head][64][d] */
    const float *decay; /* [n_head][65] */
    float *u;
    uint32_t u_stride;
    void *work;
} fg_cuda_light;
uint64_t fg_cuda_light_bytes(uint32_t n_most, uint32_t n_head); /* 0 for one row */
void fg_cuda_lightning(const fg_cuda_queue *q, const fg_cuda_light *a);

/* rope, scaling, the cache's quantization, attn_<kv>, attn_merge and the division of one sequence,
 * as src/model/softmax.c: qkv rows (q heads, k heads, v heads) to u rows; the cache gets the rows'
 * keys and values, the queries of qkv are overwritten.  d: at most FG_CUDA_MAX_HEAD.  The cache
 * lies as that of one node: KV head g from position g * n_pos on.  pos_most: pos + n at most.
 * work: fg_cuda_softmax_bytes, enough for fewer rows and positions too. */
enum {
    FG_CUDA_KV_F32 = 0,
    FG_CUDA_KV_INT8 = 1,
    FG_CUDA_KV_F16 = 2,
    FG_CUDA_MAX_HEAD = 1024,
};
typedef struct fg_cuda_softmax {
    const fg_cuda_seq *seq;
    uint32_t n_most;
    uint64_t pos_most, n_pos;
    uint32_t n_head, n_kv_head, d, half; /* half: d_rotary / 2 */
    uint32_t kv_type;                    /* FG_CUDA_KV_, which are those of src/model/state.h */
    void *k_cache, *v_cache;
    float *k_scale, *v_scale;
    float *qkv;
    uint32_t qkv_stride;
    const float *cos, *sin; /* [rows of the pass][half] */
    float *u;
    uint32_t u_stride;
    void *work;
} fg_cuda_softmax;
uint64_t fg_cuda_softmax_bytes(const fg_cuda_softmax *a);
void fg_cuda_attention(const fg_cuda_queue *q, const fg_cuda_softmax *a);

/* The experts that the card holds, of few rows (n_tok <= FG_CUDA_FEW), decided on the card:
 * expert e of the layer is there when table[e].gate is not NULL; output of the i-th expert of row t
 * is row t * n_used + i of y. */
enum { FG_CUDA_FEW = 8 };
typedef struct fg_cuda_expert {
    const uint8_t *gate, *up, *down; /* panels */
    const float *gate_scale, *up_scale, *down_scale;
} fg_cuda_expert;
typedef struct fg_cuda_experts {
    uint32_t n_tok, n_used;
    const fg_cuda_expert *table; /* [n_expert] of the layer */
    const uint32_t *sel;
    fg_cuda_matrix gate, up, down; /* kinds, strides and tables; pointers are those of the table */
    fg_cuda_acts x;                /* n of the rows */
    float *g, *up_y;               /* [n_tok * n_used][g_stride] */
    uint32_t g_stride;
    fg_cuda_acts h;
    float *y;
    uint32_t y_stride;
} fg_cuda_experts;
void fg_cuda_few_experts(const fg_cuda_queue *q, const fg_cuda_experts *e);

/* out[i] = 2 in[i] + 1, n threads: does this card run this module at all? */
typedef struct fg_cuda_probe {
    const uint32_t *in;
    uint32_t *out;
    uint32_t n;
} fg_cuda_probe;
void fg_cuda_probe_card(const fg_cuda_queue *q, const fg_cuda_probe *p);

/* Adds the words that lie at p (whole 16 bytes) to *sum: the card's read rate. */
typedef struct fg_cuda_read {
    const void *p;
    uint64_t bytes;
    uint32_t *sum; /* one word */
} fg_cuda_read;
void fg_cuda_read_rate(const fg_cuda_queue *q, const fg_cuda_read *r);

#endif
