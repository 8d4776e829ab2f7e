/* SPDX-License-Identifier: MIT */
#include "src/cli/args.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/cli/choices.h"
#include "src/cli/size.h"

enum { MAX_OPT = 32, FIRST_LONG = 256 };

int args_usage(const command *c, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "fulgur: %s: ", c->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "; see fulgur %s --help\n", c->name);
    return EXIT_USAGE;
}

static void print_help(const command *c, const opt *opts, int n_opt)
{
    printf("fulgur %s: %s\n\nUsage: fulgur %s %s [options]\n\n", c->name, c->summary, c->name,
           c->synopsis);
    for (int i = 0; i < n_opt; i++) {
        char left[64];
        const char *meta = opts[i].meta == NULL ? "" : opts[i].meta;
        if (opts[i].letter != 0) {
            (void)snprintf(left, sizeof left, "-%c, --%s %s", opts[i].letter, opts[i].name, meta);
        } else {
            (void)snprintf(left, sizeof left, "    --%s %s", opts[i].name, meta);
        }
        printf("  %-26s %s", left, opts[i].help);
        if (choice_is_kind(opts[i].kind)) {
            char list[160];
            choice_list(opts[i].kind, *(const uint32_t *)opts[i].value, list, sizeof list);
            printf(": %s", list);
        }
        printf("\n");
    }
    if (strncmp(c->synopsis, "MODEL", 5) == 0) {
        printf("  %-26s %s\n", "-m, --model MODEL", "the model, instead of the first operand");
    }
    printf("  %-26s %s\n\nExample:\n  %s\n", "-h, --help", "this text", c->example);
}

static bool parse_value(const opt *o, const char *text)
{
    char *end = NULL;
    errno = 0;
    if (o->kind == OPT_STR) {
        *(const char **)o->value = text;
        return true;
    }
    if (o->kind == OPT_F64) {
        const double v = strtod(text, &end);
        if (end == text || *end != '\0' || errno != 0 || !(v >= o->min && v <= o->max)) {
            return false;
        }
        *(double *)o->value = v;
        return true;
    }
    if (o->kind == OPT_SIZE) return size_parse(text, o->value);
    if (choice_is_kind(o->kind)) return choice_parse(o->kind, text, o->value);
    if (text[0] < '0' || text[0] > '9') return false; /* strtoull would take "-1" */
    const unsigned long long v = strtoull(text, &end, 10);
    if (*end != '\0' || errno != 0 || (double)v < o->min || (double)v > o->max) return false;
    if (o->kind == OPT_U32) {
        *(uint32_t *)o->value = (uint32_t)v;
    } else {
        *(uint64_t *)o->value = v;
    }
    return true;
}

int args_parse(const command *c, const opt *opts, int n_opt, int argc, char **argv,
               const char **operands, int max_operand, int *status)
{
    struct option longs[MAX_OPT + 3];
    char shorts[2 * MAX_OPT + 6] = ":hm:";
    size_t at = 4;
    const char *model = NULL; /* -m MODEL, as llama.cpp has it, is the first operand */
    const bool takes_model = strncmp(c->synopsis, "MODEL", 5) == 0;
    if (!takes_model) {
        shorts[at = 2] = '\0';
    }
    for (int i = 0; i < n_opt; i++) {
        const int has = opts[i].kind == OPT_FLAG ? no_argument : required_argument;
        longs[i] = (struct option){opts[i].name, has, NULL, FIRST_LONG + i};
        if (opts[i].letter == 0) continue;
        shorts[at++] = opts[i].letter;
        if (has == required_argument) shorts[at++] = ':';
    }
    shorts[at] = '\0';
    longs[n_opt] = (struct option){"help", no_argument, NULL, 'h'};
    longs[n_opt + 1] =
        takes_model ? (struct option){"model", required_argument, NULL, 'm'} : (struct option){0};
    longs[n_opt + 2] = (struct option){0};
    opterr = 0;
    optind = 1;
    *status = EXIT_USAGE;
    for (int k; (k = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
        if (k == 'h') {
            print_help(c, opts, n_opt);
            *status = EXIT_OK;
            return -1;
        }
        if (k == '?' || k == ':') {
            (void)args_usage(c,
                             k == '?' ? "%s: unknown option, expected a listed one"
                                      : "%s: no value, expected one",
                             argv[optind - 1]);
            return -1;
        }
        if (k == 'm') {
            model = optarg;
            continue;
        }
        int i = k - FIRST_LONG;
        for (int j = 0; k < FIRST_LONG && j < n_opt; j++) {
            if (opts[j].letter == k) i = j;
        }
        if (opts[i].kind == OPT_FLAG) {
            *(bool *)opts[i].value = true;
        } else if (!parse_value(&opts[i], optarg)) {
            if (opts[i].kind == OPT_SIZE) {
                (void)size_option(c, opts[i].name, optarg, opts[i].value);
            } else if (choice_is_kind(opts[i].kind)) {
                char list[160];
                choice_list(opts[i].kind, UINT32_MAX, list, sizeof list);
                (void)args_usage(c, "--%s: %s, expected %s", opts[i].name, optarg, list);
            } else if (opts[i].kind == OPT_F64) {
                (void)args_usage(c, "--%s: %s, expected a number from %g to %g", opts[i].name,
                                 optarg, opts[i].min, opts[i].max);
            } else {
                (void)args_usage(c, "--%s: %s, expected an integer from %.0f to %.0f", opts[i].name,
                                 optarg, opts[i].min, opts[i].max);
            }
            return -1;
        }
    }
    int n = 0;
    if (model != NULL) operands[n++] = model;
    for (int i = optind; i < argc; i++) {
        if (n == max_operand) {
            (void)args_usage(c, "%s: one operand too many, expected %s", argv[i], c->synopsis);
            return -1;
        }
        operands[n++] = argv[i];
    }
    return n;
}
