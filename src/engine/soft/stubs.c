/* SPDX-License-Identifier: MIT */
/*
 * The fixed pieces of code around blocks: the way in, the ways out, and the TLB miss call. Emitted once per VM at the start of its code cache, because offsets
 * into struct soft_vcpu are then the compiler's own.
 */
#include "engine/soft/code.h"

#include <stddef.h>

#define GPR_AT(n) ((uint32_t)offsetof(struct soft_vcpu, v.cpu.gpr) + 8u * (n))
#define FIELD(f) ((uint32_t)offsetof(struct soft_vcpu, f))

/* Called by the fill stub with the guest's vectors live. 0: no plain RAM there, or a fault. */
static uint64_t stubs_fill(struct soft_vcpu *sv, gva_t gva, uint32_t info)
{
    unsigned bytes = info >> FILL_BYTES_SHIFT;
    enum tlb_miss reason;
    if ((gva & PAGE_OFFSET_MASK) + bytes > PAGE_BYTES)
        return 0;
    return (uint64_t)tlb_fill(sv, gva, info & FILL_WRITE ? TLB_WRITE : TLB_READ, sv->is_user, &reason);
}

static const uint8_t callee_saved[] = { 3, 5, 12, 13, 14, 15 };

static void emit_push(struct emit *e, unsigned reg)
{
    if (reg >= 8)
        emit_8(e, 0x41);
    emit_8(e, 0x50 | (reg & 7));
}

static void emit_pop(struct emit *e, unsigned reg)
{
    if (reg >= 8)
        emit_8(e, 0x41);
    emit_8(e, 0x58 | (reg & 7));
}

/* Status flags to saved_flags; rax must be stored already. lahf; seto al; mov gs:[saved_flags], eax */
static void emit_capture_flags(struct emit *e)
{
    emit_8(e, 0x9f);
    emit_bytes(e, "\x0f\x90\xc0", 3);
    emit_gs(e, false, OP_MOV_STORE, GPR_RAX, FIELD(saved_flags));
}

static bool is_in_host(unsigned guest)
{
    return host_of(guest) != HOST_IN_MEMORY;
}

static void emit_enter(struct emit *e)
{
    for (unsigned i = 0; i < sizeof callee_saved; i++)
        emit_push(e, callee_saved[i]);
    emit_bytes(e, "\x48\x83\xec\x08", 4); /* sub rsp, 8: calls from blocks find it aligned */
    emit_gs(e, true, OP_MOV_STORE, GPR_RSP, FIELD(host_rsp));
    emit_rr(e, true, OP_MOV_LOAD, T0, GPR_RSI);
    for (unsigned g = 0; g < GPR_COUNT; g++)
        if (is_in_host(g))
            emit_gs(e, true, OP_MOV_LOAD, host_of(g), GPR_AT(g));
    emit_bytes(e, "\x41\xff\xe6", 3); /* jmp r14 */
}

/* Back to enter's caller. All guest registers are in memory. */
static const uint8_t *emit_return(struct emit *e)
{
    const uint8_t *at = emit_here(e);
    emit_gs(e, true, OP_MOV_LOAD, GPR_RSP, FIELD(host_rsp));
    emit_bytes(e, "\x48\x83\xc4\x08", 4);
    for (unsigned i = sizeof callee_saved; i-- > 0;)
        emit_pop(e, callee_saved[i]);
    emit_8(e, 0xc3);
    return at;
}

/* A way out: stores the guest's registers and says why. */
static const uint8_t *emit_leave(struct emit *e, enum leave reason, bool flags_in_hw, const uint8_t *ret)
{
    const uint8_t *at = emit_here(e);
    emit_gs(e, true, OP_MOV_STORE, GPR_RAX, GPR_AT(GPR_RAX));
    if (flags_in_hw)
        emit_capture_flags(e);
    for (unsigned g = 1; g < GPR_COUNT; g++)
        if (is_in_host(g))
            emit_gs(e, true, OP_MOV_STORE, host_of(g), GPR_AT(g));
    emit_gs(e, true, OP_MOV_STORE, T0, FIELD(leave_t0));
    emit_gs(e, true, OP_MOV_STORE, T1, FIELD(leave_t1));
    emit_mov_gs_imm32(e, FIELD(leave_reason), reason);
    emit_jmp(e, ret);
    return at;
}

/* Guest registers that a C function may clobber. */
static const uint8_t caller_saved[] = { GPR_RAX, GPR_RCX, GPR_RDX, GPR_RSI, GPR_RDI, GPR_R8, GPR_R9, GPR_R10, GPR_R11 };

static const uint8_t *emit_fill(struct emit *e, const uint8_t *ret)
{
    const uint8_t *at = emit_here(e);
    static const uint8_t rest[] = { GPR_RBX, GPR_RSP, GPR_RBP, GPR_R12 }; /* rip was set by the block */
    for (unsigned i = 0; i < sizeof caller_saved; i++)
        emit_gs(e, true, OP_MOV_STORE, caller_saved[i], GPR_AT(caller_saved[i]));
    for (unsigned i = 0; i < sizeof rest; i++)
        emit_gs(e, true, OP_MOV_STORE, host_of(rest[i]), GPR_AT(rest[i]));
    emit_mov_gs_imm32(e, FIELD(leave_reason), LEAVE_FILL);
    emit_gs(e, true, OP_MOV_LOAD, GPR_RDI, FIELD(self));
    emit_rr(e, true, OP_MOV_LOAD, GPR_RSI, T0);
    emit_rr(e, false, OP_MOV_LOAD, GPR_RDX, T1);
    emit_bytes(e, "\x48\x83\xec\x08", 4);
    emit_mov_imm(e, GPR_RAX, (uint64_t)(uintptr_t)stubs_fill);
    emit_bytes(e, "\xff\xd0", 2); /* call rax */
    emit_bytes(e, "\x48\x83\xc4\x08", 4);
    emit_rr(e, true, OP_MOV_LOAD, T0, GPR_RAX);
    emit_rr(e, true, 0x85, GPR_RAX, GPR_RAX); /* test */
    uint8_t *hit = emit_jcc_forward(e, CC_NE, false);
    emit_mov_gs_imm32(e, FIELD(leave_reason), LEAVE_SLOW);
    emit_jmp(e, ret);
    emit_patch(e, hit);
    for (unsigned i = 0; i < sizeof caller_saved; i++)
        emit_gs(e, true, OP_MOV_LOAD, caller_saved[i], GPR_AT(caller_saved[i]));
    emit_8(e, 0xc3);
    return at;
}

void stubs_emit(struct soft_vm *svm)
{
    struct emit *e = &svm->cache;
    struct stubs *s = &svm->stubs;
    s->enter = emit_here(e);
    emit_enter(e);
    const uint8_t *ret = emit_return(e);
    s->fill = emit_fill(e, ret);
    s->lookup = emit_leave(e, LEAVE_LOOKUP, false, ret);
    s->poll = emit_leave(e, LEAVE_POLL, false, ret);
    s->link_hw = emit_leave(e, LEAVE_LINK, true, ret);
    s->link_saved = emit_leave(e, LEAVE_LINK, false, ret);
    s->exec_hw = emit_leave(e, LEAVE_EXEC, true, ret);
    s->exec_saved = emit_leave(e, LEAVE_EXEC, false, ret);
    s->bounced = emit_leave(e, LEAVE_BOUNCED, true, ret);
    s->fault = ret;
}
