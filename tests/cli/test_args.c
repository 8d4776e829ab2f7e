/* SPDX-License-Identifier: MIT
 *
 * Option tables: every kind, what it refuses and how, and tables with a mistake, which --help
 * names.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/args.h"
#include "src/cli/help.h"
#include "tests/fg_test.h"

typedef enum color { RED, GREEN, HIDDEN, BLUE, N_COLOR } color;

static const char *color_name(unsigned c)
{
    static const char *const names[] = {"red", "green", "", "blue"};
    return names[c];
}

static const char *no_name(unsigned c)
{
    (void)c;
    return NULL;
}

typedef struct values {
    bool flag, twice;
    const char *str;
    uint32_t u32;
    uint64_t u64, size;
    double f64, rate;
    int32_t gpu;
    color choice;
} values;

static const command cmd = {.name = "paint",
                            .summary = "paints",
                            .synopsis = "MODEL WALL",
                            .example = "fulgur paint m wall",
                            .description = "Paints."};

enum { N_OPERAND = 2, ARGS = 32, TEXT = 4096 };

/* What is printed between the two calls goes to text. */
typedef struct capture {
    FILE *f;
    int out, err;
} capture;

static capture begin_capture(void)
{
    const capture k = {fopen(fg_test_tmp("said"), "w+"), dup(1), dup(2)};
    (void)fflush(stdout);
    (void)dup2(fileno(k.f), 1);
    (void)dup2(fileno(k.f), 2);
    return k;
}

static void end_capture(capture *k, char text[TEXT])
{
    (void)fflush(stdout);
    (void)dup2(k->out, 1);
    (void)dup2(k->err, 2);
    (void)close(k->out);
    (void)close(k->err);
    rewind(k->f);
    text[fread(text, 1, TEXT - 1, k->f)] = '\0';
    (void)fclose(k->f);
}

/* Parses the words of line; what it prints is in text. */
static bool parse(values *v, const char *line, const char **operand, int *status, char text[TEXT])
{
    const opt opts[] = {
        {"flag", 'f', OPT_FLAG, &v->flag, 0, 0, NULL, "a flag"},
        {"twice", '2', OPT_FLAG, &v->twice, 0, 0, NULL, "another"},
        {"str", 's', OPT_STR, &v->str, 0, 0, "TEXT", "a text"},
        {"u32", 'u', OPT_U32, &v->u32, 1, 1e12, "N", "a number"},
        {"u64", 0, OPT_U64, &v->u64, 0, 1e15, "N", "a larger one"},
        {"f64", 0, OPT_F64, &v->f64, 0, 1, "X", "a share"},
        {"size", 0, OPT_SIZE, &v->size, 0, 0, "SIZE", "bytes"},
        {"rate", 0, OPT_RATE, &v->rate, 0, 0, "RATE", "bytes a second"},
        {"gpu", 0, OPT_GPU, &v->gpu, 0, 0, "N", "a card"},
        {"choice", 'c', OPT_CHOICE, CHOICE(v->choice, color_name, N_COLOR), 0, 0, "COLOR", "color"},
    };
    static char copy[512];
    char *argv[ARGS];
    int argc = 0;
    (void)snprintf(copy, sizeof copy, "paint %s", line);
    for (char *word = strtok(copy, " "); word != NULL && argc < ARGS - 1;
         word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    capture k = begin_capture();
    const bool good = args_parse(&cmd, opts, sizeof opts / sizeof opts[0], argc, argv, operand,
                                 N_OPERAND, status);
    end_capture(&k, text);
    return good;
}

FG_TEST(every_kind)
{
    values v = {.choice = GREEN};
    const char *operand[N_OPERAND];
    char text[TEXT];
    int status;
    CHECK(parse(&v,
                "m -f --str=a=b -u 7 --u64 1000000000000 wall --f64 0.25 --size 2k "
                "--rate 3GB/s --choice blue",
                operand, &status, text));
    CHECK(strcmp(operand[0], "m") == 0 && strcmp(operand[1], "wall") == 0);
    CHECK(v.flag && !v.twice && strcmp(v.str, "a=b") == 0 && v.u32 == 7);
    CHECK(v.u64 == 1000000000000 && v.f64 == 0.25 && v.size == 2048 && v.rate == 3.0);
    CHECK(v.choice == BLUE && text[0] == '\0');
    /* letters together, a value in the same word, -m before the other operand, abbreviations */
    v = (values){.choice = GREEN};
    CHECK(parse(&v, "wall -f2u7 -m m --cho red", operand, &status, text));
    CHECK(v.flag && v.twice && v.u32 == 7 && v.choice == RED && strcmp(operand[0], "m") == 0);
}

FG_TEST(what_is_refused_is_named)
{
    static const struct {
        const char *line, *say;
    } bad[] = {
        {"m --frob=3", "paint: --frob: unknown option, expected a listed one;"}, /* near to none */
        {"m --hcoice=red",
         "paint: --hcoice: unknown option, expected a listed one, perhaps --choice;"},
        {"m --flagg", "paint: --flagg: unknown option, expected a listed one, perhaps --flag;"},
        {"m -fQ wall", "paint: -Q: unknown option"},
        {"m --flag=yes", "paint: --flag: a value, expected none"},
        {"m --u", "paint: --u: begins 2 options"},
        {"m -u", "paint: --u32: no value, expected an integer from 1 to 1000000000000"},
        {"m --choice", "paint: --choice: no value, expected red, green or blue"},
        {"-m", "paint: --model: no value, expected MODEL"},
        {"m --u32 -1", "paint: --u32: -1, expected an integer"},
        {"m --u32 0", "paint: --u32: 0, expected an integer from 1"},
        {"m --u32 4294967296", "paint: --u32: 4294967296, expected"}, /* would be cut to 0 */
        {"m --u64 3x", "paint: --u64: 3x, expected an integer"},
        {"m --f64 nan", "paint: --f64: nan, expected a number from 0 to 1"},
        {"m --size 3q", "paint: --size: 3q, expected a size"},
        {"m --rate fast", "paint: --rate: fast, expected a rate"},
        {"m --choice hidden", "paint: --choice: hidden, expected red, green or blue"},
        {"m --choice=", "paint: --choice: nothing, expected red, green or blue"},
        {"m wall floor", "paint: floor: one operand too many, expected MODEL WALL"},
        {"-m m wall floor", "paint: floor: one operand too many, expected MODEL WALL"},
        {"m", "paint: 1 operand, expected MODEL WALL, or the model in FULGUR_MODEL"},
        {"-m m", "paint: 1 operand, expected MODEL WALL; see"},
        {"m wall --", NULL},
        {"m -- --flag", NULL},
        {"m wall --f64 -1", "paint: --f64: -1, expected a number from 0 to 1"},
        {"m wall --f64=-1", "paint: --f64: -1, expected a number from 0 to 1"},
        {"m wall --size=", "paint: --size: nothing, expected a size"},
        {"m wall --quiet=yes", "paint: --quiet: a value, expected none"},
        {"m wall -\303\251", "paint: -\303\251: unknown option"}, /* not one byte of it */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        values v = {.choice = GREEN};
        const char *operand[N_OPERAND];
        char text[TEXT];
        int status = EXIT_OK;
        const bool good = parse(&v, bad[i].line, operand, &status, text);
        const char *end = strchr(text, '\n');
        if (bad[i].say == NULL && good && text[0] == '\0') continue; /* a good one, as control */
        if (bad[i].say != NULL && !good && status == EXIT_USAGE &&
            strstr(text, bad[i].say) != NULL && end != NULL && end[1] == '\0') {
            continue;
        }
        fg_test_fail(__FILE__, __LINE__, "%s: %d, status %d, %s, expected %s", bad[i].line, good,
                     status, text, bad[i].say == NULL ? "no error" : bad[i].say);
    }
}

FG_TEST(cards)
{
    static const struct {
        const char *line;
        int32_t gpu;
    } tries[] = {{"m w --gpu auto", -2}, {"m w --gpu off", -1}, {"m w --gpu 0", 0},
                 {"m w --gpu 255", 255}, {"m w --gpu 256", 99}, {"m w --gpu on", 99},
                 {"m w --gpu=", 99},     {"m w --gpu -1", 99},  {"m w --gpu 1x", 99}};
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        values v = {.gpu = 99};
        const char *operand[N_OPERAND];
        char text[TEXT];
        int status;
        CHECK(parse(&v, tries[i].line, operand, &status, text) == (tries[i].gpu != 99));
        CHECK(v.gpu == tries[i].gpu);
        if (v.gpu == 99) CHECK(strstr(text, "expected auto, off or the number of a card") != NULL);
    }
}

FG_TEST(help_shows_every_option)
{
    static const char *const words[] = {
        "  -f, --flag ",     "      --u64 N", "color: red, green (default) or blue\n",
        "-m, --model MODEL", "-q, --quiet",   "-V, --version",
        "-h, --help",
    };
    values v = {.choice = GREEN};
    const char *operand[N_OPERAND];
    char text[TEXT];
    int status = EXIT_USAGE;
    CHECK(!parse(&v, "--help", operand, &status, text) && status == EXIT_OK);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strstr(text, words[i]) == NULL) fg_test_fail(__FILE__, __LINE__, "no %s", words[i]);
    }
    CHECK(!parse(&v, "--help=frob", operand, &status, text) && status == EXIT_USAGE);
    CHECK(strstr(text, "brief or full or man or bash or zsh or names") != NULL);
}

FG_TEST(the_usual_model)
{
    static const struct {
        const char *line, *first, *second; /* operands; first NULL: refused */
    } tries[] = {
        {"wall", "usual", "wall"},        {"m wall", "m", "wall"}, {"-m m wall", "m", "wall"},
        {"wall --flag", "usual", "wall"}, {"", NULL, NULL},        {"-m m", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        values v = {.choice = GREEN};
        const char *operand[N_OPERAND] = {"", ""};
        char text[TEXT];
        int status;
        (void)setenv("FULGUR_MODEL", "usual", 1);
        const bool good = parse(&v, tries[i].line, operand, &status, text);
        CHECK(good == (tries[i].first != NULL));
        if (good) CHECK(strcmp(operand[0], tries[i].first) == 0);
        if (good) CHECK(strcmp(operand[1], tries[i].second) == 0);
        (void)setenv("FULGUR_MODEL", "", 1); /* as if it were not there */
        CHECK(!parse(&v, "wall", operand, &status, text) && status == EXIT_USAGE);
        (void)unsetenv("FULGUR_MODEL");
    }
}

FG_TEST(what_every_command_has)
{
    values v = {.choice = GREEN};
    const char *operand[N_OPERAND];
    char text[TEXT];
    int status = EXIT_USAGE;
    CHECK(!parse(&v, "-V", operand, &status, text) && status == EXIT_OK);
    CHECK(strncmp(text, "fulgur 0.", 9) == 0);
    CHECK(!parse(&v, "--version", operand, &status, text) && status == EXIT_OK);
    CHECK(!args_quiet());
    CHECK(parse(&v, "m wall -fq", operand, &status, text) && v.flag && args_quiet());
}

/* Sizes and rates: what a letter stands for. */
FG_TEST(units)
{
    static const struct {
        const char *line;
        uint64_t size;
        double rate;
    } tries[] = {
        {"m w --size 512G", (uint64_t)512 << 30, 0},
        {"m w --size 512GB", 512000000000u, 0},
        {"m w --size 512GiB", (uint64_t)512 << 30, 0},
        {"m w --size 1.5t", 3298534883328u / 2, 0},
        {"m w --size 7", 7, 0},
        {"m w --rate 7", 0, 7.0},
        {"m w --rate 7G/s", 0, 7.0},
        {"m w --rate 700MB/s", 0, 0.7},
        {"m w --rate 7GiB/s", 0, 7.516192768},
    };
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        values v = {.choice = GREEN};
        const char *operand[N_OPERAND];
        char text[TEXT];
        int status;
        CHECK(parse(&v, tries[i].line, operand, &status, text));
        CHECK_U64(v.size, tries[i].size);
        CHECK(fabs(v.rate - tries[i].rate) < 1e-9);
    }
}

/* The flaw of a table of two options, of which the second is o. */
static const char *flaw_of(opt o)
{
    static char text[256];
    static bool x;
    const opt two[] = {{"first", 'a', OPT_FLAG, &x, 0, 0, NULL, "a good one"}, o};
    return args_flaw(&cmd, two, 2, text, sizeof text);
}

FG_TEST(mistakes_in_a_table)
{
    bool x;
    uint32_t u;
    color c = RED;
    const struct {
        opt o;
        const char *say; /* NULL: no mistake, the control */
    } tries[] = {
        {{"second", 'b', OPT_FLAG, &x, 0, 0, NULL, "good"}, NULL},
        {{"second", 0, OPT_CHOICE, CHOICE(c, color_name, N_COLOR), 0, 0, "C", "good"}, NULL},
        {{"first", 'b', OPT_FLAG, &x, 0, 0, NULL, "help"}, "--first: given twice"},
        {{"second", 'a', OPT_FLAG, &x, 0, 0, NULL, "help"}, "--second: the letter of"},
        {{"second", 'b', OPT_FLAG, &x, 0, 0, NULL, NULL}, "--second: no help"},
        {{"second", 'b', OPT_FLAG, &x, 0, 0, NULL, ""}, "--second: no help"},
        {{"second", 'b', OPT_U32, &u, 0, 1, NULL, "help"}, "--second: no name of its value"},
        {{"second", 'b', OPT_FLAG, &x, 0, 0, "N", "help"}, "--second: a flag with a name"},
        {{"second", 'b', OPT_CHOICE, CHOICE(c, no_name, 3), 0, 0, "C", "help"}, "no choices"},
        {{"help", 0, OPT_FLAG, &x, 0, 0, NULL, "help"}, "--help: every command's own"},
        {{"second", 'h', OPT_FLAG, &x, 0, 0, NULL, "help"}, "--second: every command's own"},
        {{"quiet", 0, OPT_FLAG, &x, 0, 0, NULL, "help"}, "--quiet: every command's own"},
        {{"second", 'V', OPT_FLAG, &x, 0, 0, NULL, "help"}, "--second: every command's own"},
        {{"model", 0, OPT_STR, &x, 0, 0, "M", "help"}, "--model: every command's own"},
        {{"second", 'm', OPT_FLAG, &x, 0, 0, NULL, "help"}, "--second: every command's own"},
    };
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        const char *flaw = flaw_of(tries[i].o), *say = tries[i].say;
        if (say == NULL ? flaw == NULL : flaw != NULL && strstr(flaw, say) != NULL) continue;
        fg_test_fail(__FILE__, __LINE__, "%zu: %s, expected %s", i, flaw ? flaw : "none",
                     say ? say : "none");
    }
    /* and --help, which the tests call for every command, fails with it */
    const opt bad[] = {{"first", 0, OPT_FLAG, &x, 0, 0, NULL, ""}};
    char text[TEXT];
    capture k = begin_capture();
    const int status = help_command(&cmd, bad, 1, "man");
    end_capture(&k, text);
    CHECK(status == EXIT_FAILED &&
          strcmp(text, "fulgur: paint --first: no help, expected a text\n") == 0);
}
