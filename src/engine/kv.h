/* SPDX-License-Identifier: MIT
 *
 * The one place that turns the caller's choice of a key-value cache into a type, and either into a
 * name: session, bench, plan and score.
 */
#ifndef FG_SRC_ENGINE_KV_H
#define FG_SRC_ENGINE_KV_H

#include <stdbool.h>

#include "src/fulgur.h"
#include "src/model/state.h"

/* choice: less than FG_KV_CHOICE_COUNT. */
fg_kv_type fg_kv_resolve(fg_kv_choice choice, bool quantized);

/* Name of the choice that asks for this type. */
const char *fg_kv_type_name(fg_kv_type type);

#endif
