/* SPDX-License-Identifier: MIT */
/*
 * KVMI as last proposed for the kernel (v9 to v12): what differs from src/abi/kvmi.h. Message ids are even for commands about the VM, odd for those about a
 * vCPU; an event has no reply's id of its own. Only numbers and layouts.
 */
#ifndef VITRINE_ABI_KVMI_V12_H
#define VITRINE_ABI_KVMI_V12_H

#include "abi/kvmi.h"

#define KVMI12_ABOUT_VM(n) ((n) << 1)
#define KVMI12_ABOUT_VCPU(n) ((n) << 1 | 1)

enum kvmi12_id {
    KVMI12_VM_EVENT = KVMI12_ABOUT_VM(0),
    KVMI12_GET_VERSION = KVMI12_ABOUT_VM(1),
    KVMI12_VM_CHECK_COMMAND = KVMI12_ABOUT_VM(2),
    KVMI12_VM_CHECK_EVENT = KVMI12_ABOUT_VM(3),
    KVMI12_VM_GET_INFO = KVMI12_ABOUT_VM(4),
    KVMI12_VM_CONTROL_EVENTS = KVMI12_ABOUT_VM(5),
    KVMI12_VM_READ_PHYSICAL = KVMI12_ABOUT_VM(6),
    KVMI12_VM_WRITE_PHYSICAL = KVMI12_ABOUT_VM(7),
    KVMI12_VM_PAUSE_VCPU = KVMI12_ABOUT_VM(8),
    KVMI12_VM_CONTROL_CLEANUP = KVMI12_ABOUT_VM(9),
    KVMI12_VM_SET_PAGE_ACCESS = KVMI12_ABOUT_VM(10),

    KVMI12_VCPU_EVENT = KVMI12_ABOUT_VCPU(0), /* and the answer to it */
    KVMI12_VCPU_GET_INFO = KVMI12_ABOUT_VCPU(1),
    KVMI12_VCPU_CONTROL_EVENTS = KVMI12_ABOUT_VCPU(2),
    KVMI12_VCPU_GET_REGISTERS = KVMI12_ABOUT_VCPU(3),
    KVMI12_VCPU_SET_REGISTERS = KVMI12_ABOUT_VCPU(4),
    KVMI12_VCPU_GET_CPUID = KVMI12_ABOUT_VCPU(5),
    KVMI12_VCPU_CONTROL_CR = KVMI12_ABOUT_VCPU(6),
    KVMI12_VCPU_INJECT_EXCEPTION = KVMI12_ABOUT_VCPU(7),
    KVMI12_VCPU_GET_XCR = KVMI12_ABOUT_VCPU(8),
    KVMI12_VCPU_GET_XSAVE = KVMI12_ABOUT_VCPU(9),
    KVMI12_VCPU_SET_XSAVE = KVMI12_ABOUT_VCPU(10),
    KVMI12_VCPU_GET_MTRR_TYPE = KVMI12_ABOUT_VCPU(11),
    KVMI12_VCPU_CONTROL_MSR = KVMI12_ABOUT_VCPU(12),
    KVMI12_VCPU_CONTROL_SINGLESTEP = KVMI12_ABOUT_VCPU(13),
    KVMI12_VCPU_TRANSLATE_GVA = KVMI12_ABOUT_VCPU(14),
    KVMI12_IDS
};

enum kvmi12_event_id {
    KVMI12_EVENT_UNHOOK = KVMI12_ABOUT_VM(0),
    KVMI12_EVENT_PAUSE = KVMI12_ABOUT_VCPU(0),
    KVMI12_EVENT_HYPERCALL = KVMI12_ABOUT_VCPU(1),
    KVMI12_EVENT_BREAKPOINT = KVMI12_ABOUT_VCPU(2),
    KVMI12_EVENT_CR = KVMI12_ABOUT_VCPU(3),
    KVMI12_EVENT_TRAP = KVMI12_ABOUT_VCPU(4),
    KVMI12_EVENT_XSETBV = KVMI12_ABOUT_VCPU(5),
    KVMI12_EVENT_DESCRIPTOR = KVMI12_ABOUT_VCPU(6),
    KVMI12_EVENT_MSR = KVMI12_ABOUT_VCPU(7),
    KVMI12_EVENT_PF = KVMI12_ABOUT_VCPU(8),
    KVMI12_EVENT_SINGLESTEP = KVMI12_ABOUT_VCPU(9),
    KVMI12_EVENTS
};

struct kvmi12_version {
    uint32_t version;
    uint32_t message_max; /* bytes behind the head */
    uint8_t has_singlestep;
    uint8_t zeros[7];
};

/* READ_PHYSICAL and WRITE_PHYSICAL are struct kvmi_physical, whose size has 16 bits that count and 48 that must be zero. */

struct kvmi12_pause {
    uint16_t vcpu;
    uint8_t wait;
    uint8_t zero1;
    uint32_t zero2;
};

struct kvmi12_set_page_access { /* struct kvmi_page_access[n_pages] follow */
    uint16_t n_pages;
    uint16_t zero1;
    uint32_t zero2;
};

struct kvmi12_control_cr {
    uint8_t cr, enable;
    uint16_t zero1;
    uint32_t zero2;
};

struct kvmi12_event_head { /* of all events; of those of vCPUs a struct kvmi_event with neither event nor view follows */
    uint16_t event;
    uint16_t zeros[3];
};

struct kvmi12_event_register { /* CR, XSETBV */
    uint8_t index;
    uint8_t zeros[7];
    uint64_t old_value, new_value;
};
_Static_assert(sizeof(struct kvmi12_version) == 16 && sizeof(struct kvmi12_pause) == 8 && sizeof(struct kvmi12_control_cr) == 8 &&
                   sizeof(struct kvmi12_event_head) == 8 && sizeof(struct kvmi12_event_register) == 24,
               "layouts of v12");

#endif
