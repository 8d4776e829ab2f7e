/* SPDX-License-Identifier: MIT
 *
 * What the virtual machine of numa.py does besides booting; a static program, on its own.
 *
 *   guest table MODEL TABLE          a hash of each page of a file, read past the page cache
 *   guest on NODE COMMAND...         COMMAND, whose memory (and page cache) comes from that node
 *   guest run NAME SECONDS MODEL TABLE OUT COMMAND...
 *       COMMAND with a pipe as standard output that is not read until all of it has been looked at:
 *       it stops at its first page of output, with everything in place.  Then OUT/NAME.pages says,
 *       as the kernel does, on which node every page of MODEL is, wherever it is; OUT/NAME.threads
 *       where the threads may run.  Output goes to OUT/NAME.out, OUT/NAME.err.
 *
 * Pages of the process are known by what is in them, not by what the program says of its memory:
 * each of its pages is looked for in the table.  A page of the file whose content another has too
 * cannot be told from that and is left out; numa.py knows whether one of those matters.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, BATCH = 256, MAX_NODE = 64 };

static void die(const char *what)
{
    fprintf(stderr, "guest: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *get(size_t n)
{
    void *p = calloc(n + 1, 1);
    if (p == NULL) die("memory");
    return p;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t hash_page(const void *p)
{
    const uint64_t *w = p;
    uint64_t h = 0;
    for (int i = 0; i < PAGE / 8; i++) h = (h ^ (h >> 29) ^ w[i]) * 0x9e3779b97f4a7c15u;
    return h | 1; /* 0: none */
}

/* ---- the table ---- */

static int make_table(const char *model, const char *table)
{
    struct stat st;
    int fd = open(model, O_RDONLY | O_DIRECT);
    if (fd < 0) fd = open(model, O_RDONLY); /* tmpfs */
    if (fd < 0 || fstat(fd, &st) != 0) die(model);
    FILE *out = fopen(table, "wb");
    if (out == NULL) die(table);
    char *buf = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buf == MAP_FAILED) die("memory");
    ssize_t n;
    while ((n = read(fd, buf, 1 << 20)) > 0) {
        memset(buf + n, 0, (size_t)((PAGE - n % PAGE) % PAGE));
        for (ssize_t i = 0; i < n; i += PAGE) {
            const uint64_t h = hash_page(buf + i);
            fwrite(&h, sizeof h, 1, out);
        }
    }
    if (n < 0) die(model);
    return fclose(out) == 0 ? 0 : 1;
}

typedef struct entry {
    uint64_t hash;
    uint32_t page;
} entry;

static int by_hash(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->page > y->page) - (x->page < y->page);
}

static entry *entries;
static size_t n_entry;
static uint32_t n_page; /* of the file */

static void read_table(const char *table)
{
    struct stat st;
    FILE *f = fopen(table, "rb");
    if (f == NULL || fstat(fileno(f), &st) != 0) die(table);
    n_page = (uint32_t)(st.st_size / 8);
    entry *e = get(n_page * sizeof *e);
    for (uint32_t i = 0; i < n_page; i++) {
        e[i].page = i;
        if (fread(&e[i].hash, 8, 1, f) != 1) die(table);
    }
    fclose(f);
    qsort(e, n_page, sizeof *e, by_hash);
    for (uint32_t i = 0; i < n_page; i++) { /* only those that are alone */
        if (i > 0 && e[i - 1].hash == e[i].hash) continue;
        if (i + 1 < n_page && e[i + 1].hash == e[i].hash) continue;
        e[n_entry++] = e[i];
    }
    entries = e;
}

/* The page of the file that has this content; UINT32_MAX: none. */
static uint32_t find_page(const void *content)
{
    const uint64_t h = hash_page(content);
    size_t lo = 0, hi = n_entry;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (entries[mid].hash < h) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < n_entry && entries[lo].hash == h ? entries[lo].page : UINT32_MAX;
}

/* ---- what was found ---- */

typedef struct found {
    char kind; /* c: the page cache, a: memory of the process alone, s: files that are memory */
    int node;
    uint32_t page;
} found;

static found *all;
static size_t n_all, room_all;

static void add(char kind, int node, uint32_t page)
{
    if (n_all == room_all) {
        room_all = room_all * 2 + 4096;
        all = realloc(all, room_all * sizeof *all);
        if (all == NULL) die("memory");
    }
    all[n_all++] = (found){kind, node, page};
}

static int by_place(const void *a, const void *b)
{
    const found *x = a, *y = b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    if (x->node != y->node) return x->node < y->node ? -1 : 1;
    return (x->page > y->page) - (x->page < y->page);
}

/* Lines "KIND NODE FIRST COUNT"; a page that is there twice is in two lines. */
static void write_found(const char *path)
{
    FILE *f = fopen(path, "w");
    if (f == NULL) die(path);
    qsort(all, n_all, sizeof *all, by_place);
    for (size_t i = 0, n; i < n_all; i += n) {
        for (n = 1; i + n < n_all && all[i + n].kind == all[i].kind &&
                    all[i + n].node == all[i].node && all[i + n].page == all[i].page + n;)
            n++;
        fprintf(f, "%c %d %u %zu\n", all[i].kind, all[i].node, all[i].page, n);
    }
    fclose(f);
}

/* Nodes of pages of a process (0: this one), below 0 where there is none. */
static void ask(pid_t pid, void **at, size_t n, int *node)
{
    if (syscall(SYS_move_pages, pid, n, at, NULL, node, 0) != 0) die("move_pages");
}

/* Pages of the file in the page cache: mapped here, those that are there touched, and asked for. */
static void look_at_cache(const char *model)
{
    const int fd = open(model, O_RDONLY);
    if (fd < 0) die(model);
    const size_t bytes = (size_t)n_page * PAGE;
    uint8_t *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    unsigned char *in = get(n_page);
    if (map == MAP_FAILED || mincore(map, bytes, in) != 0) die(model);
    madvise(map, bytes, MADV_RANDOM); /* a touch must not read ahead */
    for (uint32_t i = 0; i < n_page; i++) {
        void *at = map + (size_t)i * PAGE;
        int node;
        if ((in[i] & 1) == 0) continue;
        (void)*(volatile uint8_t *)at;
        ask(0, &at, 1, &node);
        if (node >= 0) add('c', node, i);
    }
    munmap(map, bytes);
    free(in);
    close(fd);
}

/* n present pages from `at` on. */
static void look_at_run(pid_t pid, char kind, uint64_t at, size_t n, const int *node)
{
    static uint8_t buf[BATCH * PAGE];
    struct iovec here = {buf, n * PAGE}, there = {(void *)(uintptr_t)at, n * PAGE};
    if (process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t)(n * PAGE)) return;
    for (size_t i = 0; i < n; i++) {
        const uint32_t page = find_page(buf + i * PAGE);
        if (page != UINT32_MAX) add(kind, node[i], page);
    }
}

static void look_at_range(pid_t pid, char kind, uint64_t begin, uint64_t end)
{
    void *at[BATCH];
    int node[BATCH];
    while (begin < end) {
        size_t n = (size_t)((end - begin) / PAGE), i = 0;
        if (n > BATCH) n = BATCH;
        for (size_t k = 0; k < n; k++) at[k] = (void *)(uintptr_t)(begin + k * PAGE);
        ask(pid, at, n, node);
        while (i < n) {
            const size_t first = i;
            if (node[i++] < 0) continue;
            while (i < n && node[i] >= 0) i++;
            look_at_run(pid, kind, begin + first * PAGE, i - first, node + first);
        }
        begin += n * PAGE;
    }
}

/* Bytes of a file that a process shares with others: pages that it has not touched yet count. */
static void look_at_shared(const char *path, uint64_t offset, uint64_t bytes)
{
    const int fd = open(path, O_RDONLY);
    uint8_t *map =
        fd < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, (off_t)offset);
    if (map == MAP_FAILED) die(path);
    for (uint64_t i = 0; i < bytes; i += PAGE) (void)*(volatile uint8_t *)(map + i);
    look_at_range(getpid(), 's', (uintptr_t)map, (uintptr_t)map + bytes);
    munmap(map, bytes);
    close(fd);
}

/* All memory of the process but the model's mapping, which is the page cache. */
static void look_at_process(pid_t pid, const char *model)
{
    char path[64], line[4096];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *f = fopen(path, "r");
    if (f == NULL) die(path);
    while (fgets(line, sizeof line, f) != NULL) {
        unsigned long begin, end, offset;
        char flags[8], file[2048] = "";
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %2047s", &begin, &end, flags, &offset, file) < 4)
            continue;
        if (strcmp(file, model) == 0 || strncmp(file, "[v", 2) == 0) continue;
        if (flags[3] == 's' && file[0] == '/' && strncmp(file, "/dev/zero", 9) != 0) {
            look_at_shared(file, offset, end - begin);
        } else {
            look_at_range(pid, 'a', begin, end);
        }
    }
    fclose(f);
}

/* The lines of a file that begin with `want`. */
static void show(FILE *to, const char *path, const char *want)
{
    char line[8192];
    FILE *f = fopen(path, "r");
    if (f == NULL) return; /* a thread that has ended */
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, want, strlen(want)) == 0) fputs(line, to);
    }
    fclose(f);
}

static void look_at_threads(pid_t pid, const char *out)
{
    char path[320];
    FILE *f = fopen(out, "w");
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    if (f == NULL || d == NULL) die(path);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/status", (int)pid, e->d_name);
        show(f, path, "Name:");
        show(f, path, "Cpus_allowed_list:");
    }
    closedir(d);
    fclose(f);
}

/* ---- a run ---- */

static char *name_of(const char *dir, const char *name, const char *ext)
{
    char *p = get(strlen(dir) + strlen(name) + strlen(ext) + 2);
    sprintf(p, "%s/%s%s", dir, name, ext);
    return p;
}

static pid_t begin(char **command, const char *err, int *out)
{
    int fd[2];
    /* a pipe of one page: whoever writes more waits */
    if (pipe2(fd, O_CLOEXEC) != 0 || fcntl(fd[1], F_SETPIPE_SZ, PAGE) < 0) die("pipe");
    const pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid == 0) {
        const int e = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0666),
                  nul = open("/dev/null", O_RDONLY);
        if (e < 0 || nul < 0) _exit(126);
        dup2(nul, 0);
        dup2(fd[1], 1);
        dup2(e, 2);
        execvp(command[0], command);
        _exit(127);
    }
    close(fd[1]);
    *out = fd[0];
    return pid;
}

/* Until its pipe is full.  False: it ended before that, or the time did. */
static int wait_full(pid_t pid, int fd, double until)
{
    for (int n = 0; now() < until; usleep(5000)) {
        siginfo_t info = {0};
        if (ioctl(fd, FIONREAD, &n) != 0) die("pipe");
        if (n >= PAGE) return 1;
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid)
            return 0;
    }
    kill(pid, SIGKILL);
    return 0;
}

static void save_output(int fd, const char *path, double until)
{
    char buf[PAGE];
    FILE *f = fopen(path, "wb");
    if (f == NULL) die(path);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (now() < until) {
        const ssize_t n = read(fd, buf, sizeof buf);
        if (n == 0) break;
        if (n > 0) fwrite(buf, 1, (size_t)n, f);
        if (n < 0) usleep(1000);
    }
    fclose(f);
}

static int run(char **a)
{
    const char *name = a[0], *model = a[2], *out = a[4];
    const double began = now(), until = began + atof(a[1]);
    int fd, status = 0, ended = 0;
    read_table(a[3]);
    const pid_t pid = begin(a + 5, name_of(out, name, ".err"), &fd);
    if (wait_full(pid, fd, until)) {
        look_at_threads(pid, name_of(out, name, ".threads"));
        look_at_process(pid, model);
        look_at_cache(model);
        write_found(name_of(out, name, ".pages"));
    }
    save_output(fd, name_of(out, name, ".out"), until);
    while (ended == 0 && now() < until) {
        ended = waitpid(pid, &status, WNOHANG) == pid;
        if (ended == 0) usleep(1000);
    }
    if (ended == 0) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    FILE *f = fopen(name_of(out, name, ".status"), "w");
    if (f == NULL) die(out);
    fprintf(f, "%d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
    fclose(f);
    printf("run %s: %d, %.2f s\n", name, status, now() - began);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "table") == 0) return make_table(argv[2], argv[3]);
    if (argc > 3 && strcmp(argv[1], "on") == 0) {
        const unsigned long nodes = 1ul << atoi(argv[2]);
        if (syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, MAX_NODE + 1) != 0) die("set_mempolicy");
        execvp(argv[3], argv + 3);
        die(argv[3]);
    }
    if (argc > 7 && strcmp(argv[1], "run") == 0) return run(argv + 2);
    fprintf(stderr, "guest: no such command\n");
    return 2;
}
