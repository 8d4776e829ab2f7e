/* SPDX-License-Identifier: MIT
 *
 * Completions for bash and zsh.  The script of the program asks each command for its part, because
 * an option table lives in the command's own function.
 */
#include <stdio.h>
#include <string.h>

#include "src/cli/help.h"

/* What a shell offers for a value. */
typedef enum value_class { VALUE_NOTHING, VALUE_FILE, VALUE_FOLDER, VALUE_CHOICE } value_class;

static value_class classify(const opt *o)
{
    static const char *const files[] = {"FILE", "MODEL", "TRACE", "REF", "PATH"};
    if (o->kind == OPT_CHOICE) return VALUE_CHOICE;
    if (o->kind != OPT_STR && o->kind != OPT_LIST) return VALUE_NOTHING;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (strstr(o->meta, files[i]) != NULL) return VALUE_FILE;
    }
    return strncmp(o->meta, "DIR", 3) == 0 ? VALUE_FOLDER : VALUE_NOTHING;
}

bool help_is_path(const opt *o)
{
    const value_class v = classify(o);
    return v == VALUE_FILE || v == VALUE_FOLDER;
}

static const char *choices(const opt *o)
{
    static char names[512];
    help_join_choice(o->value, " ", " ", "", names, sizeof names);
    return names;
}

/* Calls every command for its part of the script. */
static int ask_commands(const command *const *all, int n, char *form)
{
    for (int i = 0; i < n; i++) {
        for (const command *c = all[i]; c != NULL; c = c->sub) {
            char name[64];
            (void)snprintf(name, sizeof name, "%s", c->name);
            const int status = c->run(2, (char *[]){name, form, NULL});
            if (status != EXIT_OK) return status;
        }
    }
    return EXIT_OK;
}

static void put_names(const command *const *all, int n)
{
    for (int i = 0; i < n; i++) printf("%s ", all[i]->name);
    fputs("help", stdout);
}

/* ---- bash ---- */

static void bash_value(const opt *o)
{
    if (o->kind == OPT_FLAG) return;
    printf("        --%s", o->name);
    if (o->letter != 0) printf(" | -%c", o->letter);
    switch (classify(o)) {
    case VALUE_NOTHING: puts(") compopt +o default; return ;;"); break;
    case VALUE_FILE: puts(") return ;;"); break;
    case VALUE_FOLDER: puts(") mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); return ;;"); break;
    case VALUE_CHOICE:
        printf(") mapfile -t COMPREPLY < <(compgen -W '%s' -- \"$cur\"); return ;;\n", choices(o));
        break;
    }
}

void bash_command(const command *c, const opt *opts, int n_opt)
{
    opt common[HELP_N_COMMON];
    const int n_common = help_common(c, common);
    printf("    '%s')\n        words='", c->name);
    for (int i = 0; i < n_opt; i++) printf("--%s ", opts[i].name);
    for (int i = 0; i < n_common; i++) {
        printf("--%s%s", common[i].name, i + 1 < n_common ? " " : "'\n");
    }
    if (c->sub != NULL && strchr(c->name, ' ') == NULL) {
        fputs("        second='", stdout);
        for (const command *s = c->sub; s != NULL; s = s->sub) {
            printf("%s%s", strrchr(s->name, ' ') + 1, s->sub == NULL ? "'\n" : " ");
        }
    }
    puts("        case $prev in");
    for (int i = 0; i < n_opt; i++) bash_value(&opts[i]);
    for (int i = 0; i < n_common; i++) bash_value(&common[i]);
    puts("        esac ;;");
}

/* An empty answer lets bash offer files, which is right for operands. */
int bash_program(const command *const *all, int n)
{
    char form[] = "--help=bash";
    puts("# bash completion of fulgur, made by fulgur --help=bash\n"
         "_fulgur() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
         "    local name=${COMP_WORDS[1]} words='' second=''\n"
         "    COMPREPLY=()\n"
         "    if [ \"$prev\" = '=' ]; then prev=${COMP_WORDS[COMP_CWORD - 2]}; fi\n"
         "    if [ \"$cur\" = '=' ]; then cur=''; fi");
    fputs("    if [ \"$COMP_CWORD\" = 1 ] || { [ \"$COMP_CWORD\" = 2 ] && [ \"$name\" = help ]; }; "
          "then\n"
          "        mapfile -t COMPREPLY < <(compgen -W '",
          stdout);
    put_names(all, n);
    puts(" --help --version' -- \"$cur\")\n        return\n    fi");
    for (int i = 0; i < n; i++) {
        for (const command *s = all[i]->sub; s != NULL; s = s->sub) {
            printf(
                "    if [ \"$name ${COMP_WORDS[2]}\" = '%s' ] && [ \"$COMP_CWORD\" -gt 2 ]; then\n"
                "        name='%s'\n    fi\n",
                s->name, s->name);
        }
    }
    puts("    case $name in");
    const int status = ask_commands(all, n, form);
    if (status != EXIT_OK) return status;
    puts("    esac\n"
         "    case $cur in\n"
         "    -*) mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\") ;;\n"
         "    *)\n"
         "        if [ \"$COMP_CWORD\" = 2 ] && [ -n \"$second\" ]; then\n"
         "            mapfile -t COMPREPLY < <(compgen -W \"$second\" -f -- \"$cur\")\n"
         "        fi ;;\n"
         "    esac\n"
         "}\n"
         "complete -o default -F _fulgur fulgur");
    return EXIT_OK;
}

/* ---- zsh ---- */

/* Inside single quotes and the brackets of _arguments. */
static void zsh_text(const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '\'') {
            fputs("'\\''", stdout);
            continue;
        }
        if (strchr("[]:\\", *p) != NULL) (void)putchar('\\');
        (void)putchar(*p);
    }
}

static void zsh_action(const opt *o)
{
    switch (classify(o)) {
    case VALUE_NOTHING: (void)putchar(' '); break;
    case VALUE_FILE: fputs("_files", stdout); break;
    case VALUE_FOLDER: fputs("_files -/", stdout); break;
    case VALUE_CHOICE: printf("(%s)", choices(o)); break;
    }
}

static void zsh_option(const opt *o)
{
    for (int with_letter = o->letter != 0; with_letter >= 0; with_letter--) {
        fputs("        '", stdout);
        if (o->letter != 0) printf("(-%c --%s)", o->letter, o->name);
        if (with_letter) {
            printf("-%c%s[", o->letter, o->kind == OPT_FLAG ? "" : "+");
        } else {
            printf("--%s%s[", o->name, o->kind == OPT_FLAG ? "" : "=");
        }
        zsh_text(help_text(o));
        (void)putchar(']');
        if (o->kind != OPT_FLAG) {
            (void)putchar(':');
            zsh_text(o->meta);
            (void)putchar(':');
            zsh_action(o);
        }
        puts("' \\");
    }
}

void zsh_command(const command *c, const opt *opts, int n_opt)
{
    opt common[HELP_N_COMMON];
    const int n_common = help_common(c, common);
    printf("    '%s') _arguments -s \\\n", c->name);
    for (int i = 0; i < n_opt; i++) zsh_option(&opts[i]);
    for (int i = 0; i < n_common; i++) zsh_option(&common[i]);
    puts(c->synopsis[0] == '\0' ? "        && return ;;" : "        '*:file:_files' && return ;;");
}

int zsh_program(const command *const *all, int n)
{
    char form[] = "--help=zsh";
    puts("#compdef fulgur\n# zsh completion of fulgur, made by fulgur --help=zsh\n"
         "_fulgur() {\n"
         "    local name=$words[2]\n"
         "    local -a commands=(");
    for (int i = 0; i < n; i++) {
        printf("        '%s:", all[i]->name);
        zsh_text(all[i]->summary);
        puts("'");
    }
    puts("        'help:what a command does'\n    )\n"
         "    if (( CURRENT == 2 )) || [[ $CURRENT == 3 && $name == help ]]; then\n"
         "        _describe command commands\n        return\n    fi\n"
         "    shift words\n    (( CURRENT-- ))");
    for (int i = 0; i < n; i++) {
        if (all[i]->sub == NULL) continue;
        printf("    if [[ $name == %s && $CURRENT == 2 ]]; then\n        compadd", all[i]->name);
        for (const command *s = all[i]->sub; s != NULL; s = s->sub) {
            printf(" %s", strrchr(s->name, ' ') + 1);
        }
        for (const command *s = all[i]->sub; s != NULL; s = s->sub) {
            printf("\n    elif [[ \"$name $words[2]\" == '%s' ]]; then\n"
                   "        name='%s'\n        shift words\n        (( CURRENT-- ))",
                   s->name, s->name);
        }
        puts("\n    fi");
    }
    puts("    case $name in");
    const int status = ask_commands(all, n, form);
    if (status != EXIT_OK) return status;
    puts("    esac\n}\n_fulgur \"$@\"");
    return EXIT_OK;
}
