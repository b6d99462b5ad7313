/* SPDX-License-Identifier: MIT */
/*
 * See thread.h. No state, no lock.
 */
#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "base/signals.h"

struct start {
    void *(*body)(void *);
    void *arg;
};

static void *run(void *p)
{
    struct start start = *(struct start *)p;
    sigset_t faults;
    free(p);
    signals_leave_to_client();
    sigemptyset(&faults); /* guard_copy lives by them */
    sigaddset(&faults, SIGSEGV);
    sigaddset(&faults, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &faults, NULL);
    return start.body(start.arg);
}

int thread_create(pthread_t *thread, const char *name, void *(*body)(void *), void *arg)
{
    /* Blocked in the parent around the call: the child inherits the mask, so there is no moment in which a handler could run on it. */
    sigset_t all, old;
    struct start *start = malloc(sizeof(*start));
    if (!start)
        return -ENOMEM;
    *start = (struct start){ body, arg };
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(thread, NULL, run, start);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error) {
        free(start);
        return -error;
    }
    pthread_setname_np(*thread, name);
    return 0;
}
