/* SPDX-License-Identifier: MIT */
/*
 * Signals of a hosted client: what the kernel is told of an action, and what becomes of a signal that came in the client or in the host. Runs in the host. The
 * table of actions is base/signals.c's; what happens next to a handler of the client's is hosted_frame.c's.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/signals.h"
#include "transport/hosted.h"

#define N_SIGNALS 64
#define KERNEL_SET_BYTES 8
#define KERNEL_SA_RESTORER 0x04000000u /* Linux, asm/signal.h */

struct kernel_action {
    uint64_t handler, flags, restorer, mask;
};

typedef void (*handler_t)(int, siginfo_t *, void *);
static _Atomic(handler_t) handlers[N_SIGNALS + 1]; /* the host's, behind hosted_signal */

static uint64_t *mask_of(ucontext_t *uc)
{
    return (uint64_t *)(void *)&uc->uc_sigmask;
}

static bool is_function(uint64_t handler)
{
    return handler != (uint64_t)(uintptr_t)SIG_DFL && handler != (uint64_t)(uintptr_t)SIG_IGN;
}

static void from_kernel(const struct kernel_action *k, struct sigaction *action)
{
    *action = (struct sigaction){ .sa_flags = (int)k->flags, .sa_restorer = (void (*)(void))(uintptr_t)k->restorer };
    action->sa_handler = (sighandler_t)(uintptr_t)k->handler;
    *(uint64_t *)(void *)&action->sa_mask = k->mask;
}

static void to_kernel(const struct sigaction *action, struct kernel_action *k)
{
    *k = (struct kernel_action){ (uint64_t)(uintptr_t)action->sa_handler, (unsigned)action->sa_flags, (uint64_t)(uintptr_t)action->sa_restorer,
                                 *(const uint64_t *)(const void *)&action->sa_mask };
}

/* As sigaction, for handlers that run in the host. */
static int kernel_action(int sig, const struct sigaction *action, struct sigaction *old)
{
    struct kernel_action k = { 0 }, before = { 0 };
    if (action) {
        to_kernel(action, &k);
        k.flags |= KERNEL_SA_RESTORER;
        k.restorer = (uint64_t)(uintptr_t)hosted_restorer;
        if (is_function(k.handler)) {
            atomic_store(&handlers[sig], action->sa_sigaction);
            k.handler = (uint64_t)(uintptr_t)hosted_signal;
            k.flags = (k.flags | SA_SIGINFO | SA_ONSTACK) & ~(uint64_t)(SA_NODEFER | SA_RESETHAND);
            k.mask = ~HOSTED_SIGNALS;
        }
    }
    long r = hosted_syscall(SYS_rt_sigaction, (uint64_t)sig, action ? (uint64_t)(uintptr_t)&k : 0, (uint64_t)(uintptr_t)&before, KERNEL_SET_BYTES, 0, 0);
    if (r < 0) {
        errno = (int)-r;
        return -1;
    }
    if (old)
        from_kernel(&before, old);
    if (old && before.handler == (uint64_t)(uintptr_t)hosted_signal)
        old->sa_sigaction = atomic_load(&handlers[sig]);
    return 0;
}

/* Claimed from the start, as copies from the client's memory are guarded before there is a VM; the engine's handler does the same and takes its place. */
static void handle_fault(int sig, siginfo_t *info, void *context)
{
    if (info->si_code <= 0 || !guard_recover(context))
        signals_deliver(sig, info, context);
}

/* Not a dispatched call, but sent or of a seccomp filter. The latter does not come again by itself. */
static void handle_sys(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    struct sigaction action;
    if (info->si_code > 0 && (signals_action(sig, NULL, &action) < 0 || !is_function((uint64_t)(uintptr_t)action.sa_handler)))
        hosted_die(sig);
    if (info->si_code > 0 && hosted_site_fix(uc->uc_mcontext.gregs))
        info->si_call_addr = (void *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    signals_deliver(sig, info, context);
}

int hosted_signals_init(void)
{
    static const struct signals_ops ops = { kernel_action, hosted_deliver };
    signals_set_ops(&ops);
    int r = signals_claim(SIGSYS, handle_sys);
    if (!r)
        r = signals_claim(SIGSEGV, handle_fault);
    return r ? r : signals_claim(SIGBUS, handle_fault);
}

/* ---- arrivals ---- */

void hosted_die(int sig)
{
    struct sigaction action = { .sa_handler = SIG_DFL };
    kernel_action(sig, &action, NULL);
    hosted_syscall(SYS_tgkill, (uint64_t)getpid(), (uint64_t)gettid(), (uint64_t)sig, 0, 0, 0);
}

/* Sent to a thread of ours, or while the client blocks it and the kernel does not. */
static bool is_misdirected(const struct hosted *t, int sig, const siginfo_t *info)
{
    return info->si_code <= 0 && (!t || (t->hidden & HOSTED_BIT(sig)));
}

/* From now on the kernel blocks it here. What was sent to the process may be another thread's. */
static void block_late(int sig, const siginfo_t *info, ucontext_t *uc)
{
    uint64_t bit = HOSTED_BIT(sig), pid = (uint64_t)getpid();
    siginfo_t copy = *info;
    hosted_syscall(SYS_rt_sigprocmask, SIG_BLOCK, (uint64_t)(uintptr_t)&bit, 0, KERNEL_SET_BYTES, 0, 0);
    if (info->si_code == SI_TKILL) {
        hosted_syscall(SYS_rt_tgsigqueueinfo, pid, (uint64_t)gettid(), (uint64_t)sig, (uint64_t)(uintptr_t)&copy, 0, 0);
    } else {
        copy.si_code = SI_QUEUE; /* from a thread, the kernel takes no SI_USER for a process */
        hosted_syscall(SYS_rt_sigqueueinfo, pid, (uint64_t)sig, (uint64_t)(uintptr_t)&copy, 0, 0, 0);
    }
    *mask_of(uc) |= bit;
}

static void handle(const struct hosted *t, int sig, siginfo_t *info, ucontext_t *uc)
{
    handler_t handler = atomic_load(&handlers[sig]);
    if (is_misdirected(t, sig, info))
        block_late(sig, info, uc);
    else
        handler(sig, info, uc);
}

/* The signal would wait, blocked, in the new program: exec is given up, and made again after the handler. */
static void leave_exec(struct hosted *t, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    t->is_in_exec = false;
    g[REG_RSP] = ((g[REG_RSP] - 128) & ~15ll) - 8; /* as after a call */
    g[REG_RDI] = (greg_t)(uintptr_t)t;
    g[REG_RIP] = (greg_t)(uintptr_t)hosted_exec_again;
}

/* The client's handlers wait until this thread is in the client again. */
void hosted_signal_in_host(struct hosted *t, int sig, siginfo_t *info, ucontext_t *uc)
{
    int saved_errno = errno;
    signals_hold();
    handle(t, sig, info, uc);
    if (t && t->is_in_exec && signals_has_waiting())
        leave_exec(t, uc);
    signals_release_blocked();
    errno = saved_errno;
}

void hosted_signal_in_client(struct hosted *t, int sig, siginfo_t *info, ucontext_t *uc)
{
    handle(t, sig, info, uc);
}

/* ---- the client's calls ---- */

uint64_t hosted_mask_get(const struct hosted *t, const ucontext_t *uc)
{
    return *(const uint64_t *)(const void *)&uc->uc_sigmask | t->hidden;
}

void hosted_mask_set(struct hosted *t, ucontext_t *uc, uint64_t mask)
{
    t->hidden = mask & HOSTED_SIGNALS;
    *mask_of(uc) = mask & ~HOSTED_SIGNALS;
}

/* A child of vfork changes its own actions, but our table is its parent's: what resets a signal goes to the kernel alone. */
static int change(const struct hosted *t, int sig, const struct sigaction *action, struct sigaction *old)
{
    if (!t->is_vfork_child || !action || is_function((uint64_t)(uintptr_t)action->sa_handler))
        return signals_action(sig, action, old);
    if (signals_action(sig, NULL, old) < 0)
        return -1;
    return HOSTED_SIGNALS & HOSTED_BIT(sig) ? 0 : kernel_action(sig, action, NULL);
}

long hosted_rt_sigaction(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    const void *from = (const void *)(uintptr_t)g[REG_RSI];
    void *to = (void *)(uintptr_t)g[REG_RDX];
    struct kernel_action k;
    struct sigaction action, old;
    int sig = (int)g[REG_RDI];
    if (g[REG_R10] != KERNEL_SET_BYTES || sig < 1 || sig > N_SIGNALS)
        return -EINVAL;
    if (from && guard_copy(&k, from, sizeof k))
        return -EFAULT;
    if (from)
        from_kernel(&k, &action);
    if (from && (sig == SIGKILL || sig == SIGSTOP))
        return -EINVAL;
    if (change(t, sig, from ? &action : NULL, &old) < 0)
        return -errno;
    to_kernel(&old, &k);
    return to && guard_copy(to, &k, sizeof k) ? -EFAULT : 0;
}
