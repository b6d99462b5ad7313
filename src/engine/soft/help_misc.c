/* SPDX-License-Identifier: MIT */
/*
 * Instructions of no family: decimal arithmetic, BOUND, XLAT, SALC, bit strings, cache lines, and hints that do nothing; with the CPUID look-up that
 * the other helpers share. Called by exec.c through the helper table on the vCPU's own thread; no lock.
 */
#include "engine/soft/help_misc.h"

#include <sched.h>

#include "engine/soft/code.h"
#include "engine/soft/tlb.h"

uint32_t misc_cpuid(const struct vcpu *v, uint32_t function, uint32_t index, unsigned reg)
{
    for (unsigned i = 0; i < v->n_cpuid; i++) {
        const struct cpuid_entry *e = &v->cpuid[i];
        if (e->function == function && (!(e->flags & 1) || e->index == index))
            return reg == 0 ? e->eax : reg == 1 ? e->ebx : reg == 2 ? e->ecx : e->edx;
    }
    return 0;
}

unsigned misc_data_seg(const struct insn *in)
{
    return in->mem.seg;
}

/* ---- decimal arithmetic (SDM vol. 2). Flags that the manual leaves undefined follow the result, OF is cleared. ---- */

static void misc_bcd_flags(struct soft_vcpu *sv, uint8_t al, bool af, bool cf)
{
    uint64_t f = sv->v.cpu.rflags & ~(uint64_t)RFLAGS_STATUS;
    f |= (al == 0 ? RFLAGS_ZF : 0) | (al & 0x80 ? RFLAGS_SF : 0) | (__builtin_popcount(al) & 1 ? 0 : RFLAGS_PF);
    sv->v.cpu.rflags = f | (af ? RFLAGS_AF : 0) | (cf ? RFLAGS_CF : 0);
}

static void misc_ax_set(struct soft_vcpu *sv, uint16_t ax)
{
    gpr_write(sv, GPR_RAX, 2, ax);
}

/* AAA adds, AAS subtracts 0x106. */
static enum step misc_ascii_adjust(struct soft_vcpu *sv, int sign)
{
    uint16_t ax = (uint16_t)sv->v.cpu.gpr[GPR_RAX];
    bool adjusts = (ax & 15) > 9 || (sv->v.cpu.rflags & RFLAGS_AF);
    if (adjusts)
        ax = (uint16_t)(ax + sign * 0x106);
    ax &= 0xff0f;
    misc_ax_set(sv, ax);
    misc_bcd_flags(sv, (uint8_t)ax, adjusts, adjusts);
    return STEP_NEXT;
}

enum step help_aaa(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return misc_ascii_adjust(sv, 1);
}

enum step help_aas(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return misc_ascii_adjust(sv, -1);
}

/* AAD is an addition, and the flags that the manual leaves undefined are those of ADD on the CPUs seen. */
enum step help_aad(struct soft_vcpu *sv, const struct insn *in)
{
    uint16_t ax = (uint16_t)sv->v.cpu.gpr[GPR_RAX];
    uint8_t old = (uint8_t)ax, addend = (uint8_t)((ax >> 8) * (uint8_t)in->imm), al = (uint8_t)(old + addend);
    misc_ax_set(sv, al);
    misc_bcd_flags(sv, al, (old ^ addend ^ al) & 0x10, al < old);
    if ((old ^ al) & (addend ^ al) & 0x80)
        sv->v.cpu.rflags |= RFLAGS_OF;
    return STEP_NEXT;
}

enum step help_aam(struct soft_vcpu *sv, const struct insn *in)
{
    uint8_t base = (uint8_t)in->imm, al = (uint8_t)sv->v.cpu.gpr[GPR_RAX];
    if (base == 0)
        return step_fault(sv, VEC_DE);
    misc_ax_set(sv, (uint16_t)((al / base) << 8 | al % base));
    misc_bcd_flags(sv, al % base, false, false);
    return STEP_NEXT;
}

static enum step misc_decimal_adjust(struct soft_vcpu *sv, bool is_subtract)
{
    uint8_t old_al = (uint8_t)sv->v.cpu.gpr[GPR_RAX], al = old_al;
    bool old_cf = sv->v.cpu.rflags & RFLAGS_CF, cf = false;
    bool af = (al & 15) > 9 || (sv->v.cpu.rflags & RFLAGS_AF);
    if (af) {
        cf = old_cf || (is_subtract ? al < 6 : al > 0xff - 6);
        al = (uint8_t)(is_subtract ? al - 6 : al + 6);
    }
    if (old_al > 0x99 || old_cf) {
        al = (uint8_t)(is_subtract ? al - 0x60 : al + 0x60);
        cf = true;
    } else if (!is_subtract) {
        cf = false;
    }
    gpr_write(sv, GPR_RAX, 1, al);
    misc_bcd_flags(sv, al, af, cf);
    return STEP_NEXT;
}

enum step help_daa(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return misc_decimal_adjust(sv, false);
}

enum step help_das(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return misc_decimal_adjust(sv, true);
}

enum step help_bound(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = in->op_bytes;
    uint8_t raw[8];
    enum step s = mem_read(sv, in, raw, 2 * bytes);
    if (s != STEP_NEXT)
        return s;
    int64_t index, lower, upper;
    uint64_t reg = sv->v.cpu.gpr[in->opnd[0].reg];
    if (bytes == 2) {
        index = (int16_t)reg;
        lower = (int16_t)(raw[0] | raw[1] << 8);
        upper = (int16_t)(raw[2] | raw[3] << 8);
    } else {
        index = (int32_t)reg;
        lower = (int32_t)(raw[0] | raw[1] << 8 | raw[2] << 16 | (uint32_t)raw[3] << 24);
        upper = (int32_t)(raw[4] | raw[5] << 8 | raw[6] << 16 | (uint32_t)raw[7] << 24);
    }
    return index < lower || index > upper ? step_fault(sv, VEC_BR) : STEP_NEXT;
}

enum step help_xlat(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t offset = misc_truncate(sv->v.cpu.gpr[GPR_RBX] + (uint8_t)sv->v.cpu.gpr[GPR_RAX], in->addr_bytes);
    uint8_t al;
    enum step s = seg_read(sv, misc_data_seg(in), offset, &al, 1);
    if (s == STEP_NEXT)
        gpr_write(sv, GPR_RAX, 1, al);
    return s;
}

enum step help_salc(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    gpr_write(sv, GPR_RAX, 1, sv->v.cpu.rflags & RFLAGS_CF ? 0xff : 0);
    return STEP_NEXT;
}

/* ---- bit strings ---- */

enum bit_op { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT };

static uint64_t misc_bit_apply(enum bit_op op, uint64_t value, uint64_t mask)
{
    switch (op) {
    case BIT_SET:
        return value | mask;
    case BIT_RESET:
        return value & ~mask;
    case BIT_COMPLEMENT:
        return value ^ mask;
    default:
        return value;
    }
}

#define BIT_ATOMIC(type)                                              \
    do {                                                              \
        type *p = (type *)(void *)host, m = (type)mask;               \
        if (op == BIT_SET)                                            \
            return __atomic_fetch_or(p, m, __ATOMIC_SEQ_CST);         \
        if (op == BIT_RESET)                                          \
            return __atomic_fetch_and(p, (type)~m, __ATOMIC_SEQ_CST); \
        return __atomic_fetch_xor(p, m, __ATOMIC_SEQ_CST);            \
    } while (0)

/* The old value. The host does the locked operation on guest memory itself, so other vCPUs see it whole. */
static uint64_t misc_bit_atomic(hva_t host, unsigned bytes, enum bit_op op, uint64_t mask)
{
    if (bytes == 2)
        BIT_ATOMIC(uint16_t);
    if (bytes == 4)
        BIT_ATOMIC(uint32_t);
    BIT_ATOMIC(uint64_t);
}

/* Does the locked operation in place, or *s is why not. False: not plain RAM of one page, other data are given, or a fault; nothing was done. */
static bool misc_bit_locked(struct soft_vcpu *sv, gva_t gva, unsigned bytes, enum bit_op op, uint64_t mask, uint64_t *old, enum step *s)
{
    struct page_place p;
    if ((gva & PAGE_OFFSET_MASK) + bytes > PAGE_BYTES || tlb_place(sv, gva, ACCESS_WRITE | (sv->is_user ? ACCESS_USER : 0), &p) || !p.host)
        return false;
    if (p.is_watched && (*s = watch_access_ask(sv, gva, p.guest_gpa, bytes, WATCH_READ | WATCH_WRITE)) != STEP_NEXT)
        return true;
    if (watch_is_given(sv, gva, bytes))
        return false;
    *old = misc_bit_atomic(p.host, bytes, op, mask);
    access_note_data(sv, gva, bytes, ACCESS_WRITE);
    if (p.slot)
        vcpu_mark_dirty(&sv->v, p.slot, p.gpa);
    if (p.is_code)
        code_page_written(sv, p.gpa, bytes);
    return true;
}

/*
 * The bit offset is signed and reaches beyond the operand: the word that holds the bit is the operand (SDM vol. 2, BT). A LOCK form on plain RAM is atomic;
 * on MMIO or across a page it is a read followed by a write.
 */
enum step help_bit_string(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned bytes = in->op_bytes, log_bits = bytes == 8 ? 6 : bytes == 4 ? 5 : 4;
    enum bit_op op = (enum bit_op)(in->opcode >> 3 & 3); /* 0F A3 AB B3 BB */
    uint64_t reg = sv->v.cpu.gpr[in->opnd[1].reg], value = 0;
    int64_t offset = bytes == 8 ? (int64_t)reg : bytes == 4 ? (int32_t)reg : (int16_t)reg;
    uint64_t mask = 1ull << (offset & (int64_t)(bytes * 8 - 1));
    uint64_t ea = misc_truncate(insn_ea(sv, in) + (uint64_t)(offset >> log_bits) * bytes, in->addr_bytes);
    gva_t gva;
    enum step s = seg_linear(sv, in->mem.seg, ea, bytes, op != BIT_TEST, &gva);
    if (s != STEP_NEXT)
        return s;
    if (!in->has_lock || op == BIT_TEST || !misc_bit_locked(sv, gva, bytes, op, mask, &value, &s)) {
        /* The probe comes first so that a read of MMIO is not made for a write that faults. */
        if (op != BIT_TEST)
            s = linear_probe_write(sv, gva, bytes, ACCESS_WRITE);
        if (s == STEP_NEXT)
            s = linear_read(sv, gva, &value, bytes, ACCESS_READ);
        if (s == STEP_NEXT && op != BIT_TEST) {
            uint64_t new_value = misc_bit_apply(op, value, mask);
            s = linear_write(sv, gva, &new_value, bytes, ACCESS_WRITE);
        }
    }
    if (s != STEP_NEXT)
        return s;
    sv->v.cpu.rflags = (sv->v.cpu.rflags & ~(uint64_t)RFLAGS_CF) | (value & mask ? RFLAGS_CF : 0);
    return STEP_NEXT;
}

/* Caches need no care, but the address is checked as a load of one byte; it is walked, not read, since a read of MMIO would be seen. */
enum step help_cache_line(struct soft_vcpu *sv, const struct insn *in)
{
    gva_t gva;
    gpa_t gpa;
    bool is_writeable, is_usermode;
    enum step s = seg_linear(sv, in->mem.seg, insn_ea(sv, in), 1, false, &gva);
    if (s != STEP_NEXT)
        return s;
    unsigned access = ACCESS_READ | (vcpu_cpl(&sv->v) == 3 ? ACCESS_USER : 0);
    return walk(sv, gva, access, &gpa, &is_writeable, &is_usermode) ? STEP_FAULT : STEP_NEXT;
}

enum step help_nop(struct soft_vcpu *sv, const struct insn *in)
{
    (void)sv;
    (void)in;
    return STEP_NEXT;
}

enum step help_undefined(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return step_fault(sv, VEC_UD);
}

/* After this many PAUSEs of a kernel the lock's holder is taken to wait for this very processor: hosts with fewer processors than vCPUs. */
#define PAUSES_PER_YIELD 64u

enum step help_pause(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (++sv->n_pauses % PAUSES_PER_YIELD == 0) {
        guest_mode_leave(sv);
        sched_yield(); /* a bare system call: vectors survive */
        guest_mode_enter(sv);
    }
    return STEP_NEXT;
}
