/* SPDX-License-Identifier: MIT
 *
 * A card opened with the driver that is none (tests/emulate/cuda): what can be wrong with one, and
 * what this driver answers to.  Each in a process of its own, since a driver is loaded once.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/device/driver.h"
#include "src/device/gpu_memory.h"
#include "src/model/device.h"
#include "src/plan/card.h"
#include "tests/device/fake_card.h"
#include "tests/fg_test.h"
#include "tests/models.h"

/* ---- one that works ---- */

static void opens(void)
{
    fg_gpu *g = NULL;
    fg_err err = {0};
    fg_gpu_info info;
    CHECK(fg_gpu_expected() && fg_gpu_count() == 2);
    CHECK(fg_gpu_describe(1, &info, &err) == FG_OK && info.sm == 86 && info.n_sm > 0);
    CHECK(info.bytes == 1000000 && info.pcie_gen == 0 && info.numa_node == -1);
    if (fg_gpu_open(&g, 1, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return;
    }
    CHECK(strcmp(g->info.name, "emulated card 1") == 0 && g->kernel[FG_CUDA_probe] != NULL);
    CHECK(fg_gpu_enter(g, &err) == FG_OK);
    fg_gpu_close(&g);
    CHECK(g == NULL);
    fg_gpu_close(&g);
    CHECK(fg_gpu_open(&g, 2, &err) == FG_ENOTSUP && g == NULL);
    CHECK(strcmp(err.msg, "gpu 2: 2 cards are here, expected more; try --gpu off") == 0);
}

static void check_log(const char *log)
{
    char text[512] = "";
    FILE *f = fopen(log, "r");
    CHECK(f != NULL);
    if (f == NULL) return;
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    (void)fclose(f);
    CHECK(strstr(text, "loaded\n") == text);
    if (strstr(text, "left: memory 0, host 0, streams 0, events 0, graphs 0\n") == NULL) {
        fg_test_fail(__FILE__, __LINE__, "%s", text);
    }
}

FG_TEST(opens_and_closes)
{
    char settings[512];
    const char *log = fg_test_tmp("log");
    (void)snprintf(settings, sizeof settings, "devices=2,sm=86,bytes=1000000,log=%s", log);
    CHECK(fake_card_run(settings, opens) == 0);
    if (access(log, R_OK) == 0) check_log(log);
}

/* ---- copies from each node ---- */

static bool registers;

static void measures_three_nodes(void)
{
    enum { N = 3 };
    fg_topo *topo = fg_topo_create();
    fg_place *place = NULL;
    fg_gpu_card c;
    fg_gpu_card_measured m;
    fg_err err = {0};
    const fg_place_opts o = {.n_worker = 1, .pretend_nodes = N};
    CHECK(fg_place_make(&place, topo, &o, &err) == FG_OK);
    CHECK(fg_gpu_card_measure(&c, &m, 0, NULL, &err) == FG_OK && m.n_node == 0 && c.copy_gbs > 0.0);
    if (fg_gpu_card_measure(&c, &m, 0, place, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
    CHECK(m.n_node == N && c.copy_gbs > 0.0);
    const double all = fg_gpu_card_copy_of_all(place, m.node_gbs);
    const bool has = registers && topo != NULL; /* without hwloc nothing is bound */
    CHECK(has ? all == c.copy_gbs : all == 0.0);
    for (uint32_t k = 0; k < N; k++) CHECK((m.node_gbs[k] > 0.0) == has);
    fg_place_destroy(&place);
    fg_topo_destroy(topo);
}

/* Where memory cannot be registered, what the driver's own gives stays. */
FG_TEST(copies_are_measured_from_each_node)
{
    char settings[512];
    const char *log = fg_test_tmp("log");
    for (int on = 0; on < 2; on++) {
        registers = on == 1;
        (void)snprintf(settings, sizeof settings, "bytes=8000000,register=%d,log=%s", on, log);
        CHECK(fake_card_run(settings, measures_three_nodes) == 0);
        if (access(log, R_OK) == 0) check_log(log);
        (void)remove(log);
    }
}

/* ---- faults: what is said ---- */

static const struct fault {
    const char *settings, *words;
    fg_status status;
    bool expected; /* that somebody is told who did not ask */
} faults[] = {
    {"devices=0", "gpu 0: no card, says the driver, expected one; try --gpu off", FG_ENOTSUP, 0},
    {"init=803",
     "gpu 0: the driver does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (system has "
     "unsupported display driver / cuda driver combination), expected no error; try "
     "--gpu off",
     FG_ENOTSUP, 1},
    {"version=11030", "gpu 0: driver 11.3, expected at least 11.4; try --gpu off", FG_ENOTSUP, 1},
    {"sm=75", "gpu 0: emulated card 0 is sm_75, expected at least sm_80; try --gpu off", FG_ENOTSUP,
     1},
    {"oom=1",
     "gpu 0: memory for a first kernel: CUDA_ERROR_OUT_OF_MEMORY (out of memory), "
     "expected no error",
     FG_ENOMEM, 1},
    {"bytes=4096",
     "gpu 0: memory for a first kernel: CUDA_ERROR_OUT_OF_MEMORY (out of memory), "
     "expected no error",
     FG_ENOMEM, 1},
    {"launch=1",
     "gpu 0: starting a kernel: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (too many resources "
     "requested for launch), expected no error",
     FG_EIO, 1},
    {"fault=1", ": CUDA_ERROR_LAUNCH_FAILED (unspecified launch failure), expected no error",
     FG_EIO, 1},
    {"wrong=1", "gpu 0: a first kernel: wrong numbers, expected 2 x + 1; try --gpu off", FG_EIO, 1},
    {"hang=1", "gpu 0: a first kernel: no answer within 5000 ms, expected one; try --gpu off",
     FG_EIO, 1},
};
static const struct fault *fault;
static char nano[PATH_MAX];

static void fails(void)
{
    fg_gpu *g = NULL;
    fg_err err = {0};
    const uint64_t start = fg_clock_ns();
    CHECK(fg_gpu_expected() == fault->expected);
    CHECK(fg_gpu_open(&g, 0, &err) == fault->status && g == NULL);
    CHECK(fg_clock_ns() - start < 20000000000u);
    /* which call hears of a fault first, nobody knows */
    if (strstr(err.msg, fault->words) == NULL) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
}

FG_TEST(faults_are_one_line)
{
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        fault = &faults[i];
        CHECK(fake_card_run(fault->settings, fails) == 0);
    }
}

static void too_old_for_the_kernels(void)
{
    fg_gpu *g = NULL;
    fg_err err = {0};
    CHECK(fg_gpu_open(&g, 0, &err) == FG_ENOTSUP);
    CHECK(strncmp(err.msg, "gpu 0: driver 11.8, expected at least 1", 39) == 0);
}

static void no_kernels(void)
{
    fg_gpu *g = NULL;
    fg_err err = {0};
    (void)unlink(fake_card_image());
    CHECK(fg_gpu_open(&g, 0, &err) == FG_ENOTSUP);
    CHECK(strncmp(err.msg, "gpu 0: fulgur-cuda.fatbin: neither", 34) == 0);
    CHECK(truncate(fake_card_image(), 0) != 0);
    FILE *f = fopen(fake_card_image(), "w");
    CHECK(f != NULL && fputs("text", f) >= 0 && fclose(f) == 0);
    CHECK(fg_gpu_open(&g, 0, &err) == FG_EFORMAT &&
          strstr(err.msg, "no kernels of this program") != NULL);
}

FG_TEST(kernels_and_driver_belong_together)
{
    CHECK(fake_card_run("version=11080", too_old_for_the_kernels) == 0);
    if (!fake_card_has_kernels()) CHECK(fake_card_run("devices=1", no_kernels) == 0);
}

/* ---- what a run takes of its memory ---- */

static void takes_what_the_ledger_says(void)
{
    enum { N = 20 };
    static const uint32_t ids[N] = {200, 201, 202, 203, 204, 205, 206, 207, 208, 209,
                                    210, 211, 212, 213, 214, 215, 216, 217, 218, 219};
    fg_err err = {0};
    fg_engine *e = NULL;
    fg_session *s = NULL;
    fg_device_stats got;
    fg_gpu_memory m = {0};
    fg_engine_opts eo = fg_engine_opts_default();
    fg_session_opts so = fg_session_opts_default();
    eo.gpu = 0;
    eo.n_thread = 1;
    so.n_ctx = so.n_batch = N;
    fg_status st = fg_engine_open(&e, nano, &eo, &err);
    if (st == FG_OK) st = fg_session_create(&s, e, &so, &err);
    if (st == FG_OK) st = fg_session_eval(s, ids, N, NULL, NULL, &err);
    fg_device *card = st == FG_OK ? fg_engine_device(e) : NULL;
    if (card != NULL) st = card->ops->fill(card, &err); /* a pass does not wait for all of them */
    if (st != FG_OK || !fg_engine_device_stats(e, &got)) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return;
    }
    const fg_file_plan *p = fg_model_file_plan(fg_engine_file(e));
    fg_demand d;
    CHECK(fg_demand_of_file(&d, fg_engine_file(e), NULL, &err) == FG_OK);
    const fg_gpu_memory_opts mo = {.bytes = (uint64_t)8 << 30,
                                   .n_ctx = N,
                                   .n_batch = N,
                                   .kv = d.quantized ? FG_KV_INT8 : FG_KV_F32};
    CHECK(fg_gpu_memory_make(&m, p, &d.forms, &mo, &err) == FG_OK);
    CHECK(got.dense_bytes == m.dense && got.state_bytes == m.lightning + m.kv);
    CHECK(got.work_bytes == m.work + m.slots);
    CHECK(got.n_resident == m.n_resident && m.n_resident == m.n_expert);
    CHECK(got.resident_bytes <= m.resident && got.resident_bytes > m.resident / 2);
    if (fg_test_failed()) {
        (void)printf("dense %llu, ledger %llu; state %llu, %llu; work %llu, %llu\n",
                     (unsigned long long)got.dense_bytes, (unsigned long long)m.dense,
                     (unsigned long long)got.state_bytes, (unsigned long long)(m.lightning + m.kv),
                     (unsigned long long)got.work_bytes, (unsigned long long)(m.work + m.slots));
    }
    fg_session_destroy(&s);
    fg_engine_close(&e);
}

FG_TEST(the_ledger_is_what_a_run_takes)
{
    static const char *const types[] = {"q4", "bf16"};
    for (size_t i = 0; i < 2; i++) {
        const char *path = model_file(NANO_DIR, types[i]);
        if (path == NULL) return;
        (void)snprintf(nano, sizeof nano, "%s", path);
        CHECK(fake_card_run("devices=1", takes_what_the_ledger_says) == 0);
    }
}

/* Logits of 6 tokens together and of 3 alone, [9][n_vocab]; malloc'ed. */
static float *nine_rows(int32_t gpu, uint64_t *n_graph, size_t *bytes)
{
    static const uint32_t ids[9] = {200, 201, 202, 203, 204, 205, 206, 207, 208};
    fg_err err = {0};
    fg_device_stats got = {0};
    fg_engine_opts eo = fg_engine_opts_default();
    eo.gpu = gpu;
    eo.n_thread = 1; /* OpenMP's do not outlive a fork */
    fg_engine *e = NULL;
    if (fg_engine_open(&e, nano, &eo, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return NULL;
    }
    const size_t row = fg_engine_shape(e)->n_vocab;
    fg_session *s = model_session(e, 64, 0);
    float *first = model_logits(s, e, ids, 6, 0), *alone = model_logits(s, e, ids + 6, 3, 1);
    (void)fg_engine_device_stats(e, &got);
    *n_graph = got.n_graph;
    *bytes = 9 * row * sizeof(float);
    float *all = malloc(*bytes);
    if (first != NULL && alone != NULL && all != NULL) {
        memcpy(all, first, 6 * row * sizeof(float));
        memcpy(all + 6 * row, alone, 3 * row * sizeof(float));
    }
    free(first);
    free(alone);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return all;
}

static void host_and_card(void)
{
    uint64_t n_graph;
    size_t n, m;
    float *here = nine_rows(FG_GPU_OFF, &n_graph, &n), *there;
    CHECK(n_graph == 0);
    there = nine_rows(0, &n_graph, &m);
    CHECK(n_graph == 3 && n == m);
    CHECK(here != NULL && there != NULL && memcmp(here, there, n) == 0);
    if (there != NULL && here != NULL) {
        uint32_t bit;
        memcpy(&bit, there, sizeof bit);
        bit ^= 1;
        memcpy(there, &bit, sizeof bit);
        CHECK(memcmp(here, there, n) != 0); /* control */
    }
    free(here);
    free(there);
}

FG_TEST(rows_and_tokens_have_the_bits_of_the_host)
{
    const char *path = model_file(NANO_DIR, "q4");
    if (path == NULL) return;
    (void)snprintf(nano, sizeof nano, "%s", path);
    CHECK(fake_card_run("devices=1", host_and_card) == 0);
}

/* ---- what the driver itself answers ---- */

typedef struct rig {
    fg_gpu *g;
    const fg_driver *d;
    fg_cu_stream s, t;
    fg_cu_event e, f;
    uint32_t *pin; /* [2][256] */
    uint64_t card; /* the same */
} rig;

static bool rig_open(rig *r)
{
    fg_err err = {0};
    *r = (rig){0};
    CHECK(fg_gpu_open(&r->g, 0, &err) == FG_OK);
    if (r->g == NULL) return false;
    void *pin = NULL;
    r->d = r->g->d;
    CHECK(r->d->stream_create(&r->s, 0) == 0 && r->d->stream_create(&r->t, 0) == 0);
    CHECK(r->d->event_create(&r->e, 0) == 0 && r->d->event_create(&r->f, 0) == 0);
    CHECK(r->d->host_alloc(&pin, 2048, 0) == 0 && r->d->mem_alloc(&r->card, 2048) == 0);
    r->pin = pin;
    for (uint32_t i = 0; i < 256; i++) r->pin[i] = i;
    return !fg_test_failed();
}

static void rig_close(rig *r)
{
    CHECK(r->d->event_destroy(r->e) == 0 && r->d->event_destroy(r->f) == 0);
    CHECK(r->d->stream_destroy(r->s) == 0 && r->d->stream_destroy(r->t) == 0);
    CHECK(r->d->host_free(r->pin) == 0 && r->d->mem_free(r->card) == 0);
    fg_gpu_close(&r->g);
}

/* x = 2 x + 1 in the card's memory, from its first half to its second or back. */
static void step(rig *r, fg_cu_stream s, bool back)
{
    fg_gpu_queue q = {.gpu = r->g, .stream = s};
    const fg_cuda_queue ops = fg_gpu_queue_ops(&q);
    uint32_t *half[2] = {(uint32_t *)(uintptr_t)r->card, (uint32_t *)(uintptr_t)(r->card + 1024)};
    fg_cuda_probe_card(&ops, &(fg_cuda_probe){half[back], half[!back], 256});
    CHECK(q.result == 0);
}

static void streams_and_graphs(void)
{
    rig r;
    fg_cu_graph graph = NULL;
    fg_cu_graph_exec exec = NULL;
    fg_err err = {0};
    float ms = -1.0f;
    if (!rig_open(&r)) return;
    const fg_driver *d = r.d;
    /* two streams, one after the other by an event */
    CHECK(d->event_record(r.f, r.s) == 0 && d->copy_in(r.card, r.pin, 1024, r.s) == 0);
    step(&r, r.s, false);
    CHECK(d->event_record(r.e, r.s) == 0 && d->stream_wait(r.t, r.e, 0) == 0);
    step(&r, r.t, true);
    CHECK(d->copy_out(r.pin + 256, r.card, 1024, r.t) == 0);
    CHECK(fg_gpu_wait(r.g, r.t, 5000, "work", &err) == FG_OK && d->event_query(r.e) == 0);
    CHECK(r.pin[256] == 3 && r.pin[511] == 255 * 4 + 3);
    CHECK(d->event_time(&ms, r.f, r.e) == 0 && ms >= 0.0f);
    /* a graph that forks and joins, launched twice */
    CHECK(d->capture_begin(r.s, FG_CU_CAPTURE_THREAD) == 0 && d->stream_query(r.s) == 900);
    step(&r, r.s, false);
    CHECK(d->event_record(r.e, r.s) == 0 && d->stream_wait(r.t, r.e, 0) == 0);
    step(&r, r.t, true);
    CHECK(d->event_record(r.f, r.t) == 0 && d->stream_wait(r.s, r.f, 0) == 0);
    CHECK(d->capture_end(r.s, &graph) == 0 && d->graph_make(&exec, graph, 0) == 0);
    CHECK(d->graph_launch(exec, r.s) == 0 && d->graph_launch(exec, r.s) == 0);
    CHECK(d->copy_out(r.pin + 256, r.card, 1024, r.s) == 0 && d->stream_sync(r.s) == 0);
    CHECK(r.pin[256] == 63 && r.pin[511] == 255 * 64 + 63);
    CHECK(d->graph_exec_destroy(exec) == 0 && d->graph_destroy(graph) == 0);
    /* one that does not join */
    CHECK(d->capture_begin(r.s, FG_CU_CAPTURE_THREAD) == 0 && d->event_record(r.e, r.s) == 0);
    CHECK(d->stream_wait(r.t, r.e, 0) == 0);
    step(&r, r.t, false);
    CHECK(d->capture_end(r.s, &graph) == 904 && d->graph_destroy(graph) == 0);
    CHECK(d->event_record(r.e, r.s) == 0 && d->event_record(r.f, r.s) == 0);
    CHECK(d->event_sync(r.f) == 0);
    rig_close(&r);
}

FG_TEST(streams_are_in_order_and_graphs_repeat)
{
    char settings[512];
    const char *log = fg_test_tmp("log2");
    (void)snprintf(settings, sizeof settings, "log=%s", log);
    CHECK(fake_card_run(settings, streams_and_graphs) == 0);
    if (access(log, R_OK) == 0) check_log(log);
}

static void breaks_in_the_middle(void)
{
    rig r;
    fg_err err = {0};
    if (!rig_open(&r)) return;
    step(&r, r.s, false);
    step(&r, r.s, false);
    step(&r, r.s, false);
    CHECK(fg_gpu_wait(r.g, r.s, 5000, "work", &err) == FG_EIO);
    CHECK(strstr(err.msg, "gpu 0: work: CUDA_ERROR_LAUNCH_FAILED") == err.msg);
    CHECK(r.d->mem_free(r.card) == 719 && r.d->stream_sync(r.t) == 719);
    fg_gpu_close(&r.g);
}

static void reads_beyond(void)
{
    rig r;
    if (!rig_open(&r)) return;
    fg_gpu_queue q = {.gpu = r.g, .stream = r.s};
    const fg_cuda_queue ops = fg_gpu_queue_ops(&q);
    uint32_t *p = (uint32_t *)(uintptr_t)r.card;
    fg_cuda_probe_card(&ops, &(fg_cuda_probe){p, p + 256, 257});
    (void)r.d->stream_sync(r.s);
}

FG_TEST(a_fault_stays_and_memory_has_ends)
{
    CHECK(fake_card_run("fault=3", breaks_in_the_middle) == 0);
    if (FG_TEST_SANITIZED) return; /* they end with a status of their own */
    if (access(fake_card_driver(), R_OK) == 0) {
        CHECK(fake_card_run("devices=1", reads_beyond) == 11);
    }
}
