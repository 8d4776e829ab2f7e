/* SPDX-License-Identifier: MIT
 *
 * libcuda.so.1 is opened by that name and no other (toolkits ship a stub under the short one), at
 * the first question after a card: somebody who asks for none never has it in the process.
 *
 * Nothing here waits for a card without a limit: a card that hangs is left as it is, since freeing
 * its memory or giving its context back would wait for it, too.
 */
#include "src/device/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/device/module.h"

#define SONAME "libcuda.so.1"
/* Has all functions of driver.inc; what the module needs stands in its head. */
enum { LEAST_DRIVER = 11040, LEAST_SM = 80, EARLY_SM = 90 };

/* CUdevice_attribute and CUfunction_attribute. */
enum {
    ATTR_N_SM = 16,
    ATTR_SM_MAJOR = 75,
    ATTR_SM_MINOR = 76,
    ATTR_MAX_SHARED = 97, /* of a block that asks for more than the usual 48 KiB */
    ATTR_HOST_NODE = 134, /* since 12.2 */
    FUNC_SHARED = 1,      /* static, bytes */
    FUNC_MAX_DYNAMIC = 8,
};

/* ---- the driver ---- */

static struct {
    fg_driver table;
    fg_err failed;      /* why loading did */
    bool here, no_card; /* a library was there; and says that there is no card */
} driver;

static void take_version(void)
{
    const int v = driver.table.version;
    if (v < LEAST_DRIVER) {
        (void)fg_fail(&driver.failed, FG_ENOTSUP,
                      "driver %d.%d, expected at least %d.%d; try --gpu off", v / 1000,
                      v % 1000 / 10, LEAST_DRIVER / 1000, LEAST_DRIVER % 1000 / 10);
    }
}

/* False: a function is missing, whose name it returns. */
static bool take_functions(void *lib, const char **missing)
{
#define FG_CUDA_FN(member, name, params)                                                           \
    *(void **)(void *)&driver.table.member = dlsym(lib, name);                                     \
    if (driver.table.member == NULL && *missing == NULL) *missing = name;
#define FG_CUDA_MAY(member, name, params) *(void **)(void *)&driver.table.member = dlsym(lib, name);
#include "src/device/driver.inc"
    return *missing == NULL;
}

static void start(void)
{
#ifdef FG_STATIC
    (void)fg_fail(&driver.failed, FG_ENOTSUP,
                  "no driver (a static program cannot load one; fulgur-gpu of a bundle can), "
                  "expected one; try --gpu off");
    return;
#endif
    const char *missing = NULL;
    void *lib = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) {
        (void)fg_fail(&driver.failed, FG_ENOTSUP, "no driver (%.200s), expected one; try --gpu off",
                      dlerror());
        return;
    }
    driver.here = true;
    const bool whole = take_functions(lib, &missing);
    /* the version of an old driver says more than what it lacks */
    if (driver.table.driver_version != NULL &&
        driver.table.driver_version(&driver.table.version) == 0) {
        take_version();
    }
    if (driver.failed.code == FG_OK && !whole) {
        (void)fg_fail(&driver.failed, FG_ENOTSUP,
                      "driver without %s, expected one of version %d.%d; try --gpu off", missing,
                      LEAST_DRIVER / 1000, LEAST_DRIVER % 1000 / 10);
    }
    if (driver.failed.code != FG_OK) return;
    const int r = driver.table.init(0);
    driver.no_card = r == FG_CU_NO_DEVICE;
    if (driver.no_card) {
        (void)fg_fail(&driver.failed, FG_ENOTSUP,
                      "no card, says the driver, expected one; try --gpu off");
    } else if (r != 0) {
        const char *name = NULL, *text = NULL;
        (void)driver.table.error_name(r, &name);
        (void)driver.table.error_text(r, &text);
        (void)fg_fail(&driver.failed, FG_ENOTSUP,
                      "the driver does not start: %s (%s), expected no error; try --gpu off",
                      name == NULL ? "unknown" : name, text == NULL ? "unknown" : text);
    }
}

/* Loads the driver once a process; borrowed, never unloaded.  FG_ENOTSUP: none, or too old, and
 * why; messages begin with the card that was asked for. */
static fg_status get_for(const fg_driver **out, uint32_t idx, fg_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, start);
    *out = NULL;
    if (driver.failed.code != FG_OK) {
        return fg_fail(err, driver.failed.code, "gpu %u: %.400s", idx, driver.failed.msg);
    }
    *out = &driver.table;
    return FG_OK;
}

bool fg_gpu_expected(void)
{
    const fg_driver *d;
    return get_for(&d, 0, NULL) == FG_OK ? fg_gpu_count() > 0 : driver.here && !driver.no_card;
}

uint32_t fg_gpu_count(void)
{
    const fg_driver *d;
    int n = 0;
    if (get_for(&d, 0, NULL) != FG_OK || d->device_count(&n) != 0 || n < 0) return 0;
    return (uint32_t)n;
}

/* ---- results ---- */

static fg_status check(const fg_driver *d, uint32_t idx, int result, const char *what, fg_err *err)
{
    const char *name = NULL, *text = NULL;
    if (result == 0) return FG_OK;
    (void)d->error_name(result, &name);
    (void)d->error_text(result, &text);
    return fg_fail(err, result == FG_CU_OUT_OF_MEMORY ? FG_ENOMEM : FG_EIO,
                   "gpu %u: %s: %s (%s), expected no error", idx, what,
                   name == NULL ? "unknown" : name, text == NULL ? "unknown" : text);
}

fg_status fg_gpu_check(const fg_gpu *gpu, int result, const char *what, fg_err *err)
{
    return check(gpu->d, gpu->idx, result, what, err);
}

fg_status fg_gpu_wait(fg_gpu *gpu, fg_cu_stream stream, uint32_t ms, const char *what, fg_err *err)
{
    const uint64_t end = fg_clock_ns() + (uint64_t)ms * 1000000u;
    const struct timespec nap = {.tv_nsec = 20000};
    int r;
    while ((r = gpu->d->stream_query(stream)) == FG_CU_NOT_READY) {
        if (fg_clock_ns() > end) {
            gpu->hangs = true;
            return fg_fail(err, FG_EIO,
                           "gpu %u: %s: no answer within %u ms, expected one; try --gpu off",
                           gpu->idx, what, ms);
        }
        (void)nanosleep(&nap, NULL);
    }
    return fg_gpu_check(gpu, r, what, err);
}

/* ---- what a card is ---- */

/* First number of a file of the card below /sys, or -1. */
static double read_pci(const char *pci, const char *name)
{
    char path[128], *text;
    size_t n;
    double value;
    (void)snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", pci, name);
    if (fg_io_read_all(path, 256, &text, &n, NULL) != FG_OK) return -1.0;
    if (sscanf(text, "%lf", &value) != 1) value = -1.0;
    fg_mem_free(text);
    return value;
}

/* Of transfers a second: 2.5 G of the first generation, 5, 8, and from there on twice as many. */
static int pcie_gen(double gt_s)
{
    int gen = gt_s < 2.0 ? 0 : gt_s < 4.0 ? 1 : gt_s < 7.0 ? 2 : 3;
    for (double at = 12.0; gen >= 3 && gt_s > at && gen < 9; at *= 2.0) gen++;
    return gen;
}

static void describe_pci(fg_gpu_info *o)
{
    char pci[sizeof o->pci];
    size_t i = 0;
    for (; o->pci[i] != '\0'; i++) {
        pci[i] = o->pci[i] >= 'A' && o->pci[i] <= 'F' ? (char)(o->pci[i] - 'A' + 'a') : o->pci[i];
        if (pci[i] == '/') pci[i] = '_';
    }
    pci[i] = '\0';
    const double width = read_pci(pci, "current_link_width");
    o->pcie_gen = pcie_gen(read_pci(pci, "current_link_speed"));
    o->pcie_width = width > 0.0 && width <= 32.0 ? (int)width : 0;
    if (o->numa_node < 0) o->numa_node = (int)read_pci(pci, "numa_node");
}

static fg_status describe(const fg_driver *d, uint32_t idx, int *device, fg_gpu_info *o,
                          fg_err *err)
{
    const uint32_t n = fg_gpu_count();
    int major = 0, minor = 0, n_sm = 0, shared = 0;
    size_t bytes = 0;
    *o = (fg_gpu_info){.numa_node = -1};
    if (idx >= n) {
        return fg_fail(err, FG_ENOTSUP, "gpu %u: %u card%s here, expected more; try --gpu off", idx,
                       n, n == 1 ? " is" : "s are");
    }
    FG_TRY(check(d, idx, d->device_get(device, (int)idx), "finding it", err));
    int r = d->device_name(o->name, sizeof o->name, *device);
    if (r == 0) r = d->device_attribute(&major, ATTR_SM_MAJOR, *device);
    if (r == 0) r = d->device_attribute(&minor, ATTR_SM_MINOR, *device);
    if (r == 0) r = d->device_attribute(&n_sm, ATTR_N_SM, *device);
    if (r == 0) r = d->device_attribute(&shared, ATTR_MAX_SHARED, *device);
    if (r == 0) r = d->device_bytes(&bytes, *device);
    FG_TRY(check(d, idx, r, "asking what it is", err));
    o->name[sizeof o->name - 1] = '\0';
    o->sm = major * 10 + minor;
    o->n_sm = (uint32_t)n_sm;
    o->max_shared = (uint32_t)shared;
    o->bytes = bytes;
    if (d->device_attribute(&o->numa_node, ATTR_HOST_NODE, *device) != 0) o->numa_node = -1;
    if (d->device_pci(o->pci, sizeof o->pci, *device) != 0) o->pci[0] = '\0';
    o->pci[sizeof o->pci - 1] = '\0';
    if (o->pci[0] != '\0') describe_pci(o);
    return FG_OK;
}

fg_status fg_gpu_describe(uint32_t idx, fg_gpu_info *out, fg_err *err)
{
    const fg_driver *d;
    int device;
    FG_TRY(get_for(&d, idx, err));
    return describe(d, idx, &device, out, err);
}

/* ---- a card in use ---- */

/* Asking for a function and its attributes also brings its code to the card.  With a driver that
 * does so at first use, a kernel that is launched while another one waits for the host would wait
 * for ever. */
static fg_status find_kernels(fg_gpu *g, fg_err *err)
{
    for (uint32_t k = 0; k < FG_CUDA_KERNEL_COUNT; k++) {
        const char *name = fg_cuda_kernel_name[k];
        int fixed = 0;
        FG_TRY(fg_gpu_check(g, g->d->module_function(&g->kernel[k], g->module, name), name, err));
        int r = g->d->function_get(&fixed, FUNC_SHARED, g->kernel[k]);
        if (r == 0 && (uint32_t)fixed < g->info.max_shared) {
            r = g->d->function_set(g->kernel[k], FUNC_MAX_DYNAMIC, (int)g->info.max_shared - fixed);
        }
        FG_TRY(fg_gpu_check(g, r, name, err));
    }
    return FG_OK;
}

static fg_status load_module(fg_gpu *g, fg_err *err)
{
    fg_module_image m;
    fg_err why = {0};
    const fg_status found = fg_module_open(&m, &why);
    if (found != FG_OK) return fg_fail(err, found, "gpu %u: %.450s", g->idx, why.msg);
    const int v = g->d->version, least = m.driver;
    fg_status st = FG_OK;
    if (v < least) {
        st =
            fg_fail(err, FG_ENOTSUP, "gpu %u: driver %d.%d, expected at least %d.%d; try --gpu off",
                    g->idx, v / 1000, v % 1000 / 10, least / 1000, least % 1000 / 10);
    } else {
        st = fg_gpu_check(g, g->d->module_load(&g->module, m.fatbin), "loading its kernels", err);
    }
    fg_module_close(&m);
    return st;
}

enum { PROBE_N = 1000 };

static bool probe_is_right(const uint32_t *in, const uint32_t *out)
{
    for (uint32_t i = 0; i < PROBE_N; i++) {
        if (out[i] != 2 * in[i] + 1) return false;
    }
    return true;
}

/* pin: in and out [2][PROBE_N], pinned, so that no copy waits. */
static fg_status run_probe(fg_gpu *g, uint32_t *pin, uint64_t card, fg_cu_stream stream,
                           fg_err *err)
{
    const fg_driver *d = g->d;
    const size_t bytes = PROBE_N * sizeof *pin;
    for (uint32_t i = 0; i < PROBE_N; i++) pin[i] = i * 2654435761u;
    memset(pin + PROBE_N, 0, bytes);
    FG_TRY(fg_gpu_check(g, d->copy_in(card, pin, bytes, stream), "copying to it", err));
    fg_gpu_queue q = {.gpu = g, .stream = stream};
    const fg_cuda_queue ops = fg_gpu_queue_ops(&q);
    const fg_cuda_probe p = {.in = (const uint32_t *)(uintptr_t)card,
                             .out = (uint32_t *)(uintptr_t)(card + bytes),
                             .n = PROBE_N};
    fg_cuda_probe_card(&ops, &p);
    FG_TRY(fg_gpu_check(g, q.result, "starting a kernel", err));
    FG_TRY(fg_gpu_check(g, d->copy_out(pin + PROBE_N, card + bytes, bytes, stream), "copying back",
                        err));
    FG_TRY(fg_gpu_wait(g, stream, FG_GPU_PROBE_MS, "a first kernel", err));
    if (!probe_is_right(pin, pin + PROBE_N)) {
        return fg_fail(err, FG_EIO,
                       "gpu %u: a first kernel: wrong numbers, expected 2 x + 1; try --gpu off",
                       g->idx);
    }
    return FG_OK;
}

static fg_status probe(fg_gpu *g, fg_err *err)
{
    const fg_driver *d = g->d;
    const size_t bytes = 2 * PROBE_N * sizeof(uint32_t);
    fg_cu_stream stream = NULL;
    uint64_t card = 0;
    void *pin = NULL;
    int r = d->stream_create(&stream, FG_CU_STREAM_NO_WAIT);
    if (r == 0) r = d->mem_alloc(&card, bytes);
    if (r == 0) r = d->host_alloc(&pin, bytes, FG_CU_HOST_PORTABLE | FG_CU_HOST_MAPPED);
    fg_status st = fg_gpu_check(g, r, "memory for a first kernel", err);
    if (st == FG_OK) st = run_probe(g, pin, card, stream, err);
    if (g->hangs) return st;
    if (pin != NULL) (void)d->host_free(pin);
    if (card != 0) (void)d->mem_free(card);
    if (stream != NULL) (void)d->stream_destroy(stream);
    return st;
}

static fg_status open_card(fg_gpu *g, fg_err *err)
{
    FG_TRY(describe(g->d, g->idx, &g->device, &g->info, err));
    if (g->info.sm < LEAST_SM) {
        return fg_fail(err, FG_ENOTSUP,
                       "gpu %u: %s is sm_%d, expected at least sm_%d; try --gpu off", g->idx,
                       g->info.name, g->info.sm, LEAST_SM);
    }
    fg_cu_context context = NULL;
    FG_TRY(fg_gpu_check(g, g->d->context_retain(&context, g->device), "making a context", err));
    g->context = context;
    FG_TRY(fg_gpu_enter(g, err));
    FG_TRY(load_module(g, err));
    FG_TRY(find_kernels(g, err));
    return probe(g, err);
}

fg_status fg_gpu_open(fg_gpu **out, uint32_t idx, fg_err *err)
{
    const fg_driver *d;
    *out = NULL;
    FG_TRY(get_for(&d, idx, err));
    fg_gpu *g = fg_mem_zalloc(sizeof *g);
    if (g == NULL) return fg_fail_nomem(err, "gpu");
    g->d = d;
    g->idx = idx;
    const fg_status st = open_card(g, err);
    if (st != FG_OK) {
        fg_gpu_close(&g);
        return st;
    }
    *out = g;
    return FG_OK;
}

void fg_gpu_close(fg_gpu **gpu)
{
    fg_gpu *g = *gpu;
    *gpu = NULL;
    if (g == NULL) return;
    if (!g->hangs && g->context != NULL) {
        if (g->module != NULL) (void)g->d->module_unload(g->module);
        (void)g->d->context_set(NULL);
        (void)g->d->context_release(g->device);
    }
    fg_mem_free(g);
}

fg_status fg_gpu_enter(const fg_gpu *gpu, fg_err *err)
{
    return fg_gpu_check(gpu, gpu->d->context_set(gpu->context), "entering its context", err);
}

/* ---- a queue ---- */

static void launch(void *ctx, const fg_cuda_launch *l)
{
    fg_gpu_queue *q = ctx;
    const fg_gpu *g = q->gpu;
    if (q->result != 0) return;
    void *params[1];
    memcpy(params, &l->args, sizeof params); /* the driver copies what it points to */
    if (l->early && g->d->launch_ex != NULL && g->info.sm >= EARLY_SM) {
        const fg_cu_attribute early = {.id = FG_CU_EARLY, .value = 1};
        const fg_cu_config c = {.grid = {l->grid[0], l->grid[1], l->grid[2]},
                                .block = {l->block, 1, 1},
                                .shared = l->shared,
                                .stream = q->stream,
                                .attribute = &early,
                                .n_attribute = 1};
        q->result = g->d->launch_ex(&c, g->kernel[l->kernel], params, NULL);
        if (q->result != 0) q->failed = l->kernel;
        return;
    }
    q->result = g->d->launch(g->kernel[l->kernel], l->grid[0], l->grid[1], l->grid[2], l->block, 1,
                             1, l->shared, q->stream, params, NULL);
    if (q->result != 0) q->failed = l->kernel;
}

fg_cuda_queue fg_gpu_queue_ops(fg_gpu_queue *q)
{
    return (fg_cuda_queue){.launch = launch,
                           .ctx = q,
                           .n_sm = q->gpu->info.n_sm,
                           .max_shared = q->gpu->info.max_shared};
}
