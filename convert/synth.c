/* SPDX-License-Identifier: MIT
 *
 * The data region is cut into pieces (panels, row scales or a vector, each at its place in the
 * file) that are collected into a band.  While the workers fill a band, worker 0 first writes the
 * band before it and then helps.
 */
#include "convert/synth.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/choose/recipe.h"
#include "convert/metadata.h"
#include "convert/source/hf_config.h"
#include "quant/codes.h"
#include "quant/panel.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/fp.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/format/write/writer.h"
#include "src/sys/team.h"

enum {
    PIECE_BYTES = 128 << 10, /* about: a whole number of panels */
    MAX_PIECE = 1024,        /* of a band */
    GROUP = 3,               /* tensors of an expert, placed together */
};
#define BAND_BYTES ((uint64_t)8 << 20)

/* ---- random numbers ---- */

static uint64_t mix(uint64_t z) /* finalizer of splitmix64 */
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Word i of stream `key`. */
static uint64_t word_at(uint64_t key, uint64_t i)
{
    return mix(key + (i + 1) * 0x9e3779b97f4a7c15u);
}

static uint64_t stream_key(uint64_t seed, uint64_t tensor, uint64_t what)
{
    return mix(mix(seed ^ 0x5851f42d4c957f2du) + 4 * tensor + what);
}

enum { STREAM_CODES = 0, STREAM_ROWS = 1 };

/* Uniform in [-1, 1). */
static float unit_at(uint64_t key, uint64_t i)
{
    return (float)(int32_t)(word_at(key, i) >> 40) * 0x1p-23f - 1.0f;
}

/* ---- one tensor ---- */

static const float uniform_rms = 0.57735027f; /* of [-1, 1): 1 / sqrt(3) */

/* Standard deviation of the weights.  1 / sqrt(n_col) keeps an rms of 1.  QKV of a lightning layer:
 * silu of something with deviation s has a mean of s / 2 in units of its rms, and only the
 * direction of its output survives the norm after it. */
static double weight_std(const fg_tensor *t)
{
    const double unit = 1.0 / sqrt((double)t->n_col);
    switch ((fg_role)t->role) {
    case FG_ROLE_EMBED: return 1.0;
    case FG_ROLE_LIGHT_QKV: return 0.25 * unit;
    case FG_ROLE_LM_HEAD: return 2.0 * unit;
    default: return unit;
    }
}

/* A random byte of codes: bits that no code has are cleared, and where -128 is no value only odd
 * ones are taken. */
typedef struct code_bits {
    uint8_t keep, set;
} code_bits;

static code_bits code_bits_of(const fg_qtype_info *info)
{
    const bool bytes = info->packing == FG_PACK_BYTES; /* else every bit belongs to a code */
    return (code_bits){.keep = bytes ? (uint8_t)(info->n_code - 1) : 0xff,
                       .set = info->grid == FG_GRID_INT8 ? 1 : 0};
}

/* Root mean square of the value of a random code. */
static double code_rms(const fg_tensor *t)
{
    const fg_qtype_info *info = fg_qtype_get(t->type);
    const code_bits bits = code_bits_of(info);
    fg_code_map map;
    double sum = 0.0;
    fg_code_map_init(&map, info->type, &t->lut);
    for (uint32_t c = 0; c < info->n_code; c++) {
        const double v = map.value[(c & bits.keep) | bits.set];
        sum += v * v;
    }
    return sqrt(sum / (double)info->n_code);
}

/* Group scales are +-(96..127): near the top of the range as an encoder leaves them, and with
 * signs, which cancel the mean of a table that is not symmetric. */
static const double group_rms = 111.88; /* sqrt of the mean square of 96..127 */

static uint64_t scale_word(uint64_t random)
{
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t size = (random & 31 * ones) + 96 * ones;
    const uint64_t negative = (random >> 7 & ones) * 255;
    return (size ^ negative) + (negative & ones); /* -x = ~x + 1; no byte carries: ~x <= 159 */
}

/* Weight zero in the columns from n_col, a multiple of 16, to the next multiple of 128: half groups
 * by codes, whole groups by their scale. */
static void clear_columns(const fg_tensor *t, uint8_t *sb)
{
    const fg_qtype type = (fg_qtype)t->type;
    const size_t used = (size_t)((t->n_col - 1) % FG_SB_COLS + 1);
    const size_t whole = (used + FG_GROUP_COLS - 1) / FG_GROUP_COLS;
    fg_code_map map;
    fg_code_map_init(&map, type, &t->lut);
    for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
        for (size_t g = whole; g < FG_SB_GROUPS; g++) *fg_group_scale_at(type, sb, g, r) = 0;
        if (used % FG_GROUP_COLS == 0) continue;
        uint8_t code[FG_GROUP_COLS], *group = fg_group_at(type, sb, whole - 1);
        fg_get_codes(type, group, r, code);
        memset(code + FG_GROUP_COLS / 2, map.code[0 + 128], FG_GROUP_COLS / 2);
        fg_put_codes(type, group, r, code);
    }
}

static void fill_quantized(const fg_tensor *t, uint64_t key, uint64_t panel, uint8_t *dst)
{
    const uint64_t n_sb = fg_n_sb(t->n_col), sb_bytes = fg_qtype_get(t->type)->sb_bytes;
    const uint64_t words = sb_bytes / 8;
    const code_bits bits = code_bits_of(fg_qtype_get(t->type));
    const uint64_t ones = 0x0101010101010101u, keep = bits.keep * ones, set = bits.set * ones;
    for (uint64_t s = 0; s < n_sb; s++) {
        const uint64_t first = (panel * n_sb + s) * words;
        uint8_t *sb = dst + s * sb_bytes;
        for (uint64_t i = 0; i < words; i++) {
            const uint64_t random = word_at(key, first + i);
            const uint64_t w = i < 8 ? scale_word(random) : (random & keep) | set;
            memcpy(sb + 8 * i, &w, sizeof w);
        }
    }
    if (t->n_col % FG_SB_COLS != 0) clear_columns(t, dst + (n_sb - 1) * sb_bytes);
}

/* f32 and bf16: [column][16 rows]. */
static void fill_float(const fg_tensor *t, uint64_t key, uint64_t panel, uint8_t *dst)
{
    const uint64_t k = fg_n_sb(t->n_col) * FG_SB_COLS, first = panel * k * FG_PANEL_ROWS;
    const float scale = (float)weight_std(t) / uniform_rms;
    for (uint64_t i = 0; i < k * FG_PANEL_ROWS; i++) {
        const uint64_t row = panel * FG_PANEL_ROWS + i % FG_PANEL_ROWS;
        const bool padding = row >= t->n_row || i / FG_PANEL_ROWS >= t->n_col;
        const float x = padding ? 0.0f : scale * unit_at(key, first + i);
        fg_panel_put_float((fg_qtype)t->type, dst, i, x);
    }
}

static void put_f32(uint8_t *dst, float x)
{
    const uint32_t u = fg_f32_bits(x);
    for (size_t b = 0; b < 4; b++) dst[b] = (uint8_t)(u >> (8 * b));
}

/* Row scales of rows 0 .. 16 * n_panel - 1, within 10 % of the one that gives the wanted
 * deviation. */
static void fill_scales(const fg_tensor *t, uint64_t key, uint8_t *dst)
{
    const float base = (float)(weight_std(t) / (code_rms(t) * group_rms));
    for (uint64_t r = 0; r < FG_PANEL_ROWS * fg_n_panel(t->n_row); r++) {
        put_f32(dst + 4 * r, r < t->n_row ? base * (1.0f + 0.1f * unit_at(key, r)) : 0.0f);
    }
}

/* ---- bands ---- */

typedef struct piece {
    uint8_t *dst;
    const fg_tensor *t;
    uint64_t tensor; /* its number, names its random stream */
    uint64_t panel, n;
    enum { VECTOR, SCALES, PANELS } what;
} piece;

typedef struct band {
    uint8_t *buf;        /* BAND_BYTES and the largest piece */
    uint64_t pos, bytes; /* absolute file position of buf[0]; bytes in use */
    piece *piece;        /* [MAX_PIECE] */
    uint64_t n_piece;
} band;

typedef struct run {
    const fg_synth_opts *opts;
    fg_shape shape;
    fg_recipe recipe;
    fg_metadata meta;
    fg_writer *writer;
    const fg_file_plan *plan; /* of the writer */
    fg_team *team;
    band band[2];
    uint32_t now;      /* band being collected; the other one waits to be written */
    fg_status written; /* of worker 0's write */
    fg_err *err;
} run;

static void fill(const run *r, const piece *p)
{
    const uint64_t seed = r->opts->seed;
    const uint64_t rows = stream_key(seed, p->tensor, STREAM_ROWS);
    if (p->what == SCALES) fill_scales(p->t, rows, p->dst);
    for (uint64_t i = 0; p->what == VECTOR && i < p->t->n_col; i++) {
        put_f32(p->dst + 4 * i, 1.0f + 0.1f * unit_at(rows, i));
    }
    const uint64_t codes = stream_key(seed, p->tensor, STREAM_CODES);
    const bool quantized = fg_qtype_get(p->t->type)->quantized;
    for (uint64_t i = 0; p->what == PANELS && i < p->n; i++) {
        uint8_t *dst = p->dst + i * p->t->panel_stride;
        if (quantized) {
            fill_quantized(p->t, codes, p->panel + i, dst);
        } else {
            fill_float(p->t, codes, p->panel + i, dst);
        }
    }
}

static void work(fg_worker *w, void *arg)
{
    run *r = arg;
    band *b = &r->band[r->now];
    const band *old = &r->band[1 - r->now];
    if (w->idx == 0) r->written = fg_writer_write(r->writer, old->buf, old->bytes, r->err);
    uint64_t begin, end;
    while (fg_worker_take_items(w, b->n_piece, &begin, &end)) {
        for (uint64_t i = begin; i < end; i++) fill(r, &b->piece[i]);
    }
}

/* Fills the collected band, writes the one before it, and begins a new one. */
static fg_status turn(run *r, fg_err *err)
{
    const fg_synth_opts *o = r->opts;
    const band *b = &r->band[r->now];
    r->err = err;
    fg_team_run(r->team, work, r);
    FG_TRY(r->written);
    r->now = 1 - r->now;
    r->band[r->now].pos = b->pos + b->bytes;
    r->band[r->now].bytes = r->band[r->now].n_piece = 0;
    if (o->progress == NULL) return FG_OK;
    const uint64_t done = fg_writer_pos(r->writer), total = fg_file_plan_file_bytes(r->plan);
    if (o->progress(o->ctx, done < total ? done : total, total)) return FG_OK;
    return fg_fail(err, FG_ECANCEL, "%s: cancelled after %llu bytes, expected to finish",
                   o->out_path, (unsigned long long)done);
}

/* Makes room for file bytes up to absolute position `end` in the current band and zeroes those not
 * yet there; gaps of any length come in steps of a band. */
static fg_status extend(run *r, uint64_t end, fg_err *err)
{
    for (;;) {
        band *b = &r->band[r->now];
        const uint64_t at = b->pos + b->bytes, want = end - at;
        const uint64_t room = BAND_BYTES > b->bytes ? BAND_BYTES - b->bytes : 0;
        const uint64_t n = want < room ? want : room;
        memset(b->buf + b->bytes, 0, (size_t)n);
        b->bytes += n;
        if (b->bytes < BAND_BYTES) return FG_OK;
        FG_TRY(turn(r, err));
    }
}

/* A piece whose first byte is at `offset` and whose file range ends at `end`; not zeroed.  Pieces
 * of gate and up interleave: the range of the second one begins inside that of the first. */
static fg_status add(run *r, piece p, uint64_t offset, uint64_t end, fg_err *err)
{
    band *b = &r->band[r->now];
    if (offset > b->pos + b->bytes) FG_TRY(extend(r, offset, err));
    b = &r->band[r->now];
    p.dst = b->buf + (offset - b->pos);
    b->piece[b->n_piece++] = p;
    if (end > b->pos + b->bytes) b->bytes = end - b->pos;
    return FG_OK;
}

static fg_status close_if_full(run *r, fg_err *err)
{
    const band *b = &r->band[r->now];
    const bool full = b->bytes >= BAND_BYTES || b->n_piece + GROUP > MAX_PIECE;
    return full ? turn(r, err) : FG_OK;
}

/* Panels of tensors idx .. idx+n-1, which have one count and one stride and alternate. */
static fg_status add_panels(run *r, uint64_t idx, uint64_t n, fg_err *err)
{
    const fg_tensor *t = fg_file_plan_tensor(r->plan, idx);
    const uint64_t n_panel = fg_n_panel(t->n_row);
    uint64_t step = PIECE_BYTES / t->panel_stride;
    if (step == 0) step = 1;
    for (uint64_t p = 0; p < n_panel; p += step) {
        const uint64_t m = n_panel - p < step ? n_panel - p : step;
        for (uint64_t i = 0; i < n; i++) {
            const fg_tensor *u = fg_file_plan_tensor(r->plan, idx + i);
            const uint64_t offset = u->offset + p * u->panel_stride;
            const uint64_t bytes = fg_panel_bytes((fg_qtype)u->type, u->n_col);
            const piece q = {.t = u, .tensor = idx + i, .panel = p, .n = m, .what = PANELS};
            FG_TRY(add(r, q, offset, offset + (m - 1) * u->panel_stride + bytes, err));
        }
        FG_TRY(close_if_full(r, err));
    }
    return FG_OK;
}

static fg_status add_scales(run *r, uint64_t idx, fg_err *err)
{
    const fg_tensor *t = fg_file_plan_tensor(r->plan, idx);
    if (t->scale_offset == 0) return FG_OK;
    const piece p = {.t = t, .tensor = idx, .what = SCALES};
    const uint64_t bytes = FG_PANEL_ROWS * fg_n_panel(t->n_row) * sizeof(float);
    FG_TRY(add(r, p, t->scale_offset, t->scale_offset + bytes, err));
    return close_if_full(r, err);
}

static fg_status write_data(run *r, fg_err *err)
{
    const uint64_t n = fg_file_plan_n_tensor(r->plan);
    for (uint64_t i = 0; i < n;) {
        const fg_tensor *t = fg_file_plan_tensor(r->plan, i);
        if (fg_role_is_vector((fg_role)t->role)) {
            const piece p = {.t = t, .tensor = i, .what = VECTOR};
            FG_TRY(add(r, p, t->offset, t->offset + t->n_col * sizeof(float), err));
            FG_TRY(close_if_full(r, err));
            i++;
            continue;
        }
        const bool expert = t->role == FG_ROLE_EXPERT_GATE;
        const uint64_t group = expert ? GROUP : 1;
        for (uint64_t k = 0; k < group; k++) FG_TRY(add_scales(r, i + k, err));
        FG_TRY(add_panels(r, i, expert ? 2 : 1, err));
        if (expert) FG_TRY(add_panels(r, i + 2, 1, err));
        i += group;
    }
    FG_TRY(extend(r, fg_file_plan_data_offset(r->plan) + fg_file_plan_data_bytes(r->plan), err));
    FG_TRY(turn(r, err)); /* fills the last band */
    return turn(r, err);  /* writes it */
}

/* ---- shape and metadata ---- */

/* The released configuration of MiniMax-M1 (80 layers). */
static void m1_shape(fg_shape *s)
{
    const double alpha = 3.5565588200778455; /* (2 * 80)^(1/4) */
    *s = (fg_shape){
        .n_layer = 80,
        .d_model = 6144,
        .n_head = 64,
        .n_kv_head = 8,
        .d_head = 128,
        .d_rotary = 64,
        .n_expert = 32,
        .n_used = 2,
        .d_ff = 9216,
        .n_vocab = 200064,
        .n_ctx_max = 10240000,
        .rope_theta = 1e7,
        .norm_eps = 1e-5,
        .inner_norm_eps = 1e-6,
        .alpha_softmax = alpha,
        .beta_softmax = 1.0,
        .alpha_lightning = alpha,
        .beta_lightning = 1.0,
        .alpha_mlp = alpha,
        .beta_mlp = 1.0,
        .postnorm = 1,
        .slope_form = FG_SLOPE_MINIMAX,
    };
    for (uint32_t l = 0; l < s->n_layer; l++) {
        s->attn[l] = l % 8 == 7 ? FG_ATTN_SOFTMAX : FG_ATTN_LIGHTNING;
    }
}

fg_status fg_synth_shape(fg_shape *out, const fg_synth_opts *opts, fg_err *err)
{
    const char *name = opts->shape == NULL ? "m1" : opts->shape;
    uint32_t n = opts->n_layer;
    if (strcmp(name, "m1") == 0) {
        m1_shape(out);
        if (n == 0) n = 4;
    } else if (!fg_io_exists(name)) {
        return fg_fail(err, FG_EIO, "shape %s: no such file, expected m1 or a config.json", name);
    } else {
        FG_TRY(fg_hf_config_load(out, name, NULL, NULL, err));
        if (n == 0) n = out->n_layer;
    }
    if (n > FG_MAX_LAYER) {
        return fg_fail(err, FG_EINVAL, "layers: %u, expected at most %d", n, FG_MAX_LAYER);
    }
    bool softmax = false, any = false;
    const uint32_t period = out->n_layer;
    for (uint32_t l = 0; l < period; l++) any = any || out->attn[l] == FG_ATTN_SOFTMAX;
    for (uint32_t l = 0; l < n; l++) {
        out->attn[l] = out->attn[l % period]; /* l % period was settled before l */
        softmax = softmax || out->attn[l] == FG_ATTN_SOFTMAX;
    }
    if (any && !softmax && n > 1) out->attn[n - 1] = FG_ATTN_SOFTMAX;
    for (uint32_t l = n; l < FG_MAX_LAYER; l++) out->attn[l] = 0;
    out->n_layer = n;
    return fg_shape_check(out, name, err);
}

/* The shape as a configuration of its dialect, which fg_hf_config_parse reads back. */
static void print_config(fg_buf *b, const fg_shape *s)
{
    const bool hf = s->slope_form == FG_SLOPE_TRANSFORMERS;
    fg_buf_printf(b, "{\n \"architectures\": [\"%s\"],\n \"model_type\": \"%s\",\n",
                  hf ? "MiniMaxForCausalLM" : "MiniMaxM1ForCausalLM",
                  hf ? "minimax" : "minimax_m1");
    fg_buf_printf(b, " \"%s\": [", hf ? "layer_types" : "attn_type_list");
    for (uint32_t l = 0; l < s->n_layer; l++) {
        const char *kind = s->attn[l] == FG_ATTN_SOFTMAX ? (hf ? "\"full_attention\"" : "1")
                                                         : (hf ? "\"linear_attention\"" : "0");
        fg_buf_printf(b, "%s%s", l == 0 ? "" : ", ", kind);
    }
    fg_buf_printf(b, "],\n \"num_hidden_layers\": %u,\n \"hidden_size\": %u,\n", s->n_layer,
                  s->d_model);
    fg_buf_printf(b, " \"num_attention_heads\": %u,\n \"num_key_value_heads\": %u,\n", s->n_head,
                  s->n_kv_head);
    fg_buf_printf(b, " \"head_dim\": %u,\n \"rotary_dim\": %u,\n \"rope_theta\": %.17g,\n",
                  s->d_head, s->d_rotary, s->rope_theta);
    fg_buf_printf(b, " \"num_local_experts\": %u,\n \"num_experts_per_tok\": %u,\n", s->n_expert,
                  s->n_used);
    fg_buf_printf(b, " \"intermediate_size\": %u,\n \"vocab_size\": %u,\n", s->d_ff, s->n_vocab);
    fg_buf_printf(b, " \"max_position_embeddings\": %llu,\n \"rms_norm_eps\": %.17g,\n",
                  (unsigned long long)s->n_ctx_max, s->norm_eps);
    const double factor[3][2] = {{s->alpha_softmax, s->beta_softmax},
                                 {s->alpha_lightning, s->beta_lightning},
                                 {s->alpha_mlp, s->beta_mlp}};
    static const char *const own[] = {"full_attention", "linear_attention", "mlp"};
    static const char *const short_name[] = {"full_attn", "linear_attn", "mlp"};
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 2; k++) {
            const char *which = k == 0 ? "alpha" : "beta";
            if (hf)
                fg_buf_printf(b, " \"%s_%s_factor\": %.17g,\n", short_name[i], which, factor[i][k]);
            if (!hf)
                fg_buf_printf(b, " \"layernorm_%s_%s\": %.17g,\n", own[i], which, factor[i][k]);
        }
    }
    fg_buf_printf(b, " \"postnorm\": %s,\n \"hidden_act\": \"silu\",\n",
                  s->postnorm ? "true" : "false");
    fg_buf_put_str(b, " \"tie_word_embeddings\": false\n}\n");
}

/* What belongs to the text side of a checkpoint; the tokenizer itself must be there.  One that does
 * not parse is refused before anything is written. */
static fg_status add_tokenizer(run *r, fg_err *err)
{
    for (size_t i = 0; i < FG_N_COPIED; i++) {
        const fg_copied_file *f = &fg_copied_files[i];
        if (!f->in_synth) continue;
        char *path = fg_io_join(r->opts->tokenizer_dir, f->file);
        if (path == NULL) return fg_fail_nomem(err, f->file);
        const bool tokenizer = f->kind == FG_COPIED_TOKENIZER;
        const fg_status st = tokenizer || fg_io_exists(path)
                                 ? fg_metadata_add_file(&r->meta, f, path, tokenizer, 0, err)
                                 : FG_OK;
        fg_mem_free(path);
        FG_TRY(st);
    }
    return FG_OK;
}

static fg_status add_metadata(run *r, fg_err *err)
{
    const fg_synth_opts *o = r->opts;
    fg_buf b = {0};
    print_config(&b, &r->shape);
    fg_status st = b.failed ? fg_fail_nomem(err, o->out_path)
                            : fg_metadata_add(&r->meta, "config.json", b.data, b.len, err);
    b.len = 0;
    fg_buf_printf(&b, "{\"converter\": \"fulgur synth\", \"version\": 1, \"type\": \"%s\", ",
                  o->type == NULL ? FG_RECIPE_TYPE : o->type);
    fg_buf_printf(&b, "\"seed\": %llu, \"files\": []}\n", (unsigned long long)o->seed);
    if (st == FG_OK && b.failed) st = fg_fail_nomem(err, o->out_path);
    if (st == FG_OK) st = fg_metadata_add(&r->meta, "provenance", b.data, b.len, err);
    fg_buf_fini(&b);
    FG_TRY(st);
    FG_TRY(fg_metadata_add(&r->meta, "recipe", r->recipe.text.data, r->recipe.text.len, err));
    return o->tokenizer_dir == NULL ? FG_OK : add_tokenizer(r, err);
}

/* The writer of what the recipe plans. */
static fg_status create_writer(run *r, fg_err *err)
{
    const fg_synth_opts *o = r->opts;
    const fg_file_spec spec = {.shape = &r->shape,
                               .choose = fg_recipe_choose,
                               .ctx = &r->recipe,
                               .meta = r->meta.entry,
                               .n_meta = r->meta.n,
                               .n_part = o->n_split + 1,
                               .sealed = true};
    fg_file_plan *plan;
    FG_TRY(fg_file_plan_make(&plan, &spec, o->out_path, err));
    const fg_status st = fg_writer_create(&r->writer, o->out_path, plan, r->meta.entry, r->meta.n,
                                          o->split_dir, err);
    fg_file_plan_destroy(&plan);
    if (st == FG_OK) r->plan = fg_writer_plan(r->writer);
    return st;
}

/* ---- the whole ---- */

static fg_status allocate(run *r, fg_err *err)
{
    uint64_t largest = 2 * PIECE_BYTES; /* a band may end with one more piece than fits */
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(r->plan); i++) {
        const fg_tensor *t = fg_file_plan_tensor(r->plan, i);
        const uint64_t scales = FG_PANEL_ROWS * fg_n_panel(t->n_row) * sizeof(float);
        const uint64_t vector = t->n_col * sizeof(float);
        if (2 * t->panel_stride > largest) largest = 2 * t->panel_stride;
        if (scales > largest) largest = scales;
        if (vector > largest) largest = vector;
    }
    for (int i = 0; i < 2; i++) {
        r->band[i].buf = fg_mem_alloc((size_t)(BAND_BYTES + largest));
        r->band[i].piece = fg_mem_zalloc_array(MAX_PIECE, sizeof *r->band[i].piece);
        if (r->band[i].buf == NULL || r->band[i].piece == NULL) {
            return fg_fail_nomem(err, r->opts->out_path);
        }
        r->band[i].pos = fg_file_plan_data_offset(r->plan);
    }
    return fg_team_create(&r->team, r->opts->n_thread, false, err);
}

static fg_status check_not_there(const fg_synth_opts *o, fg_err *err)
{
    const char *const in[] = {o->shape, o->recipe_path};
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++) {
        if (in[i] != NULL) FG_TRY(fg_io_refuse_input(o->out_path, in[i], err));
    }
    for (size_t i = 0; o->tokenizer_dir != NULL && i < FG_N_COPIED; i++) {
        char *path = fg_io_join(o->tokenizer_dir, fg_copied_files[i].file);
        if (path == NULL) return fg_fail_nomem(err, o->tokenizer_dir);
        const fg_status st = fg_io_refuse_input(o->out_path, path, err);
        fg_mem_free(path);
        FG_TRY(st);
    }
    return o->keep_existing ? fg_io_refuse_existing(o->out_path, err) : FG_OK;
}

static fg_status prepare(run *r, fg_err *err)
{
    const fg_synth_opts *o = r->opts;
    FG_TRY(fg_io_check_output(o->out_path, err));
    FG_TRY(check_not_there(o, err));
    FG_TRY(fg_recipe_load(&r->recipe, o->type, o->recipe_path, err));
    FG_TRY(fg_synth_shape(&r->shape, o, err));
    FG_TRY(fg_recipe_check(&r->recipe, &r->shape, o->recipe_path, err));
    FG_TRY(add_metadata(r, err));
    FG_TRY(create_writer(r, err));
    FG_TRY(allocate(r, err));
    return fg_writer_begin(r->writer, err);
}

fg_status fg_synth(const fg_synth_opts *opts, fg_synth_report *report, fg_err *err)
{
    const uint64_t start_ns = fg_clock_ns();
    run *r = fg_mem_zalloc(sizeof *r);
    if (r == NULL) return fg_fail_nomem(err, opts->out_path);
    r->opts = opts;
    fg_status st = prepare(r, err);
    if (st == FG_OK) st = write_data(r, err);
    if (st == FG_OK) st = fg_writer_finish(r->writer, err);
    if (st == FG_OK && report != NULL) {
        *report = (fg_synth_report){
            .shape = r->shape,
            .file_bytes = fg_file_plan_file_bytes(r->plan),
            .n_tensor = fg_file_plan_n_tensor(r->plan),
            .seconds = (double)(fg_clock_ns() - start_ns) * 1e-9,
        };
        for (uint64_t i = 0; i < report->n_tensor; i++) {
            const fg_tensor *t = fg_file_plan_tensor(r->plan, i);
            report->n_weight += t->n_row * t->n_col;
        }
    }
    for (int i = 0; i < 2; i++) {
        fg_mem_free(r->band[i].buf);
        fg_mem_free(r->band[i].piece);
    }
    fg_team_destroy(&r->team);
    fg_writer_destroy(&r->writer);
    fg_metadata_fini(&r->meta);
    fg_recipe_fini(&r->recipe);
    fg_mem_free(r);
    return st;
}
