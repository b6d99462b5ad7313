/* SPDX-License-Identifier: MIT */
/*
 * The KVM ABI of Linux 2.6.20 and 2.6.21 where <linux/kvm.h> no longer declares it or declares it otherwise. Layouts and numbers only; the assertions hold
 * what a compiler made of the original header.
 */
#ifndef VITRINE_ABI_KVM2007_H
#define VITRINE_ABI_KVM2007_H

#include <stddef.h>
#include <stdint.h>

#define KVM2007_SET_MEMORY_REGION 0x4018ae40u
#define KVM2007_SET_MEMORY_ALIAS 0x4020ae43u
#define KVM2007_DEBUG_GUEST 0x4050ae87u

#define KVM2007_MEM_LOG_DIRTY_PAGES 1u
#define KVM2007_ALIAS_SLOTS 4u

/* The host allocates the memory; the client maps it at offset guest_phys_addr of the VM fd. */
struct kvm2007_memory_region {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
};
_Static_assert(sizeof(struct kvm2007_memory_region) == 24, "kvm_memory_region");

struct kvm2007_memory_alias {
    uint32_t slot; /* not a memory slot's number */
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t target_phys_addr;
};
_Static_assert(sizeof(struct kvm2007_memory_alias) == 32, "kvm_memory_alias");

struct kvm2007_breakpoint {
    uint32_t enabled;
    uint32_t pad;
    uint64_t address;
};
struct kvm2007_debug_guest {
    uint32_t enabled;
    uint32_t pad;
    struct kvm2007_breakpoint breakpoints[4];
    uint32_t singlestep;
};
_Static_assert(sizeof(struct kvm2007_debug_guest) == 80, "kvm_debug_guest");
_Static_assert(offsetof(struct kvm2007_debug_guest, singlestep) == 72, "kvm_debug_guest.singlestep");

/* The hypercall member of kvm_run's union: without the call number that today's has in front. */
#define KVM2007_RUN_UNION_OFFSET 32
struct kvm2007_run_hypercall {
    uint64_t args[6];
    uint64_t ret;
    uint32_t longmode;
    uint32_t pad;
};
_Static_assert(sizeof(struct kvm2007_run_hypercall) == 64, "kvm_run.hypercall");
_Static_assert(KVM2007_RUN_UNION_OFFSET + offsetof(struct kvm2007_run_hypercall, ret) == 80, "kvm_run.hypercall.ret");

#endif
