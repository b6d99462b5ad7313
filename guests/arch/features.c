/* SPDX-License-Identifier: MIT */
/*
 * Features by their CPUID bits: FSGSBASE, UMIP, RDRAND, RDPID, CPUID's own rules, compatibility mode (SDM vol. 2 and 3A).
 */
#include "tests64.h"

static void fsgsbase(void)
{
    u64 value, cr4 = READ_CR(4);
    group("FSGSBASE");
    if (!has_cpuid(7, 1, 0)) {
        skip("all", "not there");
        return;
    }
    TRY("rdfsbase %%rax");
    check_trap("UD without CR4.FSGSBASE", 6, 0);
    WRITE_CR(4, cr4 | 1 << 16);
    __asm__ volatile("wrfsbase %1; rdfsbase %0" : "=r"(value) : "r"(0x123456789abcull));
    check("WRFSBASE", value, 0x123456789abc);
    check("is the MSR", msr_read(0xc0000100), 0x123456789abc);
    __asm__ volatile("wrgsbase %k1; rdgsbase %0" : "=r"(value) : "r"(0xffffffff89abcdefull));
    check("WRGSBASE r32 zero-extends", value, 0x89abcdef);
    TRY("wrgsbase %0", "r"(1ull << 63));
    check_trap("GP of a non-canonical base", 13, 0);
    TRY_USER("mov $0x5000, %%eax; wrfsbase %%rax; xor %%eax, %%eax; rdfsbase %%rax");
    check("at CPL 3", trap_rax, 0x5000);
    WRITE_CR(4, cr4);
    msr_write(0xc0000100, 0);
    msr_write(0xc0000101, 0);
}

static void umip(void)
{
    u64 cr4 = READ_CR(4);
    group("UMIP");
    TRY_USER("smsw %%eax");
    check("off: SMSW at CPL 3", trap_vector, 0x80);
    TRY_USER("sldt %%eax; str %%eax; sgdt -64(%%rsp); sidt -64(%%rsp)");
    check("off: the others", trap_vector, 0x80);
    if (!has_cpuid(7, 2, 2)) {
        skip("on", "not there");
        return;
    }
    WRITE_CR(4, cr4 | 1 << 11);
    TRY_USER("smsw %%eax");
    check_trap("SMSW", 13, 0);
    TRY_USER("sldt %%eax");
    check_trap("SLDT", 13, 0);
    TRY_USER("str %%eax");
    check_trap("STR", 13, 0);
    TRY_USER("sgdt -64(%%rsp)");
    check_trap("SGDT", 13, 0);
    TRY_USER("sidt -64(%%rsp)");
    check_trap("SIDT", 13, 0);
    TRY("smsw %%eax");
    check("SMSW at CPL 0", trap_vector, NO_TRAP);
    WRITE_CR(4, cr4);
}

static void misc(void)
{
    u64 value;
    u8 ok = 0;
    u32 r[4], s[4];
    group("feature");
    if (has_cpuid(1, 2, 30)) {
        for (int i = 0; i < 100 && !ok; i++)
            __asm__ volatile("rdrand %0; setc %1" : "=r"(value), "=q"(ok)::"cc");
        check("RDRAND", ok, 1);
    } else {
        TRY("rdrand %%rax");
        check_trap("UD of RDRAND", 6, 0);
    }
    ok = 0;
    if (has_cpuid(7, 1, 18)) {
        for (int i = 0; i < 10000 && !ok; i++)
            __asm__ volatile("rdseed %0; setc %1" : "=r"(value), "=q"(ok)::"cc");
        check("RDSEED", ok, 1);
    }
    if (has_cpuid(7, 2, 22)) {
        msr_write(0xc0000103, 0x77);
        __asm__ volatile("rdpid %0" : "=r"(value));
        check("RDPID", value, 0x77);
    }
    TRY(".byte 0x0f, 0x01, 0xc1, 0x0f, 0x01, 0xc8"); /* VMCALL, MONITOR */
    check("MONITOR or VMCALL without their bits: UD", trap_vector == 6 || has_cpuid(1, 2, 3), 1);
    TRY(".byte 0x0f, 0x78, 0xc0"); /* VMREAD */
    check_trap("UD of VMREAD", 6, 0);
    TRY("mov %0, %%cr4", "r"(READ_CR(4) | 1 << 13));
    check_trap("GP of CR4.VMXE", 13, 0);
    cpuid(0, 0, r);
    cpuid(1, 0, s);
    check("CPUID.1 APIC, PAE, FXSR, SSE2", s[3] & 0x5000240, 0x5000240);
    check("CPUID.1 hypervisor bit", s[2] >> 31, 1);
    __asm__ volatile("mov $-1, %%rax; xor %%ecx, %%ecx; mov $1, %%eax; cpuid; mov %%rbx, %0" : "=r"(value)::"rax", "rbx", "rcx", "rdx");
    check("CPUID zero-extends", value >> 32, 0);
    __asm__ volatile("pushf; btcl $21, (%%rsp); popf; pushf; pop %0" : "=r"(value)::"cc", "memory");
    check("EFLAGS.ID toggles", value >> 21 & 1, 1);
    __asm__ volatile("push $2; popf");
    __asm__ volatile("mov $0x1234567890abcdef, %%rax; mov $0x55, %%ecx; bswap %%ecx; movzwl %%ax, %%eax; mov %%rax, %0" : "=r"(value)::"rax", "rcx");
    check("32-bit results zero-extend", value, 0xcdef);
}

/* 32-bit code in a 64-bit segment's neighbour: runs at CPL 3 with paging on, and comes back by INT 0x80. */
extern u8 compat_code[], compat_far[], compat_return[];
__asm__(".code32\ncompat_code: mov $0xfffffff0, %eax; add $0x20, %eax; inc %eax; .byte 0x27; push %ebx; pop %ecx; add %ecx, %eax; int $0x80\n"
        "compat_far: mov %cs, %eax; lret\n"
        ".code64\n");

static void compatibility(void)
{
    group("compatibility mode");
    pml4[0] |= PTE_U; /* the low mapping is open to CPL 3 for this test */
    pdpt_low[0] |= PTE_U;
    u64 *pd = (u64 *)(pdpt_low[0] & ~0xfffull);
    for (unsigned i = 0; i < 8; i++)
        pd[i] |= PTE_U;
    WRITE_CR(4, READ_CR(4) & ~0x80ull);
    WRITE_CR(4, READ_CR(4) | 0x80);
    trap_vector = NO_TRAP;
    __asm__ volatile(TRY_SAVE "push $0x2b; push %0; push $2; push $0x23; push %1; mov $0x100, %%ebx; iretq" TRY_RESTORE ::"r"((u64)user_stack + 4096),
                     "r"((u64)compat_code)
                     : "r15", "memory", "cc");
    /* 0xfffffff0 + 0x20 carries, + 1 = 0x11, DAA adds 0x60 for the carry */
    check("32-bit code at CPL 3", trap_vector << 32 | trap_rax, 0x80ull << 32 | 0x171);
    check("CS", trap_cs, SEL_UCODE32);
    static struct {
        u32 offset;
        u16 sel;
    } __attribute__((packed)) far;
    far.offset = (u32)(u64)compat_far;
    far.sel = SEL_KCODE32;
    u64 a;
    __asm__ volatile("lcall *%1" : "=a"(a) : "m"(far) : "memory");
    check("far CALL to 32-bit code and back", a & 0xffff, SEL_KCODE32);
    msr_write(0xc0000081, (u64)0x20 << 48 | (u64)SEL_KCODE << 32);
    /* SYSRET to 32-bit code. */
    trap_vector = NO_TRAP;
    __asm__ volatile(TRY_SAVE "mov $0x100, %%ebx; mov %0, %%rsp; mov $2, %%r11d; sysretl" TRY_RESTORE ::"r"((u64)user_stack + 4096), "c"((u64)compat_code)
                     : "r15", "r11", "memory", "cc");
    check("SYSRET to 32-bit code", trap_vector << 32 | trap_cs, 0x80ull << 32 | SEL_UCODE32);
    for (unsigned i = 0; i < 8; i++)
        pd[i] &= ~PTE_U;
    pdpt_low[0] &= ~PTE_U;
    pml4[0] &= ~PTE_U;
    WRITE_CR(3, READ_CR(3));
    WRITE_CR(4, READ_CR(4) & ~0x80ull);
    WRITE_CR(4, READ_CR(4) | 0x80);
}

void test_features(void)
{
    fsgsbase();
    umip();
    misc();
    compatibility();
}
