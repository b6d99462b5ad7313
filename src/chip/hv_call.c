/* SPDX-License-Identifier: MIT */
/*
 * Hypercalls of the Microsoft hypervisor's guest interface (TLFS, "Hypercall Interface"): registers, checks of the control word, statuses. What a call does to
 * other vCPUs is in hv_others.c. Runs on the calling vCPU's thread with no lock held; registers are in v->cpu.
 */
#include "chip/hv_priv.h"

#include <errno.h>
#include <sched.h>

/* The control word. */
#define CONTROL_CODE(c) ((uint16_t)(c))
#define CONTROL_FAST (1ull << 16)
#define CONTROL_VARIABLE(c) ((unsigned)((c) >> 17 & 0x3ff))
#define CONTROL_REPS(c) ((c) >> 32 & 0xfff)
#define CONTROL_REP_START(c) ((c) >> 48 & 0xfff)
#define CONTROL_RESERVED (0xfull << 27 | 0xfull << 44 | 0xfull << 60)
#define RESULT_REPS_SHIFT 32

#define CALL_FLUSH_SPACE 0x0002u
#define CALL_FLUSH_LIST 0x0003u
#define CALL_LONG_SPIN_WAIT 0x0008u
#define CALL_SEND_IPI 0x000bu
#define CALL_FLUSH_SPACE_EX 0x0013u
#define CALL_FLUSH_LIST_EX 0x0014u
#define CALL_SEND_IPI_EX 0x0015u

/* Another vCPU holds the lock that this one spins for: the host's scheduler knows best which of the waiting threads that is. */
static enum hv_status long_spin_wait(const struct vcpu *v)
{
    if (!hv_allows_spin_wait(v))
        return HV_ACCESS_DENIED;
    sched_yield();
    return HV_SUCCESS;
}

/* Which forms a call has: with a list of so many elements or without, with variable sets of vCPUs or without. */
static bool is_form_right(uint64_t control, bool has_reps, bool has_variable)
{
    if (has_reps ? CONTROL_REPS(control) == 0 || CONTROL_REP_START(control) : CONTROL_REPS(control) || CONTROL_REP_START(control))
        return false;
    return has_variable || !CONTROL_VARIABLE(control);
}

static enum hv_status dispatch(struct vcpu *v, uint64_t control, struct hv_input *in)
{
    uint16_t code = CONTROL_CODE(control);
    bool is_list = code == CALL_FLUSH_LIST || code == CALL_FLUSH_LIST_EX;
    bool is_ex = code == CALL_FLUSH_SPACE_EX || code == CALL_FLUSH_LIST_EX || code == CALL_SEND_IPI_EX;
    bool is_flush = is_list || code == CALL_FLUSH_SPACE || code == CALL_FLUSH_SPACE_EX, is_ipi = code == CALL_SEND_IPI || code == CALL_SEND_IPI_EX;
    if ((is_flush && !hv_allows(v, HV_REMOTE_FLUSH)) || (is_ipi && !hv_allows(v, HV_CLUSTER_IPI)) || (is_ex && !hv_allows(v, HV_EXTENDED_SETS)))
        return HV_ACCESS_DENIED;
    in->is_fast = control & CONTROL_FAST;
    in->n_variable = CONTROL_VARIABLE(control);
    switch (code) {
    case CALL_LONG_SPIN_WAIT:
        return is_form_right(control, false, false) ? long_spin_wait(v) : HV_INVALID_INPUT;
    case CALL_FLUSH_SPACE:
    case CALL_FLUSH_LIST:
    case CALL_FLUSH_SPACE_EX:
    case CALL_FLUSH_LIST_EX:
        return is_form_right(control, is_list, is_ex) ? hv_flush(v, in, is_ex) : HV_INVALID_INPUT;
    case CALL_SEND_IPI:
    case CALL_SEND_IPI_EX:
        return is_form_right(control, false, is_ex) ? hv_send_ipi(v, in, is_ex) : HV_INVALID_INPUT;
    default:
        return HV_INVALID_CODE;
    }
}

/* A repeated call that succeeds has done all its elements. */
static uint64_t call(struct vcpu *v, uint64_t control, struct hv_input *in)
{
    if (control & CONTROL_RESERVED)
        return HV_INVALID_INPUT;
    enum hv_status status = dispatch(v, control, in);
    return status == HV_SUCCESS ? CONTROL_REPS(control) << RESULT_REPS_SHIFT : status;
}

static uint64_t pair(const uint64_t *gpr, unsigned high, unsigned low)
{
    return gpr[high] << 32 | (uint32_t)gpr[low];
}

int hv_call(struct vcpu *v, bool is_long)
{
    const struct hv *h = hv_of(v->vm);
    uint64_t *gpr = v->cpu.gpr;
    struct hv_input in = { 0 };
    if (!h || !atomic_load_explicit(&h->os_id, memory_order_relaxed) || !hv_is_offered(v))
        return -ENOSYS;
    if (vcpu_cpl(v) || !(v->cpu.cr0 & CR0_PE))
        return -EPERM;
    if (is_long) {
        in.first = gpr[GPR_RDX];
        in.second = gpr[GPR_R8];
        gpr[GPR_RAX] = call(v, gpr[GPR_RCX], &in);
        return 0;
    }
    in.first = pair(gpr, GPR_RBX, GPR_RCX);
    in.second = pair(gpr, GPR_RDI, GPR_RSI);
    uint64_t result = call(v, pair(gpr, GPR_RDX, GPR_RAX), &in);
    gpr[GPR_RAX] = (uint32_t)result;
    gpr[GPR_RDX] = result >> 32;
    return 0;
}
