/* SPDX-License-Identifier: MIT */
/*
 * IRET, IRETD and IRETQ in every mode (SDM vol. 2, "IRET/IRETD/IRETQ"): real, virtual-8086, protected to the same or an outer level, to virtual-8086 mode, back
 * to the previous task, 64-bit and compatibility mode. Runs on the vCPU's thread; no lock. RF is loaded as popped: the run loop must not clear it after IRET.
 */
#include "engine/soft/help_control.h"
#include "engine/soft/transfer.h"

#define IRET_FLAGS16 (RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT)
#define IRET_FLAGS32 (RFLAGS_RF | RFLAGS_AC | RFLAGS_ID)
#define IRET_FLAGS_VIRTUAL (RFLAGS_VIF | RFLAGS_VIP)

static void iret_set_flags(struct soft_vcpu *sv, uint64_t image, uint32_t mask)
{
    uint64_t *rflags = &sv->v.cpu.rflags;
    *rflags = (*rflags & ~(uint64_t)mask) | (image & mask) | RFLAGS_RES1;
}

/* NMIs are open again: one that came meanwhile is due. */
static void iret_unmask_nmi(struct soft_vcpu *sv)
{
    sv->v.cpu.nmi_masked = false;
    if (atomic_load(&sv->v.ev.nmi_pending))
        atomic_store(&sv->v.exit_req, 1);
}

/* What every successful IRET ends with. */
static enum step iret_done(struct soft_vcpu *sv, uint64_t rip)
{
    sv->v.cpu.rip = rip;
    iret_unmask_nmi(sv);
    mode_update(sv);
    return STEP_JUMP;
}

/* ---- real and virtual-8086 mode ---- */

static enum step iret_8086(struct soft_vcpu *sv, unsigned bytes)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    uint64_t items[3];
    bool is_vm86 = desc_is_vm86(sv), is_virtual_if = false;
    uint32_t mask = IRET_FLAGS16 | RFLAGS_IF | (bytes > 2 ? IRET_FLAGS32 : 0) | (is_vm86 ? 0 : RFLAGS_IOPL);
    if (is_vm86 && (cpu->rflags & RFLAGS_IOPL) != RFLAGS_IOPL) {
        if (!(cpu->cr4 & CR4_VME) || bytes != 2)
            return step_fault_code(sv, VEC_GP, 0);
        is_virtual_if = true;
        mask &= ~RFLAGS_IF;
    }
    transfer_current_stack(sv, &st);
    enum step step = transfer_pop(sv, &st, items, 3, bytes);
    if (step == STEP_NEXT)
        step = transfer_check_rip(sv, &cpu->seg[SEG_CS], items[0], 0);
    if (step != STEP_NEXT)
        return step;
    if (is_virtual_if && ((items[2] & RFLAGS_TF) || ((items[2] & RFLAGS_IF) && (cpu->rflags & RFLAGS_VIP))))
        return step_fault_code(sv, VEC_GP, 0);
    cpu->gpr[GPR_RSP] = st.sp;
    iret_set_flags(sv, items[2], mask);
    if (is_virtual_if)
        cpu->rflags = (cpu->rflags & ~(uint64_t)RFLAGS_VIF) | (items[2] & RFLAGS_IF ? RFLAGS_VIF : 0);
    desc_set_8086(sv, &cpu->seg[SEG_CS], (uint16_t)items[1]);
    return iret_done(sv, items[0]);
}

/* ---- protected and long mode ---- */

/* The flags that an IRET at this CPL may change. */
static uint32_t iret_mask(const struct cpu_state *cpu, unsigned cpl, unsigned bytes)
{
    uint32_t mask = IRET_FLAGS16;
    if (bytes > 2)
        mask |= IRET_FLAGS32;
    if (cpl <= (cpu->rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT)
        mask |= RFLAGS_IF;
    if (cpl == 0)
        mask |= RFLAGS_IOPL | (bytes > 2 ? IRET_FLAGS_VIRTUAL : 0);
    return mask;
}

/* To virtual-8086 mode: the frame goes on with ESP SS ES DS FS GS. */
static enum step iret_to_vm86(struct soft_vcpu *sv, struct transfer_stack *st, const uint64_t *head)
{
    static const uint8_t order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    struct cpu_state *cpu = &sv->v.cpu;
    uint64_t items[6];
    enum step step = transfer_pop(sv, st, items, 6, 4);
    if (step != STEP_NEXT)
        return step;
    if (head[0] > 0xffff)
        return step_fault_code(sv, VEC_GP, 0);
    iret_set_flags(sv, head[2], IRET_FLAGS16 | IRET_FLAGS32 | IRET_FLAGS_VIRTUAL | RFLAGS_IF | RFLAGS_IOPL | RFLAGS_VM);
    desc_set_vm86(&cpu->seg[SEG_CS], (uint16_t)head[1]);
    for (unsigned i = 0; i < 5; i++)
        desc_set_vm86(&cpu->seg[order[i]], (uint16_t)items[1 + i]);
    cpu->gpr[GPR_RSP] = items[0];
    return iret_done(sv, head[0]);
}

/* With a stack in the frame: to an outer level, and always from 64-bit mode. */
static enum step iret_with_stack(struct soft_vcpu *sv, struct transfer_stack *st, const struct segment *cs, const uint64_t *head, unsigned bytes)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct segment ss;
    uint64_t items[2];
    unsigned old_cpl = vcpu_cpl(&sv->v), cpl = cs->selector & 3u;
    enum step step = transfer_pop(sv, st, items, 2, bytes);
    if (step == STEP_NEXT)
        step = transfer_load_return_ss(sv, (uint16_t)items[1], cpl, cs, &ss);
    if (step == STEP_NEXT)
        step = transfer_check_rip(sv, cs, head[0], 0);
    if (step != STEP_NEXT)
        return step;
    iret_set_flags(sv, head[2], iret_mask(cpu, old_cpl, bytes));
    cpu->seg[SEG_SS] = ss;
    transfer_set_cs(sv, cs, cpl);
    transfer_set_outer_sp(sv, items[0]);
    if (cpl > old_cpl)
        transfer_set_outer_data(sv, cpl);
    return iret_done(sv, head[0]);
}

static enum step iret_same_level(struct soft_vcpu *sv, const struct transfer_stack *st, const struct segment *cs, const uint64_t *head, unsigned bytes)
{
    struct cpu_state *cpu = &sv->v.cpu;
    unsigned cpl = vcpu_cpl(&sv->v);
    enum step step = transfer_check_rip(sv, cs, head[0], 0);
    if (step != STEP_NEXT)
        return step;
    cpu->gpr[GPR_RSP] = st->sp;
    iret_set_flags(sv, head[2], iret_mask(cpu, cpl, bytes));
    transfer_set_cs(sv, cs, cpl);
    return iret_done(sv, head[0]);
}

/* NT set: the back link of the current TSS names the task to return to. */
static enum step iret_task(struct soft_vcpu *sv, const struct insn *in)
{
    uint16_t link;
    enum step step = linear_read(sv, desc_linear(sv, sv->v.cpu.tr.base), &link, 2, ACCESS_READ | ACCESS_IMPLICIT);
    if (step == STEP_NEXT)
        step = task_switch_insn(sv, TASK_IRET, link, transfer_next_rip(sv, in));
    if (step == STEP_JUMP)
        iret_unmask_nmi(sv);
    return step;
}

static enum step iret_protected(struct soft_vcpu *sv, const struct insn *in, unsigned bytes)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    struct segment cs;
    uint64_t head[3];
    unsigned cpl = vcpu_cpl(&sv->v);
    if (cpu->rflags & RFLAGS_NT)
        return desc_is_long(sv) ? step_fault_code(sv, VEC_GP, 0) : iret_task(sv, in);
    transfer_current_stack(sv, &st);
    enum step step = transfer_pop(sv, &st, head, 3, bytes);
    if (step != STEP_NEXT)
        return step;
    if (!desc_is_long(sv) && cpl == 0 && bytes == 4 && (head[2] & RFLAGS_VM))
        return iret_to_vm86(sv, &st, head);
    step = transfer_load_return_cs(sv, (uint16_t)head[1], &cs);
    if (step != STEP_NEXT)
        return step;
    if (desc_is_64bit(sv) || (cs.selector & 3u) > cpl)
        return iret_with_stack(sv, &st, &cs, head, bytes);
    return iret_same_level(sv, &st, &cs, head, bytes);
}

enum step help_iret(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = transfer_op_bytes(in);
    return desc_is_8086(sv) ? iret_8086(sv, bytes) : iret_protected(sv, in, bytes);
}
