/* SPDX-License-Identifier: MIT
 *
 * The parts of a split file: fields of the main file's slot, of its directory and of a part's
 * header, hashes made right again.  Input: patches of 12 bytes: which of the three, place, width
 * and flags, value; a last odd byte: the part is short.
 */
#include <stdio.h>
#include <sys/stat.h>

#include "tests/format/sample.h"
#include "tests/fuzz/image.h"

FUZZ_TARGET(parts, 300)

enum { ANYWHERE = 64, NOT_VERIFIED = 128, FIELDS = 160 /* bytes that have fields in them */ };

typedef struct split {
    image main, part;
} split;

static split *the_files(void)
{
    static split s;
    if (s.main.n > 0) return &s;
    fg_err err = {0};
    fg_writer *w;
    char folder[256], main_path[256];
    (void)snprintf(folder, sizeof folder, "%s", fg_test_tmp("drive"));
    (void)snprintf(main_path, sizeof main_path, "%s", fg_test_tmp("split.fulgur"));
    (void)mkdir(folder, 0700);
    const char *const dirs[] = {folder};
    const fg_file_spec spec = {.n_part = 2};
    fg_status st = sample_writer(&w, main_path, spec, dirs, &err);
    if (st == FG_OK) st = fg_writer_begin(w, &err);
    uint8_t *data = st == FG_OK ? sample_data(w, 1) : NULL;
    if (st == FG_OK) st = sample_stream(w, data, 1, &err);
    if (st == FG_OK) st = fg_writer_finish(w, &err);
    fg_mem_free(data);
    fg_writer_destroy(&w);
    fg_model_file *f;
    if (st == FG_OK) st = fg_model_file_open(&f, main_path, &err);
    if (st != FG_OK) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    image_open(&s.part, fg_model_file_part_path(f, 1));
    image_open(&s.main, main_path);
    fg_model_file_close(&f);
    return &s;
}

static void seeds(void)
{
    static const uint8_t patch[] = {0, 104, 0, 2, 3, 0, 0, 0, 0, 0, 0, 0, /* n_part */
                                    1, 16,  0, 3, 9, 0, 0, 0, 0, 0, 0, 0, /* the part */
                                    1, 24,  0, 2, 2, 0, 0, 0, 0, 0, 0, 0,
                                    2, 24,  0, 2, 2, 0, 0, 0, 0, 0, 0, 0,  /* experts */
                                    0, 24,  0, 3, 0, 0, 8, 0, 0, 0, 0, 0,  /* the length */
                                    2, 0,   8, 3, 0, 0, 0, 1, 0, 0, 0, 0}; /* an extent */
    for (size_t n = 0; n <= sizeof patch; n += 12) fuzz_seed(patch, n);
    for (size_t at = 12; at < sizeof patch; at += 12) fuzz_seed(patch + at, 12);
    fuzz_seed(patch + 12, 1);
}

/* Whether the file is to be verified. */
static bool patch(split *s, const uint8_t *d)
{
    const uint64_t a = fuzz_get_le(d + 1, 2);
    const uint64_t room = (d[3] & ANYWHERE) != 0 ? IMAGE_SLOT - 16 : FIELDS;
    const uint64_t dir = fuzz_get_le(s->main.good + 32, 8), n = fuzz_get_le(s->main.good + 40, 8);
    image *m = d[0] % 3 == 1 ? &s->part : &s->main;
    image_put(m, d[0] % 3 == 2 ? dir + a % n : a % room, 1u << (d[3] & 3), fuzz_get_le(d + 4, 8));
    return (d[3] & NOT_VERIFIED) == 0;
}

static void one(const uint8_t *d, size_t n)
{
    split *s = the_files();
    bool verify = true;
    for (; n >= 12; d += 12, n -= 12) verify = patch(s, d);
    image_rehash(&s->main, 0);
    const uint64_t hash = fg_hash64(s->part.now, IMAGE_SLOT - 8);
    image_put(&s->part, IMAGE_SLOT - 8, 8, hash);
    const bool cut = n == 1 && image_cut(&s->part, IMAGE_SLOT);
    fg_err err = {0};
    fg_model_file *f;
    fg_status st = fg_model_file_open(&f, s->main.path, &err);
    fuzz_check_status(st, &err);
    /* a main file that says it is alone does not ask for it */
    FUZZ_CHECK(st != FG_OK || !cut || fg_model_file_n_part(f) == 1);
    if (st == FG_OK && !cut && verify) {
        /* with fewer parts there are holes, which the chunks' hashes tell */
        st = fg_model_file_verify(f, NULL, NULL, &err);
        fuzz_check_status(st, &err);
        FUZZ_CHECK(st != FG_OK || fg_model_file_n_part(f) == (fuzz_planted ? 3 : 2));
    }
    fg_model_file_close(&f);
    image_restore(&s->main);
    image_restore(&s->part);
}
