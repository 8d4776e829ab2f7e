/* SPDX-License-Identifier: MIT
 *
 * model.safetensors.index.json: names of shards stay in the folder, and both lists are sorted.
 */
#include <string.h>

#include "convert/source/hf_index.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(index, 2000)

static void seeds(void)
{
    fuzz_seed_text(
        "{\"metadata\": {\"total_size\": 123}, \"weight_map\": {\"a\": \"m-1.safetensors\", "
        "\"b\": \"m-2.safetensors\", \"c\": \"m-1.safetensors\"}}");
    fuzz_seed_text(
        "{\"weight_map\": {\"a\": \"../../etc/passwd\", \"b\": \"/etc/passwd\", \"c\": \"x/y\"}}");
    fuzz_seed_text("{\"weight_map\": {\"a\": \"m.safetensors\"}}");
}

static bool stays_inside(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_hf_index x = {0};
    (void)fuzz_put(FG_HF_INDEX_NAME, d, n);
    const fg_status st = fg_hf_index_read(&x, fg_test_tmpdir(), &err);
    fuzz_check_status(st, &err);
    for (size_t i = 0; st == FG_OK && i < x.n_shard; i++) {
        FUZZ_CHECK(stays_inside(fuzz_planted ? "../x" : x.shard_name[i]));
        FUZZ_CHECK(i == 0 || strcmp(x.shard_name[i - 1], x.shard_name[i]) < 0);
    }
    for (size_t i = 0; st == FG_OK && i < x.n_entry; i++) {
        FUZZ_CHECK(x.entry[i].shard < x.n_shard);
        FUZZ_CHECK(i == 0 || strcmp(x.entry[i - 1].name, x.entry[i].name) < 0);
    }
    FUZZ_CHECK(st == FG_OK || x.n_entry == 0);
    fg_hf_index_fini(&x);
}
