/* SPDX-License-Identifier: MIT
 *
 * The temporary file serves twice: mapped, while the page cache still holds what was written, and
 * then read past that cache.
 */
#include "src/plan/doctor.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "src/base/io.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "bench/bench.h"
#include "src/sys/bandwidth.h"
#include "src/sys/disk.h"
#include "src/sys/room.h"
#include "src/sys/team.h"

#define FILE_BYTES   ((uint64_t)1 << 30)
#define WRITE_NS     ((uint64_t)4000000000)
#define DISK_NS      400000000u /* of a cell of the table */
#define TURN_BYTES   ((uint64_t)256 << 20)
#define MEMORY_NS    120000000u
#define FLIGHT_BYTES ((uint64_t)512 << 20) /* of blocks in flight */

enum { N_PASS = 101 };

typedef struct run {
    fg_doctor *d;
    bool (*step)(void *ctx, const char *what, uint32_t done, uint32_t total);
    void *ctx;
    uint32_t done, total;
} run;

static fg_status next(run *r, fg_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static fg_status next(run *r, fg_err *err, const char *fmt, ...)
{
    char what[64];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    const uint32_t done = r->done++;
    if (r->step == NULL || r->step(r->ctx, what, done, r->total)) return FG_OK;
    return fg_fail(err, FG_ECANCEL, "doctor: cancelled, expected to finish");
}

/* ---- memory ---- */

/* 1, 2, 4, ... and n_thread itself. */
static void choose_rows(fg_doctor *d)
{
    for (uint32_t n = 1; d->n_row < FG_DOCTOR_ROWS; n = n * 2 < d->n_thread ? n * 2 : d->n_thread) {
        d->row[d->n_row++].n_thread = n;
        if (n == d->n_thread) break;
    }
}

static fg_status read_with(uint32_t n_thread, const void *p, uint64_t bytes, double *gbs,
                           fg_err *err)
{
    fg_team *team;
    fg_bandwidth b;
    FG_TRY(fg_team_create(&team, n_thread, true, err));
    fg_team_attach(team);
    const fg_status st = fg_bandwidth_read(team, p, bytes, N_PASS, MEMORY_NS, &b, err);
    fg_team_destroy(&team);
    *gbs = b.median_gbs;
    return st;
}

static void measure_sync(fg_doctor *d, fg_team *team)
{
    fg_bench_sync y[FG_BENCH_SYNCS];
    const uint32_t n = fg_bench_measure_sync(team, y);
    for (uint32_t i = 0; i < d->n_row; i++) {
        for (uint32_t k = 0; k < n; k++) {
            if (y[k].n_thread == d->row[i].n_thread) d->row[i].sync_us = y[k].median_us;
        }
    }
}

static fg_status measure_memory(run *r, fg_err *err)
{
    fg_doctor *d = r->d;
    fg_bandwidth_buffer buffer = {0};
    fg_team *team;
    FG_TRY(next(r, err, "touching memory"));
    FG_TRY(fg_team_create(&team, d->n_thread, true, err));
    fg_team_attach(team);
    fg_status st = fg_bandwidth_buffer_init(&buffer, team, fg_bandwidth_default_bytes(), err);
    if (st == FG_OK) measure_sync(d, team);
    fg_team_destroy(&team);
    for (uint32_t i = 0; i < d->n_row && st == FG_OK; i++) {
        st = next(r, err, "reading memory, %u threads", d->row[i].n_thread);
        if (st != FG_OK) break;
        st = read_with(d->row[i].n_thread, buffer.p, buffer.bytes, &d->row[i].anon_gbs, err);
    }
    if (st == FG_OK) st = next(r, err, "reading memory again");
    if (st == FG_OK) st = read_with(d->n_thread, buffer.p, buffer.bytes, &d->again_gbs, err);
    if (st == FG_OK && d->machine.n_node > 1) {
        st = next(r, err, "reading memory of every node");
        if (st == FG_OK) st = fg_node_rates_measure(&d->nodes, d->n_thread, 0, err);
    }
    d->anon_bytes = buffer.bytes;
    if (st == FG_OK) d->huge = fg_bandwidth_buffer_huge(&buffer);
    fg_bandwidth_buffer_fini(&buffer);
    return st;
}

/* What copying a mapped file to huge pages would bring, of whom nothing else differs. */
static fg_status measure_turns(fg_doctor *d, const void *mapped, uint64_t bytes, fg_err *err)
{
    fg_bandwidth_buffer buffer = {0};
    fg_team *team;
    fg_bandwidth b;
    double anon[FG_DOCTOR_TURNS], map[FG_DOCTOR_TURNS];
    const uint64_t enough = TURN_BYTES < 8 * fg_llc_bytes() ? 8 * fg_llc_bytes() : TURN_BYTES;
    if (bytes > enough) bytes = enough;
    FG_TRY(fg_team_create(&team, d->n_thread, true, err));
    fg_team_attach(team);
    fg_status st = fg_bandwidth_buffer_init(&buffer, team, fg_room_share(bytes, 4), err);
    for (int i = 0; i < 2 * FG_DOCTOR_TURNS && st == FG_OK; i++) {
        const bool is_map = i % 2 == 1;
        st = fg_bandwidth_read(team, is_map ? mapped : buffer.p, is_map ? bytes : buffer.bytes, 3,
                               0, &b, err);
        *(is_map ? &map[i / 2] : &anon[i / 2]) = b.median_gbs;
    }
    for (int i = 0; i < FG_DOCTOR_TURNS && st == FG_OK; i++) d->turns_won += anon[i] > map[i];
    if (st == FG_OK) d->turn_anon_gbs = fg_bench_median(anon, FG_DOCTOR_TURNS);
    if (st == FG_OK) d->turn_map_gbs = fg_bench_median(map, FG_DOCTOR_TURNS);
    fg_bandwidth_buffer_fini(&buffer);
    fg_team_detach(team);
    fg_team_destroy(&team);
    return st;
}

static fg_status measure_mapping(run *r, const fg_disk *disk, fg_err *err)
{
    fg_doctor *d = r->d;
    uint64_t bytes = disk->bytes < FILE_BYTES ? disk->bytes : FILE_BYTES;
    bytes = bytes / FG_PAGE_BYTES * FG_PAGE_BYTES;
    const void *p = bytes == 0 ? NULL : fg_mapping_open(disk->fd, bytes, false, disk->path);
    fg_status st = FG_OK;
    if (p == NULL) {
        r->done += d->n_row + 1;
        return FG_OK; /* a file system without mappings: the table says so */
    }
    d->map_bytes = bytes;
    for (uint32_t i = 0; i < d->n_row && st == FG_OK; i++) {
        st = next(r, err, "reading a mapped file, %u threads", d->row[i].n_thread);
        if (st != FG_OK) break;
        st = read_with(d->row[i].n_thread, p, bytes, &d->row[i].map_gbs, err);
    }
    if (st == FG_OK) st = next(r, err, "reading both in turns");
    if (st == FG_OK) st = measure_turns(d, p, bytes, err);
    fg_mapping_close(p, bytes);
    return st;
}

/* ---- disk ---- */

static fg_status measure_disk(run *r, const fg_disk *disk, fg_err *err)
{
    fg_doctor *d = r->d;
    for (int b = 0; b < FG_DOCTOR_BLOCKS; b++) {
        for (int k = 0; k < FG_DOCTOR_FLIGHTS; k++) {
            const uint64_t in_flight = d->block[b] * d->flight[k];
            FG_TRY(next(r, err, "reading the disk, blocks of %.0f MB, %u in flight",
                        (double)d->block[b] * 1e-6, d->flight[k]));
            if (d->block[b] > disk->bytes || in_flight > FLIGHT_BYTES ||
                in_flight > d->machine.avail_bytes / 4) {
                continue;
            }
            FG_TRY(fg_disk_read(disk, d->block[b], d->flight[k], DISK_NS, &d->disk_gbs[b][k], err));
        }
    }
    return FG_OK;
}

static fg_status measure_file(run *r, const char *path, fg_err *err)
{
    fg_doctor *d = r->d;
    fg_disk disk = FG_DISK_INIT;
    fg_err why = {0};
    const bool temporary = fg_io_is_dir(path);
    FG_TRY(next(r, err, temporary ? "writing a temporary file" : "opening the file"));
    d->free_bytes = fg_disk_free_bytes(path);
    fg_status st = temporary ? fg_disk_open_temporary(&disk, path, FILE_BYTES, WRITE_NS, &why)
                             : fg_disk_open(&disk, path, &why);
    if (st != FG_OK) {
        (void)snprintf(d->disk_error, sizeof d->disk_error, "%.150s", why.msg);
        return FG_OK;
    }
    d->disk_bytes = disk.bytes;
    d->direct = disk.direct;
    if (disk.seconds > 0.0) d->write_gbs = (double)disk.bytes / disk.seconds * 1e-9;
    st = measure_mapping(r, &disk, err);
    if (st == FG_OK && (st = measure_disk(r, &disk, &why)) != FG_OK) {
        (void)snprintf(d->disk_error, sizeof d->disk_error, "%.150s", why.msg);
        if (st != FG_ECANCEL) st = FG_OK;
        if (st != FG_OK && err != NULL) *err = why;
    }
    fg_disk_close(&disk);
    return st;
}

fg_status fg_doctor_run(fg_doctor *d, uint32_t n_thread, const char *path,
                        bool (*step)(void *ctx, const char *what, uint32_t done, uint32_t total),
                        void *ctx, fg_err *err)
{
    *d = (fg_doctor){.block = {1u << 20, 4u << 20, 16u << 20, FG_DOCTOR_EXPERT_BYTES},
                     .flight = {1, 4, 16}};
    fg_machine_describe(&d->machine);
    d->n_thread = n_thread;
    if (n_thread == 0) { /* as fg_team_create */
        const fg_machine *m = &d->machine;
        d->n_thread = m->n_core < m->n_budget ? m->n_core : m->n_budget;
    }
    choose_rows(d);
    run r = {.d = d, .step = step, .ctx = ctx};
    r.total =
        3 + (d->machine.n_node > 1 ? 1u : 0u) + 2 * d->n_row + FG_DOCTOR_BLOCKS * FG_DOCTOR_FLIGHTS;
    d->uring = fg_disk_has_uring(&d->uring_errno);
    (void)fg_disk_describe_queue(path, &d->queue);
    struct rlimit room;
    d->address_bytes = getrlimit(RLIMIT_AS, &room) != 0 || room.rlim_cur == RLIM_INFINITY
                           ? UINT64_MAX
                           : (uint64_t)room.rlim_cur;
    FG_TRY(measure_memory(&r, err));
    return measure_file(&r, path, err);
}

/* ---- advice ---- */

typedef struct advice {
    fg_advice *text;
    size_t n;
} advice;

static void say(advice *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(advice *a, const char *fmt, ...)
{
    va_list ap;
    if (a->n == FG_DOCTOR_ADVICE) return;
    va_start(ap, fmt);
    (void)vsnprintf(a->text[a->n++], sizeof a->text[0], fmt, ap);
    va_end(ap);
}

static void advise_cpu(const fg_doctor *d, advice *a)
{
    const fg_machine *m = &d->machine;
    if (strcmp(m->level, "scalar") == 0) {
        say(a, "no vector unit that the kernels know: expect a tenth of the speed");
    }
    if (d->n_thread > m->n_budget) {
        say(a,
            "%u threads on %u CPUs that may be used: threads will wait for each other; use -t %u",
            d->n_thread, m->n_budget, m->n_core < m->n_budget ? m->n_core : m->n_budget);
    }
    if (m->n_budget < m->n_cpu && m->n_budget < m->n_core) {
        say(a, "a cgroup quota leaves %u of %u CPUs", m->n_budget, m->n_cpu);
    } else if (m->n_budget < m->n_cpu) {
        say(a, "an affinity mask or cgroup quota leaves %u of %u CPUs", m->n_budget, m->n_cpu);
    }
    if (m->governor[0] != '\0' && strcmp(m->governor, "performance") != 0) {
        say(a,
            "CPU frequency governor is %s: echo performance | tee "
            "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor (as root)",
            m->governor);
    }
}

/* Of the disk, GB/s; 0: not measured. */
static double most_disk(const fg_doctor *d)
{
    double most = 0.0;
    for (int i = 0; i < FG_DOCTOR_BLOCKS; i++) {
        for (int k = 0; k < FG_DOCTOR_FLIGHTS; k++) {
            most = d->disk_gbs[i][k] > most ? d->disk_gbs[i][k] : most;
        }
    }
    return most;
}

/* By how much parts by cores make a token longer than parts by bandwidth. */
static double longer_by_cores(const fg_node_rates *r)
{
    double slowest = 0.0, sum = 0.0;
    for (uint32_t k = 0; k < r->n_node; k++) {
        if (r->local_gbs[k] <= 0.0) return 0.0;
        const double time = r->part[k] / r->local_gbs[k];
        slowest = time > slowest ? time : slowest;
        sum += r->local_gbs[k];
    }
    return r->n_node == 0 ? 0.0 : slowest * sum - 1.0;
}

static void advise_copy(const fg_doctor *d, advice *a)
{
    if (d->turns_won != FG_DOCTOR_TURNS || d->turn_anon_gbs <= 1.05 * d->turn_map_gbs) return;
    /* a copy costs one reading of the file from disk */
    const double disk = most_disk(d), gain = 1.0 / d->turn_map_gbs - 1.0 / d->turn_anon_gbs;
    char when[80] = "for long runs";
    if (disk > 0.0) {
        (void)snprintf(when, sizeof when, "where tokens read more than %.0f times the file",
                       1.0 / disk / gain);
    }
    say(a, "a copy on huge pages is read %.0f %% faster than a mapped file: --residency copy, %s",
        100.0 * (d->turn_anon_gbs / d->turn_map_gbs - 1.0), when);
}

static void advise_memory(const fg_doctor *d, advice *a)
{
    const fg_machine *m = &d->machine;
    if (m->limit_bytes < m->ram_bytes) {
        say(a, "a cgroup limits memory to %s of %s: give --ram less than that",
            fg_text_memory((double)m->limit_bytes).s, fg_text_memory((double)m->ram_bytes).s);
    }
    if (d->address_bytes > 0 && d->address_bytes != UINT64_MAX) {
        say(a, "a process may map %s at most, and a model is mapped whole: ulimit -v unlimited",
            fg_text_memory((double)d->address_bytes).s);
    }
    if (strcmp(m->huge_pages, "never") == 0) {
        say(a, "transparent huge pages are off: echo madvise > "
               "/sys/kernel/mm/transparent_hugepage/enabled (as root)");
    } else if (d->anon_bytes > 0 && d->huge < 0.5) {
        say(a,
            "only %.0f %% of memory came on huge pages: it is fragmented, or they are refused here",
            100.0 * d->huge);
    }
    advise_copy(d, a);
    uint32_t best = 0;
    for (uint32_t i = 1; i < d->n_row; i++) {
        if (d->row[i].anon_gbs > d->row[best].anon_gbs) best = i;
    }
    const double last = d->n_row > 0 ? d->row[d->n_row - 1].anon_gbs : 0.0;
    if (d->again_gbs > 0.0 && fg_bench_unsteady(last, d->again_gbs)) {
        say(a,
            "memory was read at %.1f GB/s, and once more at %.1f: busy or shared, so that no "
            "figure "
            "here is steady",
            last, d->again_gbs);
    }
    /* below a tenth it is noise */
    if (d->n_row > 0 && d->row[best].anon_gbs > 1.1 * d->row[d->n_row - 1].anon_gbs) {
        say(a, "memory is read faster with %u threads than with %u: try -t %u for decoding",
            d->row[best].n_thread, d->n_thread, d->row[best].n_thread);
    }
    if (m->n_node > 1) {
        say(a,
            "%u NUMA nodes: a mapped file lies where the page cache put it; --residency copy binds "
            "weights to their nodes, fulgur numa compares",
            m->n_node);
    }
    if (longer_by_cores(&d->nodes) > 0.1) {
        say(a,
            "parts of nodes by their cores make a token %.0f %% longer than by what each node "
            "reads: --measure-nodes",
            100.0 * longer_by_cores(&d->nodes));
    }
    if (m->n_node > 1 && m->numa_balancing[0] != '\0' && m->numa_balancing[0] != '0') {
        say(a, "the kernel moves pages between nodes by itself: echo 0 > "
               "/proc/sys/kernel/numa_balancing (as root)");
    }
}

static void advise_disk(const fg_doctor *d, advice *a)
{
    if (d->disk_error[0] != '\0') {
        say(a, "the disk was not measured: %.150s", d->disk_error);
    } else if (!d->direct) {
        say(a, "no direct reads on this file system: streamed experts will pass through the page "
               "cache");
    }
    if (d->queue.scheduler[0] != '\0' && strcmp(d->queue.scheduler, "none") != 0) {
        say(a,
            "requests to %s are sorted by %s, which a drive without moving parts does not need: "
            "echo none > /sys/block/%s/queue/scheduler (as root)",
            d->queue.drive, d->queue.scheduler, d->queue.drive);
    }
    if (!d->uring) {
        say(a, "io_uring is %s (%s): reads will use threads instead",
            d->uring_errno == ENOSYS ? "not in this kernel" : "refused", strerror(d->uring_errno));
    }
}

size_t fg_doctor_advise(const fg_doctor *d, fg_advice text[FG_DOCTOR_ADVICE])
{
    advice a = {text, 0};
    advise_cpu(d, &a);
    advise_memory(d, &a);
    advise_disk(d, &a);
    return a.n;
}
