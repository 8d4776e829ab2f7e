/* SPDX-License-Identifier: MIT */
#include "src/cli/state_dir.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/io.h"
#include "src/base/mem.h"

fg_status cli_state_path(char **out, const char *name, fg_err *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char tail[128];
    const bool set = state != NULL && state[0] == '/';
    *out = NULL;
    if (!set && (home == NULL || home[0] != '/')) {
        return fg_fail(err, FG_EINVAL, "HOME: %s, expected a folder's absolute path",
                       home == NULL      ? "not set"
                       : home[0] == '\0' ? "empty"
                                         : home);
    }
    (void)snprintf(tail, sizeof tail, "%sfulgur/%s", set ? "" : ".local/state/", name);
    *out = fg_io_join(set ? state : home, tail);
    return *out == NULL ? fg_fail_nomem(err, name) : FG_OK;
}

void cli_make_folders(const char *path)
{
    char *copy = fg_mem_strndup(path, strlen(path));
    for (char *p = copy == NULL ? NULL : strchr(copy + 1, '/'); p != NULL; p = strchr(p + 1, '/')) {
        *p = '\0';
        (void)mkdir(copy, S_IRWXU);
        *p = '/';
    }
    fg_mem_free(copy);
}

/* ---- held ---- */

static struct {
    char path[PATH_MAX], above[PATH_MAX];
    int fd; /* locked by whoever holds it */
    bool is_held;
} held;

/* Another process may be about to remove it: then it is made once more. */
static int open_locked(const char *in_it)
{
    enum { TRIES = 20 };
    for (int i = 0; i < TRIES; i++) {
        struct stat sb;
        cli_make_folders(in_it);
        const int fd = open(held.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) continue;
        if (flock(fd, LOCK_SH | LOCK_NB) == 0 && fstat(fd, &sb) == 0 && sb.st_nlink > 0) return fd;
        (void)close(fd);
    }
    return -1;
}

const char *cli_state_hold(void)
{
    char *in_it;
    if (held.is_held) return held.path;
    if (cli_state_path(&in_it, "x", NULL) != FG_OK) return NULL;
    const int n = snprintf(held.path, sizeof held.path, "%.*s", (int)(strlen(in_it) - 2), in_it);
    if (n > 0 && n < PATH_MAX) {
        memcpy(held.above, held.path, sizeof held.above);
        do {
            char *slash = strrchr(held.above, '/');
            slash[slash == held.above ? 1 : 0] = '\0';
        } while (held.above[1] != '\0' && !fg_io_exists(held.above));
        held.fd = open_locked(in_it);
        held.is_held = held.fd >= 0;
    }
    fg_mem_free(in_it);
    return held.is_held ? held.path : NULL;
}

const char *cli_state_above(void)
{
    return held.is_held ? held.above : NULL;
}

void cli_state_release(void)
{
    if (!held.is_held) return;
    held.is_held = false;
    /* what is not empty stays, and so does what is above it */
    const size_t least = strlen(held.above);
    bool goes = flock(held.fd, LOCK_EX | LOCK_NB) == 0;
    for (char *end = held.path + strlen(held.path); goes && end > held.path + least;) {
        goes = rmdir(held.path) == 0;
        end = strrchr(held.path, '/');
        *end = '\0';
    }
    (void)close(held.fd);
}
