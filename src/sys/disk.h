/* SPDX-License-Identifier: MIT
 *
 * What a disk can deliver to reads of whole experts: blocks of some megabytes, several in flight,
 * past the page cache where the file system allows it.  Each read in flight is a thread in pread,
 * which works everywhere; large blocks make the cost of that small.
 *
 * Measured on a file that is there or on a temporary one without a name, so that nothing is left
 * behind whatever ends the process.  A file just written may still be in the cache of a drive or of
 * the host of a virtual machine: figures of a temporary file are upper bounds.
 */
#ifndef FG_SRC_SYS_DISK_H
#define FG_SRC_SYS_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct fg_disk {
    int fd;         /* -1 when closed */
    uint64_t bytes; /* of the file */
    bool direct;    /* reads go past the page cache */
    double
        seconds; /* that writing the temporary file and syncing it took; 0: a file that was there */
    const char *path; /* borrowed, for messages */
} fg_disk;

#define FG_DISK_INIT ((fg_disk){.fd = -1})

enum { FG_DISK_MAX_FLIGHT = 64 };

/* A regular file, only read.  Errors: FG_EIO. */
fg_status fg_disk_open(fg_disk *d, const char *path, fg_err *err);

/* A temporary file of about `bytes` random bytes in the folder `dir`: less when `max_ns` are over
 * or free space is short (a quarter of it is used at most), 4 MiB at least.  Errors: FG_EIO,
 * FG_ELIMIT (no space), FG_ENOMEM. */
fg_status fg_disk_open_temporary(fg_disk *d, const char *dir, uint64_t bytes, uint64_t max_ns,
                                 fg_err *err);
void fg_disk_close(fg_disk *d); /* accepts FG_DISK_INIT */

/* Reads blocks of `block` bytes (a multiple of 4 KiB, at most the file's) in a scattered order,
 * n_flight (1 to FG_DISK_MAX_FLIGHT) at a time, for about max_ns, each thread one block at least.
 * GB/s (1e9). Errors: FG_EINVAL, FG_EIO, FG_ENOMEM. */
fg_status fg_disk_read(const fg_disk *d, uint64_t block, uint32_t n_flight, uint64_t max_ns,
                       double *gbs, fg_err *err);

/* Bytes that this user may still write to the file system of `path`; 0 when unknown. */
uint64_t fg_disk_free_bytes(const char *path);

/* True when the kernel lets this process set up an io_uring; else *why is the errno (ENOSYS: not
 * there, EPERM or EACCES: switched off, ENOMEM: locked memory). */
bool fg_disk_has_uring(int *why);

/* The drive that path is on and the scheduler of its requests, as /sys has them ("sda",
 * "mq-deadline"); false, and both empty, where it says nothing, or the drive has moving parts. */
typedef struct fg_disk_queue {
    char drive[64], scheduler[32];
} fg_disk_queue;
bool fg_disk_describe_queue(const char *path, fg_disk_queue *q);

#endif
