/* SPDX-License-Identifier: MIT */
#include "src/cli/held_back.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/eval/learn_routing.h"

/* ---- lists ---- */

/* Calls open(ctx, path) for each part of a list. */
static fg_status each_of(const char *list, size_t most,
                         fg_status open(void *ctx, const char *path, fg_err *err), void *ctx,
                         fg_err *err)
{
    for (size_t i = 0; list != NULL; i++) {
        const char *comma = strchr(list, ',');
        const size_t n = comma == NULL ? strlen(list) : (size_t)(comma - list);
        if (n == 0) {
            return fg_fail(err, FG_EINVAL, "%s: an empty name, expected names with commas between",
                           *list == '\0' ? "list of files" : list);
        }
        if (i == most) return fg_fail(err, FG_EINVAL, "%s: more files, expected %zu", list, most);
        char *path = fg_mem_strndup(list, n);
        if (path == NULL) return fg_fail_nomem(err, list);
        const fg_status st = open(ctx, path, err);
        fg_mem_free(path);
        FG_TRY(st);
        list = comma == NULL ? NULL : comma + 1;
    }
    return FG_OK;
}

/* The last of them goes with those before it.  One given twice is no more text: what is held back
 * to judge by would be learned too. */
static fg_status check_trace(const traces *t, const char *path, fg_err *err)
{
    const fg_trace *last = t->t[t->n - 1];
    const fg_routing_shape of = fg_trace_shape(fg_trace_get_head(last));
    const fg_routing_shape first = fg_trace_shape(fg_trace_get_head(t->t[0]));
    if (fg_trace_get_head(last)->n_vocab == 0) {
        return fg_fail(err, FG_EINVAL,
                       "%s: a trace without token ids, expected one with them; record it again",
                       path);
    }
    if (memcmp(&of, &first, sizeof of) != 0) {
        return fg_fail(err, FG_EINVAL, "%s: a trace of another model, expected that of the first",
                       path);
    }
    for (size_t i = 0; i + 1 < t->n; i++) {
        if (!fg_trace_is_same(t->t[i], last)) continue;
        return fg_fail(err, FG_EINVAL, "%s: the same as trace %zu of the list, expected each once",
                       path, i + 1);
    }
    return FG_OK;
}

static fg_status open_trace(void *ctx, const char *path, fg_err *err)
{
    traces *t = ctx;
    if (t->out != NULL) FG_TRY(fg_io_refuse_input(t->out, path, err));
    FG_TRY(fg_trace_open(&t->t[t->n], path, err));
    t->n++;
    return check_trace(t, path, err);
}

fg_status traces_open(traces *t, const char *list, const char *out, fg_err *err)
{
    *t = (traces){.out = out};
    const fg_status st = each_of(list, TRACES_MOST, open_trace, t, err);
    if (st != FG_OK) traces_close(t);
    return st;
}

void traces_close(traces *t)
{
    for (size_t i = 0; i < t->n; i++) fg_trace_close(&t->t[i]);
    t->n = 0;
}

/* ---- who is compared ---- */

typedef struct model_list {
    held *h;
    fg_routing_shape of;
} model_list;

static fg_status open_model(void *ctx, const char *path, fg_err *err)
{
    model_list *l = ctx;
    fg_routing_model **m = &l->h->model[l->h->n_model];
    FG_TRY(fg_routing_load(path, m, err));
    l->h->n_model++;
    return fg_routing_check(*m, path, &l->of, err);
}

static bool show(void *ctx, const fg_factor_run *r)
{
    return progress_show(ctx, r->n_epoch, 0);
}

/* ADS, and the nonlinear PID of NPALF. */
static fg_status train_here(held *h, const fg_trace *t, fg_err *err)
{
    enum { LEAST = 400 }; /* passes worth two models */
    static const fg_factor_algo algo[] = {FG_ALGO_ADS, FG_ALGO_NPID};
    const fg_trace_head *head = fg_trace_get_head(t);
    fg_factor_machine on;
    fg_status st = FG_OK;
    if (head->n_vocab == 0 || head->n_pass < LEAST) return FG_OK;
    h->from = head->n_pass / 2;
    FG_TRY(fg_factor_machine_open(&on, 0, err));
    for (size_t i = 0; st == FG_OK && i < sizeof algo / sizeof algo[0]; i++) {
        progress p;
        fg_routing_report r;
        const fg_routing_opts o = {
            .algo = algo[i], .rank = FG_ROUTING_RANK, .progress = show, .ctx = &p};
        progress_start(&p, "train on the first half", "epoch");
        st = fg_learn_routing(&h->model[i], &t, 1, h->from, &o, &on, &r, err);
        progress_end(&p);
        h->n_model += st == FG_OK;
    }
    fg_factor_machine_close(&on);
    return st;
}

static void add(held *h, const fg_trace_head *t, fg_predict kind, const char *name, const char *of,
                const fg_routing_model *m, unsigned without)
{
    const fg_predict_opts o = {.kind = kind,
                               .n_layer = t->n_layer,
                               .n_expert = t->n_expert,
                               .n_used = t->n_used,
                               .model = m,
                               .n_vocab = t->n_vocab,
                               .without = without};
    (void)snprintf(h->name[h->n], sizeof h->name[0], of == NULL ? "%s" : "%s (%s)", name, of);
    h->who[h->n++] = o;
}

fg_status held_open(held *h, const fg_trace *t, const char *list, fg_err *err)
{
    const fg_trace_head *head = fg_trace_get_head(t);
    *h = (held){.given = list != NULL};
    model_list l = {h, fg_trace_shape(head)};
    if (list != NULL && head->n_vocab == 0) {
        return fg_fail(err, FG_EINVAL, "trace: without token ids, expected one with them");
    }
    FG_TRY(list != NULL ? each_of(list, MODELS_MOST, open_model, &l, err) : train_here(h, t, err));
    add(h, head, FG_PREDICT_FREQUENCY, "frequency", NULL, NULL, 0);
    add(h, head, FG_PREDICT_PREVIOUS, "previous", NULL, NULL, 0);
    add(h, head, FG_PREDICT_ROUTER, "router", NULL, NULL, 0);
    if (h->n_model == 0) return FG_OK;
    const fg_routing_model *m = h->model[0];
    add(h, head, FG_PREDICT_FACTOR, "id table", NULL, m, FG_ROUTING_PREVIOUS | FG_ROUTING_LATENT);
    add(h, head, FG_PREDICT_FACTOR, "id + previous", NULL, m, FG_ROUTING_LATENT);
    for (size_t i = 0; i < h->n_model; i++) {
        add(h, head, FG_PREDICT_FACTOR, "factor", fg_factor_algo_name(h->model[i]->algo),
            h->model[i], 0);
    }
    add(h, head, FG_PREDICT_BOTH, "router + factor", NULL, m, 0);
    return FG_OK;
}

void held_close(held *h)
{
    for (size_t i = 0; i < MODELS_MOST; i++) fg_routing_destroy(&h->model[i]);
}

/* ---- what comes out ---- */

static const uint32_t per_cent[HELD_SIZES] = {30, 50, 70};

static uint32_t slots(const fg_trace_head *h, size_t size)
{
    const uint64_t all = (uint64_t)h->n_layer * h->n_expert, n = all * per_cent[size] / 100;
    const uint64_t least = fg_cache_min_slots(h->n_layer, h->n_expert, h->n_used);
    return (uint32_t)(n < least ? least : n);
}

fg_status held_fill(held *h, const fg_trace *t, uint32_t ahead, fg_err *err)
{
    const fg_trace_head *head = fg_trace_get_head(t);
    FG_TRY(fg_replay_recall(t, h->from, h->who, h->n, h->recall, err));
    if (h->n_model == 0) return FG_OK;
    for (size_t i = 0; i <= h->n; i++) { /* the last one is nobody */
        for (size_t k = 0; k < HELD_SIZES; k++) {
            const fg_predict_opts *w = &h->who[i < h->n ? i : 0];
            const fg_replay_opts o = {.n_slot = slots(head, k),
                                      .policy = fg_engine_opts_default().policy,
                                      .predict = i < h->n ? w->kind : FG_PREDICT_NONE,
                                      .ahead = ahead,
                                      .from = h->from,
                                      .model = w->model,
                                      .without = w->without};
            FG_TRY(fg_replay_run(t, &o, &h->cache[i][k], err));
        }
    }
    return FG_OK;
}

static double share(uint64_t part, uint64_t of)
{
    return of == 0 ? 0.0 : (double)part / (double)of;
}

/* Distances that are shown. */
static const uint32_t distance[] = {1, 2, 4, 8, 0};
enum { N_DISTANCE = sizeof distance / sizeof distance[0] };

static const fg_recall *at(const fg_recall_row *r, uint32_t d)
{
    return d == 0 ? &r->next : &r->ahead[d - 1];
}

static bool is_shown(const fg_trace_head *h, uint32_t d)
{
    return d < h->n_layer;
}

static void print_recall(const held *h, const fg_trace_head *t)
{
    printf("\n%-18s", "recall");
    for (size_t d = 0; d < N_DISTANCE; d++) {
        if (!is_shown(t, distance[d])) continue;
        char head[24] = "next";
        if (distance[d] > 0) (void)snprintf(head, sizeof head, "%u ahead", distance[d]);
        printf("   %7s @2   @3   @4   @8", head);
    }
    printf("\n");
    for (size_t i = 0; i <= h->n; i++) {
        printf("%-18s", i < h->n ? h->name[i] : "random");
        for (size_t d = 0; d < N_DISTANCE; d++) {
            if (!is_shown(t, distance[d])) continue;
            printf("     ");
            for (uint32_t k = 0; k < FG_RECALL_TOPS; k++) {
                const fg_recall *r = at(&h->recall[i < h->n ? i : 0], distance[d]);
                const double top = (double)fg_recall_top[k], all = t->n_expert;
                const double v = i < h->n    ? share(r->n_found[k], r->n)
                                 : top < all ? top / all
                                             : 1.0;
                const int width = k == 0 ? 8 : 5;
                if (i < h->n && r->n == 0) {
                    printf("%*s", width, "-");
                } else {
                    printf("%*.1f", width, 100.0 * v);
                }
            }
        }
        printf("\n");
    }
}

static double bytes_of(const held *h, const fg_trace_head *t, size_t i, size_t k, bool waited)
{
    const fg_cache_stats *c = &h->cache[i][k];
    const uint64_t n_tok = h->recall[0].n_tok > 0 ? h->recall[0].n_tok : 1;
    return share(c->n_miss + (waited ? 0 : c->n_prefetch), n_tok) * (double)t->slot_bytes;
}

static void print_bytes(const held *h, const fg_trace_head *t)
{
    printf("\nbytes/token, %-5s", fg_policy_name(fg_engine_opts_default().policy));
    for (size_t k = 0; k < HELD_SIZES; k++) {
        printf("  %u %% in memory  waited for", per_cent[k]);
    }
    printf("  us/token\n");
    for (size_t i = 0; i <= h->n; i++) {
        printf("%-18s", i < h->n ? h->name[i] : "none");
        for (size_t k = 0; k < HELD_SIZES; k++) {
            printf(" %15s %11s", cli_bytes(bytes_of(h, t, i, k, false)),
                   cli_bytes(bytes_of(h, t, i, k, true)));
        }
        if (i < h->n) {
            printf("  %8.1f", share(h->recall[i].ns, h->recall[i].n_tok) * 1e-3);
        }
        printf("\n");
    }
}

void held_print(const held *h, const fg_trace *t)
{
    const fg_trace_head *head = fg_trace_get_head(t);
    if (h->from > 0) {
        printf("\nfactors and tables were trained on the first half of the trace; what follows is "
               "of the second\n");
    }
    print_recall(h, head);
    if (h->n_model > 0) print_bytes(h, head);
}

static void print_json_recall(const char *name, const fg_recall *r, uint32_t d, const char *sep)
{
    printf("%s{\"predict\": \"%s\", \"ahead\": ", sep, name);
    if (d == 0) {
        printf("\"next\"");
    } else {
        printf("%u", d);
    }
    printf(", \"asked\": %" PRIu64, r->n);
    for (uint32_t k = 0; k < FG_RECALL_TOPS; k++) {
        printf(", \"recall@%u\": %.6f", fg_recall_top[k], share(r->n_found[k], r->n));
    }
    printf("}");
}

void held_print_json(const held *h, const fg_trace *t)
{
    const fg_trace_head *head = fg_trace_get_head(t);
    const char *sep = "\n";
    printf("\"held_from\": %" PRIu64 ",\n\"recall\": [", h->from);
    for (size_t i = 0; i < h->n; i++) {
        for (uint32_t d = 0; d <= FG_PREDICT_AHEAD && d < head->n_layer; d++) {
            const fg_recall *r = at(&h->recall[i], d);
            if (r->n == 0) continue;
            print_json_recall(h->name[i], r, d, sep);
            sep = ",\n";
        }
    }
    printf("],\n\"sizes\": [");
    sep = "\n";
    for (size_t i = 0; h->n_model > 0 && i <= h->n; i++) {
        for (size_t k = 0; k < HELD_SIZES; k++) {
            printf("%s{\"predict\": \"%s\", \"in_memory\": %.2f, \"bytes_per_token\": %.0f, "
                   "\"waited_per_token\": %.0f}",
                   sep, i < h->n ? h->name[i] : "none", per_cent[k] / 100.0,
                   bytes_of(h, head, i, k, false), bytes_of(h, head, i, k, true));
            sep = ",\n";
        }
    }
    printf("]}\n");
}
