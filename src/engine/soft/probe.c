/* SPDX-License-Identifier: MIT */
/*
 * Guest addresses to host addresses in translated code: effective address, inline TLB probe, and its out-of-line miss path.
 *
 *   lea   t0, [base + index * scale + disp]        (+ segment base)
 *   rorx  t1d, t0d, 8          or mov + shr        index * 16
 *   and   t1d, (TLB_ENTRIES - 1) * 16
 *   sub   t0, gs:[t1 + tlb.page]                   offset in the page if it hits
 *   cmp   t0, 4096 - n                             miss and page crossing in one
 *   ja    slow
 *   add   t0, gs:[t1 + tlb.host]
 */
#include "engine/soft/translate_priv.h"

#include <stddef.h>

/* A guest register of the address in a host register: its own, or `temp` loaded from memory. */
static unsigned address_reg(struct tc *tc, unsigned guest, unsigned temp)
{
    if (guest == GPR_NONE)
        return GPR_NONE;
    unsigned h = host_of(guest);
    if (h != HOST_IN_MEMORY)
        return h;
    emit_gs(&tc->e, true, OP_MOV_LOAD, temp, GPR_AT(guest));
    return temp;
}

static uint64_t truncate_to(uint64_t v, unsigned bytes)
{
    return bytes == 8 ? v : bytes == 4 ? (uint32_t)v : (uint16_t)v;
}

static void add_segment_base(struct tc *tc, unsigned seg, bool is_64)
{
    emit_gs(&tc->e, true, OP_MOV_LOAD, T1, FIELD(v.cpu.seg) + (uint32_t)(seg * sizeof(struct segment) + offsetof(struct segment, base)));
    emit_lea(&tc->e, is_64, T0, T0, T1, 1, 0);
}

void probe_ea(struct tc *tc, const struct insn *in, bool with_base)
{
    const struct insn_mem *m = &in->mem;
    struct emit *e = &tc->e;
    bool is_64 = m->base != GPR_RIP ? in->addr_bytes == 8 : false;
    if (m->base == GPR_RIP || (m->base == GPR_NONE && m->index == GPR_NONE)) {
        /* decode.c leaves rip-relative displacements relative to the next instruction, whose address the block knows */
        uint64_t at = m->base == GPR_RIP ? tc->next_gva - tc->cs_base + (uint64_t)m->disp : (uint64_t)m->disp;
        emit_mov_imm(e, T0, truncate_to(at, in->addr_bytes));
    } else {
        unsigned base = address_reg(tc, m->base, T0), index = address_reg(tc, m->index, T1);
        int64_t disp = m->disp;
        if (in->addr_bytes == 2)
            disp = (int16_t)disp;
        emit_lea(e, is_64, T0, base, index, m->scale, (int32_t)disp);
        if (in->addr_bytes == 2)
            emit_rr(e, false, 0x0fb7, T0, T0); /* movzx t0d, t0w */
    }
    if (!with_base)
        return;
    if (m->seg == SEG_FS || m->seg == SEG_GS)
        add_segment_base(tc, m->seg, (tc->key & KEY_MODE) == KEY_MODE_64);
}

static void emit_tlb_index(struct emit *e)
{
    emit_rr(e, false, OP_MOV_LOAD, T1, T0);
    emit_bytes(e, "\x41\xc1\xef\x08", 4); /* shr r15d, 8 */
    emit_ri(e, false, 4, T1, (int32_t)((TLB_ENTRIES - 1) * sizeof(struct tlb_entry)));
}

void probe(struct tc *tc, const struct tc_insn *ti, unsigned bytes, bool is_write)
{
    struct emit *e = &tc->e;
    bool is_user = tc->key & KEY_USER;
    uint32_t at = FIELD(tlb) + (uint32_t)((is_user * TLB_KINDS + (is_write ? TLB_WRITE : TLB_READ)) * sizeof(struct tlb));
    if (ti->live)
        tc_save_flags(tc);
    emit_tlb_index(e);
    emit_gs_index(e, true, OP_SUB, T0, T1, 1, at + (uint32_t)offsetof(struct tlb_entry, page));
    emit_ri(e, true, 7, T0, (int32_t)(PAGE_BYTES - bytes));
    uint8_t *miss = emit_jcc_forward(e, CC_A, false);
    emit_gs_index(e, true, OP_ADD, T0, T1, 1, at + (uint32_t)offsetof(struct tlb_entry, host));
    tc->slow[tc->n_slow++] = (struct tc_slow){
        .miss = miss, .hit = emit_here(e), .gva = ti->gva, .info = bytes << FILL_BYTES_SHIFT | (is_write ? FILL_WRITE : 0), .tlb_offset = at
    };
}

void probe_operand(struct tc *tc, const struct tc_insn *ti)
{
    tc->next_gva = ti->gva + ti->in.len;
    probe_ea(tc, &ti->in, true);
    probe(tc, ti, ti->in.mem.bytes, ti->in.mem.access & OPND_WRITE);
}

void probe_emit_slow_paths(struct tc *tc)
{
    struct emit *e = &tc->e;
    for (unsigned i = 0; i < tc->n_slow; i++) {
        const struct tc_slow *s = &tc->slow[i];
        emit_patch(e, s->miss);
        emit_gs_index(e, true, OP_ADD, T0, T1, 1, s->tlb_offset + (uint32_t)offsetof(struct tlb_entry, page));
        emit_mov_gs_imm(e, FIELD(v.cpu.rip), s->gva - tc->cs_base);
        emit_mov_imm(e, T1, s->info);
        emit_call(e, tc->svm->stubs.fill);
        emit_jmp(e, s->hit);
    }
}
