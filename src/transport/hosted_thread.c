/* SPDX-License-Identifier: MIT */
/*
 * Threads of a hosted client. Each is carried by a thread of our C library, so that our code has its thread-local state there: a clone of the client's becomes
 * a pthread_create, whose thread goes into the client by a copy of the caller's signal frame and comes back when the client ends it. Runs in the host; a
 * thread's own struct needs no lock.
 */
#include <errno.h>
#include <linux/futex.h>
#include <linux/rseq.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "transport/hosted.h"

#define STACK_OFFSET (2 * PAGE_BYTES) /* the struct, a guard page, the stack */
#define CARRIER_STACK_BYTES (128u << 10)

_Static_assert(sizeof(struct hosted) <= PAGE_BYTES, "fits");

struct hosted *hosted_create(void)
{
    uint8_t *area = mmap(NULL, STACK_OFFSET + HOSTED_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        return NULL;
    mprotect(area + PAGE_BYTES, PAGE_BYTES, PROT_NONE);
    struct hosted *t = (struct hosted *)(void *)area;
    t->alternate.ss_flags = SS_DISABLE;
    return t;
}

void hosted_destroy(struct hosted *t)
{
    munmap(t, STACK_OFFSET + HOSTED_STACK_BYTES);
}

void hosted_stack_of(struct hosted *t, stack_t *stack)
{
    *stack = (stack_t){ .ss_sp = (uint8_t *)t + STACK_OFFSET, .ss_size = HOSTED_STACK_BYTES };
}

struct hosted *hosted_of(const ucontext_t *uc)
{
    uint8_t *stack = uc->uc_stack.ss_sp;
    return stack ? (struct hosted *)(void *)(stack - STACK_OFFSET) : NULL;
}

bool hosted_is_on_stack(const struct hosted *t, const ucontext_t *uc)
{
    return (uint64_t)uc->uc_mcontext.gregs[REG_RSP] - (uint64_t)(uintptr_t)t < STACK_OFFSET + HOSTED_STACK_BYTES;
}

int hosted_dispatch_on(struct hosted *t)
{
    uint64_t begin = (uint64_t)(uintptr_t)hosted_gate_begin, bytes = (uint64_t)(hosted_gate_end - hosted_gate_begin);
    return (int)hosted_syscall(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, begin, bytes, (uint64_t)(uintptr_t)&t->selector, 0);
}

/* Our C library has registered; a thread has one registration, and the client may want it. */
static void rseq_give_up(void)
{
    uint64_t at = (uint64_t)(uintptr_t)__builtin_thread_pointer() + (uint64_t)__rseq_offset;
    if (__rseq_size)
        hosted_syscall(SYS_rseq, at, sizeof(struct rseq), RSEQ_FLAG_UNREGISTER, RSEQ_SIG, 0, 0);
}

int hosted_attach(struct hosted *t)
{
    stack_t stack;
    hosted_stack_of(t, &stack);
    rseq_give_up();
    long r = hosted_syscall(SYS_sigaltstack, (uint64_t)(uintptr_t)&stack, 0, 0, 0, 0, 0);
    return r < 0 ? (int)r : hosted_dispatch_on(t);
}

/* ---- the beginning ---- */

struct start {
    struct hosted *t;
    const struct hosted_clone *c;
    uint64_t frame;
    _Atomic int tid; /* or -errno; 0: not yet */
};

static void futex(_Atomic int *at, int operation, int value)
{
    hosted_syscall(SYS_futex, (uint64_t)(uintptr_t)at, (uint64_t)operation, (uint64_t)value, 0, 0, 0);
}

static void put_tid(uint64_t at, int tid)
{
    (void)guard_copy((void *)(uintptr_t)at, &tid, sizeof tid);
}

/* As the kernel does at the end of a thread: the waiter is then free to unmap the client's stack. */
static void clear_tid(const struct hosted *t)
{
    if (!t->clear_tid)
        return;
    put_tid(t->clear_tid, 0);
    hosted_syscall(SYS_futex, t->clear_tid, FUTEX_WAKE, 1, 0, 0, 0);
}

/* What the kernel would look at when the thread ends is in memory that the client may free before. */
static void forget_memory(const struct hosted *t)
{
    struct {
        void *next;
        long offset;
        void *pending;
    } *head = NULL, copy;
    size_t bytes = 0;
    if (t->rseq[0])
        hosted_syscall(SYS_rseq, t->rseq[0], t->rseq[1], RSEQ_FLAG_UNREGISTER, t->rseq[2], 0, 0);
    bool has_list = !hosted_syscall(SYS_get_robust_list, 0, (uint64_t)(uintptr_t)&head, (uint64_t)(uintptr_t)&bytes, 0, 0, 0) && head;
    if (has_list && !guard_copy(&copy, head, sizeof copy) && copy.next == head && !copy.pending)
        hosted_syscall(SYS_set_robust_list, 0, sizeof copy, 0, 0, 0, 0);
}

/* Not in the client any more, and off the alternate stack. */
static void detach(struct hosted *t)
{
    stack_t none = { .ss_flags = SS_DISABLE };
    hosted_syscall(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0, 0);
    hosted_syscall(SYS_sigaltstack, (uint64_t)(uintptr_t)&none, 0, 0, 0, 0, 0);
    forget_memory(t);
    clear_tid(t);
    hosted_destroy(t);
}

static void *carrier(void *arg)
{
    struct start *s = arg;
    struct hosted *t = s->t;
    uint64_t frame = s->frame;
    int tid = gettid(), r = hosted_attach(t);
    if (!r && (s->c->flags & CLONE_PARENT_SETTID))
        put_tid(s->c->parent_tid, tid);
    if (!r && (s->c->flags & CLONE_CHILD_SETTID))
        put_tid(s->c->child_tid, tid);
    atomic_store(&s->tid, r ? r : tid);
    futex(&s->tid, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1); /* s may be gone: then there is nobody to wake */
    if (!r)
        hosted_go(t, frame);
    detach(t);
    return NULL;
}

static int carry(struct start *s)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, CARRIER_STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &attributes, carrier, s); /* inherits our mask: everything blocked */
    pthread_attr_destroy(&attributes);
    if (error)
        return -error;
    while (!atomic_load(&s->tid))
        futex(&s->tid, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0);
    return atomic_load(&s->tid);
}

/* The frame by which a new thread of the client, or its child process, begins: the caller's registers, with 0 as the result of the call. */
uint64_t hosted_first_frame(struct hosted *child, const ucontext_t *uc, uint64_t sp)
{
    ucontext_t copy;
    siginfo_t info = { 0 };
    stack_t stack;
    memcpy(&copy, uc, offsetof(ucontext_t, uc_sigmask) + 8);
    if (sp)
        copy.uc_mcontext.gregs[REG_RSP] = (greg_t)sp;
    copy.uc_mcontext.gregs[REG_RAX] = 0;
    copy.uc_mcontext.gregs[REG_RCX] = copy.uc_mcontext.gregs[REG_RIP];
    hosted_stack_of(child, &stack);
    return hosted_frame_write((uint64_t)(uintptr_t)stack.ss_sp + stack.ss_size, 0, &info, &copy, &stack);
}

long hosted_thread_start(struct hosted *t, ucontext_t *uc, const struct hosted_clone *c)
{
    const uint64_t must = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND;
    if ((c->flags & must) != must || (c->flags & CLONE_PIDFD)) {
        refusal_note("clone of a thread with flags", c->flags);
        return -EINVAL;
    }
    struct hosted *child = hosted_create();
    if (!child)
        return -ENOMEM;
    child->client_fs = c->flags & CLONE_SETTLS ? c->tls : t->client_fs;
    child->clear_tid = c->flags & CLONE_CHILD_CLEARTID ? c->child_tid : 0;
    child->hidden = t->hidden;
    struct start s = { .t = child, .c = c, .frame = hosted_first_frame(child, uc, c->stack) };
    int r = carry(&s);
    if (r < 0 && !atomic_load(&s.tid))
        hosted_destroy(child);
    return r;
}

/* ---- the end, and what is remembered for it ---- */

long hosted_exit(struct hosted *t, ucontext_t *uc)
{
    if (!t->is_vfork_child) {
        if (t->leave_sp)
            hosted_leave(t->leave_sp);
        forget_memory(t);
        clear_tid(t);
    }
    hosted_syscall(SYS_exit, (uint64_t)uc->uc_mcontext.gregs[REG_RDI], 0, 0, 0, 0, 0);
    __builtin_unreachable();
}

long hosted_set_tid_address(struct hosted *t, ucontext_t *uc)
{
    t->clear_tid = (uint64_t)uc->uc_mcontext.gregs[REG_RDI];
    return gettid();
}

long hosted_rseq(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    long r = hosted_syscall(SYS_rseq, (uint64_t)g[REG_RDI], (uint64_t)g[REG_RSI], (uint64_t)g[REG_RDX], (uint64_t)g[REG_R10], 0, 0);
    if (r < 0)
        return r;
    t->rseq[0] = g[REG_RDX] & RSEQ_FLAG_UNREGISTER ? 0 : (uint64_t)g[REG_RDI];
    t->rseq[1] = (uint64_t)(unsigned)g[REG_RSI];
    t->rseq[2] = (uint64_t)(unsigned)g[REG_R10];
    return 0;
}
