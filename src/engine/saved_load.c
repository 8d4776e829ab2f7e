/* SPDX-License-Identifier: MIT
 *
 * Opening a saved session: whose it is, and its state from the newest parts that are whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/engine/engine_impl.h"
#include "src/engine/kv.h"
#include "src/engine/saved_impl.h"

typedef unsigned long long ull;

void fg_saved_tell(const fg_saved *k, const char *fmt, ...)
{
    char text[512], line[600];
    va_list ap;
    if (k->o.note == NULL) return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)snprintf(line, sizeof line, "session %s: %s", k->folder.name, text);
    k->o.note(k->o.ctx, line);
}

/* ---- whose it is ---- */

/* What the session's engine is. */
static fg_status model_of(fg_saved_model *out, fg_session *s, fg_err *err)
{
    const fg_engine *e = fg_session_engine(s);
    const fg_model_file *f = fg_engine_file(e);
    const char *path = fg_model_file_path(f), *slash = strrchr(path, '/'), *text;
    size_t n;
    fg_state *st;
    FG_TRY(fg_session_state(s, &st, err));
    FG_TRY(fg_model_file_meta(f, "tokenizer.json", &text, &n, err));
    *out = (fg_saved_model){
        .data_root = fg_model_file_data_root(f),
        .tokenizer = text == NULL ? 0 : fg_hash64(text, n),
        .kv = st->kv_type,
        .kv_numerics = fg_kv_numerics(st->kv_type),
    };
    (void)snprintf(out->name, sizeof out->name, "%s", slash == NULL ? path : slash + 1);
    return FG_OK;
}

static bool is_same(const fg_saved_model *a, const fg_saved_model *b)
{
    return a->data_root == b->data_root && a->kv == b->kv && a->kv_numerics == b->kv_numerics;
}

/* Says in what the two differ; all of it is a matter of evaluating the ids again, but for other
 * tokens. */
static fg_status refuse(const fg_saved *k, const fg_saved_model *now, fg_err *err)
{
    const fg_saved_model *was = &k->h.open.model;
    const char *name = k->folder.name;
    const size_t n = k->h.n_id;
    if (was->tokenizer != now->tokenizer) {
        return fg_fail(err, FG_ENOTSUP,
                       "session %s: of the model %s (%016llx) with another tokenizer, expected %s "
                       "(%016llx)",
                       name, was->name, (ull)was->data_root, now->name, (ull)now->data_root);
    }
    if (was->data_root != now->data_root) {
        return fg_fail(err, FG_ENOTSUP,
                       "session %s: of the model %s (%016llx), expected %s (%016llx); --rebuild "
                       "evaluates its %zu tokens again",
                       name, was->name, (ull)was->data_root, now->name, (ull)now->data_root, n);
    }
    if (was->kv != now->kv) {
        return fg_fail(err, FG_ENOTSUP,
                       "session %s: with a key-value cache of %s, expected %s; --rebuild evaluates "
                       "its %zu tokens again",
                       name, fg_kv_type_name(was->kv), fg_kv_type_name(now->kv), n);
    }
    return fg_fail(err, FG_ENOTSUP,
                   "session %s: by version %u of the numerics of %s, expected %u; --rebuild "
                   "evaluates its %zu tokens again",
                   name, was->kv_numerics, fg_kv_type_name(now->kv), now->kv_numerics, n);
}

/* ---- its state ---- */

static bool show_bytes(void *ctx, uint64_t done, uint64_t total)
{
    const fg_saved *k = ctx;
    return k->o.progress(k->o.ctx, false, done, total);
}

static fg_bulk loading(fg_saved *k, fg_state *st)
{
    fg_bulk p = fg_saved_bulk(k, st);
    if (k->o.progress != NULL) {
        p.progress = show_bytes;
        p.ctx = k;
    }
    return p;
}

/* Blocks that the newest snapshot needs; from the first damaged one on they are forgotten. */
static fg_status load_blocks(fg_saved *k, const fg_bulk *p, fg_err *err)
{
    fg_history *h = &k->h;
    const uint64_t n = h->n_mark == 0 ? 0 : h->mark[h->n_mark - 1].pos / FG_STATE_BLOCK;
    uint64_t good = 0;
    fg_err bad = {0};
    if (n == 0) return FG_OK;
    FG_TRY(fg_io_open_own(&k->kv_fd, k->folder.kv_path, false, err));
    if (k->kv_fd < 0) {
        (void)fg_fail(&bad, FG_EIO, "%s: not there, expected the blocks of %llu tokens",
                      k->folder.kv_path, (ull)(n * FG_STATE_BLOCK));
    } else {
        FG_TRY(fg_bulk_read_blocks(p, k->kv_fd, k->folder.kv_path, n, h->block, &good, &bad));
    }
    if (good < n) fg_saved_tell(k, "%s", bad.msg);
    if (good < h->n_block && good < n) h->n_block = (size_t)good;
    for (size_t i = h->n_mark; i > 0; i--) { /* without their blocks they are of no use */
        if (h->mark[i - 1].pos / FG_STATE_BLOCK > h->n_block) FG_TRY(fg_saved_drop(k, i - 1, err));
    }
    return FG_OK;
}

static fg_status load_parts(fg_saved *k, fg_err *err)
{
    fg_state *st;
    fg_history *h = &k->h;
    FG_TRY(fg_session_state(k->s, &st, err));
    const fg_bulk p = loading(k, st);
    FG_TRY(load_blocks(k, &p, err));
    for (size_t i = h->n_mark; i > 0; i--) {
        const fg_log_mark m = h->mark[i - 1];
        fg_err bad = {0};
        if (m.pos >= h->n_id) continue; /* would leave no token to be evaluated, for its logits */
        char *path = fg_folder_snapshot(&k->folder, m.number, false);
        if (path == NULL) return fg_fail_nomem(err, k->folder.path);
        const fg_status code = fg_bulk_read_snapshot(&p, path, m.pos, m.root, &bad);
        fg_mem_free(path);
        if (code == FG_OK) {
            fg_session_put(k->s, h->id, m.pos, 0);
            return FG_OK;
        }
        if (code == FG_ENOMEM || code == FG_ECANCEL) {
            if (err != NULL) *err = bad;
            return code;
        }
        fg_saved_tell(k, "%s", bad.msg);
        FG_TRY(fg_saved_drop(k, i - 1, err));
    }
    fg_session_reset(k->s);
    return FG_OK;
}

/* The ids behind the state; a long way is saved now and then, and goes on there if it is cut. */
static fg_status evaluate_rest(fg_saved *k, fg_err *err)
{
    const uint64_t from = fg_session_pos(k->s), end = k->h.n_id;
    bool told = false; /* a full disk is no reason not to open it */
    k->save_pos = from;
    for (uint64_t at = from; at < end;) {
        const size_t n = (size_t)fg_saved_slice(k, end - at);
        if (k->o.progress != NULL && !k->o.progress(k->o.ctx, true, at - from, end - from)) {
            return fg_fail(err, FG_ECANCEL,
                           "session %s: cancelled after %llu tokens, expected %llu", k->folder.name,
                           (ull)at, (ull)end);
        }
        FG_TRY(fg_session_eval(k->s, k->h.id + at, n, NULL, NULL, err));
        at += n;
        fg_err bad = {0};
        if (fg_saved_keep_parts(k, &bad) != FG_OK && !told) {
            fg_saved_tell(k, "%s", bad.msg);
            told = true;
        }
    }
    if (k->o.progress != NULL && end > from) {
        (void)k->o.progress(k->o.ctx, true, end - from, end - from);
    }
    return FG_OK;
}

/* Blocks and snapshots are another one's: the log says so before they go. */
static fg_status take_over(fg_saved *k, const fg_saved_model *now, fg_err *err)
{
    k->h.open.model = *now;
    k->h.open.row_bytes = fg_state_row_bytes(k->shape, now->kv);
    k->h.open.image_bytes = fg_state_light_bytes(k->shape);
    k->h.open.n_ctx = fg_session_n_ctx(k->s);
    k->h.n_mark = k->h.n_block = 0;
    if (!fg_log_put_open(&k->log, &k->h.open)) return fg_fail_nomem(err, k->folder.path);
    FG_TRY(fg_saved_commit(k, err));
    fg_folder_clean(&k->folder, NULL);
    return FG_OK;
}

/* State and ids of a session from its files. */
static fg_status load(fg_saved *k, fg_err *err)
{
    fg_saved_model now;
    const uint64_t n = k->h.n_id, room = fg_session_n_ctx(k->s);
    FG_TRY(model_of(&now, k->s, err));
    const bool same = is_same(&k->h.open.model, &now);
    if (!same && (!k->o.rebuild || k->h.open.model.tokenizer != now.tokenizer)) {
        return refuse(k, &now, err);
    }
    if (n > room) {
        return fg_fail(err, FG_ELIMIT,
                       "session %s: %llu tokens, expected at most the %llu of the context; try a "
                       "larger one",
                       k->folder.name, (ull)n, (ull)room);
    }
    if (k->h.goes_on) {
        fg_saved_tell(k, "%s: record %llu is damaged, and the %llu bytes from there on are lost",
                      k->folder.log_path, (ull)k->h.n_record, (ull)k->h.n_after);
    } else if (k->h.n_after > 0) {
        fg_saved_tell(k, "%s: the last write was not finished, and its %llu bytes are lost",
                      k->folder.log_path, (ull)k->h.n_after);
    }
    fg_session_reset(k->s);
    if (same) {
        FG_TRY(load_parts(k, err));
    } else {
        FG_TRY(take_over(k, &now, err));
    }
    return evaluate_rest(k, err);
}

/* ---- opening ---- */

/* Whether the file holds what lies behind the damaged record: it was opened before, and nothing was
 * written since. */
static bool has_lost(const fg_saved *k, const char *path)
{
    char *text;
    size_t n;
    if (fg_io_read_all(path, k->h.n_after, &text, &n, NULL) != FG_OK) return false;
    const bool same = n == k->h.n_after && memcmp(text, k->h.bytes + k->h.end, n) == 0;
    fg_mem_free(text);
    return same;
}

/* What lies behind a damaged record is kept for who knows more: as "log.lost", of later damages
 * with a number. */
static fg_status keep_lost(const fg_saved *k, fg_err *err)
{
    fg_new_file f;
    char name[32] = "log.lost", *path = fg_io_join(k->folder.path, name);
    for (unsigned i = 1; path != NULL && fg_io_is_named(path); i++) {
        const bool kept = has_lost(k, path);
        fg_mem_free(path);
        if (kept) return FG_OK;
        (void)snprintf(name, sizeof name, "log.lost.%u", i);
        path = fg_io_join(k->folder.path, name);
    }
    if (path == NULL) return fg_fail_nomem(err, k->folder.path);
    fg_status st = fg_new_file_open(&f, path, err);
    if (st == FG_OK) {
        const size_t n = (size_t)k->h.n_after;
        if (fwrite(k->h.bytes + k->h.end, 1, n, f.f) != n) {
            st = fg_fail(err, FG_EIO, "%s: %s, expected to write it", path, strerror(errno));
        }
        if (st == FG_OK) st = fg_new_file_commit(&f, err);
        fg_new_file_close(&f);
    }
    fg_mem_free(path);
    return st;
}

/* A new log, with what the session holds. */
static fg_status begin(fg_saved *k, fg_err *err)
{
    fg_log_open *o = &k->h.open;
    FG_TRY(model_of(&o->model, k->s, err));
    o->row_bytes = fg_state_row_bytes(k->shape, o->model.kv);
    o->image_bytes = fg_state_light_bytes(k->shape);
    o->n_ctx = fg_session_n_ctx(k->s);
    if (getrandom(&o->id, sizeof o->id, 0) != (ssize_t)sizeof o->id) o->id = fg_clock_ns();
    if (!fg_log_put_open(&k->log, o)) return fg_fail_nomem(err, k->folder.path);
    FG_TRY(fg_saved_commit(k, err));
    return fg_io_sync_parent(k->folder.log_path, err);
}

static fg_status open_log(fg_saved *k, fg_err *err)
{
    int fd;
    const fg_saved_opts *o = &k->o;
    const char *name = k->folder.name;
    FG_TRY(fg_folder_lock(&k->folder, false, &fd, err));
    if (fd < 0 && o->must_exist) {
        return fg_fail(err, FG_EINVAL, "session %s: not there, expected one in %s", name,
                       k->folder.dir);
    }
    if (fd < 0) {
        FG_TRY(fg_folder_make(&k->folder, err));
        FG_TRY(fg_folder_lock(&k->folder, true, &fd, err));
    }
    fg_status st = fg_history_read(&k->h, k->folder.log_path, fd, err);
    if (st == FG_OK && k->h.is_begun && o->must_be_new) {
        st = fg_fail(err, FG_EINVAL, "session %s: there is one, expected a new name", name);
    }
    if (st == FG_OK) st = fg_log_start(&k->log, fd, k->folder.log_path, &k->h, err);
    if (st != FG_OK && k->log.path == NULL) (void)close(fd);
    return st;
}

static fg_status open_files(fg_saved *k, fg_err *err)
{
    FG_TRY(open_log(k, err));
    if (k->h.goes_on) FG_TRY(keep_lost(k, err));
    const bool begun = k->h.is_begun;
    if (begun) {
        fg_folder_clean(&k->folder, &k->h);
    } else {
        FG_TRY(begin(k, err));
    }
    fg_mem_free(k->h.bytes); /* with what points into it */
    k->h.bytes = NULL;
    k->h.n_event = 0;
    k->h.state = NULL;
    return begun ? load(k, err) : FG_OK;
}

fg_status fg_saved_open(fg_saved **out, fg_session *s, const char *dir, const char *name,
                        const fg_saved_opts *o, fg_err *err)
{
    *out = NULL;
    fg_saved *k = fg_mem_zalloc(sizeof *k);
    if (k == NULL) return fg_fail_nomem(err, "session");
    k->s = s;
    k->e = fg_session_engine(s);
    k->shape = fg_engine_shape(k->e);
    k->log.fd = k->kv_fd = -1;
    if (o != NULL) k->o = *o;
    if (k->o.bytes == 0) k->o.bytes = FG_SAVED_BYTES;
    if (k->o.log_tokens == 0) k->o.log_tokens = 64;
    if (k->o.log_ms == 0) k->o.log_ms = 30000;
    if (k->o.save_tokens == 0) k->o.save_tokens = 1024;
    if (k->o.save_ms == 0) k->o.save_ms = 600000;
    k->save_ns = fg_clock_ns();
    fg_status st = fg_folder_init(&k->folder, dir, name, err);
    if (st == FG_OK) st = open_files(k, err);
    if (st != FG_OK) {
        fg_saved_close(&k);
        return st;
    }
    k->log_pos = k->h.n_id;
    k->log_ns = k->save_ns = fg_clock_ns();
    *out = k;
    return FG_OK;
}
