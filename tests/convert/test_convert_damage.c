/* SPDX-License-Identifier: MIT
 *
 * Bad input, one way at a time: each gives its status and one line that names the object, and
 * leaves neither OUT nor OUT.part behind.  The unbent fixture converts, so every refusal is due to
 * its own damage.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/convert.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"

#define W2 "model.layers.0.block_sparse_moe.experts.1.w2.weight"
#define Q  "model.layers.1.self_attn.q_proj.weight"

typedef struct damage {
    const char *name;
    void (*bend)(ckpt *c);          /* before writing; may be NULL */
    void (*after)(const char *dir); /* on the written folder; may be NULL */
    const char *from, *to;          /* edit of the configuration */
    const char *type, *recipe;      /* options; recipe is the text of a file */
    fg_status status;
    const char *object, *what; /* must both be in the message */
} damage;

/* --- bending the checkpoint --- */

static void drop_w2(ckpt *c)
{
    ckpt_remove(c, W2);
}

static void drop_two(ckpt *c)
{
    ckpt_remove(c, W2);
    ckpt_remove(c, "model.norm.weight");
}

static void add_unknown(ckpt *c)
{
    const uint64_t dim[] = {4};
    (void)ckpt_add(c, "model.layers.0.self_attn.q_norm.weight", "BF16", 2, 1, dim);
}

static void add_mtp(ckpt *c)
{
    const uint64_t dim[] = {48};
    (void)ckpt_add(c, "model.layers.2.input_layernorm.weight", "BF16", 2, 1, dim);
}

static void add_fourth_expert(ckpt *c)
{
    const uint64_t dim[] = {48, 144};
    (void)ckpt_add(c, "model.layers.0.block_sparse_moe.experts.3.w2.weight", "BF16", 2, 2, dim);
}

static void add_alias(ckpt *c)
{
    const uint64_t dim[] = {48, 144};
    (void)ckpt_add(c, "model.layers.0.mlp.experts.1.w2.weight", "BF16", 2, 2, dim);
}

static void add_leading_zero(ckpt *c)
{
    const uint64_t dim[] = {48};
    (void)ckpt_add(c, "model.layers.00.input_layernorm.weight", "BF16", 2, 1, dim);
}

static void other_attention(ckpt *c)
{
    ckpt_tensor *t = ckpt_get(c, Q);
    (void)snprintf(t->name, sizeof t->name, "model.layers.0.self_attn.q_proj.weight");
}

static void twice_in_one_file(ckpt *c)
{
    const uint64_t dim[] = {48};
    (void)ckpt_add(c, "model.norm.weight", "BF16", 2, 1, dim);
}

static void wrong_dtype(ckpt *c)
{
    (void)snprintf(ckpt_get(c, W2)->dtype, sizeof c->tensor[0].dtype, "I16");
}

static void unheard_dtype(ckpt *c)
{
    (void)snprintf(ckpt_get(c, W2)->dtype, sizeof c->tensor[0].dtype, "Q9_FANCY");
}

static void size_mismatch(ckpt *c)
{
    (void)snprintf(ckpt_get(c, W2)->dtype, sizeof c->tensor[0].dtype, "F32");
}

static void transposed(ckpt *c)
{
    ckpt_tensor *t = ckpt_get(c, W2);
    t->dim[0] = 144;
    t->dim[1] = 48;
}

static void vector_as_matrix(ckpt *c)
{
    ckpt_tensor *t = ckpt_get(c, "model.norm.weight");
    t->n_dim = 2;
    t->dim[0] = 1;
    t->dim[1] = 48;
}

static void overflowing_shape(ckpt *c)
{
    ckpt_tensor *t = ckpt_get(c, W2);
    t->n_dim = 3;
    t->dim[0] = t->dim[1] = t->dim[2] = 4294967296;
}

static void nine_dims(ckpt *c)
{
    ckpt_tensor *t = ckpt_get(c, W2);
    for (uint32_t i = 0; i < 8; i++) t->dim[i] = 1;
    t->n_dim = 8;
    t->dim[7] = 48ull * 144;
}

static void put_nan(ckpt *c)
{
    ckpt_set(ckpt_get(c, W2), 3 * 144 + 5, NAN);
    ckpt_set(ckpt_get(c, W2), 47 * 144, NAN); /* the first one is reported */
}

static void put_inf(ckpt *c)
{
    ckpt_tensor *t = ckpt_get(c, Q);
    ckpt_recode(t, "F16");
    ckpt_set(t, 17 * 48 + 47, -INFINITY);
}

static void put_nan_in_norm(ckpt *c)
{
    ckpt_set(ckpt_get(c, "model.layers.0.self_attn.norm.weight"), 31, NAN);
}

static void put_huge(ckpt *c)
{
    ckpt_tensor *t = ckpt_get(c, "lm_head.weight");
    ckpt_recode(t, "F32");
    ckpt_set(t, 2, 3.4e38f);
}

static void fused_wrong(ckpt *c)
{
    ckpt_fuse(c);
    ckpt_tensor *t = ckpt_get(c, "model.layers.1.mlp.experts.gate_up_proj");
    t->dim[0] = 6;
    t->dim[1] = 144;
}

static void fused_and_single(ckpt *c)
{
    ckpt_fuse(c);
    const uint64_t dim[] = {48, 144};
    (void)ckpt_add(c, W2, "BF16", 2, 2, dim);
}

static void spread(ckpt *c)
{
    ckpt_spread(c, 3);
}

static void unlisted(ckpt *c)
{
    ckpt_spread(c, 3);
    ckpt_get(c, W2)->unlisted = true;
}

static void only_listed(ckpt *c)
{
    ckpt_spread(c, 3);
    ckpt_get(c, W2)->index_only = true;
}

static void listed_twice(ckpt *c)
{
    ckpt_spread(c, 3);
    ckpt_tensor *t = ckpt_get(c, W2);
    const uint64_t dim[] = {48, 144};
    const uint32_t shard = t->shard;
    ckpt_add(c, W2, "BF16", 2, 2, dim)->shard = shard;
}

static void in_two_shards(ckpt *c)
{
    ckpt_spread(c, 3);
    const uint32_t shard = ckpt_get(c, W2)->shard;
    const uint64_t dim[] = {48, 144};
    ckpt_tensor *t = ckpt_add(c, W2, "BF16", 2, 2, dim);
    t->shard = (shard + 1) % 3;
    t->unlisted = true;
}

static void escaping(ckpt *c)
{
    c->shard_format = "../%u.safetensors";
    ckpt_spread(c, 2);
}

static void hidden_shards(ckpt *c)
{
    c->shard_format = ".%u.safetensors";
    ckpt_spread(c, 2);
}

/* --- damaging the files --- */

static void cut_tail(const char *dir)
{
    char path[512];
    struct stat sb;
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (stat(path, &sb) != 0 || truncate(path, sb.st_size - 1) != 0)
        fg_test_fail(__FILE__, __LINE__, "truncate");
}

static void grow_tail(const char *dir)
{
    char path[512];
    struct stat sb;
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (stat(path, &sb) != 0 || truncate(path, sb.st_size + 1) != 0)
        fg_test_fail(__FILE__, __LINE__, "truncate");
}

static void put_header(const char *dir, uint64_t length, const char *text, size_t n_data)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ckpt_put_shard(path, length, text, strlen(text), n_data);
}

static void empty_file(const char *dir)
{
    ckpt_put_file(dir, "model.safetensors", "", 0);
}

static void seven_bytes(const char *dir)
{
    ckpt_put_file(dir, "model.safetensors", "\1\0\0\0\0\0\0", 7);
}

static void header_2_63(const char *dir)
{
    put_header(dir, (uint64_t)1 << 63, "{}", 100);
}

static void header_all_ones(const char *dir)
{
    put_header(dir, UINT64_MAX, "{}", 100);
}

static void header_past_end(const char *dir)
{
    put_header(dir, 103, "{}", 100);
}

static void header_no_json(const char *dir)
{
    put_header(dir, 9, "{\"a\": [}}", 0);
}

static void header_array(const char *dir)
{
    put_header(dir, 2, "[]", 0);
}

static void header_zero(const char *dir)
{
    put_header(dir, 0, "", 8);
}

static void put_one(const char *dir, const char *fields, size_t n_data)
{
    char text[512];
    (void)snprintf(text, sizeof text, "{\"model.norm.weight\": %s}", fields);
    put_header(dir, strlen(text), text, n_data);
}

static void no_object(const char *dir)
{
    put_one(dir, "7", 4);
}

static void no_dtype(const char *dir)
{
    put_one(dir, "{\"shape\": [2], \"data_offsets\": [0, 4]}", 4);
}

static void no_shape(const char *dir)
{
    put_one(dir, "{\"dtype\": \"BF16\", \"shape\": 2, \"data_offsets\": [0, 4]}", 4);
}

static void no_offsets(const char *dir)
{
    put_one(dir, "{\"dtype\": \"BF16\", \"shape\": [2]}", 4);
}

static void negative_offset(const char *dir)
{
    put_one(dir, "{\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [-4, 0]}", 4);
}

static void backward_offsets(const char *dir)
{
    put_one(dir, "{\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [4, 0]}", 4);
}

static void third_offset(const char *dir)
{
    put_one(dir, "{\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [0, 4, 8]}", 4);
}

static void huge_offset(const char *dir)
{
    put_one(dir, "{\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [0, 1e300]}", 4);
}

static void fractional_dim(const char *dir)
{
    put_one(dir, "{\"dtype\": \"BF16\", \"shape\": [2.5], \"data_offsets\": [0, 4]}", 4);
}

static void hole(const char *dir)
{
    put_one(dir, "{\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [4, 8]}", 8);
}

static void overlap(const char *dir)
{
    static const char text[] =
        "{\"a\": {\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [0, 4]},"
        "\"b\": {\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [2, 6]}}";
    put_header(dir, strlen(text), text, 6);
}

static void remove_file(const char *dir, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    if (remove(path) != 0) fg_test_fail(__FILE__, __LINE__, "remove");
}

static void no_shard(const char *dir)
{
    remove_file(dir, "part.1.of.some.safetensors");
}

static void no_weights(const char *dir)
{
    remove_file(dir, "model.safetensors");
}

static void no_config(const char *dir)
{
    remove_file(dir, "config.json");
}

static void folder_as_shard(const char *dir)
{
    char path[512];
    no_shard(dir);
    (void)snprintf(path, sizeof path, "%s/part.1.of.some.safetensors", dir);
    if (mkdir(path, 0755) != 0) fg_test_fail(__FILE__, __LINE__, "mkdir");
}

static void bad_index(const char *dir)
{
    ckpt_put_file(dir, "model.safetensors.index.json", "{\"weight_map\"", 13);
}

static void index_without_map(const char *dir)
{
    ckpt_put_file(dir, "model.safetensors.index.json", "{\"metadata\": {}}", 16);
}

static void index_number(const char *dir)
{
    ckpt_put_file(dir, "model.safetensors.index.json", "{\"weight_map\": {\"a\": 1}}", 24);
}

static void bad_tokenizer(const char *dir)
{
    ckpt_put_file(dir, "tokenizer.json", "{\"model\": ", 10);
}

static void array_tokenizer_config(const char *dir)
{
    ckpt_put_file(dir, "tokenizer_config.json", "[1]", 3);
}

#define SHARD "model.safetensors"
#define CFG   "config.json"

static const damage damages[] = {
    {"missing tensor", .bend = drop_w2, .status = FG_EFORMAT, .object = W2, .what = "1 tensors"},
    {"two missing", .bend = drop_two, .status = FG_EFORMAT, .object = "model.norm.weight",
     .what = "2 tensors"},
    {"unknown tensor", .bend = add_unknown, .status = FG_EFORMAT, .object = "q_norm",
     .what = "unknown name"},
    {"layer too many", .bend = add_mtp, .status = FG_EFORMAT, .object = "model.layers.2",
     .what = "below 2"},
    {"expert too many", .bend = add_fourth_expert, .status = FG_EFORMAT, .object = "experts.3.w2",
     .what = "below 3"},
    {"two names", .bend = add_alias, .status = FG_EFORMAT, .object = "mlp.experts.1.w2",
     .what = "before"},
    {"leading zero", .bend = add_leading_zero, .status = FG_EFORMAT, .object = "layers.00",
     .what = "unknown name"},
    {"other attention", .bend = other_attention, .status = FG_EFORMAT,
     .object = "layers.0.self_attn.q_proj", .what = "expected lightning"},
    {"twice in a file", .bend = twice_in_one_file, .status = FG_EFORMAT,
     .object = "model.norm.weight", .what = "twice"},
    {"integer dtype", .bend = wrong_dtype, .status = FG_ENOTSUP, .object = W2, .what = "I16"},
    {"unheard dtype", .bend = unheard_dtype, .status = FG_ENOTSUP, .object = W2,
     .what = "Q9_FANCY"},
    {"dtype of another size", .bend = size_mismatch, .status = FG_EFORMAT, .object = W2,
     .what = "elements of F32"},
    {"transposed", .bend = transposed, .status = FG_ESHAPE, .object = W2,
     .what = "[144, 48], expected [48, 144]"},
    {"vector as matrix", .bend = vector_as_matrix, .status = FG_ESHAPE,
     .object = "model.norm.weight", .what = "[1, 48], expected [48]"},
    {"shape overflow", .bend = overflowing_shape, .status = FG_EFORMAT, .object = W2,
     .what = "overflows"},
    {"8 dimensions", .bend = nine_dims, .status = FG_ESHAPE, .object = W2, .what = "expected [48"},
    {"nan", .bend = put_nan, .status = FG_EDATA, .object = W2,
     .what = "nan at row 3 column 5, expected finite"},
    {"inf", .bend = put_inf, .status = FG_EDATA, .object = Q, .what = "-inf at row 17 column 47"},
    {"nan in a norm", .bend = put_nan_in_norm, .status = FG_EDATA,
     .object = "model.layers.0.self_attn.norm.weight", .what = "row 0 column 31"},
    {"beyond bf16", .bend = put_huge, .type = "bf16", .status = FG_EDATA,
     .object = "lm_head.weight", .what = "row 0 column 2"},
    {"fused shape", .bend = fused_wrong, .status = FG_ESHAPE, .object = "gate_up_proj",
     .what = "expected [3, 288, 48]"},
    {"fused and single", .bend = fused_and_single, .status = FG_EFORMAT,
     .object = "mlp.experts.down_proj", .what = "before"},
    {"not in index", .bend = unlisted, .status = FG_EFORMAT, .object = W2, .what = "is not in"},
    {"only in index", .bend = only_listed, .status = FG_EFORMAT, .object = W2, .what = "no tensor"},
    {"listed twice", .bend = listed_twice, .status = FG_EFORMAT, .object = W2, .what = "twice"},
    {"in two shards", .bend = in_two_shards, .status = FG_EFORMAT, .object = W2, .what = "only"},
    {"shard outside", .bend = escaping, .status = FG_EFORMAT, .object = "../",
     .what = "inside the folder"},
    {"hidden shard", .bend = hidden_shards, .status = FG_EFORMAT, .object = ".0.safetensors",
     .what = "inside the folder"},
    {"missing shard", .bend = spread, .after = no_shard, .status = FG_EIO, .object = "part.1.of",
     .what = "No such file"},
    {"folder as shard", .bend = spread, .after = folder_as_shard, .status = FG_EIO,
     .object = "part.1.of", .what = "directory"},
    {"index no JSON", .after = bad_index, .status = FG_EFORMAT, .object = "index.json",
     .what = "JSON"},
    {"index without map", .after = index_without_map, .status = FG_EFORMAT, .object = "index.json",
     .what = "weight_map"},
    {"index maps to number", .after = index_number, .status = FG_EFORMAT, .object = "index.json",
     .what = "not a string"},
    {"cut by a byte", .after = cut_tail, .status = FG_EFORMAT, .object = SHARD,
     .what = "truncated"},
    {"a byte more", .after = grow_tail, .status = FG_EFORMAT, .object = SHARD, .what = "follow"},
    {"empty file", .after = empty_file, .status = FG_EFORMAT, .object = SHARD,
     .what = "an empty file"},
    {"seven bytes", .after = seven_bytes, .status = FG_EFORMAT, .object = SHARD, .what = "7 bytes"},
    {"header of 2^63", .after = header_2_63, .status = FG_EFORMAT, .object = SHARD,
     .what = "9223372036854775808"},
    {"header of 2^64-1", .after = header_all_ones, .status = FG_EFORMAT, .object = SHARD,
     .what = "18446744073709551615"},
    {"header past the end", .after = header_past_end, .status = FG_EFORMAT, .object = SHARD,
     .what = "at most 102"},
    {"header no JSON", .after = header_no_json, .status = FG_EFORMAT, .object = SHARD,
     .what = "JSON"},
    {"header an array", .after = header_array, .status = FG_EFORMAT, .object = SHARD,
     .what = "'{'"},
    {"header of 0", .after = header_zero, .status = FG_EFORMAT, .object = SHARD, .what = "'{'"},
    {"tensor no object", .after = no_object, .status = FG_EFORMAT, .object = "model.norm.weight",
     .what = "object"},
    {"no dtype", .after = no_dtype, .status = FG_EFORMAT, .object = "model.norm.weight",
     .what = "dtype"},
    {"no shape", .after = no_shape, .status = FG_EFORMAT, .object = "model.norm.weight",
     .what = "shape 2"},
    {"no offsets", .after = no_offsets, .status = FG_EFORMAT, .object = "model.norm.weight",
     .what = "data_offsets"},
    {"negative offset", .after = negative_offset, .status = FG_EFORMAT,
     .object = "model.norm.weight", .what = "data_offsets [-4, 0]"},
    {"backward offsets", .after = backward_offsets, .status = FG_EFORMAT,
     .object = "model.norm.weight", .what = "data_offsets"},
    {"three offsets", .after = third_offset, .status = FG_EFORMAT, .object = "model.norm.weight",
     .what = "data_offsets"},
    {"huge offset", .after = huge_offset, .status = FG_EFORMAT, .object = "model.norm.weight",
     .what = "data_offsets"},
    {"fractional dimension", .after = fractional_dim, .status = FG_EFORMAT,
     .object = "model.norm.weight", .what = "dimension 2.5, expected"},
    {"hole", .after = hole, .status = FG_EFORMAT, .object = "model.norm.weight", .what = "hole"},
    {"overlap", .after = overlap, .status = FG_EFORMAT, .object = "tensor b", .what = "overlap"},
    {"no weights", .after = no_weights, .status = FG_EIO, .object = "damaged",
     .what = "no weights"},
    {"no config", .after = no_config, .status = FG_EIO, .object = CFG, .what = "No such file"},
    {"config no JSON", .from = "{", .to = "", .status = FG_EFORMAT, .object = CFG, .what = "JSON"},
    {"config missing key", .from = "\"vocab_size\": 37,", .to = "", .status = FG_EFORMAT,
     .object = CFG, .what = "vocab_size missing"},
    {"shared experts", .from = "\"postnorm\"",
     .to = "\"shared_intermediate_size\": 64, "
           "\"postnorm\"",
     .status = FG_ENOTSUP, .object = CFG, .what = "shared experts"},
    {"tokenizer no JSON", .after = bad_tokenizer, .status = FG_EFORMAT, .object = "tokenizer.json",
     .what = "JSON"},
    {"tokenizer config an array", .after = array_tokenizer_config, .status = FG_EFORMAT,
     .object = "tokenizer_config.json", .what = "object"},
    {"unknown type", .type = "q3", .status = FG_EINVAL, .object = "q3", .what = "q4"},
    {"recipe: type", .recipe = "* q8\n*.w2.* q7\n", .status = FG_EFORMAT, .object = "my.recipe",
     .what = "line 2: type \"q7\""},
    {"recipe: one word", .recipe = "\n\n*\n", .status = FG_EFORMAT, .object = "my.recipe",
     .what = "line 3"},
    {"recipe: three words", .recipe = "* q8 q8", .status = FG_EFORMAT, .object = "my.recipe",
     .what = "line 1"},
    {"recipe: no match", .recipe = "# x\n*.w9.weight q8\n", .status = FG_EFORMAT,
     .object = "my.recipe", .what = "line 2: pattern \"*.w9.weight\""},
    {"recipe: router", .recipe = "*.block_sparse_moe.gate.weight q8\n", .status = FG_EFORMAT,
     .object = "my.recipe", .what = "always f32"},
    {"recipe: gate and up differ", .recipe = "*.w1.weight q8\n", .status = FG_EFORMAT,
     .object = "my.recipe", .what = "different types"},
    {"recipe: stars", .recipe = "********* q8\n", .status = FG_ELIMIT, .object = "my.recipe",
     .what = "9 stars"},
};

static fg_status run_damage(const damage *d, const char *out, fg_err *err)
{
    static ckpt c;
    char recipe[512];
    ckpt_init(&c);
    if (d->bend != NULL) d->bend(&c);
    if (d->from != NULL) CHECK(ckpt_edit_config(&c, d->from, d->to));
    const char *dir = ckpt_dir("damaged");
    (void)snprintf(recipe, sizeof recipe, "%s/my.recipe", dir);
    ckpt_write(&c, dir);
    if (d->recipe != NULL) ckpt_put_file(dir, "my.recipe", d->recipe, strlen(d->recipe));
    if (d->after != NULL) d->after(dir);
    const fg_convert_opts o = {.src_dir = dir,
                               .out_path = out,
                               .type = d->type,
                               .recipe_path = d->recipe == NULL ? NULL : recipe,
                               .n_thread = 2};
    const fg_status st = fg_convert(&o, NULL, err);
    ckpt_fini(&c);
    return st;
}

/* Message form of the project, object and fact named, nothing left in the folder. */
static void check_refusal(const char *name, fg_status st, fg_status want, const fg_err *err,
                          const char *object, const char *what, const char *out_dir, size_t n_files)
{
    const size_t n = strlen(err->msg);
    const bool form = n > 0 && strchr(err->msg, '\n') == NULL && err->msg[n - 1] != '.' &&
                      strstr(err->msg, ": ") != NULL && strstr(err->msg, "expected ") != NULL;
    if (st != want || err->code != st || !form || strstr(err->msg, object) == NULL ||
        strstr(err->msg, what) == NULL) {
        fg_test_fail(__FILE__, __LINE__, "%s: status %d, expected %d, message \"%s\"", name, st,
                     want, err->msg);
    }
    if (ckpt_count_files(out_dir) != n_files) {
        fg_test_fail(__FILE__, __LINE__, "%s: files left in the output folder", name);
    }
}

FG_TEST(undamaged_control_converts)
{
    const damage none = {"none", .status = FG_OK};
    fg_err err = {0};
    const char *out_dir = ckpt_dir("control_out");
    char out[512];
    (void)snprintf(out, sizeof out, "%s/m.fulgur", out_dir);
    CHECK_OK(run_damage(&none, out, &err), &err);
    CHECK_U64(ckpt_count_files(out_dir), 1);
}

FG_TEST(every_damage_is_refused_in_one_line)
{
    const char *out_dir = ckpt_dir("damage_out");
    char out[512];
    (void)snprintf(out, sizeof out, "%s/m.fulgur", out_dir);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        const damage *d = &damages[i];
        fg_err err = {0};
        const fg_status st = run_damage(d, out, &err);
        check_refusal(d->name, st, d->status, &err, d->object, d->what, out_dir, 0);
    }
}

FG_TEST(existing_output_survives_a_failure)
{
    const damage d = {"nan", .bend = put_nan};
    fg_err err = {0};
    const char *out_dir = ckpt_dir("survive_out");
    char out[512], text[8] = {0};
    (void)snprintf(out, sizeof out, "%s/m.fulgur", out_dir);
    ckpt_put_file(out_dir, "m.fulgur", "old", 3);
    CHECK(run_damage(&d, out, &err) == FG_EDATA);
    CHECK_U64(ckpt_count_files(out_dir), 1);
    FILE *f = fopen(out, "rb");
    REQUIRE(f != NULL);
    CHECK_U64(fread(text, 1, sizeof text, f), 3);
    CHECK_STR(text, "old");
    (void)fclose(f);
}

/* A damage whose object is an output. */
static void check_output(const char *name, const char *out, fg_status want, const char *object,
                         const char *what, const char *out_dir, size_t n_files)
{
    const damage none = {"none", .status = FG_OK};
    fg_err err = {0};
    const fg_status st = run_damage(&none, out, &err);
    check_refusal(name, st, want, &err, object, what, out_dir, n_files);
}

FG_TEST(bad_outputs_are_refused)
{
    const char *dir = ckpt_dir("outputs");
    char out[512];
    (void)snprintf(out, sizeof out, "%s/none/m.fulgur", dir);
    check_output("missing folder", out, FG_EIO, out, "a folder to write to", dir, 0);
    check_output("a folder", dir, FG_EINVAL, dir, "a folder", dir, 0);
    (void)snprintf(out, sizeof out, "%s/x/", dir);
    check_output("trailing slash", out, FG_EINVAL, out, "a folder", dir, 0);
    check_output("a device", "/dev/null", FG_EINVAL, "/dev/null", "not a regular file", dir, 0);
    check_output("empty name", "", FG_EINVAL, "output", "empty", dir, 0);
    check_output("a hyphen", "-", FG_EINVAL, "output", "standard output", dir, 0);
    const char *input = fg_test_tmp("damaged/model.safetensors");
    fg_err err = {0};
    const damage none = {"none", .status = FG_OK};
    CHECK(run_damage(&none, input, &err) == FG_EINVAL);
    CHECK(strstr(err.msg, "same file") != NULL);
    if (geteuid() != 0 && chmod(dir, 0555) == 0) { /* the superuser may write anywhere */
        (void)snprintf(out, sizeof out, "%s/m.fulgur", dir);
        check_output("no permission", out, FG_EIO, out, "Permission denied", dir, 0);
        (void)chmod(dir, 0755);
    }
}

/* The first bad weight in file order is named, whichever thread meets one first. */
FG_TEST(the_first_of_many_bad_weights_is_named)
{
    static ckpt c;
    const char *dir = ckpt_dir("many"), *out = fg_test_tmp("many.fulgur");
    ckpt_init_large(&c);
    ckpt_tensor *gate = ckpt_get(&c, "model.layers.1.block_sparse_moe.experts.0.w1.weight");
    ckpt_tensor *up = ckpt_get(&c, "model.layers.1.block_sparse_moe.experts.0.w3.weight");
    for (uint64_t row = 600; row < 1040; row += 3) ckpt_set(gate, row * 272 + row % 272, NAN);
    for (uint64_t row = 590; row < 1040; row += 3) ckpt_set(up, row * 272 + 7, INFINITY);
    ckpt_write(&c, dir);
    for (uint32_t n = 1; n <= 4; n++) {
        fg_err err = {0};
        const fg_convert_opts o = {.src_dir = dir, .out_path = out, .n_thread = n};
        CHECK(fg_convert(&o, NULL, &err) == FG_EDATA);
        CHECK_STR(err.msg, "model.layers.1.block_sparse_moe.experts.0.w3.weight: inf at row 590 "
                           "column 7, expected finite weights");
    }
    ckpt_fini(&c);
}

/* A full disk, by the limit of file size; SIGXFSZ would end the process. */
FG_TEST(full_disk_is_reported)
{
    struct rlimit old, low;
    REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
    const char *dir = ckpt_dir("full");
    char out[512];
    (void)snprintf(out, sizeof out, "%s/m.fulgur", dir);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    static const rlim_t limits[] = {1 << 20, (2 << 20) + 8192, 4 << 20};
    for (size_t i = 0; i < 3; i++) {
        low = (struct rlimit){limits[i], old.rlim_max};
        CHECK(setrlimit(RLIMIT_FSIZE, &low) == 0);
        check_output("full disk", out, FG_EIO, out, "File too large", dir, 0);
        CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    }
    (void)signal(SIGXFSZ, handler);
}
