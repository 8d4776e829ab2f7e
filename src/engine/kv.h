/* SPDX-License-Identifier: MIT
 *
 * The one place that turns the caller's choice of a key-value cache into a type: session and bench.
 */
#ifndef FG_SRC_ENGINE_KV_H
#define FG_SRC_ENGINE_KV_H

#include "src/engine/session.h"
#include "src/model/state.h"

static inline fg_kv_type fg_kv_resolve(fg_kv_choice choice, bool quantized)
{
    switch (choice) {
    case FG_KV_CHOICE_F32: return FG_KV_F32;
    case FG_KV_CHOICE_F16: return FG_KV_F16;
    case FG_KV_CHOICE_INT8: return FG_KV_INT8;
    case FG_KV_CHOICE_AUTO: break;
    }
    return quantized ? FG_KV_INT8 : FG_KV_F32;
}

#endif
