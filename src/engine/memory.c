/* SPDX-License-Identifier: MIT */
#include "src/engine/memory.h"

#include <stdio.h>

#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/fulgur.h"
#include "src/model/mark.h"
#include "src/model/scratch.h"

fg_status fg_memory_of_session(fg_memory *out, const fg_shape *shape, const fg_model_forms *forms,
                               const fg_memory_opts *o, fg_err *err)
{
    uint64_t state;
    *out = (fg_memory){0};
    FG_TRY(fg_state_size(shape, 0, o->kv, o->place, &out->lightning, err));
    FG_TRY(fg_state_size(shape, o->n_ctx, o->kv, o->place, &state, err));
    out->kv = state - out->lightning;
    out->scratch = fg_scratch_bytes(shape, forms, o->n_ctx, o->n_batch, o->n_thread);
    out->mark = fg_mark_bytes(shape, FG_LIGHT_CHUNK - 1);
    out->undo = o->stops ? out->mark : 0;
    out->session = state + out->scratch + out->undo;
    return FG_OK;
}

uint32_t fg_memory_batch(const fg_shape *shape, const fg_model_forms *forms,
                         const fg_memory_opts *o, uint64_t n, uint64_t spare)
{
    const uint64_t had = fg_scratch_bytes(shape, forms, o->n_ctx, o->n_batch, o->n_thread);
    if (n <= o->n_batch) return o->n_batch;
    for (uint64_t most = o->n_long == 0 ? FG_SESSION_LONG_BATCH : o->n_long; most > o->n_batch;
         most /= 2) {
        const uint64_t n_pass = (n - 1) / most + 1;
        const uint32_t batch = (uint32_t)((n - 1) / n_pass + 1);
        if (batch <= o->n_batch) break;
        const uint64_t more = fg_scratch_bytes(shape, forms, o->n_ctx, batch, o->n_thread) - had;
        if (more <= spare) return batch;
    }
    return o->n_batch;
}

uint64_t fg_memory_bound(uint64_t ram, uint64_t most, uint64_t room)
{
    const uint64_t left = room - room / 32;
    return (ram < most ? ram : most) <= left ? ram : left;
}

void fg_memory_bound_text(char *line, size_t n, uint64_t ram, uint64_t bound, const fg_room *room)
{
    (void)snprintf(line, n, "memory: %s, expected at most %s within %s; using %s",
                   fg_text_memory((double)ram).s, fg_text_memory((double)room->bytes).s, room->by,
                   fg_text_memory((double)bound).s);
}

fg_status fg_memory_for_weights(uint64_t *out, uint64_t ram, uint64_t sessions, uint64_t least,
                                fg_err *err)
{
    uint64_t other, want = UINT64_MAX;
    const bool fits =
        fg_add_u64(FG_MEMORY_PROGRAM, sessions, &other) && fg_add_u64(other, least, &want);
    *out = fits && ram >= other ? ram - other : 0;
    if (fits && ram >= want) return FG_OK;
    return fg_fail(err, FG_ELIMIT,
                   "memory: %s, expected at least %llu bytes (%s): dense parts and the fewest "
                   "experts %s, sessions %s, program %s",
                   fg_text_memory((double)ram).s, (unsigned long long)want,
                   fg_text_memory((double)want).s, fg_text_memory((double)least).s,
                   fg_text_memory((double)sessions).s, fg_text_memory((double)FG_MEMORY_PROGRAM).s);
}
