/* SPDX-License-Identifier: MIT */
/*
 * Instructions of the operating system in 64-bit mode: control registers, descriptor tables, MSRs, I/O, system calls (SDM vol. 2 and 3A).
 */
#include "tests64.h"

static void control_registers(void)
{
    u64 cr0 = READ_CR(0), cr4 = READ_CR(4), cr3 = READ_CR(3);
    group("control register");
    (void)cr4;
#ifndef QEMU_LAXITY
    TRY("mov %0, %%cr0", "r"(cr0 & ~1ull));
    check_trap("GP of PG without PE", 13, 0);
    TRY("mov %0, %%cr0", "r"((cr0 | 1ull << 29) & ~(1ull << 30)));
    check_trap("GP of NW without CD", 13, 0);
    TRY("mov %0, %%cr0", "r"(cr0 | 1ull << 32));
    check_trap("GP of CR0 bit 32", 13, 0);
    TRY("mov %0, %%cr0", "r"(cr0 & ~(1ull << 31)));
    check_trap("GP of leaving paging in 64-bit mode", 13, 0);
    TRY("mov %0, %%cr4", "r"(cr4 | 1ull << 31));
    check_trap("GP of a reserved CR4 bit", 13, 0);
    TRY("mov %0, %%cr4", "r"(cr4 & ~0x20ull));
    check_trap("GP of clearing PAE in long mode", 13, 0);
#endif
    TRY("mov %0, %%cr3", "r"(cr3 | 1ull << 60));
    check_trap("GP of a reserved CR3 bit", 13, 0);
    TRY("mov %%cr1, %%rax");
    check_trap("UD of CR1", 6, 0);
    TRY("mov %0, %%cr8", "r"(16ull));
    check_trap("GP of CR8 16", 13, 0);
    WRITE_CR(8, 5);
    check("CR8", READ_CR(8), 5);
    WRITE_CR(8, 0);
    u64 low;
    __asm__ volatile("smsw %0" : "=r"(low));
    check("SMSW r64", low & 0xffff, cr0 & 0xffff);
    __asm__ volatile("lmsw %w0" ::"r"((u32)(cr0 | 8) & 0xfffe));
    check("LMSW sets TS and keeps PE", READ_CR(0), cr0 | 8);
    __asm__ volatile("clts");
    check("CLTS", READ_CR(0), cr0);
    TRY_USER("clts");
    check_trap("CLTS at CPL 3", 13, 0);
    TRY_USER("mov %%cr0, %%rax");
    check_trap("MOV from CR0 at CPL 3", 13, 0);
    TRY_USER("hlt");
    check_trap("HLT at CPL 3", 13, 0);
    TRY_USER("cli");
    check_trap("CLI at CPL 3, IOPL 0", 13, 0);
    TRY_USER("sti");
    check_trap("STI at CPL 3, IOPL 0", 13, 0);
    TRY_USER_FLAGS(2 | 3 << 12, "cli");
    check("CLI at CPL 3, IOPL 3", trap_vector, 0x80);
    TRY_USER("wbinvd");
    check_trap("WBINVD at CPL 3", 13, 0);
    TRY_USER("invlpg (%0)", "r"(0ull));
    check_trap("INVLPG at CPL 3", 13, 0);
    TRY_USER("ltr %w0", "r"(SEL_TSS));
    check_trap("LTR at CPL 3", 13, 0);
    TRY_USER("pushf; orl $0x200, (%%rsp); popf; pushf; pop %%rax");
    check("POPF at CPL 3 leaves IF", trap_rax & 0x200, 0);
    TRY_USER("pushf; orl $0x3000, (%%rsp); popf; pushf; pop %%rax");
    check("POPF at CPL 3 leaves IOPL", trap_rax & 0x3000, 0);
    TRY("wbinvd; invd");
    check("WBINVD and INVD at CPL 0", trap_vector, NO_TRAP);
}

static void tables(void)
{
    struct table_pointer p = { 0 }, q = { 0 };
    struct cpu *c = cpu_self();
    u32 value;
    u16 sel;
    group("table");
    __asm__ volatile("sgdt %0; sidt %1" : "=m"(p), "=m"(q));
    check("SGDT base", p.base, (u64)c->gdt);
    check("SGDT limit", p.limit, sizeof c->gdt - 1);
    check("SIDT base", q.base, (u64)idt);
    __asm__ volatile("str %0" : "=r"(sel));
    check("STR", sel, SEL_TSS);
    check("LTR marks the TSS busy", c->gdt[8] >> 40 & 0xf, 0xb);
    TRY("ltr %w0", "r"(SEL_TSS));
    check_trap("GP of LTR of a busy TSS", 13, SEL_TSS);
    TRY("ltr %w0", "r"(SEL_KDATA));
    check_trap("GP of LTR of a data segment", 13, SEL_KDATA);
    TRY("ltr %w0", "r"(0));
    check_trap("GP of LTR null", 13, 0);
    static u64 ldt[2] = { 0, 0x00cff3000000ffff };
    u64 base = (u64)ldt;
    c->gdt[10] = 15 | (base & 0xffffff) << 16 | 0x82ull << 40 | (base >> 24 & 0xff) << 56;
    c->gdt[11] = base >> 32;
    __asm__ volatile("lldt %w1; sldt %w0" : "=r"(value) : "r"(SEL_TEST));
    check("SLDT", value & 0xffff, SEL_TEST);
    TRY("mov %w0, %%es; mov %w1, %%es", "r"(0xf), "r"(SEL_KDATA));
    check("ES from the LDT", trap_vector, NO_TRAP);
    TRY("mov %w0, %%es", "r"(0x17));
    check_trap("GP beyond the LDT", 13, 0x14);
    __asm__ volatile("lldt %w0" ::"r"(0));
    p.base = 1ull << 63;
    TRY("lgdt (%0)", "r"(&p));
    check_trap("GP of LGDT of a non-canonical base", 13, 0);

    u32 zf = 0, out = 0;
    group("LAR LSL VERR");
    __asm__ volatile("lar %k2, %k0; setz %b1" : "=&r"(out), "+&r"(zf) : "r"(SEL_KCODE));
    check("LAR of code", (u64)zf << 32 | out, 1ull << 32 | 0xaf9b00);
    __asm__ volatile("lsl %k2, %k0; setz %b1" : "=&r"(out), "+&r"(zf) : "r"(SEL_KDATA));
    check("LSL of data", (u64)zf << 32 | out, 1ull << 32 | 0xffffffff);
    __asm__ volatile("lsl %k2, %k0; setz %b1" : "=&r"(out), "+&r"(zf) : "r"(SEL_TSS));
    check("LSL of the TSS", (u64)zf << 32 | out, 1ull << 32 | (sizeof(struct tss64) - 1));
    zf = 1;
    __asm__ volatile("mov $0x55, %k0; lar %k2, %k0; setz %b1" : "=&r"(out), "+&r"(zf) : "r"(0x7f8));
    check("LAR beyond the table", (u64)zf << 32 | out, 0x55);
    __asm__ volatile("verr %w1; setz %b0" : "+r"(zf) : "r"(SEL_KDATA));
    check("VERR of data", zf, 1);
    __asm__ volatile("verw %w1; setz %b0" : "+r"(zf) : "r"(SEL_KDATA));
    check("VERW of data", zf, 1);
    __asm__ volatile("verw %w1; setz %b0" : "+r"(zf) : "r"(SEL_KCODE));
    check("VERW of code", zf, 0);
    __asm__ volatile("verr %w1; setz %b0" : "+r"(zf) : "r"(SEL_TSS));
    check("VERR of the TSS", zf, 0);
    TRY_USER("xor %%eax, %%eax; verr %w0; setz %%al", "c"(SEL_KDATA));
    check("VERR of DPL 0 data at CPL 3", trap_rax, 0);
    TRY_USER("xor %%eax, %%eax; verr %w0; setz %%al", "c"(SEL_UDATA));
    check("VERR of DPL 3 data at CPL 3", trap_rax, 1);
}

static void msrs(void)
{
    group("MSR");
    TRY("rdmsr", "c"(0x12345678));
    check_trap("GP of RDMSR of an unknown one", 13, 0);
    TRY("wrmsr", "c"(0x12345678), "a"(0), "d"(0));
    check_trap("GP of WRMSR to an unknown one", 13, 0);
    TRY_USER("rdmsr", "c"(0xc0000080));
    check_trap("RDMSR at CPL 3", 13, 0);
    TRY("wrmsr", "c"(0xc0000082), "a"(0), "d"(0x80000000));
    check_trap("GP of a non-canonical LSTAR", 13, 0);
    TRY("wrmsr", "c"(0xc0000100), "a"(0), "d"(0x80000000));
    check_trap("GP of a non-canonical FS base", 13, 0);
    u64 efer = msr_read(0xc0000080);
    check("EFER", efer & 0xd01, 0xd01);
    TRY("wrmsr", "c"(0xc0000080), "a"((u32)efer & ~0x100), "d"(0));
    check_trap("GP of clearing LME while paging", 13, 0);
    TRY("wrmsr", "c"(0xc0000080), "a"((u32)efer | 2), "d"(0));
    check_trap("GP of a reserved EFER bit", 13, 0);
    TRY("wrmsr", "c"(0x277), "a"(2), "d"(0));
    check_trap("GP of PAT type 2", 13, 0);
    msr_write(0xc0000101, 0x123456789000);
    msr_write(0xc0000102, 0xffff800000001000);
    __asm__ volatile("swapgs");
    check("SWAPGS: GS base", msr_read(0xc0000101), 0xffff800000001000);
    check("SWAPGS: kernel GS base", msr_read(0xc0000102), 0x123456789000);
    TRY_USER("swapgs");
    check_trap("SWAPGS at CPL 3", 13, 0);
    static u64 cell = 0x1122334455667788;
    u64 value;
    msr_write(0xc0000100, (u64)&cell - 16);
    __asm__ volatile("mov %%fs:16, %0" : "=r"(value));
    check("FS base is used", value, cell);
    msr_write(0xc0000101, (u64)&cell - 8);
    __asm__ volatile("addq $1, %%gs:8; mov %%gs:(%1), %0" : "=r"(value) : "r"(8ull));
    check("GS base is used", value, 0x1122334455667789);
    __asm__ volatile("mov %w0, %%fs; mov %w0, %%gs" ::"r"(SEL_UDATA));
    check("loading a selector loads the base", msr_read(0xc0000100) | msr_read(0xc0000101), 0);
    __asm__ volatile("mov %w0, %%fs; mov %w0, %%gs" ::"r"(0));
    u32 a, c, d;
    u64 t0, t1;
    __asm__ volatile("rdtsc" : "=a"(a), "=d"(d));
    t0 = a | (u64)d << 32;
    msr_write(0xc0000103, 0x55aa);
    __asm__ volatile("rdtscp" : "=a"(a), "=d"(d), "=c"(c));
    t1 = a | (u64)d << 32;
    check("RDTSC goes forward", t1 > t0, 1);
    check("RDTSCP gives TSC_AUX", c, 0x55aa);
    WRITE_CR(4, READ_CR(4) | 4);
    TRY_USER("rdtsc");
    check_trap("RDTSC with CR4.TSD at CPL 3", 13, 0);
    TRY_USER("rdtscp");
    check_trap("RDTSCP with CR4.TSD at CPL 3", 13, 0);
    WRITE_CR(4, READ_CR(4) & ~4ull);
    msr_write(0x10, 0x1000000000000);
    __asm__ volatile("rdtsc" : "=a"(a), "=d"(d));
    check("WRMSR of the TSC", d >> 16, 1);
}

static void io(void)
{
    struct cpu *c = cpu_self();
    group("I/O");
    TRY_USER("in $0xf5, %%al");
    check_trap("IN at CPL 3", 13, 0);
    c->tss.io_bits[0xf5 / 8] &= (u8) ~(1 << (0xf5 % 8));
    TRY_USER("in $0xf5, %%al");
    check("IN allowed by the bitmap", trap_vector, 0x80);
    TRY_USER("in $0xf5, %%ax");
    check_trap("IN of two ports, one allowed", 13, 0);
    TRY_USER("in $0xf5, %%al; in $0xf6, %%al");
    check("IN of the next port", trap_vector, 13);
    TRY_USER_FLAGS(2 | 3 << 12, "in $0xf6, %%al");
    check("IN with IOPL 3", trap_vector, 0x80);
    c->tss.io_map = sizeof(struct tss64);
    TRY_USER("in $0xf5, %%al");
    check_trap("IN with the bitmap beyond the TSS", 13, 0);
    c->tss.io_map = __builtin_offsetof(struct tss64, io_bits);
    c->tss.io_bits[0xf5 / 8] = 0xff;
    /* Port 0xe9 takes text: a comment line, by all sizes of OUTS. */
    static const char line[] = "# REP OUTSB\n";
    u64 si = (u64)line, cx = sizeof line - 1;
    __asm__ volatile("rep outsb" : "+S"(si), "+c"(cx) : "d"(0xe9) : "memory");
    check("REP OUTSB: RCX", cx, 0);
    check("REP OUTSB: RSI", si, (u64)line + sizeof line - 1);
    static u8 in[8192];
    u64 di = (u64)in;
    cx = 5000;
    __asm__ volatile("rep insb" : "+D"(di), "+c"(cx) : "d"(0x5f0) : "memory");
    check("REP INSB: RCX", cx, 0);
    check("REP INSB: RDI", di, (u64)in + 5000);
    check("REP INSB: data", (u64)in[0] << 16 | in[4999] << 8 | in[5000], 0xffff00);
    di = (u64)in + 4 * 99;
    cx = 100;
    __asm__ volatile("std; rep insl; cld" : "+D"(di), "+c"(cx) : "d"(0x5f0) : "memory");
    check("REP INSL downwards: RDI", di, (u64)in - 4);
    TRY("insb", "D"(0x10000000000), "d"(0x5f0));
    check_trap("PF of INSB", 14, 2);
    TRY("outsb", "S"(0x10000000000), "d"(0xe8));
    check_trap("PF of OUTSB", 14, 0);
    di = (u64)in;
    cx = 0;
    __asm__ volatile("rep insb" : "+D"(di), "+c"(cx) : "d"(0x5f0) : "memory");
    check("REP INSB of none", di, (u64)in);
}

extern volatile u64 entry_rcx, entry_r11, entry_flags, entry_cs, entry_ss, entry_rsp;
volatile u64 entry_rcx, entry_r11, entry_flags, entry_cs, entry_ss, entry_rsp;
extern char syscall_entry[], sysenter_entry[];
__asm__("syscall_entry:\n"
        "mov %rcx, entry_rcx(%rip); mov %r11, entry_r11(%rip); mov %rsp, entry_rsp(%rip); mov %cs, %ecx; mov %rcx, entry_cs(%rip); mov %ss, %ecx\n"
        "mov %rcx, entry_ss(%rip); mov try_saved+32(%rip), %rsp; lea -256(%rsp), %rsp; pushf; pop entry_flags(%rip)\n"
        "mov entry_rcx(%rip), %rcx; mov entry_rsp(%rip), %rsp; sysretq\n"
        "sysenter_entry: mov %rsp, entry_rsp(%rip); mov %cs, %eax; mov %rax, entry_cs(%rip); mov %ss, %eax; mov %rax, entry_ss(%rip); pushf; pop "
        "entry_flags(%rip)\n"
        "sysexitq\n");

static void system_calls(void)
{
    group("SYSCALL");
    msr_write(0xc0000081, (u64)0x20 << 48 | (u64)SEL_KCODE << 32);
    msr_write(0xc0000082, (u64)syscall_entry);
    msr_write(0xc0000084, 0x40600);
    TRY_USER_FLAGS(2 | 0x200 | 0x1, "stc; syscall; pushf; pop %%rax");
    check("returns to CPL 3", trap_vector << 8 | (trap_cs & 0xff), 0x80 << 8 | SEL_UCODE);
    check("RCX is the next instruction", entry_rcx, trap_insn + 3);
    check("R11 is RFLAGS", entry_r11, 0x203);
    check("RFLAGS masked by SFMASK", entry_flags, 3);
    check("CS and SS", entry_cs << 16 | entry_ss, SEL_KCODE << 16 | SEL_KDATA);
    check("RSP is the caller's", entry_rsp, user_rsp);
    check("SYSRET restores RFLAGS", trap_rax & 0x201, 0x201);
    TRY("sysretq", "c"(1ull << 63));
    check("GP of SYSRET to a non-canonical RCX (Intel) or later", trap_vector, 13);
    TRY_USER("sysretq");
    check_trap("SYSRET at CPL 3", 13, 0);
    u64 efer = msr_read(0xc0000080);
    msr_write(0xc0000080, efer & ~1ull);
    TRY_USER("syscall");
    check_trap("UD of SYSCALL without SCE", 6, 0);
    TRY("sysretq");
    check_trap("UD of SYSRET without SCE", 6, 0);
    msr_write(0xc0000080, efer);

    u32 r[4];
    cpuid(0, 0, r);
    group("SYSENTER");
    msr_write(0x174, 0);
    if (r[1] == 0x68747541) { /* "Auth": AMD has it in legacy mode only */
        TRY_USER("sysenter");
        check_trap("UD in long mode (AMD)", 6, 0);
        return;
    }
    TRY_USER("sysenter");
    check_trap("GP without SYSENTER_CS", 13, 0);
    msr_write(0x174, SEL_KCODE);
    msr_write(0x175, cpu_self()->tss.rsp[0]);
    msr_write(0x176, (u64)sysenter_entry);
    msr_write(0x174, SEL_KCODE);
    TRY_USER_FLAGS(2 | 0x200, "mov %%rsp, %%rcx; lea 7f(%%rip), %%rdx; sysenter; 7: mov $0x1234, %%eax");
    check("CS and SS", entry_cs << 16 | entry_ss, SEL_KCODE << 16 | SEL_KDATA);
    check("RSP", entry_rsp, cpu_self()->tss.rsp[0]);
    check("IF is cleared", entry_flags & 0x200, 0);
    msr_write(0x174, 0);
}

static void returns(void)
{
    u64 value;
    group("IRET");
    /* NMI unblocking and so on is elsewhere: here the frame's checks. */
    TRY("push $0x10; push %%rsp; pushf; push $0x10; lea 9f(%%rip), %%rax; push %%rax; iretq");
    check("GP of IRET to a data segment", trap_vector << 8 | trap_error, 13 << 8 | 0x10);
    TRY("push $0x10; push %%rsp; pushf; push $8; push %0; iretq", "r"(1ull << 63));
    check("GP of IRET to a non-canonical RIP", trap_vector << 8 | trap_error, 13 << 8);
    TRY("push $0x13; push %%rsp; pushf; push $0x33; lea 9f(%%rip), %%rax; push %%rax; iretq");
    check("GP of IRET to a wrong SS", trap_vector << 8 | trap_error, 13 << 8 | 0x10);
    TRY("pushf; orl $0x4000, (%%rsp); popf; push $0x10; push %%rsp; push $2; push $8; lea 9f(%%rip), %%rax; push %%rax; iretq");
    check("GP of IRET with NT", trap_vector << 8 | trap_error, 13 << 8);
    __asm__ volatile("push $2; popf");
    __asm__ volatile("mov %%rsp, %%rcx; push $0x10; push %%rcx; push $0xcd7; push $8; lea 1f(%%rip), %%rax; push %%rax; iretq; ud2; 1: pushf; pop %0; cld"
                     : "=r"(value)::"rax", "rcx", "memory", "cc");
    check("IRETQ sets the flags", value, 0xcd7);
    __asm__ volatile("mov %%rsp, %%rcx; push $0; push %%rcx; pushf; push $8; lea 1f(%%rip), %%rax; push %%rax; iretq; ud2; 1: mov %%ss, %k0; mov %k1, %%ss"
                     : "=&r"(value)
                     : "r"(SEL_KDATA)
                     : "rax", "rcx", "memory", "cc");
    check("IRETQ to a null SS", value & 0xffff, 0);
    __asm__ volatile("push $8; lea 1f(%%rip), %%rax; push %%rax; mov %%rsp, %%rcx; lretq $0; ud2; 1: mov %%rsp, %0; sub %%rcx, %0"
                     : "=r"(value)::"rax", "rcx", "memory");
    check("RETF pops two", value, 16);
    static struct {
        u64 offset;
        u16 sel;
    } __attribute__((packed)) far = { 0, SEL_KCODE };
    __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %1; rex.W ljmp *%1; ud2; 1: mov $1, %k0" : "=r"(value) : "m"(far) : "rax", "memory");
    check("far JMP m16:64", value, 1);
    __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %1; rex.W lcall *%1; ud2; 1: pop %%rax; pop %0" : "=r"(value) : "m"(far) : "rax", "memory");
    check("far CALL m16:64 pushes CS", value & 0xffff, SEL_KCODE);
}

static void interrupts(void)
{
    struct cpu *c = cpu_self();
    volatile u32 *apic = (void *)0xfee00000;
    group("interrupt");
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    apic[0xf0 / 4] = 0x1ff;
    apic[0x350 / 4] = 0x10000;
    apic[0x300 / 4] = 0x40000 | 0x41; /* self */
    check("none with IF clear", c->ticks[0x41], 0);
    __asm__ volatile("sti; nop; nop; cli");
    check("taken after STI and one more", c->ticks[0x41], 1);
    apic[0xb0 / 4] = 0;
    apic[0x300 / 4] = 0x40000 | 0x41;
    __asm__ volatile("sti; cli");
    check("the shadow of STI covers CLI", c->ticks[0x41], 1);
    __asm__ volatile("sti; hlt; cli");
    check("STI; HLT wakes", c->ticks[0x41], 2);
    apic[0xb0 / 4] = 0;
    WRITE_CR(8, 5);
    apic[0x300 / 4] = 0x40000 | 0x41;
    __asm__ volatile("sti; nop; nop; nop; cli");
    check("CR8 holds back", c->ticks[0x41], 2);
    __asm__ volatile("sti; nop; mov %0, %%cr8; nop; nop; cli" ::"r"(0ull));
    check("and lets go", c->ticks[0x41], 3);
    apic[0xb0 / 4] = 0;
    apic[0x320 / 4] = 0x42;
    apic[0x3e0 / 4] = 0xb;
    apic[0x380 / 4] = 1000;
    __asm__ volatile("sti; hlt; cli");
    check("the timer wakes HLT", c->ticks[0x42], 1);
    apic[0xb0 / 4] = 0;
    /* A loop without calls or slow instructions must be interruptible. */
    apic[0x380 / 4] = 200000;
    __asm__ volatile("sti; 1: cmpq $1, %0; je 1b; cli" ::"m"(c->ticks[0x42]) : "memory", "cc");
    check("the timer interrupts a tight loop", c->ticks[0x42], 2);
    apic[0xb0 / 4] = 0;
    apic[0x300 / 4] = 0x40000 | 0x43;
    idt[0x43].ist = 2;
    __asm__ volatile("pushf; orl $0x200, (%%rsp); popf; nop; cli" ::: "cc", "memory");
    check("POPF opens without a shadow", c->ticks[0x43], 1);
    idt[0x43].ist = 0;
    apic[0xb0 / 4] = 0;
}

void test_privileged(void)
{
    control_registers();
    tables();
    msrs();
    io();
    system_calls();
    returns();
    interrupts();
}
