/* SPDX-License-Identifier: MIT
 *
 * Every row of fg_copied_files in everything that walks the table.  The rows are taken from the
 * table, so a row that is added is tested as well, and a consumer with a list of its own fails for
 * it.
 *
 * Sizes of files move in steps of 2 MiB (the data region's alignment), so each copied file is
 * padded until all of them together are just above a step and without any one of them below it.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "convert/convert.h"
#include "convert/dry_run.h"
#include "convert/metadata.h"
#include "convert/synth.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/format/reader.h"
#include "tests/ckpt.h"
#include "tests/convert/measured.h"
#include "tests/fg_test.h"
#include "tests/models.h"

#define STEP   ((size_t)2 << 20)
#define PADDED ((2 * STEP + (128 << 10)) / FG_N_COPIED)

static const char *joined(const char *dir, const char *name)
{
    static char path[8][512];
    static int next;
    next = (next + 1) % 8;
    (void)snprintf(path[next], sizeof path[0], "%s/%s", dir, name);
    return path[next];
}

/* The file of a row: the model's own, where it has one, with blanks behind it. */
static void put_file(const char *dir, const fg_copied_file *f, bool padded)
{
    static char bytes[PADDED];
    char *text = NULL;
    size_t n = 0;
    const char *own = joined(NANO_DIR, f->kind == FG_COPIED_TOKENIZER ? "tokenizer.json" : f->file);
    memset(bytes, ' ', sizeof bytes);
    if (fg_io_exists(own)) {
        if (fg_io_read_all(own, sizeof bytes, &text, &n, NULL) != FG_OK) return;
        memcpy(bytes, text, n);
        fg_mem_free(text);
    } else {
        n = 2 + strlen(f->file);
        (void)snprintf(bytes, sizeof bytes, f->kind == FG_COPIED_TEXT ? "%s" : "{\"%s\": 1}",
                       f->file); /* no two alike */
        bytes[strlen(bytes)] = ' ';
        if (f->kind != FG_COPIED_TEXT) n += 5;
    }
    ckpt_put_file(dir, f->file, bytes, padded ? sizeof bytes : n);
}

/* The nano model with every file of the table, all of them padded, and one that is in no table. */
static const char *full_folder(const char *name)
{
    const char *dir = ckpt_dir(name);
    char target[512], here[512];
    if (getcwd(here, sizeof here) == NULL) return dir;
    for (int i = -1; i < 4; i++) {
        char shard[64] = "model.safetensors.index.json";
        if (i >= 0) (void)snprintf(shard, sizeof shard, "model-%05d-of-00004.safetensors", i);
        (void)snprintf(target, sizeof target, "%.200s/%s/%s", here, NANO_DIR, shard);
        CHECK(symlink(target, joined(dir, shard)) == 0);
    }
    for (size_t i = 0; i < FG_N_COPIED; i++) put_file(dir, &fg_copied_files[i], true);
    ckpt_put_file(dir, "notes.json", "{}", 2);
    return dir;
}

static uint64_t planned_bytes(const char *dir)
{
    fg_file_plan *p;
    bool exact;
    fg_err err = {0};
    if (fg_dry_run_plan(&p, dir, "q4", NULL, &exact, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return 0;
    }
    CHECK(exact);
    const uint64_t n = fg_file_plan_file_bytes(p);
    fg_file_plan_destroy(&p);
    return n;
}

static uint64_t dry_bytes(fg_convert_opts o)
{
    static fg_dry_run d;
    fg_err err = {0};
    if (fg_convert_dry_run(&o, &d, &err) == FG_OK) return d.file_bytes;
    fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return 0;
}

static fg_convert_opts opts_of(const char *dir, const char *out)
{
    return (fg_convert_opts){.src_dir = dir, .out_path = out, .type = "q4"};
}

static void check_key(const fg_model_file *f, const char *dir, const fg_copied_file *row)
{
    char *text = NULL;
    const char *stored;
    size_t n = 0, m = 0;
    REQUIRE(fg_io_read_all(joined(dir, row->file), STEP, &text, &n, NULL) == FG_OK);
    CHECK(n == PADDED);
    CHECK(fg_model_file_meta(f, row->key, &stored, &m, NULL) == FG_OK);
    CHECK(stored != NULL && m == n && memcmp(stored, text, n) == 0);
    fg_mem_free(text);
}

FG_TEST(a_copied_file_arrives_everywhere)
{
    const char *dir = full_folder("copied"), *out = fg_test_tmp("copied.fulgur"), *stored;
    const fg_convert_opts o = opts_of(dir, out);
    fg_convert_report r;
    fg_model_file *f;
    fg_err err = {0};
    size_t n;
    REQUIRE_OK(fg_convert(&o, &r, &err), &err);
    CHECK_U64(dry_bytes(o), r.file_bytes);
    CHECK_U64(planned_bytes(dir), r.file_bytes);
    REQUIRE_OK(fg_model_file_open(&f, out, &err), &err);
    for (size_t i = 0; i < FG_N_COPIED; i++) check_key(f, dir, &fg_copied_files[i]);
    CHECK(fg_model_file_meta(f, "notes.json", &stored, &n, &err) == FG_OK && stored == NULL);
    CHECK_U64(fg_model_file_n_meta(f),
              FG_N_COPIED + FG_N_OWN_META); /* not calibrated, but sha256 */
    fg_model_file_close(&f);
}

/* The control: a file that one of them did not count would be seen in its sizes. */
FG_TEST(a_consumer_without_a_row_would_be_noticed)
{
    const char *dir = full_folder("counted");
    const fg_convert_opts o = opts_of(dir, fg_test_tmp("counted.fulgur"));
    const uint64_t all = planned_bytes(dir);
    CHECK_U64(dry_bytes(o), all);
    for (size_t i = 0; i < FG_N_COPIED; i++) {
        put_file(dir, &fg_copied_files[i], false);
        CHECK_U64(planned_bytes(dir), all - STEP);
        CHECK_U64(dry_bytes(o), all - STEP);
        put_file(dir, &fg_copied_files[i], true);
    }
}

FG_TEST(no_copied_file_is_written_over)
{
    const char *dir = full_folder("kept");
    static fg_dry_run d;
    fg_err err = {0};
    for (size_t i = 0; i < FG_N_COPIED; i++) {
        const fg_convert_opts o = opts_of(dir, joined(dir, fg_copied_files[i].file));
        CHECK(fg_convert(&o, NULL, &err) == FG_EINVAL && strstr(err.msg, "the same file") != NULL);
    }
    const fg_convert_opts o = opts_of(dir, joined(dir, "notes.json")); /* in no table */
    CHECK_OK(fg_convert_dry_run(&o, &d, &err), &err);
}

/* A budget that is nearly used up without a file must choose smaller types with it: one that did
 * not count the file would choose as before, and be above by a step of 2 MiB. */
FG_TEST(budgets_count_every_copied_file)
{
    const char *dir = full_folder("paid");
    fg_file_plan *p;
    bool exact;
    fg_err err = {0};
    REQUIRE_OK(fg_dry_run_plan(&p, dir, "q4", NULL, &exact, &err), &err);
    const char *s = sensitivity_file(fg_file_plan_shape(p), 9, NULL, NULL);
    const uint64_t enough = fg_file_plan_file_bytes(p) + 2 * STEP;
    fg_file_plan_destroy(&p);
    fg_convert_opts o = opts_of(dir, fg_test_tmp("paid.fulgur"));
    o.type = NULL;
    o.sensitivity_path = s;
    for (size_t i = 0; i < FG_N_COPIED; i++) {
        put_file(dir, &fg_copied_files[i], false);
        o.target_bytes = enough;
        o.target_bytes = dry_bytes(o) + STEP - 4096;
        const uint64_t without = dry_bytes(o);
        CHECK(without <= o.target_bytes && without + STEP > o.target_bytes); /* the control */
        put_file(dir, &fg_copied_files[i], true);
        const uint64_t with = dry_bytes(o);
        CHECK(with > 0 && with <= o.target_bytes);
    }
}

FG_TEST(synth_copies_what_the_table_says)
{
    const char *dir = full_folder("synth"), *out = fg_test_tmp("synth.fulgur"), *stored;
    const fg_synth_opts o = {
        .out_path = out, .shape = NANO_DIR "/config.json", .n_layer = 2, .tokenizer_dir = dir};
    fg_model_file *f;
    fg_err err = {0};
    size_t n, copied = 0;
    REQUIRE_OK(fg_synth(&o, NULL, &err), &err);
    REQUIRE_OK(fg_model_file_open(&f, out, &err), &err);
    for (size_t i = 0; i < FG_N_COPIED; i++) {
        const fg_copied_file *row = &fg_copied_files[i];
        CHECK_OK(fg_model_file_meta(f, row->key, &stored, &n, &err), &err);
        if (row->in_synth) check_key(f, dir, row);
        if (!row->in_synth) CHECK(stored == NULL || n != PADDED); /* config.json is its own */
        copied += row->in_synth;
    }
    CHECK(copied > 0 && copied < FG_N_COPIED);
    fg_model_file_close(&f);
}
