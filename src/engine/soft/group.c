/* SPDX-License-Identifier: MIT */
/*
 * Memory groups: accesses of one block that share base and index registers and lie close together (fields of a struct, a stack frame across PUSH, POP, CALL and
 * RET) take one TLB probe for all. The first member probes the whole range and keeps its host address in sv->group[]; the others use that. A probe that fails,
 * because the range misses or crosses a page, goes on in a block for the same place without groups: so nothing is ever checked, filled or faulted for a byte
 * that the guest does not touch.
 *
 * A group's host address outlives the TLB entry it came from, but not the block: whoever takes a page from all vCPUs stops them first, and cache.c looks at
 * sv->group[] too.
 */
#include "engine/soft/translate_priv.h"

#include <stddef.h>

#define GROUP_RANGE_BYTES 512

struct access {
    uint8_t base, index, scale;
    bool is_write;
    unsigned base_epoch, index_epoch;
    int64_t disp; /* for rSP: from its value when the block began, or when it was last set to something unknown */
    unsigned bytes;
};

struct group {
    struct access key;
    int64_t low, high; /* the range, in disp */
    unsigned members;
    bool is_write;
};

struct analysis {
    unsigned epoch[GPR_COUNT]; /* counts the values that a register had */
    int64_t rsp_offset;
    struct group group[GROUPS_MAX];
    unsigned n;
};

static bool is_plain_operand(const struct tc *tc, const struct insn *in)
{
    return in->has_mem && in->mem.base < GPR_COUNT && !in->mem.is_vsib && in->addr_bytes == 8 && in->mem.seg != SEG_FS && in->mem.seg != SEG_GS &&
           !insn_is_lea(in) && !insn_is_nop(in) && !bit_is_inline(tc, in);
}

static void slot_access(const struct analysis *a, int disp, bool is_write, struct access *out)
{
    *out = (struct access){
        .base = GPR_RSP, .index = GPR_NONE, .scale = 1, .is_write = is_write, .base_epoch = a->epoch[GPR_RSP], .disp = a->rsp_offset + disp, .bytes = 8
    };
}

/* The one access of an instruction that may join a group. */
static bool access_of(const struct tc *tc, const struct analysis *a, const struct tc_insn *ti, struct access *out)
{
    const struct insn *in = &ti->in;
    if (ti->class == CLASS_NATIVE) {
        if (!is_plain_operand(tc, in))
            return false;
        const struct insn_mem *m = &in->mem;
        *out = (struct access){ .base = m->base, .index = m->index, .scale = m->scale, .is_write = m->access & OPND_WRITE, .disp = m->disp, .bytes = m->bytes };
        out->base_epoch = a->epoch[m->base];
        out->index_epoch = m->index < GPR_COUNT ? a->epoch[m->index] : 0;
        if (m->base == GPR_RSP)
            out->disp += a->rsp_offset;
        return true;
    }
    switch (ti->class == CLASS_STACK || ti->class == CLASS_BRANCH ? insn_branch_kind(in) : BRANCH_NONE) {
    case BRANCH_PUSH:
        slot_access(a, -8, true, out);
        return in->opnd[0].kind != OPND_MEM;
    case BRANCH_POP:
    case BRANCH_RET:
        slot_access(a, 0, false, out);
        return true;
    case BRANCH_CALL:
        slot_access(a, -8, true, out);
        return in->opnd[0].kind == OPND_REL;
    default:
        return false;
    }
}

/* How rSP changes by a known amount. False: it does not, or to something unknown. */
static bool rsp_delta(const struct tc_insn *ti, int64_t *delta)
{
    if (ti->class == CLASS_SYSTEM && insn_system_kind(&ti->in) == SYSTEM_PUSHF) {
        *delta = -8;
        return true;
    }
    if (ti->class == CLASS_STACK) {
        enum branch_kind kind = insn_branch_kind(&ti->in);
        *delta = kind == BRANCH_PUSH ? -8 : 8;
        return kind == BRANCH_PUSH || (kind == BRANCH_POP && ti->in.opnd[0].reg != GPR_RSP);
    }
    return ti->class == CLASS_NATIVE && insn_rsp_delta(&ti->in, delta);
}

static void account_writes(struct analysis *a, const struct tc_insn *ti)
{
    uint32_t written = ti->in.gpr_written;
    int64_t delta;
    if (rsp_delta(ti, &delta)) {
        a->rsp_offset += delta;
        written &= ~(1u << GPR_RSP);
    }
    for (; written; written &= written - 1)
        a->epoch[__builtin_ctz(written)]++;
}

static bool same_key(const struct access *a, const struct access *b)
{
    return a->base == b->base && a->index == b->index && a->scale == b->scale && a->base_epoch == b->base_epoch && a->index_epoch == b->index_epoch;
}

static unsigned join(struct analysis *a, const struct access *x)
{
    int64_t end = x->disp + x->bytes;
    for (unsigned i = 0; i < a->n; i++) {
        struct group *g = &a->group[i];
        int64_t low = x->disp < g->low ? x->disp : g->low, high = end > g->high ? end : g->high;
        if (!same_key(&g->key, x) || high - low > GROUP_RANGE_BYTES)
            continue;
        g->low = low;
        g->high = high;
        g->is_write |= x->is_write;
        g->members++;
        return i + 1;
    }
    if (a->n == GROUPS_MAX)
        return 0;
    a->group[a->n] = (struct group){ .key = *x, .low = x->disp, .high = end, .members = 1, .is_write = x->is_write };
    return ++a->n;
}

void group_find(struct tc *tc)
{
    struct analysis a = { .n = 0 };
    bool is_possible = (tc->key & KEY_MODE) == KEY_MODE_64 && !(tc->key & KEY_NO_GROUP);
    for (unsigned i = 0; i < tc->n; i++) {
        struct tc_insn *ti = &tc->insn[i];
        struct access x;
        ti->group = 0;
        if (!is_possible || ti->class == CLASS_EXEC)
            continue;
        if (access_of(tc, &a, ti, &x)) {
            ti->group = (uint8_t)join(&a, &x);
            ti->group_disp = x.disp;
            ti->rsp_offset = a.rsp_offset;
        }
        account_writes(&a, ti);
    }
    uint32_t started = 0;
    for (unsigned i = 0; i < tc->n; i++) {
        struct tc_insn *ti = &tc->insn[i];
        if (!ti->group)
            continue;
        const struct group *g = &a.group[ti->group - 1];
        if (g->members < 2) {
            ti->group = 0;
            continue;
        }
        ti->is_group_first = !(started & 1u << ti->group);
        started |= 1u << ti->group;
        ti->group_disp -= g->low;
        tc->group[ti->group - 1] = (struct tc_group){ .low = g->low, .bytes = (unsigned)(g->high - g->low), .is_write = g->is_write };
    }
}

/* t0 = linear address of the group's lowest byte */
static void emit_low_address(struct tc *tc, const struct tc_insn *ti, const struct tc_group *g)
{
    const struct insn *in = &ti->in;
    bool is_operand = ti->class == CLASS_NATIVE;
    unsigned base = is_operand ? in->mem.base : GPR_RSP, index = is_operand ? in->mem.index : GPR_NONE;
    int64_t disp = g->low - (base == GPR_RSP ? ti->rsp_offset : 0);
    unsigned hb = probe_address_reg(tc, base, T0), hx = probe_address_reg(tc, index, T1);
    emit_lea(&tc->e, true, T0, hb, hx, is_operand ? in->mem.scale : 1, (int32_t)disp);
}

int group_locate(struct tc *tc, const struct tc_insn *ti)
{
    struct emit *e = &tc->e;
    struct tc_group *g = &tc->group[ti->group - 1];
    uint32_t slot = FIELD(group) + 8u * (ti->group - 1u);
    if (!ti->is_group_first) {
        emit_gs(e, true, OP_MOV_LOAD, T0, slot);
        return (int)ti->group_disp;
    }
    if (ti->live)
        tc_save_flags(tc);
    emit_low_address(tc, ti, g);
    g->miss = probe_without_fill(tc, g->bytes, g->is_write, true);
    g->gva = ti->gva;
    emit_gs(e, true, OP_MOV_STORE, T0, slot);
    return (int)ti->group_disp;
}

bool group_make_links(struct tc *tc)
{
    unsigned n = 0;
    for (unsigned i = 0; i < GROUPS_MAX; i++)
        n += tc->group[i].miss != NULL;
    tc->block->n_group_links = (uint8_t)n;
    if (n == 0)
        return true;
    tc->block->group_link = cache_alloc(tc->svm, n * sizeof(struct link));
    return tc->block->group_link != NULL;
}

void group_emit_misses(struct tc *tc)
{
    struct emit *e = &tc->e;
    struct link *l = tc->block->group_link;
    for (unsigned i = 0; i < GROUPS_MAX; i++) {
        const struct tc_group *g = &tc->group[i];
        if (!g->miss)
            continue;
        *l = (struct link){ .rel32 = g->miss, .from = tc->block, .is_saved = true, .is_ungrouped = true, .stub = emit_here(e) };
        emit_patch(e, g->miss);
        emit_mov_imm(e, T0, g->gva);
        emit_mov_imm(e, T1, (uint64_t)(uintptr_t)l);
        emit_jmp(e, tc->svm->stubs.link_saved);
        l++;
    }
}
