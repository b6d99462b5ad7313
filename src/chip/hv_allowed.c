/* SPDX-License-Identifier: MIT */
/*
 * Which parts of the Microsoft hypervisor's guest interface a guest may use whose client wants its CPUID to decide (TLFS, "Feature and Interface Discovery").
 * Runs on the vCPU's thread.
 */
#include "chip/hv_priv.h"

#define LEAF_FEATURES 0x40000003u
#define LEAF_RECOMMENDATIONS 0x40000004u
#define EAX 0u
#define EDX 3u
#define SPIN_FOR_EVER UINT32_MAX

static const struct msr_right {
    uint32_t first, last;
    uint8_t reg, bit; /* of LEAF_FEATURES */
} rights[] = {
    { 0x40000000, 0x40000001, EAX, 5 },  /* identity, hypercall page */
    { 0x40000002, 0x40000002, EAX, 6 },  /* index */
    { 0x40000003, 0x40000003, EAX, 7 },  /* reset */
    { 0x40000010, 0x40000010, EAX, 0 },  /* run time */
    { 0x40000020, 0x40000020, EAX, 1 },  /* reference time */
    { 0x40000021, 0x40000021, EAX, 9 },  /* its page */
    { 0x40000022, 0x40000023, EAX, 11 }, /* frequencies */
    { 0x40000070, 0x40000073, EAX, 4 },  /* APIC, assist page */
    { 0x40000100, 0x40000105, EDX, 10 }, /* crash */
};

bool hv_allows_msr(const struct vcpu *v, uint32_t index)
{
    if (!v->is_hv_enforced)
        return true;
    for (unsigned i = 0; i < sizeof rights / sizeof rights[0]; i++)
        if (index >= rights[i].first && index <= rights[i].last)
            return vcpu_cpuid_has(v, LEAF_FEATURES, 0, rights[i].reg, rights[i].bit);
    return false;
}

bool hv_allows(const struct vcpu *v, enum hv_recommendation what)
{
    return !v->is_hv_enforced || vcpu_cpuid_has(v, LEAF_RECOMMENDATIONS, 0, EAX, what);
}

/* The leaf says how long a guest should spin before it calls. */
bool hv_allows_spin_wait(const struct vcpu *v)
{
    uint32_t r[4];
    if (!v->is_hv_enforced)
        return true;
    vcpu_cpuid((struct vcpu *)v, LEAF_RECOMMENDATIONS, 0, r);
    return r[1] && r[1] != SPIN_FOR_EVER;
}
