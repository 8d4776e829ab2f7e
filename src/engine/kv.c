/* SPDX-License-Identifier: MIT */
#include "src/engine/kv.h"

#include <stddef.h>
#include <stdint.h>

/* The choices: enumerator (src/fulgur.h says what each is), name, type. */
#define KV_MAP(X)                                                                                  \
    X(FG_KV_CHOICE_F32, "f32", FG_KV_F32)                                                          \
    X(FG_KV_CHOICE_F16, "f16", FG_KV_F16)                                                          \
    X(FG_KV_CHOICE_INT8, "int8", FG_KV_INT8)

#define KV_ONE(id, name, type) +1
_Static_assert(1 KV_MAP(KV_ONE) == FG_KV_CHOICE_COUNT, "a row a choice, besides auto");
#undef KV_ONE

const char *fg_kv_choice_name(fg_kv_choice kv)
{
    static const char *const name[FG_KV_CHOICE_COUNT] = {[FG_KV_CHOICE_AUTO] = "auto",
#define KV_NAME(id, name, type) [id] = name,
                                                         KV_MAP(KV_NAME)
#undef KV_NAME
    };
    return (uint32_t)kv < FG_KV_CHOICE_COUNT ? name[kv] : NULL;
}

fg_kv_type fg_kv_resolve(fg_kv_choice choice, bool quantized)
{
    switch (choice) {
#define KV_TYPE(id, name, type)                                                                    \
    case id: return type;
        KV_MAP(KV_TYPE)
#undef KV_TYPE
    case FG_KV_CHOICE_AUTO:
    case FG_KV_CHOICE_COUNT: break;
    }
    return quantized ? FG_KV_INT8 : FG_KV_F32;
}

const char *fg_kv_type_name(fg_kv_type type)
{
    switch (type) {
#define KV_TYPE_NAME(id, name, type)                                                               \
    case type: return name;
        KV_MAP(KV_TYPE_NAME)
#undef KV_TYPE_NAME
    }
    return NULL;
}
