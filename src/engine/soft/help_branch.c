/* SPDX-License-Identifier: MIT */
/*
 * Near branches: JMP, CALL, RET, Jcc, JrCXZ, LOOPcc (SDM vol. 2). Not far transfers, and not what translated code does for itself.
 * Called by exec.c through the helper table on the vCPU's own thread; no lock.
 */
#include "engine/soft/help_misc.h"

/* In 64-bit mode near branches are 64-bit whatever the operand-size prefix says (Intel's rule). */
static unsigned branch_bytes(const struct insn *in)
{
    if (in->mode_bits == 64)
        return 8;
    return (in->mode_bits == 16) == in->has_66 ? 4 : 2;
}

/* Truncates a target to the operand size and checks that rip may go there. */
static enum step branch_check(struct soft_vcpu *sv, const struct insn *in, uint64_t *target)
{
    *target = misc_truncate(*target, branch_bytes(in));
    if (in->mode_bits == 64 ? !misc_is_canonical(sv, *target) : *target > sv->v.cpu.seg[SEG_CS].limit)
        return step_fault_code(sv, VEC_GP, 0);
    return STEP_JUMP;
}

static uint64_t branch_relative(const struct soft_vcpu *sv, const struct insn *in)
{
    return sv->v.cpu.rip + in->len + in->imm;
}

/* The operand of JMP and CALL: a displacement, or a register or memory that holds the target. */
static enum step branch_target(struct soft_vcpu *sv, const struct insn *in, uint64_t *target)
{
    if (in->opnd[0].kind == OPND_REL || in->opnd[0].kind == OPND_IMM) {
        *target = branch_relative(sv, in);
    } else if (in->opnd[0].kind == OPND_GPR) {
        *target = sv->v.cpu.gpr[in->opnd[0].reg];
    } else {
        *target = 0;
        enum step s = mem_read(sv, in, target, branch_bytes(in));
        if (s != STEP_NEXT)
            return s;
    }
    return branch_check(sv, in, target);
}

enum step help_jmp_near(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t target;
    enum step s = branch_target(sv, in, &target);
    if (s == STEP_JUMP)
        sv->v.cpu.rip = target;
    return s;
}

/* The target is checked before the push so that a fault leaves no trace. */
enum step help_call_near(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t target, sp = sv->v.cpu.gpr[GPR_RSP];
    enum step s = branch_target(sv, in, &target);
    if (s != STEP_JUMP)
        return s;
    s = stack_push(sv, &sp, misc_next_rip(sv, in), branch_bytes(in));
    if (s != STEP_NEXT)
        return s;
    stack_commit(sv, sp);
    sv->v.cpu.rip = target;
    return STEP_JUMP;
}

enum step help_ret_near(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t target, sp = sv->v.cpu.gpr[GPR_RSP];
    enum step s = stack_pop(sv, &sp, &target, branch_bytes(in));
    if (s != STEP_NEXT)
        return s;
    s = branch_check(sv, in, &target);
    if (s != STEP_JUMP)
        return s;
    bool has_imm = in->opcode == 0xc2;
    stack_commit(sv, sp + (has_imm ? in->imm & 0xffff : 0));
    sv->v.cpu.rip = target;
    return STEP_JUMP;
}

/* The low four opcode bits are the condition; bit 0 inverts. SDM vol. 2, "Encoding of Conditional Test (tttn) Field". */
static bool branch_condition(uint64_t f, unsigned cc)
{
    bool less = !(f & RFLAGS_SF) != !(f & RFLAGS_OF), holds = false;
    switch (cc >> 1 & 7) {
    case 0:
        holds = f & RFLAGS_OF;
        break;
    case 1:
        holds = f & RFLAGS_CF;
        break;
    case 2:
        holds = f & RFLAGS_ZF;
        break;
    case 3:
        holds = f & (RFLAGS_CF | RFLAGS_ZF);
        break;
    case 4:
        holds = f & RFLAGS_SF;
        break;
    case 5:
        holds = f & RFLAGS_PF;
        break;
    case 6:
        holds = less;
        break;
    case 7:
        holds = less || (f & RFLAGS_ZF);
        break;
    }
    return holds != (cc & 1);
}

static enum step branch_if(struct soft_vcpu *sv, const struct insn *in, bool is_taken)
{
    if (!is_taken)
        return STEP_NEXT;
    uint64_t target = branch_relative(sv, in);
    enum step s = branch_check(sv, in, &target);
    if (s == STEP_JUMP)
        sv->v.cpu.rip = target;
    return s;
}

enum step help_jcc(struct soft_vcpu *sv, const struct insn *in)
{
    return branch_if(sv, in, branch_condition(sv->v.cpu.rflags, in->opcode & 15));
}

enum step help_jcxz(struct soft_vcpu *sv, const struct insn *in)
{
    return branch_if(sv, in, misc_truncate(sv->v.cpu.gpr[GPR_RCX], in->addr_bytes) == 0);
}

/* LOOPNE E0, LOOPE E1, LOOP E2. The count is committed only when the branch cannot fault. */
enum step help_loop(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t count = misc_truncate(sv->v.cpu.gpr[GPR_RCX] - 1, in->addr_bytes);
    bool is_zf = sv->v.cpu.rflags & RFLAGS_ZF, is_taken = count != 0;
    if (in->opcode == 0xe0)
        is_taken = is_taken && !is_zf;
    else if (in->opcode == 0xe1)
        is_taken = is_taken && is_zf;
    enum step s = branch_if(sv, in, is_taken);
    if (s != STEP_FAULT)
        gpr_write(sv, GPR_RCX, in->addr_bytes, count);
    return s;
}
