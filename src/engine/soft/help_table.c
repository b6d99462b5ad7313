/* SPDX-License-Identifier: MIT */
/*
 * Descriptor-table registers and questions about descriptors: LGDT LIDT SGDT SIDT LLDT LTR SLDT STR, LAR LSL VERR VERW ARPL (SDM vol. 2). Not here: SMSW and
 * LMSW, and loads of segment registers (help_seg.c). Runs on the vCPU's thread; no lock.
 */
#include "engine/soft/help_control.h"
#include "engine/soft/transfer.h"

/* The 16-bit selector operand n. */
static enum step selector_read(struct soft_vcpu *sv, const struct insn *in, unsigned n, uint16_t *selector)
{
    uint64_t value = 0;
    enum step step;
    if (in->opnd[n].kind == OPND_MEM)
        step = mem_read(sv, in, &value, 2);
    else
        step = opnd_read(sv, in, n, &value);
    *selector = (uint16_t)value;
    return step;
}

/* SLDT, STR: memory gets 16 bits, a register its operand size. */
static enum step selector_write(struct soft_vcpu *sv, const struct insn *in, uint16_t selector)
{
    if (in->opnd[0].kind == OPND_MEM)
        return mem_write(sv, in, &selector, 2);
    gpr_write(sv, in->opnd[0].reg, in->op_bytes, selector);
    return STEP_NEXT;
}

static void zf_set(struct soft_vcpu *sv, bool is_set)
{
    uint64_t *rflags = &sv->v.cpu.rflags;
    *rflags = is_set ? *rflags | RFLAGS_ZF : *rflags & ~(uint64_t)RFLAGS_ZF;
}

/* ---- LAR LSL VERR VERW ARPL ---- */

/* Reads the descriptor; *is_visible false if there is none or privilege hides it (conforming code is never hidden). */
static enum step visible_read(struct soft_vcpu *sv, uint16_t selector, struct descriptor *d, bool *is_visible)
{
    *is_visible = false;
    if (desc_is_null(selector))
        return STEP_NEXT;
    enum step step = desc_find(sv, selector, d, is_visible);
    if (step != STEP_NEXT || !*is_visible)
        return step;
    if (!desc_is_conforming(d) && (vcpu_cpl(&sv->v) > desc_dpl(d) || (selector & 3u) > desc_dpl(d)))
        *is_visible = false;
    return STEP_NEXT;
}

/* Types that LAR and LSL accept, as bit masks over the system types. */
#define LAR_TYPES_LEGACY 0x1a3eu /* 1 2 3 4 5 9 11 12 */
#define LAR_TYPES_LONG 0x1a04u   /* 2 9 11 12 */
#define LSL_TYPES_LEGACY 0x0a0eu /* 1 2 3 9 11 */
#define LSL_TYPES_LONG 0x0a04u   /* 2 9 11 */

static enum step lar_lsl(struct soft_vcpu *sv, const struct insn *in, bool is_lar)
{
    struct descriptor d;
    uint16_t selector;
    bool is_visible;
    uint32_t types = is_lar ? (desc_is_long(sv) ? LAR_TYPES_LONG : LAR_TYPES_LEGACY) : (desc_is_long(sv) ? LSL_TYPES_LONG : LSL_TYPES_LEGACY);
    if (desc_is_8086(sv))
        return step_fault(sv, VEC_UD);
    enum step step = selector_read(sv, in, 1, &selector);
    if (step == STEP_NEXT)
        step = visible_read(sv, selector, &d, &is_visible);
    if (step != STEP_NEXT)
        return step;
    is_visible = is_visible && (desc_is_segment(&d) || (types >> desc_type(&d) & 1));
    if (is_visible) {
        struct segment s;
        desc_to_segment(&d, selector, &s);
        gpr_write(sv, in->opnd[0].reg, in->op_bytes, is_lar ? (d.low >> 32 & 0xffff00) : s.limit);
    }
    zf_set(sv, is_visible);
    return STEP_NEXT;
}

enum step help_lar(struct soft_vcpu *sv, const struct insn *in)
{
    return lar_lsl(sv, in, true);
}

enum step help_lsl(struct soft_vcpu *sv, const struct insn *in)
{
    return lar_lsl(sv, in, false);
}

static enum step verify(struct soft_vcpu *sv, const struct insn *in, bool is_write)
{
    struct descriptor d;
    uint16_t selector;
    bool is_visible;
    if (desc_is_8086(sv))
        return step_fault(sv, VEC_UD);
    enum step step = selector_read(sv, in, 0, &selector);
    if (step == STEP_NEXT)
        step = visible_read(sv, selector, &d, &is_visible);
    if (step != STEP_NEXT)
        return step;
    if (is_visible && is_write)
        is_visible = desc_is_writable_data(&d);
    else if (is_visible)
        is_visible = desc_is_segment(&d) && (!desc_is_code(&d) || (desc_type(&d) & SEG_TYPE_READ));
    zf_set(sv, is_visible);
    return STEP_NEXT;
}

enum step help_verr(struct soft_vcpu *sv, const struct insn *in)
{
    return verify(sv, in, false);
}

enum step help_verw(struct soft_vcpu *sv, const struct insn *in)
{
    return verify(sv, in, true);
}

enum step help_arpl(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t to, from;
    if (desc_is_8086(sv))
        return step_fault(sv, VEC_UD);
    enum step step = opnd_read(sv, in, 0, &to);
    if (step == STEP_NEXT)
        step = opnd_read(sv, in, 1, &from);
    if (step != STEP_NEXT)
        return step;
    bool is_raised = (to & 3) < (from & 3);
    if (is_raised)
        step = opnd_write(sv, in, 0, (to & ~3ull) | (from & 3));
    if (step == STEP_NEXT)
        zf_set(sv, is_raised);
    return step;
}

/* ---- GDTR and IDTR ---- */

static bool umip_forbids(const struct soft_vcpu *sv)
{
    return (sv->v.cpu.cr4 & CR4_UMIP) && vcpu_cpl(&sv->v);
}

static enum step table_watch(struct soft_vcpu *sv, uint32_t table, bool is_load)
{
    if (!watch_is_on(sv, WATCH_TABLE))
        return STEP_NEXT;
    struct watch_event e = { .kind = WATCH_TABLE, .index = table, .access = is_load ? WATCH_WRITE : WATCH_READ };
    return watch_insn_ask(sv, &e);
}

static enum step table_load(struct soft_vcpu *sv, const struct insn *in, struct desc_table *table, uint32_t index)
{
    uint8_t raw[10];
    uint64_t base = 0;
    unsigned bytes = in->mode_bits == 64 ? 8 : 4;
    if (vcpu_cpl(&sv->v))
        return step_fault_code(sv, VEC_GP, 0);
    enum step step = table_watch(sv, index, true);
    if (step == STEP_NEXT)
        step = mem_read(sv, in, raw, 2 + bytes);
    if (step != STEP_NEXT)
        return step;
    for (unsigned i = 0; i < bytes; i++)
        base |= (uint64_t)raw[2 + i] << (8 * i);
    if (in->mode_bits != 64 && transfer_op_bytes(in) == 2)
        base &= 0xffffff;
    if (in->mode_bits == 64 && !desc_is_canonical(sv, base))
        return step_fault_code(sv, VEC_GP, 0);
    table->limit = (uint16_t)(raw[0] | raw[1] << 8);
    table->base = base;
    return STEP_NEXT;
}

/* 16-bit operand size stores the same six bytes, as processors since the 386 do. */
static enum step table_store(struct soft_vcpu *sv, const struct insn *in, const struct desc_table *table, uint32_t index)
{
    uint8_t raw[10];
    unsigned bytes = in->mode_bits == 64 ? 8 : 4;
    if (umip_forbids(sv))
        return step_fault_code(sv, VEC_GP, 0);
    enum step step = table_watch(sv, index, false);
    if (step != STEP_NEXT)
        return step;
    raw[0] = (uint8_t)table->limit;
    raw[1] = (uint8_t)(table->limit >> 8);
    for (unsigned i = 0; i < bytes; i++)
        raw[2 + i] = (uint8_t)(table->base >> (8 * i));
    return mem_write(sv, in, raw, 2 + bytes);
}

enum step help_lgdt(struct soft_vcpu *sv, const struct insn *in)
{
    return table_load(sv, in, &sv->v.cpu.gdtr, WATCH_GDTR);
}

enum step help_lidt(struct soft_vcpu *sv, const struct insn *in)
{
    return table_load(sv, in, &sv->v.cpu.idtr, WATCH_IDTR);
}

enum step help_sgdt(struct soft_vcpu *sv, const struct insn *in)
{
    return table_store(sv, in, &sv->v.cpu.gdtr, WATCH_GDTR);
}

enum step help_sidt(struct soft_vcpu *sv, const struct insn *in)
{
    return table_store(sv, in, &sv->v.cpu.idtr, WATCH_IDTR);
}

/* ---- LDTR and TR ---- */

/* Base of a system descriptor in the current mode: 16 bytes in long mode, where it must be canonical. */
static enum step system_base(struct soft_vcpu *sv, uint16_t selector, struct descriptor *d, uint64_t *base)
{
    if (!desc_is_long(sv))
        return STEP_NEXT;
    enum step step = desc_read_high(sv, selector, VEC_GP, 0, d);
    if (step != STEP_NEXT)
        return step;
    *base = desc_long_base(d);
    return desc_is_canonical(sv, *base) ? STEP_NEXT : step_fault_code(sv, VEC_GP, desc_error(selector, 0));
}

/* Reads a descriptor that must be in the GDT, of a type in the mask, and present. */
static enum step system_read(struct soft_vcpu *sv, uint16_t selector, uint32_t types, struct descriptor *d, struct segment *out)
{
    uint32_t error = desc_error(selector, 0);
    if (selector & 4)
        return step_fault_code(sv, VEC_GP, error);
    enum step step = desc_read(sv, selector, VEC_GP, 0, d);
    if (step != STEP_NEXT)
        return step;
    if (desc_is_segment(d) || !(types >> desc_type(d) & 1))
        return step_fault_code(sv, VEC_GP, error);
    if (!desc_is_present(d))
        return step_fault_code(sv, VEC_NP, error);
    desc_to_segment(d, selector, out);
    return system_base(sv, selector, d, &out->base);
}

/* LLDT and LTR read their operand only in protected mode at CPL 0. */
static enum step system_selector(struct soft_vcpu *sv, const struct insn *in, uint32_t index, uint16_t *selector)
{
    if (desc_is_8086(sv))
        return step_fault(sv, VEC_UD);
    if (vcpu_cpl(&sv->v))
        return step_fault_code(sv, VEC_GP, 0);
    enum step step = table_watch(sv, index, true);
    return step == STEP_NEXT ? selector_read(sv, in, 0, selector) : step;
}

enum step help_lldt(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct descriptor d;
    struct segment ldtr;
    uint16_t selector;
    enum step step = system_selector(sv, in, WATCH_LDTR, &selector);
    if (step != STEP_NEXT)
        return step;
    if (desc_is_null(selector)) {
        desc_set_null(&cpu->ldtr, selector);
        return STEP_NEXT;
    }
    step = system_read(sv, selector, 1u << DESC_LDT, &d, &ldtr);
    if (step == STEP_NEXT)
        cpu->ldtr = ldtr;
    return step;
}

enum step help_ltr(struct soft_vcpu *sv, const struct insn *in)
{
    struct descriptor d;
    struct segment tr;
    uint16_t selector;
    uint32_t types = desc_is_long(sv) ? 1u << DESC_TSS : 1u << DESC_TSS | 1u << DESC_TSS16;
    enum step step = system_selector(sv, in, WATCH_TR, &selector);
    if (step != STEP_NEXT)
        return step;
    if (desc_is_null(selector))
        return step_fault_code(sv, VEC_GP, 0);
    step = system_read(sv, selector, types, &d, &tr);
    if (step == STEP_NEXT)
        step = desc_set_busy(sv, d.address, true);
    if (step != STEP_NEXT)
        return step;
    tr.type |= DESC_TYPE_BUSY;
    sv->v.cpu.tr = tr;
    return STEP_NEXT;
}

static enum step system_store(struct soft_vcpu *sv, const struct insn *in, const struct segment *s, uint32_t index)
{
    if (desc_is_8086(sv))
        return step_fault(sv, VEC_UD);
    if (umip_forbids(sv))
        return step_fault_code(sv, VEC_GP, 0);
    enum step step = table_watch(sv, index, false);
    return step == STEP_NEXT ? selector_write(sv, in, s->selector) : step;
}

enum step help_sldt(struct soft_vcpu *sv, const struct insn *in)
{
    return system_store(sv, in, &sv->v.cpu.ldtr, WATCH_LDTR);
}

enum step help_str(struct soft_vcpu *sv, const struct insn *in)
{
    return system_store(sv, in, &sv->v.cpu.tr, WATCH_TR);
}
