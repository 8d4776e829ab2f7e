/* SPDX-License-Identifier: MIT */
#include "src/cli/choices.h"

#include <stdio.h>
#include <string.h>

#include "src/fulgur.h"

/* An option's value is written through a uint32_t *. */
#define IS_U32(type) _Generic((type *)0, uint32_t * : 1, default : 0)
_Static_assert(IS_U32(fg_cpu_level) && IS_U32(fg_policy) && IS_U32(fg_predict) && IS_U32(fg_io) &&
                   IS_U32(fg_kv_choice),
               "enums are unsigned ints");

/* Value `i` of the kind's list: false behind the last; *name is NULL when it is not to be chosen. */
static bool choice_at(opt_kind kind, uint32_t i, const char **name)
{
    switch (kind) {
    case OPT_CPU: *name = fg_cpu_level_name((fg_cpu_level)i); return i < FG_CPU_LEVEL_COUNT;
    case OPT_POLICY:
        *name = fg_policy_is_live((fg_policy)i) ? fg_policy_name((fg_policy)i) : NULL;
        return i < FG_POLICY_COUNT;
    case OPT_PREDICT: *name = fg_predict_name((fg_predict)i); return i < FG_PREDICT_COUNT;
    case OPT_IO: *name = fg_io_name((fg_io)i); return i < FG_IO_COUNT;
    case OPT_KV: *name = fg_kv_choice_name((fg_kv_choice)i); return i < FG_KV_CHOICE_COUNT;
    case OPT_FLAG:
    case OPT_STR:
    case OPT_U32:
    case OPT_U64:
    case OPT_F64:
    case OPT_SIZE: break;
    }
    return false;
}

bool choice_is_kind(opt_kind kind)
{
    const char *name;
    return choice_at(kind, 0, &name);
}

bool choice_parse(opt_kind kind, const char *text, uint32_t *value)
{
    const char *name;
    for (uint32_t i = 0; choice_at(kind, i, &name); i++) {
        if (name == NULL || strcmp(name, text) != 0) continue;
        *value = i;
        return true;
    }
    return false;
}

void choice_list(opt_kind kind, uint32_t standard, char *text, size_t n)
{
    const char *name;
    uint32_t last = 0;
    size_t at = 0;
    for (uint32_t i = 0; choice_at(kind, i, &name); i++) {
        if (name != NULL) last = i;
    }
    text[0] = '\0';
    for (uint32_t i = 0; choice_at(kind, i, &name) && at < n; i++) {
        if (name == NULL) continue;
        const char *sep = at == 0 ? "" : i == last ? " or " : ", ";
        const int k =
            snprintf(text + at, n - at, "%s%s%s", sep, name, i == standard ? " (default)" : "");
        at += k > 0 ? (size_t)k : 0;
    }
}
