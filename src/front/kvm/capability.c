/* SPDX-License-Identifier: MIT */
/*
 * KVM_CHECK_EXTENSION and KVM_ENABLE_CAP. A capability stands in the table only if everything it promises works.
 */
#include <unistd.h>

#include "front/kvm/front_priv.h"

#define GUEST_DEBUG_FLAGS                                                                                                                                \
    (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | \
     KVM_GUESTDBG_BLOCKIRQ)
#define CLOCK_FLAGS (KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC)
#define X2APIC_API_FLAGS (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
#define MSR_EXIT_REASONS (KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
#define DIRTY_LOG_FLAGS (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)
#define ONLINE_CPUS (-1) /* replaced by the number of host CPUs */

#define CAP(name, value)             \
    {                                \
#name, KVM_CAP_##name, value \
    }
static const struct kvm_capability capabilities[] = {
    CAP(IRQCHIP, 1),
    CAP(HLT, 1),
    CAP(MMU_SHADOW_CACHE_CONTROL, 1),
    CAP(USER_MEMORY, 1),
    CAP(SET_TSS_ADDR, 1),
    CAP(VAPIC, 1),
    CAP(EXT_CPUID, 1),
    CAP(CLOCKSOURCE, 1),
    CAP(NR_VCPUS, ONLINE_CPUS),
    CAP(NR_MEMSLOTS, KVM_SLOTS),
    CAP(PIT, 1),
    CAP(NOP_IO_DELAY, 1),
    CAP(MP_STATE, 1),
    CAP(COALESCED_MMIO, KVM_COALESCED_MMIO_PAGE_OFFSET),
    CAP(SYNC_MMU, 1),
    CAP(DESTROY_MEMORY_REGION_WORKS, 1),
    CAP(USER_NMI, 1),
    CAP(SET_GUEST_DEBUG, 1),
    CAP(REINJECT_CONTROL, 1),
    CAP(IRQ_ROUTING, IRQ_GSI_MAX),
    CAP(IRQ_INJECT_STATUS, 1),
    CAP(JOIN_MEMORY_REGIONS_WORKS, 1),
    CAP(MCE, MCE_BANKS_MAX),
    CAP(IRQFD, 1),
    CAP(PIT2, 1),
    CAP(SET_BOOT_CPU_ID, 1),
    CAP(PIT_STATE2, 1),
    CAP(IOEVENTFD, 1),
    CAP(SET_IDENTITY_MAP_ADDR, 1),
    CAP(ADJUST_CLOCK, CLOCK_FLAGS),
    CAP(INTERNAL_ERROR_DATA, 1),
    CAP(VCPU_EVENTS, 1),
    CAP(HYPERV, 1),
    CAP(HYPERV_VAPIC, 1),
    CAP(HYPERV_SPIN, 1),
    CAP(INTR_SHADOW, 1),
    CAP(DEBUGREGS, 1),
    CAP(X86_ROBUST_SINGLESTEP, 1),
    CAP(ENABLE_CAP, 1),
    CAP(XSAVE, 1),
    CAP(XCRS, 1),
    CAP(TSC_CONTROL, 1),
    CAP(GET_TSC_KHZ, 1),
    CAP(MAX_VCPUS, VM_VCPUS_MAX),
    CAP(TSC_DEADLINE_TIMER, 1),
    CAP(SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS),
    CAP(KVMCLOCK_CTRL, 1),
    CAP(SIGNAL_MSI, 1),
    CAP(READONLY_MEM, 1),
    CAP(IRQFD_RESAMPLE, 1),
    CAP(EXT_EMUL_CPUID, 1),
    CAP(HYPERV_TIME, 1),
    CAP(IOAPIC_POLARITY_IGNORED, 1),
    CAP(ENABLE_CAP_VM, 1),
    CAP(IOEVENTFD_NO_LENGTH, 1),
    CAP(CHECK_EXTENSION_VM, 1),
    CAP(IOEVENTFD_ANY_LENGTH, 1),
    CAP(X86_SMM, 1),
    CAP(MULTI_ADDRESS_SPACE, SPACE_COUNT),
    CAP(VCPU_ATTRIBUTES, 1),
    CAP(MAX_VCPU_ID, VM_VCPU_IDS),
    CAP(SPLIT_IRQCHIP, 1),
    CAP(X2APIC_API, X2APIC_API_FLAGS),
    CAP(IMMEDIATE_EXIT, 1),
    CAP(HYPERV_VP_INDEX, 1),
    CAP(GET_MSR_FEATURES, 1),
    CAP(COALESCED_PIO, 1),
    CAP(EXCEPTION_PAYLOAD, 1),
    CAP(MSR_PLATFORM_INFO, 1),
    CAP(X86_USER_SPACE_MSR, 1),
    CAP(X86_MSR_FILTER, 1),
    CAP(HYPERV_TLBFLUSH, 1),
    CAP(HYPERV_SEND_IPI, 1),
    CAP(HYPERV_CPUID, 1),
    CAP(MANUAL_DIRTY_LOG_PROTECT2, DIRTY_LOG_FLAGS),
    CAP(SYS_HYPERV_CPUID, 1),
    CAP(DIRTY_LOG_RING, KVM_DIRTY_RING_BYTES_MAX),
    CAP(DIRTY_LOG_RING_ACQ_REL, KVM_DIRTY_RING_BYTES_MAX),
    CAP(SET_GUEST_DEBUG2, GUEST_DEBUG_FLAGS),
    CAP(SREGS2, 1),
    CAP(BINARY_STATS_FD, 1),
    CAP(ENFORCE_PV_FEATURE_CPUID, 1),
    CAP(HYPERV_ENFORCE_CPUID, 1),
    CAP(EXIT_ON_EMULATION_FAILURE, 1),
    CAP(XSAVE2, XSAVE_AREA_BYTES),
    CAP(SYS_ATTRIBUTES, 1),
    CAP(VM_TSC_CONTROL, 1),
    CAP(X86_TRIPLE_FAULT_EVENT, 1),
    CAP(USER_MEMORY2, 1),
    CAP(MEMORY_FAULT_INFO, 1),
};
_Static_assert(X2APIC_API_FLAGS == 3, "the bits of vm.x2apic_api_flags");
#define N_CAPABILITIES (sizeof(capabilities) / sizeof(capabilities[0]))

const struct kvm_capability *kvm_capability_table(unsigned *n)
{
    *n = N_CAPABILITIES;
    return capabilities;
}

int kvm_capability_value(uint32_t number)
{
    for (unsigned i = 0; i < N_CAPABILITIES; i++) {
        if (capabilities[i].number != number)
            continue;
        if (capabilities[i].value != ONLINE_CPUS)
            return capabilities[i].value;
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        return online < 1 ? 1 : online > VM_VCPUS_MAX ? VM_VCPUS_MAX : (int)online;
    }
    return 0;
}

int kvm_capability_check_vm(struct kvm_vm *m, struct kvm_arg *a)
{
    (void)m;
    return kvm_capability_value((uint32_t)a->value);
}

/* LAPICs here, PIC and IOAPIC in the client; the first n_pins GSIs are its IOAPIC's. */
static int split_irqchip(struct kvm_vm *m, uint64_t n_pins)
{
    struct vm *vm = m->vm;
    int r = 0;
    if (n_pins > IRQ_GSI_MAX)
        return -EINVAL;
    pthread_mutex_lock(&vm->lock);
    if (vm_has_lapics(vm) || m->n_vcpus) {
        r = -EEXIST;
    } else {
        vm->irq.n_reserved = (uint32_t)n_pins;
        vm->has_split_irqchip = true;
    }
    pthread_mutex_unlock(&vm->lock);
    return r;
}

/* Once. */
static int limit_ids(struct kvm_vm *m, uint64_t n)
{
    if (n > VM_VCPU_IDS || (m->n_ids && m->n_ids != n))
        return -EINVAL;
    m->n_ids = (uint32_t)n;
    return 0;
}

int kvm_capability_enable_vm(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_enable_cap *e = a->data;
    int r = 0;
    if (e->flags)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    switch (e->cap) {
    case KVM_CAP_EXCEPTION_PAYLOAD:
        m->has_exception_payload = e->args[0];
        break;
    case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
        m->has_triple_fault_event = e->args[0];
        break;
    case KVM_CAP_MSR_PLATFORM_INFO:
        m->vm->is_platform_info_hidden = !e->args[0];
        break;
    case KVM_CAP_MAX_VCPU_ID:
        r = limit_ids(m, e->args[0]);
        break;
    case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
        /* The one flag means something only with the other. */
        if (e->args[0] & ~(uint64_t)(e->args[0] & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE ? DIRTY_LOG_FLAGS : 0))
            r = -EINVAL;
        else
            m->dirty_log_flags = (uint32_t)e->args[0];
        break;
    case KVM_CAP_DIRTY_LOG_RING:
    case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
        r = kvm_dirty_enable_ring(m, (uint32_t)e->args[0]);
        break;
    case KVM_CAP_X86_USER_SPACE_MSR:
        if (e->args[0] & ~(uint64_t)MSR_EXIT_REASONS)
            r = -EINVAL;
        else
            atomic_store(&m->vm->msr_exit_reasons, (uint32_t)e->args[0]);
        break;
    case KVM_CAP_SPLIT_IRQCHIP:
        r = split_irqchip(m, e->args[0]);
        break;
    case KVM_CAP_X2APIC_API:
        if (e->args[0] & ~(uint64_t)X2APIC_API_FLAGS)
            r = -EINVAL;
        else
            m->vm->x2apic_api_flags |= (uint32_t)e->args[0];
        break;
    case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
        /* The engine always leaves with the instruction's bytes; it never turns what it cannot do into the guest's #UD. */
        r = e->args[0] & ~1ull ? -EINVAL : 0;
        break;
    default:
        r = -EINVAL;
    }
    pthread_mutex_unlock(&m->lock);
    return r;
}

int kvm_capability_enable_vcpu(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_enable_cap *e = a->data;
    if (e->flags)
        return -EINVAL;
    switch (e->cap) {
    case KVM_CAP_ENFORCE_PV_FEATURE_CPUID:
        c->v->is_pv_enforced = e->args[0];
        return 0;
    case KVM_CAP_HYPERV_ENFORCE_CPUID:
        c->v->is_hv_enforced = e->args[0];
        return 0;
    default:
        return -EINVAL;
    }
}
