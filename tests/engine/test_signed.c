/* SPDX-License-Identifier: MIT
 *
 * Experts of a signed model at their first use: whatever home the weights have and whoever asks
 * first, a chunk that is not what was signed ends the pass by its name, one that nobody asks for
 * changes nothing, and so does the gate itself.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"
#include "src/engine/memory.h"
#include "src/format/layout.h"
#include "tests/fg_test.h"
#include "tests/models.h"

enum { N = 2, MAX_CHUNK = 64 };

static const uint32_t ids[N] = {300, 1};

typedef struct way {
    const char *name;
    uint64_t ram;
    uint32_t n_node, n_thread;
} way;

static const way ways[] = {
    {"map", 0, 1, 2},
    {"map, three nodes", 0, 3, 3},
    {"read", (uint64_t)9 << 20, 1, 2}, /* few slots: experts are read again */
    {"read, three nodes", (uint64_t)12 << 20, 3, 3},
};

static const char *model, *keys;

typedef struct answer {
    float *logits; /* [N][n_vocab] */
    uint32_t n_vocab, n;
} answer;

static void keep(void *ctx, uint64_t pos, const float *logits)
{
    answer *a = ctx;
    (void)pos;
    memcpy(a->logits + (size_t)a->n++ * a->n_vocab, logits, a->n_vocab * sizeof *logits);
}

/* The status of opening it and evaluating the ids; *a is filled in as far as that came. */
static fg_status ask(const way *w, bool checked, answer *a, fg_err *err)
{
    fg_engine *e = NULL;
    fg_session *s = NULL;
    fg_engine_opts o = fg_engine_opts_default();
    o.n_thread = w->n_thread;
    o.pin = false;
    o.pretend_nodes = w->n_node;
    o.ram_bytes = w->ram == 0 ? 0 : FG_MEMORY_PROGRAM + w->ram;
    o.signers = checked ? keys : NULL;
    *err = (fg_err){0};
    fg_status st = fg_engine_open(&e, model, &o, err);
    if (st != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s: %s", w->name, err->msg);
        return st;
    }
    a->n_vocab = fg_engine_shape(e)->n_vocab;
    a->n = 0;
    if (a->logits == NULL) a->logits = malloc((size_t)N * a->n_vocab * sizeof(float));
    s = model_session(e, 64, N);
    st = fg_session_eval(s, ids, N, keep, a, err);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return st;
}

/* Chunks that hold experts alone: they pass when somebody asks. */
static size_t expert_chunks(uint64_t *chunk, uint64_t *data)
{
    fg_model_file *f = NULL;
    fg_err err;
    bool dense[MAX_CHUNK] = {false};
    size_t n = 0;
    if (fg_model_file_open(&f, model, &err) != FG_OK) return 0;
    const fg_slot *slot = &fg_model_file_plan(f)->slot;
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        if (t->expert != FG_NO_LAYER) continue;
        const uint64_t from = t->scale_offset != 0 ? t->scale_offset : t->offset;
        for (uint64_t at = from; at < fg_tensor_end(t); at += 4096)
            dense[(at - slot->data_offset) / FG_FILE_CHUNK] = true;
        dense[(fg_tensor_end(t) - 1 - slot->data_offset) / FG_FILE_CHUNK] = true;
    }
    for (uint64_t c = 0; c + 1 < slot->n_chunk && c < MAX_CHUNK; c++)
        if (!dense[c]) chunk[n++] = c;
    *data = slot->data_offset;
    fg_model_file_close(&f);
    return n;
}

FG_TEST(each_chunk_of_an_expert_at_its_first_use)
{
    uint64_t chunk[MAX_CHUNK], data = 0;
    answer want = {.logits = NULL}, got = {.logits = NULL};
    fg_err err;
    char name[32];
    model = fg_test_tmp("signed.fulgur");
    REQUIRE(model_sign(NANO_DIR, model, &keys));
    const size_t n = expert_chunks(chunk, &data);
    REQUIRE(n > 8);
    CHECK_OK(ask(&ways[0], false, &want, &err), &err);
    bool used[MAX_CHUNK] = {false};
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
        size_t n_used = 0, n_other = 0;
        CHECK_OK(ask(&ways[w], true, &got, &err), &err);
        CHECK(memcmp(got.logits, want.logits, (size_t)N * want.n_vocab * sizeof(float)) == 0);
        for (size_t i = 0; i < n; i += w == 0 ? 1 : 5) {
            model_flip(model, data + chunk[i] * FG_FILE_CHUNK + FG_FILE_CHUNK / 2);
            const fg_status st = ask(&ways[w], true, &got, &err);
            (void)snprintf(name, sizeof name, "chunk %u (", (unsigned)chunk[i]);
            if (w == 0) used[i] = st != FG_OK;
            n_used += used[i];
            n_other += !used[i];
            if (used[i] && (st != FG_ECHECKSUM || strstr(err.msg, name) == NULL))
                fg_test_fail(__FILE__, __LINE__, "%s, %s: %d, %s", ways[w].name, name, st, err.msg);
            const bool same =
                memcmp(got.logits, want.logits, (size_t)N * want.n_vocab * sizeof(float)) == 0;
            if (!used[i] && (st != FG_OK || !same))
                fg_test_fail(__FILE__, __LINE__, "%s, %s: %d", ways[w].name, name, st);
            if (i == 0) CHECK_OK(ask(&ways[w], false, &got, &err), &err); /* nobody asks for it */
            model_flip(model, data + chunk[i] * FG_FILE_CHUNK + FG_FILE_CHUNK / 2);
        }
        CHECK(n_used > 0 && n_other > 0);
    }
    free(want.logits);
    free(got.logits);
}
