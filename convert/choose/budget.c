/* SPDX-License-Identifier: MIT
 *
 * Reading order: fg_budget_choose at the end, the solver above it.
 */
#include "convert/choose/budget.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/model/quant_unit.h"
#include "src/format/file_plan.h"

#define MAX_JSON_BYTES ((uint64_t)1 << 24)
#define MAX_KLD        1e6 /* nats a token: no models differ so much, and sums of it stay numbers */

/* The types of a budget in the order of the list, and the smallest one alone. */
static const fg_qtype_info *type_at(uint32_t i)
{
    for (uint32_t t = 0; t < FG_QTYPE_COUNT; t++) {
        const fg_qtype_info *info = fg_qtype_at(t);
        if (info->kld > 0 && i-- == 0) return info;
    }
    return NULL;
}

/* Divergence that a unit causes at a type, relative to q4, measured on the nano model: kld and
 * kld_head of quant/types.inc.
 *
 * The linearity theorem of HIGGS (arXiv 2411.17525) takes the ratio of the squared errors of the
 * weights: 0.297, 0.072, 0.0048 (22.6, 27.9, 34.0, 45.9 dB; equal within 5 % for all units).  It
 * holds for the head (0.297, 0.086, 0.022: what is more is the int8 rounding of the activations,
 * which costs the same at every type).  It does not where routers follow: a change of the stream
 * sends some tokens to other experts, as many as the change is large, not as its square.  There the
 * ratios are those of the divergences of whole files of one type.  Sum of units against measured
 * divergence of 12 random mixtures (Pearson, Spearman, range of the quotient): these ratios 0.996,
 * 0.993, 0.78 to 0.97; squared errors 0.995, 0.979, 0.53 to 0.95.  Choices differ little: within 3
 * % of the divergence. */
static double ratio(fg_quant_unit_class class, const fg_qtype_info *type)
{
    return (class == FG_QUANT_UNIT_LM_HEAD ? type->kld_head : type->kld) / 1000.0;
}

/* ---- solver ---- */

/* The next point of the unit on the convex hull above `at` and what it saves by the byte; false
 * when no type above saves anything. */
static bool next_step(const fg_budget_point *p, uint8_t at, uint8_t *to, double *gain)
{
    *gain = 0.0;
    for (uint8_t t = (uint8_t)(at + 1); t < FG_BUDGET_TYPES; t++) {
        const double g = (p[at].kld - p[t].kld) / (double)(p[t].bytes - p[at].bytes);
        if (g <= *gain) continue;
        *gain = g;
        *to = t;
    }
    return *gain > 0.0;
}

void fg_budget_solve(const fg_budget_unit *unit, uint32_t n_unit, fg_budget_fits_fn *fits,
                     void *ctx, uint8_t *choice)
{
    bool closed[2 + FG_QUANT_UNIT_LAYER_CLASSES * FG_MAX_LAYER] = {
        0}; /* its next step does not fit */
    for (;;) {
        uint32_t best = n_unit;
        uint8_t best_to = 0;
        double most = 0.0;
        for (uint32_t u = 0; u < n_unit; u++) {
            uint8_t to = 0;
            double gain;
            if (closed[u] || !next_step(unit[u].at, choice[u], &to, &gain) || gain <= most)
                continue;
            most = gain; /* ties go to the lower unit */
            best = u;
            best_to = to;
        }
        if (best == n_unit) return;
        const uint8_t before = choice[best];
        choice[best] = best_to;
        if (fits(ctx, choice)) continue;
        choice[best] = before;
        closed[best] = true;
    }
}

/* ---- sizes ---- */

/* A choice, laid out as the file would be: sizes are the file's, padding included. */
typedef struct plan {
    const fg_shape *s;
    const fg_budget_opts *o;
    const uint8_t *choice;
    uint64_t file_bytes; /* of the last layout */
    double bpw;
    fg_status st; /* first failure */
    fg_err *err;
} plan;

static fg_tensor_choice choose(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    const plan *p = ctx;
    uint32_t idx;
    (void)expert;
    if (!fg_quant_unit_of(p->s, role, layer, &idx)) return (fg_tensor_choice){.type = FG_TYPE_F32};
    const fg_qtype_info *type = type_at(p->choice[idx]);
    fg_tensor_choice c = {.type = type->type};
    if (type->table != NULL) c.lut = *type->table;
    return c;
}

/* Bytes of the recipe, a rule of each unit at most, and of small entries that are not known yet. */
static uint64_t recipe_bytes(const fg_shape *s)
{
    return 4096 + (uint64_t)64 * fg_quant_unit_count(s);
}

/* Sizes only: all bytes in the first entry, and room for their alignment. */
static fg_status lay_out(plan *p, fg_err *err)
{
    fg_meta meta[FG_BUDGET_MAX_META] = {{0}};
    char key[FG_BUDGET_MAX_META][4];
    const uint32_t n = p->o->n_meta + 1; /* one to spare */
    if (n > FG_BUDGET_MAX_META) {
        return fg_fail(err, FG_EINVAL, "budget: %u metadata entries, expected at most %d",
                       p->o->n_meta, FG_BUDGET_MAX_META - 1);
    }
    for (uint32_t i = 0; i < n; i++) {
        (void)snprintf(key[i], sizeof key[i], "%u", i);
        meta[i].key = key[i];
    }
    meta[0].bytes = p->o->meta_bytes + recipe_bytes(p->s) + (uint64_t)64 * n;
    const fg_file_spec spec = {p->s, choose, p, meta, n, 0, true};
    fg_file_plan *f;
    uint64_t weights, bytes;
    FG_TRY(fg_file_plan_make(&f, &spec, "budget", err));
    fg_file_plan_sums(f, &weights, &bytes);
    p->bpw = fg_bits_per_weight(bytes, weights);
    p->file_bytes = fg_file_plan_file_bytes(f);
    fg_file_plan_destroy(&f);
    return FG_OK;
}

static bool fits(void *ctx, const uint8_t *choice)
{
    plan *p = ctx;
    if (p->st != FG_OK) return false;
    p->choice = choice;
    p->st = lay_out(p, p->err);
    return p->st == FG_OK && (p->o->bpw == 0.0 || p->bpw <= p->o->bpw) &&
           (p->o->file_bytes == 0 || p->file_bytes <= p->o->file_bytes);
}

/* ---- the sensitivity file ---- */

typedef struct unit_info {
    uint64_t n_weight; /* of the model */
    uint64_t bytes[FG_BUDGET_TYPES];
} unit_info;

static void add_tensor(unit_info *u, fg_role role, const fg_shape *s, uint64_t times)
{
    uint64_t n_row, n_col;
    fg_role_dims(role, s, &n_row, &n_col);
    u->n_weight += times * n_row * n_col;
    for (uint32_t t = 0; t < FG_BUDGET_TYPES; t++) {
        const uint64_t panel =
            fg_panel_bytes(type_at(t)->type, n_col) + FG_PANEL_ROWS * sizeof(float);
        u->bytes[t] += times * fg_n_panel(n_row) * panel;
    }
}

static unit_info info_of(const fg_shape *s, uint32_t idx)
{
    const fg_quant_unit u = fg_quant_unit_at(s, idx);
    unit_info info = {0};
    for (uint32_t role = 0; role < FG_ROLE_COUNT; role++) {
        uint32_t at;
        const uint32_t layer = u.layer == FG_NO_LAYER ? 0 : u.layer;
        const bool soft = role >= FG_ROLE_Q && role <= FG_ROLE_O;
        const bool light = role >= FG_ROLE_LIGHT_QKV && role <= FG_ROLE_LIGHT_NORM;
        if (!fg_quant_unit_of(s, (fg_role)role, layer, &at) || at != idx) continue;
        if (soft && s->attn[layer] != FG_ATTN_SOFTMAX) continue;
        if (light && s->attn[layer] != FG_ATTN_LIGHTNING) continue;
        add_tensor(&info, (fg_role)role, s, role >= FG_ROLE_EXPERT_GATE ? s->n_expert : 1);
    }
    return info;
}

static fg_status bad_unit(const char *path, uint32_t idx, const char *wanted, fg_err *err)
{
    return fg_fail(err, FG_EFORMAT, "%s: unit %u: incomplete, expected %s", path, idx, wanted);
}

static fg_status bad_type(const char *path, uint32_t idx, fg_err *err)
{
    char wanted[128] = "type, one of ";
    for (uint32_t t = 0; t < FG_BUDGET_TYPES; t++) {
        const size_t n = strlen(wanted);
        (void)snprintf(wanted + n, sizeof wanted - n, "%s%s", t == 0 ? "" : ", ", type_at(t)->name);
    }
    return bad_unit(path, idx, wanted, err);
}

/* One unit of the file into its points. */
static fg_status read_unit(const fg_json *node, const fg_shape *s, uint32_t idx, const char *path,
                           fg_budget_point *point, fg_err *err)
{
    const fg_quant_unit u = fg_quant_unit_at(s, idx);
    const unit_info info = info_of(s, idx);
    const char *class, *type_name;
    uint64_t layer = FG_NO_LAYER, n_weight;
    double kld;
    fg_qtype type;
    if (!fg_json_str(fg_json_get(node, "class"), &class) ||
        !fg_json_u64(fg_json_get(node, "weights"), &n_weight)) {
        return bad_unit(path, idx, "class and weights", err);
    }
    (void)fg_json_u64(fg_json_get(node, "layer"), &layer);
    if (strcmp(class, fg_quant_unit_class_name(u.class)) != 0 || layer != u.layer ||
        n_weight != info.n_weight) {
        return fg_fail(err, FG_ESHAPE,
                       "%s: unit %u: %.32s of %llu weights, expected %s of %llu; measure the same "
                       "model with fulgur sensitivity",
                       path, idx, class, (unsigned long long)n_weight,
                       fg_quant_unit_class_name(u.class), (unsigned long long)info.n_weight);
    }
    if (!fg_json_f64(fg_json_get(node, "kld"), &kld) || !(kld >= 0.0 && kld <= MAX_KLD)) {
        return bad_unit(path, idx, "kld, a number from 0 to 1e6", err);
    }
    if (!fg_json_str(fg_json_get(node, "type"), &type_name) || !fg_qtype_parse(type_name, &type) ||
        fg_qtype_get((uint32_t)type)->kld == 0) {
        return bad_type(path, idx, err);
    }
    const double at_type = ratio(u.class, fg_qtype_get((uint32_t)type));
    for (uint32_t t = 0; t < FG_BUDGET_TYPES; t++) {
        point[t] = (fg_budget_point){info.bytes[t], kld * ratio(u.class, type_at(t)) / at_type};
    }
    return FG_OK;
}

static fg_status read_units(const fg_json *root, const fg_shape *s, const char *path,
                            fg_budget_unit *unit, fg_err *err)
{
    const fg_json *list = fg_json_get(root, "units");
    uint64_t version = 0;
    if (!fg_json_u64(fg_json_get(root, "version"), &version) || version != 1 ||
        !fg_json_is_array(list)) {
        return fg_fail(err, FG_EFORMAT, "%s: no sensitivity file of version 1, expected one", path);
    }
    const size_t n = fg_json_size(list), want = fg_quant_unit_count(s);
    if (n != want) {
        return fg_fail(err, FG_ESHAPE,
                       "%s: %zu units, expected %zu; measure the same model with fulgur "
                       "sensitivity",
                       path, n, want);
    }
    uint32_t idx = 0;
    for (const fg_json *c = fg_json_first(list); c != NULL; c = fg_json_next(c), idx++) {
        FG_TRY(read_unit(c, s, idx, path, unit[idx].at, err));
    }
    return FG_OK;
}

/* ---- recipe ---- */

static void put_rule(fg_buf *b, fg_quant_unit u, const char *type)
{
    if (u.class == FG_QUANT_UNIT_EMBED) fg_buf_printf(b, "model.embed_tokens.weight %s\n", type);
    if (u.class == FG_QUANT_UNIT_LM_HEAD) fg_buf_printf(b, "lm_head.weight %s\n", type);
    if (u.layer == FG_NO_LAYER) return;
    static const char *const tail[FG_QUANT_UNIT_LAYER_CLASSES] = {
        [FG_QUANT_UNIT_ATTN_IN] = "self_attn.*",
        [FG_QUANT_UNIT_ATTN_OUT] =
            "self_attn.o*_proj.weight", /* out_proj and o_proj, not output_gate */
        [FG_QUANT_UNIT_EXPERT_IN] = "*.w[13].weight",
        [FG_QUANT_UNIT_EXPERT_DOWN] = "*.w2.weight",
    };
    fg_buf_printf(b, "model.layers.%u.%s %s\n", u.layer, tail[u.class], type);
}

/* The type of most units in one line, then the exceptions; a rule of attn_in fits attn_out too, so
 * that one follows. */
static void put_recipe(fg_buf *b, const fg_shape *s, const uint8_t *choice)
{
    uint32_t n_of[FG_BUDGET_TYPES] = {0}, most = 0;
    const uint32_t n = fg_quant_unit_count(s);
    for (uint32_t i = 0; i < n; i++) n_of[choice[i]]++;
    for (uint32_t t = 1; t < FG_BUDGET_TYPES; t++) most = n_of[t] > n_of[most] ? t : most;
    fg_buf_printf(b, "* %s\n", type_at(most)->name);
    for (uint32_t i = 0; i < n; i++) {
        const fg_quant_unit u = fg_quant_unit_at(s, i);
        const bool covered = u.class == FG_QUANT_UNIT_ATTN_OUT && choice[i - 1] != most;
        if (choice[i] != most || covered) put_rule(b, u, type_at(choice[i])->name);
    }
}

/* ---- the whole ---- */

static fg_status refuse(const plan *p, fg_err *err)
{
    if (p->st != FG_OK) return p->st;
    if (p->o->bpw != 0.0 && p->bpw > p->o->bpw) {
        return fg_fail(err, FG_ELIMIT,
                       "budget: %g bits per weight, expected at least %.4f (all %s)", p->o->bpw,
                       ceil(p->bpw * 1e4) * 1e-4, type_at(0)->name);
    }
    return fg_fail(err, FG_ELIMIT, "budget: %.4f GB, expected at least %.4f (all %s)",
                   (double)p->o->file_bytes * 1e-9, ceil((double)p->file_bytes * 1e-5) * 1e-4,
                   type_at(0)->name);
}

static fg_status solve(fg_buf *recipe, const fg_shape *s, const fg_budget_opts *o,
                       fg_budget_unit *unit, uint64_t hash, fg_err *err)
{
    uint8_t choice[2 + FG_QUANT_UNIT_LAYER_CLASSES * FG_MAX_LAYER] = {0};
    const uint32_t n = fg_quant_unit_count(s);
    plan p = {.s = s, .o = o, .err = err};
    if (!fits(&p, choice)) return refuse(&p, err);
    fg_budget_solve(unit, n, fits, &p, choice);
    (void)fits(&p, choice); /* for its sizes */
    if (p.st != FG_OK) return p.st;
    double kld = 0.0, kld_least = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        kld += unit[i].at[choice[i]].kld;
        kld_least += unit[i].at[0].kld;
    }
    fg_buf_put_str(recipe, "# chosen for ");
    if (o->bpw != 0.0) fg_buf_printf(recipe, "at most %g bits per weight", o->bpw);
    if (o->bpw != 0.0 && o->file_bytes != 0) fg_buf_put_str(recipe, " and ");
    if (o->file_bytes != 0) fg_buf_printf(recipe, "at most %g GB", (double)o->file_bytes * 1e-9);
    fg_buf_printf(recipe, " (%.4f bits); sensitivity file 0x%016llx\n", p.bpw,
                  (unsigned long long)hash);
    fg_buf_printf(recipe, "# predicted kld %.6f, all %s %.6f\n", kld, type_at(0)->name, kld_least);
    put_recipe(recipe, s, choice);
    return recipe->failed ? fg_fail_nomem(err, "recipe") : FG_OK;
}

fg_status fg_budget_choose(fg_buf *recipe, const fg_shape *s, const fg_budget_opts *opts,
                           fg_err *err)
{
    const char *path = opts->sensitivity_path;
    char *text = NULL;
    size_t n = 0;
    fg_json *root = NULL;
    fg_budget_unit *unit = fg_mem_zalloc_array(fg_quant_unit_count(s), sizeof *unit);
    fg_status st = unit == NULL ? fg_fail_nomem(err, path)
                                : fg_io_read_all(path, MAX_JSON_BYTES, &text, &n, err);
    if (st == FG_OK) st = fg_json_parse(&root, text, n, path, err);
    if (st == FG_OK) st = read_units(root, s, path, unit, err);
    if (st == FG_OK) st = solve(recipe, s, opts, unit, fg_hash64(text, n), err);
    fg_json_free(root);
    fg_mem_free(text);
    fg_mem_free(unit);
    return st;
}
