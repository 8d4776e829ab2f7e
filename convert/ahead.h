/* SPDX-License-Identifier: MIT
 *
 * One function at a time on a thread of its own, while the caller does something else: the
 * converter reads the next band there while the team encodes this one.
 */
#ifndef FG_CONVERT_AHEAD_H
#define FG_CONVERT_AHEAD_H

#include "src/base/status.h"

typedef struct fg_ahead fg_ahead;

/* Errors: FG_ENOMEM, FG_EIO (no thread). */
fg_status fg_ahead_create(fg_ahead **out, fg_err *err);
/* Waits for what is running.  Accepts NULL; *a becomes NULL. */
void fg_ahead_destroy(fg_ahead **a);

/* Runs fn(arg); nothing may be running. */
void fg_ahead_start(fg_ahead *a, void (*fn)(void *arg), void *arg);
/* Returns when nothing is running; what fn wrote can be read then. */
void fg_ahead_wait(fg_ahead *a);

#endif
