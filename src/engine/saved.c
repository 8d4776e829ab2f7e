/* SPDX-License-Identifier: MIT
 *
 * A saved session that goes on: what is written when.  How it is opened is in saved_load.c.
 */
#include "src/engine/saved.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/engine/engine_impl.h"
#include "src/engine/saved_impl.h"

enum {
    MAX_MARKS = 64, /* snapshots at most, whatever their size */
    RETRY_S = 10,   /* from a failed write to the next try */
};

fg_saved_sizes fg_saved_sizes_of(const fg_shape *shape, fg_kv_type kv, uint64_t pos)
{
    const uint64_t n = pos % FG_STATE_BLOCK, row = fg_state_row_bytes(shape, kv);
    return (fg_saved_sizes){
        .kv = (pos - n) * row,
        .state = fg_state_light_bytes(shape),
        .tail = n * fg_state_tail_bytes(shape),
        .rows = n * row,
        .snapshot = fg_snapshot_bytes(fg_state_image_bytes(shape, kv, pos)),
    };
}

const char *fg_saved_name(const fg_saved *k)
{
    return k->folder.name;
}

void fg_saved_close(fg_saved **out)
{
    fg_saved *k = *out;
    if (k == NULL) return;
    fg_log_fini(&k->log);
    if (k->kv_fd >= 0) (void)close(k->kv_fd);
    fg_history_fini(&k->h);
    fg_folder_fini(&k->folder);
    fg_mem_free(k->gone);
    fg_mem_free(k);
    *out = NULL;
}

fg_bulk fg_saved_bulk(const fg_saved *k, fg_state *st)
{
    return (fg_bulk){.team = k->e->team, .shape = k->shape, .state = st};
}

/* ---- the log ---- */

static fg_status forget_file(fg_saved *k, uint64_t number, fg_err *err)
{
    void *p = k->gone;
    const bool ok = fg_mem_grow(&p, &k->cap_gone, k->n_gone + 1, sizeof *k->gone);
    k->gone = p;
    if (!ok) return fg_fail_nomem(err, k->folder.path);
    k->gone[k->n_gone++] = number;
    return FG_OK;
}

fg_status fg_saved_drop(fg_saved *k, size_t mark, fg_err *err)
{
    const uint64_t number = k->h.mark[mark].number;
    FG_TRY(forget_file(k, number, err));
    if (!fg_log_put_u64(&k->log, FG_RECORD_DROP, &number, 1)) {
        k->n_gone--;
        return fg_fail_nomem(err, k->folder.path);
    }
    k->h.n_mark--;
    memmove(k->h.mark + mark, k->h.mark + mark + 1, (k->h.n_mark - mark) * sizeof *k->h.mark);
    return FG_OK;
}

static uint64_t common(const uint32_t *a, uint64_t na, const uint32_t *b, uint64_t nb)
{
    const uint64_t n = na < nb ? na : nb;
    uint64_t same = 0;
    if (n == 0 || memcmp(a, b, (size_t)n * sizeof *a) == 0) return n;
    while (a[same] == b[same]) same++;
    return same;
}

/* Ids from pos on are gone, and what they led to. */
static fg_status undo(fg_saved *k, uint64_t pos, fg_err *err)
{
    fg_history *h = &k->h;
    if (!fg_log_put_u64(&k->log, FG_RECORD_UNDO, &pos, 1)) {
        return fg_fail_nomem(err, k->folder.path);
    }
    while (h->n_mark > 0 && h->mark[h->n_mark - 1].pos > pos) {
        /* without memory the file goes when the session is opened */
        (void)forget_file(k, h->mark[--h->n_mark].number, NULL);
    }
    h->n_id = (size_t)pos;
    if (h->n_block > pos / FG_STATE_BLOCK) h->n_block = (size_t)(pos / FG_STATE_BLOCK);
    if (k->log_pos > pos) k->log_pos = pos;
    if (k->save_pos > pos) k->save_pos = pos;
    return FG_OK;
}

/* The log says what the session holds, if it has not done so, from no later than `from` on. */
static fg_status catch_up_from(fg_saved *k, uint64_t from, fg_err *err)
{
    fg_history *h = &k->h;
    const uint64_t pos = fg_session_pos(k->s);
    const uint32_t *ids = fg_session_ids(k->s);
    uint64_t same = common(h->id, h->n_id, ids, pos);
    void *p = h->id;
    const bool ok = fg_mem_grow(&p, &h->cap_id, (size_t)pos, sizeof *h->id);
    h->id = p;
    if (!ok) return fg_fail_nomem(err, k->folder.path);
    const bool on_way = same == pos && pos < k->way_to;
    if (!on_way) k->way_to = 0; /* arrived, or elsewhere */
    if (on_way) same = k->way_to < h->n_id ? k->way_to : h->n_id;
    if (same > from) same = from;
    if (same < h->n_id || from <= h->n_id) FG_TRY(undo(k, same, err));
    if (on_way && same >= pos) return FG_OK;
    if (!fg_log_put_ids(&k->log, ids, same, pos)) return fg_fail_nomem(err, k->folder.path);
    if (pos > same) memcpy(h->id + same, ids + same, (size_t)(pos - same) * sizeof *ids);
    h->n_id = (size_t)pos;
    return FG_OK;
}

/* Adds to the log what has changed since the last time. */
static fg_status catch_up(fg_saved *k, fg_err *err)
{
    return catch_up_from(k, UINT64_MAX, err);
}

fg_status fg_saved_retell(fg_saved *k, uint64_t pos, fg_err *err)
{
    return catch_up_from(k, pos, err);
}

void fg_saved_move(fg_saved *k, fg_session *s)
{
    k->s = s;
}

fg_status fg_saved_commit(fg_saved *k, fg_err *err)
{
    FG_TRY(fg_log_commit(&k->log, err));
    for (size_t i = 0; i < k->n_gone; i++) {
        char *path = fg_folder_snapshot(&k->folder, k->gone[i], false);
        if (path != NULL) (void)unlink(path); /* or when it is opened the next time */
        fg_mem_free(path);
    }
    k->n_gone = 0;
    return FG_OK;
}

fg_status fg_saved_note_at(fg_saved *k, uint64_t pos, fg_saved_kind kind, const void *payload,
                           size_t n, fg_err *err)
{
    if ((uint32_t)kind >= FG_SAVED_KIND_COUNT ||
        (kind == FG_SAVED_MESSAGE && (n == 0 || *(const uint8_t *)payload > 2))) {
        return fg_fail(err, FG_EINVAL, "session %s: a note of kind %d, expected one that there is",
                       k->folder.name, (int)kind);
    }
    FG_TRY(catch_up(k, err));
    if (pos > k->h.n_id) {
        return fg_fail(err, FG_EINVAL, "session %s: a note of position %llu, expected at most %zu",
                       k->folder.name, (unsigned long long)pos, k->h.n_id);
    }
    if (fg_log_put_at(&k->log, fg_record_of(kind), pos, payload, n)) return FG_OK;
    return fg_fail_nomem(err, k->folder.path);
}

fg_status fg_saved_note(fg_saved *k, fg_saved_kind kind, const void *payload, size_t n, fg_err *err)
{
    return fg_saved_note_at(k, fg_session_pos(k->s), kind, payload, n, err);
}

fg_status fg_saved_message_at(fg_saved *k, uint64_t pos, fg_message_role role, const char *text,
                              size_t n, fg_err *err)
{
    fg_buf b = {0};
    fg_buf_u8(&b, (uint8_t)role);
    fg_buf_put(&b, text, n);
    const fg_status st = b.failed ? fg_fail_nomem(err, k->folder.path)
                                  : fg_saved_note_at(k, pos, FG_SAVED_MESSAGE, b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

fg_status fg_saved_message(fg_saved *k, fg_message_role role, const char *text, size_t n,
                           fg_err *err)
{
    return fg_saved_message_at(k, fg_session_pos(k->s), role, text, n, err);
}

fg_status fg_saved_forced(fg_saved *k, uint64_t pos, fg_forced why, uint64_t n, fg_err *err)
{
    uint8_t le[8];
    for (int i = 0; i < 4; i++) {
        le[i] = (uint8_t)((uint32_t)why >> (8 * i));
        le[4 + i] = (uint8_t)(n >> (8 * i));
    }
    return fg_saved_note_at(k, pos, FG_SAVED_FORCED, le, sizeof le, err);
}

/* ---- snapshots ---- */

/* The snapshot whose absence is felt least: the distance between its neighbours, as a share of how
 * far back it is.  Distances thereby double on the way back.  Never the newest; the start of the
 * session is a snapshot that costs nothing. */
static size_t dearest(const fg_history *h)
{
    size_t best = 0;
    double least = 0;
    for (size_t i = 0; i + 1 < h->n_mark; i++) {
        const uint64_t before = i == 0 ? 0 : h->mark[i - 1].pos;
        const double gap = (double)(h->mark[i + 1].pos - before);
        const double back = (double)(h->mark[h->n_mark - 1].pos - h->mark[i].pos + 1);
        if (i == 0 || gap / back < least) {
            best = i;
            least = gap / back;
        }
    }
    return best;
}

static fg_status thin(fg_saved *k, fg_err *err)
{
    for (;;) {
        uint64_t bytes = 0;
        for (size_t i = 0; i < k->h.n_mark; i++) bytes += k->h.mark[i].bytes;
        if (k->h.n_mark < 2 || (bytes <= k->o.bytes && k->h.n_mark <= MAX_MARKS)) return FG_OK;
        FG_TRY(fg_saved_drop(k, dearest(&k->h), err));
    }
}

static bool has_mark(const fg_history *h, uint64_t pos)
{
    for (size_t i = 0; i < h->n_mark; i++) {
        if (h->mark[i].pos == pos) return true;
    }
    return false;
}

static fg_status note_mark(fg_saved *k, const fg_log_mark *m, fg_err *err)
{
    fg_history *h = &k->h;
    void *p = h->mark;
    const bool ok = fg_mem_grow(&p, &h->cap_mark, h->n_mark + 1, sizeof *h->mark);
    h->mark = p;
    if (!ok) return fg_fail_nomem(err, k->folder.path);
    const uint64_t v[] = {m->pos, m->number, m->root, m->bytes};
    if (!fg_log_put_u64(&k->log, FG_RECORD_MARK, v, 4)) return fg_fail_nomem(err, k->folder.path);
    size_t at = h->n_mark++;
    for (; at > 0 && h->mark[at - 1].pos > m->pos; at--) h->mark[at] = h->mark[at - 1];
    h->mark[at] = *m;
    return FG_OK;
}

/* Blocks before `pos`. */
static fg_status write_blocks(fg_saved *k, const fg_bulk *p, uint64_t pos, fg_err *err)
{
    fg_history *h = &k->h;
    const size_t first = h->n_block, end = (size_t)(pos / FG_STATE_BLOCK);
    if (end <= first) return FG_OK;
    void *grown = h->block;
    const bool ok = fg_mem_grow(&grown, &h->cap_block, end, sizeof *h->block);
    h->block = grown;
    uint64_t *v = fg_mem_zalloc_array(end - first + 1, sizeof *v);
    fg_status st = ok && v != NULL ? FG_OK : fg_fail_nomem(err, k->folder.kv_path);
    if (st == FG_OK && k->kv_fd < 0) {
        st = fg_io_open_own(&k->kv_fd, k->folder.kv_path, true, err);
    }
    if (st == FG_OK) {
        st = fg_bulk_write_blocks(p, k->kv_fd, k->folder.kv_path, first, end, v + 1, err);
    }
    if (v != NULL) v[0] = first;
    if (st == FG_OK && !fg_log_put_u64(&k->log, FG_RECORD_BLOCKS, v, end - first + 1)) {
        st = fg_fail_nomem(err, k->folder.kv_path);
    }
    if (st == FG_OK) {
        memcpy(h->block + first, v + 1, (end - first) * sizeof *v);
        h->n_block = end;
    }
    fg_mem_free(v);
    return st;
}

static fg_status write_snapshot(fg_saved *k, const fg_bulk *p, uint64_t pos, fg_err *err)
{
    fg_log_mark m = {.pos = pos, .number = k->h.next_number};
    m.bytes = fg_snapshot_bytes(fg_state_image_bytes(k->shape, p->state->kv_type, pos));
    char *part = fg_folder_snapshot(&k->folder, m.number, true),
         *path = fg_folder_snapshot(&k->folder, m.number, false);
    fg_status st = part == NULL || path == NULL ? fg_fail_nomem(err, k->folder.path) : FG_OK;
    if (st == FG_OK) st = fg_bulk_write_snapshot(p, part, pos, &m.root, err);
    if (st == FG_OK && rename(part, path) != 0) {
        st = fg_fail(err, FG_EIO, "%s: expected that it can be renamed to %s", part, path);
        (void)unlink(part);
    }
    if (st == FG_OK) st = fg_io_sync_parent(path, err);
    k->h.next_number++; /* also of what failed */
    if (st == FG_OK) st = note_mark(k, &m, err);
    fg_mem_free(part);
    fg_mem_free(path);
    return st;
}

/* Blocks and a snapshot of a session whose ids the log has, and what the log says of them: of the
 * present position, or of the boundary behind which it is. */
static fg_status write_parts(fg_saved *k, bool here, fg_err *err)
{
    fg_state *st;
    FG_TRY(fg_session_state(k->s, &st, err));
    /* The last token is evaluated again, for its logits; S is as of `folded`, and so it needs no
     * folding. */
    const uint64_t pos = here && st->pos > st->folded ? st->pos - 1 : st->folded;
    if (pos == 0 || has_mark(&k->h, pos)) {
        k->save_pos = pos;
        return FG_OK;
    }
    FG_TRY(fg_state_fetch(st, err));
    const fg_bulk p = fg_saved_bulk(k, st);
    FG_TRY(write_blocks(k, &p, pos, err));
    FG_TRY(write_snapshot(k, &p, pos, err));
    FG_TRY(thin(k, err));
    FG_TRY(fg_saved_commit(k, err));
    k->save_pos = pos;
    return FG_OK;
}

/* ---- what is due ---- */

static uint64_t apart(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

static bool is_due(uint64_t pos, uint64_t last, uint64_t tokens, uint64_t now, uint64_t last_ns,
                   uint64_t ms)
{
    return apart(pos, last) >= tokens || (pos != last && now - last_ns >= ms * 1000000);
}

/* Tokens behind a snapshot after which the next is due.  It is of the boundary behind which the
 * session is, at the first token of a chunk the one before: so snapshots come at boundaries,
 * without a tail, and whoever opens the session evaluates at most save_tokens again. */
static uint64_t due_after(const fg_saved *k)
{
    const uint64_t n = k->o.save_tokens;
    return n > 2 * FG_STATE_BLOCK ? n - FG_STATE_BLOCK : FG_STATE_BLOCK;
}

static bool save_is_due(const fg_saved *k, uint64_t now)
{
    const uint64_t n = apart(fg_session_pos(k->s), k->save_pos);
    if (n <= FG_STATE_BLOCK) return false; /* what a chunk has is soon evaluated again */
    return n > due_after(k) || now - k->save_ns >= k->o.save_ms * 1000000;
}

bool fg_saved_due(const fg_saved *k)
{
    const uint64_t now = fg_clock_ns(), pos = fg_session_pos(k->s);
    if (now < k->retry_ns) return false;
    return is_due(pos, k->log_pos, k->o.log_tokens, now, k->log_ns, k->o.log_ms) ||
           save_is_due(k, now);
}

/* A failure that is to be told, and tried again in a while. */
static fg_status later(fg_saved *k, fg_status st)
{
    k->retry_ns = st == FG_OK ? 0 : fg_clock_ns() + (uint64_t)RETRY_S * 1000000000;
    return st;
}

static fg_status write_log(fg_saved *k, const void *state, size_t n, fg_err *err)
{
    const uint64_t pos = fg_session_pos(k->s);
    FG_TRY(catch_up(k, err));
    if (state != NULL && !fg_log_put_at(&k->log, FG_RECORD_STATE, pos, state, n)) {
        return fg_fail_nomem(err, k->folder.path);
    }
    FG_TRY(fg_saved_commit(k, err));
    k->log_pos = pos;
    k->log_ns = fg_clock_ns();
    /* as long as there is nothing to be saved, its clock does not run */
    if (apart(pos, k->save_pos) <= FG_STATE_BLOCK) k->save_ns = k->log_ns;
    return FG_OK;
}

fg_status fg_saved_sync(fg_saved *k, const void *state, size_t n, fg_err *err)
{
    return later(k, write_log(k, state, n, err));
}

static fg_status save(fg_saved *k, const void *state, size_t n, bool here, fg_err *err)
{
    FG_TRY(write_log(k, state, n, err));
    FG_TRY(write_parts(k, here, err));
    k->save_ns = fg_clock_ns();
    return FG_OK;
}

fg_status fg_saved_save(fg_saved *k, const void *state, size_t n, fg_err *err)
{
    return later(k, save(k, state, n, true, err));
}

fg_status fg_saved_keep(fg_saved *k, const void *state, size_t n, fg_err *err)
{
    if (!fg_saved_due(k)) return FG_OK;
    if (save_is_due(k, fg_clock_ns())) return later(k, save(k, state, n, false, err));
    return fg_saved_sync(k, state, n, err);
}

fg_status fg_saved_keep_parts(fg_saved *k, fg_err *err)
{
    const uint64_t now = fg_clock_ns(), pos = fg_session_pos(k->s);
    if (now < k->retry_ns || !save_is_due(k, now)) return FG_OK;
    if (common(k->h.id, k->h.n_id, fg_session_ids(k->s), pos) < pos) return FG_OK;
    const fg_status st = write_parts(k, false, err);
    if (st == FG_OK) k->save_ns = fg_clock_ns();
    return later(k, st);
}

uint64_t fg_saved_slice(fg_saved *k, uint64_t left)
{
    enum { FIRST = 512 }; /* as long as nobody knows how fast it is */
    const uint64_t pos = fg_session_pos(k->s), now = fg_clock_ns(), most = due_after(k) + 1;
    const uint64_t had = apart(pos, k->save_pos), limit = k->o.save_ms * 1000000;
    if (k->slice_end == pos && pos > k->slice_pos) {
        k->token_ns = (now - k->slice_ns) / (pos - k->slice_pos);
    }
    if (had <= FG_STATE_BLOCK) k->save_ns = now;
    uint64_t n = had < most ? most - had : most; /* all of it where saving has failed */
    if (k->token_ns == 0 && n > FIRST) n = FIRST;
    if (k->token_ns > 0) {
        const uint64_t since = now - k->save_ns,
                       in_time = since < limit ? (limit - since) / k->token_ns : 0;
        if (n > in_time) n = in_time > FG_STATE_BLOCK ? in_time : FG_STATE_BLOCK;
    }
    k->slice_pos = pos;
    k->slice_ns = now;
    k->slice_end = pos + (n < left ? n : left);
    return k->slice_end - pos;
}

fg_status fg_saved_eval(fg_saved *k, const uint32_t *ids, size_t n, fg_err *err)
{
    fg_status kept = FG_OK;
    for (size_t done = 0; done < n;) {
        const size_t m = (size_t)fg_saved_slice(k, n - done);
        FG_TRY(fg_session_eval(k->s, ids + done, m, NULL, NULL, err));
        done += m;
        if (kept == FG_OK) kept = fg_saved_keep(k, NULL, 0, err);
    }
    return kept;
}

/* ---- going back ---- */

/* The newest snapshot at or before pos, of those before `end`; n_mark: there is none. */
static size_t snapshot_before(const fg_history *h, uint64_t pos, size_t end)
{
    while (end > 0 && h->mark[end - 1].pos > pos) end--;
    return end == 0 ? h->n_mark : end - 1;
}

/* Where one gets to on the way back to `to` without evaluating; *mark: the snapshot that is read
 * for it, or n_mark. */
static uint64_t start_of(const fg_saved *k, uint64_t to, size_t *mark)
{
    const fg_history *h = &k->h;
    const uint64_t same = common(h->id, h->n_id, fg_session_ids(k->s), fg_session_pos(k->s));
    const uint64_t near = fg_session_reach(k->s, to);
    *mark = snapshot_before(h, to < same ? to : same, h->n_mark);
    if (*mark == h->n_mark || h->mark[*mark].pos <= near) {
        *mark = h->n_mark;
        return near;
    }
    return h->mark[*mark].pos;
}

static bool is_there(const fg_saved *k, uint64_t pos)
{
    return pos == 0 || (pos == fg_session_pos(k->s) && fg_session_logits(k->s) != NULL);
}

uint64_t fg_saved_rewind_cost(const fg_saved *k, uint64_t pos)
{
    size_t mark;
    return is_there(k, pos) || pos > fg_session_pos(k->s) ? 0 : pos - start_of(k, pos - 1, &mark);
}

/* The session is at the position of this snapshot, whose rows of the cache it has. */
static fg_status restore(fg_saved *k, size_t mark, fg_err *err)
{
    fg_state *st;
    const fg_log_mark m = k->h.mark[mark];
    FG_TRY(fg_session_state(k->s, &st, err));
    FG_TRY(fg_state_fetch(st, err)); /* of the cache, the rows before it */
    char *path = fg_folder_snapshot(&k->folder, m.number, false);
    if (path == NULL) return fg_fail_nomem(err, k->folder.path);
    const fg_bulk p = fg_saved_bulk(k, st);
    fg_err bad = {0};
    const fg_status code = fg_bulk_read_snapshot(&p, path, m.pos, m.root, &bad);
    fg_mem_free(path);
    if (code != FG_OK) {
        fg_session_lose(k->s, &bad);
        if (err != NULL) *err = bad;
        return code;
    }
    fg_session_put(k->s, fg_session_ids(k->s), m.pos, m.pos - m.pos % FG_STATE_BLOCK);
    return FG_OK;
}

uint64_t fg_saved_reach(const fg_saved *k, uint64_t pos)
{
    size_t mark;
    return start_of(k, pos, &mark);
}

fg_status fg_saved_back(fg_saved *k, uint64_t pos, uint64_t to, uint64_t *at, fg_err *err)
{
    size_t mark;
    for (;;) { /* of damaged ones the one before: the marks in memory, or from the start */
        fg_err why = {0};
        *at = start_of(k, pos, &mark);
        if (mark == k->h.n_mark) break;
        if (restore(k, mark, &why) == FG_OK) break;
        fg_saved_tell(k, "%s", why.msg);
        FG_TRY(fg_saved_drop(k, mark, err));
    }
    if (mark == k->h.n_mark) FG_TRY(fg_session_rewind(k->s, pos, at, err));
    k->way_to = to;
    if (k->save_pos > *at) k->save_pos = *at;
    return FG_OK;
}

fg_status fg_saved_rewind(fg_saved *k, uint64_t pos, fg_err *err)
{
    uint64_t at = 0;
    if (pos > fg_session_pos(k->s)) {
        return fg_fail(err, FG_EINVAL, "session %s: position %llu, expected at most %llu",
                       k->folder.name, (unsigned long long)pos,
                       (unsigned long long)fg_session_pos(k->s));
    }
    k->way_to = pos;
    if (pos == 0) fg_session_reset(k->s);
    if (is_there(k, pos)) return FG_OK;
    uint32_t *ids = fg_mem_zalloc_array((size_t)pos, sizeof *ids);
    if (ids == NULL) return fg_fail_nomem(err, k->folder.path);
    memcpy(ids, fg_session_ids(k->s), (size_t)pos * sizeof *ids);
    fg_status st = fg_saved_back(k, pos - 1, pos, &at, err);
    if (st == FG_OK) st = fg_session_eval(k->s, ids + at, (size_t)(pos - at), NULL, NULL, err);
    fg_mem_free(ids);
    return st;
}
