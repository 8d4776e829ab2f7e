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

/* `prefix`: "" or "chat." for files that hold several.  False with a test failure when unreadable. */
bool golden_load(golden *g, const char *path, const char *prefix);
void golden_free(golden *g);

/* Row index of token t, or -1. */
int64_t golden_row(const golden *g, uint64_t t);

#endif
