/* SPDX-License-Identifier: MIT */
/*
 * The numbers and layouts of /dev/mshv, the Microsoft hypervisor's interface on Linux, in words of our own: no header of the system declares them here.
 * Requests repeat between the kinds of fds. Sizes and offsets are proved below; tests/conform/conform_mshv.c has its own.
 */
#ifndef VITRINE_ABI_MSHV_H
#define VITRINE_ABI_MSHV_H

#include <stddef.h>
#include <stdint.h>

#define MSHV_MAGIC 0xb8
#define MSHV_PAGE_BYTES 0x1000
#define MSHV_VPS_MAX 256u
#define MSHV_MESSAGE_BYTES 256

/* ---- ioctls ---- */

enum {
    MSHV_CREATE_PARTITION = 0x4010b800, /* the longer form comes under the same number */
    MSHV_INITIALIZE_PARTITION = 0x0000b800,
    MSHV_CREATE_VP = 0x4004b801,
    MSHV_SET_GUEST_MEMORY = 0x4020b802,
    MSHV_IRQFD = 0x4010b803,
    MSHV_IOEVENTFD = 0x4020b804,
    MSHV_SET_MSI_ROUTING = 0x4008b805,
};
#define MSHV_ROOT_HVCALL 0xc020b807u
#define MSHV_RUN_VP 0x8100b800u
#define MSHV_GET_VP_STATE 0xc010b801u
#define MSHV_SET_VP_STATE 0xc010b802u

#define MSHV_PT_LAPIC (1ull << 0)
#define MSHV_PT_X2APIC (1ull << 1)
#define MSHV_PT_GPA_SUPER_PAGES (1ull << 2)
#define MSHV_PT_CPU_AND_XSAVE_FEATURES (1ull << 3) /* the longer form */

struct mshv_create_partition {
    uint64_t flags;
    uint64_t isolation; /* 0: none */
};

#define MSHV_FEATURE_BANKS 2
/* Masks say what is taken away. */
struct mshv_create_partition_v2 {
    struct mshv_create_partition base;
    uint16_t n_banks;
    uint8_t reserved[6];
    uint64_t disabled[MSHV_FEATURE_BANKS];
    uint64_t reserved1[2];
    uint64_t disabled_xsave;
};

struct mshv_create_vp {
    uint32_t index;
};

#define MSHV_MEMORY_WRITABLE 1u
#define MSHV_MEMORY_EXECUTABLE 2u
#define MSHV_MEMORY_UNMAP 4u
struct mshv_memory {
    uint64_t bytes;
    uint64_t guest_pfn;
    uint64_t hva;
    uint8_t flags;
    uint8_t reserved[7];
};

#define MSHV_IRQFD_DEASSIGN 1u
#define MSHV_IRQFD_RESAMPLE 2u
struct mshv_irqfd {
    int32_t fd, resample_fd;
    uint32_t gsi, flags;
};

#define MSHV_IOEVENTFD_DATAMATCH 1u
#define MSHV_IOEVENTFD_PIO 2u
#define MSHV_IOEVENTFD_DEASSIGN 4u
struct mshv_ioeventfd {
    uint64_t datamatch, address;
    uint32_t bytes;
    int32_t fd;
    uint32_t flags;
    uint8_t reserved[4];
};

struct mshv_msi_table {
    uint32_t n, reserved;
    /* struct mshv_msi each */
};

struct mshv_msi {
    uint32_t gsi, address_low, address_high, data;
};

enum mshv_state { MSHV_STATE_LAPIC, MSHV_STATE_XSAVE, MSHV_STATE_SIMP, MSHV_STATE_SIEFP, MSHV_STATE_TIMERS, MSHV_STATES };
struct mshv_vp_state {
    uint8_t type, reserved[3];
    uint32_t bytes;
    uint64_t address;
};

struct mshv_hvcall {
    uint16_t code, reps, in_bytes, out_bytes;
    uint16_t status;
    uint8_t reserved[6];
    uint64_t in, out; /* addresses */
};

/* ---- hypercalls: codes, what they answer, inputs. All inputs begin with the partition's id, which is the kernel's to fill. ---- */

enum mshv_code {
    MSHV_GET_PARTITION_PROPERTY = 0x44,
    MSHV_SET_PARTITION_PROPERTY = 0x45,
    MSHV_INSTALL_INTERCEPT = 0x4d,
    MSHV_GET_VP_REGISTERS = 0x50,
    MSHV_SET_VP_REGISTERS = 0x51,
    MSHV_TRANSLATE_VIRTUAL_ADDRESS = 0x52,
    MSHV_CLEAR_VIRTUAL_INTERRUPT = 0x56,
    MSHV_REGISTER_INTERCEPT_RESULT = 0x91,
    MSHV_ASSERT_VIRTUAL_INTERRUPT = 0x94,
    MSHV_SIGNAL_EVENT_DIRECT = 0xc0,
    MSHV_POST_MESSAGE_DIRECT = 0xc1,
    MSHV_GET_GPA_PAGES_ACCESS_STATES = 0xc9,
    MSHV_GET_VP_CPUID_VALUES = 0xf4,
    MSHV_GET_PARTITION_PROPERTY_EX = 0x101,
};

enum mshv_status {
    MSHV_STATUS_SUCCESS = 0,
    MSHV_STATUS_INVALID_HYPERCALL_CODE = 2,
    MSHV_STATUS_INVALID_HYPERCALL_INPUT = 3,
    MSHV_STATUS_INVALID_ALIGNMENT = 4,
    MSHV_STATUS_INVALID_PARAMETER = 5,
    MSHV_STATUS_ACCESS_DENIED = 6,
    MSHV_STATUS_INVALID_PARTITION_STATE = 7,
    MSHV_STATUS_OPERATION_DENIED = 8,
    MSHV_STATUS_UNKNOWN_PROPERTY = 9,
    MSHV_STATUS_PROPERTY_VALUE_OUT_OF_RANGE = 0xa,
    MSHV_STATUS_INSUFFICIENT_MEMORY = 0xb,
    MSHV_STATUS_INVALID_PARTITION_ID = 0xd,
    MSHV_STATUS_INVALID_VP_INDEX = 0xe,
    MSHV_STATUS_INVALID_VP_STATE = 0x15,
    MSHV_STATUS_INVALID_REGISTER_VALUE = 0x50,
};

struct mshv_property_in {
    uint64_t partition;
    uint32_t code, padding;
    uint64_t value; /* to set */
};

#define MSHV_PROPERTY_SYNTHETIC_FEATURES 0x10001u
#define MSHV_PROPERTY_UNIMPLEMENTED_MSR_ACTION 0x50017u
#define MSHV_PROPERTY_TIME_FREEZE 0x30003u
#define MSHV_PROPERTY_PROCESSOR_VENDOR 0x60000u
#define MSHV_PROPERTY_PHYSICAL_ADDRESS_WIDTH 0x60006u
#define MSHV_PROPERTY_CLOCK_FREQUENCY 0x60009u
#define MSHV_PROPERTY_PROCESSORS_PER_SOCKET 0x50003u
#define MSHV_PROPERTY_XSAVE_FEATURES 0x60002u
#define MSHV_PROPERTY_XSAVE_STATES 0x60007u
#define MSHV_PROPERTY_MAX_XSAVE_BYTES 0x60008u
#define MSHV_PROPERTY_FEATURES0 0x6000au
#define MSHV_PROPERTY_FEATURES1 0x6000bu
#define MSHV_PROPERTY_VMM_CAPABILITIES 0x90007u
#define MSHV_PROPERTY_ASSIGNABLE_SYNTHETIC_FEATURES 0x90009u

struct mshv_property_ex_in {
    uint64_t partition;
    uint32_t code, padding;
    uint64_t argument;
};

struct mshv_banks {
    uint16_t n, reserved[3];
    uint64_t bank[1];
};

struct mshv_registers_in {
    uint64_t partition;
    uint32_t vp;
    uint8_t vtl, reserved[3];
    /* names, u32 each, to get; struct mshv_assoc to set */
};

struct mshv_value {
    uint64_t low, high;
};

struct mshv_assoc {
    uint32_t name, reserved0;
    uint64_t reserved1;
    struct mshv_value value;
};

#define MSHV_TRANSLATE_READ 1u
#define MSHV_TRANSLATE_WRITE 2u
#define MSHV_TRANSLATE_EXECUTE 4u
struct mshv_translate_in {
    uint64_t partition;
    uint32_t vp, padding;
    uint64_t flags;
    uint64_t gva_page;
};
enum mshv_translate_result { MSHV_TRANSLATE_SUCCESS, MSHV_TRANSLATE_NOT_PRESENT, MSHV_TRANSLATE_PRIVILEGE, MSHV_TRANSLATE_FLAGS };
struct mshv_translate_out {
    uint32_t result;
    uint32_t cache; /* bits 0-7 */
    uint64_t gpa_page;
};

enum mshv_interrupt { MSHV_INTERRUPT_FIXED, MSHV_INTERRUPT_LOWEST, MSHV_INTERRUPT_SMI, MSHV_INTERRUPT_NMI = 4, MSHV_INTERRUPT_INIT, MSHV_INTERRUPT_SIPI };
#define MSHV_INTERRUPT_LEVEL 1u
#define MSHV_INTERRUPT_LOGICAL 2u
struct mshv_interrupt_in {
    uint64_t partition;
    uint32_t type, bits;
    uint64_t destination;
    uint32_t vector;
    uint8_t vtl, reserved[3];
};

#define MSHV_INTERCEPT_CPUID 2u
#define MSHV_VP_ANY 0xffffffffu
struct mshv_masked {
    uint32_t value, mask;
};
struct mshv_cpuid_override {
    uint32_t leaf, subleaf;
    uint8_t is_subleaf, is_always;
    uint16_t reserved;
    struct mshv_masked eax, ebx, ecx, edx;
};
struct mshv_override_in {
    uint64_t partition;
    uint32_t vp, type;
    struct mshv_cpuid_override override;
    uint32_t padding; /* which not every client sends */
};

struct mshv_cpuid_in {
    uint64_t partition;
    uint32_t vp, flags, reserved[2];
    /* struct mshv_cpuid_query each; answers are EAX, EBX, ECX, EDX */
};
struct mshv_cpuid_query {
    uint32_t leaf, subleaf;
    uint64_t xfem, xss;
};

/* ---- registers: see front/mshv/register.c for their names ---- */

struct mshv_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint16_t attributes;
};

struct mshv_table {
    uint16_t padding[3];
    uint16_t limit;
    uint64_t base;
};

/* ---- messages of RUN_VP ---- */

enum mshv_message_type {
    MSHV_MESSAGE_UNMAPPED_GPA = (int)0x80000000,
    MSHV_MESSAGE_GPA_INTERCEPT = (int)0x80000001,
    MSHV_MESSAGE_INVALID_VP_REGISTER = (int)0x80000020,
    MSHV_MESSAGE_UNRECOVERABLE_EXCEPTION = (int)0x80000021,
    MSHV_MESSAGE_IO_PORT = (int)0x80010000,
    MSHV_MESSAGE_APIC_EOI = (int)0x80010004,
    MSHV_MESSAGE_HALT = (int)0x80010007,
};

struct mshv_message {
    uint32_t type;
    uint8_t payload_bytes, flags, reserved[2];
    uint64_t sender;
    uint8_t payload[240];
};

enum mshv_access { MSHV_ACCESS_READ, MSHV_ACCESS_WRITE, MSHV_ACCESS_EXECUTE };
struct mshv_header {
    uint32_t vp;
    uint8_t length_cr8; /* of the instruction in bits 0-3, CR8 above */
    uint8_t access;
    uint16_t execution_state;
    struct mshv_segment cs;
    uint64_t rip, rflags;
};
#define MSHV_EXECUTION_PE (1u << 2)
#define MSHV_EXECUTION_AM (1u << 3)
#define MSHV_EXECUTION_LMA (1u << 4)
#define MSHV_EXECUTION_DEBUG (1u << 5)
#define MSHV_EXECUTION_INTERRUPTION_PENDING (1u << 6)
#define MSHV_EXECUTION_SHADOW (1u << 12)

struct mshv_io_message {
    struct mshv_header header;
    uint16_t port;
    uint8_t access; /* size in bits 0-2, string 3, rep 4 */
    uint8_t n_insn_bytes;
    uint32_t reserved;
    uint64_t rax;
    uint8_t insn[16];
    struct mshv_segment ds, es;
    uint64_t rcx, rsi, rdi;
};

#define MSHV_MEMORY_GVA_VALID 1u
#define MSHV_MEMORY_GVA_GPA_VALID 2u
#define MSHV_CACHE_UNCACHED 0u
#define MSHV_CACHE_WRITE_BACK 6u
struct mshv_memory_message {
    struct mshv_header header;
    uint32_t cache_type;
    uint8_t n_insn_bytes, access_info, tpr_priority, reserved;
    uint64_t gva, gpa;
    uint8_t insn[16];
};

struct mshv_eoi_message {
    uint32_t vp, vector;
};

/* ---- the register page: the first page of a VP's fd ---- */

#define MSHV_PAGE_GENERAL 1u
#define MSHV_PAGE_IP 2u
#define MSHV_PAGE_XMM 4u
#define MSHV_PAGE_SEGMENT 8u
#define MSHV_PAGE_FLAGS 16u
struct mshv_register_page {
    uint16_t version;
    uint8_t is_valid, reserved0;
    uint32_t dirty;
    uint64_t gpr[16]; /* in the order of their encoding */
    uint64_t rip, rflags, reserved1;
    struct mshv_value xmm[6];
    struct mshv_segment segment[6]; /* in the order of their encoding */
    uint64_t cr0, cr3, cr4, cr8, efer, dr7;
    uint64_t pending_interruption, interrupt_state, emulation_hints, xfem;
    uint8_t reserved2[256];
    uint8_t n_interrupts, interrupt[7];
};

#define MSHV_PROVE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
#define MSHV_PROVE_AT(type, member, at) _Static_assert(offsetof(struct type, member) == (at), #type "." #member)
MSHV_PROVE(mshv_create_partition, 16);
MSHV_PROVE(mshv_create_partition_v2, 64);
MSHV_PROVE_AT(mshv_create_partition_v2, disabled, 24);
MSHV_PROVE_AT(mshv_create_partition_v2, disabled_xsave, 56);
MSHV_PROVE(mshv_create_vp, 4);
MSHV_PROVE(mshv_memory, 32);
MSHV_PROVE(mshv_irqfd, 16);
MSHV_PROVE(mshv_ioeventfd, 32);
MSHV_PROVE_AT(mshv_ioeventfd, fd, 20);
MSHV_PROVE(mshv_msi_table, 8);
MSHV_PROVE(mshv_msi, 16);
MSHV_PROVE(mshv_vp_state, 16);
MSHV_PROVE(mshv_property_ex_in, 24);
MSHV_PROVE(mshv_banks, 16);
MSHV_PROVE(mshv_override_in, 64);
MSHV_PROVE_AT(mshv_override_in, override.eax, 28);
MSHV_PROVE(mshv_cpuid_in, 24);
MSHV_PROVE(mshv_cpuid_query, 24);
MSHV_PROVE(mshv_hvcall, 32);
MSHV_PROVE_AT(mshv_hvcall, status, 8);
MSHV_PROVE_AT(mshv_hvcall, in, 16);
MSHV_PROVE(mshv_property_in, 24);
MSHV_PROVE(mshv_registers_in, 16);
MSHV_PROVE(mshv_assoc, 32);
MSHV_PROVE(mshv_translate_in, 32);
MSHV_PROVE(mshv_translate_out, 16);
MSHV_PROVE(mshv_interrupt_in, 32);
MSHV_PROVE_AT(mshv_interrupt_in, vector, 24);
MSHV_PROVE(mshv_segment, 16);
MSHV_PROVE(mshv_table, 16);
MSHV_PROVE_AT(mshv_table, limit, 6);
MSHV_PROVE(mshv_message, MSHV_MESSAGE_BYTES);
MSHV_PROVE_AT(mshv_message, payload, 16);
MSHV_PROVE(mshv_header, 40);
MSHV_PROVE_AT(mshv_header, cs, 8);
MSHV_PROVE(mshv_io_message, 128);
MSHV_PROVE_AT(mshv_io_message, rax, 48);
MSHV_PROVE_AT(mshv_io_message, ds, 72);
MSHV_PROVE_AT(mshv_io_message, rcx, 104);
MSHV_PROVE(mshv_memory_message, 80);
MSHV_PROVE_AT(mshv_memory_message, gva, 48);
MSHV_PROVE_AT(mshv_memory_message, insn, 64);
MSHV_PROVE(mshv_eoi_message, 8);
MSHV_PROVE(mshv_register_page, 696);
MSHV_PROVE_AT(mshv_register_page, rip, 136);
MSHV_PROVE_AT(mshv_register_page, xmm, 160);
MSHV_PROVE_AT(mshv_register_page, segment, 256);
MSHV_PROVE_AT(mshv_register_page, cr0, 352);
MSHV_PROVE_AT(mshv_register_page, dr7, 392);
MSHV_PROVE_AT(mshv_register_page, xfem, 424);
MSHV_PROVE_AT(mshv_register_page, n_interrupts, 688);

#endif
