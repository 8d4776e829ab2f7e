/* SPDX-License-Identifier: MIT
 *
 * All algorithms on the same parts from the same starts: a table with paired differences, and a
 * drawing of validation errors over epochs and over seconds.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/factor.h"
#include "src/cli/svg.h"

static int run(int argc, char **argv);

const command cmd_factor_compare = {
    .name = "factor compare",
    .summary = "all algorithms on the same ratings, as a table and a drawing",
    .synopsis = "RATINGS",
    .example = "fulgur factor compare ratings.tsv --seeds 5 --plot compare.svg",
    .description =
        "Trains every algorithm, with its default parameters, on the same parts from the same "
        "starts, for each of `--seeds` splits, and prints means over the splits: errors on the "
        "test part, epochs to the best validation error, epochs to that of `sgd` in the same split "
        "(and in how many splits it was reached), seconds of passes. `dRMSE` is the difference to "
        "`sgd` of the same split and its standard error.\n"
        "The defaults were tuned on another set: a table of them compares configurations, not "
        "what the algorithms could reach when each is tuned on these ratings.",
    .run = run,
};

enum { MAX_SEEDS = 20 };

typedef struct cell {
    fg_factor_score s;
    uint32_t epochs, to, passes; /* to: 0, never */
    double seconds;
    bool diverged;
} cell;

typedef struct comparison {
    const factor_request *q;
    cell cell[FG_ALGO_COUNT][MAX_SEEDS];
    fg_factor_point *curve[FG_ALGO_COUNT]; /* of the first seed */
    uint32_t n_point[FG_ALGO_COUNT];
} comparison;

/* ---- measuring ---- */

static bool show(void *ctx, const fg_factor_run *r)
{
    (void)r;
    return progress_show(ctx, ((progress *)ctx)->from, 0);
}

static fg_status fill_split(comparison *c, const fg_ratings *r, const fg_factor_machine *on,
                            uint32_t at, progress *p, fg_err *err)
{
    const factor_request *q = c->q;
    fg_hdi part[3] = {{0}};
    double aim = 0.0;
    FG_TRY(factor_cut(q, r, q->seed + at, part, err));
    fg_status st = FG_OK;
    for (unsigned a = 0; st == FG_OK && a < FG_ALGO_COUNT; a++) {
        cell *to = &c->cell[a][at];
        fg_factor_run f = {0};
        const fg_factor_opts o = factor_opts(q, (fg_factor_algo)a, q->seed + at);
        (void)snprintf(p->note, sizeof p->note, "%s, split %u", fg_factor_algo_name(a), at + 1);
        st = fg_factor_train(&f, &part[0], &part[1], &o, &on->k, on->team, show, p, err);
        if (st == FG_EINVAL) { /* its steps are too large for these ratings */
            to->diverged = true;
            st = FG_OK;
            *err = (fg_err){0};
            continue;
        }
        if (st == FG_OK) st = factor_judge(f.model, &part[2], on, &to->s, err);
        if (st == FG_OK) {
            if (a == FG_ALGO_SGD) aim = f.best_rmse;
            to->epochs = f.best;
            to->passes = f.n_epoch;
            to->to = fg_factor_epochs_to(&f, aim);
            to->seconds = f.pass_seconds;
            to->diverged = f.diverged;
            if (at == 0) {
                c->curve[a] = f.curve;
                c->n_point[a] = f.n_epoch;
                f.curve = NULL;
            }
        }
        fg_factor_run_fini(&f);
    }
    for (int k = 0; k < 3; k++) fg_hdi_fini(&part[k]);
    return st;
}

/* ---- the table ---- */

typedef struct summary {
    double rmse, mae, epochs, to, passes, seconds, difference, error;
    uint32_t n, n_to;
} summary;

static summary sum_up(const comparison *c, unsigned a)
{
    summary s = {0};
    double square = 0.0;
    for (uint32_t i = 0; i < c->q->seeds; i++) {
        const cell *x = &c->cell[a][i], *sgd = &c->cell[FG_ALGO_SGD][i];
        if (x->diverged || sgd->diverged) continue;
        const double d = x->s.rmse - sgd->s.rmse;
        s.n++;
        s.rmse += x->s.rmse;
        s.mae += x->s.mae;
        s.epochs += x->epochs;
        s.passes += x->passes;
        s.seconds += x->seconds;
        s.difference += d;
        square += d * d;
        s.n_to += x->to > 0;
        s.to += x->to;
    }
    const double n = s.n > 0 ? s.n : 1;
    s.rmse /= n;
    s.mae /= n;
    s.epochs /= n;
    s.passes /= n;
    s.seconds /= n;
    s.difference /= n;
    if (s.n > 1) s.error = sqrt(fmax(0.0, square / n - s.difference * s.difference) / (n - 1.0));
    if (s.n_to > 0) s.to /= s.n_to;
    return s;
}

static void print_row(const comparison *c, unsigned a)
{
    const summary s = sum_up(c, a);
    const char *name = fg_factor_algo_name(a);
    if (c->q->json) {
        printf("%s{\"algorithm\": \"%s\", \"splits\": %u, \"rmse\": %.6f, \"mae\": %.6f, "
               "\"difference\": %.6f, \"error\": %.6f, \"epochs\": %.1f, \"passes\": %.1f, "
               "\"to_sgd\": %.1f, \"reached\": %u, \"seconds\": %.4f}",
               a == 0 ? "" : ",\n ", name, s.n, s.rmse, s.mae, s.difference, s.error, s.epochs,
               s.passes, s.to, s.n_to, s.seconds);
        return;
    }
    if (s.n == 0) {
        printf("%-10s diverged\n", name);
        return;
    }
    char to[32] = "-";
    if (s.n_to > 0) (void)snprintf(to, sizeof to, "%.0f (%u)", s.to, s.n_to);
    printf("%-10s %7.4f %7.4f %+8.4f %7.4f %7.0f %7.0f %9s %8.3f\n", name, s.rmse, s.mae,
           s.difference, s.error, s.epochs, s.passes, to, s.seconds);
}

static void print_table(const comparison *c)
{
    if (c->q->json) {
        printf("[");
    } else {
        printf("%-10s %7s %7s %8s %7s %7s %7s %9s %8s\n", "", "RMSE", "MAE", "dRMSE", "+-",
               "epochs", "passes", "to sgd", "seconds");
    }
    for (unsigned a = 0; a < FG_ALGO_COUNT; a++) print_row(c, a);
    if (c->q->json) puts("]");
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

static void draw_curves(fg_buf *b, const comparison *c, const frame *f)
{
    for (unsigned a = 0; a < FG_ALGO_COUNT; a++) {
        const fg_factor_point *p = c->curve[a];
        const uint32_t n = c->n_point[a];
        if (n == 0) continue;
        fg_buf_printf(b, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"",
                      colour[a]);
        for (uint32_t i = 0; i < n; i++) {
            if (!(p[i].rmse <= f->high)) continue; /* above the frame, or not a number */
            fg_buf_printf(b, "%.1f,%.1f ", x_at(f, &p[i], i), y_at(f, p[i].rmse));
        }
        fg_buf_put_str(b, "\"/>\n");
        if (p[n - 1].rmse <= f->high) {
            svg_put_mark(b, x_at(f, &p[n - 1], n - 1), y_at(f, p[n - 1].rmse), (int)a % SVG_MARKS,
                         colour[a]);
        }
    }
}

static fg_status draw(const comparison *c, const char *path, fg_err *err)
{
    fg_buf b = {0};
    frame f = {.low = (double)INFINITY};
    double most[2] = {1.0, 1e-3};
    for (unsigned a = 0; a < FG_ALGO_COUNT; a++) {
        for (uint32_t i = 0; i < c->n_point[a]; i++) f.low = fmin(f.low, c->curve[a][i].rmse);
        if (c->n_point[a] == 0) continue;
        most[0] = fmax(most[0], c->n_point[a]);
        most[1] = fmax(most[1], c->curve[a][c->n_point[a] - 1].seconds);
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
    for (unsigned a = 0; a < FG_ALGO_COUNT; a++) {
        const double x = LEFT + 2 * PANEL_W + GAP + 18, y = TOP + 10 + 20.0 * a;
        svg_put_mark(&b, x, y, (int)a % SVG_MARKS, colour[a]);
        svg_put_text(&b, x + 10, y + 4, "", fg_factor_algo_name(a));
    }
    svg_end(&b);
    const fg_status st = write_buf(&b, path, err);
    fg_buf_fini(&b);
    return st;
}

static fg_status compare(comparison *c, fg_err *err)
{
    const factor_request *q = c->q;
    fg_ratings r = {0};
    fg_factor_machine on = {0};
    progress p;
    fg_status st = factor_read(q->ratings, false, q->repeats, &r, err);
    if (st == FG_OK) st = fg_factor_machine_open(&on, q->n_thread, err);
    progress_start(&p, "compare", "split");
    for (uint32_t i = 0; st == FG_OK && i < q->seeds; i++) {
        st = fill_split(c, &r, &on, i, &p, err);
    }
    progress_end(&p);
    if (st == FG_OK && q->plot != NULL) st = draw(c, q->plot, err);
    if (st == FG_OK) print_table(c);
    fg_factor_machine_close(&on);
    fg_ratings_fini(&r);
    return st;
}

static int run(int argc, char **argv)
{
    factor_request q = factor_request_default();
    const opt opts[] = {
        {"seeds", 0, OPT_U32, &q.seeds, 1, MAX_SEEDS, "N", "splits (default: 3)"},
        {"plot", 0, OPT_STR, &q.plot, 0, 0, "FILE.svg", "draw validation errors"},
        FACTOR_OPTS(q),
    };
    int status;
    if (!args_parse(&cmd_factor_compare, opts, sizeof opts / sizeof opts[0], argc, argv, &q.ratings,
                    1, &status)) {
        return status;
    }
    fg_err err = {0};
    cli_catch_interrupt();
    comparison *c = fg_mem_zalloc(sizeof *c);
    fg_status st = c == NULL ? fg_fail_nomem(&err, "table") : FG_OK;
    if (st == FG_OK && q.plot != NULL) st = svg_check_target(q.plot, q.ratings, &err);
    if (st == FG_OK) {
        c->q = &q;
        st = compare(c, &err);
        for (unsigned a = 0; a < FG_ALGO_COUNT; a++) fg_mem_free(c->curve[a]);
    }
    fg_mem_free(c);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
