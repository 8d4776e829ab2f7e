/* SPDX-License-Identifier: MIT
 *
 * Golden vectors for model tests: a golden.safetensors in memory.
 */
#ifndef FG_TESTS_GOLDEN_H
#define FG_TESTS_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct golden {
    size_t n_tok, n_row, n_layer, n_vocab, d, n_used, n_greedy;
    int32_t *ids;     /* [n_tok] */
    int32_t *rows;    /* [n_row] tokens that the arrays below hold; all tokens in a full file */
    float *logits;    /* [n_row][n_vocab] */
    float *hidden;    /* [n_layer][n_row][d]; NULL when absent */
    int32_t *experts; /* [n_expert_layer][n_row][n_used]; NULL when absent */
    float *nll;       /* [n_tok - 1]; NULL when absent */
    int32_t *greedy;  /* [n_greedy]; NULL when absent */
} golden;

/* `prefix`: "" or "chat." for files that hold several.  False with a test failure when
 * unreadable. */
bool golden_load(golden *g, const char *path, const char *prefix);
void golden_free(golden *g);

/* One 64-bit hash a token of logits [n_tok][n_vocab]. */
void golden_hash_tokens(uint64_t *out, const float *logits, size_t n_tok, size_t n_vocab);
/* Text, one hash a line.  False with a test failure when it is not n_tok of them. */
bool golden_hashes_load(uint64_t *out, size_t n_tok, const char *path);
bool golden_hashes_save(const uint64_t *hashes, size_t n_tok, const char *path);
/* The first token whose hashes differ, which it prints with both; n_tok when all are equal. */
size_t golden_first_other(const uint64_t *got, const uint64_t *want, size_t n_tok);

/* Compares what a forward pass shows with the golden hidden states and experts. */
typedef struct golden_watch {
    const golden *g;
    uint32_t n_layer; /* of the model; transformers' files hold embedding and final norm as well */
    double worst;     /* largest relative error (2-norm of a row) of a hidden state */
    size_t n_hidden;  /* rows compared */
    size_t n_expert;  /* selections compared */
    size_t n_wrong;   /* selected experts that the golden file does not name for that token */
} golden_watch;
/* Taps that fill *w; w must outlive them. */
struct fg_taps;
void golden_watch_taps(golden_watch *w, struct fg_taps *taps);

#endif
