/* SPDX-License-Identifier: MIT
 *
 * A model file whose fields are wrong and whose hashes are right: header, directory, tensors, chunk
 * table, metadata and weights.  What opens is read, verified, run with the file mapped or within a
 * bound of memory, and appended to.  Input: 4 bytes of flags, up to 16 patches of 12 bytes (kind,
 * place, width, value), then the contents of a metadata entry.
 */
#include <stdio.h>

#include "src/engine/session.h"
#include "src/eval/quality.h"
#include "src/expert/heat.h"
#include "src/format/write/append.h"
#include "tests/format/sample.h"
#include "tests/fuzz/image.h"
#include "tests/fuzz/words.h"

FUZZ_TARGET(open, 450)

enum { /* flags */
       HASHES = 1,
       TABLE = 2,
       RUN = 4,
       BOUNDED = 8,
       APPEND = 16,
       BLOB = 32,
       VERIFY = 64,
       CUT = 128,
};
enum { N_BLOB = 5, DIR_FIXED = 160, META_RECORD = 288, TENSOR_RECORD = 96, BLOB_ROOM = 1200 };

static const char heat[] =
    "{\"version\": 1, \"data_root\": \"0x0000000000000000\", \"text\": \"t\", "
    "\"tokens\": 9, \"fulgur\": \"0.1.0\", \"use\": [[1,2,3],[3,2,1],[1,1,1]]}";

static image *the_file(void)
{
    static image m;
    if (m.n > 0) return &m;
    static char room[BLOB_ROOM];
    fg_buf words = {0};
    fg_err err = {0};
    fg_writer *w;
    memset(room, ' ', sizeof room);
    memcpy(room, heat, sizeof heat - 1);
    words_put_small(&words, "null", "[\"a b\",\"ab c\",\"b c\"]");
    const fg_meta meta[N_BLOB] = {{"recipe", "experts q4", 10},
                                  {"config.json", sample_config, sizeof sample_config - 1},
                                  {"tokenizer.json", words.data, words.len},
                                  {"heat", room, sizeof room},
                                  {"quality", room, sizeof room}};
    const fg_file_spec spec = {.meta = meta, .n_meta = N_BLOB};
    const char *path = fg_test_tmp("open.fulgur");
    fg_status st = sample_writer(&w, path, spec, NULL, &err);
    if (st == FG_OK) st = fg_writer_begin(w, &err);
    uint8_t *data = st == FG_OK ? sample_data(w, 1) : NULL;
    if (st == FG_OK) st = sample_stream(w, data, 1, &err);
    if (st == FG_OK) st = fg_writer_finish(w, &err);
    if (st != FG_OK) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    fg_writer_destroy(&w);
    fg_mem_free(data);
    fg_buf_fini(&words);
    image_open(&m, path);
    return &m;
}

static void put_seed(uint8_t flags, uint8_t blob, uint8_t extra, const uint8_t (*patch)[12],
                     uint8_t n, const char *text)
{
    fg_buf b = {0};
    const uint8_t head[4] = {flags, n, blob, extra};
    fg_buf_put(&b, head, sizeof head);
    fg_buf_put(&b, patch, 12 * (size_t)n);
    fg_buf_put_str(&b, text);
    fuzz_seed(b.data, b.len);
    fg_buf_fini(&b);
}

static void seeds(void)
{
    static const uint8_t patch[][12] = {
        {0, 4, 0, 2, 3},                   /* a header field */
        {1, 24, 0, 2, 4},                  /* a shape field */
        {2, 7, 8, 3, 0, 0, 1},             /* a tensor's field */
        {3, 9, 0, 0x34, 0, 0, 0xc0, 0x7f}, /* weights that are no numbers */
        {4, 0x60, 0, 3, 1},                /* a metadata record */
        {5, 0, 0, 3, 1},                   /* a chunk's hash */
        {6, 0, 0, 0, 2},                   /* a second generation */
    };
    put_seed(HASHES | VERIFY, 0, 0, NULL, 0, "");
    put_seed(HASHES | RUN, 0, 3, NULL, 0, "");
    put_seed(HASHES | RUN | BOUNDED, 0, 0x27, NULL, 0, "");
    put_seed(HASHES | APPEND, 0, 0, NULL, 0, "");
    for (uint8_t i = 0; i < sizeof patch / sizeof patch[0]; i++) {
        put_seed(HASHES | TABLE | VERIFY | RUN, 0, i, &patch[i], 1, "");
    }
    put_seed(HASHES | TABLE | VERIFY | RUN, 0, 9, patch, sizeof patch / sizeof patch[0], "");
    put_seed(HASHES | BLOB, 1, 1, NULL, 0, heat);
    put_seed(HASHES | BLOB, 2, 1, NULL, 0,
             "{\"version\": 1, \"cards\": [{\"text\": \"a\\u001b[31m\"}]}");
    put_seed(HASHES | BLOB | RUN, 4, 1, NULL, 0, "{\"model\": {\"type\": \"BPE\"}}");
    put_seed(CUT, 0, 200, NULL, 0, "");
}

/* Places in the file as it was written. */
typedef struct places {
    uint64_t dir, dir_bytes, table, n_chunk, data, data_bytes, meta, tensor, n_tensor;
} places;

static places find_places(const image *m)
{
    const uint8_t *h = m->good;
    places p = {fuzz_get_le(h + 32, 8),
                fuzz_get_le(h + 40, 8),
                fuzz_get_le(h + 56, 8),
                fuzz_get_le(h + 64, 8),
                fuzz_get_le(h + 72, 8),
                fuzz_get_le(h + 80, 8),
                0,
                0,
                0};
    const uint8_t *d = h + p.dir;
    const uint64_t n_layer = fuzz_get_le(d, 4), n_expert = fuzz_get_le(d + 24, 4);
    p.n_tensor = fuzz_get_le(d + 136, 8);
    p.meta = p.dir + DIR_FIXED + (n_layer + 15) / 16 * 16;
    p.tensor = p.meta + META_RECORD * (uint64_t)N_BLOB + 16 * n_layer * (1 + n_expert);
    return p;
}

static void patch(image *m, const places *p, const uint8_t *op)
{
    const uint64_t a = fuzz_get_le(op + 1, 2), v = fuzz_get_le(op + 4, 8);
    const unsigned width = 1u << (op[3] & 3);
    switch (op[0] % 7) {
    case 0: image_put(m, 8 + 4 * (a % 26), width < 4 ? 4 : 8, v); break;
    case 1: image_put(m, p->dir + a % (p->dir_bytes - 8), width, v); break;
    case 2: {
        const uint64_t t = p->tensor + TENSOR_RECORD * (a % p->n_tensor);
        image_put(m, t + 4 * ((a >> 8) % 23), width < 4 ? 4 : width, v);
        break;
    }
    case 3: { /* 64 bytes or more of weights or of row scales */
        const uint8_t *t = m->good + p->tensor + TENSOR_RECORD * (a % p->n_tensor);
        const uint64_t scales = fuzz_get_le(t + 48, 8);
        const uint64_t at = (op[3] & 4) != 0 && scales != 0 ? scales : fuzz_get_le(t + 32, 8);
        const uint64_t len = UINT64_C(64) * (1u + (op[3] >> 4));
        uint8_t *w = image_touch(m, at, len);
        for (unsigned i = 0; w != NULL && i < len; i += 4) fuzz_put_le(w + i, 4, v);
        break;
    }
    case 4: { /* place, size, hash of a metadata entry, or a step from what they were */
        const uint64_t at = p->meta + META_RECORD * (a % N_BLOB) + 256 + 8 * ((a >> 4) % 4);
        const uint64_t was = fuzz_get_le(m->now + at, 8);
        image_put(m, at, 8, (op[3] & 16) != 0 ? was + (uint64_t)(int64_t)(int8_t)v : v);
        break;
    }
    case 5: image_put(m, p->table + 8 * (a % p->n_chunk), 8, v); break;
    default: { /* a second slot */
        uint8_t *slot = image_touch(m, IMAGE_SLOT, IMAGE_SLOT);
        if (slot == NULL) break;
        memcpy(slot, m->now, IMAGE_SLOT);
        fuzz_put_le(slot + 16, 8, (v & 1) != 0 ? 2 : v);
    }
    }
}

static void put_blob(image *m, const places *p, uint64_t blob, bool exact, const uint8_t *d,
                     size_t n)
{
    const uint64_t record = p->meta + META_RECORD * (blob % N_BLOB);
    const uint64_t len = fuzz_get_le(m->good + record + 264, 8);
    uint8_t *at = image_touch(m, fuzz_get_le(m->good + record + 256, 8), len);
    if (at == NULL) return;
    if (n > len) n = (size_t)len;
    memset(at, ' ', (size_t)len);
    memcpy(at, d, n);
    if (exact) image_put(m, record + 264, 8, n);
}

static void rehash(image *m, const places *p, bool table)
{
    for (uint64_t c = 0; table && c < p->n_chunk; c++) {
        const uint64_t at = c << 20, left = p->data_bytes - at;
        image_put(m, p->table + 8 * c, 8,
                  fg_hash64(m->now + p->data + at, left < 1 << 20 ? left : 1 << 20));
    }
    if (table) image_put(m, 88, 8, fg_hash64(m->now + p->table, 8 * p->n_chunk));
    for (uint64_t b = 0; b < N_BLOB; b++) {
        const uint64_t record = p->meta + META_RECORD * b;
        const uint64_t at = fuzz_get_le(m->now + record + 256, 8),
                       n = fuzz_get_le(m->now + record + 264, 8);
        if (at <= m->n && n <= m->n - at) image_put(m, record + 272, 8, fg_hash64(m->now + at, n));
    }
    image_rehash(m, IMAGE_SLOT);
    image_rehash(m, 0);
}

/* ---- what is done with a file that opens ---- */

static void look(const fg_model_file *f, bool verify)
{
    fg_err err = {0};
    volatile uint8_t sum = 0;
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        sum = (uint8_t)(sum + *fg_model_file_data(f, fg_model_file_tensor(f, i)->offset));
    }
    if (verify) {
        const fg_status st = fg_model_file_verify(f, NULL, NULL, &err);
        fuzz_check_status(st, &err);
    }
    fg_card *cards;
    size_t n;
    fg_status st = fg_card_list(f, &cards, &n, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) fg_mem_free(cards);
    fg_heat h = {0};
    st = fg_heat_load(f, &h, &err);
    fuzz_check_status(st, &err);
    fg_mem_free(h.use);
    FUZZ_CHECK(fg_model_file_n_meta(f) != (fuzz_planted ? N_BLOB : 0));
}

static void evaluate(fg_engine *e, unsigned extra)
{
    fg_err err = {0};
    fg_session_opts so = fg_session_opts_default();
    so.n_ctx = 16;
    so.kv = (fg_kv_choice)(extra % FG_KV_CHOICE_COUNT);
    fg_session *s;
    fg_status st = fg_session_create(&s, e, &so, &err);
    fuzz_check_status(st, &err);
    if (st != FG_OK) return;
    uint32_t ids[7];
    for (uint32_t i = 0; i < 7; i++) ids[i] = (i * 7919 + extra) % fg_engine_shape(e)->n_vocab;
    st = fg_session_eval(s, ids, 6, NULL, NULL, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) {
        st = fg_session_eval(s, ids + 6, 1, NULL, NULL, &err);
        fuzz_check_status(st, &err);
    }
    fg_session_destroy(&s);
}

static void run_model(const char *path, bool bounded, unsigned extra)
{
    fg_err err = {0};
    fg_engine_opts o = fg_engine_opts_default();
    o.n_thread = 1;
    if (bounded) {
        o.ram_bytes = (104ull << 20) + ((uint64_t)extra << 16);
        o.policy = (fg_policy)(extra % 3);
        o.predict = (fg_predict)(extra / 4 % FG_PREDICT_COUNT);
        o.io = (fg_io)(extra / 16 % FG_IO_COUNT);
    }
    fg_engine *e;
    fg_status st = fg_engine_open(&e, path, &o, &err);
    fuzz_check_status(st, &err);
    if (st != FG_OK) return;
    const fg_tokenizer *t;
    st = fg_engine_tokenizer(e, &t, &err);
    fuzz_check_status(st, &err);
    evaluate(e, extra);
    fg_engine_close(&e);
}

static void append(const char *path)
{
    fg_err err = {0};
    const fg_status st = fg_model_file_append_meta(path, "heat", "{}", 2, &err);
    fuzz_check_status(st, &err);
    fg_model_file *f = NULL;
    if (st == FG_OK) FUZZ_CHECK(fg_model_file_open(&f, path, &err) == FG_OK); /* still a model */
    fg_model_file_close(&f);
}

static void one(const uint8_t *d, size_t n)
{
    image *m = the_file();
    const places p = find_places(m);
    const uint64_t flags = fuzz_take(&d, &n, 1), n_patch = fuzz_take(&d, &n, 1) % 16;
    const uint64_t blob = fuzz_take(&d, &n, 1), extra = fuzz_take(&d, &n, 1);
    for (uint64_t i = 0; i < n_patch && n >= 12; i++, d += 12, n -= 12) patch(m, &p, d);
    if ((flags & BLOB) != 0) put_blob(m, &p, 2 + blob % 3, (extra & 1) != 0, d, n);
    if ((flags & HASHES) != 0) rehash(m, &p, (flags & TABLE) != 0);
    (void)image_touch(m, 0, 2 * IMAGE_SLOT); /* an append writes here */
    const bool cut = (flags & CUT) != 0 && image_cut(m, 1 + (extra << 6));
    fg_err err = {0};
    fg_model_file *f;
    const fg_status st = fg_model_file_open(&f, m->path, &err);
    fuzz_check_status(st, &err);
    FUZZ_CHECK((f != NULL) == (st == FG_OK));
    FUZZ_CHECK(st != FG_OK || !cut);
    if (st == FG_OK && !cut) {
        look(f, (flags & VERIFY) != 0);
        fg_model_file_close(&f);
        if ((flags & RUN) != 0) run_model(m->path, (flags & BOUNDED) != 0, (unsigned)extra);
        if ((flags & APPEND) != 0) append(m->path);
    }
    fg_model_file_close(&f);
    image_restore(m);
}
