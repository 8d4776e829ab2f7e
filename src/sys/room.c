/* SPDX-License-Identifier: MIT */
#include "src/sys/room.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "src/sys/cgroup.h"

enum { LINE = 4096 };

/* ---- files ---- */

static FILE *open_at(const char *root, const char *path)
{
    char at[LINE];
    const int n = snprintf(at, sizeof at, "%s%s", root, path);
    return n < 0 || (size_t)n >= sizeof at ? NULL : fopen(at, "re");
}

/* The number behind the word that a line of the file begins with; *out is kept when there is none,
 * as in "unlimited". */
static bool number_of(const char *root, const char *path, const char *word, uint64_t *out)
{
    char line[LINE];
    unsigned long long v;
    bool ok = false;
    FILE *f = open_at(root, path);
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, word, strlen(word)) != 0) continue;
        ok = sscanf(line + strlen(word), "%llu", &v) == 1;
        break;
    }
    if (f != NULL) (void)fclose(f);
    if (ok) *out = v;
    return ok;
}

static bool kilobytes(const char *root, const char *path, const char *word, uint64_t *out)
{
    uint64_t kb;
    if (!number_of(root, path, word, &kb) || kb > UINT64_MAX / 1024) return false;
    *out = kb * 1024;
    return true;
}

static void take(fg_room *r, uint64_t bytes, const char *by)
{
    if (bytes >= r->bytes) return;
    r->bytes = bytes;
    r->by = by;
}

/* ---- the machine ---- */

static void of_machine(fg_room *r, const char *root)
{
    static const char path[] = "/proc/meminfo";
    uint64_t bytes, sum;
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    if (kilobytes(root, path, "MemTotal:", &bytes)) {
        r->total = bytes;
    } else if (root[0] == '\0' && pages > 0 && size > 0) {
        r->total = (uint64_t)pages * (uint64_t)size;
    }
    if (kilobytes(root, path, "MemAvailable:", &bytes)) {
        r->available = bytes;
    } else if (kilobytes(root, path, "MemFree:", &sum)) { /* before Linux 3.14 */
        if (kilobytes(root, path, "Cached:", &bytes)) sum += bytes;
        if (kilobytes(root, path, "Shmem:", &bytes)) sum -= bytes < sum ? bytes : sum;
        r->available = sum;
    }
    take(r, r->available, "the machine's free memory");
    if (r->available == FG_ROOM_UNKNOWN) take(r, r->total, "the machine's memory");
}

/* ---- the process ---- */

static void of_process(fg_room *r, const char *root)
{
    static const struct {
        const char *limit, *used, *by;
    } row[] = {
        {"Max address space", "VmSize:", "the process's address space (ulimit -v)"},
        {"Max data size", "VmData:", "the process's data size (ulimit -d)"},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        uint64_t limit = FG_ROOM_UNKNOWN, used = 0;
        struct rlimit own;
        const bool told = number_of(root, "/proc/self/limits", row[i].limit, &limit);
        const bool asks = !told && root[0] == '\0';
        const int rc = !asks    ? -1
                       : i == 0 ? getrlimit(RLIMIT_AS, &own)
                                : getrlimit(RLIMIT_DATA, &own);
        if (rc == 0 && own.rlim_cur != RLIM_INFINITY) limit = own.rlim_cur;
        if (limit == FG_ROOM_UNKNOWN) continue;
        (void)kilobytes(root, "/proc/self/status", row[i].used, &used);
        take(r, limit > used ? limit - used : 0, row[i].by);
    }
}

void fg_room_read(fg_room *r, const char *root)
{
    *r = (fg_room){FG_ROOM_UNKNOWN, FG_ROOM_UNKNOWN, FG_ROOM_UNKNOWN, FG_ROOM_UNKNOWN, ""};
    of_machine(r, root);
    r->limit = fg_cgroup_memory(root);
    take(r, fg_cgroup_memory_left(root), "the control group's limit");
    of_process(r, root);
}

uint64_t fg_room_share(uint64_t want, uint32_t share)
{
    fg_room r;
    fg_room_read(&r, "");
    if (r.bytes == FG_ROOM_UNKNOWN || want <= r.bytes / share) return want;
    return r.bytes / share;
}
