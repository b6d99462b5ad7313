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

unsigned probe_address_reg(struct tc *tc, unsigned guest, unsigned temp)
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

bool probe_is_direct(uint32_t key, unsigned seg)
{
    if ((key & KEY_MODE) == KEY_MODE_64)
        return true;
    if (seg == SEG_FS)
        return key & KEY_FS_FAST;
    if (seg == SEG_GS)
        return key & KEY_GS_FAST;
    return key & KEY_FLAT;
}

void probe_ea(struct tc *tc, const struct insn *in)
{
    const struct insn_mem *m = &in->mem;
    struct emit *e = &tc->e;
    bool is_64 = m->base != GPR_RIP ? in->addr_bytes == 8 : false;
    if (m->base == GPR_RIP || (m->base == GPR_NONE && m->index == GPR_NONE)) {
        /* decode.c leaves rip-relative displacements relative to the next instruction, whose address the block knows */
        uint64_t at = m->base == GPR_RIP ? tc->next_gva - tc->cs_base + (uint64_t)m->disp : (uint64_t)m->disp;
        emit_mov_imm(e, T0, truncate_to(at, in->addr_bytes));
    } else {
        unsigned base = probe_address_reg(tc, m->base, T0), index = probe_address_reg(tc, m->index, T1);
        int64_t disp = m->disp;
        if (in->addr_bytes == 2)
            disp = (int16_t)disp;
        emit_lea(e, is_64, T0, base, index, m->scale, (int32_t)disp);
        if (in->addr_bytes == 2)
            emit_rr(e, false, 0x0fb7, T0, T0); /* movzx t0d, t0w */
    }
}

static uint32_t segment_field(unsigned seg, size_t field)
{
    return FIELD(v.cpu.seg) + (uint32_t)(seg * sizeof(struct segment) + field);
}

void probe_emit_exec_exit(struct tc *tc, const struct tc_insn *ti, unsigned cc)
{
    tc->slow[tc->n_slow++] = (struct tc_slow){ .miss = emit_jcc_forward(&tc->e, cc, false), .gva = ti->gva, .is_exec = true };
}

/* lea t1, [t0 + n - 1]; cmp t1d, gs:[limit]; ja slow. The sum is of 64 bits, so it does not wrap; its upper half must be 0 too, which the limit of 32 bits
 * cannot tell. */
static void emit_limit_check(struct tc *tc, const struct tc_insn *ti, unsigned seg, unsigned bytes)
{
    struct emit *e = &tc->e;
    emit_gs(e, false, OP_MOV_LOAD, T1, segment_field(seg, offsetof(struct segment, limit)));
    emit_lea(e, true, T1, T1, GPR_NONE, 1, 1 - (int)bytes); /* the last offset that is allowed; negative if there is none */
    emit_rr(e, true, OP_CMP, T0, T1);
    probe_emit_exec_exit(tc, ti, CC_G);
}

void probe_segment(struct tc *tc, const struct tc_insn *ti, unsigned seg, unsigned bytes)
{
    struct emit *e = &tc->e;
    bool is_64 = (tc->key & KEY_MODE) == KEY_MODE_64;
    bool is_direct = probe_is_direct(tc->key, seg);
    if (is_direct && seg != SEG_FS && seg != SEG_GS)
        return;
    if (!is_direct) {
        if (ti->live)
            tc_save_flags(tc);
        emit_limit_check(tc, ti, seg, bytes);
    }
    emit_gs(e, true, OP_MOV_LOAD, T1, segment_field(seg, offsetof(struct segment, base)));
    emit_lea(e, is_64, T0, T0, T1, 1, 0);
}

static void emit_tlb_index(struct emit *e)
{
    emit_rr(e, false, OP_MOV_LOAD, T1, T0);
    emit_bytes(e, "\x41\xc1\xef\x08", 4); /* shr r15d, 8 */
    emit_ri(e, false, 4, T1, (int32_t)((TLB_ENTRIES - 1) * sizeof(struct tlb_entry)));
}

static uint32_t tlb_offset(const struct tc *tc, bool is_write)
{
    bool is_user = tc->key & KEY_USER;
    return FIELD(tlb) + (uint32_t)((is_user * TLB_KINDS + (is_write ? TLB_WRITE : TLB_READ)) * sizeof(struct tlb));
}

uint8_t *probe_without_fill(struct tc *tc, unsigned bytes, bool is_write, bool is_link)
{
    struct emit *e = &tc->e;
    uint32_t at = tlb_offset(tc, is_write);
    emit_tlb_index(e);
    emit_gs_index(e, true, OP_SUB, T0, T1, 1, at + (uint32_t)offsetof(struct tlb_entry, page));
    emit_ri(e, true, 7, T0, (int32_t)(PAGE_BYTES - bytes));
    uint8_t *miss = emit_jcc_forward(e, CC_A, is_link);
    emit_gs_index(e, true, OP_ADD, T0, T1, 1, at + (uint32_t)offsetof(struct tlb_entry, host));
    return miss;
}

void probe(struct tc *tc, const struct tc_insn *ti, unsigned bytes, bool is_write)
{
    if (ti->live)
        tc_save_flags(tc);
    uint8_t *miss = probe_without_fill(tc, bytes, is_write, false);
    tc->slow[tc->n_slow++] = (struct tc_slow){ .miss = miss,
                                               .hit = emit_here(&tc->e),
                                               .gva = ti->gva,
                                               .info = bytes << FILL_BYTES_SHIFT | (is_write ? FILL_WRITE : 0),
                                               .tlb_offset = tlb_offset(tc, is_write) };
}

int probe_operand(struct tc *tc, const struct tc_insn *ti)
{
    if (ti->group && ti->class == CLASS_NATIVE)
        return group_locate(tc, ti);
    tc->next_gva = ti->gva + ti->in.len;
    probe_ea(tc, &ti->in);
    probe_segment(tc, ti, ti->in.mem.seg, ti->in.mem.bytes);
    probe(tc, ti, ti->in.mem.bytes, ti->in.mem.access & OPND_WRITE);
    return 0;
}

void probe_emit_slow_paths(struct tc *tc)
{
    struct emit *e = &tc->e;
    for (unsigned i = 0; i < tc->n_slow; i++) {
        const struct tc_slow *s = &tc->slow[i];
        emit_patch(e, s->miss);
        if (s->is_exec) {
            emit_mov_imm(e, T0, s->gva);
            emit_mov_imm(e, T1, 0);
            emit_jmp(e, tc->svm->stubs.exec_saved);
            continue;
        }
        emit_gs_index(e, true, OP_ADD, T0, T1, 1, s->tlb_offset + (uint32_t)offsetof(struct tlb_entry, page));
        emit_mov_gs_imm(e, FIELD(v.cpu.rip), s->gva - tc->cs_base);
        emit_mov_imm(e, T1, s->info);
        emit_call(e, tc->svm->stubs.fill);
        emit_jmp(e, s->hit);
    }
}
