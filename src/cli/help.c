/* SPDX-License-Identifier: MIT */
#include "src/cli/help.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/base/status.h"

enum { WIDTH = 100, LEFT = 29, HELP_SIZE = 1024 };

/* ---- what every form asks ---- */

static const topic *(*topics)(int i);

void help_set_topics(const topic *(*at)(int i))
{
    topics = at;
}

const topic *help_topic(int i)
{
    return topics == NULL ? NULL : topics(i);
}

static const char *offered(const opt_choice *c, unsigned i)
{
    const char *name = c->name(i);
    return name == NULL || name[0] == '\0' ? NULL : name;
}

void help_join_choice(const opt_choice *c, const char *between, const char *before_last,
                      const char *mark, char *out, size_t size)
{
    size_t at = 0;
    unsigned last = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < c->n; i++) {
        if (offered(c, i) != NULL) last = i;
    }
    for (unsigned i = 0; i < c->n && at < size; i++) {
        if (offered(c, i) == NULL) continue;
        const int n = snprintf(out + at, size - at, "%s%s%s",
                               at == 0     ? ""
                               : i == last ? before_last
                                           : between,
                               offered(c, i), i == *c->value ? mark : "");
        at += n > 0 ? (size_t)n : 0;
    }
}

const char *help_text(const opt *o)
{
    static char text[HELP_SIZE];
    const int n = snprintf(text, sizeof text, "%s", o->help);
    if (o->kind == OPT_CHOICE && n > 0 && (size_t)n + 2 < sizeof text) {
        memcpy(text + n, ": ", 3);
        help_join_choice(o->value, ", ", " or ", " (default)", text + n + 2,
                         sizeof text - (size_t)n - 2);
    }
    return text;
}

int help_common(const command *c, opt out[HELP_N_COMMON])
{
    int n = 0;
    if (args_takes_model(c)) {
        out[n++] = (opt){.name = "model",
                         .letter = 'm',
                         .kind = OPT_STR,
                         .meta = "MODEL",
                         .help = "the model, instead of the first operand (default: the "
                                 "variable FULGUR_MODEL)"};
    }
    out[n++] = (opt){.name = "no-sandbox",
                     .kind = OPT_FLAG,
                     .help = "any file may be opened and any system call made (fulgur help "
                             "sandbox)"};
    out[n++] = (opt){.name = "quiet",
                     .letter = 'q',
                     .kind = OPT_FLAG,
                     .help = "no progress and no notices on standard error"};
    out[n++] = (opt){.name = "version", .letter = 'V', .kind = OPT_FLAG, .help = "the version"};
    out[n++] = (opt){.name = "help", .letter = 'h', .kind = OPT_FLAG, .help = "this text"};
    return n;
}

/* ---- text ---- */

void help_put(const char *text, size_t size, int at, int indent)
{
    const int start = at;
    for (const char *end = text + size; text < end;) {
        int n = (int)strcspn(text, " ");
        if (n > end - text) n = (int)(end - text);
        int shown = n;
        for (int i = 0; i < n; i++) shown -= text[i] == '`';
        if (at > start && at + 1 + shown > WIDTH) {
            printf("\n%*s", indent, "");
            at = indent;
        } else if (at > start) {
            (void)putchar(' ');
            at++;
        }
        for (int i = 0; i < n; i++) {
            if (text[i] != '`') (void)putchar(text[i]);
        }
        at += shown;
        text += n;
        text += strspn(text, " ");
    }
    (void)putchar('\n');
}

static void put_option(const opt *o)
{
    char left[64], letter[8] = "   ";
    if (o->letter != 0) (void)snprintf(letter, sizeof letter, "-%c,", o->letter);
    const int n = snprintf(left, sizeof left, "  %s --%s%s%s", letter, o->name,
                           o->meta == NULL ? "" : " ", o->meta == NULL ? "" : o->meta);
    printf("%-*s", LEFT, left);
    if (n >= LEFT) printf("\n%*s", LEFT, "");
    const char *help = help_text(o);
    help_put(help, strlen(help), LEFT, LEFT);
}

static void put_head(const command *c)
{
    printf("fulgur %s: %s\n\nUsage: fulgur %s %s%s[options]\n\n", c->name, c->summary, c->name,
           c->synopsis, c->synopsis[0] == '\0' ? "" : " ");
}

static void put_options(const command *c, const opt *opts, int n_opt)
{
    opt common[HELP_N_COMMON];
    const int n_common = help_common(c, common);
    for (int i = 0; i < n_opt; i++) put_option(&opts[i]);
    for (int i = 0; i < n_common; i++) put_option(&common[i]);
}

void brief_command(const command *c, const opt *opts, int n_opt)
{
    put_head(c);
    put_options(c, opts, n_opt);
    printf("\nExample:\n  %.*s\n", (int)strcspn(c->example, "\n"), c->example);
    printf("\nfulgur help %s says more.\n", c->name);
}

void full_command(const command *c, const opt *opts, int n_opt)
{
    put_head(c);
    for (const char *at = c->description; *at != '\0';) {
        const size_t n = strcspn(at, "\n");
        help_put(at, n, 0, 0);
        (void)putchar('\n');
        at += n;
        at += strspn(at, "\n");
    }
    put_options(c, opts, n_opt);
    printf("\n%s:\n", strchr(c->example, '\n') == NULL ? "Example" : "Examples");
    for (const char *at = c->example; *at != '\0';) {
        const size_t n = strcspn(at, "\n");
        printf("  %.*s\n", (int)n, at);
        at += n;
        at += strspn(at, "\n");
    }
}

void names_command(const command *c, const opt *opts, int n_opt)
{
    (void)opts;
    (void)n_opt;
    printf("%s\n", c->name);
}

int brief_program(const command *const *all, int n)
{
    printf("fulgur %s: MiniMax-M1 on CPUs from one quantized file\n\n"
           "Usage: fulgur COMMAND [options]\n\n",
           FG_VERSION);
    for (int i = 0; i < n; i++) {
        for (const command *c = all[i]; c != NULL; c = c->sub) {
            printf("  %-12s %s\n", c->name, c->summary);
        }
    }
    printf("\nfulgur COMMAND --help describes a command, fulgur help COMMAND says more.  The "
           "variable\n"
           "FULGUR_MODEL names the model of commands that are given none.\n\n"
           "fulgur help TOPIC:\n");
    for (int i = 0; help_topic(i) != NULL; i++) {
        printf("  %-17s %s\n", help_topic(i)->name, help_topic(i)->summary);
    }
    return EXIT_OK;
}

int full_program(const command *const *all, int n)
{
    return brief_program(all, n);
}

int names_program(const command *const *all, int n)
{
    for (int i = 0; i < n; i++) {
        for (const command *c = all[i]; c != NULL; c = c->sub) printf("%s\n", c->name);
    }
    return EXIT_OK;
}

/* ---- forms ---- */

typedef struct form {
    const char *name;
    void (*command)(const command *c, const opt *opts, int n_opt);
    int (*program)(const command *const *all, int n);
} form;

static const form forms[] = {
#define FORM_ROW(form) {#form, form##_command, form##_program},
    HELP_FORMS(FORM_ROW)
#undef FORM_ROW
};

static const form *find_form(const char *name)
{
    if (name == NULL) return &forms[0];
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (strcmp(forms[i].name, name) == 0) return &forms[i];
    }
    fg_err err;
    (void)fg_fail(&err, FG_EINVAL, "--help: %.100s, expected", name);
    fprintf(stderr, "fulgur: %s", err.msg);
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        fprintf(stderr, "%s %s", i == 0 ? "" : " or", forms[i].name);
    }
    fprintf(stderr, "\n");
    return NULL;
}

static int written(void)
{
    if (fflush(stdout) == 0 && ferror(stdout) == 0) return EXIT_OK;
    fprintf(stderr, "fulgur: standard output: %s, expected a writable stream\n", strerror(errno));
    return EXIT_FAILED;
}

int help_version(void)
{
    printf("fulgur %s\n", fg_version());
    return written();
}

int help_command(const command *c, const opt *opts, int n_opt, const char *form_name)
{
    char text[256];
    const form *f = find_form(form_name);
    if (f == NULL) return EXIT_USAGE;
    if (args_flaw(c, opts, n_opt, text, sizeof text) != NULL) {
        fprintf(stderr, "fulgur: %s\n", text);
        return EXIT_FAILED;
    }
    f->command(c, opts, n_opt);
    return written();
}

int help_program(const command *const *all, int n, const char *form_name)
{
    const form *f = find_form(form_name);
    if (f == NULL) return EXIT_USAGE;
    const int status = f->program(all, n);
    return status == EXIT_OK ? written() : status;
}
