/* SPDX-License-Identifier: MIT */
/*
 * MSRs that come in banks: MTRRs (SDM vol. 3A, "Memory Cache Control") and machine check (vol. 3B, "Machine-Check Architecture"). Called by the table in
 * msr.c only, but for vcpu_mce_setup and vcpu_mtrr_type. The engine's memory is always write-back: MTRRs are kept and checked, nothing more.
 */
#include <errno.h>

#include "core/msr_priv.h"
#include "core/vcpu.h"
#include "core/vm_priv.h"

#define BIT(n) (1ull << (n))
#define MTRR_FIXED_64K 0
#define MTRR_FIXED_16K 1
#define MTRR_FIXED_4K 3

bool msr_is_memory_type(uint8_t type)
{
    return type == 0 || type == 1 || type == 4 || type == 5 || type == 6;
}

/* ---- memory types ---- */

static uint64_t *mtrr_fixed(struct vcpu *v, uint32_t index)
{
    if (index == MSR_MTRR_FIX64K)
        return &v->cpu.mtrr_fixed[MTRR_FIXED_64K];
    if (index <= MSR_MTRR_FIX16K_A0000)
        return &v->cpu.mtrr_fixed[MTRR_FIXED_16K + index - MSR_MTRR_FIX16K_80000];
    return &v->cpu.mtrr_fixed[MTRR_FIXED_4K + index - MSR_MTRR_FIX4K_C0000];
}

int msr_mtrr_fixed_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)is_host;
    *value = *mtrr_fixed(v, index);
    return 0;
}

int msr_mtrr_fixed_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)is_host;
    for (int i = 0; i < 64; i += 8) {
        if (!msr_is_memory_type((uint8_t)(value >> i)))
            return -EINVAL;
    }
    *mtrr_fixed(v, index) = value;
    return 0;
}

int msr_mtrr_var_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    bool is_mask = index & 1;
    /* A client may restore what a CPU with more address bits had; the guest may not go beyond its own. */
    uint64_t valid = (is_host ? BIT(52) - 1 : BIT(cpuid_phys_bits(v)) - 1) & ~0xfffull;
    valid |= is_mask ? BIT(11) : 0xff;
    if ((value & ~valid) || (!is_mask && !msr_is_memory_type((uint8_t)value)))
        return -EINVAL;
    v->cpu.mtrr_var[index - MSR_MTRR_PHYSBASE0] = value;
    return 0;
}

int msr_mtrr_def_type_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index, (void)is_host;
    if ((value & ~0xcffull) || !msr_is_memory_type((uint8_t)value))
        return -EINVAL;
    v->cpu.mtrr_def_type = value;
    return 0;
}

#define MTRR_DEF_FE BIT(10)
#define MTRR_DEF_E BIT(11)
#define MTRR_MASK_VALID BIT(11)
#define TYPE_UC 0u
#define TYPE_WT 4u
#define TYPE_WB 6u
#define TYPE_NONE 0xffu

static uint8_t fixed_type(const struct cpu_state *c, uint32_t gpa)
{
    unsigned n = gpa < 0x80000 ? gpa >> 16 : gpa < 0xc0000 ? 8 + ((gpa - 0x80000) >> 14) : 24 + ((gpa - 0xc0000) >> 12);
    return (uint8_t)(c->mtrr_fixed[n / 8] >> (n % 8 * 8));
}

/* Of two ranges that overlap; what has no rule is as if uncached. */
static uint8_t combined_type(uint8_t a, uint8_t b)
{
    if (a == b || a == TYPE_NONE)
        return b;
    return (a == TYPE_WT && b == TYPE_WB) || (a == TYPE_WB && b == TYPE_WT) ? TYPE_WT : TYPE_UC;
}

uint8_t vcpu_mtrr_type(const struct vcpu *v, gpa_t gpa)
{
    const struct cpu_state *c = &v->cpu;
    uint8_t type = TYPE_NONE;
    if (!(c->mtrr_def_type & MTRR_DEF_E))
        return TYPE_UC;
    if ((c->mtrr_def_type & MTRR_DEF_FE) && gpa < 0x100000)
        return fixed_type(c, (uint32_t)gpa);
    for (unsigned i = 0; i < MTRR_VAR_COUNT; i++) {
        uint64_t base = c->mtrr_var[2 * i], mask = c->mtrr_var[2 * i + 1], compared = mask & ~0xfffull;
        if ((mask & MTRR_MASK_VALID) && (gpa & compared) == (base & compared))
            type = combined_type(type, (uint8_t)base);
    }
    return type == TYPE_NONE ? (uint8_t)c->mtrr_def_type : type;
}

/* ---- machine check ---- */

static unsigned mc_banks(const struct vcpu *v)
{
    return v->cpu.mcg_cap & 0xff;
}

int msr_mcg_ctl_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)index;
    if (!(v->cpu.mcg_cap & BIT(8)) && !is_host)
        return -ENOENT;
    *value = v->cpu.mcg_ctl;
    return 0;
}

int msr_mcg_ctl_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (!(v->cpu.mcg_cap & BIT(8)) && (!is_host || value))
        return -ENOENT;
    if (value != 0 && value != ~0ull)
        return -EINVAL;
    v->cpu.mcg_ctl = value;
    return 0;
}

int msr_mc_bank_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)is_host;
    if ((index - MSR_MC0_CTL) / 4 >= mc_banks(v))
        return -ENOENT;
    *value = v->cpu.mc_bank[index - MSR_MC0_CTL];
    return 0;
}

int msr_mc_bank_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    unsigned reg = (index - MSR_MC0_CTL) % 4;
    if ((index - MSR_MC0_CTL) / 4 >= mc_banks(v))
        return -ENOENT;
    /* CTL: all or nothing, but for bit 10 that Linux clears in bank 4. STATUS: the guest may only clear it. */
    if (reg == 0 && value != 0 && (value | BIT(10) | 1) != ~0ull)
        return -EINVAL;
    if (reg == 1 && !is_host && value != 0)
        return -EINVAL;
    v->cpu.mc_bank[index - MSR_MC0_CTL] = value;
    return 0;
}

int vcpu_mce_setup(struct vcpu *v, uint64_t mcg_cap)
{
    unsigned banks = mcg_cap & 0xff;
    if (banks == 0 || banks > MCE_BANKS_MAX || (mcg_cap & ~(MCG_CAP_SUPPORTED | 0xff | 0xff0000)))
        return -EINVAL;
    v->cpu.mcg_cap = mcg_cap;
    v->cpu.mcg_ctl = mcg_cap & BIT(8) ? ~0ull : 0;
    for (unsigned i = 0; i < banks; i++)
        v->cpu.mc_bank[4 * i] = ~0ull;
    return 0;
}
