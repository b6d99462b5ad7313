/* SPDX-License-Identifier: MIT */
/*
 * The engine's side: a VM in long mode whose user code runs at CPL 3 with the selectors and the enabled features of a Linux process. The tail of a piece of
 * code is an OUT that the TSS permits; a fault goes through the IDT to a HLT that names its vector. Two VMs share the memory: one translates, one steps.
 */
#include "diff.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/host.h"
#include "core/cpuid.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "engine/soft/code.h"
#include "engine/soft/soft.h"
#include "tool.h"

#define RAM_BYTES (256u * 1024)
#define SYSTEM_AT 0xffffffff80000000ull /* linear address of gpa 0, supervisor only */
#define GPA_PML4 0x1000u
#define GPA_PDPT_LOW 0x2000u
#define GPA_PD_LOW 0x3000u
#define GPA_PT_LOW 0x4000u
#define GPA_PDPT_HIGH 0x5000u
#define GPA_PD_HIGH 0x6000u
#define GPA_PT_HIGH 0x7000u
#define GPA_IDT 0x8000u
#define GPA_GDT 0x9000u
#define GPA_TSS 0xa000u
#define GPA_HANDLERS 0xb000u
#define GPA_STACK_TOP 0xe000u
#define GPA_CODE 0x10000u
#define GPA_DATA 0x20000u
#define TAIL_PORT 0xf4
#define TSS_LIMIT 0x90u

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull

/* Linux's selectors. */
#define KERNEL_CS 0x10
#define USER32_CS 0x23
#define USER_SS 0x2b
#define USER_CS 0x33
#define TSS_SELECTOR 0x40

#define IST 1u
#define TABLES_BYTES (GPA_STACK_TOP - GPA_IDT)

const uint16_t guest_selectors[GUEST_SELECTORS] = { 0, KERNEL_CS, 0x18, USER32_CS, USER_SS, USER_CS, TSS_SELECTOR };
static unsigned cpl = 3;
static uint8_t tables[TABLES_BYTES]; /* as they are before a run */
static struct cpu_state *last;       /* of the VM that ran last */
static uint8_t *ram;
static struct vcpu *vcpus[2]; /* translating, stepping */

static void put64(uint32_t gpa, uint64_t value)
{
    memcpy(ram + gpa, &value, sizeof value);
}

static void make_page_tables(void)
{
    put64(GPA_PML4, GPA_PDPT_LOW | PTE_P | PTE_W | PTE_U);
    put64(GPA_PDPT_LOW + 8 * (CODE_AT >> 30), GPA_PD_LOW | PTE_P | PTE_W | PTE_U);
    put64(GPA_PD_LOW, GPA_PT_LOW | PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < CODE_PAGES; i++)
        put64(GPA_PT_LOW + 8 * i, (GPA_CODE + i * PAGE_BYTES) | PTE_P | PTE_U);
    uint32_t data = GPA_PT_LOW + 8 * ((DATA_AT >> PAGE_SHIFT) & 511);
    for (unsigned i = 0; i < DATA_PAGES; i++)
        put64(data + 8 * i, (GPA_DATA + i * PAGE_BYTES) | PTE_P | PTE_U | PTE_W);
    put64(data + 8 * 3, (GPA_DATA + 3 * PAGE_BYTES) | PTE_P | PTE_U);
    put64(GPA_PML4 + 8 * 511, GPA_PDPT_HIGH | PTE_P | PTE_W);
    put64(GPA_PDPT_HIGH + 8 * 510, GPA_PD_HIGH | PTE_P | PTE_W);
    put64(GPA_PD_HIGH, GPA_PT_HIGH | PTE_P | PTE_W);
    for (unsigned i = 0; i < RAM_BYTES / PAGE_BYTES; i++)
        put64(GPA_PT_HIGH + 8 * i, (i * PAGE_BYTES) | PTE_P | PTE_W);
}

static void make_tables(void)
{
    for (unsigned v = 0; v < 32; v++) {
        uint64_t handler = SYSTEM_AT + GPA_HANDLERS + 16 * v;
        ram[GPA_HANDLERS + 16 * v] = 0xf4; /* hlt */
        put64(GPA_IDT + 16 * v, (handler & 0xffff) | (uint64_t)KERNEL_CS << 16 | (0x8e00ull | IST) << 32 | (handler >> 16 & 0xffff) << 48);
        put64(GPA_IDT + 16 * v + 8, handler >> 32);
    }
    put64(GPA_GDT + KERNEL_CS, 0x00af9b000000ffffull);
    put64(GPA_GDT + 0x18, 0x00cf93000000ffffull);
    put64(GPA_GDT + 0x20, 0x00cffb000000ffffull);
    put64(GPA_GDT + (USER_SS & ~7), 0x00cff3000000ffffull);
    put64(GPA_GDT + (USER_CS & ~7), 0x00affb000000ffffull);
    put64(GPA_TSS + 4, SYSTEM_AT + GPA_STACK_TOP);            /* RSP0 */
    put64(GPA_TSS + 28 + 8 * IST, SYSTEM_AT + GPA_STACK_TOP); /* a fault at CPL 0 finds no stack of its own */
    ram[GPA_TSS + 102] = 104;                                 /* I/O map base: all ports up to TAIL_PORT are permitted */
    ram[GPA_TSS + TSS_LIMIT] = 0xff;
    put64(GPA_GDT + TSS_SELECTOR, TSS_LIMIT | (uint64_t)(GPA_TSS & 0xffffff) << 16 | 0x89ull << 40 | (SYSTEM_AT >> 24 & 0xff) << 56);
    put64(GPA_GDT + TSS_SELECTOR + 8, SYSTEM_AT >> 32);
    memcpy(tables, ram + GPA_IDT, TABLES_BYTES);
}

static void set_user_segments(struct cpu_state *c)
{
    const struct segment null = { .unusable = 1 };
    c->seg[SEG_CS] = (struct segment){ .limit = UINT32_MAX, .selector = USER_CS, .type = 0xb, .present = 1, .dpl = 3, .s = 1, .l = 1, .g = 1 };
    c->seg[SEG_SS] = (struct segment){ .limit = UINT32_MAX, .selector = USER_SS, .type = 3, .present = 1, .dpl = 3, .db = 1, .s = 1, .g = 1 };
    c->seg[SEG_DS] = c->seg[SEG_ES] = c->seg[SEG_FS] = c->seg[SEG_GS] = null;
    if (!cpl) {
        c->seg[SEG_CS].selector = KERNEL_CS;
        c->seg[SEG_SS].selector = 0x18;
        c->seg[SEG_CS].dpl = c->seg[SEG_SS].dpl = 0;
    }
    if (diff_mode_bits == 64)
        return;
    c->seg[SEG_CS].selector = USER32_CS;
    c->seg[SEG_CS].l = 0;
    c->seg[SEG_CS].db = 1;
    c->seg[SEG_DS] = c->seg[SEG_ES] = c->seg[SEG_SS];
}

static void set_system_state(struct cpu_state *c)
{
    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    c->cr3 = GPA_PML4;
    c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE;
    c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    c->xcr0 = host_facts()->xcr0;
    c->gdtr = (struct desc_table){ .base = SYSTEM_AT + GPA_GDT, .limit = 0xff };
    c->idtr = (struct desc_table){ .base = SYSTEM_AT + GPA_IDT, .limit = 32 * 16 - 1 };
    c->tr = (struct segment){ .base = SYSTEM_AT + GPA_TSS, .limit = TSS_LIMIT, .selector = TSS_SELECTOR, .type = 0xb, .present = 1 };
    set_user_segments(c);
}

static int make_vm(unsigned n, struct features *features)
{
    static struct cpuid_entry entries[CPUID_ENTRIES_MAX];
    struct vm *vm;
    soft_set_stepping(n == 1);
    int r = vm_create(&soft_engine_ops, NULL, &vm);
    if (!r)
        r = vm_set_memslot(vm, 0, 0, 0, RAM_BYTES, ram);
    if (!r)
        r = vcpu_create(vm, 0, &vcpus[n]);
    if (!r)
        r = vcpu_set_cpuid(vcpus[n], entries, cpuid_supported(entries, CPUID_ENTRIES_MAX));
    if (r)
        return r;
    set_system_state(&vcpus[n]->cpu);
    vm->engine->state_changed(vcpus[n]);
    *features = soft_vm_of(to_soft(vcpus[n]))->features;
    return 0;
}

int guest_init(struct features *features)
{
    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED)
        return -ENOMEM;
    make_page_tables();
    make_tables();
    int r = make_vm(0, features);
    return r ? r : make_vm(1, features);
}

void guest_table_image(bool is_idt, uint8_t image[10])
{
    const struct desc_table *t = is_idt ? &vcpus[0]->cpu.idtr : &vcpus[0]->cpu.gdtr;
    memcpy(image, &t->limit, 2);
    memcpy(image + 2, &t->base, 8);
}

uint16_t guest_code_selector(void)
{
    return !cpl ? KERNEL_CS : diff_mode_bits == 64 ? USER_CS : USER32_CS;
}

void guest_set_cpl(unsigned level)
{
    cpl = level;
}

static void segment_words(const struct segment *s, uint64_t *words)
{
    words[0] = s->base;
    words[1] = s->limit | (uint64_t)s->selector << 32;
    words[2] = segment_attributes(s) | (uint64_t)s->unusable << 32;
}

void guest_system_end(uint64_t words[GUEST_SYSTEM_WORDS])
{
    const struct cpu_state *c = last;
    memset(words, 0, GUEST_SYSTEM_WORDS * sizeof *words);
    for (unsigned n = 0; n < SEG_COUNT; n++)
        segment_words(&c->seg[n], words + 3 * n);
    segment_words(&c->ldtr, words + 18);
    segment_words(&c->tr, words + 21);
    words[24] = c->gdtr.base;
    words[25] = c->gdtr.limit;
    words[26] = c->idtr.base;
    words[27] = c->idtr.limit;
    words[28] = c->cr0;
    words[29] = c->cr2;
}

int guest_watch(void)
{
    return tool_init((struct vm *const[]){ vcpus[0]->vm, vcpus[1]->vm });
}

uint64_t guest_code_gpa(void)
{
    return GPA_CODE;
}

uint64_t guest_data_gpa(void)
{
    return GPA_DATA;
}

uint8_t *guest_code(void)
{
    return ram + GPA_CODE;
}

uint8_t *guest_data(void)
{
    return ram + GPA_DATA;
}

/* The engine need not notice stores by others than the guest at once: what a client does that replaces memory. */
void guest_code_changed(void)
{
    for (unsigned n = 0; n < 2; n++)
        vcpus[n]->vm->engine->memory_changed(vcpus[n]->vm, GPA_CODE, CODE_PAGES * PAGE_BYTES);
}

/* out 0xf4, al */
void guest_tail(uint8_t *p)
{
    p[0] = 0xe6;
    p[1] = TAIL_PORT;
}

/* The handler's HLT: the state of the faulting code is in its frame. */
static bool take_fault(const struct vcpu *v, struct machine_state *out)
{
    uint64_t at = v->cpu.rip - SYSTEM_AT - GPA_HANDLERS - 1, frame[6];
    uint64_t stack = v->cpu.gpr[GPR_RSP] - SYSTEM_AT;
    if (at >= 32 * 16 || at % 16 || stack > GPA_STACK_TOP - 40)
        return false;
    unsigned vector = (unsigned)at / 16;
    bool has_code = vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;
    memcpy(frame, ram + stack, 40 + 8 * has_code);
    const uint64_t *f = frame + has_code;
    out->vector = (int)vector;
    out->error = has_code ? (uint32_t)frame[0] : 0;
    out->rip = f[0];
    out->rflags = f[2];
    out->gpr[GPR_RSP] = f[3];
    out->cr2 = v->cpu.cr2;
    return true;
}

static void take_end(struct vcpu *v, int r, struct machine_state *out)
{
    out->broken = NULL;
    out->vector = VECTOR_NONE;
    out->rip = 0;
    out->rflags = v->cpu.rflags;
    if (!r && v->exit.kind == EXIT_IO && v->exit.io.port == TAIL_PORT)
        return;
    if (!r && v->exit.kind == EXIT_HLT && take_fault(v, out))
        return;
    out->vector = VECTOR_BROKEN;
    out->rip = v->cpu.rip;
    out->error = v->exit.kind;
    out->broken = r                                     ? "run failed"
                  : v->exit.kind == EXIT_SHUTDOWN       ? "triple fault"
                  : v->exit.kind == EXIT_INTERNAL_ERROR ? v->exit.internal.text
                                                        : "unexpected exit";
}

void guest_run(const struct machine_state *in, struct machine_state *out, bool is_stepping)
{
    struct vcpu *v = vcpus[is_stepping];
    struct cpu_state *c = last = &v->cpu;
    if (diff_is_system) {
        memcpy(ram + GPA_IDT, tables, TABLES_BYTES);
        set_system_state(c);
        c->ldtr = (struct segment){ .unusable = 1 };
        c->cr2 = 0;
        v->vm->engine->state_changed(v);
    }
    memcpy(c->gpr, in->gpr, sizeof c->gpr);
    c->rip = in->rip;
    c->rflags = in->rflags;
    if (!vcpu_cpl(v))
        set_system_state(c);
    c->seg[SEG_FS].base = in->fs_base;
    c->seg[SEG_GS].base = in->gs_base;
    c->interrupt_shadow = 0;
    memcpy(c->xsave, in->xsave, state_xsave_bytes());
    mode_update(to_soft(v));
    int r = v->vm->engine->run(v);
    memcpy(out->gpr, c->gpr, sizeof c->gpr);
    out->fs_base = c->seg[SEG_FS].base;
    out->gs_base = c->seg[SEG_GS].base;
    memcpy(out->xsave, c->xsave, state_xsave_bytes());
    take_end(v, r, out);
    if (out->vector == VECTOR_BROKEN && !diff_is_system) /* else at the next run */
        set_system_state(c);
}
