/* SPDX-License-Identifier: MIT
 *
 * From the bytes that a terminal sends to keys: characters of UTF-8, the keys that the line editor
 * knows, and pasted text as a whole.  Sequences of any other key give nothing, so that nothing of
 * them is typed.  No input or output: whoever reads the bytes also knows when no more have come.
 */
#ifndef FG_SRC_CLI_KEYS_H
#define FG_SRC_CLI_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"

/* A key is a code point (control characters as they are; FG_UTF8_REPLACEMENT for what is no UTF-8),
 * KEY_META before one that was typed with Alt, or one of these. */
enum {
    KEY_META = 0x1b,
    KEY_FIRST = 0x110000,
    KEY_UP = KEY_FIRST,
    KEY_DOWN,
    KEY_LEFT,
    KEY_RIGHT,
    KEY_HOME,
    KEY_END,
    KEY_DELETE,
    KEY_WORD_LEFT,
    KEY_WORD_RIGHT,
    KEY_DELETE_WORD,
    KEY_NEWLINE, /* Alt-Enter, and Shift-Enter where the terminal tells it from Enter */
    KEY_PASTE,   /* keys.paste has the text */
};

enum { KEYS_SEQUENCE = 64 }; /* bytes of an escape sequence; longer ones are cut short */

/* Zero-initialise; free with keys_fini. */
typedef struct keys {
    int stage;                       /* of an escape sequence; 0: none */
    uint8_t sequence[KEYS_SEQUENCE]; /* from behind the escape on */
    size_t n_sequence;
    int n_skip;      /* bytes of a mouse report to come */
    uint8_t held[4]; /* an unfinished character */
    size_t n_held;
    uint32_t out[4];
    size_t n_out;
    fg_buf paste; /* while and after it comes */
} keys;

void keys_fini(keys *k);

/* Takes one byte; then keys_next until it is false. */
void keys_feed(keys *k, uint8_t byte);
/* The next key.  After KEY_PASTE the text, UTF-8 with line feeds alone at line ends, is in
 * k->paste until the next byte is fed. */
bool keys_next(keys *k, uint32_t *key);

/* Milliseconds after which nothing more of what has begun is to be expected; 0: nothing has begun,
 * or text is being pasted, which may take any time. */
int keys_patience(const keys *k);
/* That time is over: what had begun is dropped, or, of a character, shown as such. */
void keys_expire(keys *k);

#endif
