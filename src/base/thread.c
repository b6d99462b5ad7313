/* SPDX-License-Identifier: MIT */
/*
 * See thread.h. No state, no lock.
 */
#include "base/thread.h"

#include <signal.h>

int thread_create(pthread_t *thread, const char *name, void *(*body)(void *), void *arg)
{
    /* Blocked in the parent around the call: the child inherits the mask, so there is no moment in which a handler could run on it. */
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV); /* guard_copy lives by them */
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(thread, NULL, body, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        return -error;
    pthread_setname_np(*thread, name);
    return 0;
}
