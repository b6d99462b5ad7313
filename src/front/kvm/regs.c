/* SPDX-License-Identifier: MIT */
/*
 * General registers and KVM_TRANSLATE. vcpu.lock is held.
 */
#include "front/kvm/front_priv.h"

/* kvm_regs begins with the registers in this order. */
static const uint8_t kvm_order[GPR_COUNT] = {
    GPR_RAX, GPR_RBX, GPR_RCX, GPR_RDX, GPR_RSI, GPR_RDI, GPR_RSP, GPR_RBP, GPR_R8, GPR_R9, GPR_R10, GPR_R11, GPR_R12, GPR_R13, GPR_R14, GPR_R15,
};
_Static_assert(offsetof(struct kvm_regs, rip) == GPR_COUNT * 8, "kvm_regs");
_Static_assert(offsetof(struct kvm_regs, rbp) == 7 * 8, "kvm_regs");

void kvm_regs_get(struct kvm_vcpu *c, struct kvm_regs *out)
{
    const struct cpu_state *cpu = &c->v->cpu;
    uint64_t *slot = (uint64_t *)out;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        slot[i] = cpu->gpr[kvm_order[i]];
    out->rip = cpu->rip;
    out->rflags = cpu->rflags;
}

void kvm_regs_set(struct kvm_vcpu *c, const struct kvm_regs *in)
{
    struct cpu_state *cpu = &c->v->cpu;
    const uint64_t *slot = (const uint64_t *)in;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        cpu->gpr[kvm_order[i]] = slot[i];
    cpu->rip = in->rip;
    cpu->rflags = in->rflags | RFLAGS_RES1;
    if (!c->v->ev.exception.injected)
        c->v->ev.exception.pending = false; /* it belonged to the instruction that is left */
    kvm_state_changed(c);
}

int kvm_regs_handle_get(struct kvm_vcpu *c, struct kvm_arg *a)
{
    kvm_regs_get(c, a->data);
    return 0;
}

int kvm_regs_handle_set(struct kvm_vcpu *c, struct kvm_arg *a)
{
    kvm_regs_set(c, a->data);
    return 0;
}

int kvm_regs_translate(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_translation *t = a->data;
    struct translation found = { 0 };
    c->v->vm->engine->translate(c->v, t->linear_address, &found);
    t->physical_address = found.is_valid ? found.gpa : ~0ull;
    t->valid = found.is_valid;
    /* Linux leaves these at 1 and 0 always; a mapped page's own rights are more useful and the same for kernel pages. */
    t->writeable = found.is_valid ? found.is_writeable : 1;
    t->usermode = found.is_valid && found.is_usermode;
    return 0;
}
