/* SPDX-License-Identifier: MIT */
/*
 * Operands of decoded instructions for the helpers: effective addresses, registers, memory, immediates, and the stack. Nothing here knows an instruction.
 * Called on the vCPU's thread, no lock.
 */
#include <assert.h>

#include "engine/soft/soft_priv.h"

static inline uint64_t bytes_mask(unsigned bytes)
{
    return bytes >= 8 ? ~0ull : (1ull << (8 * bytes)) - 1;
}

uint64_t insn_ea(const struct soft_vcpu *sv, const struct insn *in)
{
    const struct cpu_state *c = &sv->v.cpu;
    const struct insn_mem *m = &in->mem;
    uint64_t ea = (uint64_t)m->disp;
    if (m->base == GPR_RIP)
        ea += c->rip + in->len;
    else if (m->base != GPR_NONE)
        ea += c->gpr[m->base];
    if (m->index != GPR_NONE && !m->is_vsib)
        ea += c->gpr[m->index] * m->scale;
    return ea & bytes_mask(in->addr_bytes);
}

enum step mem_read(struct soft_vcpu *sv, const struct insn *in, void *buf, unsigned bytes)
{
    return seg_read(sv, in->mem.seg, insn_ea(sv, in), buf, bytes);
}

enum step mem_write(struct soft_vcpu *sv, const struct insn *in, const void *buf, unsigned bytes)
{
    return seg_write(sv, in->mem.seg, insn_ea(sv, in), buf, bytes);
}

void gpr_write(struct soft_vcpu *sv, unsigned reg, unsigned bytes, uint64_t value)
{
    uint64_t *r = &sv->v.cpu.gpr[reg];
    if (bytes >= 8)
        *r = value;
    else if (bytes == 4)
        *r = (uint32_t)value;
    else
        *r = (*r & ~bytes_mask(bytes)) | (value & bytes_mask(bytes));
}

enum step opnd_read(struct soft_vcpu *sv, const struct insn *in, unsigned n, uint64_t *value)
{
    const struct opnd *o = &in->opnd[n];
    assert(n < in->n_opnds);
    switch (o->kind) {
    case OPND_GPR:
        *value = sv->v.cpu.gpr[o->reg] >> (o->is_high ? 8 : 0) & bytes_mask(o->bytes);
        return STEP_NEXT;
    case OPND_MEM: {
        uint64_t v = 0;
        assert(o->bytes >= 1 && o->bytes <= 8);
        enum step st = mem_read(sv, in, &v, o->bytes);
        if (st == STEP_NEXT)
            *value = v;
        return st;
    }
    case OPND_IMM: /* a sign-extended imm8 counts as wide as the operation */
        *value = in->imm & bytes_mask(o->bytes > in->op_bytes ? o->bytes : in->op_bytes);
        return STEP_NEXT;
    case OPND_SEG:
        *value = sv->v.cpu.seg[o->reg].selector;
        return STEP_NEXT;
    default:
        assert(!"operand kind");
        return STEP_FAULT;
    }
}

enum step opnd_write(struct soft_vcpu *sv, const struct insn *in, unsigned n, uint64_t value)
{
    const struct opnd *o = &in->opnd[n];
    assert(n < in->n_opnds);
    switch (o->kind) {
    case OPND_GPR:
        if (o->is_high)
            sv->v.cpu.gpr[o->reg] = (sv->v.cpu.gpr[o->reg] & ~0xff00ull) | (value & 0xff) << 8;
        else
            gpr_write(sv, o->reg, o->bytes, value);
        return STEP_NEXT;
    case OPND_MEM:
        assert(o->bytes >= 1 && o->bytes <= 8);
        return mem_write(sv, in, &value, o->bytes);
    case OPND_SEG:
        return seg_load(sv, o->reg, (uint16_t)value);
    default:
        assert(!"operand kind");
        return STEP_FAULT;
    }
}

enum step stack_push(struct soft_vcpu *sv, uint64_t *sp, uint64_t value, unsigned bytes)
{
    uint64_t mask = bytes_mask(sv->stack_bytes), top = (*sp - bytes) & mask;
    enum step st = seg_write(sv, SEG_SS, top, &value, bytes);
    if (st == STEP_NEXT)
        *sp = (*sp & ~mask) | top;
    return st;
}

enum step stack_pop(struct soft_vcpu *sv, uint64_t *sp, uint64_t *value, unsigned bytes)
{
    uint64_t mask = bytes_mask(sv->stack_bytes), v = 0;
    enum step st = seg_read(sv, SEG_SS, *sp & mask, &v, bytes);
    if (st != STEP_NEXT)
        return st;
    *value = v;
    *sp = (*sp & ~mask) | ((*sp + bytes) & mask);
    return STEP_NEXT;
}

void stack_commit(struct soft_vcpu *sv, uint64_t sp)
{
    uint64_t mask = bytes_mask(sv->stack_bytes);
    sv->v.cpu.gpr[GPR_RSP] = (sv->v.cpu.gpr[GPR_RSP] & ~mask) | (sp & mask);
}
