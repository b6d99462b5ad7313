/* SPDX-License-Identifier: MIT */
/*
 * MOVS, STOS and LODS without REP, upward, inline: loops of them copy byte by byte in boot loaders and firmware made for size. With the direction flag set the
 * helper runs them, as it does every form with REP. Part of translation, see translate.c.
 */
#include "engine/soft/translate_priv.h"

static bool segment_is_inline(uint32_t key, unsigned seg)
{
    if ((key & KEY_MODE) == KEY_MODE_64)
        return true;
    return seg != SEG_CS && ((key & KEY_ORDINARY) || probe_is_direct(key, seg));
}

bool string_is_inline(const struct tc *tc, const struct insn *in)
{
    enum string_kind kind = insn_string_kind(in);
    if (kind == STRING_NONE || in->has_lock)
        return false;
    return (kind == STRING_STOS || segment_is_inline(tc->key, in->mem.seg)) && (kind == STRING_LODS || segment_is_inline(tc->key, SEG_ES));
}

/* T0 = host address of the element at seg:reg; rSI and rDI have host registers. */
static void emit_place(struct tc *tc, const struct tc_insn *ti, unsigned seg, unsigned reg, unsigned bytes, bool is_write)
{
    struct emit *e = &tc->e;
    if (ti->in.addr_bytes == 2)
        emit_rr(e, false, 0x0fb7, T0, reg); /* movzx t0d, reg16 */
    else
        emit_rr(e, ti->in.addr_bytes == 8, OP_MOV_LOAD, T0, reg);
    probe_segment(tc, ti, seg, bytes);
    probe(tc, ti, bytes, is_write);
    tc_note_fault(tc, ti);
}

/* mov of one element between reg and [t0] */
static void emit_element(struct tc *tc, unsigned op, unsigned reg, unsigned bytes)
{
    if (bytes == 2)
        emit_8(&tc->e, 0x66);
    emit_base(&tc->e, bytes == 8, bytes == 1 ? op - 1 : op, reg, T0, 0);
}

static void emit_advance(struct tc *tc, unsigned reg, unsigned addr_bytes, unsigned bytes)
{
    struct emit *e = &tc->e;
    if (addr_bytes != 2) {
        emit_lea(e, addr_bytes == 8, reg, reg, GPR_NONE, 1, (int)bytes);
        return;
    }
    emit_lea(e, false, T1, reg, GPR_NONE, 1, (int)bytes);
    emit_8(e, 0x66);
    emit_rr(e, false, OP_MOV_LOAD, reg, T1);
}

void string_emit(struct tc *tc, const struct tc_insn *ti)
{
    const struct insn *in = &ti->in;
    struct emit *e = &tc->e;
    enum string_kind kind = insn_string_kind(in);
    unsigned bytes = in->opcode & 1 ? in->op_bytes : 1;
    if (ti->live)
        tc_save_flags(tc);
    emit_gs(e, false, 0xf6, 0, FIELD(v.cpu.rflags) + 1); /* test byte gs:[rflags + 1], DF >> 8 */
    emit_8(e, RFLAGS_DF >> 8);
    probe_emit_exec_exit(tc, ti, CC_NE);
    if (kind != STRING_STOS) {
        emit_place(tc, ti, in->mem.seg, GPR_RSI, bytes, false);
        emit_element(tc, OP_MOV_LOAD, kind == STRING_LODS ? GPR_RAX : T0, bytes);
    }
    if (kind == STRING_MOVS)
        emit_gs(e, true, OP_MOV_STORE, T0, FIELD(scratch));
    if (kind != STRING_LODS) {
        emit_place(tc, ti, SEG_ES, GPR_RDI, bytes, true);
        if (kind == STRING_MOVS)
            emit_gs(e, true, OP_MOV_LOAD, T1, FIELD(scratch));
        emit_element(tc, OP_MOV_STORE, kind == STRING_MOVS ? T1 : GPR_RAX, bytes);
        emit_advance(tc, GPR_RDI, in->addr_bytes, bytes);
    }
    if (kind != STRING_STOS)
        emit_advance(tc, GPR_RSI, in->addr_bytes, bytes);
}
