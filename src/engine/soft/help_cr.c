/* SPDX-License-Identifier: MIT */
/*
 * Control registers, debug registers, XCR0, TLB and cache control, HLT (SDM vol. 2 under each name; vol. 3A, "Control Registers", "Initializing IA-32e
 * Mode", "Debug Registers"). Not MSRs. Called by exec.c through the helper table on the vCPU's own thread; no lock.
 * Order everywhere: #UD, privilege, value checks, then commit, then mode_update() and tlb_flush().
 */
#include "engine/soft/asid.h"
#include "engine/soft/help_misc.h"
#include "engine/soft/light.h"

#define CR0_WRITABLE (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NO_FLUSH (1ull << 63)

static enum step cr_gp(struct soft_vcpu *sv)
{
    return step_fault_code(sv, VEC_GP, 0);
}

static bool cr_uses_pdptes(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* Turning paging on with EFER.LME set enters long mode, turning it off leaves it. Returns false for #GP. */
static bool cr0_check(const struct soft_vcpu *sv, uint64_t value, uint64_t *efer)
{
    const struct cpu_state *c = &sv->v.cpu;
    if (value >> 32)
        return false;
    if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
        return false;
    if ((value & CR0_PG) && !(c->cr0 & CR0_PG) && (c->efer & EFER_LME)) {
        if (!(c->cr4 & CR4_PAE) || c->seg[SEG_CS].l)
            return false;
        *efer |= EFER_LMA;
    }
    if (!(value & CR0_PG) && (c->cr0 & CR0_PG)) {
        if ((c->cr4 & CR4_PCIDE) || ((c->efer & EFER_LMA) && c->seg[SEG_CS].l))
            return false;
        *efer &= ~(uint64_t)EFER_LMA;
    }
    return true;
}

/* Before anything is committed. */
static enum step flush_watch(struct soft_vcpu *sv, uint32_t index, uint64_t old, uint64_t value)
{
    return watch_insn(sv, WATCH_FLUSH, index, old, &value);
}

static enum step cr0_write(struct soft_vcpu *sv, uint64_t value)
{
    struct cpu_state *c = &sv->v.cpu;
    uint64_t efer = c->efer, old = c->cr0;
    if (!cr0_check(sv, value, &efer))
        return cr_gp(sv);
    value = (value & CR0_WRITABLE) | CR0_ET;
    uint64_t changed = old ^ value;
    bool is_flush = changed & (CR0_PG | CR0_PE | CR0_WP | CR0_CD | CR0_NW);
    enum step s = is_flush ? flush_watch(sv, WATCH_FLUSH_CR0, old, value) : STEP_NEXT;
    if (s != STEP_NEXT)
        return s;
    if (cr_uses_pdptes(value, c->cr4, efer) && (changed & (CR0_PG | CR0_CD | CR0_NW)) && pdpte_load(sv, c->cr3))
        return cr_gp(sv);
    c->cr0 = value;
    c->efer = efer;
    mode_update(sv);
    if (is_flush)
        tlb_flush(sv);
    return STEP_NEXT;
}

static unsigned cr_phys_bits(const struct soft_vcpu *sv)
{
    unsigned bits = misc_cpuid(&sv->v, 0x80000008, 0, 0) & 0xff;
    return bits >= 32 && bits <= 52 ? bits : 36;
}

static enum step cr3_write(struct soft_vcpu *sv, uint64_t value)
{
    struct cpu_state *c = &sv->v.cpu;
    uint64_t old = c->cr3;
    bool keep = value & CR3_NO_FLUSH;
    if (c->efer & EFER_LMA) {
        if (c->cr4 & CR4_PCIDE)
            value &= ~CR3_NO_FLUSH;
        if (value >> cr_phys_bits(sv))
            return cr_gp(sv);
    }
    enum step s = keep && (c->cr4 & CR4_PCIDE) ? STEP_NEXT : flush_watch(sv, WATCH_FLUSH_CR3, old, value);
    if (s != STEP_NEXT)
        return s;
    if (cr_uses_pdptes(c->cr0, c->cr4, c->efer) && pdpte_load(sv, value))
        return cr_gp(sv);
    c->cr3 = value;
    if (c->cr4 & CR4_PCIDE)
        asid_switch(sv, old, value, keep);
    else
        tlb_flush_local(sv);
    return STEP_NEXT;
}

/* CR4 bits of later CPUs exist if CPUID offers what they enable; the old ones always, as a client need not set CPUID for a simple guest. */
#define CR4_ALWAYS (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT)
static const struct {
    uint32_t bits;
    uint32_t function;
    uint8_t reg, bit;
} cr4_bit[] = {
    { CR4_PCIDE, 1, 2, 17 }, { CR4_OSXSAVE, 1, 2, 26 }, { CR4_FSGSBASE, 7, 1, 0 }, { CR4_SMEP, 7, 1, 7 },
    { CR4_SMAP, 7, 1, 20 },  { CR4_UMIP, 7, 2, 2 },     { CR4_PKE, 7, 2, 3 },      { CR4_LA57, 7, 2, 16 },
};

static uint64_t cr4_allowed(const struct soft_vcpu *sv)
{
    uint64_t allowed = CR4_ALWAYS;
    for (unsigned i = 0; i < sizeof(cr4_bit) / sizeof(cr4_bit[0]); i++)
        if (misc_cpuid(&sv->v, cr4_bit[i].function, 0, cr4_bit[i].reg) >> cr4_bit[i].bit & 1)
            allowed |= cr4_bit[i].bits;
    return allowed;
}

static bool cr4_check(const struct soft_vcpu *sv, uint64_t value)
{
    const struct cpu_state *c = &sv->v.cpu;
    uint64_t changed = c->cr4 ^ value;
    /* Bits that the client set beyond CPUID may stay. */
    if (value & ~(cr4_allowed(sv) | c->cr4))
        return false;
    if ((c->efer & EFER_LMA) && ((changed & CR4_LA57) || !(value & CR4_PAE)))
        return false;
    if ((changed & value & CR4_PCIDE) && (!(c->efer & EFER_LMA) || (c->cr3 & 0xfff)))
        return false;
    return true;
}

static enum step cr4_write(struct soft_vcpu *sv, uint64_t value)
{
    struct cpu_state *c = &sv->v.cpu;
    uint64_t changed = c->cr4 ^ value;
    bool is_flush = changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_LA57 | CR4_PKE);
    if (!cr4_check(sv, value))
        return cr_gp(sv);
    enum step s = is_flush ? flush_watch(sv, WATCH_FLUSH_CR4, c->cr4, value) : STEP_NEXT;
    if (s != STEP_NEXT)
        return s;
    if (cr_uses_pdptes(c->cr0, value, c->efer) && (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && pdpte_load(sv, c->cr3))
        return cr_gp(sv);
    c->cr4 = value;
    mode_update(sv);
    if (is_flush)
        tlb_flush(sv);
    return STEP_NEXT;
}

static enum step cr8_write(struct soft_vcpu *sv, uint64_t value)
{
    if (value > 15)
        return cr_gp(sv);
    fp_put(sv);
    vcpu_cr8_set(&sv->v, value);
    return STEP_NEXT;
}

static uint64_t cr_read(struct soft_vcpu *sv, unsigned cr);

static enum step cr_write(struct soft_vcpu *sv, unsigned cr, uint64_t value)
{
    if (cr != 2 && watch_is_on(sv, WATCH_CR)) {
        enum step s = watch_insn(sv, WATCH_CR, cr, cr_read(sv, cr), &value);
        if (s != STEP_NEXT)
            return s;
    }
    switch (cr) {
    case 0:
        return cr0_write(sv, value);
    case 2:
        sv->v.cpu.cr2 = value;
        return STEP_NEXT;
    case 3:
        return cr3_write(sv, value);
    case 4:
        return cr4_write(sv, value);
    default:
        return cr8_write(sv, value);
    }
}

static uint64_t cr_read(struct soft_vcpu *sv, unsigned cr)
{
    switch (cr) {
    case 0:
        return sv->v.cpu.cr0;
    case 2:
        return sv->v.cpu.cr2;
    case 3:
        return sv->v.cpu.cr3;
    case 4:
        return sv->v.cpu.cr4;
    default:
        fp_put(sv);
        return vcpu_cr8_get(&sv->v);
    }
}

enum step help_mov_cr(struct soft_vcpu *sv, const struct insn *in)
{
    bool is_write = in->opnd[0].kind == OPND_CR;
    unsigned cr = in->opnd[is_write ? 0 : 1].reg, gpr = in->opnd[is_write ? 1 : 0].reg, bytes = in->mode_bits == 64 ? 8 : 4;
    if (cr == 1 || (cr > 4 && cr != 8) || (cr == 8 && in->mode_bits != 64))
        return step_fault(sv, VEC_UD);
    if (vcpu_cpl(&sv->v))
        return cr_gp(sv);
    if (is_write)
        return cr_write(sv, cr, misc_truncate(sv->v.cpu.gpr[gpr], bytes));
    gpr_write(sv, gpr, bytes, misc_truncate(cr_read(sv, cr), bytes));
    return STEP_NEXT;
}

enum step help_smsw(struct soft_vcpu *sv, const struct insn *in)
{
    if ((sv->v.cpu.cr4 & CR4_UMIP) && vcpu_cpl(&sv->v))
        return cr_gp(sv);
    if (in->has_mem)
        return mem_write(sv, in, &sv->v.cpu.cr0, 2);
    gpr_write(sv, in->opnd[0].reg, in->op_bytes, misc_truncate(sv->v.cpu.cr0, in->op_bytes));
    return STEP_NEXT;
}

/* LMSW sets PE but never clears it. */
enum step help_lmsw(struct soft_vcpu *sv, const struct insn *in)
{
    if (vcpu_cpl(&sv->v))
        return cr_gp(sv);
    uint64_t value = 0;
    if (in->has_mem) {
        enum step s = mem_read(sv, in, &value, 2);
        if (s != STEP_NEXT)
            return s;
    } else {
        value = sv->v.cpu.gpr[in->opnd[0].reg];
    }
    uint64_t low = CR0_MP | CR0_EM | CR0_TS;
    return cr_write(sv, 0, (sv->v.cpu.cr0 & ~low) | (value & (low | CR0_PE)));
}

enum step help_clts(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (vcpu_cpl(&sv->v))
        return cr_gp(sv);
    if (watch_is_on(sv, WATCH_CR))
        return cr_write(sv, 0, sv->v.cpu.cr0 & ~(uint64_t)CR0_TS);
    sv->v.cpu.cr0 &= ~(uint64_t)CR0_TS;
    mode_update(sv);
    return STEP_NEXT;
}

static enum step dr_write(struct soft_vcpu *sv, unsigned dr, uint64_t value)
{
    struct cpu_state *c = &sv->v.cpu;
    if (dr < 4) {
        c->dr[dr] = value;
    } else {
        if (value >> 32)
            return cr_gp(sv);
        if (dr == 6)
            c->dr6 = (value & DR6_WRITABLE) | DR6_FIXED_1;
        else
            c->dr7 = (value & DR7_WRITABLE) | DR7_FIXED_1;
    }
    mode_update(sv);
    return STEP_NEXT;
}

/* DR4 and DR5 are names of DR6 and DR7 unless CR4.DE is set. With DR7.GD any access raises #DB before it happens. */
enum step help_mov_dr(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *c = &sv->v.cpu;
    bool is_write = in->opnd[0].kind == OPND_DR;
    unsigned dr = in->opnd[is_write ? 0 : 1].reg, gpr = in->opnd[is_write ? 1 : 0].reg, bytes = in->mode_bits == 64 ? 8 : 4;
    if (dr > 7 || ((dr == 4 || dr == 5) && (c->cr4 & CR4_DE)))
        return step_fault(sv, VEC_UD);
    if (vcpu_cpl(&sv->v))
        return cr_gp(sv);
    if (c->dr7 & DR7_GD) {
        sv->fault = (struct fault){ .vector = VEC_DB, .addr = DR6_BD };
        return STEP_FAULT;
    }
    if (dr == 4 || dr == 5)
        dr += 2;
    if (is_write)
        return dr_write(sv, dr, misc_truncate(c->gpr[gpr], bytes));
    uint64_t value = dr < 4 ? c->dr[dr] : dr == 6 ? c->dr6 : c->dr7;
    gpr_write(sv, gpr, bytes, misc_truncate(value, bytes));
    return STEP_NEXT;
}

/* SDM vol. 1, "Enabling the XSAVE Feature Set and XSAVE-Enabled Features": which combinations exist. */
static bool xcr0_is_valid(const struct soft_vcpu *sv, uint64_t value)
{
    uint64_t supported = misc_cpuid(&sv->v, 0xd, 0, 0) | (uint64_t)misc_cpuid(&sv->v, 0xd, 0, 3) << 32;
    const uint64_t mpx = 3u << 3, amx = 3u << 17;
    if (!(value & XCR0_X87) || (value & ~supported))
        return false;
    if ((value & XCR0_AVX) && !(value & XCR0_SSE))
        return false;
    if ((value & XCR0_AVX512) && ((value & XCR0_AVX512) != XCR0_AVX512 || !(value & XCR0_AVX)))
        return false;
    return ((value & mpx) == 0 || (value & mpx) == mpx) && ((value & amx) == 0 || (value & amx) == amx);
}

enum step help_xsetbv(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (!(sv->v.cpu.cr4 & CR4_OSXSAVE))
        return step_fault(sv, VEC_UD);
    uint64_t value = misc_edx_eax(sv);
    if (vcpu_cpl(&sv->v))
        return cr_gp(sv);
    enum step s = watch_insn(sv, WATCH_XSETBV, (uint32_t)sv->v.cpu.gpr[GPR_RCX], sv->v.cpu.xcr0, &value);
    if (s != STEP_NEXT)
        return s;
    if ((uint32_t)sv->v.cpu.gpr[GPR_RCX] != 0 || !xcr0_is_valid(sv, value))
        return cr_gp(sv);
    sv->v.cpu.xcr0 = value;
    mode_update(sv);
    return STEP_NEXT;
}

enum step help_xgetbv(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (!(sv->v.cpu.cr4 & CR4_OSXSAVE))
        return step_fault(sv, VEC_UD);
    uint32_t index = (uint32_t)sv->v.cpu.gpr[GPR_RCX];
    if (index == 0) {
        misc_edx_eax_set(sv, sv->v.cpu.xcr0);
        return STEP_NEXT;
    }
    if (index != 1 || !(misc_cpuid(&sv->v, 0xd, 1, 0) & 4))
        return cr_gp(sv);
    fp_put(sv);
    uint64_t in_use;
    light_copy(&in_use, &sv->v.cpu.xsave[512], 8);
    misc_edx_eax_set(sv, in_use & sv->v.cpu.xcr0);
    return STEP_NEXT;
}

/* No limit, type or canonical check: outside of those the instruction does nothing. */
enum step help_invlpg(struct soft_vcpu *sv, const struct insn *in)
{
    if (vcpu_cpl(&sv->v))
        return cr_gp(sv);
    uint64_t ea = insn_ea(sv, in);
    gva_t gva = ea;
    if (in->mode_bits != 64)
        gva = (uint32_t)(ea + sv->v.cpu.seg[in->mem.seg].base);
    else if (in->mem.seg == SEG_FS || in->mem.seg == SEG_GS)
        gva = ea + sv->v.cpu.seg[in->mem.seg].base;
    enum step s = flush_watch(sv, WATCH_FLUSH_INVLPG, 0, gva);
    if (s != STEP_NEXT)
        return s;
    vcpu_count(&sv->v, STAT_INVLPGS);
    if (misc_is_canonical(sv, gva))
        tlb_flush_page(sv, gva);
    return STEP_NEXT;
}

enum step help_invpcid(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *c = &sv->v.cpu;
    if (vcpu_cpl(&sv->v))
        return cr_gp(sv);
    uint64_t type = misc_truncate(c->gpr[in->opnd[0].reg], in->mode_bits == 64 ? 8 : 4), desc[2];
    enum step s = mem_read(sv, in, desc, sizeof(desc));
    if (s != STEP_NEXT)
        return s;
    if (type > 3 || desc[0] >> 12)
        return cr_gp(sv);
    if (type < 2 && !(c->cr4 & CR4_PCIDE) && desc[0])
        return cr_gp(sv);
    if (type == 0 && !misc_is_canonical(sv, desc[1]))
        return cr_gp(sv);
    s = flush_watch(sv, WATCH_FLUSH_INVPCID, type | desc[0] << 16, desc[1]);
    if (s != STEP_NEXT)
        return s;
    bool is_current = desc[0] == (c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0);
    if (type == 2)
        tlb_flush(sv);
    else if (type == 3)
        asid_drop_all(sv);
    else
        asid_drop(sv, (unsigned)desc[0]);
    if (type == 0 && is_current)
        tlb_flush_page(sv, desc[1]);
    else if (type == 3 || (type == 1 && is_current))
        tlb_flush_local(sv);
    return STEP_NEXT;
}

/* The host's caches are coherent: nothing to do but the privilege check. */
enum step help_wbinvd(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return vcpu_cpl(&sv->v) ? cr_gp(sv) : STEP_NEXT;
}

/* The run loop blocks instead of leaving when the VM has its LAPICs in process. */
enum step help_hlt(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (vcpu_cpl(&sv->v))
        return cr_gp(sv);
    uint64_t value = 0;
    enum step s = watch_insn(sv, WATCH_VCPU, WATCH_VCPU_HALTED, 0, &value);
    if (s != STEP_NEXT)
        return s;
    vcpu_count_exit(&sv->v, STAT_HALT_EXITS);
    sv->v.exit.kind = EXIT_HLT;
    return STEP_NEXT_EXIT;
}

static bool cr_has_monitor(const struct soft_vcpu *sv)
{
    return (misc_cpuid(&sv->v, 1, 0, 2) >> 3 & 1) && vcpu_cpl(&sv->v) == 0;
}

/* No address is watched: MWAIT below returns at once, which the architecture allows at any time. */
enum step help_monitor(struct soft_vcpu *sv, const struct insn *in)
{
    if (!cr_has_monitor(sv))
        return step_fault(sv, VEC_UD);
    if ((uint32_t)sv->v.cpu.gpr[GPR_RCX])
        return cr_gp(sv);
    uint8_t probe;
    return seg_read(sv, misc_data_seg(in), misc_truncate(sv->v.cpu.gpr[GPR_RAX], in->addr_bytes), &probe, 1);
}

enum step help_mwait(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (!cr_has_monitor(sv))
        return step_fault(sv, VEC_UD);
    return (uint32_t)sv->v.cpu.gpr[GPR_RCX] & ~1u ? cr_gp(sv) : STEP_NEXT;
}
