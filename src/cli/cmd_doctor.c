/* SPDX-License-Identifier: MIT
 *
 * Runs the measurements of src/plan/doctor.h and prints them.  SIGINT is left to kill: the
 * temporary file has no name and goes with the process.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/cli/card_report.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"
#include "src/plan/doctor.h"
#include "src/plan/nodes.h"
#include "src/sys/sandbox.h"

static int run(int argc, char **argv);

const command cmd_doctor = {
    .name = "doctor",
    .summary = "what this machine is, what its memory and disk reach, what to set right",
    .synopsis = "",
    .example = "fulgur doctor --dir /data/models\n"
               "fulgur doctor --json\n"
               "fulgur doctor --topology server.xml",
    .description =
        "Describes the machine: processor, kernel level, nodes, memory, and what memory and "
        "disk reach when measured, and so with a card, if there is one that runs, from memory of "
        "each node; then what should be set differently, and how.\n"
        "`--topology` shows another machine instead, from hwloc XML or a description: what is "
        "counted of it, and what each node would own. Nothing is measured then.",
    .run = run,
};

static bool step(void *arg, const char *what, uint32_t done, uint32_t total)
{
    progress *p = arg;
    (void)snprintf(p->note, sizeof p->note, "%s", what);
    p->last_ns = 0; /* each step is shown */
    return progress_show(p, done, total);
}

/* ---- text ---- */

static void print_machine(const fg_machine *m)
{
    const char *name;
    bool has;
    printf("CPU         %s, %u physical cores of %u CPUs, %u may be used, %u NUMA node%s\n", m->cpu,
           m->n_core, m->n_cpu, m->n_budget, m->n_node, m->n_node == 1 ? "" : "s");
    fg_buf b = {0};
    fg_nodes_put_here(&b);
    if (b.len > 0 && fg_buf_str(&b) != NULL) printf("topology    %s\n", fg_buf_str(&b));
    fg_buf_fini(&b);
    printf("kernels     %s; this build knows", m->level);
    for (uint32_t i = 0; (name = fg_machine_level(i, &has)) != NULL; i++) {
        printf("%s %s%s", i == 0 ? "" : ",", name, has ? "" : " (not here)");
    }
    printf("\ncaches      last level %s%s%s\n", cli_memory((double)m->llc_bytes),
           m->governor[0] == '\0' ? "" : "; frequency governor ", m->governor);
    printf("memory      %s, %s available", cli_known_memory(m->ram_bytes),
           cli_known_memory(m->avail_bytes));
    if (m->limit_bytes < m->ram_bytes) {
        printf(", limited to %s by a cgroup", cli_memory((double)m->limit_bytes));
    }
    printf("\npages       %" PRIu64 " KiB; transparent huge pages: %s\n", m->page_bytes / 1024,
           m->huge_pages[0] == '\0' ? "unknown" : m->huge_pages);
    char sandbox[120];
    fg_sandbox_describe(sandbox, sizeof sandbox);
    printf("sandbox     %s\n", sandbox);
}

static void print_memory(const fg_doctor *d)
{
    printf("\nreading memory, GB/s %12s %12s %12s\n", "huge pages", "mapped file", "barrier, us");
    for (uint32_t i = 0; i < d->n_row; i++) {
        printf("  %4u thread%s %19.1f", d->row[i].n_thread, d->row[i].n_thread == 1 ? " " : "s",
               d->row[i].anon_gbs);
        if (d->row[i].map_gbs > 0.0) printf(" %12.1f", d->row[i].map_gbs);
        if (d->row[i].map_gbs <= 0.0) printf(" %12s", "-");
        if (d->row[i].sync_us > 0.0) printf(" %12.2f\n", d->row[i].sync_us);
        if (d->row[i].sync_us <= 0.0) printf(" %12s\n", "-");
    }
    printf("  %4u again %21.1f\n", d->n_thread, d->again_gbs);
    if (d->turn_map_gbs > 0.0) {
        printf("  %4u in turns %18.1f %12.1f\n", d->n_thread, d->turn_anon_gbs, d->turn_map_gbs);
    }
    printf("  (%s, %.0f %% of it on huge pages; the file: %s%s)\n",
           cli_memory((double)d->anon_bytes), 100.0 * d->huge, cli_bytes((double)d->map_bytes),
           d->map_bytes < 4 * d->machine.llc_bytes ? ", not large against the caches" : "");
}

static void print_node_rates(const fg_node_rates *r)
{
    if (r->n_node == 0) return;
    printf("\nnodes at once, GB/s %10s %12s\n", "own", "the next's");
    for (uint32_t k = 0; k < r->n_node; k++) {
        printf("  node %-8u %15.1f %12.1f\n", k, r->local_gbs[k], r->away_gbs[k]);
    }
}

static void print_disk(const fg_doctor *d, const char *path)
{
    printf("\ndisk        %s: %s free", path, cli_bytes((double)d->free_bytes));
    if (d->disk_bytes > 0) printf(", direct reads %s", d->direct ? "work" : "do not work");
    printf(", io_uring %s\n", d->uring ? "available" : "refused");
    if (d->disk_bytes == 0) return;
    printf("  GB/s, reads in flight");
    for (int k = 0; k < FG_DOCTOR_FLIGHTS; k++) printf(" %8u", d->flight[k]);
    printf("\n");
    for (int b = 0; b < FG_DOCTOR_BLOCKS; b++) {
        const bool expert = d->block[b] == FG_DOCTOR_EXPERT_BYTES;
        printf("  blocks of %5.0f M%sB%s", (double)d->block[b] / (expert ? 1e6 : 0x1p20),
               expert ? "" : "i", expert ? "  " : " ");
        for (int k = 0; k < FG_DOCTOR_FLIGHTS; k++) {
            if (d->disk_gbs[b][k] > 0.0) printf(" %8.2f", d->disk_gbs[b][k]);
            if (d->disk_gbs[b][k] <= 0.0) printf(" %8s", "-");
        }
        printf("%s\n", expert ? "   one expert of M1 at q4" : "");
    }
    printf("  (%s%s", cli_bytes((double)d->disk_bytes),
           d->write_gbs > 0.0 ? ", just written" : " of the file");
    if (d->write_gbs > 0.0) {
        printf(" at %.2f GB/s; drives and hosts may still hold it in a cache", d->write_gbs);
    }
    printf(")\n");
}

static void print_text(const fg_doctor *d, const cards *c, const char *path)
{
    fg_advice advice[FG_DOCTOR_ADVICE];
    const size_t n = fg_doctor_advise(d, advice);
    print_machine(&d->machine);
    cards_print(c);
    print_memory(d);
    print_node_rates(&d->nodes);
    print_disk(d, path);
    printf("\nadvice      %s\n", n == 0 ? "nothing is in the way" : "");
    for (size_t i = 0; i < n; i++) printf("  - %s\n", advice[i]);
}

/* ---- JSON ---- */

static void put_field(fg_buf *b, const char *name, const char *text)
{
    fg_buf_printf(b, ", \"%s\": ", name);
    fg_json_put_str(b, text, strlen(text));
}

static void put_known(fg_buf *b, const char *name, uint64_t bytes)
{
    if (bytes == UINT64_MAX) fg_buf_printf(b, ", \"%s\": null", name);
    if (bytes != UINT64_MAX) fg_buf_printf(b, ", \"%s\": %" PRIu64, name, bytes);
}

static void put_machine(fg_buf *b, const fg_machine *m)
{
    const char *name;
    bool has;
    fg_buf_put_str(b, "{\"cpu\": ");
    fg_json_put_str(b, m->cpu, strlen(m->cpu));
    put_field(b, "level", m->level);
    fg_buf_put_str(b, ", \"levels\": {");
    for (uint32_t i = 0; (name = fg_machine_level(i, &has)) != NULL; i++) {
        fg_buf_printf(b, "%s\"%s\": %s", i == 0 ? "" : ", ", name, has ? "true" : "false");
    }
    fg_buf_printf(b,
                  "}, \"cpus\": %u, \"cores\": %u, \"budget\": %u, \"nodes\": %u, "
                  "\"cache_bytes\": %" PRIu64,
                  m->n_cpu, m->n_core, m->n_budget, m->n_node, m->llc_bytes);
    put_known(b, "memory_bytes", m->ram_bytes);
    put_known(b, "available_bytes", m->avail_bytes);
    put_known(b, "limit_bytes", m->limit_bytes);
    fg_buf_printf(b, ", \"page_bytes\": %" PRIu64, m->page_bytes);
    put_field(b, "huge_pages", m->huge_pages);
    put_field(b, "governor", m->governor);
    char sandbox[120];
    fg_sandbox_describe(sandbox, sizeof sandbox);
    put_field(b, "sandbox", sandbox);
    fg_buf line = {0};
    fg_nodes_put_here(&line);
    put_field(b, "topology", fg_buf_str(&line) == NULL ? "" : fg_buf_str(&line));
    fg_buf_fini(&line);
    fg_buf_put_str(b, "}");
}

static void put_measured(fg_buf *b, const fg_doctor *d)
{
    fg_buf_put_str(b, ", \"nodes\": [");
    for (uint32_t k = 0; k < d->nodes.n_node; k++) {
        fg_buf_printf(b, "%s{\"own_gbs\": %.3f, \"next_gbs\": %.3f}", k == 0 ? "" : ", ",
                      d->nodes.local_gbs[k], d->nodes.away_gbs[k]);
    }
    fg_buf_put_str(b, "]");
    fg_buf_put_str(b, ", \"read\": [");
    for (uint32_t i = 0; i < d->n_row; i++) {
        fg_buf_printf(b,
                      "%s{\"threads\": %u, \"anonymous_gbs\": %.3f, \"mapping_gbs\": %.3f, "
                      "\"barrier_us\": %.3f}",
                      i == 0 ? "" : ", ", d->row[i].n_thread, d->row[i].anon_gbs, d->row[i].map_gbs,
                      d->row[i].sync_us);
    }
    fg_buf_printf(
        b,
        "], \"turns\": {\"anonymous_gbs\": %.3f, \"mapping_gbs\": %.3f}, "
        "\"read_again_gbs\": %.3f, \"huge_page_share\": %.4f, \"disk\": "
        "{\"free_bytes\": %" PRIu64 ", \"direct\": %s, \"io_uring\": %s, \"file_bytes\": %" PRIu64
        ", \"write_gbs\": %.3f",
        d->turn_anon_gbs, d->turn_map_gbs, d->again_gbs, d->huge, d->free_bytes,
        d->direct ? "true" : "false", d->uring ? "true" : "false", d->disk_bytes, d->write_gbs);
    put_field(b, "error", d->disk_error);
    fg_buf_put_str(b, ", \"reads\": [");
    bool first = true;
    for (int i = 0; i < FG_DOCTOR_BLOCKS; i++) {
        for (int k = 0; k < FG_DOCTOR_FLIGHTS; k++) {
            if (d->disk_gbs[i][k] <= 0.0) continue;
            fg_buf_printf(b, "%s{\"block\": %" PRIu64 ", \"in_flight\": %u, \"gbs\": %.3f}",
                          first ? "" : ", ", d->block[i], d->flight[k], d->disk_gbs[i][k]);
            first = false;
        }
    }
    fg_buf_put_str(b, "]}");
}

static fg_status print_json(const fg_doctor *d, const cards *c, fg_err *err)
{
    fg_advice advice[FG_DOCTOR_ADVICE];
    const size_t n = fg_doctor_advise(d, advice);
    fg_buf b = {0};
    fg_buf_put_str(&b, "{\"machine\": ");
    put_machine(&b, &d->machine);
    fg_buf_put_str(&b, ", ");
    cards_put(c, &b);
    put_measured(&b, d);
    fg_buf_put_str(&b, ", \"advice\": [");
    for (size_t i = 0; i < n; i++) {
        if (i > 0) fg_buf_put_str(&b, ", ");
        fg_json_put_str(&b, advice[i], strlen(advice[i]));
    }
    fg_buf_put_str(&b, "]}\n");
    return print_buf(&b, err);
}

/* ---- another machine ---- */

static fg_status show_topology(const char *topology, bool json, fg_err *err)
{
    fg_nodes n;
    fg_buf b = {0}, line = {0};
    const fg_nodes_opts o = {.topology = topology};
    FG_TRY(fg_nodes_open(&n, &o, err));
    fg_nodes_put(&n, &line);
    const char *text = fg_buf_str(&line) == NULL ? "" : fg_buf_str(&line);
    fg_buf_put_str(&b, json ? "{\"topology\": " : "topology    ");
    if (json) fg_json_put_str(&b, text, strlen(text));
    fg_buf_printf(&b, "%s%s", json ? "" : text, json ? ", \"nodes\": [" : "\n\nnodes\n");
    for (uint32_t k = 0; k < n.place->n_node; k++) {
        const fg_place_node *node = &n.place->node[k];
        const double share = (double)node->weight / (double)n.place->weight;
        const uint64_t bytes = fg_topo_node_bytes(n.topo, k);
        if (json) {
            fg_buf_printf(&b, "%s{\"cores\": %u, \"memory_bytes\": %" PRIu64 ", \"share\": %.6f}",
                          k > 0 ? ", " : "", node->n_core, bytes, share);
        } else {
            fg_buf_printf(&b, "  %6u core%s %10s: %6.2f %% of every matrix\n", node->n_core,
                          node->n_core == 1 ? ", " : "s,",
                          bytes == 0 ? "unknown" : cli_memory((double)bytes), 100.0 * share);
        }
    }
    if (json) fg_buf_put_str(&b, "]}\n");
    fg_buf_fini(&line);
    fg_nodes_close(&n);
    return print_buf(&b, err);
}

static int run(int argc, char **argv)
{
    const char *topology = NULL, *path = ".", *operand;
    uint32_t n_thread = 0;
    bool json = false;
    const opt opts[] = {
        {"dir", 0, OPT_STR, &path, 0, 0, "PATH",
         "folder on the disk to measure (default: this one), or a file to read"},
        {"threads", 't', OPT_U32, &n_thread, 1, 1024, "N",
         "most threads to measure (default: physical cores)"},
        {"topology", 0, OPT_STR, &topology, 0, 0, "FILE|TEXT",
         "show another machine: hwloc XML, or 'node:2 core:8 pu:1'"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "JSON on stdout"},
    };
    int status;
    if (!args_parse(&cmd_doctor, opts, sizeof opts / sizeof opts[0], argc, argv, &operand, 0,
                    &status)) {
        return status;
    }
    if (topology != NULL && (args_given(&path) || args_given(&n_thread))) {
        return args_usage(&cmd_doctor,
                          "--topology with --%s, expected one of them: nothing is "
                          "measured of another machine",
                          args_given(&path) ? "dir" : "threads");
    }
    fg_err err = {0};
    fg_doctor d;
    cards c;
    progress p;
    if (topology != NULL) {
        return show_topology(topology, json, &err) == FG_OK ? cli_finish_stdout() : cli_fail(&err);
    }
    say_memory_limit();
    progress_start(&p, "doctor", "step");
    fg_status st = fg_doctor_run(&d, n_thread, path, step, &p, &err);
    progress_end(&p);
    if (st == FG_OK) cards_measure(&c);
    if (st == FG_OK && json) st = print_json(&d, &c, &err);
    if (st == FG_OK && !json) print_text(&d, &c, path);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
