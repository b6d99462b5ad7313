/* SPDX-License-Identifier: MIT */
/*
 * Model-specific registers: a sorted table of ranges with their checks (SDM vol. 4).
 * Called by the RDMSR/WRMSR helpers and by fronts, by the vCPU's thread or the holder of its lock. What chips own is handed to them.
 * MTRRs and machine check are in msr_banks.c, what is listed for clients in msr_list.c.
 */
#include <errno.h>
#include <string.h>

#include "base/host.h"
#include "base/log.h"
#include "core/time.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "core/msr_priv.h"
#include "core/vm_priv.h"

#define BIT(n) (1ull << (n))

struct msr_row {
    uint32_t first, last;
    uint16_t field; /* offset in struct cpu_state of the register at `first`, 0 if it has none (rip is no MSR, gpr is at 0) */
    enum msr_check { CHECK_NONE, CHECK_CANONICAL, CHECK_32, CHECK_PAT, CHECK_RO } check;
    int (*get)(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host);
    int (*set)(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);
};

/* The widest form the guest's CPU knows: CR4.LA57 may be changed after the base was written. */
static bool is_canonical(const struct vcpu *v, uint64_t value, bool is_host)
{
    unsigned bits = is_host || vcpu_cpuid_has(v, 7, 0, 2, 16) ? 57 : 48;
    return (uint64_t)((int64_t)(value << (64 - bits)) >> (64 - bits)) == value;
}

static bool is_pat(uint64_t value)
{
    for (int i = 0; i < 64; i += 8) {
        uint8_t type = (uint8_t)(value >> i);
        if (!msr_is_memory_type(type) && type != 7)
            return false;
    }
    return true;
}

static bool is_amd(const struct vcpu *v)
{
    uint32_t r[4];
    vcpu_cpuid((struct vcpu *)v, 0, 0, r);
    return r[1] == 0x68747541 || r[1] == 0x6f677948;
}

/* ---- chips ---- */

static bool is_x2apic(uint32_t index)
{
    return index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST;
}

static int chip_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    const struct chip_ops *chip = v->vm->chip;
    int error = chip && chip->msr_read ? chip->msr_read(v, index, value, is_host) : -ENOENT;
    if (error == -ENOENT && is_host && !v->lapic && !is_x2apic(index)) {
        *value = 0; /* listed for every VM, so it reads and writes back even without chips */
        return 0;
    }
    return error;
}

static int chip_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    const struct chip_ops *chip = v->vm->chip;
    int error = chip && chip->msr_write ? chip->msr_write(v, index, value, is_host) : -ENOENT;
    return error == -ENOENT && is_host && !v->lapic && !is_x2apic(index) && value == 0 ? 0 : error;
}

static int apic_base_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (v->lapic)
        return v->vm->chip->apic_base_set(v, value);
    uint64_t valid = APIC_BASE_BSP | APIC_BASE_ENABLE | ((BIT(cpuid_phys_bits(v)) - 1) & ~0xfffull);
    if ((value & ~valid) && !is_host)
        return -EINVAL;
    v->cpu.apic_base = value;
    return 0;
}

/* ---- time ---- */

static int tsc_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)index, (void)is_host;
    *value = vcpu_tsc(v);
    return 0;
}

static int tsc_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (is_host)
        vcpu_set_tsc_host(v, value);
    else
        vcpu_set_tsc_guest(v, value);
    return 0;
}

static int tsc_adjust_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (!is_host) /* a client restores the offset through the TSC itself */
        v->cpu.tsc_offset += value - v->cpu.tsc_adjust;
    v->cpu.tsc_adjust = value;
    return 0;
}

static int tsc_aux_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)index;
    if (!is_host && !vcpu_cpuid_has(v, 0x80000001, 0, 3, 27) && !vcpu_cpuid_has(v, 7, 0, 2, 22))
        return -ENOENT;
    *value = v->cpu.tsc_aux;
    return 0;
}

static int tsc_aux_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    uint64_t old;
    int error = tsc_aux_get(v, index, &old, is_host);
    if (!error && value >> 32)
        error = -EINVAL;
    if (!error)
        v->cpu.tsc_aux = value;
    return error;
}

/* ---- mode ---- */

static int efer_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    struct cpu_state *c = &v->cpu;
    uint64_t valid = EFER_KNOWN;
    if (!is_host) {
        valid = EFER_LMA;
        valid |= vcpu_cpuid_has(v, 0x80000001, 0, 3, 11) ? EFER_SCE : 0;
        valid |= vcpu_cpuid_has(v, 0x80000001, 0, 3, 20) ? EFER_NXE : 0;
        valid |= vcpu_cpuid_has(v, 0x80000001, 0, 3, 25) ? EFER_FFXSR : 0;
        valid |= vcpu_cpuid_has(v, 0x80000001, 0, 3, 29) ? EFER_LME : 0;
        if ((c->cr0 & CR0_PG) && ((c->efer ^ value) & EFER_LME))
            return -EINVAL;
    }
    if (value & ~valid)
        return -EINVAL;
    c->efer = (value & ~(uint64_t)EFER_LMA) | (c->efer & EFER_LMA); /* LMA follows CR0.PG, a write does not move it */
    return 0;
}

static int seg_base_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)is_host;
    *value = v->cpu.seg[index == MSR_FS_BASE ? SEG_FS : SEG_GS].base;
    return 0;
}

static int seg_base_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    if (!is_canonical(v, value, is_host))
        return -EINVAL;
    v->cpu.seg[index == MSR_FS_BASE ? SEG_FS : SEG_GS].base = value;
    return 0;
}

static int debugctl_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)v, (void)is_host;
    if (value & ~3ull)
        return -EINVAL;
    if (value)
        refusal_note("debugctl", value); /* LBR, BTF: taken as not there, reads give 0 */
    (void)index;
    return 0;
}

static int spec_ctrl_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)index;
    if (!is_host && !vcpu_cpuid_has(v, 7, 0, 3, 26))
        return -ENOENT;
    *value = v->cpu.spec_ctrl;
    return 0;
}

static int spec_ctrl_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    uint64_t old;
    int error = spec_ctrl_get(v, index, &old, is_host);
    if (!error && (value & ~7ull))
        error = -EINVAL;
    if (!error)
        v->cpu.spec_ctrl = value;
    return error;
}

static int pred_cmd_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (!is_host && !vcpu_cpuid_has(v, 7, 0, 3, 26))
        return -ENOENT;
    return value & ~1ull ? -EINVAL : 0;
}

static int write_only_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)v, (void)index;
    *value = 0;
    return is_host ? 0 : -EINVAL;
}

static int arch_capabilities_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)index;
    if (!is_host && !vcpu_cpuid_has(v, 7, 0, 3, 29))
        return -ENOENT;
    *value = v->cpu.arch_capabilities;
    return 0;
}

static int arch_capabilities_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (!is_host)
        return -EINVAL;
    v->cpu.arch_capabilities = value;
    return 0;
}

static int platform_info_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)index;
    if (!is_host && v->vm->is_platform_info_hidden)
        return -EINVAL;
    *value = v->cpu.platform_info;
    return 0;
}

static int platform_info_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (!is_host || (value & BIT(31))) /* CPUID faulting is not there */
        return -EINVAL;
    v->cpu.platform_info = value;
    return 0;
}

static int bios_sign_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (is_host)
        v->cpu.bios_sign_id = value; /* the guest's write before it reads the version is allowed and does nothing */
    return 0;
}

static int feature_control_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if ((value & ~1ull) || (!is_host && (v->cpu.feature_control & 1)))
        return -EINVAL;
    v->cpu.feature_control = value;
    return 0;
}

static int smbase_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)index;
    *value = v->cpu.smbase;
    return is_host || v->cpu.in_smm ? 0 : -ENOENT;
}

static int smbase_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (!is_host)
        return -ENOENT;
    v->cpu.smbase = value;
    return 0;
}

static int smi_count_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)index;
    if (!is_host)
        return -EINVAL;
    v->cpu.smi_count = value;
    return 0;
}

/* ---- constants ---- */

/* Read as a fixed value; a client may write that value back, and zero where a real machine would take writes. */
static int constant_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)v, (void)is_host;
    switch (index) {
    case 0xcd: /* FSB_FREQ: 100 MHz, as nothing else may be assumed */
        *value = 3;
        break;
    case MSR_MTRR_CAP: /* WC, fixed ranges, count */
        *value = 0x500 | MTRR_VAR_COUNT;
        break;
    case 0x198: /* PERF_STATUS: TSC in 100 MHz units with a ratio that does not change */
        *value = 1000ull | 4ull << 40;
        break;
    default:
        *value = 0;
    }
    return 0;
}

static int constant_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    uint64_t fixed = 0;
    constant_get(v, index, &fixed, is_host);
    return value == fixed ? 0 : -EINVAL;
}

static int host_zero_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    (void)v, (void)index;
    *value = 0;
    return is_host ? 0 : -ENOENT;
}

static int host_zero_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    (void)v, (void)index;
    return !is_host ? -ENOENT : value ? -EINVAL : 0;
}

/* AMD's: firmware and kernels touch them without asking CPUID. Writes change nothing. */
static int amd_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    if (!is_host && !is_amd(v))
        return -ENOENT;
    /* DE_CFG: LFENCE serializes. HWCR: the TSC counts at the P0 frequency. */
    *value = index == 0xc0011029 ? BIT(1) : index == 0xc0010015 ? BIT(24) : 0;
    return 0;
}

static int amd_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    if (!is_host && !is_amd(v))
        return -ENOENT;
    if (value)
        refusal_note("wrmsr", index);
    return 0;
}

#define FIELD(name) offsetof(struct cpu_state, name)
#define ONE(index) .first = (index), .last = (index)

/* Sorted by index: looked up by bisection. */
static const struct msr_row rows[] = {
    { ONE(MSR_TSC), .get = tsc_get, .set = tsc_set },
    { 0x11, 0x12, .get = chip_get, .set = chip_set }, /* paravirtual clock, first form */
    { ONE(MSR_PLATFORM_ID), .get = constant_get, .set = constant_set },
    { ONE(MSR_APIC_BASE), .field = FIELD(apic_base), .set = apic_base_set },
    { ONE(0x2a), .get = constant_get, .set = constant_set }, /* EBL_CR_POWERON */
    { ONE(0x34), .field = FIELD(smi_count), .set = smi_count_set },
    { ONE(MSR_FEATURE_CONTROL), .field = FIELD(feature_control), .set = feature_control_set },
    { ONE(MSR_TSC_ADJUST), .field = FIELD(tsc_adjust), .set = tsc_adjust_set },
    { ONE(MSR_SPEC_CTRL), .get = spec_ctrl_get, .set = spec_ctrl_set },
    { ONE(MSR_PRED_CMD), .get = write_only_get, .set = pred_cmd_set },
    { ONE(MSR_BIOS_SIGN_ID), .field = FIELD(bios_sign_id), .set = bios_sign_set },
    { ONE(0x9e), .get = smbase_get, .set = smbase_set },
    { ONE(0xcd), .get = constant_get, .set = constant_set },
    { ONE(0xce), .get = platform_info_get, .set = platform_info_set },
    { ONE(MSR_MTRR_CAP), .get = constant_get, .set = constant_set },
    { ONE(MSR_ARCH_CAPABILITIES), .get = arch_capabilities_get, .set = arch_capabilities_set },
    { ONE(0x140), .get = constant_get, .set = constant_set }, /* MISC_FEATURES_ENABLES: no CPUID faulting */
    { ONE(MSR_SYSENTER_CS), .field = FIELD(sysenter_cs), .check = CHECK_32 },
    { ONE(MSR_SYSENTER_ESP), .field = FIELD(sysenter_esp), .check = CHECK_CANONICAL },
    { ONE(MSR_SYSENTER_EIP), .field = FIELD(sysenter_eip), .check = CHECK_CANONICAL },
    { ONE(MSR_MCG_CAP), .field = FIELD(mcg_cap), .check = CHECK_RO },
    { ONE(MSR_MCG_STATUS), .field = FIELD(mcg_status) },
    { ONE(MSR_MCG_CTL), .get = msr_mcg_ctl_get, .set = msr_mcg_ctl_set },
    { ONE(0x198), .get = constant_get, .set = constant_set },
    { ONE(MSR_MISC_ENABLE), .field = FIELD(misc_enable) },
    { ONE(MSR_DEBUGCTL), .get = constant_get, .set = debugctl_set },
    { MSR_MTRR_PHYSBASE0, MSR_MTRR_PHYSBASE0 + 2 * MTRR_VAR_COUNT - 1, .field = FIELD(mtrr_var), .set = msr_mtrr_var_set },
    { ONE(MSR_MTRR_FIX64K), .get = msr_mtrr_fixed_get, .set = msr_mtrr_fixed_set },
    { MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000, .get = msr_mtrr_fixed_get, .set = msr_mtrr_fixed_set },
    { MSR_MTRR_FIX4K_C0000, MSR_MTRR_FIX4K_C0000 + 7, .get = msr_mtrr_fixed_get, .set = msr_mtrr_fixed_set },
    { ONE(MSR_PAT), .field = FIELD(pat), .check = CHECK_PAT },
    { ONE(MSR_MTRR_DEF_TYPE), .field = FIELD(mtrr_def_type), .set = msr_mtrr_def_type_set },
    { ONE(0x345), .get = host_zero_get, .set = host_zero_set }, /* PERF_CAPABILITIES: no PMU */
    { MSR_MC0_CTL, MSR_MC0_CTL + 4 * MCE_BANKS_MAX - 1, .get = msr_mc_bank_get, .set = msr_mc_bank_set },
    { ONE(MSR_TSC_DEADLINE), .get = chip_get, .set = chip_set },
    { MSR_X2APIC_FIRST, MSR_X2APIC_LAST, .get = chip_get, .set = chip_set },
    { 0x40000000, 0x40000003, .get = chip_get, .set = chip_set }, /* the Microsoft hypervisor's: identity, hypercall page, index, reset */
    { ONE(0x40000010), .get = chip_get, .set = chip_set },        /* run time */
    { 0x40000020, 0x40000023, .get = chip_get, .set = chip_set }, /* reference time, frequencies */
    { 0x40000070, 0x40000073, .get = chip_get, .set = chip_set }, /* APIC, assist page */
    { 0x40000100, 0x40000105, .get = chip_get, .set = chip_set }, /* crash */
    { 0x4b564d00, 0x4b564d08, .get = chip_get, .set = chip_set }, /* KVM's paravirtual MSRs */
    { ONE(MSR_EFER), .field = FIELD(efer), .set = efer_set },
    { ONE(MSR_STAR), .field = FIELD(star) },
    { ONE(MSR_LSTAR), .field = FIELD(lstar), .check = CHECK_CANONICAL },
    { ONE(MSR_CSTAR), .field = FIELD(cstar), .check = CHECK_CANONICAL },
    { ONE(MSR_SFMASK), .field = FIELD(sfmask), .check = CHECK_32 },
    { MSR_FS_BASE, MSR_GS_BASE, .get = seg_base_get, .set = seg_base_set },
    { ONE(MSR_KERNEL_GS_BASE), .field = FIELD(kernel_gs_base), .check = CHECK_CANONICAL },
    { ONE(MSR_TSC_AUX), .get = tsc_aux_get, .set = tsc_aux_set },
    { ONE(0xc0010010), .get = amd_get, .set = amd_set },        /* SYSCFG */
    { ONE(0xc0010015), .get = amd_get, .set = amd_set },        /* HWCR */
    { ONE(0xc001001f), .get = amd_get, .set = amd_set },        /* NB_CFG */
    { ONE(0xc0010055), .get = amd_get, .set = amd_set },        /* INT_PENDING */
    { ONE(0xc0010058), .get = amd_get, .set = amd_set },        /* MMIO configuration base */
    { ONE(0xc0010112), .get = amd_get, .set = amd_set },        /* TSEG base */
    { ONE(0xc0010114), .get = amd_get, .set = amd_set },        /* VM_CR */
    { 0xc0010140, 0xc0010141, .get = amd_get, .set = amd_set }, /* OS-visible workarounds */
    { ONE(0xc0011029), .get = amd_get, .set = amd_set },        /* DE_CFG */
};

static const struct msr_row *find(uint32_t index)
{
    unsigned lo = 0, hi = sizeof rows / sizeof rows[0];
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (index < rows[mid].first)
            hi = mid;
        else if (index > rows[mid].last)
            lo = mid + 1;
        else
            return &rows[mid];
    }
    return NULL;
}

bool msr_table_is_sorted(void)
{
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].first > rows[i].last || (i && rows[i].first <= rows[i - 1].last))
            return false;
    }
    return true;
}

static uint64_t *field_of(struct vcpu *v, const struct msr_row *row, uint32_t index)
{
    return (uint64_t *)((char *)&v->cpu + row->field) + (index - row->first);
}

int vcpu_msr_read(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    const struct msr_row *row = find(index);
    if (!row) {
        if (!is_host)
            refusal_note("rdmsr", index);
        return -ENOENT;
    }
    uint64_t result;
    int error = 0;
    if (row->get)
        error = row->get(v, index, &result, is_host);
    else
        result = *field_of(v, row, index);
    if (!error)
        *value = result;
    return error;
}

static int write_field(struct vcpu *v, const struct msr_row *row, uint32_t index, uint64_t value, bool is_host)
{
    uint64_t *field = field_of(v, row, index);
    bool is_valid = true;
    switch (row->check) {
    case CHECK_NONE:
        break;
    case CHECK_CANONICAL:
        is_valid = is_canonical(v, value, is_host);
        break;
    case CHECK_32:
        is_valid = is_host || !(value >> 32);
        break;
    case CHECK_PAT:
        is_valid = is_pat(value);
        break;
    case CHECK_RO:
        is_valid = is_host && value == *field;
        break;
    }
    if (!is_valid)
        return -EINVAL;
    *field = value;
    return 0;
}

int vcpu_msr_write(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    const struct msr_row *row = find(index);
    if (!row) {
        if (!is_host)
            refusal_note("wrmsr", index);
        return -ENOENT;
    }
    return row->set ? row->set(v, index, value, is_host) : write_field(v, row, index, value, is_host);
}

void msr_reset(struct vcpu *v)
{
    struct cpu_state *c = &v->cpu;
    c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = 0;
    c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
    c->pat = 0x0007040600070406;
    c->tsc_aux = c->spec_ctrl = c->debugctl = c->feature_control = c->platform_info = 0;
    c->misc_enable = BIT(0) | BIT(11) | BIT(12); /* fast strings; no BTS, no PEBS */
    c->mtrr_def_type = 0;
    memset(c->mtrr_var, 0, sizeof c->mtrr_var);
    memset(c->mtrr_fixed, 0, sizeof c->mtrr_fixed);
    memset(c->mc_bank, 0, sizeof c->mc_bank);
    c->mcg_status = 0;
    /* What the client set up stays; before that, as many banks as there can be. */
    vcpu_mce_setup(v, c->mcg_cap ? c->mcg_cap : MCE_BANKS_MAX);
    c->smbase = 0x30000;
    msr_feature_read(MSR_BIOS_SIGN_ID, &c->bios_sign_id);
    msr_feature_read(MSR_ARCH_CAPABILITIES, &c->arch_capabilities);
}
