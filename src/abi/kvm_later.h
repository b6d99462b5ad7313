/* SPDX-License-Identifier: MIT */
/*
 * What Linux's KVM ABI got after 6.1, whose <linux/kvm.h> is the oldest that we build with. Layouts and numbers only, as a newer header declares them.
 */
#ifndef VITRINE_ABI_KVM_LATER_H
#define VITRINE_ABI_KVM_LATER_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

struct kvmlater_memory_region2 {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
    uint64_t guest_memfd_offset;
    uint32_t guest_memfd;
    uint32_t pad1;
    uint64_t pad2[14];
};
_Static_assert(sizeof(struct kvmlater_memory_region2) == 160, "as Linux 6.8");
#ifndef KVM_SET_USER_MEMORY_REGION2
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvmlater_memory_region2)
#endif
_Static_assert(KVM_SET_USER_MEMORY_REGION2 == 0x40a0ae49, "as Linux 6.8");

/* Of kvm_run, in its union. */
struct kvmlater_run_memory_fault {
    uint64_t flags;
    uint64_t gpa;
    uint64_t size;
};

#endif
