/* SPDX-License-Identifier: MIT
 *
 * Limits of control groups, on described machines: both versions, nested groups, containers that
 * see only their own, mounts at unusual places, and what is no limit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/sys/cgroup.h"
#include "src/sys/topo.h"
#include "tests/fg_test.h"

#define NONE UINT32_MAX

static char root[512];

/* A machine without anything; every call has a folder of its own. */
static void begin(void)
{
    static int n;
    (void)snprintf(root, sizeof root, "%s/m%d", fg_test_tmpdir(), n++);
}

static void put(const char *path, const char *text)
{
    char full[1024];
    (void)snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root); p != NULL; p = strchr(p + 1, '/')) {
        *p = '\0';
        (void)mkdir(full, 0700);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    REQUIRE(f != NULL);
    (void)fputs(text, f);
    (void)fclose(f);
}

#define V1_MOUNT                                                                                   \
    "30 23 0:27 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n"                            \
    "31 30 0:30 / /sys/fs/cgroup/cpuset rw shared:5 - cgroup cgroup rw,cpuset\n"                   \
    "32 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:6 - cgroup cgroup rw,cpu,cpuacct\n"         \
    "33 30 0:32 / /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n"
#define V1_GROUP                                                                                   \
    "11:cpuset:/elsewhere\n5:memory:/a\n4:cpu,cpuacct:/a/b/c\n1:name=systemd:/x\n0::/x\n"
#define V2_MOUNT "40 23 0:27 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"

static void quota(const char *folder, const char *quota_us, const char *period_us)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    put(path, quota_us);
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    put(path, period_us);
}

static void begin_v1(void)
{
    begin();
    put("/proc/self/mountinfo", V1_MOUNT);
    put("/proc/self/cgroup", V1_GROUP);
}

FG_TEST(version_1_with_controllers_together)
{
    static const struct {
        const char *quota, *period;
        uint32_t cpus;
    } cases[] = {
        {"50000\n", "100000\n", 1},
        {"100000\n", "100000\n", 1},
        {"150000\n", "100000\n", 2},
        {"100001\n", "100000\n", 2},
        {"1000\n", "1000000\n", 1},
        {"800000\n", "100000\n", 8},
        {"-1\n", "100000\n", NONE},
        {"0\n", "100000\n", NONE},
        {"50000\n", "0\n", NONE},
        {"50000\n", "-1\n", NONE},
        {"half\n", "100000\n", NONE},
        {"", "100000\n", NONE},
        {"50000x\n", "100000\n", NONE},
        {"50000\n", "", NONE},
        {"99999999999999999999999\n", "1\n", NONE},
        {"18446744073709551615\n", "2\n", NONE},
        {"250000", "100000", 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin_v1();
        quota("/sys/fs/cgroup/cpu,cpuacct/a/b/c", cases[i].quota, cases[i].period);
        quota("/sys/fs/cgroup/cpuset/a/b/c", "1000\n", "100000\n"); /* another hierarchy */
        CHECK_U64(fg_cgroup_cpus(root), cases[i].cpus);
    }
}

FG_TEST(the_tightest_of_all_ancestors)
{
    static const char *const folders[] = {"", "/a", "/a/b", "/a/b/c"};
    for (int tight = 0; tight < 4; tight++) {
        begin_v1();
        for (int i = 0; i < 4; i++) {
            char folder[256];
            (void)snprintf(folder, sizeof folder, "/sys/fs/cgroup/cpu,cpuacct%s", folders[i]);
            quota(folder, i == tight ? "200000\n" : i % 2 == 0 ? "-1\n" : "700000\n", "100000\n");
        }
        quota("/sys/fs/cgroup/cpu,cpuacct/other", "50000\n", "100000\n"); /* a neighbour's */
        CHECK_U64(fg_cgroup_cpus(root), 2);
    }
}

FG_TEST(a_container_that_sees_its_own_group_at_the_root)
{
    /* names of the host, the mount shows the host's group as its root */
    begin();
    put("/proc/self/cgroup", "4:cpu,cpuacct:/docker/0123/sub\n0::/docker/0123\n");
    put("/proc/self/mountinfo",
        "32 30 0:31 /docker/0123 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n");
    quota("/sys/fs/cgroup/cpu,cpuacct/sub", "900000\n", "100000\n");
    quota("/sys/fs/cgroup/cpu,cpuacct", "300000\n", "100000\n");
    CHECK_U64(fg_cgroup_cpus(root), 3);
    /* names that the mount does not know: its root is what there is */
    put("/proc/self/cgroup", "4:cpu,cpuacct:/kubepods/pod7/4567\n");
    CHECK_U64(fg_cgroup_cpus(root), 3);
    put("/proc/self/cgroup", "4:cpu,cpuacct:/docker/01234\n"); /* no part of /docker/0123 */
    CHECK_U64(fg_cgroup_cpus(root), 3);
    put("/proc/self/cgroup", "4:cpu,cpuacct:/../../4567\n");
    CHECK_U64(fg_cgroup_cpus(root), 3);
    put("/proc/self/cgroup", "");
    CHECK_U64(fg_cgroup_cpus(root), 3);
    /* another's part is not ours when ours can be seen too */
    put("/proc/self/cgroup", "4:cpu,cpuacct:/docker/4567\n");
    put("/proc/self/mountinfo",
        "32 30 0:31 /docker/0123 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
        "33 30 0:31 / /host/cpu ro - cgroup cgroup rw,cpu,cpuacct\n");
    quota("/host/cpu/docker/4567", "500000\n", "100000\n");
    CHECK_U64(fg_cgroup_cpus(root), 5);
}

FG_TEST(version_2_and_both_at_once)
{
    static const struct {
        const char *max;
        uint32_t cpus;
    } cases[] = {{"max 100000\n", NONE}, {"50000 100000\n", 1}, {"150000 100000\n", 2},
                 {"400000 100000\n", 4}, {"max\n", NONE},       {"50000\n", NONE},
                 {"-5 100000\n", NONE},  {"50000 0\n", NONE},   {"50000 many\n", NONE}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin();
        put("/proc/self/cgroup", "0::/user.slice/a\n");
        put("/proc/self/mountinfo", V2_MOUNT);
        put("/sys/fs/cgroup/user.slice/cpu.max", cases[i].max);
        put("/sys/fs/cgroup/user.slice/a/cpu.max", "900000 100000\n");
        CHECK_U64(fg_cgroup_cpus(root), cases[i].cpus == NONE ? 9 : cases[i].cpus);
    }
    begin(); /* the controller is in version 1, the process has a group in version 2 as well */
    put("/proc/self/cgroup", "3:cpu:/a\n0::/b\n");
    put("/proc/self/mountinfo", "32 30 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
                                "40 30 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    quota("/sys/fs/cgroup/cpu/a", "250000\n", "100000\n");
    CHECK_U64(fg_cgroup_cpus(root), 3);
    put("/sys/fs/cgroup/unified/b/cpu.max", "200000 100000\n");
    CHECK_U64(fg_cgroup_cpus(root), 2);
}

FG_TEST(unusual_places)
{
    begin(); /* a mount point with a space, options that other mounts have, long lines */
    char *text = malloc(20000);
    REQUIRE(text != NULL);
    (void)snprintf(text, 20000, "29 1 0:20 / / rw - overlay overlay rw,lowerdir=%09000d\n", 0);
    (void)strcat(text, "32 30 0:31 / /my\\040groups/cpu rw master:1 propagate_from:2 - cgroup "
                       "cgroup rw,cpuacct,cpu\nno line\n - \n1 2 - cgroup cgroup rw,cpu\n");
    put("/proc/self/mountinfo", text);
    put("/proc/self/cgroup", "no line\n:\n7:cpuacct,cpu:/a\n");
    quota("/my groups/cpu/a", "200000\n", "100000\n");
    CHECK_U64(fg_cgroup_cpus(root), 2);
    free(text);
    begin(); /* a system that does not say where anything is mounted */
    put("/proc/self/cgroup", "3:cpu:/a/b\n");
    quota("/sys/fs/cgroup/cpu/a", "200000\n", "100000\n");
    CHECK_U64(fg_cgroup_cpus(root), 2);
    begin(); /* nothing at all */
    CHECK_U64(fg_cgroup_cpus(root), NONE);
    CHECK_U64(fg_cgroup_memory(root), UINT64_MAX);
}

FG_TEST(memory_of_either_version)
{
    begin_v1();
    put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
    CHECK_U64(fg_cgroup_memory(root), UINT64_MAX);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000000\n");
    CHECK_U64(fg_cgroup_memory(root), 2000000000);
    put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000000000\n");
    CHECK_U64(fg_cgroup_memory(root), 1000000000);
    begin();
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/sys/fs/cgroup/a/memory.max", "3000000000\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    CHECK_U64(fg_cgroup_memory(root), 3000000000);
}

FG_TEST(this_machine)
{
    const uint32_t cpus = fg_cgroup_cpus("");
    CHECK(cpus >= 1 && fg_cpu_budget() <= cpus);
}
