/* SPDX-License-Identifier: MIT */
#include "src/engine/placement.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/base/opts.h"
#include "src/base/units.h"
#include "src/engine/engine_impl.h"
#include "src/expert/settle.h"
#include "src/sys/room.h"

static void fill(fg_placement *out, const fg_place *p, const fg_region *r, size_t n,
                 const fg_audit *audit)
{
    *out = (fg_placement){.asked = audit != NULL, .numa = p->numa, .n_node = p->n_node};
    out->n_real = p->topo == NULL ? 1 : fg_topo_n_node(p->topo);
    for (size_t i = 0; i < n; i++) out->node[r[i].node].bytes += r[i].bytes;
    for (uint32_t k = 0; k < p->n_node; k++) {
        fg_placement_node *node = &out->node[k];
        node->n_worker = p->node[k].n_worker;
        if (audit == NULL) continue;
        node->local = fg_place_local(p, k, &audit[k]);
        node->other = audit[k].n_page - audit[k].absent - node->local;
        node->absent = audit[k].absent;
        node->moved = audit[k].moved;
        for (uint32_t i = 0; i < out->n_real; i++) node->on_real[i] = audit[k].on_node[i];
    }
}

/* What the card has is left where it is: card [n_node] is filled, in pages. */
static size_t leave_to_card(const fg_engine *e, fg_region *r, size_t n, uint64_t *card)
{
    const uint32_t n_expert = e->model->shape->n_expert;
    const fg_device *d = e->device;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t of = r[i].of, x = of - 1;
        const bool there = d != NULL && of != 0 &&
                           (of == FG_REGION_DENSE ||
                            d->ops->has(d, (uint32_t)(x / n_expert), (uint32_t)(x % n_expert)));
        if (there) card[r[i].node] += r[i].bytes / FG_PAGE_BYTES;
        if (!there) r[kept++] = r[i];
    }
    return kept;
}

/* Regions of no bytes, and slots that nobody asked to fill, are left out. */
static size_t choose(fg_region *r, size_t n, bool fresh)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (r[i].bytes != 0 && (fresh || !r[i].fresh)) r[kept++] = r[i];
    }
    return kept;
}

static fg_status refuse_strict(const fg_engine *e, fg_err *err)
{
    const fg_placement *p = &e->placement;
    for (uint32_t k = 0; k < p->n_node; k++) {
        const fg_placement_node *node = &p->node[k];
        const uint64_t lost = node->other + node->absent;
        if (lost == 0) continue;
        return fg_fail(err, FG_ELIMIT,
                       "%s: node %u has %.1f %% of its %s, expected all of it for --numa strict",
                       fg_model_file_path(e->file), k,
                       100.0 * (double)node->local / (double)(node->local + lost),
                       fg_text_memory((double)node->bytes).s);
    }
    return FG_OK;
}

/* Who neither owns a file nor may write to it is told that all of it is in the page cache
 * (mincore), and would read it. */
static fg_settle_mode look_mode(const fg_model_file *f)
{
    for (uint32_t k = 0; k < fg_model_file_n_part(f); k++) {
        const char *path = fg_model_file_part_path(f, k);
        struct stat sb;
        const bool own = geteuid() == 0 || (stat(path, &sb) == 0 && sb.st_uid == geteuid());
        if (!own && access(path, W_OK) != 0) return FG_SETTLE_LOOK;
    }
    return FG_SETTLE_CACHED;
}

/* Weights that are mapped stay where they were brought only if all of them fit. */
static bool has_room(const fg_engine *e, const fg_engine_opts *o)
{
    fg_room room;
    char line[256];
    const uint64_t bytes = fg_model_file_size(e->file);
    fg_room_read(&room, "");
    if (bytes <= room.bytes) return true;
    (void)snprintf(line, sizeof line,
                   "%.120s: %s, more than the %s that can be had: not brought to its nodes",
                   fg_model_file_path(e->file), fg_text_memory((double)bytes).s,
                   fg_text_memory((double)room.bytes).s);
    if (o->note != NULL) o->note(o->note_ctx, line);
    return false;
}

fg_status fg_engine_settle(fg_engine *e, const fg_engine_opts *o, fg_err *err)
{
    const fg_place *place = fg_team_place(e->team);
    const bool strict = o->numa == FG_NUMA_STRICT;
    const bool touched = e->store != NULL || e->copy != NULL;
    const bool asks = fg_place_binds(place) && (touched || o->numa != FG_NUMA_FIRST_TOUCH);
    fg_region *region;
    size_t n;
    FG_TRY(fg_weights_regions(e->model->weights, &region, &n, err));
    uint64_t card[FG_MAX_NODE] = {0};
    n = leave_to_card(e, region, n, card);
    n = choose(region, n, strict || !asks);
    fg_audit *audit = asks ? fg_mem_zalloc_array(place->n_node, sizeof *audit) : NULL;
    fg_status st = asks && audit == NULL ? fg_fail_nomem(err, "placement") : FG_OK;
    if (st == FG_OK && asks) {
        const fg_settle_opts so = {.mode =
                                       touched || has_room(e, o) ? FG_SETTLE_ALL : FG_SETTLE_CACHED,
                                   .progress = o->progress,
                                   .ctx = o->progress_ctx};
        fg_err why = {0};
        st = fg_settle(e->team, region, n, &so, audit, &why);
        if (st != FG_OK && st != FG_ECANCEL && !strict) { /* a kernel that does not tell */
            if (o->note != NULL) o->note(o->note_ctx, why.msg);
            fg_mem_free(audit);
            audit = NULL;
            st = FG_OK;
        } else if (st != FG_OK && err != NULL) {
            *err = why;
        }
    }
    if (st == FG_OK) fill(&e->placement, place, region, n, audit);
    for (uint32_t k = 0; k < place->n_node; k++) {
        e->placement.node[k].card = card[k];
        e->placement.node[k].bytes += card[k] * FG_PAGE_BYTES;
    }
    if (st == FG_OK && strict && audit != NULL) st = refuse_strict(e, err);
    fg_mem_free(audit);
    fg_mem_free(region);
    return st;
}

const fg_placement *fg_engine_placement(const fg_engine *e)
{
    return &e->placement;
}

void fg_placement_put(const fg_placement *p, fg_buf *b)
{
    const bool spread = p->numa == FG_NUMA_INTERLEAVE || p->numa == FG_NUMA_FIRST_TOUCH;
    const fg_placement_node *all = &p->node[0];
    for (uint32_t k = 0; k < (spread ? p->n_real : p->n_node); k++) {
        const fg_placement_node *node = &p->node[k];
        const uint64_t part = spread ? all->on_real[k] : node->local;
        const uint64_t whole = spread ? all->local + all->other : node->local + node->other;
        fg_buf_printf(b, "%snode %u: %.1f %%%s", k == 0 ? "" : ", ", k,
                      whole == 0 ? 100.0 : 100.0 * (double)part / (double)whole,
                      spread ? "" : " local");
    }
    uint64_t bytes = 0, card = 0;
    for (uint32_t k = 0; k < p->n_node; k++) {
        bytes += p->node[k].bytes;
        card += p->node[k].card * FG_PAGE_BYTES;
    }
    if (card > 0) {
        fg_buf_printf(b, "; card: %.1f %% of all", 100.0 * (double)card / (double)bytes);
    }
}

static fg_status look(fg_placement *out, const fg_model_file *f, fg_team *team,
                      const fg_slices *slices, fg_err *err)
{
    const fg_place *place = fg_team_place(team);
    fg_region *region;
    size_t n;
    FG_TRY(fg_settle_regions_of_file(f, slices, &region, &n, err));
    fg_audit *audit = fg_mem_zalloc_array(place->n_node, sizeof *audit);
    const fg_settle_opts so = {.mode = look_mode(f)};
    fg_status st = audit == NULL ? fg_fail_nomem(err, "placement") : FG_OK;
    if (st == FG_OK) st = fg_settle(team, region, n, &so, audit, err);
    if (st == FG_OK) fill(out, place, region, n, audit);
    fg_mem_free(audit);
    fg_mem_free(region);
    return st;
}

fg_status fg_placement_look(fg_placement *out, const char *path, const fg_engine_opts *given,
                            fg_err *err)
{
    fg_engine_opts o = fg_engine_opts_default();
    fg_model_file *f = NULL;
    fg_team *team = NULL;
    fg_slices *slices = NULL;
    FG_TRY(fg_opts_take(&o, sizeof o, given, "engine options", err));
    const fg_team_opts to = {.n_thread = o.n_thread,
                             .pin = true,
                             .pretend_nodes = o.pretend_nodes,
                             .n_node = o.n_node,
                             .numa = o.numa};
    fg_status st = fg_model_file_open(&f, path, err);
    if (st == FG_OK) st = fg_model_file_mapped(f, err);
    if (st == FG_OK) st = fg_team_create_with(&team, &to, err);
    if (st == FG_OK) {
        st = fg_slices_create(&slices, fg_model_file_plan(f), fg_team_place(team), err);
    }
    if (st == FG_OK) st = look(out, f, team, slices, err);
    fg_slices_destroy(&slices);
    fg_team_destroy(&team);
    fg_model_file_close(&f);
    return st;
}
