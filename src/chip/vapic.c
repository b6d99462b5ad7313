/* SPDX-License-Identifier: MIT */
/*
 * The virtual APIC page: a word of guest memory in which code that the client has patched into a 32-bit guest keeps the TPR, so that writing it needs no exit.
 * The guest calls (KVM_HC_VAPIC_POLL_IRQ) when what waits could come now. The word is taken over before anything depends on the TPR and shown again after
 * interrupts have moved. Runs on the vCPU's thread, or its client's while it does not run (Linux, Documentation/virt/kvm/api.rst, KVM_SET_VAPIC_ADDR).
 */
#include <errno.h>

#include "chip/chip_priv.h"

static uint32_t class_or_zero(int vector)
{
    return vector < 0 ? 0 : (uint32_t)vector;
}

void vapic_pull(struct lapic *l)
{
    uint8_t tpr;
    if (!atomic_load_explicit(&l->has_vapic, memory_order_relaxed) || vm_read(l->v->vm, l->vapic, &tpr, 1) || l->reg[LREG_TPR] == tpr)
        return;
    lapic_lock(l);
    l->reg[LREG_TPR] = tpr;
    lapic_unlock(l);
}

void vapic_push(struct lapic *l)
{
    if (!atomic_load_explicit(&l->has_vapic, memory_order_relaxed))
        return;
    lapic_lock(l);
    uint32_t in_service = class_or_zero(lapic_highest(&l->reg[LREG_ISR])), waiting = class_or_zero(lapic_highest(&l->reg[LREG_IRR]));
    uint32_t word = (l->reg[LREG_TPR] & 0xff) | (in_service & 0xf0) << 8 | waiting << 24;
    lapic_unlock(l);
    vm_write(l->v->vm, l->vapic, &word, sizeof(word));
}

int vapic_set(struct vcpu *v, uint64_t gpa)
{
    struct lapic *l = lapic_of(v);
    uint32_t word;
    if (!l || (gpa && vm_read(v->vm, gpa, &word, sizeof(word))))
        return -EINVAL;
    l->vapic = gpa;
    atomic_store(&l->has_vapic, gpa != 0);
    vapic_push(l); /* until the guest has written the word it says what is */
    return 0;
}
