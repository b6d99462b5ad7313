/* SPDX-License-Identifier: MIT */
/* MSRs of any number and the XSAVE area of a vCPU, between two of its instructions (core/hold.h). The other registers are regs.c's. See control.h. */
#include <errno.h>
#include <string.h>

#include "core/hold.h"
#include "core/xsave.h"
#include "front/control/control_priv.h"

/* ---- MSRs ---- */

struct msrs {
    const uint8_t *in; /* struct vitrine_msr, as they came */
    struct vitrine_msr *out;
    uint32_t n;
};

static void msrs_read(struct vcpu *v, void *arg)
{
    struct msrs *m = arg;
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t value = 0;
        memcpy(&m->out[i], m->in + i * sizeof *m->out, sizeof *m->out);
        m->out[i].error = (uint32_t)-vcpu_msr_read(v, m->out[i].index, &value, true);
        m->out[i].value = value;
    }
}

static void msrs_write(struct vcpu *v, void *arg)
{
    struct msrs *m = arg;
    for (uint32_t i = 0; i < m->n; i++) {
        memcpy(&m->out[i], m->in + i * sizeof *m->out, sizeof *m->out);
        m->out[i].error = (uint32_t)-vcpu_msr_write(v, m->out[i].index, m->out[i].value, true);
    }
    v->vm->engine->state_changed(v);
    vcpu_request(v, VREQ_EVENT);
}

static int msrs_call(struct control_arg *a, void (*call)(struct vcpu *v, void *arg))
{
    uint32_t bytes = a->in_bytes - (uint32_t)sizeof(struct control_vcpu);
    struct msrs m = { .in = (const uint8_t *)a->in + sizeof(struct control_vcpu), .out = a->out, .n = bytes / (uint32_t)sizeof *m.out };
    if (bytes % sizeof *m.out || bytes > CONTROL_PAYLOAD_MAX)
        return -EINVAL;
    hold_call(a->vcpu, call, &m);
    a->out_bytes = bytes;
    return 0;
}

int control_get_msrs(struct control_arg *a)
{
    return msrs_call(a, msrs_read);
}

int control_set_msrs(struct control_arg *a)
{
    return msrs_call(a, msrs_write);
}

/* ---- x87 and vectors ---- */

_Static_assert(sizeof(struct vitrine_xsave) == XSAVE_AREA_BYTES, "all of it");

static void xsave_read(struct vcpu *v, void *arg)
{
    vcpu_xsave_get(v, arg);
}

int control_get_xsave(struct control_arg *a)
{
    hold_call(a->vcpu, xsave_read, a->out);
    a->out_bytes = XSAVE_AREA_BYTES;
    return 0;
}

struct xsave_change {
    const uint8_t *area;
    int result;
};

static void xsave_write(struct vcpu *v, void *arg)
{
    struct xsave_change *change = arg;
    change->result = vcpu_xsave_set(v, change->area);
    if (!change->result)
        v->vm->engine->state_changed(v);
}

int control_set_xsave(struct control_arg *a)
{
    struct xsave_change change = { .area = (const uint8_t *)a->in + sizeof(struct control_vcpu) };
    hold_call(a->vcpu, xsave_write, &change);
    return change.result;
}
