/* SPDX-License-Identifier: MIT
 *
 * Converts a Hugging Face checkpoint folder into one .fulgur file.
 *
 * The room convert puts together what its three rooms know: source (what is read), choose (which
 * types), calib (what a text says).  Its own files: metadata.h (what is stored beside the weights),
 * work.c (in which order), encode.h (weights to panels), spool.h (panels to the writer), dry_run.h
 * (what would be done), notices.c (what is said).
 *
 * Streaming: for each tensor a band of rows is read, encoded on all threads and written.  A plain
 * conversion takes tensors as the shards have them, each source byte read once and nearly in order;
 * a calibrated one takes them in the order of the file.  Memory is bounded by the longest row, the
 * number of threads and fixed buffers, never by the size of the checkpoint; only the shard headers
 * and the index are held as a whole.  The bytes of the file depend on the source files and the
 * recipe alone: not on thread count, time, paths or machine; calibrated, on the text and on
 * OpenBLAS and the kernels that it chooses for the CPU as well (a conversion is not resumed with
 * others).
 *
 * A conversion replaces an existing OUT (not with keep_existing), but only by the final rename:
 * until then, and after any failure, OUT is what it was; from then on OUT is the whole new file,
 * and what still goes wrong is a warning.
 *
 * Split, the parts other than OUT must not be there yet: they are never replaced.
 *
 * Resuming: the work grows as OUT.part with a journal OUT.part.journal beside it.  When the process
 * ends early, killed or by an error, and there is a checkpoint (every 4 GiB or 30 s; calibrated,
 * after each layer too), both stay, and the same conversion goes on there; the file is the same,
 * byte for byte, as in one go.  Cancelled, it makes a checkpoint of what is done, and both stay in
 * any case.  Without a checkpoint nothing is left behind after an error.  The same means: equal
 * configuration, tokenizer, recipe, calibration text, and shards of equal names, sizes and headers;
 * data of shards is not compared.  Another conversion to OUT is refused while they are there.  What
 * earlier lives wrote is read back, at the speed of the disk, and compared with the hashes in the
 * journal: what differs is made again, or, where its shards are gone, refused before anything is
 * changed.  A file of the user's under either name is refused and left alone.
 *
 * Small disks: with delete_consumed a shard is deleted when everything made from it is after a
 * checkpoint (on the disk; the journal has its header), so that a kill at any moment loses no data;
 * with wait_for_shards a shard may arrive while the conversion runs (configuration, index and
 * tokenizer must be there).  In the release's layout a plain conversion then holds two shards at a
 * time, 4.5 GB, a calibrated one all shards of a group of layers, 234 GB, because the shards are
 * expert-major inside a group and calibration goes layer by layer.
 *
 * Metadata written: the files of fg_copied_files (metadata.h), verbatim, those that are there;
 * "recipe" (the effective recipe, see recipe.h); "provenance"; "calibration" (what was calibrated
 * with).
 *
 * Provenance: JSON {"converter": "fulgur", "version": 1, "type": TYPE, "files": [{"name": NAME,
 * "bytes": N, "xxh3": HEX}, ...]}, one entry for each shard in order of name, HEX being 16 lower
 * case digits; TYPE is the type, the name of the recipe, or "budget".
 * The hash is defined so that tensor data is read once: XXH3-64 (seed 0) over the shard's header
 * (its first 8 + length bytes), followed by the 8-byte little-endian XXH3-64 of the bytes of each
 * converted weight in the order of their offsets.  A weight is one tensor, or, of a fused expert
 * tensor, the matrix of one expert (gate and up separately).  Tensors that are skipped (decay
 * buffers) have no hash of their own; their names and places are in the header.
 */
#ifndef FG_CONVERT_CONVERT_H
#define FG_CONVERT_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/calib/calib.h"
#include "src/base/status.h"
#include "src/format/format.h"

enum {
    FG_CONVERT_VERSION = 1, /* stored as provenance */
};

typedef struct fg_convert_opts {
    const char *src_dir;     /* checkpoint folder */
    const char *out_path;    /* OUT; its folder must exist */
    const char *type;        /* of fg_qtype_names; NULL: FG_RECIPE_TYPE */
    const char *recipe_path; /* lines after the type's recipe, or a name (recipe.h); NULL: none */
    const char *sensitivity_path; /* chooses the types (budget.h) for target_bpw or target_bytes,
                                   * instead of type and recipe; NULL: no */
    double target_bpw;            /* bits per weight at most; 0: no limit */
    uint64_t target_bytes;        /* of OUT at most; 0: no limit */
    const char *calib_path; /* text to calibrate with (calib.h); NULL: weights are encoded alone */
    bool calib_diagonal;    /* second moments of each channel only (calib.h) */
    const char *const *split_dir; /* [n_split] folders that take parts 1 and on (FORMAT.md 3.1) */
    uint32_t n_split;             /* 0: one file */
    uint32_t n_thread;            /* 0: all cores that this process may use */
    /* Called from the calling thread after each band, with source bytes; false cancels.  NULL: no
     * calls. */
    bool (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    /* Called once when an interrupted conversion goes on, before any work.  NULL: no call. */
    void (*resumed)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *ctx;
    /* OUT must not be there yet (FG_EINVAL), unless an unfinished conversion to it goes on. */
    bool keep_existing;
    bool delete_consumed; /* shards, when nothing needs them any more.  Not symbolic links, and not
                           * files with several links: removing those would free nothing */
    /* Those that are missing or shorter than they say; one under its final name counts when it has
     * not changed for 5 s and no downloader's file (.aria2, .incomplete, .part, .crdownload) is
     * beside it. */
    bool wait_for_shards;
    /* Called when waiting for a shard begins (its name), and when it ends (NULL).  NULL: no
     * calls. */
    void (*waiting)(void *ctx, const char *shard);
    /* Something that the user should know, a sentence without a full stop: before the work (no
     * tokenizer, links that delete_consumed leaves alone, a text that is not all UTF-8, a damaged
     * unfinished file), or during it (matrices that are zero throughout), or behind it.  NULL: no
     * calls. */
    void (*warn)(void *ctx, const char *text);
    /* Called while what earlier lives wrote is read back; false cancels.  NULL: no calls. */
    bool (*checking)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    /* The disk of `path` is full: need_bytes more are wanted there to the end, free_bytes are
     * there. True: try again; it waits itself.  NULL, or false: the conversion ends. */
    bool (*full)(void *ctx, const char *path, uint64_t need_bytes, uint64_t free_bytes);
    uint64_t checkpoint_bytes; /* for tests: a checkpoint each so many; 0: 4 GiB or 30 s */
    uint64_t settle_ns;        /* for tests, instead of those 5 s */
} fg_convert_opts;

typedef struct fg_convert_report {
    uint64_t source_bytes;             /* of the converted tensors */
    uint64_t resumed_bytes;            /* of them, those that earlier lives converted */
    uint64_t file_bytes;               /* of OUT */
    uint64_t n_tensor;                 /* in OUT */
    uint64_t n_weight;                 /* parameters */
    uint64_t n_skipped;                /* source tensors that are not needed */
    double bits_per_weight;            /* of the tensors, padding between them excluded */
    double worst_rms;                  /* largest relative RMS error of a tensor, and its name */
    char worst_name[96];               /* "" when no tensor has an error */
    fg_calib_report calib;             /* zeros without calibration */
    uint64_t n_deleted, deleted_bytes; /* shards, by this life */
    uint64_t n_left_alone;             /* shards that delete_consumed does not delete: links */
    uint64_t n_zero;                   /* matrices that are zero throughout */
    double seconds;
    uint64_t peak_rss_bytes; /* of the process so far */
} fg_convert_report;

/* report may be NULL.  Errors: FG_EINVAL (options), FG_EIO, FG_EFORMAT, FG_ENOTSUP, FG_ESHAPE,
 * FG_EDATA (a weight that is not finite), FG_ELIMIT, FG_ENOMEM, FG_ECANCEL. */
fg_status fg_convert(const fg_convert_opts *opts, fg_convert_report *report, fg_err *err);

#endif
