/* SPDX-License-Identifier: MIT */
/*
 * System instructions that kernels use all the time and that need no helper: a few moves on the state in memory. Their helpers stay the reference and run every
 * form that is not allowed here. Part of translation, see translate.c.
 */
#include "engine/soft/translate_priv.h"

#include <stddef.h>

bool system_is_inline(const struct tc *tc, const struct insn *in)
{
    bool is_64 = (tc->key & KEY_MODE) == KEY_MODE_64, is_user = tc->key & KEY_USER;
    if (!features_allow_insn(&tc->svm->features, in))
        return false;
    switch (insn_system_kind(in)) {
    case SYSTEM_CLI:
    case SYSTEM_STI:
        return !is_user; /* CPL 0-2 with IOPL below CPL is left out: no system uses it */
    case SYSTEM_PUSHF:
        return is_64 && in->op_bytes == 8;
    case SYSTEM_SWAPGS:
        return is_64 && !is_user;
    case SYSTEM_RDTSC:
    case SYSTEM_RDTSCP:
        return tc->key & KEY_TSC;
    case SYSTEM_STAC:
        return is_64 && !is_user;
    default:
        return false;
    }
}

/* and dword gs:[rflags], ~IF */
static void emit_cli(struct tc *tc)
{
    emit_gs(&tc->e, false, 0x81, 4, FIELD(v.cpu.rflags));
    emit_32(&tc->e, ~RFLAGS_IF);
}

/* or dword gs:[rflags], IF. The shadow needs nothing: interrupts are looked for at the earliest after the next instruction. One that waits already goes through
 * exec_insn. */
static void emit_sti(struct tc *tc, const struct tc_insn *ti)
{
    struct emit *e = &tc->e;
    emit_gs(e, false, 0x80, 7, FIELD(is_irq_waiting)); /* cmp byte gs:[is_irq_waiting], 0 */
    emit_8(e, 0);
    probe_emit_exec_exit(tc, ti, CC_NE);
    emit_gs(e, false, 0x81, 1, FIELD(v.cpu.rflags));
    emit_32(e, RFLAGS_IF);
}

/* Status flags from the hardware, the rest from memory, but RF and VM read as 0. */
static void emit_pushf(struct tc *tc, const struct tc_insn *ti)
{
    struct emit *e = &tc->e;
    tc_restore_flags(tc);
    emit_bytes(e, "\x9c\x41\x5e", 3); /* pushfq; pop r14: the host stack is ours */
    tc_save_flags(tc);
    emit_ri(e, false, 4, T0, RFLAGS_STATUS);
    emit_gs(e, false, OP_MOV_LOAD, T1, FIELD(v.cpu.rflags));
    emit_ri(e, false, 4, T1, (int32_t) ~(RFLAGS_STATUS | RFLAGS_RF | RFLAGS_VM));
    emit_lea(e, false, T0, T0, T1, 1, 0);
    emit_gs(e, true, OP_MOV_STORE, T0, FIELD(scratch));
    branch_emit_store_slot(tc, ti, FIELD(scratch));
}

static void emit_swapgs(struct tc *tc)
{
    struct emit *e = &tc->e;
    uint32_t base = FIELD(v.cpu.seg) + (uint32_t)(SEG_GS * sizeof(struct segment) + offsetof(struct segment, base));
    emit_gs(e, true, OP_MOV_LOAD, T0, base);
    emit_gs(e, true, OP_MOV_LOAD, T1, FIELD(v.cpu.kernel_gs_base));
    emit_gs(e, true, OP_MOV_STORE, T0, FIELD(v.cpu.kernel_gs_base));
    emit_gs(e, true, OP_MOV_STORE, T1, base);
}

/* or dword gs:[rflags], AC: page walks look there. CLAC has a helper, since TLB entries go with it. */
static void emit_stac(struct tc *tc)
{
    emit_gs(&tc->e, false, 0x81, 1, FIELD(v.cpu.rflags));
    emit_32(&tc->e, RFLAGS_AC);
}

/*
 * rdtsc or rdtscp; shl rdx, 32; add rax, rdx; add rax, gs:[tsc_offset]; mov rdx, rax; shr rdx, 32; mov eax, eax
 * RDTSCP stays itself: guests order their clocks by its waiting for all earlier loads.
 */
static void emit_rdtsc(struct tc *tc, bool is_ordered)
{
    struct emit *e = &tc->e;
    if (is_ordered)
        emit_bytes(e, "\x0f\x01\xf9", 3);
    else
        emit_bytes(e, "\x0f\x31", 2);
    emit_bytes(e, "\x48\xc1\xe2\x20", 4);
    emit_rr(e, true, OP_ADD, GPR_RAX, GPR_RDX);
    emit_gs(e, true, OP_ADD, GPR_RAX, FIELD(v.cpu.tsc_offset));
    emit_rr(e, true, OP_MOV_LOAD, GPR_RDX, GPR_RAX);
    emit_bytes(e, "\x48\xc1\xea\x20", 4);
    emit_rr(e, false, OP_MOV_LOAD, GPR_RAX, GPR_RAX);
    if (is_ordered)
        emit_gs(e, false, OP_MOV_LOAD, GPR_RCX, FIELD(v.cpu.tsc_aux));
}

void system_emit(struct tc *tc, const struct tc_insn *ti)
{
    enum system_kind kind = insn_system_kind(&ti->in);
    if (ti->live && kind != SYSTEM_SWAPGS && kind != SYSTEM_PUSHF)
        tc_save_flags(tc);
    switch (kind) {
    case SYSTEM_CLI:
        emit_cli(tc);
        break;
    case SYSTEM_STI:
        emit_sti(tc, ti);
        break;
    case SYSTEM_PUSHF:
        emit_pushf(tc, ti);
        break;
    case SYSTEM_SWAPGS:
        emit_swapgs(tc);
        break;
    case SYSTEM_STAC:
        emit_stac(tc);
        break;
    case SYSTEM_RDTSCP:
        emit_rdtsc(tc, true);
        break;
    default:
        emit_rdtsc(tc, false);
    }
}
