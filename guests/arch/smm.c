/* SPDX-License-Identifier: MIT */
/*
 * System management mode on one CPU: SMBASE moved, state kept and changed through the save area, from CPL 0 and 3, memory that only SMM sees (AMD APM vol. 2,
 * "System-Management Mode"). Several CPUs: smp.c.
 */
#include "smm.h"
#include "tests64.h"

#define APIC_AT 0x38000000000ull /* for CPL 3 */
#define ICR 0x300
#define SMI_TO_SELF 0x4200 /* APIC id 0 */
#define ROUNDS 300u

extern char smm_handler[], smm_handler_end[];
volatile u32 smi_command, smi_count[CPUS_MAX], smi_seen;
volatile u16 smi_cs[CPUS_MAX];
volatile u64 smi_resume;
extern const u64 smm_fill[15]; /* for the assembly in registers() */
extern volatile u64 smm_left[15];
static volatile u32 *const apic = (void *)0xfee00000;

bool smm_is_there(void)
{
    return in8(0xf6) != 0xff;
}

static void handler_copy(u32 smbase)
{
    u8 *to = (u8 *)(u64)(smbase + 0x8000);
    for (char *p = smm_handler; p < smm_handler_end; p++)
        *to++ = (u8)*p;
}

void smm_prepare(void)
{
    handler_copy(0x30000);
    for (u32 i = 0; i < CPUS_MAX; i++)
        handler_copy(SMBASE_OF(i));
}

static void smi(u32 command)
{
    u32 before = smi_count[0];
    smi_command = command;
    apic[0x310 / 4] = 0;
    apic[ICR / 4] = SMI_TO_SELF;
    while (smi_count[0] == before)
        ;
}

/* SMIs are sent until the handler puts an end to it. Registers come back, RAX as the handler left it. */
const u64 smm_fill[15] = { 0,    0xb1b2b3b4b5b6b7b8, 0xd1d2d3d4d5d6d7d8, 0x5152535455565758, 0xe1e2e3e4e5e6e7e8, 0x8182838485868788, 0x9192939495969798,
                           0xa1, 0x1112131415161718, 0x2122232425262728, 0x3132333435363738, 0x4142434445464748, 0xf1f2f3f4f5f6f7f8 };
volatile u64 smm_left[15];

static void registers(void)
{
    smi_command = SMI_RESUME;
    __asm__ volatile("push %%rbp; push %%rbx; lea 2f(%%rip), %%rax; mov %%rax, smi_resume(%%rip)\n"
                     "mov smm_fill+8(%%rip), %%rbx; mov smm_fill+16(%%rip), %%rdx; mov smm_fill+24(%%rip), %%rsi; mov smm_fill+32(%%rip), %%rbp\n"
                     "mov smm_fill+40(%%rip), %%r8; mov smm_fill+48(%%rip), %%r9; mov smm_fill+56(%%rip), %%r10; mov smm_fill+64(%%rip), %%r11\n"
                     "mov smm_fill+72(%%rip), %%r12; mov smm_fill+80(%%rip), %%r13; mov smm_fill+88(%%rip), %%r14; mov smm_fill+96(%%rip), %%r15\n"
                     "xor %%eax, %%eax; stc; std\n"
                     "1: mov %%ecx, (%%rdi); jmp 1b\n"
                     "2: mov %%rax, smm_left(%%rip); pushf; pop smm_left+104(%%rip); cld\n"
                     "mov %%rbx, smm_left+8(%%rip); mov %%rdx, smm_left+16(%%rip); mov %%rsi, smm_left+24(%%rip); mov %%rbp, smm_left+32(%%rip)\n"
                     "mov %%r8, smm_left+40(%%rip); mov %%r9, smm_left+48(%%rip); mov %%r10, smm_left+56(%%rip); mov %%r11, smm_left+64(%%rip)\n"
                     "mov %%r12, smm_left+72(%%rip); mov %%r13, smm_left+80(%%rip); mov %%r14, smm_left+88(%%rip); mov %%r15, smm_left+96(%%rip)\n"
                     "pop %%rbx; pop %%rbp\n" ::"c"(SMI_TO_SELF),
                     "D"(apic + ICR / 4)
                     : "rax", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
    u64 differ = 0;
    for (u32 i = 1; i < 13; i++)
        differ |= smm_left[i] ^ smm_fill[i];
    check("general registers come back", differ, 0);
    check("RAX is what the handler wrote", smm_left[0], SMI_RAX);
    check("flags come back", smm_left[13] & 0x445, 0x445); /* DF ZF PF CF */
}

static void from_user(void)
{
    page_map(APIC_AT, 0xfee00000 | PTE_P | PTE_W | PTE_U);
    u32 before = smi_count[0];
    check("from CPL 3: goes on", TRY_USER("movl %%ecx, (%%rdi); nop", "c"(SMI_TO_SELF), "D"(APIC_AT + ICR)), 0x80);
    check("from CPL 3: one SMI", smi_count[0] - before, 1);
    check("from CPL 3: still there", TRY_USER("movl %%ecx, (%%rdi); hlt", "c"(SMI_TO_SELF), "D"(APIC_AT + ICR)), 13);
}

void test_smm(void)
{
    group("SMM");
    if (!smm_is_there()) {
        skip("all", "its handler is not ours to replace");
        return;
    }
    u64 cr3 = READ_CR(3), cr4 = READ_CR(4), efer = msr_read(0xc0000080), gs = 0xffff888812345678;
    smm_prepare();
    apic[0xf0 / 4] = 0x1ff;
    msr_write(0xc0000101, gs);
    smi(SMI_RELOCATE);
    check("SMBASE after reset", smi_cs[0], 0x3000);
    smi(SMI_COUNT);
    check("SMBASE moved", smi_cs[0], SMBASE_OF(0) >> 4);
    registers();
    check("CR3", READ_CR(3), cr3);
    check("CR4", READ_CR(4), cr4);
    check("EFER", msr_read(0xc0000080), efer);
    check("GS base", msr_read(0xc0000101), gs);
    check("RSM outside of SMM", TRY("rsm"), 6);
    from_user();
    u32 first = smi_seen;
    for (u32 i = 0; i < ROUNDS; i++)
        smi(SMI_HIDDEN);
    check("memory of its own", smi_seen - first, ROUNDS);
    smi_command = SMI_COUNT;
    msr_write(0xc0000101, 0);
}
