/* SPDX-License-Identifier: MIT */
/* See expect.h (SDM vol. 1, "Operand Addressing"; vol. 2 under each name). */
#include "expect.h"

#include <Zydis/Zydis.h>
#include <string.h>

#include "base/host.h"

#define READ 1u
#define WRITE 2u
#define ORDER_MAX (sizeof((struct expectation *)0)->order / sizeof((struct expectation *)0)->order[0])

/* ---- notes ---- */

static void note(struct expectation *x, uint64_t at, unsigned bytes, unsigned access, bool is_certain)
{
    for (unsigned i = 0; i < bytes; i++) {
        uint64_t offset = at + i - DATA_AT;
        if (diff_mode_bits == 32)
            offset = (uint32_t)(at + i) - DATA_AT;
        if (offset >= EXPECT_BYTES)
            continue;
        for (unsigned k = 0; k < 2; k++) {
            x->may[k][offset] += access >> k & 1;
            x->must[k][offset] += is_certain && (access >> k & 1);
        }
    }
}

static void note_in_order(struct expectation *x, uint64_t at, unsigned bytes, unsigned access, bool is_certain)
{
    note(x, at, bytes, access, is_certain);
    if (x->n < ORDER_MAX)
        x->order[x->n] = at;
    x->n++;
}

/* The same access twice in one go is asked about once. */
static void once(struct expectation *x)
{
    for (unsigned k = 0; k < 2; k++)
        for (unsigned i = 0; i < EXPECT_BYTES; i++)
            x->must[k][i] = x->must[k][i] > 0;
}

/* ---- addresses ---- */

static uint64_t truncated(uint64_t value, unsigned bytes)
{
    return bytes == 8 ? value : value & ((1ull << (8 * bytes)) - 1);
}

static uint64_t linear(const struct machine_state *st, unsigned seg, uint64_t offset)
{
    uint64_t at = offset + (seg == SEG_FS ? st->fs_base : seg == SEG_GS ? st->gs_base : 0);
    return diff_mode_bits == 32 ? (uint32_t)at : at;
}

/* The bit string instructions with a register go outside of the operand. */
static uint64_t bit_offset_bytes(const struct insn *in, const struct machine_state *st)
{
    bool is_bit =
        in->mnemonic == ZYDIS_MNEMONIC_BT || in->mnemonic == ZYDIS_MNEMONIC_BTS || in->mnemonic == ZYDIS_MNEMONIC_BTR || in->mnemonic == ZYDIS_MNEMONIC_BTC;
    if (!is_bit || in->opnd[1].kind != OPND_GPR)
        return 0;
    unsigned spare = 64 - 8 * in->op_bytes;
    int64_t bits = (int64_t)(st->gpr[in->opnd[1].reg] << spare) >> spare;
    return (uint64_t)((bits >> (in->op_bytes == 2 ? 4 : in->op_bytes == 4 ? 5 : 6)) * in->op_bytes);
}

static uint64_t explicit_offset(const struct insn *in, const struct machine_state *st)
{
    const struct insn_mem *m = &in->mem;
    uint64_t at = (uint64_t)m->disp + bit_offset_bytes(in, st);
    if (m->base == GPR_RIP)
        at += st->rip + in->len;
    else if (m->base != GPR_NONE)
        at += st->gpr[m->base];
    if (m->index != GPR_NONE && !m->is_vsib)
        at += st->gpr[m->index] * m->scale;
    if (in->mnemonic == ZYDIS_MNEMONIC_POP && m->base == GPR_RSP)
        at += in->op_bytes;
    return truncated(at, in->addr_bytes);
}

/* ---- vector state: all components are in use in the states that are made ---- */

static void vector_read(const struct machine_state *st, unsigned reg, uint8_t value[64])
{
    const struct host_facts *h = host_facts();
    memset(value, 0, 64);
    if (reg >= 16) {
        memcpy(value, st->xsave + h->xsave_offset[7] + 64 * (reg - 16), 64);
        return;
    }
    memcpy(value, st->xsave + 160 + 16 * reg, 16);
    memcpy(value + 16, st->xsave + h->xsave_offset[2] + 16 * reg, 16);
    if (h->xcr0 & XCR0_ZMM_HI256)
        memcpy(value + 32, st->xsave + h->xsave_offset[6] + 32 * reg, 32);
}

static uint64_t opmask_read(const struct machine_state *st, unsigned k)
{
    uint64_t value;
    memcpy(&value, st->xsave + host_facts()->xsave_offset[5] + 8 * k, 8);
    return value;
}

static uint64_t sign_mask(const uint8_t *v, unsigned element, unsigned n)
{
    uint64_t mask = 0;
    for (unsigned i = 0; i < n; i++)
        mask |= (uint64_t)(v[(i + 1) * element - 1] >> 7) << i;
    return mask;
}

static void mmx_read(const struct machine_state *st, unsigned reg, uint8_t value[8])
{
    unsigned top = st->xsave[3] >> 3 & 7;
    memcpy(value, st->xsave + 32 + 16 * ((reg - top) & 7), 8);
}

/* ---- kinds of instructions ---- */

static void expect_elements(struct expectation *x, uint64_t at, unsigned element, uint64_t mask, unsigned access)
{
    for (; mask; mask &= mask - 1)
        note(x, at + (unsigned)__builtin_ctzll(mask) * element, element, access, true);
}

static void expect_sparse(const struct insn *in, const struct machine_state *st, struct expectation *x)
{
    uint8_t index[64], mask_vector[64];
    unsigned element = in->rex_w ? 8 : 4, index_bytes = in->opcode & 1 ? 8 : 4;
    unsigned n = (16u << in->vex_l) / (element > index_bytes ? element : index_bytes);
    uint64_t mask;
    vector_read(st, in->mem.index, index);
    vector_read(st, in->vvvv5, mask_vector);
    mask = in->enc == ENC_EVEX ? opmask_read(st, in->evex_aaa) : sign_mask(mask_vector, element, n);
    for (unsigned i = 0; i < n; i++) {
        int64_t scaled = 0;
        if (!(mask >> i & 1))
            continue;
        memcpy(&scaled, index + i * index_bytes, index_bytes);
        if (index_bytes == 4)
            scaled = (int32_t)scaled;
        uint64_t at = truncated(explicit_offset(in, st) + (uint64_t)scaled * in->mem.scale, in->addr_bytes);
        note_in_order(x, linear(st, in->mem.seg, at), element, in->opcode >= 0xa0 ? WRITE : READ, true);
    }
    once(x);
}

/* An opmask governs it; element n of a broadcast serves the lanes n, n + elements... */
static void expect_masked(const struct insn *in, const struct machine_state *st, uint64_t at, struct expectation *x)
{
    unsigned n = in->mem.bytes / in->mem.masked_bytes, lanes = in->mem.masked_lanes;
    uint64_t mask = opmask_read(st, in->evex_aaa), active = 0;
    for (unsigned lane = 0; lane < lanes; lane++)
        active |= (mask >> lane & 1) << lane % n;
    if (in->mem.is_packed) {
        unsigned count = (unsigned)__builtin_popcountll(active);
        active = count >= 64 ? ~0ull : (1ull << count) - 1;
    }
    expect_elements(x, at, in->mem.masked_bytes, active, in->mem.access);
}

static void expect_sign_masked(const struct insn *in, const struct machine_state *st, struct expectation *x)
{
    uint8_t mask[64];
    bool is_avx = in->mnemonic != ZYDIS_MNEMONIC_MASKMOVQ && in->mnemonic != ZYDIS_MNEMONIC_MASKMOVDQU && in->mnemonic != ZYDIS_MNEMONIC_VMASKMOVDQU;
    if (in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ)
        mmx_read(st, in->rm5 & 7, mask);
    else
        vector_read(st, is_avx ? in->vvvv5 : in->rm5, mask);
    if (!is_avx) {
        uint64_t at = linear(st, in->mem.seg, truncated(st->gpr[GPR_RDI], in->addr_bytes));
        expect_elements(x, at, 1, sign_mask(mask, 1, in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? 8 : 16), WRITE);
        return;
    }
    unsigned element = in->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD || in->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ ? 8 : 4;
    bool is_store = in->opcode == 0x2e || in->opcode == 0x2f || in->opcode == 0x8e;
    uint64_t at = linear(st, in->mem.seg, explicit_offset(in, st));
    expect_elements(x, at, element, sign_mask(mask, element, (in->vex_l ? 32 : 16) / element), is_store ? WRITE : READ);
}

static void expect_string(const struct insn *in, const struct machine_state *st, uint64_t n_done, bool is_complete, struct expectation *x)
{
    unsigned bytes = in->opcode & 1 ? in->op_bytes : 1, kind = in->opcode & 0xfe;
    uint64_t by = st->rflags & RFLAGS_DF ? -(uint64_t)bytes : bytes;
    for (uint64_t i = 0; i < n_done + !is_complete; i++) {
        uint64_t from = linear(st, in->mem.seg, truncated(st->gpr[GPR_RSI] + i * by, in->addr_bytes));
        uint64_t to = linear(st, SEG_ES, truncated(st->gpr[GPR_RDI] + i * by, in->addr_bytes));
        if (kind == 0xa6 || kind == 0xae) /* CMPS, SCAS */
            note_in_order(x, to, bytes, READ, i < n_done);
        if (kind == 0xa4 || kind == 0xa6 || kind == 0xac) /* MOVS, CMPS, LODS */
            note_in_order(x, from, bytes, READ, i < n_done);
        if (kind == 0xa4 || kind == 0xaa) /* MOVS, STOS */
            note_in_order(x, to, bytes, WRITE, i < n_done);
        if (kind == 0xa6 && from == to)
            once(x);
    }
}

static void expect_enter(const struct insn *in, const struct machine_state *st, struct expectation *x)
{
    unsigned bytes = in->op_bytes, level = (unsigned)in->imm2 & 31;
    uint64_t sp = st->gpr[GPR_RSP], frame = st->gpr[GPR_RBP];
    note(x, linear(st, SEG_SS, sp -= bytes), bytes, WRITE, true);
    for (unsigned i = 1; i < level; i++) {
        note(x, linear(st, SEG_SS, frame -= bytes), bytes, READ, true);
        note(x, linear(st, SEG_SS, sp -= bytes), bytes, WRITE, true);
    }
    if (level)
        note(x, linear(st, SEG_SS, sp - bytes), bytes, WRITE, true);
}

static unsigned stack_bytes(const struct insn *in)
{
    return diff_mode_bits == 64 && in->op_bytes == 4 ? 8 : in->op_bytes;
}

/* A far call may turn out to be none, and not go beyond its pointer. */
static bool expect_call(const struct insn *in, const struct machine_state *st, struct expectation *x)
{
    bool is_far = (in->modrm >> 3 & 7) == 3;
    unsigned bytes = is_far ? in->op_bytes : stack_bytes(in), n = is_far ? 2 : 1;
    note(x, linear(st, SEG_SS, st->gpr[GPR_RSP] - n * bytes), n * bytes, WRITE, true);
    return false;
}

/* To an outer privilege level the stack pointer is read too. */
static bool expect_return(const struct insn *in, const struct machine_state *st, struct expectation *x)
{
    bool is_near = in->opcode == 0xc2 || in->opcode == 0xc3, is_iret = in->opcode == 0xcf;
    unsigned bytes = is_near ? stack_bytes(in) : in->op_bytes, n = is_near ? 1 : is_iret ? 3 : 2;
    uint64_t sp = st->gpr[GPR_RSP];
    note(x, linear(st, SEG_SS, sp), n * bytes, READ, true);
    if (!is_near)
        note(x, linear(st, SEG_SS, sp + n * bytes + (is_iret ? 0 : (uint16_t)in->imm)), 2 * bytes, READ, false);
    return true;
}

/* True if there is nothing besides the stack. */
static bool expect_stack(const struct insn *in, const struct machine_state *st, struct expectation *x)
{
    uint64_t sp = st->gpr[GPR_RSP];
    unsigned bytes = in->op_bytes;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        if (in->opnd[0].kind == OPND_SEG) { /* the upper bytes are written or not */
            note(x, linear(st, SEG_SS, sp - bytes), 2, WRITE, true);
            note(x, linear(st, SEG_SS, sp - bytes + 2), bytes - 2, WRITE, false);
            return true;
        }
        note(x, linear(st, SEG_SS, sp - bytes), bytes, WRITE, true);
        return in->opnd[0].kind != OPND_MEM;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        note(x, linear(st, SEG_SS, sp - bytes), bytes, WRITE, true);
        return true;
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        note(x, linear(st, SEG_SS, sp - 8 * bytes), 8 * bytes, WRITE, true);
        return true;
    case ZYDIS_MNEMONIC_POPA: /* all but SP's */
    case ZYDIS_MNEMONIC_POPAD:
        note(x, linear(st, SEG_SS, sp), 3 * bytes, READ, true);
        note(x, linear(st, SEG_SS, sp + 3 * bytes), bytes, READ, false);
        note(x, linear(st, SEG_SS, sp + 4 * bytes), 4 * bytes, READ, true);
        return true;
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        note(x, linear(st, SEG_SS, sp), bytes, READ, true);
        return in->opnd[0].kind != OPND_MEM;
    case ZYDIS_MNEMONIC_LEAVE:
        note(x, linear(st, SEG_SS, st->gpr[GPR_RBP]), bytes, READ, true);
        return true;
    case ZYDIS_MNEMONIC_ENTER:
        expect_enter(in, st, x);
        return true;
    case ZYDIS_MNEMONIC_CALL:
        return expect_call(in, st, x);
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return expect_return(in, st, x);
    case ZYDIS_MNEMONIC_INT: /* another stack's */
    case ZYDIS_MNEMONIC_INT3:
        return true;
    default:
        return false;
    }
}

/* Areas of which the processor touches what it has to. */
static unsigned area_bytes(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        return 512;
    default:
        return in->category == ZYDIS_CATEGORY_XSAVE || in->category == ZYDIS_CATEGORY_XSAVEOPT ? state_xsave_bytes() : 0;
    }
}

static bool is_hint(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB:
    case ZYDIS_MNEMONIC_CLDEMOTE:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
        return true;
    default:
        return in->category == ZYDIS_CATEGORY_PREFETCH || in->category == ZYDIS_CATEGORY_NOP || in->category == ZYDIS_CATEGORY_WIDENOP;
    }
}

static void expect_memory(const struct insn *in, const struct machine_state *st, struct expectation *x)
{
    uint64_t at = linear(st, in->mem.seg, explicit_offset(in, st));
    unsigned area = area_bytes(in);
    if (!in->mem.access || is_hint(in))
        return;
    if (in->mnemonic == ZYDIS_MNEMONIC_XLAT)
        at = linear(st, in->mem.seg, truncated(st->gpr[GPR_RBX] + (uint8_t)st->gpr[GPR_RAX], in->addr_bytes));
    if (area) /* the header of the area is read too by what writes it */
        note(x, at, area, READ | WRITE, false);
    else if (in->mem.masked_bytes)
        expect_masked(in, st, at, x);
    else /* with an exception to come nothing is stored by the x87 */
        note(x, at, in->mem.bytes, in->mem.access, in->fp_class != FP_X87 || !(in->mem.access & OPND_WRITE));
}

uint64_t expect_iterations(const struct insn *in, uint64_t rcx_before, uint64_t rcx_after)
{
    return in->has_f2 || in->has_f3 ? truncated(rcx_before - rcx_after, in->addr_bytes) : 1;
}

void expect_insn(const struct insn *in, const struct machine_state *st, uint64_t n_done, bool is_complete, struct expectation *out)
{
    memset(out, 0, offsetof(struct expectation, order));
    if (form_is_string(in))
        expect_string(in, st, n_done, is_complete, out);
    else if (in->mem.is_vsib)
        expect_sparse(in, st, out);
    else if (form_is_masked_store(in))
        expect_sign_masked(in, st, out);
    else if (!expect_stack(in, st, out) && in->has_mem)
        expect_memory(in, st, out);
}
