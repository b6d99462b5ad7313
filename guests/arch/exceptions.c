/* SPDX-License-Identifier: MIT */
/*
 * Exceptions in 64-bit mode: vectors, error codes, CR2, the address to restart at, priorities, double faults (SDM vol. 3A, "Interrupt and Exception Handling").
 */
#include "tests64.h"

#define NON_CANONICAL 0x8000000000000000ull
#define UNMAPPED 0x10000000000ull

static void simple(void)
{
    group("exception");
    TRY("divl %k1", "a"(1), "c"(0), "d"(0));
    check_trap("DE of DIV by 0", 0, 0);
    TRY("idivl %1", "a"(0x80000000), "r"(-1), "d"(-1));
    check_trap("DE of IDIV overflow", 0, 0);
    TRY("divb %b1", "a"(0x1000), "c"(0x10));
    check_trap("DE of DIV r8 overflow", 0, 0);
    TRY("int3");
    check("INT3 vector", trap_vector, 3);
    check("INT3 is a trap", trap_rip, trap_insn + 1);
    TRY(".byte 0xcd, 3");
    check("INT 3 is a trap", trap_rip, trap_insn + 2);
    TRY(".byte 0xf1");
    check("INT1 vector", trap_vector, 1);
    check("INT1 is a trap", trap_rip, trap_insn + 1);
    TRY("ud2");
    check_trap("UD of UD2", 6, 0);
    TRY(".byte 0x0f, 0xb9, 0xc0");
    check_trap("UD of UD1", 6, 0);
    TRY(".byte 0x0f, 0xff, 0xc0");
    check_trap("UD of UD0", 6, 0);
    TRY(".byte 0xf0, 0x01, 0xc0");
    check_trap("UD of LOCK with a register", 6, 0);
    TRY(".byte 0xf0, 0x8b, 0x04, 0x24");
    check_trap("UD of LOCK MOV", 6, 0);
    TRY(".byte 0xce");
    check_trap("UD of INTO in 64-bit mode", 6, 0);
    TRY(".byte 0x27");
    check_trap("UD of DAA in 64-bit mode", 6, 0);
    TRY(".byte 0x06");
    check_trap("UD of PUSH ES in 64-bit mode", 6, 0);
    TRY(".byte 0x9a, 0, 0, 0, 0, 8, 0");
    check_trap("UD of CALL ptr16:32 in 64-bit mode", 6, 0);
    TRY(".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90");
    check_trap("GP of 16 bytes", 13, 0);
    TRY("mov (%0), %%rax", "r"(NON_CANONICAL));
    check_trap("GP of a non-canonical address", 13, 0);
    TRY("mov (%%rbx), %%rax", "b"(0x7ffffffffffdull));
    check_trap("GP of an access that runs out of the canonical half", trap_vector == 14 ? 14 : 13, trap_vector == 14 ? trap_error : 0);
    idt[12].ist = 2;
    TRY("mov %0, %%rsp; push %%rax", "r"(NON_CANONICAL + 64));
    check("SS of PUSH at a non-canonical RSP", trap_vector << 8 | trap_error, 12 << 8);
    idt[12].ist = 0;
    TRY("mov %%ss:(%0), %%rax", "r"(NON_CANONICAL));
    check("SS: prefix is ignored or gives SS", trap_vector == 12 || trap_vector == 13, 1);
    TRY("mov %0, %%rbp; mov (%%rbp), %%rax", "r"(NON_CANONICAL));
    check("SS of a non-canonical RBP", trap_vector, 12);
    TRY("jmp *%0", "r"(NON_CANONICAL));
    check("GP of JMP to a non-canonical address", trap_vector << 8 | trap_error, 13 << 8); /* RIP is the jump's or, on some processors, the target */
    TRY("int $0x81");
    check("INT n runs through its gate", cpu_self()->ticks[0x81], 1);
    TRY_USER("int $0x81");
    check_trap("GP of INT n at CPL 3 through a gate of DPL 0", 13, 0x81 * 8 + 2);
    TRY_USER("int3");
    check("INT3 at CPL 3", trap_vector, 3);
    TRY_USER(".byte 0xf1");
    check("INT1 at CPL 3 needs no DPL", trap_vector, 1);
}

static void selectors(void)
{
    struct cpu *c = cpu_self();
    group("selector");
    TRY("mov %w0, %%ds", "r"(0x7f8));
    check_trap("GP beyond the GDT's limit", 13, 0x7f8);
    TRY("mov %w0, %%ds", "r"(SEL_TSS));
    check_trap("GP of a system descriptor in DS", 13, SEL_TSS);
    TRY("mov %w0, %%es", "r"(0x54));
    check_trap("GP of an LDT selector without an LDT", 13, 0x54);
    c->gdt[10] = 0x00cf13000000ffff; /* not present, DPL 0 */
    TRY("mov %w0, %%es", "r"(SEL_TEST));
    check_trap("NP of a data segment", 11, SEL_TEST);
    TRY("mov %w0, %%ss", "r"(SEL_TEST));
    check_trap("SS of a stack segment that is not present", 12, SEL_TEST);
    c->gdt[10] = 0x00cf91000000ffff;
    TRY("mov %w0, %%ss", "r"(SEL_TEST));
    check_trap("GP of a read-only SS", 13, SEL_TEST);
    TRY("mov %w0, %%ss", "r"(SEL_UDATA));
    check_trap("GP of an SS of another privilege", 13, SEL_UDATA & ~3);
    c->gdt[10] = 0x00cf92000000ffff;
    TRY("mov %w0, %%es", "r"(SEL_TEST));
    check("accessed bit is set", c->gdt[10] >> 40 & 1, 1);
    TRY("mov %w0, %%es", "r"(SEL_KDATA));
    TRY(".byte 0x8e, 0xc8");
    check_trap("UD of MOV to CS", 6, 0);
    TRY("pushq $0x10; push %q0; lretq", "r"(0x1000));
    check("GP of RETF to a data segment", trap_vector << 16 | trap_error, 13 << 16 | 0x10);
    TRY_USER("mov %w0, %%ds", "r"(SEL_KDATA));
    check_trap("GP of DPL 0 data at CPL 3", 13, SEL_KDATA);
    TRY_USER("mov %w0, %%ss", "r"(0));
    check_trap("GP of a null SS at CPL 3", 13, 0);
    TRY_USER("mov %w0, %%fs; mov %%fs, %%eax", "r"(3));
    check("null selector 3 in FS", trap_rax & 0xffff, 3);
    TRY("mov %w0, %%ss; mov %%ss, %%ecx; mov %w1, %%ss", "r"(0), "r"(SEL_KDATA));
    check("null SS at CPL 0", trap_vector, NO_TRAP);
}

static void page_faults(void)
{
    static u8 page[8192] __attribute__((aligned(4096)));
    u64 va = UNMAPPED;
    group("page fault");
    TRY("mov 0x123(%0), %%al", "r"(va));
    check_trap("read of an absent page", 14, 0);
    check("CR2", trap_cr2, va + 0x123);
    TRY("mov %%al, 0x123(%0)", "r"(va));
    check_trap("write to an absent page", 14, 2);
    page_map(va, (u64)page | PTE_P);
    TRY("mov (%0), %%al", "r"(va));
    check("read of a read-only page", trap_vector, NO_TRAP);
    TRY("movq $1, 8(%0)", "r"(va));
    check_trap("write to a read-only page, CR0.WP", 14, 3);
    WRITE_CR(0, READ_CR(0) & ~0x10000ull);
    TRY("movq $1, 8(%0)", "r"(va));
    check("the same without CR0.WP", trap_vector, NO_TRAP);
    check("dirty bit", *page_entry(va, 1) & (PTE_A | PTE_D), PTE_A | PTE_D);
    WRITE_CR(0, READ_CR(0) | 0x10000);
    TRY("movq $1, 8(%0)", "r"(va));
    check_trap("and with it again", 14, 3);
    TRY_USER("mov (%0), %%al", "r"(va));
    check_trap("user read of a supervisor page", 14, 5);
    TRY_USER("mov %%al, (%0)", "r"(va));
    check_trap("user write to a supervisor page", 14, 7);
    TRY_USER("mov 0x10000(%0), %%al", "r"(va));
    check_trap("user read of an absent page", 14, 4);
    TRY_USER("jmp *%0", "r"(va));
    check("user fetch from a supervisor page", trap_vector << 8 | trap_error, 14 << 8 | 0x15);
    check("RIP of the failed fetch", trap_rip, va);
    page_map(va, (u64)page | PTE_P | PTE_W | PTE_U | PTE_NX);
    TRY_USER("jmp *%0", "r"(va));
    check("user fetch from an NX page", trap_vector << 8 | trap_error, 14 << 8 | 0x15);
    TRY("jmp *%0", "r"(va));
    check("fetch from an NX page", trap_vector << 8 | trap_error, 14 << 8 | 0x11);
    page_map(va, (u64)page | PTE_P | PTE_W | (1ull << 51));
    TRY("mov (%0), %%al", "r"(va));
    check_trap("reserved bit", 14, 9);
    TRY_USER("mov %%al, (%0)", "r"(va));
    check_trap("reserved bit, user write", 14, 15);
    /* Across a page: nothing of the first half may be written when the second faults. */
    page_map(va, (u64)page | PTE_P | PTE_W);
    page_map(va + 4096, 0);
    *(volatile u32 *)(va + 4092) = 0x11111111;
    TRY("movq $-1, 4092(%0)", "r"(va));
    check_trap("store across a page", 14, 2);
    check("CR2 is in the second page", trap_cr2, va + 4096);
    check("nothing was stored", *(volatile u32 *)(va + 4092), 0x11111111);
    u64 cx = 16;
    for (int i = 0; i < 16; i++)
        page[4080 + i] = 0;
    trap_vector = NO_TRAP;
    __asm__ volatile(
        "lea 9f(%%rip), %%r15; mov %%r15, trap_fixup(%%rip); lea 8f(%%rip), %%r15; mov %%r15, trap_insn(%%rip); 8: rep stosb; 9: movq $0, trap_fixup(%%rip)"
        : "+c"(cx)
        : "D"(va + 4090), "a"(0x5a)
        : "r15", "memory");
    check_trap("REP STOSB into an absent page", 14, 2);
    check("its RCX", cx, 10);
    check("its CR2", trap_cr2, va + 4096);
    check("its last byte", page[4095], 0x5a);
    page_map(va + 4096, (u64)page + 4096 + (PTE_P | PTE_W));
    *(volatile u64 *)(va + 4092) = 0x0807060504030201;
    check("store across two pages", *(volatile u64 *)(page + 4092), 0x0807060504030201);
    page_map(va + 4096, (u64)page + (PTE_P | PTE_W));
    *(volatile u64 *)(va + 4092) = 0x8877665544332211;
    check("store across a page and its alias", *(volatile u32 *)page << 8 | page[4092], 0x77665511);
    page_map(va, 0);
    page_map(va + 4096, 0);
}

static void absent(unsigned vector)
{
    idt[vector].type &= 0x7f;
}
static void present(unsigned vector)
{
    idt[vector].type |= 0x80;
}

static void second_faults(void)
{
    group("double fault");
    absent(6);
    TRY("ud2");
    check_trap("UD, then NP of its gate: NP with EXT", 11, 6 * 8 + 2 + 1);
    present(6);
    absent(0x82);
    TRY("int $0x82");
    check_trap("INT n, NP of its gate", 11, 0x82 * 8 + 2);
    present(0x82);
    absent(13);
    TRY("mov %w0, %%ds", "r"(SEL_TSS));
    check("GP, then NP", trap_vector << 8 | trap_error, 8 << 8);
    check("on its IST", trap_frame_rsp >> 12, (cpu_self()->tss.ist[0] - 8) >> 12);
    present(13);
    absent(14);
    TRY("mov (%0), %%eax", "r"(UNMAPPED));
    check("PF, then NP", trap_vector << 8 | trap_error, 8 << 8);
    present(14);
    /* A #PF while a #GP is delivered is served first: its handler sees the #PF, not a double fault. */
    idt[6].selector = 0x7f8;
    TRY("ud2");
    check_trap("UD, then GP of its gate's selector", 13, 0x7f8 + 1);
    idt[6].selector = SEL_KCODE;
    TRY("mov %0, %%rsp; ud2", "r"(UNMAPPED));
    check("PF while the frame is pushed, then again: DF", trap_vector << 8 | trap_error, 8 << 8);
    struct table_pointer small = { 14 * 16 - 1, (u64)idt }, all = { sizeof idt - 1, (u64)idt };
    __asm__ volatile("lidt %0" ::"m"(small));
    TRY("int $0x40");
    __asm__ volatile("lidt %0" ::"m"(all));
    check("GP beyond the IDT's limit", trap_vector << 16 | trap_error, 13 << 16 | (0x40 * 8 + 2));
    idt[0x83].type = 0x8c; /* a 32-bit call gate is no interrupt gate */
    TRY("int $0x83");
    check_trap("GP of a wrong gate type", 13, 0x83 * 8 + 2);
    idt[0x83].type = 0x8e;
}

static void priorities(void)
{
    group("priority");
    TRY(".byte 0xf0, 0x8b, 0x07", "D"(UNMAPPED)); /* LOCK MOV (%rdi), %eax */
    check("UD before PF of the operand", trap_vector, 6);
    TRY_USER("mov %0, %%cr3", "r"(NON_CANONICAL));
    check_trap("GP of CPL before the value", 13, 0);
    WRITE_CR(0, READ_CR(0) | 8);
    TRY("fldl (%0)", "r"(UNMAPPED));
    check_trap("NM before PF", 7, 0);
    TRY("fldl (%0)", "r"(NON_CANONICAL));
    check_trap("NM before GP", 7, 0);
    TRY("movaps (%0), %%xmm0", "r"(UNMAPPED));
    check_trap("NM of SSE before PF", 7, 0);
    __asm__ volatile("clts");
    TRY("divl (%0)", "r"(UNMAPPED), "a"(0), "d"(0));
    check_trap("PF before DE", 14, 0);
}

static void alignment(void)
{
    static u64 cell[2];
    u64 at = (u64)cell + USER_ALIAS;
    group("alignment");
    WRITE_CR(0, READ_CR(0) | 1 << 18);
    TRY_USER_FLAGS(2 | 1 << 18, "mov 1(%0), %%eax", "r"(at));
    check_trap("AC of a user access", 17, 0);
    TRY_USER_FLAGS(2 | 1 << 18, "mov 4(%0), %%eax", "r"(at));
    check("none when aligned", trap_vector, 0x80);
    TRY_USER_FLAGS(2, "mov 1(%0), %%eax", "r"(at));
    check("none without EFLAGS.AC", trap_vector, 0x80);
    TRY_USER_FLAGS(2 | 1 << 18, "mov %%ax, 1(%0)", "r"(at));
    check_trap("AC of a user store", 17, 0);
    TRY("pushf; orl $0x40000, (%%rsp); popf; mov 1(%0), %%eax; pushf; andl $~0x40000, (%%rsp); popf", "r"(cell));
    check("none at CPL 0", trap_vector, NO_TRAP);
    WRITE_CR(0, READ_CR(0) & ~(1ull << 18));
    TRY_USER_FLAGS(2 | 1 << 18, "mov 1(%0), %%eax", "r"(at));
    check("none without CR0.AM", trap_vector, 0x80);
}

/* The state at a fault is the state before the instruction, whatever the translator did with registers and with flags that somebody reads later. */
static void restart_state(void)
{
    u64 flags, a, b;
    group("state");
    trap_vector = NO_TRAP;
    __asm__ volatile("lea 9f(%%rip), %%r15; mov %%r15, trap_fixup(%%rip); lea 8f(%%rip), %%r15; mov %%r15, trap_insn(%%rip)\n"
                     "mov $5, %%eax; sub $6, %%eax; mov $0x77, %%ebx; 8: mov %%rbx, (%%rcx); 9: pushf; lea 8(%%rsp), %%rsp"
                     : "=a"(a), "=b"(b)
                     : "c"(UNMAPPED)
                     : "r15", "memory", "cc");
    flags = trap_flags;
    check_trap("PF of MOV to memory", 14, 2);
    check("EAX", a, 0xffffffff);
    check("EBX", b, 0x77);
    check("status flags", flags & 0x8d5, 0x95); /* SF AF PF CF */
    trap_vector = NO_TRAP;
    __asm__ volatile("lea 9f(%%rip), %%r15; mov %%r15, trap_fixup(%%rip); mov $0x7fffffff, %%eax; inc %%eax; mov %%rsp, %%rbx; push (%%rcx); 9: pushf; lea "
                     "8(%%rsp), %%rsp; sub %%rsp, %%rbx"
                     : "=a"(a), "=b"(b)
                     : "c"(UNMAPPED)
                     : "r15", "memory", "cc");
    check("PF of PUSH leaves RSP", b, 0);
    check("flags of INC overflow", trap_flags & 0x8d4, 0x894);
    trap_vector = NO_TRAP;
    __asm__ volatile("lea 9f(%%rip), %%r15; mov %%r15, trap_fixup(%%rip); mov $1, %%eax; xchg %%eax, (%%rcx); 9: nop"
                     : "=a"(a)
                     : "c"(UNMAPPED)
                     : "r15", "memory");
    check("PF of XCHG leaves the register", a, 1);
    trap_vector = NO_TRAP;
    __asm__ volatile("lea 9f(%%rip), %%r15; mov %%r15, trap_fixup(%%rip); mov $9, %%eax; popq (%%rcx); 9: nop" : "=a"(a) : "c"(UNMAPPED) : "r15", "memory");
    check("PF of POP to memory", trap_error, 2);
}

void test_exceptions(void)
{
    simple();
    selectors();
    page_faults();
    second_faults();
    priorities();
    alignment();
    restart_state();
}

/* Does not return: with no double-fault gate the machine shuts down. */
void test_triple_fault(void)
{
    struct table_pointer none = { 0, 0 };
    say("expect shutdown\n");
    __asm__ volatile("lidt %0; ud2" ::"m"(none));
}
