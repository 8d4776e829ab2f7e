/* SPDX-License-Identifier: MIT
 *
 * The list of metadata is that of convert.c; a test compares the two through the size of a file.
 */
#include "convert/outline.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "convert/convert.h"
#include "convert/source/hf_config.h"
#include "convert/source/hf_index.h"
#include "convert/choose/recipe.h"
#include "src/base/buf.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"

#define MAX_META_BYTES ((uint64_t)1 << 28)

static const char *const meta_files[] = {"tokenizer.json", "tokenizer_config.json",
                                         "generation_config.json", "chat_template.jinja"};

void fg_outline_fini(fg_outline *o)
{
    fg_writer_destroy(&o->writer);
    *o = (fg_outline){0};
}

static fg_status add_file(fg_writer *w, const char *dir, const char *name, fg_err *err)
{
    char *path = fg_io_join(dir, name), *text = NULL;
    size_t n = 0;
    fg_status st = FG_OK;
    if (path == NULL) return fg_fail_nomem(err, name);
    if (fg_io_exists(path)) {
        st = fg_io_read_all(path, MAX_META_BYTES, &text, &n, err);
        if (st == FG_OK) st = fg_writer_add_meta(w, name, text, n, err);
    }
    fg_mem_free(text);
    fg_mem_free(path);
    return st;
}

/* One shard's entry.  A shard that is not there is taken for one of gigabytes. */
static void put_shard(fg_buf *b, bool first, const char *dir, const char *name, bool *exact)
{
    struct stat sb;
    unsigned long long bytes = 1000000000;
    char *path = fg_io_join(dir, name);
    if (path != NULL && stat(path, &sb) == 0) {
        bytes = (unsigned long long)sb.st_size;
    } else {
        *exact = false;
    }
    fg_mem_free(path);
    fg_buf_put_str(b, first ? "{\"name\": " : ", {\"name\": ");
    fg_json_put_str(b, name, strlen(name));
    fg_buf_printf(b, ", \"bytes\": %llu, \"xxh3\": \"%016llx\"}", bytes, 0ull);
}

static fg_status put_shards(fg_buf *b, const char *dir, bool *exact, fg_err *err)
{
    char *index = fg_io_join(dir, "model.safetensors.index.json");
    if (index == NULL) return fg_fail_nomem(err, dir);
    const bool sharded = fg_io_exists(index);
    fg_mem_free(index);
    if (!sharded) {
        put_shard(b, true, dir, "model.safetensors", exact);
        return FG_OK;
    }
    fg_hf_index x = {0};
    FG_TRY(fg_hf_index_read(&x, dir, err));
    for (size_t s = 0; s < x.n_shard; s++) put_shard(b, s == 0, dir, x.shard_name[s], exact);
    fg_hf_index_fini(&x);
    return FG_OK;
}

/* dir NULL: a configuration alone. */
static fg_status add_metadata(fg_outline *o, const char *dir, const fg_recipe *recipe, fg_err *err)
{
    fg_buf b = {0};
    fg_status st = FG_OK;
    for (size_t i = 0; dir != NULL && i < sizeof meta_files / sizeof meta_files[0]; i++) {
        FG_TRY(add_file(o->writer, dir, meta_files[i], err));
    }
    FG_TRY(fg_writer_add_meta(o->writer, "recipe", recipe->text.data, recipe->text.len, err));
    fg_buf_printf(&b, "{\"converter\": \"fulgur\", \"version\": %d, \"type\": \"%s\", \"files\": [",
                  FG_CONVERT_VERSION, o->type);
    if (dir != NULL) st = put_shards(&b, dir, &o->exact, err);
    fg_buf_put_str(&b, "]}\n");
    if (st == FG_OK && b.failed) st = fg_fail_nomem(err, "provenance");
    if (st == FG_OK) st = fg_writer_add_meta(o->writer, "provenance", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

/* The writer, from the text of a configuration. */
static fg_status plan(fg_outline *o, const char *path, const char *dir, fg_recipe *recipe,
                      const char *recipe_path, fg_err *err)
{
    char *text;
    size_t n;
    FG_TRY(fg_io_read_all(path, MAX_META_BYTES, &text, &n, err));
    fg_status st = fg_hf_config_parse(&o->shape, text, n, path, err);
    if (st == FG_OK) st = fg_recipe_check(recipe, &o->shape, recipe_path, err);
    if (st == FG_OK) st = fg_writer_create(&o->writer, path, &o->shape, err);
    if (st == FG_OK) st = fg_writer_add_meta(o->writer, "config.json", text, n, err);
    fg_mem_free(text);
    if (st == FG_OK) st = add_metadata(o, dir, recipe, err);
    if (st == FG_OK) st = fg_writer_plan(o->writer, fg_recipe_choose, recipe, err);
    return st;
}

fg_status fg_outline_make(fg_outline *o, const char *source, const char *type, const char *recipe,
                          fg_err *err)
{
    *o = (fg_outline){0};
    fg_recipe r;
    FG_TRY(fg_recipe_load(&r, type, recipe, err));
    const bool folder = fg_io_is_dir(source);
    const char *name = type != NULL ? type : fg_recipe_is_name(recipe) ? recipe : "q4";
    (void)snprintf(o->type, sizeof o->type, "%s", name);
    o->exact = folder;
    char *path =
        folder ? fg_io_join(source, "config.json") : fg_mem_strndup(source, strlen(source));
    fg_status st = path == NULL ? fg_fail_nomem(err, source)
                                : plan(o, path, folder ? source : NULL, &r, recipe, err);
    fg_mem_free(path);
    fg_recipe_fini(&r);
    if (st != FG_OK) fg_outline_fini(o);
    return st;
}
