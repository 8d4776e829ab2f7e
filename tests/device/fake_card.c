/* SPDX-License-Identifier: MIT */
#include "tests/device/fake_card.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "simd/cuda/cuda_image.h"
#include "tests/fg_test.h"

/* A path in this program's folder, or in the one above that folder's. */
static const char *beside(const char *name, bool above)
{
    static char path[2][PATH_MAX + 64];
    char exe[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n < 0 ? 0 : n] = '\0';
    for (int up = above ? 3 : 1; up > 0; up--) {
        char *slash = strrchr(exe, '/');
        if (slash != NULL) *slash = '\0';
    }
    (void)snprintf(path[above], sizeof path[above], "%s/%s", exe, name);
    return path[above];
}

const char *fake_card_driver(void)
{
    return beside("fakecuda/libcuda.so.1", true);
}

const char *fake_card_image(void)
{
    return beside("fulgur-cuda.fatbin", false);
}

bool fake_card_has_kernels(void)
{
    return &fg_cuda_image_end[0] > &fg_cuda_image[0];
}

static void make_image(void)
{
    static const char body[] = "of the emulator";
    char head[FG_CUDA_IMAGE_HEADER + 1], mine[2 * PATH_MAX + 160];
    if (fake_card_has_kernels()) return;
    (void)snprintf(head, sizeof head, "fulgur-cuda 1 abi %s bytes %016zx 12000", fg_cuda_abi,
                   sizeof body);
    /* programs of one folder run at the same time */
    (void)snprintf(mine, sizeof mine, "%s.%ld", fake_card_image(), (long)getpid());
    FILE *f = fopen(mine, "wb");
    CHECK(f != NULL && fprintf(f, "%-63s\n", head) == 64 &&
          fwrite(body, 1, sizeof body, f) == sizeof body && fclose(f) == 0 &&
          rename(mine, fake_card_image()) == 0);
}

static void run_with(const char *settings, void (*run)(void))
{
    if (settings != NULL) {
        (void)setenv("FULGUR_FAKE_CUDA", settings, 1);
        if (dlopen(fake_card_driver(), RTLD_NOW) == NULL) {
            (void)printf("%s\n", dlerror());
            _exit(3);
        }
    }
    run();
    (void)fflush(NULL);
    _exit(fg_test_failed() ? 1 : 0);
}

int fake_card_run(const char *settings, void (*run)(void))
{
    if (access(fake_card_driver(), R_OK) != 0) {
        fg_test_skip("%s: not there", fake_card_driver());
        return 0;
    }
    if (fg_test_failed()) return 0; /* the new process would have failed, too */
    if (settings != NULL) make_image();
    (void)fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) run_with(settings, run);
    int status = -1;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status)) return WTERMSIG(status);
    if (WEXITSTATUS(status) != 0) {
        fg_test_fail(__FILE__, __LINE__, "with %s: status %d", settings == NULL ? "none" : settings,
                     WEXITSTATUS(status));
    }
    return 0;
}
