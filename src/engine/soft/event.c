/* SPDX-License-Identifier: MIT */
/*
 * What happens between instructions: requests of other threads, INIT and SIPI, halting, NMIs, interrupts, injected and own exceptions. Called by the run loop,
 * vectors saved.
 */
#include "core/hold.h"
#include "core/smm.h"
#include "engine/soft/code.h"
#include "engine/soft/exec.h"

static enum step exit_with(struct soft_vcpu *sv, enum exit_kind kind)
{
    sv->v.exit.kind = kind;
    return STEP_EXIT;
}

/* What could not be delivered now is pending again. */
static void event_put_back(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f)
{
    struct vcpu_events *ev = &sv->v.ev;
    if (kind == EVENT_EXTERNAL) {
        ev->interrupt.injected = true;
        ev->interrupt.soft = false;
        ev->interrupt.vector = f->vector;
    } else if (kind == EVENT_NMI) {
        atomic_fetch_add(&ev->nmi_pending, 1);
    } else {
        ev->exception.pending = ev->exception.has_payload = true;
        ev->exception.has_code = f->has_code;
        ev->exception.injected = false;
        ev->exception.vector = f->vector;
        ev->exception.code = f->code;
        ev->exception.payload = f->addr;
    }
    atomic_store(&sv->v.exit_req, 1);
}

/* Delivery ended at the handler, or the machine shut down. */
static enum step deliver(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f, uint64_t next_rip)
{
    enum step s = event_deliver(sv, kind, f, next_rip);
    if (s == STEP_EXIT)
        return s;
    if (s == STEP_FAULT && sv->fault.vector == FAULT_ACCESS) {
        event_put_back(sv, kind, f);
        sv->v.exit.insn_bytes = 0;
        return exit_with(sv, EXIT_ACCESS);
    }
    if (s == STEP_FAULT) {
        event_put_back(sv, kind, f);
        sv->v.watch.is_delivery = true;
        return STEP_REPEAT; /* nothing else is delivered before the answer */
    }
    sv->v.cpu.interrupt_shadow = 0;
    return STEP_NEXT;
}

enum step event_fault(struct soft_vcpu *sv)
{
    const struct guest_debug *d = &sv->v.debug;
    struct fault f = sv->fault;
    if (f.vector == FAULT_MEMORY) /* v->exit was filled by the signal handler */
        return STEP_EXIT;
    /* Even the guest's own: the client gives them back. */
    if (f.vector == VEC_DB && d->enabled && (d->use_hw_bp || d->single_step))
        return exec_debug_exit(sv, VEC_DB, f.addr);
    if (f.vector == VEC_PF)
        vcpu_count(&sv->v, STAT_PAGE_FAULTS);
    return deliver(sv, EVENT_EXCEPTION, &f, sv->v.cpu.rip);
}

/* False: a tool is asked first. */
static bool take_init(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    bool is_dropped;
    if (v->cpu.in_smm) { /* latched: RSM has requests looked at again */
        atomic_fetch_or(&v->requests, VREQ_INIT);
        return true;
    }
    if (!watch_between_ask(sv, WATCH_VCPU_RESET, 0, &is_dropped))
        return false;
    if (is_dropped)
        return true;
    vcpu_reset(v, true);
    atomic_store(&v->mp_state, v->id == v->vm->boot_cpu_id ? MP_RUNNABLE : MP_INIT_RECEIVED);
    mode_update(sv);
    tlb_flush(sv);
    return true;
}

/* The same. */
static bool take_sipi(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    uint8_t vector = atomic_load(&v->sipi_vector);
    bool is_dropped;
    if (atomic_load(&v->mp_state) != MP_INIT_RECEIVED)
        return true;
    if (!watch_between_ask(sv, WATCH_VCPU_STARTED, vector, &is_dropped))
        return false;
    if (is_dropped)
        return true;
    vcpu_start_at(v, vector);
    atomic_store(&v->mp_state, MP_RUNNABLE);
    mode_update(sv);
    return true;
}

/* False: a tool is asked about one of the two, which are requested again. */
static bool take_start(struct soft_vcpu *sv, uint32_t req)
{
    struct vcpu *v = &sv->v;
    if ((req & VREQ_INIT) && !take_init(sv)) {
        atomic_fetch_or(&v->requests, VREQ_INIT | (req & VREQ_SIPI));
        return false;
    }
    if ((req & VREQ_SIPI) && !take_sipi(sv)) {
        atomic_fetch_or(&v->requests, VREQ_SIPI);
        return false;
    }
    return true;
}

static bool may_interrupt(const struct vcpu *v)
{
    return (v->cpu.rflags & RFLAGS_IF) && !v->cpu.interrupt_shadow;
}

/* A debugger or a tool steps and wants to see no handlers. */
static bool are_events_blocked(const struct vcpu *v, bool was_halted)
{
    return (v->debug.enabled && v->debug.block_events) || (atomic_load(&v->hold.n_quiet) && !was_halted);
}

static bool has_wake_event(struct vcpu *v)
{
    return (atomic_load(&v->ev.nmi_pending) && !v->cpu.nmi_masked) || smm_is_due(v) || v->ev.exception.pending || atomic_load(&v->ev.is_kicked) ||
           ((v->cpu.rflags & RFLAGS_IF) && vcpu_irq_peek(v) >= 0);
}

/* The client asked to be told when it may inject, and it may. */
static bool is_window_open(struct vcpu *v)
{
    return v->want_irq_window && may_interrupt(v) && vcpu_takes_client_irq(v);
}

/* Sleeps while the vCPU has nothing to run. */
static enum step wait_runnable(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    uint32_t state = atomic_load(&v->mp_state);
    if (state == MP_RUNNABLE)
        return STEP_NEXT;
    if (state == MP_HALTED && has_wake_event(v)) {
        atomic_store(&v->ev.is_kicked, false);
        atomic_store(&v->mp_state, MP_RUNNABLE);
        return STEP_NEXT;
    }
    if (is_window_open(v)) /* STI; HLT */
        return exit_with(sv, EXIT_IRQ_WINDOW);
    if (v->vm->chip)
        v->vm->chip->vcpu_sleep(v);
    if (vcpu_block(v))
        return exit_with(sv, EXIT_INTR);
    atomic_store(&v->exit_req, 1); /* look again at what woke us */
    return STEP_REPEAT;
}

static enum step inject_exception(struct soft_vcpu *sv)
{
    struct vcpu_events *ev = &sv->v.ev;
    struct fault f = { .vector = ev->exception.vector, .has_code = ev->exception.has_code, .code = ev->exception.code };
    /* Without a payload CR2 and DR6 are as the client set them. */
    f.addr = ev->exception.has_payload ? ev->exception.payload : f.vector == VEC_PF ? sv->v.cpu.cr2 : sv->v.cpu.dr6;
    ev->exception.pending = false;
    if (sv->v.watch.has_injected_exception) { /* in the middle of an instruction, which begins anew later */
        sv->v.replay.n = sv->v.replay.next = 0;
        sv->v.replay.io_done = sv->v.replay.msr_done = false;
    }
    atomic_store(&sv->v.exit_req, 1); /* what else is pending comes after it */
    /* The client gives back what INT3 or INTO raised, whose handler returns behind the instruction. */
    if (f.vector == VEC_BP || f.vector == VEC_OF)
        return deliver(sv, EVENT_SOFT_INT, &f, sv->v.cpu.rip + 1);
    return deliver(sv, EVENT_EXCEPTION, &f, sv->v.cpu.rip);
}

static enum step inject_interrupt(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    if (vcpu_irq_peek(v) < 0)
        return STEP_NEXT;
    if (!may_interrupt(v)) {
        sv->is_irq_waiting = true;
        return STEP_NEXT;
    }
    int vector = vcpu_irq_take(v);
    if (vector < 0)
        return STEP_NEXT;
    struct fault f = { .vector = (uint8_t)vector };
    vcpu_count(v, STAT_IRQ_INJECTIONS);
    return deliver(sv, EVENT_EXTERNAL, &f, v->cpu.rip);
}

static enum step inject(struct soft_vcpu *sv, bool was_halted)
{
    struct vcpu *v = &sv->v;
    enum step s = STEP_NEXT;
    sv->is_irq_waiting = false;
    if (v->ev.exception.pending)
        return inject_exception(sv);
    if (are_events_blocked(v, was_halted)) /* what the client injected is on its way already */
        return v->ev.interrupt.injected ? inject_interrupt(sv) : STEP_NEXT;
    if (atomic_load(&v->ev.nmi_pending) && !v->cpu.nmi_masked && !v->cpu.interrupt_shadow) {
        atomic_fetch_sub(&v->ev.nmi_pending, 1);
        struct fault f = { .vector = VEC_NMI };
        vcpu_count(v, STAT_NMI_INJECTIONS);
        s = deliver(sv, EVENT_NMI, &f, v->cpu.rip);
        if (s != STEP_NEXT)
            return s;
    }
    s = inject_interrupt(sv);
    if (s != STEP_NEXT)
        return s;
    if (is_window_open(v))
        return exit_with(sv, EXIT_IRQ_WINDOW);
    sv->is_irq_waiting |= v->want_irq_window && vcpu_takes_client_irq(v);
    return s;
}

enum step event_hold(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    atomic_store(&v->exit_req, 0);
    hold_work_off(v);
    if ((atomic_load(&v->requests) & VREQ_EXIT) || vcpu_signal_pending(v) || (hold_is_held(v) && vcpu_block(v)))
        return exit_with(sv, EXIT_INTR);
    atomic_store(&v->exit_req, 1); /* what came meanwhile is still in the requests */
    return STEP_NEXT;
}

static void note_flush_for_others(struct soft_vcpu *sv)
{
    const struct watch_event e = { .kind = WATCH_FLUSH, .index = WATCH_FLUSH_PARAVIRTUAL };
    if (watch_is_on(sv, WATCH_FLUSH))
        watch_note(&sv->v, &e);
}

enum step event_requests(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    bool was_halted = false;
    for (;;) {
        vcpu_count_exit(v, STAT_REQUESTS);
        atomic_store(&v->exit_req, 0);
        hold_work_off(v);
        if (hold_is_held(v))
            return STEP_NEXT; /* to event_hold, with the requests as they are */
        uint32_t req = atomic_exchange(&v->requests, 0);
        if (!take_start(sv, req)) {
            atomic_fetch_or(&v->requests, req & ~(VREQ_INIT | VREQ_SIPI));
            return STEP_NEXT;
        }
        if (req & VREQ_TRIPLE_FAULT)
            return exit_with(sv, EXIT_SHUTDOWN);
        if (req & VREQ_IOAPIC_EOI) {
            v->exit.eoi.vector = v->eoi_vector;
            return exit_with(sv, EXIT_IOAPIC_EOI);
        }
        if (req & VREQ_TPR_ACCESS) {
            v->exit.tpr.rip = v->tpr_access.rip;
            v->exit.tpr.is_write = v->tpr_access.is_write;
            return exit_with(sv, EXIT_TPR_ACCESS);
        }
        if (v->system_event) {
            atomic_fetch_or(&v->requests, req);
            v->exit.system_event.what = v->system_event;
            v->system_event = SYSTEM_EVENT_NONE;
            return exit_with(sv, EXIT_SYSTEM_EVENT);
        }
        if ((req & VREQ_EXIT) || vcpu_signal_pending(v))
            return exit_with(sv, EXIT_INTR);
        was_halted |= atomic_load(&v->mp_state) == MP_HALTED;
        enum step s = wait_runnable(sv);
        if (s == STEP_REPEAT)
            continue;
        if (s != STEP_NEXT)
            return s;
        if (dirty_ring_is_full(&v->dirty_ring))
            return exit_with(sv, EXIT_DIRTY_RING_FULL);
        if (v->vm->chip && v->vm->chip->vcpu_run_enter(v)) {
            tlb_flush(sv);
            note_flush_for_others(sv);
        }
        if (atomic_exchange(&sv->is_flushed_by_other, false))
            note_flush_for_others(sv);
        run_notice_client(sv);
        if (smm_is_due(v) && !v->ev.exception.pending && !are_events_blocked(v, was_halted))
            return smi_take(sv);
        guest_mode_enter(sv); /* delivery reads and writes guest memory */
        s = inject(sv, was_halted);
        guest_mode_leave(sv);
        fp_put(sv);
        return s;
    }
}
