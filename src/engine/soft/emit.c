/* SPDX-License-Identifier: MIT */
/*
 * Primitive host instructions. See emit.h; the re-encoder of guest instructions is reencode.c.
 */
#include "engine/soft/emit.h"
#include "engine/soft/light.h"

void emit_bytes(struct emit *e, const void *bytes, unsigned n)
{
    if (e->end - e->p < (intptr_t)n) {
        e->overflow = true;
        return;
    }
    light_copy(e->p, bytes, n);
    e->p += n;
}

void emit_8(struct emit *e, unsigned v)
{
    uint8_t b = (uint8_t)v;
    if (e->p == e->end)
        e->overflow = true;
    else
        *e->p++ = b;
}

void emit_32(struct emit *e, uint32_t v)
{
    emit_bytes(e, &v, 4);
}

static void emit_rex_op(struct emit *e, bool w, unsigned op, unsigned reg, unsigned index, unsigned base)
{
    unsigned rex = 0x40 | (unsigned)w << 3 | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);
    if (rex != 0x40)
        emit_8(e, rex);
    if (op >> 8)
        emit_8(e, op >> 8);
    emit_8(e, op);
}

void emit_rr(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm)
{
    emit_rex_op(e, w, op, reg, 0, rm);
    emit_8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void emit_gs(struct emit *e, bool w, unsigned op, unsigned reg, uint32_t disp)
{
    emit_8(e, 0x65);
    emit_rex_op(e, w, op, reg, 0, 0);
    emit_8(e, 0x04 | (reg & 7) << 3);
    emit_8(e, 0x25);
    emit_32(e, disp);
}

static unsigned scale_bits(unsigned scale)
{
    return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

void emit_gs_index(struct emit *e, bool w, unsigned op, unsigned reg, unsigned index, unsigned scale, uint32_t disp)
{
    emit_8(e, 0x65);
    emit_rex_op(e, w, op, reg, index, 0);
    emit_8(e, 0x04 | (reg & 7) << 3);
    emit_8(e, scale_bits(scale) << 6 | (index & 7) << 3 | 5);
    emit_32(e, disp);
}

void emit_base(struct emit *e, bool w, unsigned op, unsigned reg, unsigned base, int disp)
{
    bool is_short = disp >= -128 && disp <= 127;
    emit_rex_op(e, w, op, reg, 0, base);
    emit_8(e, (is_short ? 0x40u : 0x80u) | (reg & 7) << 3 | (base & 7));
    if ((base & 7) == 4)
        emit_8(e, 0x24);
    if (is_short)
        emit_8(e, (unsigned)disp & 0xff);
    else
        emit_32(e, (uint32_t)disp);
}

void emit_ri(struct emit *e, bool w, unsigned n, unsigned reg, int32_t imm)
{
    emit_rex_op(e, w, 0x81, 0, 0, reg);
    emit_8(e, 0xc0 | n << 3 | (reg & 7));
    emit_32(e, (uint32_t)imm);
}

void emit_lea(struct emit *e, bool w, unsigned dst, unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    bool has_base = base != GPR_NONE, has_index = index != GPR_NONE;
    emit_rex_op(e, w, 0x8d, dst, has_index ? index : 0, has_base ? base : 0);
    if (!has_base && !has_index) {
        emit_8(e, 0x04 | (dst & 7) << 3);
        emit_8(e, 0x25);
        emit_32(e, (uint32_t)disp);
        return;
    }
    unsigned mod = !has_base ? 0 : disp == 0 && (base & 7) != 5 ? 0 : disp >= -128 && disp <= 127 ? 1 : 2;
    if (has_index || (base & 7) == 4 || !has_base) {
        emit_8(e, mod << 6 | (dst & 7) << 3 | 4);
        emit_8(e, scale_bits(scale) << 6 | (has_index ? index & 7 : 4) << 3 | (has_base ? base & 7 : 5));
    } else {
        emit_8(e, mod << 6 | (dst & 7) << 3 | (base & 7));
    }
    if (mod == 1)
        emit_8(e, (unsigned)disp & 0xff);
    else if (mod == 2 || !has_base)
        emit_32(e, (uint32_t)disp);
}

void emit_mov_imm(struct emit *e, unsigned reg, uint64_t imm)
{
    if (imm <= UINT32_MAX) {
        emit_rex_op(e, false, 0xb8 | (reg & 7), 0, 0, reg);
        emit_32(e, (uint32_t)imm);
    } else if ((int64_t)imm == (int32_t)imm) {
        emit_rex_op(e, true, 0xc7, 0, 0, reg);
        emit_8(e, 0xc0 | (reg & 7));
        emit_32(e, (uint32_t)imm);
    } else {
        emit_rex_op(e, true, 0xb8 | (reg & 7), 0, 0, reg);
        emit_bytes(e, &imm, 8);
    }
}

void emit_mov_gs_imm(struct emit *e, uint32_t disp, uint64_t imm)
{
    if ((int64_t)imm == (int32_t)imm) {
        emit_gs(e, true, 0xc7, 0, disp);
        emit_32(e, (uint32_t)imm);
    } else {
        emit_mov_imm(e, T1, imm);
        emit_gs(e, true, OP_MOV_STORE, T1, disp);
    }
}

void emit_mov_gs_imm32(struct emit *e, uint32_t disp, uint32_t imm)
{
    emit_gs(e, false, 0xc7, 0, disp);
    emit_32(e, imm);
}

static void emit_rel(struct emit *e, const uint8_t *exec_target)
{
    emit_32(e, (uint32_t)(exec_target - (emit_here(e) + 4)));
}

void emit_jmp(struct emit *e, const uint8_t *exec_target)
{
    emit_8(e, 0xe9);
    emit_rel(e, exec_target);
}

void emit_jcc(struct emit *e, unsigned cc, const uint8_t *exec_target)
{
    emit_8(e, 0x0f);
    emit_8(e, 0x80 | cc);
    emit_rel(e, exec_target);
}

void emit_call(struct emit *e, const uint8_t *exec_target)
{
    emit_8(e, 0xe8);
    emit_rel(e, exec_target);
}

static void emit_align(struct emit *e, unsigned opcode_bytes)
{
    while (!e->overflow && ((uintptr_t)e->p + opcode_bytes) % 4)
        emit_8(e, 0x90);
}

uint8_t *emit_jmp_forward(struct emit *e, bool is_aligned)
{
    if (is_aligned)
        emit_align(e, 1);
    emit_8(e, 0xe9);
    emit_32(e, 0);
    return e->p - 4;
}

uint8_t *emit_jcc_forward(struct emit *e, unsigned cc, bool is_aligned)
{
    if (is_aligned)
        emit_align(e, 2);
    emit_8(e, 0x0f);
    emit_8(e, 0x80 | cc);
    emit_32(e, 0);
    return e->p - 4;
}

void emit_patch(struct emit *e, uint8_t *rel32)
{
    int32_t rel = (int32_t)(e->p - (rel32 + 4));
    if (!e->overflow)
        light_copy(rel32, &rel, 4);
}
