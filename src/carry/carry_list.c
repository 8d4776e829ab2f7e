/* SPDX-License-Identifier: MIT */
#include "src/carry/carry_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/crypto.h"
#include "src/base/mem.h"

typedef unsigned long long ull; /* for %llu */

#define MAX_FILE_BYTES ((uint64_t)1 << 60)

enum { VERSION = 2 };

static const char *const kind_name[] = {"manifest", "received", "sender", "receiver"};
static const char *const state_name[] = {"", "sent", "have", "bad"};

bool fg_carry_name_is_valid(const char *name)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const size_t n = strlen(name);
    return n >= 1 && n <= 64 && name[0] != '.' && strspn(name, allowed) == n;
}

/* --- building --- */

fg_status fg_carry_list_add_file(fg_carry_list *l, uint32_t ending, uint64_t bytes, fg_err *err)
{
    const bool follows = l->n_file == 0 ? ending == 0 : ending > l->file[l->n_file - 1].ending;
    if (!follows || ending > FG_CARRY_SIG || bytes > MAX_FILE_BYTES) {
        return fg_fail(err, FG_ELIMIT, "carry: file %u of %llu bytes, expected ascending ones",
                       ending, (ull)bytes);
    }
    l->file[l->n_file++] = (fg_carry_file){.ending = ending, .bytes = bytes, .extent = l->n_extent};
    return FG_OK;
}

fg_status fg_carry_list_add_extent(fg_carry_list *l, uint64_t offset, uint64_t bytes, fg_err *err)
{
    fg_carry_file *f = l->n_file == 0 ? NULL : &l->file[l->n_file - 1];
    const fg_carry_extent *before =
        f == NULL || f->n_extent == 0 ? NULL : &l->extent[l->n_extent - 1];
    const uint64_t from = before == NULL ? 0 : before->offset + before->bytes;
    if (f == NULL || bytes == 0 || offset < from || offset > f->bytes ||
        bytes > f->bytes - offset || l->n_extent == FG_CARRY_MAX_EXTENT) {
        return fg_fail(err, FG_ELIMIT,
                       "carry: extent of %llu bytes at %llu, expected one in its file, %d at most",
                       (ull)bytes, (ull)offset, FG_CARRY_MAX_EXTENT);
    }
    void *p = l->extent;
    const bool grown = fg_mem_grow(&p, &l->cap_extent, l->n_extent + 1, sizeof *l->extent);
    l->extent = p;
    if (!grown) return fg_fail_nomem(err, "carry");
    l->extent[l->n_extent++] = (fg_carry_extent){offset, bytes, f->data};
    f->n_extent++;
    f->data += bytes;
    return FG_OK;
}

static fg_status count_blocks(fg_carry_list *l, fg_err *err)
{
    l->n_block = 0;
    for (size_t i = 0; i < l->n_file; i++) {
        fg_carry_file *f = &l->file[i];
        f->first = l->n_block;
        f->n_block = f->data / FG_BLOCK_BYTES + (f->data % FG_BLOCK_BYTES != 0);
        if (f->n_block > FG_CARRY_MAX_BLOCK - l->n_block) {
            return fg_fail(err, FG_ELIMIT, "carry: more than %d MiB, expected less",
                           FG_CARRY_MAX_BLOCK);
        }
        l->n_block += f->n_block;
    }
    return FG_OK;
}

static fg_status allocate_blocks(fg_carry_list *l, fg_err *err)
{
    fg_mem_free(l->block);
    l->block = fg_mem_zalloc((size_t)l->n_block + 1);
    return l->block == NULL ? fg_fail_nomem(err, "carry") : FG_OK;
}

static void print_files(const fg_carry_list *l, bool stamps, fg_buf *b)
{
    for (size_t i = 0; i < l->n_file; i++) {
        const fg_carry_file *f = &l->file[i];
        fg_buf_printf(b, "file %u %llu\n", f->ending, (ull)f->bytes);
        if (stamps)
            fg_buf_printf(b, "stamp%s %lld %lld\n", f->stamp_s < 0 ? " before" : "",
                          llabs((long long)f->stamp_s), (long long)f->stamp_ns);
        for (size_t k = 0; k < f->n_extent; k++) {
            const fg_carry_extent *x = &l->extent[f->extent + k];
            fg_buf_printf(b, "extent %llu %llu\n", (ull)x->offset, (ull)x->bytes);
        }
    }
}

fg_status fg_carry_list_seal(fg_carry_list *l, const uint8_t *salt, size_t n, fg_err *err)
{
    fg_buf b = {0};
    uint8_t sha[FG_SHA256_BYTES];
    FG_TRY(count_blocks(l, err));
    FG_TRY(allocate_blocks(l, err));
    print_files(l, false, &b);
    fg_buf_put(&b, salt, n);
    const bool ok = !b.failed && fg_sha256(b.data, b.len, sha);
    fg_buf_fini(&b);
    if (!ok) return fg_fail_nomem(err, "carry");
    memcpy(l->id, sha, sizeof l->id);
    return FG_OK;
}

void fg_carry_list_fini(fg_carry_list *l)
{
    fg_mem_free(l->extent);
    fg_mem_free(l->block);
    memset(l, 0, sizeof *l);
}

/* --- text --- */

static void print_states(const fg_carry_list *l, fg_buf *b)
{
    for (uint64_t i = 0, end; i < l->n_block; i = end) {
        const uint8_t s = l->block[i];
        for (end = i + 1; end < l->n_block && l->block[end] == s;) end++;
        if (s != FG_BLOCK_NEW) fg_buf_printf(b, "%s %llu %llu\n", state_name[s], (ull)i, (ull)end);
    }
}

static void print_party(fg_buf *b, const char *who, const uint8_t *id)
{
    char hex[FG_CARRY_ID_CHARS];
    fg_hex(id, FG_CARRY_ID_BYTES, hex);
    fg_buf_printf(b, "%s %s\n", who, hex);
}

bool fg_carry_list_print(const fg_carry_list *l, fg_carry_kind kind, fg_buf *b)
{
    char hex[2 * FG_SHA256_BYTES + 1];
    uint8_t sha[FG_SHA256_BYTES];
    const size_t start = b->len;
    fg_hex(l->id, sizeof l->id, hex);
    fg_buf_printf(b, "fulgur carry %d %s\ntransfer %s\n", VERSION, kind_name[kind], hex);
    if (kind != FG_CARRY_RECEIVER) print_party(b, "sender", l->sender);
    if (kind != FG_CARRY_MANIFEST) print_party(b, "receiver", l->receiver);
    if (kind != FG_CARRY_RECEIVED) {
        fg_buf_printf(b, "name %s\n", l->name);
        print_files(l, kind == FG_CARRY_SENDER, b);
    }
    fg_buf_printf(b, "blocks %llu\n", (ull)l->n_block);
    if (kind != FG_CARRY_MANIFEST) print_states(l, b);
    if (kind == FG_CARRY_SENDER)
        fg_buf_printf(b, "trips %llu\nmoves %d\n", (ull)l->trips, l->moves ? 1 : 0);
    if (b->failed || !fg_sha256(b->data + start, b->len - start, sha)) return false;
    fg_hex(sha, sizeof sha, hex);
    fg_buf_printf(b, "end %s\n", hex);
    return !b->failed;
}

/* Words of a line, each after one space. */
typedef struct line {
    const char *p, *end;
} line;

static bool take_word(line *s, const char *word)
{
    const size_t n = strlen(word);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0) return false;
    s->p += n;
    return true;
}

/* " N", without a sign or leading zeros, below 2^63. */
static bool take_number(line *s, uint64_t *out)
{
    if (!take_word(s, " ") || s->p == s->end || *s->p < '0' || *s->p > '9') return false;
    const bool zero = *s->p == '0';
    *out = 0;
    const char *from = s->p;
    for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++) {
        if (s->p - from == 18) return false;
        *out = 10 * *out + (uint64_t)(*s->p - '0');
    }
    return !zero || s->p - from == 1;
}

typedef struct parser {
    fg_carry_list *l;
    fg_carry_kind kind;
    uint64_t known; /* blocks before it have a state */
    bool has_id, has_sender, has_receiver, has_blocks;
} parser;

static bool parse_id(line *s, uint8_t *id, bool *has)
{
    const bool ok =
        !*has && s->end - s->p == 2 * FG_CARRY_ID_BYTES && fg_unhex(s->p, FG_CARRY_ID_BYTES, id);
    *has = true;
    s->p = s->end;
    return ok;
}

static bool parse_name(parser *p, line *s)
{
    const size_t n = (size_t)(s->end - s->p);
    if (n < 1 || n > FG_CARRY_MAX_NAME || p->l->name[0] != '\0' || memchr(s->p, 0, n) != NULL)
        return false;
    memcpy(p->l->name, s->p, n);
    p->l->name[n] = '\0';
    s->p = s->end;
    return fg_carry_name_is_valid(p->l->name);
}

static bool parse_blocks(parser *p, line *s, fg_err *err)
{
    uint64_t n;
    if (p->has_blocks || !take_number(s, &n) || n > FG_CARRY_MAX_BLOCK) return false;
    if (p->kind != FG_CARRY_RECEIVED && (count_blocks(p->l, err) != FG_OK || p->l->n_block != n))
        return false;
    p->l->n_block = n;
    p->has_blocks = true;
    return allocate_blocks(p->l, err) == FG_OK;
}

static bool parse_state(parser *p, line *s, fg_block_state state)
{
    uint64_t first, end;
    if (!p->has_blocks || p->kind == FG_CARRY_MANIFEST || !take_number(s, &first) ||
        !take_number(s, &end) || first < p->known || end <= first || end > p->l->n_block)
        return false;
    memset(p->l->block + first, (int)state, (size_t)(end - first));
    p->known = end;
    return true;
}

static bool parse_file(parser *p, line *s, fg_err *err)
{
    uint64_t ending, bytes;
    return !p->has_blocks && p->kind != FG_CARRY_RECEIVED && take_number(s, &ending) &&
           ending <= FG_CARRY_SIG && take_number(s, &bytes) &&
           fg_carry_list_add_file(p->l, (uint32_t)ending, bytes, err) == FG_OK;
}

static bool parse_extent(parser *p, line *s, fg_err *err)
{
    uint64_t offset, bytes;
    return !p->has_blocks && take_number(s, &offset) && take_number(s, &bytes) &&
           fg_carry_list_add_extent(p->l, offset, bytes, err) == FG_OK;
}

/* A clock that stood wrong makes files of before 1970. */
static bool parse_stamp(parser *p, line *s)
{
    uint64_t sec, ns;
    if (p->kind != FG_CARRY_SENDER || p->l->n_file == 0) return false;
    const bool before = take_word(s, " before");
    if (!take_number(s, &sec) || !take_number(s, &ns)) return false;
    p->l->file[p->l->n_file - 1].stamp_s = before ? -(int64_t)sec : (int64_t)sec;
    p->l->file[p->l->n_file - 1].stamp_ns = (int64_t)ns;
    return true;
}

static bool parse_line(parser *p, line s, fg_err *err)
{
    uint64_t n;
    bool ok = false;
    if (take_word(&s, "transfer ")) {
        ok = parse_id(&s, p->l->id, &p->has_id);
    } else if (take_word(&s, "sender ")) {
        ok = parse_id(&s, p->l->sender, &p->has_sender);
    } else if (take_word(&s, "receiver ")) {
        ok = parse_id(&s, p->l->receiver, &p->has_receiver);
    } else if (take_word(&s, "name ")) {
        ok = p->kind != FG_CARRY_RECEIVED && parse_name(p, &s);
    } else if (take_word(&s, "file")) {
        ok = parse_file(p, &s, err);
    } else if (take_word(&s, "extent")) {
        ok = parse_extent(p, &s, err);
    } else if (take_word(&s, "stamp")) {
        ok = parse_stamp(p, &s);
    } else if (take_word(&s, "blocks")) {
        ok = parse_blocks(p, &s, err);
    } else if (take_word(&s, "trips")) {
        ok = p->kind == FG_CARRY_SENDER && take_number(&s, &p->l->trips);
    } else if (take_word(&s, "moves")) {
        ok = p->kind == FG_CARRY_SENDER && take_number(&s, &n) && n <= 1;
        p->l->moves = ok && n == 1;
    } else {
        for (int i = FG_BLOCK_SENT; i <= FG_BLOCK_BAD && !ok; i++)
            if (take_word(&s, state_name[i])) ok = parse_state(p, &s, (fg_block_state)i);
    }
    return ok && s.p == s.end;
}

/* The last line, which is the hash of all before it; *n becomes the length of these. */
static fg_status check_end(const char *text, size_t *n, const char *name, fg_err *err)
{
    enum { LAST = 4 + 2 * FG_SHA256_BYTES + 1 };
    uint8_t want[FG_SHA256_BYTES], sha[FG_SHA256_BYTES];
    if (*n < LAST || memcmp(text + *n - LAST, "end ", 4) != 0 || text[*n - 1] != '\n' ||
        !fg_unhex(text + *n - LAST + 4, FG_SHA256_BYTES, want)) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: %zu bytes that are no list of fulgur carry, expected "
                       "one",
                       name, *n);
    }
    *n -= LAST;
    if (!fg_sha256(text, *n, sha)) return fg_fail_nomem(err, name);
    if (memcmp(sha, want, sizeof sha) == 0) return FG_OK;
    return fg_fail(err, FG_ECHECKSUM, "%s: damaged, expected the SHA-256 that its last line has",
                   name);
}

static fg_status parse(parser *p, const char *text, size_t n, const char *name, fg_err *err)
{
    char head[64];
    FG_TRY(check_end(text, &n, name, err));
    const size_t n_head =
        (size_t)snprintf(head, sizeof head, "fulgur carry %d %s\n", VERSION, kind_name[p->kind]);
    if (n < n_head || memcmp(text, head, n_head) != 0) {
        return fg_fail(err, FG_EVERSION, "%s: another kind or version, expected a %s list", name,
                       kind_name[p->kind]);
    }
    size_t number = 2;
    for (const char *at = text + n_head, *end; at < text + n; at = end + 1, number++) {
        fg_err why = {0};
        end = memchr(at, '\n', (size_t)(text + n - at));
        if (end != NULL && parse_line(p, (line){at, end}, &why)) continue;
        if (why.code == FG_ENOMEM) return fg_fail_nomem(err, name);
        return fg_fail(err, FG_EFORMAT, "%s: line %zu, expected a line of a %s list in its order",
                       name, number, kind_name[p->kind]);
    }
    const bool names = p->kind == FG_CARRY_RECEIVED || (p->l->name[0] != '\0' && p->l->n_file > 0);
    const bool parties = p->has_sender == (p->kind != FG_CARRY_RECEIVER) &&
                         p->has_receiver == (p->kind != FG_CARRY_MANIFEST);
    if (p->has_id && parties && p->has_blocks && names) return FG_OK;
    return fg_fail(err, FG_EFORMAT,
                   "%s: no transfer, sender, receiver, name, file or blocks, expected all", name);
}

fg_status fg_carry_list_parse(fg_carry_list *l, fg_carry_kind kind, const char *text, size_t n,
                              const char *name, fg_err *err)
{
    parser p = {.l = l, .kind = kind};
    const fg_status st = parse(&p, text, n, name, err);
    if (st != FG_OK) fg_carry_list_fini(l);
    return st;
}

fg_status fg_carry_list_same(const fg_carry_list *l, const char *name, const fg_carry_list *mine,
                             const char *whose, fg_err *err)
{
    char a[FG_CARRY_ID_CHARS], b[FG_CARRY_ID_CHARS];
    if (memcmp(l->id, mine->id, sizeof l->id) == 0 && l->n_block == mine->n_block) return FG_OK;
    fg_hex(l->id, sizeof l->id, a);
    fg_hex(mine->id, sizeof mine->id, b);
    return fg_fail(err, FG_EFORMAT, "%s: of transfer %.8s, expected %.8s of %s", name, a, b, whose);
}

/* --- places --- */

const fg_carry_file *fg_carry_list_file_of(const fg_carry_list *l, uint64_t block)
{
    size_t i = 0;
    while (block >= l->file[i].first + l->file[i].n_block) i++;
    return &l->file[i];
}

uint64_t fg_carry_list_bytes_of(const fg_carry_list *l, uint64_t block)
{
    const fg_carry_file *f = fg_carry_list_file_of(l, block);
    const uint64_t left = f->data - (block - f->first) * FG_BLOCK_BYTES;
    return left < FG_BLOCK_BYTES ? left : FG_BLOCK_BYTES;
}

uint64_t fg_carry_list_place(const fg_carry_list *l, const fg_carry_file *f, uint64_t at,
                             uint64_t *run)
{
    const fg_carry_extent *x = l->extent + f->extent;
    size_t lo = 0, hi = f->n_extent; /* the last one that begins at or before it */
    while (hi - lo > 1) {
        const size_t mid = lo + (hi - lo) / 2;
        if (x[mid].at <= at) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    *run = x[lo].bytes - (at - x[lo].at);
    return x[lo].offset + (at - x[lo].at);
}

uint64_t fg_carry_list_sum(const fg_carry_list *l, fg_block_state state)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < l->n_file; i++) {
        const fg_carry_file *f = &l->file[i];
        for (uint64_t b = f->first; b < f->first + f->n_block; b++)
            if (l->block[b] == state) sum += fg_carry_list_bytes_of(l, b);
    }
    return sum;
}
