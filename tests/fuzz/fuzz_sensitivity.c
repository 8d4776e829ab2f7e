/* SPDX-License-Identifier: MIT
 *
 * A sensitivity file and a budget: a choice that comes out is a recipe that fits the shape.  Input:
 * bits per weight in sixteenths, file size in units of 64 KiB, and the JSON text.
 */
#include "convert/choose/budget.h"
#include "convert/choose/recipe.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(sensitivity, 1500)

static fg_shape shape(void)
{
    return (fg_shape){.n_layer = 2,
                      .d_model = 128,
                      .n_head = 2,
                      .n_kv_head = 1,
                      .d_head = 64,
                      .d_rotary = 32,
                      .n_expert = 4,
                      .n_used = 2,
                      .d_ff = 256,
                      .n_vocab = 512,
                      .n_ctx_max = 64,
                      .attn = {0, 1},
                      .rope_theta = 1e4,
                      .norm_eps = 1e-5,
                      .inner_norm_eps = 1e-6};
}

static void put_unit(fg_buf *b, int layer, const char *class, uint32_t weights, double kld)
{
    if (layer >= 0) fg_buf_printf(b, "{\"layer\": %d, ", layer);
    fg_buf_printf(b, "%s\"class\": \"%s\", \"kld\": %g, \"weights\": %u, \"type\": \"q4\"}",
                  layer >= 0 ? "" : "{", class, kld, (unsigned)weights);
    fg_buf_put_str(b, class[0] == 'l' ? "]}" : ", ");
}

/* kld: of one unit; sums of such numbers may be infinite. */
static void put_seed(uint8_t bpw, uint8_t size, double kld)
{
    fg_buf b = {0};
    fg_buf_u8(&b, bpw);
    fg_buf_u8(&b, size);
    fg_buf_put_str(&b, "{\"version\": 1, \"units\": [");
    put_unit(&b, -1, "embed", 512 * 128, 0.02);
    for (int l = 0; l < 2; l++) {
        put_unit(&b, l, "attn_in", l == 0 ? 4 * 128 * 128 : 2 * 128 * 128, 0.01);
        put_unit(&b, l, "attn_out", 128 * 128, kld);
        put_unit(&b, l, "expert_in", 4 * 2 * 256 * 128, 0.03);
        put_unit(&b, l, "expert_down", 4 * 256 * 128, kld);
    }
    put_unit(&b, -1, "lm_head", 512 * 128, 0.1);
    fuzz_seed(b.data, b.len);
    fg_buf_fini(&b);
}

static void seeds(void)
{
    put_seed(80, 0, 0.01);
    put_seed(0, 200, 0.5);
    put_seed(255, 255, 0);
    put_seed(100, 30, 1e305);
    put_seed(90, 0, 1e6);
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    const fg_shape s = shape();
    fg_buf text = {0};
    fg_budget_opts o = {0};
    o.bpw = (double)fuzz_take(&d, &n, 1) / 16.0;
    o.file_bytes = fuzz_take(&d, &n, 1) << 16;
    o.sensitivity_path = fuzz_put("sensitivity", d, n);
    fg_status st = fg_budget_choose(&text, &s, &o, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK) {
        fg_recipe r = {0};
        if (fuzz_planted) fg_buf_put_str(&text, "nosuch\n");
        st = fg_recipe_load_text(&r, (const char *)text.data, text.len, "b", &err);
        FUZZ_CHECK(st == FG_OK);
        if (st == FG_OK) FUZZ_CHECK(fg_recipe_check(&r, &s, "b", &err) == FG_OK);
        fg_recipe_fini(&r);
    }
    fg_buf_fini(&text);
}
