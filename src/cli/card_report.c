/* SPDX-License-Identifier: MIT */
#include "src/cli/card_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/json.h"
#include "src/cli/common.h"
#include "src/plan/nodes.h"

/* ---- doctor ---- */

/* A message without the card that it is of. */
static const char *reason(const char *msg)
{
    const char *colon = strstr(msg, ": ");
    return strncmp(msg, "gpu ", 4) == 0 && colon != NULL ? colon + 2 : msg;
}

fg_status card_measure(fg_gpu_card *c, fg_gpu_card_measured *more, uint32_t idx, fg_err *err)
{
    const fg_nodes_opts here = {.here = true};
    fg_nodes n;
    FG_TRY(fg_nodes_open(&n, &here, err));
    const fg_status st = fg_gpu_card_measure(c, more, idx, n.place, err);
    fg_nodes_close(&n);
    return st;
}

void cards_measure(cards *c)
{
    fg_err err = {0};
    *c = (cards){.n = fg_gpu_count()};
    c->n_shown = c->n < CARDS_SHOWN ? c->n : CARDS_SHOWN;
    if (c->n == 0) {
        fg_gpu_info info;
        (void)fg_gpu_describe(0, &info, &err);
        (void)snprintf(c->none, sizeof c->none, "%.380s",
                       fg_gpu_expected() ? reason(err.msg) : "no driver");
        if (!fg_gpu_expected() && strstr(err.msg, "no card") != NULL) {
            (void)snprintf(c->none, sizeof c->none, "no card, says the driver");
        }
    }
    for (uint32_t i = 0; i < c->n_shown; i++) {
        (void)card_measure(&c->card[i].card, &c->card[i].more, i, &c->card[i].err);
    }
}

static void print_card(uint32_t idx, const fg_gpu_card *c, const fg_gpu_card_measured *m)
{
    const fg_gpu_info *x = &m->info;
    printf("gpu %-7u %s, sm_%d, %u multiprocessors, %s, driver %d.%d\n", idx, cli_shown(x->name),
           x->sm, x->n_sm, cli_memory((double)x->bytes), m->driver / 1000, m->driver % 1000 / 10);
    printf("            ");
    if (x->pcie_gen > 0 && x->pcie_width > 0) {
        printf("PCIe %d x%d, ", x->pcie_gen, x->pcie_width);
    }
    if (x->numa_node >= 0) printf("NUMA node %d, ", x->numa_node);
    printf("GB/s: to it %.1f (in pieces of 1 MiB %.1f), from it %.1f, its memory %.0f\n",
           c->copy_gbs, m->piece_gbs, c->back_gbs, c->read_gbs);
    for (uint32_t k = 0; k < m->n_node; k++) {
        printf("%s%.1f from node %u%s", k == 0 ? "            GB/s to it: " : ", ", m->node_gbs[k],
               k, k + 1 == m->n_node ? "\n" : "");
    }
}

void cards_print(const cards *c)
{
    if (c->n == 0) printf("gpu         none (%s)\n", c->none);
    for (uint32_t i = 0; i < c->n_shown; i++) {
        if (c->card[i].err.code == FG_OK) {
            print_card(i, &c->card[i].card, &c->card[i].more);
        } else {
            printf("gpu %-7u %s\n", i, reason(c->card[i].err.msg));
        }
    }
    if (c->n > c->n_shown) printf("gpu         %u more\n", c->n - c->n_shown);
}

static void put_text(fg_buf *b, const char *name, const char *text)
{
    fg_buf_printf(b, "\"%s\": ", name);
    fg_json_put_str(b, text, strlen(text));
}

void cards_put(const cards *c, fg_buf *b)
{
    fg_buf_put_str(b, "\"gpus\": [");
    for (uint32_t i = 0; i < c->n_shown; i++) {
        const fg_gpu_card *k = &c->card[i].card;
        const fg_gpu_card_measured *m = &c->card[i].more;
        fg_buf_put_str(b, i == 0 ? "{" : ", {");
        if (c->card[i].err.code != FG_OK) {
            put_text(b, "error", c->card[i].err.msg);
            fg_buf_put_str(b, "}");
            continue;
        }
        put_text(b, "name", m->info.name);
        fg_buf_printf(b,
                      ", \"sm\": %d, \"multiprocessors\": %u, \"memory_bytes\": %" PRIu64
                      ", \"free_bytes\": %" PRIu64 ", \"driver\": %d, \"pcie_generation\": %d, "
                      "\"pcie_width\": %d, \"numa_node\": %d, \"to_gbs\": %.3f, "
                      "\"to_pieces_gbs\": %.3f, \"from_gbs\": %.3f, \"read_gbs\": %.3f, "
                      "\"to_gbs_by_node\": [",
                      m->info.sm, m->info.n_sm, m->info.bytes, m->free_bytes, m->driver,
                      m->info.pcie_gen, m->info.pcie_width, m->info.numa_node, k->copy_gbs,
                      m->piece_gbs, k->back_gbs, k->read_gbs);
        for (uint32_t j = 0; j < m->n_node; j++) {
            fg_buf_printf(b, "%s%.3f", j == 0 ? "" : ", ", m->node_gbs[j]);
        }
        fg_buf_put_str(b, "]}");
    }
    fg_buf_put_str(b, "], ");
    put_text(b, "gpu_error", c->none);
}

/* ---- plan ---- */

static void print_line(const char *what, uint64_t bytes)
{
    printf("  %-28s %10s\n", what, cli_bytes((double)bytes));
}

static void print_memory(const fg_gpu_card *c, const fg_gpu_memory *m, uint64_t n_ctx,
                         uint32_t n_batch)
{
    char name[64];
    printf("\ngpu         %s: %s to use, read at %.0f GB/s, the bus at %.1f\n", cli_shown(c->name),
           cli_bytes((double)c->bytes), c->read_gbs, c->copy_gbs);
    print_line("attention", m->attention);
    print_line("lm_head", m->head);
    print_line("routers, norms, tables", m->small);
    print_line("lightning state", m->lightning);
    (void)snprintf(name, sizeof name, "key-value cache, %s", cli_count(n_ctx));
    print_line(name, m->kv);
    (void)snprintf(name, sizeof name, "scratch, batches of %u", n_batch);
    print_line(name, m->work);
    print_line("context, tables", m->context + m->table);
    if (!m->fits) {
        printf("  %-28s %10s   it does not fit: %s needed\n", "missing",
               cli_bytes((double)(m->needed - c->bytes)), cli_bytes((double)m->needed));
        return;
    }
    (void)snprintf(name, sizeof name, "%d experts passing through", FG_GPU_SLOTS);
    if (m->streams) print_line(name, m->slots);
    print_line("kept free", m->reserve);
    print_line("experts that stay", m->resident);
    printf("  %s of %s experts of %s: %.1f %%%s\n", cli_count(m->n_resident),
           cli_count(m->n_expert), cli_bytes((double)m->expert),
           100.0 * (double)m->n_resident / (double)m->n_expert,
           m->streams ? "" : "; none can pass through");
}

void card_plan_print(const fg_gpu_card *c, const fg_gpu_card_forecast *f, uint64_t n_ctx,
                     uint32_t n_batch)
{
    print_memory(c, &f->memory, n_ctx, n_batch);
    if (!f->memory.fits) return;
    for (int i = 0; i < 2; i++) {
        const fg_gpu_card_speed *s = &f->decode[i];
        if (i == 1 && s->pos == 0) break;
        printf("decode   behind %-11s %8.2f tok/s with experts on the host, %.2f with those that "
               "stay, uniform routing (%.2f without a card; %.1f ms the card, %.1f ms layers, %.1f "
               "ms experts)\n",
               cli_count(s->pos), s->tok_s, s->resident_tok_s, s->host_tok_s, 1e3 * s->card_s,
               1e3 * s->layers_s, 1e3 * s->experts_s);
        if (s->streamed_tok_s > 0.0) {
            printf("%29.2f tok/s with --ram: what is neither on the card nor in memory is read\n",
                   s->streamed_tok_s);
        }
    }
    for (int i = 0; i < 2; i++) {
        const fg_gpu_card_speed *s = &f->prefill[i];
        if (i == 1 && s->pos == 0) break;
        if (s->copied_tok_s <= 0.0) { /* none can be */
            printf("prefill  behind %-11s %8.2f tok/s (%.2f without a card)\n", cli_count(s->pos),
                   s->tok_s, s->host_tok_s);
            continue;
        }
        printf("prefill  behind %-11s %8.2f tok/s with %.1f experts of a layer copied, %.2f with "
               "none, %.2f with all (%.2f without a card)\n",
               cli_count(s->pos), s->shared_tok_s, s->n_copied, s->tok_s, s->copied_tok_s,
               s->host_tok_s);
    }
    printf("            with everything of the host's in its memory\n");
}

static void put_speeds(fg_buf *b, const char *name, const fg_gpu_card_speed s[2], bool prefill)
{
    fg_buf_printf(b, ", \"%s\": [", name);
    for (int i = 0; i < 2; i++) {
        fg_buf_printf(b,
                      "%s{\"position\": %" PRIu64 ", \"host\": %.6g, \"tokens_per_second\": %.6g",
                      i == 0 ? "" : ", ", s[i].pos, s[i].host_tok_s, s[i].tok_s);
        if (prefill) {
            fg_buf_printf(b, ", \"shared\": %.6g, \"copied\": %.6g, \"experts_copied\": %.3f",
                          s[i].shared_tok_s, s[i].copied_tok_s, s[i].n_copied);
        } else {
            fg_buf_printf(b, ", \"residents\": %.6g, \"streamed\": %.6g", s[i].resident_tok_s,
                          s[i].streamed_tok_s);
        }
        fg_buf_printf(b,
                      ", \"card_seconds\": %.6g, \"layers_seconds\": %.6g, "
                      "\"experts_seconds\": %.6g}",
                      s[i].card_s, s[i].layers_s, s[i].experts_s);
    }
    fg_buf_put_str(b, "]");
}

void card_plan_put(const fg_gpu_card *c, const fg_gpu_card_forecast *f, uint32_t n_batch, fg_buf *b)
{
    const fg_gpu_memory *m = &f->memory;
    fg_buf_put_str(b, "\"gpu\": {");
    put_text(b, "name", c->name);
    fg_buf_printf(b,
                  ", \"bytes\": %" PRIu64 ", \"read_gbs\": %.3f, \"copy_gbs\": %.3f, "
                  "\"batch\": %u, \"fits\": %s, \"streams\": %s",
                  c->bytes, c->read_gbs, c->copy_gbs, n_batch, m->fits ? "true" : "false",
                  m->streams ? "true" : "false");
    fg_buf_printf(b,
                  ", \"attention_bytes\": %" PRIu64 ", \"lm_head_bytes\": %" PRIu64
                  ", \"small_bytes\": %" PRIu64 ", \"lightning_bytes\": %" PRIu64
                  ", \"cache_bytes\": %" PRIu64 ", \"scratch_bytes\": %" PRIu64
                  ", \"slot_bytes\": %" PRIu64 ", \"table_bytes\": %" PRIu64
                  ", \"context_bytes\": %" PRIu64 ", \"reserve_bytes\": %" PRIu64
                  ", \"needed_bytes\": %" PRIu64 ", \"expert_bytes\": %" PRIu64
                  ", \"experts\": %" PRIu64 ", \"residents\": %" PRIu64,
                  m->attention, m->head, m->small, m->lightning, m->kv, m->work, m->slots, m->table,
                  m->context, m->reserve, m->needed, m->expert, m->n_expert, m->n_resident);
    put_speeds(b, "decode", f->decode, false);
    put_speeds(b, "prefill", f->prefill, true);
    fg_buf_put_str(b, "}");
}
