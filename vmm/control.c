/* SPDX-License-Identifier: MIT */
/*
 * The controlling thread: terminal input to the guest, signals from the outside, late console output, the panic's deadline. It never waits for the
 * device lock, which a vCPU may hold while it waits for a slow reader of the console: so a signal always ends the VM.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "vmm/machine.h"
#include "vmm/terminal.h"

#define CONTROL_TICK_MS 5
#define CONTROL_PANIC_NS 10000000000ll /* a kernel that has panicked may print its last words this long */

static sigset_t control_old_mask;
static struct sigaction control_old_usr1, control_old_pipe;

static void control_ignore(int signal)
{
    (void)signal; /* its arrival alone ends a system call */
}

int control_init(struct machine *m, struct vmm_error *error)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT };
    struct sigaction kick = { .sa_handler = control_ignore }, ignore = { .sa_handler = SIG_IGN };
    sigset_t set;

    sigemptyset(&set);
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaddset(&set, signals[i]);
    pthread_sigmask(SIG_BLOCK, &set, &control_old_mask);
    sigaction(SIGUSR1, &kick, &control_old_usr1);
    sigaction(SIGPIPE, &ignore, &control_old_pipe);
    m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (m->wake_fd < 0 || m->signal_fd < 0)
        return error_set(error, -errno, "cannot create event descriptors: %s", strerror(errno));
    m->console.wake_fd = m->wake_fd;
    m->console.is_raw = terminal_enter_raw(m->config->in_fd);
    return 0;
}

void control_fini(struct machine *m)
{
    terminal_restore();
    if (m->wake_fd >= 0)
        close(m->wake_fd);
    if (m->signal_fd >= 0)
        close(m->signal_fd);
    sigaction(SIGUSR1, &control_old_usr1, NULL);
    sigaction(SIGPIPE, &control_old_pipe, NULL);
    pthread_sigmask(SIG_SETMASK, &control_old_mask, NULL);
}

static void control_end(struct machine *m, int signal)
{
    m->end_signal = signal;
    machine_request_end(m, END_SIGNAL);
}

static void control_signals(struct machine *m)
{
    struct signalfd_siginfo info;

    while (read(m->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        switch (info.ssi_signo) {
        case SIGTSTP:
            terminal_restore();
            raise(SIGSTOP);
            m->console.is_raw = terminal_enter_raw(m->config->in_fd);
            break;
        case SIGCONT:
            m->console.is_raw = terminal_enter_raw(m->config->in_fd);
            break;
        default:
            control_end(m, (int)info.ssi_signo);
            break;
        }
    }
}

/* A terminal is read only while it is ours, for a read in the background would stop the process. */
static bool control_wants_input(const struct machine *m)
{
    return !m->console.is_eof && (!m->console.is_tty || m->console.is_raw);
}

/* With the device lock held. */
static void control_read_input(struct machine *m)
{
    uint8_t bytes[256];
    enum console_key key;
    unsigned room = serial_room(&m->serial);
    ssize_t n;

    if (room == 0)
        return;
    n = read(m->config->in_fd, bytes, room < sizeof(bytes) ? room : sizeof(bytes));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        m->console.is_eof = true; /* of a pipe or file: the guest just hears nothing more */
        if (m->console.is_tty)    /* the terminal is gone, and with it every way to reach this machine */
            control_end(m, SIGHUP);
        return;
    }
    serial_input(&m->serial, bytes, console_filter(&m->console, bytes, (unsigned)n, &key));
    if (key == CONSOLE_KEY_QUIT)
        machine_request_end(m, END_QUIT);
}

static void control_check_panic(struct machine *m)
{
    int64_t panic_ns;

    pthread_mutex_lock(&m->end_lock);
    panic_ns = m->panic_ns;
    pthread_mutex_unlock(&m->end_lock);
    if (panic_ns && watch_now_ns() - panic_ns > CONTROL_PANIC_NS)
        machine_request_end(m, END_PANIC);
}

static int control_timeout_ms(struct machine *m, bool is_waiting_for_lock)
{
    int timeout_ms = -1;

    pthread_mutex_lock(&m->end_lock);
    if (m->panic_ns)
        timeout_ms = 500;
    pthread_mutex_unlock(&m->end_lock);
    /* Output without a line end waits for more of it, but no longer than a tick. */
    return is_waiting_for_lock || console_has_output(&m->console) ? CONTROL_TICK_MS : timeout_ms;
}

void control_run(struct machine *m)
{
    bool is_waiting_for_lock = false, is_full = false;
    uint64_t count;

    while (m->end == END_NONE) {
        struct pollfd p[3] = { { .fd = m->wake_fd, .events = POLLIN }, { .fd = m->signal_fd, .events = POLLIN } };
        bool wants_input = control_wants_input(m) && !is_waiting_for_lock && !is_full;

        p[2].fd = wants_input ? m->config->in_fd : -1;
        p[2].events = POLLIN;
        if (poll(p, 3, control_timeout_ms(m, is_waiting_for_lock)) < 0 && errno != EINTR) {
            machine_fail(m, "cannot wait for events: %s", strerror(errno));
            return;
        }
        if (p[0].revents)
            (void)!read(m->wake_fd, &count, sizeof(count));
        if (p[1].revents)
            control_signals(m);
        if (p[2].revents || is_waiting_for_lock || is_full) {
            is_waiting_for_lock = pthread_mutex_trylock(&m->lock) != 0;
            if (!is_waiting_for_lock) {
                is_full = serial_room(&m->serial) == 0;
                if (p[2].revents && !is_full)
                    control_read_input(m);
                pthread_mutex_unlock(&m->lock);
            }
        }
        console_flush_ready(&m->console);
        if (m->console.error)
            machine_fail(m, "cannot write to the console: %s", strerror(m->console.error));
        control_check_panic(m);
    }
}
