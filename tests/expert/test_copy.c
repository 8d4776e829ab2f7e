/* SPDX-License-Identifier: MIT
 *
 * Weights copied into memory of the nodes: the bytes of the file, whoever has them, in memory of
 * the process or in an image; and what an image refuses.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mapping.h"
#include "src/base/mem.h"
#include "src/expert/copy.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"
#include "tests/models.h"

/* A model, a placement of pretended nodes, who has what. */
typedef struct setting {
    fg_model_file *f;
    fg_place *place;
    fg_slices *slices;
} setting;

static bool set_up(setting *s, const char *type, uint32_t nodes, fg_numa numa)
{
    const fg_place_opts o = {.n_worker = 2, .pretend_nodes = nodes, .numa = numa};
    const char *path = model_file(NANO_DIR, type);
    fg_err err = {0};
    *s = (setting){NULL, NULL, NULL};
    const bool ok = path != NULL && fg_model_file_open(&s->f, path, &err) == FG_OK &&
                    fg_place_make(&s->place, NULL, &o, &err) == FG_OK &&
                    fg_slices_create(&s->slices, fg_model_file_plan(s->f), s->place, &err) == FG_OK;
    if (!ok) fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    return ok;
}

static void tear_down(setting *s)
{
    fg_slices_destroy(&s->slices);
    fg_place_destroy(&s->place);
    fg_model_file_close(&s->f);
}

/* Tensors of which some node's panels are not the file's. */
static int n_wrong(const setting *s, const fg_copy *c)
{
    int bad = 0;
    for (uint64_t i = 0; i < fg_model_file_n_tensor(s->f); i++) {
        const fg_tensor *t = fg_model_file_tensor(s->f, i);
        const fg_share *share = fg_slices_share(s->slices, i);
        const uint64_t stride = t->panel_stride == 0 ? sizeof(float) : t->panel_stride;
        const uint64_t bytes =
            t->panel_stride == 0 ? sizeof(float) : fg_panel_bytes((fg_qtype)t->type, t->n_col);
        const bool whole = fg_slices_whole(s->slices);
        for (uint32_t k = 0; k < fg_slices_n_node(s->slices); k++) {
            const uint64_t first = whole ? 0 : share->begin[k];
            const uint8_t *p =
                fg_copy_area(c, k) +
                fg_slices_begin(s->slices, t->expert == FG_NO_LAYER ? FG_NO_LAYER : t->layer,
                                t->expert, k) +
                fg_slices_panels(s->slices, i, k);
            const uint64_t end =
                whole ? share->begin[fg_slices_n_node(s->slices)] : share->begin[k + 1];
            for (uint64_t j = first; j < end; j++) {
                bad += memcmp(p + (j - first) * stride,
                              fg_model_file_data(s->f, t->offset + j * stride), bytes) != 0;
            }
        }
    }
    return bad;
}

FG_TEST(a_copy_has_the_bytes)
{
    static const struct {
        uint32_t nodes;
        fg_numa numa;
    } want[] = {{1, FG_NUMA_SLICE},  {3, FG_NUMA_SLICE},      {2, FG_NUMA_MIRROR},
                {4, FG_NUMA_EXPERT}, {3, FG_NUMA_INTERLEAVE}, {16, FG_NUMA_SLICE}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        setting s;
        fg_copy *c;
        fg_err err = {0};
        const fg_copy_opts o = {.pages = i % 2 == 0 ? FG_PAGES_AUTO : FG_PAGES_SMALL};
        REQUIRE(set_up(&s, "q4", want[i].nodes, want[i].numa));
        REQUIRE_OK(fg_copy_create(&c, s.f, s.slices, &o, &err), &err);
        CHECK(n_wrong(&s, c) == 0);
        uint8_t *area = (uint8_t *)(uintptr_t)fg_copy_area(c, 0); /* control */
        memset(area, 0xa5, (size_t)fg_slices_area(s.slices, 0));
        CHECK(n_wrong(&s, c) > 0);
        fg_copy_destroy(&c);
        tear_down(&s);
    }
}

static const char *image_path(void)
{
    static char path[64];
    (void)snprintf(path, sizeof path, "/dev/shm/fulgur-test-%d.img", (int)getpid());
    return path;
}

static bool has_shm(void)
{
    return access("/dev/shm", W_OK) == 0;
}

static bool write_at(const char *path, const void *p, size_t n, off_t at)
{
    const int fd = open(path, O_WRONLY);
    const bool ok = fd >= 0 && pwrite(fd, p, n, at) == (ssize_t)n;
    if (fd >= 0) (void)close(fd);
    return ok;
}

FG_TEST(an_image_is_found_again)
{
    setting s, other, model;
    fg_copy *c, *second;
    fg_err err = {0};
    const fg_copy_opts o = {.image = image_path()};
    if (!has_shm()) {
        fg_test_skip("no /dev/shm");
        return;
    }
    (void)unlink(o.image);
    REQUIRE(set_up(&s, "q4", 3, FG_NUMA_SLICE) && set_up(&other, "q4", 2, FG_NUMA_SLICE) &&
            set_up(&model, "q8", 3, FG_NUMA_SLICE));
    REQUIRE_OK(fg_copy_create(&c, s.f, s.slices, &o, &err), &err);
    CHECK(n_wrong(&s, c) == 0 && fg_copy_read_bytes(c) > 0);
    CHECK_OK(fg_copy_create(&second, s.f, s.slices, &o, &err), &err); /* beside it */
    CHECK(second != NULL && n_wrong(&s, second) == 0 && fg_copy_read_bytes(second) == 0);
    /* whose a lost page is */
    CHECK(second != NULL && fg_mapping_find(fg_copy_area(second, 1)) != NULL &&
          strcmp(fg_mapping_find(fg_copy_area(second, 1)), o.image) == 0);
    fg_copy_destroy(&second);
    fg_copy_destroy(&c);
    CHECK_OK(fg_copy_create(&c, s.f, s.slices, &o, &err), &err); /* after it */
    CHECK(c != NULL && n_wrong(&s, c) == 0 && fg_copy_read_bytes(c) == 0);
    fg_copy_destroy(&c);
    CHECK(fg_copy_create(&c, other.f, other.slices, &o, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "other nodes") != NULL);
    CHECK(fg_copy_create(&c, model.f, model.slices, &o, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "another model") != NULL);
    /* unfinished, with wrong bytes: filled anew */
    const uint64_t zero = 0;
    CHECK(write_at(o.image, &zero, sizeof zero, 8));
    CHECK(write_at(o.image, "wrong", 5, (off_t)4 << 20));
    CHECK_OK(fg_copy_create(&c, s.f, s.slices, &o, &err), &err);
    CHECK(c != NULL && n_wrong(&s, c) == 0 && fg_copy_read_bytes(c) > 0);
    fg_copy_destroy(&c);
    CHECK(unlink(o.image) == 0);
    tear_down(&s);
    tear_down(&other);
    tear_down(&model);
}

static bool stop(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    return done < total / 2;
}

static bool never(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    (void)done;
    (void)total;
    return false;
}

/* Somebody fills it: that is waited for until the caller has enough, and the image is his. */
FG_TEST(waiting_can_be_cancelled)
{
    setting s;
    fg_copy *c;
    fg_err err = {0};
    const fg_copy_opts o = {.image = image_path(), .progress = never};
    if (!has_shm()) {
        fg_test_skip("no /dev/shm");
        return;
    }
    REQUIRE(set_up(&s, "q4", 2, FG_NUMA_SLICE));
    const int fd = open(o.image, O_RDWR | O_CREAT | O_TRUNC, 0600);
    REQUIRE(fd >= 0 && flock(fd, LOCK_EX) == 0);
    CHECK(fg_copy_create(&c, s.f, s.slices, &o, &err) == FG_ECANCEL);
    CHECK(strstr(err.msg, "waiting") != NULL && access(o.image, F_OK) == 0);
    CHECK(close(fd) == 0 && unlink(o.image) == 0);
    tear_down(&s);
}

FG_TEST(what_is_no_image_is_left_alone)
{
    setting s;
    fg_copy *c;
    fg_err err = {0};
    char elsewhere[600];
    fg_copy_opts o = {.image = image_path()};
    if (!has_shm()) {
        fg_test_skip("no /dev/shm");
        return;
    }
    REQUIRE(set_up(&s, "q4", 2, FG_NUMA_SLICE));
    char *text = NULL;
    size_t n = 0;
    FILE *file = fopen(o.image, "w");
    REQUIRE(file != NULL);
    for (int i = 0; i < 2000; i++) (void)fprintf(file, "somebody's text\n");
    CHECK(fclose(file) == 0);
    CHECK(fg_copy_create(&c, s.f, s.slices, &o, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "another file") != NULL);
    CHECK_OK(fg_io_read_all(o.image, 1 << 20, &text, &n, &err), &err);
    CHECK(n == 2000 * 16 && memcmp(text, "somebody's text\n", 16) == 0);
    fg_mem_free(text);
    CHECK(unlink(o.image) == 0);
    /* cancelled: nothing is left of a new one */
    o.progress = stop;
    CHECK(fg_copy_create(&c, s.f, s.slices, &o, &err) == FG_ECANCEL);
    CHECK(access(o.image, F_OK) != 0);
    /* not on a file system of memory: neither */
    (void)snprintf(elsewhere, sizeof elsewhere, "%s/image", ckpt_dir("image"));
    o = (fg_copy_opts){.image = elsewhere};
    struct stat sb;
    if (fg_copy_create(&c, s.f, s.slices, &o, &err) == FG_OK) { /* the tests' folder is one */
        fg_copy_destroy(&c);
    } else {
        CHECK(strstr(err.msg, "hugetlbfs or tmpfs") != NULL && stat(elsewhere, &sb) != 0);
    }
    o.image = "/nowhere/at/all";
    CHECK(fg_copy_create(&c, s.f, s.slices, &o, &err) == FG_EIO);
    tear_down(&s);
}
