/* SPDX-License-Identifier: MIT
 *
 * MiniMax-M1's chat markup, written in C: a conversation becomes token ids (or text).  Two styles:
 * the release's own template, and the variant that other servers ship for it, which names the
 * assistant "MiniMax AI", has a default system text and renders tool calls.
 *
 * Only the markup is made of special tokens.  What a user, a tool or a document says stays text,
 * whatever it spells, unless a part asks for parsing.  Between two special tokens markup and
 * content are encoded as one string, as the reference does with the rendered text; for content that
 * spells no special token the ids are those of the reference.
 */
#ifndef FG_SRC_TEXT_CHAT_H
#define FG_SRC_TEXT_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/base/status.h"
#include "src/text/tokenizer.h"

typedef enum fg_chat_style {
    FG_CHAT_OFFICIAL = 0,   /* chat_template of the released tokenizer_config.json; the default */
    FG_CHAT_MINIMAX_AI = 1, /* "MiniMax AI" variant */
} fg_chat_style;

typedef enum fg_chat_role {
    FG_CHAT_SYSTEM,
    FG_CHAT_USER,
    FG_CHAT_ASSISTANT,
    FG_CHAT_TOOL, /* results of tool calls, one part each */
} fg_chat_role;

typedef struct fg_chat_part {
    const char *text; /* n bytes of UTF-8; may be NULL when n is 0 */
    size_t n;
    const char *tool;   /* FG_CHAT_TOOL, official style: name of the tool; else NULL */
    bool parse_special; /* special tokens spelt in the text count as such; default false */
} fg_chat_part;

/* What the styles do with a message is theirs: official uses the first part of each system and user
 * message and all parts of the others, joins all system messages in front and has no tool calls (a
 * model's earlier call is part of its text); the variant joins all parts, trims white space around
 * each, uses a system message only in first place, and writes the tool calls instead of the
 * text. */
typedef struct fg_chat_message {
    fg_chat_role role;
    const fg_chat_part *part; /* [n_part], n_part >= 1 unless tool_calls */
    size_t n_part;
    const fg_json
        *tool_calls; /* variant, FG_CHAT_ASSISTANT: array of {"name", "arguments"} objects,
                                  bare or as the member "function" of an object; NULL for none */
} fg_chat_message;

typedef struct fg_chat {
    fg_chat_style style;
    const fg_chat_message *message; /* [n_message] */
    size_t n_message;
    const fg_json *tools; /* array of tool descriptions, written as they are; NULL for none */
    bool generate;        /* end with the head of the assistant's next message */
} fg_chat;

/* Appends the rendered text to *out.  Errors: FG_EINVAL (message without a part, ...),
 * FG_ENOMEM. */
fg_status fg_chat_render(const fg_chat *c, fg_buf *out, fg_err *err);

/* Appends the ids to *ids (unchanged on failure).  s as in fg_tokenizer_encode.  FG_EINVAL also
 * when the tokenizer lacks the markup: <begin_of_document>, <beginning_of_sentence>,
 * <end_of_sentence>. */
fg_status fg_chat_encode(const fg_chat *c, const fg_tokenizer *t, fg_tok_state *s, fg_ids *ids,
                         fg_err *err);

/* Id of <end_of_sentence>, which ends a reply. */
fg_status fg_chat_end_id(const fg_tokenizer *t, uint32_t *id, fg_err *err);

#endif
