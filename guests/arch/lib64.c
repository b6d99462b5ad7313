/* SPDX-License-Identifier: MIT */
/*
 * Descriptor tables, traps and page tables of the 64-bit guests; see arch64.h.
 */
#include "arch64.h"

volatile u64 trap_fixup, trap_insn, trap_vector, trap_error, trap_rip, trap_cr2, trap_flags, trap_rax, trap_cs, trap_frame_rsp, trap_count;
volatile u64 user_flags, user_rsp, try_saved[8];
bool (*trap_hook)(struct frame *f);
struct gate64 idt[256] __attribute__((aligned(16)));
u8 user_stack[8192] __attribute__((aligned(4096)));
void trap(struct frame *f);

static u8 pool[256][4096] __attribute__((aligned(4096)));
static unsigned n_pool;

void gate_set(unsigned vector, void *to, u8 type, u8 ist)
{
    u64 at = (u64)to;
    idt[vector] = (struct gate64){ (u16)at, SEL_KCODE, ist, type, (u16)(at >> 16), (u32)(at >> 32), 0 };
}

static void idt_set_up(void)
{
    for (unsigned i = 0; i < 256; i++)
        gate_set(i, trap_stubs + 16 * i, i == 3 || i == 4 || i == 0x80 ? 0xee : 0x8e, i == 8 ? 1 : 0);
    user_rsp = (u64)user_stack + sizeof user_stack - 64 + USER_ALIAS;
}

void cpu_set_up(struct cpu *c)
{
    c->index = (u32)(((char *)c - cpu_blocks) >> CPU_SHIFT);
    if (c->index == 0)
        idt_set_up();
    const u64 gdt[8] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0 };
    for (unsigned i = 0; i < 8; i++)
        c->gdt[i] = gdt[i];
    u64 base = (u64)&c->tss, limit = sizeof c->tss - 1;
    c->gdt[8] = limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    c->gdt[9] = base >> 32;
    c->tss.rsp[0] = (u64)c + 24 * 1024;
    c->tss.ist[0] = (u64)c + 12 * 1024;
    c->tss.ist[1] = (u64)c + 16 * 1024;
    c->tss.io_map = __builtin_offsetof(struct tss64, io_bits);
    for (unsigned i = 0; i < sizeof c->tss.io_bits; i++)
        c->tss.io_bits[i] = 0xff;
    struct table_pointer g = { sizeof c->gdt - 1, (u64)c->gdt }, i = { sizeof idt - 1, (u64)idt };
    __asm__ volatile("lgdt %0; lidt %1; ltr %w2" ::"m"(g), "m"(i), "r"(SEL_TSS) : "memory");
}

static void unexpected(const struct frame *f)
{
    group("trap");
    say("# rip ");
    say_hex(f->rip);
    say(" error ");
    say_hex(f->error);
    say(" cr2 ");
    say_hex(READ_CR(2));
    say(" flags ");
    say_hex(f->rflags);
    say(" rsp ");
    say_hex(f->rsp);
    say("\n");
    check("unexpected vector", f->vector, NO_TRAP);
    guest_end();
}

void trap(struct frame *f)
{
    if (trap_hook && trap_hook(f))
        return;
    if (f->vector >= 0x20 && f->vector != 0x80) {
        cpu_self()->ticks[f->vector]++;
        return;
    }
    if (!trap_fixup)
        unexpected(f);
    trap_cr2 = READ_CR(2);
    trap_vector = f->vector;
    trap_error = f->error;
    trap_rip = f->rip;
    trap_flags = f->rflags;
    trap_rax = f->rax;
    trap_cs = f->cs;
    trap_frame_rsp = (u64)&f->rip;
    trap_count++;
    if (f->cs & 3) {
        f->cs = SEL_KCODE;
        f->ss = SEL_KDATA;
        f->rsp = try_saved[4];
    }
    f->rip = trap_fixup;
    f->rflags = 2;
    trap_fixup = 0;
}

void check_trap(const char *name, u64 vector, u64 error)
{
    if (trap_vector != vector)
        check(name, trap_vector, vector);
    else if (trap_error != error)
        check(name, trap_error | 0xe0000000, error | 0xe0000000);
    else
        check(name, trap_rip, trap_insn);
}

void *page_alloc(void)
{
    return pool[n_pool++ % 256];
}

u64 *page_entry(u64 va, unsigned level)
{
    u64 *table = (u64 *)(READ_CR(3) & ~0xfffull);
    for (unsigned l = 4; l > level; l--) {
        u64 *e = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (!(*e & PTE_P))
            *e = (u64)page_alloc() | PTE_P | PTE_W | PTE_U;
        table = (u64 *)(*e & 0xffffffffff000);
    }
    return &table[va >> (12 + 9 * (level - 1)) & 511];
}

void page_map(u64 va, u64 pte)
{
    *page_entry(va, 1) = pte;
    page_flush(va);
}
