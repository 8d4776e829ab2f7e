/* SPDX-License-Identifier: MIT
 *
 * A model file that is patched in place, its hashes made right again, and restored: what lies
 * behind the hashes is reached, and a run costs as little as opening the file.
 */
#ifndef FG_TESTS_FUZZ_IMAGE_H
#define FG_TESTS_FUZZ_IMAGE_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "tests/fuzz/fuzz.h"

enum { IMAGE_SLOT = 4096, IMAGE_MAX_PATCH = 64 };

typedef struct image {
    char path[256];
    int fd;
    size_t n;
    uint8_t *good; /* as it was */
    uint8_t *now;  /* mapped */
    size_t at[IMAGE_MAX_PATCH], len[IMAGE_MAX_PATCH];
    int n_patch;
} image;

static inline void image_open(image *m, const char *path)
{
    m->good = fuzz_read(path, &m->n);
    (void)strcpy(m->path, path);
    m->fd = open(path, O_RDWR | O_CLOEXEC);
    m->now = mmap(NULL, m->n, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (m->fd < 0 || m->now == MAP_FAILED) abort();
    m->n_patch = 0;
}

/* Where n bytes may be written now, or NULL; they are put back by image_restore. */
static inline uint8_t *image_touch(image *m, uint64_t at, uint64_t n)
{
    if (at > m->n || n > m->n - at || m->n_patch == IMAGE_MAX_PATCH) return NULL;
    m->at[m->n_patch] = (size_t)at;
    m->len[m->n_patch++] = (size_t)n;
    return m->now + at;
}

static inline void image_put(image *m, uint64_t at, unsigned bytes, uint64_t v)
{
    uint8_t *p = image_touch(m, at, bytes);
    if (p != NULL) fuzz_put_le(p, bytes, v);
}

/* The slot's hash, after that of the directory that it names. */
static inline void image_rehash(image *m, uint64_t slot)
{
    const uint64_t dir = fuzz_get_le(m->now + slot + 32, 8), n = fuzz_get_le(m->now + slot + 40, 8);
    if (dir <= m->n && n <= m->n - dir) image_put(m, slot + 48, 8, fg_hash64(m->now + dir, n));
    image_put(m, slot + IMAGE_SLOT - 8, 8, fg_hash64(m->now + slot, IMAGE_SLOT - 8));
}

/* The last n bytes are missing; false where there were too many patches. */
static inline bool image_cut(image *m, uint64_t n)
{
    if (image_touch(m, m->n - n, n) == NULL) return false;
    if (ftruncate(m->fd, (off_t)(m->n - n)) != 0) abort();
    return true;
}

static inline void image_restore(image *m)
{
    if (ftruncate(m->fd, (off_t)m->n) != 0) abort(); /* an append made it longer */
    while (m->n_patch > 0) {
        m->n_patch--;
        memcpy(m->now + m->at[m->n_patch], m->good + m->at[m->n_patch], m->len[m->n_patch]);
    }
}

#endif
