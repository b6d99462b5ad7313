/* SPDX-License-Identifier: MIT */
/*
 * PUSHF, POPF, CLI, STI, CLD, STD, CLAC, STAC: flags that the host's own must not take over (SDM vol. 2; VME and PVI: vol. 3B, "Virtual-8086 Mode"
 * and "Protected-Mode Virtual Interrupts"). Called by exec.c through the helper table on the vCPU's own thread; no lock.
 * The run loop itself looks at interrupts after IF or the shadow changed.
 */
#include "engine/soft/help_misc.h"

static unsigned flags_iopl(const struct soft_vcpu *sv)
{
    return sv->v.cpu.rflags >> RFLAGS_IOPL_SHIFT & 3;
}

/* Replaces RFLAGS; whatever depends on AC, TF or VM is rebuilt only if they changed. */
static void flags_set(struct soft_vcpu *sv, uint64_t value)
{
    uint64_t changed = sv->v.cpu.rflags ^ value;
    sv->v.cpu.rflags = value | RFLAGS_RES1;
    if (changed & (RFLAGS_AC | RFLAGS_TF))
        mode_update(sv);
    if (changed & RFLAGS_AC)
        smap_ac_changed(sv);
}

enum step help_pushf(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in);
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP], flags = sv->v.cpu.rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF);
    if (misc_is_vm86(sv) && flags_iopl(sv) < 3) {
        if (!(sv->v.cpu.cr4 & CR4_VME) || bytes != 2)
            return step_fault_code(sv, VEC_GP, 0);
        flags = (flags & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL | (flags & RFLAGS_VIF ? RFLAGS_IF : 0);
    }
    enum step s = stack_push(sv, &sp, misc_truncate(flags, bytes), bytes);
    if (s == STEP_NEXT)
        stack_commit(sv, sp);
    return s;
}

#define POPF_ALWAYS (RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID)

/* Virtual-8086 mode with IOPL below 3: only 16-bit POPF under VME, and IF is VIF. */
static enum step popf_vme(struct soft_vcpu *sv, uint64_t popped, unsigned bytes, uint64_t *merged)
{
    uint64_t old = sv->v.cpu.rflags;
    if (!(sv->v.cpu.cr4 & CR4_VME) || bytes != 2 || (popped & RFLAGS_TF) || ((popped & RFLAGS_IF) && (old & RFLAGS_VIP)))
        return step_fault_code(sv, VEC_GP, 0);
    uint64_t mask = POPF_ALWAYS & 0xffff;
    *merged = (old & ~(mask | RFLAGS_VIF)) | (popped & mask) | (popped & RFLAGS_IF ? RFLAGS_VIF : 0);
    return STEP_NEXT;
}

enum step help_popf(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = misc_stack_op_bytes(in), cpl = vcpu_cpl(&sv->v);
    bool is_restricted = misc_is_vm86(sv) && flags_iopl(sv) < 3;
    uint64_t sp = sv->v.cpu.gpr[GPR_RSP], popped, merged;
    if (is_restricted && (!(sv->v.cpu.cr4 & CR4_VME) || bytes != 2))
        return step_fault_code(sv, VEC_GP, 0);
    enum step s = stack_pop(sv, &sp, &popped, bytes);
    if (s != STEP_NEXT)
        return s;
    if (is_restricted) {
        s = popf_vme(sv, popped, bytes, &merged);
        if (s != STEP_NEXT)
            return s;
    } else {
        uint64_t mask = POPF_ALWAYS;
        if (!misc_is_vm86(sv) && cpl == 0)
            mask |= RFLAGS_IOPL;
        if (cpl <= flags_iopl(sv))
            mask |= RFLAGS_IF;
        if (bytes == 2)
            mask &= 0xffff;
        merged = (sv->v.cpu.rflags & ~mask) | (popped & mask);
    }
    stack_commit(sv, sp);
    flags_set(sv, merged & ~(uint64_t)RFLAGS_RF);
    return STEP_NEXT;
}

/* Which flag CLI and STI act on: IF, VIF, or 0 if they fault. SDM vol. 2, "Decision Table for CLI Results". */
static uint32_t flags_interrupt_flag(const struct soft_vcpu *sv)
{
    if (!(sv->v.cpu.cr0 & CR0_PE))
        return RFLAGS_IF;
    if (misc_is_vm86(sv))
        return flags_iopl(sv) == 3 ? RFLAGS_IF : sv->v.cpu.cr4 & CR4_VME ? RFLAGS_VIF : 0;
    if (vcpu_cpl(&sv->v) <= flags_iopl(sv))
        return RFLAGS_IF;
    return vcpu_cpl(&sv->v) == 3 && (sv->v.cpu.cr4 & CR4_PVI) ? RFLAGS_VIF : 0;
}

enum step help_cli(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    uint32_t flag = flags_interrupt_flag(sv);
    if (!flag)
        return step_fault_code(sv, VEC_GP, 0);
    sv->v.cpu.rflags &= ~(uint64_t)flag;
    return STEP_NEXT;
}

enum step help_sti(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    uint32_t flag = flags_interrupt_flag(sv);
    if (!flag || (flag == RFLAGS_VIF && (sv->v.cpu.rflags & RFLAGS_VIP)))
        return step_fault_code(sv, VEC_GP, 0);
    if (flag == RFLAGS_IF && !(sv->v.cpu.rflags & RFLAGS_IF))
        sv->v.cpu.interrupt_shadow = SHADOW_STI;
    sv->v.cpu.rflags |= flag;
    return STEP_NEXT;
}

enum step help_cld(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    sv->v.cpu.rflags &= ~(uint64_t)RFLAGS_DF;
    return STEP_NEXT;
}

enum step help_std(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    sv->v.cpu.rflags |= RFLAGS_DF;
    return STEP_NEXT;
}

static enum step flags_set_ac(struct soft_vcpu *sv, bool is_set)
{
    if (vcpu_cpl(&sv->v) != 0)
        return step_fault(sv, VEC_UD);
    flags_set(sv, is_set ? sv->v.cpu.rflags | RFLAGS_AC : sv->v.cpu.rflags & ~(uint64_t)RFLAGS_AC);
    return STEP_NEXT;
}

enum step help_clac(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return flags_set_ac(sv, false);
}

enum step help_stac(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return flags_set_ac(sv, true);
}
