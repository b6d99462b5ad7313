/* SPDX-License-Identifier: MIT */
/*
 * Inputs of one run: registers that make the memory operands land in the data pages, at their edges, or where a fault is due; memory that makes the instruction
 * get far.
 */
#include "diff.h"

#include <Zydis/Zydis.h>
#include <string.h>

#include "base/host.h"

/* ---- targets ---- */

static uint64_t target_inside(struct rng *r, unsigned bytes)
{
    uint64_t at = DATA_AT + 64 + rng_below(r, (unsigned)DATA_BYTES - bytes - 128);
    unsigned align = bytes > 64 ? 64 : bytes;
    if (rng_percent(r, 60) && !(align & (align - 1)))
        at &= ~(uint64_t)(align - 1);
    return at;
}

static uint64_t target_pick(struct rng *r, unsigned bytes)
{
    unsigned k = rng_below(r, 200), back = 1 + rng_below(r, bytes > 1 ? bytes - 1 : 1);
    if (k < 20)
        return DATA_AT + PAGE_BYTES - back;
    if (k < 24)
        return HOLE_AT - back;
    if (k < 27)
        return HOLE_AT + rng_below(r, 4096);
    if (k < 29)
        return DATA_AT - back;
    if (k < 32)
        return READONLY_AT + rng_below(r, 4096 - bytes);
    if (k < 34)
        return READONLY_AT - back;
    if (k < 35)
        return rng_next(r) | 0xffff000000000000; /* the kernel's half */
    if (k < 36)
        return (rng_next(r) & 0x0000ffffffffffff) | 0x00f0000000000000; /* not canonical */
    return target_inside(r, bytes);
}

/* ---- explicit operands ---- */

static uint64_t segment_base(const struct machine_state *st, unsigned seg)
{
    return seg == SEG_FS ? st->fs_base : seg == SEG_GS ? st->gs_base : 0;
}

/* Odd numbers have an inverse modulo 2^64. */
static uint64_t inverse(uint64_t odd)
{
    uint64_t x = odd;
    for (int i = 0; i < 6; i++)
        x *= 2 - odd * x;
    return x;
}

static void set_reg(struct rng *r, struct machine_state *st, unsigned reg, uint64_t value, unsigned addr_bytes)
{
    st->gpr[reg] = addr_bytes == 4 ? (uint32_t)value | rng_next(r) << 32 : value;
}

static void aim_vsib(struct rng *r, const struct insn *in, struct machine_state *st)
{
    const struct host_facts *h = host_facts();
    unsigned v = in->mem.index, element = (in->opcode & 1) || in->opcode == 0xa1 || in->opcode == 0xa3 ? 8 : 4;
    uint8_t *parts[3] = { st->xsave + 160 + 16 * (v & 15), st->xsave + h->xsave_offset[2] + 16 * (v & 15), st->xsave + h->xsave_offset[6] + 32 * (v & 15) };
    unsigned sizes[3] = { 16, 16, 32 };
    if (v >= 16) {
        parts[0] = st->xsave + h->xsave_offset[7] + 64 * (v - 16);
        sizes[0] = 64;
        sizes[1] = sizes[2] = 0;
    }
    if (!(h->xcr0 & XCR0_ZMM_HI256))
        sizes[2] = 0;
    for (unsigned p = 0; p < 3; p++)
        for (unsigned i = 0; i < sizes[p]; i += element) {
            int64_t index = (int64_t)rng_below(r, 3000 / in->mem.scale) - (rng_percent(r, 20) ? 300 : 0);
            if (rng_percent(r, 2))
                index = (int64_t)rng_below(r, 16000);
            memcpy(parts[p] + i, &index, element);
        }
    if (in->mem.base != GPR_NONE)
        set_reg(r, st, in->mem.base, DATA_AT + 1024 + rng_below(r, 2048) - (uint64_t)in->mem.disp - segment_base(st, in->mem.seg), in->addr_bytes);
}

/* A save area across the end of a 32-bit offset in 64-bit mode goes on 4 GiB lower: in the kernel's half, as the segment's base has to be. */
static void aim_wrap(struct rng *r, uint64_t target, unsigned bytes, const struct insn *in, struct machine_state *st)
{
    bool is_near = target >= DATA_AT && target < ARENA_END;
    if (diff_mode_bits != 64 || in->addr_bytes != 4 || in->mem.seg < SEG_FS || bytes <= 64 || !is_near || !rng_percent(r, 30))
        return;
    uint64_t *base = in->mem.seg == SEG_FS ? &st->fs_base : &st->gs_base;
    *base = target + 64 * (1 + rng_below(r, bytes / 64 + 1)) - (1ull << 32);
}

static void aim_explicit(struct rng *r, struct instance *i, const struct insn *in, struct machine_state *st)
{
    const struct insn_mem *m = &in->mem;
    unsigned bytes = m->bytes ? m->bytes : 2816;
    if (m->is_vsib) {
        aim_vsib(r, in, st);
        return;
    }
    i->target = i->fixed ? i->fixed + (m->seg >= SEG_FS ? segment_base(st, m->seg) - DATA_AT : 0) : target_pick(r, bytes);
    if (i->fixed)
        return;
    aim_wrap(r, i->target, bytes, in, st);
    uint64_t want = i->target - (uint64_t)m->disp - segment_base(st, m->seg);
    if (m->base == GPR_NONE) {
        set_reg(r, st, m->index, want / m->scale, in->addr_bytes);
        i->target -= want % m->scale;
    } else if (m->index == GPR_NONE) {
        set_reg(r, st, m->base, want, in->addr_bytes);
    } else if (m->index != m->base) {
        if (rng_percent(r, 50))
            st->gpr[m->index] = (uint64_t)(int64_t)(int16_t)rng_next(r);
        set_reg(r, st, m->base, want - st->gpr[m->index] * m->scale, in->addr_bytes);
    } else if (m->scale == 1) {
        set_reg(r, st, m->base, want / 2, in->addr_bytes);
        i->target -= want & 1;
    } else {
        set_reg(r, st, m->base, want * inverse(m->scale + 1u), in->addr_bytes);
    }
}

/* BT and its kin move the address by the bit offset; where that is the address register itself the access lands nowhere. */
static void aim_bit_offset(struct rng *r, const struct insn *in, struct machine_state *st)
{
    if (in->n_opnds < 2 || in->opnd[1].kind != OPND_GPR || !in->has_mem)
        return;
    unsigned reg = in->opnd[1].reg;
    if (reg != in->mem.base && reg != in->mem.index && rng_percent(r, 95))
        st->gpr[reg] = (uint64_t)(int64_t)((int)rng_below(r, 16384) - 8192);
}

/* ---- implied operands ---- */

static void aim_string(struct rng *r, const struct insn *in, struct machine_state *st)
{
    unsigned room = rng_percent(r, 85) ? 700 : 0;
    uint64_t rdi = DATA_AT + room + rng_below(r, (unsigned)DATA_BYTES - 2 * room), rsi = DATA_AT + room + rng_below(r, (unsigned)DATA_BYTES - 2 * room);
    if (rng_percent(r, 20))
        rsi = rdi + rng_below(r, 32) - 16;
    set_reg(r, st, GPR_RDI, rdi, in->addr_bytes);
    set_reg(r, st, GPR_RSI, rsi - segment_base(st, in->mem.seg), in->addr_bytes);
    if (in->has_f2 || in->has_f3)
        set_reg(r, st, GPR_RCX, rng_below(r, 60), in->addr_bytes);
}

static void aim_implied(struct rng *r, const struct insn *in, struct machine_state *st)
{
    switch (in->category) {
    case ZYDIS_CATEGORY_STRINGOP:
        aim_string(r, in, st);
        return;
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_POP:
        st->gpr[GPR_RSP] = target_pick(r, 8);
        return;
    }
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_ENTER:
        st->gpr[GPR_RSP] = target_pick(r, 8);
        st->gpr[GPR_RBP] = target_pick(r, 8);
        break;
    case ZYDIS_MNEMONIC_LEAVE:
        st->gpr[GPR_RBP] = target_pick(r, 8);
        break;
    case ZYDIS_MNEMONIC_XLAT:
        set_reg(r, st, GPR_RBX, target_pick(r, 1) - 128 - segment_base(st, in->mem.seg), in->addr_bytes);
        break;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        set_reg(r, st, GPR_RDI, target_pick(r, 16) - segment_base(st, in->mem.seg), in->addr_bytes);
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        if (rng_percent(r, 75))
            st->gpr[GPR_RDX] = rng_percent(r, 50) ? 0 : (uint64_t)((int64_t)st->gpr[GPR_RAX] >> 63);
        break;
    default:
        break;
    }
}

/* ---- memory that suits ---- */

static uint8_t *at_target(uint64_t target, unsigned bytes, uint8_t *data)
{
    return target >= DATA_AT && target + bytes <= DATA_AT + DATA_BYTES ? data + (target - DATA_AT) : NULL;
}

static void prepare(uint64_t target, const void *image, unsigned bytes, uint8_t *native, uint8_t *guest)
{
    if (!at_target(target, bytes, native))
        return;
    memcpy(at_target(target, bytes, native), image, bytes);
    memcpy(at_target(target, bytes, guest), image, bytes);
}

static void prepare_state_image(struct rng *r, uint64_t target, unsigned bytes, uint8_t *native, uint8_t *guest)
{
    static struct machine_state image;
    value_fill_state(r, &image);
    uint64_t in_use = rng_percent(r, 50) ? host_facts()->xcr0 : rng_next(r) & host_facts()->xcr0;
    memcpy(image.xsave + 512, &in_use, 8);
    prepare(target, image.xsave, bytes, native, guest);
}

static void compare_equal(struct rng *r, const struct instance *i, struct machine_state *st, uint8_t *native)
{
    unsigned bytes = i->insn[0].mem.bytes;
    const uint8_t *p = at_target(i->target, 16, native);
    if (!i->insn[0].has_mem || !p || rng_percent(r, 40))
        return;
    if (bytes <= 8 && i->insn[0].mnemonic == ZYDIS_MNEMONIC_CMPXCHG)
        memcpy(&st->gpr[GPR_RAX], p, bytes);
    else if (bytes == 8)
        memcpy(&st->gpr[GPR_RAX], p, 4), memcpy(&st->gpr[GPR_RDX], p + 4, 4);
    else
        memcpy(&st->gpr[GPR_RAX], p, 8), memcpy(&st->gpr[GPR_RDX], p + 8, 8);
}

static void aim_contents(struct rng *r, struct instance *i, struct machine_state *st, uint8_t *native, uint8_t *guest)
{
    uint64_t flags;
    uint32_t mxcsr;
    switch (i->insn[0].mnemonic) {
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ: /* TF and AC would reach into the test itself */
        flags = rng_next(r) & ~(uint64_t)(RFLAGS_TF | RFLAGS_AC);
        prepare(st->gpr[GPR_RSP], &flags, 8, native, guest);
        if (!at_target(st->gpr[GPR_RSP], 8, native))
            st->gpr[GPR_RSP] = HOLE_AT;
        break;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        mxcsr = (uint32_t)rng_next(r) & 0xffff;
        if (rng_percent(r, 90))
            prepare(i->target, &mxcsr, 4, native, guest);
        break;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        if (rng_percent(r, 85))
            prepare_state_image(r, i->target, 512, native, guest);
        break;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        if (rng_percent(r, 85))
            prepare_state_image(r, i->target, state_xsave_bytes(), native, guest);
        /* fallthrough */
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        if (rng_percent(r, 70))
            st->gpr[GPR_RAX] = st->gpr[GPR_RDX] = ~0ull;
        break;
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        compare_equal(r, i, st, native);
        break;
    default:
        break;
    }
}

static void aim(struct rng *r, struct instance *i, struct machine_state *st, uint8_t *native, uint8_t *guest)
{
    i->target = 0;
    if (i->is_sequence) {
        for (unsigned k = 0; k < 2; k++)
            st->gpr[i->pointer[k]] = rng_percent(r, 90) ? target_inside(r, 256) : target_pick(r, 64);
        st->gpr[GPR_RSP] = rng_percent(r, 95) ? target_inside(r, 256) : target_pick(r, 8);
        return;
    }
    const struct insn *in = &i->insn[0];
    aim_implied(r, in, st);
    if (in->has_mem)
        aim_explicit(r, i, in, st);
    if (in->mnemonic == ZYDIS_MNEMONIC_BT || in->mnemonic == ZYDIS_MNEMONIC_BTS || in->mnemonic == ZYDIS_MNEMONIC_BTR || in->mnemonic == ZYDIS_MNEMONIC_BTC)
        aim_bit_offset(r, in, st);
    aim_contents(r, i, st, native, guest);
}

void instance_aim(struct rng *r, struct instance *i, struct machine_state *st, uint8_t *native, uint8_t *guest)
{
    aim(r, i, st, native, guest);
    for (unsigned n = 0; diff_mode_bits == 32 && n < GPR_COUNT; n++)
        st->gpr[n] = (uint32_t)st->gpr[n];
}
