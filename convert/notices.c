/* SPDX-License-Identifier: MIT
 *
 * What a conversion says besides its progress.  Whatever would be found out too late is said before
 * the first byte; by a dry run as well.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "convert/convert_impl.h"
#include "src/base/io.h"

typedef unsigned long long ull; /* for %llu */

enum {
    NAME_BYTES = 96,
    ZEROS_NAMED = 4, /* at the end; the first is named when it is met, too */
};

static void warn(const fg_run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void warn(const fg_run *r, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    if (r->opts->warn == NULL) return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->opts->warn(r->opts->ctx, text);
}

/* --- before --- */

static fg_status tell_tokenizer(fg_run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    for (size_t i = 0; i < r->out.meta.n; i++) {
        if (strcmp(r->out.meta.entry[i].key, "tokenizer.json") == 0) r->in.has_tokenizer = true;
    }
    if (r->in.has_tokenizer) return FG_OK;
    if (o->delete_consumed) {
        return fg_fail(err, FG_EINVAL,
                       "%s: no tokenizer.json, expected one beside shards that are to be deleted; "
                       "put it there or omit --delete-consumed",
                       o->src_dir);
    }
    warn(r,
         "%.150s has no tokenizer.json, so none goes into %.150s, and run, chat and score will not "
         "work; it can be added to the finished file (--only-tokenizer)",
         o->src_dir, o->out_path);
    return FG_OK;
}

static void tell_links(fg_run *r)
{
    const fg_hf_checkpoint *c = &r->in.catalog.ckpt;
    const char *first = NULL;
    struct stat sb;
    for (size_t s = 0; s < c->n_shard && r->opts->delete_consumed; s++) {
        if (lstat(c->shard[s].path, &sb) != 0 || !fg_work_is_link(&sb)) continue;
        if (first == NULL) first = c->shard_name[s];
        r->in.n_link++;
    }
    if (first == NULL) return;
    warn(r,
         "%llu of %llu shards are links, or have other links, and will not be deleted: removing "
         "them would free nothing (the first is %.150s)",
         (ull)r->in.n_link, (ull)c->n_shard, first);
}

fg_status fg_run_tell_before(fg_run *r, fg_err *err)
{
    char what[160];
    FG_TRY(tell_tokenizer(r, err));
    tell_links(r);
    if (r->opts->calib_path != NULL && fg_utf8_describe(&r->in.calib_flaws, what, sizeof what)) {
        warn(r, "%.200s: %s; each became U+FFFD", r->opts->calib_path, what);
    }
    return FG_OK;
}

/* --- zeros --- */

static void name_of(const fg_run *r, uint64_t idx, char *name)
{
    const fg_tensor *t = fg_file_plan_tensor(r->out.plan, idx);
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
}

fg_status fg_run_tell_zero(fg_run *r, uint64_t idx, fg_err *err)
{
    const fg_tensor *t = fg_file_plan_tensor(r->out.plan, idx);
    const uint32_t s = r->in.catalog.piece[fg_run_weight(r, t)].shard;
    const char *shard = r->in.catalog.ckpt.shard_name[s];
    char name[NAME_BYTES];
    name_of(r, idx, name);
    if (t->role == FG_ROLE_EMBED || t->role == FG_ROLE_LM_HEAD ||
        fg_role_is_vector((fg_role)t->role)) {
        return fg_fail(err, FG_EDATA,
                       "%s: zero throughout in %.200s, expected weights; its data may never have "
                       "come: get the shard again",
                       name, shard);
    }
    if (++r->progress.n_zero == 1) {
        warn(r, "%s is zero throughout in %.200s, as where data of a shard never came", name,
             shard);
    }
    return FG_OK;
}

void fg_run_recall_zeros(fg_run *r)
{
    const fg_file_plan *p = fg_writer_plan(r->out.writer);
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(p); i++) {
        const fg_tensor *t = fg_file_plan_tensor(p, i);
        if (!fg_writer_is_done(r->out.writer, i) || fg_role_is_vector((fg_role)t->role)) continue;
        r->progress.n_zero += t->peak == 0.0f;
    }
}

void fg_run_tell_after(const fg_run *r)
{
    const fg_file_plan *p = fg_writer_plan(r->out.writer);
    char list[ZEROS_NAMED * NAME_BYTES] = "";
    uint64_t named = 0;
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(p) && r->progress.n_zero > 0; i++) {
        const fg_tensor *t = fg_file_plan_tensor(p, i);
        char name[NAME_BYTES];
        if (fg_role_is_vector((fg_role)t->role) || t->peak != 0.0f || named++ >= ZEROS_NAMED)
            continue;
        const size_t at = strlen(list);
        name_of(r, i, name);
        (void)snprintf(list + at, sizeof list - at, "%s%s", at == 0 ? "" : ", ", name);
    }
    if (named > 0) {
        warn(r, "%llu matrices are zero throughout: %s%s", (ull)r->progress.n_zero, list,
             named > ZEROS_NAMED ? " and others" : "");
    }
    if (fg_writer_note(r->out.writer)[0] != '\0') warn(r, "%s", fg_writer_note(r->out.writer));
}

/* --- damage, a full disk --- */

void fg_run_tell_damage(void *run, uint64_t bytes, uint64_t offset)
{
    const fg_run *r = run;
    warn(
        r,
        "%.200s.part: %llu bytes, from byte %llu on, are not what was written there; they are made "
        "again",
        r->opts->out_path, (ull)bytes, (ull)offset);
}

bool fg_run_full(void *run, const char *path, uint64_t bytes)
{
    fg_run *r = run;
    uint64_t need = bytes, rest, have = 0;
    struct statvfs v;
    if (r->opts->full == NULL) return false;
    /* of the other drives of a split file only this write is known */
    const char *out = r->opts->out_path;
    if (strncmp(path, out, strlen(out)) == 0 && r->work.n > 0 &&
        fg_run_space(r, &rest, &have, NULL) == FG_OK && rest > need) {
        need = rest;
    }
    if (statvfs(path, &v) == 0) have = (uint64_t)v.f_bavail * v.f_frsize;
    return r->opts->full(r->opts->ctx, path, need, have);
}
