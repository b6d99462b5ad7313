/* SPDX-License-Identifier: MIT */
/*
 * KVM_RUN: takes what the client left in kvm_run, completes a suspended access, runs the engine, fills kvm_run. One exit per call. vcpu.lock is held.
 *
 * A suspended IN or MMIO read restarts its instruction with the client's data in vcpu.replay; the engine finishes that instruction before it looks at requests,
 * so immediate_exit completes it too. MMIO writes are posted by an instruction that has committed: they are shown one per call before anything else runs, and
 * an exit that the same run ended with waits for them. Nothing is lost to a signal, as only the engine's own run can end with EINTR.
 */
#include <string.h>

#include "front/kvm/front_priv.h"

void kvm_run_interrupted(void)
{
    vcpu_interrupt_own();
}

void kvm_run_drop(struct kvm_vcpu *c)
{
    c->completion = KVM_COMPLETE_NONE;
    c->v->replay.n = c->v->replay.next = 0;
    c->v->replay.io_done = c->v->replay.msr_done = false;
}

/* ---- kvm_run, in ----------------------------------------------------------------------------------------------------------------------------- */

static int sync_in(struct kvm_vcpu *c)
{
    struct kvm_run *run = c->run;
    uint64_t dirty = run->kvm_dirty_regs;
    int r = 0;
    if ((dirty | run->kvm_valid_regs) & ~(uint64_t)KVM_SYNC_X86_VALID_FIELDS)
        return -EINVAL;
    if (dirty & KVM_SYNC_X86_REGS) {
        struct kvm_regs regs = run->s.regs.regs;
        kvm_regs_set(c, &regs);
    }
    if (dirty & KVM_SYNC_X86_SREGS) {
        struct kvm_sregs sregs = run->s.regs.sregs;
        r = kvm_sregs_set(c, &sregs);
    }
    if (!r && (dirty & KVM_SYNC_X86_EVENTS)) {
        struct kvm_vcpu_events events = run->s.regs.events;
        r = kvm_events_set(c, &events);
    }
    if (!r)
        run->kvm_dirty_regs = 0;
    return r;
}

static int run_inputs(struct kvm_vcpu *c)
{
    struct vcpu *v = c->v;
    int r = c->run->kvm_dirty_regs | c->run->kvm_valid_regs ? sync_in(c) : 0;
    if (r)
        return r;
    if (!v->lapic) {
        uint64_t cr8 = c->run->cr8;
        if (cr8 > 15)
            return -EINVAL;
        if (cr8 != vcpu_cr8_get(v))
            vcpu_cr8_set(v, cr8);
    }
    v->want_irq_window = c->run->request_interrupt_window && !v->vm->has_irqchip;
    return 0;
}

static uint64_t linear_rip(const struct vcpu *v)
{
    return v->cpu.seg[SEG_CS].base + v->cpu.rip;
}

/* The client's answer becomes the restarted instruction's data. */
static void complete(struct kvm_vcpu *c)
{
    struct vcpu *v = c->v;
    enum kvm_completion what = c->completion;
    c->completion = KVM_COMPLETE_NONE;
    if (what == KVM_COMPLETE_HYPERCALL) {
        v->cpu.gpr[GPR_RAX] = c->owner->is_2007 ? ((struct kvm2007_run_hypercall *)((uint8_t *)c->run + KVM2007_RUN_UNION_OFFSET))->ret : c->run->hypercall.ret;
        return;
    }
    if (linear_rip(v) != c->completion_rip) {
        kvm_run_drop(c); /* the client moved the vCPU elsewhere */
        return;
    }
    if (what == KVM_COMPLETE_IN) {
        v->replay.io_bytes = v->exit.io.bytes * v->exit.io.count;
        memcpy(v->replay.io_data, (uint8_t *)c->run + KVM_PIO_PAGE_OFFSET * PAGE_BYTES, v->replay.io_bytes);
        v->replay.io_done = true;
    } else if (what == KVM_COMPLETE_MMIO_READ && v->replay.n < REPLAY_MAX) {
        struct replay_entry *e = &v->replay.entry[v->replay.n++];
        e->gpa = v->exit.mmio.gpa;
        e->bytes = v->exit.mmio.bytes;
        memcpy(e->data, c->run->mmio.data, sizeof(e->data));
    } else if (what == KVM_COMPLETE_MSR) {
        v->replay.msr_done = true;
        v->replay.msr_error = c->run->msr.error;
        v->replay.msr_data = c->run->msr.data;
    }
}

/* ---- kvm_run, out ---------------------------------------------------------------------------------------------------------------------------- */

static bool can_inject(struct vcpu *v)
{
    if (v->vm->has_irqchip)
        return true;
    return (v->cpu.rflags & RFLAGS_IF) && !v->cpu.interrupt_shadow && !v->ev.exception.pending && vcpu_takes_client_irq(v);
}

static void run_outputs(struct kvm_vcpu *c)
{
    struct vcpu *v = c->v;
    struct kvm_run *run = c->run;
    run->if_flag = (v->cpu.rflags & RFLAGS_IF) != 0;
    run->flags = v->cpu.in_smm ? KVM_RUN_X86_SMM : 0;
    run->cr8 = vcpu_cr8_get(v);
    run->apic_base = v->cpu.apic_base;
    run->ready_for_interrupt_injection = can_inject(v);
    if (run->kvm_valid_regs & KVM_SYNC_X86_REGS) {
        struct kvm_regs regs;
        kvm_regs_get(c, &regs);
        run->s.regs.regs = regs;
    }
    if (run->kvm_valid_regs & KVM_SYNC_X86_SREGS) {
        struct kvm_sregs sregs;
        kvm_sregs_get(c, &sregs);
        run->s.regs.sregs = sregs;
    }
    if (run->kvm_valid_regs & KVM_SYNC_X86_EVENTS) {
        struct kvm_vcpu_events events;
        kvm_events_get(c, &events);
        run->s.regs.events = events;
    }
}

static bool has_posted(const struct vcpu *v)
{
    return v->posted.next < v->posted.n;
}

static void show_posted(struct kvm_vcpu *c)
{
    struct posted *p = &c->v->posted;
    const struct replay_entry *e = &p->entry[p->next++];
    kvm_exit_encode_mmio(c, e->gpa, e->bytes, true, e->data);
    if (p->next == p->n)
        p->n = p->next = 0;
}

/* ---- the run ---------------------------------------------------------------------------------------------------------------------------------- */

static int ended_by_signal(struct kvm_vcpu *c)
{
    c->run->exit_reason = KVM_EXIT_INTR;
    return -EINTR;
}

/*
 * The run mask holds during the run. What it unblocks and the client blocks is core's to look for (vcpu_signal_pending); what it blocks is blocked here.
 */
static int run_with_mask(struct vcpu *v)
{
    if (!v->has_run_mask) {
        vcpu_unblock_faults();
        return vcpu_run(v);
    }
    sigset_t mask, old;
    pthread_sigmask(SIG_BLOCK, NULL, &old);
    sigorset(&mask, &old, &v->run_mask);
    vcpu_faults_of(&mask, sigdelset);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    int r = vcpu_run(v);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

static int enter(struct kvm_vcpu *c)
{
    struct vcpu *v = c->v;
    int r;
    do {
        v->exit.kind = EXIT_NONE;
        r = run_with_mask(v);
        if (has_posted(v)) {
            /* A signal that ended the run has done its work: the client gets control. */
            c->has_deferred_exit = !r && v->exit.kind != EXIT_NONE && v->exit.kind != EXIT_INTR;
            show_posted(c);
            return 0;
        }
    } while (!r && v->exit.kind == EXIT_NONE);
    if (r == -EINTR || (!r && v->exit.kind == EXIT_INTR))
        return ended_by_signal(c);
    return r ? r : kvm_exit_encode(c);
}

static int run_once(struct kvm_vcpu *c)
{
    struct vcpu *v = c->v;
    if (has_posted(v)) {
        show_posted(c);
        return 0;
    }
    if (c->has_deferred_exit) {
        c->has_deferred_exit = false;
        return kvm_exit_encode(c);
    }
    if (c->completion != KVM_COMPLETE_NONE)
        complete(c);
    bool is_suspended = v->replay.io_done || v->replay.msr_done || v->replay.n;
    if (is_suspended && linear_rip(v) != c->completion_rip) {
        kvm_run_drop(c);
        is_suspended = false;
    }
    if (vcpu_signal_pending(v)) {
        if (!is_suspended)
            return ended_by_signal(c);
        vcpu_request(v, VREQ_EXIT); /* the suspended instruction, then out */
    }
    return enter(c);
}

int kvm_run_handle(struct kvm_vcpu *c, struct kvm_arg *a)
{
    (void)a;
    int r = run_inputs(c);
    if (r)
        return r;
    r = run_once(c);
    run_outputs(c);
    return r;
}
