/* SPDX-License-Identifier: MIT
 *
 * Launches of light.cu and attn_*.cu.
 */
#include "simd/cuda/attn_sizes.h"
#include "simd/cuda/ops_impl.h"

static uint32_t parts(uint64_t n, uint32_t size)
{
    return (uint32_t)((n + size - 1) / size);
}

/* ---- lightning ---- */

/* Rows may begin anywhere in a chunk. */
static uint32_t chunks(uint32_t n_most)
{
    return parts((uint64_t)n_most + FG_LIGHT_CHUNK - 1, FG_LIGHT_CHUNK);
}

uint64_t fg_cuda_light_bytes(uint32_t n_most, uint32_t n_head)
{
    if (n_most <= 1) return 0;
    return (uint64_t)n_head * chunks(n_most) * FG_LIGHT_CHUNK * FG_LIGHT_CHUNK * sizeof(float);
}

void fg_cuda_lightning(const fg_cuda_queue *q, const fg_cuda_light *a)
{
    const uint32_t h = a->n_head;
    if (a->n_most <= 1) {
        FG_LAUNCH_EARLY(q, FG_CUDA_light_one, FG_GRID(parts(a->d, FG_LIGHT_ONE_COLS), h), 256,
                        FG_LIGHT_ONE_SHARED + 8 * a->d, *a);
        return;
    }
    FG_LAUNCH(q, light_scores, FG_GRID(chunks(a->n_most), h), 128, FG_LIGHT_SCORES_SHARED, *a);
    FG_LAUNCH(q, light_walk, FG_GRID(parts(a->d, FG_LIGHT_WALK_COLS), h), 128, FG_LIGHT_WALK_SHARED,
              *a);
    FG_LAUNCH(q, light_keep, FG_GRID(h), 256, 0, *a);
}

/* ---- softmax ---- */

static uint64_t blocks(const fg_cuda_softmax *a)
{
    return (a->pos_most + FG_KV_BLOCK - 1) / FG_KV_BLOCK;
}

/* Few rows do not fill a card, so their positions are split; what comes of that must fit memory
 * too, which for one row it does: a fourteenth of an int8 cache. */
enum { SPLIT_MOST = 8, PARTIALS = 1024 };

static bool splits(const fg_cuda_softmax *a)
{
    return a->n_most <= 1 || (a->n_most <= SPLIT_MOST && a->n_most * blocks(a) <= PARTIALS);
}

uint64_t fg_cuda_softmax_bytes(const fg_cuda_softmax *a)
{
    const uint64_t one = blocks(a), most = one > PARTIALS ? one : PARTIALS;
    const uint64_t rows = a->n_most < SPLIT_MOST ? a->n_most : SPLIT_MOST;
    const uint64_t n = rows * one < most ? rows * one : most;
    return n * a->n_head * (a->d + FG_ATTN_PARTIAL) * sizeof(float);
}

/* Every row by blocks of 8 rows: y of them share the positions. */
static void attend_rows(const fg_cuda_queue *q, const fg_cuda_softmax *a, uint32_t y)
{
    const uint64_t rows = (uint64_t)a->n_most * (a->n_head / a->n_kv_head);
    const uint32_t x = parts(rows, FG_ATTN_SPLIT_ROWS), z = a->n_kv_head;
    const uint32_t shared = FG_ATTN_ROWS_SHARED + 64 * a->d;
    if (a->kv_type == FG_CUDA_KV_F32) {
        FG_LAUNCH(q, attn_rows_f32, FG_GRID(x, y, z), 256, shared, *a);
    } else if (a->kv_type == FG_CUDA_KV_F16) {
        FG_LAUNCH(q, attn_rows_f16, FG_GRID(x, y, z), 256, shared, *a);
    } else if (a->d == FG_ATTN_FAST_D && a->work != NULL) {
        FG_LAUNCH(q, attn_split_i8, FG_GRID(x, y, z), 256, 0, *a);
    } else {
        FG_LAUNCH(q, attn_rows_i8, FG_GRID(x, y, z), 256, shared, *a);
    }
}

/* Twice as many blocks as the card has multiprocessors, if there are as many. */
static void attend_split(const fg_cuda_queue *q, const fg_cuda_softmax *a)
{
    const uint64_t rows = (uint64_t)a->n_most * (a->n_head / a->n_kv_head);
    const uint64_t n = (uint64_t)parts(rows, FG_ATTN_SPLIT_ROWS) * a->n_kv_head;
    const uint64_t room = (2 * (uint64_t)q->n_sm + n - 1) / n, most = blocks(a);
    attend_rows(q, a, (uint32_t)(most < room ? most : room));
    FG_LAUNCH(q, attn_join, FG_GRID(a->n_head, parts(a->d, FG_ATTN_JOIN_COLS), a->n_most), 512, 0,
              *a);
}

void fg_cuda_attention(const fg_cuda_queue *q, const fg_cuda_softmax *a)
{
    const uint32_t heads = a->n_head / a->n_kv_head + 2; /* of a KV head, a warp each */
    FG_LAUNCH(q, attn_store, FG_GRID(a->n_most, a->n_kv_head, parts(heads, 8)), 256, 0, *a);
    if (splits(a)) {
        attend_split(q, a);
        return;
    }
    fg_cuda_softmax walk = *a;
    walk.work = NULL;
    if (a->kv_type == FG_CUDA_KV_INT8 && a->d == FG_ATTN_FAST_D &&
        q->max_shared >= FG_ATTN_TILE_SHARED) {
        const uint64_t rows = (uint64_t)a->n_most * (a->n_head / a->n_kv_head);
        FG_LAUNCH(q, attn_tile_i8, FG_GRID(parts(rows, FG_ATTN_TILE_ROWS), a->n_kv_head), 256,
                  FG_ATTN_TILE_SHARED, walk);
    } else {
        attend_rows(q, &walk, 1);
    }
}
