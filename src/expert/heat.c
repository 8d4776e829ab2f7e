/* SPDX-License-Identifier: MIT
 *
 * The entry is {"version": 1, "data_root": "0x...", "text": NAME, "tokens": N, "fulgur": VERSION,
 * "use": [[...], ...]}, a row for each layer; the hash is text, as a JSON number is exact to 53
 * bits.
 */
#include "src/expert/heat.h"

#include <stdio.h>
#include <string.h>

#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/utf8.h"

/* From 2^53 on a JSON number may be another than was written. */
#define MAX_USE (((uint64_t)1 << 53) - 1)

typedef struct hash_text {
    char text[24];
} hash_text;

static hash_text hash_of(uint64_t v)
{
    hash_text h;
    (void)snprintf(h.text, sizeof h.text, "0x%016llx", (unsigned long long)v);
    return h;
}

static bool get_row(const fg_json *row, uint32_t n, uint64_t *use)
{
    uint32_t i = 0;
    if (!fg_json_is_array(row)) return false;
    for (const fg_json *c = fg_json_first(row); c != NULL; c = fg_json_next(c), i++) {
        if (i == n || !fg_json_u64(c, &use[i]) || use[i] > MAX_USE) return false;
    }
    return i == n;
}

static bool get_rows(const fg_json *list, const fg_shape *s, uint64_t *use)
{
    uint32_t l = 0;
    if (!fg_json_is_array(list)) return false;
    for (const fg_json *c = fg_json_first(list); c != NULL; c = fg_json_next(c), l++) {
        if (l == s->n_layer || !get_row(c, s->n_expert, use + (uint64_t)l * s->n_expert)) {
            return false;
        }
    }
    return l == s->n_layer;
}

/* NULL, or the name of the member that is missing or wrong. */
static const char *parse(const fg_json *root, const fg_model_file *f, fg_heat *h)
{
    uint64_t version;
    const char *text;
    const hash_text want = hash_of(h->data_root);
    if (!fg_json_u64(fg_json_get(root, "version"), &version) || version != 1) return "version";
    if (!fg_json_str(fg_json_get(root, "data_root"), &text) || strcmp(text, want.text) != 0) {
        return "data_root";
    }
    if (!fg_json_str(fg_json_get(root, "text"), &text)) return "text";
    fg_utf8_file_name(text, h->text, sizeof h->text);
    if (!fg_json_u64(fg_json_get(root, "tokens"), &h->n_tok)) return "tokens";
    return get_rows(fg_json_get(root, "use"), fg_model_file_shape(f), h->use) ? NULL : "use";
}

fg_status fg_heat_load(const fg_model_file *f, fg_heat *h, fg_err *err)
{
    const fg_shape *s = fg_model_file_shape(f);
    const char *bytes, *path = fg_model_file_path(f);
    size_t len;
    fg_json *root = NULL;
    *h = (fg_heat){.data_root = fg_model_file_data_root(f)};
    FG_TRY(fg_model_file_meta(f, FG_HEAT_KEY, &bytes, &len, err));
    if (bytes == NULL) return FG_OK;
    h->use = fg_mem_zalloc_array((size_t)s->n_layer * s->n_expert, sizeof *h->use);
    fg_status st = h->use == NULL ? fg_fail_nomem(err, path)
                                  : fg_json_parse(&root, bytes, len, "metadata heat", err);
    const char *wrong = st == FG_OK ? parse(root, f, h) : NULL;
    if (wrong != NULL) {
        st = fg_fail(err, FG_EFORMAT,
                     "%s: heat map with a bad %s, expected one of this model; make it anew with "
                     "fulgur trace --heat",
                     path, wrong);
    }
    fg_json_free(root);
    if (st == FG_OK) return FG_OK;
    fg_mem_free(h->use);
    h->use = NULL;
    return st;
}

static fg_status check_use(const char *path, const fg_heat *h, const fg_shape *s, fg_err *err)
{
    for (uint64_t i = 0; i < (uint64_t)s->n_layer * s->n_expert; i++) {
        if (h->use[i] <= MAX_USE) continue;
        return fg_fail(err, FG_EINVAL,
                       "%s: expert %llu of layer %llu used %llu times, expected "
                       "less than 2^53",
                       path, (unsigned long long)(i % s->n_expert),
                       (unsigned long long)(i / s->n_expert), (unsigned long long)h->use[i]);
    }
    return FG_OK;
}

static void put(fg_buf *b, const fg_heat *h, const fg_shape *s)
{
    fg_buf_printf(b,
                  "{\"version\": 1, \"data_root\": \"%s\", \"text\": ", hash_of(h->data_root).text);
    fg_json_put_str(b, h->text, strlen(h->text));
    fg_buf_printf(b, ", \"tokens\": %llu, \"fulgur\": \"%s\", \"use\": [",
                  (unsigned long long)h->n_tok, FG_VERSION);
    for (uint32_t l = 0; l < s->n_layer; l++) {
        fg_buf_put_str(b, l == 0 ? "\n[" : ",\n[");
        for (uint32_t e = 0; e < s->n_expert; e++) {
            fg_buf_printf(b, "%s%llu", e == 0 ? "" : ",",
                          (unsigned long long)h->use[(uint64_t)l * s->n_expert + e]);
        }
        fg_buf_put_str(b, "]");
    }
    fg_buf_put_str(b, "\n]}\n");
}

fg_status fg_heat_encode(fg_buf *b, const fg_heat *h, const fg_model_file *f, fg_err *err)
{
    const char *path = fg_model_file_path(f);
    FG_TRY(check_use(path, h, fg_model_file_shape(f), err));
    put(b, h, fg_model_file_shape(f));
    return b->failed ? fg_fail_nomem(err, path) : FG_OK;
}
