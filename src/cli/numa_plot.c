/* SPDX-License-Identifier: MIT
 *
 * A column a context; above the speed next to the best of the fewest nodes, below the share of the
 * most that those nodes were seen to read.  A line a policy and kind of pages, of its best thread
 * count.  Where all was measured on one count of nodes, threads take the nodes' place.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/numa.h"
#include "src/cli/svg.h"

enum {
    PANEL = 250, /* width and height of a frame */
    GAP = 62,
    LEFT = 70,
    TOP = 92,
    LEGEND = 190,
    MAX_SERIES = 12,
    MAX_COLUMN = 6,
    MAX_X = 2 * NUMA_LIST,
};

typedef struct series {
    fg_numa policy;
    fg_pages pages;
} series;

typedef struct drawing {
    fg_buf b;
    const numa_row *cell;
    size_t n_cell;
    bool by_nodes;
    series line[MAX_SERIES];
    uint64_t ctx[MAX_COLUMN];
    uint32_t x[MAX_X];
    size_t n_line, n_ctx, n_x;
} drawing;

static const char *const colour[] = {"#3b7dd8", "#d9822b", "#2f9e6b", "#c94f4f",
                                     "#8f6bc9", "#a07c3f", "#d0609c", "#2b9aa8",
                                     "#8a9a2e", "#7d8794", "#b0643c", "#5a67c8"};
_Static_assert(sizeof colour / sizeof colour[0] == MAX_SERIES, "a colour a line");

/* ---- data ---- */

static uint32_t x_of_row(const drawing *d, const numa_row *r)
{
    return d->by_nodes ? r->nodes : r->threads;
}

/* What does not find room is left to the CSV file. */
static void note_x(drawing *d, uint32_t x)
{
    size_t i = 0;
    while (i < d->n_x && d->x[i] < x) i++;
    if ((i < d->n_x && d->x[i] == x) || d->n_x == MAX_X) return;
    memmove(d->x + i + 1, d->x + i, (d->n_x - i) * sizeof d->x[0]);
    d->x[i] = x;
    d->n_x++;
}

static void collect(drawing *d)
{
    for (size_t i = 1; i < d->n_cell; i++) d->by_nodes |= d->cell[i].nodes != d->cell[0].nodes;
    for (size_t i = 0; i < d->n_cell; i++) {
        const numa_row *r = &d->cell[i];
        size_t k = 0, c = 0;
        while (k < d->n_line && (d->line[k].policy != r->policy || d->line[k].pages != r->pages))
            k++;
        if (k == d->n_line && k < MAX_SERIES) d->line[d->n_line++] = (series){r->policy, r->pages};
        while (c < d->n_ctx && d->ctx[c] != r->ctx) c++;
        if (c == d->n_ctx && c < MAX_COLUMN) d->ctx[d->n_ctx++] = r->ctx;
        note_x(d, x_of_row(d, r));
    }
}

/* The fastest cell of a line (NULL: of any) at x; NULL: none. */
static const numa_row *best_at(const drawing *d, const series *s, uint64_t ctx, uint32_t x)
{
    const numa_row *best = NULL;
    for (size_t i = 0; i < d->n_cell; i++) {
        const numa_row *r = &d->cell[i];
        if (r->ctx != ctx || x_of_row(d, r) != x) continue;
        if (s != NULL && (r->policy != s->policy || r->pages != s->pages)) continue;
        if (best == NULL || r->tok_s > best->tok_s) best = r;
    }
    return best;
}

/* The most that so many nodes were seen to read, GB/s. */
static double nodes_read(const drawing *d, uint32_t nodes)
{
    double most = 0.0;
    for (size_t i = 0; i < d->n_cell; i++) {
        if (d->cell[i].nodes == nodes && d->cell[i].read_gbs > most) most = d->cell[i].read_gbs;
    }
    return most;
}

/* Row 0: times the base; row 1: percent.  NaN: not measured. */
static double value_at(const drawing *d, int row, const series *s, uint64_t ctx, size_t x)
{
    const numa_row *r = best_at(d, s, ctx, d->x[x]);
    if (r == NULL) return (double)NAN;
    if (row == 1) {
        const double read = nodes_read(d, r->nodes);
        return read > 0.0 ? 100e-9 * r->tok_s * r->bytes / read : (double)NAN;
    }
    for (size_t i = 0; i < d->n_x; i++) {
        const numa_row *base = best_at(d, NULL, ctx, d->x[i]);
        if (base != NULL) return r->tok_s / base->tok_s;
    }
    return (double)NAN;
}

/* The end of an axis from 0: 1, 2 or 5 times a power of ten, at least v. */
static double round_up(double v)
{
    const double p = pow(10.0, floor(log10(v)));
    return v <= p ? p : v <= 2.0 * p ? 2.0 * p : v <= 5.0 * p ? 5.0 * p : 10.0 * p;
}

static double axis_of(const drawing *d, int row)
{
    double most = row == 1 ? 100.0 : 1.0;
    for (size_t c = 0; c < d->n_ctx; c++) {
        for (size_t k = 0; k < d->n_line; k++) {
            for (size_t i = 0; i < d->n_x; i++) {
                const double v = value_at(d, row, &d->line[k], d->ctx[c], i);
                if (v > most) most = v;
            }
        }
    }
    return round_up(most);
}

/* ---- drawing ---- */

typedef struct frame {
    double left, top, high; /* high: value at the top */
    size_t n_x;
} frame;

static double px(const frame *f, size_t i)
{
    return f->left + PANEL * ((double)i + 0.5) / (double)f->n_x;
}

static double py(const frame *f, double v)
{
    return f->top + PANEL * (1.0 - v / f->high);
}

static void put_axes(drawing *d, const frame *f, const char *what, bool names)
{
    char text[64];
    for (int i = 0; i <= 5; i++) {
        const double v = f->high * i / 5, y = py(f, v);
        fg_buf_printf(&d->b,
                      "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
                      f->left, y, f->left + PANEL, y);
        (void)snprintf(text, sizeof text, "%.4g", v);
        svg_put_text(&d->b, f->left - 6, y + 4, " text-anchor=\"end\"", text);
    }
    for (size_t i = 0; i < d->n_x; i++) {
        (void)snprintf(text, sizeof text, "%u", d->x[i]);
        svg_put_text(&d->b, px(f, i), f->top + PANEL + 17, " text-anchor=\"middle\"", text);
    }
    svg_put_text(&d->b, f->left + PANEL / 2.0, f->top + PANEL + 33, " text-anchor=\"middle\"",
                 d->by_nodes ? "nodes" : "threads");
    fg_buf_printf(&d->b,
                  "<rect class=\"frame\" x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\"/>\n",
                  f->left, f->top, PANEL, PANEL);
    if (!names) return;
    char turn[96];
    (void)snprintf(turn, sizeof turn, " text-anchor=\"middle\" transform=\"rotate(-90 22 %.0f)\"",
                   f->top + PANEL / 2.0);
    svg_put_text(&d->b, 22, f->top + PANEL / 2.0, turn, what);
}

static void put_line(drawing *d, const frame *f, int row, size_t k, uint64_t ctx)
{
    const char *move = "M";
    fg_buf_put_str(&d->b, "<path d=\"");
    for (size_t i = 0; i < d->n_x; i++) {
        const double v = value_at(d, row, &d->line[k], ctx, i);
        if (isnan(v)) continue;
        fg_buf_printf(&d->b, "%s%.1f %.1f", move, px(f, i), py(f, v));
        move = "L";
    }
    fg_buf_printf(&d->b, "\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.4\"/>\n", colour[k]);
    for (size_t i = 0; i < d->n_x; i++) {
        const double v = value_at(d, row, &d->line[k], ctx, i);
        if (!isnan(v)) svg_put_mark(&d->b, px(f, i), py(f, v), (int)(k % SVG_MARKS), colour[k]);
    }
}

static void put_legend(drawing *d, double x)
{
    double y = TOP + 10;
    char text[64];
    for (size_t k = 0; k < d->n_line; k++) {
        fg_buf_printf(&d->b,
                      "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
                      "stroke-width=\"1.4\"/>\n",
                      x - 10, y, x + 10, y, colour[k]);
        svg_put_mark(&d->b, x, y, (int)(k % SVG_MARKS), colour[k]);
        (void)snprintf(text, sizeof text, "%s, %s pages", fg_numa_name(d->line[k].policy),
                       fg_pages_name(d->line[k].pages));
        svg_put_text(&d->b, x + 18, y + 4, "", text);
        y += 22;
    }
}

static void put_all(drawing *d, const numa_where *where)
{
    static const char *const what[] = {"speed-up", "percent of the nodes' bandwidth"};
    const double high[] = {axis_of(d, 0), axis_of(d, 1)};
    const int width = LEFT + (int)d->n_ctx * (PANEL + GAP) + LEGEND;
    const int height = TOP + 2 * (PANEL + GAP);
    char text[96];
    svg_begin(&d->b, width, height, "Speed by NUMA nodes, threads and policy");
    svg_put_text(&d->b, LEFT, 28, " font-size=\"16\"", "Decoding by nodes, threads and policy");
    (void)snprintf(text, sizeof text, "%.90s", where->field[0].text); /* the model */
    svg_put_text(&d->b, LEFT, 47, "", text);
    (void)snprintf(text, sizeof text, "%.90s", where->field[1].text); /* the machine */
    svg_put_text(&d->b, LEFT, 63, "", text);
    for (size_t c = 0; c < d->n_ctx; c++) {
        for (int row = 0; row < 2; row++) {
            const frame f = {LEFT + (double)c * (PANEL + GAP), TOP + row * (PANEL + GAP), high[row],
                             d->n_x};
            put_axes(d, &f, what[row], c == 0);
            for (size_t k = d->n_line; k-- > 0;) put_line(d, &f, row, k, d->ctx[c]);
        }
        (void)snprintf(text, sizeof text, "behind %s positions", cli_count(d->ctx[c]));
        svg_put_text(&d->b, LEFT + (double)c * (PANEL + GAP) + PANEL / 2.0, TOP - 10,
                     " text-anchor=\"middle\"", text);
    }
    put_legend(d, LEFT + (double)d->n_ctx * (PANEL + GAP) - GAP + 32);
    svg_end(&d->b);
}

fg_status numa_plot(const numa_opts *o, const numa_rows *rows, const numa_where *where, fg_err *err)
{
    drawing d = {.n_x = 0};
    numa_row *cells;
    FG_TRY(numa_cells(rows, &cells, &d.n_cell, err));
    d.cell = cells;
    collect(&d);
    put_all(&d, where);
    const fg_status st = write_buf(&d.b, o->svg, err);
    fg_buf_fini(&d.b);
    fg_mem_free(cells);
    return st;
}
