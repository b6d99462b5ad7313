/* SPDX-License-Identifier: MIT */
/*
 * The process's signal actions: what the client asked for, and what the kernel was told. The kernel sees one handler of ours for every handler of the client's;
 * so a signal that comes in the middle of a call of ours can wait until the call is over, as it does for a system call. Any thread, any signal handler.
 */
#ifndef VITRINE_BASE_SIGNALS_H
#define VITRINE_BASE_SIGNALS_H

#include <signal.h>

#include "base/types.h"

/* As sigaction() with the client's actions: -1 and errno. */
int signals_action(int sig, const struct sigaction *action, struct sigaction *old);

/*
 * Takes a signal for good: the kernel's handler is `handler` (on the alternate stack if there is one, no mask) whatever the client asks for later. What is not
 * meant for it, it hands on to signals_deliver. 0 or -errno.
 */
int signals_claim(int sig, void (*handler)(int, siginfo_t *, void *));
/* From a claimed handler: does what the client's action says. */
void signals_deliver(int sig, siginfo_t *info, void *context);

/* On a thread of vitrine's own: signals that are sent to the process are for the client's threads. They go to the first one. */
void signals_leave_to_client(void);

/*
 * From hold to release, on this thread, handlers of the client do not run: their signals stay pending and blocked, and are let go at release. Faults that the
 * code itself raises are the exception. Nests. Costs no system call unless a signal came.
 */
void signals_hold(void);
void signals_release(void);
/* As release, but what waits stays blocked: the caller's return from its own signal handler restores the client's mask. */
void signals_release_blocked(void);
/* In the child of a vfork, which shares its parent's thread-local state, and in the parent after it. */
void signals_set_depth(unsigned depth);
/* True between hold and release. Async-signal-safe. */
bool signals_is_held(void);
/* True if a signal waits for this thread's release. */
bool signals_has_waiting(void);
/* Called on the thread that a signal came to, before its handler runs or when it is made to wait. Async-signal-safe. Set once. */
void signals_set_notice(void (*notice)(void));

/*
 * For a transport whose client has another C library, so that its handlers cannot be called: how the kernel is told of an action (as sigaction), and how a
 * handler of the client's begins when `context`, which is the client's, is returned to. Set once, before the client runs.
 */
struct signals_ops {
    int (*action)(int sig, const struct sigaction *action, struct sigaction *old);
    void (*deliver)(const struct sigaction *action, int sig, siginfo_t *info, void *context);
};
void signals_set_ops(const struct signals_ops *ops);

#endif
