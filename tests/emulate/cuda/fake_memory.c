/* SPDX-License-Identifier: MIT
 *
 * The driver that is none: what it is, and memory.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/emulate/cuda/fake_driver.h"

#include "tests/emulate/cuda/cuda_emu.h"

fake_card fake = {.devices = 1, .version = 13000, .sm = 90, .bytes = (uint64_t)8 << 30, .reg = 1};

pthread_mutex_t fake_mutex = PTHREAD_MUTEX_INITIALIZER;

void fake_lock(void)
{
    (void)pthread_mutex_lock(&fake_mutex);
}
void fake_unlock(void)
{
    (void)pthread_mutex_unlock(&fake_mutex);
}

int fake_misuse(int result, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)fputs("fake driver: ", stderr);
    (void)vfprintf(stderr, fmt, ap);
    (void)fputc('\n', stderr);
    va_end(ap);
    return result;
}

static void log_line(const char *text)
{
    if (fake.log[0] == '\0') return;
    FILE *f = fopen(fake.log, "a");
    if (f == NULL) return;
    (void)fputs(text, f);
    (void)fclose(f);
}

__attribute__((constructor)) static void read_environment(void)
{
    static const struct {
        const char *name;
        uint64_t *to;
    } field[] = {
        {"devices", &fake.devices}, {"init", &fake.init},   {"version", &fake.version},
        {"sm", &fake.sm},           {"bytes", &fake.bytes}, {"oom", &fake.oom},
        {"launch", &fake.launch},   {"fault", &fake.fault}, {"hang", &fake.hang},
        {"wrong", &fake.wrong},     {"lose", &fake.lose},   {"register", &fake.reg},
    };
    const char *given = getenv("FULGUR_FAKE_CUDA");
    char text[1024], *save = NULL;
    (void)snprintf(text, sizeof text, "%s", given == NULL ? "" : given);
    for (char *s = strtok_r(text, ",", &save); s != NULL; s = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(s, '=');
        size_t i = 0;
        if (eq == NULL) abort();
        *eq = '\0';
        if (strcmp(s, "log") == 0) {
            (void)snprintf(fake.log, sizeof fake.log, "%s", eq + 1);
            continue;
        }
        while (i < sizeof field / sizeof field[0] && strcmp(s, field[i].name) != 0) i++;
        if (i == sizeof field / sizeof field[0]) abort(); /* a test's mistake */
        *field[i].to = strtoull(eq + 1, NULL, 10);
    }
    log_line("loaded\n");
}

/* ---- the driver and its cards ---- */

static __thread struct fg_cu_context_ *current;
static struct fg_cu_context_ {
    int unused;
} context;

int fake_enter(void)
{
    if (current == NULL) {
        return fake_misuse(CU_INVALID_CONTEXT, "a call of a thread without a context");
    }
    fake_lock();
    const int sticky = fake.sticky;
    fake_unlock();
    return sticky;
}

int fg_fake_init(unsigned flags)
{
    if (flags != 0) return CU_INVALID_VALUE;
    return fake.init != 0 ? (int)fake.init : fake.devices == 0 ? FG_CU_NO_DEVICE : 0;
}

int fg_fake_driver_version(int *version)
{
    *version = (int)fake.version;
    return 0;
}

int fg_fake_device_count(int *n)
{
    *n = (int)fake.devices;
    return 0;
}

int fg_fake_device_get(int *device, int idx)
{
    if (idx < 0 || (uint64_t)idx >= fake.devices) return 101;
    *device = idx + 10; /* a handle is no index */
    return 0;
}

int fg_fake_device_name(char *name, int len, int device)
{
    (void)snprintf(name, (size_t)len, "emulated card %d", device - 10);
    return 0;
}

int fg_fake_device_attribute(int *value, int attribute, int device)
{
    if (device < 10) return 101;
    switch (attribute) {
    case 16: *value = FG_EMU_SM; return 0;
    case 75: *value = (int)fake.sm / 10; return 0;
    case 76: *value = (int)fake.sm % 10; return 0;
    case 97: *value = FG_EMU_SHARED; return 0;
    default: return CU_INVALID_VALUE; /* of a driver that is older than the question */
    }
}

int fg_fake_device_bytes(size_t *bytes, int device)
{
    if (device < 10) return 101;
    *bytes = fake.bytes;
    return 0;
}

int fg_fake_device_pci(char *id, int len, int device)
{
    (void)snprintf(id, (size_t)len, "0000:FA:%02X.0", device);
    return 0;
}

int fg_fake_context_retain(fg_cu_context *out, int device)
{
    if (device < 10) return 101;
    fake_lock();
    fake.n_context++;
    const int sticky = fake.sticky;
    fake_unlock();
    *out = &context;
    return sticky;
}

int fg_fake_context_release(int device)
{
    uint64_t card, host;
    char line[512];
    if (device < 10) return 101;
    fake_lock();
    if (fake.n_context == 0) {
        fake_unlock();
        return fake_misuse(CU_INVALID_CONTEXT, "a context released that nobody has");
    }
    const bool last = --fake.n_context == 0;
    fake_count_left(&card, &host);
    (void)snprintf(
        line, sizeof line,
        "launches %llu, kernels %llu, graph launches %llu; left: memory %llu, host %llu, "
        "streams %llu, events %llu, graphs %llu\n",
        (unsigned long long)fake.n_launch, (unsigned long long)fake.n_run,
        (unsigned long long)fake.n_graph_launch, (unsigned long long)card, (unsigned long long)host,
        (unsigned long long)fake.n_stream, (unsigned long long)fake.n_event,
        (unsigned long long)fake.n_graph);
    fake_unlock();
    if (last) log_line(line);
    return 0;
}

int fg_fake_context_set(fg_cu_context c)
{
    current = c;
    return 0;
}

/* ---- errors ---- */

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {CU_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {FG_CU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {FG_CU_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CU_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CU_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CU_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {FG_CU_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CU_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {CU_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CU_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
};

static int find_error(int code, bool text, const char **out)
{
    *out = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].code == code) *out = text ? errors[i].text : errors[i].name;
    }
    return *out == NULL ? CU_INVALID_VALUE : 0;
}

int fg_fake_error_name(int error, const char **text)
{
    return find_error(error, false, text);
}

int fg_fake_error_text(int error, const char **text)
{
    return find_error(error, true, text);
}

/* ---- memory ---- */

enum { PAGE = 4096, MOST = 65536 };

static struct piece {
    unsigned char *p;
    size_t bytes, map_bytes;
    unsigned char *map;
    fake_kind kind;
} piece[MOST];
static size_t n_piece;

bool fake_holds(const void *p, size_t n, unsigned kinds)
{
    const uintptr_t at = (uintptr_t)p;
    for (size_t i = 0; i < n_piece; i++) {
        const uintptr_t base = (uintptr_t)piece[i].p;
        if ((piece[i].kind & kinds) != 0 && at >= base && at - base <= piece[i].bytes &&
            n <= piece[i].bytes - (at - base)) {
            return true;
        }
    }
    return false;
}

void fake_count_left(uint64_t *card, uint64_t *host)
{
    *card = *host = 0;
    for (size_t i = 0; i < n_piece; i++) ++*(piece[i].kind == FAKE_CARD ? card : host);
}

/* Ends at a guard page but for what 256-byte alignment leaves. */
static int map_piece(void **out, size_t bytes, fake_kind kind)
{
    const size_t whole = (bytes + 255) / 256 * 256, room = (whole + PAGE - 1) / PAGE * PAGE;
    unsigned char *m = mmap(NULL, room + 2 * PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED || n_piece == MOST) return FG_CU_OUT_OF_MEMORY;
    (void)mprotect(m, PAGE, PROT_NONE);
    (void)mprotect(m + PAGE + room, PAGE, PROT_NONE);
    memset(m + PAGE, 0xff, room); /* NaN */
    piece[n_piece] = (struct piece){m + PAGE + room - whole, bytes, room + 2 * PAGE, m, kind};
    *out = piece[n_piece++].p;
    return 0;
}

static int drop_piece(const void *p, fake_kind kind, const char *what)
{
    int result = CU_INVALID_VALUE;
    fake_lock();
    fake_wait_for_streams();
    for (size_t i = 0; i < n_piece; i++) {
        if (piece[i].p != p || piece[i].kind != kind) continue;
        if (kind == FAKE_CARD) fake.used -= piece[i].bytes;
        if (piece[i].map != NULL) (void)munmap(piece[i].map, piece[i].map_bytes);
        piece[i] = piece[--n_piece];
        result = 0;
        break;
    }
    fake_unlock();
    return result == 0 ? 0 : fake_misuse(result, "%s of %p, which is none", what, p);
}

int fg_fake_mem_info(size_t *free_bytes, size_t *all_bytes)
{
    const int r = fake_enter();
    fake_lock();
    *all_bytes = fake.bytes;
    *free_bytes = fake.bytes - fake.used;
    fake_unlock();
    return r;
}

int fg_fake_mem_alloc(uint64_t *out, size_t bytes)
{
    void *p = NULL;
    int r = fake_enter();
    if (r != 0) return r;
    if (bytes == 0) return CU_INVALID_VALUE;
    fake_lock();
    if (++fake.n_alloc == fake.oom || bytes > fake.bytes - fake.used) r = FG_CU_OUT_OF_MEMORY;
    if (r == 0) r = map_piece(&p, bytes, FAKE_CARD);
    if (r == 0) fake.used += bytes;
    fake_unlock();
    *out = (uint64_t)(uintptr_t)p;
    return r;
}

int fg_fake_mem_free(uint64_t p)
{
    const int r = fake_enter();
    return r != 0 ? r : drop_piece((void *)(uintptr_t)p, FAKE_CARD, "freeing");
}

int fg_fake_host_alloc(void **out, size_t bytes, unsigned flags)
{
    int r = fake_enter();
    (void)flags;
    *out = NULL;
    if (r != 0) return r;
    if (bytes == 0) return CU_INVALID_VALUE;
    fake_lock();
    r = map_piece(out, bytes, FAKE_PINNED);
    fake_unlock();
    return r;
}

int fg_fake_host_free(void *p)
{
    const int r = fake_enter();
    return r != 0 ? r : drop_piece(p, FAKE_PINNED, "freeing");
}

int fg_fake_host_register(void *p, size_t bytes, unsigned flags)
{
    int r = fake_enter();
    (void)flags;
    if (r != 0) return r;
    if (fake.reg == 0) return CU_NOT_SUPPORTED;
    if (bytes == 0) return CU_INVALID_VALUE;
    fake_lock();
    const uintptr_t lo = (uintptr_t)p, hi = lo + bytes;
    for (size_t i = 0; i < n_piece; i++) {
        const uintptr_t at = (uintptr_t)piece[i].p;
        if (lo < at + piece[i].bytes && at < hi) r = CU_HOST_ALREADY_REGISTERED;
    }
    if (n_piece == MOST) r = FG_CU_OUT_OF_MEMORY;
    if (r == 0) piece[n_piece++] = (struct piece){p, bytes, 0, NULL, FAKE_REGISTERED};
    fake_unlock();
    return r;
}

int fg_fake_host_unregister(void *p)
{
    const int r = fake_enter();
    return r != 0 ? r : drop_piece(p, FAKE_REGISTERED, "unregistering");
}

int fg_fake_host_pointer(uint64_t *out, void *p, unsigned flags)
{
    const int r = fake_enter();
    if (r != 0) return r;
    fake_lock();
    const bool holds = flags == 0 && fake_holds(p, 1, FAKE_PINNED | FAKE_REGISTERED);
    fake_unlock();
    if (!holds)
        return fake_misuse(CU_INVALID_VALUE, "card's address of %p, which is not pinned", p);
    *out = (uint64_t)(uintptr_t)p;
    return 0;
}
