/* SPDX-License-Identifier: MIT */
/*
 * The guest "smp": several CPUs in 64-bit mode. Start-up, locked instructions, IPIs, TLB shoot-down, code changed under another CPU, SMIs (SDM vol. 3A,
 * "Multiple-Processor Management"). Works with 1 CPU, tests nothing then.
 */
#include "smm.h"

#define ROUNDS 20000u
#define SHOOT_ROUNDS 20u /* each waits until the host has let every CPU run */
#define BASE 0x30000000000ull
#define SMI_ROUNDS 100u
#define VEC_SHOOT 0x50
#define VEC_COUNT 0x51

static volatile u32 n_up, phase, n_done, n_cpus = 1;
static volatile u64 counter, tickets, spin_value;
static volatile u32 spin_lock;
static volatile u64 pair[2] __attribute__((aligned(16)));
static volatile u8 bytes[8];
static u8 page[2][4096] __attribute__((aligned(4096)));
static volatile u32 shoot_acks, stop_flag, wrong;
static volatile u64 n_reads[CPUS_MAX];
static bool is_x2apic;
static volatile u32 *const apic = (void *)0xfee00000;

static void pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

static void apic_write(u32 reg, u32 value)
{
    if (is_x2apic)
        msr_write(0x800 + reg / 16, value);
    else
        apic[reg / 4] = value;
}

static u32 apic_read(u32 reg)
{
    return is_x2apic ? (u32)msr_read(0x800 + reg / 16) : apic[reg / 4];
}

static void ipi(u32 to, u32 low)
{
    if (is_x2apic) {
        __asm__ volatile("mfence");
        msr_write(0x830, (u64)to << 32 | low);
        return;
    }
    apic[0x310 / 4] = to << 24;
    apic[0x300 / 4] = low;
}

static bool on_trap(struct frame *f)
{
    if (f->vector < 0x20 || f->vector == 0x80)
        return false;
    cpu_self()->ticks[f->vector]++;
    if (f->vector == VEC_SHOOT) {
        page_flush(BASE);
        __atomic_fetch_add(&shoot_acks, 1, __ATOMIC_SEQ_CST);
    }
    apic_write(0xb0, 0);
    return true;
}

static void increments(void)
{
    for (u32 i = 0; i < ROUNDS; i++) {
        __asm__ volatile("lock incq %0" : "+m"(counter)::"cc");
        u64 one = 1;
        __asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(tickets)::"cc");
        __asm__ volatile("lock addb $1, %0" : "+m"(bytes[3])::"cc");
    }
}

static void pairs(void)
{
    for (u32 i = 0; i < ROUNDS; i++) {
        u64 a = pair[0], d = pair[1];
        u8 ok;
        do
            __asm__ volatile("lock cmpxchg16b %0; setz %1" : "+m"(pair), "=q"(ok), "+a"(a), "+d"(d) : "b"(a + 1), "c"(d + 2) : "cc");
        while (!ok);
        if (d != 2 * a)
            wrong = 1;
    }
}

static void locks(void)
{
    for (u32 i = 0; i < ROUNDS / 4; i++) {
        u32 one;
        for (;;) {
            one = 1;
            __asm__ volatile("xchgl %0, %1" : "+r"(one), "+m"(spin_lock)::"memory");
            if (!one)
                break;
            while (spin_lock)
                pause();
        }
        spin_value = spin_value + 1;
        __asm__ volatile("" ::: "memory");
        spin_lock = 0;
    }
}

static void (*volatile job)(void);

/* All CPUs run `f`; returns when all are through. */
static void everywhere(void (*f)(void))
{
    n_done = 0;
    job = f;
    __atomic_fetch_add(&phase, 1, __ATOMIC_SEQ_CST);
    f();
    while (n_done != n_cpus - 1)
        pause();
}

void main_ap(void)
{
    apic_write(0xf0, 0x1ff);
    __atomic_fetch_add(&n_up, 1, __ATOMIC_SEQ_CST);
    u32 seen = 0;
    __asm__ volatile("sti");
    for (;;) {
        while (phase == seen)
            pause();
        seen = phase;
        job();
        __atomic_fetch_add(&n_done, 1, __ATOMIC_SEQ_CST);
    }
}

static void start_all(void)
{
    u8 *to = (u8 *)AP_START;
    for (char *p = ap_start; p < ap_start_end; p++)
        *to++ = (u8)*p;
    apic_write(0xf0, 0x1ff);
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    trap_hook = on_trap;
    ipi(0, 0xc4500); /* INIT to all but self */
    for (volatile u32 i = 0; i < 100000; i++)
        ;
    ipi(0, 0xc4600 | AP_START >> 12);
    u32 quiet = 0, last = 0, told = in8(0xf6); /* the test's host says how many there are; elsewhere wait until no more come */
    while (told == 0xff ? quiet < 30000000 && n_up < CPUS_MAX - 1 : n_up != told - 1) {
        quiet = n_up == last ? quiet + 1 : 0;
        last = n_up;
        pause();
    }
    n_cpus = n_up + 1;
}

/* ---- IPIs ---- */

static void halt_for_ipi(void)
{
    struct cpu *c = cpu_self();
    if (c->index == 0)
        return;
    while (!c->ticks[VEC_COUNT])
        __asm__ volatile("cli; cmpq $0, %0; jne 1f; sti; hlt; 1: sti" ::"m"(c->ticks[VEC_COUNT]) : "cc", "memory");
}

static u64 count_ticks(unsigned vector)
{
    u64 sum = 0;
    for (u32 i = 0; i < n_cpus; i++)
        sum += ((struct cpu *)(cpu_blocks + i * CPU_BYTES))->ticks[vector];
    return sum;
}

static void clear_ticks(unsigned vector)
{
    for (u32 i = 0; i < n_cpus; i++)
        ((struct cpu *)(cpu_blocks + i * CPU_BYTES))->ticks[vector] = 0;
}

static void ipis(const char *name)
{
    group(name);
    clear_ticks(VEC_COUNT);
    n_done = 0;
    job = halt_for_ipi;
    __atomic_fetch_add(&phase, 1, __ATOMIC_SEQ_CST);
    for (volatile u32 i = 0; i < 200000; i++)
        ;
    for (u32 id = 1; id < n_cpus; id++)
        ipi(id, 0x4000 | VEC_COUNT);
    while (n_done != n_cpus - 1)
        pause();
    check("one by one wakes all from HLT", count_ticks(VEC_COUNT), n_cpus - 1);
    __asm__ volatile("sti");
    for (u32 round = 1; round <= 50; round++) {
        ipi(0, 0xc4000 | VEC_COUNT);
        while (count_ticks(VEC_COUNT) != (u64)(n_cpus - 1) * (round + 1))
            pause();
    }
    check("all but self, 50 times", count_ticks(VEC_COUNT), (u64)(n_cpus - 1) * 51);
    ipi(0, 0x84000 | VEC_COUNT);
    while (count_ticks(VEC_COUNT) != (u64)(n_cpus - 1) * 51 + n_cpus)
        pause();
    check("all", cpu_self()->ticks[VEC_COUNT], 1);
    check("the local id", is_x2apic ? apic_read(0x20) : apic_read(0x20) >> 24, 0);
    __asm__ volatile("cli");
}

static void x2apic_on(void)
{
    msr_write(0x1b, msr_read(0x1b) | 1 << 10);
}

/* ---- TLB shoot-down ---- */

static void reader(void)
{
    u32 self = cpu_self()->index;
    if (self == 0)
        return;
    u64 last = 0;
    while (!stop_flag) {
        u64 now = *(volatile u64 *)BASE;
        if (now < last)
            wrong = 1; /* an old page after the new one */
        last = now;
        n_reads[self]++;
    }
    if (last != SHOOT_ROUNDS)
        wrong = 2;
}

/* Until every reader has read once more from beginning to end. Without this the next IPI may meet a reader in its handler, round after round, and nothing is
 * tested. */
static void wait_for_readers(void)
{
    for (u32 i = 1; i < n_cpus; i++) {
        u64 before = n_reads[i];
        while (n_reads[i] < before + 2)
            pause();
    }
}

static void shoot_down(void)
{
    group("TLB shoot-down");
    *(volatile u64 *)page[0] = 1;
    page_map(BASE, (u64)page[0] | PTE_P | PTE_W);
    stop_flag = 0;
    wrong = 0;
    n_done = 0;
    job = reader;
    __atomic_fetch_add(&phase, 1, __ATOMIC_SEQ_CST);
    for (u64 round = 2; round <= SHOOT_ROUNDS; round++) {
        u8 *to = page[round & 1];
        *(volatile u64 *)to = round;
        *page_entry(BASE, 1) = (u64)to | PTE_P | PTE_W;
        page_flush(BASE);
        shoot_acks = 0;
        ipi(0, 0xc4000 | VEC_SHOOT);
        while (shoot_acks != n_cpus - 1)
            pause();
        *(volatile u64 *)page[~round & 1] = 0; /* nobody may see the old page any more */
        wait_for_readers();
    }
    stop_flag = 1;
    while (n_done != n_cpus - 1)
        pause();
    check("nobody sees the old page", wrong, 0);
}

/* ---- code changed under other CPUs ---- */

static void caller(void)
{
    if (cpu_self()->index == 0)
        return;
    u64 last = 0;
    while (!stop_flag) {
        u64 value;
        __asm__ volatile("call *%1" : "=a"(value) : "r"(page[0]) : "memory");
        if (value < last)
            wrong = 1;
        last = value;
    }
    u64 value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(page[0]) : "memory");
    if (value != 1000)
        wrong = 2;
}

static void cross_modifying(void)
{
    group("cross-modifying code");
    static const u8 code[] = { 0x90, 0x90, 0x90, 0xb8, 1, 0, 0, 0, 0xc3 }; /* the immediate is 4-aligned: one store changes it at once */
    for (unsigned i = 0; i < sizeof code; i++)
        page[0][i] = code[i];
    stop_flag = 0;
    wrong = 0;
    n_done = 0;
    job = caller;
    __atomic_fetch_add(&phase, 1, __ATOMIC_SEQ_CST);
    for (u32 i = 2; i <= 1000; i++) {
        *(volatile u32 *)(page[0] + 4) = i;
        u64 value;
        __asm__ volatile("call *%1" : "=a"(value) : "r"(page[0]) : "memory");
        if (value != i)
            wrong = 3;
        for (volatile u32 k = 0; k < 50; k++)
            ;
    }
    stop_flag = 1;
    while (n_done != n_cpus - 1)
        pause();
    check("all see the last version, none goes back", wrong, 0);
}

/* ---- system management mode ---- */

static void wait_for_smis(u32 rounds)
{
    for (u32 i = 1; i < n_cpus; i++)
        while (smi_count[i] < rounds)
            pause();
}

static void smis(void)
{
    group("SMI");
    if (!smm_is_there()) {
        skip("all", "its handler is not ours to replace");
        return;
    }
    smm_prepare();
    smi_command = SMI_RELOCATE;
    for (u32 id = 1; id < n_cpus; id++) { /* the first ones share a save area */
        ipi(id, 0x4200);
        while (!smi_count[id])
            pause();
    }
    smi_command = SMI_COUNT;
    counter = tickets = 0;
    n_done = 0;
    job = increments;
    __atomic_fetch_add(&phase, 1, __ATOMIC_SEQ_CST);
    for (u32 round = 2; round <= SMI_ROUNDS; round++) {
        ipi(0, 0xc4200);
        wait_for_smis(round);
    }
    while (n_done != n_cpus - 1)
        pause();
    u32 is_wrong = 0;
    for (u32 i = 1; i < n_cpus; i++)
        is_wrong |= (smi_count[i] != SMI_ROUNDS) | (smi_cs[i] != SMBASE_OF(i) >> 4);
    check("each comes once, to its CPU's own handler", is_wrong, 0);
    check("work goes on: LOCK INC", counter, (u64)ROUNDS * (n_cpus - 1));
    check("work goes on: LOCK XADD", tickets, (u64)ROUNDS * (n_cpus - 1));
}

static void atomics(void)
{
    group("atomics");
    counter = tickets = 0;
    bytes[3] = 0;
    everywhere(increments);
    check("LOCK INC", counter, (u64)ROUNDS * n_cpus);
    check("LOCK XADD", tickets, (u64)ROUNDS * n_cpus);
    check("LOCK ADD of a byte", bytes[3], (u8)(ROUNDS * n_cpus));
    pair[0] = pair[1] = 0;
    wrong = 0;
    everywhere(pairs);
    check("CMPXCHG16B: sum", pair[0], (u64)ROUNDS * n_cpus);
    check("CMPXCHG16B: other half", pair[1], (u64)2 * ROUNDS * n_cpus);
    check("CMPXCHG16B: never torn", wrong, 0);
    spin_value = 0;
    everywhere(locks);
    check("spinlock", spin_value, (u64)(ROUNDS / 4) * n_cpus);
}

void main64(void)
{
    start_all();
    group("SMP");
    say("# cpus: ");
    say_hex(n_cpus);
    say("\n");
    if (n_cpus == 1) {
        skip("all", "one CPU");
        return;
    }
    u32 r[4];
    cpuid(1, 0, r);
    check("CPUID: APIC id", r[1] >> 24, 0);
    check("CPUs came up", n_up, n_cpus - 1);
    check("each once", ap_next, n_cpus);
    atomics();
    ipis("xAPIC IPI");
    shoot_down();
    cross_modifying();
    smis();
    if (!has_cpuid(1, 2, 21))
        return;
    everywhere(x2apic_on); /* no interrupts are under way, so nobody looks at is_x2apic meanwhile */
    is_x2apic = true;
    ipis("x2APIC IPI");
    shoot_down();
}
