/* SPDX-License-Identifier: MIT */
/*
 * 4-level paging: what is cached and what must not be, A and D bits, large and global pages, PCID, SMEP, SMAP (SDM vol. 3A, "Paging").
 */
#include "tests64.h"

#define BASE 0x20000000000ull

static u8 page[4][4096] __attribute__((aligned(4096)));
static u64 *const cell = (u64 *)BASE;

static u64 read(u64 va)
{
    return *(volatile u64 *)va;
}
static void write(u64 va, u64 value)
{
    *(volatile u64 *)va = value;
}
static u64 pte(unsigned i, u64 flags)
{
    return (u64)page[i] | flags;
}

static void accessed_dirty(void)
{
    u64 *e;
    group("A and D");
    page_map(BASE, pte(0, PTE_P | PTE_W));
    e = page_entry(BASE, 1);
    check("untouched", *e & (PTE_A | PTE_D), 0);
    read(BASE);
    check("A of a read", *e & (PTE_A | PTE_D), PTE_A);
    check("A of the tables above", *page_entry(BASE, 2) & *page_entry(BASE, 3) & *page_entry(BASE, 4) & PTE_A, PTE_A);
    write(BASE, 1);
    check("D of a write", *e & (PTE_A | PTE_D), PTE_A | PTE_D);
    *e &= ~(PTE_A | PTE_D);
    page_flush(BASE);
    TRY("cmpxchgq %%rcx, (%0)", "r"(cell), "a"(99), "c"(1));
    check("D of a CMPXCHG that fails", *e & PTE_D, PTE_D);
    *e &= ~(PTE_A | PTE_D | PTE_W);
    page_flush(BASE);
    TRY("movq $1, (%0)", "r"(cell));
    check("no D of a write that faults", *e & PTE_D, 0);
}

static void invalidation(void)
{
    group("TLB");
    for (unsigned i = 0; i < 4; i++)
        *(u64 *)page[i] = 0x1000 + i;
    page_map(BASE, pte(0, PTE_P | PTE_W));
    check("first mapping", read(BASE), 0x1000);
    *page_entry(BASE, 1) = pte(1, PTE_P | PTE_W);
    page_flush(BASE);
    check("INVLPG", read(BASE), 0x1001);
    *page_entry(BASE, 1) = pte(2, PTE_P | PTE_W);
    WRITE_CR(3, READ_CR(3));
    check("MOV CR3", read(BASE), 0x1002);
    *page_entry(BASE, 1) = pte(3, PTE_P | PTE_W | PTE_G);
    WRITE_CR(3, READ_CR(3));
    check("a global page", read(BASE), 0x1003);
    *page_entry(BASE, 1) = pte(0, PTE_P | PTE_W | PTE_G);
    WRITE_CR(4, READ_CR(4) & ~0x80ull);
    WRITE_CR(4, READ_CR(4) | 0x80);
    check("CR4.PGE flushes global pages", read(BASE), 0x1000);
    *page_entry(BASE, 1) = pte(1, PTE_P | PTE_W | PTE_G);
    page_flush(BASE);
    check("INVLPG of a global page", read(BASE), 0x1001);
    page_map(BASE, 0);
    TRY("mov (%0), %%rax", "r"(cell));
    check_trap("after removal", 14, 0);
    *page_entry(BASE, 1) = pte(2, PTE_P | PTE_W); /* not-present entries are not cached: no flush */
    check("from absent to present without INVLPG", read(BASE), 0x1002);
    *page_entry(BASE, 1) = pte(2, PTE_P);
    page_flush(BASE);
    read(BASE);
    *page_entry(BASE, 1) = pte(2, PTE_P | PTE_W);
    TRY("movq $0x77, (%0)", "r"(cell));
    check("a spurious fault at most when rights grow", trap_vector == NO_TRAP || trap_vector == 14, 1);
    write(BASE, 0x1002);
    /* A large page over the same addresses: 2 MiB aligned at 6 MiB and the same at BASE + 1 GiB. */
    u64 big = BASE + 0x40000000;
    *page_entry(big, 2) = 0x600000 | PTE_P | PTE_W | PTE_PS;
    *(volatile u64 *)0x712340 = 0x4242;
    check("2 MiB page", read(big + 0x112340), 0x4242);
    check("2 MiB page: A", *page_entry(big, 2) & PTE_A, PTE_A);
    *page_entry(big, 2) = 0x800000 | PTE_P | PTE_W | PTE_PS;
    *(volatile u64 *)0x912340 = 0x4343;
    page_flush(big);
    check("INVLPG of any part of a 2 MiB page", read(big + 0x112340), 0x4343);
    TRY("mov (%0), %%rax", "r"(big));
    *page_entry(big, 2) = 0x802000 | PTE_P | PTE_W | PTE_PS;
    page_flush(big);
    TRY("mov (%0), %%rax", "r"(big));
    check_trap("reserved bit of a 2 MiB page", 14, 9);
    if (has_cpuid(0x80000001, 3, 26)) {
        u64 huge = BASE + 0x80000000;
        *page_entry(huge, 3) = 0 | PTE_P | PTE_W | PTE_PS;
        check("1 GiB page", read(huge + 0x912340), 0x4343);
        *page_entry(huge, 3) = 0;
        page_flush(huge);
    }
}

static void pcids(void)
{
    group("PCID");
    if (!has_cpuid(1, 2, 17)) {
        skip("all", "no PCID");
        return;
    }
    u64 cr3 = READ_CR(3), cr4 = READ_CR(4);
    u64 *copy = page_alloc();
    for (unsigned i = 0; i < 512; i++)
        copy[i] = pml4[i];
    TRY("mov %0, %%cr3; mov %1, %%cr4", "r"(cr3 | 8), "r"(cr4 | 1 << 17));
    check("GP of PCIDE with a PCID in CR3", trap_vector, 13);
    WRITE_CR(3, cr3);
    WRITE_CR(4, cr4 | 1 << 17);
    page_map(BASE, pte(0, PTE_P | PTE_W));
    *(u64 *)page[0] = 0x1000;
    *(u64 *)page[1] = 0x1001;
    u64 *other = page_alloc();
    u64 *pdpt = page_alloc(), *pd = page_alloc();
    for (unsigned i = 0; i < 512; i++)
        other[i] = 0;
    other[0] = pte(1, PTE_P | PTE_W);
    pd[0] = (u64)other | 7;
    pdpt[0] = (u64)pd | 7;
    copy[BASE >> 39 & 511] = (u64)pdpt | 7;
    check("PCID 0", read(BASE), 0x1000);
    WRITE_CR(3, (u64)copy | 5);
    check("PCID 5 has its own", read(BASE), 0x1001);
    WRITE_CR(3, cr3 | 1ull << 63);
    check("back without a flush", read(BASE), 0x1000);
    other[0] = pte(2, PTE_P | PTE_W);
    *(u64 *)page[2] = 0x1002;
    WRITE_CR(3, (u64)copy | 5);
    check("with a flush", read(BASE), 0x1002);
    WRITE_CR(3, cr3 | 1ull << 63);
    TRY("mov %0, %%cr0", "r"(READ_CR(0) & ~(1ull << 31)));
    check("GP of clearing PG with PCIDE", trap_vector, 13);
    if (has_cpuid(7, 1, 10)) {
        u64 d[2] = { 5, BASE };
        other[0] = pte(3, PTE_P | PTE_W);
        *(u64 *)page[3] = 0x1003;
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(0ull) : "memory");
        WRITE_CR(3, (u64)copy | 5 | 1ull << 63);
        check("INVPCID of an address", read(BASE), 0x1003);
        other[0] = pte(1, PTE_P | PTE_W);
        WRITE_CR(3, cr3 | 1ull << 63);
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(1ull) : "memory");
        WRITE_CR(3, (u64)copy | 5 | 1ull << 63);
        check("INVPCID of a context", read(BASE), 0x1001);
        other[0] = pte(2, PTE_P | PTE_W);
        d[0] = d[1] = 0;
        __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(2ull) : "memory");
        check("INVPCID of all", read(BASE), 0x1002);
        WRITE_CR(3, cr3);
        static u64 bad[2];
        TRY("invpcid %0, %1", "m"(bad), "r"(4ull));
        check_trap("GP of INVPCID type 4", 13, 0);
        bad[0] = 1 << 12;
        TRY("invpcid %0, %1", "m"(bad), "r"(1ull));
        check_trap("GP of a reserved bit of its descriptor", 13, 0);
    }
    WRITE_CR(3, cr3);
    WRITE_CR(4, cr4);
}

static void smep_smap(void)
{
    static const u8 code[] = { 0xb8, 0x99, 0, 0, 0, 0xc3 };
    for (unsigned i = 0; i < sizeof code; i++)
        page[0][i] = code[i];
    page_map(BASE, pte(0, PTE_P | PTE_W | PTE_U));
    u64 cr4 = READ_CR(4), a = 0;
    group("SMEP");
    __asm__ volatile("call *%1" : "=a"(a) : "r"(cell));
    check("off: a user page runs", a, 0x99);
    if (has_cpuid(7, 1, 7)) {
        WRITE_CR(4, cr4 | 1 << 20);
        TRY("call *%0", "r"(cell));
        check("fetch from a user page", trap_vector << 8 | trap_error, 14 << 8 | 0x11);
        check("RIP", trap_rip, BASE);
        TRY_USER("call *%0", "r"(cell));
        check("CPL 3 runs it", trap_vector << 8 | (trap_rax & 0xff), 0x80 << 8 | 0x99);
        WRITE_CR(4, cr4);
        __asm__ volatile("call *%1" : "=a"(a) : "r"(cell));
        check("off again", a, 0x99);
    }
    group("SMAP");
    if (!has_cpuid(7, 1, 20)) {
        skip("all", "no SMAP");
        return;
    }
    TRY("stac; clac");
    check("STAC works without CR4.SMAP", trap_vector, NO_TRAP);
    WRITE_CR(4, cr4 | 1 << 21);
    TRY("mov 8(%0), %%rax", "r"(cell));
    check_trap("read of a user page", 14, 1);
    TRY("mov %%rax, 8(%0)", "r"(cell));
    check_trap("write to a user page", 14, 3);
    TRY("stac; mov 8(%0), %%rax; mov %%rax, 8(%0); clac", "r"(cell));
    check("with AC", trap_vector, NO_TRAP);
    TRY("mov 8(%0), %%rax", "r"(cell));
    check_trap("without again, though it was cached", 14, 1);
    TRY("mov %%rax, 8(%0)", "r"(cell));
    check_trap("for writes too", 14, 3);
    TRY("stac; pushf; andl $~0x40000, (%%rsp); popf; lea 7f(%%rip), %%r15; mov %%r15, trap_insn(%%rip); 7: mov 8(%0), %%rax", "r"(cell));
    check_trap("AC cleared by POPF", 14, 1);
    TRY_USER("mov 8(%0), %%rax", "r"(cell));
    check("CPL 3 reads it", trap_vector, 0x80);
    TRY("mov 8(%0), %%rax", "r"(cell));
    check_trap("not CPL 0 after that", 14, 1);
    TRY_USER("stac");
    check_trap("UD of STAC at CPL 3", 6, 0);
    WRITE_CR(4, cr4);
    TRY("mov 8(%0), %%rax", "r"(cell));
    check("off again", trap_vector, NO_TRAP);
}

static void rights(void)
{
    u64 efer = msr_read(0xc0000080);
    group("rights");
    page_map(BASE, pte(0, PTE_P | PTE_W | PTE_U));
    *page_entry(BASE, 2) &= ~PTE_W;
    WRITE_CR(3, READ_CR(3));
    TRY_USER("mov %%al, (%0)", "r"(cell));
    check_trap("a read-only PDE", 14, 7);
    *page_entry(BASE, 2) = (*page_entry(BASE, 2) | PTE_W) & ~PTE_U;
    WRITE_CR(3, READ_CR(3));
    TRY_USER("mov (%0), %%al", "r"(cell));
    check_trap("a supervisor PDE", 14, 5);
    *page_entry(BASE, 2) |= PTE_U | PTE_NX;
    WRITE_CR(3, READ_CR(3));
    TRY("call *%0", "r"(cell));
    check("an NX PDE", trap_vector << 8 | trap_error, 14 << 8 | 0x11);
    msr_write(0xc0000080, efer & ~0x800);
    WRITE_CR(3, READ_CR(3));
    TRY("mov (%0), %%al", "r"(cell));
    check_trap("NX is reserved without EFER.NXE", 14, 9);
    msr_write(0xc0000080, efer);
    *page_entry(BASE, 2) &= ~PTE_NX;
    WRITE_CR(3, READ_CR(3));
    TRY("mov (%0), %%al", "r"(cell));
    check("and again with it", trap_vector, NO_TRAP);
    page_map(BASE, 0x800000000000 | PTE_P | PTE_W); /* beyond RAM, within MAXPHYADDR or reserved: never silently RAM */
    page_map(BASE, 0);
}

void test_paging(void)
{
    accessed_dirty();
    invalidation();
    pcids();
    smep_smap();
    rights();
}
