/* SPDX-License-Identifier: MIT */
/*
 * The one place that formats messages; where they go is decided by the composition root. Called by every layer. One lock around the sink,
 * another around the table of refusals; neither is held while calling anything but the sink.
 */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static log_sink sink;
static void *sink_arg;
static char name[64];               /* of the machine, or empty */
static _Atomic int sink_level = -1; /* read without the lock so that a silent log costs nothing */

static pthread_mutex_t refusal_lock = PTHREAD_MUTEX_INITIALIZER;
static struct refusal refusals[REFUSAL_MAX];
static unsigned n_refusals;

static const char *const level_names[] = { "error", "warn", "info", "debug" };

void log_set_sink(log_sink new_sink, void *arg, enum log_level max_level)
{
    pthread_mutex_lock(&sink_lock);
    sink = new_sink;
    sink_arg = arg;
    atomic_store(&sink_level, new_sink ? (int)max_level : -1);
    pthread_mutex_unlock(&sink_lock);
}

static void fd_sink(enum log_level level, const char *line, void *arg)
{
    char out[640];
    int n = snprintf(out, sizeof out, "vitrine%s%s %s: %s\n", *name ? " " : "", name, level_names[level], line);
    if (n >= (int)sizeof out)
        n = sizeof out - 1;
    /* One write per line, so that lines of several processes do not mix; a failing log must not disturb the guest. */
    ssize_t done = write((int)(intptr_t)arg, out, (size_t)n);
    (void)done;
}

void log_set_fd(int fd, enum log_level max_level)
{
    log_set_sink(fd_sink, (void *)(intptr_t)fd, max_level);
}

void log_set_machine_name(const char *machine)
{
    snprintf(name, sizeof name, "%s", machine);
}

void log_init_from_env(void)
{
    const char *wanted = getenv("VITRINE_LOG"), *machine = getenv("VITRINE_NAME");
    if (machine && *machine)
        log_set_machine_name(machine);
    if (!wanted || atomic_load(&sink_level) >= 0)
        return;
    for (int level = LOG_ERROR; level <= LOG_DEBUG; level++) {
        if (strcmp(wanted, level_names[level]) == 0)
            log_set_fd(STDERR_FILENO, (enum log_level)level);
    }
}

const char *log_machine_name(void)
{
    return *name ? name : program_invocation_short_name;
}

void log_write(enum log_level level, const char *format, ...)
{
    if ((int)level > atomic_load(&sink_level))
        return;
    int saved_errno = errno;
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    pthread_mutex_lock(&sink_lock);
    if (sink)
        sink(level, line, sink_arg);
    pthread_mutex_unlock(&sink_lock);
    errno = saved_errno;
}

void refusal_note(const char *kind, uint64_t what)
{
    bool is_new = false;
    pthread_mutex_lock(&refusal_lock);
    unsigned i = 0;
    while (i < n_refusals && (refusals[i].what != what || strcmp(refusals[i].kind, kind) != 0))
        i++;
    if (i < n_refusals) {
        refusals[i].count++;
    } else if (n_refusals < REFUSAL_MAX) {
        refusals[n_refusals++] = (struct refusal){ kind, what, 1 };
        is_new = true;
    }
    pthread_mutex_unlock(&refusal_lock);
    if (is_new)
        log_write(LOG_WARN, "not supported: %s 0x%llx", kind, (unsigned long long)what);
}

unsigned refusal_list(struct refusal *out, unsigned max)
{
    pthread_mutex_lock(&refusal_lock);
    unsigned n = n_refusals;
    memcpy(out, refusals, (n < max ? n : max) * sizeof *out);
    pthread_mutex_unlock(&refusal_lock);
    return n;
}
