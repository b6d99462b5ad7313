/* SPDX-License-Identifier: MIT */
/*
 * Random values that are worth testing: integers near boundaries, floating-point numbers of every class, control words, whole machine states.
 */
#include "diff.h"

#include <string.h>

#include "base/host.h"

void rng_seed(struct rng *r, uint64_t seed, uint64_t index)
{
    r->s = (seed + 1) * 0x9e3779b97f4a7c15ull ^ (index + 1) * 0xd1b54a32d192ed03ull;
    if (!r->s)
        r->s = 1;
    for (int i = 0; i < 8; i++)
        rng_next(r);
}

uint64_t value_integer(struct rng *r)
{
    static const uint64_t edges[] = { 0,          1, ~0ull, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff,
                                      1ull << 63, 2, 16,    31,   32,   33,   63,     64,     65,     0x100000000 };
    uint64_t v = rng_next(r);
    switch (rng_below(r, 8)) {
    case 0:
        return edges[rng_below(r, sizeof edges / sizeof edges[0])];
    case 1:
        return v & 0xff;
    case 2:
        return (uint64_t)(int64_t)(int8_t)v;
    case 3:
        return (uint32_t)v;
    case 4:
        return 1ull << (v & 63);
    default:
        return v;
    }
}

static uint32_t value_float(struct rng *r)
{
    static const uint32_t edges[] = { 0,          0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffc12345, 1,
                                      0x807fffff, 0x00800000, 0x7f7fffff, 0x3f800000, 0xbf800000, 0x4f000000, 0xcf000000, 0x5f000000 };
    uint32_t v = (uint32_t)rng_next(r);
    if (rng_percent(r, 20))
        return edges[rng_below(r, sizeof edges / sizeof edges[0])];
    return rng_percent(r, 60) ? (v & 0x80ffffff) | (0x3c000000 + (v & 0x07000000)) : v;
}

static uint64_t value_double(struct rng *r)
{
    static const uint64_t edges[] = { 0,
                                      1ull << 63,
                                      0x7ff0000000000000,
                                      0xfff0000000000000,
                                      0x7ff8000000000000,
                                      0x7ff0000000000001,
                                      0xfff8000000012345,
                                      1,
                                      0x800fffffffffffff,
                                      0x0010000000000000,
                                      0x7fefffffffffffff,
                                      0x3ff0000000000000,
                                      0xbff0000000000000,
                                      0x43e0000000000000,
                                      0xc1e0000000000000 };
    uint64_t v = rng_next(r);
    if (rng_percent(r, 20))
        return edges[rng_below(r, sizeof edges / sizeof edges[0])];
    return rng_percent(r, 60) ? (v & 0x800fffffffffffff) | (0x3f00000000000000 + (v & 0x01f0000000000000)) : v;
}

void value_fill_memory(struct rng *r, uint8_t *p, unsigned bytes)
{
    for (unsigned i = 0; i + 64 <= bytes; i += 64) {
        unsigned kind = rng_below(r, 6);
        for (unsigned k = 0; k < 64; k += 8) {
            uint64_t v = kind == 0 ? value_float(r) | (uint64_t)value_float(r) << 32 : kind == 1 ? value_double(r) : kind == 2 ? value_integer(r) : rng_next(r);
            memcpy(p + i + k, &v, 8);
        }
    }
}

/* x87 registers in the order of the area: 10 bytes each, every class, unsupported encodings too. */
static void fill_x87(struct rng *r, uint8_t *area)
{
    static const uint16_t exponents[] = { 0, 0x7fff, 0x3fff, 0xbfff, 0xffff, 0x8000, 1, 0x7ffe, 0x403e };
    uint16_t fcw = rng_percent(r, 60) ? 0x37f : (uint16_t)(0x40 | (rng_next(r) & 0xf00) | (rng_percent(r, 50) ? 0x3f : rng_next(r) & 0x3f));
    uint16_t fsw = (uint16_t)(rng_next(r) & 0x7f00);
    if (rng_percent(r, 10))
        fsw |= rng_next(r) & 0x7f;
    if (fsw & ~fcw & 0x3f)
        fsw |= 0x8080;
    uint8_t tags = rng_percent(r, 70) ? 0xff : (uint8_t)rng_next(r);
    memcpy(area, &fcw, 2);
    memcpy(area + 2, &fsw, 2);
    area[4] = tags;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t mantissa = rng_percent(r, 15) ? 1ull << 63 : rng_next(r) | (rng_percent(r, 90) ? 1ull << 63 : 0);
        uint16_t e = rng_percent(r, 25) ? exponents[rng_below(r, 9)] : (uint16_t)((rng_next(r) & 0x803f) + 0x3fe0);
        if (e == 0)
            mantissa = rng_percent(r, 50) ? 0 : mantissa >> 1;
        memset(area + 32 + 16 * i, 0, 16);
        memcpy(area + 32 + 16 * i, &mantissa, 8);
        memcpy(area + 40 + 16 * i, &e, 2);
    }
}

static void fill_component(struct rng *r, uint8_t *area, unsigned n)
{
    const struct host_facts *h = host_facts();
    if (h->xcr0 >> n & 1)
        value_fill_memory(r, area + h->xsave_offset[n], h->xsave_size[n]);
}

/* The processor writes it into every image, so an image that it made has it. */
static uint32_t mxcsr_mask(void)
{
    static _Alignas(64) uint8_t image[512];
    static uint32_t mask;
    if (!mask) {
        __asm__ volatile("fxsave %0" : "=m"(image));
        memcpy(&mask, image + 28, 4);
    }
    return mask;
}

static void fill_xsave(struct rng *r, uint8_t *area)
{
    uint64_t in_use = host_facts()->xcr0;
    memset(area, 0, 576);
    fill_x87(r, area);
    uint32_t mxcsr = rng_percent(r, 65) ? 0x1f80 : (uint32_t)(rng_next(r) & 0xffff) | (rng_percent(r, 50) ? 0x1f80 : 0);
    memcpy(area + 24, &mxcsr, 4);
    uint32_t mask = mxcsr_mask();
    memcpy(area + 28, &mask, 4);
    value_fill_memory(r, area + 160, 256);
    for (unsigned n = 2; n < HOST_XSAVE_COMPONENTS; n++)
        fill_component(r, area, n);
    memcpy(area + 512, &in_use, 8);
}

void value_fill_state(struct rng *r, struct machine_state *st)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        st->gpr[i] = value_integer(r);
    st->rflags = RFLAGS_RES1 | RFLAGS_IF | (rng_next(r) & RFLAGS_STATUS) | (rng_percent(r, 25) ? RFLAGS_DF : 0);
    st->fs_base = DATA_AT + (rng_next(r) & 0xff0);
    st->gs_base = DATA_AT + (rng_next(r) & 0xfff);
    fill_xsave(r, st->xsave);
}
