/* SPDX-License-Identifier: MIT */
/* See inject.h. Whoever calls holds the vCPU's lock, or is its thread between two instructions. */
#include "core/inject.h"

#include <errno.h>

#include "core/vcpu.h"

#define EXCEPTIONS 32u
#define FIRST_INTERRUPT 16u
#define NMIS_MAX 2u

static int inject_interrupt(struct vcpu *v, uint8_t vector, bool may_replace)
{
    if (vector == VEC_NMI) {
        if (atomic_load(&v->ev.nmi_pending) >= NMIS_MAX)
            return -EBUSY;
        atomic_fetch_add(&v->ev.nmi_pending, 1);
        v->watch.has_injected_nmi = true;
        return 0;
    }
    if (vector < FIRST_INTERRUPT)
        return -EINVAL;
    if (v->ev.interrupt.injected && !may_replace)
        return -EBUSY;
    v->ev.interrupt.injected = true;
    v->ev.interrupt.soft = false;
    v->ev.interrupt.vector = vector;
    v->watch.has_injected_irq = true;
    return 0;
}

static int inject_exception(struct vcpu *v, const struct injection *i, bool may_replace)
{
    if (i->vector >= EXCEPTIONS || i->vector == VEC_NMI)
        return -EINVAL;
    if (v->ev.exception.pending && !may_replace)
        return -EBUSY;
    v->ev.exception.pending = true;
    v->ev.exception.injected = false;
    v->ev.exception.vector = i->vector;
    v->ev.exception.has_code = i->has_code;
    v->ev.exception.code = i->code;
    v->ev.exception.has_payload = i->has_address;
    v->ev.exception.payload = i->address;
    v->watch.has_injected_exception = true;
    return 0;
}

int inject_into(struct vcpu *v, const struct injection *i, bool may_replace)
{
    int r = i->is_interrupt ? inject_interrupt(v, i->vector, may_replace) : inject_exception(v, i, may_replace);
    if (!r)
        vcpu_request(v, VREQ_EVENT);
    return r;
}
