/* SPDX-License-Identifier: MIT
 *
 * What the commands of factor share: the ratings and their parts.
 */
#ifndef FG_SRC_CLI_FACTOR_H
#define FG_SRC_CLI_FACTOR_H

#include "src/cli/args.h"
#include "src/factor/ratings.h"
#include "src/factor/train.h"

extern const command cmd_factor_compare;

typedef enum factor_order { FACTOR_GRID, FACTOR_FILE, FACTOR_ORDERS } factor_order;

/* How parameters are found. */
typedef enum factor_adapt {
    FACTOR_FIXED,
    FACTOR_SWARM,
    FACTOR_OFFLINE,
    FACTOR_ADAPTS
} factor_adapt;

typedef struct factor_request {
    const char *ratings, *valid, *test, *split, *save_split, *set, *out, *plot;
    fg_factor_algo algo;
    fg_hdi_repeats repeats;
    factor_order order;
    factor_adapt adapt;
    uint32_t rank, n_thread, patience, max_epoch, seeds, folds;
    uint64_t seed, budget;
    bool bias, json, force, trace;
} factor_request;

factor_request factor_request_default(void);

/* Of both train and compare. */
#define FACTOR_OPTS(q)                                                                             \
    {"rank", 'r', OPT_U32, &(q).rank, 1, 64, "N", "factors of a user and of an item"},             \
        {"bias", 'b', OPT_FLAG, &(q).bias, 0, 0, NULL, "with a mean and biases"},                  \
        {"split",                                                                                  \
         0,                                                                                        \
         OPT_STR,                                                                                  \
         &(q).split,                                                                               \
         0,                                                                                        \
         0,                                                                                        \
         "A/B/C|time",                                                                             \
         "shares to train, validate, test (default: 70/10/20); time: earliest first"},             \
        {"duplicates",                                                                             \
         0,                                                                                        \
         OPT_CHOICE,                                                                               \
         CHOICE((q).repeats, fg_hdi_repeats_name, FG_HDI_REPEATS_COUNT),                           \
         0,                                                                                        \
         0,                                                                                        \
         "WHICH",                                                                                  \
         "of ratings of one pair: which counts"},                                                  \
        {"seed", 0, OPT_U64, &(q).seed, 0, 1e15, "N", "of split, start and order"},                \
        {"patience", 0,    OPT_U32, &(q).patience,                                                 \
         1,          1000, "N",     "epochs without a gain of 1e-5 before it stops"},              \
        {"epochs", 0, OPT_U32, &(q).max_epoch, 1, 100000, "N", "at most"},                         \
        {"budget", 0,   OPT_U64, &(q).budget,                                                      \
         0,        1e9, "N",     "passes to tune an algorithm's parameters (default: 20000)"},     \
        {"threads", 't',                                                                           \
         OPT_U32,   &(q).n_thread,                                                                 \
         1,         1024,                                                                          \
         "N",       "threads (default: physical cores); results do not depend on them"},           \
    {                                                                                              \
        "json", 0, OPT_FLAG, &(q).json, 0, 0, NULL, "report as JSON on stdout"                     \
    }

/* Reads the file into r. */
fg_status factor_read(const char *path, bool pairs, fg_hdi_repeats how, fg_ratings *r, fg_err *err);
/* Cuts ratings in three as the request says, for a seed and, of folds, a fold.  take: r's entries
 * are gone. */
fg_status factor_cut(const factor_request *q, fg_ratings *r, uint64_t seed, uint32_t fold,
                     bool take, fg_hdi part[3], fg_err *err);
bool factor_by_time(const factor_request *q);
fg_factor_opts factor_opts(const factor_request *q, fg_factor_algo algo, uint64_t seed);

/* factor_trace.c: with --trace; ratings names the traces. */
fg_status factor_train_trace(const factor_request *q, fg_err *err);

#endif
