/* SPDX-License-Identifier: MIT
 *
 * config.json: a shape that was accepted is one that a file may have.
 */
#include "convert/source/hf_config.h"
#include "src/format/shape.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(config, 4000)

static void seeds(void)
{
    fuzz_seed_text("{\"architectures\": [\"\xc2\x9b"
                   "31mred\xe2\x80\xae\"]}"); /* a terminal acts on it */
    fuzz_seed_file("tests/models/m1-nano/config.json");
    fuzz_seed_file("tests/vectors/oracle/orig-heads6/config.json");
    fuzz_seed_file("tests/vectors/oracle/hf-long/config.json");
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_shape s = {0};
    const fg_status st = fg_hf_config_parse(&s, (const char *)d, n, "c", &err);
    fuzz_check_status(st, &err);
    if (fuzz_planted) s.n_used = s.n_expert + 1;
    FUZZ_CHECK(st != FG_OK || fg_shape_check(&s, "c", &err) == FG_OK);
}
