/* SPDX-License-Identifier: MIT
 *
 * What a sandbox refuses, from the thread that entered it, from one made later and through a ring
 * that was there before; and that each of these tests finds the rule missing that it is about.
 * Every try is a process of its own: nobody leaves a sandbox.
 */
#include <arpa/inet.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>

/* a copy of its own, whose filter can be written with a rule less */
#define fg_sandbox_begin    own_begin
#define fg_sandbox_allow    own_allow
#define fg_sandbox_enter    own_enter
#define fg_sandbox_describe own_describe
#include "src/sys/sandbox.c"

#include "src/expert/fetch.h"
#include "tests/fg_test.h"

static char inside[512], outside[512];

static const char *in(const char *folder, const char *name)
{
    static char path[2][1024];
    static int turn;
    turn ^= 1;
    (void)snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* Two folders with a file each. */
static void begin(void)
{
    (void)snprintf(inside, sizeof inside, "%s", fg_test_tmp("inside"));
    (void)snprintf(outside, sizeof outside, "%s", fg_test_tmp("outside"));
    (void)mkdir(inside, 0700);
    (void)mkdir(outside, 0700);
    fg_test_put(in(inside, "file"), "text");
    fg_test_put(in(outside, "file"), "text");
}

/* ---- acts: 0, or errno ---- */

static int closed(int fd)
{
    const int why = fd < 0 ? errno : 0;
    if (fd >= 0) (void)close(fd);
    return why;
}

static int act_read(const char *folder)
{
    return closed(open(in(folder, "file"), O_RDONLY));
}

static int act_list(const char *folder)
{
    return closed(open(folder, O_RDONLY | O_DIRECTORY));
}

static int act_write(const char *folder)
{
    return closed(open(in(folder, "file"), O_WRONLY));
}

static int act_cut(const char *folder)
{
    return truncate(in(folder, "file"), 1) == 0 ? 0 : errno;
}

static int act_create(const char *folder)
{
    return closed(open(in(folder, "new"), O_WRONLY | O_CREAT, 0600));
}

static int act_unnamed(const char *folder)
{
    return closed(open(folder, O_TMPFILE | O_RDWR, 0600));
}

static int act_rename(const char *folder)
{
    return rename(in(folder, "file"), in(folder, "moved")) == 0 ? 0 : errno;
}

static int act_unlink(const char *folder)
{
    return unlink(in(folder, "file")) == 0 ? 0 : errno;
}

static int act_mode(const char *folder)
{
    return chmod(in(folder, "file"), 0777) == 0 ? 0 : errno;
}

static int act_socket(const char *folder)
{
    (void)folder;
    return closed(socket(AF_INET, SOCK_DGRAM, 0));
}

static int act_local_socket(const char *folder)
{
    (void)folder;
    return closed(socket(AF_UNIX, SOCK_STREAM, 0));
}

static int act_ring(const char *folder)
{
    struct io_uring ring;
    (void)folder;
    const int rc = io_uring_queue_init(4, &ring, 0);
    if (rc == 0) io_uring_queue_exit(&ring);
    return -rc;
}

static int act_process(const char *folder)
{
    (void)folder;
    const pid_t pid = fork();
    if (pid == 0) _exit(0);
    return pid < 0 ? errno : 0;
}

static int act_program(const char *folder)
{
    (void)folder;
    (void)execl("/bin/true", "true", NULL); /* status 0, when it is possible */
    return errno;
}

static int act_type(const char *folder)
{
    (void)folder; /* ENOTTY without a sandbox */
    return ioctl(0, TIOCSTI, "x") != 0 && errno == EPERM ? EPERM : 0;
}

static int act_kill(const char *folder)
{
    (void)folder;
    return kill(getppid(), 0) == 0 ? 0 : errno;
}

/* ---- one try ---- */

typedef int act_fn(const char *folder);

enum { NOTHING, LANDLOCK, SECCOMP, WHOLE, CARD }; /* what is in force */

typedef struct
try {
    act_fn *act;
    const char *folder;
    int result;
}
try;

static void *on_thread(void *arg)
{
    try *t = arg;
    t->result = t->act(t->folder);
    return NULL;
}

/* Enters, with the folder `inside` open for everything and `more` for reading. */
static bool enter(int how, const char *more)
{
    fg_sandbox s;
    own_begin(&s);
    if (how == NOTHING) return true;
    (void)own_allow(&s, inside, FG_SANDBOX_READ | FG_SANDBOX_MAKE);
    if (more != NULL) (void)own_allow(&s, more, FG_SANDBOX_READ);
    if (how == LANDLOCK) {
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && syscall(RESTRICT_SELF, s.fd, 0U) == 0;
    }
    if (how == SECCOMP) return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && refuse_calls(0);
    own_enter(&s, how == CARD ? FG_SANDBOX_SERVICES : 0);
    return s.version > 0 && s.calls && s.missing[0] == '\0' && s.n_rule > 0;
}

/* What the act gave in a process in which `how` is in force: 0, errno; 250: could not enter. */
static int attempt(act_fn *act, const char *folder, int how, bool worker, const char *more)
{
    int status = 0;
    begin();
    const pid_t pid = fork();
    if (pid == 0) {
        try t = {act, folder, 251};
        pthread_t thread;
        if (!enter(how, more)) _exit(250);
        if (!worker) _exit(act(folder));
        if (pthread_create(&thread, NULL, on_thread, &t) != 0) _exit(252);
        (void)pthread_join(thread, NULL);
        _exit(t.result);
    }
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 253;
}

static bool is_refusal(int e)
{
    return e == EACCES || e == EPERM;
}

static bool has_landlock(void)
{
    if (version_here() > 0) return true;
    fg_test_skip("no Landlock in this kernel");
    return false;
}

static const struct {
    const char *name;
    act_fn *act;
    bool in_folder; /* possible in a folder of the rules */
    bool by_calls;  /* seccomp refuses it, everywhere */
    bool by_files;  /* Landlock does, of this or a later version */
    int version;
} acts[] = {
    {"read", act_read, true, false, true, 1},
    {"list", act_list, true, false, true, 1},
    {"write", act_write, true, false, true, 1},
    {"cut", act_cut, false, true, true, 3},
    {"create", act_create, true, false, true, 1},
    {"unnamed", act_unnamed, true, false, true, 1},
    {"rename", act_rename, true, false, true, 1},
    {"unlink", act_unlink, true, false, true, 1},
    {"mode", act_mode, false, true, false, 0},
    {"socket", act_socket, false, true, false, 0},
    {"local socket", act_local_socket, false, true, false, 0},
    {"ring", act_ring, false, true, false, 0},
    {"process", act_process, false, true, false, 0},
    {"program", act_program, false, true, true, 1},
    {"type", act_type, false, true, false, 0},
    {"kill", act_kill, false, false, true, 6},
};
enum { N_ACT = sizeof acts / sizeof acts[0] };

#define SAME(what, got, want)                                                                      \
    do {                                                                                           \
        if ((got) != (want)) {                                                                     \
            fg_test_fail(__FILE__, __LINE__, "%s: %s %s, expected the other", acts[i].name, what,  \
                         (got) ? "refused" : "possible");                                          \
        }                                                                                          \
    } while (0)

FG_TEST(acts_are_refused)
{
    if (!has_landlock()) return;
    for (int i = 0; i < N_ACT; i++) {
        if (FG_TEST_SANITIZED && acts[i].act == act_process) continue; /* left to leak checks */
        if (acts[i].version > version_here()) continue;
        for (int worker = 0; worker < 2; worker++) {
            const int e = attempt(acts[i].act, outside, WHOLE, worker != 0, NULL);
            SAME(worker ? "from a worker" : "from the main thread", is_refusal(e), true);
        }
        if (acts[i].in_folder) {
            SAME("inside", attempt(acts[i].act, inside, WHOLE, false, NULL) != 0, false);
        }
    }
}

/* The controls: with one half, or one rule more, each is possible again. */
FG_TEST(missing_rule_is_found)
{
    if (!has_landlock()) return;
    for (int i = 0; i < N_ACT; i++) {
        if (FG_TEST_SANITIZED && acts[i].act == act_process) continue;
        const bool files = acts[i].by_files && acts[i].version <= version_here();
        SAME("with nothing", attempt(acts[i].act, outside, NOTHING, false, NULL) != 0, false);
        SAME("with Landlock", is_refusal(attempt(acts[i].act, outside, LANDLOCK, true, NULL)),
             files);
        SAME("with seccomp", is_refusal(attempt(acts[i].act, outside, SECCOMP, true, NULL)),
             acts[i].by_calls);
    }
    CHECK_U64(attempt(act_read, outside, WHOLE, true, outside), 0);
    CHECK_U64(attempt(act_write, outside, WHOLE, true, outside), EACCES);
}

FG_TEST(a_card_has_local_sockets)
{
    if (!has_landlock()) return;
    CHECK_U64(attempt(act_local_socket, outside, CARD, true, NULL), 0);
    CHECK_U64(attempt(act_socket, outside, CARD, true, NULL), EPERM);
    CHECK(is_refusal(attempt(act_program, outside, CARD, true, NULL)));
}

/* ---- every call of the list ---- */

/* The call with arguments that do nothing, in a process of its own, without rule `without` (0:
 * with all of them; -1: without a sandbox). */
static int attempt_call(uint16_t call, int without)
{
    int status = 0;
    const pid_t pid = fork();
    if (pid == 0) {
        program p = {.n = 0};
        write_program(&p, 0);
        for (uint16_t i = 0; i < p.n && without > 0; i++) {
            if (p.at[i].code == (BPF_JMP | BPF_JEQ | BPF_K) && p.at[i].k == call) {
                p.at[i].k = 0x3fffffff;
            }
        }
        const struct sock_fprog f = {p.n, p.at};
        if (without >= 0 &&
            (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
             syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &f) != 0)) {
            _exit(250);
        }
        errno = 0;
        (void)syscall(call, -1L, -1L, -1L, -1L, -1L, -1L);
        _exit(errno);
    }
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 253;
}

FG_TEST(every_call_of_the_list)
{
    const size_t n = sizeof refused / sizeof refused[0], more = sizeof services / 2;
    int found = 0;
    for (size_t i = 0; i < n + more; i++) {
        const uint16_t call = i < n ? refused[i] : services[i - n];
#ifdef SYS_vfork
        if (call == SYS_vfork) continue; /* would share the stack */
#endif
        if (attempt_call(call, 0) != EPERM) {
            fg_test_fail(__FILE__, __LINE__, "call %u is possible, expected EPERM", call);
        }
        if (attempt_call(call, -1) == EPERM) continue; /* refused to this user anyhow */
        found++;
        if (attempt_call(call, 1) == EPERM) {
            fg_test_fail(__FILE__, __LINE__, "call %u: its missing rule is not seen", call);
        }
    }
    CHECK(found >= 40);
    CHECK_U64(attempt_call(NEWEST_CALL + 1, 0), ENOSYS);
}

/* ---- rings ---- */

/* The result of one operation through a ring: bytes, or -errno. */
static int submit(struct io_uring *ring, uint8_t op, int fd, const void *at, uint32_t n,
                  uint64_t offset)
{
    struct io_uring_cqe *cqe = NULL;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    io_uring_prep_rw(op, sqe, fd, at, n, offset);
    if (io_uring_submit_and_wait(ring, 1) < 0 || io_uring_peek_cqe(ring, &cqe) != 0) return -1000;
    const int res = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return res;
}

typedef struct ring_results {
    int read, write, open, connect;
} ring_results;

static void use_ring(struct io_uring *ring, int fd, int connection, ring_results *r)
{
    static char byte;
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    r->read = submit(ring, IORING_OP_READ, fd, &byte, 1, 0);
    r->write = submit(ring, IORING_OP_WRITE, fd, "x", 1, 0);
    r->open = submit(ring, IORING_OP_OPENAT, AT_FDCWD, in(inside, "file"), 0, 0);
    r->connect = submit(ring, IORING_OP_CONNECT, connection, &to, 0, sizeof to);
}

/* Through the program's own ring, or one without restrictions, both made before. */
static bool try_ring(bool own, ring_results *out)
{
    int status = 0, pipe_fd[2];
    begin();
    if (pipe(pipe_fd) != 0) return false;
    const pid_t pid = fork();
    if (pid == 0) {
        struct io_uring plain;
        void *ctx = NULL;
        ring_results r = {0};
        fg_fetch_reserve(1);
        const int fd = open(in(inside, "file"), O_RDWR);
        const int connection = socket(AF_INET, SOCK_DGRAM, 0);
        if (io_uring_queue_init(4, &plain, 0) != 0 || !enter(WHOLE, NULL)) _exit(1);
        if (own && fg_io_uring.open(&ctx, fd, 4, NULL) != FG_OK) _exit(2);
        use_ring(own ? ctx : &plain, fd, connection, &r); /* a ring is the first member */
        _exit(write(pipe_fd[1], &r, sizeof r) == (ssize_t)sizeof r ? 0 : 3);
    }
    (void)close(pipe_fd[1]);
    const bool good = read(pipe_fd[0], out, sizeof *out) == (ssize_t)sizeof *out;
    (void)close(pipe_fd[0]);
    return waitpid(pid, &status, 0) == pid && status == 0 && good;
}

FG_TEST(rings_read_and_do_nothing_else)
{
    ring_results r;
    struct io_uring ring;
    if (!has_landlock()) return;
    if (io_uring_queue_init(4, &ring, 0) != 0) {
        fg_test_skip("no io_uring here");
        return;
    }
    io_uring_queue_exit(&ring);
    REQUIRE(try_ring(true, &r));
    CHECK(r.read == 1 && r.write == -EACCES && r.open == -EACCES && r.connect == -EACCES);
    REQUIRE(try_ring(false, &r)); /* the control: what a ring could do */
    CHECK(r.read == 1 && r.write == 1 && r.open >= 0 && r.connect == 0);
}
