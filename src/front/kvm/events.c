/* SPDX-License-Identifier: MIT */
/*
 * Interrupts, NMIs, exceptions and machine checks that the client injects or saves; MP state; the run's signal mask. vcpu.lock is held.
 */
#include <string.h>

#include "front/kvm/front_priv.h"

#define EVENTS_KNOWN (KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM)
#define KERNEL_SIGSET_BYTES 8

void kvm_events_get(struct kvm_vcpu *c, struct kvm_vcpu_events *out)
{
    struct vcpu *v = c->v;
    memset(out, 0, sizeof(*out));
    bool is_soft = v->ev.exception.vector == VEC_BP || v->ev.exception.vector == VEC_OF; /* the length of their instruction has no place here */
    if (v->ev.exception.pending && !is_soft) {
        out->exception.injected = v->ev.exception.injected || !c->owner->has_exception_payload;
        out->exception.pending = !v->ev.exception.injected;
        out->exception.nr = v->ev.exception.vector;
        out->exception.has_error_code = v->ev.exception.has_code;
        out->exception.error_code = v->ev.exception.code;
        out->exception_has_payload = c->owner->has_exception_payload && v->ev.exception.has_payload;
        out->exception_payload = out->exception_has_payload ? v->ev.exception.payload : 0;
    }
    out->interrupt.injected = v->ev.interrupt.injected && !v->ev.interrupt.soft;
    out->interrupt.nr = v->ev.interrupt.vector;
    out->interrupt.shadow = v->cpu.interrupt_shadow;
    out->nmi.pending = (uint8_t)v->ev.nmi_pending;
    out->nmi.masked = v->cpu.nmi_masked;
    out->smi.smm = v->cpu.in_smm;
    out->smi.pending = v->ev.smi_pending;
    out->smi.smm_inside_nmi = v->cpu.smm_inside_nmi;
    out->smi.latched_init = v->lapic && (atomic_load(&v->requests) & VREQ_INIT);
    out->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
    if (c->owner->has_exception_payload)
        out->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    if (c->owner->has_triple_fault_event) {
        out->triple_fault.pending = (atomic_load(&v->requests) & VREQ_TRIPLE_FAULT) != 0;
        out->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    }
}

static bool events_valid(const struct kvm_vcpu *c, const struct kvm_vcpu_events *in)
{
    uint32_t known = EVENTS_KNOWN | (c->owner->has_exception_payload ? KVM_VCPUEVENT_VALID_PAYLOAD : 0) |
                     (c->owner->has_triple_fault_event ? KVM_VCPUEVENT_VALID_TRIPLE_FAULT : 0);
    if (in->flags & ~known)
        return false;
    bool has_exception = in->exception.injected || (in->flags & KVM_VCPUEVENT_VALID_PAYLOAD && in->exception.pending);
    if (has_exception && (in->exception.nr > 31 || in->exception.nr == VEC_NMI))
        return false;
    /* There INITs are latched. */
    bool has_smm = in->flags & KVM_VCPUEVENT_VALID_SMM && (in->smi.smm || in->smi.pending);
    return !(has_smm && c->v->mp_state == MP_INIT_RECEIVED);
}

static void smi_set(struct vcpu *v, const struct kvm_vcpu_events *in)
{
    v->cpu.in_smm = in->smi.smm;
    v->cpu.smm_inside_nmi = in->smi.smm && in->smi.smm_inside_nmi;
    v->ev.smi_pending = in->smi.pending;
    if (v->lapic && in->smi.latched_init)
        vcpu_request(v, VREQ_INIT);
    else if (v->lapic)
        atomic_fetch_and(&v->requests, ~VREQ_INIT);
}

int kvm_events_set(struct kvm_vcpu *c, const struct kvm_vcpu_events *in)
{
    struct vcpu *v = c->v;
    bool is_queued = in->flags & KVM_VCPUEVENT_VALID_PAYLOAD && in->exception.pending;
    if (!events_valid(c, in))
        return -EINVAL;
    v->ev.exception.pending = in->exception.injected || is_queued;
    v->ev.exception.injected = !is_queued;
    v->ev.exception.vector = in->exception.nr;
    v->ev.exception.has_code = in->exception.has_error_code;
    v->ev.exception.code = in->exception.error_code;
    v->ev.exception.has_payload = is_queued && in->exception_has_payload;
    v->ev.exception.payload = v->ev.exception.has_payload ? in->exception_payload : 0;
    v->ev.interrupt.injected = in->interrupt.injected;
    v->ev.interrupt.vector = in->interrupt.nr;
    v->ev.interrupt.soft = in->interrupt.soft;
    v->watch.has_injected_exception &= v->ev.exception.pending;
    v->watch.has_injected_irq &= v->ev.interrupt.injected;
    if (in->flags & KVM_VCPUEVENT_VALID_SHADOW)
        v->cpu.interrupt_shadow = in->interrupt.shadow & (SHADOW_MOV_SS | SHADOW_STI);
    if (in->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
        v->ev.nmi_pending = in->nmi.pending > 2 ? 2 : in->nmi.pending;
    v->cpu.nmi_masked = in->nmi.masked;
    /* One that was being delivered is delivered anew, and masks NMIs then. */
    if (in->nmi.injected) {
        v->cpu.nmi_masked = false;
        if (!v->ev.nmi_pending)
            v->ev.nmi_pending = 1;
    }
    if (in->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
        v->sipi_vector = (uint8_t)in->sipi_vector;
    if (in->flags & KVM_VCPUEVENT_VALID_SMM)
        smi_set(v, in);
    if (in->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT && in->triple_fault.pending)
        vcpu_request(v, VREQ_TRIPLE_FAULT);
    else if (in->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
        atomic_fetch_and(&v->requests, ~VREQ_TRIPLE_FAULT);
    vcpu_request(v, VREQ_EVENT);
    kvm_state_changed(c);
    return 0;
}

int kvm_events_handle_get(struct kvm_vcpu *c, struct kvm_arg *a)
{
    kvm_events_get(c, a->data);
    return 0;
}

int kvm_events_handle_set(struct kvm_vcpu *c, struct kvm_arg *a)
{
    return kvm_events_set(c, a->data);
}

/* With a LAPIC the client speaks for its PIC, if it has one; what it acknowledged there waits for LINT0. */
static int extint_queue(struct vcpu *v, uint8_t vector)
{
    if (v->vm->has_irqchip)
        return -ENXIO;
    if (v->ev.extint.pending)
        return -EEXIST;
    v->ev.extint.pending = true;
    v->ev.extint.vector = vector;
    return 0;
}

int kvm_events_interrupt(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_interrupt *in = a->data;
    if (in->irq >= KVM_NR_INTERRUPTS)
        return -EINVAL;
    if (c->v->lapic) {
        int r = extint_queue(c->v, (uint8_t)in->irq);
        if (r)
            return r;
        vcpu_request(c->v, VREQ_EVENT);
        return 0;
    }
    c->v->ev.interrupt.injected = true;
    c->v->ev.interrupt.soft = false;
    c->v->ev.interrupt.vector = (uint8_t)in->irq;
    vcpu_request(c->v, VREQ_EVENT);
    return 0;
}

int kvm_events_nmi(struct kvm_vcpu *c, struct kvm_arg *a)
{
    (void)a;
    /* One in service and one latched, as the pin has it. */
    uint32_t n = c->v->ev.nmi_pending;
    while (n < 2 && !atomic_compare_exchange_weak(&c->v->ev.nmi_pending, &n, n + 1))
        ;
    vcpu_request(c->v, VREQ_EVENT);
    return 0;
}

int kvm_events_smi(struct kvm_vcpu *c, struct kvm_arg *a)
{
    (void)a;
    c->v->ev.smi_pending = true;
    vcpu_request(c->v, VREQ_EVENT);
    return 0;
}

int kvm_events_get_mp_state(struct kvm_vcpu *c, struct kvm_arg *a)
{
    uint32_t state = c->v->mp_state;
    ((struct kvm_mp_state *)a->data)->mp_state = state == MP_HALTED && c->v->ev.is_kicked ? MP_RUNNABLE : state;
    return 0;
}

int kvm_events_set_mp_state(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct vcpu *v = c->v;
    uint32_t state = ((struct kvm_mp_state *)a->data)->mp_state;
    if (state > KVM_MP_STATE_SIPI_RECEIVED || (!v->lapic && state != KVM_MP_STATE_RUNNABLE))
        return -EINVAL;
    bool waits_for_start = state == KVM_MP_STATE_INIT_RECEIVED || state == KVM_MP_STATE_SIPI_RECEIVED;
    if (waits_for_start && (v->cpu.in_smm || v->ev.smi_pending))
        return -EINVAL;
    if (state == KVM_MP_STATE_SIPI_RECEIVED) {
        v->mp_state = MP_INIT_RECEIVED;
        vcpu_request(v, VREQ_SIPI);
    } else {
        v->mp_state = state;
    }
    vcpu_request(v, VREQ_EVENT);
    kvm_state_changed(c);
    return 0;
}

int kvm_events_set_signal_mask(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_signal_mask head;
    uint64_t bits;
    if (!a->value) {
        c->v->has_run_mask = false;
        return 0;
    }
    if (user_read(&head, a->value, sizeof(head)))
        return -EFAULT;
    if (head.len != KERNEL_SIGSET_BYTES)
        return -EINVAL;
    if (user_read(&bits, a->value + sizeof(head), sizeof(bits)))
        return -EFAULT;
    /* The kernel's set is the first word of the C library's, which would not let us add the two signals it keeps for itself. */
    sigemptyset(&c->v->run_mask);
    memcpy(&c->v->run_mask, &bits, sizeof(bits));
    sigdelset(&c->v->run_mask, SIGKILL);
    sigdelset(&c->v->run_mask, SIGSTOP);
    c->v->has_run_mask = true;
    return 0;
}

/* ---- machine checks (SDM vol. 3B, "Machine-Check Architecture") ------------------------------------------------------------------------------ */

#define MCG_CTL_P (1ull << 8)
#define MCG_STATUS_MCIP (1ull << 2)
#define MCI_STATUS_VAL (1ull << 63)
#define MCI_STATUS_OVER (1ull << 62)
#define MCI_STATUS_UC (1ull << 61)

int kvm_events_setup_mce(struct kvm_vcpu *c, struct kvm_arg *a)
{
    return vcpu_mce_setup(c->v, *(const uint64_t *)a->data);
}

static void bank_write(uint64_t *bank, const struct kvm_x86_mce *mce, uint64_t overflow)
{
    bank[1] = mce->status | overflow;
    bank[2] = mce->addr;
    bank[3] = mce->misc;
}

int kvm_events_set_mce(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_x86_mce *mce = a->data;
    struct vcpu *v = c->v;
    struct cpu_state *cpu = &v->cpu;
    if (mce->bank >= (cpu->mcg_cap & 0xff) || !(mce->status & MCI_STATUS_VAL))
        return -EINVAL;
    uint64_t *bank = &cpu->mc_bank[4 * mce->bank];
    bool has_global_ctl = cpu->mcg_cap & MCG_CTL_P;
    if (!(mce->status & MCI_STATUS_UC)) {
        /* Corrected: noted, unless an uncorrected one stands there. */
        if (!(bank[1] & MCI_STATUS_VAL) || !(bank[1] & MCI_STATUS_UC))
            bank_write(bank, mce, bank[1] & MCI_STATUS_VAL ? MCI_STATUS_OVER : 0);
        else
            bank[1] |= MCI_STATUS_OVER;
        return 0;
    }
    if ((has_global_ctl && cpu->mcg_ctl != ~0ull) || bank[0] != ~0ull)
        return 0; /* reporting is switched off */
    if ((cpu->mcg_status & MCG_STATUS_MCIP) || !(cpu->cr4 & CR4_MCE)) {
        vcpu_request(v, VREQ_TRIPLE_FAULT);
        return 0;
    }
    bank_write(bank, mce, bank[1] & MCI_STATUS_VAL ? MCI_STATUS_OVER : 0);
    cpu->mcg_status = mce->mcg_status;
    vcpu_queue_exception(v, VEC_MC);
    kvm_state_changed(c);
    return 0;
}
