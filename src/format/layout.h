/* SPDX-License-Identifier: MIT
 *
 * What only the files of this folder and of write/ see: header slots, the directory as a structure,
 * and the one function that places tensors.  A file plan places and the writer writes; the reader
 * decodes, places again and compares, so that no offset of a file is believed (FORMAT.md 5:
 * positions follow from shape, types and the start of the data region).
 */
#ifndef FG_SRC_FORMAT_LAYOUT_H
#define FG_SRC_FORMAT_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"
#include "src/format/file_plan.h"
#include "src/format/format.h"

enum {
    FG_SLOT_BYTES = 4096,
    FG_N_SLOT = 2,
    FG_META_ALIGN = 64, /* also of chunk table and directory */
    FG_META_KEY_BYTES = 256,
    FG_MAX_META = 1024,
    FG_LAYER_TENSORS = 7, /* dense tensors of a layer of either attention kind */
    FG_CHUNK_LOG2 = 20,
    /* record sizes in the directory */
    FG_DIR_HEAD_BYTES = 160,
    FG_META_RECORD_BYTES = 288,
    FG_EXTENT_RECORD_BYTES = 16,
    FG_TENSOR_RECORD_BYTES = 96,
};
enum {
    FG_TENSOR_ROTATED = 1,       /* flag of a tensor record */
    FG_ROTATED_READ_VERSION = 2, /* of a file with such a tensor */
};
#define FG_MAX_FILE_BYTES ((uint64_t)1 << 60) /* sums of a few positions never overflow */
#define FG_MAX_DIR_BYTES  ((uint64_t)1 << 30)

/* Oldest reader of a file with this tensor, whose type is known. */
uint32_t fg_tensor_read_version(const fg_tensor *t);

/* --- header slot (FORMAT.md 3) --- */

typedef struct fg_slot {
    uint32_t read_version, write_version;
    uint64_t generation;
    uint64_t file_bytes;
    uint64_t dir_offset, dir_bytes, dir_hash;
    uint64_t table_offset, n_chunk; /* XXH3-64 of each chunk */
    uint64_t data_offset, data_bytes;
    uint64_t data_root; /* XXH3-64 of the chunk table */
    uint32_t n_part;    /* files that it is split into (parts.h); 0: one */
} fg_slot;

/* Chunks of a data region of so many bytes. */
static inline uint64_t fg_slot_chunks(uint64_t data_bytes)
{
    return data_bytes / FG_FILE_CHUNK + (data_bytes % FG_FILE_CHUNK != 0);
}

/* What a file is by its first FG_KIND_BYTES.  One that is being written begins with a mark, by
 * which a writer knows its own from files of the user's; the finished header takes its place.  A
 * part of a split model has the same 8 bytes, with a version behind them instead of zeros. */
enum { FG_KIND_BYTES = 12 };
typedef enum fg_file_kind { FG_KIND_OTHER, FG_KIND_MODEL, FG_KIND_UNFINISHED } fg_file_kind;
extern const uint8_t fg_unfinished_mark[8];
fg_file_kind fg_file_kind_of(const uint8_t *first);

/* out: FG_SLOT_BYTES, hash included. */
void fg_slot_encode(const fg_slot *s, uint8_t *out);

/* Chooses the slot in force of the file's first FG_N_SLOT * FG_SLOT_BYTES bytes and checks its
 * fields against each other and the file's size.  FG_EFORMAT, FG_EVERSION, FG_ECHECKSUM. */
fg_status fg_slot_read(fg_slot *s, const uint8_t *slots, uint64_t file_size, const char *path,
                       fg_err *err);

/* FG_EFORMAT when a file's first n bytes (FG_N_SLOT * FG_SLOT_BYTES, or all of a shorter file) are
 * those of something else that is known: a shard, a GGUF file, a pointer of Git LFS, a page. */
fg_status fg_layout_refuse(const uint8_t *first, size_t n, const char *path, fg_err *err);

/* --- canonical order of tensors (FORMAT.md 5.1) --- */

/* For a checked shape. */
uint64_t fg_order_count(const fg_shape *s);
/* UINT64_MAX when the shape has no such tensor. */
uint64_t fg_order_index(const fg_shape *s, fg_role role, uint32_t layer, uint32_t expert);
/* Sets role, layer, expert, n_row and n_col of *t from idx < fg_order_count. */
void fg_order_at(const fg_shape *s, uint64_t idx, fg_tensor *t);

/* --- directory (FORMAT.md 4) --- */

typedef struct fg_meta_entry {
    char key[FG_META_KEY_BYTES]; /* NUL-terminated, rest zero */
    uint64_t offset, bytes, hash;
} fg_meta_entry;

typedef struct fg_directory {
    fg_shape shape;
    uint32_t n_meta;
    fg_meta_entry *meta; /* [n_meta], keys strictly ascending */
    fg_extent *dense;    /* [n_layer] */
    fg_extent *expert;   /* [n_layer][n_expert] */
    uint64_t n_tensor;
    fg_tensor *tensor; /* [n_tensor] in canonical order */
} fg_directory;

/* Allocates the arrays, zeroed, for a checked shape; *d is closed on failure. */
fg_status fg_directory_init(fg_directory *d, const fg_shape *shape, uint32_t n_meta,
                            const char *path, fg_err *err);
/* Accepts a zeroed or half-built object; leaves it zeroed. */
void fg_directory_fini(fg_directory *d);

/* Bytes of the encoded directory. */
uint64_t fg_directory_bytes(const fg_shape *shape, uint32_t n_meta);
void fg_directory_encode(const fg_directory *d, fg_buf *b);

/* Decodes and checks everything: shape, order, types, positions, metadata ranges.  *d must be
 * zeroed; on failure it is left zeroed. */
fg_status fg_directory_decode(fg_directory *d, const uint8_t *bytes, size_t n, const fg_slot *slot,
                              const char *path, fg_err *err);

/* True for a key that may be stored: 1-255 bytes of printable ASCII. */
bool fg_meta_key_is_valid(const char *key);

/* --- layout (file_plan.h) --- */

struct fg_file_plan {
    fg_directory dir; /* placed */
    fg_slot slot;     /* hashes are zero until there is a file */
};

/* Places all tensors (role, type and dimensions set) from data_offset on: fills offset,
 * panel_stride and scale_offset of each, d->dense and d->expert, and the end of the data region.
 * False when it would end beyond FG_MAX_FILE_BYTES. */
bool fg_directory_place(fg_directory *d, uint64_t data_offset, uint64_t *data_end);

/* First byte (row scales if there are any) and end of a placed tensor's own bytes; between the two
 * may lie bytes of its partner for an expert's gate and up. */
uint64_t fg_tensor_begin(const fg_tensor *t);
uint64_t fg_tensor_end(const fg_tensor *t);

#endif
