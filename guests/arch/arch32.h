/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the guest "prot" share: 32-bit protected mode with its own descriptors, expected traps, blobs for 16-bit and 64-bit code. Used by assembly
 * too.
 */
#ifndef VITRINE_GUESTS_ARCH32_H
#define VITRINE_GUESTS_ARCH32_H

#define SEL_KCODE 0x08
#define SEL_KDATA 0x10
#define SEL_UCODE 0x1b
#define SEL_UDATA 0x23
#define SEL_TSS 0x28
#define SEL_TASK 0x30
#define SEL_TEST 0x40 /* four free entries */
#define SEL_CODE16 0x60
#define SEL_DATA16 0x68
#define SEL_CODE64 0x70
#define SEL_LDT 0x78
#define V86_AT 0x6000
#define REAL_AT 0x7000
#define REAL_RESULT 0x500 /* what real-mode code leaves: 32-bit words */
#define REAL_OF(label) (label - real_start + REAL_AT)

#ifndef __ASSEMBLER__
#include "say.h"

struct frame32 {
    u32 gs, fs, es, ds, edi, esi, ebp, esp_here, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss, v86_es, v86_ds, v86_fs, v86_gs;
};
struct tss32 {
    u16 link, r0;
    u32 esp0;
    u16 ss0, r1;
    u32 esp1;
    u16 ss1, r2;
    u32 esp2;
    u16 ss2, r3;
    u32 cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs;
    u16 ldt, r4, trap, io_map;
    u8 io_bits[0x200 + 1];
} __attribute__((packed));
struct table_pointer32 {
    u16 limit;
    u32 base;
} __attribute__((packed));

extern u64 gdt[16], idt[256];
extern struct tss32 tss, task;
extern volatile u32 trap_fixup, trap_insn, trap_vector, trap_error, trap_eip, trap_eax, trap_cs, trap_flags, trap_ss, try_saved[8], user_flags, user_esp;
extern struct frame32 last_frame;
extern char trap_stubs32[], real_start[], real_end[], v86_start[], v86_end[], task_entry[], task_stack_top[], kernel_stack_top[];

#define NO_TRAP 0x1000

#define TRY_SAVE                                                                                                                    \
    "movl %%eax, try_saved; movl %%ecx, try_saved+4; movl %%edx, try_saved+8; movl %%ebx, try_saved+12; movl %%esp, try_saved+16\n" \
    "movl %%ebp, try_saved+20; movl %%esi, try_saved+24; movl %%edi, try_saved+28; movl $9f, trap_fixup; movl $8f, trap_insn\n"
#define TRY_RESTORE                                                                                                                 \
    "\n9: movl $0, trap_fixup; movl try_saved, %%eax; movl try_saved+4, %%ecx; movl try_saved+8, %%edx; movl try_saved+12, %%ebx\n" \
    "movl try_saved+16, %%esp; movl try_saved+20, %%ebp; movl try_saved+24, %%esi; movl try_saved+28, %%edi\n"
/* As in the 64-bit guests: instructions that may trap. A snippet that changes DS must put it back. */
#define TRY(insn, ...)                                                                    \
    ({                                                                                    \
        trap_vector = NO_TRAP;                                                            \
        __asm__ volatile(TRY_SAVE "8: " insn TRY_RESTORE ::__VA_ARGS__ : "memory", "cc"); \
        trap_vector;                                                                      \
    })
#define TRY_USER_FLAGS(flags, insn, ...)                                                                                               \
    ({                                                                                                                                 \
        trap_vector = NO_TRAP;                                                                                                         \
        user_flags = (flags);                                                                                                          \
        __asm__ volatile(TRY_SAVE "push $0x23; push user_esp; push user_flags; push $0x1b; push $8f\n"                                 \
                                  "push $0x23; pop %%es; push $0x23; pop %%ds; iret\n8: " insn "\nint $0x80" TRY_RESTORE ::__VA_ARGS__ \
                         : "memory", "cc");                                                                                            \
        trap_vector;                                                                                                                   \
    })
#define TRY_USER(insn, ...) TRY_USER_FLAGS(2, insn, ##__VA_ARGS__)

void check_trap(const char *name, u32 vector, u32 error);
/* access: descriptor bits 40-47; flags: bits 52-55 */
u64 segment(u32 base, u32 limit, u32 access, u32 flags);
u64 gate32(u32 selector, u32 offset, u32 type, u32 count);
void *page_alloc(void);
void pages_reset(void);

void test_segments(void);
void test_gates(void);
void test_tasks(void);
void test_v86(void);
void test_real(void);
void test_paging32(void);
void test_la57(void);

#define READ_CR(n)                                          \
    ({                                                      \
        u32 cr_;                                            \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(cr_)); \
        cr_;                                                \
    })
#define WRITE_CR(n, value) __asm__ volatile("mov %0, %%cr" #n ::"r"((u32)(value)) : "memory")
#endif
#endif
