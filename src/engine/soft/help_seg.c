/* SPDX-License-Identifier: MIT */
/*
 * Segment registers: MOV, PUSH, POP, LDS and its kin, SWAPGS and the FS/GS base instructions (SDM vol. 2; vol. 3A, "Privilege Level Checking When Accessing
 * Data Segments" and "Stack Segment"). Not here: CS, which only far transfers load (help_far.c), and the table registers (help_table.c).
 * Runs on the vCPU's thread; no lock.
 */
#include "engine/soft/help_control.h"
#include "engine/soft/transfer.h"

/* All checks of a load; the new register goes to *out. */
static enum step seg_prepare(struct soft_vcpu *sv, unsigned seg, uint16_t selector, struct segment *out)
{
    const struct segment *old = &sv->v.cpu.seg[seg];
    unsigned cpl = vcpu_cpl(&sv->v);
    if (desc_is_8086(sv)) {
        *out = *old;
        desc_set_8086(sv, out, selector);
        return STEP_NEXT;
    }
    if (seg != SEG_SS)
        return transfer_load_data(sv, old, selector, cpl, VEC_GP, 0, out);
    if (desc_is_null(selector) && desc_is_64bit(sv) && cpl < 3 && (selector & 3u) == cpl) {
        *out = *old;
        desc_set_null(out, selector);
        out->dpl = (uint8_t)cpl;
        return STEP_NEXT;
    }
    return transfer_load_ss(sv, selector, cpl, VEC_GP, 0, out);
}

static void seg_commit(struct soft_vcpu *sv, unsigned seg, const struct segment *value)
{
    sv->v.cpu.seg[seg] = *value;
    mode_update(sv);
}

enum step seg_load(struct soft_vcpu *sv, unsigned seg, uint16_t selector)
{
    struct segment value;
    enum step step = seg_prepare(sv, seg, selector, &value);
    if (step == STEP_NEXT)
        seg_commit(sv, seg, &value);
    return step;
}

/* To memory 16 bits whatever the operand size; to a register zero-extended. */
static enum step mov_from_seg(struct soft_vcpu *sv, const struct insn *in)
{
    uint16_t selector = sv->v.cpu.seg[in->opnd[1].reg].selector;
    if (in->opnd[0].kind == OPND_MEM)
        return mem_write(sv, in, &selector, 2);
    gpr_write(sv, in->opnd[0].reg, in->op_bytes, selector);
    return STEP_NEXT;
}

enum step help_mov_seg(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t value = 0;
    unsigned seg = in->opnd[0].reg;
    enum step step;
    if (in->opnd[0].kind != OPND_SEG)
        return in->opnd[1].reg < SEG_COUNT ? mov_from_seg(sv, in) : step_fault(sv, VEC_UD);
    if (seg >= SEG_COUNT || seg == SEG_CS)
        return step_fault(sv, VEC_UD);
    if (in->opnd[1].kind == OPND_MEM)
        step = mem_read(sv, in, &value, 2);
    else
        step = opnd_read(sv, in, 1, &value);
    if (step == STEP_NEXT)
        step = seg_load(sv, seg, (uint16_t)value);
    if (step == STEP_NEXT && seg == SEG_SS)
        sv->v.cpu.interrupt_shadow = SHADOW_MOV_SS;
    return step;
}

/* Pushes and pops of segment registers are 64 bits wide in 64-bit mode. */
static unsigned seg_stack_bytes(const struct insn *in)
{
    if (in->mode_bits == 64)
        return in->has_66 && !in->rex_w ? 2 : 8;
    return transfer_op_bytes(in);
}

enum step help_push_seg(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP];
    unsigned bytes = seg_stack_bytes(in);
    uint16_t selector = sv->v.cpu.seg[in->opnd[0].reg].selector;
    enum step step;
    if (bytes == 4) { /* only 16 bits of the slot are written (SDM vol. 2, "PUSH") */
        uint64_t mask = sv->stack_bytes == 8 ? ~0ull : (1ull << (8 * sv->stack_bytes)) - 1;
        sp -= 4;
        step = seg_write(sv, SEG_SS, sp & mask, &selector, 2);
    } else {
        step = stack_push(sv, &sp, selector, bytes);
    }
    if (step == STEP_NEXT)
        stack_commit(sv, sp);
    return step;
}

enum step help_pop_seg(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP], value;
    unsigned seg = in->opnd[0].reg;
    struct segment s;
    if (seg == SEG_CS)
        return step_fault(sv, VEC_UD);
    enum step step = stack_pop(sv, &sp, &value, seg_stack_bytes(in));
    if (step == STEP_NEXT)
        step = seg_prepare(sv, seg, (uint16_t)value, &s);
    if (step != STEP_NEXT)
        return step;
    /* rSP moves by the width of the old stack, so before POP SS changes it. */
    stack_commit(sv, sp);
    seg_commit(sv, seg, &s);
    if (seg == SEG_SS)
        sv->v.cpu.interrupt_shadow = SHADOW_MOV_SS;
    return STEP_NEXT;
}

static enum step seg_far_load(struct soft_vcpu *sv, const struct insn *in, unsigned seg)
{
    struct {
        uint64_t offset;
        uint8_t tail[8];
    } raw = { 0 };
    struct segment s;
    unsigned bytes = in->op_bytes;
    const uint8_t *at = (const uint8_t *)&raw + bytes;
    if (!in->has_mem)
        return step_fault(sv, VEC_UD);
    enum step step = mem_read(sv, in, &raw, bytes + 2);
    if (step != STEP_NEXT)
        return step;
    step = seg_prepare(sv, seg, (uint16_t)(at[0] | at[1] << 8), &s);
    if (step != STEP_NEXT)
        return step;
    gpr_write(sv, in->opnd[0].reg, bytes, bytes == 8 ? raw.offset : raw.offset & ((1ull << (8 * bytes)) - 1));
    seg_commit(sv, seg, &s);
    return STEP_NEXT;
}

enum step help_lds(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_far_load(sv, in, SEG_DS);
}

enum step help_les(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_far_load(sv, in, SEG_ES);
}

enum step help_lfs(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_far_load(sv, in, SEG_FS);
}

enum step help_lgs(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_far_load(sv, in, SEG_GS);
}

enum step help_lss(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_far_load(sv, in, SEG_SS);
}

/* ---- bases of FS and GS ---- */

enum step help_swapgs(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *cpu = &sv->v.cpu;
    (void)in;
    if (!desc_is_64bit(sv))
        return step_fault(sv, VEC_UD);
    if (vcpu_cpl(&sv->v))
        return step_fault_code(sv, VEC_GP, 0);
    uint64_t base = cpu->seg[SEG_GS].base;
    cpu->seg[SEG_GS].base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
    return STEP_NEXT;
}

static enum step seg_base_read(struct soft_vcpu *sv, const struct insn *in, unsigned seg)
{
    const struct cpu_state *cpu = &sv->v.cpu;
    if (!desc_is_64bit(sv) || !(cpu->cr4 & CR4_FSGSBASE))
        return step_fault(sv, VEC_UD);
    return opnd_write(sv, in, 0, cpu->seg[seg].base);
}

static enum step seg_base_write(struct soft_vcpu *sv, const struct insn *in, unsigned seg)
{
    struct cpu_state *cpu = &sv->v.cpu;
    uint64_t value;
    if (!desc_is_64bit(sv) || !(cpu->cr4 & CR4_FSGSBASE))
        return step_fault(sv, VEC_UD);
    enum step step = opnd_read(sv, in, 0, &value);
    if (step != STEP_NEXT)
        return step;
    if (!desc_is_canonical(sv, value))
        return step_fault_code(sv, VEC_GP, 0);
    cpu->seg[seg].base = value;
    return STEP_NEXT;
}

enum step help_rdfsbase(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_base_read(sv, in, SEG_FS);
}

enum step help_rdgsbase(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_base_read(sv, in, SEG_GS);
}

enum step help_wrfsbase(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_base_write(sv, in, SEG_FS);
}

enum step help_wrgsbase(struct soft_vcpu *sv, const struct insn *in)
{
    return seg_base_write(sv, in, SEG_GS);
}
