/* SPDX-License-Identifier: MIT
 *
 * Lengths are planned before the data is read, so that what is known only at the end is printed
 * with fixed widths.
 */
#include "convert/metadata.h"

#include <stdlib.h>
#include <string.h>

#include "convert/convert_impl.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/mistaken.h"
#include "src/format/write/append.h"
#include "src/format/write/reseal.h"
#include "src/text/tokenizer.h"

#define MAX_META_BYTES ((uint64_t)1 << 28)

typedef fg_run run;

const fg_copied_file fg_copied_files[] = {
    {"config.json", "config.json", FG_COPIED_JSON, false},
    {"tokenizer.json", "tokenizer.json", FG_COPIED_TOKENIZER, true},
    {"tokenizer_config.json", "tokenizer_config.json", FG_COPIED_JSON, true},
    {"generation_config.json", "generation_config.json", FG_COPIED_JSON, false},
    {"chat_template.jinja", "chat_template.jinja", FG_COPIED_TEXT, true},
};
_Static_assert(sizeof fg_copied_files / sizeof fg_copied_files[0] == FG_N_COPIED, "count the rows");

/* --- the list --- */

fg_status fg_metadata_add(fg_metadata *m, const char *key, const void *bytes, uint64_t n,
                          fg_err *err)
{
    void *p = m->entry;
    const bool grown = fg_mem_grow(&p, &m->cap, m->n + 1, sizeof *m->entry);
    m->entry = p;
    char *own_key = grown ? fg_mem_strndup(key, strlen(key)) : NULL;
    void *data = own_key == NULL ? NULL : fg_mem_alloc((size_t)n);
    if (data == NULL) {
        fg_mem_free(own_key);
        return fg_fail_nomem(err, key);
    }
    if (n != 0) memcpy(data, bytes, (size_t)n);
    m->entry[m->n++] = (fg_meta){own_key, data, n};
    return FG_OK;
}

void fg_metadata_fini(fg_metadata *m)
{
    for (size_t i = 0; i < m->n; i++) {
        fg_mem_free((void *)(uintptr_t)m->entry[i].key);
        fg_mem_free((void *)(uintptr_t)m->entry[i].data);
    }
    fg_mem_free(m->entry);
    *m = (fg_metadata){0};
}

uint64_t fg_metadata_bytes(const fg_metadata *m)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < m->n; i++) sum += m->entry[i].bytes;
    return sum;
}

/* --- copied files --- */

static fg_status check_json(const char *text, size_t n, const char *path, fg_err *err)
{
    fg_json *root;
    fg_status st = fg_json_parse(&root, text, n, path, err);
    if (st == FG_OK && !fg_json_is_object(root)) {
        st = fg_fail(err, FG_EFORMAT, "%s: not a JSON object, expected one", path);
    }
    fg_json_free(root);
    return st;
}

static fg_status check_tokenizer(const char *text, size_t n, uint32_t n_vocab, const char *path,
                                 fg_err *err)
{
    fg_tokenizer *t;
    fg_status st = fg_tokenizer_create(&t, text, n, path, err);
    if (st == FG_OK && n_vocab != 0 && fg_tokenizer_n_id(t) > n_vocab) {
        st = fg_fail(err, FG_ESHAPE, "%s: ids up to %u, expected less than vocab_size %u", path,
                     fg_tokenizer_n_id(t) - 1, n_vocab);
    }
    fg_tokenizer_destroy(&t);
    return st;
}

/* A broken tokenizer is refused now, not after hours of work. */
static fg_status check_file(fg_copied_kind kind, const char *text, size_t n, uint32_t n_vocab,
                            const char *path, fg_err *err)
{
    switch (kind) {
    case FG_COPIED_TEXT: return fg_mistaken_refuse(text, n, path, "a template", err);
    case FG_COPIED_JSON:
        return fg_mistaken_explain(check_json(text, n, path, err), path, "JSON", NULL, err);
    case FG_COPIED_TOKENIZER:
        FG_TRY(fg_mistaken_explain(check_json(text, n, path, err), path, "a tokenizer (JSON)", NULL,
                                   err));
        return check_tokenizer(text, n, n_vocab, path, err);
    }
    return FG_OK;
}

fg_status fg_metadata_add_file(fg_metadata *m, const fg_copied_file *f, const char *path,
                               bool checked, uint32_t n_vocab, fg_err *err)
{
    char *text = NULL;
    size_t n = 0;
    FG_TRY(fg_io_read_all(path, MAX_META_BYTES, &text, &n, err));
    fg_status st = checked ? check_file(f->kind, text, n, n_vocab, path, err) : FG_OK;
    if (st == FG_OK) st = fg_metadata_add(m, f->key, text, n, err);
    fg_mem_free(text);
    return st;
}

fg_status fg_metadata_add_folder(fg_metadata *m, const char *dir, bool checked, uint32_t n_vocab,
                                 fg_err *err)
{
    for (size_t i = 0; i < FG_N_COPIED; i++) {
        const fg_copied_file *f = &fg_copied_files[i];
        char *path = fg_io_join(dir, f->file);
        if (path == NULL) return fg_fail_nomem(err, f->file);
        const fg_status st =
            fg_io_is_named(path) ? fg_metadata_add_file(m, f, path, checked, n_vocab, err) : FG_OK;
        fg_mem_free(path);
        FG_TRY(st);
    }
    return FG_OK;
}

/* A finished model has n_vocab ids; what it has under these keys is replaced. */
static fg_status store_file(const char *dir, const fg_copied_file *f, const char *model,
                            bool wanted, fg_err *err)
{
    fg_metadata m = {0};
    fg_append *a = NULL;
    char *path = fg_io_join(dir, f->file);
    if (path == NULL) return fg_fail_nomem(err, f->file);
    fg_status st = FG_OK;
    if (wanted || fg_io_is_named(path)) {
        st = fg_append_open(&a, model, err);
        if (st == FG_OK) {
            const uint32_t n_vocab = fg_model_file_shape(fg_append_file(a))->n_vocab;
            st = fg_metadata_add_file(&m, f, path, true, n_vocab, err);
        }
        if (st == FG_OK) {
            st = fg_append_meta(a, m.entry[0].key, m.entry[0].data, m.entry[0].bytes, err);
        }
    }
    fg_append_close(&a);
    fg_metadata_fini(&m);
    fg_mem_free(path);
    return st;
}

fg_status fg_metadata_store_tokenizer(const char *dir, const char *model, fg_err *err)
{
    for (int last = 0; last < 2;
         last++) { /* the tokenizer itself comes behind what belongs to it */
        for (size_t i = 0; i < FG_N_COPIED; i++) {
            const fg_copied_file *f = &fg_copied_files[i];
            const bool tokenizer = f->kind == FG_COPIED_TOKENIZER;
            if (!f->in_synth || tokenizer != (last == 1)) continue;
            FG_TRY(store_file(dir, f, model, tokenizer, err));
        }
    }
    return fg_reseal_metadata(model, err);
}

/* --- provenance --- */

/* shard, hash: NULL for a text of the same length without hashes and sizes, which may not be known
 * yet when the length is planned. */
static fg_status print_provenance(fg_buf *b, const char *type, char *const *name, size_t n_shard,
                                  const fg_st_shard *shard, const uint64_t *hash, fg_err *err)
{
    fg_buf_printf(b, "{\"converter\": \"fulgur\", \"version\": %d, \"type\": \"%s\", \"files\": [",
                  FG_CONVERT_VERSION, type);
    for (size_t s = 0; s < n_shard; s++) {
        fg_buf_put_str(b, s == 0 ? "{\"name\": " : ", {\"name\": ");
        fg_json_put_str(b, name[s], strlen(name[s]));
        fg_buf_printf(b, ", \"bytes\": %19llu, \"xxh3\": \"%016llx\"}",
                      (unsigned long long)(shard == NULL ? 0 : shard[s].file_bytes),
                      (unsigned long long)(hash == NULL ? 0 : hash[s]));
    }
    fg_buf_put_str(b, "]}\n");
    return b->failed ? fg_fail_nomem(err, "provenance") : FG_OK;
}

fg_status fg_metadata_add_provenance(fg_metadata *m, const char *type, char *const *shard_name,
                                     size_t n_shard, fg_err *err)
{
    fg_buf b = {0};
    fg_status st = print_provenance(&b, type, shard_name, n_shard, NULL, NULL, err);
    if (st == FG_OK) st = fg_metadata_add(m, "provenance", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

/* --- those of a conversion --- */

static const char *run_label(const fg_convert_opts *o)
{
    return o->sensitivity_path != NULL ? "budget" : fg_recipe_label(o->type, o->recipe_path);
}

fg_status fg_run_copy_files(run *r, fg_err *err)
{
    const fg_catalog *c = &r->in.catalog;
    FG_TRY(fg_metadata_add_folder(&r->out.meta, r->opts->src_dir, true, c->shape.n_vocab, err));
    return fg_metadata_add_provenance(&r->out.meta, run_label(r->opts), c->ckpt.shard_name,
                                      c->ckpt.n_shard, err);
}

/* Numbers have a fixed width, because the entry's length is planned before they are known. */
static fg_status print_calibration(const run *r, fg_calib_report c, fg_buf *b, fg_err *err)
{
    const char *path = r->opts->calib_path, *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    fg_buf_put_str(b, "{\"text\": ");
    fg_json_put_str(b, name, strlen(name));
    fg_buf_printf(b,
                  ", \"xxh3\": \"%016llx\", \"tokens\": %10llu, \"window\": %d, \"moments\": "
                  "\"%s\", \"experts\": %10llu, \"experts_topped_up\": %10llu, "
                  "\"least_routed_tokens\": %10llu, \"least_tokens\": %10llu}\n",
                  (unsigned long long)r->in.calib_hash, (unsigned long long)c.n_token,
                  FG_CALIB_WINDOW, r->opts->calib_diagonal ? "diagonal" : "full",
                  (unsigned long long)c.n_expert, (unsigned long long)c.n_topped,
                  (unsigned long long)c.min_routed, (unsigned long long)c.min_used);
    return b->failed ? fg_fail_nomem(err, "calibration") : FG_OK;
}

static fg_status add_calibration(run *r, fg_err *err)
{
    fg_buf b = {0};
    fg_status st = print_calibration(r, (fg_calib_report){0}, &b, err);
    if (st == FG_OK) st = fg_metadata_add(&r->out.meta, "calibration", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

fg_status fg_run_set_calibration(run *r, fg_err *err)
{
    fg_buf b = {0};
    if (r->work.calib == NULL) return FG_OK;
    fg_status st = print_calibration(r, fg_calib_get_report(r->work.calib), &b, err);
    if (st == FG_OK) st = fg_writer_set_meta(r->out.writer, "calibration", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

fg_status fg_run_add_metadata(run *r, fg_err *err)
{
    const fg_buf *text = &r->in.recipe.text;
    if (r->opts->calib_path != NULL) FG_TRY(add_calibration(r, err));
    return fg_metadata_add(&r->out.meta, "recipe", text->data, text->len, err);
}

/* A piece's place, for sorting into file order. */
typedef struct placed {
    uint64_t offset, weight;
    uint32_t shard;
} placed;

static int by_place(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* File hashes as convert.h defines them. */
static void hash_files(const run *r, placed *place, fg_hasher *h, uint64_t *hash)
{
    const fg_catalog *p = &r->in.catalog;
    for (uint64_t i = 0; i < p->n_weight; i++) {
        place[i] = (placed){p->piece[i].offset, i, p->piece[i].shard};
    }
    qsort(place, (size_t)p->n_weight, sizeof *place, by_place);
    uint64_t i = 0;
    for (uint32_t s = 0; s < p->ckpt.n_shard; s++) {
        fg_hasher_reset(h);
        fg_hasher_add(h, p->ckpt.shard[s].header, (size_t)p->ckpt.shard[s].header_bytes);
        for (; i < p->n_weight && place[i].shard == s; i++) {
            uint8_t bytes[8];
            const uint64_t v = r->progress.hash[place[i].weight];
            for (int k = 0; k < 8; k++) bytes[k] = (uint8_t)(v >> (8 * k));
            fg_hasher_add(h, bytes, sizeof bytes);
        }
        hash[s] = fg_hasher_digest(h);
    }
}

fg_status fg_run_set_provenance(run *r, fg_err *err)
{
    const fg_catalog *c = &r->in.catalog;
    fg_buf b = {0};
    fg_hasher *h = fg_hasher_create();
    placed *place = fg_mem_zalloc_array((size_t)c->n_weight, sizeof *place);
    uint64_t *hash = fg_mem_zalloc_array(c->ckpt.n_shard, sizeof *hash);
    const bool ok = h != NULL && place != NULL && hash != NULL;
    fg_status st = ok ? FG_OK : fg_fail_nomem(err, "provenance");
    if (ok) hash_files(r, place, h, hash);
    if (st == FG_OK) {
        st = print_provenance(&b, run_label(r->opts), c->ckpt.shard_name, c->ckpt.n_shard,
                              c->ckpt.shard, hash, err);
    }
    if (st == FG_OK) st = fg_writer_set_meta(r->out.writer, "provenance", b.data, b.len, err);
    fg_buf_fini(&b);
    fg_hasher_destroy(h);
    fg_mem_free(place);
    fg_mem_free(hash);
    return st;
}
