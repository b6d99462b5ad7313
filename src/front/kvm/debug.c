/* SPDX-License-Identifier: MIT */
/*
 * The client's own debugging of the guest, in both generations' form, and the guest's debug registers. vcpu.lock is held.
 */
#include <string.h>

#include "front/kvm/front_priv.h"

int kvm_debug_set_guest(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_guest_debug *d = a->data;
    struct vcpu *v = c->v;
    if (d->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
        if (v->ev.exception.pending)
            return -EBUSY;
        vcpu_queue_exception(v, d->control & KVM_GUESTDBG_INJECT_DB ? VEC_DB : VEC_BP);
    }
    struct guest_debug g = { .enabled = d->control & KVM_GUESTDBG_ENABLE };
    if (g.enabled) {
        g.block_events = d->control & KVM_GUESTDBG_BLOCKIRQ;
        g.single_step = d->control & KVM_GUESTDBG_SINGLESTEP;
        g.use_sw_bp = d->control & KVM_GUESTDBG_USE_SW_BP;
        g.use_hw_bp = d->control & KVM_GUESTDBG_USE_HW_BP;
    }
    if (g.use_hw_bp) {
        memcpy(g.dr, d->arch.debugreg, sizeof(g.dr));
        g.dr7 = d->arch.debugreg[7];
    }
    v->debug = g;
    kvm_state_changed(c);
    return 0;
}

/* 2007: up to four execution breakpoints and single step. */
int kvm_debug_set_2007(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm2007_debug_guest *d = a->data;
    struct guest_debug g = { .enabled = d->enabled };
    if (g.enabled) {
        g.single_step = d->singlestep;
        g.dr7 = DR7_FIXED_1;
        for (unsigned i = 0; i < 4; i++) {
            if (!d->breakpoints[i].enabled)
                continue;
            g.use_hw_bp = true;
            g.dr[i] = d->breakpoints[i].address;
            g.dr7 |= 2ull << (2 * i); /* Gi; type and length 0: execution */
        }
    }
    c->v->debug = g;
    kvm_state_changed(c);
    return 0;
}

int kvm_debug_get_regs(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_debugregs *d = a->data;
    memset(d, 0, sizeof(*d));
    memcpy(d->db, c->v->cpu.dr, sizeof(d->db));
    d->dr6 = c->v->cpu.dr6;
    d->dr7 = c->v->cpu.dr7;
    return 0;
}

int kvm_debug_set_regs(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_debugregs *d = a->data;
    if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
        return -EINVAL;
    memcpy(c->v->cpu.dr, d->db, sizeof(d->db));
    c->v->cpu.dr6 = d->dr6;
    c->v->cpu.dr7 = d->dr7;
    kvm_state_changed(c);
    return 0;
}
