/* SPDX-License-Identifier: MIT */
#include "src/expert/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/expert/drives.h"

enum { IN_FLIGHT = 32 }; /* pieces that are asked for at a time */

/* First bytes of an image; in the byte order of the machine, which it never leaves. */
typedef struct image_head {
    char magic[8];
    uint64_t complete;  /* 1: all areas are filled */
    uint64_t data_root; /* of the model's weights */
    uint64_t slices;    /* hash of who owns what */
    uint64_t n_node, bytes;
} image_head;

static const char image_magic[8] = {'F', 'G', 'I', 'M', 'A', 'G', 'E', '1'};

struct fg_copy {
    const fg_model_file *file;
    const fg_slices *slices;
    uint32_t n_node;
    fg_slots area[FG_MAX_NODE]; /* anonymous: one slot each */
    uint8_t *at[FG_MAX_NODE];
    uint64_t total, done; /* bytes to read */
    bool *absent;         /* [n_layer * n_expert]; NULL: nothing is, nor are products */
    fg_pages pages;       /* of anonymous memory */
    fg_fetch_opts io;
    /* image */
    int fd;
    char *path; /* for whoever loses a page of it */
    image_head *head;
    uint64_t image_bytes;
    uint64_t begin[FG_MAX_NODE]; /* of each area in it */
};

/* ---- reading ---- */

typedef struct reading {
    fg_copy *c;
    fg_drives *drives;
    fg_range range[IN_FLIGHT];
    uint64_t bytes[IN_FLIGHT]; /* 0: free */
    uint32_t next;
    const fg_copy_opts *o;
} reading;

/* Waits for the read in a place, if there is one. */
static fg_status settle(reading *r, uint32_t i, fg_err *err)
{
    const uint64_t bytes = r->bytes[i];
    if (bytes == 0) return FG_OK;
    r->bytes[i] = 0;
    if (!fg_drives_wait(r->drives, &r->range[i], bytes)) {
        const fg_status st = fg_drives_take_error(r->drives, err);
        return st != FG_OK ? st : fg_fail(err, FG_EIO, "weights: not read, expected to be");
    }
    r->c->done += bytes;
    if (r->o->progress == NULL || r->o->progress(r->o->ctx, r->c->done, r->c->total)) return FG_OK;
    return fg_fail(err, FG_ECANCEL, "reading the weights: cancelled");
}

static fg_status read_pieces(reading *r, const fg_slice *piece, size_t n, uint64_t begin,
                             fg_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t at = r->next++ % IN_FLIGHT;
        FG_TRY(settle(r, at, err));
        FG_TRY(fg_drives_start(r->drives, &r->range[at],
                               r->c->at[piece[i].node] + begin + piece[i].at, piece[i].offset,
                               piece[i].bytes, true, err));
        r->bytes[at] = piece[i].bytes;
    }
    return FG_OK;
}

static fg_status read_expert(reading *r, uint32_t l, uint32_t e, fg_err *err)
{
    const fg_slices *s = r->c->slices;
    fg_slice piece[FG_EXPERT_PIECES];
    for (uint32_t k = 0; k < r->c->n_node; k++) {
        const size_t n = fg_slices_pieces(s, l, e, k, piece);
        FG_TRY(read_pieces(r, piece, n, fg_slices_begin(s, l, e, k), err));
    }
    return FG_OK;
}

static size_t index_of(const fg_copy *c, uint32_t layer, uint32_t expert)
{
    return (size_t)layer * fg_model_file_shape(c->file)->n_expert + expert;
}

static uint64_t bytes_of_expert(const fg_copy *c, uint32_t l, uint32_t e)
{
    uint64_t n = 0;
    for (uint32_t k = 0; k < c->n_node; k++) n += fg_slices_bytes(c->slices, l, e, k);
    return n;
}

static fg_status read_experts(reading *r, fg_err *err)
{
    const fg_shape *shape = fg_model_file_shape(r->c->file);
    for (uint32_t l = 0; l < shape->n_layer; l++) {
        for (uint32_t e = 0; e < shape->n_expert; e++) {
            if (fg_copy_has(r->c, l, e)) FG_TRY(read_expert(r, l, e, err));
        }
    }
    return FG_OK;
}

static fg_status read_dense(reading *r, uint32_t node, fg_err *err)
{
    const fg_slices *s = r->c->slices;
    size_t n = fg_slices_pieces(s, FG_NO_LAYER, FG_NO_LAYER, node, NULL);
    const size_t n_kept = fg_slices_pieces_kept(s, node, NULL);
    fg_slice *piece = fg_mem_zalloc_array(n > n_kept ? n : n_kept, sizeof *piece);
    if (piece == NULL) return fg_fail_nomem(err, "dense parts");
    n = fg_copy_has_products(r->c) ? fg_slices_pieces(s, FG_NO_LAYER, FG_NO_LAYER, node, piece)
                                   : fg_slices_pieces_kept(s, node, piece);
    const fg_status st = read_pieces(r, piece, n, 0, err);
    fg_mem_free(piece);
    return st;
}

static fg_status begin_reading(reading *r, fg_copy *c, const fg_copy_opts *o, fg_err *err)
{
    *r = (reading){.c = c, .o = o};
    return fg_drives_create(&r->drives, c->file, &o->io, err);
}

static fg_status end_reading(reading *r, fg_status st, fg_err *err)
{
    for (uint32_t i = 0; i < IN_FLIGHT && st == FG_OK; i++) st = settle(r, i, err);
    fg_drives_destroy(&r->drives); /* waits for what is in flight */
    for (uint32_t i = 0; i < IN_FLIGHT; i++) fg_range_fini(&r->range[i]);
    return st;
}

/* Everything but what is absent. */
static fg_status read_all(fg_copy *c, const fg_copy_opts *o, fg_err *err)
{
    const fg_shape *shape = fg_model_file_shape(c->file);
    reading r;
    FG_TRY(begin_reading(&r, c, o, err));
    fg_status st = FG_OK;
    for (uint32_t k = 0; k < c->n_node; k++) {
        c->total += fg_slices_area(c->slices, k);
        if (!fg_copy_has_products(c)) c->total -= fg_slices_products(c->slices, k);
    }
    for (uint32_t i = 0; i < shape->n_layer * shape->n_expert; i++) {
        const uint32_t l = i / shape->n_expert, e = i % shape->n_expert;
        if (!fg_copy_has(c, l, e)) c->total -= bytes_of_expert(c, l, e);
    }
    for (uint32_t k = 0; k < c->n_node && st == FG_OK; k++) st = read_dense(&r, k, err);
    if (st == FG_OK) st = read_experts(&r, err);
    return end_reading(&r, st, err);
}

fg_status fg_copy_fill(fg_copy *c, bool (*skip)(const void *of, uint32_t layer, uint32_t expert),
                       const void *of, const fg_copy_opts *o, fg_err *err)
{
    const fg_shape *shape = fg_model_file_shape(c->file);
    const uint32_t n = shape->n_layer * shape->n_expert;
    if (c->head != NULL) return FG_OK;
    if (skip != NULL) {
        c->absent = fg_mem_zalloc_array(n, sizeof *c->absent);
        if (c->absent == NULL) return fg_fail_nomem(err, "copy of the weights");
    }
    for (uint32_t i = 0; i < n && skip != NULL; i++) {
        c->absent[i] = skip(of, i / shape->n_expert, i % shape->n_expert);
    }
    return read_all(c, o, err);
}

bool fg_copy_has_products(const fg_copy *c)
{
    return c->absent == NULL;
}

bool fg_copy_has(const fg_copy *c, uint32_t layer, uint32_t expert)
{
    return c->absent == NULL || !c->absent[index_of(c, layer, expert)];
}

/* Of anonymous memory: what madvise is told of a node's part of an expert. */
static void advise(const fg_copy *c, uint32_t layer, uint32_t expert, int what)
{
    for (uint32_t k = 0; k < c->n_node; k++) {
        const uint64_t n = fg_slices_bytes(c->slices, layer, expert, k);
        const uint64_t at = fg_slices_begin(c->slices, layer, expert, k);
        if (n > 0) (void)madvise(c->at[k] + at, (size_t)n, what);
    }
}

fg_status fg_copy_need(fg_copy *c, uint32_t layer, uint32_t expert, fg_err *err)
{
    const fg_copy_opts o = {.io = c->io};
    reading r;
    if (fg_copy_has(c, layer, expert)) return FG_OK;
    if (c->pages == FG_PAGES_AUTO || c->pages == FG_PAGES_HUGE) {
        advise(c, layer, expert, MADV_HUGEPAGE);
    }
    FG_TRY(begin_reading(&r, c, &o, err));
    FG_TRY(end_reading(&r, read_expert(&r, layer, expert, err), err));
    c->absent[index_of(c, layer, expert)] = false;
    return FG_OK;
}

/* Small pages, else the neighbours' would bring it back (fg_slots_discard); those of hugetlbfs
 * stay. */
void fg_copy_drop(fg_copy *c, uint32_t layer, uint32_t expert)
{
    if (c->absent == NULL || c->pages == FG_PAGES_TLB) return;
    advise(c, layer, expert, MADV_NOHUGEPAGE);
    advise(c, layer, expert, MADV_DONTNEED);
    c->absent[index_of(c, layer, expert)] = true;
}

/* ---- image ---- */

static fg_status image_fail(fg_err *err, const char *path, const char *got, const char *wanted)
{
    return fg_fail(err, FG_EINVAL, "%s: %s, expected %s", path, got, wanted);
}

static uint64_t hash_slices(const fg_slices *s, const fg_model_file *f)
{
    uint64_t sum = fg_slices_place(s)->numa;
    const uint32_t n_node = fg_slices_n_node(s);
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_share *share = fg_slices_share(s, i);
        const uint64_t one = fg_hash64(share->begin, (n_node + 1) * sizeof share->begin[0]);
        const uint64_t both[2] = {sum, one};
        sum = fg_hash64(both, sizeof both);
    }
    return sum;
}

/* Page size of the file system, which has to be one of memory. */
static fg_status image_page(int fd, const char *path, uint64_t *page, fg_err *err)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0) return image_fail(err, path, strerror(errno), "a file system");
    *page = (uint64_t)fs.f_bsize < FG_HUGE_PAGE_BYTES ? FG_HUGE_PAGE_BYTES : (uint64_t)fs.f_bsize;
    if (fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC) return FG_OK;
    return image_fail(err, path, "on another file system", "a file on hugetlbfs or tmpfs");
}

static void lay_out_image(fg_copy *c, uint64_t page)
{
    c->image_bytes = page;
    for (uint32_t k = 0; k < c->n_node; k++) {
        c->begin[k] = c->image_bytes;
        c->image_bytes += fg_round_up(fg_slices_area(c->slices, k), page);
    }
}

/* What is in the file already: *filled.  An empty file is a new one. */
static fg_status look_at_image(const fg_copy *c, const char *path, const image_head *want,
                               bool *filled, fg_err *err)
{
    struct stat sb;
    *filled = false;
    if (fstat(c->fd, &sb) != 0) return image_fail(err, path, strerror(errno), "a readable file");
    if (!S_ISREG(sb.st_mode)) return image_fail(err, path, "no plain file", "an image or none");
    if (sb.st_size == 0) return FG_OK;
    if ((uint64_t)sb.st_size < FG_PAGE_BYTES) {
        return image_fail(err, path, "another file", "an image of weights, or no file");
    }
    const size_t page = (size_t)c->begin[0]; /* of the file system, or more */
    image_head *h = mmap(NULL, page, PROT_READ, MAP_SHARED, c->fd, 0);
    if (h == MAP_FAILED) return image_fail(err, path, strerror(errno), "an image of weights");
    const image_head got = *h;
    (void)munmap(h, page);
    static const char none[sizeof image_magic];
    if (memcmp(got.magic, none, sizeof none) == 0 && (uint64_t)sb.st_size == page) {
        return FG_OK; /* its process died before it wrote the head */
    }
    if (memcmp(got.magic, image_magic, sizeof image_magic) != 0) {
        return image_fail(err, path, "another file", "an image of weights, or no file");
    }
    if (got.complete == 0) return FG_OK; /* its process died: filled anew */
    if (got.bytes != (uint64_t)sb.st_size) {
        return fg_fail(err, FG_EINVAL, "%s: %llu bytes, expected %llu; delete it", path,
                       (unsigned long long)sb.st_size, (unsigned long long)got.bytes);
    }
    if (got.data_root != want->data_root) {
        return image_fail(err, path, "the image of another model", "this one's; delete it");
    }
    if (got.slices != want->slices || got.n_node != want->n_node || got.bytes != want->bytes) {
        return image_fail(err, path, "an image for other nodes or another policy",
                          "one for this run; delete it");
    }
    *filled = true;
    return FG_OK;
}

static fg_status no_room(const fg_copy *c, const char *path, fg_err *err)
{
    return fg_fail(err, FG_ENOMEM, "%s: %s, expected room for %s", path, strerror(errno),
                   fg_text_memory((double)c->image_bytes).s);
}

/* Pages of the areas, each on its node, so that no touch of them can fail later. */
static fg_status fill_pages(fg_copy *c, const char *path, fg_err *err)
{
    const fg_place *place = fg_slices_place(c->slices);
    for (uint32_t k = 0; k < c->n_node; k++) {
        const uint64_t end = k + 1 < c->n_node ? c->begin[k + 1] : c->image_bytes;
        const fg_owned range = {c->begin[k], end, k};
        if (fg_place_binds(place)) {
            /* what was bound counts for a touch only, on hugetlbfs; a failure is seen below */
            (void)fg_place_bind(place, c->head, &range, 1, NULL);
            (void)madvise((uint8_t *)c->head + range.begin, (size_t)(range.end - range.begin),
                          MADV_POPULATE_WRITE);
        }
        if (end > c->begin[k] &&
            fallocate(c->fd, 0, (off_t)c->begin[k], (off_t)(end - c->begin[k])) != 0) {
            return no_room(c, path, err);
        }
    }
    return FG_OK;
}

/* The head first of all, so that an image that stays unfinished is known.  A page that was not set
 * aside would end the process when it is touched. */
static fg_status begin_image(fg_copy *c, const image_head *want, const char *path, fg_err *err)
{
    const off_t page = (off_t)c->begin[0];
    if (ftruncate(c->fd, 0) != 0 || ftruncate(c->fd, page) != 0 ||
        fallocate(c->fd, 0, 0, page) != 0) {
        return no_room(c, path, err);
    }
    void *p = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (p == MAP_FAILED) return no_room(c, path, err);
    *(image_head *)p = *want;
    (void)munmap(p, (size_t)page);
    if (ftruncate(c->fd, (off_t)c->image_bytes) != 0) return no_room(c, path, err);
    return FG_OK;
}

static fg_status fill_image(fg_copy *c, const image_head *want, const fg_copy_opts *o, fg_err *err)
{
    FG_TRY(begin_image(c, want, o->image, err));
    void *p = fg_mapping_open(c->fd, c->image_bytes, true, c->path);
    if (p == NULL) return no_room(c, o->image, err);
    c->head = p;
    FG_TRY(fill_pages(c, o->image, err));
    for (uint32_t k = 0; k < c->n_node; k++) c->at[k] = (uint8_t *)p + c->begin[k];
    fg_copy_opts all = *o;
    all.later = false;
    FG_TRY(read_all(c, &all, err));
    c->head->complete = 1;
    return FG_OK;
}

/* Waits for whoever fills it, which takes minutes: asked now and then whether to go on. */
static fg_status take_lock(const fg_copy *c, const fg_copy_opts *o, int how, fg_err *err)
{
    static const struct timespec moment = {0, 50000000};
    while (flock(c->fd, how | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            return image_fail(err, o->image, strerror(errno), "to be locked");
        }
        if (o->progress != NULL && !o->progress(o->ctx, 0, c->image_bytes)) {
            return fg_fail(err, FG_ECANCEL, "%s: waiting for who fills it: cancelled", o->image);
        }
        (void)nanosleep(&moment, NULL);
    }
    return FG_OK;
}

/* Opens what is there, or makes it: *made. */
static fg_status open_file(fg_copy *c, const char *path, bool *made, fg_err *err)
{
    *made = false;
    enum { TRIES = 8 }; /* a link to nothing is never there, and never not */
    for (int i = 0; i < TRIES; i++) {
        c->fd = open(path, O_RDWR | O_CLOEXEC);
        if (c->fd >= 0) return FG_OK;
        if (errno != ENOENT) break;
        c->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        *made = c->fd >= 0;
        if (c->fd >= 0) return FG_OK;
        if (errno != EEXIST) break; /* somebody was faster */
    }
    return fg_fail(err, FG_EIO, "%s: %s, expected a file", path, strerror(errno));
}

/* The file under the path is the one that is open: who fills one may have given it up. */
static bool is_under(const fg_copy *c, const char *path)
{
    struct stat a, b;
    return fstat(c->fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* What cannot be filled takes no memory, or the line says that it still does. */
static void give_up(const fg_copy *c, const char *path, bool made, fg_err *err)
{
    const bool gone = made && unlink(path) == 0;
    if (ftruncate(c->fd, 0) == 0 || gone || err == NULL) return;
    const int why = errno;
    const fg_err first = *err;
    (void)fg_fail(err, first.code, "%s; it keeps its memory (%s): remove %s", first.msg,
                  strerror(why), path);
}

/* With the lock of who fills it. */
static fg_status fill_if_empty(fg_copy *c, const image_head *want, const fg_copy_opts *o, bool made,
                               bool *again, fg_err *err)
{
    bool filled;
    FG_TRY(take_lock(c, o, LOCK_EX, err));
    *again = !is_under(c, o->image);
    if (*again) return FG_OK;
    FG_TRY(look_at_image(c, o->image, want, &filled, err)); /* somebody may have filled it */
    const fg_status st = filled ? FG_OK : fill_image(c, want, o, err);
    if (st != FG_OK) give_up(c, o->image, made, err);
    return st;
}

static fg_status try_image(fg_copy *c, const fg_copy_opts *o, bool *again, fg_err *err)
{
    uint64_t page = 0;
    bool filled, made;
    *again = false;
    FG_TRY(open_file(c, o->image, &made, err));
    const fg_status st = image_page(c->fd, o->image, &page, err);
    if (st != FG_OK && made) (void)unlink(o->image);
    if (st != FG_OK) return st;
    lay_out_image(c, page);
    image_head want = {.data_root = fg_model_file_data_root(c->file),
                       .slices = hash_slices(c->slices, c->file),
                       .n_node = c->n_node,
                       .bytes = c->image_bytes};
    memcpy(want.magic, image_magic, sizeof want.magic);
    FG_TRY(take_lock(c, o, LOCK_SH, err));
    FG_TRY(look_at_image(c, o->image, &want, &filled, err));
    if (!filled) {
        FG_TRY(fill_if_empty(c, &want, o, made, again, err));
        if (*again) return FG_OK;
        FG_TRY(take_lock(c, o, LOCK_SH, err)); /* others may use it, nobody fills it anew */
    }
    if (c->head != NULL) return FG_OK;
    void *p = fg_mapping_open(c->fd, c->image_bytes, false, c->path);
    if (p == NULL) return image_fail(err, o->image, strerror(errno), "to be mapped");
    c->head = p;
    for (uint32_t k = 0; k < c->n_node; k++) c->at[k] = (uint8_t *)p + c->begin[k];
    return FG_OK;
}

static fg_status open_image(fg_copy *c, const fg_copy_opts *o, fg_err *err)
{
    c->path = fg_mem_strndup(o->image, strlen(o->image));
    if (c->path == NULL) return fg_fail_nomem(err, o->image);
    for (bool again = true; again;) {
        FG_TRY(try_image(c, o, &again, err));
        if (!again) break;
        (void)close(c->fd);
        c->fd = -1;
    }
    return FG_OK;
}

/* ---- the copy ---- */

static fg_status open_areas(fg_copy *c, const fg_copy_opts *o, fg_err *err)
{
    for (uint32_t k = 0; k < c->n_node; k++) {
        const fg_slots_opts so = {fg_slices_place(c->slices), k, o->pages};
        FG_TRY(fg_slots_init(&c->area[k], 1, fg_slices_area(c->slices, k), "copy of the weights",
                             &so, err));
        c->at[k] = c->area[k].p;
    }
    return o->later ? FG_OK : read_all(c, o, err);
}

fg_status fg_copy_create(fg_copy **out, const fg_model_file *file, const fg_slices *slices,
                         const fg_copy_opts *o, fg_err *err)
{
    *out = NULL;
    fg_copy *c = fg_mem_zalloc(sizeof *c);
    if (c == NULL) return fg_fail_nomem(err, "copy of the weights");
    c->file = file;
    c->slices = slices;
    c->n_node = fg_slices_n_node(slices);
    c->fd = -1;
    c->pages = o->pages;
    c->io = o->io;
    const fg_status st = o->image != NULL ? open_image(c, o, err) : open_areas(c, o, err);
    if (st != FG_OK) {
        fg_copy_destroy(&c);
        return st;
    }
    *out = c;
    return FG_OK;
}

void fg_copy_destroy(fg_copy **copy)
{
    fg_copy *c = *copy;
    if (c == NULL) return;
    for (uint32_t k = 0; k < c->n_node; k++) fg_slots_fini(&c->area[k]);
    fg_mapping_close(c->head, c->image_bytes);
    fg_mem_free(c->path);
    fg_mem_free(c->absent);
    if (c->fd >= 0) (void)close(c->fd);
    fg_mem_free(c);
    *copy = NULL;
}

const uint8_t *fg_copy_area(const fg_copy *c, uint32_t node)
{
    return c->at[node];
}

uint64_t fg_copy_read_bytes(const fg_copy *c)
{
    return c->done;
}
