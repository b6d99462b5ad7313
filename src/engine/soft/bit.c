/* SPDX-License-Identifier: MIT */
/*
 * Bit tests of memory by a bit number in a register, which is signed and reaches beyond the operand: the word that holds the bit is found first, then the
 * instruction itself runs on it with the number reduced. Kernels live on these (bitmaps, page flags). Part of translation, see translate.c.
 */
#include "engine/soft/translate_priv.h"

#include <stddef.h>

bool bit_is_inline(const struct tc *tc, const struct insn *in)
{
    return insn_is_bit_test(in) && in->has_mem && in->opnd[1].kind == OPND_GPR && (tc->key & KEY_MODE) == KEY_MODE_64 && in->addr_bytes == 8 &&
           in->op_bytes >= 4;
}

static void emit_bit_number(struct tc *tc, const struct insn *in)
{
    struct emit *e = &tc->e;
    unsigned reg = in->opnd[1].reg;
    unsigned op = in->op_bytes == 8 ? OP_MOV_LOAD : 0x63; /* movsxd */
    if (host_of(reg) == HOST_IN_MEMORY)
        emit_gs(e, true, op, T1, GPR_AT(reg));
    else
        emit_rr(e, true, op, T1, host_of(reg));
}

void bit_emit(struct tc *tc, const struct tc_insn *ti)
{
    const struct insn *in = &ti->in;
    struct emit *e = &tc->e;
    bool is_64 = in->op_bytes == 8;
    if (ti->live)
        tc_save_flags(tc);
    tc->next_gva = ti->gva + in->len;
    probe_ea(tc, in);
    probe_segment(tc, ti, in->mem.seg, in->op_bytes);
    emit_bit_number(tc, in);
    emit_bytes(e, "\x49\xc1\xff", 3); /* sar r15, 5 or 6: the word's number */
    emit_8(e, is_64 ? 6 : 5);
    emit_lea(e, true, T0, T0, T1, in->op_bytes, 0);
    probe(tc, ti, in->op_bytes, in->mem.access & OPND_WRITE);
    emit_bit_number(tc, in);
    emit_ri(e, false, 4, T1, is_64 ? 63 : 31);
    if (ti->live)
        tc_restore_flags_by(tc, true);
    tc->is_saved = false;
    tc_note_fault(tc, ti);
    if (in->has_lock)
        emit_8(e, 0xf0);
    emit_base(e, is_64, 0x0f00u | in->opcode, T1, T0, 0);
}
