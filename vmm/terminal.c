/* SPDX-License-Identifier: MIT */
/*
 * See terminal.h. Restores at exit() and on fatal signals that nobody else handles; the state is static because a signal handler must find it.
 */
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/terminal.h"

static struct termios terminal_saved;
static volatile sig_atomic_t terminal_is_raw;
static int terminal_fd;
static bool terminal_has_hooks;

bool terminal_is_tty(int fd)
{
    return fd >= 0 && isatty(fd);
}

void terminal_restore(void)
{
    if (!terminal_is_raw)
        return;
    terminal_is_raw = 0;
    tcsetattr(terminal_fd, TCSANOW, &terminal_saved);
}

static void terminal_fatal(int signal)
{
    terminal_restore();
    raise(signal); /* SA_RESETHAND: this time it kills */
}

/* A handler is set only where there is none: whoever comes later (an engine that catches its own faults) chains to it for faults not his. */
static void terminal_add_hooks(void)
{
    static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGXCPU };
    struct sigaction old, action = { .sa_handler = terminal_fatal, .sa_flags = SA_RESETHAND | SA_NODEFER };

    if (terminal_has_hooks)
        return;
    terminal_has_hooks = true;
    atexit(terminal_restore);
    for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
        if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL && !(old.sa_flags & SA_SIGINFO))
            sigaction(fatal[i], &action, NULL);
}

bool terminal_enter_raw(int fd)
{
    struct termios raw;

    if (terminal_is_raw)
        return true;
    /* In the background tcsetattr would stop us. */
    if (!terminal_is_tty(fd) || tcgetpgrp(fd) != getpgrp() || tcgetattr(fd, &terminal_saved) != 0)
        return false;
    terminal_fd = fd;
    terminal_add_hooks();
    raw = terminal_saved;
    raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    raw.c_cflag = (raw.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    raw.c_cc[VMIN] = 1; /* output processing stays: our own messages keep their line ends */
    raw.c_cc[VTIME] = 0;
    terminal_is_raw = 1;
    if (tcsetattr(fd, TCSANOW, &raw) != 0) {
        terminal_is_raw = 0;
        return false;
    }
    return true;
}
