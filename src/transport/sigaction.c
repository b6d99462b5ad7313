/* SPDX-License-Identifier: MIT */
/*
 * The C library's calls that set signal actions, in its place: the client's handlers then run as signals.h says, so that a signal ends KVM_RUN. Only what sets
 * actions is here; masks are the C library's. The semantics of each call are those of glibc's manual pages.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/signals.h"
#include "front/kvm/front.h"

static _Atomic uint64_t interrupting; /* siginterrupt: signals for which signal() sets no SA_RESTART */

__attribute__((constructor)) static void connect_front(void)
{
    signals_set_notice(kvm_run_interrupted);
}

int sigaction(int sig, const struct sigaction *restrict action, struct sigaction *restrict old)
{
    return signals_action(sig, action, old);
}

int __sigaction(int sig, const struct sigaction *action, struct sigaction *old) __attribute__((nothrow, leaf, alias("sigaction")));

static sighandler_t set_handler(int sig, sighandler_t handler, int flags, bool is_self_masked)
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = flags }, old;
    if (handler == SIG_ERR || sig < 1 || sig >= NSIG) {
        errno = EINVAL;
        return SIG_ERR;
    }
    sigemptyset(&action.sa_mask);
    if (is_self_masked)
        sigaddset(&action.sa_mask, sig);
    return signals_action(sig, &action, &old) < 0 ? SIG_ERR : old.sa_handler;
}

static uint64_t bit_of(int sig)
{
    return sig >= 1 && sig <= 64 ? 1ull << (sig - 1) : 0;
}

sighandler_t signal(int sig, sighandler_t handler)
{
    return set_handler(sig, handler, atomic_load(&interrupting) & bit_of(sig) ? 0 : SA_RESTART, true);
}

sighandler_t bsd_signal(int sig, sighandler_t handler) __attribute__((nothrow, leaf, alias("signal")));
sighandler_t ssignal(int sig, sighandler_t handler) __attribute__((nothrow, leaf, alias("signal")));

sighandler_t sysv_signal(int sig, sighandler_t handler)
{
    return set_handler(sig, handler, (int)(SA_RESETHAND | SA_NODEFER), false);
}

sighandler_t __sysv_signal(int sig, sighandler_t handler) __attribute__((nothrow, leaf, alias("sysv_signal")));

int siginterrupt(int sig, int is_interrupting)
{
    struct sigaction action;
    if (signals_action(sig, NULL, &action) < 0)
        return -1;
    if (is_interrupting) {
        atomic_fetch_or(&interrupting, bit_of(sig));
        action.sa_flags &= ~SA_RESTART;
    } else {
        atomic_fetch_and(&interrupting, ~bit_of(sig));
        action.sa_flags |= SA_RESTART;
    }
    return signals_action(sig, &action, NULL);
}

int sigignore(int sig)
{
    return set_handler(sig, SIG_IGN, 0, false) == SIG_ERR ? -1 : 0;
}

sighandler_t sigset(int sig, sighandler_t handler)
{
    sigset_t set, old_mask;
    struct sigaction old;
    sigemptyset(&set);
    if (handler == SIG_ERR || sigaddset(&set, sig) < 0) {
        errno = EINVAL;
        return SIG_ERR;
    }
    bool is_hold = handler == SIG_HOLD;
    if (is_hold ? signals_action(sig, NULL, &old) < 0 : (old.sa_handler = set_handler(sig, handler, 0, false)) == SIG_ERR)
        return SIG_ERR;
    pthread_sigmask(is_hold ? SIG_BLOCK : SIG_UNBLOCK, &set, &old_mask);
    return sigismember(&old_mask, sig) ? SIG_HOLD : old.sa_handler;
}
