/* SPDX-License-Identifier: MIT */
/*
 * Other modes, reached from protected mode: virtual-8086, real and unreal mode, 2-level and PAE paging, 5-level long mode (SDM vol. 3A and 3B).
 */
#include "arch32.h"

extern char v86_int[], v86_cli[], v86_pushf[], v86_hlt[], v86_in[], v86_segments[], v86_int3[], v86_lgdt[], v86_far[], v86_iret[], real_flags_at[];
void real_run(void);
u64 la57_run(u32 cr3, u32 lo, u32 hi);

#define VM (1u << 17)
#define IOPL3 (3u << 12)

static u8 page[4][4096] __attribute__((aligned(4096)));

/* Runs a snippet in virtual-8086 mode at V86_AT >> 4 : 0 ...; what ends it is left in last_frame. */
static u32 v86(const char *snippet, u32 flags)
{
    u32 ip = (u32)(snippet - v86_start);
    trap_vector = NO_TRAP;
    __asm__ volatile(TRY_SAVE "8: push $0; push $0; push $0x600; push $0x600; push $0x900; push $0xff0; push %0; push $0x600; push %1; iret" TRY_RESTORE ::"r"(
                         flags | VM | 2),
                     "r"(ip)
                     : "memory", "cc");
    return last_frame.eip - ip;
}

void test_v86(void)
{
    u32 at;
    group("virtual-8086");
    at = v86(v86_int, 0);
    check("GP of INT n with IOPL 0", trap_vector << 16 | trap_error, 13 << 16);
    check("its IP", at, 3);
    check("AX", last_frame.eax & 0xffff, 0x1234);
    check("VM in the frame", last_frame.eflags & VM, VM);
    check("CS in the frame", last_frame.cs, 0x600);
    check("SS:SP in the frame", last_frame.ss << 16 | last_frame.esp, 0x9000ff0);
    check("DS and ES in the frame", last_frame.v86_ds << 16 | last_frame.v86_es, 0x6000600);
    check("handler's own FS and GS are null", (last_frame.fs | last_frame.gs) & 0xffff, 0);
    idt[0x21] = gate32(SEL_KCODE, (u32)trap_stubs32 + 16 * 0x21, 0xee, 0);
    at = v86(v86_int, IOPL3);
    check("INT n with IOPL 3 goes through the IDT", trap_vector, 0x21);
    idt[0x21] = gate32(SEL_KCODE, (u32)trap_stubs32 + 16 * 0x21, 0x8e, 0);
    at = v86(v86_int, IOPL3);
    check("GP if the gate's DPL is 0", trap_vector << 16 | trap_error, 13 << 16 | (0x21 * 8 + 2));
    at = v86(v86_cli, 0);
    check("GP of CLI", trap_vector << 16 | at, 13 << 16);
    at = v86(v86_cli, IOPL3);
    check("CLI with IOPL 3", trap_vector << 16 | at, 13 << 16 | 1);
    at = v86(v86_pushf, 0);
    check("GP of PUSHF", trap_vector << 16 | at, 13 << 16);
    at = v86(v86_hlt, IOPL3);
    check("GP of HLT", trap_vector << 16 | at, 13 << 16);
    at = v86(v86_in, IOPL3);
    check("IN minds the bitmap, not IOPL", trap_vector << 16 | at, 13 << 16);
    tss.io_bits[0xf5 / 8] &= (u8) ~(1 << (0xf5 % 8));
    at = v86(v86_in, 0);
    check("IN allowed by the bitmap", trap_vector << 16 | at, 13 << 16 | 2);
    tss.io_bits[0xf5 / 8] = 0xff;
    at = v86(v86_lgdt, IOPL3);
    check("GP of LGDT", trap_vector << 16 | at, 13 << 16);
    at = v86(v86_segments, 0);
    check("segments are selector * 16", *(volatile u16 *)0x20010 << 16 | (last_frame.eax & 0xffff), 0x55aa55ab);
    check("INT3 needs no IOPL but a gate of DPL 3", trap_vector, 3);
    at = v86(v86_far, 0);
    check("far CALL and RETF", trap_vector << 8 | (last_frame.eax & 0xff), 3 << 8 | 0x77);
    at = v86(v86_iret, IOPL3);
    check("IRET with IOPL 3", trap_vector << 8 | (last_frame.eax & 0xff), 3 << 8 | 0x66);
    at = v86(v86_int3, 0);
    check("IP behind INT3", at, 1);
}

void test_real(void)
{
    volatile u32 *r = (void *)REAL_RESULT;
    group("real mode");
    ((volatile u16 *)(0x22 * 4))[0] = (u16)(u32)real_flags_at;
    ((volatile u16 *)(0x22 * 4))[1] = 0;
    real_run();
    check("INT and IRET", r[0], 0x42);
    check("segments", r[1], 0xcafe);
    check("unreal: FS reaches 2 MiB", r[2], 0x5ea1);
    check("GP beyond 64 KiB", r[3], 13);
    check("GP of a word at 0xffff", r[4], 13);
    check("flags pushed by INT: CF, bit 1", r[5] & 3, 3);
    check("INT and IRET balance SP", r[6], 0);
    check("DE", r[7], 1);
    check("above 1 MiB", r[8], 0x1235813);
    check("far CALL", r[9], REAL_AT >> 4);
    check("REP STOSB counts CX", r[10], 0x12340000);
    check("STOSB wraps DI", r[17], 0x56780000);
    check("DAA", r[11], 0x47);
    check("AAM", r[12], 0x0603);
    check("PE is clear", r[13], 0);
    check("INT3", r[14], 3);
    check("PUSH wraps SP", r[15], 0xfffe);
    check("and POP", r[16], 0x22221111);
    real_run();
    check("once more", r[0], 0x42);
}

static u32 *directory;

static void map4k(u32 va, u32 pte)
{
    u32 *e = &directory[va >> 22];
    if (!(*e & 1))
        *e = (u32)page_alloc() | 7;
    ((u32 *)(*e & ~0xfffu))[va >> 12 & 1023] = pte;
    __asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
}

static void paging_2_level(void)
{
    u32 va = 0x40000000, cr4 = READ_CR(4);
    group("2-level paging");
    directory = page_alloc();
    WRITE_CR(4, cr4 | 0x10);
    for (u32 i = 0; i < 8; i++)
        directory[i] = i << 22 | 0x87; /* 4 MiB pages, open to CPL 3 */
    WRITE_CR(3, directory);
    WRITE_CR(0, READ_CR(0) | 0x80010000);
    *(u32 *)page[0] = 0x1111;
    map4k(va, (u32)page[0] | 3);
    check("4 KiB page", *(volatile u32 *)va, 0x1111);
    TRY_USER("mov (%0), %%eax", "r"(va));
    check_trap("supervisor page", 14, 5);
    check("CR2", READ_CR(2), va);
    map4k(va, (u32)page[0] | 1);
    TRY("movl $1, (%0)", "r"(va));
    check_trap("WP", 14, 3);
    WRITE_CR(0, READ_CR(0) & ~0x10000u);
    TRY("movl $0x2222, (%0)", "r"(va));
    check("without WP", *(u32 *)page[0], 0x2222);
    WRITE_CR(0, READ_CR(0) | 0x10000);
    TRY("mov 0x1000(%0), %%eax", "r"(va));
    check_trap("absent", 14, 0);
    directory[0x101] = 0x00400000 | 0x83;
    *(volatile u32 *)0x00712344 = 0x4444;
    check("4 MiB page", *(volatile u32 *)(0x40400000 + 0x312344), 0x4444);
    check("its A bit", directory[0x101] >> 5 & 3, 1);
    *(volatile u32 *)(0x40400000 + 0x312344) = 0x4445;
    check("its D bit", directory[0x101] >> 5 & 3, 3);
    directory[0x102] = 0x00400000 | 0x83 | 1 << 21;
    TRY("mov (%0), %%eax", "r"(0x40800000));
    check_trap("reserved bit of a 4 MiB page", 14, 9);
    TRY_USER("mov (%0), %%eax", "r"(0x00712344));
    check("user page", trap_vector << 16 | trap_eax, 0x80 << 16 | 0x4445);
    WRITE_CR(0, READ_CR(0) & ~0x80000000u);
    check("paging off again", *(volatile u32 *)0x00712344, 0x4445);
    WRITE_CR(4, cr4);
}

static void paging_pae(void)
{
    static u64 pdpt[4] __attribute__((aligned(32)));
    u32 cr4 = READ_CR(4), a, d;
    u64 *pd = page_alloc(), *pt = page_alloc();
    group("PAE paging");
    for (u32 i = 0; i < 16; i++)
        pd[i] = i << 21 | 0x87;
    pd[0x40] = (u32)pt | 7;
    pd[0x41] = 0x600000 | 0x83;
    pt[0] = (u32)page[1] | 3;
    pt[1] = (u32)page[2] | 3 | 1ull << 63;
    pdpt[0] = (u32)pd | 1;
    pdpt[1] = pdpt[2] = 0;
    pdpt[3] = (u32)pd | 1;
    __asm__ volatile("rdmsr; or $0x800, %%eax; wrmsr" : "=a"(a), "=d"(d) : "c"(0xc0000080));
    WRITE_CR(4, cr4 | 0x20);
    WRITE_CR(3, pdpt);
    WRITE_CR(0, READ_CR(0) | 0x80010000);
    u32 va = 0x08000000;
    *(u32 *)page[1] = 0x1111;
    check("4 KiB page", *(volatile u32 *)va, 0x1111);
    check("through the fourth quarter", *(volatile u32 *)(va + 0xc0000000), 0x1111);
    *(volatile u32 *)0x712344 = 0x7777;
    check("2 MiB page", *(volatile u32 *)(0x08200000 + 0x112344), 0x7777);
    TRY("mov (%0), %%eax", "r"(0x40000000));
    check_trap("an absent quarter", 14, 0);
    page[2][0] = 0xc3;
    TRY("call *%0", "r"(va + 4096));
    check("NX", trap_vector << 8 | trap_error, 14 << 8 | 0x11);
    pt[2] = (u32)page[2] | 3 | 1ull << 60;
    TRY("mov (%0), %%eax", "r"(va + 8192));
    check_trap("reserved bit", 14, 9);
    pdpt[1] = (u32)pd | 1;
    TRY("mov (%0), %%eax", "r"(0x40000000));
    check_trap("PDPTEs are loaded with CR3 only", 14, 0);
    WRITE_CR(3, pdpt);
    check("and then are used", *(volatile u32 *)(0x40000000 + 0x712344), 0x7777);
    pdpt[2] = 0x1 | 1 << 1;
    TRY("mov %0, %%cr3", "r"(pdpt));
    check_trap("GP of a reserved PDPTE bit", 13, 0);
    check("entries as before", *(volatile u32 *)va, 0x1111);
    pdpt[2] = 0;
    WRITE_CR(0, READ_CR(0) & ~0x80000000u);
    WRITE_CR(4, cr4);
}

static void put(u8 *at, u32 value)
{
    at[0] = 0xb8;
    for (unsigned i = 0; i < 4; i++)
        at[1 + i] = (u8)(value >> 8 * i);
    at[5] = 0xc3;
    __asm__ volatile("" ::: "memory");
}

/* Without paging there is no INVLPG to wait for: what the host wrote while it had the vCPU counts at once. */
static void code_by_host(void)
{
    static struct {
        u32 to, bytes;
        u8 data[8];
    } w;
    group("code written by the host, paging off");
    if (in8(0xf5) != 0x56) {
        skip("all", "not this host");
        return;
    }
    put(page[3], 1);
    u32 value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(page[3]) : "memory");
    check("first", value, 1);
    for (u32 i = 2; i < 6; i++) {
        w.to = (u32)page[3];
        w.bytes = 6;
        put(w.data, i);
        out32(0xf5, (u32)&w);
        __asm__ volatile("call *%1" : "=a"(value) : "r"(page[3]) : "memory");
        check("after the exit", value, i);
    }
}

void test_paging32(void)
{
    pages_reset();
    paging_2_level();
    paging_pae();
    code_by_host();
}

void test_la57(void)
{
    group("5-level paging");
    if (!has_cpuid(7, 2, 16)) {
        skip("all", "no LA57");
        return;
    }
    pages_reset();
    u64 *pml5 = page_alloc(), *pml4 = page_alloc(), *pdpt = page_alloc(), *pd = page_alloc(), *high4 = page_alloc(), *high3 = page_alloc();
    for (u32 i = 0; i < 16; i++)
        pd[i] = i << 21 | 0x83;
    pdpt[0] = (u32)pd | 3;
    pml4[0] = (u32)pdpt | 3;
    pml5[0] = (u32)pml4 | 3;
    high3[0] = 0x83; /* 1 GiB page at 0 */
    high4[0] = (u32)high3 | 3;
    pml5[0x80] = (u32)high4 | 3; /* linear 0x0080000000000000 */
    *(volatile u64 *)0x712340 = 0x1122334455667788;
    check("low half", la57_run((u32)pml5, 0x712340, 0), 0x1122334455667788);
    check("57-bit address", la57_run((u32)pml5, 0x712340, 0x00800000), 0x1122334455667788);
}
