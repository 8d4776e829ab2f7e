/* SPDX-License-Identifier: MIT
 *
 * A piece is written under another name, header last, then synced.  When the stick is full all of
 * them are read back past the page cache, and what is as it was written gets its name and counts
 * as sent: at the end, because a medium smaller than it says may lose what it was given first.
 * Then the state is replaced.  Whoever is killed in between finds pieces with a name that the state
 * does not know, which were read back, and pieces without one, which will be.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/crypto.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/carry/carry_files.h"
#include "src/carry/feed.h"

typedef unsigned long long ull; /* for %llu */

#define PIECE ".piece"
#define PART  ".piece.part"

enum { SLACK = 256 << 10 /* bytes left free on a stick, for its lists and folder */ };

typedef struct packer {
    const fg_carry_opts *o;
    fg_carry_files files;
    fg_carry_list list;
    fg_stick home, stick;
    fg_carry_piece *piece;
    uint8_t *head;
    bool backwards; /* from the end: files are cut, not punched */
    bool full;
    uint64_t now, capacity;
    uint64_t written, back; /* bytes of pieces to be read back, and that were */
    fg_carry_report *r;
} packer;

/* --- the state --- */

static fg_status save(packer *p, fg_err *err)
{
    return fg_stick_put_list(&p->home, p->files.state, FG_CARRY_SENDER, &p->list, err);
}

static fg_status open_state(packer *p, const char *model, fg_err *err)
{
    bool there;
    FG_TRY(fg_carry_files_init(&p->files, model, err));
    FG_TRY(fg_stick_open(&p->home, p->files.folder, err));
    FG_TRY(fg_stick_read_list(&p->home, p->files.state, FG_CARRY_SENDER, &p->list, &there, err));
    if (there) return FG_OK;
    FG_TRY(fg_carry_files_scan(&p->files, &p->list, err));
    if (fg_random_bytes(p->list.sender, sizeof p->list.sender)) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: no random numbers, expected some", model);
}

static fg_status allocate(packer *p, fg_err *err)
{
    p->piece = fg_mem_zalloc(sizeof *p->piece);
    p->head = fg_mem_alloc(FG_PIECE_MAX_HEADER);
    return p->piece != NULL && p->head != NULL ? FG_OK : fg_fail_nomem(err, "carry");
}

static void close_all(packer *p)
{
    fg_stick_close(&p->stick);
    fg_stick_close(&p->home);
    fg_carry_files_close(&p->files);
    fg_carry_list_fini(&p->list);
    fg_mem_free(p->piece);
    fg_mem_free(p->head);
}

static void note(const packer *p, const char *line)
{
    if (p->o->note != NULL) p->o->note(p->o->ctx, line);
}

static fg_status tell(const packer *p, fg_carry_phase phase, uint64_t done, uint64_t total,
                      fg_err *err)
{
    if (p->o->progress == NULL || p->o->progress(p->o->ctx, phase, done, total)) return FG_OK;
    return fg_fail(err, FG_ECANCEL, "%s: cancelled, expected to be sent; run it again to go on",
                   p->files.path);
}

/* --- what the stick has --- */

/* Whether an answer counts.  One to an earlier transfer of the same model does not, whose receiver
 * may be no more; nor one of a second receiver, to whom a stick was lent: what one has the other
 * has not, and with --move it would be freed here. */
static fg_status check_answer(packer *p, const fg_carry_list *answer, const char *name, fg_err *err)
{
    static const uint8_t nobody[FG_CARRY_ID_BYTES];
    fg_carry_list *l = &p->list;
    FG_TRY(fg_carry_list_same(answer, name, l, p->files.path, err));
    if (memcmp(answer->sender, l->sender, sizeof l->sender) != 0) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: of an earlier transfer, expected none, or one of that of %s/%s; delete "
                       "it to send what is missing from this one",
                       name, p->files.folder, p->files.state);
    }
    if (memcmp(l->receiver, nobody, sizeof nobody) == 0)
        memcpy(l->receiver, answer->receiver, sizeof l->receiver);
    if (memcmp(answer->receiver, l->receiver, sizeof l->receiver) == 0) return FG_OK;
    return fg_fail(err, FG_EFORMAT,
                   "%s: of another receiver, expected the one that answered before; delete it to "
                   "go on with that one%s%s/%s%s",
                   name, l->moves ? " (" : ", or ", p->files.folder, p->files.state,
                   l->moves ? " knows what it has)" : " to send everything to this one");
}

static fg_status take_answer(packer *p, fg_carry_list *answer, bool *there, fg_err *err)
{
    char name[FG_STICK_TEXT];
    FG_TRY(fg_stick_read_list(&p->stick, FG_STICK_RECEIVED, FG_CARRY_RECEIVED, answer, there, err));
    if (!*there) return FG_OK;
    (void)fg_stick_shown(&p->stick, FG_STICK_RECEIVED, name);
    FG_TRY(check_answer(p, answer, name, err));
    for (uint64_t b = 0; b < p->list.n_block; b++) {
        uint8_t *mine = &p->list.block[b];
        if (answer->block[b] == FG_BLOCK_HAVE) *mine = FG_BLOCK_HAVE;
        if (answer->block[b] == FG_BLOCK_BAD && *mine == FG_BLOCK_SENT) {
            *mine = FG_BLOCK_NEW;
            p->r->bad += fg_carry_list_bytes_of(&p->list, b);
        }
    }
    return FG_OK;
}

static fg_status check_manifest(packer *p, fg_err *err)
{
    fg_carry_list m = {0};
    bool there;
    char name[FG_STICK_TEXT];
    FG_TRY(fg_stick_read_list(&p->stick, FG_STICK_MANIFEST, FG_CARRY_MANIFEST, &m, &there, err));
    if (!there)
        return fg_stick_put_list(&p->stick, FG_STICK_MANIFEST, FG_CARRY_MANIFEST, &p->list, err);
    (void)fg_stick_shown(&p->stick, FG_STICK_MANIFEST, name);
    const fg_status st = fg_carry_list_same(&m, name, &p->list, p->files.path, err);
    const bool ours = memcmp(m.sender, p->list.sender, sizeof m.sender) == 0;
    fg_carry_list_fini(&m);
    if (st != FG_OK || ours) return st;
    /* of an earlier transfer of the same model: its pieces are as good as ours */
    return fg_stick_put_list(&p->stick, FG_STICK_MANIFEST, FG_CARRY_MANIFEST, &p->list, err);
}

/* All of the piece's blocks in this state. */
static bool all_in(const packer *p, const uint8_t *block, fg_block_state state)
{
    for (uint32_t i = 0; i < p->piece->n; i++)
        if (block[p->piece->first + i] != state) return false;
    return true;
}

static bool any_in(const packer *p, const uint8_t *block, fg_block_state state)
{
    for (uint32_t i = 0; i < p->piece->n; i++)
        if (block[p->piece->first + i] == state) return true;
    return false;
}

static void set_blocks(packer *p, fg_block_state from, fg_block_state to)
{
    for (uint32_t i = 0; i < p->piece->n; i++) {
        uint8_t *b = &p->list.block[p->piece->first + i];
        if (*b == from) *b = (uint8_t)to;
    }
}

/* Our header of a file; *ours is false when it is none of this transfer. */
static fg_status read_piece(packer *p, const char *name, bool *ours, fg_err *err)
{
    char shown[FG_STICK_TEXT];
    int fd;
    fg_err why = {0};
    *ours = false;
    FG_TRY(fg_stick_open_file(&p->stick, name, false, &fd, err));
    if (fd < 0) return FG_OK;
    fg_status st = fg_piece_read(fd, p->piece, fg_stick_shown(&p->stick, name, shown), &why);
    if (st == FG_OK) st = fg_piece_fits(p->piece, &p->list, shown, p->files.path, &why);
    (void)close(fd);
    *ours = st == FG_OK;
    if (st == FG_OK || st == FG_ENOMEM || strstr(name, PART) != NULL) return FG_OK;
    /* with a name it was read back once: another's, or damaged on the way */
    note(p, why.msg);
    return FG_OK;
}

/* Pieces that have arrived, or arrived damaged, make room; those that the state does not know were
 * read back before they had their names. */
static fg_status sort_piece(packer *p, const char *name, const fg_carry_list *answer, fg_err *err)
{
    bool ours;
    FG_TRY(read_piece(p, name, &ours, err));
    if (!ours) return FG_OK;
    const bool refused = answer->block != NULL && any_in(p, answer->block, FG_BLOCK_BAD);
    if (refused || all_in(p, p->list.block, FG_BLOCK_HAVE))
        return fg_stick_remove(&p->stick, name, err);
    set_blocks(p, FG_BLOCK_NEW, FG_BLOCK_SENT);
    return FG_OK;
}

static fg_status each(packer *p, bool looks, const char *ending, const fg_carry_list *answer,
                      fg_status (*act)(packer *p, const char *name, const fg_carry_list *answer,
                                       fg_err *err),
                      fg_err *err)
{
    char(*names)[65];
    size_t n;
    FG_TRY(fg_stick_names(&p->stick, ending, &names, &n, err));
    fg_status st = FG_OK;
    for (size_t i = 0; st == FG_OK && i < n; i++) {
        st = act(p, names[i], answer, err);
        if (st == FG_OK && looks) st = tell(p, FG_CARRY_LOOK, i + 1, n, err);
    }
    fg_mem_free(names);
    return st;
}

/* What a killed run left: read back with the others if it was complete. */
static fg_status sort_part(packer *p, const char *name, const fg_carry_list *answer, fg_err *err)
{
    bool ours;
    (void)answer;
    FG_TRY(read_piece(p, name, &ours, err));
    if (!ours || !all_in(p, p->list.block, FG_BLOCK_NEW))
        return fg_stick_remove(&p->stick, name, err);
    set_blocks(p, FG_BLOCK_NEW, FG_BLOCK_SENT);
    p->written += p->piece->bytes;
    return FG_OK;
}

static fg_status sort_stick(packer *p, fg_err *err)
{
    fg_carry_list answer = {0};
    bool there;
    fg_status st = take_answer(p, &answer, &there, err);
    for (uint64_t b = 0; st == FG_OK && p->o->again && b < p->list.n_block; b++) {
        if (p->list.block[b] == FG_BLOCK_SENT) p->list.block[b] = FG_BLOCK_NEW;
    }
    if (st == FG_OK) st = check_manifest(p, err);
    if (st == FG_OK) st = each(p, true, PIECE, &answer, sort_piece, err);
    if (st == FG_OK && p->o->move) p->list.moves = true;
    if (st == FG_OK) st = save(p, err);
    if (st == FG_OK) st = each(p, true, PART, &answer, sort_part, err);
    fg_carry_list_fini(&answer);
    return st;
}

/* --- writing --- */

/* Blocks of the next piece: as many new ones of a file in turn as fit. */
static bool choose(packer *p, uint64_t most)
{
    const uint8_t *block = p->list.block;
    const uint64_t n = p->list.n_block;
    uint64_t first = 0, end = n;
    if (p->backwards) {
        while (end > 0 && block[end - 1] != FG_BLOCK_NEW) end--;
        if (end == 0) return false;
        const uint64_t from = fg_carry_list_file_of(&p->list, end - 1)->first;
        first = end - 1;
        while (first > from && end - first < most && block[first - 1] == FG_BLOCK_NEW) first--;
    } else {
        while (first < n && block[first] != FG_BLOCK_NEW) first++;
        if (first == n) return false;
        const fg_carry_file *f = fg_carry_list_file_of(&p->list, first);
        end = first;
        while (end < f->first + f->n_block && end - first < most && block[end] == FG_BLOCK_NEW)
            end++;
    }
    p->piece->first = first;
    p->piece->n = (uint32_t)(end - first);
    return true;
}

static uint64_t room_for(uint64_t bytes)
{
    const uint32_t head = fg_piece_header_bytes(FG_PIECE_MAX_BLOCK);
    return bytes < head + FG_BLOCK_BYTES ? 0 : (bytes - head) / FG_BLOCK_BYTES;
}

static fg_status read_model(void *ctx, uint32_t i, uint8_t *buf, size_t *n, fg_err *err)
{
    const packer *p = ctx;
    const uint64_t block = p->piece->first + i;
    *n = (size_t)fg_carry_list_bytes_of(&p->list, block);
    return fg_carry_read_block(&p->files, &p->list, block, buf, err);
}

/* A block to its place; *room is false when there was none. */
static fg_status write_block(packer *p, int fd, uint32_t i, const fg_feed_block *b,
                             const char *shown, bool *room, fg_err *err)
{
    const uint64_t at = p->piece->header_bytes + p->piece->bytes;
    fg_err why = {0};
    memcpy(p->piece->sha[i], b->sha, sizeof b->sha);
    errno = 0;
    *room = fg_io_pwrite(fd, b->p, b->n, at, shown, &why) == FG_OK;
    if (!*room) {
        p->full = errno == ENOSPC || errno == EDQUOT;
        if (p->full || (errno == EFBIG && i > 0)) return FG_OK;
        if (err != NULL) *err = why;
        return why.code;
    }
    /* The medium begins at once, not when memory is full of what it is to get.  Direct writes, one
     * MiB at a time, take half the processor's time and a fourth longer. */
    (void)sync_file_range(fd, (off_t)at, (off_t)b->n, SYNC_FILE_RANGE_WRITE);
    p->piece->bytes += b->n;
    p->now += b->n;
    return tell(p, FG_CARRY_COPY, p->now, p->capacity, err);
}

/* Its data; *n: blocks that there was room for. */
static fg_status write_blocks(packer *p, int fd, const char *shown, uint32_t *n, fg_err *err)
{
    fg_feed *feed;
    bool room = true;
    p->piece->bytes = 0;
    *n = 0;
    FG_TRY(fg_feed_start(&feed, read_model, p, p->piece->n, err));
    fg_status st = FG_OK;
    while (st == FG_OK && *n < p->piece->n) {
        const fg_feed_block *b = fg_feed_next(feed);
        st = b->st;
        if (st != FG_OK && err != NULL) *err = b->err;
        if (st == FG_OK) st = write_block(p, fd, *n, b, shown, &room, err);
        if (!room) break;
        if (st == FG_OK) ++*n;
    }
    fg_feed_stop(&feed);
    return st;
}

/* A whole one of what is chosen, or of the part of it that there is room for. */
static fg_status fill_piece(packer *p, int fd, const char *shown, fg_err *err)
{
    uint32_t n;
    p->piece->header_bytes = fg_piece_header_bytes(p->piece->n);
    memset(p->head, 0, p->piece->header_bytes);
    FG_TRY(fg_io_pwrite(fd, p->head, p->piece->header_bytes, 0, shown, err));
    FG_TRY(write_blocks(p, fd, shown, &n, err));
    p->piece->n = n;
    if (n == 0) return FG_OK;
    memcpy(p->piece->id, p->list.id, sizeof p->list.id);
    p->piece->n_all = p->list.n_block;
    if (ftruncate(fd, (off_t)(p->piece->header_bytes + p->piece->bytes)) != 0)
        return fg_fail(err, FG_EIO, "%s: %s, expected to cut it", shown, strerror(errno));
    FG_TRY(fg_stick_settle(fd, shown, err)); /* the data before what says that it is there */
    if (!fg_piece_encode(p->piece, p->head)) return fg_fail_nomem(err, shown);
    FG_TRY(fg_io_pwrite(fd, p->head, p->piece->header_bytes, 0, shown, err));
    return fg_stick_settle(fd, shown, err);
}

/* The name that a piece gets when it was read back, and the one until then. */
static void names_of(const packer *p, char *name, char *part)
{
    fg_piece_name(p->piece, name);
    (void)snprintf(part, 65, "%.40s.part", name);
}

static fg_status write_piece(packer *p, fg_err *err)
{
    char name[65], part[65], shown[FG_STICK_TEXT];
    int fd;
    memcpy(p->piece->id, p->list.id, sizeof p->list.id);
    names_of(p, name, part);
    FG_TRY(fg_stick_create(&p->stick, part, &fd, err));
    fg_err why = {0};
    fg_status st = fill_piece(p, fd, fg_stick_shown(&p->stick, part, shown), &why);
    (void)close(fd);
    if (st == FG_OK && p->piece->n > 0) {
        set_blocks(p, FG_BLOCK_NEW, FG_BLOCK_SENT); /* the state says so when they are read back */
        p->written += p->piece->bytes;
        return FG_OK;
    }
    if (st != FG_OK && err != NULL) *err = why;
    const fg_status gone = fg_stick_remove(&p->stick, part, st == FG_OK ? err : NULL);
    return st == FG_OK ? gone : st;
}

static fg_status fill_stick(packer *p, fg_err *err)
{
    const uint64_t piece = p->o->piece_bytes == 0 ? FG_CARRY_PIECE : p->o->piece_bytes;
    const uint64_t fits = room_for(piece);
    uint64_t room = fg_stick_room(&p->stick);
    const uint64_t all = fg_carry_list_sum(&p->list, FG_BLOCK_NEW);
    p->capacity = room < all ? room : all;
    while (!p->full) {
        room = fg_stick_room(&p->stick);
        const uint64_t most = room_for(room < SLACK ? 0 : room - SLACK);
        uint64_t n = fits < most ? fits : most;
        if (n > FG_PIECE_MAX_BLOCK) n = FG_PIECE_MAX_BLOCK;
        if (!choose(p, n == 0 ? 1 : n)) return FG_OK;
        p->full = n == 0;
        if (!p->full) FG_TRY(write_piece(p, err));
    }
    return FG_OK;
}

/* --- reading back --- */

typedef struct source {
    const fg_carry_piece *piece;
    int fd;
} source;

static fg_status read_piece_block(void *ctx, uint32_t i, uint8_t *buf, size_t *n, fg_err *err)
{
    const source *s = ctx;
    const uint64_t at = s->piece->header_bytes + (uint64_t)i * FG_BLOCK_BYTES;
    *n = (size_t)fg_piece_block_bytes(s->piece, i);
    if (fg_stick_read_block(s->fd, buf, *n, at)) return FG_OK;
    return fg_fail(err, FG_EIO, "block %u: %s, expected to read it", i, strerror(errno));
}

/* *good becomes false where it has not what was written. */
static fg_status compare_piece(packer *p, int fd, bool *good, fg_err *err)
{
    fg_feed *feed;
    source s = {p->piece, fd};
    FG_TRY(fg_feed_start(&feed, read_piece_block, &s, p->piece->n, err));
    fg_status st = FG_OK;
    for (uint32_t i = 0; st == FG_OK && *good && i < p->piece->n; i++) {
        const fg_feed_block *b = fg_feed_next(feed);
        if (b->st == FG_ENOMEM) st = fg_fail_nomem(err, p->stick.path);
        *good = b->st == FG_OK && memcmp(b->sha, p->piece->sha[i], sizeof b->sha) == 0;
        p->back += b->n;
        if (st == FG_OK) st = tell(p, FG_CARRY_CHECK, p->back, p->written, err);
    }
    fg_feed_stop(&feed);
    return st;
}

/* Its name says which blocks it was to have, when its header does not. */
static fg_status drop_part(packer *p, const char *name, fg_err *err)
{
    char piece[65];
    (void)snprintf(piece, sizeof piece, "%.*s", (int)(strlen(name) - sizeof ".part" + 1), name);
    if (fg_piece_parse_name(piece, &p->piece->first, &p->piece->n) &&
        p->piece->first < p->list.n_block && p->piece->n <= p->list.n_block - p->piece->first)
        set_blocks(p, FG_BLOCK_SENT, FG_BLOCK_NEW);
    return fg_stick_remove(&p->stick, name, err);
}

static fg_status read_back(packer *p, const char *name, const fg_carry_list *answer, fg_err *err)
{
    char shown[FG_STICK_TEXT], to[65], part[65];
    int fd;
    (void)answer;
    FG_TRY(fg_stick_open_file(&p->stick, name, true, &fd, err));
    (void)fg_stick_shown(&p->stick, name, shown);
    bool good = fd >= 0 && fg_piece_read(fd, p->piece, shown, NULL) == FG_OK &&
                fg_piece_fits(p->piece, &p->list, shown, "", NULL) == FG_OK;
    const fg_status st = good ? compare_piece(p, fd, &good, err) : FG_OK;
    if (fd >= 0) (void)close(fd);
    FG_TRY(st);
    if (!good) {
        p->r->bad++;
        return drop_part(p, name, err);
    }
    names_of(p, to, part);
    p->r->now += p->piece->bytes;
    return fg_stick_rename(&p->stick, name, to, err);
}

static fg_status confirm(packer *p, fg_err *err)
{
    const uint64_t asked = p->r->bad;
    p->r->bad = 0;
    FG_TRY(each(p, false, PART, NULL, read_back, err));
    const uint64_t lost = p->r->bad;
    p->r->bad = asked;
    if (p->r->now > 0) p->list.trips++;
    FG_TRY(save(p, err));
    if (lost == 0) return FG_OK;
    return fg_fail(err, FG_EIO,
                   "%s: %llu pieces are not there as they were written, expected all; %llu bytes "
                   "are good: it loses data, or is smaller than it says",
                   p->stick.path, (ull)lost, (ull)p->r->now);
}

static void report(packer *p)
{
    fg_carry_report *r = p->r;
    for (size_t i = 0; i < p->list.n_file; i++) r->total += p->list.file[i].data;
    r->left = fg_carry_list_sum(&p->list, FG_BLOCK_NEW);
    r->sent = fg_carry_list_sum(&p->list, FG_BLOCK_SENT);
    r->arrived = fg_carry_list_sum(&p->list, FG_BLOCK_HAVE);
    r->trip = r->now > 0 ? p->list.trips : 0;
    r->trips = p->list.trips + (r->now == 0 ? 0 : (r->left + r->now - 1) / r->now);
}

static fg_status pack(packer *p, const char *model, const char *stick, fg_err *err)
{
    FG_TRY(open_state(p, model, err));
    FG_TRY(fg_carry_files_open(&p->files, &p->list, p->o->move, err));
    FG_TRY(allocate(p, err));
    FG_TRY(fg_stick_open(&p->stick, stick, err));
    FG_TRY(sort_stick(p, err));
    if (p->o->move) {
        FG_TRY(fg_carry_free_blocks(&p->files, &p->list, err));
        p->backwards = !fg_carry_can_punch(&p->files);
    }
    const fg_status st = fill_stick(p, err);
    if (st == FG_ECANCEL) return st; /* whoever comes back reads back what is there */
    fg_err late = {0};               /* what came before a failure is good */
    const fg_status back = confirm(p, st == FG_OK ? err : &late);
    report(p);
    return st == FG_OK ? back : st;
}

fg_status fg_carry_pack(const char *model, const char *stick, const fg_carry_opts *o,
                        fg_carry_report *r, fg_err *err)
{
    packer p = {.o = o, .r = r, .home = {.dir = -1}, .stick = {.dir = -1}};
    *r = (fg_carry_report){0};
    const fg_status st = pack(&p, model, stick, err);
    close_all(&p);
    return st;
}

/* --- through a pipe --- */

/* In portions that a pipe which is not full takes at once: a line may be slow, and whoever stops
 * the command is not to wait for it. */
static fg_status put(const packer *p, int fd, const void *bytes, size_t n, fg_err *err)
{
    enum { LOOK_MS = 200 };
    struct stat sb;
    const uint8_t *at = bytes;
    const size_t most = fstat(fd, &sb) == 0 && S_ISREG(sb.st_mode) ? n : PIPE_BUF;
    while (n > 0) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        const int k = poll(&ready, 1, LOOK_MS);
        if (k == 0 || (k < 0 && errno == EINTR)) {
            FG_TRY(tell(p, FG_CARRY_COPY, p->now, p->capacity, err));
            continue;
        }
        const ssize_t m = write(fd, at, n < most ? n : most);
        if (m < 0 && errno == EINTR) continue;
        if (m <= 0)
            return fg_fail(err, FG_EIO, "standard output: %s, expected to write it",
                           strerror(errno));
        at += m;
        n -= (size_t)m;
    }
    return FG_OK;
}

/* The list of what is carried, as the manifest of a stick: magic, length, text. */
static fg_status send_manifest(packer *p, int fd, fg_err *err)
{
    fg_buf b = {0}, head = {0};
    fg_status st = fg_carry_list_print(&p->list, FG_CARRY_MANIFEST, &b)
                       ? FG_OK
                       : fg_fail_nomem(err, p->files.path);
    fg_buf_put(&head,
               "\x89"
               "FGLIST\n",
               8);
    fg_buf_u64(&head, b.len);
    if (st == FG_OK && head.failed) st = fg_fail_nomem(err, p->files.path);
    if (st == FG_OK) st = put(p, fd, head.data, head.len, err);
    if (st == FG_OK) st = put(p, fd, b.data, b.len, err);
    fg_buf_fini(&head);
    fg_buf_fini(&b);
    return st;
}

/* Its header has the hashes of what follows: read first, and kept. */
static fg_status send_piece(packer *p, int fd, uint8_t *data, fg_err *err)
{
    fg_carry_piece *x = p->piece;
    x->bytes = 0;
    x->header_bytes = fg_piece_header_bytes(x->n);
    memcpy(x->id, p->list.id, sizeof x->id);
    x->n_all = p->list.n_block;
    for (uint32_t i = 0; i < x->n; i++) {
        const uint64_t n = fg_carry_list_bytes_of(&p->list, x->first + i);
        FG_TRY(fg_carry_read_block(&p->files, &p->list, x->first + i, data + x->bytes, err));
        if (!fg_sha256(data + x->bytes, (size_t)n, x->sha[i])) return fg_fail_nomem(err, "carry");
        x->bytes += n;
    }
    if (!fg_piece_encode(x, p->head)) return fg_fail_nomem(err, "carry");
    FG_TRY(put(p, fd, p->head, x->header_bytes, err));
    return put(p, fd, data, (size_t)x->bytes, err);
}

static fg_status send_all(packer *p, int fd, fg_err *err)
{
    enum { AGAIN = 64 }; /* the list comes once more after so many pieces */
    const uint64_t piece = p->o->piece_bytes == 0 ? FG_CARRY_STREAM_PIECE : p->o->piece_bytes;
    const uint64_t most = room_for(piece);
    uint8_t *data = fg_mem_alloc((size_t)(most * FG_BLOCK_BYTES));
    if (data == NULL) return fg_fail_nomem(err, "carry");
    memset(p->list.block, FG_BLOCK_NEW, (size_t)p->list.n_block);
    p->capacity = fg_carry_list_sum(&p->list, FG_BLOCK_NEW);
    fg_status st = FG_OK;
    for (uint64_t i = 0; st == FG_OK && choose(p, most); i++) {
        if (i % AGAIN == 0) st = send_manifest(p, fd, err);
        if (st == FG_OK) st = send_piece(p, fd, data, err);
        if (st != FG_OK) break;
        set_blocks(p, FG_BLOCK_NEW, FG_BLOCK_SENT);
        p->now += p->piece->bytes;
        p->r->now = p->now;
        st = tell(p, FG_CARRY_COPY, p->now, p->capacity, err);
    }
    fg_mem_free(data);
    return st;
}

fg_status fg_carry_send(const char *model, int fd, const fg_carry_opts *o, fg_carry_report *r,
                        fg_err *err)
{
    packer p = {.o = o, .r = r, .home = {.dir = -1}, .stick = {.dir = -1}};
    *r = (fg_carry_report){0};
    fg_status st = open_state(&p, model, err);
    if (st == FG_OK) st = fg_carry_files_open(&p.files, &p.list, false, err);
    if (st == FG_OK) st = allocate(&p, err);
    if (st == FG_OK) st = send_all(&p, fd, err);
    if (st == FG_OK) report(&p);
    close_all(&p);
    return st;
}
