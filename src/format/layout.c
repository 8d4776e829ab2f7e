/* SPDX-License-Identifier: MIT
 *
 * Header slots, canonical order.
 *
 * Two slots instead of one header: metadata measured later (quality card, heat map) is appended
 * with a new directory and made valid by one 4 KiB write into the slot that is not in use, so that
 * a crash leaves the old file, and a file of hundreds of gigabytes is never rewritten.  Generation
 * g lives in slot (g - 1) mod 2, so that two slots can never claim the same generation.
 */
#include "src/format/layout.h"

#include <string.h>

#include "src/base/hash.h"
#include "src/base/mem.h"
#include "src/base/mistaken.h"
#include "src/format/parts.h"

typedef unsigned long long ull; /* for %llu */

/* A byte above 127 catches 7-bit transfers and text editors, the final newline CR/LF conversion. */
static const uint8_t magic[8] = {0x89, 'F', 'U', 'L', 'G', 'U', 'R', 0x0a};
const uint8_t fg_unfinished_mark[8] = {0x89, 'F', 'G', 'P', 'A', 'R', 'T', 0x0a};

enum {
    SLOT_HASH_AT = FG_SLOT_BYTES - 8,
    SLOT_FIELDS_END = 108,
    SLOT_UNUSED_AT = 256, /* ignored by readers of this version */
    SLOT_UNUSED_END = 512,
};

void fg_slot_encode(const fg_slot *s, uint8_t *out)
{
    uint8_t *p = out;
    const uint64_t fields[] = {s->generation, s->file_bytes,   s->dir_offset, s->dir_bytes,
                               s->dir_hash,   s->table_offset, s->n_chunk,    s->data_offset,
                               s->data_bytes, s->data_root,    FG_CHUNK_LOG2, s->n_part};
    memset(out, 0, FG_SLOT_BYTES);
    memcpy(p, magic, sizeof magic);
    for (int i = 0; i < 4; i++) p[8 + i] = (uint8_t)(s->read_version >> (8 * i));
    for (int i = 0; i < 4; i++) p[12 + i] = (uint8_t)(s->write_version >> (8 * i));
    for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
        for (size_t i = 0; i < 8; i++) p[16 + 8 * f + i] = (uint8_t)(fields[f] >> (8 * i));
    }
    const uint64_t h = fg_hash64(out, SLOT_HASH_AT);
    for (size_t i = 0; i < 8; i++) p[SLOT_HASH_AT + i] = (uint8_t)(h >> (8 * i));
}

static uint64_t slot_hash_stored(const uint8_t *slot)
{
    fg_cursor c = fg_cursor_make(slot + SLOT_HASH_AT, 8);
    return fg_cursor_u64(&c);
}

static bool slot_is_whole(const uint8_t *slot)
{
    return memcmp(slot, magic, sizeof magic) == 0 &&
           fg_hash64(slot, SLOT_HASH_AT) == slot_hash_stored(slot);
}

fg_status fg_layout_refuse(const uint8_t *first, size_t n, const char *path, fg_err *err)
{
    static const char wanted[] = "a .fulgur file, as fulgur convert makes of a checkpoint folder";
    return fg_mistaken_refuse(first, n, path, wanted, err);
}

static fg_status no_slot(const uint8_t *slots, const char *path, fg_err *err)
{
    const uint8_t *p = slots;
    for (uint32_t i = 0; i < FG_N_SLOT; i++, p += FG_SLOT_BYTES) {
        if (memcmp(p, magic, sizeof magic) != 0) continue;
        return fg_fail(err, FG_ECHECKSUM,
                       "%s: header slot %u has hash 0x%016llx, expected 0x%016llx and the other "
                       "slot is no better; convert or copy the file again",
                       path, i, (ull)fg_hash64(p, SLOT_HASH_AT), (ull)slot_hash_stored(p));
    }
    p = slots;
    if (fg_file_kind_of(p) == FG_KIND_UNFINISHED) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: an unfinished model, expected a complete one; the command that began "
                       "it goes on with it",
                       path);
    }
    if (fg_part_has_magic(p)) {
        return fg_fail(err, FG_EFORMAT, "%s: a part of a split model, expected its main file",
                       path);
    }
    FG_TRY(fg_layout_refuse(slots, FG_N_SLOT * FG_SLOT_BYTES, path, err));
    return fg_fail(err, FG_EFORMAT,
                   "%s: starts with %02x %02x %02x %02x, expected 89 46 55 4c of a .fulgur file",
                   path, p[0], p[1], p[2], p[3]);
}

fg_file_kind fg_file_kind_of(const uint8_t *first)
{
    if (memcmp(first, magic, sizeof magic) == 0) return FG_KIND_MODEL;
    const bool marked = memcmp(first, fg_unfinished_mark, sizeof fg_unfinished_mark) == 0 &&
                        memcmp(first + sizeof fg_unfinished_mark, "\0\0\0\0", 4) == 0;
    return marked ? FG_KIND_UNFINISHED : FG_KIND_OTHER;
}

static bool is_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0) return false;
    }
    return true;
}

/* Reads the fields of a whole slot; versions are checked before anything that a later version may
 * define otherwise. */
static fg_status slot_decode(fg_slot *s, const uint8_t *slot, const char *path, fg_err *err)
{
    fg_cursor c = fg_cursor_make(slot + sizeof magic, FG_SLOT_BYTES - sizeof magic);
    s->read_version = fg_cursor_u32(&c);
    s->write_version = fg_cursor_u32(&c);
    if (s->read_version < 1 || s->read_version > FG_READ_VERSION) {
        return fg_fail(err, FG_EVERSION, "%s: file version %u, expected 1 to %u%s", path,
                       s->read_version, (unsigned)FG_READ_VERSION,
                       s->read_version == 0 ? "" : "; use a newer fulgur");
    }
    if (s->write_version < s->read_version) {
        return fg_fail(err, FG_EFORMAT, "%s: write version %u, expected at least %u", path,
                       s->write_version, s->read_version);
    }
    s->generation = fg_cursor_u64(&c);
    s->file_bytes = fg_cursor_u64(&c);
    s->dir_offset = fg_cursor_u64(&c);
    s->dir_bytes = fg_cursor_u64(&c);
    s->dir_hash = fg_cursor_u64(&c);
    s->table_offset = fg_cursor_u64(&c);
    s->n_chunk = fg_cursor_u64(&c);
    s->data_offset = fg_cursor_u64(&c);
    s->data_bytes = fg_cursor_u64(&c);
    s->data_root = fg_cursor_u64(&c);
    const uint32_t chunk_log2 = fg_cursor_u32(&c), flags = fg_cursor_u32(&c);
    s->n_part = fg_cursor_u32(&c);
    if (chunk_log2 != FG_CHUNK_LOG2 || flags != 0) {
        return fg_fail(err, FG_EFORMAT, "%s: chunks of 2^%u bytes and flags 0x%x, expected 2^%u, 0",
                       path, chunk_log2, flags, (unsigned)FG_CHUNK_LOG2);
    }
    const bool may_split = s->read_version >= FG_SPLIT_READ_VERSION;
    if (s->n_part != 0 && (!may_split || s->n_part == 1 || s->n_part > FG_MAX_PART)) {
        return fg_fail(err, FG_EFORMAT, "%s: %u parts in a file of version %u, expected %s", path,
                       s->n_part, s->read_version, may_split ? "0 or 2 to 16" : "0");
    }
    if (!is_zero(slot + SLOT_FIELDS_END, SLOT_UNUSED_AT - SLOT_FIELDS_END) ||
        !is_zero(slot + SLOT_UNUSED_END, SLOT_HASH_AT - SLOT_UNUSED_END)) {
        return fg_fail(err, FG_EFORMAT, "%s: non-zero reserved bytes in the header, expected zeros",
                       path);
    }
    return FG_OK;
}

static fg_status check_range(const char *what, uint64_t offset, uint64_t bytes, uint64_t align,
                             uint64_t limit, const char *path, fg_err *err)
{
    if (offset < FG_N_SLOT * FG_SLOT_BYTES || offset % align != 0 || offset > limit ||
        bytes > limit - offset) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: %s of %llu bytes at offset %llu, expected a multiple of %llu within "
                       "the file's %llu bytes",
                       path, what, (ull)bytes, (ull)offset, (ull)align, (ull)limit);
    }
    return FG_OK;
}

static fg_status slot_check(const fg_slot *s, uint64_t file_size, const char *path, fg_err *err)
{
    if (s->file_bytes > FG_MAX_FILE_BYTES) {
        return fg_fail(err, FG_ELIMIT, "%s: header says %llu bytes, expected at most 2^60", path,
                       (ull)s->file_bytes);
    }
    if (file_size < s->file_bytes) {
        return fg_fail(err, FG_EFORMAT,
                       "%s: %llu bytes, expected %llu; the file is truncated, copy or convert it "
                       "again",
                       path, (ull)file_size, (ull)s->file_bytes);
    }
    if (s->dir_bytes > FG_MAX_DIR_BYTES || s->n_chunk > FG_MAX_FILE_BYTES / FG_FILE_CHUNK) {
        return fg_fail(err, FG_ELIMIT,
                       "%s: directory of %llu bytes and %llu chunks, expected at most 2^30 and "
                       "2^40",
                       path, (ull)s->dir_bytes, (ull)s->n_chunk);
    }
    FG_TRY(check_range("directory", s->dir_offset, s->dir_bytes, FG_META_ALIGN, s->file_bytes, path,
                       err));
    FG_TRY(check_range("data region", s->data_offset, s->data_bytes, FG_HUGE_PAGE_BYTES,
                       s->file_bytes, path, err));
    FG_TRY(check_range("chunk table", s->table_offset, 8 * s->n_chunk, FG_META_ALIGN, s->file_bytes,
                       path, err));
    if (s->n_chunk != fg_slot_chunks(s->data_bytes)) {
        return fg_fail(err, FG_EFORMAT, "%s: %llu chunks for %llu bytes of data, expected %llu",
                       path, (ull)s->n_chunk, (ull)s->data_bytes,
                       (ull)fg_slot_chunks(s->data_bytes));
    }
    return FG_OK;
}

fg_status fg_slot_read(fg_slot *s, const uint8_t *slots, uint64_t file_size, const char *path,
                       fg_err *err)
{
    const uint8_t *best = NULL;
    uint64_t best_generation = 0;
    for (uint32_t i = 0; i < FG_N_SLOT; i++) {
        const uint8_t *p = slots + (size_t)i * FG_SLOT_BYTES;
        if (!slot_is_whole(p)) continue;
        fg_cursor c = fg_cursor_make(p + 16, 8);
        const uint64_t generation = fg_cursor_u64(&c);
        if (generation == 0 || (generation - 1) % FG_N_SLOT != i) {
            return fg_fail(err, FG_EFORMAT, "%s: generation %llu in header slot %u, expected %s",
                           path, (ull)generation, i, i == 0 ? "an odd number" : "an even one");
        }
        if (generation > best_generation) {
            best_generation = generation;
            best = p;
        }
    }
    if (best == NULL) return no_slot(slots, path, err);
    FG_TRY(slot_decode(s, best, path, err));
    return slot_check(s, file_size, path, err);
}

/* --- canonical order --- */

static const fg_role lightning_roles[FG_LAYER_TENSORS] = {
    FG_ROLE_ATTN_NORM,  FG_ROLE_MLP_NORM,  FG_ROLE_LIGHT_NORM, FG_ROLE_LIGHT_QKV,
    FG_ROLE_LIGHT_GATE, FG_ROLE_LIGHT_OUT, FG_ROLE_ROUTER};
static const fg_role softmax_roles[FG_LAYER_TENSORS] = {
    FG_ROLE_ATTN_NORM, FG_ROLE_MLP_NORM, FG_ROLE_Q,     FG_ROLE_K,
    FG_ROLE_V,         FG_ROLE_O,        FG_ROLE_ROUTER};

static const fg_role *layer_roles(const fg_shape *s, uint32_t layer)
{
    return s->attn[layer] == FG_ATTN_SOFTMAX ? softmax_roles : lightning_roles;
}

static uint64_t layer_tensors(const fg_shape *s)
{
    return FG_LAYER_TENSORS + 3 * (uint64_t)s->n_expert;
}

uint64_t fg_order_count(const fg_shape *s)
{
    return 1 + s->n_layer * layer_tensors(s) + 2;
}

uint64_t fg_order_index(const fg_shape *s, fg_role role, uint32_t layer, uint32_t expert)
{
    const uint64_t tail = 1 + s->n_layer * layer_tensors(s);
    if (role <= FG_ROLE_FINAL_NORM) {
        if (layer != FG_NO_LAYER || expert != FG_NO_LAYER) return UINT64_MAX;
        return role == FG_ROLE_EMBED ? 0 : role == FG_ROLE_FINAL_NORM ? tail : tail + 1;
    }
    if (layer >= s->n_layer) return UINT64_MAX;
    const uint64_t base = 1 + layer * layer_tensors(s);
    if (role >= FG_ROLE_EXPERT_GATE) {
        if (role >= FG_ROLE_COUNT || expert >= s->n_expert) return UINT64_MAX;
        return base + FG_LAYER_TENSORS + 3 * (uint64_t)expert + (uint64_t)role -
               FG_ROLE_EXPERT_GATE;
    }
    const fg_role *roles = layer_roles(s, layer);
    for (uint64_t i = 0; i < FG_LAYER_TENSORS && expert == FG_NO_LAYER; i++) {
        if (roles[i] == role) return base + i;
    }
    return UINT64_MAX;
}

void fg_order_at(const fg_shape *s, uint64_t idx, fg_tensor *t)
{
    const uint64_t n = layer_tensors(s);
    t->layer = t->expert = FG_NO_LAYER;
    if (idx == 0) {
        t->role = FG_ROLE_EMBED;
    } else if (idx > s->n_layer * n) {
        t->role = idx == s->n_layer * n + 1 ? FG_ROLE_FINAL_NORM : FG_ROLE_LM_HEAD;
    } else {
        const uint64_t at = (idx - 1) % n;
        t->layer = (uint32_t)((idx - 1) / n);
        if (at < FG_LAYER_TENSORS) {
            t->role = (uint32_t)layer_roles(s, t->layer)[at];
        } else {
            t->role = FG_ROLE_EXPERT_GATE + (uint32_t)((at - FG_LAYER_TENSORS) % 3);
            t->expert = (uint32_t)((at - FG_LAYER_TENSORS) / 3);
        }
    }
    fg_role_dims((fg_role)t->role, s, &t->n_row, &t->n_col);
}

/* --- versions --- */

uint32_t fg_tensor_read_version(const fg_tensor *t)
{
#define FG_QTYPE(id, name, value, packing, n_code, grid, first, last, table, kld, kld_head, read)  \
    _Static_assert((read) >= 1 && (read) <= FG_READ_VERSION, #name ": this reader's at most");
#include "quant/types.inc"
    const uint32_t least = fg_qtype_get(t->type)->read_version;
    return t->rotated && least < FG_ROTATED_READ_VERSION ? FG_ROTATED_READ_VERSION : least;
}
