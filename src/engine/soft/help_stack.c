/* SPDX-License-Identifier: MIT */
/*
 * PUSH, POP, PUSHA, POPA, ENTER, LEAVE with general operands (SDM vol. 2). Segment registers and flags are elsewhere.
 * Called by exec.c through the helper table on the vCPU's own thread; no lock. rSP is committed last.
 */
#include "engine/soft/help_misc.h"

enum step help_push(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in);
    uint64_t value = 0, sp = sv->v.cpu.gpr[GPR_RSP];
    enum step s = STEP_NEXT;
    if (in->opnd[0].kind == OPND_IMM)
        value = in->imm;
    else if (in->opnd[0].kind == OPND_MEM)
        s = mem_read(sv, in, &value, bytes);
    else
        value = sv->v.cpu.gpr[in->opnd[0].reg];
    if (s == STEP_NEXT)
        s = stack_push(sv, &sp, misc_truncate(value, bytes), bytes);
    if (s == STEP_NEXT)
        stack_commit(sv, sp);
    return s;
}

/* A memory destination that uses rSP sees it incremented; POP rSP itself loads the popped value. SDM vol. 2, POP. */
enum step help_pop(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in);
    uint64_t value, old_sp = sv->v.cpu.gpr[GPR_RSP], sp = old_sp;
    enum step s = stack_pop(sv, &sp, &value, bytes);
    if (s != STEP_NEXT)
        return s;
    stack_commit(sv, sp);
    if (in->opnd[0].kind != OPND_MEM) {
        gpr_write(sv, in->opnd[0].reg, bytes, value);
        return STEP_NEXT;
    }
    uint64_t ea = insn_ea(sv, in);
    sv->v.cpu.gpr[GPR_RSP] = old_sp; /* until it is written: a tool may look */
    s = seg_write(sv, in->mem.seg, ea, &value, bytes);
    if (s == STEP_NEXT)
        stack_commit(sv, sp);
    return s;
}

/* A push, or before all pushes of an instruction the question whether tools let it happen. */
static enum step push_part(struct soft_vcpu *sv, uint64_t *sp, uint64_t value, unsigned bytes, bool is_question)
{
    if (!is_question)
        return stack_push(sv, sp, misc_truncate(value, bytes), bytes);
    gva_t top;
    *sp -= bytes;
    enum step s = seg_linear(sv, SEG_SS, misc_truncate(*sp, sv->stack_bytes), bytes, true, &top);
    return s == STEP_NEXT ? linear_probe_write(sv, top, bytes, 0) : s;
}

static enum step pusha(struct soft_vcpu *sv, unsigned bytes, bool is_question)
{
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP];
    enum step s = STEP_NEXT;
    for (unsigned reg = GPR_RAX; reg <= GPR_RDI && s == STEP_NEXT; reg++)
        s = push_part(sv, &sp, sv->v.cpu.gpr[reg], bytes, is_question);
    if (s == STEP_NEXT && !is_question)
        stack_commit(sv, sp);
    return s;
}

enum step help_pusha(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in);
    enum step s = watch_has_pages(sv) ? pusha(sv, bytes, true) : STEP_NEXT;
    return s == STEP_NEXT ? pusha(sv, bytes, false) : s;
}

enum step help_popa(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in);
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP], value[8];
    for (unsigned i = 8; i-- > 0;) {
        enum step s = stack_pop(sv, &sp, &value[i], bytes);
        if (s != STEP_NEXT)
            return s;
    }
    stack_commit(sv, sp);
    for (unsigned reg = GPR_RAX; reg <= GPR_RDI; reg++)
        if (reg != GPR_RSP)
            gpr_write(sv, reg, bytes, value[reg]);
    return STEP_NEXT;
}

/* Copies the display: level - 1 frame pointers below rBP, then the new frame pointer. */
static enum step enter_display(struct soft_vcpu *sv, uint64_t *sp, unsigned level, unsigned bytes, uint64_t frame, bool is_question)
{
    uint64_t bp = sv->v.cpu.gpr[GPR_RBP];
    for (unsigned i = 1; i < level; i++) {
        uint64_t value = 0;
        bp -= bytes;
        enum step s = seg_read(sv, SEG_SS, misc_truncate(bp, sv->stack_bytes), &value, bytes);
        if (s == STEP_NEXT)
            s = push_part(sv, sp, value, bytes, is_question);
        if (s != STEP_NEXT)
            return s;
    }
    return push_part(sv, sp, frame, bytes, is_question);
}

/* ENTER ends with a check that the new top of stack is writable; nothing is written there. SDM vol. 2, ENTER. */
static enum step enter(struct soft_vcpu *sv, const struct insn *in, bool is_question)
{
    unsigned bytes = misc_stack_op_bytes(in), level = in->imm2 & 31;
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP];
    enum step s = push_part(sv, &sp, sv->v.cpu.gpr[GPR_RBP], bytes, is_question);
    uint64_t frame = sp;
    if (s == STEP_NEXT && level)
        s = enter_display(sv, &sp, level, bytes, frame, is_question);
    if (s != STEP_NEXT || is_question)
        return s;
    sp -= in->imm & 0xffff;
    gva_t top;
    s = seg_linear(sv, SEG_SS, misc_truncate(sp, sv->stack_bytes), bytes, true, &top);
    if (s == STEP_NEXT)
        s = linear_probe_write(sv, top, bytes, ACCESS_UNTOLD);
    if (s != STEP_NEXT)
        return s;
    stack_commit(sv, sp);
    gpr_write(sv, GPR_RBP, bytes, misc_truncate(frame, bytes));
    return STEP_NEXT;
}

enum step help_enter(struct soft_vcpu *sv, const struct insn *in)
{
    enum step s = watch_has_pages(sv) ? enter(sv, in, true) : STEP_NEXT;
    return s == STEP_NEXT ? enter(sv, in, false) : s;
}

enum step help_leave(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in);
    uint64_t sp = sv->v.cpu.gpr[GPR_RBP], value;
    enum step s = stack_pop(sv, &sp, &value, bytes);
    if (s != STEP_NEXT)
        return s;
    stack_commit(sv, sp);
    gpr_write(sv, GPR_RBP, bytes, value);
    return STEP_NEXT;
}
