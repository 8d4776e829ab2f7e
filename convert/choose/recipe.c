/* SPDX-License-Identifier: MIT
 *
 * Rules are tried from the last to the first.  8,243 names times a handful of rules need no index.
 */
#include "convert/choose/recipe.h"

#include <fnmatch.h>
#include <stdbool.h>
#include <string.h>

#include "convert/source/names.h"
#include "src/base/io.h"
#include "src/base/mem.h"

enum {
    MAX_LINE = 255,
    MAX_RULE = 4096,
    MAX_STAR = 8, /* glob matching backtracks at each star */
};
#define MAX_RECIPE_BYTES ((uint64_t)1 << 20)

/* The inputs of down, silu(gate) * up, have the heaviest tails; rotated they lose less to int8.
 * nano, calibrated, mean KL divergence of two held-back texts: 0.0241 and 0.0240 without, 0.0226
 * and 0.0237 with; not calibrated 1 to 3 % less.  Rotating gate and up as well is 3 to 5 % worse:
 * the codebook is made for tails.  A kernel of 2 us a row pays for it, some 0.03 % of a token. */
#define DOWN     "*.w2.weight q4+h # rotated where its rows are whole blocks of 128\n"
#define BALANCED "* q4\n" DOWN "*.self_attn.* q6\nmodel.embed_tokens.weight q8\nlm_head.weight q8\n"
#define FAITHFUL "* q8\n"

/* Attention feeds every token, and its error passes through the residual scale once; experts are
 * 97% of the bytes.  Embedding and head are 1% and touch every token's distribution. */
static const struct {
    const char *type, *text;
} builtins[] = {
    {FG_RECIPE_TYPE, BALANCED}, /* before the plain one of its type */
#define FG_QTYPE(id, name, value, packing, ...)                                                    \
    {#name, FG_PACK_##packing < FG_PACK_BYTES                                                      \
                ? "* " #name "\nmodel.embed_tokens.weight q8\nlm_head.weight q8\n"                 \
                : "* " #name "\n"},
#include "quant/types.inc"
};

static const struct {
    const char *name, *text;
} named[] = {
    {"fast", "* q4\n" DOWN "model.embed_tokens.weight q8\nlm_head.weight q6\n"},
    {"balanced", BALANCED},
    {"faithful", FAITHFUL},
};

const char fg_recipe_type_help[] = "one of"
#define FG_QTYPE(id, name, ...) " " #name
#include "quant/types.inc"
                                   " (default: " FG_RECIPE_TYPE ")";

static bool parse_type(const char *text, fg_tensor_choice *out)
{
    char name[16];
    const size_t n = strlen(text);
    const bool rotate = n > 2 && strcmp(text + n - 2, "+h") == 0;
    *out = (fg_tensor_choice){.rotate = rotate};
    if (n >= sizeof name) return false;
    memcpy(name, text, n + 1);
    if (rotate) name[n - 2] = '\0';
    for (uint32_t i = 0; i < FG_KIND_COUNT; i++) {
        const fg_qkind_info *kind = &fg_qkinds[i];
        if (strcmp(name, kind->name) != 0) continue;
        out->type = kind->type;
        if (kind->lut != NULL) out->lut = *kind->lut;
        return !rotate || i < FG_KIND_QUANTIZED;
    }
    return false;
}

void fg_recipe_fini(fg_recipe *r)
{
    for (size_t i = 0; i < r->n_rule; i++) fg_mem_free(r->rule[i].pattern);
    fg_mem_free(r->rule);
    fg_buf_fini(&r->text);
    *r = (fg_recipe){0};
}

static fg_status add_rule(fg_recipe *r, const char *pattern, const char *type, const char *name,
                          uint32_t line, fg_err *err)
{
    size_t n_star = 0;
    for (const char *p = pattern; *p != '\0'; p++) n_star += *p == '*';
    if (n_star > MAX_STAR) {
        return fg_fail(err, FG_ELIMIT, "%s: line %u: %zu stars, expected at most %d", name, line,
                       n_star, MAX_STAR);
    }
    if (r->n_rule == MAX_RULE) {
        return fg_fail(err, FG_ELIMIT, "%s: line %u: too many rules, expected at most %d", name,
                       line, MAX_RULE);
    }
    fg_tensor_choice choice;
    if (!parse_type(type, &choice)) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: line %u: type \"%.32s\", expected one of %s; +h after a quantized "
                       "one: rotated",
                       name, line, type, fg_qkind_names);
    }
    void *p = r->rule;
    if (!fg_mem_grow(&p, &r->cap, r->n_rule + 1, sizeof *r->rule)) return fg_fail_nomem(err, name);
    r->rule = p;
    char *copy = fg_mem_strndup(pattern, strlen(pattern));
    if (copy == NULL) return fg_fail_nomem(err, name);
    r->rule[r->n_rule++] = (fg_recipe_rule){.pattern = copy, .choice = choice, .line = line};
    return FG_OK;
}

/* One line without its end; at most two words count, a '#' that starts a word ends the line. */
static fg_status parse_line(fg_recipe *r, const char *s, size_t n, const char *name, uint32_t line,
                            fg_err *err)
{
    char copy[MAX_LINE + 1], *word[3] = {0}, *save = NULL;
    size_t n_word = 0;
    if (n > MAX_LINE || memchr(s, '\0', n) != NULL) {
        return fg_fail(err, FG_EFORMAT, "%s: line %u: %zu bytes, expected at most %d of text", name,
                       line, n, MAX_LINE);
    }
    memcpy(copy, s, n);
    copy[n] = '\0';
    for (char *w = strtok_r(copy, " \t\r", &save); w != NULL && *w != '#' && n_word < 3;
         w = strtok_r(NULL, " \t\r", &save)) {
        word[n_word++] = w;
    }
    if (n_word == 0) return FG_OK;
    if (n_word != 2) {
        return fg_fail(err, FG_EFORMAT, "%s: line %u: %s, expected PATTERN TYPE", name, line,
                       n_word == 1 ? "one word" : "more than two words");
    }
    return add_rule(r, word[0], word[1], name, line, err);
}

/* line_one: number of the first line; 0 marks every rule as built in. */
static fg_status parse_text(fg_recipe *r, const char *text, size_t n, const char *name,
                            uint32_t line_one, fg_err *err)
{
    uint32_t line = line_one;
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        const size_t len = end == NULL ? n - at : (size_t)(end - (text + at));
        FG_TRY(parse_line(r, text + at, len, name, line, err));
        at += len + 1;
        if (line_one != 0) line++;
    }
    fg_buf_put(&r->text, text, n);
    if (n > 0 && text[n - 1] != '\n') fg_buf_u8(&r->text, '\n');
    return r->text.failed ? fg_fail_nomem(err, name) : FG_OK;
}

static const char *find_named(const char *path)
{
    for (size_t i = 0; path != NULL && i < sizeof named / sizeof named[0]; i++) {
        if (strcmp(path, named[i].name) == 0) return named[i].text;
    }
    return NULL;
}

bool fg_recipe_is_name(const char *path)
{
    return find_named(path) != NULL;
}

const char *fg_recipe_label(const char *type, const char *path)
{
    return type != NULL ? type : fg_recipe_is_name(path) ? path : "q4";
}

static fg_status load(fg_recipe *r, const char *type, const char *path, fg_err *err)
{
    const char *text = find_named(path);
    if (text != NULL) {
        if (type == NULL) return parse_text(r, text, strlen(text), path, 0, err);
        return fg_fail(err, FG_EINVAL,
                       "recipe %s: with type %.32s, expected one of the two; a file of that name "
                       "is ./%s",
                       path, type, path);
    }
    if (type == NULL) type = FG_RECIPE_TYPE;
    for (size_t i = 0; text == NULL && i < sizeof builtins / sizeof builtins[0]; i++) {
        if (strcmp(type, builtins[i].type) == 0) text = builtins[i].text;
    }
    if (text == NULL) {
        return fg_fail(err, FG_EINVAL, "type \"%.32s\": unknown, expected one of %s", type,
                       fg_qtype_names);
    }
    FG_TRY(parse_text(r, text, strlen(text), type, 0, err));
    if (path == NULL) return FG_OK;
    if (!fg_io_exists(path)) {
        return fg_fail(err, FG_EIO,
                       "recipe %s: no such file, expected one, or fast, balanced or faithful",
                       path);
    }
    char *file;
    size_t n;
    FG_TRY(fg_io_read_all(path, MAX_RECIPE_BYTES, &file, &n, err));
    const fg_status st = parse_text(r, file, n, path, 1, err);
    fg_mem_free(file);
    return st;
}

fg_status fg_recipe_load(fg_recipe *r, const char *type, const char *path, fg_err *err)
{
    *r = (fg_recipe){0};
    const fg_status st = load(r, type, path, err);
    if (st != FG_OK) fg_recipe_fini(r);
    return st;
}

fg_status fg_recipe_load_text(fg_recipe *r, const char *text, size_t n, const char *name,
                              fg_err *err)
{
    *r = (fg_recipe){0};
    const fg_status st = parse_text(r, text, n, name, 0, err);
    if (st != FG_OK) fg_recipe_fini(r);
    return st;
}

static bool is_fixed(fg_role role)
{
    return role == FG_ROLE_ROUTER || fg_role_is_vector(role);
}

fg_tensor_choice fg_recipe_choose(void *recipe, fg_role role, uint32_t layer, uint32_t expert)
{
    const fg_recipe *r = recipe;
    char name[96];
    fg_role_name(role, layer, expert, name);
    for (size_t i = is_fixed(role) ? 0 : r->n_rule; i > 0; i--) {
        if (fnmatch(r->rule[i - 1].pattern, name, 0) == 0) return r->rule[i - 1].choice;
    }
    return (fg_tensor_choice){.type = FG_TYPE_F32};
}

static bool may_rotate(const fg_shape *s, fg_role role)
{
    uint64_t n_row, n_col;
    fg_role_dims(role, s, &n_row, &n_col);
    return n_col % FG_SB_COLS == 0;
}

fg_status fg_recipe_check(fg_recipe *r, const fg_shape *s, const char *path, fg_err *err)
{
    const uint64_t n = fg_weight_count(s);
    for (uint64_t i = 0; i < n; i++) {
        const fg_name t = fg_weight_at(s, i);
        char name[96];
        fg_role_name(t.role, t.layer, t.expert, name);
        if (t.role == FG_ROLE_EXPERT_GATE) {
            const fg_tensor_choice a = fg_recipe_choose(r, t.role, t.layer, t.expert);
            const fg_tensor_choice b = fg_recipe_choose(r, FG_ROLE_EXPERT_UP, t.layer, t.expert);
            if (a.type != b.type || a.rotate != b.rotate ||
                memcmp(&a.lut, &b.lut, sizeof a.lut) != 0) {
                return fg_fail(err, FG_EFORMAT,
                               "%s: %s and its w3 get different types, expected one type for both",
                               path, name);
            }
        }
        for (size_t k = 0; k < r->n_rule; k++) {
            fg_recipe_rule *rule = &r->rule[k];
            if (is_fixed(t.role) && rule->choice.type != FG_TYPE_F32) continue;
            if (fnmatch(rule->pattern, name, 0) != 0) continue;
            rule->n_match++;
            /* what a file asks for it gets, or hears why not; a built-in rule gives way */
            if (rule->line == 0 && !may_rotate(s, t.role)) rule->choice.rotate = false;
        }
    }
    for (size_t k = 0; k < r->n_rule; k++) {
        const fg_recipe_rule *rule = &r->rule[k];
        if (rule->line == 0 || rule->n_match > 0) continue;
        return fg_fail(
            err, FG_EFORMAT,
            "%s: line %u: pattern \"%.128s\" matches no matrix, expected one at least; norms "
            "and routers are always f32",
            path, rule->line, rule->pattern);
    }
    return FG_OK;
}
