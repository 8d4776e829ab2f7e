/* SPDX-License-Identifier: MIT
 *
 * The drawing is one text buffer, written when it is complete.  The error axis is logarithmic:
 * types lie a factor of four apart for each two bits, and a q8 layer must stay visible below a q4
 * one. Experts, up to 1024 a layer, are drawn as the line of their median inside the band of their
 * range.
 */
#include "src/cli/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/info.h"
#include "src/cli/svg.h"
#include "src/eval/quality.h"
#include "src/base/utf8.h"

enum {
    WIDTH = 1000,
    HEIGHT = 560,
    LEFT = 84,   /* of the plot's frame */
    RIGHT = 762, /* the legend stands beyond */
    TOP = 64,
    BOTTOM = 492,
};

typedef struct series {
    uint32_t role;
    const char *colour;
    int mark;
    double shift; /* of its marks, in columns: roles of one type would hide each other */
} series;

static const series all_series[] = {
    {FG_ROLE_EXPERT_GATE, "#3b7dd8", 0, -0.2},
    {FG_ROLE_EXPERT_UP, "#d9822b", 1, 0.0},
    {FG_ROLE_EXPERT_DOWN, "#2f9e6b", 2, 0.2},
    {FG_ROLE_LIGHT_QKV, "#c94f4f", 3, -0.2},
    {FG_ROLE_LIGHT_GATE, "#8f6bc9", 4, 0.0},
    {FG_ROLE_LIGHT_OUT, "#a07c3f", 0, 0.2},
    {FG_ROLE_Q, "#d0609c", 1, -0.3},
    {FG_ROLE_K, "#2b9aa8", 2, -0.1},
    {FG_ROLE_V, "#8a9a2e", 3, 0.1},
    {FG_ROLE_O, "#7d8794", 4, 0.3},
    {FG_ROLE_EMBED, "#b0643c", 0, 0.0},
    {FG_ROLE_LM_HEAD, "#5a67c8", 3, 0.0},
};
enum { N_SERIES = sizeof all_series / sizeof all_series[0] };

/* Errors of one role in one layer: of one tensor, or of the experts. */
typedef struct point {
    double low, median, high; /* NaN: none above 0 measured */
} point;

typedef struct plot {
    const fg_model_file *f;
    fg_buf b;
    uint32_t n_column; /* embedding, the layers, lm_head */
    point *point;      /* [N_SERIES][n_column] */
    double log_low, log_high;
} plot;

/* ---- data ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Where the file was calibrated, outputs say more than weights: feedback trades one for the
 * other. */
static float error_of(const fg_tensor *t)
{
    return t->err_out > 0.0f ? t->err_out : t->err_rms;
}

static bool is_calibrated(const fg_model_file *f)
{
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        if (fg_model_file_tensor(f, i)->err_out > 0.0f) return true;
    }
    return false;
}

/* error: room for n_expert values. */
static point measure(const fg_model_file *f, uint32_t role, uint32_t column, double *error)
{
    const fg_shape *s = fg_model_file_shape(f);
    const bool expert = role >= FG_ROLE_EXPERT_GATE;
    const uint32_t own =
        role == FG_ROLE_EMBED ? 0 : s->n_layer + 1; /* column of a role without layer */
    uint32_t layer = FG_NO_LAYER, n = 0;
    if (role > FG_ROLE_FINAL_NORM) {
        if (column == 0 || column > s->n_layer) column = UINT32_MAX;
        layer = column - 1;
    } else if (column != own) {
        column = UINT32_MAX;
    }
    for (uint32_t e = 0; column != UINT32_MAX && e < (expert ? s->n_expert : 1); e++) {
        const fg_tensor *t = fg_model_file_find(f, (fg_role)role, layer, expert ? e : FG_NO_LAYER);
        if (t != NULL && error_of(t) > 0.0f) error[n++] = (double)error_of(t);
    }
    if (n == 0) return (point){(double)NAN, (double)NAN, (double)NAN};
    qsort(error, n, sizeof *error, by_value);
    return (point){error[0], 0.5 * (error[(n - 1) / 2] + error[n / 2]), error[n - 1]};
}

static fg_status collect(plot *p, fg_err *err)
{
    const fg_shape *s = fg_model_file_shape(p->f);
    double low = (double)INFINITY, high = 0.0;
    p->n_column = s->n_layer + 2;
    p->point = fg_mem_zalloc_array((size_t)N_SERIES * p->n_column, sizeof *p->point);
    double *error = fg_mem_zalloc_array(s->n_expert, sizeof *error);
    fg_status st = p->point == NULL || error == NULL ? fg_fail_nomem(err, "drawing") : FG_OK;
    for (uint32_t i = 0; st == FG_OK && i < N_SERIES * p->n_column; i++) {
        const uint32_t role = all_series[i / p->n_column].role;
        const point x = p->point[i] = measure(p->f, role, i % p->n_column, error);
        if (x.low < low) low = x.low;
        if (x.high > high) high = x.high;
    }
    fg_mem_free(error);
    if (st == FG_OK && high <= 0.0) {
        st = fg_fail(err, FG_EINVAL,
                     "%s: no quantization error above 0 stored, expected a quantized file with "
                     "measured errors",
                     fg_model_file_path(p->f));
    }
    p->log_low = log10(low) - 0.06;
    p->log_high = log10(high) + 0.06;
    const double more = 0.7 - (p->log_high - p->log_low); /* decades: two marked lines at least */
    if (more > 0.0) {
        p->log_low -= more / 2.0;
        p->log_high += more / 2.0;
    }
    return st;
}

/* ---- drawing ---- */

static double x_of(const plot *p, double column)
{
    return LEFT + (RIGHT - LEFT) * (column + 0.5) / (double)p->n_column;
}

static double y_of(const plot *p, double error)
{
    const double t = (log10(error) - p->log_low) / (p->log_high - p->log_low);
    return BOTTOM - (BOTTOM - TOP) * t;
}

static void put_head(plot *p)
{
    char name[96], line[160];
    const fg_card_model m = fg_card_model_of(p->f);
    fg_utf8_file_name(fg_model_file_path(p->f), name, sizeof name);
    (void)snprintf(line, sizeof line, "Quantization error of %s", name);
    svg_begin(&p->b, WIDTH, HEIGHT, line);
    (void)snprintf(line, sizeof line, "Quantization error by layer and role: %s", name);
    svg_put_text(&p->b, LEFT, 30, " font-size=\"16\"", line);
    (void)snprintf(line, sizeof line, "mostly %s, %.2f bits per weight", m.type, m.bits);
    svg_put_text(&p->b, LEFT, 49, "", line);
}

static void put_y_axis(plot *p)
{
    static const int steps[] = {1, 2, 5};
    char text[32];
    for (int power = (int)floor(p->log_low); power <= (int)ceil(p->log_high); power++) {
        for (int i = 0; i < 3; i++) {
            const double v = steps[i] * pow(10.0, power), y = y_of(p, v);
            if (log10(v) < p->log_low || log10(v) > p->log_high) continue;
            fg_buf_printf(&p->b,
                          "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/>\n",
                          LEFT, y, RIGHT, y);
            (void)snprintf(text, sizeof text, "%.6g", v);
            svg_put_text(&p->b, LEFT - 8, y + 4, " text-anchor=\"end\"", text);
        }
    }
    char turn[96];
    (void)snprintf(turn, sizeof turn, " text-anchor=\"middle\" transform=\"rotate(-90 22 %d)\"",
                   (TOP + BOTTOM) / 2);
    svg_put_text(&p->b, 22, (TOP + BOTTOM) / 2.0, turn,
                 is_calibrated(p->f)
                     ? "relative RMS error of outputs (embedding: of weights), log scale"
                     : "relative RMS error (log scale)");
}

static void put_x_axis(plot *p)
{
    const fg_shape *s = fg_model_file_shape(p->f);
    const uint32_t step = s->n_layer <= 20 ? 1 : s->n_layer <= 40 ? 2 : (s->n_layer + 99) / 100 * 5;
    const double half = 0.5 * (RIGHT - LEFT) / (double)p->n_column;
    char text[32];
    for (uint32_t l = 0; l < s->n_layer; l++) {
        const double x = x_of(p, l + 1);
        if (s->attn[l] == FG_ATTN_SOFTMAX) {
            fg_buf_printf(&p->b,
                          "<rect class=\"softmax\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" "
                          "height=\"%d\"/>\n",
                          x - half, TOP, 2 * half, BOTTOM - TOP);
        }
        if (l % step != 0) continue;
        (void)snprintf(text, sizeof text, "%u", l);
        svg_put_text(&p->b, x, BOTTOM + 18, " text-anchor=\"middle\"", text);
    }
    /* slanted names would need room; with many layers these two stand lower than the numbers */
    const double y = BOTTOM + (s->n_layer <= 10 ? 18 : 34);
    svg_put_text(&p->b, x_of(p, 0), y, " text-anchor=\"middle\"", "embedding");
    svg_put_text(&p->b, x_of(p, s->n_layer + 1), y, " text-anchor=\"middle\"", "lm_head");
    svg_put_text(&p->b, (LEFT + RIGHT) / 2.0, BOTTOM + 44, " text-anchor=\"middle\"", "layer");
    fg_buf_printf(&p->b, "<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
                  LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP);
}

/* The range of the experts, one closed path. */
static void put_band(plot *p, const series *s, const point *x)
{
    const char *move = "M";
    fg_buf_put_str(&p->b, "<path d=\"");
    for (uint32_t c = 0; c < p->n_column; c++) {
        if (isnan(x[c].high)) continue;
        fg_buf_printf(&p->b, "%s%.1f %.1f", move, x_of(p, c + s->shift), y_of(p, x[c].high));
        move = "L";
    }
    for (uint32_t c = p->n_column; c-- > 0;) {
        if (isnan(x[c].low)) continue;
        fg_buf_printf(&p->b, "L%.1f %.1f", x_of(p, c + s->shift), y_of(p, x[c].low));
    }
    fg_buf_printf(&p->b, "z\" fill=\"%s\" fill-opacity=\"0.18\"/>\n", s->colour);
}

static bool is_drawn(const plot *p, const point *x)
{
    for (uint32_t c = 0; c < p->n_column; c++) {
        if (!isnan(x[c].median)) return true;
    }
    return false;
}

static void put_series(plot *p, const series *s, const point *x)
{
    const char *move = "M";
    if (s->role >= FG_ROLE_EXPERT_GATE) put_band(p, s, x);
    fg_buf_put_str(&p->b, "<path d=\"");
    for (uint32_t c = 0; c < p->n_column; c++) {
        if (isnan(x[c].median)) continue;
        fg_buf_printf(&p->b, "%s%.1f %.1f", move, x_of(p, c + s->shift), y_of(p, x[c].median));
        move = "L";
    }
    fg_buf_printf(&p->b, "\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.4\"/>\n", s->colour);
    for (uint32_t c = 0; c < p->n_column; c++) {
        if (!isnan(x[c].median))
            svg_put_mark(&p->b, x_of(p, c + s->shift), y_of(p, x[c].median), s->mark, s->colour);
    }
}

/* "q4" or "q4, q6": the types of a role, in the order of their numbers. */
static void type_list(const fg_model_file *f, uint32_t role, char *out, size_t n)
{
    uint32_t seen = 0;
    _Static_assert(FG_QTYPE_END <= 32, "a bit a type");
    size_t len = 0;
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        if (t->role == role) seen |= 1u << t->type;
    }
    out[0] = '\0';
    for (uint32_t type = 0; type < FG_QTYPE_END; type++) {
        if ((seen >> type & 1) == 0) continue;
        const int m =
            snprintf(out + len, n - len, "%s%s", len == 0 ? "" : ", ", fg_qtype_get(type)->name);
        if (m < 0 || (size_t)m >= n - len) break;
        len += (size_t)m;
    }
}

static void put_legend(plot *p)
{
    const double x = RIGHT + 22;
    double y = TOP + 10;
    char types[48], line[96];
    bool experts = false;
    for (uint32_t i = 0; i < N_SERIES; i++) {
        const series *s = &all_series[i];
        if (!is_drawn(p, p->point + (size_t)i * p->n_column)) continue;
        experts = experts || s->role >= FG_ROLE_EXPERT_GATE;
        type_list(p->f, s->role, types, sizeof types);
        (void)snprintf(line, sizeof line, "%s: %s", info_role_name(s->role), types);
        fg_buf_printf(&p->b,
                      "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
                      "stroke-width=\"1.4\"/>\n",
                      x - 10, y, x + 10, y, s->colour);
        svg_put_mark(&p->b, x, y, s->mark, s->colour);
        svg_put_text(&p->b, x + 18, y + 4, "", line);
        y += 22;
    }
    y += 10;
    fg_buf_printf(&p->b,
                  "<rect class=\"softmax\" x=\"%.1f\" y=\"%.1f\" width=\"20\" height=\"12\"/>\n",
                  x - 10, y - 6);
    svg_put_text(&p->b, x + 18, y + 4, "", "softmax attention");
    if (!experts) return;
    svg_put_text(&p->b, x - 10, y + 30, " font-size=\"11\"", "experts: line of the median");
    svg_put_text(&p->b, x - 10, y + 45, " font-size=\"11\"", "in the band of their range");
}

fg_status plot_errors(const fg_model_file *f, const char *path, fg_err *err)
{
    plot p = {.f = f};
    fg_status st = check_output(path, true, (const char *[]){fg_model_file_path(f)}, 1, err);
    if (st == FG_OK) st = collect(&p, err);
    if (st == FG_OK) {
        put_head(&p);
        put_y_axis(&p);
        put_x_axis(&p);
        for (uint32_t i = N_SERIES; i-- > 0;) { /* the first on top */
            const point *x = p.point + (size_t)i * p.n_column;
            if (is_drawn(&p, x)) put_series(&p, &all_series[i], x);
        }
        put_legend(&p);
        svg_end(&p.b);
        st = write_buf(&p.b, path, err);
    }
    fg_mem_free(p.point);
    fg_buf_fini(&p.b);
    return st;
}
