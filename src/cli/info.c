/* SPDX-License-Identifier: MIT */
#include "src/cli/info.h"
#include "src/engine/placement.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/cli/common.h"
#include "src/eval/quality.h"
#include "src/eval/score.h"

static const char *const role_names[FG_ROLE_COUNT] = {
    [FG_ROLE_EMBED] = "embedding",
    [FG_ROLE_LM_HEAD] = "lm_head",
    [FG_ROLE_FINAL_NORM] = "final norm",
    [FG_ROLE_ATTN_NORM] = "attention norm",
    [FG_ROLE_MLP_NORM] = "expert norm",
    [FG_ROLE_LIGHT_QKV] = "lightning qkv",
    [FG_ROLE_LIGHT_GATE] = "lightning gate",
    [FG_ROLE_LIGHT_OUT] = "lightning out",
    [FG_ROLE_LIGHT_NORM] = "lightning norm",
    [FG_ROLE_Q] = "softmax q",
    [FG_ROLE_K] = "softmax k",
    [FG_ROLE_V] = "softmax v",
    [FG_ROLE_O] = "softmax out",
    [FG_ROLE_ROUTER] = "router",
    [FG_ROLE_EXPERT_GATE] = "expert gate",
    [FG_ROLE_EXPERT_UP] = "expert up",
    [FG_ROLE_EXPERT_DOWN] = "expert down",
};

const char *info_role_name(uint32_t role)
{
    return role < FG_ROLE_COUNT ? role_names[role] : "unknown";
}

/* Bits per weight of a tensor, scales included. */
static double tensor_bits(const fg_tensor *t)
{
    return fg_bits_per_weight(fg_tensor_bytes(t), t->n_row * t->n_col);
}

/* ---- tensors ---- */

/* All tensors of one role. */
typedef struct role_sum {
    const char *type; /* "mixed" when they differ */
    uint64_t n, weights, bytes;
    double measured, err2;     /* weights with a known error; sum of weights * err^2 of those */
    double measured_out, out2; /* the same of err_out */
    float worst_row, peak;     /* largest; 0: none measured */
} role_sum;

static void add_tensor(role_sum *s, const fg_tensor *t)
{
    const char *type = fg_qtype_get(t->type)->name;
    const double weights = (double)t->n_row * (double)t->n_col;
    s->type = s->n == 0 || strcmp(s->type, type) == 0 ? type : "mixed";
    s->n++;
    s->weights += t->n_row * t->n_col;
    s->bytes += fg_tensor_bytes(t);
    if (!isnan(t->err_rms)) {
        s->measured += weights;
        s->err2 += weights * (double)t->err_rms * (double)t->err_rms;
    }
    if (t->err_out > 0.0f) {
        s->measured_out += weights;
        s->out2 += weights * (double)t->err_out * (double)t->err_out;
    }
    if (t->err_max_row > s->worst_row) s->worst_row = t->err_max_row;
    if (t->peak > s->peak) s->peak = t->peak;
}

static double role_rms(const role_sum *s)
{
    return s->measured > 0.0 ? sqrt(s->err2 / s->measured) : (double)NAN;
}

static double role_out(const role_sum *s)
{
    return s->measured_out > 0.0 ? sqrt(s->out2 / s->measured_out) : (double)NAN;
}

/* "0.01234", or "-" where nothing was measured. */
static const char *figure(double v, int digits, char *out, size_t n)
{
    if (isnan(v)) return "-";
    (void)snprintf(out, n, "%.*f", digits, v);
    return out;
}

/* Of peak and err_out: 0 stands for none. */
static double if_any(float v)
{
    return v > 0.0f ? (double)v : (double)NAN;
}

static void print_figures(double bits, double rms, double worst, double out, double peak)
{
    char a[32], b[32], c[32], d[32];
    printf(" %7.3f %9s %9s %9s %8s\n", bits, figure(rms, 5, a, sizeof a),
           figure(worst, 5, b, sizeof b), figure(out, 5, c, sizeof c),
           figure(peak, 1, d, sizeof d));
}

static void print_roles(const role_sum *sum)
{
    printf("\n%-16s %-6s %8s %16s %10s %7s %9s %9s %9s %8s\n", "role", "type", "tensors", "weights",
           "size", "bits", "rms error", "worst row", "outputs", "peak");
    for (uint32_t r = 0; r < FG_ROLE_COUNT; r++) {
        const role_sum *s = &sum[r];
        if (s->n == 0) continue;
        printf("%-16s %-6s %8s %16s %10s", role_names[r], s->type, cli_count(s->n),
               cli_count(s->weights), cli_bytes((double)s->bytes));
        print_figures(fg_bits_per_weight(s->bytes, s->weights), role_rms(s),
                      s->measured > 0.0 ? (double)s->worst_row : (double)NAN, role_out(s),
                      if_any(s->peak));
    }
    printf("\nerrors are relative: rms of (weight - stored) over rms of the weights; outputs: the "
           "same of\n"
           "the products with inputs of the calibration text; peak: largest weight over rms; +R: "
           "rotated\n");
}

static void print_table(const fg_model_file *f, const role_sum *sum)
{
    printf("%-64s %-5s %16s %7s %9s %9s %9s %8s\n", "tensor", "type", "shape", "bits", "rms error",
           "worst row", "outputs", "peak");
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        char name[96], shape[48], type[16];
        fg_role_name((fg_role)t->role, t->layer, t->expert, name);
        (void)snprintf(shape, sizeof shape, "%" PRIu64 "x%" PRIu64, t->n_row, t->n_col);
        (void)snprintf(type, sizeof type, "%s%s", fg_qtype_get(t->type)->name,
                       t->rotated ? "+R" : ""); /* FORMAT.md 6.2 */
        printf("%-64s %-5s %16s", name, type, shape);
        print_figures(tensor_bits(t), (double)t->err_rms, (double)t->err_max_row,
                      if_any(t->err_out), if_any(t->peak));
    }
    print_roles(sum);
}

static void put_number(fg_buf *b, const char *name, double v)
{
    if (isnan(v)) {
        fg_buf_printf(b, ", \"%s\": null", name);
    } else {
        fg_buf_printf(b, ", \"%s\": %.7g", name, v);
    }
}

static void put_tensor(fg_buf *b, const fg_tensor *t)
{
    char name[96];
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    fg_buf_printf(b,
                  "{\"name\": \"%s\", \"role\": \"%s\", \"type\": \"%s\", \"rows\": %" PRIu64
                  ", \"columns\": %" PRIu64 ", \"bytes\": %" PRIu64,
                  name, info_role_name(t->role), fg_qtype_get(t->type)->name, t->n_row, t->n_col,
                  fg_tensor_bytes(t));
    fg_buf_put_str(b, t->rotated ? ", \"rotated\": true" : ", \"rotated\": false");
    if (t->layer != FG_NO_LAYER) fg_buf_printf(b, ", \"layer\": %u", t->layer);
    if (t->expert != FG_NO_LAYER) fg_buf_printf(b, ", \"expert\": %u", t->expert);
    put_number(b, "bits", tensor_bits(t));
    put_number(b, "err_rms", (double)t->err_rms);
    put_number(b, "err_max_row", (double)t->err_max_row);
    put_number(b, "err_out", if_any(t->err_out));
    put_number(b, "peak", if_any(t->peak));
    fg_buf_put_str(b, "}");
}

static void put_json(fg_buf *b, const fg_model_file *f, const role_sum *sum)
{
    const char *path = fg_model_file_path(f), *comma = "";
    fg_buf_put_str(b, "{\"file\": ");
    fg_json_put_str(b, path, strlen(path));
    fg_buf_put_str(b, ", \"tensors\": [");
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        fg_buf_put_str(b, i == 0 ? "\n" : ",\n");
        put_tensor(b, fg_model_file_tensor(f, i));
    }
    fg_buf_put_str(b, "\n], \"roles\": [");
    for (uint32_t r = 0; r < FG_ROLE_COUNT; r++) {
        const role_sum *s = &sum[r];
        if (s->n == 0) continue;
        fg_buf_printf(b,
                      "%s\n{\"role\": \"%s\", \"type\": \"%s\", \"tensors\": %" PRIu64
                      ", \"weights\": %" PRIu64 ", \"bytes\": %" PRIu64,
                      comma, role_names[r], s->type, s->n, s->weights, s->bytes);
        put_number(b, "bits", fg_bits_per_weight(s->bytes, s->weights));
        put_number(b, "err_rms", role_rms(s));
        put_number(b, "err_max_row", s->measured > 0.0 ? (double)s->worst_row : (double)NAN);
        put_number(b, "err_out", role_out(s));
        put_number(b, "peak", if_any(s->peak));
        fg_buf_put_str(b, "}");
        comma = ",";
    }
    fg_buf_put_str(b, "\n]}\n");
}

static void sum_roles(const fg_model_file *f, role_sum *sum)
{
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        add_tensor(&sum[t->role], t);
    }
}

void info_print_roles(const fg_model_file *f)
{
    role_sum sum[FG_ROLE_COUNT] = {{0}};
    sum_roles(f, sum);
    print_roles(sum);
}

fg_status info_print_tensors(const fg_model_file *f, bool json, fg_err *err)
{
    role_sum sum[FG_ROLE_COUNT] = {{0}};
    sum_roles(f, sum);
    if (json) {
        fg_buf b = {0};
        put_json(&b, f, sum);
        return print_buf(&b, err);
    }
    print_table(f, sum);
    return FG_OK;
}

/* ---- quality cards ---- */

static void print_card(const fg_card *c, bool belongs)
{
    const fg_score *s = &c->score;
    const double z = FG_SCORE_Z95;
    printf("\n%s (xxh3 %016" PRIx64 "), %s tokens in windows of %s\n", c->text, c->text_hash,
           cli_count(s->n_token), cli_count(c->window));
    if (!belongs) {
        printf("  NOT OF THESE WEIGHTS: measured on 0x%016" PRIx64 "\n", c->model.data_root);
    }
    if (c->numerics != fg_card_numerics(c)) {
        printf("  OF OTHER NUMERICS: version %u of the %s cache's, of which this program has %u\n",
               c->numerics, c->cache, fg_card_numerics(c));
    }
    printf("  %-22s %s, %.2f bits per weight, 0x%016" PRIx64 "\n", "reference", c->reference.type,
           c->reference.bits, c->reference.data_root);
    double ci[3][2];
    fg_score_interval(s->ppl, s->ppl_stderr, ci[0]);
    fg_score_interval(s->ref_ppl, s->ref_ppl_stderr, ci[1]);
    fg_score_interval(s->ppl_ratio, s->ppl_ratio_stderr, ci[2]);
    printf("  %-22s %.4f (%.4f to %.4f), of the reference %.4f (%.4f to %.4f)\n", "perplexity",
           s->ppl, ci[0][0], ci[0][1], s->ref_ppl, ci[1][0], ci[1][1]);
    printf("  %-22s %.5f (%.5f to %.5f)\n", "perplexity ratio", s->ppl_ratio, ci[2][0], ci[2][1]);
    printf("  %-22s %.5f +- %.5f\n", "KL divergence, mean", s->kld_mean, z * s->kld_stderr);
    printf("  %-22s %.5f (%.5f to %.5f), max %.4f\n", "KL divergence, p99", s->kld_p99,
           s->kld_p99_ci95[0], s->kld_p99_ci95[1], s->kld_max);
    printf("  %-22s %.2f %% +- %.2f\n", "same best token", 100.0 * s->top1,
           100.0 * z * s->top1_stderr);
    printf("  %-22s fulgur %s, %s cache%s\n", "measured with", c->version, c->cache,
           c->special ? ", markup counted as such" : "");
}

static void print_cards(const fg_model_file *f, const fg_card *cards, size_t n)
{
    const fg_card_model m = fg_card_model_of(f);
    const uint64_t root = fg_model_file_data_root(f);
    printf("%s: %s, %.3f bits, weights 0x%016" PRIx64 ", %zu quality card%s\n",
           cli_shown(fg_model_file_path(f)), m.type, m.bits, root, n, n == 1 ? "" : "s");
    if (n == 0) {
        printf("make one with fulgur score MODEL TEXT_FILE --against REF --card\n");
        return;
    }
    printf("intervals are 95 %%\n");
    for (size_t i = 0; i < n; i++) print_card(&cards[i], cards[i].model.data_root == root);
}

static void put_cards(fg_buf *b, const fg_model_file *f, const fg_card *cards, size_t n)
{
    const char *path = fg_model_file_path(f);
    const uint64_t root = fg_model_file_data_root(f);
    fg_buf_put_str(b, "{\"file\": ");
    fg_json_put_str(b, path, strlen(path));
    fg_buf_printf(b, ", \"data_root\": \"0x%016" PRIx64 "\", \"cards\": [", root);
    for (size_t i = 0; i < n; i++) {
        fg_buf_put_str(b, i == 0 ? "\n" : ",\n");
        char extra[80];
        (void)snprintf(extra, sizeof extra, ", \"of_these_weights\": %s, \"of_these_numerics\": %s",
                       cards[i].model.data_root == root ? "true" : "false",
                       cards[i].numerics == fg_card_numerics(&cards[i]) ? "true" : "false");
        fg_card_put_json(b, &cards[i], extra);
    }
    fg_buf_put_str(b, "]}\n");
}

fg_status info_print_quality(const fg_model_file *f, bool json, fg_err *err)
{
    fg_card *cards;
    size_t n;
    fg_status st = fg_card_list(f, &cards, &n, err);
    if (st != FG_OK) return st;
    if (json) {
        fg_buf b = {0};
        put_cards(&b, f, cards, n);
        st = print_buf(&b, err);
    } else {
        print_cards(f, cards, n);
    }
    fg_mem_free(cards);
    return st;
}

/* ---- placement ---- */

static double share_of(uint64_t part, const fg_placement_node *n)
{
    const uint64_t there = n->local + n->other;
    return there == 0 ? 0.0 : 100.0 * (double)part / (double)there;
}

static void print_nodes(const fg_placement *p)
{
    printf("%-5s %8s %10s %10s %8s %8s", "node", "threads", "weights", "cached", "local", "other");
    for (uint32_t k = 0; k < p->n_real; k++) printf("   on %-3u", k);
    printf("\n");
    for (uint32_t i = 0; i < p->n_node; i++) {
        const fg_placement_node *n = &p->node[i];
        printf("%-5u %8u %10s %8.1f %% %6.1f %% %6.1f %%", i, n->n_worker,
               cli_memory((double)n->bytes),
               n->bytes == 0 ? 0.0
                             : 100.0 * 4096.0 * (double)(n->local + n->other) / (double)n->bytes,
               share_of(n->local, n), share_of(n->other, n));
        for (uint32_t k = 0; k < p->n_real; k++) printf(" %6.1f %%", share_of(n->on_real[k], n));
        printf("\n");
    }
}

static void put_nodes(fg_buf *b, const fg_placement *p)
{
    fg_buf_printf(b, "{\"policy\": \"%s\", \"nodes\": [", fg_numa_name(p->numa));
    for (uint32_t i = 0; i < p->n_node; i++) {
        const fg_placement_node *n = &p->node[i];
        fg_buf_printf(b,
                      "%s\n{\"threads\": %u, \"bytes\": %" PRIu64 ", \"pages_local\": %" PRIu64
                      ", \"pages_other\": %" PRIu64 ", \"pages_absent\": %" PRIu64
                      ", \"pages_on\": [",
                      i == 0 ? "" : ",", n->n_worker, n->bytes, n->local, n->other, n->absent);
        for (uint32_t k = 0; k < p->n_real; k++) {
            fg_buf_printf(b, "%s%" PRIu64, k == 0 ? "" : ", ", n->on_real[k]);
        }
        fg_buf_put_str(b, "]}");
    }
    fg_buf_put_str(b, "]}\n");
}

fg_status info_print_placement(const char *path, const fg_engine_opts *o, bool json, fg_err *err)
{
    fg_placement p;
    FG_TRY(fg_placement_look(&p, path, o, err));
    if (!json) {
        print_nodes(&p);
        return FG_OK;
    }
    fg_buf b = {0};
    put_nodes(&b, &p);
    return print_buf(&b, err);
}
