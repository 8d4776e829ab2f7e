/* SPDX-License-Identifier: MIT */
#include "src/cli/signals.h"

#include <signal.h>
#include <stddef.h>

#include "src/cli/args.h"

static volatile sig_atomic_t caught; /* the first that came; 0: none */
static volatile sig_atomic_t patient;
static void (*volatile farewell)(void);

void cli_say_farewell(void)
{
    void (*const f)(void) = farewell;
    if (f != NULL) f();
}

void cli_set_farewell(void (*fn)(void))
{
    farewell = fn;
}

void cli_keep_interrupt(bool keep)
{
    patient = keep;
}

static void on_signal(int sig)
{
    if (patient != 0 && sig == SIGINT && caught != 0) return;
    if (patient != 0 && caught == SIGINT) { /* whoever ends the process means more than a reply */
        caught = sig;
        return;
    }
    if (caught != 0) {
        cli_say_farewell();
        (void)signal(sig, SIG_DFL);
        (void)raise(sig); /* when this handler has returned */
        return;
    }
    caught = sig;
}

static void catch (int sig, bool even_ignored)
{
    /* SA_RESTART: a write that a slow terminal holds up goes on, else what it had left would be
     * lost and the stream be broken.  Who reads what people type waits by poll, which ends all the
     * same. */
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;
    (void)sigemptyset(&a.sa_mask);
    if (sigaction(sig, NULL, &old) == 0 && old.sa_handler == SIG_IGN && !even_ignored) return;
    (void)sigaction(sig, &a, NULL);
}

void cli_catch_interrupt(void)
{
    catch (SIGINT, true);
    catch (SIGTERM, false);
    catch (SIGHUP, false);
}

bool cli_interrupted(void)
{
    return caught != 0;
}

void cli_clear_interrupt(void)
{
    if (caught == SIGINT) caught = 0;
    cli_catch_interrupt();
}

bool cli_terminated(void)
{
    return caught != 0 && caught != SIGINT;
}

int cli_exit_status(int status)
{
    return status == EXIT_FAILED && caught != 0 ? 128 + (int)caught : status;
}
