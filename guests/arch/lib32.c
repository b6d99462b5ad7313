/* SPDX-License-Identifier: MIT */
/*
 * Descriptor tables and traps of the guest "prot", and the order of its groups; see arch32.h.
 */
#include "arch32.h"

u64 gdt[16] __attribute__((aligned(16))), idt[256] __attribute__((aligned(16)));
struct tss32 tss, task;
volatile u32 trap_fixup, trap_insn, trap_vector, trap_error, trap_eip, trap_eax, trap_cs, trap_flags, trap_ss, try_saved[8], user_flags, user_esp;
struct frame32 last_frame;
void trap32(struct frame32 *f);
void main32(void);

static u8 user_stack[8192] __attribute__((aligned(4096)));
static u8 pool[32][4096] __attribute__((aligned(4096)));
static unsigned n_pool;

void *page_alloc(void)
{
    u8 *p = pool[n_pool++ % 32];
    for (unsigned i = 0; i < 4096; i++)
        p[i] = 0;
    return p;
}

void pages_reset(void)
{
    n_pool = 0;
}

u64 segment(u32 base, u32 limit, u32 access, u32 flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

u64 gate32(u32 selector, u32 offset, u32 type, u32 count)
{
    return (offset & 0xffff) | (u64)selector << 16 | (u64)count << 32 | (u64)type << 40 | (u64)(offset >> 16) << 48;
}

void trap32(struct frame32 *f)
{
    if (!trap_fixup) {
        group("trap");
        say("# eip ");
        say_hex(f->eip);
        say(" error ");
        say_hex(f->error);
        say(" cs ");
        say_hex(f->cs);
        say("\n");
        check("unexpected vector", f->vector, NO_TRAP);
        guest_end();
    }
    last_frame = *f;
    trap_vector = f->vector;
    trap_error = f->error;
    trap_eip = f->eip;
    trap_eax = f->eax;
    trap_cs = f->cs;
    trap_flags = f->eflags;
    trap_ss = f->ss;
    u32 to = trap_fixup;
    __asm__ volatile("mov %0, %%esp; push $2; popf; mov %2, %%fs; mov %2, %%gs; jmp *%1" ::"r"(try_saved[4]), "r"(to), "r"(SEL_KDATA));
    __builtin_unreachable();
}

void check_trap(const char *name, u32 vector, u32 error)
{
    if (trap_vector != vector)
        check(name, trap_vector, vector);
    else if (trap_error != error)
        check(name, trap_error | 0xe0000000, error | 0xe0000000);
    else
        check(name, trap_eip, trap_insn);
}

static void set_up(void)
{
    gdt[1] = segment(0, 0xfffff, 0x9b, 0xc);
    gdt[2] = segment(0, 0xfffff, 0x93, 0xc);
    gdt[3] = segment(0, 0xfffff, 0xfb, 0xc);
    gdt[4] = segment(0, 0xfffff, 0xf3, 0xc);
    gdt[5] = segment((u32)&tss, sizeof tss - 1, 0x89, 0);
    gdt[6] = segment((u32)&task, sizeof task - 1, 0x89, 0);
    gdt[12] = segment(0, 0xffff, 0x9b, 0);
    gdt[13] = segment(0, 0xffff, 0x93, 0);
    gdt[14] = segment(0, 0xfffff, 0x9b, 0xa);
    for (unsigned i = 0; i < 256; i++)
        idt[i] = gate32(SEL_KCODE, (u32)trap_stubs32 + 16 * i, i == 3 || i == 4 || i == 0x80 ? 0xee : 0x8e, 0);
    tss.esp0 = (u32)kernel_stack_top;
    tss.ss0 = SEL_KDATA;
    tss.io_map = __builtin_offsetof(struct tss32, io_bits);
    for (unsigned i = 0; i < sizeof tss.io_bits; i++)
        tss.io_bits[i] = 0xff;
    user_esp = (u32)user_stack + sizeof user_stack - 64;
    struct table_pointer32 g = { sizeof gdt - 1, (u32)gdt }, i = { sizeof idt - 1, (u32)idt };
    __asm__ volatile("lgdt %0; lidt %1; ltr %w2; ljmp $0x08, $1f; 1: mov %w3, %%ds; mov %w3, %%es; mov %w3, %%ss; mov %w3, %%fs; mov %w3, %%gs" ::"m"(g),
                     "m"(i), "r"(SEL_TSS), "r"(SEL_KDATA)
                     : "memory");
    for (char *p = real_start, *to = (char *)REAL_AT; p < real_end; p++)
        *to++ = *p;
    for (char *p = v86_start, *to = (char *)V86_AT; p < v86_end; p++)
        *to++ = *p;
}

void main32(void)
{
    set_up();
    test_segments();
    test_gates();
    test_tasks();
    test_v86();
    test_real();
    test_paging32();
    test_la57();
}
