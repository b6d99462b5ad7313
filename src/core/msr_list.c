/* SPDX-License-Identifier: MIT */
/*
 * The MSRs that clients list, save and restore, and the values of those that describe features. Everything here reads by vcpu_msr_read and is accepted back
 * by vcpu_msr_write with the value read: clients abort otherwise. Pure.
 */
#include <errno.h>

#include "base/host.h"
#include "core/msr_priv.h"
#include "core/vcpu.h"
#include "x86/regs.h"

#define BIT(n) (1ull << (n))

/*
 * SDM vol. 4, IA32_ARCH_CAPABILITIES. All the "not affected" bits: a guest's own user and kernel share our host process, so its mitigations would cost a lot
 * (KPTI: a TLB flush per system call) and protect from nothing. RDCL_NO SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO
 * PBRSB_NO GDS_NO RFDS_NO ITS_NO.
 */
#define ARCH_CAPABILITIES_OFFERED \
    (BIT(0) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(20) | BIT(24) | BIT(26) | BIT(27) | BIT(62))

static const uint32_t saved[] = {
    MSR_TSC,
    0x11, /* paravirtual clock, first form */
    0x12,
    MSR_APIC_BASE,
    0x34, /* SMI_COUNT */
    MSR_FEATURE_CONTROL,
    MSR_TSC_ADJUST,
    MSR_BIOS_SIGN_ID,
    0x9e, /* SMBASE */
    0xce, /* PLATFORM_INFO */
    MSR_ARCH_CAPABILITIES,
    0x140, /* MISC_FEATURES_ENABLES */
    MSR_SYSENTER_CS,
    MSR_SYSENTER_ESP,
    MSR_SYSENTER_EIP,
    MSR_MCG_STATUS,
    MSR_MCG_CTL,
    MSR_MISC_ENABLE,
    MSR_PAT,
    MSR_MTRR_FIX64K,
    MSR_MTRR_FIX16K_80000,
    MSR_MTRR_FIX16K_A0000,
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
    MSR_MTRR_DEF_TYPE,
    MSR_TSC_DEADLINE,
    0x40000000, /* the Microsoft hypervisor's: identity, hypercall page, index, reset, run time */
    0x40000001,
    0x40000002,
    0x40000003,
    0x40000010,
    0x40000020, /* reference time by count and page, frequencies of TSC and APIC */
    0x40000021,
    0x40000022,
    0x40000023,
    0x40000073, /* assist page */
    0x40000100, /* crash: parameters, control */
    0x40000101,
    0x40000102,
    0x40000103,
    0x40000104,
    0x40000105,
    0x4b564d00, /* KVM: wall clock, system time, steal time, end of interrupt, poll control */
    0x4b564d01,
    0x4b564d03,
    0x4b564d04,
    0x4b564d05,
    MSR_EFER,
    MSR_STAR,
    MSR_LSTAR,
    MSR_CSTAR,
    MSR_SFMASK,
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    MSR_TSC_AUX,
};

static const uint32_t features[] = { MSR_BIOS_SIGN_ID, MSR_ARCH_CAPABILITIES };

static unsigned copy(const uint32_t *from, unsigned n, uint32_t *out, unsigned max)
{
    for (unsigned i = 0; i < n && i < max; i++)
        out[i] = from[i];
    return n;
}

unsigned msr_index_list(uint32_t *out, unsigned max)
{
    const unsigned n = sizeof saved / sizeof saved[0];
    copy(saved, n, out, max);
    for (unsigned i = 0; i < 2 * MTRR_VAR_COUNT && n + i < max; i++)
        out[n + i] = MSR_MTRR_PHYSBASE0 + i;
    return n + 2 * MTRR_VAR_COUNT;
}

unsigned msr_feature_list(uint32_t *out, unsigned max)
{
    return copy(features, sizeof features / sizeof features[0], out, max);
}

int msr_feature_read(uint32_t index, uint64_t *value)
{
    switch (index) {
    case MSR_BIOS_SIGN_ID: /* revisions that no kernel's list of bad microcode reaches */
        *value = host_facts()->is_amd ? 0x01000065 : 0x100000000ull;
        return 0;
    case MSR_ARCH_CAPABILITIES:
        *value = ARCH_CAPABILITIES_OFFERED;
        return 0;
    default:
        return -ENOENT;
    }
}
