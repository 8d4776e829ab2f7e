/* SPDX-License-Identifier: MIT
 *
 * A libcuda.so.1 whose card is the emulator: src/device runs against it as against a driver, with
 * LD_LIBRARY_PATH.  A stream is a thread that does what was put into it, in order, at the same time
 * as the host; a graph is the list of what was captured.  Memory of the card is mapped between
 * guard pages, full of NaN, and gone when freed.  What a driver would leave undefined, or answer
 * only some times, is a line "fake driver: ..." on stderr: a test that expects one line finds two.
 *
 * The environment variable FULGUR_FAKE_CUDA, "NAME=VALUE,NAME=VALUE,...", chooses what it is and
 * what goes wrong (n: counted from 1):
 *   devices=N   how many cards; 0: the driver says that there is none (default: 1)
 *   init=N      the driver does not start, with this error
 *   version=N   of the driver (default 13000)
 *   sm=N        (default 90)
 *   bytes=N     of memory (default 8 GiB)
 *   oom=N       the n-th allocation of its memory fails
 *   launch=N    the n-th launch is refused
 *   fault=N     the n-th kernel that runs faults: everything fails from there on
 *   hang=N      the n-th kernel that runs never ends
 *   wrong=N     the n-th kernel that runs does nothing
 *   lose=N      the flag of the n-th post to the mailbox is lost
 *   register=0  memory of the host cannot be registered
 *   log=FILE    "loaded" at the start; when the last context goes, what was done and what is left
 */
#ifndef FG_TESTS_EMULATE_FAKE_DRIVER_H
#define FG_TESTS_EMULATE_FAKE_DRIVER_H

#include <pthread.h>

#include "src/device/driver.h"

/* The functions, by the names of driver.inc; exported by those of the driver. */
#define FG_CUDA_FN(member, name, params)                                                           \
    int fg_fake_##member params __asm__(name) __attribute__((visibility("default")));
#include "src/device/driver.inc"

enum {
    CU_INVALID_VALUE = 1,
    CU_INVALID_CONTEXT = 201,
    CU_INVALID_HANDLE = 400,
    CU_NOT_FOUND = 500,
    CU_LAUNCH_OUT_OF_RESOURCES = 701,
    CU_HOST_ALREADY_REGISTERED = 712,
    CU_HOST_NOT_REGISTERED = 713,
    CU_LAUNCH_FAILED = 719,
    CU_NOT_SUPPORTED = 801,
    CU_CAPTURE_UNSUPPORTED = 900,
    CU_CAPTURE_UNMATCHED = 903,
    CU_CAPTURE_UNJOINED = 904,
    CU_CAPTURED_EVENT = 907,
};

/* What goes wrong (see above), what was done, and the lock of it all. */
typedef struct fake_card {
    uint64_t devices, init, version, sm, bytes, oom, launch, fault, hang, wrong, lose, reg;
    char log[256];
    uint64_t n_alloc, n_launch, n_run, n_post, n_graph_launch;
    uint64_t used;      /* bytes */
    uint64_t n_context; /* retained */
    uint64_t n_stream, n_event, n_graph;
    int sticky; /* the fault that everything answers with */
    bool hangs;
} fake_card;
extern fake_card fake;
extern pthread_mutex_t fake_mutex;
void fake_lock(void);
void fake_unlock(void);
int fake_misuse(int result, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Result of a call that needs a context of the calling thread: 0, or why not. */
int fake_enter(void);

/* Memory that the card sees; n bytes from p on all in one piece.  The lock is held. */
typedef enum fake_kind { FAKE_CARD = 1, FAKE_PINNED = 2, FAKE_REGISTERED = 4 } fake_kind;
bool fake_holds(const void *p, size_t n, unsigned kinds);
/* Until all streams have done what was put into them, as a driver waits before memory goes. */
void fake_wait_for_streams(void);
void fake_count_left(uint64_t *card, uint64_t *host);

#endif
