/* SPDX-License-Identifier: MIT */
#include "tests/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/convert.h"
#include "tests/fg_test.h"

const char *model_file(const char *src, const char *type)
{
    static char path[8][256];
    static int turn;
    char *out = path[turn = (turn + 1) % 8];
    const char *leaf = strrchr(src, '/') == NULL ? src : strrchr(src, '/') + 1;
    (void)snprintf(out, sizeof path[0], "%s/%s-%s.fulgur", fg_test_tmpdir(), leaf, type);
    if (access(out, R_OK) == 0) return out;
    fg_convert_opts o = {.type = type};
    fg_convert_report r;
    fg_err err = {0};
    o.src_dir = src;
    o.out_path = out;
    if (fg_convert(&o, &r, &err) == FG_OK) return out;
    fg_test_fail(__FILE__, __LINE__, "convert %s %s: %s", src, type, err.msg);
    return NULL;
}

const char *model_file_calibrated(const char *src, const char *recipe, const char *text)
{
    static char path[4][256];
    static int turn;
    char *out = path[turn = (turn + 1) % 4];
    (void)snprintf(out, sizeof path[0], "%s/calibrated-%s.fulgur", fg_test_tmpdir(), recipe);
    if (access(out, R_OK) == 0) return out;
    fg_convert_opts o = {
        .src_dir = src, .out_path = out, .recipe_path = recipe, .calib_path = text};
    fg_err err = {0};
    if (fg_convert(&o, NULL, &err) == FG_OK) return out;
    fg_test_fail(__FILE__, __LINE__, "convert %s %s: %s", src, recipe, err.msg);
    return NULL;
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
