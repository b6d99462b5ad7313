/* SPDX-License-Identifier: MIT */
/*
 * x87, SSE and AVX state as the operating system sees it: #MF, #XM, CR0 and CR4 bits, the XSAVE family.
 */
#include "tests64.h"

static u8 area[4096] __attribute__((aligned(64)));

static void x87(void)
{
    u16 cw = 0x37b, sw; /* zero divide unmasked */
    group("x87");
    __asm__ volatile("fninit");
    TRY("fldcw %0; fld1; fldz; fdivrp; nop; lea 7f(%%rip), %%r15; mov %%r15, trap_insn(%%rip); 7: fwait", "m"(cw));
    check_trap("MF waits for the next x87 instruction", 16, 0);
    __asm__ volatile("fnstsw %0" : "=a"(sw));
    check("FNSTSW shows it without a trap", sw & 0x80, 0x80);
    TRY("fld1");
    check_trap("MF of FLD1", 16, 0);
    TRY("fnstcw %0", "m"(cw));
    check("none of FNSTCW", trap_vector, NO_TRAP);
    TRY("movq %%mm0, %%mm1");
    check_trap("MF of MMX", 16, 0);
    TRY_USER("fwait");
    check_trap("MF at CPL 3", 16, 0);
    __asm__ volatile("fnclex; fninit");
    double pi;
    __asm__ volatile("fldpi; fstpl %0" : "=m"(pi));
    check("FLDPI", *(u64 *)&pi, 0x400921fb54442d18);
    WRITE_CR(0, READ_CR(0) | 8);
    TRY("fwait");
    check_trap("NM of FWAIT with MP and TS", 7, 0);
    TRY("fninit");
    check_trap("NM of FNINIT with TS", 7, 0);
    TRY("movups %%xmm0, %%xmm1");
    check_trap("NM of SSE with TS", 7, 0);
    WRITE_CR(0, READ_CR(0) & ~2ull);
    TRY("fwait");
    check("no NM of FWAIT without MP", trap_vector, NO_TRAP);
    WRITE_CR(0, (READ_CR(0) & ~8ull) | 2 | 4);
    TRY("fninit");
    check_trap("NM of x87 with EM", 7, 0);
    TRY("movups %%xmm0, %%xmm1");
    check_trap("UD of SSE with EM", 6, 0);
    WRITE_CR(0, READ_CR(0) & ~4ull);
}

static void sse(void)
{
    u32 csr = 0x1f80 & ~0x200, old;
    group("SSE");
    __asm__ volatile("stmxcsr %0" : "=m"(old));
    TRY("ldmxcsr %0; pxor %%xmm0, %%xmm0; mov $0x3ff00000, %%eax; movd %%eax, %%xmm1; psllq $32, %%xmm1; lea 7f(%%rip), %%r15; mov %%r15, trap_insn(%%rip); 7: "
        "divsd %%xmm0, %%xmm1",
        "m"(csr));
    check_trap("XM of a division by zero", 19, 0);
    WRITE_CR(4, READ_CR(4) & ~0x400ull);
    TRY("divsd %%xmm0, %%xmm1");
    check_trap("UD of it without OSXMMEXCPT", 6, 0);
    WRITE_CR(4, READ_CR(4) | 0x400);
    __asm__ volatile("ldmxcsr %0" ::"m"(old));
    csr = 0x10000;
    TRY("ldmxcsr %0", "m"(csr));
    check_trap("GP of a reserved MXCSR bit", 13, 0);
    TRY("movaps %%xmm0, 8(%0)", "r"(area));
    check_trap("GP of a misaligned MOVAPS", 13, 0);
    WRITE_CR(4, READ_CR(4) & ~0x200ull);
    TRY("movups %%xmm0, %%xmm1");
    check_trap("UD of SSE without OSFXSR", 6, 0);
    TRY("movq %%mm0, %%mm1");
    check("MMX works without OSFXSR", trap_vector, NO_TRAP);
    WRITE_CR(4, READ_CR(4) | 0x200);
    __asm__ volatile("fninit");
    u64 x[2] = { 0x1111111122222222, 0x3333333344444444 }, y[2];
    __asm__ volatile("movups %1, %%xmm5; int $0x91; movups %%xmm5, %0" : "=m"(y) : "m"(x));
    check("XMM lives across an interrupt", y[0] ^ x[0] ^ y[1] ^ x[1], 0);
    __asm__ volatile("fxsave64 %0; pxor %%xmm5, %%xmm5; fxrstor64 %0; movups %%xmm5, %1" : "+m"(area), "=m"(y));
    check("FXSAVE and FXRSTOR", y[0] == x[0] && y[1] == x[1], 1);
    check("FXSAVE: XMM5", *(u64 *)(area + 160 + 80), x[0]);
    TRY("fxsave 8(%0)", "r"(area));
    check_trap("GP of a misaligned FXSAVE", 13, 0);
}

static u64 xcr0_read(void)
{
    u32 a, d;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a | (u64)d << 32;
}

static void xsave(void)
{
    u32 r[4];
    group("XSAVE");
    if (!has_cpuid(1, 2, 26)) {
        skip("all", "no XSAVE");
        return;
    }
    TRY("xgetbv", "c"(0));
    check_trap("UD without OSXSAVE", 6, 0);
    check("CPUID.OSXSAVE is clear", has_cpuid(1, 2, 27), 0);
    WRITE_CR(4, READ_CR(4) | 1 << 18);
    check("CPUID.OSXSAVE is set", has_cpuid(1, 2, 27), 1);
    check("XCR0 at start", xcr0_read(), 1);
    TRY("xsetbv", "a"(0), "d"(0), "c"(0));
    check_trap("GP of XCR0 without x87", 13, 0);
    TRY("xsetbv", "a"(5), "d"(0), "c"(0));
    check_trap("GP of AVX without SSE", 13, 0);
    TRY("xsetbv", "a"(1), "d"(0x40000000), "c"(0));
    check_trap("GP of a reserved bit", 13, 0);
    TRY("xsetbv", "a"(1), "d"(0), "c"(1));
    check_trap("GP of XCR1", 13, 0);
    TRY_USER("xsetbv", "a"(1), "d"(0), "c"(0));
    check_trap("XSETBV at CPL 3", 13, 0);
    TRY("vpxor %%ymm0, %%ymm0, %%ymm0");
    check_trap("UD of AVX without XCR0.AVX", 6, 0);
    cpuid(0xd, 0, r);
    if (!(r[0] & 4)) {
        skip("AVX", "no AVX");
        return;
    }
    __asm__ volatile("xsetbv" ::"a"(7), "d"(0), "c"(0));
    check("XSETBV", xcr0_read(), 7);
    cpuid(0xd, 0, r);
    check("CPUID 0xd EBX: size of what is enabled", r[1], 576 + 256);
    u64 x[4] = { 1, 2, 3, 4 }, y[4] = { 0 };
    for (unsigned i = 0; i < sizeof area; i++)
        area[i] = 0;
    __asm__ volatile("vmovups %0, %%ymm6; int $0x92" ::"m"(x));
    __asm__ volatile("xsave64 %0" : "+m"(area) : "a"(7), "d"(0));
    check("XSTATE_BV", *(u64 *)(area + 512) & 6, 6);
    check("YMM6 high half in the area", *(u64 *)(area + 576 + 96 + 8), 4);
    __asm__ volatile("vpxor %%xmm6, %%xmm6, %%xmm6; xrstor64 %1; vmovups %%ymm6, %0" : "=m"(y) : "m"(area), "a"(7), "d"(0));
    check("XRSTOR", y[0] << 24 | y[1] << 16 | y[2] << 8 | y[3], 0x01020304);
    *(u64 *)(area + 512) &= ~4ull;
    __asm__ volatile("xrstor64 %1; vmovups %%ymm6, %0" : "=m"(y) : "m"(area), "a"(7), "d"(0));
    check("XRSTOR of the initial state", y[0] << 24 | y[1] << 16 | y[2] << 8 | y[3], 0x01020000);
    *(u64 *)(area + 512) |= 1ull << 62;
    TRY("xrstor (%0)", "r"(area), "a"(7), "d"(0));
    check_trap("GP of a reserved XSTATE_BV bit", 13, 0);
    *(u64 *)(area + 512) = 7;
    *(u64 *)(area + 528) = 1;
    TRY("xrstor (%0)", "r"(area), "a"(7), "d"(0));
    check_trap("GP of a header that is not zero", 13, 0);
    *(u64 *)(area + 528) = 0;
    TRY("xsave 32(%0)", "r"(area), "a"(7), "d"(0));
    check_trap("GP of a misaligned XSAVE", 13, 0);
    cpuid(0xd, 1, r);
    if (r[0] & 1) {
        *(u64 *)(area + 512) = 0;
        __asm__ volatile("vzeroall; xsaveopt %0" : "+m"(area) : "a"(4), "d"(0));
        check("XSAVEOPT of the initial state", *(u64 *)(area + 512) & 4, 0);
    }
    if (r[0] & 2) {
        __asm__ volatile("vmovups %1, %%ymm6; xsavec %0" : "+m"(area) : "m"(x), "a"(6), "d"(0));
        check("XSAVEC: XCOMP_BV", *(u64 *)(area + 520), 1ull << 63 | 6);
        __asm__ volatile("vpxor %%xmm6, %%xmm6, %%xmm6; xrstor %1; vmovups %%ymm6, %0" : "=m"(y) : "m"(area), "a"(6), "d"(0));
        check("XRSTOR of the compacted form", y[0] << 24 | y[1] << 16 | y[2] << 8 | y[3], 0x01020304);
    }
    WRITE_CR(0, READ_CR(0) | 8);
    TRY("xsave (%0)", "r"(area), "a"(7), "d"(0));
    check_trap("NM of XSAVE with TS", 7, 0);
    TRY("vpxor %%xmm0, %%xmm0, %%xmm0");
    check_trap("NM of AVX with TS", 7, 0);
    __asm__ volatile("clts");
    TRY("xsave (%0)", "r"(0x10000000000), "a"(7), "d"(0));
    check_trap("PF of XSAVE", 14, 2);
}

void test_fpu(void)
{
    x87();
    sse();
    xsave();
}
