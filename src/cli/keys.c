/* SPDX-License-Identifier: MIT
 *
 * Sequences after ECMA-48: CSI with parameters and a final byte, SS3 with one byte, strings (DCS,
 * OSC, APC, PM, SOS) to their end; and what terminals send beside it: F1 to F5 of the Linux
 * console, reports of the mouse, keys of rxvt, xterm's modifyOtherKeys and CSI u.
 */
#include "src/cli/keys.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"

enum { NONE, ESCAPE, CSI, CONSOLE, SS3, STRING, STRING_ESCAPE, PASTE };

enum { ESC = 0x1b, BEL = 7 };

static const char paste_end[] = "\033[201~";

void keys_fini(keys *k)
{
    fg_buf_fini(&k->paste);
}

static void put(keys *k, uint32_t key)
{
    if (k->n_out < sizeof k->out / sizeof k->out[0]) k->out[k->n_out++] = key;
}

bool keys_next(keys *k, uint32_t *key)
{
    if (k->n_out == 0) return false;
    *key = k->out[0];
    memmove(k->out, k->out + 1, --k->n_out * sizeof k->out[0]);
    return true;
}

/* ---- characters ---- */

static void put_character(keys *k, uint32_t cp)
{
    /* a C1 control would be taken for a sequence by the terminal that it is shown on */
    put(k, cp >= 0x80 && cp < 0xa0 ? FG_UTF8_REPLACEMENT : cp);
}

static void feed_character(keys *k, uint8_t byte)
{
    uint32_t cp;
    k->held[k->n_held++] = byte;
    (void)fg_utf8_next(k->held, k->n_held, &cp);
    if (cp == FG_UTF8_CUT) return;
    const size_t n = k->n_held;
    k->n_held = 0;
    if (cp != FG_UTF8_BAD) {
        put_character(k, cp);
    } else {
        put(k, FG_UTF8_REPLACEMENT);
        if (n > 1) feed_character(k, byte); /* it does not belong to what was held */
    }
}

static void flush_character(keys *k)
{
    if (k->n_held > 0) put(k, FG_UTF8_REPLACEMENT);
    k->n_held = 0;
}

/* ---- pasted text ---- */

/* Line ends become line feeds, what is no UTF-8 U+FFFD; so does a zero, which ends C strings. */
static void finish_paste(keys *k)
{
    fg_buf raw = k->paste;
    k->paste = (fg_buf){0};
    raw.len -= sizeof paste_end - 1;
    size_t n = 0;
    for (size_t i = 0; i < raw.len; i++) {
        const uint8_t c = raw.data[i];
        if (c == '\r' && i + 1 < raw.len && raw.data[i + 1] == '\n') continue;
        raw.data[n++] = c == '\r' ? '\n' : c == 0 ? 0xff : c;
    }
    fg_utf8_repair(&k->paste, raw.data, n);
    k->paste.failed = k->paste.failed || raw.failed;
    fg_buf_fini(&raw);
    put(k, KEY_PASTE);
}

static void feed_paste(keys *k, uint8_t byte)
{
    const size_t n = sizeof paste_end - 1;
    fg_buf_u8(&k->paste, byte);
    if (byte != '~' || k->paste.len < n) return;
    if (memcmp(k->paste.data + k->paste.len - n, paste_end, n) != 0) return;
    k->stage = NONE;
    finish_paste(k);
}

/* ---- sequences ---- */

/* Parameters of a CSI: numbers with ';' between them; absent ones are 0. */
static void read_numbers(const keys *k, int number[3])
{
    int at = 0;
    memset(number, 0, 3 * sizeof *number);
    for (size_t i = 0; i + 1 < k->n_sequence && at < 3; i++) {
        const uint8_t c = k->sequence[i];
        if (c == ';') {
            at++;
        } else if (c >= '0' && c <= '9' && number[at] < 100000) {
            number[at] = number[at] * 10 + (c - '0');
        }
    }
}

/* Modifiers are sent as 1 plus shift 1, alt 2, ctrl 4, meta 8: by words goes whatever has alt or
 * ctrl. */
static bool by_words(int modifier)
{
    return modifier > 1 && ((modifier - 1) & ~1) != 0;
}

static void put_arrow(keys *k, uint8_t letter, bool words)
{
    switch (letter) {
    case 'A': put(k, KEY_UP); return;
    case 'B': put(k, KEY_DOWN); return;
    case 'C': put(k, words ? KEY_WORD_RIGHT : KEY_RIGHT); return;
    case 'D': put(k, words ? KEY_WORD_LEFT : KEY_LEFT); return;
    case 'H': put(k, KEY_HOME); return;
    case 'F': put(k, KEY_END); return;
    default: return;
    }
}

static void put_enter(keys *k, int modifier)
{
    put(k, modifier > 1 ? KEY_NEWLINE : '\r');
}

static void finish_csi(keys *k, uint8_t last)
{
    int number[3];
    read_numbers(k, number);
    k->stage = NONE;
    if (last == 'u' && (number[0] == 13 || number[0] == 57414)) put_enter(k, number[1]);
    if (last == '^' && number[0] == 3) put(k, KEY_DELETE_WORD); /* rxvt */
    if (last == 'M' && k->n_sequence == 1) k->n_skip = 3;       /* the mouse, as X10 has it */
    if (last != '~') {
        put_arrow(k, last, by_words(number[1]));
        return;
    }
    switch (number[0]) {
    case 1:
    case 7: put(k, KEY_HOME); return;
    case 4:
    case 8: put(k, KEY_END); return;
    case 3: put(k, by_words(number[1]) ? KEY_DELETE_WORD : KEY_DELETE); return;
    case 27:
        if (number[2] == 13) put_enter(k, number[1]);
        return;
    case 200:
        k->stage = PASTE;
        k->paste.len = 0;
        return;
    default: return;
    }
}

static void feed_csi(keys *k, uint8_t byte)
{
    if (k->n_sequence == 0 && byte == '[') { /* F1 to F5 of the Linux console */
        k->stage = CONSOLE;
        return;
    }
    if (byte < 0x20 || byte > 0x7e) { /* no sequence: a control character is what it is */
        k->stage = NONE;
        keys_feed(k, byte);
        return;
    }
    if (k->n_sequence < KEYS_SEQUENCE) k->sequence[k->n_sequence++] = byte;
    if (byte == '$' && k->n_sequence > 1) { /* rxvt: a key with shift */
        k->stage = NONE;
    } else if (byte >= 0x40) {
        finish_csi(k, byte);
    }
}

static void feed_ss3(keys *k, uint8_t byte)
{
    if (byte >= '0' && byte <= '9') return; /* some put modifiers here */
    k->stage = NONE;
    if (byte < 0x20 || byte > 0x7e) {
        keys_feed(k, byte);
    } else if (byte == 'M') {
        put(k, '\r');
    } else if (byte == 'c' || byte == 'd') { /* rxvt with ctrl */
        put_arrow(k, (uint8_t)(byte - 'a' + 'A'), true);
    } else {
        put_arrow(k, byte, false);
    }
}

static void feed_escape(keys *k, uint8_t byte)
{
    k->n_sequence = 0;
    k->stage = NONE;
    switch (byte) {
    case ESC: k->stage = ESCAPE; return; /* the first one was a key of its own */
    case '[': k->stage = CSI; return;
    case 'O': k->stage = SS3; return;
    case 'P':
    case ']':
    case '_':
    case '^':
    case 'X': k->stage = STRING; return;
    case '\r':
    case '\n': put(k, KEY_NEWLINE); return;
    default: break;
    }
    if (byte >= 0x80 || (byte < 0x20 && byte != '\b')) { /* Alt means nothing to these */
        keys_feed(k, byte);
        return;
    }
    put(k, KEY_META);
    put(k, byte);
}

void keys_feed(keys *k, uint8_t byte)
{
    if (k->n_skip > 0) {
        k->n_skip--;
        return;
    }
    switch (k->stage) {
    case ESCAPE: feed_escape(k, byte); return;
    case CSI: feed_csi(k, byte); return;
    case CONSOLE: k->stage = NONE; return;
    case SS3: feed_ss3(k, byte); return;
    case STRING:
        if (byte == BEL) k->stage = NONE;
        if (byte == ESC) k->stage = STRING_ESCAPE;
        return;
    case STRING_ESCAPE: k->stage = byte == '\\' ? NONE : STRING; return;
    case PASTE: feed_paste(k, byte); return;
    default: break;
    }
    if (byte == ESC) {
        flush_character(k);
        k->stage = ESCAPE;
    } else {
        feed_character(k, byte);
    }
}

int keys_patience(const keys *k)
{
    /* A key's bytes come together, but a slow line may tear them; a lone escape is answered when
     * it is clear that it was one. */
    enum { ALONE = 100, TORN = 1000, BURST = 50 };
    if (k->stage == PASTE) return 0;
    if (k->stage == ESCAPE) return ALONE;
    /* a terminal's answer; somebody who pressed Alt-P goes on typing, but not as fast */
    if (k->stage == STRING || k->stage == STRING_ESCAPE) return BURST;
    return k->stage != NONE || k->n_held > 0 || k->n_skip > 0 ? TORN : 0;
}

void keys_expire(keys *k)
{
    k->stage = NONE;
    k->n_skip = 0;
    flush_character(k);
}
