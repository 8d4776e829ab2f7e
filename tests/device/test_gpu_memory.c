/* SPDX-License-Identifier: MIT
 *
 * The card's ledger at M1's dimensions against sums by hand, and on small files.
 */
#include <stdio.h>
#include <string.h>

#include "convert/synth.h"
#include "src/device/gpu_memory.h"
#include "src/format/reader.h"
#include "src/model/scratch.h"
#include "tests/fg_test.h"
#include "tests/models.h"

static fg_shape m1_shape(void)
{
    const fg_synth_opts o = {.n_layer = 80};
    fg_shape s = {0};
    fg_err err = {0};
    CHECK_OK(fg_synth_shape(&s, &o, &err), &err);
    s.n_ctx_max = 1000000;
    return s;
}

static fg_tensor_choice choose(void *ctx, fg_role role, uint32_t layer, uint32_t expert)
{
    (void)ctx, (void)layer, (void)expert;
    return (fg_tensor_choice){.lut = fg_lut_linear,
                              .type = role >= FG_ROLE_EXPERT_GATE ? FG_TYPE_Q4
                                      : role == FG_ROLE_LM_HEAD   ? FG_TYPE_Q8
                                                                  : FG_TYPE_Q6};
}

static const fg_model_forms plain = {.in = {true, false},
                                     .attn_out = {true, false},
                                     .expert_in = {true, false},
                                     .hidden = {true, false}};

/* The rows that a card of so many bytes takes have room there, and twice as many have not. */
static void rows_fit(const fg_file_plan *p, uint64_t bytes, const fg_gpu_memory_opts *like)
{
    fg_gpu_memory_opts o = *like;
    o.bytes = bytes;
    const uint32_t n = fg_gpu_memory_rows(p, &plain, &o);
    CHECK(n >= 512 && n < FG_BATCH_MAX);
    for (uint32_t k = 1; k <= 2; k++) {
        fg_gpu_memory m;
        fg_err err = {0};
        o.n_batch = k * n;
        CHECK(fg_gpu_memory_make(&m, p, &plain, &o, &err) == FG_OK);
        const uint64_t room = bytes - (m.needed - m.work);
        CHECK((m.work <= room - room / 16) == (k == 1));
    }
    o.bytes = 9000000000; /* less than the weights */
    CHECK_U64(fg_gpu_memory_rows(p, &plain, &o), 0);
}

FG_TEST(eighty_gigabytes_hold_a_quarter_of_the_experts)
{
    const fg_shape s = m1_shape();
    fg_file_plan *p = NULL;
    fg_err err = {0};
    fg_gpu_memory m;
    const fg_file_spec spec = {.shape = &s, .choose = choose};
    const fg_status st = fg_file_plan_make(&p, &spec, "m1", &err);
    if (st != FG_OK) {
        fg_test_fail(__FILE__, __LINE__, "%s", err.msg);
        return;
    }
    fg_gpu_memory_opts o = {
        .bytes = 79600000000, .n_ctx = 32768, .n_batch = 2048, .kv = FG_KV_INT8};
    CHECK(fg_gpu_memory_make(&m, p, &plain, &o, &err) == FG_OK && m.fits && m.streams);
    /* 18.749 G weights of 6.25 bits; 1.229 G of 8.25 (groups of 32 have a byte each of 128 two) */
    CHECK(m.attention > 14500000000 && m.attention < 14800000000);
    CHECK(m.head > 1250000000 && m.head < 1290000000);
    CHECK(m.small > 65000000 && m.small < 75000000);
    CHECK(m.lightning == 70ull * 64 * 128 * (128 + 2 * 64) * 4);
    CHECK(m.kv == 10ull * 8 * 32768 * 2 * (128 + 4));
    CHECK(m.expert > 90000000 && m.expert < 90800000);
    CHECK(m.n_expert == 2560 && m.n_resident > 590 && m.n_resident < 670);
    CHECK(m.needed + m.slots + m.reserve + m.resident <= o.bytes);
    CHECK(m.needed + m.slots + m.reserve + m.resident + m.expert > o.bytes);
    CHECK_U64(fg_gpu_memory_rows(p, &plain, &o), FG_BATCH_MAX);
    rows_fit(p, 22000000000, &o);
    const uint64_t before = m.n_resident;
    o.n_ctx = 131072;
    CHECK(fg_gpu_memory_make(&m, p, &plain, &o, &err) == FG_OK && m.n_resident < before);
    CHECK(m.kv == 10ull * 8 * 131072 * 2 * (128 + 4));
    o.bytes = m.needed;
    CHECK(fg_gpu_memory_make(&m, p, &plain, &o, &err) == FG_OK && m.fits && !m.streams);
    CHECK(m.n_resident == 0);
    o.bytes = m.needed - 1;
    CHECK(fg_gpu_memory_make(&m, p, &plain, &o, &err) == FG_OK && !m.fits);
    o.n_ctx = 1000001;
    CHECK(fg_gpu_memory_make(&m, p, &plain, &o, &err) == FG_ELIMIT);
    fg_file_plan_destroy(&p);
}

FG_TEST(an_expert_is_as_large_as_its_extent)
{
    static const char *const types[] = {"q4", "q6", "bf16"};
    for (size_t i = 0; i < 3; i++) {
        fg_model_file *f = NULL;
        fg_err err = {0};
        fg_gpu_memory m;
        const char *path = model_file(NANO_DIR, types[i]);
        if (path == NULL) return;
        CHECK(fg_model_file_open(&f, path, &err) == FG_OK);
        if (f == NULL) return;
        const fg_gpu_memory_opts o = {.bytes = 1ull << 33, .n_ctx = 100, .n_batch = 1};
        CHECK(fg_gpu_memory_make(&m, fg_model_file_plan(f), &plain, &o, &err) == FG_OK);
        uint64_t most = 0;
        const fg_shape *s = fg_file_plan_shape(fg_model_file_plan(f));
        for (uint32_t l = 0; l < s->n_layer; l++) {
            for (uint32_t e = 0; e < s->n_expert; e++) {
                const uint64_t n = fg_model_file_expert_extent(f, l, e).bytes;
                if (n > most) most = n;
            }
        }
        CHECK(m.expert == most && m.n_resident == m.n_expert);
        fg_model_file_close(&f);
    }
}
