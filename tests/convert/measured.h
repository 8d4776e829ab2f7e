/* SPDX-License-Identifier: MIT
 *
 * A sensitivity file of any shape, for the tests of what a budget chooses.
 */
#ifndef FG_TESTS_CONVERT_MEASURED_H
#define FG_TESTS_CONVERT_MEASURED_H

#include <stdio.h>
#include <string.h>

#include "convert/source/names.h"
#include "src/base/buf.h"
#include "src/model/quant_unit.h"
#include "tests/ckpt.h"
#include "tests/fg_test.h"

static inline uint64_t weights_of(const fg_shape *s, uint32_t unit)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < fg_weight_count(s); i++) {
        const fg_name t = fg_weight_at(s, i);
        uint32_t idx;
        uint64_t n_row, n_col;
        if (!fg_quant_unit_of(s, t.role, t.layer, &idx) || idx != unit) continue;
        fg_role_dims(t.role, s, &n_row, &n_col);
        n += n_row * n_col;
    }
    return n;
}

/* A sensitivity file for the shape: kld of unit u is (u + 1) / 1e11 a weight, but for `dear`, which
 * costs a thousand times as much.  The first `from` becomes `to`; NULL: none does. */
static inline const char *sensitivity_file(const fg_shape *s, uint32_t dear, const char *from,
                                           const char *to)
{
    static char path[512];
    fg_buf b = {0}, edited = {0};
    fg_buf_put_str(&b, "{\"version\": 1, \"units\": [\n");
    for (uint32_t i = 0; i < fg_quant_unit_count(s); i++) {
        const fg_quant_unit u = fg_quant_unit_at(s, i);
        const uint64_t w = weights_of(s, i);
        const double kld = (double)(i + 1) * 1e-11 * (double)w * (i == dear ? 1000.0 : 1.0);
        fg_buf_put_str(&b, i == 0 ? "{" : ",\n{");
        if (u.layer != FG_NO_LAYER) fg_buf_printf(&b, "\"layer\": %u, ", u.layer);
        fg_buf_printf(&b, "\"class\": \"%s\", \"kld\": %.9g, \"weights\": %llu, \"type\": \"q4\"}",
                      fg_quant_unit_class_name(u.class), kld, (unsigned long long)w);
    }
    fg_buf_put_str(&b, "]}\n");
    const char *text = fg_buf_str(&b), *at = from == NULL ? NULL : strstr(text, from);
    if (at != NULL) {
        fg_buf_put(&edited, text, (size_t)(at - text));
        fg_buf_printf(&edited, "%s%s", to, at + strlen(from));
    }
    const fg_buf *out = at == NULL ? &b : &edited;
    (void)snprintf(path, sizeof path, "%s/s.json", fg_test_tmpdir());
    ckpt_put_file(fg_test_tmpdir(), "s.json", out->data, out->len);
    fg_buf_fini(&b);
    fg_buf_fini(&edited);
    return path;
}

#endif
