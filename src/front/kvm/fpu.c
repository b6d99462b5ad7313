/* SPDX-License-Identifier: MIT */
/*
 * x87 and vector state. cpu.xsave has the host's standard XSAVE format, which is KVM_GET_XSAVE's too; where a component's bit in XSTATE_BV is clear its bytes
 * are stale and the component has its initial value. vcpu.lock is held.
 */
#include <string.h>

#include "base/host.h"
#include "front/kvm/front_priv.h"

/* Offsets of the XSAVE area (SDM vol. 1, "XSAVE Area"). */
#define XS_FCW 0
#define XS_FSW 2
#define XS_FTW 4
#define XS_FOP 6
#define XS_FIP 8
#define XS_FDP 16
#define XS_MXCSR 24
#define XS_ST 32
#define XS_XMM 160
#define XS_LEGACY_USED 416
#define XS_BV 512
#define XS_XCOMP_BV 520
#define XS_RESERVED 528
#define XS_EXTENDED 576

#define FCW_INIT 0x37fu
#define MXCSR_MASK 0xffffu

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

/* A copy in which components in their initial state have that state's bytes, so that a reader need not look at XSTATE_BV. */
static void area_get(const uint8_t *xsave, uint8_t *out)
{
    const struct host_facts *host = host_facts();
    uint64_t bv = get64(xsave, XS_BV);
    memset(out, 0, XSAVE_AREA_BYTES);
    if (bv & XCR0_X87) {
        memcpy(out, xsave, XS_MXCSR);
        memcpy(out + XS_ST, xsave + XS_ST, XS_XMM - XS_ST);
    } else {
        out[XS_FCW] = FCW_INIT & 0xff;
        out[XS_FCW + 1] = FCW_INIT >> 8;
    }
    memcpy(out + XS_MXCSR, xsave + XS_MXCSR, XS_ST - XS_MXCSR);
    if (bv & XCR0_SSE)
        memcpy(out + XS_XMM, xsave + XS_XMM, XS_LEGACY_USED - XS_XMM);
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS; i++)
        if (bv >> i & 1)
            memcpy(out + host->xsave_offset[i], xsave + host->xsave_offset[i], host->xsave_size[i]);
    put64(out, XS_BV, bv);
}

int kvm_fpu_get(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_fpu *f = a->data;
    uint8_t area[XSAVE_AREA_BYTES];
    area_get(c->v->cpu.xsave, area);
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
    uint32_t mxcsr = f->mxcsr & MXCSR_MASK;
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
    area_get(c->v->cpu.xsave, a->data);
    return 0;
}

int kvm_fpu_set_xsave(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct host_facts *host = host_facts();
    const uint8_t *in = a->data;
    uint8_t *area = c->v->cpu.xsave;
    uint32_t mxcsr;
    uint64_t bv = get64(in, XS_BV);
    memcpy(&mxcsr, in + XS_MXCSR, 4);
    if (bv & ~(host->xcr0 | XCR0_X87 | XCR0_SSE) || mxcsr & ~MXCSR_MASK)
        return -EINVAL;
    for (unsigned offset = XS_XCOMP_BV; offset < XS_EXTENDED; offset += 8)
        if (get64(in, offset))
            return -EINVAL;
    memset(area, 0, XSAVE_AREA_BYTES);
    memcpy(area, in, XS_LEGACY_USED);
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS; i++)
        if (bv >> i & 1)
            memcpy(area + host->xsave_offset[i], in + host->xsave_offset[i], host->xsave_size[i]);
    put64(area, XS_BV, bv);
    kvm_state_changed(c);
    return 0;
}

int kvm_fpu_get_xcrs(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_xcrs *x = a->data;
    memset(x, 0, sizeof(*x));
    x->nr_xcrs = 1;
    x->xcrs[0].value = c->v->cpu.xcr0;
    return 0;
}

static bool xcr0_valid(uint64_t value)
{
    if (!(value & XCR0_X87) || value & ~(host_facts()->xcr0 | XCR0_X87))
        return false;
    if ((value & XCR0_AVX) && !(value & XCR0_SSE))
        return false;
    uint64_t avx512 = value & XCR0_AVX512;
    return !avx512 || (avx512 == XCR0_AVX512 && (value & XCR0_AVX));
}

int kvm_fpu_set_xcrs(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_xcrs *x = a->data;
    if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
        return -EINVAL;
    for (unsigned i = 0; i < x->nr_xcrs; i++) {
        if (x->xcrs[i].xcr)
            continue; /* there is only XCR0; Linux passes over others */
        if (!xcr0_valid(x->xcrs[i].value))
            return -EINVAL;
        c->v->cpu.xcr0 = x->xcrs[i].value;
        kvm_state_changed(c);
        break;
    }
    return 0;
}
