/* SPDX-License-Identifier: MIT
 *
 * Quality cards: what a quantized file lost against its reference on a named text, measured with
 * fg_score_run and kept inside the file (metadata key "quality", JSON), so that the evidence
 * travels with the weights.  A card names the weights it was measured on (hash over all tensor
 * data): a card that came to other weights can be told; and the numerics, so that one made by a
 * program that computed otherwise can.  Figures do not depend on machine, CPU level or threads.
 *
 * Nobody but the user sets a card (fulgur score --against REF --card).
 */
#ifndef FG_SRC_EVAL_QUALITY_H
#define FG_SRC_EVAL_QUALITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/engine/session.h"
#include "src/eval/score.h"

enum {
    FG_MAX_CARD = 32, /* of a file; a further one takes the place of the oldest */
};

/* One model file as a card names it. */
typedef struct fg_card_model {
    uint64_t data_root; /* fg_model_file_data_root */
    double bits;        /* per weight, scales included */
    char type[8];       /* name of the type that holds most weights */
} fg_card_model;

typedef struct fg_card {
    char text[128];     /* name without folder, UTF-8 */
    uint64_t text_hash; /* XXH3-64 of the text's bytes */
    uint64_t text_bytes;
    uint32_t window;   /* tokens */
    bool special;      /* markup in the text counted as such */
    char cache[8];     /* key-value cache of the model: "f32", "f16", "int8" */
    uint32_t numerics; /* fg_kv_numerics of that cache then */
    char version[16];  /* of the program that measured it */
    fg_card_model model, reference;
    fg_score score;
} fg_card;

/* What a card says of a file. */
fg_card_model fg_card_model_of(const fg_model_file *f);

/* The version of the numerics that a card of this cache would have now. */
uint32_t fg_card_numerics(const fg_card *c);

/* "f32", "f16" or "int8": what `choice` means for a session of this engine. */
const char *fg_card_cache_name(const fg_engine *e, fg_kv_choice choice);

/* The cards of a file, oldest first; *cards is freed with fg_mem_free, NULL when there are none.
 * FG_EFORMAT when the entry is no list of cards, FG_ECHECKSUM when it is damaged. */
fg_status fg_card_list(const fg_model_file *f, fg_card **cards, size_t *n, fg_err *err);

/* Adds a card to the file at `path`, in place of the one with the same text hash and window, if
 * there is one; see fg_append_open for errors and cost.  FG_EINVAL when the file now holds other
 * weights than the card names. */
fg_status fg_card_store(const char *path, const fg_card *card, fg_err *err);

/* Appends one card as a JSON object; extra: further members (", \"a\": 1") or "". */
void fg_card_put_json(fg_buf *b, const fg_card *card, const char *extra);

#endif
