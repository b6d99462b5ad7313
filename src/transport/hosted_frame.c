/* SPDX-License-Identifier: MIT */
/*
 * Signal frames of a hosted client: a handler of the client's begins as if the kernel had called it, on the stack that it asked for, and its return goes
 * through the kernel's own rt_sigreturn. The layout is the kernel's (Linux, asm/sigframe.h and asm/sigcontext.h). The calls here run with the client's FS.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/guard.h"
#include "transport/hosted.h"

#define CONTEXT_BYTES 304u /* uc_flags to the first 64 signals of uc_sigmask */
#define KERNEL_SET_BYTES 8
#define RED_ZONE_BYTES 128u
#define FXSAVE_BYTES 512u
#define XSTATE_MAGIC1 0x46505853u
#define SW_OFFSET 464u /* of the software bytes in the FXSAVE image: magic, bytes */
#define XSTATE_BV_OFFSET 512u
#define XSTATE_PKRU (1ull << 9)
#define FCW_INIT 0x37fu
#define MXCSR_INIT 0x1f80u
#define AUTODISARM (1 << 31)                             /* SS_AUTODISARM */
#define STACK_BYTES_MIN 2048u                            /* MINSIGSTKSZ */
#define FLAGS_CLEARED (1ll << 10 | 1ll << 16 | 1ll << 8) /* DF, RF, TF */

struct frame {
    uint64_t restorer;
    uint8_t context[CONTEXT_BYTES];
    siginfo_t info;
};
_Static_assert(sizeof(struct frame) == 440 && offsetof(ucontext_t, uc_sigmask) + 8 == CONTEXT_BYTES, "the kernel's");

/* ---- frames ---- */

static uint32_t fp_bytes(const uint8_t *fp)
{
    uint32_t sw[2];
    memcpy(sw, fp + SW_OFFSET, sizeof sw);
    return sw[0] == XSTATE_MAGIC1 ? sw[1] : FXSAVE_BYTES;
}

uint64_t hosted_frame_write(uint64_t sp, uint64_t restorer, const siginfo_t *info, const ucontext_t *uc, const stack_t *stack)
{
    const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;
    uint64_t fp_at = (sp - fp_bytes(fp)) & ~63ull, at = ((fp_at - sizeof(struct frame)) & ~15ull) - 8;
    struct frame f = { .restorer = restorer, .info = *info };
    memcpy(f.context, uc, CONTEXT_BYTES);
    memcpy(f.context + offsetof(ucontext_t, uc_stack), stack, sizeof *stack);
    memcpy(f.context + offsetof(ucontext_t, uc_mcontext.fpregs), &fp_at, sizeof fp_at);
    bool is_there = !guard_copy((void *)(uintptr_t)fp_at, fp, fp_bytes(fp)) && !guard_copy((void *)(uintptr_t)at, &f, sizeof f);
    return is_there ? at : 0;
}

static bool is_on_alternate(const struct hosted *t, uint64_t sp)
{
    return !(t->alternate.ss_flags & AUTODISARM) && sp - (uint64_t)(uintptr_t)t->alternate.ss_sp - 1 < t->alternate.ss_size;
}

static uint64_t stack_for(const struct hosted *t, int flags, uint64_t sp)
{
    if ((flags & SA_ONSTACK) && t->alternate.ss_size && !is_on_alternate(t, sp))
        return (uint64_t)(uintptr_t)t->alternate.ss_sp + t->alternate.ss_size;
    return sp - RED_ZONE_BYTES;
}

/* A handler begins with the x87 and vector state of a new program. */
static void fp_init_in(uint8_t *fp)
{
    uint16_t fcw = FCW_INIT;
    uint32_t mxcsr = MXCSR_INIT;
    uint64_t present;
    memcpy(fp, &fcw, sizeof fcw);
    memcpy(fp + 24, &mxcsr, sizeof mxcsr);
    if (fp_bytes(fp) <= XSTATE_BV_OFFSET)
        return;
    memcpy(&present, fp + XSTATE_BV_OFFSET, sizeof present);
    present &= XSTATE_PKRU;
    memcpy(fp + XSTATE_BV_OFFSET, &present, sizeof present);
}

/* What was blocked when the signal came: during a call that waits with a mask of its own, that mask. */
static uint64_t mask_before(const struct hosted *t, const ucontext_t *uc, bool is_in_call)
{
    bool is_temporary = t->has_temporary_mask && is_in_call && uc->uc_mcontext.gregs[REG_RAX] == -EINTR;
    return is_temporary ? t->temporary_mask : hosted_mask_get(t, uc);
}

void hosted_deliver(const struct sigaction *action, int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    struct hosted *t = hosted_of(uc);
    uint64_t kept = hosted_mask_get(t, uc), real = *(uint64_t *)(void *)&uc->uc_sigmask;
    bool is_in_call = hosted_site_fix(g);
    uint64_t mask = mask_before(t, uc, is_in_call) | *(const uint64_t *)(const void *)&action->sa_mask;
    if (!(action->sa_flags & (int)SA_NODEFER))
        mask |= HOSTED_BIT(sig);
    *(uint64_t *)(void *)&uc->uc_sigmask = kept; /* what the frame is to restore */
    uint64_t sp = stack_for(t, action->sa_flags, (uint64_t)g[REG_RSP]);
    uint64_t at = hosted_frame_write(sp, (uint64_t)(uintptr_t)action->sa_restorer, info, uc, &t->alternate);
    *(uint64_t *)(void *)&uc->uc_sigmask = real;
    t->has_temporary_mask = false;
    if (!at) { /* no stack for a handler is a fault of its own */
        hosted_die(SIGSEGV);
        return;
    }
    if (t->alternate.ss_flags & AUTODISARM)
        t->alternate = (stack_t){ .ss_flags = SS_DISABLE };
    hosted_mask_set(t, uc, mask);
    fp_init_in((uint8_t *)uc->uc_mcontext.fpregs);
    g[REG_RIP] = (greg_t)(uintptr_t)action->sa_handler;
    g[REG_RSP] = (greg_t)at;
    g[REG_RDI] = sig;
    g[REG_RSI] = (greg_t)(at + offsetof(struct frame, info));
    g[REG_RDX] = (greg_t)(at + offsetof(struct frame, context));
    g[REG_RAX] = 0;
    g[REG_EFL] &= ~FLAGS_CLEARED;
}

/* ---- calls ---- */

static bool stack_is_valid(const stack_t *s)
{
    int mode = s->ss_flags & ~AUTODISARM;
    return mode == SS_DISABLE || mode == SS_ONSTACK || mode == 0;
}

static void stack_set(struct hosted *t, const stack_t *s)
{
    t->alternate = *s;
    if ((s->ss_flags & ~AUTODISARM) == SS_DISABLE) {
        t->alternate.ss_sp = NULL;
        t->alternate.ss_size = 0;
    } else {
        t->alternate.ss_flags &= AUTODISARM;
    }
}

long hosted_sigaltstack(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    const void *from = (const void *)(uintptr_t)g[REG_RDI];
    void *to = (void *)(uintptr_t)g[REG_RSI];
    bool is_on = is_on_alternate(t, (uint64_t)g[REG_RSP]);
    stack_t wanted, old = t->alternate;
    old.ss_flags = (old.ss_flags & AUTODISARM) | (!old.ss_size ? SS_DISABLE : is_on ? SS_ONSTACK : 0);
    if (from && guard_copy(&wanted, from, sizeof wanted))
        return -EFAULT;
    if (from && is_on)
        return -EPERM;
    if (from && !stack_is_valid(&wanted))
        return -EINVAL;
    if (from && (wanted.ss_flags & ~AUTODISARM) != SS_DISABLE && wanted.ss_size < STACK_BYTES_MIN)
        return -ENOMEM;
    if (from)
        stack_set(t, &wanted);
    return to && guard_copy(to, &old, sizeof old) ? -EFAULT : 0;
}

/* Nothing but the mask that this very signal handler returns to. */
long hosted_rt_sigprocmask(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    const void *from = (const void *)(uintptr_t)g[REG_RSI];
    void *to = (void *)(uintptr_t)g[REG_RDX];
    uint64_t old = hosted_mask_get(t, uc), set;
    if (g[REG_R10] != KERNEL_SET_BYTES)
        return -EINVAL;
    if (from && guard_copy(&set, from, sizeof set))
        return -EFAULT;
    if (from) {
        set &= ~(HOSTED_BIT(SIGKILL) | HOSTED_BIT(SIGSTOP));
        switch ((int)g[REG_RDI]) {
        case SIG_BLOCK:
            set |= old;
            break;
        case SIG_UNBLOCK:
            set = old & ~set;
            break;
        case SIG_SETMASK:
            break;
        default:
            return -EINVAL;
        }
        hosted_mask_set(t, uc, set);
    }
    return to && guard_copy(to, &old, sizeof old) ? -EFAULT : 0;
}

/* The frame is made the kernel's again. What cannot be read here, the kernel will refuse. */
long hosted_rt_sigreturn(struct hosted *t, ucontext_t *uc)
{
    uint8_t *context = (uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
    void *mask_at = context + offsetof(ucontext_t, uc_sigmask), *stack_at = context + offsetof(ucontext_t, uc_stack);
    uint64_t mask;
    stack_t stack;
    if (guard_copy(&mask, mask_at, sizeof mask) || guard_copy(&stack, stack_at, sizeof stack))
        return HOSTED_PASS;
    if (stack_is_valid(&stack) && !is_on_alternate(t, (uint64_t)(uintptr_t)context))
        stack_set(t, &stack);
    t->hidden = mask & HOSTED_SIGNALS;
    mask &= ~HOSTED_SIGNALS;
    hosted_stack_of(t, &stack);
    if (!guard_copy(mask_at, &mask, sizeof mask))
        (void)guard_copy(stack_at, &stack, sizeof stack);
    return HOSTED_PASS;
}

/* rt_sigsuspend, ppoll, pselect6, epoll_pwait: handlers that end them find their mask. */
long hosted_waits_with_mask(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    uint64_t at;
    switch (g[REG_RAX]) {
    case 130: /* rt_sigsuspend */
        at = (uint64_t)g[REG_RDI];
        break;
    case 271: /* ppoll */
        at = (uint64_t)g[REG_R10];
        break;
    case 270: /* pselect6: a pair of pointer and size */
        at = (uint64_t)g[REG_R9];
        if (at && guard_copy(&at, (const void *)(uintptr_t)at, sizeof at))
            at = 0;
        break;
    default: /* epoll_pwait, epoll_pwait2 */
        at = (uint64_t)g[REG_R8];
    }
    t->has_temporary_mask = at && !guard_copy(&t->temporary_mask, (const void *)(uintptr_t)at, sizeof t->temporary_mask);
    return HOSTED_PASS;
}
