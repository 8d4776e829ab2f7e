/* SPDX-License-Identifier: MIT
 *
 * Only experts are cut, into stripes of equal length, because only they are read while a model
 * runs; an expert then comes from all drives at once.  Which part a stripe is in depends on the
 * numbers of stripe, expert and layer alone, so no table is stored; the rotation gives every drive
 * its share even where an expert's last stripe is shorter or missing.
 */
#include "src/format/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"

typedef unsigned long long ull; /* for %llu */

enum { HASH_AT = FG_PART_HEADER_BYTES - 8, FIELDS_END = 48 };

static const uint8_t magic[8] = {0x89, 'F', 'G', 'P', 'A', 'R', 'T', '\n'};

void fg_parts_init(fg_parts *p)
{
    memset(p, 0, sizeof *p);
    p->n = 1;
    for (uint32_t i = 0; i < FG_MAX_PART; i++) p->fd[i] = -1;
}

void fg_parts_close(fg_parts *p)
{
    for (uint32_t i = 1; i < FG_MAX_PART; i++) {
        if (p->fd[i] >= 0) (void)close(p->fd[i]);
        fg_mem_free(p->path[i]);
    }
    fg_parts_init(p);
}

/* --- header --- */

void fg_part_encode(const fg_slot *slot, uint32_t part, uint8_t *out)
{
    const uint32_t numbers[] = {FG_SPLIT_READ_VERSION, part, slot->n_part, 0};
    const uint64_t fields[] = {slot->data_offset, slot->data_bytes, slot->data_root};
    memset(out, 0, FG_PART_HEADER_BYTES);
    memcpy(out, magic, sizeof magic);
    for (size_t i = 0; i < sizeof numbers; i++)
        out[8 + i] = (uint8_t)(numbers[i / 4] >> (8 * (i % 4)));
    for (size_t i = 0; i < sizeof fields; i++)
        out[24 + i] = (uint8_t)(fields[i / 8] >> (8 * (i % 8)));
    const uint64_t h = fg_hash64(out, HASH_AT);
    for (size_t i = 0; i < 8; i++) out[HASH_AT + i] = (uint8_t)(h >> (8 * i));
}

bool fg_part_has_magic(const uint8_t *header)
{
    return memcmp(header, magic, sizeof magic) == 0;
}

fg_status fg_part_check(const uint8_t *header, const fg_slot *slot, uint32_t part, const char *path,
                        const char *main_path, fg_err *err)
{
    fg_cursor c = fg_cursor_make(header + sizeof magic, FG_PART_HEADER_BYTES - sizeof magic);
    const uint32_t version = fg_cursor_u32(&c), k = fg_cursor_u32(&c), n = fg_cursor_u32(&c);
    (void)fg_cursor_u32(&c);
    const uint64_t offset = fg_cursor_u64(&c), bytes = fg_cursor_u64(&c), root = fg_cursor_u64(&c);
    fg_cursor h = fg_cursor_make(header + HASH_AT, 8);
    const char *got = "a part of other weights";
    fg_status code = FG_EFORMAT;
    uint8_t want[FG_PART_HEADER_BYTES];
    fg_part_encode(slot, part, want);
    if (memcmp(header, want, sizeof want) == 0) return FG_OK;
    if (!fg_part_has_magic(header)) {
        got = "no part of a model";
    } else if (fg_hash64(header, HASH_AT) != fg_cursor_u64(&h)) {
        got = "damaged header";
        code = FG_ECHECKSUM;
    } else if (version != FG_SPLIT_READ_VERSION) {
        got = "another version";
        code = FG_EVERSION;
    } else if (k != part || n != slot->n_part) {
        return fg_fail(err, code, "%s: part %u of %u, expected part %u of %u of %s", path, k, n,
                       part, slot->n_part, main_path);
    } else if (offset == slot->data_offset && bytes == slot->data_bytes &&
               root == slot->data_root) {
        got = "non-zero reserved bytes";
    }
    return fg_fail(err, code, "%s: %s, expected part %u of %u of %s", path, got, part, slot->n_part,
                   main_path);
}

/* --- opening --- */

static fg_status open_part(fg_parts *p, const fg_slot *slot, uint32_t part, fg_err *err)
{
    const size_t n = strlen(p->path[0]) + 16;
    fg_file f;
    uint8_t header[FG_PART_HEADER_BYTES];
    p->path[part] = fg_mem_alloc(n);
    if (p->path[part] == NULL) return fg_fail_nomem(err, p->path[0]);
    (void)snprintf(p->path[part], n, "%s.%u", p->path[0], part);
    const char *path = p->path[part];
    if (!fg_io_exists(path)) {
        return fg_fail(err, FG_EIO,
                       "%s: missing, expected part %u of %u of %s; link or move it there", path,
                       part, slot->n_part, p->path[0]);
    }
    FG_TRY(fg_file_open(&f, path, false, err));
    const uint64_t least = slot->data_offset + slot->data_bytes;
    fg_status st = FG_OK;
    if (f.size < FG_PART_HEADER_BYTES) {
        st = fg_fail(err, FG_EFORMAT, "%s: %llu bytes, expected part %u of %u of %s", path,
                     (ull)f.size, part, slot->n_part, p->path[0]);
    }
    if (st == FG_OK) st = fg_file_read(&f, header, sizeof header, 0, err);
    if (st == FG_OK) st = fg_part_check(header, slot, part, path, p->path[0], err);
    if (st == FG_OK && f.size < least) {
        st = fg_fail(err, FG_EFORMAT, "%s: %llu bytes, expected %llu; copy it again", path,
                     (ull)f.size, (ull)least);
    }
    if (st == FG_OK) {
        p->fd[part] = f.fd;
        f.fd = -1; /* ours now */
    }
    fg_file_close(&f);
    return st;
}

fg_status fg_parts_open(fg_parts *p, const fg_slot *slot, fg_err *err)
{
    p->n = slot->n_part == 0 ? 1 : slot->n_part;
    for (uint32_t k = 1; k < p->n; k++) FG_TRY(open_part(p, slot, k, err));
    return FG_OK;
}

/* --- places --- */

uint32_t fg_parts_at(const fg_parts *p, uint64_t offset, uint64_t *end)
{
    *end = UINT64_MAX;
    if (p->n <= 1) return 0;
    const fg_directory *d = p->dir;
    const uint64_t n_all = (uint64_t)d->shape.n_layer * d->shape.n_expert;
    uint64_t lo = 0, hi = n_all; /* the first expert that ends after offset */
    while (lo < hi) {
        const uint64_t mid = lo + (hi - lo) / 2;
        if (d->expert[mid].offset + d->expert[mid].bytes <= offset) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (lo == n_all) return 0;
    const fg_extent x = d->expert[lo];
    if (offset < x.offset) {
        *end = x.offset;
        return 0;
    }
    const uint64_t stripe = fg_round_up(fg_round_up(x.bytes, p->n) / p->n, FG_PAGE_BYTES);
    const uint64_t j = (offset - x.offset) / stripe, left = x.bytes - j * stripe;
    *end = x.offset + j * stripe + (left < stripe ? left : stripe);
    return (uint32_t)((j + lo / d->shape.n_expert + lo % d->shape.n_expert) % p->n);
}

uint64_t fg_parts_share(const fg_parts *p, uint32_t part, uint64_t from, uint64_t to)
{
    uint64_t sum = 0, end;
    for (; from < to; from = end) {
        const uint32_t k = fg_parts_at(p, from, &end);
        if (end > to) end = to;
        if (k == part) sum += end - from;
    }
    return sum;
}

/* --- bytes --- */

fg_status fg_parts_read(const fg_parts *p, void *dst, size_t n, uint64_t offset, fg_err *err)
{
    uint8_t *at = dst;
    while (n > 0) {
        uint64_t end;
        const uint32_t k = fg_parts_at(p, offset, &end);
        const size_t m = end - offset < n ? (size_t)(end - offset) : n;
        const fg_file f = {.fd = p->fd[k], .path = p->path[k]};
        FG_TRY(fg_file_read(&f, at, m, offset, err));
        at += m;
        offset += m;
        n -= m;
    }
    return FG_OK;
}

fg_status fg_parts_write(const fg_parts *p, const void *src, size_t n, uint64_t offset, fg_err *err)
{
    const uint8_t *at = src;
    while (n > 0) {
        uint64_t end;
        const uint32_t k = fg_parts_at(p, offset, &end);
        const size_t m = end - offset < n ? (size_t)(end - offset) : n;
        FG_TRY(fg_io_pwrite(p->fd[k], at, m, offset, p->path[k], err));
        at += m;
        offset += m;
        n -= m;
    }
    return FG_OK;
}

const char *fg_parts_path_at(const void *parts, uint64_t offset)
{
    const fg_parts *p = parts;
    uint64_t end;
    return p->path[fg_parts_at(p, offset, &end)];
}

/* Each stripe is a mapping of its own: 2560 experts in 16 parts make 40960, of the 65530 that Linux
 * allows a process by default. */
fg_status fg_parts_map(const fg_parts *p, const uint8_t *base, fg_err *err)
{
    const uint64_t n_all = p->n == 1 ? 0 : (uint64_t)p->dir->shape.n_layer * p->dir->shape.n_expert;
    const long page = sysconf(_SC_PAGESIZE);
    if (n_all > 0 && page > (long)FG_PAGE_BYTES) {
        return fg_fail(err, FG_ENOTSUP,
                       "%s: pages of %ld bytes on this system, expected %d at most to map a split "
                       "file; use an unsplit one",
                       p->path[0], page, (int)FG_PAGE_BYTES);
    }
    for (uint64_t i = 0; i < n_all; i++) {
        const fg_extent x = p->dir->expert[i];
        for (uint64_t at = x.offset, end; at < x.offset + x.bytes; at = end) {
            const uint32_t k = fg_parts_at(p, at, &end);
            if (k == 0) continue;
            if (fg_mapping_put(base + at, end - at, p->fd[k], at)) continue;
            return fg_fail(err, FG_EIO,
                           "%s: %s, expected to map %llu bytes at offset %llu; %llu ranges are "
                           "mapped at most, see vm.max_map_count",
                           p->path[k], strerror(errno), (ull)(end - at), (ull)at,
                           (ull)(n_all * p->n));
        }
    }
    return FG_OK;
}
