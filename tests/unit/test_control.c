/* SPDX-License-Identifier: MIT */
/*
 * Control transfer of the soft engine: descriptors, far transfers, event delivery, task switches and fast system calls, on a flat array instead of the MMU.
 * One thing, as all of it needs the same flat machine. Built from desc.c transfer.c help_seg.c help_table.c help_far.c help_iret.c help_task.c help_int.c
 * help_syscall.c alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/help_control.h"
#include "engine/soft/transfer.h"

#define RAM_BYTES 0x100000u
#define GDT 0x1000u
#define IDT 0x2000u
#define TSS_A 0x3000u
#define TSS_B 0x3200u
#define MEM_OPND 0x4000u

/* Selectors of the test GDT. */
enum {
    K_CODE = 0x08,
    K_DATA = 0x10,
    U_CODE = 0x18,
    U_DATA = 0x20,
    SEL_TSS_A = 0x28,
    SEL_TSS_B = 0x38,
    SEL_GATE = 0x48,
    K_CODE64 = 0x58,
    U_CODE64 = 0x60,
    SEL_NOT_PRESENT = 0x68
};

static struct soft_vcpu *sv;
static struct vm vm; /* that nobody watches */
static struct cpu_state *cpu;
static uint8_t ram[RAM_BYTES];
static uint64_t bad_page; /* accesses to it fault */
static struct insn in;

/* ---- stand-ins --------------------------------------------------------------------------------------------------------------------------- */

static enum step ram_check(gva_t gva, unsigned bytes, unsigned access)
{
    if (gva + bytes <= RAM_BYTES && !(bad_page && gva + bytes > bad_page && gva < bad_page + 4096))
        return STEP_NEXT;
    sv->fault = (struct fault){ .vector = VEC_PF, .has_code = true, .code = access & ACCESS_WRITE ? PF_W : 0, .addr = gva };
    return STEP_FAULT;
}
enum step linear_read(struct soft_vcpu *s, gva_t gva, void *buf, unsigned bytes, unsigned access)
{
    (void)s;
    enum step step = ram_check(gva, bytes, access);
    if (step == STEP_NEXT)
        memcpy(buf, ram + gva, bytes);
    return step;
}
enum step linear_write(struct soft_vcpu *s, gva_t gva, const void *buf, unsigned bytes, unsigned access)
{
    (void)s;
    enum step step = ram_check(gva, bytes, access);
    if (step == STEP_NEXT)
        memcpy(ram + gva, buf, bytes);
    return step;
}
enum step linear_probe_write(struct soft_vcpu *s, gva_t gva, unsigned bytes, unsigned access)
{
    (void)s;
    return ram_check(gva, bytes, access);
}
enum step mem_read(struct soft_vcpu *s, const struct insn *i, void *buf, unsigned bytes)
{
    (void)i;
    return linear_read(s, MEM_OPND, buf, bytes, 0);
}
enum step mem_write(struct soft_vcpu *s, const struct insn *i, const void *buf, unsigned bytes)
{
    (void)i;
    return linear_write(s, MEM_OPND, buf, bytes, 0);
}
enum step opnd_read(struct soft_vcpu *s, const struct insn *i, unsigned n, uint64_t *value)
{
    *value = s->v.cpu.gpr[i->opnd[n].reg];
    return STEP_NEXT;
}
enum step opnd_write(struct soft_vcpu *s, const struct insn *i, unsigned n, uint64_t value)
{
    s->v.cpu.gpr[i->opnd[n].reg] = value;
    return STEP_NEXT;
}
void gpr_write(struct soft_vcpu *s, unsigned reg, unsigned bytes, uint64_t value)
{
    (void)bytes;
    s->v.cpu.gpr[reg] = value;
}
enum step seg_write(struct soft_vcpu *s, unsigned seg, uint64_t offset, const void *buf, unsigned bytes)
{
    return linear_write(s, s->v.cpu.seg[seg].base + offset, buf, bytes, 0);
}
enum step stack_push(struct soft_vcpu *s, uint64_t *sp, uint64_t value, unsigned bytes)
{
    *sp -= bytes;
    return linear_write(s, s->v.cpu.seg[SEG_SS].base + *sp, &value, bytes, 0);
}
enum step stack_pop(struct soft_vcpu *s, uint64_t *sp, uint64_t *value, unsigned bytes)
{
    *value = 0;
    enum step step = linear_read(s, s->v.cpu.seg[SEG_SS].base + *sp, value, bytes, 0);
    *sp += bytes;
    return step;
}
void stack_commit(struct soft_vcpu *s, uint64_t sp)
{
    s->v.cpu.gpr[GPR_RSP] = sp;
}
void mode_update(struct soft_vcpu *s)
{
    s->mode_bits = 0;
}
void tlb_flush(struct soft_vcpu *s)
{
    (void)s;
}
int pdpte_load(struct soft_vcpu *s, uint64_t cr3)
{
    (void)s;
    (void)cr3;
    return 0;
}

enum step watch_insn_ask(struct soft_vcpu *s, struct watch_event *e)
{
    (void)s, (void)e;
    fail(); /* nobody watches */
    return STEP_EXIT;
}
enum step watch_delivery_ask(struct soft_vcpu *s, enum event_kind kind, const struct fault *f)
{
    (void)s, (void)kind, (void)f;
    return STEP_JUMP;
}
void watch_delivery_over(struct soft_vcpu *s, enum event_kind kind)
{
    (void)s, (void)kind;
}
void watch_tell_escalated(struct soft_vcpu *s, enum event_kind kind, const struct fault *f)
{
    (void)s, (void)kind, (void)f;
}
void watch_tell_crs(struct soft_vcpu *s, const uint64_t old[3])
{
    (void)s, (void)old;
}

/* ---- the machine ------------------------------------------------------------------------------------------------------------------------- */

static void ram_put(uint64_t at, uint64_t value, unsigned bytes)
{
    memcpy(ram + at, &value, bytes);
}

static uint64_t ram_get(uint64_t at, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, ram + at, bytes);
    return value;
}

/* access: the descriptor's byte 5; flags: G D L AVL. */
static void gdt_put(unsigned selector, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    uint64_t low = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 | (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 |
                   (uint64_t)(base >> 24) << 56;
    ram_put(GDT + selector, low, 8);
}

static void gate_put(unsigned at, uint16_t selector, uint32_t offset, unsigned access, unsigned low5)
{
    ram_put(at, (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)low5 << 32 | (uint64_t)access << 40 | (uint64_t)(offset >> 16) << 48, 8);
}

static void seg_set(unsigned seg, uint16_t selector, unsigned type, unsigned dpl, bool db, bool l)
{
    cpu->seg[seg] = (struct segment){
        .limit = 0xffffffff, .selector = selector, .type = (uint8_t)type, .s = 1, .present = 1, .dpl = (uint8_t)dpl, .db = db, .l = l, .g = 1
    };
}

static void cpl_set(unsigned cpl, bool is_long)
{
    seg_set(SEG_CS, cpl ? (is_long ? U_CODE64 | 3 : U_CODE | 3) : (is_long ? K_CODE64 : K_CODE), 11, cpl, !is_long, is_long);
    seg_set(SEG_SS, cpl ? U_DATA | 3 : K_DATA, 3, cpl, true, false);
    for (unsigned i = 0; i < 4; i++)
        seg_set((const uint8_t[]){ SEG_DS, SEG_ES, SEG_FS, SEG_GS }[i], cpl ? U_DATA | 3 : K_DATA, 3, cpl, true, false);
    in.mode_bits = is_long ? 64 : 32;
}

static int machine_real(void **state)
{
    (void)state;
    if (!sv)
        sv = calloc(1, sizeof *sv);
    memset(sv, 0, sizeof *sv);
    sv->v.vm = &vm;
    sv->v.stat = sv->v.own_stat;
    memset(ram, 0, sizeof ram);
    bad_page = 0;
    cpu = &sv->v.cpu;
    in = (struct insn){ .len = 2, .mode_bits = 16 };
    cpu->rflags = RFLAGS_RES1;
    cpu->idtr.limit = 0x3ff;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct segment){ .limit = 0xffff, .type = 3, .s = 1, .present = 1 };
    return 0;
}

static int machine_protected(void **state)
{
    machine_real(state);
    cpu->cr0 = CR0_PE;
    cpu->gdtr = (struct desc_table){ GDT, 0xff };
    cpu->idtr = (struct desc_table){ IDT, 0xfff };
    gdt_put(K_CODE, 0, 0xfffff, 0x9a, 0xc);
    gdt_put(K_DATA, 0, 0xfffff, 0x92, 0xc);
    gdt_put(U_CODE, 0, 0xfffff, 0xfa, 0xc);
    gdt_put(U_DATA, 0, 0xfffff, 0xf2, 0xc);
    gdt_put(SEL_TSS_A, TSS_A, 0x67, 0x8b, 0);
    gdt_put(SEL_TSS_B, TSS_B, 0x67, 0x89, 0);
    gdt_put(K_CODE64, 0, 0xfffff, 0x9a, 0xa);
    gdt_put(U_CODE64, 0, 0xfffff, 0xfa, 0xa);
    gdt_put(SEL_NOT_PRESENT, 0, 0xfffff, 0x72, 0xc);
    cpu->tr = (struct segment){ .base = TSS_A, .limit = 0x67, .selector = SEL_TSS_A, .type = 11, .present = 1 };
    cpu->ldtr.unusable = 1;
    ram_put(TSS_A + 4, 0x8000, 4);
    ram_put(TSS_A + 8, K_DATA, 2);
    cpl_set(3, false);
    cpu->gpr[GPR_RSP] = 0x9000;
    cpu->rip = 0x5000;
    return 0;
}

static int machine_long(void **state)
{
    machine_protected(state);
    cpu->efer = EFER_LMA | EFER_LME | EFER_SCE;
    cpu->cr0 |= CR0_PG;
    cpu->cr4 = CR4_PAE;
    cpl_set(3, true);
    ram_put(TSS_A + 4, 0x8008, 8);
    ram_put(TSS_A + 36, 0x7000, 8);
    return 0;
}

static int machine_end(void **state)
{
    (void)state;
    free(sv);
    sv = NULL;
    return 0;
}

static void is_fault(enum step step, unsigned vector, uint32_t code)
{
    assert_int_equal(step, STEP_FAULT);
    assert_int_equal(sv->fault.vector, vector);
    assert_int_equal(sv->fault.code, code);
}

/* ---- real mode --------------------------------------------------------------------------------------------------------------------------- */

static void test_real_int_iret(void **state)
{
    (void)state;
    ram_put(0x21 * 4, 0x1234, 2);
    ram_put(0x21 * 4 + 2, 0x0f00, 2);
    cpu->seg[SEG_CS].selector = 0x100;
    cpu->seg[SEG_CS].base = 0x1000;
    cpu->rip = 0x10;
    cpu->rflags |= RFLAGS_IF | RFLAGS_CF;
    in.imm = 0x21;
    cpu->gpr[GPR_RSP] = 4; /* the frame wraps around the segment */
    assert_int_equal(help_int(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->rip, 0x1234);
    assert_int_equal(cpu->seg[SEG_CS].base, 0xf000);
    assert_int_equal(cpu->gpr[GPR_RSP], 0xfffe);
    assert_int_equal(cpu->rflags, RFLAGS_RES1 | RFLAGS_CF);
    assert_int_equal(ram_get(0xfffe, 2), 0x12);
    assert_int_equal(help_iret(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->rip, 0x12);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x1000);
    assert_int_equal(cpu->gpr[GPR_RSP], 4);
    assert_true(cpu->rflags & RFLAGS_IF);
}

static void test_real_triple(void **state)
{
    (void)state;
    struct fault f = { .vector = VEC_GP };
    cpu->idtr.limit = 0;
    assert_int_equal(event_deliver(sv, EVENT_EXCEPTION, &f, 0), STEP_EXIT);
    assert_int_equal(sv->v.exit.kind, EXIT_SHUTDOWN);
}

static void test_real_unreal(void **state)
{
    (void)state;
    cpu->seg[SEG_DS].limit = 0xffffffff;
    assert_int_equal(seg_load(sv, SEG_DS, 0x1234), STEP_NEXT);
    assert_int_equal(cpu->seg[SEG_DS].base, 0x12340);
    assert_int_equal(cpu->seg[SEG_DS].limit, 0xffffffff);
}

static void test_real_far(void **state)
{
    (void)state;
    in.len = 5;
    in.imm = 0x4444;
    in.imm2 = 0x2000;
    cpu->rip = 0x100;
    cpu->gpr[GPR_RSP] = 0x800;
    assert_int_equal(help_call_far(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x20000);
    assert_int_equal(cpu->rip, 0x4444);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x7fc);
    in.imm = 6;
    in.imm_bytes = 2;
    assert_int_equal(help_ret_far(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->rip, 0x105);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x806);
}

/* ---- protected mode ---------------------------------------------------------------------------------------------------------------------- */

static void test_protected_int_iret(void **state)
{
    (void)state;
    gate_put(IDT + 0x80 * 8, K_CODE, 0x6000, 0xee, 0);
    cpu->rflags |= RFLAGS_IF;
    in.imm = 0x80;
    assert_int_equal(help_int(sv, &in), STEP_JUMP);
    assert_int_equal(vcpu_cpl(&sv->v), 0);
    assert_int_equal(cpu->seg[SEG_CS].selector, K_CODE);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x8000 - 20);
    assert_int_equal(ram_get(0x8000 - 20, 4), 0x5002);
    assert_int_equal(ram_get(0x8000 - 16, 4), U_CODE | 3);
    assert_int_equal(ram_get(0x8000 - 8, 4), 0x9000);
    assert_int_equal(ram_get(0x8000 - 4, 4), U_DATA | 3);
    assert_false(cpu->rflags & RFLAGS_IF);
    assert_int_equal(ram_get(GDT + K_CODE + 5, 1), 0x9b); /* accessed */
    seg_set(SEG_DS, K_DATA, 3, 0, true, false);
    cpu->nmi_masked = true;
    assert_int_equal(help_iret(sv, &in), STEP_JUMP);
    assert_int_equal(vcpu_cpl(&sv->v), 3);
    assert_int_equal(cpu->rip, 0x5002);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x9000);
    assert_true(cpu->rflags & RFLAGS_IF);
    assert_false(cpu->nmi_masked);
    assert_true(cpu->seg[SEG_DS].unusable); /* ring 0's data is taken away */
    assert_false(cpu->seg[SEG_ES].unusable);
}

static void test_protected_gate_dpl(void **state)
{
    (void)state;
    gate_put(IDT + 0x20 * 8, K_CODE, 0x6000, 0x8e, 0);
    gate_put(IDT + VEC_GP * 8, K_CODE, 0x6100, 0x8e, 0);
    in.imm = 0x20;
    assert_int_equal(help_int(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->rip, 0x6100);
    assert_int_equal(ram_get(0x8000 - 24, 4), 0x20 * 8 + 2);
    assert_int_equal(ram_get(0x8000 - 20, 4), 0x5000); /* the INT itself */
    assert_true(ram_get(0x8000 - 12, 4) & RFLAGS_RF);
}

static void test_protected_double_fault(void **state)
{
    (void)state;
    struct fault f = { .vector = VEC_NP, .has_code = true, .code = 0x30 };
    gate_put(IDT + VEC_DF * 8, K_CODE, 0x6200, 0x8e, 0);
    assert_int_equal(event_deliver(sv, EVENT_EXCEPTION, &f, 0), STEP_JUMP);
    assert_int_equal(cpu->rip, 0x6200);
    assert_int_equal(ram_get(0x8000 - 24, 4), 0);
}

static void test_protected_page_fault_in_delivery(void **state)
{
    (void)state;
    struct fault f = { .vector = 0x30 };
    gate_put(IDT + 0x30 * 8, K_CODE, 0x6000, 0x8e, 0);
    bad_page = 0x7000; /* where the frame goes */
    assert_int_equal(event_deliver(sv, EVENT_EXTERNAL, &f, 0), STEP_EXIT);
    assert_int_equal(sv->v.exit.kind, EXIT_SHUTDOWN);
    assert_int_equal(cpu->cr2, 0x8000 - 20);
    assert_int_equal(cpu->rip, 0x5000);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x9000);
    assert_int_equal(vcpu_cpl(&sv->v), 3);
}

static void test_protected_debug(void **state)
{
    (void)state;
    struct fault f = { .vector = VEC_DB, .addr = DR6_BS };
    gate_put(IDT + VEC_DB * 8, K_CODE, 0x6000, 0x8f, 0);
    cpu->dr6 = DR6_FIXED_1 | 3;
    cpu->dr7 = DR7_FIXED_1 | DR7_GD;
    cpu->rflags |= RFLAGS_TF | RFLAGS_IF | RFLAGS_RF;
    assert_int_equal(event_deliver(sv, EVENT_EXCEPTION, &f, 0), STEP_JUMP);
    assert_int_equal(cpu->dr6, DR6_FIXED_1 | DR6_BS);
    assert_int_equal(cpu->dr7, DR7_FIXED_1);
    assert_int_equal(cpu->rflags, RFLAGS_RES1 | RFLAGS_IF); /* a trap gate leaves IF */
    assert_int_equal(ram_get(0x8000 - 12, 4), RFLAGS_RES1 | RFLAGS_TF | RFLAGS_IF);
}

static void test_protected_segments(void **state)
{
    (void)state;
    assert_int_equal(seg_load(sv, SEG_DS, U_DATA | 3), STEP_NEXT);
    assert_int_equal(cpu->seg[SEG_DS].limit, 0xffffffff);
    assert_int_equal(seg_load(sv, SEG_ES, 0), STEP_NEXT);
    assert_true(cpu->seg[SEG_ES].unusable);
    is_fault(seg_load(sv, SEG_DS, K_DATA), VEC_GP, K_DATA);
    is_fault(seg_load(sv, SEG_DS, SEL_NOT_PRESENT | 3), VEC_NP, SEL_NOT_PRESENT);
    is_fault(seg_load(sv, SEG_SS, SEL_NOT_PRESENT | 3), VEC_SS, SEL_NOT_PRESENT);
    is_fault(seg_load(sv, SEG_SS, U_DATA), VEC_GP, U_DATA);
    is_fault(seg_load(sv, SEG_SS, 0), VEC_GP, 0);
    is_fault(seg_load(sv, SEG_DS, 0x100), VEC_GP, 0x100);
    is_fault(seg_load(sv, SEG_DS, 0x0f), VEC_GP, 0x0c);
    in.opnd[0] = (struct opnd){ .kind = OPND_SEG, .reg = SEG_SS };
    in.opnd[1] = (struct opnd){ .kind = OPND_GPR, .reg = GPR_RAX };
    cpu->gpr[GPR_RAX] = U_DATA | 3;
    assert_int_equal(help_mov_seg(sv, &in), STEP_NEXT);
    assert_int_equal(cpu->interrupt_shadow, SHADOW_MOV_SS);
}

static void test_protected_call_gate(void **state)
{
    (void)state;
    gate_put(GDT + SEL_GATE, K_CODE, 0x6000, 0xec, 2);
    ram_put(0x9000, 0x11111111, 4);
    ram_put(0x9004, 0x22222222, 4);
    in.imm2 = SEL_GATE | 3;
    in.len = 7;
    assert_int_equal(help_call_far(sv, &in), STEP_JUMP);
    assert_int_equal(vcpu_cpl(&sv->v), 0);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x8000 - 24);
    assert_int_equal(ram_get(0x8000 - 24, 4), 0x5007);
    assert_int_equal(ram_get(0x8000 - 16, 4), 0x11111111);
    assert_int_equal(ram_get(0x8000 - 12, 4), 0x22222222);
    assert_int_equal(ram_get(0x8000 - 8, 4), 0x9000);
    in.imm = 8;
    in.imm_bytes = 2;
    assert_int_equal(help_ret_far(sv, &in), STEP_JUMP);
    assert_int_equal(vcpu_cpl(&sv->v), 3);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x9008);
    assert_int_equal(cpu->rip, 0x5007);
    gate_put(GDT + SEL_GATE, K_CODE, 0x6000, 0x8c, 2);
    in.imm_bytes = 0;
    is_fault(help_call_far(sv, &in), VEC_GP, SEL_GATE);
}

static void test_vm86(void **state)
{
    (void)state;
    cpl_set(0, false);
    gate_put(IDT + VEC_GP * 8, K_CODE, 0x6100, 0x8e, 0);
    const uint32_t frame[9] = { 0x10, 0x100, RFLAGS_RES1 | RFLAGS_VM | RFLAGS_IF, 0xff0, 0x200, 1, 2, 3, 4 };
    memcpy(ram + 0x9000, frame, sizeof frame);
    assert_int_equal(help_iret(sv, &in), STEP_JUMP);
    assert_int_equal(vcpu_cpl(&sv->v), 3);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x1000);
    assert_int_equal(cpu->seg[SEG_GS].selector, 4);
    assert_int_equal(cpu->gpr[GPR_RSP], 0xff0);
    in.mode_bits = 16;
    in.imm = 0x21;
    is_fault(help_int(sv, &in), VEC_GP, 0); /* IOPL 0 */
    struct fault f = sv->fault;
    assert_int_equal(event_deliver(sv, EVENT_EXCEPTION, &f, 0), STEP_JUMP);
    assert_int_equal(vcpu_cpl(&sv->v), 0);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x8000 - 40);
    assert_int_equal(ram_get(0x8000 - 4, 4), 4);
    assert_int_equal(ram_get(0x8000 - 16, 4), 1);
    assert_int_equal(ram_get(0x8000 - 20, 4), 0x200);
    assert_true(cpu->seg[SEG_DS].unusable);
    assert_false(cpu->rflags & RFLAGS_VM);
}

/* ---- task switch ------------------------------------------------------------------------------------------------------------------------- */

static void tss_put(uint32_t at)
{
    ram_put(at + 0x20, 0x7777, 4);
    ram_put(at + 0x24, RFLAGS_RES1, 4);
    ram_put(at + 0x28, 0xaaaa, 4);
    ram_put(at + 0x38, 0x9800, 4);
    ram_put(at + 0x48, K_DATA, 2);
    ram_put(at + 0x4c, K_CODE, 2);
    ram_put(at + 0x50, K_DATA, 2);
    ram_put(at + 0x54, K_DATA, 2);
}

static void test_task_call_iret(void **state)
{
    (void)state;
    cpl_set(0, false);
    tss_put(TSS_B);
    in.imm2 = SEL_TSS_B;
    in.len = 7;
    cpu->gpr[GPR_RBX] = 0xbbbb;
    assert_int_equal(help_call_far(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->rip, 0x7777);
    assert_int_equal(cpu->gpr[GPR_RAX], 0xaaaa);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x9800);
    assert_true(cpu->rflags & RFLAGS_NT);
    assert_true(cpu->cr0 & CR0_TS);
    assert_int_equal(cpu->tr.selector, SEL_TSS_B);
    assert_int_equal(ram_get(TSS_B, 2), SEL_TSS_A);
    assert_int_equal(ram_get(TSS_A + 0x20, 4), 0x5007);
    assert_int_equal(ram_get(TSS_A + 0x34, 4), 0xbbbb);
    assert_int_equal(ram_get(GDT + SEL_TSS_A + 5, 1), 0x8b);
    assert_int_equal(ram_get(GDT + SEL_TSS_B + 5, 1), 0x8b);
    assert_true(cpu->seg[SEG_FS].unusable);
    assert_int_equal(help_iret(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->rip, 0x5007);
    assert_int_equal(cpu->gpr[GPR_RBX], 0xbbbb);
    assert_int_equal(cpu->tr.selector, SEL_TSS_A);
    assert_int_equal(ram_get(GDT + SEL_TSS_B + 5, 1), 0x89);
    is_fault(help_call_far(sv, &(struct insn){ .mode_bits = 32, .imm2 = SEL_TSS_A }), VEC_GP, SEL_TSS_A); /* busy */
}

/* A double fault through a task gate, and a new task whose stack is bad: the fault is the new task's. */
static void test_task_event(void **state)
{
    (void)state;
    struct fault f = { .vector = VEC_GP, .has_code = true };
    tss_put(TSS_B);
    gate_put(IDT + VEC_DF * 8, SEL_TSS_B, 0, 0x85, 0);
    assert_int_equal(event_deliver(sv, EVENT_EXCEPTION, &f, 0), STEP_JUMP);
    assert_int_equal(cpu->rip, 0x7777);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x97fc);
    assert_int_equal(ram_get(0x97fc, 4), 0);
    assert_int_equal(ram_get(TSS_A + 0x20, 4), 0x5000);
    machine_protected(state);
    cpl_set(0, false);
    tss_put(TSS_B);
    ram_put(TSS_B + 0x50, U_DATA | 3, 2);
    is_fault(help_jmp_far(sv, &(struct insn){ .mode_bits = 32, .imm2 = SEL_TSS_B }), VEC_TS, U_DATA);
    assert_int_equal(cpu->rip, 0x7777);
    assert_int_equal(cpu->tr.selector, SEL_TSS_B);
    assert_int_equal(ram_get(GDT + SEL_TSS_A + 5, 1), 0x89);
}

/* ---- long mode --------------------------------------------------------------------------------------------------------------------------- */

static void idt64_put(unsigned vector, uint64_t offset, unsigned access, unsigned ist)
{
    gate_put(IDT + vector * 16, K_CODE64, (uint32_t)offset, access, ist);
    ram_put(IDT + vector * 16 + 8, offset >> 32, 8);
}

static void test_long_int_ist_iret(void **state)
{
    (void)state;
    struct fault f = { .vector = VEC_PF, .has_code = true, .code = PF_U, .addr = 0xdead };
    idt64_put(VEC_PF, 0xffffffff80000000, 0x8e, 0);
    idt64_put(VEC_NMI, 0xffffffff80001000, 0x8e, 1);
    cpu->gpr[GPR_RSP] = 0x9003;
    assert_int_equal(event_deliver(sv, EVENT_EXCEPTION, &f, 0), STEP_JUMP);
    assert_int_equal(cpu->rip, 0xffffffff80000000);
    assert_int_equal(cpu->cr2, 0xdead);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x8000 - 48);
    assert_int_equal(ram_get(0x8000 - 48, 8), PF_U);
    assert_int_equal(ram_get(0x8000 - 16, 8), 0x9003);
    assert_int_equal(cpu->seg[SEG_SS].selector, 0);
    assert_true(cpu->seg[SEG_SS].unusable);
    assert_int_equal(vcpu_cpl(&sv->v), 0);
    uint64_t rip = cpu->rip, sp = cpu->gpr[GPR_RSP];
    f = (struct fault){ .vector = VEC_NMI };
    assert_int_equal(event_deliver(sv, EVENT_NMI, &f, 0), STEP_JUMP);
    assert_true(cpu->nmi_masked);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x7000 - 40);
    in.rex_w = 1;
    assert_int_equal(help_iret(sv, &in), STEP_JUMP);
    assert_false(cpu->nmi_masked);
    assert_int_equal(cpu->rip, rip);
    assert_int_equal(cpu->gpr[GPR_RSP], sp);
    assert_int_equal(cpu->seg[SEG_SS].selector, 0);
    cpu->gpr[GPR_RSP] += 8;
    assert_int_equal(help_iret(sv, &in), STEP_JUMP);
    assert_int_equal(vcpu_cpl(&sv->v), 3);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x9003);
    assert_true(cpu->rflags & RFLAGS_RF);
}

static void test_long_iret_to_compat(void **state)
{
    (void)state;
    cpl_set(0, true);
    const uint64_t frame[5] = { 0x5555, U_CODE | 3, RFLAGS_RES1 | RFLAGS_IF, 0x1200009000, U_DATA | 3 };
    memcpy(ram + 0x9000, frame, sizeof frame);
    in.rex_w = 1;
    assert_int_equal(help_iret(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x9000);
    assert_false(cpu->seg[SEG_CS].l);
    cpl_set(0, true);
    cpu->gpr[GPR_RSP] = 0x9000;
    ram_put(0x9000, 0x8000000000000000, 8);
    ram_put(0x9008, U_CODE64 | 3, 8);
    is_fault(help_iret(sv, &in), VEC_GP, 0);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x9000);
    cpu->gpr[GPR_RSP] = 0x8000000000000000;
    is_fault(help_iret(sv, &in), VEC_SS, 0);
}

static void test_long_syscall(void **state)
{
    (void)state;
    cpu->star = (uint64_t)0x23 << 48 | (uint64_t)0x10 << 32;
    cpu->lstar = 0xffffffff81000000;
    cpu->sfmask = RFLAGS_IF | RFLAGS_TF;
    cpu->rflags |= RFLAGS_IF | RFLAGS_ZF;
    assert_int_equal(help_syscall(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->rip, 0xffffffff81000000);
    assert_int_equal(cpu->gpr[GPR_RCX], 0x5002);
    assert_int_equal(cpu->gpr[GPR_R11], RFLAGS_RES1 | RFLAGS_IF | RFLAGS_ZF);
    assert_int_equal(cpu->rflags, RFLAGS_RES1 | RFLAGS_ZF);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0x10);
    assert_int_equal(cpu->seg[SEG_SS].selector, 0x18);
    assert_int_equal(vcpu_cpl(&sv->v), 0);
    in.rex_w = 1;
    assert_int_equal(help_sysret(sv, &in), STEP_JUMP);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0x33);
    assert_int_equal(cpu->seg[SEG_SS].selector, 0x2b);
    assert_int_equal(cpu->rip, 0x5002);
    assert_true(cpu->rflags & RFLAGS_IF);
    is_fault(help_sysret(sv, &in), VEC_GP, 0);
    cpl_set(0, true);
    cpu->gpr[GPR_RCX] = 0x800000000000;
    is_fault(help_sysret(sv, &in), VEC_GP, 0);
    cpl_set(3, false);
    is_fault(help_syscall(sv, &in), VEC_UD, 0); /* compatibility mode, not AMD */
}

static void test_long_tables(void **state)
{
    (void)state;
    cpl_set(0, true);
    in.opnd[0] = (struct opnd){ .kind = OPND_GPR, .reg = GPR_RAX };
    in.op_bytes = 8;
    gdt_put(SEL_TSS_B, 0x12345678, 0x67, 0x89, 0);
    ram_put(GDT + SEL_TSS_B + 8, 0xffff8000, 8);
    cpu->gpr[GPR_RAX] = SEL_TSS_B;
    assert_int_equal(help_ltr(sv, &in), STEP_NEXT);
    assert_int_equal(cpu->tr.base, 0xffff800012345678);
    assert_int_equal(cpu->tr.type, 11);
    is_fault(help_ltr(sv, &in), VEC_GP, SEL_TSS_B); /* busy now */
    in.opnd[1] = (struct opnd){ .kind = OPND_GPR, .reg = GPR_RBX };
    cpu->gpr[GPR_RBX] = U_DATA | 3;
    assert_int_equal(help_lsl(sv, &in), STEP_NEXT);
    assert_int_equal(cpu->gpr[GPR_RAX], 0xffffffff);
    assert_true(cpu->rflags & RFLAGS_ZF);
    assert_int_equal(help_lar(sv, &in), STEP_NEXT);
    assert_int_equal(cpu->gpr[GPR_RAX], 0xcff200);
    cpu->gpr[GPR_RBX] = K_DATA | 3;
    assert_int_equal(help_lar(sv, &in), STEP_NEXT);
    assert_false(cpu->rflags & RFLAGS_ZF);
    in.has_mem = true;
    ram_put(MEM_OPND, 0xfff, 2);
    ram_put(MEM_OPND + 2, 0xffffffffff000000, 8);
    assert_int_equal(help_lgdt(sv, &in), STEP_NEXT);
    assert_int_equal(cpu->gdtr.base, 0xffffffffff000000);
    assert_int_equal(cpu->gdtr.limit, 0xfff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_real_int_iret, machine_real, machine_end),
        cmocka_unit_test_setup_teardown(test_real_triple, machine_real, machine_end),
        cmocka_unit_test_setup_teardown(test_real_unreal, machine_real, machine_end),
        cmocka_unit_test_setup_teardown(test_real_far, machine_real, machine_end),
        cmocka_unit_test_setup_teardown(test_protected_int_iret, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_protected_gate_dpl, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_protected_double_fault, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_protected_page_fault_in_delivery, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_protected_debug, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_protected_segments, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_protected_call_gate, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_vm86, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_task_call_iret, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_task_event, machine_protected, machine_end),
        cmocka_unit_test_setup_teardown(test_long_int_ist_iret, machine_long, machine_end),
        cmocka_unit_test_setup_teardown(test_long_iret_to_compat, machine_long, machine_end),
        cmocka_unit_test_setup_teardown(test_long_syscall, machine_long, machine_end),
        cmocka_unit_test_setup_teardown(test_long_tables, machine_long, machine_end),
    };
    return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
