/* SPDX-License-Identifier: MIT */
/* See xsave.h: checks what is given, and fills what is left out. */
#include "core/xsave.h"

#include <errno.h>
#include <string.h>

#include "base/host.h"

#define FCW_INIT 0x37fu
#define XCOMP_COMPACT (1ull << 63)

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

/* Where component i of `states` begins in the compacted format; i = HOST_XSAVE_COMPONENTS: where all end (SDM vol. 1, "Compacted Format"). */
static uint32_t compact_offset(uint64_t states, unsigned component)
{
    const struct host_facts *host = host_facts();
    uint32_t at = XS_EXTENDED;
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS && i <= component; i++) {
        if (!(states >> i & 1))
            continue;
        if (host->xsave_is_aligned[i])
            at = (at + 63) & ~63u;
        if (i < component)
            at += host->xsave_size[i];
    }
    return at;
}

uint32_t xsave_compact_bytes(uint64_t states)
{
    return compact_offset(states, HOST_XSAVE_COMPONENTS);
}

void vcpu_xsave_get_compact(const struct vcpu *v, uint64_t states, uint8_t out[XSAVE_AREA_BYTES])
{
    const struct host_facts *host = host_facts();
    uint8_t area[XSAVE_AREA_BYTES];
    vcpu_xsave_get(v, area);
    uint64_t bv = get64(area, XS_BV) & states, xcomp = XCOMP_COMPACT | states;
    memset(out, 0, XSAVE_AREA_BYTES);
    memcpy(out, area, XS_LEGACY_USED);
    memcpy(out + XS_BV, &bv, sizeof bv);
    memcpy(out + XS_XCOMP_BV, &xcomp, sizeof xcomp);
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS; i++)
        if (bv >> i & 1)
            memcpy(out + compact_offset(states, i), area + host->xsave_offset[i], host->xsave_size[i]);
}

int vcpu_xsave_set_compact(struct vcpu *v, const uint8_t in[XSAVE_AREA_BYTES])
{
    const struct host_facts *host = host_facts();
    uint8_t area[XSAVE_AREA_BYTES] = { 0 };
    uint64_t bv = get64(in, XS_BV), xcomp = get64(in, XS_XCOMP_BV), states = xcomp & ~XCOMP_COMPACT;
    if (!(xcomp & XCOMP_COMPACT) || states & ~(host->xcr0 | XCR0_X87 | XCR0_SSE) || bv & ~states)
        return -EINVAL;
    memcpy(area, in, XS_LEGACY_USED);
    memcpy(area + XS_BV, &bv, sizeof bv);
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS; i++)
        if (bv >> i & 1)
            memcpy(area + host->xsave_offset[i], in + compact_offset(states, i), host->xsave_size[i]);
    return vcpu_xsave_set(v, area);
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
