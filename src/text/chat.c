/* SPDX-License-Identifier: MIT
 *
 * One walk over the conversation writes to a sink, which knows two things: a mark (special token)
 * and a piece of text.  The sink of fg_chat_render appends both as text; that of fg_chat_encode
 * gathers text until the next mark and encodes it in one go, because words may reach across the
 * seam of markup and content ("\n" and a following newline are one token).
 */
#include "src/text/chat.h"

#include <string.h>

#include "src/base/utf8.h"

typedef enum mark { MARK_DOCUMENT, MARK_BEGIN, MARK_END, N_MARK } mark;

static const char *const mark_text[N_MARK] = {"<begin_of_document>", "<beginning_of_sentence>",
                                              "<end_of_sentence>"};

/* Strings of the two styles.  The example line lacks quotes in the official style because its
 * template doubles them inside a quoted string, which its language drops. */
static const struct style {
    const char *system, *assistant, *example, *default_system;
} styles[] = {
    {"system ai_setting=assistant\n", "ai name=assistant\n",
     "{name: <tool-name-1>, arguments: <args-json-object-1>}\n", ""},
    {"system ai_setting=MiniMax AI\n", "ai name=MiniMax AI\n",
     "{\"name\": <tool-name>, \"arguments\": <args-json-object>}\n",
     "You are a helpful assistant created by Minimax based on MiniMax-M1 model."},
};

typedef struct sink {
    fg_buf *text; /* render: the result; encode: text since the last mark */
    /* encode only */
    const fg_tokenizer *t;
    fg_tok_state *s;
    fg_ids *ids;
    uint32_t id[N_MARK];
    fg_err *err;
} sink;

static fg_status encode_text(sink *k)
{
    if (k->text->failed) return fg_fail_nomem(k->err, "a conversation");
    const char *text = k->text->len == 0 ? "" : (const char *)k->text->data;
    FG_TRY(fg_tokenizer_encode(k->t, k->s, text, k->text->len, false, k->ids, k->err));
    k->text->len = 0;
    return FG_OK;
}

static fg_status put_id(sink *k, uint32_t id)
{
    FG_TRY(encode_text(k));
    return fg_ids_push(k->ids, id) ? FG_OK : fg_fail_nomem(k->err, "token ids");
}

static fg_status put_mark(sink *k, mark m)
{
    if (k->t != NULL) return put_id(k, k->id[m]);
    fg_buf_put_str(k->text, mark_text[m]);
    return FG_OK;
}

static void put(sink *k, const char *text)
{
    fg_buf_put_str(k->text, text);
}

static fg_status put_part(sink *k, const char *text, size_t n, bool parse_special)
{
    uint32_t id;
    size_t begin, len;
    while (k->t != NULL && parse_special && n > 0 &&
           fg_tokenizer_find_special(k->t, text, n, &id, &begin, &len)) {
        fg_buf_put(k->text, text, begin);
        FG_TRY(put_id(k, id));
        text += begin + len;
        n -= begin + len;
    }
    fg_buf_put(k->text, text, n);
    return FG_OK;
}

/* White space as Python's str.strip() sees it, which the variant's template calls. */
static bool is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static void trim(const char **text, size_t *n)
{
    const uint8_t *p = (const uint8_t *)*text;
    size_t begin = *n, end = 0; /* of what is not white space */
    for (size_t i = 0, len; i < *n; i += len) {
        uint32_t cp;
        len = fg_utf8_next(p + i, *n - i, &cp);
        if (is_space(cp)) continue;
        if (i < begin) begin = i;
        end = i + len;
    }
    *text += begin < end ? begin : 0;
    *n = begin < end ? end - begin : 0;
}

static fg_status put_parts(sink *k, const fg_chat *c, const fg_chat_message *m, size_t n_part)
{
    for (size_t i = 0; i < n_part; i++) {
        const char *text = m->part[i].text;
        size_t n = m->part[i].n;
        if (c->style == FG_CHAT_MINIMAX_AI) trim(&text, &n);
        FG_TRY(put_part(k, text, n, m->part[i].parse_special));
    }
    return FG_OK;
}

static fg_status close_sentence(sink *k)
{
    FG_TRY(put_mark(k, MARK_END));
    put(k, "\n");
    return FG_OK;
}

static fg_status put_system(sink *k, const fg_chat *c)
{
    const struct style *style = &styles[c->style];
    const bool variant = c->style == FG_CHAT_MINIMAX_AI;
    size_t n_text = 0;
    bool given = false; /* a system message counts, if only an empty one */
    for (size_t i = 0; i < c->n_message && (i == 0 || !variant); i++) {
        const fg_chat_message *m = &c->message[i];
        if (m->role != FG_CHAT_SYSTEM) continue;
        const char *text = m->part[0].text;
        size_t n = m->part[0].n;
        if (variant) trim(&text, &n);
        given = true;
        n_text += n;
    }
    const bool use_default = !given && style->default_system[0] != '\0';
    if (n_text == 0 && !use_default) return FG_OK;
    FG_TRY(put_mark(k, MARK_BEGIN));
    put(k, style->system);
    if (use_default) put(k, style->default_system);
    for (size_t i = 0; i < c->n_message && (i == 0 || !variant); i++) {
        if (c->message[i].role == FG_CHAT_SYSTEM) FG_TRY(put_parts(k, c, &c->message[i], 1));
    }
    return close_sentence(k);
}

static fg_status put_tools(sink *k, const fg_chat *c)
{
    if (c->tools == NULL || fg_json_first(c->tools) == NULL) return FG_OK;
    FG_TRY(put_mark(k, MARK_BEGIN));
    put(k, "system tool_setting=tools\nYou are provided with these tools:\n<tools>\n");
    for (const fg_json *t = fg_json_first(c->tools); t != NULL; t = fg_json_next(t)) {
        fg_json_put_node(k->text, t);
        put(k, "\n");
    }
    put(k, "</tools>\n\nIf you need to call tools, please respond with <tool_calls></tool_calls> "
           "XML tags, and provide tool-name and json-object of arguments, following the format "
           "below:\n<tool_calls>\n");
    put(k, styles[c->style].example);
    put(k, "...\n</tool_calls>");
    return close_sentence(k);
}

/* {"name": "...", "arguments": {...}}, the name as it is, like the variant's template. */
static fg_status put_tool_calls(sink *k, const fg_json *calls)
{
    put(k, "<tool_calls>\n");
    for (const fg_json *c = fg_json_first(calls); c != NULL; c = fg_json_next(c)) {
        const fg_json *function = fg_json_get(c, "function");
        if (function == NULL) function = c;
        const char *name;
        const fg_json *arguments = fg_json_get(function, "arguments");
        if (!fg_json_str(fg_json_get(function, "name"), &name) || arguments == NULL) {
            return fg_fail(k->err, FG_EINVAL, "tool call: no name or arguments, expected both");
        }
        put(k, "{\"name\": \"");
        put(k, name);
        put(k, "\", \"arguments\": ");
        fg_json_put_node(k->text, arguments);
        put(k, "}\n");
    }
    put(k, "</tool_calls>");
    return FG_OK;
}

static fg_status put_message(sink *k, const fg_chat *c, const fg_chat_message *m)
{
    const bool official = c->style == FG_CHAT_OFFICIAL;
    if (m->role == FG_CHAT_SYSTEM) return FG_OK; /* in front, by put_system */
    FG_TRY(put_mark(k, MARK_BEGIN));
    switch (m->role) {
    case FG_CHAT_USER:
        put(k, "user name=user\n");
        FG_TRY(put_parts(k, c, m, official ? 1 : m->n_part));
        break;
    case FG_CHAT_ASSISTANT:
        put(k, styles[c->style].assistant);
        if (m->tool_calls != NULL) {
            FG_TRY(put_tool_calls(k, m->tool_calls));
        } else {
            FG_TRY(put_parts(k, c, m, m->n_part));
        }
        break;
    default:
        put(k, "tool name=tools\n");
        for (size_t i = 0; i < m->n_part; i++) {
            const fg_chat_part *p = &m->part[i];
            if (official) {
                put(k, "tool name: ");
                put(k, p->tool);
                put(k, "\n");
            }
            put(k, "tool result: ");
            FG_TRY(put_part(k, p->text, p->n, p->parse_special));
            put(k, "\n\n");
        }
    }
    return close_sentence(k);
}

static fg_status check(const fg_chat *c, fg_err *err)
{
    if (c->style != FG_CHAT_OFFICIAL && c->style != FG_CHAT_MINIMAX_AI) {
        return fg_fail(err, FG_EINVAL, "chat style: %d, expected 0 or 1", (int)c->style);
    }
    if (c->tools != NULL && !fg_json_is_array(c->tools)) {
        return fg_fail(err, FG_EINVAL, "tools: not an array, expected a JSON array of objects");
    }
    for (size_t i = 0; i < c->n_message; i++) {
        const fg_chat_message *m = &c->message[i];
        if (m->role < FG_CHAT_SYSTEM || m->role > FG_CHAT_TOOL) {
            return fg_fail(err, FG_EINVAL, "message %zu: role %d, expected 0 to 3", i,
                           (int)m->role);
        }
        if (m->n_part == 0 && m->tool_calls == NULL) {
            return fg_fail(err, FG_EINVAL, "message %zu: no text, expected at least one part", i);
        }
        if (m->tool_calls != NULL &&
            (c->style == FG_CHAT_OFFICIAL || m->role != FG_CHAT_ASSISTANT ||
             !fg_json_is_array(m->tool_calls))) {
            return fg_fail(err, FG_EINVAL,
                           "message %zu: tool calls, expected an array, from the assistant, in the "
                           "MiniMax AI style; write them into the text",
                           i);
        }
        for (size_t p = 0; p < m->n_part; p++) {
            if (m->role == FG_CHAT_TOOL && c->style == FG_CHAT_OFFICIAL &&
                m->part[p].tool == NULL) {
                return fg_fail(err, FG_EINVAL,
                               "message %zu: tool result %zu without a name, "
                               "expected the tool's name",
                               i, p);
            }
        }
    }
    return FG_OK;
}

static fg_status write_chat(sink *k, const fg_chat *c)
{
    FG_TRY(check(c, k->err));
    FG_TRY(put_mark(k, MARK_DOCUMENT));
    FG_TRY(put_system(k, c));
    FG_TRY(put_tools(k, c));
    for (size_t i = 0; i < c->n_message; i++) FG_TRY(put_message(k, c, &c->message[i]));
    if (c->generate) {
        FG_TRY(put_mark(k, MARK_BEGIN));
        put(k, styles[c->style].assistant);
    }
    return k->t != NULL      ? encode_text(k)
           : k->text->failed ? fg_fail_nomem(k->err, "a conversation")
                             : FG_OK;
}

fg_status fg_chat_render(const fg_chat *c, fg_buf *out, fg_err *err)
{
    sink k = {.text = out, .err = err};
    return write_chat(&k, c);
}

static fg_status find_mark(const fg_tokenizer *t, mark m, uint32_t *id, fg_err *err)
{
    if (fg_tokenizer_find_added(t, mark_text[m], id)) return FG_OK;
    return fg_fail(err, FG_EINVAL, "%s: no token %s, expected MiniMax-M1's chat markup",
                   fg_tokenizer_name(t), mark_text[m]);
}

fg_status fg_chat_end_id(const fg_tokenizer *t, uint32_t *id, fg_err *err)
{
    return find_mark(t, MARK_END, id, err);
}

fg_status fg_chat_encode(const fg_chat *c, const fg_tokenizer *t, fg_tok_state *s, fg_ids *ids,
                         fg_err *err)
{
    const size_t before = ids->len;
    fg_buf text = {0};
    fg_tok_state *own = NULL;
    sink k = {.text = &text, .t = t, .s = s, .ids = ids, .err = err};
    for (int m = 0; m < N_MARK; m++) FG_TRY(find_mark(t, (mark)m, &k.id[m], err));
    if (s == NULL) {
        FG_TRY(fg_tok_state_create(&own, t, err));
        k.s = own;
    }
    const fg_status st = write_chat(&k, c);
    if (st != FG_OK) ids->len = before;
    fg_tok_state_destroy(&own);
    fg_buf_fini(&text);
    return st;
}
