/* SPDX-License-Identifier: MIT */
/*
 * What the 64-bit guests share: layout, CPU blocks, traps that are expected, mapping of pages. Used by assembly too.
 */
#ifndef VITRINE_GUESTS_ARCH64_H
#define VITRINE_GUESTS_ARCH64_H

#define CPU_SHIFT 15
#define CPU_BYTES (1 << CPU_SHIFT)
#define CPUS_MAX 8
#define AP_START 0x8000
#define AP_OF(label) (label - ap_start)
#define USER_ALIAS 0x8000000000 /* the first GiB, for CPL 3 */

#define SEL_KCODE 0x08
#define SEL_KDATA 0x10
#define SEL_KCODE32 0x18
#define SEL_UCODE32 0x23
#define SEL_UDATA 0x2b
#define SEL_UCODE 0x33
#define SEL_TSS 0x40
#define SEL_TEST 0x50 /* three free entries */

#ifndef __ASSEMBLER__
#include "say.h"

struct frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};
struct tss64 {
    u32 reserved0;
    u64 rsp[3], reserved1, ist[7], reserved2;
    u16 reserved3, io_map;
    u8 io_bits[0x200 + 1];
} __attribute__((packed));
struct gate64 {
    u16 offset0, selector;
    u8 ist, type;
    u16 offset1;
    u32 offset2, reserved;
};
struct table_pointer {
    u16 limit;
    u64 base;
} __attribute__((packed));

/* At the bottom of each CPU's block; its stacks above: IST1 and IST2 at 12 and 16 KiB, RSP0 at 24 KiB, the first stack at the top. */
struct cpu {
    u32 index;
    u64 gdt[16];
    struct tss64 tss;
    volatile u64 ticks[256]; /* interrupts without a handler of their own, vectors 32 and up */
};

/* What the last expected trap looked like. trap_fixup is where it goes on; 0: a trap is not expected. One CPU only. */
extern volatile u64 trap_fixup, trap_insn, trap_vector, trap_error, trap_rip, trap_cr2, trap_flags, trap_rax, trap_cs, trap_frame_rsp, trap_count;
/* May take a trap before anything else: true if it did, with the frame set to where to go on. */
extern bool (*trap_hook)(struct frame *f);
extern struct gate64 idt[256];
extern u8 user_stack[8192];
extern char trap_stubs[];
extern u64 pml4[512], pdpt_low[512], pd_low[2048];
extern char cpu_blocks[], ap_start[], ap_start_end[];
extern volatile u32 ap_next;

#define NO_TRAP 0x1000

static inline struct cpu *cpu_self(void)
{
    u64 rsp;
    __asm__ volatile("mov %%rsp, %0" : "=r"(rsp));
    return (struct cpu *)(rsp & -(u64)CPU_BYTES);
}

/* Runs instructions that may trap; the value is the vector or NO_TRAP. Operands in registers or rip-relative memory only. Registers but r15 come back as they
 * were. */
#define TRY_SAVE                                                                                                                       \
    "mov %%rax, try_saved(%%rip); mov %%rcx, try_saved+8(%%rip); mov %%rdx, try_saved+16(%%rip); mov %%rbx, try_saved+24(%%rip)\n"     \
    "mov %%rsp, try_saved+32(%%rip); mov %%rbp, try_saved+40(%%rip); mov %%rsi, try_saved+48(%%rip); mov %%rdi, try_saved+56(%%rip)\n" \
    "lea 9f(%%rip), %%r15; mov %%r15, trap_fixup(%%rip)\n"
#define TRY_RESTORE                                                                                                                \
    "\n9: movq $0, trap_fixup(%%rip)\n"                                                                                            \
    "mov try_saved(%%rip), %%rax; mov try_saved+8(%%rip), %%rcx; mov try_saved+16(%%rip), %%rdx; mov try_saved+24(%%rip), %%rbx\n" \
    "mov try_saved+32(%%rip), %%rsp; mov try_saved+40(%%rip), %%rbp; mov try_saved+48(%%rip), %%rsi; mov try_saved+56(%%rip), %%rdi\n"
#define TRY(insn, ...)                                                                                                                              \
    ({                                                                                                                                              \
        trap_vector = NO_TRAP;                                                                                                                      \
        __asm__ volatile(TRY_SAVE "lea 8f(%%rip), %%r15; mov %%r15, trap_insn(%%rip)\n8: " insn TRY_RESTORE ::__VA_ARGS__ : "r15", "memory", "cc"); \
        trap_vector;                                                                                                                                \
    })

/* The same at CPL 3, in 64-bit code at USER_ALIAS with RFLAGS = flags. Comes back by INT 0x80 if nothing traps; trap_rax is RAX at the trap. */
#define TRY_USER_FLAGS(flags, insn, ...)                                                                                               \
    ({                                                                                                                                 \
        trap_vector = NO_TRAP;                                                                                                         \
        user_flags = (flags);                                                                                                          \
        __asm__ volatile(TRY_SAVE "push $0x2b; mov user_rsp(%%rip), %%r15; push %%r15; mov user_flags(%%rip), %%r15; push %%r15\n"     \
                                  "push $0x33; lea 8f(%%rip), %%r15; bts $39, %%r15; mov %%r15, trap_insn(%%rip); push %%r15; iretq\n" \
                                  "8: " insn "\nint $0x80" TRY_RESTORE ::__VA_ARGS__                                                   \
                         : "r15", "memory", "cc");                                                                                     \
        trap_vector;                                                                                                                   \
    })
#define TRY_USER(insn, ...) TRY_USER_FLAGS(2, insn, ##__VA_ARGS__)
extern volatile u64 user_flags, user_rsp, try_saved[8];

/* One check of a trap: vector, error code, RIP that of the instruction itself. */
void check_trap(const char *name, u64 vector, u64 error);

void cpu_set_up(struct cpu *c);
void gate_set(unsigned vector, void *to, u8 type, u8 ist);
void main64(void);
void main_ap(void);

/* 4 KiB mapping; tables are made as needed, open to everyone. pte includes the address and the flags. */
#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
u64 *page_entry(u64 va, unsigned level); /* level 1: PTE ... 4: PML4E */
void page_map(u64 va, u64 pte);
void *page_alloc(void); /* zeroed */

static inline void page_flush(u64 va)
{
    __asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
}
#define READ_CR(n)                                          \
    ({                                                      \
        u64 cr_;                                            \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(cr_)); \
        cr_;                                                \
    })
#define WRITE_CR(n, value) __asm__ volatile("mov %0, %%cr" #n ::"r"((u64)(value)) : "memory")
#define READ_DR(n)                                          \
    ({                                                      \
        u64 dr_;                                            \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(dr_)); \
        dr_;                                                \
    })
#define WRITE_DR(n, value) __asm__ volatile("mov %0, %%dr" #n ::"r"((u64)(value)) : "memory")
static inline u64 msr_read(u32 index)
{
    u32 a, d;
    __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(index));
    return a | (u64)d << 32;
}
static inline void msr_write(u32 index, u64 value)
{
    __asm__ volatile("wrmsr" ::"a"((u32)value), "d"((u32)(value >> 32)), "c"(index) : "memory");
}
#endif
#endif
