/* SPDX-License-Identifier: MIT
 *
 * Engine and session: ownership and argument checks around src/model.
 */

#include <string.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/expert/heat.h"
#include "src/engine/kv.h"
#include "src/engine/engine.h"
#include "src/model/forward.h"
#include "src/sys/cpu.h"
#include "src/sys/team.h"

struct fg_engine {
    fg_model_file *file;
    fg_store *store; /* NULL: the mapping */
    fg_store_stats store_stats;
    uint64_t ram_bytes, session_bytes; /* the bound; what sessions take of it */
    fg_model *model;
    fg_team *team;
    uint32_t cpu_flags;
    fg_tokenizer *tokenizer; /* NULL until asked for */
    uint64_t *sample_mask;   /* NULL until asked for */
};

struct fg_session {
    fg_engine *e;
    fg_state *state;
    fg_scratch *scratch;
    float *logits;    /* [n_vocab] of the last token */
    uint64_t bytes;   /* counted in e->session_bytes */
    uint32_t n_batch; /* usual one */
    bool grows;       /* it may be enlarged for a long prompt */
    fg_err lost;      /* code not FG_OK: an eval failed half-way, the state is of no use */
    fg_taps taps;
    fg_profile *profile;
    bool (*progress)(void *ctx, size_t done, size_t total);
    void *progress_ctx;
};

fg_engine_opts fg_engine_opts_default(void)
{
    return (fg_engine_opts){
        .pin = true, .policy = FG_POLICY_LRU, .predict = FG_PREDICT_ROUTER, .io = FG_IO_AUTO};
}

static fg_status choose_cpu(fg_cpu_level level, uint32_t *flags, fg_err *err)
{
    FG_TRY(fg_cpu_level_flags(level, flags, err));
    *flags = fg_kernels_used(*flags);
    return FG_OK;
}

/* What is left of the bound for weights once sessions have theirs. */
static fg_status weight_bytes(const fg_engine *e, uint64_t session_bytes, uint64_t *out,
                              fg_err *err)
{
    const uint64_t weights = fg_store_min_bytes(e->file),
                   other = FG_ENGINE_OVERHEAD + session_bytes;
    *out = e->ram_bytes - other;
    if (e->ram_bytes >= other && *out >= weights) return FG_OK;
    return fg_fail(err, FG_ELIMIT,
                   "memory: %llu bytes, expected at least %llu: dense parts and the fewest experts "
                   "%llu, sessions %llu, program %llu",
                   (unsigned long long)e->ram_bytes, (unsigned long long)(weights + other),
                   (unsigned long long)weights, (unsigned long long)session_bytes,
                   (unsigned long long)FG_ENGINE_OVERHEAD);
}

static fg_status check_stream(fg_store_opts *so, const fg_engine_opts *o, fg_err *err)
{
    *so = (fg_store_opts){.policy = o->policy, .predict = o->predict, .ahead = o->ahead};
    if (!fg_policy_is_live(o->policy)) {
        return fg_fail(err, FG_EINVAL, "policy: %u, expected one that is live",
                       (uint32_t)o->policy);
    }
    if (fg_predict_get(o->predict) == NULL) {
        return fg_fail(err, FG_EINVAL, "predict: %u, expected less than %d", (uint32_t)o->predict,
                       FG_PREDICT_COUNT);
    }
    if (!fg_io_get(o->io, &so->io.ops)) {
        return fg_fail(err, FG_EINVAL, "io: %u, expected less than %d", (uint32_t)o->io,
                       FG_IO_COUNT);
    }
    return FG_OK;
}

static fg_status open_store(fg_engine *e, const fg_engine_opts *o, fg_err *err)
{
    fg_store_opts so;
    e->ram_bytes = o->ram_bytes;
    FG_TRY(check_stream(&so, o, err)); /* also where nothing comes of it */
    if (o->ram_bytes == 0) return FG_OK;
    FG_TRY(weight_bytes(e, 0, &so.bytes, err));
    fg_heat heat = {.use = NULL};
    const fg_policy_row *policy = fg_policy_get(so.policy);
    if (policy->heat != FG_POLICY_HEAT_NONE) FG_TRY(fg_heat_load(e->file, &heat, err));
    if (policy->heat == FG_POLICY_HEAT_NEEDED && heat.use == NULL) {
        return fg_fail(err, FG_ENOTSUP,
                       "%s: no heat map inside, expected one for --policy %s; make it with fulgur "
                       "trace --heat",
                       fg_model_file_path(e->file), policy->name);
    }
    so.heat = heat.use;
    const fg_status st = fg_store_create(&e->store, e->file, &so, err);
    fg_mem_free(heat.use);
    return st;
}

fg_status fg_engine_charge(fg_engine *e, uint64_t more, uint64_t less, fg_err *err)
{
    if (e->store == NULL) return FG_OK;
    uint64_t weights;
    const uint64_t bytes = e->session_bytes + more - less;
    FG_TRY(weight_bytes(e, bytes, &weights, err));
    FG_TRY(fg_store_set_bytes(e->store, weights, err));
    e->session_bytes = bytes;
    return FG_OK;
}

fg_store *fg_engine_store(fg_engine *e)
{
    return e->store;
}

const fg_store_stats *fg_engine_store_stats(fg_engine *e)
{
    if (e->store == NULL) return NULL;
    e->store_stats = fg_store_get_stats(e->store);
    return &e->store_stats;
}

fg_status fg_engine_open(fg_engine **out, const char *path, const fg_engine_opts *opts, fg_err *err)
{
    *out = NULL;
    fg_engine *e = fg_mem_zalloc(sizeof *e);
    if (e == NULL) return fg_fail_nomem(err, path);
    fg_status st = choose_cpu(opts->cpu, &e->cpu_flags, err);
    if (st == FG_OK && fg_io_is_dir(path)) {
        st = fg_fail(err, FG_EIO,
                     "%s: a folder, expected a .fulgur file; make one with fulgur convert", path);
    }
    if (st == FG_OK) st = fg_model_file_open(&e->file, path, err);
    if (st == FG_OK) st = open_store(e, opts, err);
    if (st == FG_OK) st = fg_model_create_on(&e->model, e->file, e->store, e->cpu_flags, err);
    if (st == FG_OK) st = fg_team_create(&e->team, opts->n_thread, opts->pin, err);
    if (st != FG_OK) {
        fg_engine_close(&e);
        return st;
    }
    *out = e;
    return FG_OK;
}

void fg_engine_close(fg_engine **e)
{
    if (*e == NULL) return;
    fg_mem_free((*e)->sample_mask);
    fg_tokenizer_destroy(&(*e)->tokenizer);
    fg_team_destroy(&(*e)->team);
    fg_model_destroy(&(*e)->model);
    fg_store_destroy(&(*e)->store);
    fg_model_file_close(&(*e)->file);
    fg_mem_free(*e);
    *e = NULL;
}

const fg_model_file *fg_engine_file(const fg_engine *e)
{
    return e->file;
}

const fg_shape *fg_engine_shape(const fg_engine *e)
{
    return e->model->shape;
}

uint32_t fg_engine_n_thread(const fg_engine *e)
{
    return fg_team_size(e->team);
}

const char *fg_engine_cpu(const fg_engine *e)
{
    return fg_cpu_level_name(fg_cpu_level_of(e->cpu_flags));
}

uint32_t fg_engine_cpu_flags(const fg_engine *e)
{
    return e->cpu_flags;
}

const char *fg_engine_threads(const fg_engine *e)
{
    (void)e;
    return fg_team_backend();
}

uint64_t fg_engine_token_bytes(const fg_engine *e)
{
    return e->model->token_bytes;
}

fg_status fg_engine_tokenizer(fg_engine *e, const fg_tokenizer **out, fg_err *err)
{
    *out = NULL;
    if (e->tokenizer == NULL) {
        const char *json;
        size_t n;
        const char *path = fg_model_file_path(e->file);
        FG_TRY(fg_model_file_meta(e->file, "tokenizer.json", &json, &n, err));
        if (json == NULL) {
            return fg_fail(err, FG_ENOTSUP,
                           "%s: no tokenizer inside, expected tokenizer.json at conversion", path);
        }
        FG_TRY(fg_tokenizer_create(&e->tokenizer, json, n, path, err));
    }
    *out = e->tokenizer;
    return FG_OK;
}

fg_status fg_engine_sample_mask(fg_engine *e, const uint64_t **mask, fg_err *err)
{
    *mask = NULL;
    if (e->sample_mask == NULL) {
        const uint32_t n = e->model->shape->n_vocab;
        const char *json;
        size_t json_n;
        FG_TRY(fg_model_file_meta(e->file, "tokenizer.json", &json, &json_n, err));
        const fg_tokenizer *tok = NULL;
        if (json != NULL) FG_TRY(fg_engine_tokenizer(e, &tok, err));
        const size_t n_word = ((size_t)n + 63) / 64;
        uint64_t *bits = fg_mem_alloc(n_word * sizeof *bits);
        if (bits == NULL) return fg_fail_nomem(err, "sample mask");
        memset(bits, 0xff, n_word * sizeof *bits);
        if (tok != NULL) fg_tokenizer_mask(tok, bits, n);
        for (uint32_t id = 0; id < n; id++) {
            if (fg_model_head_row_is_zero(e->model, id)) bits[id / 64] &= ~(1ull << (id % 64));
        }
        e->sample_mask = bits;
    }
    *mask = e->sample_mask;
    return FG_OK;
}

/* ---- session ---- */

fg_session_opts fg_session_opts_default(void)
{
    return (fg_session_opts){.n_ctx = 0, .n_batch = 0, .kv = FG_KV_CHOICE_AUTO};
}

fg_status fg_session_create(fg_session **out, fg_engine *e, const fg_session_opts *opts,
                            fg_err *err)
{
    *out = NULL;
    fg_session *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, "session");
    s->e = e;
    s->grows = opts->n_batch == 0;
    const fg_shape *shape = e->model->shape;
    s->n_batch = s->grows ? FG_SESSION_BATCH : opts->n_batch;
    const uint64_t most = shape->n_ctx_max < 4096 ? shape->n_ctx_max : 4096;
    const uint64_t n_ctx = opts->n_ctx == 0 ? most : opts->n_ctx;
    const fg_kv_type kv = fg_kv_resolve(opts->kv, e->model->quantized);
    fg_status st = fg_state_create(&s->state, shape, n_ctx, kv, err);
    if (st == FG_OK) {
        st =
            fg_scratch_create(&s->scratch, e->model, n_ctx, s->n_batch, fg_team_size(e->team), err);
    }
    if (st == FG_OK) {
        s->logits = fg_mem_zalloc_array(shape->n_vocab, sizeof *s->logits);
        if (s->logits == NULL) st = fg_fail_nomem(err, "logits");
    }
    if (st == FG_OK) {
        const uint64_t bytes = s->state->bytes + s->scratch->bytes;
        st = fg_engine_charge(e, bytes, 0, err);
        if (st == FG_OK) s->bytes = bytes;
    }
    if (st != FG_OK) {
        fg_session_destroy(&s);
        return st;
    }
    *out = s;
    return FG_OK;
}

void fg_session_destroy(fg_session **s)
{
    if (*s == NULL) return;
    (void)fg_engine_charge((*s)->e, 0, (*s)->bytes, NULL); /* less always fits */
    fg_mem_free((*s)->logits);
    fg_scratch_destroy(&(*s)->scratch);
    fg_state_destroy(&(*s)->state);
    fg_mem_free(*s);
    *s = NULL;
}

uint64_t fg_session_pos(const fg_session *s)
{
    return s->state->pos;
}

uint64_t fg_session_bytes(const fg_session *s)
{
    return s->bytes;
}

uint64_t fg_session_n_ctx(const fg_session *s)
{
    return s->state->n_ctx;
}

void fg_session_reset(fg_session *s)
{
    s->lost.code = FG_OK;
    fg_state_reset(s->state);
}

const float *fg_session_logits(const fg_session *s)
{
    return s->logits;
}

void fg_session_set_progress(fg_session *s, bool (*fn)(void *ctx, size_t done, size_t total),
                             void *ctx)
{
    s->progress = fn;
    s->progress_ctx = ctx;
}

void fg_session_set_taps(fg_session *s, const struct fg_taps *taps)
{
    s->taps = taps == NULL ? (fg_taps){0} : *taps;
}

void fg_session_set_profile(fg_session *s, struct fg_profile *profile)
{
    s->profile = profile;
}

/* Keeps the last token's logits, and passes all of them on when somebody listens. */
typedef struct logits_sink {
    fg_session *s;
    fg_session_logits_fn *fn;
    void *ctx;
    uint64_t last;
} logits_sink;

static void take_logits(void *ctx, uint64_t pos, const float *logits)
{
    const logits_sink *k = ctx;
    if (k->fn != NULL) k->fn(k->ctx, pos, logits);
    if (pos == k->last) {
        memcpy(k->s->logits, logits, k->s->e->model->shape->n_vocab * sizeof(float));
    }
}

/* Batch that reads the fewest experts for n tokens.  Each batch is taken to read what is not in
 * memory; a larger one has fewer of them, but its scratch takes slots. */
static uint32_t best_batch(const fg_session *s, uint64_t n)
{
    const uint32_t base = s->scratch->n_batch;
    const fg_store_stats *st = fg_engine_store_stats(s->e);
    if (!s->grows || n <= base || st == NULL || st->n_slot == st->n_total) return base;
    const fg_shape *shape = s->e->model->shape;
    const uint64_t least = fg_cache_min_slots(shape->n_layer, shape->n_expert, shape->n_used);
    uint64_t best_reads = (n + base - 1) / base * (st->n_total - st->n_slot);
    uint32_t best = base;
    for (uint64_t k = (n + FG_BATCH_MAX - 1) / FG_BATCH_MAX; (n + k - 1) / k > base; k++) {
        const uint32_t batch = (uint32_t)((n + k - 1) / k);
        const uint64_t more =
            fg_scratch_bytes(s->e->model, s->state->n_ctx, batch, fg_team_size(s->e->team)) -
            s->scratch->bytes;
        const uint64_t lost = (more + st->slot_bytes - 1) / st->slot_bytes;
        const uint64_t reads = k * (st->n_total - st->n_slot + lost);
        if (lost + least > st->n_slot || reads >= best_reads) continue;
        best = batch;
        best_reads = reads;
    }
    return best;
}

/* Another batch, with memory from or for the slots.  On failure nothing has changed. */
static fg_status resize_batch(fg_session *s, uint32_t n_batch, fg_err *err)
{
    fg_scratch *other;
    fg_engine *e = s->e;
    if (n_batch == s->scratch->n_batch) return FG_OK;
    FG_TRY(
        fg_scratch_create(&other, e->model, s->state->n_ctx, n_batch, fg_team_size(e->team), err));
    const fg_status st = fg_engine_charge(e, other->bytes, s->scratch->bytes, err);
    if (st != FG_OK) {
        fg_scratch_destroy(&other);
        return st;
    }
    s->bytes = s->bytes + other->bytes - s->scratch->bytes;
    fg_scratch_destroy(&s->scratch);
    s->scratch = other;
    return FG_OK;
}

static fg_status check_eval(const fg_session *s, const uint32_t *ids, size_t n, fg_err *err)
{
    const uint32_t n_vocab = s->e->model->shape->n_vocab;
    const uint64_t room = s->state->n_ctx - s->state->pos;
    if (s->lost.code != FG_OK) {
        if (err != NULL) *err = s->lost;
        return s->lost.code;
    }
    if (n == 0) return fg_fail(err, FG_EINVAL, "tokens: none, expected at least one");
    if (n > room) {
        return fg_fail(err, FG_ELIMIT,
                       "context: %llu tokens behind %llu, expected at most %llu in all; "
                       "raise it with -c",
                       (unsigned long long)n, (unsigned long long)s->state->pos,
                       (unsigned long long)s->state->n_ctx);
    }
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= n_vocab) {
            return fg_fail(err, FG_EINVAL, "token %zu: id %u, expected less than %u", i, ids[i],
                           n_vocab);
        }
    }
    return FG_OK;
}

static fg_status eval(fg_session *s, const uint32_t *ids, size_t n, fg_session_logits_fn *on_logits,
                      void *ctx, fg_err *err)
{
    logits_sink sink = {s, on_logits, ctx, s->state->pos + n - 1};
    const uint32_t batch = s->scratch->n_batch;
    for (size_t i = 0; i < n;) {
        if (s->progress != NULL && !s->progress(s->progress_ctx, i, n)) {
            return fg_fail(err, FG_ECANCEL, "evaluation: cancelled after %zu tokens, expected %zu",
                           i, n);
        }
        const uint32_t m = n - i < batch ? (uint32_t)(n - i) : batch;
        const bool ends = i + m == n;
        fg_batch b = {
            .m = s->e->model,
            .st = s->state,
            .s = s->scratch,
            .ids = ids + i,
            .n_tok = m,
            .logits_from = on_logits != NULL ? 0
                           : ends            ? m - 1
                                             : m,
            .on_logits = take_logits,
            .on_logits_ctx = &sink,
            .taps = &s->taps,
            .profile = s->profile,
        };
        if (fg_forward(s->e->team, &b, &s->lost) != FG_OK) {
            if (err != NULL) *err = s->lost;
            return s->lost.code;
        }
        i += m;
    }
    if (s->progress != NULL) (void)s->progress(s->progress_ctx, n, n);
    return FG_OK;
}

fg_status fg_session_eval(fg_session *s, const uint32_t *ids, size_t n,
                          fg_session_logits_fn *on_logits, void *ctx, fg_err *err)
{
    FG_TRY(check_eval(s, ids, n, err));
    (void)resize_batch(s, best_batch(s, n), NULL); /* without it, more is read */
    const fg_status st = eval(s, ids, n, on_logits, ctx, err);
    (void)resize_batch(s, s->n_batch, NULL); /* fails for want of memory only: it stays large */
    return st;
}
