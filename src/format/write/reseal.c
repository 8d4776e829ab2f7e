/* SPDX-License-Identifier: MIT */
#include "src/format/write/reseal.h"

#include "src/base/crypto.h"
#include "src/base/mem.h"
#include "src/format/seal_text.h"
#include "src/format/write/append.h"

static uint64_t generation(const fg_model_file *f)
{
    return fg_model_file_plan(f)->slot.generation;
}

fg_status fg_reseal(const fg_model_file *f, const fg_seal_pass *pass, fg_err *err)
{
    fg_buf text = {0};
    fg_append *a = NULL;
    const char *path = fg_model_file_path(f);
    fg_status st = fg_seal_make(&text, f, generation(f) + 1, pass, err);
    if (st == FG_OK) st = fg_append_open(&a, path, err);
    if (st == FG_OK && (generation(fg_append_file(a)) != generation(f) ||
                        fg_model_file_data_root(fg_append_file(a)) != fg_model_file_data_root(f))) {
        st = fg_fail(err, FG_EIO, "%s: changed while it was read, expected it to stay; try again",
                     path);
    }
    if (st == FG_OK) st = fg_append_meta(a, FG_SEAL_KEY, text.data, text.len, err);
    fg_append_close(&a);
    fg_buf_fini(&text);
    return st;
}

static fg_status hash_all(const fg_model_file *f, uint8_t *meta, fg_err *err)
{
    for (uint64_t i = 0; i < fg_model_file_n_meta(f); i++) {
        const char *key, *bytes;
        uint64_t size;
        size_t n;
        fg_model_file_meta_at(f, i, &key, &size);
        FG_TRY(fg_model_file_meta(f, key, &bytes, &n, err));
        if (!fg_sha256(bytes, n, meta + i * FG_SHA256_BYTES)) return fg_fail_nomem(err, key);
    }
    return FG_OK;
}

static fg_status renew(fg_append *a, const char *old, size_t n, fg_err *err)
{
    const fg_model_file *f = fg_append_file(a);
    const fg_file_plan *p = fg_model_file_plan(f);
    fg_buf text = {0};
    uint8_t *meta = fg_mem_zalloc_array(p->dir.n_meta + 1, FG_SHA256_BYTES);
    uint8_t *chunk = fg_mem_zalloc_array((size_t)p->slot.n_chunk, FG_SHA256_BYTES);
    fg_status st = meta == NULL || chunk == NULL ? fg_fail_nomem(err, fg_model_file_path(f))
                                                 : hash_all(f, meta, err);
    if (st == FG_OK && !fg_seal_text_chunks(old, n, p->slot.n_chunk, chunk)) {
        st = fg_fail(err, FG_EFORMAT, "%s: metadata %s is no text of SHA-256 hashes, expected one",
                     fg_model_file_path(f), FG_SEAL_KEY);
    }
    if (st == FG_OK &&
        !fg_seal_text_print(&text, &p->dir, &p->slot, generation(f) + 1, meta, chunk)) {
        st = fg_fail_nomem(err, fg_model_file_path(f));
    }
    if (st == FG_OK) st = fg_append_meta(a, FG_SEAL_KEY, text.data, text.len, err);
    fg_buf_fini(&text);
    fg_mem_free(meta);
    fg_mem_free(chunk);
    return st;
}

fg_status fg_reseal_metadata(const char *path, fg_err *err)
{
    fg_append *a;
    const char *old;
    size_t n;
    FG_TRY(fg_append_open(&a, path, err));
    fg_status st = fg_model_file_meta(fg_append_file(a), FG_SEAL_KEY, &old, &n, err);
    if (st == FG_OK && old != NULL) st = renew(a, old, n, err);
    fg_append_close(&a);
    return st;
}
