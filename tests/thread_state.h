/* SPDX-License-Identifier: MIT */
/*
 * Is another thread of this process asleep? For tests that must act while a thread waits: nothing else tells from outside that it does.
 */
#ifndef VITRINE_TESTS_THREAD_STATE_H
#define VITRINE_TESTS_THREAD_STATE_H

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* The state letter of proc(5), /proc/pid/stat: R runs, S sleeps, D sleeps and lets no signal disturb it; 0 if there is no such thread. Without malloc, for
 * which the other thread might have to wait. */
static inline char thread_state(pid_t thread)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, line, sizeof line - 1);
    if (n <= 0)
        return 0;
    close(fd);
    line[n] = 0;
    const char *name_end = strrchr(line, ')'); /* the name may hold any character */
    return name_end ? name_end[2] : 0;
}

/* Waits until the thread is in one of the states, without a limit. */
static inline void thread_wait_state(pid_t thread, const char *states)
{
    for (;;) {
        char now = thread_state(thread);
        if (now && strchr(states, now))
            return;
        usleep(100);
    }
}

#endif
