/* SPDX-License-Identifier: MIT */
#include "src/cli/origin.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/mem.h"

char *origin_pinned_path(fg_err *err)
{
    const char *dir = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    const bool xdg = dir != NULL && dir[0] == '/'; /* others are to be ignored, it says */
    if (!xdg && (home == NULL || home[0] == '\0')) {
        (void)fg_fail(err, FG_EIO, "pinned keys: no XDG_CONFIG_HOME and no HOME, expected either");
        return NULL;
    }
    char *p = fg_io_join(xdg ? dir : home, xdg ? "fulgur/keys" : ".config/fulgur/keys");
    if (p == NULL) (void)fg_fail_nomem(err, "pinned keys");
    return p;
}

bool origin_is_pinned(const fg_public_key *k)
{
    char *path = origin_pinned_path(NULL);
    fg_keys *keys = fg_mem_zalloc(sizeof *keys);
    bool found = false;
    if (path != NULL && keys != NULL && fg_io_exists(path) &&
        fg_keys_read(keys, path, NULL) == FG_OK) {
        for (size_t i = 0; i < keys->n; i++)
            found = found || memcmp(&keys->key[i], k, sizeof *k) == 0;
    }
    fg_mem_free(keys);
    fg_mem_free(path);
    return found;
}

/* The first use of a key is a person's to judge. */
static fg_status say_unpinned(const char *path, fg_err *err)
{
    fg_keys *keys = fg_mem_zalloc(sizeof *keys);
    fg_status st = keys == NULL ? fg_fail_nomem(err, path) : fg_keys_read(keys, path, err);
    for (size_t i = 0; st == FG_OK && i < keys->n; i++) {
        char print[FG_FINGERPRINT_CHARS];
        if (origin_is_pinned(&keys->key[i])) continue;
        fg_key_fingerprint(&keys->key[i], print);
        cli_note("fulgur: %s: key %s is not pinned; compare it with the one on paper\n",
                 cli_shown(path), print);
    }
    fg_mem_free(keys);
    return st;
}

fg_status origin_keys(origin *o, const char **path, fg_err *err)
{
    *path = NULL;
    if (o->key != NULL) {
        FG_TRY(say_unpinned(o->key, err));
        *path = o->key;
        return FG_OK;
    }
    if (!o->require) return FG_OK;
    o->pinned = origin_pinned_path(err);
    if (o->pinned == NULL) return FG_EIO;
    if (!fg_io_exists(o->pinned)) {
        return fg_fail(err, FG_EIO, "%s: no key is pinned, expected one, or --key FILE", o->pinned);
    }
    *path = o->pinned;
    return FG_OK;
}

fg_status origin_require(origin *o, fg_engine_opts *eo, fg_err *err)
{
    return origin_keys(o, &eo->signers, err);
}

void origin_free(origin *o)
{
    fg_mem_free(o->pinned);
    o->pinned = NULL;
}
