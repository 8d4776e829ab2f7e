/* SPDX-License-Identifier: MIT
 *
 * Tokenizer files that are wrong, hostile or unsupported, random text, and lack of memory: each
 * gives one line that names the fault, or works; nothing crashes (run with sanitizers).
 */
#include <stdio.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/text/pretoken.h"
#include "src/text/regex.h"
#include "src/text/tokenizer.h"
#include "tests/fg_test.h"

/* The smallest complete file: 256 bytes, a few merges, one added token. */
static void put_vocab(fg_buf *b)
{
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        fg_buf_printf(b, "\"\\u%04x\":%u,", printable ? byte : next++, byte);
    }
    fg_buf_put_str(b, "\"ab\":256,\"abc\":257,\"bc\":258");
}

static void put_base(fg_buf *b)
{
    fg_buf_put_str(
        b, "{\"added_tokens\":[{\"id\":259,\"content\":\"<s>\",\"single_word\":false,"
           "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}],"
           "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
           "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{L}+|\\\\s\"},"
           "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","
           "\"add_prefix_space\":false,\"use_regex\":false}]},\"post_processor\":null,"
           "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","
           "\"dropout\":null,\"unk_token\":null,\"byte_fallback\":false,\"vocab\":{");
    put_vocab(b);
    fg_buf_put_str(b, "},\"merges\":[\"a b\",\"ab c\",\"b c\"]}}");
}

/* Replaces the first occurrence of `from`; true when there was one. */
static bool replace(fg_buf *out, const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    if (at == NULL) return false;
    out->len = 0;
    fg_buf_put(out, text, (size_t)(at - text));
    fg_buf_put_str(out, to);
    fg_buf_put_str(out, at + strlen(from));
    return true;
}

static const struct edit {
    const char *from, *to;
    fg_status want;
    const char *message; /* part of it */
} edits[] = {
    {"{\"added", "[\"added", FG_EFORMAT, "not JSON"},
    {"\"model\":", "\"mode\":", FG_EFORMAT, "model"},
    {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", FG_ENOTSUP, "Unigram"},
    {"\"type\":\"BPE\"", "\"type\":7", FG_EFORMAT, "model.type"},
    {"\"dropout\":null", "\"dropout\":0.1", FG_ENOTSUP, "dropout"},
    {"\"dropout\":null", "\"dropout\":\"x\"", FG_EFORMAT, "dropout"},
    {"\"unk_token\":null", "\"unk_token\":\"<unk>\"", FG_ENOTSUP, "<unk>"},
    {"\"unk_token\":null", "\"continuing_subword_prefix\":\"##\"", FG_ENOTSUP, "##"},
    {"\"unk_token\":null", "\"end_of_word_suffix\":\"</w>\"", FG_ENOTSUP, "</w>"},
    {"\"byte_fallback\":false", "\"byte_fallback\":true", FG_ENOTSUP, "byte_fallback"},
    {"\"byte_fallback\":false", "\"ignore_merges\":1", FG_EFORMAT, "ignore_merges"},
    {"\"ab\":256", "\"ab\":255", FG_EFORMAT, "second token \"ab\" of id 255"},
    {"\"ab\":256", "\"a\":256", FG_EFORMAT, "has ids 97 and 256"},
    {"\"ab\":256", "\"ab\":2147483648", FG_EFORMAT, "id of \"ab\""},
    {"\"ab\":256", "\"ab\":16777216", FG_EFORMAT, "id of \"ab\""},
    {"\"ab\":256", "\"ab\":-1", FG_EFORMAT, "id of \"ab\""},
    {"\"ab\":256", "\"ab\":1.5", FG_EFORMAT, "id of \"ab\""},
    {"\"ab\":256", "\"ab\":\"256\"", FG_EFORMAT, "id of \"ab\""},
    {"\"ab\":256", "\"\":256", FG_EFORMAT, "empty token"},
    {"\"ab\":256", "\"ax\":256", FG_EFORMAT, "the result of merge 0"},
    {"\\u0061\":", "\\u00612\":", FG_EFORMAT, "no token for byte 0x61"},
    {"\"vocab\":{", "\"vocab\":[],\"v\":{", FG_EFORMAT, "vocab"},
    {"\"a b\"", "\"a q\"", FG_EFORMAT, "the result of merge 0"},
    {"\"ab c\"", "\"zz c\"", FG_EFORMAT, "the left part of merge 1"},
    {"\"ab c\"", "\"c zz\"", FG_EFORMAT, "the right part of merge 1"},
    {"\"ab c\"", "\"abc\"", FG_EFORMAT, "merge 1 is malformed"},
    {"\"ab c\"", "\"a b c\"", FG_EFORMAT, "merge 1 is malformed"},
    {"\"ab c\"", "[\"ab\"]", FG_EFORMAT, "merge 1 is malformed"},
    {"\"ab c\"", "[\"ab\",\"c\",\"c\"]", FG_EFORMAT, "merge 1 is malformed"},
    {"\"ab c\"", "{\"ab\":\"c\"}", FG_EFORMAT, "merge 1 is malformed"},
    {"\"ab c\"", "\"\\u4f60 c\"", FG_EFORMAT, "merge 1 is malformed"},
    {"\"ab c\"", "[\"ab\",\"c\"]", FG_OK, ""},
    {"\"merges\":[", "\"merges\":{},\"m\":[", FG_EFORMAT, "merges"},
    {"\"id\":259", "\"id\":258", FG_EFORMAT, "is taken"},
    {"\"id\":259", "\"id\":1e12", FG_EFORMAT, "id of added token"},
    {"\"id\":259", "\"i\":259", FG_EFORMAT, "id of added token"},
    {"\"content\":\"<s>\"", "\"content\":\"\"", FG_EFORMAT, "content"},
    {"\"content\":\"<s>\"", "\"content\":[]", FG_EFORMAT, "content"},
    {"\"id\":259,\"content\":\"<s>\"", "\"id\":256,\"content\":\"ab\"", FG_OK, ""},
    {"\"id\":259,\"content\":\"<s>\"", "\"id\":259,\"content\":\"ab\"", FG_EFORMAT, "256"},
    {"[{\"id\":259", "[{\"id\":300,\"content\":\"<s>\"},{\"id\":259", FG_OK, ""},
    {"[{\"id\":259", "[{\"id\":300,\"content\":\"<s>\",\"special\":true},{\"id\":259", FG_EFORMAT,
     "match the same text"},
    {"\"single_word\":false", "\"single_word\":true", FG_ENOTSUP, "single_word"},
    {"\"lstrip\":false", "\"lstrip\":true", FG_ENOTSUP, "lstrip"},
    {"\"rstrip\":false", "\"rstrip\":3", FG_EFORMAT, "rstrip"},
    {"{\"type\":\"NFC\"}", "null", FG_OK, ""},
    {"{\"type\":\"NFC\"}", "{\"type\":\"NFKC\"}", FG_ENOTSUP, "NFKC"},
    {"{\"type\":\"NFC\"}", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}",
     FG_ENOTSUP, "Lowercase"},
    {"{\"type\":\"NFC\"}", "7", FG_EFORMAT, "normalizer"},
    {"\"type\":\"Split\"", "\"type\":\"Digits\"", FG_ENOTSUP, "Digits"},
    {"\"behavior\":\"Isolated\"", "\"behavior\":\"MergedWithNext\"", FG_ENOTSUP, "MergedWithNext"},
    {"\"behavior\":\"Isolated\",\"invert\":false", "\"behavior\":\"Removed\",\"invert\":false",
     FG_ENOTSUP, "Removed with invert false"},
    {"\"add_prefix_space\":false", "\"add_prefix_space\":true", FG_ENOTSUP, "add_prefix_space"},
    {"\"type\":\"ByteLevel\",\"add_prefix_space\"", "\"type\":\"Metaspace\",\"add\"", FG_ENOTSUP,
     "Metaspace"},
    {"\\\\p{L}+|\\\\s", "(", FG_EFORMAT, "a group without end"},
    {"\\\\p{L}+|\\\\s", "a**", FG_EFORMAT, "repeat"},
    {"\\\\p{L}+|\\\\s", "+", FG_EFORMAT, "regular expression"},
    {"\\\\p{L}+|\\\\s", "\\\\w+", FG_ENOTSUP, "escape"},
    {"\\\\p{L}+|\\\\s", "", FG_ELIMIT, "0 bytes"},
    {"\"post_processor\":null", "\"post_processor\":{\"type\":\"TemplateProcessing\"}", FG_ENOTSUP,
     "TemplateProcessing"},
    {"\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":null", FG_EFORMAT, "decoder"},
    {"\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":{\"type\":\"WordPiece\"}", FG_ENOTSUP,
     "WordPiece"},
};

FG_TEST(bad_files_are_refused_by_name)
{
    fg_buf base = {0}, text = {0};
    put_base(&base);
    const char *good = fg_buf_str(&base);
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        const struct edit *e = &edits[i];
        if (!replace(&text, good, e->from, e->to)) {
            fg_test_fail(__FILE__, __LINE__, "edit %zu: %s is not in the file", i, e->from);
            continue;
        }
        fg_tokenizer *t = NULL;
        fg_err err = {0};
        const fg_status st =
            fg_tokenizer_create(&t, (const char *)text.data, text.len, "t.json", &err);
        if (st != e->want || strstr(err.msg, e->message) == NULL || (t != NULL) != (st == FG_OK)) {
            fg_test_fail(__FILE__, __LINE__, "%s: %d \"%s\", expected %d \"%s\"", e->to, (int)st,
                         err.msg, (int)e->want, e->message);
        }
        if (st != FG_OK) CHECK(strncmp(err.msg, "t.json: ", 8) == 0);
        fg_tokenizer_destroy(&t);
    }
    fg_buf_fini(&base);
    fg_buf_fini(&text);
}

FG_TEST(patterns_outside_the_white_list_are_refused)
{
    static const char *const refused[] = {
        "\\w",      "\\b",     "\\h",         "\\R",          "\\X",         "\\K",       "\\1",
        "\\p{Han}", "\\p{^L}", "\\pL",        "[\\P{L}]",     "[[:alpha:]]", "[a&&b]",    "[]",
        "^a",       "a$",      "(?<n>a)",     "(?m:a)",       "(*UTF)",      "a{,3}",     "a{2}+",
        "a{",       "[a-\\s]", "[\\d-z]",     "(?i:\\p{Lu})", "\\",          "[a",        "(a",
        "a)",       "\\x41",   "\\x{110000}", "\\u12",        "b(?i)a|c",    "\\x{d800}", "\\Qa\\E",
    };
    fg_buf out = {0};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        fg_err err = {0};
        const fg_status st = fg_regex_translate(refused[i], strlen(refused[i]), &out, "x", &err);
        if (st == FG_OK || strncmp(err.msg, "x: ", 3) != 0) {
            fg_test_fail(__FILE__, __LINE__, "%s: %d \"%s\"", refused[i], (int)st, err.msg);
        }
    }
    out.len = 0;
    const char *kept = "(?:a|[b-d\\-]+?)(?=\\.)\\x{301}{1,3}";
    CHECK(fg_regex_translate(kept, strlen(kept), &out, "x", NULL) == FG_OK);
    CHECK_STR(fg_buf_str(&out), kept);
    fg_buf_fini(&out);
}

/* Encodes something with whatever came out of a damaged file. */
static void use(const fg_tokenizer *t)
{
    static const char text[] = "abc aabbcc <s> caf\xc3\xa9 e\xcc\x81\xff 12\n\n  <s><s>";
    fg_ids ids = {0};
    fg_buf out = {0};
    for (int special = 0; special < 2; special++) {
        if (fg_tokenizer_encode(t, NULL, text, sizeof text, special != 0, &ids, NULL) != FG_OK) {
            continue; /* a damaged pattern may hit a limit of PCRE2 */
        }
        CHECK(fg_tokenizer_decode(t, ids.data, ids.len, false, &out, NULL) == FG_OK);
    }
    fg_buf_fini(&out);
    fg_ids_fini(&ids);
}

static size_t mutate(const char *text, size_t n, fg_rng *r, int rounds)
{
    static const char *const words[] = {"null",   "-1",    "1e99", "[]",         "{}",
                                        "\"\"",   "\"a\"", "true", "4294967296", "16777215",
                                        "\\\\p{", "(?:",   "*",    "\"a b\""};
    char *copy = fg_mem_alloc(n + 64);
    size_t n_good = 0;
    for (int k = 0; k < rounds && copy != NULL; k++) {
        memcpy(copy, text, n);
        size_t len = n;
        for (uint64_t edits_left = 1 + fg_rng_u64(r) % 3; edits_left > 0; edits_left--) {
            const size_t at = (size_t)(fg_rng_u64(r) % len);
            const char *w = words[fg_rng_u64(r) % (sizeof words / sizeof words[0])];
            switch (fg_rng_u64(r) % 5) {
            case 0: copy[at] = (char)fg_rng_u64(r); break;
            case 1: copy[at] = (char)(copy[at] ^ (1 << fg_rng_u64(r) % 8)); break;
            case 2: len = at + 1; break;
            case 3: /* a stretch is lost */
                if (len - at > 20) {
                    memmove(copy + at, copy + at + 9, len - at - 9);
                    len -= 9;
                }
                break;
            default: /* another value in place of the bytes here */
                if (len - at > 20) memcpy(copy + at, w, strlen(w));
            }
        }
        fg_tokenizer *t = NULL;
        fg_err err = {0};
        const fg_status st = fg_tokenizer_create(&t, copy, len, "mutant", &err);
        if (st == FG_OK) {
            n_good++;
            use(t);
        } else {
            CHECK(t == NULL && err.code == st && strchr(err.msg, '\n') == NULL);
            CHECK(strncmp(err.msg, "mutant: ", 8) == 0 || st == FG_ENOMEM);
        }
        fg_tokenizer_destroy(&t);
    }
    fg_mem_free(copy);
    return n_good;
}

FG_TEST(mutated_files_never_crash)
{
    fg_rng r;
    fg_rng_init(&r, 9);
    fg_buf base = {0};
    put_base(&base);
    const size_t n_good = mutate((const char *)base.data, base.len, &r, 4000);
    CHECK(n_good > 20 && n_good < 3900); /* both outcomes occur */
    fg_buf_fini(&base);
    const char *path = "tests/models/m1-nano/tokenizer.json";
    if (!fg_io_exists(path)) path = fg_test_shared("models/m1-nano/tokenizer.json");
    char *json;
    size_t n;
    if (path == NULL || fg_io_read_all(path, 1 << 24, &json, &n, NULL) != FG_OK) return;
    (void)mutate(json, n, &r, 200);
    fg_mem_free(json);
}

FG_TEST(random_bytes_are_text)
{
    fg_buf base = {0}, text = {0}, back = {0};
    put_base(&base);
    fg_tokenizer *t = NULL;
    REQUIRE(fg_tokenizer_create(&t, (const char *)base.data, base.len, "t", NULL) == FG_OK);
    fg_tok_state *s;
    REQUIRE(fg_tok_state_create(&s, t, NULL) == FG_OK);
    fg_rng r;
    fg_rng_init(&r, 10);
    fg_ids ids = {0};
    for (int round = 0; round < 3000; round++) {
        text.len = ids.len = back.len = 0;
        for (uint64_t n = fg_rng_u64(&r) % 200; n > 0; n--) {
            /* bytes at random, or close to valid sequences */
            const uint64_t x = fg_rng_u64(&r);
            fg_buf_u8(&text, (uint8_t)(round % 2 == 0 ? x : 0x80 | (x & 0x4f)));
        }
        const char *p = text.len == 0 ? "" : (const char *)text.data;
        CHECK(fg_tokenizer_encode(t, s, p, text.len, true, &ids, NULL) == FG_OK);
        CHECK(fg_tokenizer_decode(t, ids.data, ids.len, false, &back, NULL) == FG_OK);
        CHECK((back.len == 0) == (text.len == 0));
    }
    fg_ids_fini(&ids);
    fg_buf_fini(&base);
    fg_buf_fini(&text);
    fg_buf_fini(&back);
    fg_tok_state_destroy(&s);
    fg_tokenizer_destroy(&t);
}

static fg_status count_word(void *ctx, const uint8_t *word, size_t n, fg_err *err)
{
    (void)word;
    (void)n;
    (void)err;
    ++*(size_t *)ctx;
    return FG_OK;
}

/* Splits n letters and a blank by a pattern. */
static fg_status split_letters(const char *pattern, size_t n, bool (*poll)(void *ctx), void *ctx,
                               size_t *n_word, fg_err *err)
{
    fg_pretok *p = NULL;
    fg_pretok_state *s = NULL;
    char *text = fg_mem_alloc(n + 1);
    memset(text, 'a', n);
    text[n] = ' ';
    CHECK(fg_pretok_create(&p, false, err) == FG_OK && fg_pretok_state_create(&s, err) == FG_OK);
    CHECK(fg_pretok_add(p, pattern, strlen(pattern), false, FG_CUT_ISOLATED, "p", err) == FG_OK);
    fg_pretok_state_set_poll(s, poll, ctx);
    *n_word = 0;
    const fg_status st = fg_pretok_run(p, s, (const uint8_t *)text, n + 1, count_word, n_word, err);
    fg_pretok_state_destroy(&s);
    fg_pretok_destroy(&p);
    fg_mem_free(text);
    return st;
}

static bool stop_at_third(void *ctx)
{
    return ++*(int *)ctx < 3;
}

FG_TEST(patterns_without_end_are_stopped)
{
    static const char *const endless[] = {
        "(?:\\p{L}+)+[\\p{N}\\p{P}]|\\p{L}", "(?:a|aa)+[\\p{N}\\p{P}]|\\p{L}",
        "a*a*a*a*a*a*[\\p{N}\\p{P}]|a", "(?=(?:a+)+[\\p{N}\\p{P}])a|\\p{L}"};
    size_t n;
    for (size_t i = 0; i < sizeof endless / sizeof endless[0]; i++) {
        fg_err err = {0};
        CHECK(split_letters(endless[i], 2000, NULL, NULL, &n, &err) == FG_ELIMIT);
        CHECK(strstr(err.msg, "too many steps") != NULL);
        CHECK(split_letters(endless[i], 6, NULL, NULL, &n, &err) == FG_OK && n == 7);
    }
    /* control: steps that grow with the text are had, and so are a few more */
    CHECK(split_letters("\\p{L}+(?!\\p{L})", 2000000, NULL, NULL, &n, NULL) == FG_OK && n == 2);
    CHECK(split_letters("\\p{L}+[\\p{N}]|\\p{L}", 1500, NULL, NULL, &n, NULL) == FG_OK &&
          n == 1501);
}

FG_TEST(splitting_can_be_stopped)
{
    size_t n;
    int calls = 0;
    fg_err err = {0};
    CHECK(split_letters("\\p{L}", 10000, stop_at_third, &calls, &n, &err) == FG_ECANCEL);
    CHECK(n == 2048 && calls == 3);
    calls = 0; /* within one search too */
    CHECK(split_letters("(?:a+)+[\\p{N}]|a", 2000, stop_at_third, &calls, &n, &err) == FG_ECANCEL);
    CHECK(n == 0 && calls == 3);
}

/* What PCRE2 does not count as steps: a step that reads all of the text, and a new count at each
 * place where a match could begin. */
FG_TEST(steps_that_are_not_counted_take_time)
{
    size_t n;
    int calls = 0;
    fg_err err = {0};
    CHECK(split_letters("(?:a++b|a)*c|a", 300000, NULL, NULL, &n, &err) == FG_ELIMIT);
    CHECK(strstr(err.msg, "too many steps") != NULL && n == 0);
    CHECK(split_letters("a++b|a", 300000, stop_at_third, &calls, &n, &err) == FG_ECANCEL);
    CHECK(n < 300000 && calls == 3);
    /* control: one pass over the text, to find nothing, and a match far away, are no matter */
    CHECK(split_letters("a++b", 3000, NULL, NULL, &n, NULL) == FG_OK && n == 1);
    CHECK(split_letters("b", 2000000, NULL, NULL, &n, NULL) == FG_OK && n == 1);
    CHECK(split_letters(" ", 2000000, NULL, NULL, &n, NULL) == FG_OK && n == 2);
    CHECK(split_letters("(?<=a) ", 2000000, NULL, NULL, &n, NULL) == FG_OK && n == 2);
}

/* Each allocation fails once.  FG_OK is right too where memory was optional (JIT code). */
FG_TEST(lack_of_memory_is_reported)
{
    fg_buf base = {0};
    put_base(&base);
    uint64_t n_fail = 0;
    for (uint64_t k = 1; k < 2000; k++) {
        fg_tokenizer *t = NULL;
        fg_ids ids = {0};
        fg_err err = {0};
        const uint64_t before = fg_mem_count();
        fg_mem_fail_after(k);
        fg_status st = fg_tokenizer_create(&t, (const char *)base.data, base.len, "t", &err);
        if (st == FG_OK) {
            st = fg_tokenizer_encode(t, NULL, "abc e\xcc\x81\xff<s>", 10, true, &ids, &err);
            if (st != FG_OK) CHECK_U64(ids.len, 0);
        }
        fg_mem_fail_after(0);
        CHECK(st == FG_OK || (st == FG_ENOMEM && err.code == FG_ENOMEM));
        n_fail += st != FG_OK;
        fg_ids_fini(&ids);
        fg_tokenizer_destroy(&t);
        if (fg_mem_count() - before < k) break; /* none left to fail */
    }
    CHECK(n_fail > 20);
    fg_buf_fini(&base);
}
