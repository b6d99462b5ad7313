/* SPDX-License-Identifier: MIT */
/*
 * The KVM introspection protocol (KVMI, "version 1") as libkvmi speaks it since 2020: numbers and layouts of what travels over the socket between a VM's
 * process, which connects, and a tool, which listens. Little-endian, naturally aligned; bytes that have no meaning are zero. Only tables and layouts.
 */
#ifndef VITRINE_ABI_KVMI_H
#define VITRINE_ABI_KVMI_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#define KVMI_VERSION 1u
#define KVMI_MESSAGE_MAX 8184u /* payload of a message, either way */

/* ---- handshake ---- */

struct kvmi_hello { /* the VM's side speaks first */
    uint32_t struct_bytes;
    uint8_t uuid[16];
    uint32_t zero;
    int64_t start_time; /* seconds since 1970 */
    char name[64];
    uint64_t max_gpa; /* the first byte behind all memory; tools of dialect b read up to here */
};
_Static_assert(sizeof(struct kvmi_hello) == 104 && offsetof(struct kvmi_hello, start_time) == 24 && offsetof(struct kvmi_hello, name) == 32, "hello");

struct kvmi_answer {
    uint32_t struct_bytes;
    uint8_t cookie_hash[20]; /* SHA-1 of the key that both know, or zeros */
};
_Static_assert(sizeof(struct kvmi_answer) == 24, "answer");

/* ---- messages ---- */

struct kvmi_head {
    uint16_t id;
    uint16_t bytes; /* that follow */
    uint32_t sequence;
};
_Static_assert(sizeof(struct kvmi_head) == 8, "head");

/* Before a reply's payload, which is there only if error is 0. */
struct kvmi_error {
    int32_t error; /* 0 or -errno; KVMI_ENOSYS is its own */
    uint32_t zero;
};
#define KVMI_ENOSYS 1000

/* Before the payload of a command about a vCPU, and of an event's reply. */
struct kvmi_vcpu {
    uint16_t vcpu;
    uint16_t zero1;
    uint32_t zero2;
};
_Static_assert(sizeof(struct kvmi_error) == 8 && sizeof(struct kvmi_vcpu) == 8, "heads of payloads");

enum kvmi_id {
    KVMI_EVENT_REPLY = 0,
    KVMI_EVENT = 1,
    KVMI_GET_VERSION = 2,
    KVMI_CHECK_COMMAND = 3,
    KVMI_CHECK_EVENT = 4,
    KVMI_GET_GUEST_INFO = 5,
    KVMI_GET_VCPU_INFO = 6,
    KVMI_PAUSE_VCPU = 7,
    KVMI_CONTROL_VM_EVENTS = 8,
    KVMI_CONTROL_EVENTS = 9,
    KVMI_CONTROL_CR = 10,
    KVMI_CONTROL_MSR = 11,
    KVMI_CONTROL_VE = 12,
    KVMI_GET_REGISTERS = 13,
    KVMI_SET_REGISTERS = 14,
    KVMI_GET_CPUID = 15,
    KVMI_GET_XSAVE = 16,
    KVMI_READ_PHYSICAL = 17,
    KVMI_WRITE_PHYSICAL = 18,
    KVMI_INJECT_EXCEPTION = 19,
    KVMI_GET_PAGE_ACCESS = 20,
    KVMI_SET_PAGE_ACCESS = 21,
    KVMI_GET_MAP_TOKEN = 22,
    KVMI_GET_MTRR_TYPE = 23,
    KVMI_CONTROL_SPP = 24,
    KVMI_GET_PAGE_WRITE_BITMAP = 25,
    KVMI_SET_PAGE_WRITE_BITMAP = 26,
    KVMI_CONTROL_CMD_RESPONSE = 27,
    KVMI_SET_VE_INFO_PAGE = 28,
    KVMI_GET_MAX_GFN = 29,
    KVMI_SET_EPT_PAGE_CONV = 30,
    KVMI_GET_NEXT_AVAILABLE_GFN = 31, /* until October 2023 GET_EPT_PAGE_CONV, with a request of KVMI_PAGE_CONV_BYTES */
    KVMI_SWITCH_EPT_VIEW = 32,
    KVMI_DISABLE_VE = 33,
    KVMI_GET_EPT_VIEW = 34,
    KVMI_VCPU_TRANSLATE_GVA = 35,
    KVMI_CONTROL_EPT_VIEW = 36,
    KVMI_VCPU_GET_XCR = 37,
    KVMI_VCPU_SET_XSAVE = 38,
    KVMI_QUERY_PHYSICAL = 39,
    KVMI_VCPU_ALLOC_GFN = 41,
    KVMI_VCPU_FREE_GFN = 42,
    KVMI_CREATE_EPT_VIEW = 43,
    KVMI_DESTROY_EPT_VIEW = 44,
    KVMI_VCPU_CHANGE_GFN = 60,
    KVMI_VCPU_CONTROL_SINGLESTEP = 63,
    KVMI_IDS
};
#define KVMI_PAGE_CONV_BYTES 16

/* ---- requests and replies, without the heads above ---- */

struct kvmi_version {
    uint32_t version, zero;
    uint8_t has_spp, has_vmfunc, has_eptp_switching, has_ve;
    uint8_t zeros[4];
};

struct kvmi_check { /* CHECK_COMMAND, CHECK_EVENT */
    uint16_t id;
    uint16_t zero1;
    uint32_t zero2;
};

struct kvmi_guest_info {
    uint32_t n_vcpus;
    uint32_t zeros[3];
};

struct kvmi_vcpu_info {
    uint64_t tsc_hz;
};

struct kvmi_pause {
    uint8_t wait;
    uint8_t zero1;
    uint16_t zero2;
    uint32_t zero3;
};

struct kvmi_control_events {
    uint16_t event;
    uint8_t enable;
    uint8_t zero1;
    uint32_t zero2;
};

struct kvmi_control_register { /* CONTROL_CR, CONTROL_MSR */
    uint8_t enable;
    uint8_t zero1;
    uint16_t zero2;
    uint32_t index;
};

struct kvmi_get_registers { /* uint32_t index[n_msrs] follow */
    uint16_t n_msrs;
    uint16_t zero1;
    uint32_t zero2;
};

struct kvmi_msr {
    uint32_t index, zero;
    uint64_t value;
};

struct kvmi_registers { /* struct kvmi_msr[n_msrs] follow */
    uint32_t mode;      /* bytes of an address: 2, 4, 8 */
    uint32_t zero1;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint32_t n_msrs, zero2;
};
_Static_assert(sizeof(struct kvm_regs) == 144 && sizeof(struct kvm_sregs) == 312, "the kernel's structs travel as they are");
_Static_assert(sizeof(struct kvmi_registers) == 472 && offsetof(struct kvmi_registers, n_msrs) == 464 && sizeof(struct kvmi_msr) == 16, "registers");

struct kvmi_get_cpuid {
    uint32_t function, index;
};

struct kvmi_cpuid {
    uint32_t eax, ebx, ecx, edx;
};

struct kvmi_physical { /* of WRITE_PHYSICAL: the bytes follow */
    uint64_t gpa, bytes;
};

struct kvmi_exception {
    uint8_t vector;
    uint8_t zero1;
    uint16_t zero2;
    uint32_t error_code;
    uint64_t address;
};
_Static_assert(sizeof(struct kvmi_exception) == 16, "exception");

struct kvmi_number { /* a gpa, gva, gfn or value, either way */
    uint64_t value;
};

struct kvmi_byte { /* GET_MTRR_TYPE's reply, VCPU_GET_XCR's and VCPU_CONTROL_SINGLESTEP's request, SINGLESTEP's part of its event */
    uint8_t value;
    uint8_t zeros[7];
};

struct kvmi_cmd_response {
    uint8_t enable, now;
    uint16_t zero1;
    uint32_t zero2;
};

/* SET_PAGE_ACCESS, SET_PAGE_WRITE_BITMAP, and the two that get them. What is about each page follows: an entry, to get only its uint64_t gpa. */
struct kvmi_pages {
    uint16_t view, n_pages;
    uint32_t zero;
};

enum kvmi_access { KVMI_ACCESS_R = 1, KVMI_ACCESS_W = 2, KVMI_ACCESS_X = 4, KVMI_ACCESS_SVE = 8 };
struct kvmi_page_access {
    uint64_t gpa;
    uint8_t access;
    uint8_t zero1;
    uint16_t zero2;
    uint32_t zero3;
};

struct kvmi_page_bitmap {
    uint64_t gpa;
    uint32_t bitmap; /* bit n: bytes 128 * n to 128 * n + 127 can be written */
    uint32_t zero;
};

struct kvmi_enable { /* CONTROL_SPP */
    uint8_t enable;
    uint8_t zero1;
    uint16_t zero2;
    uint32_t zero3;
};

struct kvmi_view { /* SWITCH_EPT_VIEW, DESTROY_EPT_VIEW; what GET_EPT_VIEW and CREATE_EPT_VIEW reply */
    uint16_t view;
    uint16_t zeros[3];
};

/* Until November 2023 without what is before old_gfn, about the view that the vCPU is in. */
struct kvmi_change_gfn {
    uint16_t view;
    uint16_t zero1;
    uint32_t zero2;
    uint64_t old_gfn, new_gfn;
};
#define KVMI_CHANGE_GFN_OLD_BYTES 16

_Static_assert(sizeof(struct kvmi_pages) == 8 && sizeof(struct kvmi_page_access) == 16 && sizeof(struct kvmi_page_bitmap) == 16 &&
                   sizeof(struct kvmi_enable) == 8 && sizeof(struct kvmi_view) == 8 && sizeof(struct kvmi_change_gfn) == 24,
               "pages and views");

struct kvmi_slot {
    uint64_t gfn, n_pages;
};

_Static_assert(sizeof(struct kvmi_version) == 16 && sizeof(struct kvmi_guest_info) == 16 && sizeof(struct kvmi_check) == 8 && sizeof(struct kvmi_pause) == 8 &&
                   sizeof(struct kvmi_control_events) == 8 && sizeof(struct kvmi_get_registers) == 8 && sizeof(struct kvmi_byte) == 8 &&
                   sizeof(struct kvmi_cmd_response) == 8,
               "requests and replies");

/* ---- events ---- */

enum kvmi_event_id {
    KVMI_EVENT_UNHOOK = 0,
    KVMI_EVENT_CR = 1,
    KVMI_EVENT_MSR = 2,
    KVMI_EVENT_XSETBV = 3,
    KVMI_EVENT_BREAKPOINT = 4,
    KVMI_EVENT_HYPERCALL = 5,
    KVMI_EVENT_PF = 6,
    KVMI_EVENT_TRAP = 7,
    KVMI_EVENT_DESCRIPTOR = 8,
    KVMI_EVENT_CREATE_VCPU = 9,
    KVMI_EVENT_PAUSE_VCPU = 10,
    KVMI_EVENT_SINGLESTEP = 11,
    KVMI_EVENT_CPUID = 13,
    KVMI_EVENTS
};
enum kvmi_action { KVMI_CONTINUE = 0, KVMI_RETRY = 1, KVMI_CRASH = 2 };

struct kvmi_event {
    uint16_t bytes; /* of this struct; what is the event's own follows */
    uint16_t vcpu;
    uint8_t event;
    uint8_t zeros1[3];
    uint8_t mode;
    uint8_t zero2;
    uint16_t view;
    uint32_t zero3;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip, efer, star, lstar, cstar, pat, kernel_gs_base;
};
_Static_assert(sizeof(struct kvmi_event) == 544 && offsetof(struct kvmi_event, mode) == 8 && offsetof(struct kvmi_event, regs) == 16 &&
                   offsetof(struct kvmi_event, sregs) == 160 && offsetof(struct kvmi_event, sysenter_cs) == 472,
               "event");

/* What follows, by event. */
struct kvmi_event_cr {
    uint16_t cr;
    uint16_t zeros[3];
    uint64_t old_value, new_value;
};

struct kvmi_event_msr {
    uint32_t msr, zero;
    uint64_t old_value, new_value;
};

struct kvmi_event_breakpoint {
    uint64_t gpa;
    uint8_t insn_bytes;
    uint8_t zeros[7];
};

struct kvmi_event_pf {
    uint64_t gva; /* ~0: not known */
    uint64_t gpa;
    uint8_t access; /* that failed: enum kvmi_access */
    uint8_t zero1;
    uint16_t view;
    uint32_t zero2;
};

#define KVMI_CONTEXT_MAX 256
struct kvmi_event_pf_reply {
    uint64_t context_at; /* what the instruction reads from there on */
    uint32_t context_bytes;
    uint8_t singlestep, rep_complete;
    uint16_t zero;
    uint8_t context[KVMI_CONTEXT_MAX];
};
_Static_assert(sizeof(struct kvmi_event_pf) == 24 && sizeof(struct kvmi_event_pf_reply) == 272, "page faults");

struct kvmi_event_trap {
    uint8_t vector;
    uint8_t zero1;
    uint16_t zero2;
    uint32_t error_code;
    uint64_t cr2;
};

struct kvmi_event_descriptor {
    uint8_t descriptor; /* 1 IDTR, 2 GDTR, 3 LDTR, 4 TR */
    uint8_t is_write;   /* of the register */
    uint8_t zeros[6];
};

struct kvmi_event_cpuid {
    uint32_t function, index;
    uint8_t insn_bytes;
    uint8_t zeros[3];
    uint32_t zero;
};

_Static_assert(sizeof(struct kvmi_event_cr) == 24 && sizeof(struct kvmi_event_msr) == 24 && sizeof(struct kvmi_event_breakpoint) == 16 &&
                   sizeof(struct kvmi_event_trap) == 16 && sizeof(struct kvmi_event_descriptor) == 8 && sizeof(struct kvmi_event_cpuid) == 16,
               "events");

/* Of CR and MSR: the new value, 8 bytes, follows; of PF: struct kvmi_event_pf_reply. */
struct kvmi_event_reply {
    uint8_t action, event;
    uint16_t zero1;
    uint32_t zero2;
};
_Static_assert(sizeof(struct kvmi_event_reply) == 8, "event reply");

#endif
