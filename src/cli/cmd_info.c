/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/info.h"
#include "src/cli/plot.h"
#include "src/expert/heat.h"

static int run(int argc, char **argv);

const command cmd_info = {
    .name = "info",
    .summary = "what a model file holds",
    .synopsis = "MODEL",
    .example = "fulgur info m1.fulgur --tensors\n"
               "fulgur info m1.fulgur --quality\n"
               "fulgur info m1.fulgur --plot errors.svg\n"
               "fulgur info m1.fulgur --placement --numa slice\n"
               "fulgur info m1.fulgur --meta config.json",
    .description =
        "Says what a model file holds: shape, types, sizes and errors. `--tensors` lists each "
        "tensor with its type, size and quantization error; `--quality` shows the figures that "
        "`fulgur score --card` put there; `--plot` draws the errors by layer and role; `--meta` "
        "prints an entry such as config.json as it was in the checkpoint.\n"
        "`--placement` says which NUMA node would have how much of the weights with `--numa` and "
        "`--nodes`, and on which nodes the pages are that the page cache has of them now, as the "
        "kernel tells; nothing is read or moved.",
    .run = run,
};

/* Tensors of one kind, added up over layers and experts. */
typedef struct group {
    const char *name;
    const char *type; /* "mixed" when they differ */
    uint64_t n, weights, bytes;
    double err2; /* sum of weights * err^2, for the mean */
} group;

enum { G_EXPERT, G_ATTENTION, G_ROUTER, G_EMBED, G_HEAD, G_NORM, N_GROUP };

static int group_of(uint32_t role)
{
    switch (role) {
    case FG_ROLE_EXPERT_GATE:
    case FG_ROLE_EXPERT_UP:
    case FG_ROLE_EXPERT_DOWN: return G_EXPERT;
    case FG_ROLE_ROUTER: return G_ROUTER;
    case FG_ROLE_EMBED: return G_EMBED;
    case FG_ROLE_LM_HEAD: return G_HEAD;
    default: return fg_role_is_vector((fg_role)role) ? G_NORM : G_ATTENTION;
    }
}

static void add_up(const fg_model_file *f, group *g)
{
    static const char *const names[] = {"experts",   "attention", "routers",
                                        "embedding", "lm_head",   "norms"};
    for (int i = 0; i < N_GROUP; i++) g[i] = (group){.name = names[i], .type = "-"};
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        group *x = &g[group_of(t->role)];
        const char *type = fg_qtype_get(t->type)->name;
        x->type = x->n == 0 || strcmp(x->type, type) == 0 ? type : "mixed";
        x->n++;
        x->weights += t->n_row * t->n_col;
        x->bytes += fg_tensor_bytes(t);
        if (t->err_rms > 0.0f) {
            x->err2 += (double)(t->n_row * t->n_col) * (double)t->err_rms * (double)t->err_rms;
        }
    }
}

static void print_heat(const fg_model_file *f)
{
    fg_heat h;
    fg_err err = {0};
    if (fg_heat_load(f, &h, &err) != FG_OK) {
        printf("heat map    not usable: %s\n", err.msg);
    } else if (h.use != NULL) {
        printf("heat map    %s tokens of %s\n", cli_count(h.n_tok), cli_shown(h.text));
    }
    fg_mem_free(h.use);
}

static void print_text(fg_engine *e, const char *path)
{
    const fg_model_file *f = fg_engine_file(e);
    const fg_shape *s = fg_engine_shape(e);
    group g[N_GROUP];
    add_up(f, g);
    uint32_t n_softmax = 0;
    for (uint32_t l = 0; l < s->n_layer; l++) n_softmax += s->attn[l] == FG_ATTN_SOFTMAX;
    uint64_t weights = 0, bytes = 0;
    for (int i = 0; i < N_GROUP; i++) {
        weights += g[i].weights;
        bytes += g[i].bytes;
    }
    printf("file        %s, %s\n", cli_shown(path), cli_bytes((double)fg_model_file_size(f)));
    for (uint32_t k = 0; fg_model_file_n_part(f) > 1 && k < fg_model_file_n_part(f); k++) {
        printf("%s%s%s", k == 0 ? "parts       " : ", ", cli_shown(fg_model_file_part_path(f, k)),
               k + 1 == fg_model_file_n_part(f) ? "\n" : "");
    }
    printf("model       %u layers (%u lightning, %u softmax), hidden %u, heads %u x %u (%u kv), "
           "experts %u top-%u of %u, vocabulary %s\n",
           s->n_layer, s->n_layer - n_softmax, n_softmax, s->d_model, s->n_head, s->d_head,
           s->n_kv_head, s->n_expert, s->n_used, s->d_ff, cli_count(s->n_vocab));
    printf("parameters  %s, %.2f bits per weight\n", cli_count(weights),
           fg_bits_per_weight(bytes, weights));
    printf("context     %s positions, rotary %u of %u, theta %g\n", cli_count(s->n_ctx_max),
           s->d_rotary, s->d_head, s->rope_theta);
    printf("per token   %s of weights\n", cli_bytes((double)fg_engine_token_bytes(e)));
    printf("kernels     %s, %u threads (%s)\n", fg_engine_cpu(e), fg_engine_n_thread(e),
           fg_engine_threads(e));
    print_heat(f);
    printf("\n%-10s %-6s %8s %16s %12s %10s\n", "part", "type", "tensors", "weights", "size",
           "rms error");
    for (int i = 0; i < N_GROUP; i++) {
        printf("%-10s %-6s %8s %16s %12s %10.5f\n", g[i].name, g[i].type, cli_count(g[i].n),
               cli_count(g[i].weights), cli_bytes((double)g[i].bytes),
               sqrt(g[i].err2 / (double)(g[i].weights == 0 ? 1 : g[i].weights)));
    }
    printf("\n%-24s %s\n", "metadata", "size");
    for (uint64_t i = 0; i < fg_model_file_n_meta(f); i++) {
        const char *key;
        uint64_t n;
        fg_model_file_meta_at(f, i, &key, &n);
        printf("%-24s %s\n", key, cli_bytes((double)n));
    }
}

static fg_status print_json(fg_engine *e, const char *path, fg_err *err)
{
    const fg_model_file *f = fg_engine_file(e);
    const fg_shape *s = fg_engine_shape(e);
    group g[N_GROUP];
    add_up(f, g);
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"file\": ");
    fg_json_put_str(&b, path, strlen(path));
    fg_buf_printf(&b,
                  ", \"bytes\": %" PRIu64
                  ", \"layers\": %u, \"hidden\": %u, \"heads\": %u, \"kv_heads\": %u, "
                  "\"head_dim\": %u, \"experts\": %u, \"experts_per_token\": %u, "
                  "\"intermediate\": %u, \"vocabulary\": %u, \"bytes_per_token\": %" PRIu64
                  ", \"files\": %u, \"cpu\": \"%s\", \"threads\": %u, \"parts\": [",
                  fg_model_file_size(f), s->n_layer, s->d_model, s->n_head, s->n_kv_head, s->d_head,
                  s->n_expert, s->n_used, s->d_ff, s->n_vocab, fg_engine_token_bytes(e),
                  fg_model_file_n_part(f), fg_engine_cpu(e), fg_engine_n_thread(e));
    for (int i = 0; i < N_GROUP; i++) {
        fg_buf_printf(&b,
                      "%s{\"part\": \"%s\", \"type\": \"%s\", \"tensors\": %" PRIu64
                      ", \"weights\": %" PRIu64 ", \"bytes\": %" PRIu64 "}",
                      i == 0 ? "" : ", ", g[i].name, g[i].type, g[i].n, g[i].weights, g[i].bytes);
    }
    fg_buf_put_str(&b, "], \"metadata\": {");
    for (uint64_t i = 0; i < fg_model_file_n_meta(f); i++) {
        const char *key;
        uint64_t n;
        fg_model_file_meta_at(f, i, &key, &n);
        if (i > 0) fg_buf_put_str(&b, ", ");
        fg_json_put_str(&b, key, strlen(key));
        fg_buf_printf(&b, ": %" PRIu64, n);
    }
    fg_buf_put_str(&b, "}}\n");
    return print_buf(&b, err);
}

static fg_status print_meta(const fg_model_file *f, const char *key, fg_err *err)
{
    const char *bytes;
    size_t n;
    FG_TRY(fg_model_file_meta(f, key, &bytes, &n, err));
    if (bytes == NULL) {
        return fg_fail(err, FG_EINVAL, "%s: no metadata '%s', expected a key that info lists",
                       fg_model_file_path(f), key);
    }
    (void)cli_write(bytes, n);
    return FG_OK;
}

static int run(int argc, char **argv)
{
    bool tensors = false, quality = false, json = false, placement = false;
    const char *meta = NULL, *plot = NULL, *path;
    fg_engine_opts eo = fg_engine_opts_default();
    const opt opts[] = {
        {"tensors", 0, OPT_FLAG, &tensors, 0, 0, NULL, "table of all tensors and their errors"},
        {"quality", 0, OPT_FLAG, &quality, 0, 0, NULL, "quality cards (score --card) of the file"},
        {"plot", 0, OPT_STR, &plot, 0, 0, "FILE.svg", "draw the errors by layer and role"},
        {"meta", 0, OPT_STR, &meta, 0, 0, "KEY", "print one metadata entry"},
        {"placement", 0, OPT_FLAG, &placement, 0, 0, NULL,
         "which NUMA node has which weights, and where their pages are"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "JSON on stdout"},
        ENGINE_OPTS(eo),
        NODE_OPTS(eo),
    };
    int status;
    if (!args_parse(&cmd_info, opts, sizeof opts / sizeof opts[0], argc, argv, &path, 1, &status)) {
        return status;
    }
    if (tensors + quality + placement + (plot != NULL) + (meta != NULL) > 1) {
        return args_usage(&cmd_info, "several reports, expected one of --tensors, --quality, "
                                     "--plot, --meta and --placement");
    }
    fg_err err = {0};
    fg_engine *e;
    fg_status st = FG_OK;
    if (placement) {
        st = info_print_placement(path, &eo, json, &err);
        return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
    }
    eo.numa = FG_NUMA_FIRST_TOUCH; /* no weights are brought anywhere for this */
    if (open_engine(&e, path, &eo, &err) != FG_OK) return cli_fail(&err);
    const fg_model_file *f = fg_engine_file(e);
    if (meta != NULL) {
        st = print_meta(f, meta, &err);
    } else if (plot != NULL) {
        st = plot_errors(f, plot, &err);
    } else if (tensors) {
        st = info_print_tensors(f, json, &err);
    } else if (quality) {
        st = info_print_quality(f, json, &err);
    } else if (json) {
        st = print_json(e, path, &err);
    } else {
        print_text(e, path);
    }
    fg_engine_close(&e);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
