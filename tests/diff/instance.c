/* SPDX-License-Identifier: MIT */
/*
 * From a form to bytes: random registers, addressing, prefixes and immediates, single or in straight-line sequences. What it aims is in aim.c.
 */
#include "diff.h"

#include <string.h>

#define NO_BASE 255u

struct request {
    const struct form *f;
    unsigned base; /* of a memory operand, or NO_BASE: any */
    uint64_t at;
    bool is_plain; /* no segment overrides, no address-size prefix */
};

struct encoding {
    uint8_t p[32];
    unsigned n;
    unsigned disp; /* offset of the displacement, 0 if none */
    bool is_disp8;
};

static unsigned pick_bit(struct rng *r, unsigned mask)
{
    for (;;) {
        unsigned n = rng_below(r, 8);
        if (mask >> n & 1)
            return n;
    }
}

static void put(struct encoding *e, unsigned byte)
{
    e->p[e->n++] = (uint8_t)byte;
}

/* ModRM, SIB, displacement; x and b get the fourth bits of index and base. */
struct address {
    unsigned modrm, sib, disp_bytes;
    bool has_sib, x, b;
};

static void pick_address(struct rng *r, const struct request *q, struct address *a)
{
    unsigned mod = rng_below(r, 3), rm = rng_below(r, 8);
    a->x = rng_next(r) & 1;
    a->b = rng_next(r) & 1;
    a->sib = (unsigned)rng_next(r) & 0xff;
    if (diff_mode_bits == 32)
        a->x = a->b = false;
    if (q->base != NO_BASE) {
        rm = q->base & 7;
        a->b = q->base >> 3;
        a->sib = 0x20 | rm;
        a->x = 0;
        mod = rm == 5 && mod == 0 ? 1 : mod;
    }
    a->has_sib = rm == 4;
    a->modrm = mod << 6 | rm;
    a->disp_bytes = mod == 1 ? 1 : mod == 2 || rm == 5 || (rm == 4 && (a->sib & 7) == 5) ? 4 : 0;
    if (q->base != NO_BASE && mod == 0 && rm == 4 && (a->sib & 7) == 5)
        a->disp_bytes = 4;
}

static void put_operands(struct rng *r, const struct request *q, const struct address *a, unsigned modrm, struct encoding *e)
{
    put(e, modrm);
    if (q->f->is_mem) {
        if (a->has_sib)
            put(e, a->sib);
        e->disp = a->disp_bytes ? e->n : 0;
        e->is_disp8 = a->disp_bytes == 1;
        uint32_t disp = (uint32_t)rng_next(r);
        if (q->base != NO_BASE || rng_percent(r, 50))
            disp = (uint32_t)(int32_t)(int16_t)disp >> (q->base != NO_BASE ? 24 : 0);
        if (q->base != NO_BASE)
            disp &= 0x3f;
        for (unsigned i = 0; i < a->disp_bytes; i++)
            put(e, disp >> (8 * i));
    }
}

static void encode_legacy(struct rng *r, const struct request *q, const struct address *a, unsigned modrm, struct encoding *e)
{
    const struct form *f = q->f;
    bool is_mem = f->is_mem || !f->has_modrm;
    if (!q->is_plain && is_mem && rng_percent(r, 8))
        put(e, rng_percent(r, 80) ? 0x64 + rng_below(r, 2) : 0x26 | rng_below(r, 4) << 3);
    if (!q->is_plain && is_mem && rng_percent(r, 6))
        put(e, diff_mode_bits == 64 ? 0x67 : 0x3e);
    if (f->pp & FORM_66)
        put(e, 0x66);
    if (f->pp & FORM_F3)
        put(e, 0xf3);
    if (f->pp & FORM_F2)
        put(e, 0xf2);
    if (f->is_mem && rng_percent(r, 25))
        put(e, 0xf0);
    unsigned rex = 0x40 | (unsigned)f->w << 3;
    if (q->base != NO_BASE || rng_percent(r, 70))
        rex |= ((unsigned)rng_next(r) & 4) | (f->is_mem ? (unsigned)a->x << 1 | a->b : (unsigned)rng_next(r) & 3);
    if (q->base != NO_BASE && q->base >= 8)
        rex |= 1;
    if (diff_mode_bits == 64 && (rex != 0x40 || rng_percent(r, 15)))
        put(e, rex);
    if (f->map)
        put(e, 0x0f);
    if (f->map > 1)
        put(e, f->map == 2 ? 0x38 : 0x3a);
    put(e, f->opcode);
    if (f->has_modrm)
        put_operands(r, q, a, modrm, e);
}

static void encode_vex(struct rng *r, const struct request *q, const struct address *a, unsigned modrm, struct encoding *e)
{
    const struct form *f = q->f;
    unsigned vvvv = rng_percent(r, 50) ? 15 : rng_below(r, 16), not_r = (unsigned)rng_next(r) & 1;
    unsigned x = f->is_mem ? a->x : (unsigned)rng_next(r) & 1, b = f->is_mem ? a->b : (unsigned)rng_next(r) & 1;
    if (diff_mode_bits == 32) {
        not_r = 1;
        x = b = 0;
        vvvv |= 8;
    }
    if (!q->is_plain && f->is_mem && rng_percent(r, 8))
        put(e, rng_percent(r, 70) || diff_mode_bits == 32 ? 0x64 + rng_below(r, 2) : 0x67);
    if (f->map == 1 && !f->w && !(f->is_mem && (x || b)) && rng_percent(r, 60)) {
        put(e, 0xc5);
        put(e, not_r << 7 | vvvv << 3 | (unsigned)f->l << 2 | f->pp);
    } else {
        put(e, 0xc4);
        put(e, not_r << 7 | !x << 6 | (unsigned)!b << 5 | f->map);
        put(e, (unsigned)f->w << 7 | vvvv << 3 | (unsigned)f->l << 2 | f->pp);
    }
    put(e, f->opcode);
    put_operands(r, q, a, modrm, e);
}

static void encode_evex(struct rng *r, const struct request *q, const struct address *a, unsigned modrm, struct encoding *e)
{
    const struct form *f = q->f;
    unsigned vvvv = rng_percent(r, 30) ? 31 : rng_below(r, 32), high = (unsigned)rng_next(r);
    if (diff_mode_bits == 32) {
        high = 9; /* R and R' stored as 1; X and B follow as 0 */
        vvvv |= 24;
    }
    unsigned x = f->is_mem ? a->x : high >> 1 & 1, b = f->is_mem ? a->b : high >> 2 & 1;
    unsigned aaa = rng_percent(r, 40) ? 0 : rng_below(r, 8), z = aaa && rng_percent(r, 40);
    if (!q->is_plain && f->is_mem && rng_percent(r, 8))
        put(e, rng_percent(r, 70) || diff_mode_bits == 32 ? 0x64 + rng_below(r, 2) : 0x67);
    put(e, 0x62);
    put(e, (high & 1) << 7 | (unsigned)!x << 6 | (unsigned)!b << 5 | (high >> 3 & 1) << 4 | f->map);
    put(e, (unsigned)f->w << 7 | (vvvv & 15) << 3 | 4 | f->pp);
    put(e, z << 7 | (unsigned)f->l << 5 | (unsigned)f->b << 4 | (vvvv >> 4) << 3 | aaa);
    put(e, f->opcode);
    put_operands(r, q, a, modrm, e);
}

/* An operand at an address that no register decides: its displacement does. */
static uint64_t fix_address(struct rng *r, const struct request *q, struct encoding *e, struct insn *in)
{
    const struct insn_mem *m = &in->mem;
    bool is_rip = m->base == GPR_RIP;
    if (!in->has_mem || m->is_vsib || (!is_rip && (m->base != GPR_NONE || m->index != GPR_NONE)))
        return 0;
    unsigned align = rng_percent(r, 70) ? 64 : 1;
    uint64_t target = DATA_AT + (256 + rng_below(r, DATA_BYTES - 3072)) / align * align;
    uint64_t disp = target - (m->seg >= SEG_FS ? DATA_AT : 0) - (is_rip ? q->at + in->len : 0);
    if (in->has_modrm)
        memcpy(e->p + e->disp, &disp, 4);
    else /* moffs ends the instruction */
        memcpy(e->p + in->len - in->addr_bytes, &disp, in->addr_bytes);
    return insn_decode(in, e->p, e->n, diff_mode_bits) == 0 ? target : 0;
}

static bool try_encode(struct rng *r, const struct request *q, struct insn *in, uint8_t *bytes, uint64_t *fixed)
{
    const struct form *f = q->f;
    struct encoding e = { .n = 0 };
    struct address a = { .x = false };
    unsigned modrm = 0;
    if (f->is_mem) {
        pick_address(r, q, &a);
        modrm = a.modrm;
    } else if (f->has_modrm) {
        modrm = 0xc0 | pick_bit(r, f->rms);
    }
    modrm |= f->has_modrm ? pick_bit(r, f->regs) << 3 : 0;
    if (f->enc == ENC_LEGACY)
        encode_legacy(r, q, &a, modrm, &e);
    else if (f->enc == ENC_VEX)
        encode_vex(r, q, &a, modrm, &e);
    else
        encode_evex(r, q, &a, modrm, &e);
    for (int i = 0; i < 8; i++)
        put(&e, (unsigned)rng_next(r));
    if (insn_decode(in, e.p, e.n, diff_mode_bits) || in->mnemonic != f->mnemonic || in->enc != f->enc || in->opcode != f->opcode || !form_is_wanted(in))
        return false;
    *fixed = fix_address(r, q, &e, in);
    memcpy(bytes, e.p, in->len);
    return true;
}

bool instance_make(struct rng *r, const struct form *f, uint64_t at, struct instance *out)
{
    struct request q = { .f = f, .base = NO_BASE, .at = at };
    out->at = at;
    out->n = 1;
    out->is_sequence = false;
    for (int i = 0; i < 40; i++) {
        if (!try_encode(r, &q, &out->insn[0], out->bytes, &out->fixed))
            continue;
        out->offset[0] = 0;
        out->offset[1] = out->len = out->insn[0].len;
        return true;
    }
    return false;
}

/* ---- sequences ---- */

static bool fits_sequence(const struct instance *s, const struct insn *in)
{
    uint32_t kept = 1u << s->pointer[0] | 1u << s->pointer[1] | 1u << GPR_RSP;
    if (!form_suits_sequence(in) || in->mem.is_vsib)
        return false;
    return !(in->gpr_written & kept);
}

/* jcc over the next piece, short or near. */
static unsigned put_jcc(struct rng *r, uint8_t *p, unsigned over)
{
    unsigned cc = rng_below(r, 16);
    if (rng_percent(r, 70)) {
        p[0] = (uint8_t)(0x70 | cc);
        p[1] = (uint8_t)over;
        return 2;
    }
    const uint32_t rel = over;
    p[0] = 0x0f;
    p[1] = (uint8_t)(0x80 | cc);
    memcpy(p + 2, &rel, 4);
    return 6;
}

static unsigned put_push_pop(struct rng *r, const struct instance *s, uint8_t *p)
{
    for (;;) {
        unsigned reg = rng_below(r, diff_mode_bits == 32 ? 8 : 16), n = 0;
        bool is_pop = rng_next(r) & 1;
        if (is_pop && (reg == GPR_RSP || reg == s->pointer[0] || reg == s->pointer[1]))
            continue;
        if (rng_percent(r, 10))
            p[n++] = 0x66;
        if (reg >= 8)
            p[n++] = 0x41;
        p[n++] = (uint8_t)((is_pop ? 0x58 : 0x50) | (reg & 7));
        return n;
    }
}

static bool add_piece(struct instance *s, const uint8_t *p, unsigned len)
{
    if (s->n == PIECES_MAX || insn_decode(&s->insn[s->n], p, len, diff_mode_bits))
        return false;
    memmove(s->bytes + s->len, p, len);
    s->offset[s->n++] = s->len;
    s->len += len;
    s->offset[s->n] = s->len;
    return true;
}

static bool make_piece(struct rng *r, struct instance *s, unsigned n_forms, uint8_t *p, unsigned *len)
{
    struct insn in;
    uint64_t fixed;
    if (rng_percent(r, 10)) {
        *len = put_push_pop(r, s, p);
        return true;
    }
    for (int i = 0; i < 60; i++) {
        /* Half of them from the one-byte map: producers and consumers of flags. */
        const struct form *f = form_at(rng_below(r, rng_percent(r, 50) ? (n_forms < 700 ? n_forms : 700) : n_forms));
        struct request q = { .f = f, .base = s->pointer[rng_next(r) & 1], .at = s->at + s->len, .is_plain = true };
        if (!try_encode(r, &q, &in, p, &fixed) || !fits_sequence(s, &in) || (in.has_mem && (in.mem.base == GPR_NONE || in.mem.base == GPR_RIP)))
            continue;
        *len = in.len;
        return true;
    }
    return false;
}

bool instance_make_sequence(struct rng *r, uint64_t at, struct instance *s, unsigned n_forms)
{
    unsigned want = 2 + rng_below(r, PIECES_MAX - 2);
    s->at = at;
    s->n = s->len = 0;
    s->fixed = 0;
    s->is_sequence = true;
    do {
        s->pointer[0] = (uint8_t)rng_below(r, diff_mode_bits == 32 ? 8 : 16);
        s->pointer[1] = (uint8_t)rng_below(r, diff_mode_bits == 32 ? 8 : 16);
    } while (s->pointer[0] == s->pointer[1] || s->pointer[0] == GPR_RSP || s->pointer[1] == GPR_RSP);
    while (s->n < want) {
        uint8_t p[32], jcc[8];
        unsigned len;
        if (!make_piece(r, s, n_forms, p, &len))
            return s->n > 0;
        if (s->n + 1 < want && rng_percent(r, 12)) {
            unsigned n = put_jcc(r, jcc, len);
            add_piece(s, jcc, n);
        }
        if (!add_piece(s, p, len))
            return false;
    }
    return true;
}
