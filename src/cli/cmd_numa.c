/* SPDX-License-Identifier: MIT
 *
 * The options of `fulgur numa`; what it does is in numa_sweep.c, numa_expect.c, numa_imbalance.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/choose/recipe.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/cli/numa.h"

static int run(int argc, char **argv);

const command cmd_numa = {
    .name = "numa",
    .summary = "speed by NUMA nodes, threads, policy, pages and context: measured or predicted",
    .synopsis = "MODEL|DIR|config.json",
    .example =
        "fulgur numa m1.fulgur --csv m1-numa.csv --svg m1-numa.svg\n"
        "fulgur numa m1.fulgur --nodes 1,2 --policy slice,interleave --ctx 0,32768 --csv m1.csv\n"
        "fulgur numa m1.fulgur --predict --csv m1.csv\n"
        "fulgur numa config.json --predict --topology server.xml --read 200GB/s\n"
        "fulgur numa config.json --imbalance",
    .description =
        "Decodes with a model for every combination of nodes, threads, policy of placement, pages "
        "and context, and writes a line a combination and round to a CSV file and a drawing. The "
        "rounds go over all combinations in turns; each opens the model anew, warms up, and takes "
        "the median of its runs, between which the read bandwidth of the same threads is measured. "
        "The file is the journal: what it has is not measured again, so that a sweep that was "
        "stopped, by Ctrl-C or a loss of power, goes on with the same command. Lines of another "
        "model, machine, kernel setting or `--commit` are refused unless `--force` starts anew. A "
        "combination that cannot be had is told and left out.\n"
        "`--predict` says what the bandwidth model of `fulgur plan` expects of each policy, with "
        "its arithmetic, beside what `--csv` has measured; with `--topology` for a machine that is "
        "not here, from the file that `lstopo FILE.xml` writes there or from a description such as "
        "'node:8 core:16 pu:1', and `--read`, what one node reads of its own memory. `--type` and "
        "`--recipe` are for a checkpoint or a config.json, which need not be converted for it.\n"
        "`--imbalance` prints how even the nodes' parts of a token are in each phase between "
        "barriers, from the real panel ranges.",
    .run = run,
};

/* What is there already is left out. */
static void add(numa_list *l, uint64_t v)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->v[i] == v) return;
    }
    l->v[l->n++] = v;
}

/* "1,2,4"; each from min to max.  False: something else. */
static bool parse_numbers(const char *text, uint64_t min, uint64_t max, numa_list *out)
{
    out->n = 0;
    for (const char *s = text; out->n < NUMA_LIST; s++) {
        char *end;
        if (*s < '0' || *s > '9' || strspn(s, "0123456789") > 10) return false;
        const uint64_t v = strtoull(s, &end, 10);
        if (v < min || v > max) return false;
        add(out, v);
        if (*end == '\0') return true;
        if (*end != ',') return false;
        s = end;
    }
    return false;
}

typedef const char *name_fn(unsigned value);

static bool parse_names(const char *text, name_fn *name, unsigned n_name, numa_list *out)
{
    out->n = 0;
    for (const char *s = text; out->n < NUMA_LIST;) {
        const size_t n = strcspn(s, ",");
        unsigned i = 0;
        while (i < n_name && (name(i) == NULL || strncmp(name(i), s, n) != 0 || name(i)[n] != '\0'))
            i++;
        if (i == n_name) return false;
        add(out, i);
        if (s[n] == '\0') return true;
        s += n + 1;
    }
    return false;
}

/* The lists as they are typed; NULL: not given. */
typedef struct texts {
    const char *nodes, *threads, *policy, *pages, *ctx;
} texts;

static int bad_list(const char *option, const char *text, const char *wanted)
{
    return args_usage(&cmd_numa, "--%s: %s, expected up to %d %s with commas between", option, text,
                      NUMA_LIST, wanted);
}

static const char *numa_name(unsigned i)
{
    return fg_numa_name((fg_numa)i);
}

static const char *pages_name(unsigned i)
{
    return fg_pages_name((fg_pages)i);
}

static int parse_lists(const texts *t, numa_opts *o)
{
    if (t->nodes != NULL && !parse_numbers(t->nodes, 1, FG_MAX_NODE, &o->nodes)) {
        return bad_list("nodes", t->nodes, "numbers from 1 to 64");
    }
    if (t->threads != NULL && !parse_numbers(t->threads, 1, 1024, &o->threads)) {
        return bad_list("threads", t->threads, "numbers from 1 to 1024");
    }
    if (t->ctx != NULL && !parse_numbers(t->ctx, 0, (uint64_t)1 << 31, &o->ctx)) {
        return bad_list("ctx", t->ctx, "numbers");
    }
    if (t->policy != NULL && !parse_names(t->policy, numa_name, FG_NUMA_COUNT, &o->policy)) {
        return bad_list("policy", t->policy,
                        "of slice, strict, interleave, expert, mirror, first-touch");
    }
    if (t->pages != NULL && !parse_names(t->pages, pages_name, FG_PAGES_COUNT, &o->pages)) {
        return bad_list("pages", t->pages, "of auto, small, huge, hugetlb");
    }
    return EXIT_OK;
}

/* What somebody types for an act that has no use for it is told, not left unheard. */
static int refuse_unused(const numa_opts *o, bool predict, bool imbalance)
{
    enum { SWEEP = 1, PREDICT = 2, IMBALANCE = 4 };
    static const char sweep[] = "none with --predict or --imbalance";
    static const char predicts[] = "--predict with it",
                      either[] = "--predict or --imbalance with it";
    const unsigned now = imbalance ? IMBALANCE : predict ? PREDICT : SWEEP;
    const struct {
        const char *option;
        bool given;
        unsigned of;
        const char *wanted;
    } all[] = {
        {"threads", o->threads.n != 0, SWEEP, sweep},
        {"pages", o->pages.n != 0, SWEEP, sweep},
        {"svg", o->svg != NULL, SWEEP, sweep},
        {"force", o->force, SWEEP, sweep},
        {"csv", o->csv != NULL, SWEEP | PREDICT, "none with --imbalance"},
        {"read", o->read_gbs > 0.0, PREDICT, predicts},
        {"remote", o->remote > 0.0, PREDICT, predicts},
        {"sync", o->sync_us > 0.0, PREDICT, predicts},
        {"topology", o->topology != NULL, PREDICT | IMBALANCE, either},
        {"type", o->type != NULL, PREDICT | IMBALANCE, either},
        {"recipe", o->recipe != NULL, PREDICT | IMBALANCE, either},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (!all[i].given || (all[i].of & now) != 0) continue;
        return args_usage(&cmd_numa, "--%s: of no use here, expected %s", all[i].option,
                          all[i].wanted);
    }
    return EXIT_OK;
}

static int act(const numa_opts *o, bool predict, bool imbalance)
{
    int status;
    if (predict && imbalance) {
        return args_usage(&cmd_numa, "--predict and --imbalance, expected one of them");
    }
    if ((status = refuse_unused(o, predict, imbalance)) != EXIT_OK) return status;
    if (o->topology != NULL && predict && o->read_gbs <= 0.0) {
        return args_usage(&cmd_numa, "--topology: a machine that cannot be measured here, expected "
                                     "--read as well");
    }
    if (o->topology != NULL && o->csv != NULL) {
        return args_usage(&cmd_numa, "--csv: of this machine, expected no --topology with it");
    }
    fg_err err = {0};
    cli_catch_interrupt();
    const fg_status st = (imbalance ? numa_imbalance : predict ? numa_expect : numa_sweep)(o, &err);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}

static int run(int argc, char **argv)
{
    numa_opts o = {.commit = "",
                   .flags = "",
                   .n_tok = 16,
                   .n_run = 5,
                   .n_round = 3,
                   .residency = FG_RESIDENCY_COPY};
    texts t = {0};
    bool predict = false, imbalance = false;
    const opt opts[] = {
        {"nodes", 0, OPT_STR, &t.nodes, 0, 0, "LIST", "NUMA nodes (default: 1, 2, 4, ... and all)"},
        {"threads", 't', OPT_STR, &t.threads, 0, 0, "LIST",
         "threads (default: half the cores of the nodes, and all)"},
        {"policy", 0, OPT_STR, &t.policy, 0, 0, "LIST",
         "of slice, strict, interleave, expert, mirror, first-touch (default: slice, interleave)"},
        {"pages", 0, OPT_STR, &t.pages, 0, 0, "LIST",
         "of auto, small, huge, hugetlb (default: small, huge)"},
        {"ctx", 'c', OPT_STR, &t.ctx, 0, 0, "LIST", "positions before the tokens (default: 0)"},
        {"residency", 0, OPT_CHOICE, CHOICE(o.residency, fg_residency_name, FG_RESIDENCY_SHARED), 0,
         0, "HOME", "where weights are"},
        {"n-predict", 'n', OPT_U32, &o.n_tok, 1, 65536, "N", "tokens of a run (default: 16)"},
        {"runs", 'r', OPT_U32, &o.n_run, 1, 101, "N",
         "runs of a combination each time (default: 5)"},
        {"rounds", 0, OPT_U32, &o.n_round, 1, 101, "N",
         "times that all combinations are gone through (default: 3)"},
        {"csv", 0, OPT_STR, &o.csv, 0, 0, "FILE",
         "what is measured; a sweep that was stopped goes on there (default: numa.csv)"},
        {"svg", 0, OPT_STR, &o.svg, 0, 0, "FILE", "a drawing of all that the CSV file has"},
        {"commit", 0, OPT_STR, &o.commit, 0, 0, "TEXT", "for the CSV file: what was measured"},
        {"flags", 0, OPT_STR, &o.flags, 0, 0, "TEXT", "for the CSV file: how it was built"},
        {"force", 0, OPT_FLAG, &o.force, 0, 0, NULL,
         "start anew where the CSV file has something else"},
        {"predict", 0, OPT_FLAG, &predict, 0, 0, NULL,
         "run nothing: what is expected, beside what the CSV file has"},
        {"imbalance", 0, OPT_FLAG, &imbalance, 0, 0, NULL,
         "run nothing: how even the nodes' parts are (default: 2 to 16 nodes)"},
        {"topology", 0, OPT_STR, &o.topology, 0, 0, "FILE|TEXT",
         "with --predict or --imbalance, another machine: hwloc XML, or 'node:2 core:8 pu:1'"},
        {"read", 0, OPT_RATE, &o.read_gbs, 0, 0, "RATE",
         "with --predict, of a node with all its cores from its own memory (default: measured)"},
        {"remote", 0, OPT_F64, &o.remote, 0.01, 1, "X",
         "with --predict, rate of another node's memory next to that (default: by distances)"},
        {"sync", 0, OPT_F64, &o.sync_us, 0.01, 1e4, "US",
         "with --predict, microseconds of a barrier (default: measured, of another machine 6)"},
        {"type", 0, OPT_STR, &o.type, 0, 0, "TYPE", fg_recipe_type_help},
        {"recipe", 0, OPT_STR, &o.recipe, 0, 0, "NAME|FILE",
         "of a conversion: fast, balanced, faithful, or lines as for convert"},
        {"json", 0, OPT_FLAG, &o.json, 0, 0, NULL, "JSON on stdout"},
        CACHE_OPT(o.kv),
        {"cpu", 0, OPT_CHOICE, CHOICE(o.cpu, fg_cpu_level_name, FG_CPU_LEVEL_COUNT), 0, 0, "LEVEL",
         "highest kernel level to use"},
    };
    int status;
    if (!args_parse(&cmd_numa, opts, sizeof opts / sizeof opts[0], argc, argv, &o.source, 1,
                    &status)) {
        return status;
    }
    if ((status = parse_lists(&t, &o)) != EXIT_OK) return status;
    return act(&o, predict, imbalance);
}
