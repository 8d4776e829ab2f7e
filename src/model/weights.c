/* SPDX-License-Identifier: MIT */
#include "src/model/weights.h"

#include "quant/qtype.h"
#include "src/base/mem.h"

typedef struct home {
    const char *name;
    const uint8_t *(*dense)(const fg_weights *w, uint64_t offset);
    fg_panel_run (*run)(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint32_t node);
    void (*begin)(fg_weights *w, uint32_t layer, uint32_t *ids, uint32_t n);
    uint32_t (*wave)(fg_weights *w);
    uint64_t (*step)(uint64_t n);
    bool (*wait)(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint64_t last);
    fg_status (*end)(fg_weights *w, fg_err *err);
    uint32_t (*guess_layers)(const fg_weights *w);
    void (*hint)(fg_weights *w, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess);
} home;

struct fg_weights {
    const home *home;
    const fg_model_file *file;
    fg_store *store; /* stream */
    uint32_t layer;  /* begun */
    uint32_t n_left; /* map: experts of the layer's one wave, 0 after it */
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

static const uint8_t *map_dense(const fg_weights *w, uint64_t offset)
{
    return fg_model_file_data(w->file, offset);
}

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

static bool map_wait(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint64_t last)
{
    (void)w;
    (void)m;
    (void)expert;
    (void)last;
    return true;
}

static fg_status map_end(fg_weights *w, fg_err *err)
{
    (void)err;
    w->n_left = 0;
    return FG_OK;
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

static const home map_home = {"map",    map_dense, map_run, map_begin,        map_wave,
                              map_step, map_wait,  map_end, map_guess_layers, map_hint};

/* ---- stream ----
 *
 * An expert's matrices point into the mapping, where nothing is touched: what they say is the
 * distance from the first byte of the expert's extent, which is where the store has put it. */

static const uint8_t *extent_of(const fg_weights *w, uint32_t expert)
{
    return fg_model_file_data(w->file,
                              fg_model_file_expert_extent(w->file, w->layer, expert).offset);
}

static const uint8_t *stream_dense(const fg_weights *w, uint64_t offset)
{
    return fg_store_dense(w->store, offset);
}

static fg_panel_run stream_run(const fg_weights *w, const fg_matrix *m, uint32_t expert,
                               uint32_t node)
{
    fg_panel_run r = map_run(w, m, expert, node);
    if (expert == FG_NO_LAYER) return r; /* bound to the store's memory already */
    const uint8_t *from = extent_of(w, expert), *to = fg_store_data(w->store, expert);
    r.panels = to + (r.panels - from);
    if (r.scales != NULL) {
        const uint8_t *scales = (const uint8_t *)(const void *)r.scales;
        r.scales = (const float *)(const void *)(to + (scales - from));
    }
    return r;
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

static bool stream_wait(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint64_t last)
{
    const uint8_t *end =
        m->panels + (last - 1) * m->panel_stride + fg_panel_bytes(m->type, m->n_col);
    return fg_store_wait(w->store, expert, (uint64_t)(end - extent_of(w, expert)));
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
    "stream",    stream_dense, stream_run, stream_begin,        stream_wave,
    stream_step, stream_wait,  stream_end, stream_guess_layers, stream_hint};

/* ---- the one that was chosen ---- */

fg_status fg_weights_create(fg_weights **out, const fg_model_file *file, fg_store *store,
                            fg_err *err)
{
    fg_weights *w = *out = fg_mem_zalloc(sizeof *w);
    if (w == NULL) return fg_fail_nomem(err, "weights");
    *w = (fg_weights){
        .home = store == NULL ? &map_home : &stream_home, .file = file, .store = store};
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

const uint8_t *fg_weights_dense(const fg_weights *w, uint64_t offset)
{
    return w->home->dense(w, offset);
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

bool fg_weights_wait(const fg_weights *w, const fg_matrix *m, uint32_t expert, uint64_t last)
{
    return w->home->wait(w, m, expert, last);
}

fg_status fg_weights_end(fg_weights *w, fg_err *err)
{
    return w->home->end(w, err);
}

uint32_t fg_weights_guess_layers(const fg_weights *w)
{
    return w->home->guess_layers(w);
}

void fg_weights_hint(fg_weights *w, const uint32_t *sel, uint32_t n_tok, const fg_guess *guess)
{
    w->home->hint(w, sel, n_tok, guess);
}
