/* SPDX-License-Identifier: MIT
 *
 * Every row of quant/types.inc: codes keep their places, what is encoded decodes within a bound
 * that follows from the type's grid, and document and second reader list the same types.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/codes.h"
#include "quant/panel.h"
#include "quant/search.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "tests/fg_test.h"

enum { G = FG_GROUP_COLS, MAX_COLS = 512 };

static double normal(fg_rng *r)
{
    const double u = 1.0 - fg_rng_f64(r), v = fg_rng_f64(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

static void join(char *out, size_t n, const char *name)
{
    const size_t len = strlen(out);
    (void)snprintf(out + len, n - len, "%s%s", len == 0 ? "" : ", ", name);
}

FG_TEST(names_values_and_kinds)
{
    char types[128] = "", kinds[128] = "";
    double before = 0.0;
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const fg_qtype_info *info = fg_qtype_at(i);
        fg_qtype type;
        join(types, sizeof types, info->name);
        CHECK(fg_qtype_get((uint32_t)info->type) == info);
        CHECK(fg_qtype_parse(info->name, &type) && type == info->type);
        CHECK_STR(fg_qkinds[info->kind].name, info->name);
        CHECK(fg_qkind_of((uint32_t)type, info->table) == info->kind);
        CHECK_U64(fg_panel_bytes(type, 128), info->sb_bytes);
        CHECK_U64(fg_group_bytes(type) * 4 + (info->quantized ? 64 : 0),
                  info->quantized ? info->sb_bytes : 0);
        CHECK(info->table == NULL || fg_lut_is_valid(info->table));
        CHECK(fg_qtype_has_table((uint32_t)type) == (info->table != NULL));
        if (info->kld == 0) continue;
        CHECK(info->bits > before && info->kld <= 1000); /* a budget's steps cost bytes */
        before = info->bits;
    }
    for (uint32_t i = 0; i < FG_KIND_COUNT; i++) {
        join(kinds, sizeof kinds, fg_qkinds[i].name);
        CHECK(fg_qkind_of((uint32_t)fg_qkinds[i].type, fg_qkinds[i].lut) == (fg_qkind)i);
    }
    CHECK_STR(fg_qtype_names, types);
    CHECK_STR(fg_qkind_names, kinds);
    fg_qtype type;
    CHECK(!fg_qtype_parse("q9", &type) && !fg_qtype_parse("q4lin", &type));
    for (uint32_t t = FG_QTYPE_END; t < 100; t++) CHECK(fg_qtype_get(t) == NULL);
    CHECK(fg_qtype_get(2) == NULL && fg_qkind_of(2, NULL) == FG_KIND_COUNT);
    CHECK(fg_qkind_of(FG_TYPE_Q4, NULL) == FG_KIND_COUNT);
}

/* ---- codes ---- */

/* Every code survives at every place of a group, beside others; false when not. */
static bool codes_survive(fg_qtype type, uint32_t n_code)
{
    uint8_t group[64 * 16], code[FG_PANEL_ROWS][G], got[G];
    for (uint32_t first = 0; first < n_code; first++) {
        memset(group, 0xa5, sizeof group);
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            for (size_t k = 0; k < G; k++) {
                code[r][k] = (uint8_t)((first + 7 * k + 13 * r) % n_code);
            }
            fg_put_codes(type, group, r, code[r]);
        }
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            fg_get_codes(type, group, r, got);
            if (memcmp(got, code[r], G) != 0) return false;
        }
        for (size_t i = fg_group_bytes(type); i < sizeof group; i++) {
            if (group[i] != 0xa5) return false;
        }
    }
    return true;
}

FG_TEST(codes_keep_their_places)
{
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const fg_qtype_info *info = fg_qtype_at(i);
        fg_code_map map;
        if (!info->quantized) continue;
        if (!codes_survive(info->type, info->n_code)) {
            fg_test_fail(__FILE__, __LINE__, "%s loses codes", info->name);
        }
        /* control: a code more than its bits hold */
        CHECK(info->n_code == 256 || info->packing == FG_PACK_BYTES ||
              !codes_survive(info->type, info->n_code + 1));
        fg_code_map_init(&map, info->type, info->table);
        for (uint32_t c = 0; c < info->n_code; c++) CHECK_U64(map.code[map.value[c] + 128], c);
    }
}

/* ---- encoding and decoding ---- */

/* The most that a weight within the grid is off at scale 1: half the widest gap, or, since the ends
 * differ, what a weight of the size of the lowest value loses at the highest. */
static double coarseness(const fg_grid *g, const fg_code_map *map, uint32_t n_code)
{
    double widest = 0.0;
    int last = (int)g->lo;
    for (int v = (int)g->lo + 1; v <= (int)g->hi; v++) {
        const uint32_t c = map->code[v + 128];
        if (c >= n_code || map->value[c] != v) continue;
        if (v - last > widest) widest = v - last;
        last = v;
    }
    const double beyond = fabs((double)g->lo) - (double)g->hi;
    return widest / 2.0 > beyond ? widest / 2.0 : beyond;
}

/* Bound of the error of a group of a quantized type, |x - stored|.  One of the scales tried puts
 * the extreme weight at the lowest value or a step of the search inside, where no weight is off by
 * more than the coarseness times the scale; the real scale taken is no worse.  In the file it
 * becomes an int8 s, no worse than the nearest one, which is within 1 of s and moves all stored
 * values by at most half a step of it, relative to |x|. */
static double group_bound(const fg_qtype_info *info, const fg_grid *g, double coarse,
                          const float *x, int s)
{
    double largest = 0.0, x2 = 0.0;
    for (size_t i = 0; i < G; i++) {
        largest = fmax(largest, fabs((double)x[i]));
        x2 += (double)x[i] * (double)x[i];
    }
    const double step = (double)(info->last - info->first) / 9.0; /* 10 tries at least */
    const double scale = largest / (fabs((double)g->lo) * (1.0 - step));
    return sqrt((double)G) * coarse * scale + sqrt(x2) * 0.5 / (fabs((double)s) - 1.5);
}

/* The largest |w - stored| / bound of the panel's groups, or of its floats. */
static double worst_of(const fg_qkind_info *kind, uint8_t *panel, const float *row_scale,
                       const float *w, size_t n_col)
{
    static float v[FG_PANEL_ROWS * MAX_COLS];
    const fg_qtype_info *info = fg_qtype_get((uint32_t)kind->type);
    double worst = 0.0, coarse = 0.0;
    fg_grid grid = {0};
    if (info->quantized) {
        fg_code_map map;
        fg_grid_init(&grid, kind->type, kind->lut);
        fg_code_map_init(&map, kind->type, kind->lut);
        coarse = coarseness(&grid, &map, info->n_code);
    }
    fg_panel_decode(kind->type, kind->lut, panel, row_scale, n_col, v);
    for (size_t i = 0; i < FG_PANEL_ROWS * n_col; i += G) {
        double e2 = 0.0, x2 = 0.0, bound = 0.0;
        for (size_t j = 0; j < G; j++) {
            const double e = (double)w[i + j] - (double)v[i + j];
            e2 += e * e;
            x2 += (double)w[i + j] * (double)w[i + j];
        }
        switch (info->packing) {
        case FG_PACK_F32: bound = 1e-300; break;             /* none */
        case FG_PACK_BF16: bound = sqrt(x2) * 0x1p-8; break; /* half a unit of 8 bits */
        case FG_PACK_NIBBLES:
        case FG_PACK_NIBBLES_1:
        case FG_PACK_NIBBLES_2:
        case FG_PACK_BYTES:
            bound = group_bound(
                info, &grid, coarse, w + i,
                (int8_t)*fg_group_scale_at(kind->type, panel, i % n_col / G, i / n_col));
            break;
        }
        worst = fmax(worst, sqrt(e2) / bound);
    }
    return worst;
}

/* Changes the first weights of a group: the top bit of their codes, or of a float's exponent. */
static void spoil(fg_qtype type, uint8_t *panel, size_t n_col)
{
    const fg_qtype_info *info = fg_qtype_get((uint32_t)type);
    const size_t size = (size_t)info->packing / 8;
    for (size_t i = 0; !info->quantized && i < FG_PANEL_ROWS * n_col; i += G) {
        panel[size * i + size - 1] ^= 0x40;
    }
    for (size_t g = 0; info->quantized && g < n_col / G; g++) {
        uint8_t code[G], *group = fg_group_at(type, panel, g);
        for (size_t r = 0; r < FG_PANEL_ROWS; r++) {
            fg_get_codes(type, group, r, code);
            for (size_t k = 0; k < 4; k++) code[k] ^= (uint8_t)(info->n_code / 2);
            fg_put_codes(type, group, r, code);
        }
    }
}

FG_TEST(what_is_encoded_decodes_within_its_bound)
{
    static float w[FG_PANEL_ROWS * MAX_COLS];
    static uint8_t panel[FG_PANEL_ROWS * MAX_COLS * 4];
    for (uint32_t i = 0; i < FG_KIND_COUNT; i++) {
        const fg_qkind_info *kind = &fg_qkinds[i];
        double worst = 0.0, spoilt = 1e300;
        for (uint64_t seed = 0; seed < 20; seed++) {
            const size_t n_col = 128 * (1 + seed % 4);
            float row_scale[FG_PANEL_ROWS];
            fg_rng r;
            fg_rng_init(&r, seed);
            for (size_t j = 0; j < FG_PANEL_ROWS * n_col; j++) w[j] = (float)(0.02 * normal(&r));
            fg_panel_encode(kind->type, kind->lut, w, n_col, panel, row_scale, NULL);
            worst = fmax(worst, worst_of(kind, panel, row_scale, w, n_col));
            spoil(kind->type, panel, n_col);
            spoilt = fmin(spoilt, worst_of(kind, panel, row_scale, w, n_col));
        }
        printf("  %s: %.3f of the bound, spoilt %.3g\n", kind->name, worst, spoilt);
        if (!(worst <= 1.0)) fg_test_fail(__FILE__, __LINE__, "%s: beyond its bound", kind->name);
        if (!(spoilt > 1.0)) fg_test_fail(__FILE__, __LINE__, "%s: damage unseen", kind->name);
    }
}

/* ---- the document and the second reader ---- */

static void value_text(const fg_qtype_info *info, char *out, size_t n)
{
    switch (info->grid) {
    case FG_GRID_NONE: (void)snprintf(out, n, "float"); return;
    case FG_GRID_TABLE: (void)snprintf(out, n, "lut[q]"); return;
    case FG_GRID_OFFSET: (void)snprintf(out, n, "q - %u", info->n_code / 2); return;
    case FG_GRID_INT8: (void)snprintf(out, n, "i8"); return;
    }
}

/* How many types differ between the list and the lines that fg_read.py --types prints. */
static int differences(const char *printed)
{
    int n = 0, lines = 0;
    for (const char *p = printed; *p != '\0'; p++) lines += *p == '\n';
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const fg_qtype_info *info = fg_qtype_at(i);
        char value[16], line[96];
        value_text(info, value, sizeof value);
        const int len = snprintf(
            line, sizeof line, "%u %s %u %u %u %s\n", (unsigned)info->type, info->name,
            info->sb_bytes, info->quantized ? (unsigned)info->packing : 0, info->n_code, value);
        const char *at = strstr(printed, line);
        n += len <= 0 || at == NULL || (at != printed && at[-1] != '\n');
    }
    return n + abs(lines - FG_QTYPE_COUNT);
}

FG_TEST(second_reader_knows_the_same_types)
{
    char text[1024] = "", bent[1024];
    if (system("python3 -c '' >/dev/null 2>&1") != 0) {
        fg_test_skip("python3 is absent");
        return;
    }
    FILE *f = popen("python3 -B scripts/fg_read.py --types", "r");
    REQUIRE(f != NULL);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    CHECK(pclose(f) == 0);
    CHECK_U64((uint64_t)differences(text), 0);
    /* controls: each character of a line changed, a type more, a type less */
    const char *q6 = strstr(text, "6 q6");
    REQUIRE(q6 != NULL);
    for (size_t i = 0; q6[i] != '\n'; i++) {
        (void)snprintf(bent, sizeof bent, "%s", text);
        bent[q6 - text + (ptrdiff_t)i] ^= 1;
        CHECK(differences(bent) != 0);
    }
    CHECK((size_t)snprintf(bent, sizeof bent, "%s7 q7 2112 8 128 q - 64\n", text) < sizeof bent);
    CHECK(differences(bent) == 1);
    (void)snprintf(bent, sizeof bent, "%s", strchr(text, '\n') + 1);
    CHECK(differences(bent) == 2);
}

/* Types of the list that FORMAT.md 6 lacks or has otherwise, and rows there that no type has. */
static int undocumented(const char *text)
{
    const char *begin = strstr(text, "\n| type | name | superblock bytes |");
    if (begin == NULL) return -1;
    const char *end = strstr(begin, "\n\n");
    int n = 0, rows = -2; /* head and rule */
    for (const char *p = begin; p < end; p++) rows += p[0] == '\n' && p[1] == '|';
    for (uint32_t i = 0; i < FG_QTYPE_COUNT; i++) {
        const fg_qtype_info *info = fg_qtype_at(i);
        char row[64];
        (void)snprintf(row, sizeof row, "\n| %u | %s | %u | ", (unsigned)info->type, info->name,
                       info->sb_bytes);
        const char *at = strstr(begin, row);
        n += at == NULL || at > end;
    }
    return n + abs(rows - FG_QTYPE_COUNT);
}

FG_TEST(document_lists_the_same_types)
{
    char *text = NULL;
    size_t n;
    fg_err err = {0};
    REQUIRE_OK(fg_io_read_all("src/format/FORMAT.md", 1 << 20, &text, &n, &err), &err);
    CHECK(undocumented(text) == 0);
    char *q5 = strstr(text, "\n| 5 | q5 | 1344 |"); /* control: a superblock of another size */
    REQUIRE(q5 != NULL);
    q5[13]++;
    CHECK(undocumented(text) == 1);
    fg_mem_free(text);
}
