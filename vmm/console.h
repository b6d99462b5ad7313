/* SPDX-License-Identifier: MIT */
/*
 * The host's end of the guest's serial line: buffered output, the input stream with its escape key. Output has a lock of its own, innermost of all.
 */
#ifndef VITRINE_VMM_CONSOLE_H
#define VITRINE_VMM_CONSOLE_H

#include <pthread.h>

#include "vmm/watch.h"

#define CONSOLE_OUT_BYTES 4096 /* not above PIPE_BUF: a writable pipe takes it whole */

enum console_key { CONSOLE_KEY_NONE, CONSOLE_KEY_QUIT };

struct console {
    int in_fd, out_fd;
    pthread_mutex_t lock;
    struct watch watch;
    uint8_t out[CONSOLE_OUT_BYTES];
    size_t used;
    int error;                               /* errno of the write that failed; output is dropped from then on */
    const _Atomic int *is_ending;            /* nonzero: never wait for a reader again */
    int wake_fd;                             /* eventfd told when output begins to wait; -1: nobody to tell */
    bool is_tty, has_escape, is_raw, is_eof; /* the controlling thread's */
};

void console_init(struct console *console, int in_fd, int out_fd, const char *marker, const _Atomic int *is_ending);
void console_fini(struct console *console);

enum watch_event console_output(struct console *console, uint8_t byte);
bool console_has_output(struct console *console);
void console_flush_ready(struct console *console);        /* writes what can be written without waiting */
void console_drain(struct console *console, int stop_fd); /* waits until all is written, or stop_fd is readable */

/* Takes the escape key out of `n` bytes of input, in place; returns how many are left for the guest. */
unsigned console_filter(struct console *console, uint8_t *bytes, unsigned n, enum console_key *key);

#endif
