/* SPDX-License-Identifier: MIT
 *
 * Recipes: which weight type each matrix gets.
 *
 * Text, one rule a line: `PATTERN TYPE`, where PATTERN is a shell glob over the original tensor
 * names ("*.experts.*.w2.weight") and the last matching line wins; `#` starts a comment.  Types:
 * the names of fg_qkind_names, as q4 (fixed 6-bit-grid codebook), q4lin (linear 4-bit) and q5; "+h"
 * after a quantized type rotates it (quant/hadamard.h), not for the embedding.  The built-in
 * recipe of a type is text of the same form, and a recipe file adds its lines after it, so what
 * was applied can always be printed and stored.  Norms and routers are f32 whatever a line says.
 *
 * Three complete recipes have names, which always mean them (a file of that name is ./fast); bytes
 * that a decoded token reads in the 456 B release:
 *   fast      everything q4, embedding q8, lm_head q6                 25.5 GB
 *   balanced  experts q4, attention q6, embedding and lm_head q8      30.4 GB; the default of q4
 *   faithful  everything q8                                           48.7 GB
 *
 * Gate and up of an expert are interleaved panel by panel, so they must have one type.
 *
 * The room convert/choose says which type each matrix gets, by a recipe or by a budget (budget.h).
 * It sees names, shapes and plans of files (src/format/file_plan.h), never a weight.
 */
#ifndef FG_CONVERT_CHOOSE_RECIPE_H
#define FG_CONVERT_CHOOSE_RECIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"
#include "src/format/file_plan.h"

typedef struct fg_recipe_rule {
    char *pattern;
    fg_tensor_choice choice;
    uint32_t line;    /* in its file; 0 for a built-in rule */
    uint64_t n_match; /* matrices that the pattern fits, whether or not it decides */
} fg_recipe_rule;

/* Zero-initialise; free with fg_recipe_fini. */
typedef struct fg_recipe {
    size_t n_rule, cap;
    fg_recipe_rule *rule;
    fg_buf text; /* effective recipe */
} fg_recipe;

#define FG_RECIPE_TYPE "q4" /* when none is named */
extern const char fg_recipe_type_help[];

/* Built-in rules of `type` (a name of fg_qtype_names; NULL: FG_RECIPE_TYPE) and after them those of
 * the file at `path` (may be NULL); or, when `path` is the name of a recipe, that one alone, and
 * `type` must be NULL.  On failure *r is empty.  Errors: FG_EINVAL (type), FG_EFORMAT (a line, with
 * its number), FG_EIO, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_recipe_load(fg_recipe *r, const char *type, const char *path, fg_err *err);
/* Rules of text made by the program, treated as built in; `name` is for messages. */
fg_status fg_recipe_load_text(fg_recipe *r, const char *text, size_t n, const char *name,
                              fg_err *err);
void fg_recipe_fini(fg_recipe *r);

/* True for "fast", "balanced" and "faithful"; false for NULL. */
bool fg_recipe_is_name(const char *path);

/* What provenance calls the choice: the type, else the name of the recipe, else "q4"; borrowed. */
const char *fg_recipe_label(const char *type, const char *path);

/* Type of one tensor; fg_choose_fn with the recipe as ctx. */
fg_tensor_choice fg_recipe_choose(void *recipe, fg_role role, uint32_t layer, uint32_t expert);

/* Applies the rules to every tensor of the shape: FG_EFORMAT when a line of the file matches no
 * matrix, or when gate and up of an expert differ. */
fg_status fg_recipe_check(fg_recipe *r, const fg_shape *s, const char *path, fg_err *err);

#endif
