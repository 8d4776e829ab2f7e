/* SPDX-License-Identifier: MIT */
#include "tests/fg_test.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static fg_test_case *first, **last = &first;
static bool failed, skipped;
static char reason[512];
static char tmpdir[64];

void fg_test_register(fg_test_case *t)
{
    *last = t;
    last = &t->next;
}

void fg_test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    failed = true;
    printf("  %s:%d: ", file, line);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

void fg_test_skip(const char *fmt, ...)
{
    va_list ap;
    skipped = true;
    va_start(ap, fmt);
    (void)vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
}

bool fg_test_failed(void)
{
    return failed;
}

bool fg_test_long(void)
{
    const char *v = getenv("FULGUR_TEST_LONG");
    return v != NULL && strcmp(v, "1") == 0;
}

int fg_test_every(int usual, int sanitized)
{
    if (fg_test_long()) return 1;
    return FG_TEST_SANITIZED ? sanitized : usual;
}

static char shared_path[512];

const char *fg_test_beside(const char *path)
{
    const char *root = getenv("FULGUR_SHARED");
    (void)snprintf(shared_path, sizeof shared_path, "%s/%s", root == NULL ? "../shared" : root,
                   path);
    return access(shared_path, R_OK) == 0 ? shared_path : NULL;
}

const char *fg_test_shared(const char *path)
{
    if (fg_test_beside(path) == NULL) fg_test_skip("%s is absent", shared_path);
    return fg_test_beside(path);
}

static void remove_tmpdir(void)
{
    char cmd[128];
    (void)snprintf(cmd, sizeof cmd, "rm -rf '%s'", tmpdir);
    if (system(cmd) != 0) printf("could not remove %s\n", tmpdir);
}

const char *fg_test_tmpdir(void)
{
    if (tmpdir[0] == '\0') {
        (void)snprintf(tmpdir, sizeof tmpdir, "/tmp/fulgur-test-XXXXXX");
        if (mkdtemp(tmpdir) == NULL) {
            perror("mkdtemp");
            exit(1);
        }
        (void)atexit(remove_tmpdir);
    }
    return tmpdir;
}

const char *fg_test_tmp(const char *name)
{
    static char buf[8][256];
    static int turn;
    turn = (turn + 1) % 8;
    (void)snprintf(buf[turn], sizeof buf[turn], "%s/%s", fg_test_tmpdir(), name);
    return buf[turn];
}

void fg_test_put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0) {
        fg_test_fail(__FILE__, __LINE__, "%s: cannot be written", path);
    }
}

bool fg_test_has(const char *path, const char *text)
{
    char got[256] = "";
    FILE *f = fopen(path, "r");
    if (f == NULL) return false;
    got[fread(got, 1, sizeof got - 1, f)] = '\0';
    (void)fclose(f);
    return strcmp(got, text) == 0;
}

/* Processor seconds of this process and its children that have ended. */
static double cpu_seconds(void)
{
    double sum = 0.0;
    static const int who[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    for (int i = 0; i < 2; i++) {
        struct rusage u;
        if (getrusage(who[i], &u) != 0) continue;
        sum += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
    }
    return sum;
}

#ifndef FG_FUZZER /* libFuzzer has its own */
int main(int argc, char **argv)
{
    const char *program = strrchr(argv[0], '/');
    program = program == NULL ? argv[0] : program + 1;
    int n_pass = 0, n_fail = 0, n_skip = 0;
    const bool tell_times = getenv("FULGUR_TEST_TIMES") != NULL;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (fg_test_case *t = first; t != NULL; t = t->next) {
        if (argc > 1 && strstr(t->name, argv[1]) == NULL) continue;
        failed = skipped = false;
        const double t0 = cpu_seconds();
        t->run();
        if (tell_times) printf("  %s: %.2f s of processor\n", t->name, cpu_seconds() - t0);
        if (failed) {
            n_fail++;
            printf("FAIL %s.%s\n", program, t->name);
        } else if (skipped) {
            n_skip++;
            printf("skip %s.%s: %s\n", program, t->name, reason);
        } else {
            n_pass++;
            printf("ok   %s.%s\n", program, t->name);
        }
    }
    printf("%s: %d passed, %d failed, %d skipped\n", program, n_pass, n_fail, n_skip);
    return n_fail > 0 || n_pass + n_skip == 0;
}
#endif
