/* SPDX-License-Identifier: MIT */
/* See xsave.h: checks what is given, and fills what is left out. */
#include "core/xsave.h"

#include <errno.h>
#include <string.h>

#include "base/host.h"

#define FCW_INIT 0x37fu

static uint64_t get64(const uint8_t *area, unsigned offset)
{
    uint64_t value;
    memcpy(&value, area + offset, sizeof(value));
    return value;
}

void vcpu_xsave_get(const struct vcpu *v, uint8_t out[XSAVE_AREA_BYTES])
{
    const struct host_facts *host = host_facts();
    const uint8_t *xsave = v->cpu.xsave;
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
    memcpy(out + XS_BV, &bv, sizeof bv);
}

int vcpu_xsave_set(struct vcpu *v, const uint8_t in[XSAVE_AREA_BYTES])
{
    const struct host_facts *host = host_facts();
    uint8_t *area = v->cpu.xsave;
    uint32_t mxcsr;
    uint64_t bv = get64(in, XS_BV);
    memcpy(&mxcsr, in + XS_MXCSR, 4);
    if (bv & ~(host->xcr0 | XCR0_X87 | XCR0_SSE) || mxcsr & ~XS_MXCSR_MASK)
        return -EINVAL;
    for (unsigned offset = XS_XCOMP_BV; offset < XS_EXTENDED; offset += 8)
        if (get64(in, offset))
            return -EINVAL;
    memset(area, 0, XSAVE_AREA_BYTES);
    memcpy(area, in, XS_LEGACY_USED);
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS; i++)
        if (bv >> i & 1)
            memcpy(area + host->xsave_offset[i], in + host->xsave_offset[i], host->xsave_size[i]);
    memcpy(area + XS_BV, &bv, sizeof bv);
    return 0;
}

bool vcpu_can_have_xcr0(uint64_t value)
{
    if (!(value & XCR0_X87) || value & ~(host_facts()->xcr0 | XCR0_X87))
        return false;
    if ((value & XCR0_AVX) && !(value & XCR0_SSE))
        return false;
    uint64_t avx512 = value & XCR0_AVX512;
    return !avx512 || (avx512 == XCR0_AVX512 && (value & XCR0_AVX));
}
