/* SPDX-License-Identifier: MIT
 *
 * The least recently used of a fixed array is found by a scan; 64 entries need nothing better.
 */
#include "convert/source/shards.h"

#include <fcntl.h>
#include <sys/stat.h>

void fg_shards_init(fg_shards *s, const fg_hf_checkpoint *ckpt)
{
    *s = (fg_shards){.ckpt = ckpt};
}

void fg_shards_fini(fg_shards *s)
{
    for (size_t i = 0; i < s->n_open; i++) fg_file_close(&s->open[i].file);
    s->n_open = 0;
}

static fg_status get_file(fg_shards *s, uint32_t shard, const fg_file **out, fg_err *err)
{
    size_t at = 0; /* the entry used longest ago */
    s->clock++;
    for (size_t i = 0; i < s->n_open; i++) {
        if (s->open[i].shard == shard) {
            s->open[i].used = s->clock;
            *out = &s->open[i].file;
            return FG_OK;
        }
        if (s->open[i].used < s->open[at].used) at = i;
    }
    const fg_st_shard *info = &s->ckpt->shard[shard];
    fg_file f;
    FG_TRY(fg_file_open(&f, info->path, false, err));
    if (s->n_open < FG_SHARDS_MAX_OPEN) {
        at = s->n_open++;
    } else {
        fg_file_close(&s->open[at].file);
    }
    s->open[at].file = f;
    s->open[at].shard = shard;
    s->open[at].used = s->clock;
    *out = &s->open[at].file;
    return FG_OK;
}

/* Bytes that were read are those of the header only if nobody has written to the file, nor put
 * another one in its place, since that was read. */
static fg_status check_same(const fg_st_shard *info, const fg_file *f, fg_err *err)
{
    struct stat sb;
    if (fstat(f->fd, &sb) != 0) return FG_OK; /* a file system that does not say */
    if ((uint64_t)sb.st_size != info->file_bytes) {
        return fg_fail(
            err, FG_EIO, "%s: %llu bytes, expected %llu; the file changed during the conversion",
            info->path, (unsigned long long)sb.st_size, (unsigned long long)info->file_bytes);
    }
    if (info->stamp.size == 0 || !fg_stamp_rewritten(&info->stamp, f->fd)) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: written to during the conversion, expected a file that stays",
                   info->path);
}

fg_status fg_shards_read(fg_shards *s, uint32_t shard, void *dst, size_t n, uint64_t offset,
                         fg_err *err)
{
    const fg_file *f;
    FG_TRY(get_file(s, shard, &f, err));
    const fg_status st = fg_file_read(f, dst, n, offset, err);
    FG_TRY(check_same(&s->ckpt->shard[shard], f, err)); /* else reading it may have failed so */
    FG_TRY(st);
    (void)posix_fadvise(f->fd, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
    return FG_OK;
}

void fg_shards_forget(fg_shards *s, uint32_t shard)
{
    for (size_t i = 0; i < s->n_open; i++) {
        if (s->open[i].shard != shard) continue;
        fg_file_close(&s->open[i].file);
        s->open[i] = s->open[--s->n_open];
        return;
    }
}

void fg_shards_prefetch(fg_shards *s, uint32_t shard, uint64_t offset, uint64_t n)
{
    const fg_file *f;
    if (get_file(s, shard, &f, NULL) != FG_OK) return; /* the read will report it */
    (void)posix_fadvise(f->fd, (off_t)offset, (off_t)n, POSIX_FADV_WILLNEED);
}
