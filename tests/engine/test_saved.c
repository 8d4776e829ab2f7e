/* SPDX-License-Identifier: MIT
 *
 * Sessions on disk: the same logits after any way back, on any machine; sizes, damage, refusals.
 * What a loss of power leaves is test_saved_power's.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/rng.h"
#include "src/engine/saved_impl.h"
#include "tests/engine/talk.h"

enum { N = 640 };

/* An engine, a text, the logits of a plain run, and a saved session. */
typedef struct rig {
    fg_engine *e;
    fg_session *s;
    fg_saved *k;
    uint32_t ids[N], n_vocab;
    float *want; /* [N][n_vocab] */
} rig;

static const fg_saved_opts plain = {0};

static bool rig_open_n(rig *r, const char *src, fg_kv_choice kv, size_t n_want)
{
    fg_rng g;
    fg_rng_init(&g, 17);
    *r = (rig){.e = model_open(src, "q4", 2, NULL)};
    if (r->e == NULL) return false;
    r->n_vocab = fg_engine_shape(r->e)->n_vocab;
    for (size_t i = 0; i < N; i++) r->ids[i] = (uint32_t)(fg_rng_u64(&g) % r->n_vocab);
    r->s = model_session_kv(r->e, N, 100, kv);
    if (r->s == NULL) return false;
    r->want = model_logits(r->s, r->e, r->ids, n_want, 0);
    fg_session_reset(r->s);
    return r->want != NULL;
}

static bool rig_open(rig *r, const char *src, fg_kv_choice kv)
{
    return rig_open_n(r, src, kv, N);
}

static fg_status rig_save_as(rig *r, const char *name, const fg_saved_opts *o, fg_err *err)
{
    return fg_saved_open(&r->k, r->s, fg_test_tmpdir(), name, o, err);
}

static void rig_close(rig *r)
{
    fg_saved_close(&r->k);
    fg_session_destroy(&r->s);
    free(r->want);
    fg_engine_close(&r->e);
}

static bool is_plain(const rig *r, const fg_session *s)
{
    const uint64_t pos = fg_session_pos(s);
    const float *got = fg_session_logits(s);
    return got != NULL && pos > 0 && pos <= N &&
           memcmp(got, r->want + (pos - 1) * r->n_vocab, r->n_vocab * sizeof *got) == 0;
}

static bool go_to(const rig *r, fg_session *s, uint64_t to)
{
    const uint64_t pos = fg_session_pos(s);
    return pos >= to ||
           fg_session_eval(s, r->ids + pos, (size_t)(to - pos), NULL, NULL, NULL) == FG_OK;
}

static const char *file_of(const char *name, const char *file)
{
    char text[128];
    (void)snprintf(text, sizeof text, "%s.fgs/%s", name, file);
    return fg_test_tmp(text);
}

static uint64_t size_of(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 ? (uint64_t)sb.st_size : UINT64_MAX;
}

static void flip(const char *path, uint64_t at)
{
    uint8_t b = 0;
    const int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && pread(fd, &b, 1, (off_t)at) == 1);
    b ^= 0x10;
    CHECK(pwrite(fd, &b, 1, (off_t)at) == 1);
    (void)close(fd);
}

static void remove_it(const char *name)
{
    fg_err err = {0};
    const fg_status st = fg_saved_remove(fg_test_tmpdir(), name, &err);
    CHECK(st == FG_OK || st == FG_EINVAL);
}

/* ---- sizes ---- */

FG_TEST(sizes_at_the_dimensions_of_the_release)
{
    static const struct {
        fg_kv_type kv;
        uint64_t row;
    } types[] = {{FG_KV_INT8, 21120}, {FG_KV_F16, 40960}, {FG_KV_F32, 81920}};
    fg_shape m1 = {.n_layer = 80, .n_head = 64, .n_kv_head = 8, .d_head = 128};
    for (uint32_t l = 0; l < 80; l++) m1.attn[l] = l % 8 == 7 ? FG_ATTN_SOFTMAX : FG_ATTN_LIGHTNING;
    for (size_t i = 0; i < 3; i++) {
        const fg_saved_sizes a = fg_saved_sizes_of(&m1, types[i].kv, 32768);
        CHECK_U64(a.state, 293601280);
        CHECK_U64(a.kv, 32768 * types[i].row);
        CHECK_U64(a.tail + a.rows, 0);
        CHECK_U64(a.snapshot, 4096 + 293601280 + 280 * 8);
        const fg_saved_sizes b = fg_saved_sizes_of(&m1, types[i].kv, 1000063);
        CHECK_U64(b.tail, 63 * UINT64_C(4587520));
        CHECK_U64(b.rows, 63 * types[i].row);
        CHECK_U64(b.kv, 1000000 * types[i].row);
    }
}

FG_TEST(files_have_these_sizes)
{
    static const fg_kv_choice kv[] = {FG_KV_CHOICE_INT8, FG_KV_CHOICE_F16, FG_KV_CHOICE_F32};
    static const fg_kv_type type[] = {FG_KV_INT8, FG_KV_F16, FG_KV_F32};
    fg_err err = {0};
    for (size_t i = 0; i < 3; i++) {
        rig r;
        REQUIRE(rig_open_n(&r, NANO_DIR, kv[i], 1));
        REQUIRE_OK(rig_save_as(&r, "size", &plain, &err), &err);
        REQUIRE(go_to(&r, r.s, 150));
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        const fg_saved_sizes z = fg_saved_sizes_of(fg_engine_shape(r.e), type[i], 149);
        CHECK_U64(size_of(file_of("size", "kv")), z.kv);
        CHECK_U64(size_of(file_of("size", "s.0")), z.snapshot);
        CHECK_U64(size_of(file_of("size", "s.0")),
                  4096 + z.state + z.tail + z.rows +
                      (z.state + z.tail + z.rows + 1048575) / 1048576 * 8);
        CHECK(size_of(file_of("size", "log")) % 4096 == 0 && z.rows > 0 && z.tail > 0);
        rig_close(&r);
        remove_it("size");
    }
}

/* ---- another machine ---- */

static void resume_there(const rig *r, const char *path, fg_engine_opts o, fg_kv_choice kv)
{
    fg_engine *e;
    fg_saved *k = NULL;
    fg_err err = {0};
    REQUIRE_OK(fg_engine_open(&e, path, &o, &err), &err);
    fg_session *s = model_session_kv(e, N, 64, kv);
    REQUIRE(s != NULL);
    CHECK_OK(fg_saved_open(&k, s, fg_test_tmpdir(), "away", &plain, &err), &err);
    CHECK(fg_session_pos(s) == 333 && is_plain(r, s));
    CHECK(go_to(r, s, 390) && is_plain(r, s));
    CHECK_OK(fg_saved_rewind(k, 170, &err), &err);
    CHECK(is_plain(r, s));
    fg_saved_close(&k);
    fg_session_destroy(&s);
    fg_engine_close(&e);
}

FG_TEST(goes_on_at_another_level_and_on_other_nodes)
{
    static const fg_kv_choice kv[] = {FG_KV_CHOICE_INT8, FG_KV_CHOICE_F16, FG_KV_CHOICE_F32};
    fg_err err = {0};
    for (size_t i = 0; i < 3; i++) {
        rig r;
        const char *path = model_file(TINY_DIR, "q4");
        REQUIRE(path != NULL && rig_open(&r, TINY_DIR, kv[i]));
        REQUIRE_OK(rig_save_as(&r, "away", &plain, &err), &err);
        REQUIRE(go_to(&r, r.s, 150));
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        REQUIRE(go_to(&r, r.s, 333));
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        fg_saved_close(&r.k);
        fg_engine_opts o = fg_engine_opts_default();
        o.pin = false;
        o.n_thread = i == 0 ? 1 : 3;
        o.pretend_nodes = i == 0 ? 0 : 3; /* a scalar run takes its time */
        if (i == 0) o.cpu = FG_CPU_LEVEL_SCALAR;
        resume_there(&r, path, o, kv[i]);
        rig_close(&r);
        remove_it("away");
    }
}

/* ---- back and forth ---- */

FG_TEST(undo_to_215_random_positions)
{
    rig r;
    fg_rng g;
    fg_err err = {0};
    uint64_t free_of_cost = 0, across = 0;
    fg_rng_init(&g, 8);
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    REQUIRE_OK(rig_save_as(&r, "undo", &plain, &err), &err);
    for (int i = 0; i < 215; i++) {
        const uint64_t here = fg_session_pos(r.s);
        const uint64_t to = here + fg_rng_u64(&g) % 100;
        REQUIRE(go_to(&r, r.s, to < N ? to : N));
        if (i % 2 == 0) CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        if (i % 5 == 0) CHECK_OK(fg_saved_sync(r.k, NULL, 0, &err), &err);
        const uint64_t pos = fg_session_pos(r.s),
                       at = i % 4 == 0 ? pos / 64 * 64 - (pos >= 64 ? fg_rng_u64(&g) % 2 : 0)
                                       : fg_rng_u64(&g) % (pos + 1);
        const uint64_t cost = fg_saved_rewind_cost(r.k, at);
        free_of_cost += cost <= 1;
        across += at / 64 < pos / 64;
        REQUIRE_OK(fg_saved_rewind(r.k, at, &err), &err);
        CHECK(fg_session_pos(r.s) == at && (at == 0 || is_plain(&r, r.s)));
        if (i % 9 != 0) continue; /* and it is what the next one finds */
        CHECK_OK(fg_saved_sync(r.k, NULL, 0, &err), &err);
        fg_saved_close(&r.k);
        fg_session_reset(r.s);
        REQUIRE_OK(rig_save_as(&r, "undo", &plain, &err), &err);
        CHECK(fg_session_pos(r.s) == at && (at == 0 || is_plain(&r, r.s)));
    }
    CHECK(free_of_cost > 20 && across > 50);
    CHECK_OK(fg_saved_sync(r.k, NULL, 0, &err), &err);
    fg_saved_close(&r.k);
    CHECK_OK(fg_saved_verify(fg_test_tmpdir(), "undo", NULL, NULL, NULL, &err), &err);
    rig_close(&r);
    remove_it("undo");
}

/* Who goes back and is stopped on the way has undone what is behind where he was going, and nothing
 * before it, whatever is written meanwhile. */
FG_TEST(stopped_on_the_way_back)
{
    rig r;
    fg_err err = {0};
    uint64_t at;
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    for (int told = 0; told < 2; told++) { /* control: where nobody says where it is going */
        REQUIRE_OK(rig_save_as(&r, "way", &plain, &err), &err);
        for (uint64_t to = 100; to <= 400; to += 150) {
            CHECK_OK(fg_saved_message(r.k, FG_MESSAGE_USER, "m", 1, &err), &err);
            REQUIRE(go_to(&r, r.s, to));
            CHECK_OK(fg_saved_note(r.k, FG_SAVED_END, "stop", 4, &err), &err);
            CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        }
        CHECK_OK(fg_saved_back(r.k, 240, told ? 250 : 0, &at, &err), &err);
        CHECK(at < 240 && go_to(&r, r.s, at + 3)); /* and no further */
        CHECK_OK(fg_saved_note(r.k, FG_SAVED_SETTINGS, "warm", 4, &err), &err);
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        fg_saved_close(&r.k);
        fg_session_reset(r.s);
        fg_saved_info *info;
        REQUIRE_OK(fg_saved_read(&info, fg_test_tmpdir(), "way", &err), &err);
        size_t n_end = 0;
        for (size_t i = 0; i < info->n_event; i++) n_end += info->event[i].kind == FG_SAVED_END;
        CHECK(info->n_token == (told ? 250 : at + 3) && n_end == (told ? 2 : 1));
        CHECK(info->n_settings == 4);
        fg_saved_info_free(&info);
        REQUIRE_OK(rig_save_as(&r, "way", &plain, &err), &err);
        CHECK(!told || is_plain(&r, r.s));
        REQUIRE(go_to(&r, r.s, 300) && is_plain(&r, r.s));
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        fg_saved_close(&r.k);
        fg_session_reset(r.s);
        CHECK_OK(fg_saved_verify(fg_test_tmpdir(), "way", NULL, NULL, NULL, &err), &err);
        remove_it("way");
    }
    rig_close(&r);
}

/* A way that has been gone says nothing of a later one. */
FG_TEST(a_way_ends_where_it_led)
{
    rig r;
    fg_err err = {0};
    fg_saved_info *info;
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    for (int saves = 0; saves < 2; saves++) { /* between the two ways */
        REQUIRE_OK(rig_save_as(&r, "ways", &plain, &err), &err);
        REQUIRE(go_to(&r, r.s, 300));
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        CHECK_OK(fg_saved_rewind(r.k, 200, &err), &err);
        if (saves) CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        CHECK_OK(fg_saved_rewind(r.k, 0, &err), &err);
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        fg_saved_close(&r.k);
        REQUIRE_OK(fg_saved_read(&info, fg_test_tmpdir(), "ways", &err), &err);
        CHECK(info->n_token == 0);
        fg_saved_info_free(&info);
        remove_it("ways");
    }
    rig_close(&r);
}

FG_TEST(a_rewind_inside_a_chunk_copies_nothing)
{
    rig r;
    fg_state *st;
    fg_err err = {0};
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    REQUIRE_OK(rig_save_as(&r, "inside", &plain, &err), &err);
    REQUIRE(go_to(&r, r.s, 250));
    CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
    CHECK(unlink(file_of("inside", "s.0")) == 0); /* nothing is read */
    REQUIRE_OK(fg_session_state(r.s, &st, &err), &err);
    uint8_t *before = malloc((size_t)st->bytes);
    REQUIRE(before != NULL);
    for (uint64_t to = 249; to > 192; to -= 8) {
        memcpy(before, st->map, (size_t)st->bytes);
        CHECK_U64(fg_saved_rewind_cost(r.k, to), 1);
        uint64_t at;
        CHECK_OK(fg_session_rewind(r.s, to, &at, &err), &err);
        CHECK(at == to && memcmp(before, st->map, (size_t)st->bytes) == 0);
        CHECK_OK(fg_saved_rewind(r.k, to - 1, &err), &err);
        CHECK(is_plain(&r, r.s));
    }
    CHECK(fg_saved_rewind_cost(r.k, 100) > 1); /* control */
    free(before);
    rig_close(&r);
    remove_it("inside");
}

FG_TEST(branches_go_their_own_ways)
{
    rig r;
    fg_err err = {0};
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    REQUIRE_OK(rig_save_as(&r, "tree", &plain, &err), &err);
    CHECK_OK(fg_saved_message(r.k, FG_MESSAGE_USER, "q", 1, &err), &err);
    REQUIRE(go_to(&r, r.s, 300));
    CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
    REQUIRE(go_to(&r, r.s, 400));
    CHECK_OK(fg_saved_branch(r.k, "limb", "state", 5, &err), &err);
    CHECK(strcmp(fg_saved_name(r.k), "limb") == 0 && is_plain(&r, r.s));
    CHECK(fg_saved_branch(r.k, "tree", NULL, 0, &err) == FG_EINVAL);
    CHECK_OK(fg_saved_rewind(r.k, 210, &err), &err); /* writes other blocks from 192 on */
    for (int i = 0; i < 3; i++) {
        const uint32_t other[2] = {3, 4};
        REQUIRE_OK(fg_session_eval(r.s, other, 2, NULL, NULL, &err), &err);
    }
    REQUIRE(go_to(&r, r.s, 500)); /* other tokens from 210 on, the text's again behind them */
    CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
    CHECK_OK(fg_saved_branch(r.k, "twig", NULL, 0, &err), &err);
    fg_saved_close(&r.k);
    static const char *const names[] = {"tree", "limb", "twig"};
    for (int i = 0; i < 3; i++) {
        fg_saved_info *info;
        REQUIRE_OK(fg_saved_read(&info, fg_test_tmpdir(), names[i], &err), &err);
        CHECK(info->n_message == 1 && info->n_token == (i == 0 ? 400u : 500u));
        fg_saved_info_free(&info);
        CHECK_OK(fg_saved_verify(fg_test_tmpdir(), names[i], NULL, NULL, NULL, &err), &err);
        REQUIRE_OK(rig_save_as(&r, names[i], &plain, &err), &err);
        CHECK(is_plain(&r, r.s) == (i == 0)); /* the others have another text */
        if (i == 0) CHECK(go_to(&r, r.s, 430) && is_plain(&r, r.s));
        fg_saved_close(&r.k);
    }
    rig_close(&r);
    for (int i = 0; i < 3; i++) remove_it(names[i]);
}

/* ---- damage ---- */

typedef struct heard {
    char text[4096];
    int n;
} heard;

static void hear(void *ctx, const char *line)
{
    heard *h = ctx;
    const size_t n = strlen(h->text);
    (void)snprintf(h->text + n, sizeof h->text - n, "%s\n", line);
    h->n++;
}

FG_TEST(a_flipped_bit_is_named)
{
    static const struct {
        const char *file, *name;
        uint64_t at;
    } bits[] = {{"kv", "kv: block 0", 7},     {"kv", "kv: block", 20000},
                {"s.1", "s.1: header", 20},   {"s.1", "s.1: header", 4090},
                {"s.1", "s.1: MiB 0", 5000},  {"s.1", "s.1: table", 0},
                {"s.0", "s.0: MiB 0", 4096},  {"log", "log: record", 4100},
                {"log", "log: record", 9000}, {"log", "first record is damaged", 100}};
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        rig r;
        fg_err err = {0};
        heard h = {.n = 0};
        fg_saved_opts o = {.note = hear, .ctx = &h};
        REQUIRE(rig_open_n(&r, TINY_DIR, FG_KV_CHOICE_AUTO, 451));
        REQUIRE_OK(rig_save_as(&r, "bit", &plain, &err), &err);
        REQUIRE(go_to(&r, r.s, 200));
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        REQUIRE(go_to(&r, r.s, 420));
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
        fg_saved_close(&r.k);
        const char *path = file_of("bit", bits[i].file);
        CHECK_OK(fg_saved_verify(fg_test_tmpdir(), "bit", NULL, hear, &h, &err), &err);
        CHECK(h.n == 0);
        flip(path, bits[i].at == 0 ? size_of(path) - 3 : bits[i].at);
        CHECK(fg_saved_verify(fg_test_tmpdir(), "bit", NULL, hear, &h, &err) == FG_ECHECKSUM);
        if (strstr(h.text, bits[i].name) == NULL || h.n != 1) {
            fg_test_fail(__FILE__, __LINE__, "%s: \"%s\"", bits[i].name, h.text);
        }
        h = (heard){.n = 0};
        fg_session_reset(r.s);
        const fg_status st = rig_save_as(&r, "bit", &o, &err);
        if (i + 1 == sizeof bits / sizeof bits[0]) { /* whose it is, is not known */
            CHECK(st == FG_ECHECKSUM && strstr(err.msg, bits[i].name) != NULL);
        } else {
            const bool older = strcmp(bits[i].file, "s.0") == 0; /* which is not needed */
            CHECK_OK(st, &err);
            if (older ? h.n != 0 : strstr(h.text, bits[i].name) == NULL) {
                fg_test_fail(__FILE__, __LINE__, "%s: said \"%s\"", bits[i].name, h.text);
            }
            CHECK(go_to(&r, r.s, 450) && is_plain(&r, r.s));
            CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
            CHECK_OK(fg_saved_rewind(r.k, 180, &err), &err);
            CHECK(is_plain(&r, r.s));
        }
        rig_close(&r);
        remove_it("bit");
    }
}

/* ---- who may have it ---- */

FG_TEST(one_process_at_a_time)
{
    rig r;
    fg_err err = {0};
    fg_saved_info *info;
    int status = 1;
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    REQUIRE_OK(rig_save_as(&r, "mine", &plain, &err), &err);
    REQUIRE(go_to(&r, r.s, 70));
    CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
    (void)fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        fg_saved *k;
        const bool in_use =
            fg_saved_open(&k, r.s, fg_test_tmpdir(), "mine", &plain, &err) == FG_EIO &&
            strstr(err.msg, "in use") != NULL;
        uint64_t bytes;
        const bool kept =
            fg_saved_remove(fg_test_tmpdir(), "mine", &err) == FG_EIO &&
            fg_saved_strip(fg_test_tmpdir(), "mine", &bytes, &err) == FG_EIO &&
            fg_saved_verify(fg_test_tmpdir(), "mine", NULL, NULL, NULL, &err) == FG_EIO;
        const bool read = fg_saved_read(&info, fg_test_tmpdir(), "mine", &err) == FG_OK &&
                          info->in_use && info->n_token == 70;
        _exit(in_use && kept && read ? 0 : 1);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    fg_saved_close(&r.k);
    CHECK_OK(fg_saved_read(&info, fg_test_tmpdir(), "mine", &err), &err);
    CHECK(!info->in_use); /* control */
    fg_saved_info_free(&info);
    rig_close(&r);
    remove_it("mine");
}

static void refused(fg_engine *e, fg_kv_choice kv, const char *word, const rig *r)
{
    fg_err err = {0};
    fg_saved *k = NULL;
    fg_session *s = model_session_kv(e, N, 64, kv);
    REQUIRE(s != NULL);
    CHECK(fg_saved_open(&k, s, fg_test_tmpdir(), "other", &plain, &err) == FG_ENOTSUP);
    CHECK(k == NULL && strstr(err.msg, word) != NULL && strstr(err.msg, "--rebuild") != NULL);
    CHECK(strchr(err.msg, '\n') == NULL);
    const fg_saved_opts o = {.rebuild = true};
    CHECK_OK(fg_saved_open(&k, s, fg_test_tmpdir(), "other", &o, &err), &err);
    CHECK(fg_session_pos(s) == 222);
    fg_session *fresh = model_session_kv(e, N, 64, kv);
    REQUIRE(fresh != NULL && go_to(r, fresh, 222));
    const size_t bytes = r->n_vocab * sizeof(float);
    CHECK(memcmp(fg_session_logits(s), fg_session_logits(fresh), bytes) == 0);
    CHECK_OK(fg_saved_save(k, NULL, 0, &err), &err);
    fg_saved_close(&k);
    fg_session_reset(s);
    CHECK_OK(fg_saved_open(&k, s, fg_test_tmpdir(), "other", &plain, &err), &err); /* its own now */
    CHECK(memcmp(fg_session_logits(s), fg_session_logits(fresh), bytes) == 0);
    fg_saved_close(&k);
    fg_session_destroy(&fresh);
    fg_session_destroy(&s);
}

FG_TEST(another_model_or_cache_is_refused_or_rebuilt)
{
    rig r;
    fg_err err = {0};
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    REQUIRE_OK(rig_save_as(&r, "other", &plain, &err), &err);
    REQUIRE(go_to(&r, r.s, 222));
    CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
    fg_saved_close(&r.k);
    refused(r.e, FG_KV_CHOICE_F16, "f16", &r);
    fg_engine *e = model_open(TINY_DIR, "q8", 2, NULL);
    REQUIRE(e != NULL);
    refused(e, FG_KV_CHOICE_F16, "q4.fulgur", &r);
    fg_engine_close(&e);
    fg_session *small = model_session_kv(r.e, 100, 64, FG_KV_CHOICE_F16);
    const fg_saved_opts o = {.rebuild = true};
    CHECK(small != NULL &&
          fg_saved_open(&r.k, small, fg_test_tmpdir(), "other", &o, &err) == FG_ELIMIT);
    fg_session_destroy(&small);
    rig_close(&r);
    remove_it("other");
}

/* ---- what is kept ---- */

FG_TEST(snapshots_are_thinned_by_distance)
{
    rig r;
    fg_err err = {0};
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    const uint64_t one = fg_saved_sizes_of(fg_engine_shape(r.e), FG_KV_INT8, 0).snapshot;
    const fg_saved_opts o = {.bytes = 5 * one};
    REQUIRE_OK(rig_save_as(&r, "thin", &o, &err), &err);
    for (uint64_t pos = 65; pos <= 577; pos += 64) { /* saved at boundaries: no tails */
        REQUIRE(go_to(&r, r.s, pos));
        CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
    }
    const fg_history *h = &r.k->h;
    uint64_t bytes = 0;
    for (size_t i = 0; i < h->n_mark; i++) bytes += h->mark[i].bytes;
    CHECK(bytes <= o.bytes && h->n_mark >= 4 && h->mark[h->n_mark - 1].pos == 576);
    for (size_t i = 2; i < h->n_mark; i++) { /* not farther apart as they become newer */
        CHECK(h->mark[i].pos - h->mark[i - 1].pos <= h->mark[i - 1].pos - h->mark[i - 2].pos + 64);
    }
    for (uint64_t n = 0; n < h->next_number; n++) {
        bool known = false;
        char name[32];
        (void)snprintf(name, sizeof name, "s.%d", (int)n);
        for (size_t i = 0; i < h->n_mark; i++) known = known || h->mark[i].number == n;
        CHECK((size_of(file_of("thin", name)) != UINT64_MAX) == known);
    }
    CHECK_OK(fg_saved_rewind(r.k, 300, &err), &err);
    CHECK(is_plain(&r, r.s));
    rig_close(&r);
    remove_it("thin");
}

static bool count(void *ctx, const char *name)
{
    char *names = ctx;
    (void)strcat(strcat(names, name), " ");
    return true;
}

FG_TEST(names_list_strip_and_remove)
{
    rig r;
    fg_err err = {0};
    uint64_t bytes = 0;
    char names[256] = "";
    const fg_saved_opts must = {.must_exist = true}, fresh = {.must_be_new = true};
    static const char *const bad[] = {"", "a/b", "..", "a b", "\xc3\xa9", "."};
    char longest[FG_SAVED_NAME_MAX + 2];
    memset(longest, 'x', sizeof longest);
    longest[FG_SAVED_NAME_MAX] = '\0';
    CHECK(fg_saved_check_name(longest, &err) == FG_OK);
    longest[FG_SAVED_NAME_MAX] = 'x';
    longest[FG_SAVED_NAME_MAX + 1] = '\0';
    CHECK(fg_saved_check_name(longest, &err) == FG_EINVAL);
    for (size_t i = 0; i < 6; i++) CHECK(fg_saved_check_name(bad[i], &err) == FG_EINVAL);
    REQUIRE(rig_open(&r, TINY_DIR, FG_KV_CHOICE_AUTO));
    CHECK(rig_save_as(&r, "one", &must, &err) == FG_EINVAL && r.k == NULL);
    REQUIRE(go_to(&r, r.s, 100)); /* a new one takes what there is */
    REQUIRE_OK(rig_save_as(&r, "one", &fresh, &err), &err);
    CHECK_OK(fg_saved_note_at(r.k, 40, FG_SAVED_TITLE, "a title", 7, &err), &err);
    CHECK_OK(fg_saved_save(r.k, "abc", 3, &err), &err);
    fg_saved_close(&r.k);
    CHECK(rig_save_as(&r, "one", &fresh, &err) == FG_EINVAL);
    REQUIRE_OK(rig_save_as(&r, "two", &plain, &err), &err);
    fg_saved_close(&r.k);
    CHECK_OK(fg_saved_list(fg_test_tmpdir(), count, names, &err), &err);
    CHECK(strcmp(names, "two one ") == 0);
    CHECK_OK(fg_saved_strip(fg_test_tmpdir(), "one", &bytes, &err), &err);
    CHECK(bytes > 0 && size_of(file_of("one", "kv")) == UINT64_MAX);
    fg_saved_info *info;
    REQUIRE_OK(fg_saved_read(&info, fg_test_tmpdir(), "one", &err), &err);
    CHECK(info->stripped && info->n_token == 100 && strcmp(info->title, "a title") == 0);
    CHECK(info->n_state == 3 && info->state_pos == 100 && !info->in_reply);
    fg_saved_info_free(&info);
    fg_session_reset(r.s);
    REQUIRE_OK(rig_save_as(&r, "one", &must, &err), &err);
    CHECK(fg_session_pos(r.s) == 100 && is_plain(&r, r.s));
    fg_saved_close(&r.k);
    rig_close(&r);
    remove_it("one");
    remove_it("two");
    CHECK(fg_saved_remove(fg_test_tmpdir(), "two", &err) == FG_EINVAL);
}

/* ---- the command ---- */

/* Standard output and error of fulgur session ARGS in the test's folder; its status. */
static int command(char *text, size_t size, const char *args)
{
    char line[1024];
    const char *program = getenv("FULGUR");
    (void)snprintf(line, sizeof line, "%s session %s --dir %s 2>&1",
                   program == NULL ? "build/gcc/fulgur" : program, args, fg_test_tmpdir());
    FILE *f = popen(line, "r");
    if (f == NULL) return -1;
    text[fread(text, 1, size - 1, f)] = '\0';
    const int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

FG_TEST(the_command)
{
    rig r;
    fg_err err = {0};
    char text[8192], args[512];
    const char *program = getenv("FULGUR");
    if (access(program == NULL ? "build/gcc/fulgur" : program, X_OK) != 0) {
        fg_test_skip("no program");
        return;
    }
    REQUIRE(rig_open_n(&r, NANO_DIR, FG_KV_CHOICE_AUTO, 1));
    REQUIRE_OK(rig_save_as(&r, "talk", &plain, &err), &err);
    CHECK_OK(fg_saved_message(r.k, FG_MESSAGE_USER, "gone", 4, &err), &err);
    REQUIRE(go_to(&r, r.s, 20));
    CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
    CHECK_OK(fg_saved_rewind(r.k, 0, &err), &err); /* an undo */
    CHECK_OK(fg_saved_message(r.k, FG_MESSAGE_USER, "Hello \"you\"", 11, &err), &err);
    REQUIRE(go_to(&r, r.s, 90));
    CHECK_OK(fg_saved_message(r.k, FG_MESSAGE_ASSISTANT, "", 0, &err), &err);
    REQUIRE(go_to(&r, r.s, 100));
    CHECK_OK(fg_saved_note(r.k, FG_SAVED_END, "stop", 4, &err), &err);
    CHECK_OK(fg_saved_save(r.k, NULL, 0, &err), &err);
    fg_saved_close(&r.k);
    char *reply;
    size_t n;
    REQUIRE_OK(fg_engine_decode(r.e, r.ids + 90, 10, &reply, &n, &err), &err);
    CHECK(command(text, sizeof text, "list") == 0 && strstr(text, "talk ") == text);
    CHECK(command(text, sizeof text, "list --json") == 0);
    CHECK(strstr(text, "\"tokens\": 100, \"messages\": 2") != NULL);
    CHECK(command(text, sizeof text, "verify talk") == 0 && strstr(text, "talk: good") == text);
    (void)snprintf(args, sizeof args, "export %s talk", model_file(NANO_DIR, "q4"));
    CHECK(command(text, sizeof text, args) == 0);
    CHECK(strstr(text, "## user\n\nHello \"you\"\n\n## assistant\n\n") == text);
    CHECK(strstr(text, "gone") == NULL && n > 8 && strstr(text, "stop") == NULL);
    (void)strcat(args, " --json");
    CHECK(command(text, sizeof text, args) == 0);
    CHECK(strstr(text, "{\"role\": \"user\", \"position\": 0, \"content\": \"Hello \\\"you\\\"\"}\n"
                       "{\"role\": \"assistant\", \"position\": 90, ") == text);
    (void)snprintf(args, sizeof args, "export %s talk", model_file(TINY_DIR, "q4"));
    CHECK(command(text, sizeof text, args) == 1 && strstr(text, "another tokenizer") != NULL);
    flip(file_of("talk", "kv"), 99);
    CHECK(command(text, sizeof text, "verify talk") == 1 && strstr(text, "kv: block 0") != NULL);
    CHECK(strncmp(text, "fulgur: ", 8) == 0 && strchr(text, '\n') == text + strlen(text) - 1);
    CHECK(command(text, sizeof text, "strip talk") == 0 && strstr(text, "freed") != NULL);
    CHECK(command(text, sizeof text, "list") == 0 && strstr(text, "stripped") != NULL);
    CHECK(command(text, sizeof text, "rm talk") == 0 && text[0] == '\0');
    CHECK(command(text, sizeof text, "rm talk") == 1 && strstr(text, "talk: not there") != NULL);
    CHECK(command(text, sizeof text, "rm ../talk") == 1 && strstr(text, "a name of") != NULL);
    CHECK(command(text, sizeof text, "rm") == 2);
    CHECK(command(text, sizeof text, "list --json") == 0 && strcmp(text, "[\n]\n") == 0);
    fg_free(reply);
    rig_close(&r);
}
