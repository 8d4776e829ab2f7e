/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/fp.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/factor.h"
#include "src/factor/factor_file.h"
#include "src/factor/ranking.h"
#include "src/factor/tune.h"

static int run(int argc, char **argv);
static int run_train(int argc, char **argv);
static int run_predict(int argc, char **argv);
static int run_export(int argc, char **argv);

static const command cmd_export = {
    .name = "factor export",
    .summary = "factors as .npy and lists of ids",
    .synopsis = "FACTORS DIR",
    .example = "fulgur factor export films.factors films",
    .description =
        "Writes into a folder, which is made when it is not there, the factors of users and items "
        "as `users.npy` and `items.npy` (float32, a row each), with biases `user_bias.npy` and "
        "`item_bias.npy`, and the ids of the rows, one a line, as `users.txt` and `items.txt`. "
        "Files of these names that are there already stay, unless with `--force`.",
    .sub = &cmd_factor_compare,
    .run = run_export,
};

static const command cmd_predict = {
    .name = "factor predict",
    .summary = "ratings that a model expects, or a user's best items",
    .synopsis = "FACTORS PAIRS",
    .example = "fulgur factor predict films.factors pairs.txt\n"
               "fulgur factor predict films.factors ratings.tsv --user 196 --top 10\n"
               "fulgur factor predict films.factors parts/train.tsv --test parts/test.tsv",
    .description =
        "Prints for each line `user item` of PAIRS (more fields do no harm) user, item and "
        "the rating expected, not clipped. Users and items that training has not seen get the "
        "mean, and are counted on standard error.\n"
        "With `--user` PAIRS are that user's ratings (other users' are left aside), and the "
        "best `--top` items that are not among them are printed, best first; ties go to the item "
        "that came first in training.\n"
        "With `--test` such lists are judged by ratings that were held back (of all users, or of "
        "`--user`): means over users of the share of the list that is wanted, the share of what "
        "is wanted that is in the list, and the gain discounted by position (NDCG, gains 0 or 1).",
    .sub = &cmd_export,
    .run = run_predict,
};

static const command cmd_train = {
    .name = "factor train",
    .summary = "latent factors of users and items from ratings",
    .synopsis = "RATINGS",
    .example = "fulgur factor train ratings.tsv -o films.factors\n"
               "fulgur factor train ratings.csv --algorithm sgd --set eta=.002,lambda=.07 --json\n"
               "fulgur factor train a.tsv --valid b.tsv --test c.tsv --bias",
    .description =
        "Reads ratings, a line `user item rating [time]` each, with spaces, tabs, `::`, commas or "
        "semicolons between; ids are any text, a first line of names is skipped. Trains on one "
        "part until the error on the second no longer falls, and says the error on the third. "
        "Ratings are explicit: what was not rated is unknown, not zero, and a file whose ratings "
        "are all the same is refused. `--split time` trains on the earliest.\n"
        "`sgd` is plain stochastic gradient descent; `psl`, `npid`, `ads` and `ads-cheap` refine "
        "each error by a controller with a state for each rating. Defaults of their parameters "
        "were "
        "tuned at rank 20 on one set of films without biases; `--set` changes them, and `--adapt` "
        "finds them by particle swarms: `offline` by many runs on these parts, `--budget` passes "
        "together, of which the most accurate is trained again; `swarm` as NPALF is published, "
        "five particles training one model in turn, each worth its share of what the round "
        "gained. Passes are counted.\n"
        "With `--trace` it reads routing traces of `fulgur trace`, as `T` or `T,U,...`, and writes "
        "a "
        "model for `--predict factor` of the commands that run within `--ram`: which experts each "
        "token of the text used, and what the layers of a token say of those to come. It is bound "
        "to the weights that the traces are of.\n"
        "Try it: awk 'BEGIN { for (u = 0; u < 200; u++) for (i = u % 7; i < 300; i += 7) "
        "print u, i, 1 + (u * i) % 5 }' >ratings.txt; fulgur factor train ratings.txt -o r.factors",
    .sub = &cmd_predict,
    .run = run_train,
};

const command cmd_factor = {
    .name = "factor",
    .summary = "latent factors of ratings: train, predict, export, compare",
    .synopsis = "",
    .example = "fulgur factor train ratings.tsv -o films.factors\n"
               "fulgur factor predict films.factors pairs.txt",
    .description = "Latent-factor models of incomplete matrices. See `fulgur factor train`, "
                   "`fulgur factor predict`, `fulgur factor export` and `fulgur factor compare`.",
    .sub = &cmd_train,
    .run = run,
};

static int run(int argc, char **argv)
{
    int status;
    if (!args_parse_table(&cmd_factor, NULL, 0, argc, argv, NULL, 0, &status)) return status;
    return args_usage(&cmd_factor, "nothing to do, expected train, predict, export or compare");
}

/* ---- shared with compare ---- */

factor_request factor_request_default(void)
{
    const fg_factor_opts o = fg_factor_opts_default(FG_ALGO_ADS_CHEAP, false);
    return (factor_request){.algo = o.algo,
                            .rank = o.rank,
                            .patience = o.patience,
                            .max_epoch = o.max_epoch,
                            .split = "70/10/20",
                            .seed = 1,
                            .seeds = 3,
                            .budget = 20000};
}

static const char *order_name(unsigned value)
{
    static const char *const name[] = {"grid", "file"};
    return value < FACTOR_ORDERS ? name[value] : NULL;
}

static const char *adapt_name(unsigned value)
{
    static const char *const name[] = {"fixed", "swarm", "offline"};
    return value < FACTOR_ADAPTS ? name[value] : NULL;
}

fg_status factor_read(const char *path, bool pairs, fg_hdi_repeats how, fg_ratings *r, fg_err *err)
{
    FG_TRY(fg_ratings_read(r, path, pairs, how, err));
    if (r->m.n > 0) return FG_OK;
    return fg_fail(err, FG_EFORMAT, "%s: no ratings, expected lines of user, item and rating",
                   path);
}

bool factor_by_time(const factor_request *q)
{
    return strncmp(q->split, "time", 4) == 0;
}

/* "70/10/20", "time" or "time:70/10/20". */
static fg_status parse_cut(const factor_request *q, fg_ratings_cut *c, fg_err *err)
{
    const char *s = q->split;
    char more;
    *c = (fg_ratings_cut){.share = {70, 10, 20}, .by_time = factor_by_time(q)};
    if (c->by_time) s += s[4] == ':' ? 5 : 4;
    if (c->by_time && *s == '\0' && q->split[4] == '\0') return FG_OK;
    if (sscanf(s, "%lf/%lf/%lf%c", &c->share[0], &c->share[1], &c->share[2], &more) == 3 &&
        c->share[0] > 0.0 && c->share[1] > 0.0 && c->share[2] > 0.0 &&
        c->share[0] + c->share[1] + c->share[2] < 1e9) {
        return FG_OK;
    }
    return fg_fail(err, FG_EINVAL,
                   "--split %s, expected three shares such as 70/10/20, time, or time:70/10/20",
                   q->split);
}

static fg_status save_parts(const factor_request *q, const fg_ratings *r, const uint8_t *to,
                            fg_err *err);

fg_status factor_cut(const factor_request *q, fg_ratings *r, uint64_t seed, uint32_t fold,
                     bool take, fg_hdi part[3], fg_err *err)
{
    fg_ratings_cut c;
    const uint64_t n = r->m.n;
    FG_TRY(parse_cut(q, &c, err));
    c.seed = seed;
    c.n_fold = q->folds;
    c.fold = fold;
    uint8_t *to = fg_mem_zalloc((size_t)n + 1);
    if (to == NULL) return fg_fail_nomem(err, "split");
    fg_status st = fg_ratings_deal(r, &c, to, err);
    if (st == FG_OK && q->save_split != NULL) st = save_parts(q, r, to, err);
    if (st == FG_OK) st = fg_ratings_parts(r, to, take, part, err);
    fg_mem_free(to);
    FG_TRY(st);
    if (part[0].n > 0 && part[1].n > 0 && part[2].n > 0) return FG_OK;
    for (int k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
    return fg_fail(err, FG_EINVAL, "%s: %" PRIu64 " ratings, expected enough for three parts",
                   q->ratings, n);
}

fg_factor_opts factor_opts(const factor_request *q, fg_factor_algo algo, uint64_t seed)
{
    fg_factor_opts o = fg_factor_opts_default(algo, q->bias);
    o.rank = q->rank;
    o.seed = seed;
    o.patience = q->patience;
    o.max_epoch = q->max_epoch;
    o.file_order = q->order == FACTOR_FILE;
    return o;
}

static fg_status make_dir(const char *dir, fg_err *err)
{
    if (fg_io_is_dir(dir) || mkdir(dir, 0777) == 0) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: not made, expected a folder or a new name", dir);
}

/* ---- train ---- */

static void put_line(FILE *f, const fg_ratings *r, uint64_t i)
{
    const fg_hdi_entry *e = &r->m.entry[i];
    (void)fprintf(f, "%s\t%s\t%.9g", fg_id_text(&r->user, e->row), fg_id_text(&r->item, e->col),
                  (double)e->value);
    if (r->time != NULL && !isnan(r->time[i])) (void)fprintf(f, "\t%.17g", r->time[i]);
    (void)fputc('\n', f);
}

static fg_status save_part(const factor_request *q, const fg_ratings *r, const uint8_t *to,
                           uint8_t part, fg_err *err)
{
    static const char *const name[] = {"train.tsv", "valid.tsv", "test.tsv"};
    fg_new_file file = {0};
    char *path = fg_io_join(q->save_split, name[part]);
    if (path == NULL) return fg_fail_nomem(err, "name");
    fg_status st = check_output(path, q->force, &q->ratings, 1, err);
    if (st == FG_OK) st = fg_new_file_open(&file, path, err);
    for (uint64_t i = 0; st == FG_OK && i < r->m.n; i++) {
        if (to[i] == part) put_line(file.f, r, i);
    }
    if (st == FG_OK && (fflush(file.f) != 0 || ferror(file.f))) {
        st = fg_fail(err, FG_EIO, "%s: not written, expected room for it", path);
    }
    if (st == FG_OK) st = fg_new_file_commit(&file, err);
    fg_new_file_close(&file);
    fg_mem_free(path);
    return st;
}

static bool has_tab(const fg_id_table *t)
{
    return t->n_text > 0 && memchr(t->text, '\t', t->n_text) != NULL;
}

static fg_status save_parts(const factor_request *q, const fg_ratings *r, const uint8_t *to,
                            fg_err *err)
{
    if (has_tab(&r->user) || has_tab(&r->item)) {
        return fg_fail(err, FG_EINVAL, "--save-split: an id with a tab in it, expected none");
    }
    FG_TRY(make_dir(q->save_split, err));
    for (uint8_t k = 0; k < 3; k++) FG_TRY(save_part(q, r, to, k, err));
    return FG_OK;
}

static bool show(void *ctx, const fg_factor_run *r)
{
    progress *p = ctx;
    (void)snprintf(p->note, sizeof p->note, "RMSE %.4f, best %.4f", r->curve[r->n_epoch - 1].rmse,
                   r->best_rmse);
    return progress_show(p, r->n_epoch, 0);
}

/* A part of its own file, with the ids of r. */
static fg_status read_part(const char *path, const factor_request *q, fg_ratings *r, fg_hdi *part,
                           fg_err *err)
{
    fg_ratings more = {.user = r->user, .item = r->item, .no_time = true};
    const fg_status st = factor_read(path, false, q->repeats, &more, err);
    r->user = more.user;
    r->item = more.item;
    r->n_repeat += more.n_repeat;
    more.user = more.item = (fg_id_table){0};
    *part = more.m;
    more.m = (fg_hdi){0};
    fg_ratings_fini(&more);
    return st;
}

static fg_status read_parts(const factor_request *q, fg_ratings *r, fg_hdi part[3], fg_err *err)
{
    r->no_time = q->valid != NULL || (q->save_split == NULL && !factor_by_time(q));
    FG_TRY(factor_read(q->ratings, false, q->repeats, r, err));
    FG_TRY(fg_ratings_explicit(&r->m, q->ratings, err));
    if (q->valid == NULL) {
        cli_catch_interrupt(); /* not before: a pipe may be silent */
        return factor_cut(q, r, q->seed, 0, true, part, err);
    }
    part[0] = r->m;
    r->m = (fg_hdi){0};
    FG_TRY(read_part(q->valid, q, r, &part[1], err));
    FG_TRY(read_part(q->test, q, r, &part[2], err));
    for (int k = 0; k < 3; k++) {
        part[k].n_row = r->user.n;
        part[k].n_col = r->item.n;
    }
    cli_catch_interrupt();
    return FG_OK;
}

/* As --set takes them. */
static void print_params(const fg_factor_opts *o)
{
    const fg_factor_algorithm *a = fg_factor_algorithm_get(o->algo);
    printf("parameters: --set ");
    for (uint32_t i = 0; i < a->n_param; i++) {
        printf("%s%s=%.6g", i == 0 ? "" : ",", a->param[i].name, o->param[i]);
    }
    puts("");
}

static void print_trained(const factor_request *q, const fg_ratings *r, const uint64_t n[3],
                          const fg_factor_run *f, const fg_factor_score *s, uint64_t tuning)
{
    const double seconds = f->curve[f->n_epoch - 1].seconds;
    if (q->json) {
        printf("{\"algorithm\": \"%s\", \"rank\": %u, \"bias\": %s, \"users\": %u, \"items\": %u, "
               "\"train\": %" PRIu64 ", \"valid\": %" PRIu64 ", \"test\": %" PRIu64
               ", \"duplicates\": %" PRIu64 ", \"unmet\": %" PRIu64 ", \"valid_rmse\": %.6f, "
               "\"rmse\": %.6f, \"rmse_clipped\": %.6f, \"mae\": %.6f, \"epochs\": %u, "
               "\"passes\": %u, \"tuning_passes\": %" PRIu64
               ", \"seconds\": %.4f, \"pass_seconds\": %.4f",
               fg_factor_algo_name(q->algo), q->rank, q->bias ? "true" : "false", r->user.n,
               r->item.n, n[0], n[1], n[2], r->n_repeat, s->n_unmet, f->best_rmse, s->rmse,
               s->rmse_clipped, s->mae, f->best, f->n_epoch, tuning, seconds, f->pass_seconds);
        if (s->n > s->n_unmet) printf(", \"rmse_met\": %.6f", s->rmse_met);
        puts("}");
        return;
    }
    printf("%s, rank %u, %s: %s users, %s items; %s ratings to train, %s to validate, ",
           fg_factor_algo_name(q->algo), q->rank, q->bias ? "with biases" : "no biases",
           cli_count(r->user.n), cli_count(r->item.n), cli_count(n[0]), cli_count(n[1]));
    printf("%s to test\n", cli_count(n[2]));
    if (r->n_repeat > 0) printf("%s duplicates united\n", cli_count(r->n_repeat));
    if (tuning > 0) printf("parameters tuned in %s passes\n", cli_count(tuning));
    printf("validation: RMSE %.4f after %u epochs of %u passes, %.2f s\n", f->best_rmse, f->best,
           f->n_epoch, seconds);
    printf("test: RMSE %.4f (clipped to the range of ratings %.4f), MAE %.4f\n", s->rmse,
           s->rmse_clipped, s->mae);
    if (s->n_unmet > 0) {
        printf("  %s of them have a user or an item that training has not, and get the mean",
               cli_count(s->n_unmet));
        if (s->n > s->n_unmet) printf("; without them RMSE %.4f", s->rmse_met);
        puts("");
    }
}

static bool show_tuning(void *ctx, uint64_t passes)
{
    return progress_show(ctx, passes, 0);
}

/* Parameters of the best of many short runs. */
static fg_status tune(const factor_request *q, const fg_hdi part[3], const fg_factor_machine *on,
                      fg_factor_opts *o, uint64_t *passes, fg_err *err)
{
    fg_factor_tuning t = {0};
    progress p;
    progress_start(&p, "tune", "passes");
    fg_status st = fg_factor_tune(&t, &part[0], &part[1], o, q->budget, 2e-6, &on->k, on->team,
                                  show_tuning, &p, err);
    progress_end(&p);
    const fg_factor_trial *best = st == FG_OK ? fg_factor_tuning_best(&t, 2e-6) : NULL;
    if (best != NULL) memcpy(o->param, best->param, sizeof o->param);
    *passes = t.passes;
    fg_factor_tuning_fini(&t);
    return st;
}

static fg_status learn(const factor_request *q, fg_hdi part[3], const fg_factor_machine *on,
                       fg_factor_opts *o, fg_factor_run *f, uint64_t *tuning, fg_err *err)
{
    progress p;
    if (q->adapt == FACTOR_OFFLINE) FG_TRY(tune(q, part, on, o, tuning, err));
    progress_start(&p, "train", "epoch");
    const fg_status st =
        q->adapt == FACTOR_SWARM
            ? fg_factor_train_swarm(f, &part[0], &part[1], o, 5, &on->k, on->team, show, &p, err)
            : fg_factor_train_taking(f, &part[0], &part[1], o, &on->k, on->team, show, &p, err);
    progress_end(&p);
    return st;
}

static fg_status judge(const fg_factor_model *m, const fg_hdi *h, const fg_factor_machine *on,
                       fg_factor_score *out, fg_err *err)
{
    fg_visits list = {0};
    fg_status st = fg_visits_list(&list, h, err);
    if (st == FG_OK) st = fg_factor_judge(m, &list, &on->k, on->team, out, err);
    fg_visits_fini(&list);
    return st;
}

static fg_status train(const factor_request *q, fg_err *err)
{
    fg_ratings r = {0};
    fg_hdi part[3] = {{0}};
    fg_factor_machine on = {0};
    fg_factor_run f = {0};
    fg_factor_score s = {0};
    uint64_t tuning = 0;
    fg_factor_opts o = factor_opts(q, q->algo, q->seed);
    fg_status st = q->set == NULL ? FG_OK : fg_factor_opts_set(&o, q->set, err);
    if (st == FG_OK) st = read_parts(q, &r, part, err);
    const uint64_t n[3] = {part[0].n, part[1].n, part[2].n};
    if (st == FG_OK) st = fg_factor_machine_open(&on, q->n_thread, err);
    if (st == FG_OK) st = learn(q, part, &on, &o, &f, &tuning, err);
    if (st == FG_OK) st = judge(f.model, &part[2], &on, &s, err);
    if (st == FG_OK && q->out != NULL) st = fg_factor_save(q->out, f.model, &r.user, &r.item, err);
    if (st == FG_OK) print_trained(q, &r, n, &f, &s, tuning);
    if (st == FG_OK && q->adapt == FACTOR_OFFLINE && !q->json) print_params(&o);
    fg_factor_run_fini(&f);
    fg_factor_machine_close(&on);
    for (int k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
    fg_ratings_fini(&r);
    return st;
}

/* An option that says nothing of traces; NULL: none was given. */
static const char *not_of_traces(const factor_request *q)
{
    const factor_request d = factor_request_default();
    const struct {
        bool given;
        const char *name;
    } option[] = {{q->set != NULL, "--set"},
                  {q->valid != NULL, "--valid"},
                  {q->order != d.order, "--order"},
                  {q->adapt != d.adapt, "--adapt"},
                  {q->save_split != NULL, "--save-split"},
                  {q->bias, "--bias"},
                  {strcmp(q->split, d.split) != 0, "--split"},
                  {q->repeats != d.repeats, "--duplicates"},
                  {q->patience != d.patience, "--patience"},
                  {q->budget != d.budget, "--budget"}};
    for (size_t i = 0; i < sizeof option / sizeof option[0]; i++) {
        if (option[i].given) return option[i].name;
    }
    return NULL;
}

static bool is_stdin(const char *path)
{
    return path != NULL && strcmp(path, "-") == 0;
}

static int run_train(int argc, char **argv)
{
    factor_request q = factor_request_default();
    const opt opts[] = {
        {"out", 'o', OPT_STR, &q.out, 0, 0, "FACTORS", "write the model to this file"},
        FORCE_OPT(q.force),
        {"algorithm", 'a', OPT_CHOICE, CHOICE(q.algo, fg_factor_algo_name, FG_ALGO_COUNT), 0, 0,
         "NAME", "how errors become steps"},
        {"set", 0, OPT_STR, &q.set, 0, 0, "NAME=X,...", "parameters of the algorithm"},
        {"valid", 0, OPT_STR, &q.valid, 0, 0, "FILE", "with --test, ratings to validate"},
        {"test", 0, OPT_STR, &q.test, 0, 0, "FILE", "with --valid, ratings to test; no split"},
        {"order", 0, OPT_CHOICE, CHOICE(q.order, order_name, FACTOR_ORDERS), 0, 0, "ORDER",
         "of ratings in an epoch; file: as they stand there, on one thread"},
        {"adapt", 0, OPT_CHOICE, CHOICE(q.adapt, adapt_name, FACTOR_ADAPTS), 0, 0, "HOW",
         "parameters: as they are, by a swarm as it learns, or tuned before"},
        {"save-split", 0, OPT_STR, &q.save_split, 0, 0, "DIR",
         "write train.tsv, valid.tsv and test.tsv there"},
        {"trace", 0, OPT_FLAG, &q.trace, 0, 0, NULL,
         "the operand is a trace, or several with commas: learn which experts tokens use"},
        FACTOR_OPTS(q),
    };
    int status;
    if (!args_parse(&cmd_train, opts, sizeof opts / sizeof opts[0], argc, argv, &q.ratings, 1,
                    &status)) {
        return status;
    }
    if ((q.valid == NULL) != (q.test == NULL)) {
        return args_usage(&cmd_train, "one of --valid and --test, expected both or none");
    }
    if (q.valid != NULL && q.save_split != NULL) {
        return args_usage(&cmd_train, "--save-split with --valid, expected a split of one file");
    }
    if (is_stdin(q.ratings) + is_stdin(q.valid) + is_stdin(q.test) > 1) {
        return args_usage(&cmd_train, "-, standard input, more than once, expected one file of it");
    }
    const char *foreign = q.trace ? not_of_traces(&q) : NULL;
    if (foreign != NULL) {
        return args_usage(&cmd_train, "%s with --trace, expected one of them", foreign);
    }
    fg_err err = {0};
    if (q.trace) cli_catch_interrupt();
    fg_status st =
        check_output(q.out, q.force, (const char *[]){q.ratings, q.valid, q.test}, 3, &err);
    if (st == FG_OK) st = q.trace ? factor_train_trace(&q, &err) : train(&q, &err);
    if (st != FG_OK) return cli_fail(&err);
    return q.out == NULL ? cli_finish_stdout() : cli_finish_made("factor train", q.out);
}

/* ---- predict ---- */

typedef struct model_ids {
    fg_id_table user, item;
} model_ids;

typedef struct top_request {
    const char *user, *test;
    uint32_t top;
    double relevant; /* NaN: the mean of training */
} top_request;

/* Numbers that the model gives ids: ids of `of` by those of the model's table; UINT32_MAX: none. */
static uint32_t number_in(const fg_id_table *model, const fg_id_table *of, uint32_t id)
{
    const char *s = fg_id_text(of, id);
    return fg_id_find(model, s, strlen(s));
}

/* Entries in the model's numbers; what it has no number for is left out. */
static fg_status renumber(fg_hdi *h, const fg_ratings *r, const model_ids *ids, fg_err *err)
{
    for (uint64_t i = 0; i < r->m.n; i++) {
        const fg_hdi_entry *e = &r->m.entry[i];
        const uint32_t row = number_in(&ids->user, &r->user, e->row);
        const uint32_t col = number_in(&ids->item, &r->item, e->col);
        if (row == UINT32_MAX || col == UINT32_MAX) continue;
        FG_TRY(fg_hdi_add(h, row, col, e->value, err));
    }
    return FG_OK;
}

static fg_status print_top(const fg_factor_model *m, const model_ids *ids, uint32_t row,
                           fg_hdi *rated, uint32_t top, fg_err *err)
{
    uint32_t n = 0;
    fg_ranked *list = fg_mem_zalloc_array((size_t)top + 1, sizeof *list);
    if (list == NULL) return fg_fail_nomem(err, "items");
    const fg_status st = fg_factor_top(m, row, rated, top, list, &n, err);
    for (uint32_t i = 0; st == FG_OK && i < n; i++) {
        printf("%s\t%.4f\n", cli_shown(fg_id_text(&ids->item, list[i].col)), (double)list[i].value);
    }
    fg_mem_free(list);
    return st;
}

/* How good the lists are by ratings that were held back. */
static fg_status print_ranking(const fg_factor_model *m, const model_ids *ids, uint32_t row,
                               fg_hdi *rated, const top_request *q, fg_err *err)
{
    fg_ratings r = {.no_time = true};
    fg_hdi test = {0};
    fg_ranking k = {0};
    const double relevant = isnan(q->relevant) ? (double)m->mean : q->relevant;
    fg_status st = factor_read(q->test, false, FG_HDI_LAST, &r, err);
    if (st == FG_OK) st = renumber(&test, &r, ids, err);
    if (st == FG_OK) st = fg_factor_rank(m, rated, &test, row, q->top, relevant, &k, err);
    if (st == FG_OK && k.n_user == 0) {
        st = fg_fail(err, FG_EINVAL,
                     "%s: no rating of %g or more by a user that training met, besides those in "
                     "PAIRS, expected some",
                     q->test, relevant);
    }
    if (st == FG_OK) {
        printf("%s users with ratings of %.4g or more: precision@%u %.4f, recall@%u %.4f, ",
               cli_count(k.n_user), relevant, q->top, k.precision, q->top, k.recall);
        printf("NDCG@%u %.4f\n", q->top, k.ndcg);
    }
    fg_hdi_fini(&test);
    fg_ratings_fini(&r);
    return st;
}

static fg_status rank_items(const fg_factor_model *m, const model_ids *ids, const fg_ratings *r,
                            const top_request *q, fg_err *err)
{
    fg_hdi rated = {0};
    uint32_t row = UINT32_MAX;
    if (q->user != NULL) {
        row = fg_id_find(&ids->user, q->user, strlen(q->user));
        if (row == UINT32_MAX || m->row_met[row] == 0) {
            return fg_fail(err, FG_EINVAL, "user %s: not in training, expected one that is",
                           q->user);
        }
    }
    fg_status st = renumber(&rated, r, ids, err);
    if (st == FG_OK && q->user != NULL) st = print_top(m, ids, row, &rated, q->top, err);
    if (st == FG_OK && q->test != NULL) st = print_ranking(m, ids, row, &rated, q, err);
    fg_hdi_fini(&rated);
    return st;
}

static void print_pairs(const fg_factor_model *m, const model_ids *ids, const fg_ratings *r)
{
    uint64_t n_unmet = 0;
    for (uint64_t i = 0; i < r->m.n; i++) {
        const fg_hdi_entry *e = &r->m.entry[i];
        const uint32_t row = number_in(&ids->user, &r->user, e->row);
        const uint32_t col = number_in(&ids->item, &r->item, e->col);
        const float p = fg_factor_predict(m, row, col);
        n_unmet +=
            row == UINT32_MAX || col == UINT32_MAX || m->row_met[row] == 0 || m->col_met[col] == 0;
        printf("%s\t", cli_shown(fg_id_text(&r->user, e->row)));
        printf("%s\t%.6f\n", cli_shown(fg_id_text(&r->item, e->col)), (double)p);
    }
    if (n_unmet > 0) {
        cli_note("fulgur: predict: %s pairs not met in training, which get the mean\n",
                 cli_count(n_unmet));
    }
}

static int run_predict(int argc, char **argv)
{
    const char *operand[2];
    top_request q = {.relevant = (double)NAN};
    const opt opts[] = {
        {"user", 'u', OPT_STR, &q.user, 0, 0, "ID", "this user's best items, less those in PAIRS"},
        {"top", 'n', OPT_U32, &q.top, 1, 1e6, "N", "items of a list (default: 10)"},
        {"test", 0, OPT_STR, &q.test, 0, 0, "FILE",
         "judge lists, less PAIRS, by these ratings: precision, recall, NDCG"},
        {"relevant", 0, OPT_F64, &q.relevant, -1e30, 1e30, "X",
         "with --test, ratings from which on an item is wanted (default: the mean)"},
    };
    int status;
    if (!args_parse(&cmd_predict, opts, sizeof opts / sizeof opts[0], argc, argv, operand, 2,
                    &status)) {
        return status;
    }
    if (q.top > 0 && q.user == NULL && q.test == NULL) {
        return args_usage(&cmd_predict, "--top alone, expected --user or --test with it");
    }
    if (!isnan(q.relevant) && q.test == NULL) {
        return args_usage(&cmd_predict, "--relevant alone, expected --test with it");
    }
    if (is_stdin(operand[1]) && is_stdin(q.test)) {
        return args_usage(&cmd_predict, "-, standard input, twice, expected PAIRS or --test in it");
    }
    if (q.top == 0) q.top = 10;
    fg_err err = {0};
    fg_factor_model *m = NULL;
    model_ids ids;
    fg_ratings r = {.no_time = true};
    fg_status st = fg_factor_load(operand[0], &m, &ids.user, &ids.item, &err);
    if (st == FG_OK) st = factor_read(operand[1], true, FG_HDI_LAST, &r, &err);
    if (st == FG_OK && (q.user != NULL || q.test != NULL)) {
        st = rank_items(m, &ids, &r, &q, &err);
    } else if (st == FG_OK) {
        print_pairs(m, &ids, &r);
    }
    fg_ratings_fini(&r);
    fg_factor_model_destroy(&m);
    fg_id_table_fini(&ids.user);
    fg_id_table_fini(&ids.item);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}

/* ---- export ---- */

/* NPY version 1.0: its header, padded to 64 bytes, then little-endian floats. */
static fg_status export_floats(const char *dir, const char *name, const float *p, uint32_t n,
                               uint32_t rank, size_t stride, bool flat, fg_err *err)
{
    fg_buf b = {0};
    char head[128], shape[40];
    char *path = fg_io_join(dir, name);
    if (path == NULL) return fg_fail_nomem(err, "name");
    (void)snprintf(shape, sizeof shape, flat ? "%u," : "%u, %u", n, rank);
    (void)snprintf(head, sizeof head, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }",
                   shape);
    fg_buf_put(&b, "\x93NUMPY\x01\x00\x76\x00", 10);
    fg_buf_printf(&b, "%-117s\n", head);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t row[4 * FG_FACTOR_MAX_RANK];
        fg_f32_put_le(row, p + i * stride, rank);
        fg_buf_put(&b, row, 4 * (size_t)rank);
    }
    const fg_status st = b.failed ? fg_fail_nomem(err, name) : write_buf(&b, path, err);
    fg_buf_fini(&b);
    fg_mem_free(path);
    return st;
}

static fg_status export_ids(const char *dir, const char *name, const fg_id_table *t, fg_err *err)
{
    fg_buf b = {0};
    char *path = fg_io_join(dir, name);
    if (path == NULL) return fg_fail_nomem(err, "name");
    for (uint32_t i = 0; i < t->n; i++) {
        fg_buf_put_str(&b, fg_id_text(t, i));
        fg_buf_put(&b, "\n", 1);
    }
    const fg_status st = b.failed ? fg_fail_nomem(err, name) : write_buf(&b, path, err);
    fg_buf_fini(&b);
    fg_mem_free(path);
    return st;
}

/* None of the files that would be written is the model, or, without force, there. */
static fg_status check_names(const char *dir, const char *model, bool force, fg_err *err)
{
    static const char *const name[] = {"users.npy",     "items.npy", "user_bias.npy",
                                       "item_bias.npy", "users.txt", "items.txt"};
    fg_status st = FG_OK;
    for (size_t i = 0; i < sizeof name / sizeof name[0] && st == FG_OK; i++) {
        char *path = fg_io_join(dir, name[i]);
        if (path == NULL) return fg_fail_nomem(err, "name");
        st = fg_io_exists(path) ? check_output(path, force, &model, 1, err) : FG_OK;
        fg_mem_free(path);
    }
    return st;
}

static int run_export(int argc, char **argv)
{
    const char *operand[2];
    bool force = false;
    int status;
    const opt opts[] = {FORCE_OPT(force)};
    if (!args_parse(&cmd_export, opts, sizeof opts / sizeof opts[0], argc, argv, operand, 2,
                    &status)) {
        return status;
    }
    fg_err err = {0};
    fg_factor_model *m = NULL;
    fg_id_table users, items;
    const char *dir = operand[1];
    fg_status st = fg_factor_load(operand[0], &m, &users, &items, &err);
    if (st == FG_OK) st = check_names(dir, operand[0], force, &err);
    if (st == FG_OK) st = make_dir(dir, &err);
    if (st == FG_OK) {
        st = export_floats(dir, "users.npy", m->x, m->n_row, m->rank, m->stride, false, &err);
    }
    if (st == FG_OK) {
        st = export_floats(dir, "items.npy", m->y, m->n_col, m->rank, m->stride, false, &err);
    }
    if (st == FG_OK && m->bx != NULL) {
        st = export_floats(dir, "user_bias.npy", m->bx, m->n_row, 1, 1, true, &err);
    }
    if (st == FG_OK && m->by != NULL) {
        st = export_floats(dir, "item_bias.npy", m->by, m->n_col, 1, 1, true, &err);
    }
    if (st == FG_OK) st = export_ids(dir, "users.txt", &users, &err);
    if (st == FG_OK) st = export_ids(dir, "items.txt", &items, &err);
    fg_factor_model_destroy(&m);
    fg_id_table_fini(&users);
    fg_id_table_fini(&items);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
