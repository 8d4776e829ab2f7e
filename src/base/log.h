/* SPDX-License-Identifier: MIT
 *
 * Lines for whoever debugs the library, on stderr: FG_LOG(level, format, ...) in builds with
 * DEBUG=1, where FULGUR_LOG says up to which level (default 1); nothing in others, not even its
 * arguments.
 *   1  decisions that are made once in a while   2  each pass   3  each layer
 */
#ifndef FG_SRC_BASE_LOG_H
#define FG_SRC_BASE_LOG_H

#include <stdio.h>
#include <stdlib.h>

#ifdef FG_DEBUG
#define FG_LOG(level, ...)                                                                         \
    do {                                                                                           \
        const char *fg_log_ = getenv("FULGUR_LOG");                                                \
        if ((level) > (fg_log_ == NULL ? 1 : atoi(fg_log_))) break;                                \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                            \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
    } while (0)
#else
#define FG_LOG(level, ...) ((void)0)
#endif

#endif
