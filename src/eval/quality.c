/* SPDX-License-Identifier: MIT
 *
 * The entry is {"version": 1, "cards": [...]}.  Hashes are hexadecimal strings, because a JSON
 * number is exact to 53 bits only.  A card that this program cannot read fails the whole list: it
 * would be lost when the list is written again.
 */
#include "src/eval/quality.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/engine/kv.h"
#include "src/format/write/append.h"
#include "src/base/utf8.h"
#include "src/base/units.h"
#include "src/eval/score.h"
#include "src/engine/session.h"

static const char meta_key[] = "quality";

/* ---- what a card says ---- */

fg_card_model fg_card_model_of(const fg_model_file *f)
{
    uint64_t weights = 0, bytes = 0, of_type[FG_QTYPE_END] = {0};
    uint32_t best = FG_TYPE_F32;
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        weights += t->n_row * t->n_col;
        bytes += fg_tensor_bytes(t);
        if (t->type < FG_QTYPE_END) of_type[t->type] += t->n_row * t->n_col;
    }
    for (uint32_t i = 0; i < FG_QTYPE_END; i++) {
        if (of_type[i] > of_type[best]) best = i;
    }
    fg_card_model m = {fg_model_file_data_root(f), fg_bits_per_weight(bytes, weights), ""};
    (void)snprintf(m.type, sizeof m.type, "%s", fg_qtype_get(best)->name);
    return m;
}

const char *fg_card_cache_name(const fg_engine *e, fg_kv_choice choice)
{
    bool quantized = false;
    const fg_model_file *f = fg_engine_file(e);
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        quantized = quantized || fg_qtype_get(fg_model_file_tensor(f, i)->type)->quantized;
    }
    return fg_kv_type_name(fg_kv_resolve(choice, quantized));
}

uint32_t fg_card_numerics(const fg_card *c)
{
    return fg_kv_numerics(strcmp(c->cache, fg_kv_type_name(FG_KV_INT8)) == 0 ? FG_KV_INT8
                                                                             : FG_KV_F32);
}

/* ---- JSON ---- */

/* The figures of a card: name and place, for reading and writing. */
typedef struct figure {
    const char *name;
    size_t at; /* of a double in fg_score */
} figure;

static const figure figures[] = {
    {"nll", offsetof(fg_score, nll)},
    {"nll_stderr", offsetof(fg_score, nll_stderr)},
    {"ppl", offsetof(fg_score, ppl)},
    {"ppl_stderr", offsetof(fg_score, ppl_stderr)},
    {"ref_nll", offsetof(fg_score, ref_nll)},
    {"ref_ppl", offsetof(fg_score, ref_ppl)},
    {"ref_ppl_stderr", offsetof(fg_score, ref_ppl_stderr)},
    {"ppl_ratio", offsetof(fg_score, ppl_ratio)},
    {"ppl_ratio_stderr", offsetof(fg_score, ppl_ratio_stderr)},
    {"kld_mean", offsetof(fg_score, kld_mean)},
    {"kld_stderr", offsetof(fg_score, kld_stderr)},
    {"kld_p99", offsetof(fg_score, kld_p99)},
    {"kld_p99_low", offsetof(fg_score, kld_p99_ci95)},
    {"kld_p99_high", offsetof(fg_score, kld_p99_ci95) + sizeof(double)},
    {"kld_max", offsetof(fg_score, kld_max)},
    {"top1", offsetof(fg_score, top1)},
    {"top1_stderr", offsetof(fg_score, top1_stderr)},
};
enum { N_FIGURE = sizeof figures / sizeof figures[0] };

static void put_text(fg_buf *b, const char *name, const char *text)
{
    fg_buf_printf(b, "\"%s\": ", name);
    fg_json_put_str(b, text, strlen(text));
    fg_buf_put_str(b, ", ");
}

static void put_model(fg_buf *b, const char *name, const fg_card_model *m)
{
    fg_buf_printf(b, "\"%s\": {\"data_root\": \"0x%016llx\", \"type\": ", name,
                  (unsigned long long)m->data_root);
    fg_json_put_str(b, m->type, strlen(m->type));
    fg_buf_printf(b, ", \"bits\": %.4f}, ", m->bits);
}

void fg_card_put_json(fg_buf *b, const fg_card *c, const char *extra)
{
    fg_buf_put_str(b, "{");
    put_text(b, "text", c->text);
    fg_buf_printf(b, "\"text_xxh3\": \"0x%016llx\", \"text_bytes\": %llu, ",
                  (unsigned long long)c->text_hash, (unsigned long long)c->text_bytes);
    fg_buf_printf(b, "\"window\": %u, \"tokens\": %llu, \"special\": %s, ", c->window,
                  (unsigned long long)c->score.n_token, c->special ? "true" : "false");
    put_text(b, "cache", c->cache);
    fg_buf_printf(b, "\"numerics\": %u, ", c->numerics);
    put_text(b, "fulgur", c->version);
    put_model(b, "model", &c->model);
    put_model(b, "reference", &c->reference);
    for (size_t i = 0; i < N_FIGURE; i++) {
        double v;
        memcpy(&v, (const char *)&c->score + figures[i].at, sizeof v);
        fg_buf_printf(b, "%s\"%s\": %.9g", i == 0 ? "" : ", ", figures[i].name, v);
    }
    fg_buf_put_str(b, extra);
    fg_buf_put_str(b, "}");
}

static bool get_text(const fg_json *node, const char *name, char *out, size_t n)
{
    const char *text;
    if (!fg_json_str(fg_json_get(node, name), &text) || strlen(text) >= n) return false;
    fg_utf8_file_name(text, out, n);
    return true;
}

static bool get_hash(const fg_json *node, const char *name, uint64_t *out)
{
    const char *text;
    if (!fg_json_str(fg_json_get(node, name), &text)) return false;
    if (strlen(text) != 18 || strncmp(text, "0x", 2) != 0) return false;
    if (strspn(text + 2, "0123456789abcdef") != 16) return false;
    *out = strtoull(text + 2, NULL, 16);
    return true;
}

static bool get_model(const fg_json *node, fg_card_model *m)
{
    return get_hash(node, "data_root", &m->data_root) &&
           get_text(node, "type", m->type, sizeof m->type) &&
           fg_json_f64(fg_json_get(node, "bits"), &m->bits) && isfinite(m->bits);
}

/* NULL, or the name of the member that is missing or wrong. */
static const char *get_card(const fg_json *node, fg_card *c)
{
    const fg_json *numerics = fg_json_get(node, "numerics"); /* older cards have none */
    uint64_t window, version = 1;
    if (numerics != NULL && (!fg_json_u64(numerics, &version) || version > UINT32_MAX)) {
        return "numerics";
    }
    if (!get_text(node, "text", c->text, sizeof c->text)) return "text";
    if (!get_hash(node, "text_xxh3", &c->text_hash)) return "text_xxh3";
    if (!fg_json_u64(fg_json_get(node, "text_bytes"), &c->text_bytes)) return "text_bytes";
    if (!fg_json_u64(fg_json_get(node, "window"), &window) || window > UINT32_MAX) return "window";
    if (!fg_json_u64(fg_json_get(node, "tokens"), &c->score.n_token)) return "tokens";
    if (!fg_json_bool(fg_json_get(node, "special"), &c->special)) return "special";
    if (!get_text(node, "cache", c->cache, sizeof c->cache)) return "cache";
    if (!get_text(node, "fulgur", c->version, sizeof c->version)) return "fulgur";
    if (!get_model(fg_json_get(node, "model"), &c->model)) return "model";
    if (!get_model(fg_json_get(node, "reference"), &c->reference)) return "reference";
    c->window = (uint32_t)window;
    c->numerics = (uint32_t)version;
    for (size_t i = 0; i < N_FIGURE; i++) {
        double v;
        if (!fg_json_f64(fg_json_get(node, figures[i].name), &v) || !isfinite(v)) {
            return figures[i].name;
        }
        memcpy((char *)&c->score + figures[i].at, &v, sizeof v);
    }
    return NULL;
}

/* ---- the list ---- */

static fg_status parse(const fg_json *root, const char *path, fg_card **cards, size_t *n,
                       fg_err *err)
{
    const fg_json *list = fg_json_get(root, "cards");
    uint64_t version;
    const size_t count = fg_json_is_array(list) ? fg_json_size(list) : SIZE_MAX;
    if (!fg_json_u64(fg_json_get(root, "version"), &version) || version != 1 ||
        count > FG_MAX_CARD) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: metadata quality of another version or form, expected version 1 and at "
                       "most %d cards",
                       path, FG_MAX_CARD);
    }
    fg_card *c = fg_mem_zalloc_array(FG_MAX_CARD + 1, sizeof *c); /* one more: for fg_card_store */
    if (c == NULL) return fg_fail_nomem(err, path);
    *cards = c;
    for (const fg_json *node = fg_json_first(list); node != NULL; node = fg_json_next(node)) {
        const char *wrong = get_card(node, &c[*n]);
        if (wrong != NULL) {
            return fg_fail(err, FG_EFORMAT, "%s: quality card %zu: bad or no %s, expected one",
                           path, *n, wrong);
        }
        (*n)++;
    }
    return FG_OK;
}

fg_status fg_card_list(const fg_model_file *f, fg_card **cards, size_t *n, fg_err *err)
{
    const char *bytes, *path = fg_model_file_path(f);
    size_t len;
    fg_json *root = NULL;
    *cards = NULL;
    *n = 0;
    FG_TRY(fg_model_file_meta(f, meta_key, &bytes, &len, err));
    if (bytes == NULL) return FG_OK;
    fg_status st = fg_json_parse(&root, bytes, len, "metadata quality", err);
    if (st == FG_OK) st = parse(root, path, cards, n, err);
    fg_json_free(root);
    if (st == FG_OK && *n > 0) return FG_OK;
    fg_mem_free(*cards);
    *cards = NULL;
    *n = 0;
    return st;
}

/* Puts the card at the end of c[*n], which has room for it. */
static void merge(fg_card *c, size_t *n, const fg_card *card)
{
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++) {
        const bool same = c[i].text_hash == card->text_hash && c[i].window == card->window;
        if (!same) c[kept++] = c[i];
    }
    c[kept++] = *card;
    if (kept > FG_MAX_CARD) memmove(c, c + 1, --kept * sizeof *c);
    *n = kept;
}

static fg_status store(fg_append *a, const fg_card *card, fg_err *err)
{
    const fg_model_file *f = fg_append_file(a);
    const char *path = fg_model_file_path(f);
    fg_card *cards = NULL;
    size_t n = 0;
    if (fg_model_file_data_root(f) != card->model.data_root) {
        return fg_fail(err, FG_EINVAL,
                       "%s: holds other weights than were measured, expected the "
                       "same file; measure again",
                       path);
    }
    for (size_t i = 0; i < N_FIGURE; i++) { /* a card that could not be read again */
        double v;
        memcpy(&v, (const char *)&card->score + figures[i].at, sizeof v);
        if (isfinite(v)) continue;
        return fg_fail(err, FG_EDATA, "%s: %s of the card is not finite, expected a number", path,
                       figures[i].name);
    }
    FG_TRY(fg_card_list(f, &cards, &n, err));
    if (cards == NULL) cards = fg_mem_zalloc(sizeof *cards);
    if (cards == NULL) return fg_fail_nomem(err, path);
    merge(cards, &n, card);
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"version\": 1, \"cards\": [");
    for (size_t i = 0; i < n; i++) {
        fg_buf_put_str(&b, i == 0 ? "\n" : ",\n");
        fg_card_put_json(&b, &cards[i], "");
    }
    fg_buf_put_str(&b, "\n]}\n");
    const fg_status st =
        b.failed ? fg_fail_nomem(err, path) : fg_append_meta(a, meta_key, b.data, b.len, err);
    fg_buf_fini(&b);
    fg_mem_free(cards);
    return st;
}

fg_status fg_card_store(const char *path, const fg_card *card, fg_err *err)
{
    fg_append *a;
    FG_TRY(fg_append_open(&a, path, err));
    const fg_status st = store(a, card, err);
    fg_append_close(&a);
    return st;
}
