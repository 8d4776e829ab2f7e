/* SPDX-License-Identifier: MIT */
#include "tests/models.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/convert.h"
#include "src/base/buf.h"
#include "src/engine/session.h"
#include "src/format/signature.h"
#include "src/text/sampler.h"
#include "tests/fg_test.h"

/* The program's own copy, which it may change, of a file that all programs of a run share. */
static bool copy_shared(const char *shared, const char *out)
{
    static char buf[1 << 20];
    const int from = open(shared, O_RDONLY | O_CLOEXEC);
    const int to = from < 0 ? -1 : open(out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    ssize_t n = -1;
    while (to >= 0 && (n = read(from, buf, sizeof buf)) > 0) {
        if (write(to, buf, (size_t)n) != n) break;
    }
    if (from >= 0) (void)close(from);
    const bool good = to >= 0 && close(to) == 0 && n == 0;
    if (to >= 0 && !good) (void)unlink(out);
    return good;
}

/* Makes `out`, a file that is the same in every program, once in a run: in the folder that
 * FULGUR_TEST_MODELS names, and copied from there. */
static bool make_once(const char *out, bool (*make)(void *ctx, const char *path), void *ctx)
{
    const char *dir = getenv("FULGUR_TEST_MODELS"), *leaf = strrchr(out, '/') + 1;
    char shared[512], mine[540];
    if (dir == NULL) return make(ctx, out);
    (void)snprintf(shared, sizeof shared, "%s/%s", dir, leaf);
    (void)snprintf(mine, sizeof mine, "%s.%ld", shared, (long)getpid());
    if (access(shared, R_OK) == 0) return copy_shared(shared, out);
    return make(ctx, mine) && rename(mine, shared) == 0 && copy_shared(shared, out);
}

static bool convert_to(void *ctx, const char *path)
{
    fg_convert_opts *o = ctx;
    fg_err err = {0};
    o->out_path = path;
    if (fg_convert(o, NULL, &err) == FG_OK) return true;
    fg_test_fail(__FILE__, __LINE__, "convert %s %s: %s", o->src_dir, o->type, err.msg);
    return false;
}

const char *model_file(const char *src, const char *type)
{
    static char path[8][256];
    static int turn;
    char *out = path[turn = (turn + 1) % 8];
    const char *leaf = strrchr(src, '/') == NULL ? src : strrchr(src, '/') + 1;
    (void)snprintf(out, sizeof path[0], "%s/%s-%s.fulgur", fg_test_tmpdir(), leaf, type);
    if (access(out, R_OK) == 0) return out;
    fg_convert_opts o = {.src_dir = src, .type = type};
    /* the oracle's checkpoints are small, and tests make some of their own */
    const bool shared = strcmp(src, NANO_DIR) == 0;
    return (shared ? make_once(out, convert_to, &o) : convert_to(&o, out)) ? out : NULL;
}

const char *model_file_calibrated(const char *src, const char *recipe, const char *text)
{
    static char path[4][256];
    static int turn;
    char *out = path[turn = (turn + 1) % 4];
    const char *leaf = strrchr(text, '/') == NULL ? text : strrchr(text, '/') + 1;
    (void)snprintf(out, sizeof path[0], "%s/%s-%s.fulgur", fg_test_tmpdir(), leaf, recipe);
    if (access(out, R_OK) == 0) return out;
    fg_convert_opts o = {
        .src_dir = src, .out_path = out, .recipe_path = recipe, .calib_path = text};
    fg_err err = {0};
    if (fg_convert(&o, NULL, &err) == FG_OK) return out;
    fg_test_fail(__FILE__, __LINE__, "convert %s %s: %s", src, recipe, err.msg);
    return NULL;
}

/* ---- what nano wrote ---- */

enum { MAX_SEQ = 64 };

typedef struct writing {
    fg_engine *e;
    const fg_tokenizer *tok;
    fg_session *s[MAX_SEQ];
    fg_sampler *sampler[MAX_SEQ];
    fg_ids ids[MAX_SEQ];
    uint32_t n_seq;
} writing;

/* Sessions with a beginning of a story each. */
static fg_status begin(writing *w, uint64_t seed, uint32_t n_tok, fg_err *err)
{
    static const char *const start[] = {
        "Once upon a time",
        "The old man looked at the sea and",
        "A fox who was hungry",
        "When the king heard of it, he",
    };
    w->e = model_open(NANO_DIR, "bf16", 2, NULL);
    if (w->e == NULL) return fg_fail(err, FG_EIO, "nano: not opened, expected a model");
    FG_TRY(fg_engine_tokenizer(w->e, &w->tok, err));
    for (uint32_t i = 0; i < w->n_seq; i++) {
        const char *text = start[i % (sizeof start / sizeof start[0])];
        fg_sampler_opts so = fg_sampler_opts_default();
        so.temp = 1.0;
        so.top_p = 1.0;
        so.seed = seed * MAX_SEQ + i;
        w->s[i] = model_session(w->e, n_tok + 16, 64);
        if (w->s[i] == NULL) return fg_fail(err, FG_EIO, "nano: no session, expected one");
        FG_TRY(fg_engine_sampler(w->e, &so, &w->sampler[i], err));
        FG_TRY(fg_tokenizer_encode(w->tok, NULL, text, strlen(text), false, &w->ids[i], err));
    }
    return FG_OK;
}

/* One token of each sequence. */
static fg_status go_on(writing *w, fg_err *err)
{
    fg_eval_item item[MAX_SEQ];
    uint32_t from[MAX_SEQ];
    for (uint32_t i = 0; i < w->n_seq; i++) {
        from[i] = fg_session_logits(w->s[i]) == NULL ? 0 : (uint32_t)w->ids[i].len - 1;
        item[i] = (fg_eval_item){
            .session = w->s[i], .ids = w->ids[i].data + from[i], .n = w->ids[i].len - from[i]};
    }
    FG_TRY(fg_session_eval_many(item, w->n_seq, err));
    for (uint32_t i = 0; i < w->n_seq; i++) {
        uint32_t id;
        FG_TRY(fg_sampler_pick(w->sampler[i], fg_session_logits(w->s[i]), &id, NULL, err));
        if (!fg_ids_push(&w->ids[i], id)) return fg_fail_nomem(err, "nano");
    }
    return FG_OK;
}

static fg_status write_down(const writing *w, const char *path, fg_err *err)
{
    fg_buf out = {0};
    fg_status st = FG_OK;
    for (uint32_t i = 0; st == FG_OK && i < w->n_seq; i++) {
        st = fg_tokenizer_decode(w->tok, w->ids[i].data, w->ids[i].len, false, &out, err);
        fg_buf_put_str(&out, "\n\n");
    }
    FILE *f = st == FG_OK && !out.failed ? fopen(path, "w") : NULL;
    const bool good = f != NULL && fwrite(out.data, 1, out.len, f) == out.len;
    const bool closed = f != NULL && fclose(f) == 0;
    fg_buf_fini(&out);
    if (st != FG_OK || (good && closed)) return st;
    return fg_fail(err, FG_EIO, "%s: not written, expected a text", path);
}

typedef struct to_write {
    uint64_t seed;
    uint32_t n_seq, n_tok;
} to_write;

static bool write_text(void *ctx, const char *path)
{
    const to_write *t = ctx;
    writing w = {.n_seq = t->n_seq < MAX_SEQ ? t->n_seq : MAX_SEQ};
    fg_err err = {0};
    fg_status st = begin(&w, t->seed, t->n_tok, &err);
    while (st == FG_OK && w.ids[0].len < t->n_tok) st = go_on(&w, &err);
    if (st == FG_OK) st = write_down(&w, path, &err);
    for (uint32_t i = 0; i < w.n_seq; i++) {
        fg_sampler_destroy(&w.sampler[i]);
        fg_session_destroy(&w.s[i]);
        fg_ids_fini(&w.ids[i]);
    }
    fg_engine_close(&w.e);
    if (st != FG_OK) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return st == FG_OK;
}

const char *nano_text(uint64_t seed, uint32_t n_seq, uint32_t n_tok)
{
    static char path[2][256];
    static int turn;
    char *out = path[turn = (turn + 1) % 2];
    (void)snprintf(out, sizeof path[0], "%s/nano-%u-%ux%u.txt", fg_test_tmpdir(), (unsigned)seed,
                   n_seq, n_tok);
    to_write t = {seed, n_seq, n_tok};
    return access(out, R_OK) == 0 || make_once(out, write_text, &t) ? out : NULL;
}

fg_engine *model_open(const char *src, const char *type, uint32_t n_thread, const char *cpu)
{
    const char *path = model_file(src, type);
    return path == NULL ? NULL : model_open_file(path, n_thread, cpu);
}

fg_cpu_level model_level(const char *cpu)
{
    uint32_t i = cpu == NULL ? FG_CPU_LEVEL_AUTO : 0;
    for (; cpu != NULL && i < FG_CPU_LEVEL_COUNT; i++) {
        const char *name = fg_cpu_level_name((fg_cpu_level)i);
        if (name != NULL && strcmp(name, cpu) == 0) break;
    }
    return (fg_cpu_level)i;
}

fg_engine *model_open_file(const char *path, uint32_t n_thread, const char *cpu)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_engine *e;
    fg_err err = {0};
    o.n_thread = n_thread;
    const char *level = getenv("FULGUR_TEST_CPU"); /* scripts/test.sh: a run for each level */
    o.cpu = model_level(cpu != NULL ? cpu : level);
    if (fg_engine_open(&e, path, &o, &err) == FG_OK) return e;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return NULL;
}

fg_session *model_session(fg_engine *e, uint64_t n_ctx, uint32_t n_batch)
{
    return model_session_kv(e, n_ctx, n_batch, FG_KV_CHOICE_AUTO);
}

fg_session *model_session_kv(fg_engine *e, uint64_t n_ctx, uint32_t n_batch, fg_kv_choice kv)
{
    fg_session_opts o = fg_session_opts_default();
    fg_session *s;
    fg_err err = {0};
    o.n_ctx = n_ctx;
    o.n_batch = n_batch;
    o.kv = kv;
    if (fg_session_create(&s, e, &o, &err) == FG_OK) return s;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return NULL;
}

typedef struct sink {
    float *out;
    uint64_t first;
    size_t n_vocab;
} sink;

static void put(void *ctx, uint64_t pos, const float *logits)
{
    const sink *k = ctx;
    memcpy(k->out + (pos - k->first) * k->n_vocab, logits, k->n_vocab * sizeof(float));
}

float *model_logits(fg_session *s, fg_engine *e, const uint32_t *ids, size_t n, size_t step)
{
    sink k = {NULL, fg_session_pos(s), fg_engine_shape(e)->n_vocab};
    k.out = malloc(n * k.n_vocab * sizeof(float));
    fg_err err = {0};
    for (size_t i = 0; k.out != NULL && i < n;) {
        const size_t m = step == 0 || n - i < step ? n - i : step;
        if (fg_session_eval(s, ids + i, m, put, &k, &err) != FG_OK) {
            fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
            free(k.out);
            return NULL;
        }
        i += m;
    }
    return k.out;
}

static bool put_text(const char *path, const fg_buf *b)
{
    FILE *f = fopen(path, "wb");
    return f != NULL && fwrite(b->data, 1, b->len, f) == b->len && fclose(f) == 0;
}

bool model_sign(const char *src, const char *to, const char **keys)
{
    char cmd[1200], sig_path[600];
    fg_secret_key secret;
    fg_public_key key;
    fg_model_file *f = NULL;
    fg_seal *seal = NULL;
    fg_buf sig = {0}, pub = {0};
    fg_err err = {0};
    const char *from = model_file(src, "q4");
    *keys = fg_test_tmp("keys");
    if (from == NULL) return false;
    (void)snprintf(cmd, sizeof cmd, "cp %s %s", from, to);
    (void)snprintf(sig_path, sizeof sig_path, "%s.sig", to);
    bool ok = system(cmd) == 0 && fg_key_pair(&secret, &key, &err) == FG_OK &&
              fg_model_file_open(&f, to, &err) == FG_OK && fg_seal_open(&seal, f, &err) == FG_OK &&
              seal != NULL && fg_signature_make(&sig, &secret, seal, to, &err) == FG_OK;
    if (ok) fg_public_key_print(&pub, &key);
    ok = ok && put_text(sig_path, &sig) && put_text(*keys, &pub);
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s: not signed: %s", to, err.msg);
    fg_seal_close(&seal);
    fg_model_file_close(&f);
    fg_buf_fini(&sig);
    fg_buf_fini(&pub);
    return ok;
}

void model_flip(const char *path, uint64_t at)
{
    FILE *f = fopen(path, "r+b");
    REQUIRE(f != NULL && fseek(f, (long)at, SEEK_SET) == 0);
    const int byte = fgetc(f);
    CHECK(fseek(f, (long)at, SEEK_SET) == 0 && fputc(byte ^ 8, f) != EOF && fclose(f) == 0);
}
