/* SPDX-License-Identifier: MIT
 *
 * The container as it should not be.  Every case must give an error status and a one-line message
 * that names the file, never a crash (run under ASan and UBSan).  Two kinds: damage, where a hash
 * refuses, and hostility, where all hashes are made right again after the change, so that only
 * the structural checks are left to refuse it.
 */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/format/reader.h"
#include "tests/fg_test.h"
#include "tests/format/sample.h"

/* Numbers of FORMAT.md, repeated here on purpose. */
enum {
    SLOT = 4096,
    S_READ_VERSION = 8,
    S_WRITE_VERSION = 12,
    S_GENERATION = 16,
    S_FILE_BYTES = 24,
    S_DIR_OFFSET = 32,
    S_DIR_BYTES = 40,
    S_DIR_HASH = 48,
    S_TABLE_OFFSET = 56,
    S_N_CHUNK = 64,
    S_DATA_OFFSET = 72,
    S_DATA_BYTES = 80,
    S_DATA_ROOT = 88,
    S_CHUNK_LOG2 = 96,
    S_FLAGS = 100,
    S_UNUSED = 256,
    S_HASH = 4088,
    N_LAYER = 3,
    N_EXPERT = 3,
    N_META = 3,
    D_ATTN = 160,
    D_META = D_ATTN + 16,
    D_EXTENT = D_META + N_META * 288,
    D_TENSOR = D_EXTENT + N_LAYER * (1 + N_EXPERT) * 16,
    N_TENSOR = 3 + N_LAYER * (7 + 3 * N_EXPERT),
    DIR_BYTES = D_TENSOR + N_TENSOR * 96,
    /* fields of a tensor record */
    T_ROLE = 0,
    T_LAYER = 4,
    T_EXPERT = 8,
    T_TYPE = 12,
    T_ROWS = 16,
    T_COLS = 24,
    T_OFFSET = 32,
    T_STRIDE = 40,
    T_SCALE = 48,
    T_LUT = 56,
    T_RMS = 72,
    T_RESERVED = 80,
    T_PEAK = 88,
    T_UNUSED = 92,
    /* records of some tensors of the sample */
    QKV0 = D_TENSOR + 4 * 96,    /* f32 */
    GATEQ4 = D_TENSOR + 5 * 96,  /* output gate of layer 0, q4 */
    ROUTER0 = D_TENSOR + 7 * 96, /* f32 */
    EXPERT0 = D_TENSOR + 8 * 96, /* w1 of layer 0, expert 0 */
};

static uint64_t get(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static void set(uint8_t *p, int n, uint64_t v)
{
    for (int i = 0; i < n; i++) p[i] = (uint8_t)(v >> (8 * i));
}

/* The sample on disk, its header slots and its directory in memory. */
typedef struct sample_file {
    const char *path;
    int fd;
    uint64_t size;
    uint8_t slots[2 * SLOT];
    uint8_t *dir; /* DIR_BYTES and room behind */
    uint64_t dir_offset;
} sample_file;

static bool sample_open(sample_file *s)
{
    fg_err err = {0};
    static char path[256];
    (void)snprintf(path, sizeof path, "%s", fg_test_tmp("d.fulgur"));
    *s = (sample_file){.path = path, .fd = -1};
    if (sample_write(path, 1, NULL, &err) != FG_OK) return false;
    s->fd = open(path, O_RDWR);
    s->size = (uint64_t)lseek(s->fd, 0, SEEK_END);
    s->dir = fg_mem_zalloc(DIR_BYTES + 4096);
    if (s->dir == NULL || pread(s->fd, s->slots, sizeof s->slots, 0) != (ssize_t)sizeof s->slots) {
        return false;
    }
    s->dir_offset = get(s->slots + S_DIR_OFFSET, 8);
    CHECK_U64(get(s->slots + S_DIR_BYTES, 8), DIR_BYTES);
    return pread(s->fd, s->dir, DIR_BYTES, (off_t)s->dir_offset) == DIR_BYTES;
}

static void sample_close(sample_file *s)
{
    if (s->fd >= 0) (void)close(s->fd);
    fg_mem_free(s->dir);
}

/* Writes slots and directory as given. */
static void store(const sample_file *s, const uint8_t *slots, const uint8_t *dir)
{
    fg_err err = {0};
    if (fg_io_pwrite(s->fd, slots, 2 * SLOT, 0, s->path, &err) != FG_OK ||
        fg_io_pwrite(s->fd, dir, DIR_BYTES, s->dir_offset, s->path, &err) != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
    }
}

static void rehash_slot(uint8_t *slot)
{
    set(slot + S_HASH, 8, fg_hash64(slot, S_HASH));
}

static void check_message(const fg_err *err, const char *path, const char *what)
{
    const size_t n = strlen(err->msg);
    if (n == 0 || strchr(err->msg, '\n') != NULL || err->msg[n - 1] == '.' ||
        strncmp(err->msg, path, strlen(path)) != 0 || strstr(err->msg, "expected") == NULL) {
        fg_test_fail(__FILE__, __LINE__, "%s: message \"%s\"", what, err->msg);
    }
}

/* Opens; FG_OK also uses what was opened. */
static fg_status try_open(const char *path, fg_err *err)
{
    fg_model_file *f = NULL;
    *err = (fg_err){0};
    const fg_status st = fg_model_file_open(&f, path, err);
    if (st != FG_OK) {
        CHECK(f == NULL && err->code == st);
        return st;
    }
    const fg_shape *s = fg_model_file_shape(f);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        CHECK(fg_model_file_find(f, (fg_role)t->role, t->layer, t->expert) == t);
        sum += *fg_model_file_data(f, t->offset);
    }
    for (uint32_t l = 0; l < s->n_layer; l++) {
        const fg_extent x = fg_model_file_dense_extent(f, l);
        sum += fg_model_file_data(f, x.offset)[x.bytes - 1];
    }
    for (uint64_t i = 0; i < fg_model_file_n_meta(f); i++) {
        const char *key, *bytes;
        uint64_t n;
        size_t m;
        fg_err why;
        fg_model_file_meta_at(f, i, &key, &n);
        if (fg_model_file_meta(f, key, &bytes, &m, &why) == FG_OK) CHECK(m == n && bytes != NULL);
    }
    CHECK(sum != UINT64_MAX);
    fg_model_file_close(&f);
    return FG_OK;
}

/* --- truncation and tails --- */

FG_TEST(truncated_files_never_open)
{
    sample_file s;
    fg_err err;
    REQUIRE(sample_open(&s));
    const uint64_t data = get(s.slots + S_DATA_OFFSET, 8), bytes = get(s.slots + S_DATA_BYTES, 8);
    const uint64_t edges[] = {s.size,       s.dir_offset,   get(s.slots + S_TABLE_OFFSET, 8),
                              data + bytes, data + 1048576, data,
                              8192 + 64,    8192,           4096,
                              300};
    uint64_t last = s.size;
    CHECK_OK(try_open(s.path, &err), &err); /* control */
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        for (int d = 1; d >= -1; d--) {
            const uint64_t n = edges[i] + (uint64_t)d;
            if (n >= last) continue; /* only shorter and shorter */
            last = n;
            REQUIRE(ftruncate(s.fd, (off_t)n) == 0);
            CHECK(try_open(s.path, &err) == FG_EFORMAT);
            check_message(&err, s.path, "truncated");
        }
    }
    for (int n = 200; n >= 0; n--) {
        REQUIRE(ftruncate(s.fd, n) == 0);
        CHECK(try_open(s.path, &err) == FG_EFORMAT);
        check_message(&err, s.path, "truncated");
    }
    sample_close(&s);
}

FG_TEST(a_tail_is_allowed)
{
    sample_file s;
    fg_err err;
    REQUIRE(sample_open(&s));
    CHECK_OK(fg_io_pwrite(s.fd, "interrupted append", 18, s.size + 64, s.path, &err), &err);
    CHECK_OK(try_open(s.path, &err), &err);
    fg_model_file *f = NULL;
    CHECK_OK(fg_model_file_open(&f, s.path, &err), &err);
    if (f != NULL) CHECK_OK(fg_model_file_verify(f, NULL, NULL, &err), &err);
    fg_model_file_close(&f);
    sample_close(&s);
}

FG_TEST(other_files_are_named_as_such)
{
    const char *path = fg_test_tmp("x.bin");
    uint8_t junk[3 * SLOT];
    fg_err err;
    static const struct {
        const char *start;
        size_t n, bytes;
        const char *said;
    } files[] = {{"", 0, sizeof junk, "starts with 55 55"},
                 {"GGUF\3\0\0", 8, sizeof junk, "a GGUF file"},
                 {"\x40\0\0\0\0\0\0\0{\"a", 11, sizeof junk, "safetensors data"},
                 {"\x40\0\0\0\0\0\0\1{\"a", 11, sizeof junk, "starts with 40 00"}, /* too long */
                 {"version https://git-lfs.github.com", 34, 131, "a Git LFS pointer"},
                 {"", 0, 131, "131 bytes"}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        memset(junk, 0x55, sizeof junk);
        memcpy(junk, files[i].start, files[i].n);
        const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        CHECK_OK(fg_io_pwrite(fd, junk, files[i].bytes, 0, path, &err), &err);
        (void)close(fd);
        CHECK(try_open(path, &err) == FG_EFORMAT);
        check_message(&err, path, "junk");
        if (strstr(err.msg, files[i].said) == NULL) {
            fg_test_fail(__FILE__, __LINE__, "%s: %s", files[i].said, err.msg);
        }
    }
    CHECK(try_open(fg_test_tmp("none.fulgur"), &err) == FG_EIO);
    CHECK(try_open(fg_test_tmpdir(), &err) == FG_EIO);
}

/* --- damage: a hash refuses --- */

FG_TEST(every_bit_of_the_header_matters)
{
    sample_file s;
    fg_err err;
    REQUIRE(sample_open(&s));
    for (int at = 0; at < SLOT; at = at == 127            ? S_UNUSED
                                     : at == S_UNUSED + 8 ? S_HASH - 8
                                                          : at + 1) {
        uint8_t slots[2 * SLOT];
        memcpy(slots, s.slots, sizeof slots);
        slots[at] ^= (uint8_t)(1u << (at % 8));
        store(&s, slots, s.dir);
        CHECK(try_open(s.path, &err) == (at < 8 ? FG_EFORMAT : FG_ECHECKSUM)); /* slot 1 is blank */
        check_message(&err, s.path, "header bit");
    }
    store(&s, s.slots, s.dir);
    CHECK_OK(try_open(s.path, &err), &err);
    sample_close(&s);
}

FG_TEST(every_byte_of_the_directory_matters)
{
    sample_file s;
    fg_err err;
    REQUIRE(sample_open(&s));
    for (int at = 0; at < DIR_BYTES; at += at < D_TENSOR + 192 ? 1 : 37) {
        s.dir[at] ^= (uint8_t)(1u << (at % 8));
        store(&s, s.slots, s.dir);
        CHECK(try_open(s.path, &err) == FG_ECHECKSUM);
        check_message(&err, s.path, "directory bit");
        s.dir[at] ^= (uint8_t)(1u << (at % 8));
    }
    sample_close(&s);
}

static void flip(const sample_file *s, uint64_t offset)
{
    uint8_t b = 0;
    fg_err err;
    CHECK(pread(s->fd, &b, 1, (off_t)offset) == 1);
    b ^= 0x10;
    CHECK_OK(fg_io_pwrite(s->fd, &b, 1, offset, s->path, &err), &err);
}

FG_TEST(verify_names_chunk_and_tensor)
{
    sample_file s;
    fg_err err = {0};
    fg_model_file *f = NULL;
    REQUIRE(sample_open(&s));
    REQUIRE_OK(fg_model_file_open(&f, s.path, &err), &err);
    const uint64_t data = get(s.slots + S_DATA_OFFSET, 8), bytes = get(s.slots + S_DATA_BYTES, 8);
    const fg_tensor *head = fg_model_file_find(f, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER);
    const fg_tensor *embed = fg_model_file_tensor(f, 0);
    const uint64_t layer1 = fg_model_file_dense_extent(f, 1).offset;
    const struct {
        uint64_t offset;
        const char *want;
    } cases[] = {
        {data, "chunk 0 (model.embed_tokens.weight)"},
        {embed->offset + 5, "chunk 0 (model.embed_tokens.weight)"},
        {data + 1048576 + 9, "chunk 1 (padding)"},
        {layer1 + 1, "(model.layers.1.input_layernorm.weight and 15 more)"},
        {head->offset + 77, "(lm_head.weight)"},
        {data + bytes - 1, "(lm_head.weight)"}, /* the padding of the short last chunk */
        {get(s.slots + S_TABLE_OFFSET, 8) + 8, "chunk table has hash"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        flip(&s, cases[i].offset);
        CHECK_OK(try_open(s.path, &err), &err); /* opening reads no tensor data */
        CHECK(fg_model_file_verify(f, NULL, NULL, &err) == FG_ECHECKSUM);
        check_message(&err, s.path, "data bit");
        if (strstr(err.msg, cases[i].want) == NULL) {
            fg_test_fail(__FILE__, __LINE__, "%s, wanted %s", err.msg, cases[i].want);
        }
        flip(&s, cases[i].offset);
    }
    const uint64_t meta = get(s.dir + D_META + 256, 8); /* config.json */
    flip(&s, meta + 3);
    const char *p;
    size_t n;
    CHECK(fg_model_file_meta(f, "config.json", &p, &n, &err) == FG_ECHECKSUM && p == NULL);
    CHECK_OK(fg_model_file_meta(f, "recipe", &p, &n, &err), &err);
    CHECK(fg_model_file_verify(f, NULL, NULL, &err) == FG_ECHECKSUM);
    CHECK(strstr(err.msg, "metadata config.json") != NULL);
    flip(&s, meta + 3);
    CHECK_OK(fg_model_file_verify(f, NULL, NULL, &err), &err);
    fg_model_file_close(&f);
    sample_close(&s);
}

/* --- the two slots --- */

FG_TEST(slots_take_turns)
{
    sample_file s;
    fg_err err;
    uint8_t slots[2 * SLOT];
    REQUIRE(sample_open(&s));
    /* An append: a second directory at the end, in force through slot 1, with one change in it. */
    memcpy(slots, s.slots, sizeof slots);
    memcpy(slots + SLOT, s.slots, SLOT);
    const uint64_t at = fg_round_up(s.size, 64);
    uint8_t *dir = fg_mem_alloc(DIR_BYTES);
    REQUIRE(dir != NULL);
    memcpy(dir, s.dir, DIR_BYTES);
    set(dir + D_TENSOR + T_RMS, 4, 0x3f000000); /* 0.5f */
    CHECK_OK(fg_io_pwrite(s.fd, dir, DIR_BYTES, at, s.path, &err), &err);
    uint8_t *b = slots + SLOT;
    set(b + S_GENERATION, 8, 2);
    set(b + S_FILE_BYTES, 8, at + DIR_BYTES);
    set(b + S_DIR_OFFSET, 8, at);
    set(b + S_DIR_HASH, 8, fg_hash64(dir, DIR_BYTES));
    rehash_slot(b);
    for (int round = 0; round < 4; round++) {
        /* 0: both whole; 1: slot 1 torn; 2: slot 0 torn; 3: both torn */
        uint8_t now[2 * SLOT];
        memcpy(now, slots, sizeof now);
        if (round & 1) now[SLOT + 2000] ^= 1;
        if (round & 2) now[2000] ^= 1;
        store(&s, now, s.dir);
        fg_model_file *f = NULL;
        const fg_status st = fg_model_file_open(&f, s.path, &err);
        CHECK(st == (round == 3 ? FG_ECHECKSUM : FG_OK));
        if (f != NULL) {
            CHECK(fg_model_file_tensor(f, 0)->err_rms == (round == 1 ? 0.0625f : 0.5f));
            CHECK_OK(fg_model_file_verify(f, NULL, NULL, &err), &err);
        }
        fg_model_file_close(&f);
    }
    /* the newer slot is whole, but its end is missing: the file is truncated, no way back */
    store(&s, slots, s.dir);
    CHECK(ftruncate(s.fd, (off_t)(at + DIR_BYTES - 1)) == 0);
    CHECK(try_open(s.path, &err) == FG_EFORMAT && strstr(err.msg, "truncated") != NULL);
    fg_mem_free(dir);
    /* swapped: generation 1 in slot 1 */
    memcpy(slots, s.slots + SLOT, SLOT);
    memcpy(slots + SLOT, s.slots, SLOT);
    store(&s, slots, s.dir);
    CHECK(try_open(s.path, &err) == FG_EFORMAT);
    check_message(&err, s.path, "swapped slots");
    /* the same generation twice */
    memcpy(slots, s.slots, SLOT);
    store(&s, slots, s.dir);
    CHECK(try_open(s.path, &err) == FG_EFORMAT);
    /* a later version, in force, that this reader must not read, hides no older slot */
    set(slots + SLOT + S_GENERATION, 8, 2);
    set(slots + SLOT + S_READ_VERSION, 4, 4);
    set(slots + SLOT + S_WRITE_VERSION, 4, 4);
    rehash_slot(slots + SLOT);
    store(&s, slots, s.dir);
    CHECK(try_open(s.path, &err) == FG_EVERSION);
    CHECK(strstr(err.msg, "newer") != NULL);
    sample_close(&s);
}

/* --- hostility: all hashes right --- */

typedef struct hostile {
    const char *what;
    char where; /* 's' slot, 'd' directory */
    int at, n;  /* byte position and size of the field */
    uint64_t value;
    fg_status want;
} hostile;

#define F64_NAN 0x7ff8000000000000u
#define TOP     0x8000000000000000u

static const hostile cases[] = {
    {"read version 0", 's', S_READ_VERSION, 4, 0, FG_EVERSION},
    {"read version 4", 's', S_READ_VERSION, 4, 4, FG_EVERSION},
    {"read version 2^32-1", 's', S_READ_VERSION, 4, UINT32_MAX, FG_EVERSION},
    {"write version 0", 's', S_WRITE_VERSION, 4, 0, FG_EFORMAT},
    {"write version 9 is readable", 's', S_WRITE_VERSION, 4, 9, FG_OK},
    {"generation 0", 's', S_GENERATION, 8, 0, FG_EFORMAT},
    {"generation 2 in slot 0", 's', S_GENERATION, 8, 2, FG_EFORMAT},
    {"generation 3 in slot 0 is fine", 's', S_GENERATION, 8, 3, FG_OK},
    {"file bytes 0", 's', S_FILE_BYTES, 8, 0, FG_EFORMAT},
    {"file bytes 2^63", 's', S_FILE_BYTES, 8, TOP, FG_ELIMIT},
    {"file bytes 2^64-1", 's', S_FILE_BYTES, 8, UINT64_MAX, FG_ELIMIT},
    {"file bytes 2^59", 's', S_FILE_BYTES, 8, (uint64_t)1 << 59, FG_EFORMAT},
    {"directory in the header", 's', S_DIR_OFFSET, 8, 0, FG_EFORMAT},
    {"directory in slot 1", 's', S_DIR_OFFSET, 8, 4096, FG_EFORMAT},
    {"directory unaligned", 's', S_DIR_OFFSET, 8, 8193, FG_EFORMAT},
    {"directory beyond", 's', S_DIR_OFFSET, 8, (uint64_t)1 << 40, FG_EFORMAT},
    {"directory at 2^63", 's', S_DIR_OFFSET, 8, TOP, FG_EFORMAT},
    {"directory at 2^64-64", 's', S_DIR_OFFSET, 8, UINT64_MAX - 63, FG_EFORMAT},
    {"directory of 0 bytes", 's', S_DIR_BYTES, 8, 0, FG_EFORMAT},
    {"directory one byte short", 's', S_DIR_BYTES, 8, DIR_BYTES - 1, FG_EFORMAT},
    {"directory one record short", 's', S_DIR_BYTES, 8, DIR_BYTES - 96, FG_EFORMAT},
    {"directory of 100 bytes", 's', S_DIR_BYTES, 8, 100, FG_EFORMAT},
    {"directory ends in the attention kinds", 's', S_DIR_BYTES, 8, 161, FG_EFORMAT},
    {"directory of 2^64-1 bytes", 's', S_DIR_BYTES, 8, UINT64_MAX, FG_ELIMIT},
    {"chunk table beyond", 's', S_TABLE_OFFSET, 8, (uint64_t)1 << 50, FG_EFORMAT},
    {"chunk table at 2^63", 's', S_TABLE_OFFSET, 8, TOP, FG_EFORMAT},
    {"chunk table in the data", 's', S_TABLE_OFFSET, 8, 3 << 20, FG_EFORMAT},
    {"chunk table unaligned", 's', S_TABLE_OFFSET, 8, 8200, FG_EFORMAT},
    {"no chunks", 's', S_N_CHUNK, 8, 0, FG_EFORMAT},
    {"one chunk", 's', S_N_CHUNK, 8, 1, FG_EFORMAT},
    {"2^61 chunks", 's', S_N_CHUNK, 8, (uint64_t)1 << 61, FG_ELIMIT},
    {"2^64-1 chunks", 's', S_N_CHUNK, 8, UINT64_MAX, FG_ELIMIT},
    {"data at 0", 's', S_DATA_OFFSET, 8, 0, FG_EFORMAT},
    {"data at 4 MiB", 's', S_DATA_OFFSET, 8, 4 << 20, FG_EFORMAT},
    {"data at 4 KiB", 's', S_DATA_OFFSET, 8, 4096, FG_EFORMAT},
    {"data at 2^63", 's', S_DATA_OFFSET, 8, TOP, FG_EFORMAT},
    {"data of 0 bytes", 's', S_DATA_BYTES, 8, 0, FG_EFORMAT},
    {"data of 2^64-1 bytes", 's', S_DATA_BYTES, 8, UINT64_MAX, FG_EFORMAT},
    {"chunks of 2 MiB", 's', S_CHUNK_LOG2, 4, 21, FG_EFORMAT},
    {"chunks of 2^255", 's', S_CHUNK_LOG2, 4, 255, FG_EFORMAT},
    {"flags", 's', S_FLAGS, 4, 1, FG_EFORMAT},
    {"reserved near", 's', 104, 1, 1, FG_EFORMAT},
    {"reserved far", 's', 4087, 1, 1, FG_EFORMAT},
    {"unused is ignored", 's', S_UNUSED, 8, UINT64_MAX, FG_OK},
    {"unused end is ignored", 's', 511, 1, 1, FG_OK},
    {"reserved after unused", 's', 512, 1, 1, FG_EFORMAT},

    {"0 layers", 'd', 0, 4, 0, FG_ESHAPE},
    {"2^31 layers", 'd', 0, 4, 0x80000000u, FG_ESHAPE},
    {"2^32-1 layers", 'd', 0, 4, UINT32_MAX, FG_ESHAPE},
    {"1024 layers", 'd', 0, 4, 1024, FG_ESHAPE},
    {"4 layers", 'd', 0, 4, 4, FG_EFORMAT},
    {"hidden size 0", 'd', 4, 4, 0, FG_ESHAPE},
    {"hidden size 80", 'd', 4, 4, 80, FG_ESHAPE},
    {"hidden size 65", 'd', 4, 4, 65, FG_ENOTSUP},
    {"0 heads", 'd', 8, 4, 0, FG_ESHAPE},
    {"3 key-value heads", 'd', 12, 4, 3, FG_ESHAPE},
    {"head dimension 2^20", 'd', 16, 4, 1 << 20, FG_ESHAPE},
    {"rotary dimension 50", 'd', 20, 4, 50, FG_ESHAPE},
    {"0 experts", 'd', 24, 4, 0, FG_ESHAPE},
    {"1024 experts", 'd', 24, 4, 1024, FG_EFORMAT},
    {"2^32-1 experts", 'd', 24, 4, UINT32_MAX, FG_ESHAPE},
    {"9 experts used", 'd', 28, 4, 9, FG_ESHAPE},
    {"intermediate size 2^31", 'd', 32, 4, 0x80000000u, FG_ESHAPE},
    {"intermediate size 96", 'd', 32, 4, 96, FG_ESHAPE},
    {"vocabulary 0", 'd', 36, 4, 0, FG_ESHAPE},
    {"vocabulary 51", 'd', 36, 4, 51, FG_ESHAPE},
    {"2^64-1 positions", 'd', 40, 8, UINT64_MAX, FG_ESHAPE},
    {"theta NaN", 'd', 48, 8, F64_NAN, FG_ESHAPE},
    {"epsilon NaN", 'd', 56, 8, F64_NAN, FG_ESHAPE},
    {"inner epsilon infinite", 'd', 64, 8, 0x7ff0000000000000u, FG_ESHAPE},
    {"beta NaN", 'd', 112, 8, F64_NAN, FG_ESHAPE},
    {"postnorm 2", 'd', 120, 4, 2, FG_ESHAPE},
    {"slope form 2", 'd', 124, 4, 2, FG_ESHAPE},
    {"0 metadata entries", 'd', 128, 4, 0, FG_EFORMAT},
    {"4 metadata entries", 'd', 128, 4, 4, FG_EFORMAT},
    {"2^32-1 metadata entries", 'd', 128, 4, UINT32_MAX, FG_ELIMIT},
    {"reserved of the head", 'd', 132, 4, 1, FG_EFORMAT},
    {"2^63 tensors", 'd', 136, 8, TOP, FG_EFORMAT},
    {"50 tensors", 'd', 136, 8, N_TENSOR - 1, FG_EFORMAT},
    {"second reserved of the head", 'd', 144, 8, TOP, FG_EFORMAT},
    {"unused of the head is ignored", 'd', 152, 8, TOP, FG_OK},
    {"attention kind 2", 'd', D_ATTN, 1, 2, FG_ESHAPE},
    {"another attention kind", 'd', D_ATTN, 1, 1, FG_EFORMAT},
    {"attention kind of layer 3", 'd', D_ATTN + 3, 1, 1, FG_EFORMAT},

    {"empty key", 'd', D_META, 1, 0, FG_EFORMAT},
    {"control character in a key", 'd', D_META, 1, 10, FG_EFORMAT},
    {"byte above 127 in a key", 'd', D_META, 1, 0x89, FG_EFORMAT},
    {"keys out of order", 'd', D_META, 1, 'z', FG_EFORMAT},
    {"key with a tail", 'd', D_META + 100, 1, 'x', FG_EFORMAT},
    {"key without end", 'd', D_META + 255, 1, 'x', FG_EFORMAT},
    {"metadata in the header", 'd', D_META + 256, 8, 64, FG_EFORMAT},
    {"metadata unaligned", 'd', D_META + 256, 8, 8193, FG_EFORMAT},
    {"metadata beyond", 'd', D_META + 256, 8, (uint64_t)1 << 45, FG_EFORMAT},
    {"metadata at 2^64-64", 'd', D_META + 256, 8, UINT64_MAX - 63, FG_EFORMAT},
    {"metadata in the data", 'd', D_META + 256, 8, 5 << 20, FG_EFORMAT},
    {"metadata of 2^64-1 bytes", 'd', D_META + 264, 8, UINT64_MAX, FG_EFORMAT},
    {"metadata into the next", 'd', D_META + 264, 8, 100, FG_EFORMAT},
    {"reserved of a metadata entry", 'd', D_META + 280, 8, 1, FG_EFORMAT},

    {"dense extent elsewhere", 'd', D_EXTENT, 8, 2 << 20, FG_EFORMAT},
    {"dense extent at 2^63", 'd', D_EXTENT, 8, TOP, FG_EFORMAT},
    {"dense extent longer", 'd', D_EXTENT + 8, 8, 4 << 20, FG_EFORMAT},
    {"expert extent elsewhere", 'd', D_EXTENT + 16, 8, 4096, FG_EFORMAT},
    {"expert extent of 2^64-1 bytes", 'd', D_EXTENT + 24, 8, UINT64_MAX, FG_EFORMAT},
    {"last expert extent", 'd', D_TENSOR - 8, 8, 0, FG_EFORMAT},

    {"unknown role", 'd', D_TENSOR + T_ROLE, 4, 99, FG_EFORMAT},
    {"role 2^32-1", 'd', D_TENSOR + T_ROLE, 4, UINT32_MAX, FG_EFORMAT},
    {"duplicate tensor", 'd', QKV0 + T_ROLE, 4, FG_ROLE_LIGHT_GATE, FG_EFORMAT},
    {"softmax role in a lightning layer", 'd', QKV0 + T_ROLE, 4, FG_ROLE_Q, FG_EFORMAT},
    {"embedding with a layer", 'd', D_TENSOR + T_LAYER, 4, 0, FG_EFORMAT},
    {"another layer", 'd', QKV0 + T_LAYER, 4, 1, FG_EFORMAT},
    {"layer 2^31", 'd', QKV0 + T_LAYER, 4, 0x80000000u, FG_EFORMAT},
    {"dense tensor with an expert", 'd', QKV0 + T_EXPERT, 4, 0, FG_EFORMAT},
    {"another expert", 'd', EXPERT0 + T_EXPERT, 4, 1, FG_EFORMAT},
    {"unknown type", 'd', QKV0 + T_TYPE, 4, 2, FG_EFORMAT},
    {"type 2^32-1", 'd', QKV0 + T_TYPE, 4, UINT32_MAX, FG_EFORMAT},
    {"another type moves what follows", 'd', QKV0 + T_TYPE, 4, FG_TYPE_Q8, FG_EFORMAT},
    {"quantized router", 'd', ROUTER0 + T_TYPE, 4, FG_TYPE_Q8, FG_EFORMAT},
    {"bf16 norm", 'd', D_TENSOR + 96 + T_TYPE, 4, FG_TYPE_BF16, FG_EFORMAT},
    {"rows too many", 'd', QKV0 + T_ROWS, 8, 577, FG_ESHAPE},
    {"rows 2^63", 'd', QKV0 + T_ROWS, 8, TOP, FG_ESHAPE},
    {"0 columns", 'd', QKV0 + T_COLS, 8, 0, FG_ESHAPE},
    {"2^64-1 columns", 'd', QKV0 + T_COLS, 8, UINT64_MAX, FG_ESHAPE},
    {"offset 0", 'd', QKV0 + T_OFFSET, 8, 0, FG_EFORMAT},
    {"offset 2^63", 'd', QKV0 + T_OFFSET, 8, TOP, FG_EFORMAT},
    {"offset -64", 'd', QKV0 + T_OFFSET, 8, UINT64_MAX - 63, FG_EFORMAT},
    {"offset beyond the file", 'd', QKV0 + T_OFFSET, 8, (uint64_t)1 << 33, FG_EFORMAT},
    {"offset of another tensor", 'd', QKV0 + T_OFFSET, 8, 2 << 20, FG_EFORMAT},
    {"stride 0", 'd', QKV0 + T_STRIDE, 8, 0, FG_EFORMAT},
    {"stride 64", 'd', QKV0 + T_STRIDE, 8, 64, FG_EFORMAT},
    {"stride 2^64-1", 'd', QKV0 + T_STRIDE, 8, UINT64_MAX, FG_EFORMAT},
    {"stride of an expert", 'd', EXPERT0 + T_STRIDE, 8, 1 << 20, FG_EFORMAT},
    {"scales of f32", 'd', QKV0 + T_SCALE, 8, 2 << 20, FG_EFORMAT},
    {"scales of q4 missing", 'd', GATEQ4 + T_SCALE, 8, 0, FG_EFORMAT},
    {"scales unaligned", 'd', GATEQ4 + T_SCALE, 8, (4 << 20) + 1, FG_EFORMAT},
    {"code table descending", 'd', GATEQ4 + T_LUT + 3, 1, 0x80, FG_EFORMAT},
    {"code table of zeros", 'd', GATEQ4 + T_LUT, 8, 0, FG_EFORMAT},
    {"code table of f32", 'd', QKV0 + T_LUT, 1, 1, FG_EFORMAT},
    {"error below 0", 'd', QKV0 + T_RMS, 4, 0xbf800000u, FG_EFORMAT},
    {"error infinite", 'd', QKV0 + T_RMS + 4, 4, 0x7f800000u, FG_EFORMAT},
    {"error NaN: not measured", 'd', QKV0 + T_RMS, 4, 0x7fc00000u, FG_OK},
    {"reserved of a tensor", 'd', QKV0 + T_RESERVED, 8, TOP, FG_EFORMAT},
    {"peak below 0", 'd', QKV0 + T_PEAK, 4, 0xbf800000u, FG_EFORMAT},
    {"peak infinite", 'd', QKV0 + T_PEAK, 4, 0x7f800000u, FG_EFORMAT},
    {"peak NaN: not measured", 'd', QKV0 + T_PEAK, 4, 0x7fc00000u, FG_OK},
    {"peak of 9", 'd', QKV0 + T_PEAK, 4, 0x41100000u, FG_OK},
    {"unused of a tensor is ignored", 'd', QKV0 + T_UNUSED, 4, UINT32_MAX, FG_OK},
};

FG_TEST(hostile_values_are_refused)
{
    sample_file s;
    fg_err err;
    REQUIRE(sample_open(&s));
    const size_t n_case = sizeof cases / sizeof cases[0];
    uint8_t *dir = fg_mem_alloc(DIR_BYTES);
    REQUIRE(dir != NULL);
    for (size_t i = 0; i < n_case; i++) {
        const hostile *h = &cases[i];
        uint8_t slots[2 * SLOT];
        memcpy(slots, s.slots, sizeof slots);
        memcpy(dir, s.dir, DIR_BYTES);
        set((h->where == 's' ? slots : dir) + h->at, h->n, h->value);
        const uint64_t n = get(slots + S_DIR_BYTES, 8), at = get(slots + S_DIR_OFFSET, 8);
        /* the hash of whatever the slot now calls the directory */
        if (at == s.dir_offset && n <= DIR_BYTES) {
            set(slots + S_DIR_HASH, 8, fg_hash64(dir, (size_t)n));
        }
        rehash_slot(slots);
        store(&s, slots, dir);
        const fg_status st = try_open(s.path, &err);
        if (st != h->want) {
            fg_test_fail(__FILE__, __LINE__, "%s: %s (%s), expected %s", h->what,
                         fg_status_text(st), st == FG_OK ? "" : err.msg, fg_status_text(h->want));
        }
        if (st != FG_OK) check_message(&err, s.path, h->what);
    }
    fg_mem_free(dir);
    sample_close(&s);
}

/* Swapped records, and a directory with bytes behind its end. */
FG_TEST(order_and_length_are_fixed)
{
    sample_file s;
    fg_err err;
    uint8_t slots[2 * SLOT], record[96];
    REQUIRE(sample_open(&s));
    memcpy(slots, s.slots, sizeof slots);
    memcpy(record, s.dir + QKV0, 96);
    memcpy(s.dir + QKV0, s.dir + GATEQ4, 96);
    memcpy(s.dir + GATEQ4, record, 96);
    set(slots + S_DIR_HASH, 8, fg_hash64(s.dir, DIR_BYTES));
    rehash_slot(slots);
    store(&s, slots, s.dir);
    CHECK(try_open(s.path, &err) == FG_EFORMAT && strstr(err.msg, "output_gate") != NULL);
    memcpy(s.dir + GATEQ4, s.dir + QKV0, 96);
    memcpy(s.dir + QKV0, record, 96);

    static const uint64_t more[] = {1, 8, 96, 288};
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        const uint64_t n = DIR_BYTES + more[i];
        set(slots + S_DIR_BYTES, 8, n);
        set(slots + S_FILE_BYTES, 8, s.dir_offset + n);
        set(slots + S_DIR_HASH, 8, fg_hash64(s.dir, (size_t)n));
        rehash_slot(slots);
        store(&s, slots, s.dir);
        CHECK_OK(fg_io_pwrite(s.fd, s.dir, (size_t)n, s.dir_offset, s.path, &err), &err);
        CHECK(try_open(s.path, &err) == FG_EFORMAT);
        check_message(&err, s.path, "trailing bytes");
    }
    sample_close(&s);
}

/* --- fuzzing --- */

static uint64_t odd_value(fg_rng *r)
{
    static const uint64_t some[] = {0,        1,       2,          3,          7,
                                    64,       4096,    1 << 20,    2 << 20,    0x7fffffff,
                                    TOP,      TOP - 1, UINT32_MAX, UINT64_MAX, (uint64_t)1 << 32,
                                    TOP >> 1, 0xffff,  255,        128,        F64_NAN};
    const uint64_t v = fg_rng_u64(r);
    return v % 3 == 0 ? v >> (v % 61) : some[v / 3 % (sizeof some / sizeof some[0])];
}

FG_TEST(twenty_thousand_mutations)
{
    sample_file s;
    fg_err err;
    fg_rng r;
    REQUIRE(sample_open(&s));
    uint8_t *dir = fg_mem_alloc(DIR_BYTES);
    REQUIRE(dir != NULL);
    fg_rng_init(&r, 20260101);
    int accepted = 0, by_status[16] = {0};
    for (int i = 0; i < 20000 && !fg_test_failed(); i++) {
        uint8_t slots[2 * SLOT];
        memcpy(slots, s.slots, sizeof slots);
        memcpy(dir, s.dir, DIR_BYTES);
        const int n_change = 1 + (int)(fg_rng_u64(&r) % 3);
        for (int k = 0; k < n_change; k++) {
            /* slot fields, directory head with metadata, or anywhere in the directory */
            const uint64_t where = fg_rng_u64(&r) % 4, pick = fg_rng_u64(&r);
            uint8_t *p = where == 0   ? slots + 8 + pick % (S_FLAGS - 4)
                         : where == 1 ? dir + pick % D_TENSOR
                                      : dir + pick % (DIR_BYTES - 8);
            const uint64_t kind = fg_rng_u64(&r) % 3;
            if (kind == 0) {
                *p ^= (uint8_t)(1u << (pick >> 60 & 7));
            } else if (kind == 1) {
                *p = (uint8_t)fg_rng_u64(&r);
            } else {
                p -= (where == 0 ? p - slots : p - dir) % 4; /* whole fields */
                set(p, pick >> 63 ? 4 : 8, odd_value(&r));
            }
        }
        set(slots + S_DIR_HASH, 8, fg_hash64(dir, DIR_BYTES));
        rehash_slot(slots);
        store(&s, slots, dir);
        const fg_status st = try_open(s.path, &err);
        if (st != FG_OK) check_message(&err, s.path, "mutation");
        accepted += st == FG_OK;
        by_status[-st]++;
    }
    printf("  accepted %d, format %d, version %d, checksum %d, shape %d, limit %d\n", accepted,
           by_status[-FG_EFORMAT], by_status[-FG_EVERSION], by_status[-FG_ECHECKSUM],
           by_status[-FG_ESHAPE], by_status[-FG_ELIMIT]);
    /* control: the mutations reach behind the hashes, and harmless ones are let through */
    CHECK(accepted > 100 && accepted < 10000);
    CHECK(by_status[-FG_EFORMAT] > 5000 && by_status[-FG_ESHAPE] > 1000);
    fg_mem_free(dir);
    sample_close(&s);
}
