/* SPDX-License-Identifier: MIT
 *
 * JSON from strangers and to them: a bound on values, strings that are valid whatever the bytes,
 * and text without what a terminal acts on.
 */
#include "src/base/json.h"

#include <string.h>

#include "src/base/rng.h"
#include "src/base/utf8.h"
#include "tests/fg_test.h"

static fg_status parse(const char *text, size_t n, fg_err *err)
{
    fg_json *root;
    const fg_status st = fg_json_parse(&root, text, n, "j", err);
    CHECK((root != NULL) == (st == FG_OK));
    fg_json_free(root);
    return st;
}

/* As many values as are allowed, in one array; one more is refused before it is parsed. */
FG_TEST(values_have_a_bound)
{
    fg_buf b = {0};
    fg_err err = {0};
    fg_buf_put_str(&b, "[\"a string, with [many, many] {commas} and a quote \\\"\"");
    for (int i = 0; i < FG_JSON_MAX_VALUES - 2; i++) fg_buf_put(&b, ",0", 2);
    fg_buf_put(&b, "]", 1);
    CHECK(parse((const char *)b.data, b.len, &err) == FG_OK);
    b.len--;
    fg_buf_put(&b, ",0]", 3);
    CHECK(parse((const char *)b.data, b.len, &err) == FG_ELIMIT);
    CHECK(strstr(err.msg, "more than 2097152 values") != NULL);
    fg_buf_fini(&b);
}

FG_TEST(a_value_in_an_error)
{
    static const char *const rows[][2] = {
        {"{\"v\": [1, \"a\", null, true, 1e999, -2.5]}", "[1, \"a\", null, true, Infinity, -2.5]"},
        {"{}", "nothing"},
        {"{\"v\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
         "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char out[FG_JSON_SHOWN];
        fg_json *root = NULL;
        fg_err err = {0};
        REQUIRE_OK(fg_json_parse(&root, rows[i][0], strlen(rows[i][0]), "j", &err), &err);
        CHECK_STR(fg_json_show(fg_json_get(root, "v"), out), rows[i][1]);
        fg_json_free(root);
    }
}

/* A string would end at it, and two names could look the same. */
FG_TEST(a_nul_in_a_string_is_refused)
{
    static const char in_name[] = "{\"a\0b\": 1}", outside[] = "{\"a\": 1}\0\0";
    fg_err err = {0};
    CHECK(parse(in_name, sizeof in_name - 1, &err) == FG_EFORMAT);
    CHECK(strstr(err.msg, "NUL in a string at byte 3") != NULL);
    CHECK(parse("[\"\\u0000\"]", 10, &err) == FG_EFORMAT);
    CHECK(parse("[\"\\\\u0000\", \"\\u0001\"]", 21, &err) == FG_OK); /* a backslash; no NUL */
    CHECK(parse(outside, sizeof outside - 1, &err) == FG_OK);
}

/* As Python's reader and with it the checkpoint's own code, so that nobody reads another number. */
FG_TEST(the_last_of_two_names_counts)
{
    static const char text[] = "{\"a\": 1, \"b\": 5, \"a\": 2, \"A\": 3}";
    fg_json *root;
    uint64_t v = 0;
    CHECK(fg_json_parse(&root, text, sizeof text - 1, "j", NULL) == FG_OK);
    CHECK(fg_json_u64(fg_json_get(root, "a"), &v) && v == 2);
    CHECK(fg_json_u64(fg_json_get(root, "b"), &v) && v == 5);
    CHECK(fg_json_get(root, "c") == NULL && fg_json_get(fg_json_get(root, "b"), "a") == NULL);
    fg_json_free(root);
}

FG_TEST(strings_are_valid_whatever_comes_in)
{
    fg_rng r;
    fg_rng_init(&r, 5);
    fg_buf b = {0}, in = {0}, want = {0};
    for (int round = 0; round < 2000; round++) {
        b.len = in.len = want.len = 0;
        for (uint64_t n = fg_rng_u64(&r) % 40; n > 0; n--) {
            const uint64_t x = fg_rng_u64(&r);
            fg_buf_u8(&in, (uint8_t)(round % 2 == 0 ? x | 1 : 0x80 | (x & 0x7f)));
        }
        fg_utf8_repair(&want, in.data, in.len);
        fg_json_put_str(&b, (const char *)in.data, in.len);
        CHECK(fg_utf8_valid(b.data, b.len) == b.len);
        fg_json *root = NULL;
        const char *text = "";
        CHECK(fg_json_parse(&root, (const char *)b.data, b.len, "j", NULL) == FG_OK);
        CHECK(fg_json_str(root, &text));
        CHECK_STR(text, fg_buf_str(&want));
        fg_json_free(root);
        for (size_t i = 0; i < b.len;) {
            uint32_t cp;
            i += fg_utf8_next(b.data + i, b.len - i, &cp);
            CHECK(!fg_utf8_is_control(cp));
        }
    }
    fg_buf_fini(&b);
    fg_buf_fini(&in);
    fg_buf_fini(&want);
}

FG_TEST(what_a_terminal_acts_on)
{
    static const char *const acts[] = {"\x1b",         "\x7f",         "\xc2\x9b",
                                       "\xe2\x80\xae", "\xe2\x81\xa6", "\xe2\x80\x8e",
                                       "\xe2\x80\xa8", "\xd8\x9c"};
    static const char *const written[] = {"\\x1b",   "\\x7f",   "\\x9b",   "\\u202e",
                                          "\\u2066", "\\u200e", "\\u2028", "\\u061c"};
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++) {
        char line[32];
        fg_buf b = {0};
        fg_err err;
        (void)fg_fail(&err, FG_EINVAL, "a%sb", acts[i]);
        CHECK_STR(err.msg, "a?b");
        fg_utf8_put_shown(&b, (const uint8_t *)acts[i], strlen(acts[i]));
        CHECK_STR(fg_buf_str(&b), written[i]);
        (void)strcpy(line, acts[i]);
        fg_utf8_clean(line);
        CHECK_STR(line, "?");
        fg_buf_fini(&b);
    }
    fg_buf b = {0};
    static const char kept[] = "K\xc3\xa4se\t\n\xe2\x80\x8d"; /* a joiner of emoji stays */
    fg_utf8_put_shown(&b, (const uint8_t *)kept, sizeof kept - 1);
    CHECK_STR(fg_buf_str(&b), kept);
    fg_buf_fini(&b);
    char bad[] = "x\xff\xc3\xa4\xe2\x80";
    fg_utf8_clean(bad);
    CHECK_STR(bad, "x?\xc3\xa4?");
}
