/* SPDX-License-Identifier: MIT
 *
 * The kernel's numbers stand here, since headers of a build machine may be older than the kernel
 * that it runs on.  A call that is refused fails with EPERM, so that libraries go another way;
 * calls newer than this file do not exist (ENOSYS).
 */
#include "src/sys/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- Landlock ---- */

enum { CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446 }; /* on every architecture */

#define FS(bit) ((uint64_t)1 << (bit))
enum {
    EXECUTE,
    WRITE_FILE,
    READ_FILE,
    READ_DIR,
    REMOVE_DIR,
    REMOVE_FILE,
    MAKE_CHAR,
    MAKE_DIR,
    MAKE_REG,
    MAKE_SOCK,
    MAKE_FIFO,
    MAKE_BLOCK,
    MAKE_SYM,
    REFER,
    TRUNCATE,
    IOCTL_DEV
};

typedef struct ruleset {
    uint64_t fs, net, scoped;
} ruleset;

typedef struct __attribute__((packed)) beneath {
    uint64_t allowed;
    int32_t fd;
} beneath;

/* All that this version can refuse: rights of files; of TCP to bind and to connect; and beyond the
 * process abstract sockets and signals.  *size: of the struct that it takes. */
static ruleset handled(int version, size_t *size)
{
    ruleset r = {.fs = FS(MAKE_SYM + 1) - 1};
    *size = offsetof(ruleset, net);
    if (version >= 2) r.fs |= FS(REFER);
    if (version >= 3) r.fs |= FS(TRUNCATE);
    if (version >= 5) r.fs |= FS(IOCTL_DEV);
    if (version >= 4) {
        r.net = 3;
        *size = offsetof(ruleset, scoped);
    }
    if (version >= 6) {
        r.scoped = 3;
        *size = sizeof r;
    }
    return r;
}

static int version_here(void)
{
    const long v = syscall(CREATE_RULESET, NULL, (size_t)0, 1U);
    return v < 0 ? 0 : (int)v;
}

void fg_sandbox_begin(fg_sandbox *s)
{
    size_t size;
    *s = (fg_sandbox){.fd = -1, .version = version_here()};
    if (s->version == 0) return;
    const ruleset r = handled(s->version, &size);
    s->fd = (int)syscall(CREATE_RULESET, &r, size, 0U);
    if (s->fd >= 0) return;
    fg_sandbox_note(s, errno);
    s->version = 0;
}

void fg_sandbox_note(fg_sandbox *s, int error)
{
    if (error == EMFILE || error == ENFILE || error == ENOMEM) s->why = error;
}

static uint64_t rights_of(unsigned rights, bool is_folder)
{
    uint64_t fs = 0;
    if (rights & (FG_SANDBOX_READ | FG_SANDBOX_MAKE)) fs |= FS(READ_FILE) | FS(READ_DIR);
    if (rights & FG_SANDBOX_LIST) fs |= FS(READ_DIR);
    if (rights & (FG_SANDBOX_WRITE | FG_SANDBOX_MAKE)) fs |= FS(WRITE_FILE) | FS(TRUNCATE);
    if (rights & (FG_SANDBOX_REMOVE | FG_SANDBOX_MAKE)) fs |= FS(REMOVE_FILE);
    if (rights & FG_SANDBOX_MAKE) fs |= FS(MAKE_REG) | FS(MAKE_SYM) | FS(MAKE_DIR) | FS(REFER);
    if (rights & FG_SANDBOX_FOLDERS) fs |= FS(REMOVE_DIR);
    if (rights & FG_SANDBOX_DEVICE) fs |= FS(IOCTL_DEV);
    if (!is_folder) fs &= FS(WRITE_FILE) | FS(READ_FILE) | FS(TRUNCATE) | FS(IOCTL_DEV);
    return fs;
}

bool fg_sandbox_allow(fg_sandbox *s, const char *path, unsigned rights)
{
    struct stat sb;
    size_t size;
    if (s->fd < 0) return false;
    beneath b = {.fd = open(path, O_PATH | O_CLOEXEC)};
    if (b.fd < 0) {
        fg_sandbox_note(s, errno);
        return false;
    }
    bool good = fstat(b.fd, &sb) == 0;
    b.allowed = good ? rights_of(rights, S_ISDIR(sb.st_mode)) : 0;
    b.allowed &= handled(s->version, &size).fs;
    good = b.allowed != 0 && syscall(ADD_RULE, s->fd, 1, &b, 0U) == 0;
    if (!good && b.allowed != 0) fg_sandbox_note(s, errno);
    s->n_rule += good;
    (void)close(b.fd);
    return good;
}

/* ---- seccomp ---- */

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

/* The highest call that was looked at; the same on every architecture from 424 on. */
enum { NEWEST_CALL = 467 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0 /* else a process of its own looks for leaks, at the end */
#endif

/* Refused always. */
static const uint16_t refused[] = {
    SYS_execve,
    SYS_execveat, /* other programs */
    /* the network: whatever makes or uses a socket, but for the rest of the lists below */
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    /* rings are made before */
    SYS_io_uring_setup,
    SYS_io_uring_register,
    /* other processes */
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    424 /* pidfd_send_signal */,
    434 /* pidfd_open */,
    438 /* pidfd_getfd */,
    440 /* process_madvise */,
    /* what Landlock does not see of files: names by handle, path-wise cuts, owners, modes, times */
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    SYS_truncate,
    SYS_fchmod,
    SYS_fchmodat,
    452 /* fchmodat2 */,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    SYS_mknodat,
    463,
    466,
    /* the system */
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_setns,
    SYS_unshare,
    428,
    429,
    430,
    431,
    432,
    433,
    442,
    467,
    SYS_kexec_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    443,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_syslog,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_fanotify_init,
    SYS_vmsplice,
    SYS_personality,
    SYS_memfd_secret,
#ifdef SYS_fork
    SYS_fork,
    SYS_vfork,
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_utime,
    SYS_utimes,
    SYS_futimesat,
    SYS_mknod,
    SYS_iopl,
    SYS_ioperm,
    SYS_kexec_file_load,
#endif
};

/* Refused but to a card's driver, which talks to services of this machine. */
static const uint16_t services[] = {
    SYS_socketpair, SYS_connect,  SYS_sendto,   SYS_recvfrom,     SYS_sendmsg,
    SYS_recvmsg,    SYS_sendmmsg, SYS_recvmmsg, SYS_memfd_create,
};

enum { MOST = 2 * (sizeof refused + sizeof services) / sizeof refused[0] + 64 };

typedef struct program {
    struct sock_filter at[MOST];
    uint16_t n;
} program;

static void put(program *p, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
    if (p->n < MOST) p->at[p->n++] = (struct sock_filter){code, jt, jf, k};
}

#define DATA(member) ((uint32_t)offsetof(struct seccomp_data, member))

static void load(program *p, uint32_t offset)
{
    put(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, offset);
}

static void answer(program *p, uint32_t code)
{
    put(p, BPF_RET | BPF_K, 0, 0, code);
}

/* The call in the accumulator is answered with `code`. */
static void when(program *p, uint32_t call, uint32_t code)
{
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call);
    answer(p, code);
}

#define NO(error) (SECCOMP_RET_ERRNO | (uint32_t)(error))

/* A call whose argument tells: refused where (argument & mask) is, or with `unless` is not, value.
 */
static void judge(program *p, uint32_t call, uint32_t argument, uint32_t mask, uint32_t value,
                  bool unless)
{
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 5, call);
    load(p, argument);
    put(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, mask);
    put(p, BPF_JMP | BPF_JEQ | BPF_K, unless ? 1 : 0, unless ? 0 : 1, value);
    answer(p, NO(EPERM));
    load(p, DATA(nr));
}

static void write_program(program *p, unsigned keep)
{
    const bool card = (keep & FG_SANDBOX_SERVICES) != 0;
#ifdef ARCH
    load(p, DATA(arch));
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCH);
    answer(p, SECCOMP_RET_KILL_PROCESS); /* calls of another architecture have other numbers */
#endif
    load(p, DATA(nr));
    put(p, BPF_JMP | BPF_JGT | BPF_K, 0, 1, NEWEST_CALL); /* and those of x32 */
    answer(p, NO(ENOSYS));
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        when(p, refused[i], NO(EPERM));
    }
    for (size_t i = 0; i < sizeof services / sizeof services[0] && !card; i++) {
        when(p, services[i], NO(EPERM));
    }
    if (!card) when(p, SYS_socket, NO(EPERM));
    if (card) judge(p, SYS_socket, DATA(args[0]), UINT32_MAX, AF_UNIX, true);
    /* a terminal would take what is pushed there for typed, when we are gone */
    judge(p, SYS_ioctl, DATA(args[1]), UINT32_MAX, TIOCSTI, false);
    judge(p, SYS_ioctl, DATA(args[1]), UINT32_MAX, TIOCLINUX, false);
    if (!SANITIZED) {
        when(p, SYS_ptrace, NO(EPERM));
        when(p, 435 /* clone3, whose flags cannot be seen */, NO(ENOSYS));
        judge(p, SYS_clone, DATA(args[0]), CLONE_THREAD, 0, false); /* threads only */
    }
    answer(p, SECCOMP_RET_ALLOW);
}

static bool refuse_calls(unsigned keep)
{
    program p = {.n = 0};
    write_program(&p, keep);
    if (p.n >= MOST) return false;
    const struct sock_fprog f = {p.n, p.at};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &f) == 0;
}

/* ---- both ---- */

void fg_sandbox_enter(fg_sandbox *s, unsigned keep)
{
    static const char none[] = "not in this kernel, or refused here";
    const bool given_up = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    if (s->fd >= 0) {
        if (!given_up || syscall(RESTRICT_SELF, s->fd, 0U) != 0) s->version = 0;
        (void)close(s->fd);
        s->fd = -1;
    }
    s->calls = given_up && refuse_calls(keep);
    s->missing[0] = '\0';
    if (s->version == 0 && !s->calls) {
        (void)snprintf(s->missing, sizeof s->missing, "Landlock and seccomp: %s", none);
    } else if (s->version == 0) {
        (void)snprintf(s->missing, sizeof s->missing, "Landlock: %s; any file may be opened", none);
    } else if (!s->calls) {
        (void)snprintf(s->missing, sizeof s->missing, "seccomp: %s; any system call may be made",
                       none);
    }
}

void fg_sandbox_describe(char *text, size_t size)
{
    const int version = version_here();
    const bool calls = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0;
    char files[40] = "no rules for files";
    if (version > 0) (void)snprintf(files, sizeof files, "files (Landlock %d)", version);
    (void)snprintf(text, size, "%s, %s", files,
                   calls ? "system calls (seccomp)" : "no rules for system calls");
}
