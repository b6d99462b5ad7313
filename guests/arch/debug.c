/* SPDX-License-Identifier: MIT */
/*
 * Debugging and what hides instructions from it: TF, breakpoints, the shadows of MOV SS and STI, RF, blocking of NMIs (SDM vol. 3B, "Debug, Branch
 * Profile...").
 */
#include "tests64.h"

#define TF 0x100u

static volatile u64 hit_rip[64], hit_dr6[64], n_hits, nmi_count, nmi_nested;
static volatile bool hook_keeps_tf;
static volatile u32 *const apic = (void *)0xfee00000;

/* Records each #DB and goes on; code breakpoints are passed by RF. */
static bool on_debug(struct frame *f)
{
    if (f->vector != 1)
        return false;
    if (n_hits < 64) {
        hit_rip[n_hits] = f->rip;
        hit_dr6[n_hits] = READ_DR(6);
    }
    n_hits++;
    WRITE_DR(6, 0);
    if ((f->rflags & TF) && !hook_keeps_tf && n_hits >= 60)
        f->rflags &= ~(u64)TF;
    f->rflags |= 0x10000;
    return true;
}

static void begin(void)
{
    n_hits = 0;
    WRITE_DR(6, 0);
    trap_hook = on_debug;
}

static void single_step(void)
{
    u64 a, b, c;
    group("single step");
    begin();
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf\n1: nop\n2: mov $1, %%eax\n3: pushf; andl $~0x100, (%%rsp); popf; nop; lea 1b(%%rip), %0; lea "
                     "2b(%%rip), %1; lea 3b(%%rip), %2"
                     : "=&r"(a), "=&r"(b), "=&r"(c)::"rax", "memory", "cc");
    check("traps", n_hits, 5);
    check("the first after the first instruction", hit_rip[0], b);
    check("the second after the second", hit_rip[1], c);
    check("DR6", hit_dr6[0], 0xffff4ff0);
    begin();
    __asm__ volatile("mov %%rsp, %%rcx; mov %%ss, %%edx; pushf; orl $0x100, (%%rsp); popf\n1: mov %%edx, %%ss\n nop\n2: nop\n pushf; andl $~0x100, (%%rsp); "
                     "popf; lea 2b(%%rip), %0"
                     : "=&r"(a)::"rcx", "rdx", "memory", "cc");
    check("MOV SS hides one trap", hit_rip[0], a);
    begin();
    __asm__ volatile("mov $3, %%ecx; lea buffer_of_step(%%rip), %%rdi; pushf; orl $0x100, (%%rsp); popf\n1: rep stosb\n2: pushf; andl $~0x100, (%%rsp); popf; "
                     "lea 1b(%%rip), %0; lea 2b(%%rip), %1"
                     : "=&r"(a), "=&r"(b)::"rcx", "rdi", "memory", "cc");
    check("REP STOSB traps after each iteration", n_hits, 3 + 3);
    check("at the instruction itself", hit_rip[0], a);
    check("then behind it", hit_rip[2], b);
    begin();
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; int $0x90\n1: pushf; andl $~0x100, (%%rsp); popf; lea 1b(%%rip), %0" : "=&r"(a)::"memory", "cc");
    check("INT n is not trapped inside", hit_rip[0] != a, 1);
    check("INT n reached its handler", cpu_self()->ticks[0x90], 1);
    begin();
    u64 entry_flags;
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; jmp 1f; ud2; 1: call 3f; 2: pushf; andl $~0x100, (%%rsp); popf; jmp 4f; 3: ret; 4: lea 2b(%%rip), %0"
                     : "=&r"(a)::"memory", "cc");
    check("branches are stepped", n_hits, 6);
    check("to where they lead", hit_rip[2], a);
    trap_hook = 0;
    TRY_USER_FLAGS(2 | TF, "nop; 7: nop");
    check("at CPL 3", trap_vector << 16 | (trap_rip - trap_insn), 1 << 16 | 1);
    (void)entry_flags;
}

static u8 buffer_of_step[64] __asm__("buffer_of_step") __attribute__((used));

static void breakpoints(void)
{
    static volatile u64 cell[4] __attribute__((aligned(16)));
    u64 at;
    group("breakpoint");
    begin();
    __asm__ volatile("lea 1f(%%rip), %0; mov %0, %%dr0; mov %1, %%dr7; nop; 1: nop; nop" : "=&r"(at) : "r"(0x402ull) : "memory");
    check("code: hits", n_hits, 1);
    check("code: RIP is the instruction's", hit_rip[0], at);
    check("code: DR6", hit_dr6[0], 0xffff0ff1);
    begin();
    WRITE_DR(0, &cell[1]);
    WRITE_DR(7, 0x402 | 1 << 16 | 3 << 18); /* writes, 4 bytes */
    (void)cell[1];
    check("write watch: no hit of a read", n_hits, 0);
    cell[0] = 1;
    cell[2] = 1;
    check("write watch: no hit of neighbours", n_hits, 0);
    __asm__ volatile("movl $5, %1; 1: lea 1b(%%rip), %0" : "=r"(at), "=m"(cell[1]));
    check("write watch: hits", n_hits, 1);
    check("write watch: a trap", hit_rip[0], at);
    check("write watch: DR6", hit_dr6[0], 0xffff0ff1);
    ((volatile u8 *)cell)[11] = 1;
    check("write watch: the last byte", n_hits, 2);
    ((volatile u8 *)cell)[12] = 1;
    check("write watch: not beyond", n_hits, 2);
    *(volatile u64 *)((u8 *)cell + 1) = 1;
    check("write watch: an overlap", n_hits, 3);
    begin();
    WRITE_DR(3, &cell[1]);
    WRITE_DR(7, 0x480 | 3u << 28 | 2u << 30); /* DR3, reads and writes, 8 bytes */
    (void)cell[1];
    check("access watch: a read", n_hits << 8 | (hit_dr6[0] & 0xf), 1 << 8 | 8);
    __asm__ volatile("lock incq %0" : "+m"(cell[1])::"cc");
    check("access watch: LOCK INC", n_hits, 2);
    begin();
    WRITE_CR(4, READ_CR(4) | 8);
    WRITE_DR(1, 0x5f0);
    WRITE_DR(7, 0x408 | 2 << 20);
    __asm__ volatile("mov $0x5f0, %%edx; in %%dx, %%al; 1: lea 1b(%%rip), %0" : "=r"(at)::"rax", "rdx");
    check("I/O: hits", n_hits, 1);
    check("I/O: a trap", hit_rip[0], at);
    check("I/O: DR6", hit_dr6[0] & 0xf, 2);
    WRITE_DR(7, 0x400);
    begin();
    (void)cell[1];
    WRITE_DR(0, &cell[1]);
    check("disabled: none", n_hits, 0);
    trap_hook = 0;
    TRY("mov %%dr4, %%rax");
    check_trap("UD of DR4 with CR4.DE", 6, 0);
    WRITE_CR(4, READ_CR(4) & ~8ull);
    TRY("mov %%dr4, %%rax");
    check("DR4 is DR6 without it", trap_vector, NO_TRAP);
    TRY("mov %0, %%dr7", "r"(1ull << 32));
    check_trap("GP of DR7 bit 32", 13, 0);
    TRY("mov %0, %%dr6", "r"(1ull << 32));
    check_trap("GP of DR6 bit 32", 13, 0);
    TRY_USER("mov %%dr0, %%rax");
    check_trap("MOV from DR at CPL 3", 13, 0);
    begin();
    WRITE_DR(7, 0x400 | 1 << 13);
    __asm__ volatile("nop");
    trap_hook = 0;
    TRY("mov %%dr0, %%rax");
    check_trap("general detect", 1, 0);
    check("general detect clears DR7.GD, sets DR6.BD", (READ_DR(7) >> 13 & 1) << 1 | (READ_DR(6) >> 13 & 1), 1);
    WRITE_DR(6, 0);
    check("DR6 fixed bits", READ_DR(6), 0xffff0ff0);
    WRITE_DR(7, 0);
    check("DR7 fixed bits", READ_DR(7), 0x400);
}

static bool on_nmi(struct frame *f)
{
    if (f->vector != 2)
        return false;
    nmi_count++;
    if (nmi_count == 1) {
        apic[0x300 / 4] = 0x40400; /* one to self: waits for the IRET */
        for (volatile int i = 0; i < 1000; i++)
            ;
        nmi_nested = nmi_count;
    }
    return true;
}

static void nmis(void)
{
    group("NMI");
    trap_hook = on_nmi;
    nmi_count = 0;
    apic[0x300 / 4] = 0x40400;
    for (volatile int i = 0; i < 1000; i++)
        ;
    check("blocked in its handler", nmi_nested, 1);
    check("taken after IRET", nmi_count, 2);
    u32 a;
    __asm__ volatile("movl $0x40400, (%1); mov %%ss, %0; mov %0, %%ss; nop" : "=&r"(a) : "r"(apic + 0x300 / 4) : "memory");
    check("with IF clear too", nmi_count, 3);
    trap_hook = 0;
}

void test_debug(void)
{
    single_step();
    breakpoints();
    nmis();
}
