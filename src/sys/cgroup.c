/* SPDX-License-Identifier: MIT
 *
 * /proc/self/cgroup says where in each hierarchy the process is, /proc/self/mountinfo where which
 * part of a hierarchy can be seen.  A line of the latter:
 *   36 35 0:31 /part /at/this/folder rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
 */
#include "src/sys/cgroup.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Folder of a group: lowers *least when a limit there is less. */
typedef void limit_fn(const char *folder, void *least);

/* A list with commas has the word. */
static bool has_word(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (const char *p = list; p != NULL; p = strchr(p, ',')) {
        if (*p == ',') p++;
        if (strncmp(p, word, n) == 0 && (p[n] == ',' || p[n] == '\0')) return true;
    }
    return false;
}

static FILE *open_below(const char *root, const char *path)
{
    char full[PATH_MAX];
    const int n = snprintf(full, sizeof full, "%s%s", root, path);
    return n > 0 && (size_t)n < sizeof full ? fopen(full, "re") : NULL;
}

/* The process's group in the hierarchy of a controller ("": version 2), such as "/user/7"; "" at
 * the top, or when the system does not say. */
static void own_group(const char *root, const char *controller, char *group, size_t size)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    group[0] = '\0';
    FILE *f = open_below(root, "/proc/self/cgroup"); /* lines "4:cpu,cpuacct:/user/7" */
    while (f != NULL && (n = getline(&line, &room, f)) > 0) {
        if (line[n - 1] == '\n') line[n - 1] = '\0';
        char *list = strchr(line, ':'), *path = list == NULL ? NULL : strchr(list + 1, ':');
        if (path == NULL) continue;
        *path++ = '\0';
        if (controller[0] == '\0' ? list[1] != '\0' : !has_word(list + 1, controller)) continue;
        /* "/..": outside the part of the hierarchy that this process may see */
        if (strcmp(path, "/") == 0 || strncmp(path, "/..", 3) == 0) path = "";
        if (strlen(path) < size) memcpy(group, path, strlen(path) + 1);
        break;
    }
    free(line);
    if (f != NULL) (void)fclose(f);
}

/* A space in a path is written as \040. */
static void unescape(char *s)
{
    char *to = s;
    for (; *s != '\0'; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

typedef struct mount {
    char *part;  /* group at the root of the mount */
    char *point; /* where it is */
} mount;

/* A line of mountinfo, which is cut up; false: not a mount of this hierarchy. */
static bool parse_mount(char *line, const char *controller, mount *m)
{
    char *save, *tail = strstr(line, " - ");
    if (tail == NULL) return false;
    *tail = '\0';
    line[strcspn(line, "\n")] = '\0';
    const char *type = strtok_r(tail + 3, " \n", &save);
    (void)strtok_r(NULL, " \n", &save); /* source */
    const char *opts = strtok_r(NULL, " \n", &save);
    if (type == NULL || opts == NULL) return false;
    if (controller[0] == '\0' ? strcmp(type, "cgroup2") != 0
                              : strcmp(type, "cgroup") != 0 || !has_word(opts, controller)) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (strtok_r(i == 0 ? line : NULL, " ", &save) == NULL) return false;
    }
    m->part = strtok_r(NULL, " ", &save);
    m->point = strtok_r(NULL, " ", &save);
    if (m->part == NULL || m->point == NULL) return false;
    unescape(m->part);
    unescape(m->point);
    if (strcmp(m->part, "/") == 0) m->part[0] = '\0';
    return true;
}

/* Calls fn for the group `below` a mount and those above it, down to the root of the mount. */
static void walk_up(const char *root, const char *point, const char *below, limit_fn *fn,
                    void *least)
{
    char path[PATH_MAX];
    const int top = snprintf(path, sizeof path, "%s%s", root, point);
    if (top < 0 || (size_t)top + strlen(below) >= sizeof path) return;
    memcpy(path + top, below, strlen(below) + 1);
    for (;;) {
        fn(path, least);
        char *slash = strrchr(path + top, '/');
        if (slash == NULL) return;
        *slash = '\0';
    }
}

/* Calls fn for every group of this hierarchy that the process is in and that can be seen.  usual:
 * where it is mounted on a machine that does not say. */
static void walk(const char *root, const char *controller, const char *usual, limit_fn *fn,
                 void *least)
{
    char group[PATH_MAX], only[PATH_MAX] = "";
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    own_group(root, controller, group, sizeof group);
    FILE *f = open_below(root, "/proc/self/mountinfo");
    if (f == NULL) {
        walk_up(root, usual, group, fn, least);
        return;
    }
    while (getline(&line, &room, f) > 0) {
        mount m;
        if (!parse_mount(line, controller, &m)) continue;
        const size_t n = strlen(m.part);
        if (strncmp(group, m.part, n) == 0 && (group[n] == '/' || group[n] == '\0')) {
            found = true;
            walk_up(root, m.point, group + n, fn, least);
        } else if (only[0] == '\0') {
            (void)snprintf(only, sizeof only, "%s", m.point);
        }
    }
    /* names of the host for what the mount calls its root: the group itself is there */
    if (!found && only[0] != '\0') walk_up(root, only, "", fn, least);
    free(line);
    (void)fclose(f);
}

/* ---- limits ---- */

/* Numbers of the first line of a file of a group, at most max; any other text ends them: "max" and
 * "-1", which say that there is no limit. */
static int read_numbers(const char *folder, const char *name, unsigned long long *v, int max)
{
    char path[PATH_MAX], line[128];
    const int len = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = len > 0 && (size_t)len < sizeof path ? fopen(path, "re") : NULL;
    if (f == NULL) return 0;
    const char *p = fgets(line, sizeof line, f);
    (void)fclose(f);
    int n = 0;
    while (p != NULL && n < max) {
        char *end;
        p += strspn(p, " ");
        if (*p < '0' || *p > '9') break;
        errno = 0;
        v[n] = strtoull(p, &end, 10);
        if (errno != 0 || strchr(" \n", *end) == NULL) break; /* finds the end of the line too */
        n++;
        p = end;
    }
    return n;
}

static void lower_cpus(uint32_t *least, unsigned long long quota, unsigned long long period)
{
    if (quota == 0 || period == 0) return;
    const unsigned long long cpus = quota / period + (quota % period != 0);
    if (cpus < *least) *least = (uint32_t)cpus;
}

static void least_cpus(const char *folder, void *least)
{
    unsigned long long v[2], period;
    if (read_numbers(folder, "cpu.max", v, 2) == 2) lower_cpus(least, v[0], v[1]);
    if (read_numbers(folder, "cpu.cfs_quota_us", v, 1) == 1 &&
        read_numbers(folder, "cpu.cfs_period_us", &period, 1) == 1) {
        lower_cpus(least, v[0], period);
    }
}

/* Adds up the lines of memory.stat that begin with these words. */
static uint64_t sum_stat(const char *folder, const char *const *words, size_t n)
{
    char path[PATH_MAX], line[128];
    uint64_t sum = 0;
    const int len = snprintf(path, sizeof path, "%s/memory.stat", folder);
    FILE *f = len > 0 && (size_t)len < sizeof path ? fopen(path, "re") : NULL;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        char *value = strchr(line, ' ');
        if (value == NULL) continue;
        *value = '\0';
        for (size_t i = 0; i < n; i++) {
            if (strcmp(line, words[i]) == 0) sum += strtoull(value + 1, NULL, 10);
        }
    }
    if (f != NULL) (void)fclose(f);
    return sum;
}

/* The least of a folder's limits.  Version 1 says 2^63 for none, and what groups above have to say
 * that a container cannot see. */
static uint64_t memory_of(const char *folder)
{
    static const char *const names[] = {"memory.max", "memory.high", "memory.limit_in_bytes"};
    static const char *const above[] = {"hierarchical_memory_limit"};
    unsigned long long v;
    uint64_t least = sum_stat(folder, above, 1);
    if (least == 0) least = UINT64_MAX;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (read_numbers(folder, names[i], &v, 1) == 1 && v < least) least = v;
    }
    return least > INT64_MAX / 2 ? UINT64_MAX : least;
}

static void least_memory(const char *folder, void *arg)
{
    uint64_t *least = arg;
    const uint64_t limit = memory_of(folder);
    if (limit < *least) *least = limit;
}

static void least_left(const char *folder, void *arg)
{
    static const char *const used[] = {"memory.current", "memory.usage_in_bytes"};
    static const char *const way[] = {"inactive_file", "active_file", "slab_reclaimable",
                                      "total_inactive_file", "total_active_file"};
    uint64_t *least = arg;
    unsigned long long now = 0;
    const uint64_t limit = memory_of(folder);
    if (limit == UINT64_MAX) return;
    for (size_t i = 0; i < 2; i++) {
        if (read_numbers(folder, used[i], &now, 1) != 1) continue;
        const uint64_t gives = sum_stat(folder, i == 0 ? way : way + 3, i == 0 ? 3 : 2);
        const uint64_t kept = now > gives ? now - gives : 0, left = limit > kept ? limit - kept : 0;
        if (left < *least) *least = left;
        return;
    }
    if (limit < *least) *least = limit; /* what is used is not told */
}

uint32_t fg_cgroup_cpus(const char *root)
{
    uint32_t least = UINT32_MAX;
    walk(root, "", "/sys/fs/cgroup", least_cpus, &least);
    walk(root, "cpu", "/sys/fs/cgroup/cpu", least_cpus, &least);
    return least;
}

uint64_t fg_cgroup_memory(const char *root)
{
    uint64_t least = UINT64_MAX;
    walk(root, "", "/sys/fs/cgroup", least_memory, &least);
    walk(root, "memory", "/sys/fs/cgroup/memory", least_memory, &least);
    return least;
}

uint64_t fg_cgroup_memory_left(const char *root)
{
    uint64_t least = UINT64_MAX;
    walk(root, "", "/sys/fs/cgroup", least_left, &least);
    walk(root, "memory", "/sys/fs/cgroup/memory", least_left, &least);
    return least;
}
