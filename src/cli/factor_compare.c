/* SPDX-License-Identifier: MIT
 *
 * All algorithms on the same parts from the same starts, each tuned with the same budget: a table
 * with paired differences, the ratios of epochs and seconds, and a drawing of validation errors
 * over epochs and over seconds.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/factor.h"
#include "src/cli/svg.h"
#include "src/factor/contest.h"

static int run(int argc, char **argv);

const command cmd_factor_compare = {
    .name = "factor compare",
    .summary = "all algorithms on the same ratings, as a table and a drawing",
    .synopsis = "RATINGS",
    .example = "fulgur factor compare ratings.tsv --seeds 5 --plot compare.svg\n"
               "fulgur factor compare ratings.tsv --folds 5 --budget 5000 --bias",
    .description =
        "Tunes every algorithm by a particle swarm on one split, with the same `--budget` of "
        "passes over its training part, half of it for the least error (`accurate`), half for "
        "error and epochs (`fast`). Then trains each configuration on `--seeds` other splits, or "
        "on `--folds` parts of which each is tested once, from the same starts, on one thread. "
        "Beside them stand sequential swarms of `sgd` and `npid` (NPALF as published), which need "
        "no tuning. Test parts choose nothing.\n"
        "The rival is the configuration with the fewest epochs among `sgd`, `sgd-decay`, "
        "`momentum`, `adagrad` and `adam` whose mean validation RMSE is within .0005 of the best "
        "of them. For each row: means and deviations over the splits, seconds of passes, epochs "
        "until the rival's validation RMSE in the same split (and in how many splits it was "
        "met), and the difference of test RMSE to the rival's with a paired t test. Below: what "
        "the controllers need of the epochs and seconds of the rival, of the most accurate SGD "
        "with decay and of the most accurate SGD.\n"
        "20000 passes for each of nine algorithms take minutes with 100,000 ratings. With "
        "`--budget 0` the defaults are compared, which were tuned on another set.",
    .run = run,
};

enum { MAX_SPLITS = 20 };

typedef struct comparison {
    const factor_request *q;
    fg_contest *c;
    progress p;
    fg_ratings r;
    fg_factor_machine on;
} comparison;

static uint32_t n_split(const factor_request *q)
{
    return q->folds > 1 ? q->folds : q->seeds;
}

/* ---- measuring ---- */

static bool show_tuning(void *ctx, uint64_t passes)
{
    comparison *c = ctx;
    (void)snprintf(c->p.note, sizeof c->p.note, "%s of %s passes for this one", cli_count(passes),
                   cli_count(c->q->budget));
    return progress_show(&c->p, 0, 0);
}

static bool show(void *ctx, const fg_factor_run *r)
{
    comparison *c = ctx;
    (void)r;
    return progress_show(&c->p, c->p.from, 0);
}

/* By time all splits are the same, and its own test part tunes nothing; else a split of its own. */
static fg_status tune(comparison *c, fg_err *err)
{
    const factor_request *q = c->q;
    factor_request own = *q;
    fg_hdi part[3] = {{0}};
    own.folds = 0;
    const fg_factor_opts o = factor_opts(q, FG_ALGO_SGD, q->seed + 1000);
    FG_TRY(factor_cut(&own, &c->r, q->seed + 1000, 0, false, part, err));
    progress_start(&c->p, "tune", "algorithm");
    const fg_status st = fg_contest_create(&c->c, n_split(q), &part[0], &part[1], &o, q->budget,
                                           &c->on, show_tuning, c, err);
    progress_end(&c->p);
    for (int k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
    return st;
}

static fg_status fill_split(comparison *c, uint32_t at, fg_err *err)
{
    const factor_request *q = c->q;
    const uint64_t seed = q->folds > 1 ? q->seed : q->seed + at;
    fg_hdi part[3] = {{0}};
    FG_TRY(factor_cut(q, &c->r, seed, at, false, part, err));
    (void)snprintf(c->p.note, sizeof c->p.note, "split %u of %u", at + 1, n_split(q));
    const fg_status st = fg_contest_run(c->c, at, part, q->seed + at, &c->on, show, c, err);
    for (int k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
    return st;
}

/* ---- the table ---- */

static void put_json_number(const char *name, double x)
{
    if (isfinite(x)) {
        printf(", \"%s\": %.6g", name, x);
    } else {
        printf(", \"%s\": null", name);
    }
}

static void print_json_row(const fg_contest *c, uint32_t i, bool last)
{
    const fg_contest_mean m = fg_contest_mean_of(c, i);
    printf("  {\"configuration\": \"%s\", \"splits\": %u, \"tuning_passes\": %" PRIu64,
           c->of[i].name, m.n, c->of[i].tuning_passes);
    put_json_number("rmse", m.rmse);
    put_json_number("rmse_deviation", m.rmse_dev);
    put_json_number("mae", m.mae);
    put_json_number("mae_deviation", m.mae_dev);
    put_json_number("valid_rmse", m.valid_rmse);
    put_json_number("epochs", m.epochs);
    put_json_number("passes", m.passes);
    put_json_number("seconds", m.seconds);
    if (c->rival != UINT32_MAX) {
        const fg_contest_pair p = fg_contest_pair_of(c, i, c->rival);
        printf(", \"reached\": %u", p.n_reached);
        put_json_number("to_rival", p.epochs_to);
        put_json_number("difference", p.difference);
        put_json_number("difference_deviation", p.deviation);
        put_json_number("p", p.p);
    }
    printf(", \"parameters\": {");
    const fg_factor_algorithm *a = fg_factor_algorithm_get(c->of[i].opts.algo);
    for (uint32_t k = 0; k < a->n_param; k++) {
        printf("%s\"%s\": %.6g", k == 0 ? "" : ", ", a->param[k].name, c->of[i].opts.param[k]);
    }
    printf("}}%s\n", last ? "" : ",");
}

static void print_row(const fg_contest *c, uint32_t i)
{
    const fg_contest_mean m = fg_contest_mean_of(c, i);
    char to[32] = "-", p[16] = "-";
    if (m.n == 0) {
        printf("%-18s diverged\n", c->of[i].name);
        return;
    }
    printf("%-18s %7.4f %6.4f %7.4f %6.4f %7.0f %7.0f %8.3f", c->of[i].name, m.rmse, m.rmse_dev,
           m.mae, m.mae_dev, m.epochs, m.passes, m.seconds);
    if (c->rival != UINT32_MAX) {
        const fg_contest_pair x = fg_contest_pair_of(c, i, c->rival);
        if (x.n_reached > 0) (void)snprintf(to, sizeof to, "%.0f (%u)", x.epochs_to, x.n_reached);
        if (!isnan(x.p)) (void)snprintf(p, sizeof p, "%.3f", x.p);
        printf(" %10s %+8.4f %6.4f %6s", to, x.difference, x.deviation, p);
    }
    puts("");
}

/* The controllers against the rival and both kinds of SGD. */
static void print_ratios(const fg_contest *c, bool json)
{
    static const fg_factor_algo algo[] = {FG_ALGO_ADS, FG_ALGO_ADS_CHEAP, FG_ALGO_NPID,
                                          FG_ALGO_PSL};
    static const char *const role[] = {"rival", "most accurate sgd-decay", "most accurate sgd"};
    const uint32_t to[] = {c->rival, c->decay, c->sgd};
    const char *between = "";
    for (size_t k = 0; k < 3; k++) {
        for (size_t a = 0; to[k] != UINT32_MAX && a < sizeof algo / sizeof algo[0]; a++) {
            const uint32_t i = fg_contest_best(c, algo[a], to[k]);
            if (i == UINT32_MAX) continue;
            const fg_contest_pair p = fg_contest_pair_of(c, i, to[k]);
            if (json) {
                printf("%s  {\"configuration\": \"%s\", \"of\": \"%s\", \"role\": \"%s\", "
                       "\"splits\": %u, \"reached\": %u, \"epochs\": %.4f, \"most_epochs\": %.4f, "
                       "\"seconds\": %.4f, \"wins\": %.0f}",
                       between, c->of[i].name, c->of[to[k]].name, role[k], p.n, p.n_reached,
                       p.epochs, p.worst_epochs, p.seconds, p.wins);
                between = ",\n";
                continue;
            }
            if (a == 0) printf("\n%s: %s\n", role[k], c->of[to[k]].name);
            printf("  %-18s meets its validation RMSE in %u of %u splits", c->of[i].name,
                   p.n_reached, p.n);
            if (p.n_reached > 0) {
                printf(", in %.2f of its epochs (at most %.2f), %.2f of its seconds", p.epochs,
                       p.worst_epochs, p.seconds);
            }
            printf("; lower test RMSE in %.0f\n", p.wins);
        }
    }
    if (json) puts("");
}

static void print_table(const comparison *x)
{
    const fg_contest *c = x->c;
    const factor_request *q = x->q;
    if (q->json) {
        printf("{\"budget\": %" PRIu64 ", \"splits\": %u, \"rival\": \"%s\", \"rows\": [\n",
               q->budget, c->n_split, c->rival == UINT32_MAX ? "" : c->of[c->rival].name);
        for (uint32_t i = 0; i < c->n; i++) print_json_row(c, i, i + 1 == c->n);
        puts("], \"ratios\": [");
        print_ratios(c, true);
        puts("]}");
        return;
    }
    printf("%-18s %7s %6s %7s %6s %7s %7s %8s %10s %8s %6s %6s\n", "", "RMSE", "+-", "MAE", "+-",
           "epochs", "passes", "seconds", "to rival", "dRMSE", "+-", "p");
    for (uint32_t i = 0; i < c->n; i++) print_row(c, i);
    print_ratios(c, false);
}

/* ---- the drawing ---- */

enum { PANEL_W = 380, PANEL_H = 280, LEFT = 60, TOP = 50, GAP = 60, LEGEND = 130, TICKS = 4 };

static const char *const colour[] = {"#3b7dd8", "#d9822b", "#2f9e6b", "#c94f4f", "#8f6bc9",
                                     "#a07c3f", "#d0609c", "#2b9aa8", "#8a9a2e"};
_Static_assert(sizeof colour / sizeof colour[0] == FG_ALGO_COUNT, "a colour an algorithm");

typedef struct frame {
    bool by_time;
    double left, x_max, low, high; /* what its borders stand for */
} frame;

static double x_at(const frame *f, const fg_factor_point *p, uint32_t i)
{
    const double x = f->by_time ? p->seconds : (double)i + 1.0;
    return f->left + fmin(1.0, x / f->x_max) * PANEL_W;
}

static double y_at(const frame *f, double rmse)
{
    const double y = (f->high - rmse) / (f->high - f->low);
    return TOP + fmin(1.0, fmax(0.0, y)) * PANEL_H;
}

static void draw_axes(fg_buf *b, const frame *f)
{
    char text[32];
    for (int i = 0; i <= TICKS; i++) {
        const double part = (double)i / TICKS, y = TOP + part * PANEL_H;
        fg_buf_printf(b, "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
                      f->left, y, f->left + PANEL_W, y);
        (void)snprintf(text, sizeof text, "%.3f", f->high - part * (f->high - f->low));
        svg_put_text(b, f->left - 6, y + 4, " text-anchor=\"end\"", text);
        (void)snprintf(text, sizeof text, f->by_time ? "%.3g s" : "%.0f", part * f->x_max);
        svg_put_text(b, f->left + part * PANEL_W, TOP + PANEL_H + 18, " text-anchor=\"middle\"",
                     text);
    }
    fg_buf_printf(b, "<rect class=\"frame\" x=\"%.1f\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
                  f->left, TOP, PANEL_W, PANEL_H);
    svg_put_text(b, f->left + PANEL_W / 2.0, TOP + PANEL_H + 36, " text-anchor=\"middle\"",
                 f->by_time ? "seconds" : "epochs");
}

static void draw_curves(fg_buf *b, const fg_contest *c, const frame *f)
{
    static const char *const dash[FG_CONTEST_KINDS] = {
        [FG_CONTEST_FAST] = " stroke-dasharray=\"6 3\"",
        [FG_CONTEST_SWARM] = " stroke-dasharray=\"2 3\""};
    for (uint32_t i = 0; i < c->n; i++) {
        const fg_factor_point *p = c->of[i].result[0].run.curve;
        const uint32_t n = c->of[i].result[0].run.n_epoch;
        const unsigned a = c->of[i].opts.algo;
        const char *dashes = dash[c->of[i].kind];
        if (n == 0) continue;
        fg_buf_printf(b, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"%s points=\"",
                      colour[a], dashes == NULL ? "" : dashes);
        for (uint32_t e = 0; e < n; e++) {
            if (!(p[e].rmse <= f->high)) continue; /* above the frame, or not a number */
            fg_buf_printf(b, "%.1f,%.1f ", x_at(f, &p[e], e), y_at(f, p[e].rmse));
        }
        fg_buf_put_str(b, "\"/>\n");
        if (p[n - 1].rmse <= f->high) {
            svg_put_mark(b, x_at(f, &p[n - 1], n - 1), y_at(f, p[n - 1].rmse), (int)a % SVG_MARKS,
                         colour[a]);
        }
    }
}

static void draw_legend(fg_buf *b, const fg_contest *c)
{
    const double x = LEFT + 2 * PANEL_W + GAP + 18;
    double y = TOP + 10;
    for (unsigned a = 0; a < FG_ALGO_COUNT; a++, y += 20) {
        svg_put_mark(b, x, y, (int)a % SVG_MARKS, colour[a]);
        svg_put_text(b, x + 10, y + 4, "", fg_factor_algo_name(a));
    }
    if (c->of[0].kind == FG_CONTEST_DEFAULT) return;
    svg_put_text(b, x - 4, y + 10, " font-size=\"11\"", "line: accurate");
    svg_put_text(b, x - 4, y + 26, " font-size=\"11\"", "dashes: fast");
    svg_put_text(b, x - 4, y + 42, " font-size=\"11\"", "dots: swarm");
}

static fg_status draw(const fg_contest *c, const char *path, fg_err *err)
{
    fg_buf b = {0};
    frame f = {.low = (double)INFINITY};
    double most[2] = {1.0, 1e-3};
    for (uint32_t i = 0; i < c->n; i++) {
        const fg_factor_run *r = &c->of[i].result[0].run;
        for (uint32_t e = 0; e < r->n_epoch; e++) f.low = fmin(f.low, r->curve[e].rmse);
        if (r->n_epoch == 0) continue;
        most[0] = fmax(most[0], r->n_epoch);
        most[1] = fmax(most[1], r->curve[r->n_epoch - 1].seconds);
    }
    if (!isfinite(f.low)) return fg_fail(err, FG_EINVAL, "%s: no curve, expected one", path);
    f.high = 1.15 * f.low + 1e-9;
    svg_begin(&b, LEFT + 2 * PANEL_W + GAP + LEGEND, TOP + PANEL_H + 60, "Validation RMSE");
    svg_put_text(&b, LEFT, 28, " font-size=\"15\"", "Validation RMSE, first split");
    for (int k = 0; k < 2; k++) {
        f.by_time = k == 1;
        f.left = LEFT + k * (PANEL_W + GAP);
        f.x_max = most[k];
        draw_axes(&b, &f);
        draw_curves(&b, c, &f);
    }
    draw_legend(&b, c);
    svg_end(&b);
    const fg_status st = write_buf(&b, path, err);
    fg_buf_fini(&b);
    return st;
}

static fg_status compare(comparison *c, fg_err *err)
{
    const factor_request *q = c->q;
    c->r.no_time = !factor_by_time(q);
    FG_TRY(factor_read(q->ratings, false, q->repeats, &c->r, err));
    FG_TRY(fg_ratings_explicit(&c->r.m, q->ratings, err));
    cli_catch_interrupt(); /* not before: a pipe may be silent */
    FG_TRY(fg_factor_machine_open(&c->on, q->n_thread, err));
    FG_TRY(tune(c, err));
    fg_status st = FG_OK;
    progress_start(&c->p, "compare", "split");
    for (uint32_t i = 0; st == FG_OK && i < n_split(q); i++) {
        c->p.from = i;
        st = fill_split(c, i, err);
    }
    progress_end(&c->p);
    FG_TRY(st);
    fg_contest_conclude(c->c);
    if (q->plot != NULL) FG_TRY(draw(c->c, q->plot, err));
    print_table(c);
    return FG_OK;
}

static int run(int argc, char **argv)
{
    factor_request q = factor_request_default();
    const opt opts[] = {
        {"seeds", 0, OPT_U32, &q.seeds, 1, MAX_SPLITS, "N", "splits (default: 3)"},
        {"folds", 0, OPT_U32, &q.folds, 2, MAX_SPLITS, "N",
         "instead, parts of which each is tested once"},
        {"plot", 0, OPT_STR, &q.plot, 0, 0, "FILE.svg", "draw validation errors"},
        FORCE_OPT(q.force),
        FACTOR_OPTS(q),
    };
    int status;
    if (!args_parse(&cmd_factor_compare, opts, sizeof opts / sizeof opts[0], argc, argv, &q.ratings,
                    1, &status)) {
        return status;
    }
    if (q.folds > 0 && factor_by_time(&q)) {
        return args_usage(&cmd_factor_compare, "--folds with --split time, expected one of them");
    }
    fg_err err = {0};
    comparison c = {.q = &q};
    fg_status st = check_output(q.plot, q.force, (const char *[]){q.ratings}, 1, &err);
    if (st == FG_OK) st = compare(&c, &err);
    fg_contest_destroy(&c.c);
    fg_factor_machine_close(&c.on);
    fg_ratings_fini(&c.r);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
