/* SPDX-License-Identifier: MIT
 *
 * Names are sorted once and searched by bisection: forged input then costs n log n, not n^2, and no
 * hash table is needed for the 8,243 names of the release.
 */
#include "convert/source/hf_index.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/mistaken.h"

enum {
    MAX_NAME = 255, /* of a file in one folder */
};
/* The release's index is 0.8 MB; the cap bounds what a forged one makes us read. */
#define MAX_INDEX_BYTES ((uint64_t)1 << 28)

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int by_entry_name(const void *a, const void *b)
{
    return strcmp(((const fg_hf_entry *)a)->name, ((const fg_hf_entry *)b)->name);
}

void fg_hf_index_fini(fg_hf_index *x)
{
    for (size_t i = 0; i < x->n_entry; i++) fg_mem_free(x->entry[i].name);
    for (size_t i = 0; i < x->n_shard; i++) fg_mem_free(x->shard_name[i]);
    fg_mem_free(x->entry);
    fg_mem_free(x->shard_name);
    *x = (fg_hf_index){0};
}

/* A plain file name: nothing that could leave the folder or hide. */
static bool is_plain_name(const char *s)
{
    const size_t n = strlen(s);
    return n > 0 && n <= MAX_NAME && s[0] != '.' && strchr(s, '/') == NULL &&
           strchr(s, '\\') == NULL;
}

/* Copies the distinct file names of the map into x->shard_name, sorted. */
static fg_status collect_shards(fg_hf_index *x, const fg_json *map, const char *path, fg_err *err)
{
    const size_t n = fg_json_size(map);
    const char **all = fg_mem_zalloc_array(n, sizeof *all);
    if (all == NULL) return fg_fail_nomem(err, path);
    fg_status st = FG_OK;
    size_t k = 0;
    for (const fg_json *c = fg_json_first(map); c != NULL; c = fg_json_next(c)) {
        if (!fg_json_str(c, &all[k])) {
            st = fg_fail(err, FG_EFORMAT, "%s: tensor %.128s: not a string, expected a file name",
                         path, fg_json_name(c));
            goto done;
        }
        if (!is_plain_name(all[k])) {
            st = fg_fail(err, FG_EFORMAT,
                         "%s: tensor %.128s in file \"%.128s\", expected a file name inside the "
                         "folder",
                         path, fg_json_name(c), all[k]);
            goto done;
        }
        k++;
    }
    if (n > 0) qsort(all, n, sizeof *all, by_string);
    x->shard_name = fg_mem_zalloc_array(n, sizeof *x->shard_name);
    if (x->shard_name == NULL) {
        st = fg_fail_nomem(err, path);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(all[i], all[i - 1]) == 0) continue;
        char *name = fg_mem_strndup(all[i], strlen(all[i]));
        if (name == NULL) {
            st = fg_fail_nomem(err, path);
            goto done;
        }
        x->shard_name[x->n_shard++] = name;
    }
done:
    fg_mem_free(all);
    return st;
}

static fg_status collect_entries(fg_hf_index *x, const fg_json *map, const char *path, fg_err *err)
{
    x->entry = fg_mem_zalloc_array(fg_json_size(map), sizeof *x->entry);
    if (x->entry == NULL) return fg_fail_nomem(err, path);
    for (const fg_json *c = fg_json_first(map); c != NULL; c = fg_json_next(c)) {
        const char *file = NULL, *name = fg_json_name(c);
        (void)fg_json_str(c, &file); /* a string: collect_shards has looked */
        char *const *at =
            bsearch(&file, x->shard_name, x->n_shard, sizeof *x->shard_name, by_string);
        fg_hf_entry *e = &x->entry[x->n_entry];
        e->shard = (uint32_t)(at - x->shard_name);
        e->name = fg_mem_strndup(name, strlen(name));
        if (e->name == NULL) return fg_fail_nomem(err, path);
        x->n_entry++;
    }
    if (x->n_entry > 0) qsort(x->entry, x->n_entry, sizeof *x->entry, by_entry_name);
    for (size_t i = 1; i < x->n_entry; i++) {
        if (strcmp(x->entry[i].name, x->entry[i - 1].name) != 0) continue;
        return fg_fail(err, FG_EFORMAT, "%s: tensor %.128s listed twice, expected once", path,
                       x->entry[i].name);
    }
    return FG_OK;
}

fg_status fg_hf_index_read(fg_hf_index *x, const char *dir, fg_err *err)
{
    *x = (fg_hf_index){0};
    fg_json *root = NULL;
    char *path = fg_io_join(dir, FG_HF_INDEX_NAME);
    if (path == NULL) return fg_fail_nomem(err, dir);
    fg_status st = fg_json_parse_file(&root, path, MAX_INDEX_BYTES, err);
    if (st == FG_EFORMAT) st = fg_mistaken_explain(st, path, "an index (JSON)", NULL, err);
    if (st != FG_OK) goto done;
    const fg_json *map = fg_json_get(root, "weight_map");
    if (!fg_json_is_object(map) || fg_json_first(map) == NULL) {
        st =
            fg_fail(err, FG_EFORMAT, "%s: no weight_map, expected an object of tensor names", path);
        goto done;
    }
    st = collect_shards(x, map, path, err);
    if (st == FG_OK) st = collect_entries(x, map, path, err);
done:
    if (st != FG_OK) fg_hf_index_fini(x);
    fg_json_free(root);
    fg_mem_free(path);
    return st;
}

void fg_hf_fini(fg_hf_checkpoint *c)
{
    for (size_t i = 0; i < c->n_shard && c->shard != NULL; i++) fg_st_fini(&c->shard[i]);
    fg_mem_free(c->shard);
    fg_hf_index_fini(&c->index);
    *c = (fg_hf_checkpoint){0};
}

bool fg_hf_is_known(const fg_hf_checkpoint *c, size_t s)
{
    return c->shard[s].header != NULL;
}

/* A tensor of the shard: listed there, and not met before; found[n_entry]. */
static fg_status check_tensor(const fg_hf_checkpoint *c, size_t s, const fg_st_shard *shard,
                              const fg_st_tensor *t, bool *found, fg_err *err)
{
    const fg_hf_index *x = &c->index;
    const fg_hf_entry key = {t->name, 0};
    const fg_hf_entry *e = bsearch(&key, x->entry, x->n_entry, sizeof *x->entry, by_entry_name);
    if (e == NULL) {
        return fg_fail(err, FG_EFORMAT, "%s: tensor %.128s is not in %s, expected it there",
                       shard->path, t->name, FG_HF_INDEX_NAME);
    }
    if (e->shard != s) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: tensor %.128s, expected it in %s only, as the index says", shard->path,
                       t->name, c->shard_name[e->shard]);
    }
    if (found[e - x->entry]) {
        return fg_fail(err, FG_EFORMAT, "%s: tensor %.128s twice, expected once", shard->path,
                       t->name);
    }
    found[e - x->entry] = true;
    return FG_OK;
}

/* Both directions: every tensor of the shard is listed for it, and every one listed is there. */
static fg_status check_against_index(const fg_hf_checkpoint *c, size_t s, const fg_st_shard *shard,
                                     fg_err *err)
{
    const fg_hf_index *x = &c->index;
    bool *found = fg_mem_zalloc_array(x->n_entry, sizeof *found);
    if (found == NULL) return fg_fail_nomem(err, shard->path);
    fg_status st = FG_OK;
    for (size_t i = 0; i < shard->n_tensor && st == FG_OK; i++) {
        st = check_tensor(c, s, shard, &shard->tensor[i], found, err);
    }
    for (size_t i = 0; i < x->n_entry && st == FG_OK; i++) {
        if (x->entry[i].shard != s || found[i]) continue;
        st = fg_fail(err, FG_EFORMAT, "%s: no tensor %.128s, expected it there as the index says",
                     shard->path, x->entry[i].name);
    }
    fg_mem_free(found);
    return st;
}

fg_status fg_hf_take(fg_hf_checkpoint *c, size_t s, fg_st_shard *shard, fg_err *err)
{
    const fg_status st = check_against_index(c, s, shard, err);
    if (st == FG_OK) {
        fg_mem_free(c->shard[s].path);
        c->shard[s] = *shard;
        c->n_tensor += shard->n_tensor;
        *shard = (fg_st_shard){0};
    }
    fg_st_fini(shard);
    return st;
}

static fg_status open_shards(fg_hf_checkpoint *c, const char *dir, fg_hf_presence presence,
                             fg_err *err)
{
    c->shard_name = c->index.shard_name;
    c->shard = fg_mem_zalloc_array(c->index.n_shard, sizeof *c->shard);
    if (c->shard == NULL) return fg_fail_nomem(err, dir);
    c->n_shard = c->index.n_shard;
    for (size_t s = 0; s < c->n_shard; s++) {
        fg_st_shard shard;
        char *path = c->shard[s].path = fg_io_join(dir, c->shard_name[s]);
        if (path == NULL) return fg_fail_nomem(err, dir);
        if (presence == FG_HF_LATER || (presence == FG_HF_SOME && !fg_io_exists(path))) continue;
        FG_TRY(fg_st_open(&shard, path, err));
        FG_TRY(fg_hf_take(c, s, &shard, err));
    }
    return FG_OK;
}

/* The index that a single file would have. */
static fg_status index_single(fg_hf_index *x, const char *path, fg_err *err)
{
    fg_st_shard s;
    FG_TRY(fg_st_open(&s, path, err));
    fg_status st = FG_OK;
    x->entry = fg_mem_zalloc_array(s.n_tensor, sizeof *x->entry);
    x->shard_name = fg_mem_zalloc_array(1, sizeof *x->shard_name);
    if (x->shard_name != NULL) {
        x->shard_name[x->n_shard++] = fg_mem_strndup(FG_HF_SINGLE_NAME, strlen(FG_HF_SINGLE_NAME));
    }
    bool ok = x->entry != NULL && x->n_shard == 1 && x->shard_name[0] != NULL;
    for (size_t i = 0; i < s.n_tensor && ok; i++) { /* the names move over */
        x->entry[x->n_entry++].name = s.tensor[i].name;
        s.tensor[i].name = NULL;
    }
    if (!ok) st = fg_fail_nomem(err, path);
    if (x->n_entry > 0) qsort(x->entry, x->n_entry, sizeof *x->entry, by_entry_name);
    for (size_t i = 1; i < x->n_entry && st == FG_OK; i++) {
        if (strcmp(x->entry[i].name, x->entry[i - 1].name) != 0) continue;
        st = fg_fail(err, FG_EFORMAT, "%s: tensor %.128s twice, expected once", path,
                     x->entry[i].name);
    }
    fg_st_fini(&s);
    return st;
}

fg_status fg_hf_open(fg_hf_checkpoint *c, const char *dir, fg_hf_presence presence, fg_err *err)
{
    *c = (fg_hf_checkpoint){0};
    if (!fg_io_is_dir(dir)) {
        return fg_fail(err, FG_EIO, "%s: not a folder, expected a checkpoint folder", dir);
    }
    char *index = fg_io_join(dir, FG_HF_INDEX_NAME), *single = fg_io_join(dir, FG_HF_SINGLE_NAME);
    fg_status st;
    if (index == NULL || single == NULL) {
        st = fg_fail_nomem(err, dir);
    } else if (fg_io_is_named(index)) {
        st = fg_hf_index_read(&c->index, dir, err);
    } else if (fg_io_exists(single)) {
        st = index_single(&c->index, single, err);
    } else {
        st = fg_fail(err, FG_EIO, "%s: no weights, expected %s or %s", dir, FG_HF_INDEX_NAME,
                     FG_HF_SINGLE_NAME);
    }
    if (st == FG_OK) st = open_shards(c, dir, presence, err);
    fg_mem_free(index);
    fg_mem_free(single);
    if (st != FG_OK) fg_hf_fini(c);
    return st;
}
