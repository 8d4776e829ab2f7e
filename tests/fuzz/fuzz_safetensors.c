/* SPDX-License-Identifier: MIT
 *
 * The header of a safetensors file.  Input: 2 bytes of data behind the header, 1 of mode, and the
 * JSON text; its length is put before it, so that it is always reached.
 */
#include <stdlib.h>
#include <string.h>

#include "convert/source/safetensors.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(safetensors, 4000)

static void seeds(void)
{
    fuzz_seed("\x10\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 60);
    static const char two[] =
        "\x10\0\0{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"BF16\",\"shape\":"
        "[4],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F16\",\"shape\":[1,2,2],"
        "\"data_offsets\":[8,16]}}";
    fuzz_seed(two, sizeof two - 1);
    static const char odd[] =
        "\x08\0\2{\"a\":{\"dtype\":\"F64\",\"shape\":[1e18,1e3],\"data_offsets\":[0,8]},"
        "\"z\":{\"dtype\":\"XX\",\"shape\":[],\"data_offsets\":[0,0]}}";
    fuzz_seed(odd, sizeof odd - 1);
}

static void check_shard(const fg_st_shard *s, uint64_t data)
{
    uint64_t at = data;
    for (size_t i = 0; i < s->n_tensor; i++) {
        const fg_st_tensor *t = &s->tensor[i];
        FUZZ_CHECK(t->offset == at + (fuzz_planted ? 1 : 0)); /* no hole, no overlap */
        FUZZ_CHECK(t->name[0] != '\0' && t->n_dim <= FG_ST_MAX_DIM);
        at += t->bytes;
    }
    FUZZ_CHECK(at <= s->file_bytes);
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_st_shard s;
    const uint64_t extra = fuzz_take(&d, &n, 2), mode = fuzz_take(&d, &n, 1);
    uint8_t *file = malloc(n + 8);
    fuzz_put_le(file, 8, n);
    memcpy(file + 8, d, n);
    if (mode == 1 && n >= 8) memcpy(file, d, 8); /* a length that is not so */
    const uint64_t bytes = n + 8 + extra + (mode == 2 ? (uint64_t)1 << 40 : 0);
    fg_status st = fg_st_from_header(&s, "x", bytes, file, n + 8, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) check_shard(&s, n + 8);
    fg_st_fini(&s);
    if (mode == 3) { /* a file that is still being downloaded */
        bool growing;
        st = fg_st_open_growing(&s, fuzz_put("a.safetensors", file, n + 8), &growing, &err);
        fuzz_check_status(st, &err);
        fg_st_fini(&s);
    }
    free(file);
}
