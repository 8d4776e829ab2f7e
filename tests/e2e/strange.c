/* SPDX-License-Identifier: MIT
 *
 * Runs a program on a machine that it is not on:
 *   strange nox PROGRAM ...
 *       memory that can be executed is refused, as hardened systems do
 *   strange slow SECONDS END PROGRAM ...
 *       opening a file whose name ends so takes that long the first time, as where a scanner reads
 *       it first; "opened N" at the end, on standard error: how often one was opened
 *   strange arm FOLDER RULE PROGRAM ...
 *       in a user's name space of its own, in which the kernel starts programs of another machine
 *       by RULE (binfmt_misc)
 * Works for static programs, since it is the kernel that is told.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int good, const char *what)
{
    if (good) return;
    fprintf(stderr, "strange: %s: %s\n", what, strerror(errno));
    _exit(99);
}

static int filter(struct sock_filter *code, size_t n, unsigned flags)
{
    const struct sock_fprog p = {(unsigned short)n, code};
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}

#define LOAD(at)        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, at))
#define IS(k, yes, no)  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, yes, no)
#define HAS(k, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, k, yes, no)
#define ANSWER(k)       BPF_STMT(BPF_RET | BPF_K, k)

/* ---- no memory that can be executed, but for libraries ---- */

static void refuse_executable(void)
{
    struct sock_filter code[] = {
        LOAD(nr),
        IS(SYS_mprotect, 3, 0), /* to the load of its protection, which is where mmap has it */
        IS(SYS_mmap, 0, 4),     /* to the answer "yes" */
        LOAD(args[3]),
        HAS(MAP_ANONYMOUS, 0, 2),
        LOAD(args[2]),
        HAS(PROT_EXEC, 1, 0),
        ANSWER(SECCOMP_RET_ALLOW),
        ANSWER(SECCOMP_RET_ERRNO | EACCES),
    };
    need(filter(code, sizeof code / sizeof code[0], 0) == 0, "seccomp");
    void *p =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(p == MAP_FAILED, "memory to execute is given, expected a refusal");
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(p != MAP_FAILED, "memory");
    need(mprotect(p, 4096, PROT_READ | PROT_EXEC) != 0,
         "memory becomes executable, expected a refusal");
}

/* ---- slow opening ---- */

typedef union message { /* of one descriptor */
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
} message;

static void send_fd(int to, int fd)
{
    message m = {.head = {.cmsg_len = CMSG_LEN(sizeof fd),
                          .cmsg_level = SOL_SOCKET,
                          .cmsg_type = SCM_RIGHTS}};
    char byte = 0;
    struct iovec one = {&byte, 1};
    struct msghdr h = {
        .msg_iov = &one, .msg_iovlen = 1, .msg_control = &m, .msg_controllen = sizeof m};
    memcpy(CMSG_DATA(&m.head), &fd, sizeof fd);
    need(sendmsg(to, &h, 0) == 1, "sendmsg");
}

static int take_fd(int from)
{
    message m;
    char byte;
    int fd;
    struct iovec one = {&byte, 1};
    struct msghdr h = {
        .msg_iov = &one, .msg_iovlen = 1, .msg_control = &m, .msg_controllen = sizeof m};
    need(recvmsg(from, &h, 0) == 1, "recvmsg");
    memcpy(&fd, CMSG_DATA(&m.head), sizeof fd);
    return fd;
}

static int ends_so(const struct seccomp_notif *n, const char *end)
{
    char path[4096];
    const struct iovec here = {path, sizeof path - 1},
                       there = {(void *)(uintptr_t)n->data.args[1], sizeof path - 1};
    if (n->data.args[2] & (O_PATH | O_DIRECTORY)) return 0; /* opens no file */
    ssize_t got = process_vm_readv((pid_t)n->pid, &here, 1, &there, 1, 0);
    if (got <= 0) { /* the text ends before a page that is not there */
        const struct iovec less = {there.iov_base, 4096 - (uintptr_t)there.iov_base % 4096};
        got = process_vm_readv((pid_t)n->pid, &here, 1, &less, 1, 0);
    }
    path[got > 0 ? got : 0] = '\0';
    const size_t m = strlen(path), k = strlen(end);
    return m >= k && strcmp(path + m - k, end) == 0;
}

/* One call, if there is one within a tenth of a second; 1 if it was of such a file. */
static unsigned let_open(int listener, unsigned seconds, const char *end, int scanned)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};
    struct seccomp_notif n = {0};
    struct seccomp_notif_resp r = {.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    if (poll(&p, 1, 100) != 1 || !(p.revents & POLLIN)) return 0;
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n) != 0) return 0; /* it has gone */
    const unsigned counts = (unsigned)ends_so(&n, end);
    if (counts && !scanned) (void)sleep(seconds);
    r.id = n.id;
    (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
    return counts;
}

static int slow_open(unsigned seconds, const char *end, char **program)
{
    struct sock_filter code[] = {
        LOAD(nr),
        IS(SYS_openat, 0, 1),
        ANSWER(SECCOMP_RET_USER_NOTIF),
        ANSWER(SECCOMP_RET_ALLOW),
    };
    int pair[2], status;
    unsigned n = 0;
    need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    const pid_t pid = fork();
    if (pid == 0) {
        const int listener =
            filter(code, sizeof code / sizeof code[0], SECCOMP_FILTER_FLAG_NEW_LISTENER);
        need(listener >= 0, "seccomp");
        send_fd(pair[1], listener);
        (void)close(listener);
        (void)execvp(program[0], program);
        need(0, program[0]);
    }
    const int listener = take_fd(pair[0]);
    while (waitpid(pid, &status, WNOHANG) == 0) n += let_open(listener, seconds, end, n > 0);
    fprintf(stderr, "opened %u\n", n);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* ---- programs of another machine ---- */

static void write_all(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY);
    need(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
    (void)close(fd);
}

static int of_another(const char *folder, const char *rule, char **program)
{
    char path[4096], byte = 0;
    int to[2], back[2], status;
    need(pipe2(to, O_CLOEXEC) == 0 && pipe2(back, O_CLOEXEC) == 0, "pipe");
    const pid_t pid = fork();
    if (pid == 0) {
        need(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0, "unshare");
        need(write(back[1], &byte, 1) == 1 && read(to[0], &byte, 1) == 1, "pipe");
        need(setgid(0) == 0 && setuid(0) == 0, "setuid");
        need(mount("none", folder, "binfmt_misc", 0, NULL) == 0, "binfmt_misc");
        (void)snprintf(path, sizeof path, "%s/register", folder);
        write_all(path, rule);
        (void)execvp(program[0], program);
        need(0, program[0]);
    }
    need(read(back[0], &byte, 1) == 1, "the other process");
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, i == 0 ? "uid_map" : "gid_map");
        write_all(path, "0 0 65536");
    }
    need(write(to[1], &byte, 1) == 1 && waitpid(pid, &status, 0) == pid, "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "nox") == 0) {
        refuse_executable();
        (void)execvp(argv[2], argv + 2);
        need(0, argv[2]);
    }
    if (argc > 4 && strcmp(argv[1], "slow") == 0) {
        return slow_open((unsigned)atoi(argv[2]), argv[3], argv + 4);
    }
    if (argc > 4 && strcmp(argv[1], "arm") == 0) return of_another(argv[2], argv[3], argv + 4);
    errno = EINVAL;
    need(0, "usage");
}
