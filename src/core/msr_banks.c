/* SPDX-License-Identifier: MIT */
/*
 * MSRs that come in banks: MTRRs (SDM vol. 3A, "Memory Cache Control") and machine check (vol. 3B, "Machine-Check Architecture"). Called by the table in
 * msr.c only, but for vcpu_mce_setup. The engine's memory is always write-back: MTRRs are kept and checked, nothing more.
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
