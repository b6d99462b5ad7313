/* SPDX-License-Identifier: MIT */
/*
 * KVM's hypercalls, and which paravirtual features a guest may use. Runs on the calling vCPU's thread, no lock held (Linux,
 * Documentation/virt/kvm/x86/hypercalls.rst). The privilege check is the engine's.
 */
#include <sched.h>

#include "chip/chip_priv.h"

#define CALL_VAPIC_POLL_IRQ 1
#define CALL_KICK_CPU 5
#define CALL_SEND_IPI 10
#define CALL_SCHED_YIELD 11
#define CALL_EINVAL (-22)
#define CALL_ENOSYS (-1000)

#define SIGNATURE_EBX 0x4b4d564bu /* "KVMKVMKVM" */
#define SIGNATURE_ECX 0x564b4d56u
#define SIGNATURE_EDX 0x4du
#define LEAF_FIRST 0x40000000u
#define LEAF_END 0x40010000u
#define LEAF_STEP 0x100u

#define ICR_MODE(icr) ((icr) >> 8 & 7)
#define ICR_LOGICAL (1u << 11)
#define ICR_ASSERT (1u << 14)
#define ICR_LEVEL (1u << 15)
#define ICR_SHORTHAND (3u << 18)

/* Another hypervisor's leaves may come first. */
static uint32_t pv_leaf(const struct vcpu *v)
{
    for (unsigned i = 0; i < v->n_cpuid; i++) {
        const struct cpuid_entry *e = &v->cpuid[i];
        if (e->function >= LEAF_FIRST && e->function < LEAF_END && e->function % LEAF_STEP == 0 && e->ebx == SIGNATURE_EBX && e->ecx == SIGNATURE_ECX &&
            e->edx == SIGNATURE_EDX)
            return e->function;
    }
    return 0;
}

bool pv_has(const struct vcpu *v, enum pv_feature feature)
{
    if (!v->is_pv_enforced)
        return true;
    uint32_t leaf = pv_leaf(v);
    return leaf && vcpu_cpuid_has(v, leaf + 1, 0, 0, feature);
}

static struct vcpu *vcpu_of_apic_id(struct vm *vm, uint64_t id)
{
    return id < atomic_load(&vm->n_vcpus) ? vm_vcpu(vm, (unsigned)id) : NULL;
}

/* Ends a HLT even if interrupts are off: paravirtual spinlocks sleep that way. One that comes before the HLT is kept for it. */
static int64_t call_kick(struct vcpu *v, uint64_t apic_id)
{
    struct vcpu *other = vcpu_of_apic_id(v->vm, apic_id);
    if (other) {
        atomic_store(&other->ev.is_kicked, true);
        vcpu_request(other, VREQ_EVENT);
    }
    return 0;
}

/* Two words of bits, the first APIC id, the ICR's lower half: how many took it. */
static int64_t call_send_ipi(struct vcpu *v, const uint64_t args[4], bool is_long)
{
    unsigned word_bits = is_long ? 64 : 32;
    uint32_t first = (uint32_t)args[2], icr = (uint32_t)args[3];
    int64_t n = 0;
    if (icr & (ICR_LOGICAL | ICR_SHORTHAND))
        return CALL_EINVAL;
    struct lapic_msg msg = {
        .vector = (uint8_t)icr,
        .mode = (enum delivery_mode)ICR_MODE(icr),
        .is_level = icr & ICR_LEVEL,
        .is_assert = icr & ICR_ASSERT,
    };
    for (unsigned word = 0; word < 2; word++)
        for (uint64_t left = args[word]; left; left &= left - 1) {
            struct vcpu *other = vcpu_of_apic_id(v->vm, (uint64_t)first + word * word_bits + (unsigned)__builtin_ctzll(left));
            struct lapic *l = other ? lapic_of(other) : NULL;
            int r = l ? lapic_accept(l, &msg) : -1;
            n += r > 0 ? r : 0;
        }
    return n;
}

int64_t pv_call(struct vcpu *v, uint64_t nr, const uint64_t args[4], bool is_long)
{
    switch (nr) {
    case CALL_VAPIC_POLL_IRQ:
        vcpu_request(v, VREQ_EVENT);
        return 0;
    case CALL_KICK_CPU:
        return pv_has(v, PV_UNHALT) ? call_kick(v, args[1]) : CALL_ENOSYS;
    case CALL_SEND_IPI:
        return pv_has(v, PV_SEND_IPI) ? call_send_ipi(v, args, is_long) : CALL_ENOSYS;
    case CALL_SCHED_YIELD: /* to the vCPU named; the host's scheduler knows best which of the waiting threads that is */
        if (!pv_has(v, PV_SCHED_YIELD))
            return CALL_ENOSYS;
        sched_yield();
        return 0;
    default:
        return CALL_ENOSYS;
    }
}
