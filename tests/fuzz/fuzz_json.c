/* SPDX-License-Identifier: MIT
 *
 * JSON: what was parsed and printed is JSON again, and printing it again gives the same text.
 */
#include <string.h>

#include "src/base/json.h"
#include "src/base/utf8.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(json, 4000)

static void seeds(void)
{
    fuzz_seed_text("{\"a\": [1, 2.5e300, -0.0, null, true, \"\\u00e9\\n\"], \"b\": {}}");
    fuzz_seed_text("[[[[[[[[\"\\ud83d\\ude00\", \"\\u202e\", \"\\\\\\\"\"]]]]]]]]");
    fuzz_seed_text(" {\"\": 9007199254740993, \"b\": 1e-320}\n");
}

static void one(const uint8_t *d, size_t n)
{
    fg_err err = {0};
    fg_json *root, *again;
    fg_buf text = {0}, same = {0};
    fg_status st = fg_json_parse(&root, (const char *)d, n, "j", &err);
    fuzz_check_status(st, &err);
    FUZZ_CHECK((root != NULL) == (st == FG_OK));
    if (st == FG_OK) {
        fg_json_put_node(&text, root);
        FUZZ_CHECK(fg_utf8_valid(text.data, text.len) == text.len);
        const bool finite = strstr(fg_buf_str(&text), "Infinity") == NULL; /* which no JSON is */
        if (fuzz_planted && text.len > 2) text.data[text.len - 1] = '!';
        st = fg_json_parse(&again, (const char *)text.data, text.len, "again", &err);
        FUZZ_CHECK(st == FG_OK || !finite);
        if (st == FG_OK) fg_json_put_node(&same, again);
        FUZZ_CHECK(st != FG_OK ||
                   (same.len == text.len && memcmp(same.data, text.data, same.len) == 0));
        fg_json_free(again);
    }
    same.len = 0;
    fg_json_put_str(&same, (const char *)d, n); /* any bytes make a string */
    st = fg_json_parse(&again, (const char *)same.data, same.len, "string", &err);
    FUZZ_CHECK((st == FG_OK) == (n == 0 || memchr(d, 0, n) == NULL)); /* a NUL cannot be read */
    fg_json_free(again);
    fg_json_free(root);
    fg_buf_fini(&text);
    fg_buf_fini(&same);
}
