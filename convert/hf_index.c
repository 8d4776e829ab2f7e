/* SPDX-License-Identifier: MIT
 *
 * Names are sorted once and searched by bisection: forged input then costs n log n, not n^2, and no
 * hash table is needed for the 8,243 names of the release.
 */
#include "convert/hf_index.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"

#define INDEX_NAME  "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"

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
    char *path = fg_io_join(dir, INDEX_NAME);
    if (path == NULL) return fg_fail_nomem(err, dir);
    fg_status st = fg_json_parse_file(&root, path, MAX_INDEX_BYTES, err);
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
    for (size_t i = 0; i < c->n_shard; i++) {
        if (c->shard_name != NULL) fg_mem_free(c->shard_name[i]);
        if (c->shard != NULL) fg_st_fini(&c->shard[i]);
    }
    fg_mem_free(c->shard_name);
    fg_mem_free(c->shard);
    *c = (fg_hf_checkpoint){0};
}

/* Both directions: every tensor of the shards is listed there, and every entry was found. */
static fg_status check_against_index(const fg_hf_checkpoint *c, const fg_hf_index *x,
                                     const char *dir, fg_err *err)
{
    bool *found = fg_mem_zalloc_array(x->n_entry, sizeof *found);
    if (found == NULL) return fg_fail_nomem(err, dir);
    fg_status st = FG_OK;
    for (size_t s = 0; s < c->n_shard && st == FG_OK; s++) {
        for (size_t i = 0; i < c->shard[s].n_tensor && st == FG_OK; i++) {
            const fg_hf_entry key = {c->shard[s].tensor[i].name, 0};
            const fg_hf_entry *e =
                bsearch(&key, x->entry, x->n_entry, sizeof *x->entry, by_entry_name);
            if (e == NULL) {
                st = fg_fail(err, FG_EFORMAT, "%s: tensor %.128s is not in %s, expected it there",
                             c->shard[s].path, key.name, INDEX_NAME);
            } else if (e->shard != s) {
                st = fg_fail(err, FG_EFORMAT,
                             "%s: tensor %.128s, expected it in %s only, as the index says",
                             c->shard[s].path, key.name, c->shard_name[e->shard]);
            } else if (found[e - x->entry]) {
                st = fg_fail(err, FG_EFORMAT, "%s: tensor %.128s twice, expected once",
                             c->shard[s].path, key.name);
            } else {
                found[e - x->entry] = true;
            }
        }
    }
    for (size_t i = 0; i < x->n_entry && st == FG_OK; i++) {
        if (found[i]) continue;
        st = fg_fail(err, FG_EFORMAT, "%s: no tensor %.128s, expected it there as the index says",
                     c->shard[x->entry[i].shard].path, x->entry[i].name);
    }
    fg_mem_free(found);
    return st;
}

/* For a folder without index: names must be unique inside the one file. */
static fg_status check_unique(const fg_st_shard *s, fg_err *err)
{
    const char **name = fg_mem_zalloc_array(s->n_tensor, sizeof *name);
    if (name == NULL) return fg_fail_nomem(err, s->path);
    for (size_t i = 0; i < s->n_tensor; i++) name[i] = s->tensor[i].name;
    if (s->n_tensor > 0) qsort(name, s->n_tensor, sizeof *name, by_string);
    fg_status st = FG_OK;
    for (size_t i = 1; i < s->n_tensor && st == FG_OK; i++) {
        if (strcmp(name[i], name[i - 1]) == 0) {
            st = fg_fail(err, FG_EFORMAT, "%s: tensor %.128s twice, expected once", s->path,
                         name[i]);
        }
    }
    fg_mem_free(name);
    return st;
}

static fg_status open_shards(fg_hf_checkpoint *c, const char *dir, fg_err *err)
{
    c->shard = fg_mem_zalloc_array(c->n_shard, sizeof *c->shard);
    if (c->shard == NULL) return fg_fail_nomem(err, dir);
    for (size_t s = 0; s < c->n_shard; s++) {
        char *path = fg_io_join(dir, c->shard_name[s]);
        if (path == NULL) return fg_fail_nomem(err, dir);
        const fg_status st = fg_st_open(&c->shard[s], path, err);
        fg_mem_free(path);
        if (st != FG_OK) return st;
        c->n_tensor += c->shard[s].n_tensor;
    }
    return FG_OK;
}

static fg_status open_single(fg_hf_checkpoint *c, const char *dir, fg_err *err)
{
    c->shard_name = fg_mem_zalloc_array(1, sizeof *c->shard_name);
    if (c->shard_name == NULL) return fg_fail_nomem(err, dir);
    c->n_shard = 1;
    c->shard_name[0] = fg_mem_strndup(SINGLE_NAME, strlen(SINGLE_NAME));
    if (c->shard_name[0] == NULL) return fg_fail_nomem(err, dir);
    FG_TRY(open_shards(c, dir, err));
    return check_unique(&c->shard[0], err);
}

static fg_status open_indexed(fg_hf_checkpoint *c, const char *dir, fg_err *err)
{
    fg_hf_index x;
    FG_TRY(fg_hf_index_read(&x, dir, err));
    c->n_shard = x.n_shard;
    c->shard_name = x.shard_name; /* moves over; x keeps the entries */
    x.shard_name = NULL;
    x.n_shard = 0;
    fg_status st = open_shards(c, dir, err);
    if (st == FG_OK) st = check_against_index(c, &x, dir, err);
    fg_hf_index_fini(&x);
    return st;
}

fg_status fg_hf_open(fg_hf_checkpoint *c, const char *dir, fg_err *err)
{
    *c = (fg_hf_checkpoint){0};
    if (!fg_io_is_dir(dir)) {
        return fg_fail(err, FG_EIO, "%s: not a folder, expected a checkpoint folder", dir);
    }
    char *index = fg_io_join(dir, INDEX_NAME), *single = fg_io_join(dir, SINGLE_NAME);
    fg_status st;
    if (index == NULL || single == NULL) {
        st = fg_fail_nomem(err, dir);
    } else if (fg_io_exists(index)) {
        st = open_indexed(c, dir, err);
    } else if (fg_io_exists(single)) {
        st = open_single(c, dir, err);
    } else {
        st =
            fg_fail(err, FG_EIO, "%s: no weights, expected %s or %s", dir, INDEX_NAME, SINGLE_NAME);
    }
    fg_mem_free(index);
    fg_mem_free(single);
    if (st != FG_OK) fg_hf_fini(c);
    return st;
}
