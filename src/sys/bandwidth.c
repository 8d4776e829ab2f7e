/* SPDX-License-Identifier: MIT */
#include "src/sys/bandwidth.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/sys/room.h"

enum { MIN_PASS = 3, MAX_PASS = 1001 };

typedef uint64_t vec __attribute__((vector_size(16)));

/* Sum of the 128-byte blocks of p (16-byte aligned).  Eight named sums: as an array they would live
 * in memory, and the loop would be slower than memory is. */
static uint64_t sum_of(const uint8_t *p, uint64_t bytes)
{
    const vec *v = (const vec *)(const void *)p, *end = v + bytes / 128 * 8;
    vec a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a;
    for (; v < end; v += 8) {
        a += v[0];
        b += v[1];
        c += v[2];
        d += v[3];
        e += v[4];
        f += v[5];
        g += v[6];
        h += v[7];
    }
    a += b + c + d + e + f + g + h;
    return a[0] + a[1];
}

/* The same of n_stream places at equal distances, in turns of 128 bytes. */
static uint64_t sum_streams(const uint8_t *p, uint64_t bytes, uint32_t n_stream, bool prefetch)
{
    const uint64_t each = bytes / n_stream / 128 * 128;
    vec a = {0}, b = a, c = a, d = a;
    for (uint64_t i = 0; i < each; i += 128) {
        for (uint32_t k = 0; k < n_stream; k++) {
            const vec *v = (const vec *)(const void *)(p + k * each + i);
            if (prefetch) {
                __builtin_prefetch((const uint8_t *)v + FG_READ_AHEAD);
                __builtin_prefetch((const uint8_t *)v + FG_READ_AHEAD + 64);
            }
            a += v[0] + v[1];
            b += v[2] + v[3];
            c += v[4] + v[5];
            d += v[6] + v[7];
        }
    }
    a += b + c + d;
    const uint64_t rest = n_stream * each;
    return a[0] + a[1] + sum_of(p + rest, bytes - rest);
}

static uint64_t sum_as(const fg_read_form *form, const uint8_t *p, uint64_t bytes)
{
    if (form->n_stream == 1 && !form->prefetch) return sum_of(p, bytes);
    return sum_streams(p, bytes, form->n_stream, form->prefetch);
}

typedef struct reading {
    const uint8_t *p;
    fg_read_form form;
    uint64_t bytes;
    bool shared; /* one node */
    uint32_t n_pass, n_done;
    uint64_t max_ns, start_ns;
    bool stop;          /* set by worker 0 between two barriers */
    double *gbs;        /* [n_pass] */
    atomic_ullong sink; /* keeps the sums alive */
} reading;

/* One pass by this worker: on a machine of one node whoever is free takes the next piece, as in a
 * matrix product, so that a core that a neighbour slows down does not decide the figure; else its
 * own part, which is on its node. */
static uint64_t read_once(fg_worker *w, const reading *r)
{
    const uint64_t n_page = r->bytes / FG_PAGE_BYTES;
    uint64_t begin, end, sum = 0;
    if (!r->shared) {
        fg_worker_range(w, n_page, &begin, &end);
        return sum_as(&r->form, r->p + begin * FG_PAGE_BYTES, (end - begin) * FG_PAGE_BYTES);
    }
    while (fg_worker_take_items(w, n_page, &begin, &end)) {
        sum += sum_as(&r->form, r->p + begin * FG_PAGE_BYTES, (end - begin) * FG_PAGE_BYTES);
    }
    return sum;
}

static void read_slices(fg_worker *w, void *arg)
{
    reading *r = arg;
    uint64_t sum = read_once(w, r);
    for (uint32_t i = 0; i < r->n_pass; i++) {
        fg_worker_sync(w);
        if (r->stop) break;
        const uint64_t t0 = fg_clock_ns();
        if (w->idx == 0 && i == 0) r->start_ns = t0;
        sum += read_once(w, r);
        fg_worker_sync(w);
        if (w->idx != 0) continue;
        const uint64_t t1 = fg_clock_ns();
        r->gbs[i] = (double)r->bytes / (double)(t1 - t0 + 1);
        r->n_done = i + 1;
        r->stop = r->max_ns != 0 && t1 - r->start_ns > r->max_ns && r->n_done >= MIN_PASS;
    }
    atomic_fetch_add(&r->sink, sum);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

fg_status fg_bandwidth_read_as(fg_team *team, const fg_read_form *form, const void *p,
                               uint64_t bytes, uint32_t n_pass, uint64_t max_ns, fg_bandwidth *out,
                               fg_err *err)
{
    *out = (fg_bandwidth){0};
    reading r = {.p = p,
                 .form = *form,
                 .shared = fg_team_place(team)->n_node == 1,
                 .bytes = bytes / FG_PAGE_BYTES * FG_PAGE_BYTES,
                 .n_pass = n_pass,
                 .max_ns = max_ns};
    const uint32_t size = fg_team_size(team),
                   n_worker = form->n_worker == 0 ? size : form->n_worker;
    if ((form->n_stream != 1 && form->n_stream != 2 && form->n_stream != 4) || n_worker > size) {
        return fg_fail(err, FG_EINVAL,
                       "bandwidth: %u streams of %u workers, expected 1, 2 or 4 of at most %u",
                       form->n_stream, n_worker, size);
    }
    if (n_pass < MIN_PASS || n_pass > MAX_PASS || r.bytes == 0) {
        return fg_fail(err, FG_EINVAL,
                       "bandwidth: %u passes over %llu bytes, expected %d to %d over a page at "
                       "least",
                       n_pass, (unsigned long long)bytes, MIN_PASS, MAX_PASS);
    }
    r.gbs = fg_mem_zalloc_array(n_pass, sizeof *r.gbs);
    if (r.gbs == NULL) return fg_fail_nomem(err, "bandwidth");
    fg_team_run_n(team, n_worker, read_slices, &r);
    qsort(r.gbs, r.n_done, sizeof *r.gbs, by_value);
    out->median_gbs = r.gbs[r.n_done / 2];
    out->best_gbs = r.gbs[r.n_done - 1];
    out->bytes = r.bytes;
    out->n_pass = r.n_done;
    fg_mem_free(r.gbs);
    return FG_OK;
}

fg_status fg_bandwidth_read(fg_team *team, const void *p, uint64_t bytes, uint32_t n_pass,
                            uint64_t max_ns, fg_bandwidth *out, fg_err *err)
{
    static const fg_read_form plain = {.n_stream = 1};
    return fg_bandwidth_read_as(team, &plain, p, bytes, n_pass, max_ns, out, err);
}

/* ---- the fastest form ---- */

typedef struct search {
    fg_team *team;
    const fg_read_span *span;
    double best_gbs;
    fg_read_form best;
    uint32_t which;
} search;

static fg_status try_form(search *s, fg_read_form form, uint32_t which, fg_err *err)
{
    fg_bandwidth r;
    FG_TRY(fg_bandwidth_read_as(s->team, &form, s->span[which].p, s->span[which].bytes, MIN_PASS, 0,
                                &r, err));
    if (r.median_gbs <= s->best_gbs) return FG_OK;
    s->best_gbs = r.median_gbs;
    s->best = form;
    s->which = which;
    return FG_OK;
}

fg_status fg_bandwidth_fastest(fg_team *team, const fg_read_span *span, uint32_t n,
                               fg_read_form *form, uint32_t *which, fg_err *err)
{
    search s = {.team = team, .span = span, .best = {.n_stream = 1}};
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t streams = 1; streams <= 4; streams *= 2) {
            FG_TRY(try_form(&s, (fg_read_form){.n_stream = streams}, i, err));
            FG_TRY(try_form(&s, (fg_read_form){.n_stream = streams, .prefetch = true}, i, err));
        }
    }
    const uint32_t all = fg_team_size(team);
    for (uint32_t quarters = 3; quarters >= 2; quarters--) {
        fg_read_form fewer = s.best;
        fewer.n_worker = all * quarters / 4;
        if (fewer.n_worker == 0 || fewer.n_worker == all) continue;
        FG_TRY(try_form(&s, fewer, s.which, err));
    }
    *form = s.best;
    *which = s.which;
    return FG_OK;
}

/* ---- buffer ---- */

static void touch_slice(fg_worker *w, void *arg)
{
    const fg_bandwidth_buffer *b = arg;
    uint8_t *p = (uint8_t *)b->map + (b->p - (const uint8_t *)b->map);
    uint64_t begin, end; /* as read_slices has them */
    fg_worker_range(w, b->bytes / FG_PAGE_BYTES, &begin, &end);
    /* other than zero, else all pages might be one */
    memset(p + begin * FG_PAGE_BYTES, (int)w->idx + 1, (size_t)((end - begin) * FG_PAGE_BYTES));
}

fg_status fg_bandwidth_buffer_init(fg_bandwidth_buffer *b, fg_team *team, uint64_t bytes,
                                   fg_err *err)
{
    *b = (fg_bandwidth_buffer){0};
    if (bytes == 0 || bytes > INT64_MAX / 2) {
        return fg_fail(err, FG_EINVAL, "bandwidth: %llu bytes, expected 1 to 2^62",
                       (unsigned long long)bytes);
    }
    b->bytes = fg_round_up(bytes, FG_HUGE_PAGE_BYTES * fg_team_size(team));
    b->map_bytes = b->bytes + FG_HUGE_PAGE_BYTES; /* the mapping may begin anywhere */
    fg_room room;
    fg_room_read(&room, "");
    if (b->map_bytes > room.bytes) {
        return fg_fail(err, FG_ELIMIT, "bandwidth: %llu bytes, expected at most %llu within %s",
                       (unsigned long long)b->map_bytes, (unsigned long long)room.bytes, room.by);
    }
    b->map = fg_mem_map((size_t)b->map_bytes);
    if (b->map == NULL) return fg_fail_nomem(err, "bandwidth");
    const uint64_t skip = (uint64_t)(-(uintptr_t)b->map) % FG_HUGE_PAGE_BYTES;
    b->p = (uint8_t *)b->map + skip;
    /* refused: slower, and reported */
    (void)madvise((uint8_t *)b->map + skip, (size_t)b->bytes, MADV_HUGEPAGE);
    fg_team_run(team, touch_slice, b);
    return FG_OK;
}

void fg_bandwidth_buffer_fini(fg_bandwidth_buffer *b)
{
    fg_mem_unmap(b->map, (size_t)b->map_bytes);
    *b = (fg_bandwidth_buffer){0};
}

/* /proc/self/smaps has a block of lines for each mapping, which begins with "from-to ". */
double fg_bandwidth_buffer_huge(const fg_bandwidth_buffer *b)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    if (f == NULL) return 0.0;
    char line[256];
    bool inside = false;
    uint64_t huge = 0;
    const uint64_t at = (uint64_t)(uintptr_t)b->p;
    while (fgets(line, sizeof line, f) != NULL) {
        unsigned long long from, to, kb;
        if (sscanf(line, "%llx-%llx ", &from, &to) == 2) {
            inside = from < at + b->bytes && to > at;
        } else if (inside && sscanf(line, "AnonHugePages: %llu kB", &kb) == 1) {
            huge += (uint64_t)kb * 1024;
        }
    }
    (void)fclose(f);
    return huge >= b->bytes ? 1.0 : (double)huge / (double)b->bytes;
}

/* ---- sizes ---- */

/* One line of /sys/devices/system/cpu/cpu<cpu>/cache/index<idx>/<name>. */
static bool cache_line(uint32_t cpu, uint32_t idx, const char *name, char *line, int n)
{
    char path[128];
    (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/cache/index%u/%s", cpu, idx,
                   name);
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    const bool ok = fgets(line, n, f) != NULL;
    (void)fclose(f);
    return ok;
}

uint64_t fg_llc_bytes(void)
{
    char line[256];
    uint64_t sum = 0;
    uint32_t last = UINT32_MAX; /* index of the largest level */
    unsigned long level, most = 0;
    for (uint32_t i = 0; cache_line(0, i, "level", line, sizeof line); i++) {
        level = strtoul(line, NULL, 10);
        if (level < most) continue;
        most = level;
        last = i;
    }
    if (last == UINT32_MAX) return 0;
    const long n = sysconf(_SC_NPROCESSORS_CONF);
    for (uint32_t cpu = 0; n > 0 && cpu < (uint32_t)n; cpu++) { /* each cache at its first CPU */
        if (!cache_line(cpu, last, "shared_cpu_list", line, sizeof line) ||
            strtoul(line, NULL, 10) != cpu) {
            continue;
        }
        if (!cache_line(cpu, last, "size", line, sizeof line)) continue;
        char *unit;
        const uint64_t size = strtoul(line, &unit, 10);
        sum += *unit == 'M' ? size << 20 : size << 10;
    }
    return sum;
}

uint64_t fg_bandwidth_default_bytes(void)
{
    const uint64_t bytes = fg_room_share((uint64_t)1 << 30, 8), caches = 8 * fg_llc_bytes();
    return bytes < caches ? fg_room_share(caches, 2) : bytes;
}

uint64_t fg_bandwidth_sum(const uint8_t *p, uint64_t bytes)
{
    return sum_of(p, bytes);
}
