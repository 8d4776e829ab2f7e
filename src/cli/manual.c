/* SPDX-License-Identifier: MIT
 *
 * Manual pages: fulgur(1) and one a command, as roff with the macros of man(7).
 */
#include <stdio.h>
#include <string.h>

#include "src/cli/help.h"
#include "src/fulgur.h"

/* n bytes of text, which begins a line, with everything escaped that roff takes for its own;
 * backquotes switch bold on and off. */
static void put_roff(const char *text, size_t n)
{
    bool bold = false;
    if (n > 0 && (text[0] == '.' || text[0] == '\'')) fputs("\\&", stdout);
    for (size_t i = 0; i < n; i++) {
        switch (text[i]) {
        case '\\': fputs("\\e", stdout); break;
        case '-': fputs("\\-", stdout); break;
        case '\'': fputs("\\(aq", stdout); break;
        case '^': fputs("\\(ha", stdout); break;
        case '~': fputs("\\(ti", stdout); break;
        case '`':
            bold = !bold;
            fputs(bold ? "\\fB" : "\\fR", stdout);
            break;
        default: (void)putchar(text[i]);
        }
    }
    (void)putchar('\n');
}

/* Each line of text as a paragraph. */
static void put_paragraphs(const char *text)
{
    for (const char *at = text; *at != '\0';) {
        const size_t n = strcspn(at, "\n");
        if (at != text) puts(".PP");
        put_roff(at, n);
        at += n;
        at += strspn(at, "\n");
    }
}

/* "trace replay" as "trace\-replay". */
static void put_page_name(const command *c)
{
    fputs("fulgur", stdout);
    if (c != NULL) fputs("\\-", stdout);
    for (const char *p = c == NULL ? "" : c->name; *p != '\0'; p++) {
        fputs(*p == ' ' ? "\\-" : (char[2]){*p, '\0'}, stdout);
    }
}

static void put_title(const command *c)
{
    fputs(".TH ", stdout);
    put_page_name(c);
    printf(" 1 \"\" \"fulgur %s\" \"Fulgur manual\"\n.SH NAME\n", FG_VERSION);
    put_page_name(c);
    fputs(" \\- ", stdout);
}

static void put_option(const opt *o)
{
    puts(".TP");
    if (o->letter != 0) printf("\\fB\\-%c\\fR, ", o->letter);
    printf("\\fB\\-\\-");
    for (const char *p = o->name; *p != '\0'; p++) {
        fputs(*p == '-' ? "\\-" : (char[2]){*p, '\0'}, stdout);
    }
    fputs("\\fR", stdout);
    if (o->meta != NULL) printf(" \\fI%s\\fR", o->meta);
    (void)putchar('\n');
    const char *help = help_text(o);
    put_roff(help, strlen(help));
}

static void put_see_also(const command *c)
{
    puts(".SH SEE ALSO\n.BR fulgur (1)");
    if (c->sub != NULL) {
        fputs(".BR ", stdout);
        put_page_name(c->sub);
        puts(" (1)");
    }
}

void man_command(const command *c, const opt *opts, int n_opt)
{
    opt common[HELP_N_COMMON];
    const int n_common = help_common(c, common);
    put_title(c);
    put_roff(c->summary, strlen(c->summary));
    printf(".SH SYNOPSIS\n.B fulgur %s\n", c->name);
    if (c->synopsis[0] != '\0') put_roff(c->synopsis, strlen(c->synopsis));
    puts("[options]\n.SH DESCRIPTION");
    put_paragraphs(c->description);
    puts(".SH OPTIONS");
    for (int i = 0; i < n_opt; i++) put_option(&opts[i]);
    for (int i = 0; i < n_common; i++) put_option(&common[i]);
    puts(".SH EXAMPLES\n.EX");
    for (const char *at = c->example; *at != '\0';) {
        const size_t n = strcspn(at, "\n");
        put_roff(at, n);
        at += n;
        at += strspn(at, "\n");
    }
    puts(".EE\n.SH EXIT STATUS");
    puts("0 good, 1 failed, with one line on standard error that says why, 2 a mistake in the "
         "command line.");
    put_see_also(c);
}

static const char about[] =
    "Fulgur runs MiniMax-M1 on CPUs, from one quantized file that is mapped into memory and used "
    "in "
    "place, or whose experts are read on demand. `fulgur convert` makes the file from a "
    "checkpoint; "
    "`fulgur chat` and `fulgur run` use it; the other commands say what it holds, how good it is "
    "and "
    "how fast.\n"
    "The same file gives the same logits, bit for bit, on every kernel level, for any number of "
    "threads, any split of the text into calls and any bound of memory.\n"
    "Options may stand before or after the operands, and a long one may be cut to letters that no "
    "other begins with. `--` ends them. Where the first operand is a model, `-m` `MODEL` does as "
    "well.\n"
    "Sizes count in powers of 1024 (`24G`, `512M`), with a B in powers of 1000 (`24GB`). Memory is "
    "printed in GiB (2^30 bytes), files and rates in GB (10^9). Bits per weight are those of all "
    "tensors with their scales, over the number of their elements.\n"
    "Reports go to standard output, as JSON with `--json`; progress, notices and errors go to "
    "standard error, with `--quiet` only errors. A finished model, trace or sensitivity file is "
    "replaced with `--force` only.";

static const char environment[] =
    ".SH ENVIRONMENT\n"
    ".TP\n.B FULGUR_MODEL\n"
    "the model of commands that take one, where neither an operand nor \\fB\\-m\\fR names it\n"
    ".TP\n.B NO_COLOR\n"
    "when it is set and not empty, reasoning is not dimmed on a terminal\n"
    ".TP\n.B TERM\n"
    "when it is \\fIdumb\\fR or not set, there is no progress line and nothing is dimmed";

int man_program(const command *const *all, int n)
{
    put_title(NULL);
    puts("MiniMax\\-M1 on CPUs from one quantized file\n.SH SYNOPSIS\n.B fulgur\n"
         "COMMAND [options]\n.br\n.B fulgur help\n[COMMAND|TOPIC]\n.SH DESCRIPTION");
    put_paragraphs(about);
    puts(".SH COMMANDS");
    for (int i = 0; i < n; i++) {
        for (const command *c = all[i]; c != NULL; c = c->sub) {
            fputs(".TP\n.BR ", stdout);
            put_page_name(c);
            puts(" (1)");
            put_roff(c->summary, strlen(c->summary));
        }
    }
    puts(".SH TOPICS\nof fulgur help, which needs no pages like this one");
    for (int i = 0; help_topic(i) != NULL; i++) {
        puts(".TP");
        put_roff(help_topic(i)->name, strlen(help_topic(i)->name));
        put_roff(help_topic(i)->summary, strlen(help_topic(i)->summary));
    }
    puts(".SH OPTIONS\n"
         ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nthe commands; after a command: its options\n"
         ".TP\n\\fB\\-V\\fR, \\fB\\-\\-version\\fR\nthe version");
    puts(environment);
    puts(".SH EXIT STATUS");
    puts("0 good, 1 failed, with one line on standard error that says why, 2 a mistake in the "
         "command line.");
    return EXIT_OK;
}
