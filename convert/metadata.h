/* SPDX-License-Identifier: MIT
 *
 * The metadata of a converted file: copies of the checkpoint's small files, recipe, provenance, and
 * what it was calibrated with (convert.h has their texts).
 *
 * fg_copied_files is the only list of what is copied.  Conversion, dry run, budget, `plan`, synth
 * and the check that OUT overwrites no input all walk it, so that a new row is a new key
 * everywhere.
 */
#ifndef FG_CONVERT_METADATA_H
#define FG_CONVERT_METADATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/file_plan.h"

typedef enum fg_copied_kind {
    FG_COPIED_TEXT,      /* any bytes */
    FG_COPIED_JSON,      /* an object */
    FG_COPIED_TOKENIZER, /* an object that src/text/tokenizer.h takes, with ids of the vocabulary */
} fg_copied_kind;

/* A file of a checkpoint folder that is copied verbatim when it is there. */
typedef struct fg_copied_file {
    const char *file, *key;
    fg_copied_kind kind;
    bool in_synth; /* `fulgur synth --tokenizer` copies it as well */
} fg_copied_file;

enum {
    FG_N_COPIED = 5,
    FG_N_OWN_META = 3, /* at most, besides: recipe, provenance, calibration */
};
extern const fg_copied_file fg_copied_files[FG_N_COPIED];

/* A list of entries with their contents.  Zero-initialise; free with fg_metadata_fini. */
typedef struct fg_metadata {
    fg_meta *entry; /* [n]; owned, as are keys and data */
    size_t n, cap;
} fg_metadata;

/* Copies key and bytes.  FG_ENOMEM. */
fg_status fg_metadata_add(fg_metadata *m, const char *key, const void *bytes, uint64_t n,
                          fg_err *err);
/* Adds the copied file at `path`.  checked: its contents are looked at as its kind says, and a
 * broken one is refused; n_vocab: ids that a tokenizer may have, 0: any number.  Errors: FG_EIO,
 * FG_EFORMAT, FG_ESHAPE, FG_ENOMEM. */
fg_status fg_metadata_add_file(fg_metadata *m, const fg_copied_file *f, const char *path,
                               bool checked, uint32_t n_vocab, fg_err *err);
/* Adds every file of the table that `dir` has. */
fg_status fg_metadata_add_folder(fg_metadata *m, const char *dir, bool checked, uint32_t n_vocab,
                                 fg_err *err);
/* Puts the tokenizer of `dir`, and what belongs to it (those of the table that synth copies as
 * well), into the finished model file `model`, in place of what it has of them; weights are not
 * touched. Errors: those of fg_metadata_add_file, fg_append_open and fg_append_meta. */
fg_status fg_metadata_store_tokenizer(const char *dir, const char *model, fg_err *err);
/* Sum of the sizes of the entries. */
uint64_t fg_metadata_bytes(const fg_metadata *m);
void fg_metadata_fini(fg_metadata *m);

/* Adds the provenance of n_shard files with these names, hashes and sizes blank.  Its length is
 * that of the final one. */
fg_status fg_metadata_add_provenance(fg_metadata *m, const char *type, char *const *shard_name,
                                     size_t n_shard, fg_err *err);

#endif
