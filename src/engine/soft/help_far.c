/* SPDX-License-Identifier: MIT */
/*
 * Far JMP, CALL and RET in every mode, call gates included (SDM vol. 2, their operation sections; vol. 3A, "Privilege Level Checking When Transferring Program
 * Control Between Code Segments"). Not here: IRET (help_iret.c), task switches (help_task.c). Runs on the vCPU's thread; no lock.
 */
#include "engine/soft/help_control.h"
#include "engine/soft/transfer.h"

struct far_pointer {
    uint16_t selector;
    uint64_t offset;
};

static enum step far_gp(struct soft_vcpu *sv, uint16_t selector)
{
    return step_fault_code(sv, VEC_GP, desc_error(selector, 0));
}

static enum step far_pointer_read(struct soft_vcpu *sv, const struct insn *in, struct far_pointer *p)
{
    uint8_t raw[10] = { 0 };
    unsigned bytes = transfer_op_bytes(in);
    if (!in->has_mem) {
        p->offset = bytes == 2 ? in->imm & 0xffff : in->imm & 0xffffffff;
        p->selector = (uint16_t)in->imm2;
        return STEP_NEXT;
    }
    enum step step = mem_read(sv, in, raw, bytes + 2);
    if (step != STEP_NEXT)
        return step;
    p->offset = 0;
    for (unsigned i = 0; i < bytes; i++)
        p->offset |= (uint64_t)raw[i] << (8 * i);
    p->selector = (uint16_t)(raw[bytes] | raw[bytes + 1] << 8);
    return STEP_NEXT;
}

/* Pushes CS and the return address on the current stack; the caller commits st. */
static enum step far_push_return(struct soft_vcpu *sv, const struct insn *in, struct transfer_stack *st, unsigned bytes)
{
    uint64_t items[2] = { sv->v.cpu.seg[SEG_CS].selector, transfer_next_rip(sv, in) };
    return transfer_push(sv, st, items, 2, bytes);
}

/* ---- real and virtual-8086 mode ---- */

static enum step far_8086(struct soft_vcpu *sv, const struct insn *in, const struct far_pointer *p, bool is_call)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    enum step step = transfer_check_rip(sv, &cpu->seg[SEG_CS], p->offset, 0);
    if (step != STEP_NEXT)
        return step;
    transfer_current_stack(sv, &st);
    if (is_call)
        step = far_push_return(sv, in, &st, transfer_op_bytes(in));
    if (step != STEP_NEXT)
        return step;
    cpu->gpr[GPR_RSP] = st.sp;
    desc_set_8086(sv, &cpu->seg[SEG_CS], p->selector);
    cpu->rip = p->offset;
    mode_update(sv);
    return STEP_JUMP;
}

static enum step far_ret_8086(struct soft_vcpu *sv, unsigned bytes, unsigned drop)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    uint64_t items[2];
    transfer_current_stack(sv, &st);
    enum step step = transfer_pop(sv, &st, items, 2, bytes);
    if (step == STEP_NEXT)
        step = transfer_check_rip(sv, &cpu->seg[SEG_CS], items[0], 0);
    if (step != STEP_NEXT)
        return step;
    transfer_drop(&st, drop);
    cpu->gpr[GPR_RSP] = st.sp;
    desc_set_8086(sv, &cpu->seg[SEG_CS], (uint16_t)items[1]);
    cpu->rip = items[0];
    mode_update(sv);
    return STEP_JUMP;
}

/* ---- protected mode: straight to a code segment ---- */

static enum step far_direct(struct soft_vcpu *sv, const struct insn *in, const struct far_pointer *p, struct descriptor *d, bool is_call)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    struct segment cs;
    unsigned cpl = vcpu_cpl(&sv->v), dpl = desc_dpl(d);
    if (!desc_is_code(d) || (desc_is_long(sv) && desc_is_bad_code(d)))
        return far_gp(sv, p->selector);
    if (desc_is_conforming(d) ? dpl > cpl : (p->selector & 3u) > cpl || dpl != cpl)
        return far_gp(sv, p->selector);
    if (!desc_is_present(d))
        return step_fault_code(sv, VEC_NP, desc_error(p->selector, 0));
    desc_to_segment(d, p->selector, &cs);
    cs.type |= SEG_TYPE_ACCESSED;
    enum step step = transfer_check_rip(sv, &cs, p->offset, 0);
    if (step == STEP_NEXT)
        step = desc_set_accessed(sv, d);
    if (step != STEP_NEXT)
        return step;
    transfer_current_stack(sv, &st);
    if (is_call)
        step = far_push_return(sv, in, &st, transfer_op_bytes(in));
    if (step != STEP_NEXT)
        return step;
    cpu->gpr[GPR_RSP] = st.sp;
    transfer_set_cs(sv, &cs, cpl);
    cpu->rip = p->offset;
    mode_update(sv);
    return STEP_JUMP;
}

/* ---- call gates ---- */

struct call_gate {
    uint16_t selector; /* of the code segment */
    uint64_t offset;
    unsigned bytes, params;
    struct descriptor d; /* of the code segment */
    struct segment cs;
};

static void gate_parse(const struct descriptor *d, bool is_long, struct call_gate *g)
{
    uint64_t low = d->low;
    g->selector = (uint16_t)(low >> 16);
    g->offset = (low & 0xffff) | (low >> 48 << 16);
    g->bytes = 4;
    g->params = low >> 32 & 31;
    if (is_long) {
        g->bytes = 8;
        g->params = 0;
        g->offset |= d->high << 32;
    } else if (desc_type(d) == DESC_CALL16) {
        g->bytes = 2;
        g->offset &= 0xffff;
    }
}

/* Checks the gate's code segment and the entry point in it. */
static enum step gate_code(struct soft_vcpu *sv, struct call_gate *g, bool is_call)
{
    unsigned cpl = vcpu_cpl(&sv->v);
    if (desc_is_null(g->selector))
        return step_fault_code(sv, VEC_GP, 0);
    enum step step = desc_read(sv, g->selector, VEC_GP, 0, &g->d);
    if (step != STEP_NEXT)
        return step;
    if (!desc_is_code(&g->d) || desc_dpl(&g->d) > cpl)
        return far_gp(sv, g->selector);
    if (desc_is_long(sv) && !desc_is_long_code(&g->d))
        return far_gp(sv, g->selector);
    if (!is_call && !desc_is_conforming(&g->d) && desc_dpl(&g->d) != cpl)
        return far_gp(sv, g->selector);
    if (!desc_is_present(&g->d))
        return step_fault_code(sv, VEC_NP, desc_error(g->selector, 0));
    desc_to_segment(&g->d, g->selector, &g->cs);
    g->cs.type |= SEG_TYPE_ACCESSED;
    step = transfer_check_rip(sv, &g->cs, g->offset, 0);
    return step == STEP_NEXT ? desc_set_accessed(sv, &g->d) : step;
}

/* A gate to an inner level: its stack gets the old SS:rSP and the parameters, then the return address. */
static enum step gate_call_inner(struct soft_vcpu *sv, const struct insn *in, const struct call_gate *g)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack old, st;
    uint64_t items[TRANSFER_MAX_ITEMS], params[31];
    unsigned n = 0, cpl = desc_dpl(&g->d);
    enum step step = transfer_tss_stack(sv, cpl, 0, 0, &st);
    if (step != STEP_NEXT)
        return step;
    transfer_current_stack(sv, &old);
    items[n++] = cpu->seg[SEG_SS].selector;
    items[n++] = cpu->gpr[GPR_RSP];
    if (g->params)
        step = transfer_pop(sv, &old, params, g->params, g->bytes);
    if (step != STEP_NEXT)
        return step;
    for (unsigned i = g->params; i-- > 0;)
        items[n++] = params[i];
    items[n++] = cpu->seg[SEG_CS].selector;
    items[n++] = transfer_next_rip(sv, in);
    step = transfer_push(sv, &st, items, n, g->bytes);
    if (step != STEP_NEXT)
        return step;
    transfer_set_stack(sv, &st, cpl);
    transfer_set_cs(sv, &g->cs, cpl);
    cpu->rip = g->offset;
    mode_update(sv);
    return STEP_JUMP;
}

static enum step far_gate(struct soft_vcpu *sv, const struct insn *in, uint16_t selector, struct descriptor *d, bool is_call)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    struct call_gate g;
    unsigned cpl = vcpu_cpl(&sv->v);
    enum step step = STEP_NEXT;
    if (desc_dpl(d) < cpl || desc_dpl(d) < (selector & 3u))
        return far_gp(sv, selector);
    if (desc_is_long(sv))
        step = desc_read_high(sv, selector, VEC_GP, 0, d);
    if (step != STEP_NEXT)
        return step;
    if (!desc_is_present(d))
        return step_fault_code(sv, VEC_NP, desc_error(selector, 0));
    gate_parse(d, desc_is_long(sv), &g);
    step = gate_code(sv, &g, is_call);
    if (step != STEP_NEXT)
        return step;
    if (is_call && !desc_is_conforming(&g.d) && desc_dpl(&g.d) < cpl)
        return gate_call_inner(sv, in, &g);
    transfer_current_stack(sv, &st);
    if (desc_is_long(sv)) /* the code segment is 64-bit, whatever the caller's was */
        st.sp_bytes = 8;
    if (is_call)
        step = far_push_return(sv, in, &st, g.bytes);
    if (step != STEP_NEXT)
        return step;
    cpu->gpr[GPR_RSP] = st.sp;
    transfer_set_cs(sv, &g.cs, cpl);
    cpu->rip = g.offset;
    mode_update(sv);
    return STEP_JUMP;
}

/* ---- JMP and CALL ---- */

/* Through a TSS selector or a task gate; neither exists in long mode. */
static enum step far_task(struct soft_vcpu *sv, const struct insn *in, uint16_t selector, const struct descriptor *d, bool is_call)
{
    enum task_reason reason = is_call ? TASK_CALL : TASK_JMP;
    if (desc_dpl(d) < vcpu_cpl(&sv->v) || desc_dpl(d) < (selector & 3u))
        return far_gp(sv, selector);
    if (desc_type(d) == DESC_TASK_GATE) {
        if (!desc_is_present(d))
            return step_fault_code(sv, VEC_NP, desc_error(selector, 0));
        selector = (uint16_t)(d->low >> 16);
    }
    return task_switch_insn(sv, reason, selector, transfer_next_rip(sv, in));
}

static enum step far_protected(struct soft_vcpu *sv, const struct insn *in, const struct far_pointer *p, bool is_call)
{
    struct descriptor d;
    if (desc_is_null(p->selector))
        return step_fault_code(sv, VEC_GP, 0);
    enum step step = desc_read(sv, p->selector, VEC_GP, 0, &d);
    if (step != STEP_NEXT)
        return step;
    if (desc_is_segment(&d))
        return far_direct(sv, in, p, &d, is_call);
    unsigned type = desc_type(&d);
    if (type == DESC_CALL || (type == DESC_CALL16 && !desc_is_long(sv)))
        return far_gate(sv, in, p->selector, &d, is_call);
    if (desc_is_long(sv))
        return far_gp(sv, p->selector);
    if (type == DESC_TASK_GATE || (type & ~(DESC_TYPE_BUSY | 8u)) == DESC_TSS16)
        return far_task(sv, in, p->selector, &d, is_call);
    return far_gp(sv, p->selector);
}

static enum step far_transfer(struct soft_vcpu *sv, const struct insn *in, bool is_call)
{
    struct far_pointer p;
    enum step step = far_pointer_read(sv, in, &p);
    if (step != STEP_NEXT)
        return step;
    return desc_is_8086(sv) ? far_8086(sv, in, &p, is_call) : far_protected(sv, in, &p, is_call);
}

enum step help_jmp_far(struct soft_vcpu *sv, const struct insn *in)
{
    return far_transfer(sv, in, false);
}

enum step help_call_far(struct soft_vcpu *sv, const struct insn *in)
{
    return far_transfer(sv, in, true);
}

/* ---- RET ---- */

/* To an outer level: another stack, and data segments of the inner level are taken away. */
static enum step far_ret_outer(struct soft_vcpu *sv, struct transfer_stack *st, const struct segment *cs, uint64_t rip, unsigned bytes, unsigned drop)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack outer = { .sp_bytes = 8 };
    uint64_t items[2];
    unsigned cpl = cs->selector & 3u;
    transfer_drop(st, drop);
    enum step step = transfer_pop(sv, st, items, 2, bytes);
    if (step == STEP_NEXT)
        step = transfer_load_return_ss(sv, (uint16_t)items[1], cpl, cs, &outer.ss);
    if (step == STEP_NEXT)
        step = transfer_check_rip(sv, cs, rip, 0);
    if (step != STEP_NEXT)
        return step;
    cpu->seg[SEG_SS] = outer.ss;
    transfer_set_cs(sv, cs, cpl);
    outer.sp = items[0];
    outer.sp_bytes = desc_is_64bit(sv) ? 8 : outer.ss.db ? 4 : 2;
    transfer_drop(&outer, drop);
    transfer_set_outer_sp(sv, outer.sp);
    transfer_set_outer_data(sv, cpl);
    cpu->rip = rip;
    mode_update(sv);
    return STEP_JUMP;
}

static enum step far_ret_protected(struct soft_vcpu *sv, unsigned bytes, unsigned drop)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    struct segment cs;
    uint64_t items[2];
    transfer_current_stack(sv, &st);
    enum step step = transfer_pop(sv, &st, items, 2, bytes);
    if (step == STEP_NEXT)
        step = transfer_load_return_cs(sv, (uint16_t)items[1], &cs);
    if (step != STEP_NEXT)
        return step;
    if ((items[1] & 3) > vcpu_cpl(&sv->v))
        return far_ret_outer(sv, &st, &cs, items[0], bytes, drop);
    step = transfer_check_rip(sv, &cs, items[0], 0);
    if (step != STEP_NEXT)
        return step;
    transfer_drop(&st, drop);
    cpu->gpr[GPR_RSP] = st.sp;
    transfer_set_cs(sv, &cs, vcpu_cpl(&sv->v));
    cpu->rip = items[0];
    mode_update(sv);
    return STEP_JUMP;
}

enum step help_ret_far(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = transfer_op_bytes(in), drop = in->imm_bytes ? in->imm & 0xffff : 0;
    return desc_is_8086(sv) ? far_ret_8086(sv, bytes, drop) : far_ret_protected(sv, bytes, drop);
}
