/* SPDX-License-Identifier: MIT */
/*
 * What a program compiled against the header of Linux 2.6.20 knows of the KVM ABI: its numbers and layouts, written down by the client's side and independently
 * of src/abi, so that a mistake there cannot hide itself here.
 */
#ifndef VITRINE_TESTS_CLIENT2007_H
#define VITRINE_TESTS_CLIENT2007_H

#include <stdint.h>

#define GET_API_VERSION 0xae00ul
#define CREATE_VM 0xae01ul
#define GET_MSR_INDEX_LIST 0xc004ae02ul
#define CHECK_EXTENSION 0xae03ul
#define GET_VCPU_MMAP_SIZE 0xae04ul
#define SET_MEMORY_REGION 0x4018ae40ul
#define CREATE_VCPU 0xae41ul
#define GET_DIRTY_LOG 0x4010ae42ul
#define SET_MEMORY_ALIAS 0x4020ae43ul
#define RUN 0xae80ul
#define GET_REGS 0x8090ae81ul
#define SET_REGS 0x4090ae82ul
#define GET_SREGS 0x8138ae83ul
#define SET_SREGS 0x4138ae84ul
#define TRANSLATE 0xc018ae85ul
#define INTERRUPT 0x4004ae86ul
#define DEBUG_GUEST 0x4050ae87ul
#define GET_MSRS 0xc008ae88ul
#define SET_MSRS 0x4008ae89ul
#define SET_CPUID 0x4008ae8aul
#define SET_SIGNAL_MASK 0x4004ae8bul
#define GET_FPU 0x81a0ae8cul
#define SET_FPU 0x41a0ae8dul

enum { X_UNKNOWN, X_EXCEPTION, X_IO, X_HYPERCALL, X_DEBUG, X_HLT, X_MMIO, X_IRQ_WINDOW_OPEN, X_SHUTDOWN, X_FAIL_ENTRY, X_INTR };

struct memory_region {
    uint32_t slot, flags;
    uint64_t guest_phys_addr, memory_size;
};
#define LOG_DIRTY_PAGES 1u

struct memory_alias {
    uint32_t slot, flags;
    uint64_t guest_phys_addr, memory_size, target_phys_addr;
};

struct dirty_log {
    uint32_t slot, pad;
    void *bitmap;
};

struct regs {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
};

struct segment_2007 {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type, present, dpl, db, s, l, g, avl, unusable, pad;
};
struct dtable {
    uint64_t base;
    uint16_t limit, pad[3];
};
struct sregs {
    struct segment_2007 cs, ds, es, fs, gs, ss, tr, ldt;
    struct dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupt_bitmap[4];
};

struct translation_2007 {
    uint64_t linear, physical;
    uint8_t valid, writeable, usermode, pad[5];
};

struct debug_guest {
    uint32_t enabled, pad;
    struct {
        uint32_t enabled, pad;
        uint64_t address;
    } breakpoints[4];
    uint32_t singlestep;
};

struct msr_entry {
    uint32_t index, reserved;
    uint64_t data;
};
struct msrs {
    uint32_t nmsrs, pad;
    struct msr_entry entry[1];
};

struct cpuid_entry_2007 {
    uint32_t function, eax, ebx, ecx, edx, pad;
};

struct fpu {
    uint8_t fpr[8][16];
    uint16_t fcw, fsw;
    uint8_t ftwx, pad1;
    uint16_t last_opcode;
    uint64_t last_ip, last_dp;
    uint8_t xmm[16][16];
    uint32_t mxcsr, pad2;
};

struct run {
    uint8_t request_interrupt_window, pad1[7];
    uint32_t exit_reason;
    uint8_t ready_for_interrupt_injection, if_flag;
    uint16_t pad2;
    uint64_t cr8, apic_base;
    union {
        struct {
            uint64_t reason;
        } hw;
        struct {
            uint8_t direction, size;
            uint16_t port;
            uint32_t count;
            uint64_t data_offset;
        } io;
        struct {
            uint64_t phys_addr;
            uint8_t data[8];
            uint32_t len;
            uint8_t is_write;
        } mmio;
        uint8_t pad[256];
    };
};

_Static_assert(sizeof(struct memory_region) == 24, "layout");
_Static_assert(sizeof(struct memory_alias) == 32, "layout");
_Static_assert(sizeof(struct regs) == 144, "layout");
_Static_assert(sizeof(struct sregs) == 312, "layout");
_Static_assert(sizeof(struct translation_2007) == 24, "layout");
_Static_assert(sizeof(struct debug_guest) == 80, "layout");
_Static_assert(sizeof(struct fpu) == 416, "layout");
_Static_assert(sizeof(struct run) == 288, "layout");

#endif
