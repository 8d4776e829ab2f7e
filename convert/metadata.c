/* SPDX-License-Identifier: MIT
 *
 * The metadata of a converted file: copies of the checkpoint's small files, recipe, provenance, and what it
 * was calibrated with (convert.h).  Lengths are planned before the data is read, so that what is known
 * only at the end is printed with fixed widths.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "convert/convert_impl.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/text/tokenizer.h"

#define MAX_META_BYTES ((uint64_t)1 << 28)

/* Copied verbatim when present. */
static const char *const meta_files[] = {"tokenizer.json", "tokenizer_config.json",
                                         "generation_config.json", "chat_template.jinja"};
#define N_OF(a) (sizeof(a) / sizeof(a)[0])

typedef fg_run run;

/* A broken tokenizer is refused now, not after hours of work. */
static fg_status add_meta_file(run *r, const char *name, fg_err *err)
{
    char *path = fg_io_join(r->opts->src_dir, name), *text = NULL;
    size_t n = 0;
    fg_status st = FG_OK;
    if (path == NULL) return fg_fail_nomem(err, name);
    if (!fg_io_exists(path)) goto done;
    st = fg_io_read_all(path, MAX_META_BYTES, &text, &n, err);
    const char *dot = strrchr(name, '.');
    if (st == FG_OK && strcmp(dot, ".json") == 0) {
        fg_json *root;
        st = fg_json_parse(&root, text, n, path, err);
        if (st == FG_OK && !fg_json_is_object(root)) {
            st = fg_fail(err, FG_EFORMAT, "%s: not a JSON object, expected one", path);
        }
        fg_json_free(root);
    }
    if (st == FG_OK && strcmp(name, "tokenizer.json") == 0) {
        fg_tokenizer *t;
        st = fg_tokenizer_create(&t, text, n, path, err);
        if (st == FG_OK && fg_tokenizer_n_id(t) > r->plan.shape.n_vocab) {
            st = fg_fail(err, FG_ESHAPE, "%s: ids up to %u, expected less than vocab_size %u", path,
                         fg_tokenizer_n_id(t) - 1, r->plan.shape.n_vocab);
        }
        fg_tokenizer_destroy(&t);
    }
    if (st == FG_OK) st = fg_writer_add_meta(r->writer, name, text, n, err);
done:
    fg_mem_free(text);
    fg_mem_free(path);
    return st;
}

static const char *recipe_name(const fg_convert_opts *o)
{
    if (o->sensitivity_path != NULL) return "budget";
    if (o->type != NULL) return o->type;
    return fg_recipe_is_name(o->recipe_path) ? o->recipe_path : "q4";
}

/* hash: one a shard, NULL for a text of the same length without them, nor sizes, which may not be known
 * yet when the length is planned. */
static fg_status print_provenance(const run *r, const uint64_t *hash, fg_buf *b, fg_err *err)
{
    const fg_hf_checkpoint *c = &r->plan.ckpt;
    const char *type = recipe_name(r->opts);
    fg_buf_printf(b, "{\"converter\": \"fulgur\", \"version\": %d, \"type\": \"%s\", \"files\": [",
                  FG_CONVERT_VERSION, type);
    for (size_t s = 0; s < c->n_shard; s++) {
        fg_buf_put_str(b, s == 0 ? "{\"name\": " : ", {\"name\": ");
        fg_json_put_str(b, c->shard_name[s], strlen(c->shard_name[s]));
        fg_buf_printf(b, ", \"bytes\": %19llu, \"xxh3\": \"%016llx\"}",
                      (unsigned long long)(hash == NULL ? 0 : c->shard[s].file_bytes),
                      (unsigned long long)(hash == NULL ? 0 : hash[s]));
    }
    fg_buf_put_str(b, "]}\n");
    return b->failed ? fg_fail_nomem(err, "provenance") : FG_OK;
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
                  (unsigned long long)r->calib_hash, (unsigned long long)c.n_token, FG_CALIB_WINDOW,
                  r->opts->calib_diagonal ? "diagonal" : "full", (unsigned long long)c.n_expert,
                  (unsigned long long)c.n_topped, (unsigned long long)c.min_routed,
                  (unsigned long long)c.min_used);
    return b->failed ? fg_fail_nomem(err, "calibration") : FG_OK;
}

static fg_status add_calibration(run *r, fg_err *err)
{
    fg_buf b = {0};
    fg_status st = print_calibration(r, (fg_calib_report){0}, &b, err);
    if (st == FG_OK) st = fg_writer_add_meta(r->writer, "calibration", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

fg_status fg_run_set_calibration(run *r, fg_err *err)
{
    fg_buf b = {0};
    if (r->calib == NULL) return FG_OK;
    fg_status st = print_calibration(r, fg_calib_get_report(r->calib), &b, err);
    if (st == FG_OK) st = fg_writer_set_meta(r->writer, "calibration", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

fg_status fg_run_add_metadata(run *r, fg_err *err)
{
    if (r->opts->calib_path != NULL) FG_TRY(add_calibration(r, err));
    FG_TRY(fg_writer_add_meta(r->writer, "config.json", r->plan.config, r->plan.config_bytes, err));
    for (size_t i = 0; i < N_OF(meta_files); i++) FG_TRY(add_meta_file(r, meta_files[i], err));
    FG_TRY(fg_writer_add_meta(r->writer, "recipe", r->recipe.text.data, r->recipe.text.len, err));
    fg_buf b = {0};
    fg_status st = print_provenance(r, NULL, &b, err);
    if (st == FG_OK) st = fg_writer_add_meta(r->writer, "provenance", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
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
    const fg_catalog *p = &r->plan;
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
            const uint64_t v = r->hash[place[i].weight];
            for (int k = 0; k < 8; k++) bytes[k] = (uint8_t)(v >> (8 * k));
            fg_hasher_add(h, bytes, sizeof bytes);
        }
        hash[s] = fg_hasher_digest(h);
    }
}

fg_status fg_run_set_provenance(run *r, fg_err *err)
{
    fg_buf b = {0};
    fg_hasher *h = fg_hasher_create();
    placed *place = fg_mem_zalloc_array((size_t)r->plan.n_weight, sizeof *place);
    uint64_t *hash = fg_mem_zalloc_array(r->plan.ckpt.n_shard, sizeof *hash);
    const bool ok = h != NULL && place != NULL && hash != NULL;
    fg_status st = ok ? FG_OK : fg_fail_nomem(err, "provenance");
    if (ok) hash_files(r, place, h, hash);
    if (st == FG_OK) st = print_provenance(r, hash, &b, err);
    if (st == FG_OK) st = fg_writer_set_meta(r->writer, "provenance", b.data, b.len, err);
    fg_buf_fini(&b);
    fg_hasher_destroy(h);
    fg_mem_free(place);
    fg_mem_free(hash);
    return st;
}

fg_status fg_run_meta_bytes(const run *r, uint64_t *bytes, fg_err *err)
{
    fg_buf b = {0};
    for (size_t i = 0; i < N_OF(meta_files); i++) {
        struct stat sb;
        char *path = fg_io_join(r->opts->src_dir, meta_files[i]);
        if (path == NULL) return fg_fail_nomem(err, meta_files[i]);
        if (stat(path, &sb) == 0) *bytes += (uint64_t)sb.st_size;
        fg_mem_free(path);
    }
    const fg_status st = print_provenance(r, NULL, &b, err);
    *bytes += b.len;
    fg_buf_fini(&b);
    return st;
}
