/* SPDX-License-Identifier: MIT
 *
 * The inside of an engine, for the files of this folder.
 */
#ifndef FG_SRC_ENGINE_ENGINE_IMPL_H
#define FG_SRC_ENGINE_ENGINE_IMPL_H

#include "src/engine/engine.h"
#include "src/engine/placement.h"
#include "src/model/forward.h"
#include "src/sys/team.h"

struct fg_engine {
    fg_model_file *file;
    fg_gate *gate;     /* NULL: no signature is asked for */
    fg_slices *slices; /* which node has what */
    fg_store *store;   /* without store and copy: the mapping */
    fg_copy *copy;
    fg_store_stats store_stats;
    uint64_t ram_bytes, session_bytes; /* the bound; what sessions take of it */
    fg_placement placement;
    fg_model *model;
    fg_device *device;  /* NULL: everything is done here */
    bool device_wanted; /* by number: what it cannot is an error */
    void (*note)(void *ctx, const char *line);
    void *note_ctx;
    fg_team *team;
    uint32_t cpu_flags;
    fg_tokenizer *tokenizer; /* NULL until asked for */
    uint64_t *sample_mask;   /* NULL until asked for */
    uint64_t n_timeline;     /* sessions so far */
    char *predict_save;      /* NULL: nowhere */
};

/* Brings the weights to their nodes where there are several, asks where they are, and keeps the
 * answer; with FG_NUMA_STRICT FG_ELIMIT when some are elsewhere.  Other errors: those of fg_settle.
 * */
fg_status fg_engine_settle(fg_engine *e, const fg_engine_opts *o, fg_err *err);

/* Where signers are given: FG_OK when the file is signed by one of them and what each token uses of
 * it is what was signed; experts are checked when they are used, by e->gate.  Tells by whom, how
 * long it took and what is not signed. */
fg_status fg_engine_check_origin(fg_engine *e, const fg_engine_opts *o, fg_err *err);
/* At the end: tells what the checks since then took. */
void fg_engine_tell_origin(const fg_engine *e);

#endif
