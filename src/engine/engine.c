/* SPDX-License-Identifier: MIT
 *
 * The engine: one opened model, who owns what of it.
 */

#include <stdio.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"
#include "src/base/opts.h"
#include "src/base/units.h"
#include "src/device/driver.h"
#include "src/expert/heat.h"
#include "src/engine/memory.h"
#include "src/engine/engine_impl.h"
#include "src/model/forward.h"
#include "src/sys/cpu.h"
#include "src/sys/node_rates.h"
#include "src/sys/team.h"

void fg_engine_opts_init(fg_engine_opts *o, size_t size)
{
    const fg_engine_opts d = {.size = size,
                              .pin = true,
                              .policy = FG_POLICY_LFU,
                              .predict = FG_PREDICT_ROUTER,
                              .io = FG_IO_AUTO,
                              .gpu = FG_GPU_OFF};
    fg_opts_init(o, size, &d, sizeof d);
}

static fg_status choose_cpu(fg_cpu_level level, uint32_t *flags, fg_err *err)
{
    FG_TRY(fg_cpu_level_flags(level, flags, err));
    *flags = fg_kernels_used(*flags);
    return FG_OK;
}

/* What is left of the bound for weights once sessions have theirs. */
static fg_status weight_bytes(const fg_engine *e, uint64_t session_bytes, uint64_t *out,
                              fg_err *err)
{
    return fg_memory_for_weights(out, e->ram_bytes, session_bytes,
                                 fg_store_least_of(e->file, e->slices), err);
}

static fg_status check_stream(fg_store_opts *so, const fg_engine_opts *o, fg_err *err)
{
    *so = (fg_store_opts){.policy = o->policy, .predict = o->predict, .ahead = o->ahead};
    if (!fg_policy_is_live(o->policy)) {
        return fg_fail(err, FG_EINVAL, "policy: %u, expected one that is live",
                       (uint32_t)o->policy);
    }
    if (fg_predict_get(o->predict) == NULL) {
        return fg_fail(err, FG_EINVAL, "predict: %u, expected less than %d", (uint32_t)o->predict,
                       FG_PREDICT_COUNT);
    }
    if (!fg_io_get(o->io, &so->io.ops)) {
        return fg_fail(err, FG_EINVAL, "io: %u, expected less than %d", (uint32_t)o->io,
                       FG_IO_COUNT);
    }
    const bool knows = o->predict == FG_PREDICT_FACTOR || o->predict == FG_PREDICT_BOTH;
    const char *path = o->predict_model != NULL ? o->predict_model : o->predict_save;
    if (path != NULL && (!knows || o->ram_bytes == 0)) {
        return fg_fail(err, FG_EINVAL,
                       "%s: a model of experts for predictor %s%s, expected %s or %s, and --ram",
                       path, fg_predict_name(o->predict), o->ram_bytes == 0 ? " without --ram" : "",
                       fg_predict_name(FG_PREDICT_FACTOR), fg_predict_name(FG_PREDICT_BOTH));
    }
    return FG_OK;
}

/* The bound that holds: what was asked for, or less where the machine has less, which is said once
 * it is known to do. */
static fg_status choose_bound(fg_engine *e, const fg_engine_opts *o, uint64_t *weights, fg_err *err)
{
    char line[256];
    fg_room room;
    fg_room_read(&room, "");
    e->ram_bytes = fg_memory_bound(
        o->ram_bytes, FG_MEMORY_PROGRAM + fg_store_most_of(e->file, e->slices), room.bytes);
    const fg_status st = weight_bytes(e, 0, weights, err);
    if (e->ram_bytes == o->ram_bytes) return st;
    if (st != FG_OK) {
        const fg_err why = err == NULL ? (fg_err){0} : *err;
        return fg_fail(err, st, "%.400s; no more can be had within %s", why.msg, room.by);
    }
    fg_memory_bound_text(line, sizeof line, o->ram_bytes, e->ram_bytes, &room);
    if (o->note != NULL) o->note(o->note_ctx, line);
    return FG_OK;
}

static fg_routing_shape routing_shape(const fg_engine *e)
{
    const fg_shape *s = fg_model_file_shape(e->file);
    return (fg_routing_shape){s->n_layer, s->n_expert, s->n_used, s->n_vocab,
                              fg_model_file_data_root(e->file)};
}

static fg_status load_predictor(const fg_engine *e, const char *path, fg_routing_model **m,
                                fg_err *err)
{
    const fg_routing_shape of = routing_shape(e);
    FG_TRY(fg_routing_load(path, m, err));
    const fg_status st = fg_routing_check(*m, path, &of, err);
    if (st != FG_OK) fg_routing_destroy(m);
    return st;
}

/* The model to begin with; what is written at the end takes the place of such a model only. */
static fg_status open_predictor(fg_engine *e, const fg_engine_opts *o, fg_routing_model **m,
                                fg_err *err)
{
    const char *path = o->predict_model != NULL ? o->predict_model : o->predict_save;
    if (path == NULL) return FG_OK;
    if (o->predict_save != NULL) {
        e->predict_save = fg_mem_strndup(o->predict_save, strlen(o->predict_save));
        if (e->predict_save == NULL) return fg_fail_nomem(err, path);
        FG_TRY(fg_io_check_output(o->predict_save, err));
        if (fg_io_exists(o->predict_save)) {
            FG_TRY(load_predictor(e, o->predict_save, m, err));
            fg_routing_destroy(m);
        }
    }
    if (o->predict_model != NULL) return load_predictor(e, o->predict_model, m, err);
    const fg_routing_shape of = routing_shape(e);
    return fg_routing_create(m, &of, 0, err);
}

static void save_predictor(fg_engine *e)
{
    fg_err err = {0};
    if (e->predict_save == NULL || e->store == NULL) return;
    const fg_status st = fg_routing_save(e->predict_save, fg_store_learned(e->store), &err);
    if (st != FG_OK && e->note != NULL) e->note(e->note_ctx, err.msg);
}

static bool may_have_device(const fg_engine_opts *o)
{
    return o->gpu >= 0 || (o->gpu == FG_GPU_AUTO && fg_gpu_expected());
}

static fg_status open_store(fg_engine *e, const fg_engine_opts *o, fg_err *err)
{
    fg_store_opts so;
    FG_TRY(check_stream(&so, o, err)); /* also where nothing comes of it */
    if (o->ram_bytes == 0) return FG_OK;
    FG_TRY(choose_bound(e, o, &so.bytes, err));
    fg_heat heat = {.use = NULL};
    const fg_policy_row *policy = fg_policy_get(so.policy);
    if (policy->heat != FG_POLICY_HEAT_NONE) FG_TRY(fg_heat_load(e->file, &heat, err));
    if (policy->heat == FG_POLICY_HEAT_NEEDED && heat.use == NULL) {
        return fg_fail(err, FG_ENOTSUP,
                       "%s: no heat map inside, expected one for --policy %s; make it with fulgur "
                       "trace --heat",
                       fg_model_file_path(e->file), policy->name);
    }
    so.heat = heat.use;
    so.slices = e->slices;
    so.later = may_have_device(o);
    fg_routing_model *learned = NULL;
    fg_status st = open_predictor(e, o, &learned, err);
    so.model = learned;
    so.gate = e->gate;
    if (st == FG_OK) st = fg_store_create(&e->store, e->file, &so, err);
    fg_routing_destroy(&learned);
    fg_mem_free(heat.use);
    return st;
}

static fg_status check_home(const fg_engine_opts *o, fg_err *err)
{
    const char *home = fg_residency_name(o->residency);
    if (fg_numa_name(o->numa) == NULL) {
        return fg_fail(err, FG_EINVAL, "numa: %u, expected less than %d", (uint32_t)o->numa,
                       FG_NUMA_COUNT);
    }
    if (home == NULL) {
        return fg_fail(err, FG_EINVAL, "residency: %u, expected less than %d",
                       (uint32_t)o->residency, FG_RESIDENCY_COUNT);
    }
    if (fg_pages_name(o->pages) == NULL) {
        return fg_fail(err, FG_EINVAL, "pages: %u, expected less than %d", (uint32_t)o->pages,
                       FG_PAGES_COUNT);
    }
    if (o->ram_bytes != 0 && o->residency != FG_RESIDENCY_AUTO) {
        return fg_fail(err, FG_EINVAL,
                       "residency: %s within a bound of memory, expected one without the other",
                       home);
    }
    if ((o->image != NULL) != (o->residency == FG_RESIDENCY_SHARED)) {
        return fg_fail(err, FG_EINVAL, "residency: %s %s an image file, expected %s", home,
                       o->image == NULL ? "without" : "with",
                       o->image == NULL ? "its path" : "shared, or no image");
    }
    if (o->image != NULL && o->measure_nodes) {
        return fg_fail(err, FG_EINVAL,
                       "image: with parts of nodes that are measured anew each time, expected one "
                       "without the other");
    }
    const bool copied = o->residency == FG_RESIDENCY_COPY || o->residency == FG_RESIDENCY_SHARED;
    if (o->pages != FG_PAGES_AUTO && o->residency != FG_RESIDENCY_COPY) {
        return fg_fail(err, FG_EINVAL, "pages: %s of residency %s, expected of copy",
                       fg_pages_name(o->pages), home);
    }
    if (o->numa == FG_NUMA_MIRROR && !copied && o->ram_bytes == 0) {
        return fg_fail(err, FG_EINVAL, "numa: mirror of residency %s, expected of copy or shared",
                       home);
    }
    return FG_OK;
}

/* All of a copy but `less` has to fit in what there was before any of it was read: swapped weights
 * are slower than mapped ones. */
static fg_status check_room(const fg_engine *e, const fg_engine_opts *o, const fg_room *room,
                            uint64_t less, fg_err *err)
{
    uint64_t bytes = 0;
    if (o->residency != FG_RESIDENCY_COPY || o->pages == FG_PAGES_TLB) return FG_OK;
    for (uint32_t k = 0; k < fg_slices_n_node(e->slices); k++) {
        bytes += fg_slices_area(e->slices, k);
    }
    bytes -= less;
    if (bytes <= room->bytes) return FG_OK;
    return fg_fail(err, FG_ELIMIT,
                   "%s: a copy takes %s, expected at most %s, which can be had within %s",
                   fg_model_file_path(e->file), fg_text_memory((double)bytes).s,
                   fg_text_memory((double)room->bytes).s, room->by);
}

static fg_copy_opts copy_opts(const fg_engine_opts *o)
{
    return (fg_copy_opts){.pages = o->pages,
                          .image = o->image,
                          .later = true,
                          .progress = o->progress,
                          .ctx = o->progress_ctx};
}

/* Its memory, which fill_home reads into; an image is whole. */
static fg_status open_copy(fg_engine *e, const fg_engine_opts *o, fg_room *room, fg_err *err)
{
    const fg_copy_opts co = copy_opts(o);
    if (o->residency != FG_RESIDENCY_SHARED && o->residency != FG_RESIDENCY_COPY) return FG_OK;
    fg_room_read(room, "");
    if (!may_have_device(o)) FG_TRY(check_room(e, o, room, 0, err));
    return fg_copy_create(&e->copy, e->file, e->slices, &co, err);
}

/* Tells the user, who left it to us, why there is no card. */
static void no_device(const fg_engine *e, const fg_err *why)
{
    char line[sizeof why->msg + 32];
    if (e->note == NULL || !fg_gpu_expected()) return;
    (void)snprintf(line, sizeof line, "%s; going on without", why->msg);
    e->note(e->note_ctx, line);
}

static bool is_on_device(const void *of, uint32_t layer, uint32_t expert)
{
    const fg_device *d = of;
    return d->ops->has(d, layer, expert);
}

/* What there is here but for what the device has. */
static fg_status fill_home(fg_engine *e, const fg_engine_opts *o, const fg_room *room, fg_err *err)
{
    const fg_copy_opts co = copy_opts(o);
    const fg_shape *s = e->model->shape;
    uint64_t less = 0;
    if (e->store != NULL) return fg_store_fill(e->store, e->device != NULL, err);
    if (e->copy == NULL) return FG_OK;
    for (uint32_t k = 0; k < fg_slices_n_node(e->slices) && e->device != NULL; k++) {
        less += fg_slices_products(e->slices, k);
    }
    for (uint32_t i = 0; i < s->n_layer * s->n_expert && e->device != NULL; i++) {
        const uint32_t l = i / s->n_expert, x = i % s->n_expert;
        if (!is_on_device(e->device, l, x)) continue;
        for (uint32_t k = 0; k < fg_slices_n_node(e->slices); k++) {
            less += fg_slices_bytes(e->slices, l, x, k);
        }
    }
    if (may_have_device(o)) FG_TRY(check_room(e, o, room, less, err));
    return fg_copy_fill(e->copy, e->device == NULL ? NULL : is_on_device, e->device, &co, err);
}

/* A card, if one is wanted. */
static fg_status open_device(fg_engine *e, const fg_engine_opts *o, fg_err *err)
{
    if (o->gpu == FG_GPU_OFF) return FG_OK;
    if (o->gpu < 0 && o->gpu != FG_GPU_AUTO) {
        return fg_fail(err, FG_EINVAL, "gpu: %d, expected a number from 0 on, off or auto", o->gpu);
    }
    fg_err why = {0};
    const fg_device_opts d = {.idx = o->gpu == FG_GPU_AUTO ? 0 : (uint32_t)o->gpu,
                              .bytes = o->gpu_bytes,
                              .progress = o->progress,
                              .progress_ctx = o->progress_ctx};
    const fg_status st = fg_device_cuda.open(&e->device, e->model, &d, &why);
    e->device_wanted = o->gpu != FG_GPU_AUTO;
    if (st == FG_OK) return FG_OK;
    if (e->device_wanted || st == FG_ECANCEL) {
        if (err != NULL) *err = why;
        return st;
    }
    no_device(e, &why);
    return FG_OK;
}

/* Who sits where, who has what, and the weights there. */
static fg_status open_home(fg_engine *e, const fg_engine_opts *o, fg_err *err)
{
    uint32_t weight[FG_MAX_NODE];
    fg_room room;
    fg_team_opts team = {.n_thread = o->n_thread,
                         .n_long = o->n_thread_prefill,
                         .pin = o->pin,
                         .pretend_nodes = o->pretend_nodes,
                         .n_node = o->n_node,
                         .numa = o->numa};
    if (o->measure_nodes && o->pretend_nodes == 0) {
        fg_node_rates rates;
        FG_TRY(fg_node_rates_measure(&rates, o->n_thread, o->n_node, err));
        fg_place_weigh(rates.local_gbs, rates.n_node, weight);
        team.weight = weight;
    }
    FG_TRY(fg_team_create_with(&e->team, &team, err));
    FG_TRY(fg_slices_create(&e->slices, fg_model_file_plan(e->file), fg_team_place(e->team), err));
    FG_TRY(open_store(e, o, err));
    FG_TRY(open_copy(e, o, &room, err));
    if (e->store == NULL && e->copy == NULL) FG_TRY(fg_model_file_mapped(e->file, err));
    const fg_home home = fg_engine_home(e);
    FG_TRY(fg_model_create_on(&e->model, e->file, &home, e->cpu_flags, err));
    FG_TRY(open_device(e, o, err)); /* first, since what it has need not be here */
    FG_TRY(fill_home(e, o, &room, err));
    return fg_engine_settle(e, o, err);
}

fg_home fg_engine_home(const fg_engine *e)
{
    return (fg_home){.store = e->store, .copy = e->copy, .slices = e->slices, .gate = e->gate};
}

fg_status fg_engine_charge(fg_engine *e, uint64_t more, uint64_t less, fg_err *err)
{
    if (e->store == NULL) return FG_OK;
    uint64_t weights;
    const uint64_t bytes = e->session_bytes + more - less;
    FG_TRY(weight_bytes(e, bytes, &weights, err));
    FG_TRY(fg_store_set_bytes(e->store, weights, err));
    e->session_bytes = bytes;
    return FG_OK;
}

uint64_t fg_engine_spare(fg_engine *e)
{
    const fg_store_stats *st = fg_engine_store_stats(e);
    uint64_t weights;
    if (st == NULL) return UINT64_MAX;
    if (weight_bytes(e, e->session_bytes, &weights, NULL) != FG_OK) return 0;
    const uint64_t all = st->dense_bytes + (uint64_t)st->n_total * st->slot_bytes;
    return weights > all ? weights - all : 0;
}

fg_status fg_engine_attach_state(fg_engine *e, fg_state *st, fg_scratch *s, fg_err *err)
{
    fg_err why = {0};
    if (e->device == NULL) return FG_OK;
    const fg_status code = e->device->ops->attach(e->device, st, s, &why);
    if (code == FG_OK) return FG_OK;
    if (e->device_wanted) {
        if (err != NULL) *err = why;
        return code;
    }
    no_device(e, &why);
    return FG_OK;
}

fg_device *fg_engine_device(const fg_engine *e)
{
    return e->device;
}

bool fg_engine_device_stats(const fg_engine *e, fg_device_stats *out)
{
    if (e->device == NULL) return false;
    e->device->ops->stats(e->device, out);
    return true;
}

fg_store *fg_engine_store(fg_engine *e)
{
    return e->store;
}

fg_team *fg_engine_team(fg_engine *e)
{
    return e->team;
}

const fg_store_stats *fg_engine_store_stats(fg_engine *e)
{
    if (e->store == NULL) return NULL;
    e->store_stats = fg_store_get_stats(e->store);
    return &e->store_stats;
}

fg_status fg_engine_open(fg_engine **out, const char *path, const fg_engine_opts *given,
                         fg_err *err)
{
    *out = NULL;
    fg_engine_opts o = fg_engine_opts_default();
    FG_TRY(fg_opts_take(&o, sizeof o, given, "engine options", err));
    const fg_engine_opts *opts = &o;
    fg_engine *e = fg_mem_zalloc(sizeof *e);
    if (e == NULL) return fg_fail_nomem(err, path);
    e->note = opts->note;
    e->note_ctx = opts->note_ctx;
    fg_status st = choose_cpu(opts->cpu, &e->cpu_flags, err);
    if (st == FG_OK && fg_io_is_dir(path)) {
        st = fg_fail(err, FG_EIO,
                     "%s: a folder, expected a .fulgur file; make one with fulgur convert", path);
    }
    if (st == FG_OK) st = fg_model_file_open(&e->file, path, err);
    if (st == FG_OK) st = fg_engine_check_origin(e, opts, err);
    if (st == FG_OK) st = check_home(opts, err);
    if (st == FG_OK) st = open_home(e, opts, err);
    if (st != FG_OK) {
        fg_engine_close(&e);
        return st;
    }
    fg_team_attach(e->team);
    *out = e;
    return FG_OK;
}

void fg_engine_close(fg_engine **e)
{
    if (*e == NULL) return;
    fg_engine_tell_origin(*e);
    save_predictor(*e);
    fg_mem_free((*e)->predict_save);
    fg_mem_free((*e)->sample_mask);
    fg_tokenizer_destroy(&(*e)->tokenizer);
    fg_team_detach((*e)->team);
    if ((*e)->device != NULL) (*e)->device->ops->close((*e)->device);
    fg_model_destroy(&(*e)->model);
    fg_store_destroy(&(*e)->store);
    fg_copy_destroy(&(*e)->copy);
    fg_slices_destroy(&(*e)->slices);
    fg_team_destroy(&(*e)->team); /* the placement is its */
    fg_gate_close(&(*e)->gate);
    fg_model_file_close(&(*e)->file);
    fg_mem_free(*e);
    *e = NULL;
}

const fg_model_file *fg_engine_file(const fg_engine *e)
{
    return e->file;
}

const fg_shape *fg_engine_shape(const fg_engine *e)
{
    return e->model->shape;
}

uint32_t fg_engine_n_thread(const fg_engine *e)
{
    return fg_team_size(e->team);
}

const char *fg_engine_cpu(const fg_engine *e)
{
    return fg_cpu_level_name(fg_cpu_level_of(e->cpu_flags));
}

uint32_t fg_engine_cpu_flags(const fg_engine *e)
{
    return e->cpu_flags;
}

const char *fg_engine_threads(const fg_engine *e)
{
    (void)e;
    return fg_team_backend();
}

uint64_t fg_engine_token_bytes(const fg_engine *e)
{
    return e->model->token_bytes;
}

fg_status fg_engine_tokenizer(fg_engine *e, const fg_tokenizer **out, fg_err *err)
{
    *out = NULL;
    if (e->tokenizer == NULL) {
        const char *json;
        size_t n;
        const char *path = fg_model_file_path(e->file);
        FG_TRY(fg_model_file_meta(e->file, "tokenizer.json", &json, &n, err));
        if (json == NULL) {
            return fg_fail(
                err, FG_ENOTSUP,
                "%s: no tokenizer inside, expected one (convert --only-tokenizer adds it)", path);
        }
        FG_TRY(fg_tokenizer_create(&e->tokenizer, json, n, path, err));
    }
    *out = e->tokenizer;
    return FG_OK;
}

fg_status fg_engine_sample_mask(fg_engine *e, const uint64_t **mask, fg_err *err)
{
    *mask = NULL;
    if (e->sample_mask == NULL) {
        const uint32_t n = e->model->shape->n_vocab;
        const char *json;
        size_t json_n;
        FG_TRY(fg_model_file_meta(e->file, "tokenizer.json", &json, &json_n, err));
        const fg_tokenizer *tok = NULL;
        if (json != NULL) FG_TRY(fg_engine_tokenizer(e, &tok, err));
        const size_t n_word = ((size_t)n + 63) / 64;
        uint64_t *bits = fg_mem_alloc(n_word * sizeof *bits);
        if (bits == NULL) return fg_fail_nomem(err, "sample mask");
        memset(bits, 0xff, n_word * sizeof *bits);
        if (tok != NULL) fg_tokenizer_mask(tok, bits, n);
        for (uint32_t id = 0; id < n; id++) {
            if (fg_model_head_row_is_zero(e->model, id)) bits[id / 64] &= ~(1ull << (id % 64));
        }
        e->sample_mask = bits;
    }
    *mask = e->sample_mask;
    return FG_OK;
}

void fg_engine_get_info(const fg_engine *e, fg_engine_info *out)
{
    const fg_engine_info i = {.size = sizeof i,
                              .n_vocab = e->model->shape->n_vocab,
                              .n_layer = e->model->shape->n_layer,
                              .n_thread = fg_engine_n_thread(e),
                              .n_ctx_max = e->model->shape->n_ctx_max,
                              .token_bytes = e->model->token_bytes,
                              .cpu = fg_engine_cpu(e),
                              .threads = fg_engine_threads(e)};
    const size_t size = out->size;
    fg_opts_init(out, size, &i, sizeof i);
    out->size = size;
}

fg_status fg_engine_check(fg_engine *e, bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                          void *ctx, fg_err *err)
{
    /* with a bound every read is checked when it arrives */
    return e->store != NULL ? FG_OK : fg_model_file_check_use(e->file, progress, ctx, err);
}

const char *fg_mapped_file(const void *address)
{
    return fg_mapping_find(address);
}

void fg_engine_detach(fg_engine *e)
{
    fg_team_detach(e->team);
}

void fg_engine_attach(fg_engine *e)
{
    fg_team_attach(e->team);
}
