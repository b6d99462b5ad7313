/* SPDX-License-Identifier: MIT */
/*
 * Control flow and the stack in translated code: direct exits (links in the page, the jump cache beyond it), indirect ones, PUSH, POP, LEAVE, CALL, RET. Inline
 * only with a flat CS and a flat 32- or 64-bit stack; all other forms are exits to exec_insn.
 */
#include "engine/soft/translate_priv.h"

#include <stddef.h>

static bool is_64(const struct tc *tc)
{
    return (tc->key & KEY_MODE) == KEY_MODE_64;
}

static bool is_in_page(const struct tc *tc, gva_t target)
{
    return (target & ~PAGE_OFFSET_MASK) == (tc->gva & ~PAGE_OFFSET_MASK);
}

/* Linear address of a direct branch's target: rip wraps by the operand size. */
static gva_t branch_target(const struct tc *tc, const struct tc_insn *ti)
{
    gva_t next = ti->gva + ti->in.len;
    if (is_64(tc))
        return next + ti->in.imm;
    uint64_t rip = next - tc->cs_base + ti->in.imm;
    rip = (tc->key & KEY_MODE) == KEY_MODE_32 ? (uint32_t)rip : (uint16_t)rip;
    return (uint32_t)(tc->cs_base + rip);
}

/* Operand size of near branches and of plain stack operations. */
static unsigned word_bytes(const struct tc *tc)
{
    return (tc->key & KEY_MODE) == KEY_MODE_64 ? 8 : (tc->key & KEY_MODE) == KEY_MODE_32 ? 4 : 2;
}

static unsigned stack_bytes(const struct tc *tc)
{
    return is_64(tc) ? 8 : tc->key & KEY_STACK_32 ? 4 : 2;
}

static bool has_inline_stack(const struct tc *tc)
{
    return is_64(tc) || (tc->key & KEY_ORDINARY);
}

/* Near branches and stack operations whose operand size is the mode's own. */
static bool has_plain_size(const struct tc *tc, const struct insn *in, enum branch_kind kind)
{
    if (is_64(tc))
        return kind == BRANCH_PUSH || kind == BRANCH_POP || kind == BRANCH_LEAVE ? in->op_bytes == 8 : true;
    return in->op_bytes == word_bytes(tc) && !in->has_66;
}

static bool mem_is_inline(const struct tc *tc, const struct insn *in)
{
    return is_64(tc) || ((tc->key & KEY_ORDINARY) && in->mem.seg != SEG_CS);
}

static bool push_is_inline(const struct tc *tc, const struct insn *in)
{
    const struct opnd *o = &in->opnd[0];
    return o->kind == OPND_IMM || o->kind == OPND_GPR || (o->kind == OPND_MEM && mem_is_inline(tc, in));
}

/* Targets of direct branches with a CS that is not flat: in the page, so that a link does, and within the limit. */
static bool target_is_near(const struct tc *tc, const struct tc_insn *ti)
{
    gva_t target = branch_target(tc, ti);
    return is_in_page(tc, target) && target - tc->cs_base <= tc->cs_limit;
}

static bool target_is_inline(const struct tc *tc, const struct tc_insn *ti)
{
    const struct insn *in = &ti->in;
    const struct opnd *o = &in->opnd[0];
    if (!(tc->key & KEY_FLAT_CS))
        return o->kind == OPND_REL && target_is_near(tc, ti);
    if (o->kind == OPND_MEM)
        return mem_is_inline(tc, in);
    return o->kind == OPND_REL || o->kind == OPND_GPR;
}

enum tc_class branch_class(struct tc *tc, const struct tc_insn *ti)
{
    const struct insn *in = &ti->in;
    enum branch_kind kind = insn_branch_kind(in);
    bool is_flat_cs = tc->key & KEY_FLAT_CS;
    if (kind == BRANCH_NONE)
        return CLASS_NATIVE;
    if (!has_plain_size(tc, in, kind) || (is_flat_cs && (tc->key & KEY_MODE) == KEY_MODE_16))
        return CLASS_EXEC;
    switch (kind) {
    case BRANCH_JMP:
    case BRANCH_JCC:
        return target_is_inline(tc, ti) ? CLASS_BRANCH : CLASS_EXEC;
    case BRANCH_CALL:
        return has_inline_stack(tc) && target_is_inline(tc, ti) ? CLASS_BRANCH : CLASS_EXEC;
    case BRANCH_RET:
        return has_inline_stack(tc) && is_flat_cs ? CLASS_BRANCH : CLASS_EXEC;
    case BRANCH_PUSH:
        return has_inline_stack(tc) && push_is_inline(tc, in) ? CLASS_STACK : CLASS_EXEC;
    case BRANCH_POP:
        return has_inline_stack(tc) && in->opnd[0].kind == OPND_GPR && (in->opnd[0].reg != GPR_RSP || is_64(tc)) ? CLASS_STACK : CLASS_EXEC;
    default:
        return has_inline_stack(tc) && stack_bytes(tc) == word_bytes(tc) && word_bytes(tc) > 2 ? CLASS_STACK : CLASS_EXEC;
    }
}

/* ---- exits ---- */

/* T0 = target, flags saved: through the jump cache entry whose index is known. */
static void emit_jump_cache_direct(struct tc *tc, gva_t target)
{
    struct emit *e = &tc->e;
    tc_save_flags(tc);
    emit_mov_imm(e, T0, target);
    if (!(tc->key & KEY_FLAT_CS)) { /* landings are only for rip = linear address */
        emit_jmp(e, tc->svm->stubs.lookup);
        return;
    }
    bool is_user = tc->key & KEY_USER;
    emit_gs(e, false, 0xff, 4, FIELD(jump_cache) + (uint32_t)((is_user * JUMP_CACHE_ENTRIES + jump_cache_index(target)) * sizeof(void *)));
}

static void emit_jump_cache_indirect(struct tc *tc)
{
    struct emit *e = &tc->e;
    bool is_user = tc->key & KEY_USER;
    emit_rr(e, false, OP_MOV_LOAD, T1, T0);
    emit_bytes(e, "\x41\xc1\xef\x0a", 4); /* shr r15d, 10 */
    emit_rr(e, false, OP_XOR, T1, T0);
    emit_ri(e, false, 4, T1, JUMP_CACHE_ENTRIES - 1);
    emit_gs_index(e, false, 0xff, 4, T1, 8, FIELD(jump_cache) + (uint32_t)(is_user * JUMP_CACHE_ENTRIES * sizeof(void *)));
}

static void note_link(struct tc *tc, unsigned n, uint8_t *rel32, gva_t target)
{
    struct link *l = &tc->block->link[n];
    l->rel32 = rel32;
    l->from = tc->block;
    l->is_saved = tc->is_saved;
    tc->stub[tc->n_stubs++] = (struct tc_stub){ .link = l, .rel32 = rel32, .target = target, .is_saved = tc->is_saved };
}

void branch_emit_direct(struct tc *tc, gva_t target, unsigned n)
{
    if (is_in_page(tc, target))
        note_link(tc, n, emit_jmp_forward(&tc->e, true), target);
    else
        emit_jump_cache_direct(tc, target);
}

void branch_emit_exec(struct tc *tc, const struct tc_insn *ti)
{
    emit_mov_imm(&tc->e, T0, ti->gva);
    emit_mov_imm(&tc->e, T1, (uint64_t)(uintptr_t)tc->block->exec);
    emit_jmp(&tc->e, tc->is_saved ? tc->svm->stubs.exec_saved : tc->svm->stubs.exec_hw);
}

/* A taken branch out of the page cannot be one jcc: it goes to a stub that does the rest. */
static void emit_jcc_insn(struct tc *tc, const struct tc_insn *ti)
{
    tc_restore_flags(tc);
    gva_t next = ti->gva + ti->in.len, target = branch_target(tc, ti);
    uint8_t *rel32 = emit_jcc_forward(&tc->e, insn_cc(&ti->in), true);
    if (is_in_page(tc, target))
        note_link(tc, 1, rel32, target);
    else
        tc->stub[tc->n_stubs++] = (struct tc_stub){ .rel32 = rel32, .target = target };
    branch_emit_direct(tc, next, 0);
}

void branch_emit_stubs(struct tc *tc)
{
    struct emit *e = &tc->e;
    for (unsigned i = 0; i < tc->n_stubs; i++) {
        struct tc_stub *s = &tc->stub[i];
        tc->is_saved = s->is_saved;
        emit_patch(e, s->rel32);
        if (!s->link) {
            emit_jump_cache_direct(tc, s->target);
            continue;
        }
        s->link->stub = emit_here(e);
        emit_mov_imm(e, T0, s->target);
        emit_mov_imm(e, T1, (uint64_t)(uintptr_t)s->link);
        emit_jmp(e, s->is_saved ? tc->svm->stubs.link_saved : tc->svm->stubs.link_hw);
    }
}

/* ---- stack ---- */

/* t0 = base + disp, wrapped by the stack size: the offset of a stack slot */
static void emit_slot(struct tc *tc, unsigned base, int disp)
{
    emit_lea(&tc->e, is_64(tc), T0, base, GPR_NONE, 1, disp);
    if (stack_bytes(tc) == 2)
        emit_rr(&tc->e, false, 0x0fb7, T0, T0); /* movzx t0d, t0w */
}

/* rSP += n by the stack size: with a 16-bit stack only SP changes. */
static void emit_add_rsp(struct tc *tc, int n)
{
    struct emit *e = &tc->e;
    if (stack_bytes(tc) != 2) {
        emit_lea(e, is_64(tc), HOST_RSP_OF_GUEST, HOST_RSP_OF_GUEST, GPR_NONE, 1, n);
        return;
    }
    emit_lea(e, false, T1, HOST_RSP_OF_GUEST, GPR_NONE, 1, n);
    emit_8(e, 0x66);
    emit_rr(e, false, OP_MOV_LOAD, HOST_RSP_OF_GUEST, T1);
}

/* mov [t0 + disp], reg or mov reg, [t0 + disp] of the word's size */
static void emit_word(struct tc *tc, unsigned op, unsigned reg, int disp)
{
    if (word_bytes(tc) == 2)
        emit_8(&tc->e, 0x66);
    emit_base(&tc->e, is_64(tc), op, reg, T0, disp);
}

/* The slot's host address is T0 + the result. */
static int probe_slot(struct tc *tc, const struct tc_insn *ti, unsigned base, int disp, bool is_write)
{
    int at = 0;
    if (ti->group) {
        at = group_locate(tc, ti);
    } else {
        emit_slot(tc, base, disp);
        probe_segment(tc, ti, SEG_SS, word_bytes(tc));
        probe(tc, ti, word_bytes(tc), is_write);
    }
    tc_note_fault(tc, ti);
    return at;
}

/* T0 = the word that a memory operand holds */
static void emit_load_operand(struct tc *tc, const struct tc_insn *ti)
{
    int disp = probe_operand(tc, ti);
    tc_note_fault(tc, ti);
    emit_word(tc, OP_MOV_LOAD, T0, disp);
}

void branch_emit_store_slot(struct tc *tc, const struct tc_insn *ti, uint32_t field)
{
    int n = (int)word_bytes(tc);
    int disp = probe_slot(tc, ti, HOST_RSP_OF_GUEST, -n, true);
    emit_gs(&tc->e, true, OP_MOV_LOAD, T1, field);
    emit_word(tc, OP_MOV_STORE, T1, disp);
    emit_add_rsp(tc, -n);
}

static void emit_push(struct tc *tc, const struct tc_insn *ti)
{
    struct emit *e = &tc->e;
    const struct opnd *o = &ti->in.opnd[0];
    int n = (int)word_bytes(tc);
    if (o->kind == OPND_MEM) {
        emit_load_operand(tc, ti);
        emit_gs(e, true, OP_MOV_STORE, T0, FIELD(scratch));
        branch_emit_store_slot(tc, ti, FIELD(scratch));
        return;
    }
    int disp = probe_slot(tc, ti, HOST_RSP_OF_GUEST, -n, true);
    unsigned h = o->kind == OPND_GPR ? host_of(o->reg) : T1;
    if (o->kind == OPND_IMM) {
        emit_mov_imm(e, T1, ti->in.imm);
    } else if (h == HOST_IN_MEMORY) {
        h = T1;
        emit_gs(e, true, OP_MOV_LOAD, T1, GPR_AT(o->reg));
    }
    emit_word(tc, OP_MOV_STORE, h, disp);
    emit_add_rsp(tc, -n);
}

static void emit_pop(struct tc *tc, const struct tc_insn *ti)
{
    struct emit *e = &tc->e;
    unsigned reg = ti->in.opnd[0].reg, h = host_of(reg);
    int disp = probe_slot(tc, ti, HOST_RSP_OF_GUEST, 0, false);
    if (h == HOST_IN_MEMORY) {
        emit_base(e, true, OP_MOV_LOAD, T0, T0, disp);
        emit_gs(e, true, OP_MOV_STORE, T0, GPR_AT(reg));
    } else {
        emit_word(tc, OP_MOV_LOAD, h, disp);
    }
    if (reg == GPR_RSP)
        return; /* the value popped replaces the increment */
    emit_add_rsp(tc, (int)word_bytes(tc));
}

static void emit_leave_insn(struct tc *tc, const struct tc_insn *ti)
{
    struct emit *e = &tc->e;
    int disp = probe_slot(tc, ti, GPR_RBP, 0, false);
    emit_lea(e, is_64(tc), HOST_RSP_OF_GUEST, GPR_RBP, GPR_NONE, 1, (int)word_bytes(tc));
    emit_word(tc, OP_MOV_LOAD, GPR_RBP, disp);
}

/* ---- branches ---- */

/* Target of an indirect JMP or CALL to scratch[0]: what follows may fault and restart the instruction. */
static void emit_load_target(struct tc *tc, const struct tc_insn *ti)
{
    struct emit *e = &tc->e;
    const struct opnd *o = &ti->in.opnd[0];
    tc_save_flags(tc);
    if (o->kind == OPND_MEM) {
        emit_load_operand(tc, ti);
    } else if (host_of(o->reg) == HOST_IN_MEMORY) {
        emit_gs(e, true, OP_MOV_LOAD, T0, GPR_AT(o->reg));
    } else {
        emit_rr(e, is_64(tc), OP_MOV_LOAD, T0, host_of(o->reg));
    }
    emit_gs(e, true, OP_MOV_STORE, T0, FIELD(scratch));
}

static void emit_call_insn(struct tc *tc, const struct tc_insn *ti)
{
    struct emit *e = &tc->e;
    int n = (int)word_bytes(tc);
    bool is_direct = ti->in.opnd[0].kind == OPND_REL;
    gva_t next = ti->gva + ti->in.len;
    if (!is_direct)
        emit_load_target(tc, ti);
    int disp = probe_slot(tc, ti, HOST_RSP_OF_GUEST, -n, true);
    emit_mov_imm(e, T1, next - tc->cs_base);
    emit_word(tc, OP_MOV_STORE, T1, disp);
    emit_add_rsp(tc, -n);
    if (is_direct) {
        branch_emit_direct(tc, branch_target(tc, ti), 0);
        return;
    }
    emit_gs(e, true, OP_MOV_LOAD, T0, FIELD(scratch));
    emit_jump_cache_indirect(tc);
}

static void emit_ret(struct tc *tc, const struct tc_insn *ti)
{
    tc_save_flags(tc);
    int disp = probe_slot(tc, ti, HOST_RSP_OF_GUEST, 0, false);
    emit_base(&tc->e, is_64(tc), OP_MOV_LOAD, T0, T0, disp);
    unsigned extra = ti->in.n_opnds && ti->in.opnd[0].kind == OPND_IMM ? (uint16_t)ti->in.imm : 0;
    emit_add_rsp(tc, (int)(word_bytes(tc) + extra));
    emit_jump_cache_indirect(tc);
}

void branch_emit(struct tc *tc, const struct tc_insn *ti)
{
    switch (insn_branch_kind(&ti->in)) {
    case BRANCH_JMP:
        if (ti->in.opnd[0].kind == OPND_REL) {
            branch_emit_direct(tc, branch_target(tc, ti), 0);
        } else {
            emit_load_target(tc, ti);
            emit_jump_cache_indirect(tc);
        }
        break;
    case BRANCH_JCC:
        emit_jcc_insn(tc, ti);
        break;
    case BRANCH_CALL:
        emit_call_insn(tc, ti);
        break;
    case BRANCH_RET:
        emit_ret(tc, ti);
        break;
    case BRANCH_PUSH:
        emit_push(tc, ti);
        break;
    case BRANCH_POP:
        emit_pop(tc, ti);
        break;
    default:
        emit_leave_insn(tc, ti);
    }
}
