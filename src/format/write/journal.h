/* SPDX-License-Identifier: MIT
 *
 * The journal beside a file that is being written: from which point a killed writer can go on.
 * Private to this folder; writer.h is the interface.
 *
 * A header, then records, appended only.  Each record carries an XXH3-64 over the hash before it
 * and its own bytes, so that neither a torn record nor one of an earlier life of the file is taken
 * for part of the chain; reading stops at the first that does not fit.  A record says what had
 * reached the disk when it was written: the caller syncs the data first, then appends.
 *
 *   header   magic[8], u32 version, u32 zero, u64 identity, u64 hash of the bytes before
 *   record   u64 n, body[n], u64 hash of (hash before, n, body)
 *   body     u64 n_span, n_hash, n_result, n_payload; n_span times (u64 first, end);
 *            u64 hash[n_hash]; n_result times (u64 tensor, f32 err_rms, err_max_row, err_out,
 *            peak, lut[16]); payload[n_payload]
 *
 * A span is what was written in one go since the record before: tensors first to end - 1, with the
 * padding after them.  Its bytes are cut where the file's chunks begin, and the hashes are those of
 * the pieces, of all spans in turn (writer_impl.h).
 *
 * Little-endian.  The file is of no use to anything but the program that wrote it, and is gone when
 * the model is complete; it is no part of FORMAT.md.
 */
#ifndef FG_SRC_FORMAT_WRITE_JOURNAL_H
#define FG_SRC_FORMAT_WRITE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/format.h"

typedef struct fg_journal fg_journal;

/* One record.  Pointers are into the journal's memory, little-endian, in no alignment. */
typedef struct fg_checkpoint {
    uint64_t n_span;    /* on the disk since the record before */
    uint64_t n_hash;    /* pieces of them */
    uint64_t n_result;  /* tensors whose results were set since then */
    uint64_t n_payload; /* bytes of the caller's own */
    const uint8_t *span, *hash, *result, *payload;
    uint64_t end; /* offset of the end of the record in the journal */
} fg_checkpoint;

/* Tensors first to end - 1. */
typedef struct fg_span {
    uint64_t first, end;
} fg_span;
fg_span fg_checkpoint_span(const fg_checkpoint *c, uint64_t i);
uint64_t fg_checkpoint_hash(const fg_checkpoint *c, uint64_t i);

/* Reads the journal at `path`.  One that is absent, or that died before its first record, has no
 * records; one that is damaged has those before the damage.  What is no journal of ours is refused
 * and left alone.  *out is closed by fg_journal_close.  Errors: FG_EINVAL (a link, another kind of
 * file, other contents), FG_EVERSION, FG_ECHECKSUM (a damaged header before records), FG_EIO,
 * FG_ENOMEM. */
fg_status fg_journal_load(fg_journal **out, const char *path, fg_err *err);

/* True when there is a file with a good header. */
bool fg_journal_is_begun(const fg_journal *j);
uint64_t fg_journal_identity(const fg_journal *j);
size_t fg_journal_n_record(const fg_journal *j);
const fg_checkpoint *fg_journal_record(const fg_journal *j, size_t i);

/* Begins a new journal, header only, in a new file with folder entry on the disk; an old one is
 * removed first. */
fg_status fg_journal_start(fg_journal *j, uint64_t identity, fg_err *err);

/* Cuts everything after the first n records (n > 0), so that the next append follows them. */
fg_status fg_journal_keep(fg_journal *j, size_t n, fg_err *err);

/* Appends *c (its pointers encoded as above, end ignored) and syncs.  The records read by load are
 * forgotten.  After a failure the journal must not be appended to. */
fg_status fg_journal_append(fg_journal *j, const fg_checkpoint *c, fg_err *err);

/* Removes the file, if there is one; false when it is still there.  The journal may be started
 * again or closed. */
bool fg_journal_remove(fg_journal *j);

/* Leaves the file as it is.  Accepts NULL; *j becomes NULL. */
void fg_journal_close(fg_journal **j);

enum {
    FG_SPAN_BYTES = 16,
    FG_RESULT_BYTES = 40, /* of a tensor's results in a record */
};

/* out: FG_RESULT_BYTES. */
void fg_result_encode(uint64_t idx, const fg_tensor *t, uint8_t *out);
/* The results of *c into tensor[n_tensor]; false, with nothing changed, when one does not fit. */
bool fg_checkpoint_results(const fg_checkpoint *c, fg_tensor *tensor, uint64_t n_tensor);

#endif
