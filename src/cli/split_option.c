/* SPDX-License-Identifier: MIT */
#include "src/cli/split_option.h"

#include <string.h>

bool parse_split(const command *c, const char *text, split_dirs *out)
{
    out->n = 0;
    if (text == NULL) return true;
    bool good = strlen(text) < sizeof out->text;
    if (good) memcpy(out->text, text, strlen(text) + 1);
    for (char *at = out->text; good && at != NULL;) {
        char *comma = strchr(at, ',');
        if (comma != NULL) *comma = '\0';
        good = *at != '\0' && out->n < SPLIT_MAX_DIR;
        if (good) out->dir[out->n++] = at;
        at = comma == NULL ? NULL : comma + 1;
    }
    if (!good) {
        (void)args_usage(c, "--split %s, expected 1 to %d folders with commas between them", text,
                         (int)SPLIT_MAX_DIR);
    }
    return good;
}
