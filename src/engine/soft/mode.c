/* SPDX-License-Identifier: MIT */
/*
 * The mode key: what translations depend on besides their bytes, rebuilt from control registers and segments whenever one of them changed.
 */
#include "engine/soft/code.h"

static unsigned mode_bits_of(const struct cpu_state *c)
{
    const struct segment *cs = &c->seg[SEG_CS];
    if (!(c->cr0 & CR0_PE) || (c->rflags & RFLAGS_VM))
        return 16;
    if ((c->efer & EFER_LMA) && cs->l)
        return 64;
    return cs->db ? 32 : 16;
}

static bool is_whole_4g(const struct segment *s)
{
    bool is_expand_down = !(s->type & 8) && (s->type & 4);
    return s->limit == UINT32_MAX && s->present && !s->unusable && !is_expand_down;
}

static bool is_flat_data(const struct segment *s)
{
    return is_whole_4g(s) && s->base == 0 && !(s->type & 8) && (s->type & 2);
}

static bool is_fast_data(const struct segment *s)
{
    return is_whole_4g(s) && !(s->type & 8) && (s->type & 2);
}

static bool is_ordinary_data(const struct segment *s)
{
    return s->present && !s->unusable && (s->type & 14) == 2;
}

static uint32_t key_segments(const struct cpu_state *c, unsigned mode_bits)
{
    const struct segment *s = c->seg;
    if (mode_bits == 64)
        return KEY_FLAT_CS | KEY_FS_FAST | KEY_GS_FAST;
    uint32_t key = 0;
    if (is_flat_data(&s[SEG_DS]) && is_flat_data(&s[SEG_ES]) && is_flat_data(&s[SEG_SS]))
        key |= KEY_FLAT;
    if (is_whole_4g(&s[SEG_CS]) && s[SEG_CS].base == 0)
        key |= KEY_FLAT_CS;
    if (is_fast_data(&s[SEG_FS]))
        key |= KEY_FS_FAST;
    if (is_fast_data(&s[SEG_GS]))
        key |= KEY_GS_FAST;
    if (is_ordinary_data(&s[SEG_ES]) && is_ordinary_data(&s[SEG_SS]) && is_ordinary_data(&s[SEG_DS]) && is_ordinary_data(&s[SEG_FS]) &&
        is_ordinary_data(&s[SEG_GS]))
        key |= KEY_ORDINARY;
    if (s[SEG_SS].db)
        key |= KEY_STACK_32;
    return key;
}

static uint32_t key_fp(const struct cpu_state *c)
{
    uint32_t key = 0;
    bool has_ts = c->cr0 & CR0_TS, has_em = c->cr0 & CR0_EM;
    if (has_ts)
        return 0;
    if (!has_em)
        key |= KEY_X87 | KEY_MMX;
    if (!has_em && (c->cr4 & CR4_OSFXSR))
        key |= KEY_SSE;
    bool has_vex = (c->cr0 & CR0_PE) && !(c->rflags & RFLAGS_VM) && (c->cr4 & CR4_OSXSAVE);
    uint64_t avx = XCR0_SSE | XCR0_AVX, avx512 = avx | XCR0_AVX512;
    if (has_vex && (c->xcr0 & avx) == avx)
        key |= KEY_AVX;
    if (has_vex && (c->xcr0 & avx512) == avx512)
        key |= KEY_AVX512;
    return key;
}

static bool must_step(const struct soft_vcpu *sv)
{
    const struct guest_debug *d = &sv->v.debug;
    if (soft_vm_of((struct soft_vcpu *)sv)->is_stepping || (sv->v.cpu.rflags & RFLAGS_TF) || (sv->v.cpu.dr7 & DR7_ENABLE_MASK))
        return true;
    return d->enabled && (d->single_step || (d->use_hw_bp && (d->dr7 & DR7_ENABLE_MASK)));
}

void mode_update(struct soft_vcpu *sv)
{
    const struct cpu_state *c = &sv->v.cpu;
    bool has_debug = sv->v.debug.enabled && sv->v.debug.use_hw_bp;
    sv->mode_bits = (uint8_t)mode_bits_of(c);
    sv->stack_bytes = sv->mode_bits == 64 ? 8 : c->seg[SEG_SS].db ? 4 : 2;
    sv->is_user = (c->cr0 & CR0_PE) && c->seg[SEG_SS].dpl == 3;
    bool was_checking = sv->is_checking;
    sv->is_checking = ((c->dr7 | (has_debug ? sv->v.debug.dr7 : 0)) & DR7_ENABLE_MASK) || (sv->is_user && (c->cr0 & CR0_AM) && (c->rflags & RFLAGS_AC));
    sv->is_stepping = sv->is_checking || must_step(sv);
    sv->key = (sv->mode_bits == 64   ? KEY_MODE_64
               : sv->mode_bits == 32 ? KEY_MODE_32
                                     : KEY_MODE_16) |
              (sv->is_user ? KEY_USER : 0) | key_segments(c, sv->mode_bits) | key_fp(c);
    if (!sv->v.tsc_ratio && !(sv->is_user && (c->cr4 & CR4_TSD)))
        sv->key |= KEY_TSC;
    if (watch_has_pages(sv))
        sv->key |= KEY_WATCHED;
    if (sv->jump_cache_key[sv->is_user] != sv->key) {
        jump_cache_flush_set(sv, sv->is_user);
        sv->jump_cache_key[sv->is_user] = sv->key;
    }
    if (was_checking != sv->is_checking)
        tlb_flush(sv);
    smap_ac_changed(sv);
}
