/* SPDX-License-Identifier: MIT
 *
 * How much memory can be had, on described machines: what is left, limits of control groups of both
 * versions, nested, and of the process; systems that hide all that.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/sys/cgroup.h"
#include "src/sys/room.h"
#include "tests/fg_test.h"

#define KB ((uint64_t)1024)
#define MB (1024 * KB)

static char root[512];

static void put(const char *path, const char *text)
{
    char full[1024], line[1200];
    (void)snprintf(full, sizeof full, "%s%s", root, path);
    (void)snprintf(line, sizeof line, "mkdir -p \"$(dirname '%s')\"", full);
    CHECK(system(line) == 0);
    FILE *f = fopen(full, "w");
    REQUIRE(f != NULL);
    (void)fputs(text, f);
    (void)fclose(f);
}

/* A machine of 16 GB with 12 GB to be had. */
static void begin(void)
{
    static int n;
    (void)snprintf(root, sizeof root, "%s/r%d", fg_test_tmpdir(), n++);
    put("/proc/meminfo", "MemTotal:       16000000 kB\nMemFree:  9000000 kB\n"
                         "MemAvailable:   12000000 kB\nCached:  4000000 kB\nShmem: 500000 kB\n");
}

static void begin_v1(void)
{
    begin();
    put("/proc/self/mountinfo",
        "33 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("/proc/self/cgroup", "5:memory:/a/b\n0::/x\n");
}

static void begin_v2(void)
{
    begin();
    put("/proc/self/mountinfo", "40 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put("/proc/self/cgroup", "0::/a/b\n");
}

static void expect(uint64_t limit, uint64_t bytes, const char *by)
{
    fg_room r;
    fg_room_read(&r, root);
    CHECK_U64(r.limit, limit);
    CHECK_U64(r.bytes, bytes);
    CHECK_STR(r.by, by);
}

#define MACHINE "the machine's free memory"
#define GROUP   "the control group's limit"

FG_TEST(a_machine_without_limits)
{
    fg_room r;
    begin();
    fg_room_read(&r, root);
    CHECK_U64(r.total, 16000000 * KB);
    CHECK_U64(r.available, 12000000 * KB);
    expect(FG_ROOM_UNKNOWN, 12000000 * KB, MACHINE);
    begin();
    put("/proc/meminfo", "MemTotal: 16000000 kB\nMemFree: 9000000 kB\nCached: 4000000 kB\n"
                         "Shmem: 500000 kB\n"); /* before Linux 3.14 */
    expect(FG_ROOM_UNKNOWN, 12500000 * KB, MACHINE);
}

FG_TEST(a_system_that_hides_it)
{
    fg_room r;
    begin();
    (void)snprintf(root, sizeof root, "%s/nothing", fg_test_tmpdir());
    fg_room_read(&r, root);
    CHECK_U64(r.total, FG_ROOM_UNKNOWN);
    CHECK_U64(r.available, FG_ROOM_UNKNOWN);
    expect(FG_ROOM_UNKNOWN, FG_ROOM_UNKNOWN, "");
    put("/proc/meminfo", "garbage\nMemAvailable: many kB\n");
    put("/proc/self/limits", "Max address space");
    expect(FG_ROOM_UNKNOWN, FG_ROOM_UNKNOWN, "");
    put("/proc/meminfo", "MemTotal: 16000000 kB\n"); /* better than nothing */
    expect(FG_ROOM_UNKNOWN, 16000000 * KB, "the machine's memory");
}

FG_TEST(groups_of_version_2)
{
    begin_v2();
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/memory.current", "100\n");
    expect(FG_ROOM_UNKNOWN, 12000000 * KB, MACHINE);
    put("/sys/fs/cgroup/a/b/memory.max", "4294967296\n");
    put("/sys/fs/cgroup/a/b/memory.current", "3221225472\n");
    expect(4096 * MB, 1024 * MB, GROUP);
    put("/sys/fs/cgroup/a/b/memory.stat", /* the page cache gives way */
        "anon 5\nfile 2147483648\ninactive_file 1073741824\nactive_file 524288000\n"
        "slab_reclaimable 24288000\n");
    expect(4096 * MB, 1024 * MB + 1073741824 + 524288000 + 24288000, GROUP);
    put("/sys/fs/cgroup/a/memory.max", "6442450944\n"); /* wider, and nearly full of others */
    put("/sys/fs/cgroup/a/memory.current", "6342450944\n");
    expect(4096 * MB, 100000000, GROUP);
    put("/sys/fs/cgroup/a/b/memory.high", "1048576\n"); /* throttled from there on */
    expect(MB, 0, GROUP);
}

FG_TEST(groups_of_version_1)
{
    begin_v1();
    put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "1000\n");
    expect(FG_ROOM_UNKNOWN, 12000000 * KB, MACHINE);
    put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4294967296\n");
    expect(4096 * MB, 4096 * MB, GROUP); /* what is used is not told */
    put("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "2147483648\n");
    put("/sys/fs/cgroup/memory/a/memory.stat",
        "cache 9\ninactive_file 77\ntotal_inactive_file 1000\ntotal_active_file 2000\n");
    expect(4096 * MB, 2048 * MB + 3000, GROUP);
    put("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "4294967297\n"); /* over it */
    expect(4096 * MB, 2999, GROUP);
    begin_v1(); /* a container does not see the groups above its own */
    put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/a/b/memory.stat", "hierarchical_memory_limit 1073741824\n");
    put("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "73741824\n");
    expect(1024 * MB, 1000000000, GROUP);
}

FG_TEST(limits_of_the_process)
{
    begin();
    put("/proc/self/limits", "Limit                     Soft Limit           Hard Limit  Units\n"
                             "Max data size             unlimited            unlimited   bytes\n"
                             "Max address space         2147483648           unlimited   bytes\n");
    put("/proc/self/status", "VmPeak: 99 kB\nVmSize:\t  1048576 kB\nVmData:\t 1000 kB\n");
    expect(FG_ROOM_UNKNOWN, 1024 * MB, "the process's address space (ulimit -v)");
    put("/proc/self/limits", "Max data size             10240000           unlimited   bytes\n");
    expect(FG_ROOM_UNKNOWN, 9000 * KB, "the process's data size (ulimit -d)");
}

FG_TEST(this_machine)
{
    fg_room r;
    fg_room_read(&r, "");
    CHECK(r.bytes <= r.limit && r.bytes > 0);
    CHECK_U64(fg_room_share(1, 8), 1);
    CHECK(fg_room_share(UINT64_MAX, 8) <= r.total);
}
