/* SPDX-License-Identifier: MIT */
#include "src/cli/planned.h"

#include <stdio.h>
#include <string.h>

#include "convert/choose/recipe.h"
#include "convert/dry_run.h"
#include "src/base/io.h"

bool planned_is_model(const char *path)
{
    static const char magic[] = {(char)0x89, 'F', 'U', 'L', 'G', 'U', 'R'};
    char head[sizeof magic] = {0};
    if (fg_io_is_dir(path)) return false;
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    const bool all = fread(head, 1, sizeof head, f) == sizeof head;
    (void)fclose(f);
    return all && memcmp(head, magic, sizeof magic) == 0;
}

fg_status planned_open(planned *p, const char *source, const char *type, const char *recipe,
                       fg_err *err)
{
    *p = (planned){.exact = true};
    if (planned_is_model(source)) {
        if (type != NULL || recipe != NULL) {
            return fg_fail(err, FG_EINVAL,
                           "%s: a model file with types of its own, expected no --type or --recipe",
                           source);
        }
        FG_TRY(fg_model_file_open(&p->file, source, err));
        p->plan = fg_model_file_plan(p->file);
        return FG_OK;
    }
    FG_TRY(fg_dry_run_plan(&p->own, source, type, recipe, &p->exact, err));
    (void)snprintf(p->type, sizeof p->type, "%s", fg_recipe_label(type, recipe));
    p->plan = p->own;
    return FG_OK;
}

void planned_close(planned *p)
{
    fg_file_plan_destroy(&p->own);
    fg_model_file_close(&p->file);
    p->plan = NULL;
}
