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
        "`item_bias.npy`, and the ids of the rows, one a line, as `users.txt` and `items.txt`.",
    .sub = &cmd_factor_compare,
    .run = run_export,
};

static const command cmd_predict = {
    .name = "factor predict",
    .summary = "ratings that a model expects, or a user's best items",
    .synopsis = "FACTORS PAIRS",
    .example = "fulgur factor predict films.factors pairs.txt\n"
               "fulgur factor predict films.factors ratings.tsv --user 196 --top 10",
    .description =
        "Prints for each line `user item` of PAIRS (more fields do no harm) user, item and "
        "the rating expected, not clipped. Users and items that training has not seen get the "
        "mean, and are counted on standard error.\n"
        "With `--user` PAIRS are that user's ratings (other users' are left aside), and the "
        "best `--top` items that are not among them are printed, best first; ties go to the item "
        "that came first in training.",
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
        "Ratings are explicit: what was not rated is unknown, not zero.\n"
        "`sgd` is plain stochastic gradient descent; `psl`, `npid`, `ads` and `ads-cheap` refine "
        "each error by a controller with a state for each rating. Defaults of their parameters "
        "were "
        "tuned at rank 20 on one set of films without biases; `--set` changes them.\n"
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
                            .seeds = 3};
}

const char *factor_order_name(unsigned value)
{
    static const char *const name[] = {"grid", "file"};
    return value < FACTOR_ORDERS ? name[value] : NULL;
}

fg_status factor_read(const char *path, bool pairs, fg_hdi_repeats how, fg_ratings *r, fg_err *err)
{
    char *text = NULL;
    size_t n = 0;
    if (strcmp(path, "-") == 0) {
        FG_TRY(read_text(path, &text, &n, err));
    } else {
        FG_TRY(fg_io_read_all(path, UINT64_C(1) << 40, &text, &n, err));
    }
    fg_status st = fg_ratings_parse(r, text, n, path, pairs, how, err);
    fg_mem_free(text);
    if (st == FG_OK && r->m.n == 0) {
        st = fg_fail(err, FG_EFORMAT, "%s: no ratings, expected lines of user, item and rating",
                     path);
    }
    return st;
}

fg_status factor_cut(const factor_request *q, const fg_ratings *r, uint64_t seed, fg_hdi part[3],
                     fg_err *err)
{
    double share[3];
    char more;
    if (sscanf(q->split, "%lf/%lf/%lf%c", &share[0], &share[1], &share[2], &more) != 3 ||
        !(share[0] > 0.0 && share[1] > 0.0 && share[2] > 0.0) ||
        !(share[0] + share[1] + share[2] < 1e9)) {
        return fg_fail(err, FG_EINVAL, "--split %s, expected three shares such as 70/10/20",
                       q->split);
    }
    FG_TRY(fg_ratings_split(r, share, seed, q->by_time, part, err));
    for (int k = 0; k < 3; k++) {
        if (part[k].n > 0) continue;
        for (k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
        return fg_fail(err, FG_EINVAL, "%s: %" PRIu64 " ratings, expected enough for three parts",
                       q->ratings, r->m.n);
    }
    return FG_OK;
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

fg_status factor_judge(const fg_factor_model *m, const fg_hdi *h, const fg_factor_machine *on,
                       fg_factor_score *out, fg_err *err)
{
    fg_visits list = {0};
    fg_status st = fg_visits_list(&list, h, err);
    if (st == FG_OK) st = fg_factor_judge(m, &list, &on->k, on->team, out, err);
    fg_visits_fini(&list);
    return st;
}

/* ---- train ---- */

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
    fg_ratings more = {.user = r->user, .item = r->item};
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
    FG_TRY(factor_read(q->ratings, false, q->repeats, r, err));
    if (q->valid == NULL) return factor_cut(q, r, q->seed, part, err);
    part[0] = r->m;
    r->m = (fg_hdi){0};
    FG_TRY(read_part(q->valid, q, r, &part[1], err));
    FG_TRY(read_part(q->test, q, r, &part[2], err));
    for (int k = 0; k < 3; k++) {
        part[k].n_row = r->user.n;
        part[k].n_col = r->item.n;
    }
    return FG_OK;
}

static void print_trained(const factor_request *q, const fg_ratings *r, const fg_hdi part[3],
                          const fg_factor_run *f, const fg_factor_score *s)
{
    const double seconds = f->curve[f->n_epoch - 1].seconds;
    if (q->json) {
        printf("{\"algorithm\": \"%s\", \"rank\": %u, \"bias\": %s, \"users\": %u, \"items\": %u, "
               "\"train\": %" PRIu64 ", \"valid\": %" PRIu64 ", \"test\": %" PRIu64
               ", \"duplicates\": %" PRIu64 ", \"unmet\": %" PRIu64 ", \"valid_rmse\": %.6f, "
               "\"rmse\": %.6f, \"rmse_clipped\": %.6f, \"mae\": %.6f, \"epochs\": %u, "
               "\"passes\": %u, \"seconds\": %.4f, \"pass_seconds\": %.4f",
               fg_factor_algo_name(q->algo), q->rank, q->bias ? "true" : "false", r->user.n,
               r->item.n, part[0].n, part[1].n, part[2].n, r->n_repeat, s->n_unmet, f->best_rmse,
               s->rmse, s->rmse_clipped, s->mae, f->best, f->n_epoch, seconds, f->pass_seconds);
        if (s->n > s->n_unmet) printf(", \"rmse_met\": %.6f", s->rmse_met);
        puts("}");
        return;
    }
    printf("%s, rank %u, %s: %s users, %s items; %s ratings to train, %s to validate, ",
           fg_factor_algo_name(q->algo), q->rank, q->bias ? "with biases" : "no biases",
           cli_count(r->user.n), cli_count(r->item.n), cli_count(part[0].n), cli_count(part[1].n));
    printf("%s to test\n", cli_count(part[2].n));
    if (r->n_repeat > 0) printf("%s duplicates united\n", cli_count(r->n_repeat));
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

static fg_status train(const factor_request *q, fg_err *err)
{
    fg_ratings r = {0};
    fg_hdi part[3] = {{0}};
    fg_factor_machine on = {0};
    fg_factor_run f = {0};
    fg_factor_score s = {0};
    progress p;
    fg_factor_opts o = factor_opts(q, q->algo, q->seed);
    fg_status st = q->set == NULL ? FG_OK : fg_factor_opts_set(&o, q->set, err);
    if (st == FG_OK) st = read_parts(q, &r, part, err);
    if (st == FG_OK) st = fg_factor_machine_open(&on, q->n_thread, err);
    if (st == FG_OK) {
        progress_start(&p, "train", "epoch");
        st = fg_factor_train(&f, &part[0], &part[1], &o, &on.k, on.team, show, &p, err);
        progress_end(&p);
    }
    if (st == FG_OK) st = factor_judge(f.model, &part[2], &on, &s, err);
    if (st == FG_OK && q->out != NULL) st = fg_factor_save(q->out, f.model, &r.user, &r.item, err);
    if (st == FG_OK) print_trained(q, &r, part, &f, &s);
    fg_factor_run_fini(&f);
    fg_factor_machine_close(&on);
    for (int k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
    fg_ratings_fini(&r);
    return st;
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
        {"order", 0, OPT_CHOICE, CHOICE(q.order, factor_order_name, FACTOR_ORDERS), 0, 0, "ORDER",
         "of ratings in an epoch; file: as they stand there, on one thread"},
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
    fg_err err = {0};
    cli_catch_interrupt();
    fg_status st =
        check_output(q.out, q.force, (const char *[]){q.ratings, q.valid, q.test}, 3, &err);
    if (st == FG_OK) st = train(&q, &err);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}

/* ---- predict ---- */

typedef struct best {
    float value;
    uint32_t item;
} best;

static int compare_best(const void *pa, const void *pb)
{
    const best *a = pa, *b = pb;
    if (a->value != b->value) return a->value > b->value ? -1 : 1;
    return a->item < b->item ? -1 : a->item > b->item;
}

/* Numbers that the model gives ids: ids of `of` by those of the model's table; UINT32_MAX: none. */
static uint32_t number_in(const fg_id_table *model, const fg_id_table *of, uint32_t id)
{
    const char *s = fg_id_text(of, id);
    return fg_id_find(model, s, strlen(s));
}

static fg_status print_top(const fg_factor_model *m, const fg_id_table *users,
                           const fg_id_table *items, const fg_ratings *rated, const char *user,
                           uint32_t top, fg_err *err)
{
    const uint32_t row = fg_id_find(users, user, strlen(user));
    if (row == UINT32_MAX || m->row_met[row] == 0) {
        return fg_fail(err, FG_EINVAL, "user %s: not in training, expected one that is", user);
    }
    best *b = fg_mem_zalloc_array((size_t)m->n_col + 1, sizeof *b);
    uint8_t *has = fg_mem_zalloc((size_t)m->n_col + 1);
    if (b == NULL || has == NULL) {
        fg_mem_free(b);
        fg_mem_free(has);
        return fg_fail_nomem(err, "items");
    }
    for (uint64_t i = 0; i < rated->m.n; i++) {
        const fg_hdi_entry *e = &rated->m.entry[i];
        if (strcmp(fg_id_text(&rated->user, e->row), user) != 0) continue;
        const uint32_t col = number_in(items, &rated->item, e->col);
        if (col != UINT32_MAX) has[col] = 1;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_col; i++) {
        if (has[i] != 0 || m->col_met[i] == 0) continue;
        b[n++] = (best){fg_factor_predict(m, row, i), i};
    }
    qsort(b, n, sizeof *b, compare_best);
    for (uint32_t i = 0; i < n && i < top; i++) {
        printf("%s\t%.4f\n", cli_shown(fg_id_text(items, b[i].item)), (double)b[i].value);
    }
    fg_mem_free(b);
    fg_mem_free(has);
    return FG_OK;
}

static void print_pairs(const fg_factor_model *m, const fg_id_table *users,
                        const fg_id_table *items, const fg_ratings *r)
{
    uint64_t n_unmet = 0;
    for (uint64_t i = 0; i < r->m.n; i++) {
        const fg_hdi_entry *e = &r->m.entry[i];
        const uint32_t row = number_in(users, &r->user, e->row);
        const uint32_t col = number_in(items, &r->item, e->col);
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
    const char *operand[2], *user = NULL;
    uint32_t top = 10;
    const opt opts[] = {
        {"user", 'u', OPT_STR, &user, 0, 0, "ID", "this user's best items, less those in PAIRS"},
        {"top", 'n', OPT_U32, &top, 1, 1e6, "N", "with --user, how many (default: 10)"},
    };
    int status;
    if (!args_parse(&cmd_predict, opts, sizeof opts / sizeof opts[0], argc, argv, operand, 2,
                    &status)) {
        return status;
    }
    fg_err err = {0};
    fg_factor_model *m = NULL;
    fg_id_table users, items;
    fg_ratings r = {0};
    fg_status st = fg_factor_load(operand[0], &m, &users, &items, &err);
    if (st == FG_OK) st = factor_read(operand[1], true, FG_HDI_LAST, &r, &err);
    if (st == FG_OK && user != NULL) st = print_top(m, &users, &items, &r, user, top, &err);
    if (st == FG_OK && user == NULL) print_pairs(m, &users, &items, &r);
    fg_ratings_fini(&r);
    fg_factor_model_destroy(&m);
    fg_id_table_fini(&users);
    fg_id_table_fini(&items);
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

static int run_export(int argc, char **argv)
{
    const char *operand[2];
    int status;
    if (!args_parse(&cmd_export, (const opt *)NULL, 0, argc, argv, operand, 2, &status)) {
        return status;
    }
    fg_err err = {0};
    fg_factor_model *m = NULL;
    fg_id_table users, items;
    const char *dir = operand[1];
    fg_status st = fg_factor_load(operand[0], &m, &users, &items, &err);
    if (st == FG_OK && !fg_io_is_dir(dir) && mkdir(dir, 0777) != 0) {
        st = fg_fail(&err, FG_EIO, "%s: not made, expected a folder or a new name", dir);
    }
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
