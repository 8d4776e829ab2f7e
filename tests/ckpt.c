/* SPDX-License-Identifier: MIT */
#include "tests/ckpt.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/fp.h"
#include "src/base/hash.h"
#include "tests/fg_test.h"

static void die(const char *what)
{
    printf("ckpt: %s\n", what);
    exit(1);
}

float ckpt_value(const char *name, uint64_t i)
{
    uint64_t z = fg_hash64(name, strlen(name)) + i * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z ^= z >> 27;
    return (float)((int)(z % 255) - 127) * 0x1p-9f;
}

/* f16 of a value that f16 holds exactly as a normal number or zero, or of infinity and NaN. */
static uint16_t to_f16(float v)
{
    const uint32_t u = fg_f32_bits(v), exponent = (u >> 23) & 255u;
    const uint32_t sign = (u >> 16) & 0x8000u;
    if (exponent == 255) return (uint16_t)(sign | 0x7c00u | ((u & 0x7fffffu) != 0 ? 0x200u : 0));
    if (exponent == 0) return (uint16_t)sign;
    return (uint16_t)(sign | ((exponent - 112u) << 10) | ((u >> 13) & 0x3ffu));
}

static uint32_t elem_bytes(const char *dtype)
{
    return strcmp(dtype, "F32") == 0 ? 4 : 2;
}

void ckpt_set(ckpt_tensor *t, uint64_t i, float v)
{
    if (strcmp(t->dtype, "F32") == 0) {
        memcpy(t->data + 4 * i, &v, 4);
        return;
    }
    const uint16_t h = strcmp(t->dtype, "F16") == 0 ? to_f16(v) : (uint16_t)(fg_f32_bits(v) >> 16);
    memcpy(t->data + 2 * i, &h, 2);
}

static float get_value(const ckpt_tensor *t, uint64_t i)
{
    float v;
    uint16_t h;
    if (strcmp(t->dtype, "F32") == 0) {
        memcpy(&v, t->data + 4 * i, 4);
        return v;
    }
    memcpy(&h, t->data + 2 * i, 2);
    return strcmp(t->dtype, "F16") == 0 ? fg_f16_to_f32(h) : fg_bf16_to_f32(h);
}

ckpt_tensor *ckpt_add(ckpt *c, const char *name, const char *dtype, uint32_t elem, uint32_t n_dim,
                      const uint64_t *dim)
{
    if (c->n_tensor == CKPT_MAX_TENSOR) die("too many tensors");
    ckpt_tensor *t = &c->tensor[c->n_tensor++];
    *t = (ckpt_tensor){.n_dim = n_dim, .bytes = elem};
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    (void)snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
    for (uint32_t i = 0; i < n_dim; i++) {
        t->dim[i] = dim[i];
        t->bytes *= dim[i];
    }
    t->data = calloc(1, t->bytes + 1);
    if (t->data == NULL) die("out of memory");
    return t;
}

void ckpt_recode(ckpt_tensor *t, const char *dtype)
{
    const uint64_t n = t->bytes / elem_bytes(t->dtype);
    ckpt_tensor from = *t;
    (void)snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
    t->bytes = n * elem_bytes(dtype);
    t->data = calloc(1, t->bytes + 1);
    if (t->data == NULL) die("out of memory");
    for (uint64_t i = 0; i < n; i++) ckpt_set(t, i, get_value(&from, i));
    free(from.data);
}

static void add_weight(ckpt *c, fg_role role, uint32_t layer, uint32_t expert)
{
    char name[96];
    uint64_t n_row, n_col;
    fg_role_name(role, layer, expert, name);
    fg_role_dims(role, &c->shape, &n_row, &n_col);
    const uint64_t dim[2] = {n_row, n_col};
    const bool vector = fg_role_is_vector(role);
    ckpt_tensor *t = ckpt_add(c, name, "BF16", 2, vector ? 1 : 2, vector ? dim + 1 : dim);
    for (uint64_t i = 0; i < n_row * n_col; i++) ckpt_set(t, i, ckpt_value(name, i));
}

static void add_layer(ckpt *c, uint32_t l)
{
    static const fg_role lightning[] = {FG_ROLE_LIGHT_QKV, FG_ROLE_LIGHT_GATE, FG_ROLE_LIGHT_OUT,
                                        FG_ROLE_LIGHT_NORM};
    static const fg_role softmax[] = {FG_ROLE_Q, FG_ROLE_K, FG_ROLE_V, FG_ROLE_O};
    const fg_role *attn = c->shape.attn[l] == FG_ATTN_LIGHTNING ? lightning : softmax;
    add_weight(c, FG_ROLE_ROUTER, l, FG_NO_LAYER);
    for (uint32_t e = 0; e < c->shape.n_expert; e++) {
        add_weight(c, FG_ROLE_EXPERT_GATE, l, e);
        add_weight(c, FG_ROLE_EXPERT_DOWN, l, e);
        add_weight(c, FG_ROLE_EXPERT_UP, l, e);
    }
    for (int i = 0; i < 4; i++) add_weight(c, attn[i], l, FG_NO_LAYER);
    add_weight(c, FG_ROLE_MLP_NORM, l, FG_NO_LAYER);
    add_weight(c, FG_ROLE_ATTN_NORM, l, FG_NO_LAYER);
}

static const fg_shape small_shape = {
    .n_layer = 2,
    .d_model = 48,
    .n_head = 2,
    .n_kv_head = 1,
    .d_head = 16,
    .d_rotary = 8,
    .n_expert = 3,
    .n_used = 2,
    .d_ff = 144,
    .n_vocab = 37,
    .n_ctx_max = 512,
    .rope_theta = 10000,
    .norm_eps = 1e-5,
    .inner_norm_eps = 1e-6,
    .alpha_softmax = 1.5,
    .beta_softmax = 0.75,
    .alpha_lightning = 1.25,
    .beta_lightning = 0.875,
    .alpha_mlp = 2,
    .beta_mlp = 0.5,
    .postnorm = 1,
    .attn = {FG_ATTN_LIGHTNING, FG_ATTN_SOFTMAX},
};

static void init_shape(ckpt *c, const fg_shape *shape)
{
    *c = (ckpt){.shape = *shape, .shard_format = "part.%u.of.some.safetensors"};
    ckpt_config(c, false);
    add_weight(c, FG_ROLE_LM_HEAD, FG_NO_LAYER, FG_NO_LAYER);
    add_weight(c, FG_ROLE_EMBED, FG_NO_LAYER, FG_NO_LAYER);
    for (uint32_t l = 0; l < c->shape.n_layer; l++) add_layer(c, l);
    add_weight(c, FG_ROLE_FINAL_NORM, FG_NO_LAYER, FG_NO_LAYER);
}

void ckpt_init(ckpt *c)
{
    init_shape(c, &small_shape);
}

void ckpt_init_large(ckpt *c)
{
    fg_shape s = small_shape;
    s.d_model = 272;
    s.d_ff = 1040;
    s.n_vocab = 1001;
    s.n_expert = 2;
    init_shape(c, &s);
}

void ckpt_fini(ckpt *c)
{
    for (size_t i = 0; i < c->n_tensor; i++) free(c->tensor[i].data);
    c->n_tensor = 0;
}

ckpt_tensor *ckpt_get(ckpt *c, const char *name)
{
    for (size_t i = 0; i < c->n_tensor; i++) {
        if (strcmp(c->tensor[i].name, name) == 0) return &c->tensor[i];
    }
    die(name);
    return NULL;
}

void ckpt_remove(ckpt *c, const char *name)
{
    ckpt_tensor *t = ckpt_get(c, name);
    free(t->data);
    memmove(t, t + 1, (size_t)(c->tensor + c->n_tensor - (t + 1)) * sizeof *t);
    c->n_tensor--;
}

/* Copies rows of an expert's matrix into the fused tensor, from element `at`. */
static void move_into(ckpt *c, ckpt_tensor *fused, uint64_t at, fg_role role, uint32_t l,
                      uint32_t e)
{
    char name[96];
    fg_role_name(role, l, e, name);
    const ckpt_tensor *t = ckpt_get(c, name);
    memcpy(fused->data + 2 * at, t->data, t->bytes);
    ckpt_remove(c, name);
}

void ckpt_fuse(ckpt *c)
{
    const fg_shape *s = &c->shape;
    const uint64_t h = s->d_model, f = s->d_ff;
    char name[96];
    for (uint32_t l = 0; l < s->n_layer; l++) {
        ckpt_tensor up = {0}, down = {0};
        const uint64_t up_dim[3] = {s->n_expert, 2 * f, h}, down_dim[3] = {s->n_expert, h, f};
        (void)snprintf(name, sizeof name, "model.layers.%u.mlp.experts.gate_up_proj", l);
        up = *ckpt_add(c, name, "BF16", 2, 3, up_dim);
        (void)snprintf(name, sizeof name, "model.layers.%u.mlp.experts.down_proj", l);
        down = *ckpt_add(c, name, "BF16", 2, 3, down_dim);
        for (uint32_t e = 0; e < s->n_expert; e++) { /* data stays where the copies point */
            move_into(c, &up, e * 2 * f * h, FG_ROLE_EXPERT_GATE, l, e);
            move_into(c, &up, e * 2 * f * h + f * h, FG_ROLE_EXPERT_UP, l, e);
            move_into(c, &down, e * f * h, FG_ROLE_EXPERT_DOWN, l, e);
        }
        (void)snprintf(name, sizeof name, "model.layers.%u.block_sparse_moe.gate.weight", l);
        ckpt_tensor *gate = ckpt_get(c, name);
        (void)snprintf(gate->name, sizeof gate->name, "model.layers.%u.mlp.gate.weight", l);
    }
}

void ckpt_add_buffers(ckpt *c)
{
    static const char *const names[] = {"slope_rate", "query_decay", "key_decay", "diagonal_decay"};
    const uint64_t dims[4][4] = {{2, 1, 1}, {2, 64, 1}, {2, 64, 1}, {1, 2, 64, 64}};
    char name[96];
    for (uint32_t l = 0; l < c->shape.n_layer; l++) {
        if (c->shape.attn[l] != FG_ATTN_LIGHTNING) continue;
        for (uint32_t i = 0; i < 4; i++) {
            (void)snprintf(name, sizeof name, "model.layers.%u.self_attn.%s", l, names[i]);
            (void)ckpt_add(c, name, "BF16", 2, i == 3 ? 4 : 3, dims[i]);
        }
    }
}

void ckpt_spread(ckpt *c, uint32_t n)
{
    c->n_shard = n;
    for (size_t i = 0; i < c->n_tensor; i++) c->tensor[i].shard = (uint32_t)(i * 7 % n);
}

/* --- configuration --- */

void ckpt_config(ckpt *c, bool hf)
{
    const fg_shape *s = &c->shape;
    char kinds[512];
    size_t at = 0;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        const char *text = hf ? (s->attn[l] ? "\"full_attention\"" : "\"linear_attention\"")
                              : (s->attn[l] ? "1" : "0");
        at += (size_t)snprintf(kinds + at, sizeof kinds - at, "%s%s", l == 0 ? "" : ", ", text);
    }
    char rope[128];
    (void)snprintf(rope, sizeof rope,
                   hf ? "\"rope_parameters\": {\"rope_theta\": %g, \"rope_type\": \"default\"}"
                      : "\"rope_theta\": %g",
                   s->rope_theta);
    at = (size_t)snprintf(
        c->config, sizeof c->config,
        "{\n\"architectures\": [\"%s\"],\n\"model_type\": \"%s\",\n\"num_hidden_layers\": %u,\n"
        "\"hidden_size\": %u,\n\"num_attention_heads\": %u,\n\"num_key_value_heads\": %u,\n"
        "\"head_dim\": %u,\n\"rotary_dim\": %u,\n\"num_local_experts\": %u,\n"
        "\"num_experts_per_tok\": %u,\n\"intermediate_size\": %u,\n\"vocab_size\": %u,\n"
        "\"max_position_embeddings\": %llu,\n\"rms_norm_eps\": %g,\n\"postnorm\": %s,\n"
        "\"hidden_act\": \"silu\",\n\"sliding_window\": null,\n\"%s\": [%s],\n%s,\n",
        hf ? "MiniMaxForCausalLM" : "MiniMaxM1ForCausalLM", hf ? "minimax" : "minimax_m1",
        s->n_layer, s->d_model, s->n_head, s->n_kv_head, s->d_head, s->d_rotary, s->n_expert,
        s->n_used, s->d_ff, s->n_vocab, (unsigned long long)s->n_ctx_max, s->norm_eps,
        s->postnorm ? "true" : "false", hf ? "layer_types" : "attn_type_list", kinds, rope);
    static const char *const factors[2][6] = {
        {"layernorm_full_attention_alpha", "layernorm_full_attention_beta",
         "layernorm_linear_attention_alpha", "layernorm_linear_attention_beta",
         "layernorm_mlp_alpha", "layernorm_mlp_beta"},
        {"full_attn_alpha_factor", "full_attn_beta_factor", "linear_attn_alpha_factor",
         "linear_attn_beta_factor", "mlp_alpha_factor", "mlp_beta_factor"}};
    const double value[6] = {s->alpha_softmax,  s->beta_softmax, s->alpha_lightning,
                             s->beta_lightning, s->alpha_mlp,    s->beta_mlp};
    for (int i = 0; i < 6; i++) {
        at += (size_t)snprintf(c->config + at, sizeof c->config - at, "\"%s\": %g%s\n",
                               factors[hf][i], value[i], i < 5 ? "," : "\n}");
    }
}

bool ckpt_edit_config(ckpt *c, const char *from, const char *to)
{
    char *at = strstr(c->config, from);
    if (at == NULL || strlen(c->config) + strlen(to) >= sizeof c->config) return false;
    memmove(at + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
    memcpy(at, to, strlen(to));
    return true;
}

/* --- files --- */

void ckpt_put_file(const char *dir, const char *name, const void *bytes, size_t n)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) die(path);
}

static void put_le64(FILE *f, uint64_t v)
{
    for (int i = 0; i < 8; i++) (void)fputc((int)(v >> (8 * i) & 255u), f);
}

void ckpt_put_shard(const char *path, uint64_t length, const char *header, size_t n_header,
                    size_t n_data)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL) die(path);
    put_le64(f, length);
    (void)fwrite(header, 1, n_header, f);
    for (size_t i = 0; i < n_data; i++) (void)fputc(0, f);
    if (fclose(f) != 0) die(path);
}

void ckpt_shard_name(const ckpt *c, uint32_t shard, char *buf, size_t size)
{
    if (c->n_shard == 0) {
        (void)snprintf(buf, size, "model.safetensors");
        return;
    }
    const char *mark = strstr(c->shard_format, "%u");
    (void)snprintf(buf, size, "%.*s%u%s", (int)(mark - c->shard_format), c->shard_format, shard,
                   mark + 2);
}

static void write_shard(const ckpt *c, uint32_t shard, const char *path)
{
    static char header[1 << 16];
    size_t at = (size_t)snprintf(header, sizeof header, "{\"__metadata__\": {\"format\": \"pt\"}");
    uint64_t offset = 0;
    for (size_t i = 0; i < c->n_tensor; i++) {
        const ckpt_tensor *t = &c->tensor[i];
        if (t->shard != shard || t->index_only) continue;
        at += (size_t)snprintf(header + at, sizeof header - at,
                               ", \"%s\": {\"dtype\": \"%s\", \"shape\": [", t->name, t->dtype);
        for (uint32_t d = 0; d < t->n_dim; d++) {
            at += (size_t)snprintf(header + at, sizeof header - at, "%s%llu", d == 0 ? "" : ", ",
                                   (unsigned long long)t->dim[d]);
        }
        at +=
            (size_t)snprintf(header + at, sizeof header - at, "], \"data_offsets\": [%llu, %llu]}",
                             (unsigned long long)offset, (unsigned long long)(offset + t->bytes));
        offset += t->bytes;
    }
    at += (size_t)snprintf(header + at, sizeof header - at, "}");
    while (at % 8 != 0) header[at++] = ' ';
    FILE *f = fopen(path, "wb");
    if (f == NULL) die(path);
    put_le64(f, at);
    (void)fwrite(header, 1, at, f);
    for (size_t i = 0; i < c->n_tensor; i++) {
        const ckpt_tensor *t = &c->tensor[i];
        if (t->shard == shard && !t->index_only) (void)fwrite(t->data, 1, t->bytes, f);
    }
    if (fclose(f) != 0) die(path);
}

static void write_index(const ckpt *c, const char *dir)
{
    char path[512], name[256];
    (void)snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    FILE *f = fopen(path, "w");
    if (f == NULL) die(path);
    (void)fprintf(f, "{\"weight_map\": {");
    bool first = true;
    for (size_t i = 0; i < c->n_tensor; i++) {
        if (c->tensor[i].unlisted) continue;
        ckpt_shard_name(c, c->tensor[i].shard, name, sizeof name);
        (void)fprintf(f, "%s\"%s\": \"%s\"", first ? "" : ", ", c->tensor[i].name, name);
        first = false;
    }
    (void)fprintf(f, "}, \"metadata\": {\"total_size\": 1}}\n");
    if (fclose(f) != 0) die(path);
}

void ckpt_write(const ckpt *c, const char *dir)
{
    char path[512], name[256];
    ckpt_put_file(dir, "config.json", c->config, strlen(c->config));
    for (uint32_t s = 0; s < (c->n_shard == 0 ? 1 : c->n_shard); s++) {
        ckpt_shard_name(c, s, name, sizeof name);
        (void)snprintf(path, sizeof path, "%s/%s", dir, name);
        write_shard(c, s, path);
    }
    if (c->n_shard != 0) write_index(c, dir);
}

void ckpt_put_tokenizer(const char *dir)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    FILE *f = fopen(path, "w");
    if (f == NULL) die(path);
    (void)fprintf(f, "{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": null,\n"
                     "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n"
                     "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\p{L}+|\\\\s+\"}, "
                     "\"behavior\": \"Isolated\", \"invert\": false},\n"
                     "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                     "\"trim_offsets\": false, \"use_regex\": false}]},\n"
                     "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", "
                     "\"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},\n"
                     "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                     "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
                     "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, "
                     "\"vocab\": {");
    for (unsigned b = 0, other = 256; b < 256; b++) { /* the byte alphabet of GPT-2 */
        const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        (void)fprintf(f, "%s\"\\u%04x\": %u", b == 0 ? "" : ", ", itself ? b : other++, b);
    }
    (void)fprintf(f, "}, \"merges\": []}}\n");
    if (fclose(f) != 0) die(path);
}

size_t ckpt_count_files(const char *dir)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    if (d == NULL) return 0;
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    }
    (void)closedir(d);
    return n;
}

const char *ckpt_dir(const char *name)
{
    static char paths[32][256];
    static size_t n_path;
    const char *tmp = fg_test_tmp(name);
    size_t i = 0;
    while (i < n_path && strcmp(paths[i], tmp) != 0) i++;
    if (i == sizeof paths / sizeof paths[0]) die("too many folders");
    if (i == n_path) (void)snprintf(paths[n_path++], sizeof paths[0], "%s", tmp);
    const char *path = paths[i];
    if (mkdir(path, 0755) == 0) return path;
    DIR *d = opendir(path);
    if (d == NULL) die(path);
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        const int fd = dirfd(d);
        if (unlinkat(fd, e->d_name, 0) == 0 || unlinkat(fd, e->d_name, AT_REMOVEDIR) == 0) continue;
        die(e->d_name);
    }
    (void)closedir(d);
    return path;
}

const char *ckpt_release(void)
{
    static char dir[512];
    char cmd[2048];
    const char *shared = fg_test_beside("m1-release");
    if (dir[0] != '\0') return dir;
    if (shared != NULL) {
        (void)snprintf(dir, sizeof dir, "%s", shared);
        return dir;
    }
    (void)snprintf(dir, sizeof dir, "%s", fg_test_tmp("release"));
    (void)snprintf(cmd, sizeof cmd,
                   "python3 scripts/synth_checkpoint.py '%s' --index-only >/dev/null && "
                   "cp tests/models/m1-nano/tokenizer.json '%s'",
                   dir, dir);
    if (system(cmd) == 0) return dir;
    dir[0] = '\0';
    fg_test_skip("python3 is absent");
    return NULL;
}
