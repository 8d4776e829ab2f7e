/* SPDX-License-Identifier: MIT
 *
 * Command lines: a table with an option of every kind, and sizes, rates and lists of folders.  What
 * is accepted is within the table's limits; what is not gives one line.  Input: words with newlines
 * between.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/utf8.h"
#include "src/cli/args.h"
#include "src/cli/size.h"
#include "src/cli/split_option.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(options, 2500)

enum { MAX_WORD = 24, MAX_LINE = 4096 };

static const char *color_name(unsigned c)
{
    static const char *const names[] = {"red", "green", "", "blue"};
    return names[c];
}

static const command paint = {.name = "paint",
                              .summary = "paints",
                              .synopsis = "MODEL WALL",
                              .example = "fulgur paint m wall",
                              .description = "Paints."};

static void seeds(void)
{
    fuzz_seed_text(
        "model\nwall\n--flag\n-u\n12\n--u64=18446744073709551615\n--f64\n-1e3\n--size\n24G");
    fuzz_seed_text("-m\nmodel\n--choice\nblue\n--rate\n3GB/s\n--str=\xff\x1b[31m\n--\n-x");
    fuzz_seed_text("--fl\n--u\n--size=1.5TiB\n-f64\nnan\n--split\na,b,,c");
    fuzz_seed_text("--help=names\n-h\n--unknown\xe2\x80\xae\na\nb\nc\nd");
}

typedef struct values {
    bool flag;
    const char *str;
    uint32_t u32;
    uint64_t u64, size;
    double f64, rate;
    int32_t gpu, draft;
    uint64_t tokens;
    opt_list list;
    unsigned choice;
} values;

/* stderr and stdout go to a file while a table is parsed. */
typedef struct silence {
    int out, err;
} silence;

static silence be_silent(const char *path)
{
    FILE *f = fopen(path, "w");
    const silence s = {dup(1), dup(2)};
    (void)fflush(stdout);
    if (f != NULL) {
        (void)dup2(fileno(f), 1);
        (void)dup2(fileno(f), 2);
        (void)fclose(f);
    }
    return s;
}

static void speak(silence s)
{
    (void)fflush(stdout);
    (void)dup2(s.out, 1);
    (void)dup2(s.err, 2);
    (void)close(s.out);
    (void)close(s.err);
}

/* A refusal is one line that a terminal only shows. */
static void check_line(const char *path)
{
    char text[MAX_LINE + 1];
    FILE *f = fopen(path, "r");
    if (f == NULL) return;
    size_t n = fread(text, 1, MAX_LINE, f);
    (void)fclose(f);
    text[n] = '\0';
    FUZZ_CHECK(n > 8 && strncmp(text, "fulgur: ", 8) == 0);
    FUZZ_CHECK(strchr(text, '\n') == text + n - 1);
    for (size_t i = 0; i + 1 < n;) {
        uint32_t cp;
        i += fg_utf8_next((const uint8_t *)text + i, n - i, &cp);
        FUZZ_CHECK(cp < FG_UTF8_CUT && !fg_utf8_is_control(cp));
    }
}

static void check_values(const values *v)
{
    FUZZ_CHECK(v->u32 <= (fuzz_planted ? 0 : 1000) && v->choice < 4 && v->choice != 2);
    FUZZ_CHECK(v->f64 >= -1000 && v->f64 <= 1000);
    FUZZ_CHECK(v->size < (uint64_t)1 << 62);
    FUZZ_CHECK(v->rate >= 0 && v->rate < 1e6);
    FUZZ_CHECK(v->gpu >= -2 && v->gpu < 256);
    FUZZ_CHECK(v->draft >= -1 && v->draft <= 7 && v->tokens <= 1000000);
    FUZZ_CHECK(v->list.n <= OPT_LIST_MAX);
}

static void one(const uint8_t *d, size_t n)
{
    values v = {.u32 = 1};
    const opt opts[] = {
        {"flag", 'f', OPT_FLAG, &v.flag, 0, 0, NULL, "a flag"},
        {"str", 's', OPT_STR, &v.str, 0, 0, "TEXT", "a text"},
        {"u32", 'u', OPT_U32, &v.u32, 1, 1000, "N", "a number"},
        {"u64", 0, OPT_U64, &v.u64, 0, 2e19, "N", "a number"},
        {"f64", 0, OPT_F64, &v.f64, -1000, 1000, "X", "a number"},
        {"size", 0, OPT_SIZE, &v.size, 0, 0, "SIZE", "a size"},
        {"rate", 0, OPT_RATE, &v.rate, 0, 0, "RATE", "a rate"},
        {"gpu", 0, OPT_GPU, &v.gpu, 0, 0, "N", "a card"},
        {"choice", 'c', OPT_CHOICE, CHOICE(v.choice, color_name, 4), 0, 0, "COLOR", "a color"},
        {"draft", 0, OPT_DRAFT, &v.draft, 0, 7, "N", "guesses"},
        {"tokens", 0, OPT_TOKENS, &v.tokens, 0, 1e6, "N", "tokens"},
        {"list", 'l', OPT_LIST, &v.list, 0, 0, "TEXT", "texts"},
    };
    char line[MAX_LINE + 1], *word[MAX_WORD + 2] = {"paint"};
    int n_word = 1, status = EXIT_OK;
    const char *operand[2], *said = fg_test_tmp("said");
    const size_t len = n < MAX_LINE ? n : MAX_LINE;
    memcpy(line, d, len);
    line[len] = '\0';
    for (char *at = line; at != NULL && n_word <= MAX_WORD;) {
        word[n_word++] = at;
        at = strchr(at, '\n');
        if (at != NULL) *at++ = '\0';
    }
    const silence quiet = be_silent(said);
    const bool good = args_parse(&paint, opts, 12, n_word, word, operand, 2, &status);
    speak(quiet);
    FUZZ_CHECK(good || status == EXIT_OK || status == EXIT_USAGE);
    if (!good && status == EXIT_USAGE) check_line(said);
    if (good) check_values(&v);
    uint64_t bytes;
    double gbs = 1;
    if (size_parse(line, &bytes)) FUZZ_CHECK(bytes > 0 && bytes < (uint64_t)1 << 62);
    FUZZ_CHECK(rate_parse(line, &gbs) ? gbs > 0 && gbs < 1e6 : gbs >= 1 && gbs <= 1);
    split_dirs dirs;
    const silence again = be_silent(said);
    const bool listed = parse_split(&paint, line, &dirs);
    speak(again);
    if (!listed) check_line(said);
    for (uint32_t i = 0; listed && i < dirs.n; i++) FUZZ_CHECK(dirs.dir[i][0] != '\0');
}
