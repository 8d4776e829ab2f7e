/* SPDX-License-Identifier: MIT */
#include "src/model/weights.h"

#include "quant/qtype.h"
#include "src/base/mem.h"

typedef struct home {
    const char *name;
    /* First byte of a node's part of everything dense, or of an expert of the wave. */
    const uint8_t *(*part)(const fg_weights *w, uint32_t expert, uint32_t node);
    bool (*has_products)(const fg_weights *w); /* dense ones, else they are where they are mapped */
    fg_panel_run (*run)(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node);
    void (*begin)(fg_weights *w, uint32_t layer, uint32_t *ids, uint32_t n);
    uint32_t (*wave)(fg_weights *w);
    uint64_t (*step)(uint64_t n);
    bool (*wait)(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node,
                 uint64_t last);
    fg_status (*end)(fg_weights *w, fg_err *err);
    uint32_t (*guess_layers)(const fg_weights *w);
    void (*hint)(fg_weights *w, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess);
} home;

struct fg_weights {
    const home *home;
    const fg_model_file *file;
    const fg_slices *slices; /* NULL: map only */
    fg_copy *copy;
    fg_err lost;     /* copy: why an expert is not there */
    fg_store *store; /* stream */
    fg_gate *gate;   /* NULL: none is asked for */
    uint32_t layer;  /* begun */
    uint32_t n_left; /* map, copy: experts of the layer's one wave, 0 after it */
};

const char *fg_residency_name(fg_residency residency)
{
    static const char *const name[FG_RESIDENCY_COUNT] = {
#define RESIDENCY_NAME(id, name) [id] = name,
        FG_RESIDENCY_MAP_OF(RESIDENCY_NAME)
#undef RESIDENCY_NAME
    };
    return (uint32_t)residency < FG_RESIDENCY_COUNT ? name[residency] : NULL;
}

/* ---- map ---- */

static fg_panel_run map_run(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node)
{
    (void)w;
    (void)expert;
    (void)node; /* the whole matrix for everybody: the system places the pages of a mapping */
    return fg_matrix_run(m);
}

static void map_begin(fg_weights *w, uint32_t layer, uint32_t *ids, uint32_t n)
{
    (void)ids;
    w->layer = layer;
    w->n_left = n;
}

static uint32_t map_wave(fg_weights *w)
{
    const uint32_t n = w->n_left;
    w->n_left = 0;
    return n;
}

static uint64_t map_step(uint64_t n)
{
    return n;
}

static bool map_wait(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node,
                     uint64_t last)
{
    (void)m;
    (void)node;
    (void)last;
    return w->gate == NULL || fg_gate_expert(w->gate, w->layer, expert);
}

static fg_status map_end(fg_weights *w, fg_err *err)
{
    w->n_left = 0;
    return w->gate == NULL ? FG_OK : fg_gate_error(w->gate, err);
}

static uint32_t map_guess_layers(const fg_weights *w)
{
    (void)w;
    return 0;
}

static void map_hint(fg_weights *w, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess)
{
    (void)w;
    (void)sel;
    (void)n_tok;
    (void)guess;
}

static const home map_home = {"map",    NULL,     NULL,    map_run,          map_begin, map_wave,
                              map_step, map_wait, map_end, map_guess_layers, map_hint};

/* ---- in memory of the nodes ---- */

static fg_panel_run node_run(const fg_weights *w, const fg_matrix *m, uint32_t expert,
                             uint32_t node)
{
    const fg_share *share = fg_slices_share(w->slices, m->tensor);
    const fg_tensor *t = fg_model_file_tensor(w->file, m->tensor);
    if (fg_slices_is_product((fg_role)t->role) && !w->home->has_products(w)) {
        return fg_matrix_run(m);
    }
    const uint8_t *part = w->home->part(w, expert, node);
    const uint64_t first = share->begin[node], n = share->begin[node + 1] - first;
    const uint8_t *scales = part + fg_slices_scales(w->slices, m->tensor, node);
    const bool whole = fg_slices_everywhere(w->slices, m->tensor);
    return (fg_panel_run){part + fg_slices_panels(w->slices, m->tensor, node),
                          m->scales == NULL ? NULL : (const float *)(const void *)scales,
                          whole ? 0 : first, whole ? m->n_panel : n};
}

/* ---- copy ---- */

static const uint8_t *copy_part(const fg_weights *w, uint32_t expert, uint32_t node)
{
    const uint32_t layer = expert == FG_NO_LAYER ? FG_NO_LAYER : w->layer;
    return fg_copy_area(w->copy, node) + fg_slices_begin(w->slices, layer, expert, node);
}

static bool copy_has_products(const fg_weights *w)
{
    return fg_copy_has_products(w->copy);
}

/* What a device had when the others were read. */
static void copy_begin(fg_weights *w, uint32_t layer, uint32_t *ids, uint32_t n)
{
    fg_err err = {0};
    map_begin(w, layer, ids, n);
    for (uint32_t i = 0; i < n; i++) {
        if (fg_copy_need(w->copy, layer, ids[i], &err) != FG_OK) w->lost = err;
    }
}

static bool copy_wait(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node,
                      uint64_t last)
{
    return fg_copy_has(w->copy, w->layer, expert) && map_wait(w, m, expert, node, last);
}

static fg_status copy_end(fg_weights *w, fg_err *err)
{
    const fg_err lost = w->lost;
    w->lost = (fg_err){0};
    const fg_status st = map_end(w, err);
    if (lost.code == FG_OK) return st;
    if (err != NULL) *err = lost;
    return lost.code;
}

static const home copy_home = {"copy",     copy_part,        copy_has_products, node_run,
                               copy_begin, map_wave,         map_step,          copy_wait,
                               copy_end,   map_guess_layers, map_hint};

/* ---- stream ---- */

static const uint8_t *stream_part(const fg_weights *w, uint32_t expert, uint32_t node)
{
    return expert == FG_NO_LAYER ? fg_store_dense(w->store, node)
                                 : fg_store_data(w->store, expert, node);
}

static bool stream_has_products(const fg_weights *w)
{
    return fg_store_has_products(w->store);
}

static void stream_begin(fg_weights *w, uint32_t layer, uint32_t *ids, uint32_t n)
{
    w->layer = layer;
    fg_store_begin_layer(w->store, layer, ids, n);
}

static uint32_t stream_wave(fg_weights *w)
{
    return fg_store_next_wave(w->store);
}

static uint64_t stream_step(uint64_t n)
{
    enum { STEP = 8 }; /* what is there is not kept waiting for the rest */
    return n < STEP ? n : STEP;
}

static bool stream_wait(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node,
                        uint64_t last)
{
    return fg_store_wait(w->store, expert, node, fg_slices_reach(w->slices, m->tensor, node, last));
}

static fg_status stream_end(fg_weights *w, fg_err *err)
{
    return fg_store_end_layer(w->store, err);
}

static uint32_t stream_guess_layers(const fg_weights *w)
{
    return fg_store_guess_layers(w->store);
}

static void stream_hint(fg_weights *w, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess)
{
    fg_store_hint(w->store, sel, n_tok, guess);
}

static const home stream_home = {
    "stream",     stream_part,         stream_has_products, node_run,
    stream_begin, stream_wave,         stream_step,         stream_wait,
    stream_end,   stream_guess_layers, stream_hint};

/* ---- the one that was chosen ---- */

fg_status fg_weights_create(fg_weights **out, const fg_model_file *file, const fg_home *at,
                            fg_err *err)
{
    fg_weights *w = *out = fg_mem_zalloc(sizeof *w);
    if (w == NULL) return fg_fail_nomem(err, "weights");
    *w = (fg_weights){.home = at->store != NULL  ? &stream_home
                              : at->copy != NULL ? &copy_home
                                                 : &map_home,
                      .file = file,
                      .store = at->store,
                      .copy = at->copy,
                      .gate = at->gate,
                      .slices = at->slices};
    if (at->store != NULL) w->slices = fg_store_slices(at->store);
    return FG_OK;
}

void fg_weights_destroy(fg_weights **w)
{
    fg_mem_free(*w);
    *w = NULL;
}

const char *fg_weights_name(const fg_weights *w)
{
    return w->home->name;
}

const uint8_t *fg_weights_whole(const fg_weights *w, uint64_t tensor, const float **scales)
{
    const fg_tensor *t = fg_model_file_tensor(w->file, tensor);
    const uint8_t *s, *p;
    if (w->home == &map_home) {
        p = fg_model_file_data(w->file, t->offset);
        s = t->scale_offset == 0 ? NULL : fg_model_file_data(w->file, t->scale_offset);
    } else {
        const fg_share *share = fg_slices_share(w->slices, tensor);
        uint32_t node = 0;
        while (share->begin[node + 1] == 0) node++; /* who has it */
        const uint8_t *part = w->home->part(w, FG_NO_LAYER, node);
        p = part + fg_slices_panels(w->slices, tensor, node);
        s = t->scale_offset == 0 ? NULL : part + fg_slices_scales(w->slices, tensor, node);
    }
    if (scales != NULL) *scales = (const float *)(const void *)s;
    return p;
}

const fg_share *fg_weights_share(const fg_weights *w, const fg_matrix *m)
{
    return w->slices == NULL ? NULL : fg_slices_share(w->slices, m->tensor);
}

/* A node's dense part at p: whole, or its pieces and then, as one, what products would take.
 * *piece is room for them; NULL: how many regions there are. */
static size_t dense_regions(const fg_weights *w, uint32_t node, uint8_t *p, fg_slice *piece,
                            fg_region *out)
{
    const uint64_t all = fg_slices_bytes(w->slices, FG_NO_LAYER, FG_NO_LAYER, node);
    if (w->home->has_products(w)) {
        if (piece != NULL) *out = (fg_region){p, all, node, false, 0};
        return 1;
    }
    const size_t n = fg_slices_pieces_kept(w->slices, node, piece);
    for (size_t i = 0; i < n && piece != NULL; i++) {
        out[i] = (fg_region){p + piece[i].at, piece[i].bytes, node, false, 0};
    }
    if (piece != NULL) {
        const uint64_t products = fg_slices_products(w->slices, node);
        out[n] = (fg_region){p, products, node, false, FG_REGION_DENSE};
    }
    return n + 1;
}

static void expert_regions(const fg_weights *w, fg_region *out)
{
    const fg_shape *s = fg_model_file_shape(w->file);
    for (uint32_t k = 0; k < fg_slices_n_node(w->slices); k++) {
        uint8_t *area = (uint8_t *)(uintptr_t)fg_copy_area(w->copy, k);
        for (uint32_t i = 0; i < s->n_layer * s->n_expert; i++) {
            const uint32_t l = i / s->n_expert, e = i % s->n_expert;
            uint8_t *p = area + fg_slices_begin(w->slices, l, e, k);
            *out++ = (fg_region){p, fg_slices_bytes(w->slices, l, e, k), k, false, 1 + i};
        }
    }
}

fg_status fg_weights_regions(const fg_weights *w, fg_region **out, size_t *n, fg_err *err)
{
    const uint32_t n_node = fg_slices_n_node(w->slices);
    const fg_shape *s = fg_model_file_shape(w->file);
    if (w->home == &map_home) return fg_settle_regions_of_file(w->file, w->slices, out, n, err);
    const size_t others = w->home == &copy_home ? (size_t)s->n_layer * s->n_expert : 1;
    size_t most = 0;
    *n = others * n_node;
    for (uint32_t k = 0; k < n_node; k++) {
        const size_t m = dense_regions(w, k, NULL, NULL, NULL);
        most = m > most ? m : most;
        *n += m;
    }
    fg_slice *piece = fg_mem_zalloc_array(most, sizeof *piece);
    fg_region *r = *out = fg_mem_zalloc_array(*n, sizeof *r);
    for (uint32_t k = 0; k < n_node && r != NULL && piece != NULL; k++) {
        uint8_t *p = (uint8_t *)(uintptr_t)w->home->part(w, FG_NO_LAYER, k);
        r += dense_regions(w, k, p, piece, r);
        if (w->store != NULL) *r++ = fg_store_slots(w->store, k);
    }
    if (w->copy != NULL && r != NULL && piece != NULL) expert_regions(w, r);
    fg_mem_free(piece);
    if (*out != NULL && piece != NULL) return FG_OK;
    fg_mem_free(*out);
    *out = NULL;
    return fg_fail_nomem(err, "placement of the weights");
}

/* An expert of the mapping comes back from a device, which alone has touched its pages. */
static void bring_back(const fg_weights *w, uint32_t layer, uint32_t expert)
{
    const fg_place *place = w->slices == NULL ? NULL : fg_slices_place(w->slices);
    fg_slice piece[FG_EXPERT_PIECES];
    if (place == NULL || !fg_place_binds(place) || place->numa == FG_NUMA_FIRST_TOUCH) return;
    for (uint32_t k = 0; k < fg_slices_n_node(w->slices); k++) {
        const size_t n = fg_slices_pieces(w->slices, layer, expert, k, piece);
        for (size_t i = 0; i < n; i++) {
            fg_audit audit = {0};
            const uint8_t *p = fg_model_file_data(w->file, piece[i].offset);
            /* where it fails they are read from where they are */
            (void)fg_place_mend(place, k, (void *)(uintptr_t)p, piece[i].bytes, &audit, NULL);
        }
    }
}

uint32_t fg_weights_from(const fg_weights *w, uint32_t owner, uint32_t worker)
{
    return w->slices != NULL && fg_slices_whole(w->slices) ? worker : owner;
}

fg_panel_run fg_weights_run(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node)
{
    return w->home->run(w, m, expert, node);
}

void fg_weights_begin(fg_weights *w, uint32_t layer, uint32_t *ids, uint32_t n)
{
    w->home->begin(w, layer, ids, n);
}

uint32_t fg_weights_wave(fg_weights *w)
{
    return w->home->wave(w);
}

uint64_t fg_weights_step(const fg_weights *w, uint64_t n)
{
    return w->home->step(n);
}

bool fg_weights_wait(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node,
                     uint64_t last)
{
    return w->home->wait(w, m, expert, node, last);
}

fg_status fg_weights_end(fg_weights *w, fg_err *err)
{
    return w->home->end(w, err);
}

fg_status fg_weights_check(fg_weights *w, uint32_t layer, uint32_t expert, fg_err *err)
{
    if (w->gate == NULL || fg_gate_expert(w->gate, layer, expert)) return FG_OK;
    return fg_gate_error(w->gate, err);
}

void fg_weights_elsewhere(fg_weights *w, uint32_t layer, uint32_t expert, bool elsewhere)
{
    if (w->store != NULL) fg_store_elsewhere(w->store, layer, expert, elsewhere);
    if (w->copy != NULL && elsewhere) fg_copy_drop(w->copy, layer, expert);
    if (w->home == &map_home && !elsewhere) bring_back(w, layer, expert);
}

void fg_weights_host(fg_weights *w)
{
    if (w->store != NULL) fg_store_count_products(w->store);
}

uint32_t fg_weights_guess_layers(const fg_weights *w)
{
    return w->home->guess_layers(w);
}

void fg_weights_hint(fg_weights *w, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess)
{
    w->home->hint(w, sel, n_tok, guess);
}
