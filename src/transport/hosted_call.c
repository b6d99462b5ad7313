/* SPDX-License-Identifier: MIT */
/*
 * System calls of a hosted client: which are ours, and where the others go. The table is indexed by number; what it does not name is the kernel's, and made
 * from the client's own context through a stub. No lock.
 */
#include <errno.h>
#include <linux/audit.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/guard.h"
#include "base/signals.h"
#include "transport/hosted.h"

#define SYSCALL_BYTES 2
/* One dispatcher per thread, and it is us. */
static bool is_own_prctl(const greg_t *g)
{
    return g[REG_RDI] == PR_SET_SYSCALL_USER_DISPATCH || hosted_is_filter_prctl(g);
}

static long call_prctl(struct hosted *t, ucontext_t *uc)
{
    return uc->uc_mcontext.gregs[REG_RDI] == PR_SET_SYSCALL_USER_DISPATCH ? -EINVAL : hosted_filter(t, uc);
}

static const struct hosted_call own[] = {
    [SYS_rt_sigaction] = { .slow = hosted_rt_sigaction },
    [SYS_rt_sigprocmask] = { .quick = hosted_rt_sigprocmask },
    [SYS_rt_sigreturn] = { .quick = hosted_rt_sigreturn },
    [SYS_sigaltstack] = { .quick = hosted_sigaltstack },
    [SYS_rt_sigsuspend] = { .quick = hosted_waits_with_mask },
    [SYS_ppoll] = { .quick = hosted_waits_with_mask },
    [SYS_pselect6] = { .quick = hosted_waits_with_mask },
    [SYS_epoll_pwait] = { .quick = hosted_waits_with_mask },
    [441 /* epoll_pwait2 */] = { .quick = hosted_waits_with_mask },
    [SYS_brk] = { .slow = hosted_brk },
    [SYS_clone] = { .slow = hosted_clone_call },
    [SYS_clone3] = { .slow = hosted_clone3_call },
    [SYS_fork] = { .slow = hosted_fork_call },
    [SYS_vfork] = { .slow = hosted_vfork_call },
    [SYS_execve] = { .slow = hosted_execve },
    [SYS_execveat] = { .slow = hosted_execveat },
    [SYS_exit] = { .slow = hosted_exit },
    [SYS_set_tid_address] = { .slow = hosted_set_tid_address },
    [SYS_rseq] = { .slow = hosted_rseq },
    [SYS_prctl] = { .is_ours = is_own_prctl, .slow = call_prctl },
    [SYS_seccomp] = { .is_ours = hosted_is_filter_seccomp, .slow = hosted_filter },
};

static const struct hosted_call *call_of(int number)
{
    static const struct hosted_call none;
    const struct hosted_call *c = (unsigned)number < sizeof own / sizeof own[0] ? &own[number] : &none;
    if (!c->quick && !c->slow && (unsigned)number < hosted_n_file_calls)
        c = &hosted_file_calls[number];
    return c->quick || c->slow ? c : NULL;
}

/* Also changes what a call of the kernel's would. */
static void finish(ucontext_t *uc, long r)
{
    greg_t *g = uc->uc_mcontext.gregs;
    if (r == HOSTED_PASS) {
        g[REG_RIP] = (greg_t)hosted_stub_of((uint64_t)g[REG_RIP]);
        return;
    }
    if (r == HOSTED_AGAIN) {
        g[REG_RIP] -= SYSCALL_BYTES;
        return;
    }
    g[REG_RAX] = r;
    g[REG_RCX] = g[REG_RIP];
    g[REG_R11] = g[REG_EFL];
}

bool hosted_call_quick(struct hosted *t, ucontext_t *uc, const siginfo_t *info)
{
    const struct hosted_call *c = info->si_arch == AUDIT_ARCH_X86_64 ? call_of(info->si_syscall) : NULL;
    t->has_temporary_mask = false;
    if (info->si_arch != AUDIT_ARCH_X86_64) {
        uc->uc_mcontext.gregs[REG_RAX] = -ENOSYS; /* INT 80h: the calls of 32-bit programs */
        return true;
    }
    if (c && (!c->is_ours || c->is_ours(uc->uc_mcontext.gregs))) {
        if (!c->quick)
            return false;
        finish(uc, c->quick(t, uc));
    } else {
        finish(uc, HOSTED_PASS);
    }
    return true;
}

void hosted_call_slow(struct hosted *t, ucontext_t *uc, const siginfo_t *info)
{
    signals_hold();
    long r = call_of(info->si_syscall)->slow(t, uc);
    signals_release_blocked();
    finish(uc, r);
}

bool hosted_string_is(uint64_t at, const char *want)
{
    char found[32];
    size_t n = strlen(want) + 1, first = PAGE_BYTES - at % PAGE_BYTES; /* what follows the string may not be there */
    if (first > n)
        first = n;
    if (guard_copy(found, (const void *)(uintptr_t)at, first) || memcmp(found, want, first))
        return false;
    return first == n || (!guard_copy(found, (const void *)(uintptr_t)(at + first), n - first) && !memcmp(found, want + first, n - first));
}
