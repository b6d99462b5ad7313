/* SPDX-License-Identifier: MIT */
/*
 * See thread.h. No state, no lock.
 */
#include "base/thread.h"

#include <semaphore.h>
#include <signal.h>

#include "base/signals.h"

/* On the creator's stack until the thread has taken it: a thread that only sleeps should own no memory, and a first free() gives it some. */
struct start {
    void *(*body)(void *);
    void *arg;
    sem_t is_taken;
};

static void *run(void *p)
{
    struct start *start = p;
    void *(*body)(void *) = start->body;
    void *arg = start->arg;
    sigset_t faults;
    sem_post(&start->is_taken);
    signals_leave_to_client();
    sigemptyset(&faults); /* guard_copy lives by them */
    sigaddset(&faults, SIGSEGV);
    sigaddset(&faults, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &faults, NULL);
    return body(arg);
}

int thread_create(pthread_t *thread, const char *name, void *(*body)(void *), void *arg)
{
    /* Blocked in the parent around the call: the child inherits the mask, so there is no moment in which a handler could run on it. */
    sigset_t all, old;
    struct start start = { .body = body, .arg = arg };
    sem_init(&start.is_taken, 0, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(thread, NULL, run, &start);
    while (!error && sem_wait(&start.is_taken))
        ; /* EINTR: not with all blocked, but SIGSEGV and its kin may come */
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    sem_destroy(&start.is_taken);
    if (error)
        return -error;
    pthread_setname_np(*thread, name);
    return 0;
}
