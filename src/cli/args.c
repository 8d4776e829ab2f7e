/* SPDX-License-Identifier: MIT */
#include "src/cli/args.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/cli/help.h"
#include "src/cli/nearest.h"
#include "src/cli/size.h"

enum { NO_LETTER = 255, FIRST_LONG, WANTED_SIZE = 256 };

static const char model_variable[] = "FULGUR_MODEL";

static bool quiet, no_sandbox;
static args_entry_fn *on_entry;
static const void *written[MAX_OPT]; /* [n_written] where options of the command line wrote to */
static size_t n_written;

bool args_quiet(void)
{
    return quiet;
}

bool args_no_sandbox(void)
{
    return no_sandbox;
}

bool args_given(const void *value)
{
    for (size_t i = 0; i < n_written; i++) {
        if (written[i] == value) return true;
    }
    return false;
}

/* Each place once: there are no more of them than options. */
static void note_given(const opt *o)
{
    const void *to = o->kind == OPT_CHOICE ? ((const opt_choice *)o->value)->value : o->value;
    if (!args_given(to) && n_written < MAX_OPT) written[n_written++] = to;
}

void args_on_entry(args_entry_fn *entry)
{
    on_entry = entry;
}

int args_usage(const command *c, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fg_utf8_clean(text); /* what was typed may have come from a file name */
    fprintf(stderr, "fulgur: %s: %s; see fulgur %s --help\n", c->name, text, c->name);
    return EXIT_USAGE;
}

bool args_takes_model(const command *c)
{
    return strncmp(c->synopsis, "MODEL", 5) == 0;
}

/* ---- kinds ---- */

static bool parse_flag(const opt *o, const char *text)
{
    (void)text;
    *(bool *)o->value = true;
    return true;
}

/* Only a text may be empty: of a file or a folder it is the value of a variable that is not set. */
static bool parse_str(const opt *o, const char *text)
{
    if (text[0] == '\0' && strcmp(o->meta, "TEXT") != 0) return false;
    *(const char **)o->value = text;
    return true;
}

static bool parse_list(const opt *o, const char *text)
{
    opt_list *list = o->value;
    if (text[0] == '\0' || list->n == OPT_LIST_MAX) return false;
    list->text[list->n++] = text;
    return true;
}

static bool parse_u64(const opt *o, const char *text)
{
    char *end = NULL;
    if (text[0] < '0' || text[0] > '9') return false; /* strtoull would take "-1" */
    errno = 0;
    const unsigned long long v = strtoull(text, &end, 10);
    if (*end != '\0' || errno != 0 || (double)v < o->min || (double)v > o->max) return false;
    *(uint64_t *)o->value = v;
    return true;
}

static bool parse_u32(const opt *o, const char *text)
{
    uint64_t v;
    opt wide = *o;
    wide.value = &v;
    if (!parse_u64(&wide, text) || v > UINT32_MAX) return false;
    *(uint32_t *)o->value = (uint32_t)v;
    return true;
}

static bool parse_f64(const opt *o, const char *text)
{
    char *end = NULL;
    errno = 0;
    const double v = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(v >= o->min && v <= o->max)) return false;
    *(double *)o->value = v;
    return true;
}

static bool parse_size(const opt *o, const char *text)
{
    return size_parse(text, o->value);
}

static bool parse_rate(const opt *o, const char *text)
{
    return rate_parse(text, o->value);
}

static bool parse_gpu(const opt *o, const char *text)
{
    uint64_t v = 0;
    opt number = *o;
    number.value = &v;
    number.max = 255;
    const bool is_auto = strcmp(text, "auto") == 0, off = strcmp(text, "off") == 0;
    if (!is_auto && !off && !parse_u64(&number, text)) return false;
    *(int32_t *)o->value = is_auto ? FG_GPU_AUTO : off ? FG_GPU_OFF : (int32_t)v;
    return true;
}

static bool parse_draft(const opt *o, const char *text)
{
    uint64_t v = 0;
    opt number = *o;
    number.value = &v;
    const bool is_auto = strcmp(text, "auto") == 0, off = strcmp(text, "off") == 0;
    if (!is_auto && !off && !parse_u64(&number, text)) return false;
    *(int32_t *)o->value = is_auto ? FG_DRAFT_AUTO : off ? FG_DRAFT_OFF : (int32_t)v;
    return true;
}

static bool parse_tokens(const opt *o, const char *text)
{
    char digits[32];
    const size_t n = strlen(text);
    const bool k = n > 1 && n < sizeof digits && (text[n - 1] == 'k' || text[n - 1] == 'K');
    if (!k) return parse_u64(o, text);
    opt thousands = *o;
    thousands.max /= 1000;
    thousands.min /= 1000;
    (void)snprintf(digits, sizeof digits, "%.*s", (int)(n - 1), text);
    if (!parse_u64(&thousands, digits)) return false;
    *(uint64_t *)o->value *= 1000;
    return true;
}

static bool parse_choice(const opt *o, const char *text)
{
    const opt_choice *c = o->value;
    for (unsigned i = 0; i < c->n; i++) {
        const char *name = c->name(i);
        if (name == NULL || name[0] == '\0' || strcmp(name, text) != 0) continue;
        *c->value = i;
        return true;
    }
    return false;
}

static void wanted_flag(const opt *o, char *out, size_t size)
{
    (void)o;
    (void)snprintf(out, size, "none");
}

static void wanted_str(const opt *o, char *out, size_t size)
{
    (void)snprintf(out, size, "%s", o->meta);
}

static void wanted_list(const opt *o, char *out, size_t size)
{
    (void)snprintf(out, size, "%s, at most %d times", o->meta, OPT_LIST_MAX);
}

static void wanted_u64(const opt *o, char *out, size_t size)
{
    (void)snprintf(out, size, "an integer from %.0f to %.0f", o->min, o->max);
}

static void wanted_u32(const opt *o, char *out, size_t size)
{
    wanted_u64(o, out, size);
}

static void wanted_f64(const opt *o, char *out, size_t size)
{
    (void)snprintf(out, size, "a number from %g to %g", o->min, o->max);
}

static void wanted_size(const opt *o, char *out, size_t size)
{
    (void)o;
    (void)snprintf(out, size, "a size such as 24G (2^30) or 24GB (10^9)");
}

static void wanted_rate(const opt *o, char *out, size_t size)
{
    (void)o;
    (void)snprintf(out, size, "a rate such as 3GB/s");
}

static void wanted_gpu(const opt *o, char *out, size_t size)
{
    (void)o;
    (void)snprintf(out, size, "auto, off or the number of a card");
}

static void wanted_draft(const opt *o, char *out, size_t size)
{
    (void)snprintf(out, size, "auto, off or a number up to %.0f", o->max);
}

static void wanted_tokens(const opt *o, char *out, size_t size)
{
    (void)snprintf(out, size, "an integer from %.0f to %.0f, or thousands such as 80k", o->min,
                   o->max);
}

static void wanted_choice(const opt *o, char *out, size_t size)
{
    help_join_choice(o->value, ", ", " or ", "", out, size);
}

typedef struct kind {
    bool (*parse)(const opt *o, const char *text);
    void (*wanted)(const opt *o, char *out, size_t size);
} kind;

static const kind kinds[OPT_KIND_COUNT] = {
#define KIND_ROW(kind, type, stem) [kind] = {parse_##stem, wanted_##stem},
    OPT_KINDS(KIND_ROW)
#undef KIND_ROW
};

/* ---- tables ---- */

static bool has_names(const opt_choice *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->n; i++) n += c->name(i) != NULL && c->name(i)[0] != '\0';
    return n > 0;
}

const char *args_flaw(const command *c, const opt *opts, int n_opt, char *text, size_t size)
{
    opt common[HELP_N_COMMON];
    const int n_common = help_common(c, common);
    for (int i = 0; i < n_opt; i++) {
        const opt *o = &opts[i];
        const char *flaw = NULL;
        for (int j = 0; j < n_common; j++) {
            if (strcmp(o->name, common[j].name) == 0 ||
                (o->letter != 0 && o->letter == common[j].letter)) {
                flaw = "every command's own, expected another name and letter";
            }
        }
        for (int j = 0; j < i; j++) {
            if (strcmp(opts[j].name, o->name) == 0) flaw = "given twice, expected once";
            if (o->letter != 0 && opts[j].letter == o->letter) {
                flaw = "the letter of an earlier option, expected another one";
            }
        }
        if (o->help == NULL || o->help[0] == '\0') flaw = "no help, expected a text";
        if ((o->kind == OPT_FLAG) != (o->meta == NULL)) {
            flaw = o->meta == NULL ? "no name of its value, expected one"
                                   : "a flag with a name of its value, expected none";
        }
        if (o->kind == OPT_CHOICE && !has_names(o->value)) flaw = "no choices, expected names";
        if (flaw == NULL) continue;
        (void)snprintf(text, size, "%s --%s: %s", c->name, o->name, flaw);
        return text;
    }
    return NULL;
}

/* ---- parsing ---- */

/* getopt's tables, made from ours. */
typedef struct getopt_tables {
    struct option longs[MAX_OPT + HELP_N_COMMON + 1];
    char shorts[2 * (MAX_OPT + HELP_N_COMMON) + 2];
} getopt_tables;

static void fill(getopt_tables *t, const command *c, const opt *opts, int n_opt)
{
    size_t at = 0, n = 0;
    t->shorts[at++] = ':'; /* a missing value is reported as such */
    opt common[HELP_N_COMMON];
    const int n_common = help_common(c, common);
    for (int i = 0; i < n_common; i++) {
        const opt *o = &common[i];
        const int has = o->kind != OPT_FLAG ? required_argument
                        : o->letter == 'h'  ? optional_argument /* --help=man */
                                            : no_argument;
        t->longs[n++] = (struct option){o->name, has, NULL, o->letter == 0 ? NO_LETTER : o->letter};
        if (o->letter == 0) continue;
        t->shorts[at++] = o->letter;
        if (has == required_argument) t->shorts[at++] = ':';
    }
    for (int i = 0; i < n_opt; i++) {
        const int has = opts[i].kind == OPT_FLAG ? no_argument : required_argument;
        t->longs[n++] = (struct option){opts[i].name, has, NULL, FIRST_LONG + i};
        if (opts[i].letter == 0) continue;
        t->shorts[at++] = opts[i].letter;
        if (has == required_argument) t->shorts[at++] = ':';
    }
    t->longs[n] = (struct option){0};
    t->shorts[at] = '\0';
}

/* What the user wrote of a long option: up to the '='. */
static int name_length(const char *arg)
{
    return (int)strcspn(arg, "=");
}

/* How many options begin like the long one in arg. */
static int n_fitting(const getopt_tables *t, const char *arg)
{
    int n = 0;
    for (size_t i = 0; t->longs[i].name != NULL; i++) {
        n += strncmp(t->longs[i].name, arg + 2, (size_t)name_length(arg) - 2) == 0;
    }
    return n;
}

/* The option that getopt means by a letter or a number; NULL: one that every command has. */
static const opt *find(const opt *opts, int n_opt, int key)
{
    if (key >= FIRST_LONG) return &opts[key - FIRST_LONG];
    for (int i = 0; i < n_opt; i++) {
        if (opts[i].letter == key) return &opts[i];
    }
    return NULL;
}

/* The argument that getopt has just left, or is in when more letters follow the one it refused. */
static const char *refused(char **argv)
{
    const char *next = argv[optind];
    const bool inside = next != NULL && next[0] == '-' && optopt != 0 && next[1] == (char)optopt;
    return inside ? next : argv[optind - 1];
}

/* The long option that somebody may have meant; NULL: none. */
static const char *near_option(const getopt_tables *t, const char *typed, size_t n)
{
    nearest best = {.least = UINT_MAX};
    for (size_t i = 0; t->longs[i].name != NULL; i++) {
        nearest_offer(&best, typed, n, t->longs[i].name);
    }
    return nearest_likely(&best, n);
}

/* getopt returned '?' or ':'. */
static void report(const command *c, const getopt_tables *t, const opt *opts, int n_opt, int code,
                   const char *arg)
{
    char wanted[WANTED_SIZE] = "MODEL";
    const opt *o = find(opts, n_opt, optopt);
    const bool long_form = arg[0] == '-' && arg[1] == '-';
    if (code == ':') {
        if (o != NULL) kinds[o->kind].wanted(o, wanted, sizeof wanted);
        (void)args_usage(c, "--%s: no value, expected %s", o == NULL ? "model" : o->name, wanted);
    } else if (optopt != 0 && o != NULL) {
        (void)args_usage(c, "--%s: a value, expected none", o->name);
    } else if (optopt != 0 && long_form) { /* one of every command's that has a letter */
        (void)args_usage(c, "%.*s: a value, expected none", name_length(arg), arg);
    } else if (optopt > ' ' && optopt < 127) {
        (void)args_usage(c, "-%c: unknown option, expected a listed one", optopt);
    } else if (optopt != 0) { /* a byte of a longer character */
        (void)args_usage(c, "%.40s: unknown option, expected a listed one", arg);
    } else if (n_fitting(t, arg) > 1) {
        (void)args_usage(c, "%.*s: begins %d options, expected more letters", name_length(arg), arg,
                         n_fitting(t, arg));
    } else {
        const char *meant = near_option(t, arg + 2, (size_t)name_length(arg) - 2);
        (void)args_usage(c, "%.*s: unknown option, expected a listed one%s%s", name_length(arg),
                         arg, meant == NULL ? "" : ", perhaps --", meant == NULL ? "" : meant);
    }
}

bool args_parse_value(const opt *o, const char *text, char *wanted, size_t size)
{
    if (kinds[o->kind].parse(o, text)) return true;
    kinds[o->kind].wanted(o, wanted, size);
    return false;
}

static bool set(const command *c, const opt *o, const char *text)
{
    char wanted[WANTED_SIZE];
    /* of numbers the last counts, as an alias has them; of two texts one would be lost */
    const bool again = o->kind == OPT_STR && args_given(o->value);
    const char *before = again ? *(const char **)o->value : NULL;
    if (before != NULL && strcmp(before, text) != 0) {
        (void)args_usage(c, "--%s: both %.60s and %.60s, expected one of them", o->name, before,
                         text);
        return false;
    }
    if (args_parse_value(o, text, wanted, sizeof wanted)) {
        note_given(o);
        return true;
    }
    (void)args_usage(c, "--%s: %s, expected %s", o->name, text[0] == '\0' ? "nothing" : text,
                     wanted);
    return false;
}

/* What every command has.  False when *status is to be returned. */
static bool set_common(const command *c, const opt *opts, int n_opt, int letter, const char *value,
                       const char **model, int *status)
{
    switch (letter) {
    case 'h': *status = help_command(c, opts, n_opt, value); return false;
    case 'V': *status = help_version(); return false;
    case 'q': quiet = true; return true;
    case NO_LETTER: no_sandbox = true; return true;
    default: *model = value; return true;
    }
}

/* The operands of argv, after the model of -m or, when there is one too few, of the variable. */
static bool take_operands(const command *c, const char *model, int argc, char **argv,
                          const char **operands, int n_operand)
{
    const char *usual = args_takes_model(c) ? getenv(model_variable) : NULL;
    const int given = argc - optind;
    int n = 0;
    if (model == NULL && usual != NULL && usual[0] != '\0' && given == n_operand - 1) model = usual;
    if (model != NULL) operands[n++] = model;
    for (int i = optind; i < argc; i++) {
        if (n == n_operand) {
            (void)args_usage(c, "%s: one operand too many, expected %s", argv[i],
                             c->synopsis[0] == '\0' ? "none" : c->synopsis);
            return false;
        }
        operands[n++] = argv[i];
    }
    for (int i = 0; i < n; i++) {
        if (operands[i][0] != '\0') continue;
        (void)args_usage(c, "an empty operand, expected %s", c->synopsis);
        return false;
    }
    if (n == n_operand) return true;
    (void)args_usage(c, "%d operand%s, expected %s%s%s", n, n == 1 ? "" : "s", c->synopsis,
                     args_takes_model(c) && model == NULL ? ", or the model in " : "",
                     args_takes_model(c) && model == NULL ? model_variable : "");
    return false;
}

bool args_parse_table(const command *c, const opt *opts, int n_opt, int argc, char **argv,
                      const char **operands, int n_operand, int *status)
{
    getopt_tables t;
    const char *model = NULL; /* -m MODEL, as llama.cpp has it, is the first operand */
    fill(&t, c, opts, n_opt);
    opterr = 0;
    optind = 0; /* of glibc and musl: start anew, whatever an earlier table left */
    *status = EXIT_USAGE;
    for (int k; (k = getopt_long(argc, argv, t.shorts, t.longs, NULL)) != -1;) {
        if (k == '?' || k == ':') {
            report(c, &t, opts, n_opt, k, refused(argv));
            return false;
        }
        const opt *o = find(opts, n_opt, k);
        if (o == NULL && !set_common(c, opts, n_opt, k, optarg, &model, status)) return false;
        if (o != NULL && !set(c, o, optarg)) return false;
    }
    if (!take_operands(c, model, argc, argv, operands, n_operand)) return false;
    fg_err err;
    if (on_entry == NULL || on_entry(c, opts, n_opt, operands, n_operand, &err) == FG_OK)
        return true;
    fprintf(stderr, "fulgur: %s\n", err.msg);
    *status = EXIT_FAILED;
    return false;
}
