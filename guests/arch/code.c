/* SPDX-License-Identifier: MIT */
/*
 * Code that is written: by itself, through aliases, by string instructions, by the host while the vCPU is outside; and mappings of code that change.
 */
#include "tests64.h"

#define BASE 0x28000000000ull

static u8 page[3][4096] __attribute__((aligned(4096)));

/* mov $value, %eax; ret */
static void put(void *at, u32 value)
{
    u8 *p = at;
    p[0] = 0xb8;
    p[1] = (u8)value;
    p[2] = (u8)(value >> 8);
    p[3] = (u8)(value >> 16);
    p[4] = (u8)(value >> 24);
    p[5] = 0xc3;
    __asm__ volatile("" ::: "memory");
}

static u64 call(u64 at)
{
    u64 value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(at) : "memory");
    return value;
}

static void self(void)
{
    u64 a;
    group("self-modifying code");
    put(page[0], 1);
    check("first", call((u64)page[0]), 1);
    for (u32 i = 2; i < 6; i++) {
        put(page[0], i);
        if (call((u64)page[0]) != i)
            check("again", i - 1, i);
    }
    check("last", call((u64)page[0]), 5);
    /* The next instruction, in the same block. */
    __asm__ volatile("movb $7, 1f+1(%%rip)\n1: mov $5, %%eax" : "=a"(a)::"memory");
    check("the next instruction", a, 7);
    __asm__ volatile("xor %%eax, %%eax; mov $10, %%ecx\n2: addl $3, 1f+1(%%rip)\n1: .byte 0x05, 0, 0, 0, 0\n dec %%ecx; jnz 2b\n movl $0, 1b+1(%%rip)"
                     : "=a"(a)::"rcx", "memory", "cc");
    check("in a loop", a, 3 * 55);
    /* The instruction that writes itself away. */
    __asm__ volatile("lea 1f(%%rip), %%rdi; mov $0x90, %%al; mov $8, %%ecx; xor %%edx, %%edx\n1: rep stosb\n .fill 6, 1, 0x90\n mov $3, %%edx"
                     : "=d"(a)::"rax", "rcx", "rdi", "memory");
    check("REP STOSB over itself", a, 3);
    /* LOCK, XCHG, a vector store, PUSH, as writers. */
    put(page[0], 0x10);
    call((u64)page[0]);
    __asm__ volatile("lock addl $1, 1(%0)" ::"r"(page[0]) : "memory", "cc");
    check("by LOCK ADD", call((u64)page[0]), 0x11);
    u32 v = 0x22;
    __asm__ volatile("xchg %0, 1(%1)" : "+r"(v) : "r"(page[0]) : "memory");
    check("by XCHG", call((u64)page[0]), 0x22);
    put(page[1], 0x33);
    __asm__ volatile("movups (%0), %%xmm0; movups %%xmm0, (%1)" ::"r"(page[1]), "r"(page[0]) : "memory");
    check("by MOVUPS", call((u64)page[0]), 0x33);
    put(page[1], 0x44);
    __asm__ volatile("mov %%rsp, %%rcx; lea 8(%1), %%rsp; push (%0); mov %%rcx, %%rsp" ::"r"(page[1]), "r"(page[0]) : "rcx", "memory");
    check("by PUSH", call((u64)page[0]), 0x44);
    put(page[1], 0x55);
    u64 si = (u64)page[1], di = (u64)page[0], cx = 8;
    __asm__ volatile("rep movsb" : "+S"(si), "+D"(di), "+c"(cx)::"memory");
    check("by REP MOVSB", call((u64)page[0]), 0x55);
    __asm__ volatile("fninit; fildl %0; fistpl %1" ::"m"(v), "m"(*(u32 *)(page[0] + 1)) : "memory");
    check("by FISTP", call((u64)page[0]), v);
    put(page[0] + 4093, 0x66);
    check("across pages", call((u64)page[0] + 4093), 0x66);
    page[1][0] = 0x77;
    check("the second page's part", call((u64)page[0] + 4093), 0x66 | 0 << 8 | 0x77 << 16);
}

static void aliases(void)
{
    group("code alias");
    page_map(BASE, (u64)page[0] | PTE_P | PTE_W);
    page_map(BASE + 4096, (u64)page[0] | PTE_P | PTE_W);
    put(page[0], 1);
    check("through a second mapping", call(BASE), 1);
    put((void *)(BASE + 4096), 2);
    check("written through a third", call(BASE), 2);
    check("and run through the first", call((u64)page[0]), 2);
    put((void *)((u64)page[0]), 3);
    check("run through the third", call(BASE + 4096), 3);
    put(page[1], 0x11);
    page_map(BASE, (u64)page[1] | PTE_P | PTE_W);
    check("remapped", call(BASE), 0x11);
    page_map(BASE, (u64)page[0] | PTE_P | PTE_W);
    check("and back", call(BASE), 3);
    *page_entry(BASE, 1) = (u64)page[1] | PTE_P | PTE_W;
    WRITE_CR(3, READ_CR(3));
    check("remapped, MOV CR3", call(BASE), 0x11);
    page_map(BASE, 0);
    TRY("call *%0", "r"(BASE));
    check("unmapped", trap_vector << 8 | trap_error, 14 << 8 | (trap_error & 0x10));
    page_map(BASE, (u64)page[0] | PTE_P | PTE_NX);
    TRY("call *%0", "r"(BASE));
    check("made NX", trap_vector << 8 | trap_error, 14 << 8 | 0x11);
    page_map(BASE, (u64)page[0] | PTE_P);
    check("made executable", call(BASE), 3);
    page_map(BASE, (u64)page[0] | PTE_P | PTE_W);
    page_map(BASE + 4096, (u64)page[1] | PTE_P | PTE_W);
    put((void *)(BASE + 4094), 0x01020304);
    check("across two mappings", call(BASE + 4094), 0x01020304);
    put(page[2], 0);
    page[2][0] = 9;
    page[2][3] = 0xc3;
    for (unsigned i = 0; i < 16; i++)
        page[2][i] = page[1][i];
    page[2][1] = 0x99;
    page_map(BASE + 4096, (u64)page[2] | PTE_P | PTE_W);
    check("the second half remapped", call(BASE + 4094), 0x01990304);
}

static void host_put(void *to, u32 value)
{
    static struct {
        u32 to, bytes;
        u8 data[8];
    } w;
    w.to = (u32)(u64)to;
    w.bytes = 6;
    put(w.data, value);
    out32(0xf5, (u32)(u64)&w);
}

static void by_host(void)
{
    group("code written by the host");
    if (in8(0xf5) != 0x56) {
        skip("all", "not this host");
        return;
    }
    put(page[0], 1);
    call((u64)page[0]);
    host_put(page[0], 2);
    page_flush((u64)page[0]);
    check("seen after INVLPG", call((u64)page[0]), 2);
    for (u32 i = 3; i < 8; i++) {
        host_put(page[0], i);
        WRITE_CR(3, READ_CR(3));
        if (call((u64)page[0]) != i)
            check("seen each time", i - 1, i);
    }
    page_map(BASE, (u64)page[0] | PTE_P | PTE_W);
    check("through a mapping", call(BASE), 7);
    host_put(page[0], 0x21);
    page_flush(BASE);
    check("through it after INVLPG", call(BASE), 0x21);
    host_put(page[0], 0x22);
    WRITE_CR(3, READ_CR(3));
    check("through it after MOV CR3", call(BASE), 0x22);
    /* The very next instruction after the OUT. */
    u64 a;
    static struct {
        u32 to, bytes;
        u8 data[8];
    } w = { 0, 5, { 0xb8, 0x42, 0, 0, 0 } };
    __asm__ volatile("lea 1f(%%rip), %%rcx; mov %%ecx, %1; mov %2, %%eax; outl %%eax, $0xf5\n1: mov $0x41, %%eax"
                     : "=&a"(a), "=m"(w.to)
                     : "r"((u32)(u64)&w)
                     : "rcx", "memory");
    check("the instruction after the OUT", a, 0x42);
}

void test_code(void)
{
    self();
    aliases();
    by_host();
}
