/* SPDX-License-Identifier: MIT
 *
 * What a conversion says: no tokenizer, links that stay, zeros, a text that is none, files that are
 * not what their names say.  Each with a control that says nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/convert.h"
#include "convert/dry_run.h"
#include "convert/metadata.h"
#include "convert/source/hf_config.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/mistaken.h"
#include "src/base/utf8.h"
#include "src/format/reader.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"

static char said[4096];
static int n_said;

static void hear(void *ctx, const char *text)
{
    (void)ctx;
    const size_t at = strlen(said);
    n_said++;
    (void)snprintf(said + at, sizeof said - at, "%s\n", text);
}

static ckpt model;
static char src[512], out[512];

/* A checkpoint of three shards with a tokenizer. */
static fg_convert_opts prepare(const char *name)
{
    ckpt_fini(&model);
    ckpt_init_large(&model);
    ckpt_spread(&model, 3);
    (void)snprintf(src, sizeof src, "%s", ckpt_dir(name));
    ckpt_write(&model, src);
    ckpt_put_tokenizer(src);
    (void)snprintf(out, sizeof out, "%s", fg_test_tmp("notices.fulgur"));
    (void)remove(out);
    return (fg_convert_opts){
        .src_dir = src, .out_path = out, .n_thread = 1, .warn = hear, .checkpoint_bytes = 200000};
}

static fg_status convert(const fg_convert_opts *o, fg_convert_report *r, fg_err *err)
{
    said[0] = '\0';
    n_said = 0;
    *err = (fg_err){0};
    return fg_convert(o, r, err);
}

static fg_status dry(const fg_convert_opts *o, fg_dry_run *f, fg_err *err)
{
    said[0] = '\0';
    n_said = 0;
    return fg_convert_dry_run(o, f, err);
}

static char *in_src(const char *name)
{
    static char path[1024];
    (void)snprintf(path, sizeof path, "%s/%s", src, name);
    return path;
}

FG_TEST(a_missing_tokenizer_is_said_before)
{
    static fg_dry_run f;
    fg_err err;
    fg_convert_opts o = prepare("tokenizer");
    CHECK_OK(convert(&o, NULL, &err), &err);
    CHECK(n_said == 0);
    CHECK(dry(&o, &f, &err) == FG_OK && f.has_tokenizer && n_said == 0);
    REQUIRE(remove(in_src("tokenizer.json")) == 0);
    CHECK(dry(&o, &f, &err) == FG_OK && !f.has_tokenizer && n_said == 1);
    CHECK(strstr(said, "no tokenizer.json") != NULL);
    CHECK(convert(&o, NULL, &err) == FG_OK && n_said == 1 && strstr(said, "tokenizer") != NULL);
    o.delete_consumed = true;
    (void)remove(out);
    CHECK(dry(&o, &f, &err) == FG_EINVAL && strstr(err.msg, "tokenizer.json") != NULL);
    CHECK(convert(&o, NULL, &err) == FG_EINVAL && !fg_io_exists(out));
    CHECK(ckpt_count_files(src) == 5); /* configuration, index, shards */
}

FG_TEST(a_tokenizer_can_be_added_later)
{
    fg_err err;
    fg_model_file *f;
    const char *text;
    size_t n;
    fg_convert_opts o = prepare("added");
    static const char own_config[] = "{\"chat_template\": \"x\"}";
    ckpt_put_file(src, "tokenizer_config.json", own_config, sizeof own_config - 1);
    const char *with = fg_test_tmp("with.fulgur");
    o.out_path = with;
    REQUIRE_OK(convert(&o, NULL, &err), &err);
    REQUIRE(rename(in_src("tokenizer.json"), fg_test_tmp("kept.json")) == 0);
    REQUIRE(remove(in_src("tokenizer_config.json")) == 0);
    o.out_path = out;
    REQUIRE_OK(convert(&o, NULL, &err), &err);
    /* none to add: nothing changes */
    CHECK(fg_metadata_store_tokenizer(src, out, &err) == FG_EIO &&
          strstr(err.msg, "tokenizer.json") != NULL);
    /* one of another vocabulary, a broken one */
    ckpt_put_file(src, "tokenizer.json", "<!DOCTYPE html><p>", 18);
    CHECK(fg_metadata_store_tokenizer(src, out, &err) == FG_EFORMAT &&
          strstr(err.msg, "web page") != NULL);
    REQUIRE_OK(fg_model_file_open(&f, out, &err), &err);
    CHECK(fg_model_file_meta(f, "tokenizer.json", &text, &n, &err) == FG_OK && text == NULL);
    fg_model_file_close(&f);
    /* the right one */
    REQUIRE(rename(fg_test_tmp("kept.json"), in_src("tokenizer.json")) == 0);
    ckpt_put_file(src, "tokenizer_config.json", own_config, sizeof own_config - 1);
    for (int i = 0; i < 2; i++) { /* and once more in its place */
        CHECK_OK(fg_metadata_store_tokenizer(src, out, &err), &err);
        REQUIRE_OK(fg_model_file_open(&f, out, &err), &err);
        CHECK(fg_model_file_meta(f, "tokenizer_config.json", &text, &n, &err) == FG_OK);
        CHECK(n == sizeof own_config - 1 && memcmp(text, own_config, n) == 0);
        CHECK(fg_model_file_meta(f, "tokenizer.json", &text, &n, &err) == FG_OK && n > 1000);
        CHECK_OK(fg_model_file_verify(f, NULL, NULL, &err), &err);
        CHECK_U64(fg_model_file_n_meta(f), 6); /* configuration, recipe, provenance, sha256 */
        fg_model_file_close(&f);
    }
    CHECK(fg_metadata_store_tokenizer(src, in_src("config.json"), &err) != FG_OK);
    (void)remove(with);
}

FG_TEST(links_are_named_before)
{
    static fg_dry_run f;
    fg_err err;
    fg_convert_report r;
    char path[1024], blob[1024], name[256];
    fg_convert_opts o = prepare("links");
    const char *cache = ckpt_dir("links-cache");
    for (uint32_t s = 0; s < 2; s++) {
        ckpt_shard_name(&model, s, name, sizeof name);
        (void)snprintf(path, sizeof path, "%s/%s", src, name);
        (void)snprintf(blob, sizeof blob, "%s/blob%u", cache, s);
        if (s == 0) REQUIRE(rename(path, blob) == 0 && symlink(blob, path) == 0);
        if (s == 1) REQUIRE(link(path, blob) == 0);
    }
    CHECK(dry(&o, &f, &err) == FG_OK && f.n_link == 0 && n_said == 0); /* control */
    o.delete_consumed = true;
    CHECK(dry(&o, &f, &err) == FG_OK && f.n_link == 2 && n_said == 1);
    CHECK(strstr(said, "2 of 3 shards are links") != NULL);
    ckpt_shard_name(&model, 0, name, sizeof name);
    CHECK(strstr(said, name) != NULL);
    CHECK(convert(&o, &r, &err) == FG_OK && n_said == 1 && r.n_left_alone == 2 && r.n_deleted == 1);
}

static void clear(const char *name)
{
    ckpt_tensor *t = ckpt_get(&model, name);
    memset(t->data, 0, (size_t)t->bytes);
}

FG_TEST(zeros_are_named)
{
    static const char *const some[] = {"model.layers.0.block_sparse_moe.experts.1.w2.weight",
                                       "model.layers.0.block_sparse_moe.gate.weight",
                                       "model.layers.1.self_attn.q_proj.weight"};
    static const char *const vital[] = {"model.embed_tokens.weight", "lm_head.weight",
                                        "model.norm.weight",
                                        "model.layers.0.self_attn.norm.weight"};
    fg_err err;
    fg_convert_report r;
    fg_convert_opts o = prepare("zeros");
    CHECK(convert(&o, &r, &err) == FG_OK && r.n_zero == 0 && n_said == 0);
    for (int i = 0; i < 3; i++) clear(some[i]);
    ckpt_write(&model, src);
    for (int type = 0; type < 2; type++) {
        o.type = type == 0 ? "q4" : "f32";
        CHECK(convert(&o, &r, &err) == FG_OK && r.n_zero == 3 && n_said == 2);
        CHECK(strstr(said, "3 matrices are zero throughout") != NULL);
        for (int i = 0; i < 3; i++) CHECK(strstr(said, some[i]) != NULL);
    }
    o.type = NULL;
    for (int i = 0; i < 4; i++) {
        o = prepare("zeros");
        clear(vital[i]);
        ckpt_write(&model, src);
        o.delete_consumed = true;
        CHECK(convert(&o, &r, &err) == FG_EDATA && strstr(err.msg, vital[i]) != NULL);
        CHECK(strstr(err.msg, "zero throughout") != NULL && !fg_io_exists(out));
        char part[600];
        (void)snprintf(part, sizeof part, "%s.part", out);
        (void)remove(part);
        (void)strcat(part, ".journal");
        (void)remove(part);
    }
    /* one weight is enough */
    o = prepare("zeros");
    clear(vital[0]);
    ckpt_set(ckpt_get(&model, vital[0]), 777, 0.5f);
    ckpt_write(&model, src);
    CHECK(convert(&o, &r, &err) == FG_OK && r.n_zero == 0 && n_said == 0);
}

/* --- files that are not what their names say --- */

static const struct {
    const char *bytes;
    size_t n;
    const char *what;
} kinds[] = {
#define KIND(bytes, what)                                                                          \
    {                                                                                              \
        bytes, sizeof(bytes) - 1, what                                                             \
    }
    KIND("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n", "Git LFS"),
    KIND("/annex/objects/SHA256E-s12--aa.json\n", "git-annex"),
    KIND("<!DOCTYPE html>\n<html><title>Sign in</title></html>", "web page"),
    KIND("\n  <HTML lang=en><head>", "web page"),
    KIND("\xef\xbb\xbf<html>", "web page"),
    KIND("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "XML"),
    KIND("<Error><Code>NoSuchKey</Code></Error>", "XML"),
    KIND("Access denied\n", "error message"),
    KIND("Entry not found", "error message"),
    KIND("{\"error\":\"Invalid credentials\"", "error message"),
    KIND("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\x4c\x4a", "gzip"),
    KIND("\x28\xb5\x2f\xfd\x04\x58\x19\x00\x00", "zstd"),
    KIND("PK\x03\x04\x00\x00\x08\x08\x00\x00", "zip archive"),
    KIND("\x80\x02}q\x00(X\x05\x00\x00\x00a.", "pickle"),
    KIND("\xff\xfe{\x00\"\x00", "UTF-16"),
    KIND("", "empty file"),
#undef KIND
};

FG_TEST(mistaken_files_are_named)
{
    static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "model.safetensors.index.json", NULL};
    fg_err err;
    char name[256];
    for (size_t f = 0; f < 5; f++) {
        const fg_convert_opts o = prepare("mistaken");
        ckpt_shard_name(&model, 1, name, sizeof name);
        const char *file = files[f] == NULL ? name : files[f];
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
            ckpt_put_file(src, file, kinds[i].bytes, kinds[i].n);
            const fg_status st = convert(&o, NULL, &err);
            if (st != FG_EFORMAT || strstr(err.msg, kinds[i].what) == NULL ||
                strstr(err.msg, file) == NULL) {
                fg_test_fail(__FILE__, __LINE__, "%s as %s: %s", file, kinds[i].what, err.msg);
            }
            CHECK(!fg_io_exists(out));
        }
    }
    const fg_convert_opts o = prepare("mistaken");
    ckpt_put_file(src, "chat_template.jinja", "<html>", 6);
    CHECK(convert(&o, NULL, &err) == FG_EFORMAT && strstr(err.msg, "web page") != NULL);
    /* controls: a template may begin with markup; what is merely damaged is not called a page */
    ckpt_put_file(src, "chat_template.jinja", "<h{{ x }}>", 10);
    CHECK_OK(convert(&o, NULL, &err), &err);
    ckpt_put_file(src, "config.json", "{\"a\": ", 6);
    CHECK(convert(&o, NULL, &err) == FG_EFORMAT && strstr(err.msg, "not JSON") != NULL);
    /* a configuration alone: a shard, and one that is too long */
    fg_shape shape;
    char *path = fg_io_join(src, "config.json");
    ckpt_put_file(src, "config.json", "\x40\0\0\0\0\0\0\0{\"a", 11);
    CHECK(fg_hf_config_load(&shape, path, NULL, NULL, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "safetensors data, expected a configuration") != NULL);
    CHECK(truncate(path, (1 << 20) + 1) == 0);
    CHECK(fg_hf_config_load(&shape, path, NULL, NULL, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "safetensors data") != NULL);
    ckpt_put_file(src, "config.json", " ", 1);
    CHECK(truncate(path, (1 << 20) + 1) == 0);
    CHECK(fg_hf_config_load(&shape, path, NULL, NULL, &err) == FG_ELIMIT);
    fg_mem_free(path);
    /* a shard that is a page is no reason to wait for it, a header that never comes is */
    CHECK(fg_mistaken_kind((const uint8_t *)"\x40\0\0\0\0\0\0\0{\"a", 11) == NULL);
}

/* --- texts --- */

FG_TEST(what_is_not_utf8_is_counted)
{
    fg_utf8_flaws f;
    char text[200];
    fg_utf8_judge((const uint8_t *)"na\xc3\xafve \xe2\x82\xac", 10, &f);
    CHECK(!fg_utf8_describe(&f, text, sizeof text) && !fg_utf8_is_other(&f));
    fg_utf8_judge((const uint8_t *)"na\xefve \xff\xfe!", 9, &f);
    CHECK(f.n_bad == 3 && f.first == 2 && f.n_nul == 0 && f.really == NULL && fg_utf8_is_other(&f));
    CHECK(fg_utf8_describe(&f, text, sizeof text) && strstr(text, "3 of 9 bytes") != NULL);
    fg_utf8_judge((const uint8_t *)"\xff\xfeh\0i\0", 6, &f);
    CHECK(f.n_bad == 2 && f.n_nul == 2 && f.first == 0 && fg_utf8_is_other(&f));
    CHECK(fg_utf8_describe(&f, text, sizeof text) && strstr(text, "UTF-16") != NULL);
    fg_utf8_judge((const uint8_t *)"h\0e\0l\0l\0", 8, &f); /* without a mark */
    CHECK(f.n_bad == 0 && f.n_nul == 4 && f.first == 1 && fg_utf8_is_other(&f));
    CHECK(fg_utf8_describe(&f, text, sizeof text) && strstr(text, "UTF-16") != NULL);
    fg_utf8_judge((const uint8_t *)"", 0, &f);
    CHECK(!fg_utf8_describe(&f, text, sizeof text) && !fg_utf8_is_other(&f));
    uint8_t long_text[1000]; /* 1 % is the limit */
    memset(long_text, 'a', sizeof long_text);
    memset(long_text + 500, 0xff, 10);
    fg_utf8_judge(long_text, sizeof long_text, &f);
    CHECK(f.n_bad == 10 && !fg_utf8_is_other(&f) && fg_utf8_describe(&f, text, sizeof text));
    long_text[900] = 0xfe;
    fg_utf8_judge(long_text, sizeof long_text, &f);
    CHECK(f.n_bad == 11 && f.first == 500 && fg_utf8_is_other(&f));
}

FG_TEST(a_text_to_calibrate_with_is_text)
{
    static fg_dry_run f;
    fg_err err;
    fg_convert_opts o = prepare("texts");
    uint8_t text[1000];
    char path[512];
    (void)snprintf(path, sizeof path, "%s", fg_test_tmp("calib.txt"));
    o.calib_path = path;
    memset(text, 'a', sizeof text);
    ckpt_put_file(fg_test_tmpdir(), "calib.txt", text, sizeof text);
    CHECK(dry(&o, &f, &err) == FG_OK && n_said == 0);
    memset(text + 100, 0xff, 10);
    ckpt_put_file(fg_test_tmpdir(), "calib.txt", text, sizeof text);
    CHECK(dry(&o, &f, &err) == FG_OK && n_said == 1 && strstr(said, "10 of 1000 bytes") != NULL);
    memset(text + 100, 0xff, 11);
    ckpt_put_file(fg_test_tmpdir(), "calib.txt", text, sizeof text);
    CHECK(dry(&o, &f, &err) == FG_EFORMAT && strstr(err.msg, "UTF-8") != NULL);
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 2 == 0 ? 'a' : 0;
    memcpy(text, "\xff\xfe", 2);
    ckpt_put_file(fg_test_tmpdir(), "calib.txt", text, sizeof text);
    CHECK(dry(&o, &f, &err) == FG_EFORMAT && strstr(err.msg, "UTF-16") != NULL);
    ckpt_fini(&model);
}
