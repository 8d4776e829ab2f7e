/* SPDX-License-Identifier: MIT
 *
 * Blocks go to their places in files that have the model's length from the start.  After each
 * piece these are synced and read back past the page cache; what is there as it should be is put
 * into the state, and only then may the piece go.  All of what a stick says is compared with the
 * manifest that the transfer began with.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "src/base/crypto.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/carry/carry_files.h"
#include "src/carry/feed.h"

typedef unsigned long long ull; /* for %llu */

#define PIECE ".piece"
#define LIST_MARK                                                                                  \
    "\x89"                                                                                         \
    "FGLIST\n"

typedef struct unpacker {
    const fg_carry_opts *o;
    fg_carry_files files;
    fg_carry_list list;
    fg_stick home, stick;
    fg_carry_piece *piece;
    uint64_t done, total;   /* bytes of the model that are here */
    uint64_t written, back; /* of the piece, and what of that was read back */
    fg_err foreign;         /* the first piece of another transfer */
    fg_carry_report *r;
    bool begun; /* list and files are open */
    bool keeps; /* the stick, what it was to give up */
} unpacker;

static void note(const unpacker *u, const char *line)
{
    if (u->o->note != NULL) u->o->note(u->o->ctx, line);
}

static fg_status save(unpacker *u, fg_err *err)
{
    return fg_stick_put_list(&u->home, u->files.state, FG_CARRY_RECEIVER, &u->list, err);
}

static fg_status tell(const unpacker *u, fg_carry_phase phase, uint64_t done, uint64_t total,
                      fg_err *err)
{
    if (u->o->progress == NULL || u->o->progress(u->o->ctx, phase, done, total)) return FG_OK;
    return fg_fail(err, FG_ECANCEL, "%s: cancelled, expected to be complete; run it again to go on",
                   u->r->out);
}

static void close_all(unpacker *u)
{
    fg_stick_close(&u->stick);
    fg_stick_close(&u->home);
    fg_carry_files_close(&u->files);
    fg_carry_list_fini(&u->list);
    fg_mem_free(u->piece);
}

/* --- beginning --- */

/* The file that `out` means for a model of this name. */
static char *out_path(const char *out, const char *name)
{
    if (out == NULL) return fg_mem_strndup(name, strlen(name));
    return fg_io_is_dir(out) ? fg_io_join(out, name) : fg_mem_strndup(out, strlen(out));
}

static fg_status check_room(const unpacker *u, fg_err *err)
{
    const uint64_t need = fg_carry_list_sum(&u->list, FG_BLOCK_NEW);
    const uint64_t room = fg_stick_room(&u->home);
    if (room >= need) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %llu bytes free on its file system, expected %llu",
                   u->files.path, (ull)room, (ull)need);
}

/* Goes on with what was begun of this transfer, or begins it.  Takes over *m. */
static fg_status begin(unpacker *u, const char *out, fg_carry_list *m, const char *name,
                       fg_err *err)
{
    bool there;
    char *path = out_path(out, m->name);
    if (path == NULL) return fg_fail_nomem(err, name);
    fg_status st = fg_carry_files_init(&u->files, path, err);
    fg_mem_free(path);
    FG_TRY(st);
    (void)snprintf(u->r->out, sizeof u->r->out, "%s", u->files.path);
    FG_TRY(fg_stick_open(&u->home, u->files.folder, err));
    FG_TRY(fg_stick_read_list(&u->home, u->files.state, FG_CARRY_RECEIVER, &u->list, &there, err));
    if (there) {
        FG_TRY(fg_carry_list_same(m, name, &u->list, u->files.path, err));
        memcpy(u->list.sender, m->sender, sizeof m->sender); /* whom the answer is for */
    } else {
        u->list = *m;
        *m = (fg_carry_list){0};
        FG_TRY(check_room(u, err));
        if (!fg_random_bytes(u->list.receiver, sizeof u->list.receiver))
            return fg_fail(err, FG_EIO, "%s: no random numbers, expected some", u->files.path);
    }
    FG_TRY(fg_carry_out_open(&u->files, &u->list, !there, err));
    if (!there) FG_TRY(save(u, err));
    u->begun = true;
    for (size_t i = 0; i < u->list.n_file; i++) u->total += u->list.file[i].data;
    u->done = fg_carry_list_sum(&u->list, FG_BLOCK_HAVE);
    return FG_OK;
}

static fg_status allocate(unpacker *u, fg_err *err)
{
    u->piece = fg_mem_zalloc(sizeof *u->piece);
    return u->piece != NULL ? FG_OK : fg_fail_nomem(err, "carry");
}

/* --- blocks --- */

/* Block i of the piece, its bytes with their hash: to the disk, or damaged.  NULL: unreadable. */
static fg_status take_block(unpacker *u, uint32_t i, const uint8_t *bytes, const uint8_t *sha,
                            fg_err *err)
{
    const uint64_t block = u->piece->first + i;
    uint8_t *state = &u->list.block[block];
    if (bytes == NULL || memcmp(sha, u->piece->sha[i], FG_SHA256_BYTES) != 0) {
        *state = FG_BLOCK_BAD;
        return FG_OK;
    }
    FG_TRY(fg_carry_write_block(&u->files, &u->list, block, bytes, err));
    *state = FG_BLOCK_SENT; /* till it is read back */
    fg_carry_start_block(&u->files, &u->list, block);
    u->written += fg_piece_block_bytes(u->piece, i);
    return tell(u, FG_CARRY_COPY, u->done + u->written, u->total, err);
}

static fg_status read_own(void *ctx, uint32_t i, uint8_t *buf, size_t *n, fg_err *err)
{
    const unpacker *u = ctx;
    const uint64_t block = u->piece->first + i;
    if (u->list.block[block] != FG_BLOCK_SENT) return FG_OK;
    *n = (size_t)fg_piece_block_bytes(u->piece, i);
    return fg_carry_read_block(&u->files, &u->list, block, buf, err);
}

static fg_status compare(unpacker *u, uint32_t i, const fg_feed_block *b, const fg_carry_file *f,
                         fg_err *err)
{
    const uint64_t block = u->piece->first + i;
    if (memcmp(b->sha, u->piece->sha[i], sizeof b->sha) == 0) {
        u->list.block[block] = FG_BLOCK_HAVE;
        u->r->now += b->n;
        u->back += b->n;
        return tell(u, FG_CARRY_CHECK, u->back, u->written, err);
    }
    return fg_fail(err, FG_EIO,
                   "%s: other bytes than were written at MiB %llu of it, expected the same: its "
                   "disk loses data",
                   u->files.name[f - u->list.file], (ull)(block - f->first));
}

/* What the piece has written is on the disk. */
static fg_status confirm(unpacker *u, fg_err *err)
{
    const fg_carry_file *f = fg_carry_list_file_of(&u->list, u->piece->first);
    const size_t k = (size_t)(f - u->list.file);
    fg_feed *feed;
    FG_TRY(fg_stick_settle(u->files.fd[k], u->files.name[k], err));
    FG_TRY(fg_feed_start(&feed, read_own, u, u->piece->n, err));
    fg_status st = FG_OK;
    u->back = 0;
    for (uint32_t i = 0; st == FG_OK && i < u->piece->n; i++) {
        const fg_feed_block *b = fg_feed_next(feed);
        st = b->st;
        if (st != FG_OK && err != NULL) *err = b->err;
        if (st == FG_OK && b->n > 0) st = compare(u, i, b, f, err);
    }
    fg_feed_stop(&feed);
    u->done += u->back;
    u->written = 0;
    return st == FG_OK ? save(u, err) : st;
}

/* --- a stick --- */

/* The header is damaged; which blocks it was about says its name, if it is one of ours. */
static fg_status take_ruin(unpacker *u, const char *name, const fg_err *why, fg_err *err)
{
    uint64_t first;
    uint32_t n;
    char id[FG_CARRY_ID_CHARS];
    note(u, why->msg);
    fg_hex(u->list.id, sizeof u->list.id, id);
    if (!fg_piece_parse_name(name, &first, &n) || strncasecmp(name + 6, id, 8) != 0 ||
        first >= u->list.n_block || n > u->list.n_block - first)
        return FG_OK;
    for (uint64_t b = first; b < first + n; b++) {
        if (u->list.block[b] != FG_BLOCK_HAVE) u->list.block[b] = FG_BLOCK_BAD;
    }
    return save(u, err);
}

static bool is_wanted(const unpacker *u)
{
    for (uint32_t i = 0; i < u->piece->n; i++)
        if (u->list.block[u->piece->first + i] != FG_BLOCK_HAVE) return true;
    return false;
}

/* A piece on the stick, open. */
typedef struct source {
    const unpacker *u;
    int fd;
} source;

static fg_status read_stick(void *ctx, uint32_t i, uint8_t *buf, size_t *n, fg_err *err)
{
    const source *s = ctx;
    const fg_carry_piece *x = s->u->piece;
    const uint64_t at = x->header_bytes + (uint64_t)i * FG_BLOCK_BYTES;
    if (s->u->list.block[x->first + i] == FG_BLOCK_HAVE) return FG_OK;
    *n = (size_t)fg_piece_block_bytes(x, i);
    if (fg_stick_read_block(s->fd, buf, *n, at)) return FG_OK;
    return fg_fail(err, FG_EIO, "block %u: %s, expected to read it", i, strerror(errno));
}

static fg_status take_blocks(unpacker *u, int fd, fg_err *err)
{
    source s = {.u = u, .fd = fd};
    fg_feed *feed;
    FG_TRY(fg_feed_start(&feed, read_stick, &s, u->piece->n, err));
    fg_status st = FG_OK;
    for (uint32_t i = 0; st == FG_OK && i < u->piece->n; i++) {
        const fg_feed_block *b = fg_feed_next(feed);
        if (b->st == FG_ENOMEM) st = fg_fail_nomem(err, "carry");
        if (st == FG_OK && u->list.block[u->piece->first + i] != FG_BLOCK_HAVE)
            st = take_block(u, i, b->st == FG_OK ? b->p : NULL, b->sha, err);
    }
    fg_feed_stop(&feed);
    return st == FG_OK ? confirm(u, err) : st;
}

/* A stick that lets nothing go has served all the same. */
static void give_up(unpacker *u, const char *name)
{
    fg_err why = {0};
    if (fg_stick_remove(&u->stick, name, &why) != FG_OK && !u->keeps) note(u, why.msg);
    u->keeps = u->keeps || why.code != FG_OK;
}

static fg_status take_piece(unpacker *u, const char *name, fg_err *err)
{
    char shown[FG_STICK_TEXT];
    int fd;
    fg_err why = {0};
    FG_TRY(fg_stick_open_file(&u->stick, name, true, &fd, err));
    if (fd < 0) return FG_OK;
    (void)fg_stick_shown(&u->stick, name, shown);
    fg_status st = fg_piece_read(fd, u->piece, shown, &why);
    if (st != FG_OK) {
        (void)close(fd);
        return st == FG_ENOMEM ? fg_fail_nomem(err, shown) : take_ruin(u, name, &why, err);
    }
    if (fg_piece_fits(u->piece, &u->list, shown, u->files.path, &why) != FG_OK) {
        (void)close(fd);
        if (u->foreign.code == FG_OK) u->foreign = why;
        return FG_OK;
    }
    st = is_wanted(u) ? take_blocks(u, fd, err) : FG_OK;
    (void)close(fd);
    if (st == FG_OK && u->o->move && !is_wanted(u)) give_up(u, name);
    return st;
}

static fg_status take_pieces(unpacker *u, fg_err *err)
{
    char(*names)[65];
    size_t n;
    FG_TRY(fg_stick_names(&u->stick, PIECE, &names, &n, err));
    fg_status st = FG_OK;
    if (n == 0 && fg_carry_list_sum(&u->list, FG_BLOCK_HAVE) < u->total) {
        char line[FG_STICK_TEXT + 64];
        (void)snprintf(line, sizeof line, "%.400s: no pieces, expected names that end in %s",
                       u->stick.path, PIECE);
        note(u, line);
    }
    for (size_t i = 0; st == FG_OK && i < n; i++) {
        const uint64_t before = u->done;
        st = take_piece(u, names[i], err);
        if (st == FG_OK && u->done == before) st = tell(u, FG_CARRY_LOOK, i + 1, n, err);
    }
    fg_mem_free(names);
    return st;
}

/* Into the report; the model gets its name when all is there. */
static fg_status conclude(unpacker *u, fg_err *err)
{
    fg_carry_report *r = u->r;
    r->total = u->total;
    r->arrived = fg_carry_list_sum(&u->list, FG_BLOCK_HAVE);
    r->bad = fg_carry_list_sum(&u->list, FG_BLOCK_BAD);
    r->left = r->total - r->arrived;
    if (r->left > 0) return FG_OK;
    FG_TRY(fg_carry_out_finish(&u->files, &u->list, err));
    r->complete = true;
    return fg_stick_remove(&u->home, u->files.state, err);
}

static fg_status unpack(unpacker *u, const char *out, fg_err *err)
{
    fg_carry_list m = {0};
    char name[FG_STICK_TEXT];
    bool there;
    (void)fg_stick_shown(&u->stick, FG_STICK_MANIFEST, name);
    FG_TRY(fg_stick_read_list(&u->stick, FG_STICK_MANIFEST, FG_CARRY_MANIFEST, &m, &there, err));
    if (!there)
        return fg_fail(err, FG_EIO, "%s: no such file, expected a stick of fulgur carry pack",
                       name);
    fg_status st = begin(u, out, &m, name, err);
    fg_carry_list_fini(&m);
    if (st == FG_OK) st = allocate(u, err);
    if (st == FG_OK) st = take_pieces(u, err);
    if (!u->begun) return st;
    /* what came before a failure is there, and the sender is to know, but never more than our own
     * state: it may free what it hears of */
    fg_err late = {0};
    if (save(u, &late) != FG_OK || fg_stick_put_list(&u->stick, FG_STICK_RECEIVED,
                                                     FG_CARRY_RECEIVED, &u->list, &late) != FG_OK) {
        char line[sizeof late.msg + 64];
        (void)snprintf(line, sizeof line, "%s; the sender will not hear of what has arrived",
                       late.msg);
        note(u, line);
    }
    const fg_status end = conclude(u, st == FG_OK ? err : NULL);
    if (st == FG_OK) st = end;
    if (st != FG_OK || u->foreign.code == FG_OK) return st;
    if (err != NULL) *err = u->foreign;
    return u->foreign.code;
}

fg_status fg_carry_unpack(const char *stick, const char *out, const fg_carry_opts *o,
                          fg_carry_report *r, fg_err *err)
{
    unpacker u = {.o = o, .r = r, .home = {.dir = -1}, .stick = {.dir = -1}};
    *r = (fg_carry_report){0};
    fg_status st = fg_stick_open(&u.stick, stick, err);
    if (st == FG_OK) st = unpack(&u, out, err);
    close_all(&u);
    return st;
}

/* --- a pipe --- */

/* Bytes that have come and are not used up. */
typedef struct inlet {
    const unpacker *u; /* who is told of the wait */
    int fd;
    uint8_t *p; /* [cap] */
    size_t cap, from, to;
    bool ended, used; /* used: what the last mark began was taken */
    fg_err err;
} inlet;

/* Waits for bytes; false: cancelled. */
static bool wait_for(const inlet *in)
{
    enum { LOOK_MS = 200 };
    struct pollfd p = {.fd = in->fd, .events = POLLIN};
    fg_err why = {0};
    for (;;) {
        const int n = poll(&p, 1, LOOK_MS);
        if (n > 0 || (n < 0 && errno != EINTR)) return true;
        if (tell(in->u, FG_CARRY_COPY, in->u->done + in->u->written, in->u->total, &why) != FG_OK)
            return false;
    }
}

/* True when n bytes are there from in->from on. */
static bool ensure(inlet *in, size_t n)
{
    if (in->to - in->from >= n) return true;
    if (n > in->cap) return false;
    memmove(in->p, in->p + in->from, in->to - in->from);
    in->to -= in->from;
    in->from = 0;
    while (in->to < n && !in->ended) {
        if (!wait_for(in)) {
            (void)fg_fail(&in->err, FG_ECANCEL,
                          "standard input: cancelled, expected to be read to its end");
            in->ended = true;
            break;
        }
        const ssize_t got = read(in->fd, in->p + in->to, in->cap - in->to);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            (void)fg_fail(&in->err, FG_EIO, "standard input: %s, expected to read it",
                          strerror(errno));
        }
        if (got <= 0) in->ended = true;
        if (got > 0) in->to += (size_t)got;
    }
    return in->to >= n;
}

/* Goes on to the next mark of a piece or list that begins `skip` to `most` - 1 bytes from here,
 * among what is there. */
static bool find_mark(inlet *in, size_t skip, size_t most)
{
    const size_t there = in->to - in->from;
    const uint8_t *from = in->p + in->from, *end = from + (there < most + 7 ? there : most + 7);
    for (const uint8_t *q = from + skip; q + 8 <= end; q++) {
        q = memchr(q, 0x89, (size_t)(end - q));
        if (q == NULL || q + 8 > end) break;
        if (memcmp(q, fg_piece_magic, 8) != 0 && memcmp(q, LIST_MARK, 8) != 0) continue;
        in->from += (size_t)(q - from);
        return true;
    }
    return false;
}

/* A manifest; one that is damaged is passed over, since it comes again. */
static fg_status receive_list(unpacker *u, inlet *in, const char *out, fg_err *err)
{
    fg_carry_list m = {0};
    fg_err why = {0};
    if (!ensure(in, 16)) return FG_OK;
    fg_cursor c = fg_cursor_make(in->p + in->from + 8, 8);
    const uint64_t n = fg_cursor_u64(&c);
    if (n > FG_CARRY_MAX_TEXT) return FG_OK;
    if (n + 16 > in->cap) {
        const size_t cap = (size_t)n + 16 + (size_t)FG_BLOCK_BYTES;
        uint8_t *p = fg_mem_alloc(cap);
        if (p == NULL) return fg_fail_nomem(err, "carry");
        memcpy(p, in->p + in->from, in->to - in->from);
        in->to -= in->from;
        in->from = 0;
        fg_mem_free(in->p);
        in->p = p;
        in->cap = cap;
    }
    if (!ensure(in, (size_t)n + 16)) return FG_OK;
    const char *text = (const char *)in->p + in->from + 16;
    const fg_status st =
        fg_carry_list_parse(&m, FG_CARRY_MANIFEST, text, (size_t)n, "standard input", &why);
    if (st == FG_ENOMEM) return fg_fail_nomem(err, "carry");
    if (st != FG_OK) return FG_OK;
    fg_status begun = FG_OK;
    if (!u->begun) {
        begun = begin(u, out, &m, "standard input", err);
    } else {
        begun = fg_carry_list_same(&m, "standard input", &u->list, u->files.path, err);
    }
    fg_carry_list_fini(&m);
    if (begun == FG_OK) in->from += (size_t)n + 16;
    in->used = begun == FG_OK;
    return begun;
}

/* The blocks of a piece whose header was read.  Where one is not what its hash says, bytes may be
 * missing: what looks like the next header among its bytes is taken for it. */
static fg_status receive_blocks(unpacker *u, inlet *in, fg_err *err)
{
    fg_status st = FG_OK;
    uint32_t i = 0;
    for (; st == FG_OK && i < u->piece->n; i++) {
        const size_t n = (size_t)fg_piece_block_bytes(u->piece, i);
        uint8_t sha[FG_SHA256_BYTES];
        if (!ensure(in, n)) break;
        const uint8_t *bytes = in->p + in->from;
        if (!fg_sha256(bytes, n, sha)) st = fg_fail_nomem(err, "carry");
        if (st == FG_OK && u->list.block[u->piece->first + i] != FG_BLOCK_HAVE)
            st = take_block(u, i, bytes, sha, err);
        if (memcmp(sha, u->piece->sha[i], sizeof sha) != 0) {
            (void)ensure(in, n + 7); /* one that begins at its end */
            if (find_mark(in, 1, n)) break;
        }
        in->from += n;
    }
    const fg_status kept = confirm(u, st == FG_OK ? err : NULL);
    return st == FG_OK ? kept : st;
}

static fg_status receive_piece(unpacker *u, inlet *in, fg_err *err)
{
    size_t need;
    fg_err why = {0};
    (void)ensure(in, FG_PIECE_FIXED);
    fg_status st = FG_EFORMAT;
    for (int i = 0; i < 2 && st != FG_OK; i++) {
        st = fg_piece_decode(u->piece, in->p + in->from, in->to - in->from, &need, "standard input",
                             &why);
        if (st == FG_ENOMEM) return fg_fail_nomem(err, "carry");
        if (st != FG_OK && (need == 0 || !ensure(in, need))) break;
    }
    if (st != FG_OK) return FG_OK;
    const fg_status fits = fg_piece_fits(u->piece, &u->list, "standard input", u->files.path, &why);
    if (fits != FG_OK) {
        if (u->foreign.code == FG_OK) u->foreign = why;
        return FG_OK;
    }
    if (!ensure(in, u->piece->header_bytes)) return FG_OK;
    in->from += u->piece->header_bytes;
    in->used = true;
    return receive_blocks(u, in, err);
}

static fg_status receive(unpacker *u, inlet *in, const char *out, fg_err *err)
{
    while (ensure(in, 8)) {
        if (!find_mark(in, 0, in->to - in->from)) {
            in->from = in->to - 7; /* a mark may have begun */
            if (in->ended) break;
            if (!ensure(in, 8 + 7)) break;
            continue;
        }
        const bool list = memcmp(in->p + in->from, LIST_MARK, 8) == 0;
        in->used = false;
        if (list) FG_TRY(receive_list(u, in, out, err));
        if (!list && u->begun) FG_TRY(receive_piece(u, in, err));
        if (!in->used) in->from++; /* no whole list, or no piece of ours */
    }
    if (in->err.code != FG_OK && err != NULL) *err = in->err;
    return in->err.code;
}

fg_status fg_carry_receive(int fd, const char *out, const fg_carry_opts *o, fg_carry_report *r,
                           fg_err *err)
{
    unpacker u = {.o = o, .r = r, .home = {.dir = -1}, .stick = {.dir = -1}};
    inlet in = {.u = &u, .fd = fd, .cap = 2 * (size_t)FG_BLOCK_BYTES};
    *r = (fg_carry_report){0};
    in.p = fg_mem_alloc(in.cap);
    fg_status st = in.p == NULL ? fg_fail_nomem(err, "carry") : allocate(&u, err);
    if (st == FG_OK) st = receive(&u, &in, out, err);
    if (st == FG_OK && !u.begun) {
        st = fg_fail(err, FG_EFORMAT, "standard input: no list of fulgur carry, expected one");
    }
    if (st == FG_OK) st = conclude(&u, err);
    if (st == FG_OK && u.foreign.code != FG_OK) {
        st = u.foreign.code;
        if (err != NULL) *err = u.foreign;
    }
    fg_mem_free(in.p);
    close_all(&u);
    return st;
}

/* --- status --- */

static void count(const fg_carry_list *l, fg_carry_report *r)
{
    for (size_t i = 0; i < l->n_file; i++) r->total += l->file[i].data;
    r->left = fg_carry_list_sum(l, FG_BLOCK_NEW);
    r->sent = fg_carry_list_sum(l, FG_BLOCK_SENT);
    r->arrived = fg_carry_list_sum(l, FG_BLOCK_HAVE);
    r->bad = fg_carry_list_sum(l, FG_BLOCK_BAD);
    r->trips = l->trips;
}

/* Pieces whose headers are good, and the answer. */
static fg_status look_at_stick(fg_stick *s, fg_carry_report *r, fg_err *err)
{
    fg_carry_list m = {0}, answer = {0};
    bool there;
    char(*names)[65] = NULL, name[FG_STICK_TEXT];
    size_t n = 0;
    (void)fg_stick_shown(s, FG_STICK_MANIFEST, name);
    FG_TRY(fg_stick_read_list(s, FG_STICK_MANIFEST, FG_CARRY_MANIFEST, &m, &there, err));
    if (!there)
        return fg_fail(err, FG_EIO, "%s: no such file, expected a stick; or name a model", name);
    fg_carry_piece *p = fg_mem_zalloc(sizeof *p);
    fg_status st = p == NULL ? fg_fail_nomem(err, name) : FG_OK;
    if (st == FG_OK) {
        st = fg_stick_read_list(s, FG_STICK_RECEIVED, FG_CARRY_RECEIVED, &answer, &there, err);
    }
    if (st == FG_OK && there) {
        (void)fg_stick_shown(s, FG_STICK_RECEIVED, name);
        st = fg_carry_list_same(&answer, name, &m, s->path, err);
        if (st == FG_OK) memcpy(m.block, answer.block, (size_t)m.n_block);
    }
    if (st == FG_OK) st = fg_stick_names(s, PIECE, &names, &n, err);
    for (size_t i = 0; st == FG_OK && i < n; i++) {
        int fd;
        st = fg_stick_open_file(s, names[i], false, &fd, err);
        if (st != FG_OK || fd < 0) continue;
        if (fg_piece_read(fd, p, names[i], NULL) == FG_OK &&
            fg_piece_fits(p, &m, names[i], "", NULL) == FG_OK)
            r->now += p->bytes;
        (void)close(fd);
    }
    if (st == FG_OK) count(&m, r);
    fg_mem_free(names);
    fg_mem_free(p);
    fg_carry_list_fini(&m);
    fg_carry_list_fini(&answer);
    return st;
}

static fg_status look_at_model(const char *path, fg_carry_report *r, fg_err *err)
{
    fg_carry_files f;
    fg_carry_list l = {0};
    fg_stick home = {.dir = -1};
    bool there = false;
    fg_status st = fg_carry_files_init(&f, path, err);
    if (st == FG_OK) st = fg_stick_open(&home, f.folder, err);
    if (st == FG_OK &&
        fg_stick_read_list(&home, f.state, FG_CARRY_SENDER, &l, &there, NULL) != FG_OK)
        st = fg_stick_read_list(&home, f.state, FG_CARRY_RECEIVER, &l, &there, err);
    if (st == FG_OK && !there) {
        st = fg_fail(err, FG_EIO, "%s: not being carried, expected %s/%s", path, f.folder, f.state);
    }
    if (st == FG_OK) count(&l, r);
    fg_carry_list_fini(&l);
    fg_stick_close(&home);
    fg_carry_files_close(&f);
    return st;
}

fg_status fg_carry_status(const char *path, fg_carry_report *r, fg_err *err)
{
    fg_stick s = {.dir = -1};
    *r = (fg_carry_report){0};
    if (!fg_io_is_dir(path)) return look_at_model(path, r, err);
    fg_status st = fg_stick_open(&s, path, err);
    if (st == FG_OK) st = look_at_stick(&s, r, err);
    fg_stick_close(&s);
    return st;
}
