/* SPDX-License-Identifier: MIT */
/*
 * x87 and vector state: the XSAVE area is core's (core/xsave.h), the form of FXSAVE is made here. vcpu.lock is held.
 */
#include <string.h>

#include "base/host.h"
#include "core/xsave.h"
#include "front/kvm/front_priv.h"

static uint64_t get64(const uint8_t *area, unsigned offset)
{
    uint64_t value;
    memcpy(&value, area + offset, sizeof(value));
    return value;
}

static void put64(uint8_t *area, unsigned offset, uint64_t value)
{
    memcpy(area + offset, &value, sizeof(value));
}

int kvm_fpu_get(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_fpu *f = a->data;
    uint8_t area[XSAVE_AREA_BYTES];
    vcpu_xsave_get(c->v, area);
    memset(f, 0, sizeof(*f));
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->fpr[i], area + XS_ST + 16 * i, 16);
    memcpy(&f->fcw, area + XS_FCW, 2);
    memcpy(&f->fsw, area + XS_FSW, 2);
    f->ftwx = area[XS_FTW];
    memcpy(&f->last_opcode, area + XS_FOP, 2);
    f->last_ip = get64(area, XS_FIP);
    f->last_dp = get64(area, XS_FDP);
    memcpy(f->xmm, area + XS_XMM, sizeof(f->xmm));
    memcpy(&f->mxcsr, area + XS_MXCSR, 4);
    return 0;
}

int kvm_fpu_set(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_fpu *f = a->data;
    uint8_t *area = c->v->cpu.xsave;
    /* Reserved bits would fault when the state is loaded; Linux takes them here and drops them there. */
    uint32_t mxcsr = f->mxcsr & XS_MXCSR_MASK;
    for (unsigned i = 0; i < 8; i++)
        memcpy(area + XS_ST + 16 * i, f->fpr[i], 16);
    memcpy(area + XS_FCW, &f->fcw, 2);
    memcpy(area + XS_FSW, &f->fsw, 2);
    area[XS_FTW] = f->ftwx;
    area[XS_FTW + 1] = 0;
    memcpy(area + XS_FOP, &f->last_opcode, 2);
    put64(area, XS_FIP, f->last_ip);
    put64(area, XS_FDP, f->last_dp);
    memcpy(area + XS_XMM, f->xmm, sizeof(f->xmm));
    memcpy(area + XS_MXCSR, &mxcsr, 4);
    put64(area, XS_BV, get64(area, XS_BV) | XCR0_X87 | XCR0_SSE);
    kvm_state_changed(c);
    return 0;
}

int kvm_fpu_get_xsave(struct kvm_vcpu *c, struct kvm_arg *a)
{
    vcpu_xsave_get(c->v, a->data);
    return 0;
}

int kvm_fpu_set_xsave(struct kvm_vcpu *c, struct kvm_arg *a)
{
    int r = vcpu_xsave_set(c->v, a->data);
    if (!r)
        kvm_state_changed(c);
    return r;
}

int kvm_fpu_get_xcrs(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_xcrs *x = a->data;
    memset(x, 0, sizeof(*x));
    x->nr_xcrs = 1;
    x->xcrs[0].value = c->v->cpu.xcr0;
    return 0;
}

int kvm_fpu_set_xcrs(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_xcrs *x = a->data;
    if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
        return -EINVAL;
    for (unsigned i = 0; i < x->nr_xcrs; i++) {
        if (x->xcrs[i].xcr)
            continue; /* there is only XCR0; Linux passes over others */
        if (!vcpu_can_have_xcr0(x->xcrs[i].value))
            return -EINVAL;
        c->v->cpu.xcr0 = x->xcrs[i].value;
        kvm_state_changed(c);
        break;
    }
    return 0;
}
