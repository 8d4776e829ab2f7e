/* SPDX-License-Identifier: MIT
 *
 * Headers of single safetensors files, the conversion of their numbers, and a spool that outgrows
 * its memory.
 */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/encode.h"
#include "convert/source/safetensors.h"
#include "convert/source/shards.h"
#include "convert/spool.h"
#include "src/base/fp.h"
#include "src/base/rng.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"

static fg_status open_text(const char *header, size_t n_data, fg_st_shard *s, fg_err *err)
{
    const char *path = fg_test_tmp("x.safetensors");
    ckpt_put_shard(path, strlen(header), header, strlen(header), n_data);
    return fg_st_open(s, path, err);
}

FG_TEST(reads_tensors_in_order_of_offset)
{
    fg_st_shard s;
    fg_err err = {0};
    static const char text[] =
        "{\"b\": {\"dtype\": \"F32\", \"shape\": [2, 3], \"data_offsets\": [6, 30]},"
        "\"__metadata__\": {\"format\": \"pt\", \"x\": \"y\"},"
        "\"scalar\": {\"dtype\": \"U8\", \"shape\": [], \"data_offsets\": [30, 31]},"
        "\"none\": {\"dtype\": \"F16\", \"shape\": [0, 7], \"data_offsets\": [6, 6]},"
        "\"new\": {\"dtype\": \"F4\", \"shape\": [9], \"data_offsets\": [31, 36]},"
        "\"a\": {\"dtype\": \"BF16\", \"shape\": [3], \"data_offsets\": [0, 6]}}   ";
    REQUIRE_OK(open_text(text, 36, &s, &err), &err);
    CHECK_U64(s.n_tensor, 5);
    CHECK_U64(s.header_bytes, sizeof text - 1 + 8);
    static const char *const names[] = {"a", "none", "b", "scalar", "new"};
    for (size_t i = 0; i < 5; i++) CHECK_STR(s.tensor[i].name, names[i]);
    const fg_st_tensor *b = &s.tensor[2];
    CHECK(b->dtype == FG_ST_F32 && b->n_dim == 2 && b->dim[0] == 2 && b->dim[1] == 3);
    CHECK_U64(b->offset, s.header_bytes + 6);
    CHECK_U64(b->bytes, 24);
    CHECK_U64(s.tensor[3].n_dim, 0);
    CHECK_U64(s.tensor[4].dtype, FG_ST_OTHER);
    CHECK_STR(s.tensor[4].dtype_text, "F4");
    fg_st_fini(&s);
}

/* Bytes are refused that may not be those of the header that was read. */
FG_TEST(a_shard_that_changes_is_refused)
{
    static const char text[] =
        "{\"a\": {\"dtype\": \"BF16\", \"shape\": [3], \"data_offsets\": [0, 6]}}";
    for (int way = 0; way < 4; way++) { /* not at all, in place, replaced, a byte less */
        fg_st_shard s;
        fg_err err = {0};
        char got[6];
        REQUIRE_OK(open_text(text, 6, &s, &err), &err);
        const fg_hf_checkpoint c = {.shard = &s, .n_shard = 1};
        fg_shards r;
        fg_shards_init(&r, &c);
        if (way != 2) REQUIRE_OK(fg_shards_read(&r, 0, got, 6, s.header_bytes, &err), &err);
        const struct timespec later[2] = {{2000000000, 0}, {2000000000, 0}};
        if (way == 1 || way == 2) REQUIRE(utimensat(AT_FDCWD, s.path, later, 0) == 0);
        if (way == 3) REQUIRE(truncate(s.path, (off_t)s.file_bytes - 1) == 0);
        const fg_status st = fg_shards_read(&r, 0, got, 6, s.header_bytes, &err);
        CHECK(st == (way == 0 ? FG_OK : FG_EIO));
        CHECK(way == 0 || strstr(err.msg, "during the conversion") != NULL);
        fg_shards_fini(&r);
        fg_st_fini(&s);
    }
}

FG_TEST(an_empty_file_of_tensors_is_valid)
{
    fg_st_shard s;
    fg_err err = {0};
    REQUIRE_OK(open_text("{}", 0, &s, &err), &err);
    CHECK_U64(s.n_tensor, 0);
    fg_st_fini(&s);
    CHECK(open_text("{}", 1, &s, &err) == FG_EFORMAT);
    CHECK(s.path == NULL && s.tensor == NULL);
}

FG_TEST(a_tensor_has_a_name)
{
    fg_st_shard s;
    fg_err err = {0};
    CHECK(open_text("{\"\": {\"dtype\": \"BF16\", \"shape\": [3], \"data_offsets\": [0, 6]}}", 6,
                    &s, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "no name, expected one") != NULL);
}

FG_TEST(a_header_above_the_cap_is_not_read)
{
    /* The length is within a (sparse) file of that size, but above 100 MB. */
    fg_st_shard s;
    fg_err err = {0};
    const char *path = fg_test_tmp("big.safetensors");
    ckpt_put_shard(path, FG_ST_MAX_HEADER + 1, "{}", 2, 0);
    FILE *f = fopen(path, "r+b");
    REQUIRE(f != NULL);
    CHECK(fseek(f, 200000000, SEEK_SET) == 0 && fputc(0, f) == 0 && fclose(f) == 0);
    CHECK(fg_st_open(&s, path, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "at most 100000000") != NULL);
}

/* Each byte of a header replaced in turn: an error or a consistent result, never a crash. */
FG_TEST(mutilated_headers_never_crash)
{
    static const char text[] =
        "{\"a\": {\"dtype\": \"BF16\", \"shape\": [3], \"data_offsets\": [0, 6]},"
        "\"b\": {\"dtype\": \"F32\", \"shape\": [2, 3], \"data_offsets\": [6, 30]}}";
    static const char bytes[] = {1, '9', '"', '-', '{', ']', ',', (char)0xff};
    char bent[sizeof text];
    for (size_t i = 0; i < sizeof text - 1; i++) {
        for (size_t k = 0; k < sizeof bytes; k++) {
            fg_st_shard s;
            fg_err err = {0};
            memcpy(bent, text, sizeof text);
            bent[i] = bytes[k];
            const fg_status st = open_text(bent, 30, &s, &err);
            CHECK((st == FG_OK) == (err.msg[0] == '\0'));
            uint64_t sum = 0;
            for (size_t t = 0; st == FG_OK && t < s.n_tensor; t++) sum += s.tensor[t].bytes;
            if (st == FG_OK) CHECK_U64(sum, 30);
            fg_st_fini(&s);
        }
    }
}

FG_TEST(numbers_convert_exactly)
{
    /* f32 and bf16: bits; f16: all of its values, against their definition */
    uint8_t src[8];
    for (uint32_t h = 0; h < 65536; h++) {
        float v;
        src[1] = (uint8_t)(h & 255u); /* unaligned on purpose */
        src[2] = (uint8_t)(h >> 8);
        fg_encode_to_f32(FG_ST_BF16, src + 1, 1, &v);
        if (fg_f32_bits(v) != h << 16) fg_test_fail(__FILE__, __LINE__, "bf16 %04x", h);
        fg_encode_to_f32(FG_ST_F16, src + 1, 1, &v);
        const int e = (int)(h >> 10 & 31u), f = (int)(h & 1023u);
        const double sign = h >> 15 ? -1 : 1;
        if (e == 31) {
            CHECK(f == 0 ? isinf(v) && (double)v * sign > 0 : isnan(v));
            continue;
        }
        const double want = sign * (e == 0 ? ldexp(f, -24) : ldexp(1024 + f, e - 25));
        if ((double)v != want) fg_test_fail(__FILE__, __LINE__, "f16 %04x", h);
    }
    static const uint8_t f32[] = {0x78, 0x56, 0x34, 0x12, 1, 0, 0, 0x80};
    float v[2];
    fg_encode_to_f32(FG_ST_F32, f32, 2, v);
    CHECK(fg_f32_bits(v[0]) == 0x12345678u && fg_f32_bits(v[1]) == 0x80000001u);
}

typedef struct collected {
    uint8_t bytes[1 << 16];
    size_t n;
} collected;

static fg_status collect(void *ctx, const void *bytes, uint64_t n, fg_err *err)
{
    collected *c = ctx;
    if (c->n + n > sizeof c->bytes) return fg_fail(err, FG_ELIMIT, "test: too many bytes");
    memcpy(c->bytes + c->n, bytes, (size_t)n);
    c->n += (size_t)n;
    return FG_OK;
}

FG_TEST(spool_replays_from_memory_and_file)
{
    static collected got;
    static uint8_t want[50000];
    static const uint64_t limits[] = {0, 1, 4096, 49999, 50000, 1 << 20};
    const char *dir = ckpt_dir("spool");
    char out[512];
    fg_rng rng;
    (void)snprintf(out, sizeof out, "%s/m.fulgur", dir);
    fg_rng_init(&rng, 7);
    for (size_t i = 0; i < sizeof want; i++) want[i] = (uint8_t)fg_rng_u64(&rng);
    for (size_t l = 0; l < sizeof limits / sizeof limits[0]; l++) {
        fg_spool s;
        fg_err err = {0};
        fg_spool_init(&s, out, limits[l]);
        for (size_t round = 0; round < 3; round++) { /* reused, with other sizes */
            const size_t total = round == 1 ? 100 : sizeof want;
            REQUIRE_OK(fg_spool_start(&s, total, &err), &err);
            for (size_t at = 0; at < total;) {
                size_t n = (size_t)(fg_rng_u64(&rng) % 3000);
                if (n > total - at) n = total - at;
                REQUIRE_OK(fg_spool_append(&s, want + at, n, &err), &err);
                at += n;
            }
            got.n = 0;
            REQUIRE_OK(fg_spool_replay(&s, collect, &got, &err), &err);
            CHECK(got.n == total && memcmp(got.bytes, want, total) == 0);
        }
        CHECK_U64(ckpt_count_files(dir), 0);
        fg_spool_fini(&s);
    }
}
