/* SPDX-License-Identifier: MIT
 *
 * Sizes from a file's directory or from a configuration and a recipe, rates from a quick
 * measurement or from the options, and the arithmetic of src/plan/forecast.h on both.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/choose/recipe.h"
#include "src/base/buf.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/card_report.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/planned.h"
#include "src/cli/size.h"
#include "src/plan/nodes.h"
#include "src/sys/machine.h"
#include "src/engine/session.h"

static int run(int argc, char **argv);

const command cmd_plan = {
    .name = "plan",
    .summary = "what fits, where each part would live, and how fast it will be",
    .synopsis = "MODEL|DIR|config.json",
    .example = "fulgur plan m1 --type q4 --ram 64G --disk 7GB/s\n"
               "fulgur plan MiniMax-M1-80k --recipe fast\n"
               "fulgur plan m1.fulgur --ram 64G\n"
               "fulgur plan config.json --type q4 --bandwidth 400GB/s --nodes 2\n"
               "fulgur plan config.json --topology server.xml --bandwidth 400GB/s --gemm 9000\n"
               "fulgur plan config.json --gpu-spec 80GB,3.3TB/s,55GB/s --ctx 32768",
    .description =
        "Says, without running it, whether a model fits, where each of its parts would live, "
        "and how fast it will be. It takes a model file, a checkpoint folder, or a config.json "
        "alone; for the last two, `--type` and `--recipe` say what would be made of them. `m1`, "
        "where "
        "nothing has that name, stands for the configuration of MiniMax-M1, so that nothing need "
        "be downloaded first.\n"
        "What is not given is measured on this machine: memory, its bandwidth, arithmetic, and "
        "the disk when experts are to be read. `--recall` can be measured on a text of yours "
        "with `fulgur trace replay`.\n"
        "`--topology` is another machine, as `lstopo FILE.xml` stores it or in hwloc's words; "
        "memory and threads are then its own. What each policy of placement gives there, with the "
        "arithmetic, is `fulgur numa --predict`, which has the same model.\n"
        "`--gpu` also says what would be on the first card here, which is measured, and how fast "
        "it "
        "would be then; `--gpu-spec` takes its memory, the rate of that and the bus's instead, for "
        "a card one does not have.",
    .run = run,
};

typedef struct settings {
    const char *source, *type, *recipe;
    fg_cpu_level cpu;
    double disk_gbs, bandwidth_gbs, gemm_gmacs; /* 0: measure */
    uint32_t n_thread, n_node;
    const char *topology;
    fg_numa numa;
    bool json, gpu;
    const char *gpu_spec; /* NULL: the card that is here */
    uint64_t gpu_bytes;
    fg_forecast_opts fo;
} settings;

typedef struct result {
    const settings *o;
    planned p;
    fg_gpu_card card;
    fg_gpu_card_forecast gf;
    fg_machine machine;
    fg_nodes nodes;
    fg_demand demand;
    fg_rates rates;
    fg_forecast f;
    uint32_t n_batch; /* that there is always room for */
    uint32_t n_long;  /* of long prompts */
    uint32_t n_card;  /* of those with the card */
    bool exact;       /* file size */
    bool disk_measured;
    char type[32]; /* of a plan; empty for a file */
    char disk_error[200];
} result;

/* ---- collecting ---- */

static fg_status find_demand(result *r, fg_err *err)
{
    const settings *o = r->o;
    planned *p = &r->p;
    FG_TRY(planned_open(p, o->source, o->type, o->recipe, err));
    FG_TRY(p->file != NULL ? fg_demand_of_file(&r->demand, p->file, r->nodes.place, err)
                           : fg_demand_of_plan(&r->demand, p->plan, r->nodes.place, err));
    r->exact = p->exact;
    (void)snprintf(r->type, sizeof r->type, "%s", p->type);
    return fg_demand_on_level(&r->demand, o->cpu, err);
}

/* Tokens of a batch that each expert which it meets gets. */
static uint32_t expert_tokens(const fg_shape *s, uint32_t n_batch)
{
    const double used = (double)s->n_used / (double)s->n_expert;
    const double n = n_batch * used / (1.0 - pow(1.0 - used, n_batch));
    const uint32_t rounded = (uint32_t)(n + 0.5);
    return rounded < 1 ? 1 : rounded > n_batch ? n_batch : rounded;
}

/* Unless the measurement says otherwise. */
static uint32_t thread_count(const result *r)
{
    if (r->o->n_thread != 0) return r->o->n_thread;
    return r->nodes.n_core != 0 ? r->nodes.n_core : r->machine.n_core;
}

static fg_status find_rates(result *r, fg_err *err)
{
    const settings *o = r->o;
    const fg_demand *d = &r->demand;
    fg_rates_opts ro = {
        .cpu = o->cpu,
        .n_thread = o->n_thread,
        .decode = o->bandwidth_gbs <= 0.0,
        .prefill = o->gemm_gmacs <= 0.0,
        .n_col = d->shape.d_model,
        .n_batch = r->n_long,
        .n_few = expert_tokens(&d->shape, r->n_long),
        .d_head = d->shape.d_head,
        .group = d->shape.n_head / d->shape.n_kv_head,
        .kv = o->fo.kv,
    };
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) {
        ro.type[t] = d->dense.bytes[t] + d->experts.bytes[t] + d->head.bytes[t] > 0.0;
    }
    if (o->fo.kv == FG_KV_CHOICE_AUTO && !d->quantized) ro.kv = FG_KV_CHOICE_F32;
    r->rates = (fg_rates){.n_thread = o->n_thread};
    if (ro.decode || ro.prefill) say_memory_limit();
    if (ro.decode || ro.prefill) FG_TRY(fg_rates_measure(&r->rates, &ro, err));
    fg_rates_assume(&r->rates, o->bandwidth_gbs, o->gemm_gmacs);
    if (r->rates.n_thread == 0) r->rates.n_thread = thread_count(r);
    r->rates.remote = r->nodes.remote > 0.0 ? r->nodes.remote : FG_NODES_REMOTE;
    r->rates.disk_gbs = o->disk_gbs;
    return FG_OK;
}

/* The disk of the model, where its speed matters and was not given. */
static void find_disk(result *r)
{
    const settings *o = r->o;
    char *folder = NULL;
    const char *path = o->source, *slash = strrchr(path, '/');
    fg_err why = {0};
    if (!fg_io_is_dir(path) && !planned_is_model(path)) { /* a configuration: its folder */
        folder = slash == NULL ? fg_mem_strndup(".", 1)
                               : fg_mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
        path = folder;
    }
    if (path != NULL && fg_rates_measure_disk(&r->rates, path, &why) == FG_OK) {
        r->disk_measured = true;
    } else {
        (void)snprintf(r->disk_error, sizeof r->disk_error, "%.190s", why.msg);
    }
    fg_mem_free(folder);
}

static fg_status find_card(result *r, const fg_forecast_opts *fo, fg_err *err)
{
    const settings *o = r->o;
    const fg_gpu_card_fit fit = fg_gpu_card_fit_default();
    fg_gpu_card_measured more;
    if (!o->gpu && o->gpu_spec == NULL) return FG_OK;
    if (o->gpu_spec != NULL) FG_TRY(fg_gpu_card_parse(&r->card, o->gpu_spec, err));
    if (o->gpu_spec == NULL) FG_TRY(card_measure(&r->card, &more, 0, err));
    if (o->gpu_bytes != 0 && o->gpu_bytes < r->card.bytes) r->card.bytes = o->gpu_bytes;
    r->n_card = r->n_batch;
    if (o->fo.n_batch == 0) {
        r->n_card = fg_gpu_card_batch(&r->card, r->p.plan, &r->demand, r->rates.n_thread, fo);
    }
    return fg_gpu_card_forecast_make(&r->gf, &r->card, &fit, r->p.plan, &r->demand, &r->rates,
                                     &r->f, fo, r->n_card, err);
}

static fg_status collect(result *r, fg_err *err)
{
    fg_forecast_opts fo = r->o->fo;
    fg_machine_describe(&r->machine);
    const fg_nodes_opts no = {
        .topology = r->o->topology, .n_node = r->o->n_node, .numa = r->o->numa};
    FG_TRY(fg_nodes_open(&r->nodes, &no, err));
    FG_TRY(find_demand(r, err));
    if (r->nodes.bytes != 0) r->machine.avail_bytes = r->nodes.bytes;
    if (fo.ram_bytes == 0) fo.ram_bytes = r->machine.avail_bytes;
    if (fo.n_ctx > r->demand.shape.n_ctx_max && fo.n_ctx == 4096) {
        fo.n_ctx = r->demand.shape.n_ctx_max;
    }
    if (fo.n_batch == 0) {
        fo.n_batch = FG_SESSION_BATCH;
        fo.n_long = fg_forecast_batch(&r->demand, thread_count(r), &fo, 0);
    }
    r->n_batch = fo.n_batch;
    r->n_long = fo.n_long > fo.n_batch ? fo.n_long : fo.n_batch;
    FG_TRY(find_rates(r, err));
    FG_TRY(fg_forecast_make(&r->f, &r->demand, &r->rates, r->rates.n_thread, &fo, err));
    if (r->f.fits && !r->f.resident && r->rates.disk_gbs <= 0.0) {
        find_disk(r);
        FG_TRY(fg_forecast_make(&r->f, &r->demand, &r->rates, r->rates.n_thread, &fo, err));
    }
    return find_card(r, &fo, err);
}

/* ---- text ---- */

static double part_bytes(const fg_part *p)
{
    double sum = 0.0;
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) sum += p->bytes[t];
    return sum;
}

static void print_rates(const result *r)
{
    const fg_rates *x = &r->rates;
    const settings *o = r->o;
    printf("rates       read %.1f GB/s%s; a token's weights, GB/s:", x->read_gbs,
           o->bandwidth_gbs > 0.0 ? " (given)" : "");
    const fg_demand *d = &r->demand;
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) {
        if (d->dense.bytes[t] + d->experts.bytes[t] + d->head.bytes[t] <= 0.0) continue;
        printf(" %s %.1f", fg_qkinds[t].name, x->gemv_gbs[t]);
    }
    printf("\n            batch of %u, GMAC/s%s, dense (experts):", r->n_long,
           o->gemm_gmacs > 0.0 ? " (given)" : "");
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) {
        if (d->dense.bytes[t] + d->experts.bytes[t] + d->head.bytes[t] <= 0.0) continue;
        printf(" %s %.0f (%.0f)", fg_qkinds[t].name, x->dense_gmacs[t], x->expert_gmacs[t]);
    }
    printf("; attention %.0f\n", x->attn_gmacs);
    if (x->disk_gbs > 0.0) {
        printf("            disk %.2f GB/s%s\n", x->disk_gbs,
               !r->disk_measured        ? " (given)"
               : r->o->topology != NULL ? ", of this machine: give --disk"
                                        : ", read as experts are");
    }
}

static void print_row(const char *part, const char *size, double token, const char *lives)
{
    printf("%-30s %10s %12s   %s\n", part, size, token > 0.0 ? cli_bytes(token) : "-", lives);
}

/* A part of the file. */
static void print_weights(const char *part, uint64_t bytes, double token, const char *lives)
{
    print_row(part, cli_bytes((double)bytes), token, lives);
}

/* What a session takes. */
static void print_state(const char *part, uint64_t bytes, double token, const char *lives)
{
    print_row(part, cli_memory((double)bytes), token, lives);
}

static void print_parts(const result *r)
{
    const fg_demand *d = &r->demand;
    const fg_forecast *f = &r->f;
    char name[64], lives[96];
    printf("\n%-30s %10s %12s   %s\n", "part", "size", "read/token", "lives");
    print_weights("embedding", d->embed_bytes, 0.0, "memory");
    (void)snprintf(name, sizeof name, "dense, %u layers", d->shape.n_layer);
    print_weights(name, d->dense_bytes, part_bytes(&d->dense), "memory");
    (void)snprintf(name, sizeof name, "experts, %s of %s", cli_count(f->n_expert),
                   cli_bytes((double)d->expert_bytes));
    if (f->resident) {
        (void)snprintf(lives, sizeof lives, "memory");
    } else if (f->fits) {
        (void)snprintf(lives, sizeof lives, "disk; %s slots in memory, %.1f %%",
                       cli_count(f->n_slot), 100.0 * f->share);
    } else {
        (void)snprintf(lives, sizeof lives, "disk; no room for %u slots in memory",
                       d->shape.n_used + 1);
    }
    print_weights(name, d->experts_bytes, part_bytes(&d->experts), lives);
    print_weights("lm_head", d->head_bytes, part_bytes(&d->head), "memory");
    double light = 0.0;
    for (uint32_t l = 0; l < d->shape.n_layer; l++) {
        light += d->shape.attn[l] == FG_ATTN_LIGHTNING;
    }
    print_state("lightning state", f->lightning_bytes, light > 0.0 ? f->decode[0].state_bytes : 0.0,
                "memory");
    (void)snprintf(name, sizeof name, "key-value cache, %s", cli_count(r->o->fo.n_ctx));
    print_state(name, f->kv_bytes, f->decode[1].state_bytes - f->decode[0].state_bytes,
                "memory, as used");
    (void)snprintf(name, sizeof name, "scratch, batches of %u", r->n_batch);
    print_state(name, f->scratch_bytes, 0.0, "memory, as used");
    if (f->long_bytes != 0) {
        (void)snprintf(name, sizeof name, "for batches of %u", r->n_long);
        print_state(name, f->long_bytes, 0.0, "free memory, while a long prompt is read");
    }
    print_state("to undo a stopped batch", f->undo_bytes, 0.0, "memory, as used");
}

static void print_speed_row(const result *r, const char *what, const fg_speed *s)
{
    const fg_forecast *f = &r->f;
    printf("%-8s behind %-11s", what, cli_count(s->pos));
    if (!f->fits) {
        printf(" - (%.2f tok/s with everything in memory)\n", s->resident_tok_s);
    } else if (f->resident) {
        printf(" %8.2f tok/s\n", s->tok_s);
    } else if (r->rates.disk_gbs <= 0.0) {
        printf(" unknown (%.2f tok/s with everything in memory)\n", s->resident_tok_s);
    } else {
        printf(
            " %8.2f tok/s  (%s from disk; %.2f with nothing overlapped, %.2f with every read known "
            "ahead, %.2f with everything in memory)\n",
            s->tok_s, cli_bytes(s->disk_bytes), s->serial_tok_s, s->bound_tok_s, s->resident_tok_s);
    }
}

static void print_memory(const result *r)
{
    const fg_forecast *f = &r->f;
    const char *given = r->o->fo.ram_bytes != 0 ? "given" : "available";
    const uint64_t ram = r->o->fo.ram_bytes != 0 ? r->o->fo.ram_bytes : r->machine.avail_bytes;
    printf("\nmemory      %s for everything, %s at least for streaming; %s %s: %s\n",
           cli_memory((double)f->all_ram_bytes), cli_memory((double)f->min_ram_bytes),
           cli_known_memory(ram), given,
           ram == UINT64_MAX ? "give --ram to see whether it fits"
           : f->resident     ? "everything fits"
           : f->fits         ? "experts are streamed"
                             : "it does not fit");
    if (!f->resident && f->fits) {
        printf("misses      %.1f of %u experts a token, for independent uniform routing%s: "
               "a hit rate "
               "of %.1f %%\n",
               f->misses, r->demand.shape.n_layer * r->demand.shape.n_used,
               r->o->fo.fit.reuse > 0.0 ? " and --reuse" : "", 100.0 * f->hit);
    }
    if (r->disk_error[0] != '\0') {
        printf("disk        not measured: %s; give --disk\n", r->disk_error);
    }
}

static void print_nodes(const result *r)
{
    const fg_demand *d = &r->demand;
    fg_buf b = {0};
    if (d->n_node > 1) {
        printf("nodes       %u, %s: %s on the fullest, steps %.1f %% longer than for equal parts",
               d->n_node, fg_numa_name(r->o->numa), cli_bytes((double)d->node_bytes),
               100.0 * (d->imbalance - 1.0));
        const double away = fg_forecast_away(d, &r->rates);
        if (away > 1.0) printf(", reads %.0f %% longer", 100.0 * (away - 1.0));
        printf("\n");
    }
    if (r->o->topology == NULL) return;
    fg_nodes_put(&r->nodes, &b);
    printf("topology    %s\n", fg_buf_str(&b) == NULL ? "" : fg_buf_str(&b));
    fg_buf_fini(&b);
}

static void print_text(const result *r)
{
    const fg_demand *d = &r->demand;
    const fg_shape *s = &d->shape;
    uint32_t n_softmax = 0;
    for (uint32_t l = 0; l < s->n_layer; l++) n_softmax += s->attn[l] == FG_ATTN_SOFTMAX;
    printf("model       %u layers (%u lightning, %u softmax), hidden %u, experts %u top-%u of %u, "
           "%s weights%s%s\n",
           s->n_layer, s->n_layer - n_softmax, n_softmax, s->d_model, s->n_expert, s->n_used,
           s->d_ff, cli_count(d->n_weight), r->type[0] == '\0' ? "" : ", as ", r->type);
    printf("file        %s (%s%s bytes), %.2f bits per weight; %s of weights read per token\n",
           cli_bytes((double)d->file_bytes), r->exact ? "" : "about ", cli_count(d->file_bytes),
           d->bits_per_weight, cli_bytes(d->token_bytes));
    print_nodes(r);
    printf("machine     %s, %u thread%s, %s\n",
           r->o->topology != NULL ? r->o->topology : r->machine.cpu, r->rates.n_thread,
           r->rates.n_thread == 1 ? "" : "s",
           r->o->cpu == FG_CPU_LEVEL_AUTO ? r->machine.level : fg_cpu_level_name(r->o->cpu));
    print_rates(r);
    print_parts(r);
    print_memory(r);
    for (int i = 0; i < 2; i++) {
        if (i == 0 || r->f.decode[1].pos > 0) print_speed_row(r, "decode", &r->f.decode[i]);
    }
    for (int i = 0; i < 2; i++) {
        if (i == 0 || r->f.prefill[1].pos > 0) print_speed_row(r, "prefill", &r->f.prefill[i]);
    }
    if (r->card.bytes > 0) card_plan_print(&r->card, &r->gf, r->o->fo.n_ctx, r->n_card);
}

/* ---- JSON ---- */

static void put_types(fg_buf *b, const result *r, const char *name, const double *v)
{
    const fg_demand *d = &r->demand;
    bool first = true;
    fg_buf_printf(b, ", \"%s\": {", name);
    for (uint32_t t = 0; t < FG_RATE_TYPES; t++) {
        if (d->dense.bytes[t] + d->experts.bytes[t] + d->head.bytes[t] <= 0.0) continue;
        fg_buf_printf(b, "%s\"%s\": %.3f", first ? "" : ", ", fg_qkinds[t].name,
                      isfinite(v[t]) ? v[t] : 0.0);
        first = false;
    }
    fg_buf_put_str(b, "}");
}

static void put_speed(fg_buf *b, const char *name, const fg_speed *s)
{
    fg_buf_printf(b, ", \"%s\": [", name);
    for (int i = 0; i < 2; i++) {
        fg_buf_printf(b,
                      "%s{\"position\": %" PRIu64
                      ", \"tokens_per_second\": %.6g, \"serial\": %.6g, \"bound\": %.6g, "
                      "\"resident\": %.6g, \"state_bytes\": %.0f, \"disk_bytes\": %.0f}",
                      i == 0 ? "" : ", ", s[i].pos, s[i].tok_s, s[i].serial_tok_s, s[i].bound_tok_s,
                      s[i].resident_tok_s, s[i].state_bytes, s[i].disk_bytes);
    }
    fg_buf_put_str(b, "]");
}

static fg_status print_json(const result *r, fg_err *err)
{
    const fg_demand *d = &r->demand;
    const fg_forecast *f = &r->f;
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"model\": ");
    fg_json_put_str(&b, r->o->source, strlen(r->o->source));
    fg_buf_printf(&b,
                  ", \"layers\": %u, \"weights\": %" PRIu64 ", \"tensors\": %" PRIu64
                  ", \"file_bytes\": %" PRIu64
                  ", \"exact\": %s, \"bits_per_weight\": %.4f, \"bytes_per_token\": %.0f",
                  d->shape.n_layer, d->n_weight, d->n_tensor, d->file_bytes,
                  r->exact ? "true" : "false", d->bits_per_weight, d->token_bytes);
    fg_buf_printf(
        &b,
        ", \"nodes\": %u, \"policy\": \"%s\", \"node_bytes\": %" PRIu64 ", \"imbalance\": %.6f"
        ", \"embedding_bytes\": %" PRIu64 ", \"dense_bytes\": %" PRIu64
        ", \"experts_bytes\": %" PRIu64 ", \"expert_bytes\": %" PRIu64
        ", \"lm_head_bytes\": %" PRIu64 ", \"lightning_bytes\": %" PRIu64
        ", \"cache_bytes\": %" PRIu64 ", \"scratch_bytes\": %" PRIu64 ", \"undo_bytes\": %" PRIu64
        ", \"batch\": %u, \"long_batch_bytes\": %" PRIu64,
        d->n_node, fg_numa_name(r->o->numa), d->node_bytes, d->imbalance, d->embed_bytes,
        d->dense_bytes, d->experts_bytes, d->expert_bytes, d->head_bytes, f->lightning_bytes,
        f->kv_bytes, f->scratch_bytes, f->undo_bytes, r->n_long, f->long_bytes);
    fg_buf_printf(&b,
                  ", \"all_ram_bytes\": %" PRIu64 ", \"min_ram_bytes\": %" PRIu64
                  ", \"fits\": %s, \"resident\": %s, \"slots\": %" PRIu64 ", \"experts\": %" PRIu64
                  ", \"hit_rate\": %.6f, \"misses_per_token\": %.4f",
                  f->all_ram_bytes, f->min_ram_bytes, f->fits ? "true" : "false",
                  f->resident ? "true" : "false", f->n_slot, f->n_expert, f->hit, f->misses);
    fg_buf_printf(&b, ", \"threads\": %u, \"rates\": {\"read_gbs\": %.3f, \"disk_gbs\": %.4f",
                  r->rates.n_thread, r->rates.read_gbs, r->rates.disk_gbs);
    fg_buf_printf(&b, ", \"attention_gmacs\": %.3f, \"sync_us\": %.3f", r->rates.attn_gmacs,
                  r->rates.sync_us);
    put_types(&b, r, "token_gbs", r->rates.gemv_gbs);
    put_types(&b, r, "batch_gmacs", r->rates.dense_gmacs);
    put_types(&b, r, "expert_gmacs", r->rates.expert_gmacs);
    fg_buf_put_str(&b, "}");
    put_speed(&b, "decode", f->decode);
    put_speed(&b, "prefill", f->prefill);
    if (r->card.bytes > 0) {
        fg_buf_put_str(&b, ", ");
        card_plan_put(&r->card, &r->gf, r->n_card, &b);
    }
    fg_buf_put_str(&b, "}\n");
    return print_buf(&b, err);
}

static int run(int argc, char **argv)
{
    settings o = {.fo = fg_forecast_opts_default()};
    o.fo.ram_bytes = 0; /* what is available */
    o.fo.n_batch = 0;   /* what a session chooses */
    const opt opts[] = {
        {"type", 0, OPT_STR, &o.type, 0, 0, "TYPE", fg_recipe_type_help},
        {"recipe", 0, OPT_STR, &o.recipe, 0, 0, "NAME|FILE",
         "of a conversion: fast, balanced, faithful, or lines as for convert"},
        {"ram", 0, OPT_SIZE, &o.fo.ram_bytes, 0, 0, "SIZE",
         "memory for all of it, 24G (default: what is available)"},
        {"disk", 0, OPT_RATE, &o.disk_gbs, 0, 0, "RATE",
         "reads of experts, 3GB/s (default: measured when needed)"},
        {"bandwidth", 0, OPT_RATE, &o.bandwidth_gbs, 0, 0, "RATE",
         "of memory, 60GB/s, all nodes together (default: measured)"},
        {"gemm", 0, OPT_F64, &o.gemm_gmacs, 1e-3, 1e9, "X",
         "GMAC/s of all cores from cache, as bench says (default: measured)"},
        {"topology", 0, OPT_STR, &o.topology, 0, 0, "FILE|TEXT",
         "another machine: hwloc XML, or 'node:2 core:8 pu:1'; with --bandwidth and --gemm"},
        {"nodes", 0, OPT_U32, &o.n_node, 1, 64, "N",
         "NUMA nodes that share every matrix (default: 1, or all of --topology)"},
        {"numa", 0, OPT_CHOICE, CHOICE(o.numa, fg_numa_name, FG_NUMA_COUNT), 0, 0, "POLICY",
         "which node has which weights"},
        {"ctx", 'c', OPT_U64, &o.fo.n_ctx, 1, 1e9, "N", "positions of the context (default: 4096)"},
        {"batch", 'b', OPT_U32, &o.fo.n_batch, 1, 4096, "N",
         "tokens of a prefill batch (default: as a session chooses, 512 to 2048)"},
        {"reuse", 0, OPT_F64, &o.fo.fit.reuse, 0, 1, "X",
         "share of misses that a token avoids by repeating experts (default: 0)"},
        {"overlap", 0, OPT_F64, &o.fo.fit.overlap, 0, 1, "X",
         "share of reads hidden behind the same layer's experts (default: 1)"},
        {"recall", 0, OPT_F64, &o.fo.fit.recall, 0, 1, "X",
         "share of missing experts that reading ahead finds; see fulgur trace (default: 0.7)"},
        {"gpu", 0, OPT_FLAG, &o.gpu, 0, 0, NULL, "with the first card here, which is measured"},
        {"gpu-spec", 0, OPT_STR, &o.gpu_spec, 0, 0, "MEMORY,RATE,BUS",
         "with another card, e.g. 80GB,3.3TB/s,55GB/s"},
        {"gpu-mem", 0, OPT_SIZE, &o.gpu_bytes, 0, 0, "SIZE",
         "memory of the card to use (default: all)"},
        {"json", 0, OPT_FLAG, &o.json, 0, 0, NULL, "JSON on stdout"},
        CACHE_OPT(o.fo.kv),
        THREAD_OPTS(o),
    };
    int status;
    if (!args_parse(&cmd_plan, opts, sizeof opts / sizeof opts[0], argc, argv, &o.source, 1,
                    &status)) {
        return status;
    }
    if (o.topology != NULL && (o.bandwidth_gbs <= 0.0 || o.gemm_gmacs <= 0.0)) {
        return args_usage(&cmd_plan, "--topology: a machine that cannot be measured here, expected "
                                     "--bandwidth and --gemm as well");
    }
    fg_err err = {0};
    result r = {.o = &o};
    fg_status st = collect(&r, &err);
    if (st == FG_OK && o.json) st = print_json(&r, &err);
    if (st == FG_OK && !o.json) print_text(&r);
    planned_close(&r.p);
    fg_nodes_close(&r.nodes);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
