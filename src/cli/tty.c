/* SPDX-License-Identifier: MIT */
#include "src/cli/tty.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "src/cli/signals.h"

static struct termios found;
static bool is_open, in_brackets;
static volatile sig_atomic_t moved;

/* Async-signal-safe, as all that the handlers call. */
static void say(const char *text)
{
    if (write(1, text, strlen(text)) < 0) return; /* nobody is there to be told */
}

/* What the next program at this terminal expects. */
static void leave(void)
{
    if (!is_open) return;
    if (in_brackets) say("\033[?2004l");
    (void)tcsetattr(0, TCSADRAIN, &found);
}

static void on_resize(int sig)
{
    (void)sig;
    moved = 1;
}

static void catch_stop(void);

/* Ctrl-Z: everything is put right, the process stops here, and later it is as it was. */
static void on_stop(int sig)
{
    struct termios now;
    sigset_t only;
    const bool known = tcgetattr(0, &now) == 0;
    leave();
    (void)sigemptyset(&only);
    (void)sigaddset(&only, sig);
    (void)signal(sig, SIG_DFL);
    (void)raise(sig);
    (void)pthread_sigmask(SIG_UNBLOCK, &only, NULL); /* stops, and goes on */
    catch_stop();
    if (known) (void)tcsetattr(0, TCSADRAIN, &now);
    if (in_brackets) say("\033[?2004h");
    moved = 1;
}

static void catch_stop(void)
{
    struct sigaction a = {.sa_handler = on_stop, .sa_flags = SA_RESTART}, old;
    (void)sigemptyset(&a.sa_mask);
    if (sigaction(SIGTSTP, NULL, &old) == 0 && old.sa_handler == SIG_IGN) return;
    (void)sigaction(SIGTSTP, &a, NULL);
}

bool tty_open(void)
{
    if (isatty(0) != 1 || isatty(1) != 1 || tcgetattr(0, &found) != 0) return false;
    struct sigaction a = {.sa_handler = on_resize, .sa_flags = SA_RESTART};
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGWINCH, &a, NULL);
    is_open = true;
    cli_set_farewell(leave);
    catch_stop();
    return true;
}

void tty_close(void)
{
    leave();
    if (is_open) cli_set_farewell(NULL);
    is_open = in_brackets = false;
}

void tty_hush(bool speaks)
{
    if (!is_open) return;
    struct termios t = found;
    t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    if (speaks) {
        t.c_lflag |= ISIG;
    } else {
        t.c_lflag &= ~(tcflag_t)ISIG;
    }
    t.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR);
    t.c_cc[VMIN] = 0; /* reading takes what is there */
    t.c_cc[VTIME] = 0;
    (void)tcsetattr(0, TCSADRAIN, &t);
}

void tty_paste(bool brackets)
{
    if (!is_open || brackets == in_brackets) return;
    in_brackets = brackets;
    say(brackets ? "\033[?2004h" : "\033[?2004l");
}

void tty_stop(void)
{
    (void)kill(0, SIGTSTP); /* the whole group, as the terminal would */
}

bool tty_moved(void)
{
    const bool was = moved != 0;
    moved = 0;
    return was;
}

unsigned tty_width(void)
{
    struct winsize w;
    return ioctl(1, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}
