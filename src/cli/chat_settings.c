/* SPDX-License-Identifier: MIT
 *
 * What a saved session remembers of how it was talked to, so that it goes on the same: a JSON
 * object in its log, with the options' names.  Numbers beyond 2^53 are texts; "rng" is the
 * sampler's random state, "ctx" the room, null a budget or a message that nobody chose.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/conversation.h"

#define EXACT UINT64_C(9007199254740992) /* 2^53 */

typedef struct setting {
    const char *name;
    opt_kind kind;
    void *value; /* of the kind's type; OPT_CHOICE: an unsigned */
    double min, max;
    const char *(*choice)(unsigned value); /* OPT_CHOICE: of n */
    unsigned n;
    char **own; /* OPT_LIST: [OPT_LIST_MAX] texts that are freed; OPT_STR: one */
} setting;

enum { N_SETTING = 17 };

const char *chat_style_name(unsigned style)
{
    return style == FG_CHAT_MINIMAX_AI ? "minimax-ai" : "official";
}

static void settings_of(talk *k, setting out[N_SETTING])
{
    gen_opts *g = &k->gen;
    fg_sampler_opts *s = &g->sampler;
    const setting rows[N_SETTING] = {
        {.name = "temp", .kind = OPT_F64, .value = &s->temp, .max = 100},
        {.name = "top-p", .kind = OPT_F64, .value = &s->top_p, .max = 1},
        {.name = "top-k", .kind = OPT_U32, .value = &s->top_k, .max = 1e9},
        {.name = "min-p", .kind = OPT_F64, .value = &s->min_p, .max = 1},
        {.name = "repeat-penalty", .kind = OPT_F64, .value = &s->repeat, .min = 0.01, .max = 100},
        {.name = "presence-penalty", .kind = OPT_F64, .value = &s->presence, .min = -2, .max = 2},
        {.name = "frequency-penalty", .kind = OPT_F64, .value = &s->frequency, .min = -2, .max = 2},
        {.name = "seed", .kind = OPT_U64, .value = &s->seed, .max = 1.9e19},
        {.name = "n", .kind = OPT_U64, .value = &g->n_predict, .max = 1e15},
        {.name = "think-budget", .kind = OPT_TOKENS, .value = &g->think_budget, .max = 1e15},
        {.name = "think-message",
         .kind = OPT_STR,
         .value = &g->think_message,
         .own = &k->own_message},
        {.name = "no-repeat-stop", .kind = OPT_FLAG, .value = &g->no_repeat_stop},
        {.name = "stop", .kind = OPT_LIST, .value = &g->stop, .own = k->stop_own},
        {.name = "logit-bias", .kind = OPT_LIST, .value = &g->bias, .own = k->bias_own},
        {.name = "think",
         .kind = OPT_CHOICE,
         .value = &k->think,
         .choice = think_mode_name,
         .n = THINK_COUNT},
        {.name = "stats",
         .kind = OPT_CHOICE,
         .value = &k->stats,
         .choice = stats_mode_name,
         .n = STATS_COUNT},
        {.name = "style",
         .kind = OPT_CHOICE,
         .value = &k->style,
         .choice = chat_style_name,
         .n = 2},
    };
    memcpy(out, rows, sizeof rows);
}

/* ---- writing ---- */

static void put_u64(uint64_t v, fg_buf *b)
{
    const bool exact = v <= EXACT;
    fg_buf_printf(b, exact ? "%llu" : "\"%llu\"", (unsigned long long)v);
}

/* With as many digits as it takes to get it back. */
static void put_f64(double v, fg_buf *b)
{
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    fg_buf_put_str(b, text);
}

static void put_list(const opt_list *l, fg_buf *b)
{
    fg_buf_put_str(b, "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0) fg_buf_put_str(b, ", ");
        fg_json_put_str(b, l->text[i], strlen(l->text[i]));
    }
    fg_buf_put_str(b, "]");
}

static void put_value(const setting *s, fg_buf *b)
{
    switch (s->kind) {
    case OPT_F64: put_f64(*(const double *)s->value, b); return;
    case OPT_U32: put_u64(*(const uint32_t *)s->value, b); return;
    case OPT_U64: put_u64(*(const uint64_t *)s->value, b); return;
    case OPT_FLAG: fg_buf_put_str(b, *(const bool *)s->value ? "true" : "false"); return;
    case OPT_LIST: put_list(s->value, b); return;
    case OPT_CHOICE: fg_buf_printf(b, "\"%s\"", s->choice(*(const unsigned *)s->value)); return;
    default: break;
    }
    const uint64_t n = s->kind == OPT_TOKENS ? *(const uint64_t *)s->value : 0;
    const char *text = s->kind == OPT_STR ? *(const char *const *)s->value : NULL;
    if (s->kind == OPT_TOKENS && n != FG_THINK_BUDGET_AUTO) {
        put_u64(n, b);
    } else if (text != NULL) {
        fg_json_put_str(b, text, strlen(text));
    } else {
        fg_buf_put_str(b, "null");
    }
}

void chat_settings_put(talk *k, fg_buf *out)
{
    setting rows[N_SETTING];
    const fg_rng r = fg_sampler_rng(k->sampler);
    settings_of(k, rows);
    fg_buf_put_str(out, "{");
    for (size_t i = 0; i < N_SETTING; i++) {
        fg_buf_printf(out, "\"%s\": ", rows[i].name);
        put_value(&rows[i], out);
        fg_buf_put_str(out, ", ");
    }
    fg_buf_put_str(out, "\"ctx\": ");
    put_u64(fg_session_n_ctx(k->s), out);
    fg_buf_put_str(out, ", \"rng\": \"");
    for (int i = 0; i < 4; i++) fg_buf_printf(out, "%016llx", (unsigned long long)r.s[i]);
    fg_buf_put_str(out, "\"}");
}

/* ---- reading ---- */

static bool get_u64(const fg_json *v, double max, uint64_t *out)
{
    const char *text;
    char *end;
    if (fg_json_str(v, &text)) {
        if (text[0] < '0' || text[0] > '9') return false;
        *out = strtoull(text, &end, 10);
        return *end == '\0' && (double)*out <= max;
    }
    return fg_json_u64(v, out) && (double)*out <= max;
}

static bool get_list(const setting *s, const fg_json *v, bool set)
{
    opt_list *l = s->value;
    const char *text;
    if (!fg_json_is_array(v) || fg_json_size(v) > OPT_LIST_MAX) return false;
    for (const fg_json *c = fg_json_first(v); c != NULL; c = fg_json_next(c)) {
        if (!fg_json_str(c, &text) || text[0] == '\0') return false;
    }
    if (!set) return true;
    l->n = 0;
    for (const fg_json *c = fg_json_first(v); c != NULL; c = fg_json_next(c)) {
        (void)fg_json_str(c, &text);
        char *copy = fg_mem_strndup(text, strlen(text));
        if (copy == NULL) return false;
        fg_mem_free(s->own[l->n]);
        l->text[l->n] = s->own[l->n] = copy;
        l->n++;
    }
    for (size_t i = l->n; i < OPT_LIST_MAX; i++) {
        fg_mem_free(s->own[i]);
        s->own[i] = NULL;
    }
    return true;
}

static bool get_text(const setting *s, const fg_json *v, bool set)
{
    const char *text = NULL;
    if (!fg_json_is_null(v) && !fg_json_str(v, &text)) return false;
    if (!set) return true;
    char *copy = text == NULL ? NULL : fg_mem_strndup(text, strlen(text));
    if (text != NULL && copy == NULL) return false;
    fg_mem_free(*s->own);
    *s->own = copy;
    *(const char **)s->value = copy;
    return true;
}

static bool get_choice(const setting *s, const fg_json *v, bool set)
{
    const char *text;
    if (!fg_json_str(v, &text)) return false;
    for (unsigned i = 0; i < s->n; i++) {
        if (strcmp(s->choice(i), text) != 0) continue;
        if (set) *(unsigned *)s->value = i;
        return true;
    }
    return false;
}

/* Whether v can be this setting; set: it becomes it. */
static bool get_value(const setting *s, const fg_json *v, bool set)
{
    double x;
    bool on;
    uint64_t n = FG_THINK_BUDGET_AUTO;
    switch (s->kind) {
    case OPT_LIST: return get_list(s, v, set);
    case OPT_STR: return get_text(s, v, set);
    case OPT_CHOICE: return get_choice(s, v, set);
    case OPT_F64:
        if (!fg_json_f64(v, &x) || !(x >= s->min && x <= s->max)) return false;
        if (set) *(double *)s->value = x;
        return true;
    case OPT_FLAG:
        if (!fg_json_bool(v, &on)) return false;
        if (set) *(bool *)s->value = on;
        return true;
    default: break;
    }
    if (!(s->kind == OPT_TOKENS && fg_json_is_null(v)) && !get_u64(v, s->max, &n)) return false;
    if (set && s->kind == OPT_U32) *(uint32_t *)s->value = (uint32_t)n;
    if (set && s->kind != OPT_U32) *(uint64_t *)s->value = n;
    return true;
}

static bool get_rng(const fg_json *v, fg_rng *out)
{
    const char *text;
    if (!fg_json_str(v, &text) || strlen(text) != 64) return false;
    if (strspn(text, "0123456789abcdef") != 64) return false;
    for (int i = 0; i < 4; i++) {
        char word[17];
        (void)snprintf(word, sizeof word, "%.16s", text + 16 * (size_t)i);
        out->s[i] = strtoull(word, NULL, 16);
    }
    return (out->s[0] | out->s[1] | out->s[2] | out->s[3]) != 0;
}

/* An object each of whose members that we know is as it should be; others are a later program's. */
static fg_status parse(fg_json **root, const void *json, size_t n, const char *name, fg_err *err)
{
    static talk none; /* whose values are only pointed to */
    setting rows[N_SETTING];
    FG_TRY(fg_json_parse(root, json, n, name, err));
    const char *bad = fg_json_is_object(*root) ? NULL : "no object";
    settings_of(&none, rows);
    for (size_t i = 0; bad == NULL && i < N_SETTING; i++) {
        const fg_json *v = fg_json_get(*root, rows[i].name);
        if (v != NULL && !get_value(&rows[i], v, false)) bad = rows[i].name;
    }
    const fg_json *ctx = fg_json_get(*root, "ctx"), *rng = fg_json_get(*root, "rng");
    uint64_t room;
    fg_rng r;
    if (bad == NULL && ctx != NULL && !get_u64(ctx, 1e10, &room)) bad = "ctx";
    if (bad == NULL && rng != NULL && !get_rng(rng, &r)) bad = "rng";
    if (bad == NULL) return FG_OK;
    fg_json_free(*root);
    *root = NULL;
    return fg_fail(err, FG_EFORMAT, "%s: %s, expected a session's", name, bad);
}

fg_status chat_settings_check(const void *json, size_t n, const char *name, fg_err *err)
{
    fg_json *root;
    FG_TRY(parse(&root, json, n, name, err));
    fg_json_free(root);
    return FG_OK;
}

uint64_t chat_settings_room(const void *json, size_t n)
{
    fg_json *root;
    uint64_t room = 0;
    if (json == NULL || parse(&root, json, n, "settings", NULL) != FG_OK) return 0;
    (void)get_u64(fg_json_get(root, "ctx"), 1e10, &room);
    fg_json_free(root);
    return room;
}

static bool is_given(const talk *k, const setting *s)
{
    return args_given(s->value) || (s->value == (const void *)&k->think && k->think_given);
}

/* Into k, with the names of what is another one now. */
static bool take_values(talk *k, const fg_json *root, fg_buf *said)
{
    setting rows[N_SETTING];
    bool ok = true;
    settings_of(k, rows);
    for (size_t i = 0; ok && i < N_SETTING; i++) {
        const fg_json *v = fg_json_get(root, rows[i].name);
        fg_buf before = {0}, after = {0};
        if (v == NULL || is_given(k, &rows[i])) continue;
        put_value(&rows[i], &before);
        ok = get_value(&rows[i], v, true);
        put_value(&rows[i], &after);
        if (after.len != before.len || memcmp(after.data, before.data, after.len) != 0) {
            fg_buf_printf(said, "%s%s ", said->len > 0 ? ", " : "", rows[i].name);
            fg_buf_put(said, after.data, after.len);
        }
        ok = ok && !before.failed && !after.failed;
        fg_buf_fini(&before);
        fg_buf_fini(&after);
    }
    return ok && !said->failed;
}

fg_status chat_settings_take(talk *k, const void *json, size_t n, fg_buf *said, fg_err *err)
{
    fg_json *root;
    fg_rng r;
    FG_TRY(parse(&root, json, n, "settings", err));
    fg_status st = take_values(k, root, said) ? FG_OK : fg_fail_nomem(err, "settings");
    if (st == FG_OK) st = chat_resample(k, err);
    if (st == FG_OK && !args_given(&k->gen.sampler.seed) && get_rng(fg_json_get(root, "rng"), &r)) {
        fg_sampler_set_rng(k->sampler, r);
    }
    fg_json_free(root);
    if (st == FG_EINVAL) k->gen.bias.n = 0; /* of another vocabulary */
    return st == FG_EINVAL ? FG_EFORMAT : st;
}
