/* SPDX-License-Identifier: MIT */
/*
 * The ABI of /dev/memflow: numbers and layouts, as memflow's connectors were compiled with them. There is no installed header to compare with; the numbers are
 * asserted instead.
 */
#ifndef VITRINE_ABI_MEMFLOW_H
#define VITRINE_ABI_MEMFLOW_H

#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define MEMFLOW_TYPE 0x6d /* the device's minor number too, a misc device's */

struct memflow_slot {
    uint64_t base;      /* guest-physical */
    uint64_t host_base; /* VM_INFO: in the VMM; MAP_VM: in the caller */
    uint64_t map_size;
};

struct memflow_vm_info {
    int32_t userspace_pid;
    uint32_t slot_count; /* in: room; out: filled */
    struct memflow_slot *slots;
};

struct memflow_map_info {
    uint32_t slot_count; /* in: room; out: filled */
    struct memflow_slot *slots;
};

#define MEMFLOW_OPEN_VM _IOR(MEMFLOW_TYPE, 0, int32_t) /* the pid by value, 0: the newest VM; the result is a VM's fd */
#define MEMFLOW_VM_INFO _IOWR(MEMFLOW_TYPE, 1, struct memflow_vm_info)
#define MEMFLOW_MAP_VM _IOWR(MEMFLOW_TYPE, 2, struct memflow_map_info) /* the result is an fd */

_Static_assert(MEMFLOW_OPEN_VM == 0x80046d00 && MEMFLOW_VM_INFO == 0xc0106d01 && MEMFLOW_MAP_VM == 0xc0106d02, "as compiled into clients");
_Static_assert(sizeof(struct memflow_slot) == 24 && sizeof(struct memflow_vm_info) == 16 && sizeof(struct memflow_map_info) == 16, "as compiled into clients");
_Static_assert(offsetof(struct memflow_vm_info, slots) == 8 && offsetof(struct memflow_map_info, slots) == 8, "as compiled into clients");

#endif
