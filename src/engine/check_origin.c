/* SPDX-License-Identifier: MIT
 *
 * Whose a model is, before any of it is used.  Metadata and what every token needs are checked
 * here, at the speed of the drive or of SHA-256 on all cores; experts when they are used, by the
 * gate (src/format/gate.h): of 249 GB a short answer uses a part.  A copy of all weights reads them
 * all anyway.
 */
#include <stdio.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/units.h"
#include "src/engine/engine_impl.h"
#include "src/format/gate.h"
#include "src/format/signature.h"

static void tell(const fg_engine *e, const char *line)
{
    if (e->note != NULL) e->note(e->note_ctx, line);
}

/* What nobody has signed may be anybody's. */
static void tell_unsigned(const fg_engine *e)
{
    fg_buf b = {0};
    for (uint64_t i = 0; i < fg_model_file_n_meta(e->file); i++) {
        const char *key;
        uint64_t n;
        fg_model_file_meta_at(e->file, i, &key, &n);
        if (!fg_seal_leaves_out(key) || strcmp(key, FG_SEAL_KEY) == 0) continue;
        fg_buf_printf(&b, "%s %s", b.len == 0 ? "not signed: metadata" : ",", key);
    }
    if (b.len > 0 && fg_buf_str(&b) != NULL) tell(e, fg_buf_str(&b));
    fg_buf_fini(&b);
}

fg_status fg_engine_check_origin(fg_engine *e, const fg_engine_opts *o, fg_err *err)
{
    if (o->signers == NULL) return FG_OK;
    if (o->image != NULL) { /* weights that are used in place of the file's, under no signature */
        return fg_fail(err, FG_EINVAL,
                       "%s: an image, whose weights nobody signed, expected none with a signature "
                       "that is required",
                       o->image);
    }
    fg_seal *seal;
    fg_public_key who;
    char line[256], print[FG_FINGERPRINT_CHARS];
    FG_TRY(fg_signature_require(&seal, e->file, o->signers, &who, err));
    const uint64_t start = fg_clock_ns();
    const fg_seal_pass pass = {.progress = o->progress, .ctx = o->progress_ctx};
    const bool all = o->residency == FG_RESIDENCY_COPY;
    FG_TRY(fg_gate_open(&e->gate, seal, e->file, all, &pass, err));
    fg_key_fingerprint(&who, print);
    (void)snprintf(line, sizeof line, "signed by key %s; %s of weights checked in %.1f s%s", print,
                   fg_text_bytes((double)fg_gate_get_stats(e->gate).opened).s,
                   (double)(fg_clock_ns() - start) * 1e-9,
                   all ? "" : ", experts at their first use");
    tell(e, line);
    tell_unsigned(e);
    return FG_OK;
}

void fg_engine_tell_origin(const fg_engine *e)
{
    char line[128];
    if (e->gate == NULL) return;
    const fg_gate_stats st = fg_gate_get_stats(e->gate);
    if (st.later == 0) return;
    (void)snprintf(line, sizeof line, "%s of experts checked at their first use, %.1f s of threads",
                   fg_text_bytes((double)st.later).s, (double)st.later_ns * 1e-9);
    tell(e, line);
}
