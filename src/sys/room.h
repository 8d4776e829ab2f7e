/* SPDX-License-Identifier: MIT
 *
 * How much memory this process can have: what the machine has left, what the limits of its control
 * groups leave (both versions, each with those above it), and its own limits (ulimit -v, -d).
 * Everything is read from files below a root folder, so that tests can give their own.
 */
#ifndef FG_SRC_SYS_ROOM_H
#define FG_SRC_SYS_ROOM_H

#include <stdint.h>

#define FG_ROOM_UNKNOWN UINT64_MAX

typedef struct fg_room {
    uint64_t total;     /* physical memory, bytes; FG_ROOM_UNKNOWN, as all below */
    uint64_t available; /* that can be had without swapping (MemAvailable) */
    uint64_t limit;     /* the least one of a control group; FG_ROOM_UNKNOWN: none */
    uint64_t bytes;     /* that the process can still take: the least of all */
    const char *by;     /* whose word `bytes` is, static text; "" when it is unknown */
} fg_room;

/* root: "" for the system's own files. */
void fg_room_read(fg_room *r, const char *root);

/* Bytes for a measurement that wants `want`: at most one in `share` of those that can be had. */
uint64_t fg_room_share(uint64_t want, uint32_t share);

#endif
