/* SPDX-License-Identifier: MIT
 *
 * tokenizer.json -> fg_tokenizer.  The file may come from anywhere: each field is checked for type
 * and range, and a setting that would change results but is not implemented is refused by name, so
 * that a model never silently reads wrong ids.
 */
#include <string.h>

#include <stdlib.h>

#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/text/tokenizer_impl.h"

/* The pattern inside a ByteLevel that splits by itself ("use_regex": true), fixed by GPT-2. */
static const char gpt2_pattern[] =
    "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct loader {
    fg_tokenizer *t;
    fg_buf bytes; /* of the token at hand */
    fg_err *err;
} loader;

static fg_status wrong(const loader *l, const char *field, const char *wanted)
{
    return fg_fail(l->err, FG_EFORMAT, "%s: bad or missing %s, expected %s", l->t->name, field,
                   wanted);
}

static fg_status unsupported(const loader *l, const char *field, const char *got,
                             const char *wanted)
{
    return fg_fail(l->err, FG_ENOTSUP, "%s: %s %.60s, expected %s", l->t->name, field, got, wanted);
}

static bool absent(const fg_json *node)
{
    return node == NULL || fg_json_is_null(node);
}

/* Optional flag: absent and null count as `otherwise`. */
static fg_status get_flag(const loader *l, const fg_json *node, const char *name, bool otherwise,
                          bool *out)
{
    const fg_json *f = fg_json_get(node, name);
    *out = otherwise;
    if (!absent(f) && !fg_json_bool(f, out)) return wrong(l, name, "true or false");
    return FG_OK;
}

static fg_status get_type(const loader *l, const fg_json *node, const char *field,
                          const char **type)
{
    if (!fg_json_str(fg_json_get(node, "type"), type)) {
        return wrong(l, field, "an object with a type");
    }
    return FG_OK;
}

/* ---- model ---------------------------------------------------------------------------------- */

static fg_status check_settings(const loader *l, const fg_json *model)
{
    const char *type = "BPE";
    const fg_json *node = fg_json_get(model, "type");
    if (!absent(node) && !fg_json_str(node, &type)) return wrong(l, "model.type", "a string");
    if (strcmp(type, "BPE") != 0) return unsupported(l, "model.type", type, "BPE");
    static const char *const strings[] = {"unk_token", "continuing_subword_prefix",
                                          "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        const char *value = "";
        node = fg_json_get(model, strings[i]);
        if (!absent(node) && !fg_json_str(node, &value)) return wrong(l, strings[i], "a string");
        if (value[0] != '\0') return unsupported(l, strings[i], value, "none");
    }
    double dropout = 0;
    node = fg_json_get(model, "dropout");
    if (!absent(node) && !fg_json_f64(node, &dropout)) return wrong(l, "dropout", "a number");
    if (dropout != 0) return unsupported(l, "model.dropout", "not 0", "none");
    bool fallback;
    FG_TRY(get_flag(l, model, "byte_fallback", false, &fallback));
    if (fallback) return unsupported(l, "model.byte_fallback", "true", "false");
    return get_flag(l, model, "ignore_merges", false, &l->t->bpe.whole_words);
}

static fg_status add_token(loader *l, const fg_json *entry)
{
    fg_vocab *v = &l->t->vocab;
    const char *text = fg_json_name(entry);
    const size_t n = strlen(text);
    uint64_t id;
    if (!fg_json_u64(entry, &id) || id > FG_TOKEN_MAX_ID) {
        return fg_fail(l->err, FG_EFORMAT, "%s: id of \"%.40s\" in model.vocab, expected 0 to %d",
                       l->t->name, text, (int)FG_TOKEN_MAX_ID);
    }
    if (n == 0) {
        return fg_fail(l->err, FG_EFORMAT, "%s: empty token of id %u in model.vocab, expected text",
                       l->t->name, (unsigned)id);
    }
    if (id < v->n_id && v->token[id].flags != 0) {
        return fg_fail(l->err, FG_EFORMAT, "%s: second token \"%.40s\" of id %u, expected one",
                       l->t->name, text, (unsigned)id);
    }
    /* A token with a character outside of the alphabet (markup that someone put among the words)
     * cannot come out of a merge; it stands for its own text, as in the reference's decoder. */
    l->bytes.len = 0;
    const bool mapped = fg_bytes_of_token(text, n, &l->bytes);
    if (!mapped) {
        l->bytes.len = 0;
        fg_buf_put(&l->bytes, text, n);
    }
    if (l->bytes.failed || !fg_vocab_set(v, (uint32_t)id, l->bytes.data, l->bytes.len, 0)) {
        return fg_fail_nomem(l->err, "a vocabulary");
    }
    uint32_t other;
    if (mapped && !fg_vocab_enter(v, (uint32_t)id, &other)) {
        return fg_fail(l->err, FG_EFORMAT, "%s: \"%.40s\" has ids %u and %u, expected one",
                       l->t->name, text, (unsigned)other, (unsigned)id);
    }
    return FG_OK;
}

static fg_status load_vocab(loader *l, const fg_json *vocab)
{
    fg_tokenizer *t = l->t;
    if (!fg_json_is_object(vocab)) return wrong(l, "model.vocab", "an object");
    if (!fg_vocab_index(&t->vocab, fg_json_size(vocab))) {
        return fg_fail_nomem(l->err, "a vocabulary");
    }
    for (const fg_json *c = fg_json_first(vocab); c != NULL; c = fg_json_next(c)) {
        FG_TRY(add_token(l, c));
    }
    for (unsigned b = 0; b < 256; b++) {
        const uint8_t byte = (uint8_t)b;
        t->bpe.byte_id[b] = fg_vocab_find(&t->vocab, &byte, 1);
        if (t->bpe.byte_id[b] == FG_NO_TOKEN) {
            return fg_fail(l->err, FG_EFORMAT,
                           "%s: no token for byte 0x%02x, expected all 256 (byte-level BPE)",
                           t->name, b);
        }
    }
    return FG_OK;
}

/* The two halves of a merge, joined in l->bytes; *n_left: bytes of the first. */
static bool read_merge(loader *l, const fg_json *node, size_t *n_left)
{
    const char *left, *right;
    size_t n;
    if (fg_json_str(node, &left)) {
        right = strchr(left, ' ');
        if (right == NULL) return false;
        n = (size_t)(right++ - left);
    } else {
        const fg_json *first = fg_json_first(node);
        if (!fg_json_is_array(node) || !fg_json_str(first, &left)) return false;
        const fg_json *second = fg_json_next(first);
        if (!fg_json_str(second, &right) || fg_json_next(second) != NULL) return false;
        n = strlen(left);
    }
    l->bytes.len = 0;
    if (!fg_bytes_of_token(left, n, &l->bytes)) return false;
    *n_left = l->bytes.len;
    return fg_bytes_of_token(right, strlen(right), &l->bytes); /* a space is not in the alphabet */
}

static fg_status load_merges(loader *l, const fg_json *merges)
{
    fg_tokenizer *t = l->t;
    if (!fg_json_is_array(merges)) return wrong(l, "model.merges", "an array");
    const size_t n = fg_json_size(merges);
    if (n > FG_TOKEN_MAX_ID) return wrong(l, "model.merges", "fewer merges");
    if (!fg_bpe_init(&t->bpe, (uint32_t)n)) return fg_fail_nomem(l->err, "merges");
    uint32_t rank = 0;
    for (const fg_json *c = fg_json_first(merges); c != NULL; c = fg_json_next(c), rank++) {
        size_t n_left;
        if (!read_merge(l, c, &n_left)) {
            return fg_fail(l->err, FG_EFORMAT,
                           "%s: merge %u is malformed, expected two tokens (\"a b\" or [\"a\", "
                           "\"b\"]) in the byte alphabet",
                           t->name, (unsigned)rank);
        }
        if (l->bytes.failed) return fg_fail_nomem(l->err, "merges");
        const uint8_t *p = l->bytes.data;
        const uint32_t left = fg_vocab_find(&t->vocab, p, n_left);
        const uint32_t right = fg_vocab_find(&t->vocab, p + n_left, l->bytes.len - n_left);
        const uint32_t whole = fg_vocab_find(&t->vocab, p, l->bytes.len);
        if (left == FG_NO_TOKEN || right == FG_NO_TOKEN || whole == FG_NO_TOKEN) {
            return fg_fail(l->err, FG_EFORMAT,
                           "%s: the %s of merge %u is not in the vocabulary, expected a token",
                           t->name,
                           left == FG_NO_TOKEN    ? "left part"
                           : right == FG_NO_TOKEN ? "right part"
                                                  : "result",
                           (unsigned)rank);
        }
        fg_bpe_add(&t->bpe, rank, left, right, whole);
    }
    t->bpe.vocab = &t->vocab;
    return FG_OK;
}

/* ---- added tokens --------------------------------------------------------------------------- */

/* Gives an added token its place in the vocabulary: a new one, or the model's token of the same
 * text, whose id must then agree. */
static fg_status place_added(loader *l, const char *text, uint32_t id, uint32_t flags)
{
    fg_vocab *v = &l->t->vocab;
    const size_t n = strlen(text);
    l->bytes.len = 0;
    const bool mapped = fg_bytes_of_token(text, n, &l->bytes);
    if (!mapped) {
        l->bytes.len = 0;
        fg_buf_put(&l->bytes, text, n);
    }
    if (l->bytes.failed) return fg_fail_nomem(l->err, "added tokens");
    const uint32_t known = mapped ? fg_vocab_find(v, l->bytes.data, l->bytes.len) : FG_NO_TOKEN;
    if (known != FG_NO_TOKEN && known != id) {
        return fg_fail(l->err, FG_EFORMAT,
                       "%s: added token \"%.40s\" has id %u, expected %u as in model.vocab",
                       l->t->name, text, (unsigned)id, (unsigned)known);
    }
    if (id < v->n_id && v->token[id].flags != 0) {
        const fg_token *k = &v->token[id];
        if ((k->flags & FG_TOKEN_ADDED) != 0 || k->len != l->bytes.len ||
            memcmp(v->bytes.data + k->begin, l->bytes.data, k->len) != 0) {
            return fg_fail(
                l->err, FG_EFORMAT,
                "%s: added token \"%.40s\" has id %u, which is taken, expected a free id",
                l->t->name, text, (unsigned)id);
        }
        v->n_token--; /* fg_vocab_set counts it again; its bytes are now the plain text */
    }
    if (!fg_vocab_set(v, id, (const uint8_t *)text, n, flags)) {
        return fg_fail_nomem(l->err, "added tokens");
    }
    return FG_OK;
}

static fg_status read_added(loader *l, const fg_json *entry, uint32_t *id, int *pass)
{
    const char *text;
    uint64_t number;
    if (!fg_json_str(fg_json_get(entry, "content"), &text) || text[0] == '\0') {
        return wrong(l, "added_tokens content", "text");
    }
    if (!fg_json_u64(fg_json_get(entry, "id"), &number) || number > FG_TOKEN_MAX_ID) {
        return fg_fail(l->err, FG_EFORMAT, "%s: id of added token \"%.40s\", expected 0 to %d",
                       l->t->name, text, (int)FG_TOKEN_MAX_ID);
    }
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        bool on;
        FG_TRY(get_flag(l, entry, refused[i], false, &on));
        if (on) return unsupported(l, refused[i], "of an added token", "false");
    }
    bool special, normalized;
    FG_TRY(get_flag(l, entry, "special", false, &special));
    FG_TRY(get_flag(l, entry, "normalized", !special, &normalized));
    *id = (uint32_t)number;
    *pass = normalized ? FG_ADDED_NORMALIZED : FG_ADDED_RAW;
    return place_added(l, text, *id, FG_TOKEN_ADDED | (special ? FG_TOKEN_SPECIAL : 0u));
}

static int by_text(const void *a, const void *b)
{
    const fg_added *x = a, *y = b;
    const int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    return order != 0 ? order : x->len < y->len ? -1 : x->len > y->len;
}

/* Fills the two match sets from pass[id of each added token in file order]. */
static fg_status build_sets(loader *l, const uint32_t *id, const int *pass, size_t n)
{
    fg_tokenizer *t = l->t;
    fg_buf scratch = {0};
    fg_status st = FG_OK;
    for (size_t i = 0; i < n && st == FG_OK; i++) { /* texts first: the buffer moves as it grows */
        const fg_token *k = &t->vocab.token[id[i]];
        const uint8_t *text = t->vocab.bytes.data + k->begin;
        size_t len = k->len;
        if (pass[i] == FG_ADDED_NORMALIZED) {
            st = fg_pretok_normalize(t->pretok, text, len, &scratch, &text, &len, l->err);
        }
        fg_added_set *set = &t->added[pass[i]];
        set->entry[set->n++] = (fg_added){NULL, (uint32_t)len, id[i]};
        fg_buf_put(&t->added_text, text, len);
    }
    fg_buf_fini(&scratch);
    if (st != FG_OK) return st;
    if (t->added_text.failed) return fg_fail_nomem(l->err, "added tokens");
    const uint8_t *text = t->added_text.data;
    size_t used[FG_ADDED_PASSES] = {0};
    for (size_t i = 0; i < n; i++) {
        fg_added *a = &t->added[pass[i]].entry[used[pass[i]]++];
        a->text = text;
        text += a->len;
        t->added[pass[i]].first[a->text[0]] = true;
    }
    for (int p = 0; p < FG_ADDED_PASSES; p++) {
        fg_added_set *set = &t->added[p];
        if (set->n > 1) qsort(set->entry, set->n, sizeof *set->entry, by_text);
        for (size_t i = 1; i < set->n; i++) {
            if (by_text(&set->entry[i - 1], &set->entry[i]) != 0) continue;
            return fg_fail(
                l->err, FG_EFORMAT,
                "%s: added tokens %u and %u match the same text, expected different ones", t->name,
                (unsigned)set->entry[i - 1].id, (unsigned)set->entry[i].id);
        }
    }
    return FG_OK;
}

static fg_status load_added(loader *l, const fg_json *list)
{
    if (absent(list)) return FG_OK;
    if (!fg_json_is_array(list)) return wrong(l, "added_tokens", "an array");
    const size_t n = fg_json_size(list);
    uint32_t *id = fg_mem_zalloc_array(n, sizeof *id);
    int *pass = fg_mem_zalloc_array(n, sizeof *pass);
    bool ok = id != NULL && pass != NULL;
    for (int p = 0; p < FG_ADDED_PASSES && ok; p++) {
        l->t->added[p].entry = fg_mem_zalloc_array(n, sizeof(fg_added));
        ok = l->t->added[p].entry != NULL;
    }
    fg_status st = ok ? FG_OK : fg_fail_nomem(l->err, "added tokens");
    size_t i = 0;
    for (const fg_json *c = fg_json_first(list); c != NULL && st == FG_OK; c = fg_json_next(c)) {
        st = read_added(l, c, &id[i], &pass[i]);
        i++;
    }
    if (st == FG_OK) st = build_sets(l, id, pass, n);
    fg_mem_free(id);
    fg_mem_free(pass);
    return st;
}

/* ---- pipeline ------------------------------------------------------------------------------- */

static fg_status read_normalizer(const loader *l, const fg_json *node, bool *nfc)
{
    if (absent(node)) return FG_OK;
    const char *type;
    FG_TRY(get_type(l, node, "normalizer", &type));
    if (strcmp(type, "NFC") == 0) {
        *nfc = true;
        return FG_OK;
    }
    const fg_json *list = fg_json_get(node, "normalizers");
    if (strcmp(type, "Sequence") != 0 || !fg_json_is_array(list)) {
        return unsupported(l, "normalizer", type, "NFC or none");
    }
    for (const fg_json *c = fg_json_first(list); c != NULL; c = fg_json_next(c)) {
        FG_TRY(get_type(l, c, "normalizer", &type));
        if (strcmp(type, "NFC") != 0) return unsupported(l, "normalizer", type, "NFC or none");
        *nfc = true;
    }
    return FG_OK;
}

static fg_status add_split(const loader *l, const fg_json *node)
{
    const fg_json *pattern = fg_json_get(node, "pattern");
    const char *text, *behavior;
    bool literal = false, invert;
    if (!fg_json_str(fg_json_get(pattern, "Regex"), &text)) {
        literal = true;
        if (!fg_json_str(fg_json_get(pattern, "String"), &text)) {
            return wrong(l, "pre_tokenizer pattern", "Regex or String");
        }
    }
    if (!fg_json_str(fg_json_get(node, "behavior"), &behavior)) {
        return wrong(l, "pre_tokenizer behavior", "a string");
    }
    FG_TRY(get_flag(l, node, "invert", false, &invert));
    fg_cut kind;
    if (strcmp(behavior, "Isolated") == 0 && !invert) {
        kind = FG_CUT_ISOLATED;
    } else if (strcmp(behavior, "Removed") == 0 && invert) {
        kind = FG_CUT_MATCHES;
    } else {
        return fg_fail(l->err, FG_ENOTSUP,
                       "%s: pre_tokenizer Split %.40s with invert %s, expected Isolated with false "
                       "or Removed with true",
                       l->t->name, behavior, invert ? "true" : "false");
    }
    return fg_pretok_add(l->t->pretok, text, strlen(text), literal, kind, l->t->name, l->err);
}

static fg_status add_byte_level(const loader *l, const fg_json *node)
{
    bool prefix, regex;
    FG_TRY(get_flag(l, node, "add_prefix_space", true, &prefix));
    FG_TRY(get_flag(l, node, "use_regex", true, &regex));
    if (prefix) return unsupported(l, "pre_tokenizer add_prefix_space", "true", "false");
    if (!regex) return FG_OK;
    return fg_pretok_add(l->t->pretok, gpt2_pattern, strlen(gpt2_pattern), false, FG_CUT_ISOLATED,
                         l->t->name, l->err);
}

static fg_status load_pretokenizer(const loader *l, const fg_json *node)
{
    static const char wanted[] = "Split and one ByteLevel after them";
    if (absent(node)) return unsupported(l, "pre_tokenizer", "null", wanted);
    const char *type;
    FG_TRY(get_type(l, node, "pre_tokenizer", &type));
    if (strcmp(type, "ByteLevel") == 0) return add_byte_level(l, node);
    if (strcmp(type, "Sequence") != 0) return unsupported(l, "pre_tokenizer", type, wanted);
    const fg_json *list = fg_json_get(node, "pretokenizers");
    if (!fg_json_is_array(list)) return wrong(l, "pre_tokenizer.pretokenizers", "an array");
    for (const fg_json *c = fg_json_first(list); c != NULL; c = fg_json_next(c)) {
        FG_TRY(get_type(l, c, "pre_tokenizer", &type));
        if (strcmp(type, "Split") == 0) {
            FG_TRY(add_split(l, c));
        } else if (strcmp(type, "ByteLevel") == 0 && fg_json_next(c) == NULL) {
            return add_byte_level(l, c);
        } else {
            return unsupported(l, "pre_tokenizer", type, wanted);
        }
    }
    return unsupported(l, "pre_tokenizer", "without ByteLevel", wanted);
}

static fg_status check_ends(const loader *l, const fg_json *root)
{
    const char *type;
    const fg_json *node = fg_json_get(root, "post_processor");
    if (!absent(node)) {
        FG_TRY(get_type(l, node, "post_processor", &type));
        if (strcmp(type, "ByteLevel") != 0) {
            return unsupported(l, "post_processor", type, "ByteLevel or none");
        }
    }
    FG_TRY(get_type(l, fg_json_get(root, "decoder"), "decoder", &type));
    if (strcmp(type, "ByteLevel") != 0) return unsupported(l, "decoder", type, "ByteLevel");
    return FG_OK;
}

static fg_status load_all(loader *l, const fg_json *root)
{
    if (!fg_json_is_object(root)) return wrong(l, "document", "an object");
    const fg_json *model = fg_json_get(root, "model");
    if (!fg_json_is_object(model)) return wrong(l, "model", "an object");
    bool nfc = false;
    FG_TRY(check_settings(l, model));
    FG_TRY(check_ends(l, root));
    FG_TRY(read_normalizer(l, fg_json_get(root, "normalizer"), &nfc));
    FG_TRY(fg_pretok_create(&l->t->pretok, nfc, l->err));
    FG_TRY(load_pretokenizer(l, fg_json_get(root, "pre_tokenizer")));
    FG_TRY(load_vocab(l, fg_json_get(model, "vocab")));
    FG_TRY(load_merges(l, fg_json_get(model, "merges")));
    return load_added(l, fg_json_get(root, "added_tokens"));
}

fg_status fg_tokenizer_load(fg_tokenizer *t, const char *json, size_t n, fg_err *err)
{
    fg_json *root;
    FG_TRY(fg_json_parse(&root, json, n, t->name, err));
    loader l = {.t = t, .err = err};
    const fg_status st = load_all(&l, root);
    fg_buf_fini(&l.bytes);
    fg_json_free(root);
    if (st == FG_OK && !t->bpe.whole_words) { /* the hash has served */
        fg_mem_free(t->vocab.slot);
        t->vocab.slot = NULL;
    }
    return st;
}
