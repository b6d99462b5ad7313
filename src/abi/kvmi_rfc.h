/* SPDX-License-Identifier: MIT */
/*
 * KVMI as first proposed (July 2017): message ids 1 to 26. Each reply begins with its error, and a vCPU is a number in the request; padding is not looked at.
 * Errors are the kernel's own numbers. Only numbers and layouts.
 */
#ifndef VITRINE_ABI_KVMI_RFC_H
#define VITRINE_ABI_KVMI_RFC_H

#include "abi/kvmi.h"

enum kvmi17_id {
    KVMI17_GET_VERSION = 1,
    KVMI17_GET_GUESTS = 2, /* withdrawn, and never described */
    KVMI17_GET_GUEST_INFO = 3,
    KVMI17_PAUSE_GUEST = 4,
    KVMI17_UNPAUSE_GUEST = 5,
    KVMI17_GET_REGISTERS = 6,
    KVMI17_SET_REGISTERS = 7,
    KVMI17_SHUTDOWN_GUEST = 8,
    KVMI17_GET_MTRR_TYPE = 9,
    KVMI17_GET_MTRRS = 10,
    KVMI17_GET_XSAVE_INFO = 11,
    KVMI17_GET_PAGE_ACCESS = 12,
    KVMI17_SET_PAGE_ACCESS = 13,
    KVMI17_INJECT_PAGE_FAULT = 14,
    KVMI17_READ_PHYSICAL = 15,
    KVMI17_WRITE_PHYSICAL = 16,
    KVMI17_MAP_PHYSICAL_PAGE_TO_GUEST = 17,
    KVMI17_UNMAP_PHYSICAL_PAGE_FROM_GUEST = 18,
    KVMI17_CONTROL_EVENTS = 19,
    KVMI17_CR_CONTROL = 20,
    KVMI17_MSR_CONTROL = 21,
    KVMI17_INJECT_BREAKPOINT = 22,
    KVMI17_EVENT_GUEST_ON = 23, /* withdrawn */
    KVMI17_EVENT_GUEST_OFF = 24,
    KVMI17_EVENT_VCPU = 25,
    KVMI17_EVENT_VCPU_REPLY = 26,
    KVMI17_IDS
};

/* ---- requests ---- */

struct kvmi17_vcpu {
    uint16_t vcpu;
    uint16_t pads[3];
};

struct kvmi17_get_registers { /* uint32_t index[n_msrs] follow */
    uint16_t vcpu, n_msrs;
};

struct kvmi17_set_registers {
    struct kvmi17_vcpu vcpu;
    struct kvm_regs regs;
};

struct kvmi17_page { /* GET_PAGE_ACCESS */
    uint16_t vcpu;
    uint16_t pads[3];
    uint64_t gpa;
};

struct kvmi17_set_page_access {
    uint16_t vcpu, pad;
    uint32_t access;
    uint64_t gpa;
};

struct kvmi17_inject_page_fault {
    uint16_t vcpu, pad;
    uint32_t error_code;
    uint64_t gva;
};

struct kvmi17_control_events {
    uint16_t vcpu, pad;
    uint32_t events; /* 1 << enum kvmi17_event_id: those and no others */
};

struct kvmi17_control_register { /* CR_CONTROL, MSR_CONTROL: of all vCPUs */
    uint8_t enable;
    uint8_t pads[3];
    uint32_t index;
};

/* ---- replies ---- */

struct kvmi17_error {
    int32_t error;
    uint32_t pad;
};

struct kvmi17_version {
    int32_t error;
    uint32_t version;
};

/* From the introspected machine into the one that the tool runs in, where `gfn` is a frame's number. */
struct kvmi17_map_page {
    uint64_t gpa, gfn;
};

struct kvmi17_guest_info {
    int32_t error;
    uint16_t n_vcpus, pad;
    uint64_t tsc_hz;
};

struct kvmi17_registers { /* struct kvmi_msr[n_msrs] follow */
    int32_t error;
    uint32_t mode;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint32_t n_msrs, pad;
};

/* The proposal's text has the type where its header has padding, and nothing behind. */
struct kvmi17_mtrr_type {
    int32_t error;
    uint32_t type_of_text;
    uint64_t type;
};

struct kvmi17_mtrrs {
    int32_t error;
    uint32_t pad;
    uint64_t pat, cap, type;
};

struct kvmi17_page_access {
    int32_t error;
    uint32_t access;
};

struct kvmi17_xsave_info {
    int32_t error;
    uint32_t bytes;
};
_Static_assert(sizeof(struct kvmi17_guest_info) == 16 && sizeof(struct kvmi17_registers) == 472 && offsetof(struct kvmi17_registers, sregs) == 152 &&
                   sizeof(struct kvmi17_mtrr_type) == 16 && sizeof(struct kvmi17_mtrrs) == 32 && sizeof(struct kvmi17_set_registers) == 152,
               "requests and replies of 2017");

/* ---- events ---- */

enum kvmi17_event_id { /* as bits, 1 << id */
                       KVMI17_EVENT_CR = 1,
                       KVMI17_EVENT_MSR = 2,
                       KVMI17_EVENT_XSETBV = 3,
                       KVMI17_EVENT_BREAKPOINT = 4,
                       KVMI17_EVENT_USER_CALL = 5,
                       KVMI17_EVENT_PAGE_FAULT = 6,
                       KVMI17_EVENT_TRAP = 7,
                       KVMI17_EVENTS
};

enum { KVMI17_ALLOW = 1, KVMI17_SET_REGS = 2, KVMI17_SET_CTX = 4, KVMI17_NOEMU = 8 };

struct kvmi17_event {
    uint16_t vcpu;
    uint8_t mode, pad;
    uint32_t event; /* one bit */
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip, efer, star, lstar;
};
_Static_assert(sizeof(struct kvmi17_event) == 512 && offsetof(struct kvmi17_event, sregs) == 152, "event of 2017");

struct kvmi17_event_trap { /* CR and MSR are as today's */
    uint32_t vector, type; /* of SDM vol. 3C, "VM-Entry Controls for Event Injection" */
    uint32_t error_code, pad;
    uint64_t cr2;
};

struct kvmi17_event_page_fault {
    uint64_t gva, gpa;
    uint32_t access, pad;
};

struct kvmi17_page_fault_reply {
    uint32_t context_bytes; /* with SET_CTX: what the instruction reads */
    uint8_t context[KVMI_CONTEXT_MAX];
};

struct kvmi17_event_reply { /* of CR and MSR the new value follows, 8 bytes; of PAGE_FAULT a struct kvmi17_page_fault_reply */
    struct kvm_regs regs;
    uint32_t actions, pad;
};
_Static_assert(sizeof(struct kvmi17_event_trap) == 24 && sizeof(struct kvmi17_event_reply) == 152 && sizeof(struct kvmi17_event_page_fault) == 24 &&
                   sizeof(struct kvmi17_page_fault_reply) == 260,
               "event's parts of 2017");

#endif
