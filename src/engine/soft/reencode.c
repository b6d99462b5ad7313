/* SPDX-License-Identifier: MIT */
/*
 * Emits a guest instruction as itself, in 64-bit mode, with other registers and with its memory operand replaced by [base]. Works from the fields that decode.c
 * kept, for legacy, VEX and EVEX encodings. Forms that 64-bit mode lacks have helpers and do not come here, but for the few that have a twin (INC r, 82h, MOV
 * moffs).
 */
#include "engine/soft/emit.h"

/* The instruction with twins replaced. */
struct form {
    uint8_t map, opcode, modrm_reg, reg, rm, vvvv;
    bool has_modrm, is_mem, needs_rex, w;
};

static bool is_low_byte_4_to_7(const struct opnd *o, unsigned host)
{
    return o->kind == OPND_GPR && o->bytes == 1 && !o->is_high && host >= 4;
}

static void form_take_operands(struct form *f, const struct insn *in, const struct reencode *r)
{
    for (unsigned i = 0; i < in->n_opnds; i++) {
        const struct opnd *o = &in->opnd[i];
        if (o->kind != OPND_GPR)
            continue;
        if (o->field == FIELD_REG) {
            f->reg = o->is_high ? (uint8_t)(o->reg + 4) : r->reg;
            f->needs_rex |= is_low_byte_4_to_7(o, r->reg);
        } else if (o->field == FIELD_RM || o->field == FIELD_OPCODE) {
            f->rm = o->is_high ? (uint8_t)(o->reg + 4) : r->rm;
            f->needs_rex |= is_low_byte_4_to_7(o, r->rm);
        } else if (o->field == FIELD_VVVV) {
            f->vvvv = r->vvvv;
        }
    }
}

static bool has_gpr_operand(const struct insn *in)
{
    for (unsigned i = 0; i < in->n_opnds; i++)
        if (in->opnd[i].kind == OPND_GPR)
            return true;
    return false;
}

/* Outside 64-bit mode W is ignored where it would choose between 32 and 64 bits of a general register or of the memory in its place. */
static bool ignores_w(const struct insn *in)
{
    bool is_32 = in->mem.bytes == 4 || !in->has_mem;
    if (in->map == 3)
        return in->opcode == 0x60 || in->opcode == 0x61 || (is_32 && (in->opcode == 0x16 || in->opcode == 0x22)); /* VPCMPESTRx VPEXTRD VPINSRD */
    if (in->map != 1 || !is_32)
        return false;
    return in->opcode == 0x2a || (in->opcode == 0x7b && in->pp >= 2) || ((in->opcode == 0x6e || in->opcode == 0x7e) && in->pp == 1); /* VCVTxSI2Sx VMOVD */
}

/* VZEROUPPER and VZEROALL reach only eight registers outside 64-bit mode: register by register. */
static bool emit_vzero_low(struct emit *e, const struct insn *in)
{
    if (in->enc != ENC_VEX || in->map != 1 || in->opcode != 0x77 || in->mode_bits == 64)
        return false;
    for (unsigned i = 0; i < 8; i++) {
        bool is_all = in->vex_l & 1;
        emit_8(e, 0xc5);
        emit_8(e, 0x80 | (is_all ? ~i & 15 : 15) << 3);
        emit_8(e, is_all ? 0x57 : 0x28); /* vxorps i, i, i or vmovaps i, i */
        emit_8(e, 0xc0 | i << 3 | i);
    }
    return true;
}

/* Immediates as they are, but for a register number that has only three bits outside 64-bit mode. */
static void emit_immediates(struct emit *e, const struct insn *in)
{
    bool has_is4 = false;
    for (unsigned i = 0; i < in->n_opnds; i++)
        has_is4 |= in->opnd[i].field == FIELD_IS4;
    if (has_is4 && in->mode_bits != 64)
        emit_8(e, in->bytes[in->len - 1] & 0x7f);
    else
        emit_bytes(e, in->bytes + in->len - in->imm_bytes, in->imm_bytes);
}

static struct form form_of(const struct insn *in, const struct reencode *r)
{
    struct form f = { .map = in->map, .opcode = in->opcode, .reg = in->reg5, .rm = in->rm5, .vvvv = in->vvvv5, .has_modrm = in->has_modrm, .w = in->rex_w };
    if (in->mode_bits != 64 && (has_gpr_operand(in) || (in->enc != ENC_LEGACY && ignores_w(in))))
        f.w = false;
    f.is_mem = in->has_modrm && in->modrm < 0xc0;
    form_take_operands(&f, in, r);
    if (in->enc != ENC_LEGACY || in->map != 0)
        return f;
    if (in->mode_bits != 64 && (in->opcode & 0xf0) == 0x40) { /* INC/DEC r: FF /0, FF /1 */
        f.reg = in->opcode >> 3 & 1;
        f.opcode = 0xff;
        f.has_modrm = true;
    } else if (in->opcode == 0x82) {
        f.opcode = 0x80;
    } else if (in->opcode >= 0xa0 && in->opcode <= 0xa3) { /* MOV acc, moffs: 8A 8B 88 89 with rAX */
        static const uint8_t twin[] = { 0x8a, 0x8b, 0x88, 0x89 };
        f.opcode = twin[in->opcode - 0xa0];
        f.has_modrm = f.is_mem = true;
        f.reg = GPR_RAX;
    }
    return f;
}

/* 66 selects the operand size of integer instructions, whose default depends on the mode; elsewhere it is part of the opcode. */
static bool needs_66(const struct insn *in)
{
    bool is_opcode_part = in->fp_class != FP_NONE || (in->map == 2 && in->opcode == 0xf6);
    return is_opcode_part || in->mode_bits != 16 ? in->has_66 : in->op_bytes == 2;
}

static void emit_legacy(struct emit *e, const struct insn *in, const struct form *f, unsigned base)
{
    unsigned rm = f->is_mem ? base : f->rm;
    if (in->has_lock)
        emit_8(e, 0xf0);
    if (needs_66(in))
        emit_8(e, 0x66);
    if (in->has_f2 || in->has_f3)
        emit_8(e, in->has_f2 ? 0xf2 : 0xf3);
    unsigned rex = 0x40 | (unsigned)f->w << 3 | (f->has_modrm ? (f->reg >> 3 & 1) << 2 : 0) | (rm >> 3 & 1);
    if (rex != 0x40 || f->needs_rex)
        emit_8(e, rex);
    if (f->map)
        emit_8(e, 0x0f);
    if (f->map >= 2)
        emit_8(e, f->map == 2 ? 0x38 : 0x3a);
    if (f->has_modrm) {
        emit_8(e, f->opcode);
        return;
    }
    bool is_opcode_reg = false;
    for (unsigned i = 0; i < in->n_opnds; i++)
        is_opcode_reg |= in->opnd[i].field == FIELD_OPCODE;
    emit_8(e, is_opcode_reg ? (f->opcode & 0xf8) | (rm & 7) : f->opcode);
}

/* C4 RXBmmmmm WvvvvLpp */
static void emit_vex(struct emit *e, const struct insn *in, const struct form *f, unsigned base)
{
    unsigned rm = f->is_mem ? base : f->rm;
    emit_8(e, 0xc4);
    emit_8(e, (f->reg >> 3 & 1 ? 0 : 0x80) | 0x40 | (rm >> 3 & 1 ? 0 : 0x20) | f->map);
    emit_8(e, (unsigned)f->w << 7 | (~f->vvvv & 15) << 3 | (unsigned)(in->vex_l & 1) << 2 | in->pp);
    emit_8(e, f->opcode);
}

/* 62 RXBR'0mmm Wvvvv1pp zL'LbV'aaa */
static void emit_evex(struct emit *e, const struct insn *in, const struct form *f, unsigned base)
{
    unsigned rm = f->is_mem ? base : f->rm;
    unsigned x = f->is_mem ? 0 : f->rm >> 4 & 1;
    emit_8(e, 0x62);
    emit_8(e, (f->reg >> 3 & 1 ? 0 : 0x80) | (x ? 0 : 0x40) | (rm >> 3 & 1 ? 0 : 0x20) | (f->reg >> 4 & 1 ? 0 : 0x10) | f->map);
    emit_8(e, (unsigned)f->w << 7 | (~f->vvvv & 15) << 3 | 4 | in->pp);
    emit_8(e, (unsigned)in->evex_z << 7 | (unsigned)in->vex_l << 5 | (unsigned)in->evex_b << 4 | (f->vvvv >> 4 & 1 ? 0 : 8) | in->evex_aaa);
    emit_8(e, f->opcode);
}

/* ModRM and displacement. The base is never rsp, rbp, r12 or r13, so there is no SIB and [base] needs no displacement; EVEX scales those of 8 bits. */
static void emit_address(struct emit *e, const struct insn *in, unsigned reg, const struct reencode *r)
{
    unsigned modrm = (reg & 7u) << 3 | (r->base & 7u);
    if (r->disp == 0) {
        emit_8(e, modrm);
    } else if (r->disp >= -128 && r->disp <= 127 && in->enc != ENC_EVEX) {
        emit_8(e, 0x40 | modrm);
        emit_8(e, (unsigned)r->disp & 0xff);
    } else {
        emit_8(e, 0x80 | modrm);
        emit_32(e, (uint32_t)r->disp);
    }
}

void emit_insn(struct emit *e, const struct insn *in, const struct reencode *r)
{
    struct form f = form_of(in, r);
    if (emit_vzero_low(e, in))
        return;
    if (in->enc == ENC_LEGACY)
        emit_legacy(e, in, &f, r->base);
    else if (in->enc == ENC_VEX)
        emit_vex(e, in, &f, r->base);
    else
        emit_evex(e, in, &f, r->base);
    if (f.has_modrm && f.is_mem)
        emit_address(e, in, f.reg, r);
    else if (f.has_modrm)
        emit_8(e, 0xc0 | (f.reg & 7u) << 3 | (f.rm & 7u));
    bool is_moffs = in->has_mem && !in->has_modrm;
    if (!is_moffs)
        emit_immediates(e, in);
}
