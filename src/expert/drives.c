/* SPDX-License-Identifier: MIT
 *
 * Which part holds what is the file's to say (fg_model_file_part_at).  A load stays with the reader
 * of its part for good, since a reader takes no load that another has in flight.
 */
#include "src/expert/drives.h"

#include "src/base/mem.h"

struct fg_drives {
    const fg_model_file *file;
    uint32_t n_part;
    fg_fetch **reader; /* [n_part] */
};

/* Bytes [begin, end) of a range. */
typedef struct fg_stripe {
    uint64_t begin, end;
    uint32_t part;
} fg_stripe;

static bool are_right(const void *file, const uint8_t *bytes, uint64_t n, uint64_t offset)
{
    return fg_model_file_check_bytes(file, bytes, n, offset, NULL) == FG_OK;
}

static fg_status open_part(fg_drives *d, uint32_t part, const fg_fetch_opts *given, fg_err *err)
{
    uint8_t head[FG_FILE_HEAD];
    fg_fetch_opts opts = *given;
    opts.check = are_right;
    opts.check_ctx = d->file;
    FG_TRY(fg_fetch_create(&d->reader[part], fg_model_file_part_path(d->file, part), &opts, err));
    FG_TRY(fg_fetch_peek(d->reader[part], head, sizeof head, 0, err));
    return fg_model_file_check_head(d->file, part, head, err);
}

fg_status fg_drives_create(fg_drives **out, const fg_model_file *file, const fg_fetch_opts *opts,
                           fg_err *err)
{
    *out = NULL;
    fg_drives *d = fg_mem_zalloc(sizeof *d);
    if (d == NULL) return fg_fail_nomem(err, "drives");
    d->file = file;
    d->n_part = fg_model_file_n_part(file);
    d->reader = fg_mem_zalloc_array(d->n_part, sizeof(fg_fetch *));
    fg_status st = d->reader == NULL ? fg_fail_nomem(err, "drives") : FG_OK;
    for (uint32_t k = 0; k < d->n_part && st == FG_OK; k++) st = open_part(d, k, opts, err);
    if (st != FG_OK) {
        fg_drives_destroy(&d);
        return st;
    }
    *out = d;
    return FG_OK;
}

void fg_drives_destroy(fg_drives **drives)
{
    fg_drives *d = *drives;
    if (d == NULL) return;
    for (uint32_t k = 0; d->reader != NULL && k < d->n_part; k++) fg_fetch_destroy(&d->reader[k]);
    fg_mem_free(d->reader);
    fg_mem_free(d);
    *drives = NULL;
}

static fg_status make_room(const fg_drives *d, fg_range *r, fg_err *err)
{
    if (r->load == NULL) r->load = fg_mem_zalloc_array(d->n_part, sizeof *r->load);
    if (r->stripe == NULL) r->stripe = fg_mem_zalloc_array(d->n_part, sizeof *r->stripe);
    r->n_load = d->n_part;
    return r->load != NULL && r->stripe != NULL ? FG_OK : fg_fail_nomem(err, "a range to read");
}

void fg_range_fini(fg_range *r)
{
    for (uint32_t k = 0; r->load != NULL && k < r->n_load; k++) fg_load_fini(&r->load[k]);
    fg_mem_free(r->load);
    fg_mem_free(r->stripe);
    *r = (fg_range){0};
}

fg_status fg_drives_start(fg_drives *d, fg_range *r, uint8_t *dst, uint64_t offset, uint64_t bytes,
                          bool urgent, fg_err *err)
{
    fg_status st = FG_OK;
    r->n_stripe = 0;
    r->dst = dst; /* also of a start that fails: it is to be repeated */
    r->offset = offset;
    r->bytes = bytes;
    FG_TRY(make_room(d, r, err));
    if (d->n_part > 1) fg_drives_drain(d, r);
    for (uint64_t at = 0, end; at < bytes; at = end) {
        const uint32_t part = fg_model_file_part_at(d->file, offset + at, &end);
        end = end - offset < bytes ? end - offset : bytes;
        r->stripe[r->n_stripe++] = (fg_stripe){at, end, part};
        const fg_status one = fg_fetch_start(d->reader[part], &r->load[part], dst + at, offset + at,
                                             end - at, urgent, st == FG_OK ? err : NULL);
        if (st == FG_OK) st = one;
    }
    return st;
}

void fg_drives_cancel(fg_drives *d, fg_range *r)
{
    for (uint32_t j = 0; j < r->n_stripe; j++) {
        const uint32_t part = r->stripe[j].part;
        fg_fetch_cancel(d->reader[part], &r->load[part]);
    }
}

bool fg_drives_hurry(fg_drives *d, fg_range *r)
{
    bool ok = r->n_stripe > 0;
    for (uint32_t j = 0; j < r->n_stripe; j++) {
        const uint32_t part = r->stripe[j].part;
        ok = fg_fetch_hurry(d->reader[part], &r->load[part]) && ok;
    }
    return ok;
}

bool fg_drives_wait(fg_drives *d, fg_range *r, uint64_t bytes)
{
    for (uint32_t j = 0; j < r->n_stripe && r->stripe[j].begin < bytes; j++) {
        const fg_stripe *s = &r->stripe[j];
        const uint64_t end = s->end < bytes ? s->end : bytes;
        if (!fg_fetch_wait(d->reader[s->part], &r->load[s->part], end - s->begin)) return false;
    }
    return r->n_stripe > 0;
}

void fg_drives_drain(fg_drives *d, fg_range *r)
{
    for (uint32_t k = 0; r->load != NULL && k < d->n_part; k++) {
        fg_fetch_drain(d->reader[k], &r->load[k]);
    }
}

fg_status fg_drives_take_error(fg_drives *d, fg_err *err)
{
    fg_status st = FG_OK;
    for (uint32_t k = 0; k < d->n_part; k++) {
        const fg_status one = fg_fetch_take_error(d->reader[k], st == FG_OK ? err : NULL);
        if (st == FG_OK) st = one;
    }
    return st;
}

fg_fetch_stats fg_drives_get_stats(fg_drives *d)
{
    fg_fetch_stats sum = fg_fetch_get_stats(d->reader[0]);
    for (uint32_t k = 1; k < d->n_part; k++) {
        const fg_fetch_stats s = fg_fetch_get_stats(d->reader[k]);
        sum.bytes += s.bytes;
        if (s.busy_ns > sum.busy_ns) sum.busy_ns = s.busy_ns;
        sum.wait_ns += s.wait_ns;
        sum.n_retry += s.n_retry;
        sum.direct = sum.direct && s.direct;
    }
    return sum;
}
