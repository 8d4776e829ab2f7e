/* SPDX-License-Identifier: MIT */
#include "src/cli/beside.h"

#include <langinfo.h>
#include <limits.h>
#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

/* PREFIX/share/fulgur/NAME, of the program PREFIX/bin/fulgur as it was executed: /proc may not be
 * there.  False: there is no such folder. */
static bool find(const char *name, char out[PATH_MAX])
{
    char exe[PATH_MAX];
    const char *run = (const char *)(uintptr_t)getauxval(AT_EXECFN);
    if (run == NULL || realpath(run, exe) == NULL) return false;
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(exe, '/');
        if (slash == NULL) return false;
        *slash = '\0';
    }
    const int n = snprintf(out, PATH_MAX, "%s/share/fulgur/%s", exe, name);
    return n > 0 && n < PATH_MAX && access(out, X_OK) == 0;
}

static bool has_utf8(const char *locale)
{
    return setlocale(LC_CTYPE, locale) != NULL && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

void beside_find(void)
{
    char path[PATH_MAX], dirs[PATH_MAX + 1];
    if (getenv("TERMINFO_DIRS") == NULL && find("terminfo", path)) {
        (void)snprintf(dirs, sizeof dirs, ":%s", path); /* nothing before the colon: the usual */
        (void)setenv("TERMINFO_DIRS", dirs, 1);
    }
    if (getenv("LOCPATH") != NULL || !find("locale", path)) return;
    if (!has_utf8("") && !has_utf8("C.UTF-8")) (void)setenv("LOCPATH", path, 1);
    (void)setlocale(LC_CTYPE, "C"); /* as it was; who wants another one asks */
}
