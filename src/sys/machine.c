/* SPDX-License-Identifier: MIT */
#include "src/sys/machine.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/sys/bandwidth.h"
#include "src/sys/cpu.h"
#include "src/sys/room.h"
#include "src/sys/topo.h"

void fg_machine_cpu_name(char *name, size_t n)
{
    (void)snprintf(name, n, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (f == NULL) return;
    char line[256];
    while (fgets(line, sizeof line, f) != NULL) {
        char *value = strchr(line, ':');
        if (value == NULL) continue;
        /* x86 has the name; ARM often only the part number */
        if (strncmp(line, "model name", 10) != 0 && strncmp(line, "CPU part", 8) != 0) continue;
        value += strspn(value, ": \t");
        value[strcspn(value, "\n")] = '\0';
        (void)snprintf(name, n, "%s%s", line[0] == 'C' ? "ARM part " : "", value);
        break;
    }
    (void)fclose(f);
}

const char *fg_machine_level(uint32_t i, bool *has)
{
    for (uint32_t l = FG_CPU_LEVEL_SCALAR; l < FG_CPU_LEVEL_COUNT; l++) {
        const char *name = fg_cpu_level_name((fg_cpu_level)l);
        uint32_t flags;
        if (name == NULL || i-- > 0) continue;
        *has = fg_cpu_level_flags((fg_cpu_level)l, &flags, NULL) == FG_OK;
        return name;
    }
    return NULL;
}

/* First line of a file of the system, "" when it cannot be read. */
static void read_line(const char *path, char *line, size_t n)
{
    line[0] = '\0';
    FILE *f = fopen(path, "re");
    if (f == NULL) return;
    if (fgets(line, (int)n, f) == NULL) line[0] = '\0';
    line[strcspn(line, "\n")] = '\0';
    (void)fclose(f);
}

/* "always [madvise] never": the word in brackets. */
static void bracketed(const char *line, char *word, size_t n)
{
    const char *p = strchr(line, '[');
    word[0] = '\0';
    if (p != NULL) (void)snprintf(word, n, "%.*s", (int)strcspn(p + 1, "]"), p + 1);
}

void fg_machine_describe(fg_machine *m)
{
    char line[128];
    fg_room room;
    fg_room_read(&room, "");
    *m = (fg_machine){
        .level = fg_cpu_level_name(fg_cpu_level_of(fg_cpu_detect())),
        .n_core = fg_cpu_budget(),
        .n_budget = fg_cpu_budget(),
        .n_node = 1,
        .llc_bytes = fg_llc_bytes(),
        .ram_bytes = room.total,
        .avail_bytes = room.bytes,
        .limit_bytes = room.limit,
        .page_bytes = (uint64_t)sysconf(_SC_PAGESIZE),
        .huge_page_bytes = FG_HUGE_PAGE_BYTES,
    };
    const long n_cpu = sysconf(_SC_NPROCESSORS_ONLN);
    m->n_cpu = n_cpu > 0 ? (uint32_t)n_cpu : 1;
    fg_topo *t = fg_topo_create();
    if (t != NULL) {
        m->n_core = fg_topo_n_core(t);
        m->n_node = fg_topo_n_node(t);
    }
    fg_topo_destroy(t);
    fg_machine_cpu_name(m->cpu, sizeof m->cpu);
    read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line);
    bracketed(line, m->huge_pages, sizeof m->huge_pages);
    read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", m->governor,
              sizeof m->governor);
    read_line("/proc/sys/kernel/numa_balancing", m->numa_balancing, sizeof m->numa_balancing);
}
