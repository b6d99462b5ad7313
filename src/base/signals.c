/* SPDX-License-Identifier: MIT */
/*
 * See signals.h. Writers of the table block all signals and take `lock`; readers (handlers) take none: each entry has a sequence number, odd while it changes.
 * The table is written before the kernel is told: our handler may meet an action that the kernel does not have yet, never one that it has no longer.
 *
 * A signal that has to wait is blocked and queued again to this thread with the same siginfo. So mask, flags, alternate stack and context are the kernel's own
 * doing when it is delivered at last. Two instances of one real-time signal may change places by it.
 */
#include "base/signals.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define N_SIGNALS 64
#define KERNEL_SET_BYTES 8

struct entry {
    _Atomic unsigned sequence;
    bool is_claimed;
    struct sigaction action; /* the client's */
};

static struct entry entries[N_SIGNALS + 1];
static atomic_flag lock = ATOMIC_FLAG_INIT;
static void (*notice)(void);
static const struct signals_ops *kernel; /* NULL: the C library's sigaction, and calls of the client's handlers */

/* Handlers use these: a lazily allocated block would mean malloc in a signal handler. */
static _Thread_local struct {
    volatile unsigned depth;
    volatile uint64_t waiting;
    bool is_own_thread;
} held __attribute__((tls_model("initial-exec")));

static int real_sigaction(int sig, const struct sigaction *action, struct sigaction *old)
{
    if (kernel)
        return kernel->action(sig, action, old);
    static int (*_Atomic real)(int, const struct sigaction *, struct sigaction *);
    int (*call)(int, const struct sigaction *, struct sigaction *) = atomic_load(&real);
    if (!call) {
        call = (int (*)(int, const struct sigaction *, struct sigaction *))(uintptr_t)dlsym(RTLD_NEXT, "sigaction");
        if (!call) {
            errno = ENOSYS;
            return -1;
        }
        atomic_store(&real, call);
    }
    return call(sig, action, old);
}

static uint64_t change_mask(int how, uint64_t set)
{
    uint64_t old = 0;
    syscall(SYS_rt_sigprocmask, how, &set, &old, KERNEL_SET_BYTES);
    return old;
}

static uint64_t bit_of(int sig)
{
    return 1ull << (sig - 1);
}

static uint64_t *first_word(sigset_t *set)
{
    return (uint64_t *)(void *)set;
}

/* ---- the table ---- */

static uint64_t table_lock(void)
{
    uint64_t old = change_mask(SIG_BLOCK, ~0ull);
    while (atomic_flag_test_and_set(&lock))
        sched_yield();
    return old;
}

static void table_unlock(uint64_t mask)
{
    atomic_flag_clear(&lock);
    change_mask(SIG_SETMASK, mask);
}

static void entry_write(struct entry *e, const struct sigaction *action)
{
    atomic_fetch_add(&e->sequence, 1);
    e->action = *action;
    atomic_fetch_add(&e->sequence, 1);
}

static struct sigaction entry_read(const struct entry *e)
{
    for (;;) {
        unsigned before = atomic_load(&e->sequence);
        struct sigaction action = *(const volatile struct sigaction *)&e->action;
        atomic_thread_fence(memory_order_acquire);
        if (!(before & 1) && atomic_load(&e->sequence) == before)
            return action;
    }
}

/* Another thread may have been writing when this one forked. */
static void table_reset_in_child(void)
{
    for (int sig = 1; sig <= N_SIGNALS; sig++)
        atomic_store(&entries[sig].sequence, 0);
    atomic_flag_clear(&lock);
}

/* ---- delivery ---- */

static bool is_function(const struct sigaction *action)
{
    return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

/* Raised by the very instruction that was interrupted: returning from the handler would raise it again. */
static bool is_fault(int sig, const siginfo_t *info)
{
    return info->si_code > 0 && (sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGTRAP || sig == SIGSYS);
}

static int queue_again(int sig, siginfo_t *info)
{
    return (int)syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), sig, info);
}

static void do_default(int sig, siginfo_t *info)
{
    struct sigaction action = { .sa_handler = SIG_DFL };
    real_sigaction(sig, &action, NULL);
    if (!is_fault(sig, info)) /* a fault comes again by itself */
        queue_again(sig, info);
}

/* The action to take now; one that is for one time only is gone afterwards, and only one thread gets it. */
static struct sigaction action_take(int sig)
{
    struct entry *e = &entries[sig];
    struct sigaction action = entry_read(e);
    if (!(action.sa_flags & (int)SA_RESETHAND) || !is_function(&action))
        return action;
    uint64_t mask = table_lock();
    action = e->action;
    struct sigaction reset = action;
    reset.sa_handler = SIG_DFL;
    if (action.sa_flags & (int)SA_RESETHAND)
        entry_write(e, &reset);
    if ((action.sa_flags & (int)SA_RESETHAND) && !e->is_claimed)
        real_sigaction(sig, &reset, NULL);
    table_unlock(mask);
    return action;
}

static void client_call(const struct sigaction *action, int sig, siginfo_t *info, void *context)
{
    if (action->sa_flags & SA_SIGINFO)
        action->sa_sigaction(sig, info, context);
    else
        action->sa_handler(sig);
}

static bool make_wait(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    int saved_errno = errno;
    change_mask(SIG_BLOCK, bit_of(sig)); /* with SA_NODEFER it is not */
    bool is_queued = queue_again(sig, info) == 0;
    if (is_queued) {
        *first_word(&uc->uc_sigmask) |= bit_of(sig);
        held.waiting |= bit_of(sig);
        if (notice)
            notice();
    }
    errno = saved_errno;
    return is_queued;
}

/*
 * Our threads cannot block SIGSEGV and SIGBUS, so the kernel may choose them for one that somebody sent. To another thread it can be passed on as queued only;
 * sender and value stay.
 */
static bool hand_over(int sig, const siginfo_t *info)
{
    siginfo_t queued = *info;
    if (!held.is_own_thread || is_fault(sig, info))
        return false;
    queued.si_code = SI_QUEUE;
    return syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), sig, &queued) == 0;
}

void signals_deliver(int sig, siginfo_t *info, void *context)
{
    if (hand_over(sig, info))
        return;
    if (held.depth && !is_fault(sig, info) && make_wait(sig, info, context))
        return;
    if (notice)
        notice();
    struct sigaction action = action_take(sig);
    if (!is_function(&action)) {
        if (action.sa_handler == SIG_DFL || is_fault(sig, info)) /* faults cannot be ignored */
            do_default(sig, info);
        return;
    }
    if (kernel) {
        kernel->deliver(&action, sig, info, context);
        return;
    }
    if (entries[sig].is_claimed) /* its handler runs with no mask; the return from it restores the old one */
        change_mask(SIG_BLOCK, *first_word(&action.sa_mask) | (action.sa_flags & SA_NODEFER ? 0 : bit_of(sig)));
    client_call(&action, sig, info, context);
}

static void handle(int sig, siginfo_t *info, void *context)
{
    signals_deliver(sig, info, context);
}

/* ---- actions ---- */

/* What the kernel is told in place of the client's action. */
static struct sigaction kernel_action(const struct sigaction *wanted)
{
    struct sigaction action = *wanted;
    if (is_function(wanted)) {
        action.sa_sigaction = handle;
        action.sa_flags = (wanted->sa_flags | SA_SIGINFO) & ~(int)SA_RESETHAND; /* a signal that waits is delivered twice */
    }
    return action;
}

static bool is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == handle;
}

static int change_locked(int sig, const struct sigaction *action, struct sigaction *old)
{
    struct entry *e = &entries[sig];
    struct sigaction before = e->action, told;
    *old = before;
    if (e->is_claimed) {
        if (action)
            entry_write(e, action);
        return 0;
    }
    if (action) {
        struct sigaction kernel = kernel_action(action);
        entry_write(e, action);
        if (real_sigaction(sig, &kernel, &told) < 0) {
            entry_write(e, &before);
            return -1;
        }
    } else if (real_sigaction(sig, NULL, &told) < 0) {
        return -1;
    }
    if (!is_ours(&told)) /* set behind our back */
        *old = told;
    return 0;
}

int signals_action(int sig, const struct sigaction *action, struct sigaction *old)
{
    if (sig < 1 || sig > N_SIGNALS)
        return real_sigaction(sig, action, old);
    struct sigaction wanted, before;
    if (action)
        wanted = *action; /* outside the lock: the pointer may be bad */
    uint64_t mask = table_lock();
    int r = change_locked(sig, action ? &wanted : NULL, &before);
    int error = errno;
    table_unlock(mask);
    if (r < 0)
        errno = error;
    else if (old)
        *old = before;
    return r;
}

int signals_claim(int sig, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER }, old;
    sigemptyset(&action.sa_mask);
    uint64_t mask = table_lock();
    int r = real_sigaction(sig, &action, &old) < 0 ? -errno : 0;
    if (!r) {
        if (!entries[sig].is_claimed && !is_ours(&old))
            entry_write(&entries[sig], &old);
        entries[sig].is_claimed = true;
    }
    table_unlock(mask);
    return r;
}

void signals_leave_to_client(void)
{
    held.is_own_thread = true;
}

/* ---- waiting ---- */

void signals_hold(void)
{
    held.depth++;
    atomic_signal_fence(memory_order_seq_cst);
}

void signals_release(void)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (--held.depth || !held.waiting)
        return;
    uint64_t waiting = held.waiting;
    int saved_errno = errno;
    held.waiting = 0;
    change_mask(SIG_UNBLOCK, waiting);
    errno = saved_errno;
}

void signals_release_blocked(void)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (!--held.depth)
        held.waiting = 0;
}

void signals_set_depth(unsigned depth)
{
    held.depth = depth;
}

bool signals_is_held(void)
{
    return held.depth;
}

bool signals_has_waiting(void)
{
    return held.waiting;
}

void signals_set_ops(const struct signals_ops *ops)
{
    kernel = ops;
}

void signals_set_notice(void (*f)(void))
{
    notice = f;
}

/* A program that loads us late may have handlers already. */
__attribute__((constructor(101))) static void adopt(void)
{
    pthread_atfork(NULL, NULL, table_reset_in_child);
    for (int sig = 1; sig <= N_SIGNALS; sig++) {
        struct sigaction found;
        if (real_sigaction(sig, NULL, &found) == 0 && is_function(&found) && !is_ours(&found))
            signals_action(sig, &found, NULL);
    }
}
