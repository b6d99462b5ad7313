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
    if (in->opnd[0].kind == OPND_MEM)
        s = mem_write(sv, in, &value, bytes);
    else
        gpr_write(sv, in->opnd[0].reg, bytes, value);
    if (s != STEP_NEXT)
        sv->v.cpu.gpr[GPR_RSP] = old_sp;
    return s;
}

enum step help_pusha(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in);
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP];
    for (unsigned reg = GPR_RAX; reg <= GPR_RDI; reg++) {
        enum step s = stack_push(sv, &sp, misc_truncate(sv->v.cpu.gpr[reg], bytes), bytes);
        if (s != STEP_NEXT)
            return s;
    }
    stack_commit(sv, sp);
    return STEP_NEXT;
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
static enum step enter_display(struct soft_vcpu *sv, uint64_t *sp, unsigned level, unsigned bytes, uint64_t frame)
{
    uint64_t bp = sv->v.cpu.gpr[GPR_RBP];
    for (unsigned i = 1; i < level; i++) {
        uint64_t value = 0;
        bp -= bytes;
        enum step s = seg_read(sv, SEG_SS, misc_truncate(bp, sv->stack_bytes), &value, bytes);
        if (s == STEP_NEXT)
            s = stack_push(sv, sp, value, bytes);
        if (s != STEP_NEXT)
            return s;
    }
    return stack_push(sv, sp, misc_truncate(frame, bytes), bytes);
}

/* ENTER ends with a check that the new top of stack is writable; nothing is written there. SDM vol. 2, ENTER. */
enum step help_enter(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in), level = in->imm2 & 31;
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP];
    enum step s = stack_push(sv, &sp, misc_truncate(sv->v.cpu.gpr[GPR_RBP], bytes), bytes);
    if (s != STEP_NEXT)
        return s;
    uint64_t frame = sp;
    if (level) {
        s = enter_display(sv, &sp, level, bytes, frame);
        if (s != STEP_NEXT)
            return s;
    }
    sp -= in->imm & 0xffff;
    gva_t top;
    s = seg_linear(sv, SEG_SS, misc_truncate(sp, sv->stack_bytes), bytes, true, &top);
    if (s == STEP_NEXT)
        s = linear_probe_write(sv, top, bytes, ACCESS_WRITE);
    if (s != STEP_NEXT)
        return s;
    stack_commit(sv, sp);
    gpr_write(sv, GPR_RBP, bytes, misc_truncate(frame, bytes));
    return STEP_NEXT;
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
