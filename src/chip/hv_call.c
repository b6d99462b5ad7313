/* SPDX-License-Identifier: MIT */
/*
 * Hypercalls of the Microsoft hypervisor's guest interface (TLFS, "Hypercall Interface"). Runs on the calling vCPU's thread with no lock held; registers are
 * in v->cpu.
 */
#include "chip/hv_priv.h"

#include <errno.h>
#include <sched.h>

/* The control word. */
#define CONTROL_CODE(c) ((uint16_t)(c))
#define CONTROL_VARIABLE(c) ((c) >> 17 & 0x3ff)
#define CONTROL_REPS(c) ((c) >> 32 & 0xfff)
#define CONTROL_REP_START(c) ((c) >> 48 & 0xfff)
#define CONTROL_RESERVED (0xfull << 27 | 0xfull << 44 | 0xfull << 60)

#define CALL_LONG_SPIN_WAIT 0x0008u

enum hv_status { HV_SUCCESS = 0, HV_INVALID_CODE = 2, HV_INVALID_INPUT = 3 };

/* Another vCPU holds the lock that this one spins for: the host's scheduler knows best which of the waiting threads that is. */
static enum hv_status long_spin_wait(uint64_t control)
{
    if (CONTROL_REPS(control) || CONTROL_REP_START(control) || CONTROL_VARIABLE(control))
        return HV_INVALID_INPUT;
    sched_yield();
    return HV_SUCCESS;
}

static enum hv_status dispatch(uint64_t control)
{
    if (control & CONTROL_RESERVED)
        return HV_INVALID_INPUT;
    switch (CONTROL_CODE(control)) {
    case CALL_LONG_SPIN_WAIT:
        return long_spin_wait(control);
    default:
        return HV_INVALID_CODE;
    }
}

int hv_call(struct vcpu *v, bool is_long)
{
    const struct hv *h = hv_of(v->vm);
    uint64_t *gpr = v->cpu.gpr;
    if (!h || !atomic_load_explicit(&h->os_id, memory_order_relaxed) || !hv_is_offered(v))
        return -ENOSYS;
    if (vcpu_cpl(v) || !(v->cpu.cr0 & CR0_PE))
        return -EPERM;
    uint64_t control = is_long ? gpr[GPR_RCX] : gpr[GPR_RDX] << 32 | (uint32_t)gpr[GPR_RAX];
    uint64_t result = dispatch(control);
    if (is_long) {
        gpr[GPR_RAX] = result;
    } else {
        gpr[GPR_RAX] = (uint32_t)result;
        gpr[GPR_RDX] = result >> 32;
    }
    return 0;
}
