/* SPDX-License-Identifier: MIT */
/*
 * See console.h. A vCPU thread writes out whole lines and waits if the reader is slow; the controlling thread writes the rest (prompts) a few
 * milliseconds later and never waits, so signals are always answered.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "vmm/console.h"
#include "vmm/terminal.h"

#define CONSOLE_ESCAPE 0x01 /* Ctrl-A */

void console_init(struct console *console, int in_fd, int out_fd, const char *marker, const _Atomic int *is_ending)
{
    memset(console, 0, sizeof(*console));
    console->in_fd = in_fd;
    console->out_fd = out_fd;
    console->is_ending = is_ending;
    console->wake_fd = -1;
    console->is_tty = terminal_is_tty(in_fd);
    console->is_eof = in_fd < 0;
    watch_init(&console->watch, marker);
    pthread_mutex_init(&console->lock, NULL);
}

void console_fini(struct console *console)
{
    pthread_mutex_destroy(&console->lock);
}

static bool console_is_writable(struct console *console, int timeout_ms)
{
    struct pollfd p = { .fd = console->out_fd, .events = POLLOUT };

    return poll(&p, 1, timeout_ms) > 0;
}

/* With the lock. */
static void console_write_out(struct console *console, bool may_wait)
{
    size_t done = 0;

    while (done < console->used && !console->error) {
        ssize_t n;

        if (!console_is_writable(console, 0)) {
            if (!may_wait || *console->is_ending)
                break;
            console_is_writable(console, 100); /* a kick cuts this short */
            continue;
        }
        n = write(console->out_fd, console->out + done, console->used - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR && errno != EAGAIN)
            console->error = errno;
        else if (!may_wait)
            break;
    }
    if (console->error)
        done = console->used;
    memmove(console->out, console->out + done, console->used - done);
    console->used -= done;
}

enum watch_event console_output(struct console *console, uint8_t byte)
{
    uint64_t one = 1;
    enum watch_event event;

    pthread_mutex_lock(&console->lock);
    event = watch_byte(&console->watch, byte);
    if (console->used < sizeof(console->out)) /* full only when we are ending and nobody reads */
        console->out[console->used++] = byte;
    if (byte == '\n' || console->used == sizeof(console->out))
        console_write_out(console, true);
    else if (console->used == 1 && console->wake_fd >= 0)
        (void)!write(console->wake_fd, &one, sizeof(one)); /* a prompt has no line end: it must not wait for one */
    pthread_mutex_unlock(&console->lock);
    return event;
}

bool console_has_output(struct console *console)
{
    bool has = true; /* a writer is at work: look again soon */

    if (pthread_mutex_trylock(&console->lock) == 0) {
        has = console->used || console->error;
        pthread_mutex_unlock(&console->lock);
    }
    return has;
}

void console_flush_ready(struct console *console)
{
    if (pthread_mutex_trylock(&console->lock) != 0)
        return;
    console_write_out(console, false);
    pthread_mutex_unlock(&console->lock);
}

void console_drain(struct console *console, int stop_fd)
{
    struct pollfd p[2] = { { .fd = console->out_fd, .events = POLLOUT }, { .fd = stop_fd, .events = POLLIN } };

    pthread_mutex_lock(&console->lock);
    while (console->used && !console->error) {
        if (poll(p, 2, -1) > 0 && p[1].revents)
            break;
        console_write_out(console, false);
    }
    pthread_mutex_unlock(&console->lock);
}

unsigned console_filter(struct console *console, uint8_t *bytes, unsigned n, enum console_key *key)
{
    unsigned kept = 0;

    *key = CONSOLE_KEY_NONE;
    if (!console->is_tty)
        return n; /* piped input is the guest's, byte for byte */
    for (unsigned i = 0; i < n; i++) {
        if (!console->has_escape && bytes[i] == CONSOLE_ESCAPE) {
            console->has_escape = true;
            continue;
        }
        if (console->has_escape) {
            console->has_escape = false;
            if (bytes[i] == 'x' || bytes[i] == 'X') {
                *key = CONSOLE_KEY_QUIT;
                return kept;
            }
            if (bytes[i] != CONSOLE_ESCAPE)
                continue; /* not a command of ours: dropped, as the escape key promised */
        }
        bytes[kept++] = bytes[i];
    }
    return kept;
}
