/* SPDX-License-Identifier: MIT
 *
 * What this process may still do, given away for good: files by Landlock (whoever has no rule is
 * refused, below folders too), system calls by seccomp: no other program, no network, no process
 * of its own, no ring that was not there before.  Meant for a program that reads what strangers
 * wrote: with a parser taken over, there is nowhere to go.
 *
 * Landlock binds the calling thread and those that it makes later: fg_sandbox_enter comes before
 * the first of them.  Libraries are loaded before, rings made before (fg_fetch_reserve).  Sources:
 * landlock(7), seccomp(2), up to version 7 of the former.
 */
#ifndef FG_SRC_SYS_SANDBOX_H
#define FG_SRC_SYS_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of a file, or of all below a folder. */
enum {
    FG_SANDBOX_READ = 1,    /* read files, list folders */
    FG_SANDBOX_WRITE = 2,   /* write to files that are there */
    FG_SANDBOX_MAKE = 4,    /* create, rename and remove files, create folders */
    FG_SANDBOX_REMOVE = 8,  /* remove files */
    FG_SANDBOX_LIST = 16,   /* list folders */
    FG_SANDBOX_DEVICE = 32, /* ask a device (ioctl) */
    FG_SANDBOX_FOLDERS = 64 /* rename and remove folders */
};

/* What is not taken away. */
enum {
    FG_SANDBOX_SERVICES = 1 /* sockets of this machine and anonymous files: a card's driver */
};

typedef struct fg_sandbox {
    int fd;            /* of the rules; -1: no Landlock, or it is in force */
    int version;       /* of Landlock; 0: the kernel has none, or refuses it */
    bool calls;        /* seccomp is in force */
    uint32_t n_rule;   /* that were accepted */
    int why;           /* errno of a rule for which files or memory did not suffice; 0: none */
    char missing[160]; /* what is not in force and why; empty: all is */
} fg_sandbox;

/* No rule yet.  Nothing changes until fg_sandbox_enter. */
void fg_sandbox_begin(fg_sandbox *s);

/* Adds rights (FG_SANDBOX_READ and so on) for path, a link being what it leads to.  What is not
 * there is left out; false then.  What could not be asked is noted in s->why: whoever goes on would
 * be refused a file that is there. */
bool fg_sandbox_allow(fg_sandbox *s, const char *path, unsigned rights);

/* Notes in s->why that this error of a call for the rules came from a lack of files or memory. */
void fg_sandbox_note(fg_sandbox *s, int error);

/* Puts it in force for the whole process; keep: FG_SANDBOX_SERVICES or 0.  What the kernel has not
 * is left out, and named in s->missing. */
void fg_sandbox_enter(fg_sandbox *s, unsigned keep);

/* What this kernel has, as a line: "files (Landlock 7), system calls (seccomp)". */
void fg_sandbox_describe(char *text, size_t size);

#endif
