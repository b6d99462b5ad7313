/* SPDX-License-Identifier: MIT */
/*
 * Guest instructions to a block: decode up to a branch, a helper instruction or the end of the page; find where status flags are live; emit. Instructions are
 * re-emitted as themselves; memory operands go through the inline TLB probe of probe.c; near branches are in branch.c. What has a helper, or is not allowed in
 * this mode, ends the block with an exit to exec_insn. Runs under code_lock with the guest's vectors saved (Zydis and malloc are called).
 */
#include "engine/soft/translate_priv.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "engine/soft/light.h"

int translate_init(struct soft_vm *svm)
{
    svm->tc = calloc(1, sizeof *svm->tc);
    return svm->tc ? 0 : -ENOMEM;
}

void translate_fini(struct soft_vm *svm)
{
    free(svm->tc);
}

/* ---- decoding a run ---- */

bool translate_fp_is_enabled(uint32_t key, const struct insn *in)
{
    switch (in->fp_class) {
    case FP_X87:
        return key & KEY_X87;
    case FP_MMX:
        return key & KEY_MMX;
    case FP_SSE:
        return key & KEY_SSE;
    case FP_AVX:
        return key & KEY_AVX;
    case FP_AVX512:
        return key & KEY_AVX512;
    default:
        return true;
    }
}

/* Segments whose accesses translated code can check: none to do, or base and limit. CS is for reads of a flat one only. */
static bool segment_is_inline(uint32_t key, const struct insn *in)
{
    if ((key & KEY_MODE) == KEY_MODE_64)
        return true;
    if (in->mem.seg == SEG_CS)
        return (key & KEY_FLAT_CS) && (key & KEY_FLAT) && !(in->mem.access & OPND_WRITE);
    return (key & KEY_ORDINARY) || probe_is_direct(key, in->mem.seg);
}

static bool is_native(struct tc *tc, const struct insn *in)
{
    if (insn_is_nop(in))
        return true;
    if (bit_is_inline(tc, in) || ((tc->key & KEY_USER) && insn_is_pause(in)))
        return true;
    if (!features_allow_insn(&tc->svm->features, in) || helper_find(in) || !translate_fp_is_enabled(tc->key, in))
        return false;
    if (in->enc != ENC_LEGACY && (tc->key & KEY_MODE) == KEY_MODE_16)
        return false;
    if (!in->has_mem || insn_is_lea(in))
        return true;
    return in->mem.bytes && in->mem.bytes <= 64 && !in->mem.is_vsib && segment_is_inline(tc->key, in);
}

/* Fills tc->insn. The last one may be of class CLASS_EXEC: an exit to exec_insn stands for it. */
static void decode_run(struct tc *tc)
{
    unsigned offset = tc->page_offset;
    while (tc->n < BLOCK_INSNS_MAX) {
        struct tc_insn *ti = &tc->insn[tc->n];
        unsigned avail = PAGE_BYTES - offset;
        if (avail)
            cache_page_refresh(tc->svm, tc->page, offset, INSN_MAX_BYTES);
        ti->guest_offset = (uint16_t)(offset - tc->page_offset);
        ti->gva = tc->gva + ti->guest_offset;
        int r = avail ? insn_decode(&ti->in, tc->page->copy + offset, avail, tc->mode_bits) : -EAGAIN;
        if (r == -EAGAIN && tc->n > 0 && avail == 0)
            return; /* the block falls through into the next page */
        tc->n++;
        ti->is_decoded = r == 0;
        if (r) {
            ti->class = CLASS_EXEC; /* undefined, too long, or runs into the next page */
            return;
        }
        ti->class = branch_class(tc, ti);
        if (ti->class == CLASS_NATIVE && system_is_inline(tc, &ti->in))
            ti->class = CLASS_SYSTEM;
        if (ti->class == CLASS_NATIVE && string_is_inline(tc, &ti->in))
            ti->class = CLASS_STRING;
        if (ti->class == CLASS_NATIVE && !is_native(tc, &ti->in))
            ti->class = CLASS_EXEC;
        if (ti->gva - tc->cs_base + ti->in.len - 1 > tc->cs_limit && tc->mode_bits != 64)
            ti->class = CLASS_EXEC; /* runs over the limit: exec_insn raises the fault */
        if (ti->class == CLASS_EXEC)
            return;
        offset += ti->in.len;
        if (ti->class >= CLASS_BRANCH)
            return;
    }
}

/* Backwards: which status flags are read before they are written, from before each instruction on. All are live at the end of a block. */
static void find_live_flags(struct tc *tc)
{
    uint32_t live = RFLAGS_STATUS;
    for (unsigned i = tc->n; i-- > 0;) {
        struct tc_insn *ti = &tc->insn[i];
        if (ti->class == CLASS_NATIVE)
            live = (live & ~ti->in.flags_must) | (ti->in.flags_read & RFLAGS_STATUS);
        else if (ti->class == CLASS_STACK || ti->class == CLASS_STRING || ti->class == CLASS_SYSTEM)
            live |= ti->in.flags_read & RFLAGS_STATUS;
        else
            live = RFLAGS_STATUS;
        ti->live = tc->key & KEY_WATCHED ? RFLAGS_STATUS : live;
    }
}

/* ---- flags ---- */

/* mov t1, rax; lahf; seto al; mov gs:[saved_flags], eax; mov rax, t1 */
void tc_save_flags(struct tc *tc)
{
    struct emit *e = &tc->e;
    if (tc->is_saved)
        return;
    emit_rr(e, true, OP_MOV_LOAD, T1, GPR_RAX);
    emit_8(e, 0x9f);
    emit_bytes(e, "\x0f\x90\xc0", 3);
    emit_gs(e, false, OP_MOV_STORE, GPR_RAX, FIELD(saved_flags));
    emit_rr(e, true, OP_MOV_LOAD, GPR_RAX, T1);
    tc->is_saved = true;
}

/* mov t1, rax; mov eax, gs:[saved_flags]; add al, 0x7f (OF); sahf; mov rax, t1 */
void tc_restore_flags_by(struct tc *tc, bool keeps_t1)
{
    struct emit *e = &tc->e;
    if (!tc->is_saved)
        return;
    if (keeps_t1)
        emit_gs(e, true, OP_MOV_STORE, GPR_RAX, FIELD(scratch));
    else
        emit_rr(e, true, OP_MOV_LOAD, T1, GPR_RAX);
    emit_gs(e, false, OP_MOV_LOAD, GPR_RAX, FIELD(saved_flags));
    emit_bytes(e, "\x04\x7f", 2);
    emit_8(e, 0x9e);
    if (keeps_t1)
        emit_gs(e, true, OP_MOV_LOAD, GPR_RAX, FIELD(scratch));
    else
        emit_rr(e, true, OP_MOV_LOAD, GPR_RAX, T1);
    tc->is_saved = false;
}

void tc_restore_flags(struct tc *tc)
{
    tc_restore_flags_by(tc, false);
}

/* ---- one native instruction ---- */

/* Host registers for the operands of one instruction; guest registers in memory get a temporary. */
struct regs {
    struct {
        uint8_t guest, host;
    } temp[3];
    unsigned n;
    uint16_t busy;       /* host registers in use by the instruction */
    uint8_t borrowed[3]; /* temporaries taken from the guest, kept in scratch[] meanwhile */
    unsigned n_borrowed;
};

static unsigned regs_take(struct tc *tc, struct regs *r)
{
    if (!(r->busy & 1u << T1)) {
        r->busy |= 1u << T1;
        return T1;
    }
    if (!(r->busy & 1u << T0)) {
        r->busy |= 1u << T0;
        return T0;
    }
    unsigned h = GPR_RBX; /* rbx, rbp, rsi, rdi, r8...: any that the instruction does not name */
    while (h == GPR_RSP || (r->busy & 1u << h))
        h++;
    r->busy |= 1u << h;
    emit_gs(&tc->e, true, OP_MOV_STORE, h, FIELD(scratch) + 8 * r->n_borrowed);
    r->borrowed[r->n_borrowed++] = (uint8_t)h;
    return h;
}

static unsigned regs_host(struct tc *tc, struct regs *r, const struct insn *in, unsigned guest)
{
    if (host_of(guest) != HOST_IN_MEMORY)
        return host_of(guest);
    for (unsigned i = 0; i < r->n; i++)
        if (r->temp[i].guest == guest)
            return r->temp[i].host;
    unsigned h = regs_take(tc, r);
    r->temp[r->n].guest = (uint8_t)guest;
    r->temp[r->n++].host = (uint8_t)h;
    if (in->gpr_read & 1u << guest)
        emit_gs(&tc->e, true, OP_MOV_LOAD, h, GPR_AT(guest));
    return h;
}

static void regs_write_back(struct tc *tc, struct regs *r, const struct insn *in)
{
    for (unsigned i = 0; i < r->n; i++)
        if (in->gpr_written & 1u << r->temp[i].guest)
            emit_gs(&tc->e, true, OP_MOV_STORE, r->temp[i].host, GPR_AT(r->temp[i].guest));
    while (r->n_borrowed > 0) {
        r->n_borrowed--;
        emit_gs(&tc->e, true, OP_MOV_LOAD, r->borrowed[r->n_borrowed], FIELD(scratch) + 8 * r->n_borrowed);
    }
}

static bool has_high_byte(const struct insn *in)
{
    for (unsigned i = 0; i < in->n_opnds; i++)
        if (in->opnd[i].kind == OPND_GPR && in->opnd[i].is_high)
            return true;
    return false;
}

/* The operation itself; the memory operand's host address is T0 + disp. */
static void emit_operation(struct tc *tc, const struct insn *in, bool is_mem, int disp)
{
    struct regs r = { .busy = 1u << GPR_RSP | 1u << HOST_RSP_OF_GUEST };
    struct reencode re = { .base = T0, .disp = disp };
    for (unsigned g = 0; g < GPR_COUNT; g++)
        if (((in->gpr_read | in->gpr_written) & 1u << g) && host_of(g) != HOST_IN_MEMORY)
            r.busy |= (uint16_t)(1u << host_of(g));
    if (is_mem)
        r.busy |= 1u << T0;
    for (unsigned i = 0; i < in->n_opnds; i++) {
        const struct opnd *o = &in->opnd[i];
        if (o->kind != OPND_GPR || o->is_high)
            continue;
        if (o->field == FIELD_REG)
            re.reg = (uint8_t)regs_host(tc, &r, in, o->reg);
        else if (o->field == FIELD_RM || o->field == FIELD_OPCODE)
            re.rm = (uint8_t)regs_host(tc, &r, in, o->reg);
        else if (o->field == FIELD_VVVV)
            re.vvvv = (uint8_t)regs_host(tc, &r, in, o->reg);
    }
    if (is_mem && has_high_byte(in)) { /* no REX with AH-BH: the address goes through rsi */
        emit_rr(&tc->e, true, OP_MOV_LOAD, T1, GPR_RSI);
        emit_rr(&tc->e, true, OP_MOV_LOAD, GPR_RSI, T0);
        re.base = GPR_RSI;
        emit_insn(&tc->e, in, &re);
        emit_rr(&tc->e, true, OP_MOV_LOAD, GPR_RSI, T1);
        return;
    }
    if (has_high_byte(in) && re.reg >= 8) { /* MOVZX, MOVSX, CRC32 from AH-BH to rSP, whose host register needs REX: through rsi too */
        unsigned dest = re.reg;
        emit_rr(&tc->e, true, OP_MOV_LOAD, T1, GPR_RSI);
        emit_rr(&tc->e, true, OP_MOV_LOAD, GPR_RSI, dest);
        re.reg = GPR_RSI;
        emit_insn(&tc->e, in, &re);
        emit_rr(&tc->e, true, OP_MOV_LOAD, dest, GPR_RSI);
        emit_rr(&tc->e, true, OP_MOV_LOAD, GPR_RSI, T1);
        return;
    }
    emit_insn(&tc->e, in, &re);
    regs_write_back(tc, &r, in);
}

/* LEA: the address is computed, not probed, and lands in the destination with the operand size's rule. */
static void emit_lea_insn(struct tc *tc, const struct insn *in)
{
    unsigned dst = in->opnd[0].reg;
    probe_ea(tc, in);
    if (in->op_bytes == 2) {
        unsigned h = host_of(dst) == HOST_IN_MEMORY ? T1 : host_of(dst);
        if (h == T1)
            emit_gs(&tc->e, true, OP_MOV_LOAD, T1, GPR_AT(dst));
        emit_8(&tc->e, 0x66);
        emit_rr(&tc->e, false, OP_MOV_LOAD, h, T0);
        if (h == T1)
            emit_gs(&tc->e, true, OP_MOV_STORE, T1, GPR_AT(dst));
        return;
    }
    if (host_of(dst) != HOST_IN_MEMORY) {
        emit_rr(&tc->e, in->op_bytes == 8, OP_MOV_LOAD, host_of(dst), T0);
        return;
    }
    if (in->op_bytes == 4)
        emit_rr(&tc->e, false, OP_MOV_LOAD, T0, T0);
    emit_gs(&tc->e, true, OP_MOV_STORE, T0, GPR_AT(dst));
}

static void emit_native(struct tc *tc, const struct tc_insn *ti)
{
    const struct insn *in = &ti->in;
    bool is_mem = in->has_mem;
    if (insn_is_nop(in))
        return;
    if (insn_is_lea(in)) {
        tc->next_gva = ti->gva + in->len;
        emit_lea_insn(tc, in);
        return;
    }
    if (bit_is_inline(tc, in)) {
        bit_emit(tc, ti);
        return;
    }
    int disp = is_mem ? probe_operand(tc, ti) : 0;
    bool touches_flags = (in->flags_read | in->flags_written) & RFLAGS_STATUS;
    if (touches_flags && ti->live)
        tc_restore_flags(tc);
    if (touches_flags)
        tc->is_saved = false;
    tc_note_fault(tc, ti);
    emit_operation(tc, in, is_mem, disp);
}

/* ---- the block ---- */

void tc_note_fault(struct tc *tc, const struct tc_insn *ti)
{
    tc->fault[tc->n_faults++] = (struct fault_entry){ .host = (uint32_t)(tc->e.p - tc->start), .guest = ti->guest_offset, .is_saved = tc->is_saved };
}

static void emit_head(struct tc *tc)
{
    struct emit *e = &tc->e;
    while (!e->overflow && ((uintptr_t)e->p + sizeof tc->block) % 16)
        emit_8(e, 0xcc);
    emit_bytes(e, &tc->block, sizeof tc->block); /* the run loop finds the block by its landing */
    tc->start = e->p;
    if ((int64_t)tc->gva == (int32_t)tc->gva) {
        emit_ri(e, true, 7, T0, (int32_t)tc->gva);
    } else {
        emit_mov_imm(e, T1, tc->gva);
        emit_rr(e, true, OP_CMP, T0, T1);
    }
    emit_jcc(e, CC_NE, tc->svm->stubs.lookup);
    tc->polled = emit_here(e);
    emit_gs(e, false, 0x83, 7, (uint32_t)offsetof(struct soft_vcpu, v.exit_req)); /* cmp dword gs:[exit_req], 0 */
    emit_8(e, 0);
    tc->poll_exit = emit_jcc_forward(e, CC_NE, false);
    tc->needs_flags = tc->insn[0].live != 0;
    tc->is_saved = true;
    if (tc->needs_flags)
        tc_restore_flags(tc);
    tc->is_saved = false;
    tc->body = emit_here(e);
}

static void emit_tail(struct tc *tc)
{
    struct emit *e = &tc->e;
    emit_patch(e, tc->poll_exit);
    emit_mov_imm(e, T0, tc->gva);
    emit_jmp(e, tc->svm->stubs.poll);
    tc->polled_from_hw = emit_here(e);
    tc->is_saved = false;
    tc_save_flags(tc);
    emit_jmp(e, tc->polled);
    probe_emit_slow_paths(tc);
    group_emit_misses(tc);
    branch_emit_stubs(tc);
}

static void emit_body(struct tc *tc)
{
    for (unsigned i = 0; i < tc->n; i++) {
        const struct tc_insn *ti = &tc->insn[i];
        if (ti->class == CLASS_NATIVE)
            emit_native(tc, ti);
        else if (ti->class == CLASS_EXEC)
            branch_emit_exec(tc, ti);
        else if (ti->class == CLASS_STRING)
            string_emit(tc, ti);
        else if (ti->class == CLASS_SYSTEM)
            system_emit(tc, ti);
        else
            branch_emit(tc, ti);
    }
    const struct tc_insn *last = &tc->insn[tc->n - 1];
    if (last->class < CLASS_BRANCH)
        branch_emit_direct(tc, last->gva + last->in.len, 0);
}

static struct block *finish(struct tc *tc)
{
    struct soft_vm *svm = tc->svm;
    struct block *b = tc->block;
    const struct tc_insn *last = &tc->insn[tc->n - 1];
    b->gva = tc->gva;
    b->cs_base = tc->cs_base;
    b->cs_limit = tc->cs_limit;
    b->key = tc->key;
    b->page_offset = tc->page_offset;
    b->guest_bytes = (uint16_t)(last->guest_offset + last->in.len);
    b->start = tc->start;
    b->host_bytes = (uint32_t)(tc->e.p - tc->start);
    b->polled = tc->polled;
    b->polled_from_hw = tc->polled_from_hw;
    b->body = tc->body;
    b->needs_flags = tc->needs_flags;
    b->page = tc->page;
    b->n_insns = tc->n;
    b->n_faults = tc->n_faults;
    b->fault_map = cache_alloc(svm, tc->n_faults * sizeof *b->fault_map);
    if (!b->fault_map)
        return NULL;
    light_copy(b->fault_map, tc->fault, tc->n_faults * sizeof *b->fault_map);
    if (cache_publish(svm, b))
        return NULL;
    svm->cache.p = tc->e.p;
    svm->n_translated_insns += tc->n;
    return b;
}

/* Keeps the decoded instruction that ends the block for exec_insn, if it has a helper: all others go through exec_insn's own cache. */
static bool note_exec(struct tc *tc)
{
    const struct tc_insn *last = &tc->insn[tc->n - 1];
    if (!last->is_decoded || !helper_find(&last->in) || !features_allow_insn(&tc->svm->features, &last->in))
        return true;
    struct exec_entry *x = cache_alloc(tc->svm, sizeof *x);
    if (!x)
        return false;
    exec_entry_init(x, &last->in, tc->svm);
    tc->block->exec = x;
    return true;
}

struct block *translate(struct soft_vcpu *sv, gva_t gva, const uint8_t *host, uint32_t key)
{
    struct soft_vm *svm = soft_vm_of(sv);
    struct tc *tc = svm->tc;
    tc->page = cache_page_make(sv, (uint64_t)host & ~PAGE_OFFSET_MASK);
    tc->block = cache_alloc(svm, sizeof *tc->block);
    if (!tc->page || !tc->block)
        return NULL;
    tc->svm = svm;
    tc->key = key;
    tc->mode_bits = sv->mode_bits;
    tc->gva = gva;
    tc->page_offset = (uint16_t)((uint64_t)host & PAGE_OFFSET_MASK);
    tc->cs_base = sv->key & KEY_FLAT_CS ? 0 : sv->v.cpu.seg[SEG_CS].base;
    tc->cs_limit = sv->key & KEY_FLAT_CS ? UINT32_MAX : sv->v.cpu.seg[SEG_CS].limit;
    tc->e = svm->cache;
    tc->n = tc->n_faults = tc->n_slow = tc->n_stubs = 0;
    do {
        tc->n = 0;
        cache_page_make(sv, tc->page->host_page); /* again if decoding found the page's last blocks stale: stores to it were free for a moment */
        decode_run(tc);
    } while (!atomic_load(&tc->page->has_code));
    tc->block->is_exec_only = tc->insn[0].class == CLASS_EXEC;
    if (tc->insn[tc->n - 1].class == CLASS_EXEC && !note_exec(tc))
        return NULL;
    find_live_flags(tc);
    light_fill(tc->group, 0, sizeof tc->group);
    group_find(tc);
    emit_head(tc);
    emit_body(tc);
    if (!group_make_links(tc))
        return NULL;
    emit_tail(tc);
    return tc->e.overflow ? NULL : finish(tc);
}

const uint8_t *translate_bounce(struct soft_vm *svm, const struct insn *in)
{
    struct tc *tc = svm->tc;
    tc->svm = svm;
    tc->e = svm->cache;
    tc->start = tc->e.p;
    const uint8_t *at = emit_here(&tc->e);
    tc->is_saved = true;
    tc_restore_flags(tc);
    bool is_mem = in->has_mem && in->mem.access;
    if (is_mem)
        emit_gs(&tc->e, true, OP_MOV_LOAD, T0, FIELD(leave_t0)); /* exec.c put the operand's address there */
    emit_operation(tc, in, is_mem, 0);
    emit_jmp(&tc->e, svm->stubs.bounced);
    if (tc->e.overflow)
        return NULL;
    svm->cache.p = tc->e.p;
    return at;
}
