/* SPDX-License-Identifier: MIT */
/*
 * Processor features: the bits by which a client takes them away from a partition, as CPUID knows them. What a VP's CPUID says by default is made from that.
 */
#include <string.h>

#include "base/host.h"
#include "core/cpuid.h"
#include "front/mshv/mshv_priv.h"

enum { EAX, EBX, ECX, EDX };
#define BANK_XSAVE MSHV_FEATURE_BANKS

static const struct feature {
    uint8_t bank, bit;
    uint8_t reg, shift;
    uint32_t leaf, index;
} features[] = {
    { 0, 0, ECX, 0, 1, 0 },
    { 0, 1, ECX, 0, 0x80000001, 0 },
    { 0, 2, ECX, 9, 1, 0 },
    { 0, 3, ECX, 19, 1, 0 },
    { 0, 4, ECX, 20, 1, 0 },
    { 0, 5, ECX, 6, 0x80000001, 0 },
    { 0, 6, ECX, 11, 0x80000001, 0 },
    { 0, 7, ECX, 23, 1, 0 },
    { 0, 8, ECX, 13, 1, 0 },
    { 0, 9, ECX, 4, 0x80000001, 0 },
    { 0, 10, ECX, 5, 0x80000001, 0 },
    { 0, 11, ECX, 7, 0x80000001, 0 },
    { 0, 12, EDX, 22, 0x80000001, 0 },
    { 0, 13, EDX, 31, 0x80000001, 0 },
    { 0, 14, EDX, 30, 0x80000001, 0 },
    { 0, 15, EDX, 26, 0x80000001, 0 },
    { 0, 16, ECX, 25, 1, 0 },
    { 0, 17, ECX, 1, 1, 0 },
    { 0, 18, ECX, 17, 1, 0 },
    { 0, 19, ECX, 16, 0x80000001, 0 },
    { 0, 20, ECX, 29, 1, 0 },
    { 0, 21, ECX, 30, 1, 0 },
    { 0, 22, EBX, 0, 7, 0 },
    { 0, 23, EBX, 7, 7, 0 },
    { 0, 24, EBX, 9, 7, 0 },
    { 0, 25, EBX, 3, 7, 0 },
    { 0, 26, EBX, 8, 7, 0 },
    { 0, 29, ECX, 22, 1, 0 },
    { 0, 32, EBX, 18, 7, 0 },
    { 0, 33, EBX, 19, 7, 0 },
    { 0, 34, ECX, 8, 0x80000001, 0 },
    { 0, 35, EBX, 20, 7, 0 },
    { 0, 38, EDX, 27, 0x80000001, 0 },
    { 0, 39, EBX, 23, 7, 0 },
    { 0, 40, EBX, 24, 7, 0 },
    { 0, 41, EBX, 29, 7, 0 },
    { 0, 43, EBX, 10, 7, 0 },
    { 0, 44, EDX, 26, 7, 0 },
    { 0, 45, EDX, 27, 7, 0 },
    { 0, 46, EBX, 12, 0x80000008, 0 },
    { 0, 49, EDX, 4, 7, 0 },
    { 0, 57, ECX, 22, 7, 0 },
    { 0, 58, ECX, 2, 7, 0 },
    { 1, 1, EDX, 8, 0x80000007, 0 },
    { 1, 3, EBX, 4, 0x80000008, 0 },
    { 1, 4, ECX, 16, 7, 0 },
    { 1, 8, ECX, 7, 7, 0 },
    { 1, 9, EDX, 20, 7, 0 },
    { 1, 17, ECX, 24, 1, 0 },
    { 1, 18, EBX, 1, 7, 0 },
    { BANK_XSAVE, 0, ECX, 26, 1, 0 },
    { BANK_XSAVE, 1, EAX, 0, 0xd, 1 },
    { BANK_XSAVE, 2, ECX, 28, 1, 0 },
    { BANK_XSAVE, 3, EBX, 5, 7, 0 },
    { BANK_XSAVE, 4, ECX, 12, 1, 0 },
    { BANK_XSAVE, 6, EBX, 16, 7, 0 },
    { BANK_XSAVE, 7, EBX, 17, 7, 0 },
    { BANK_XSAVE, 8, EBX, 28, 7, 0 },
    { BANK_XSAVE, 9, EBX, 30, 7, 0 },
    { BANK_XSAVE, 10, EBX, 31, 7, 0 },
    { BANK_XSAVE, 11, EAX, 1, 0xd, 1 },
    { BANK_XSAVE, 12, EAX, 3, 0xd, 1 },
    { BANK_XSAVE, 14, ECX, 12, 7, 0 },
    { BANK_XSAVE, 15, EBX, 21, 7, 0 },
    { BANK_XSAVE, 16, ECX, 1, 7, 0 },
    { BANK_XSAVE, 17, ECX, 6, 7, 0 },
    { BANK_XSAVE, 18, ECX, 11, 7, 0 },
    { BANK_XSAVE, 19, ECX, 8, 7, 0 },
    { BANK_XSAVE, 20, ECX, 9, 7, 0 },
    { BANK_XSAVE, 21, ECX, 14, 7, 0 },
    { BANK_XSAVE, 22, ECX, 10, 7, 0 },
    { BANK_XSAVE, 23, EAX, 5, 7, 1 },
};
#define N_FEATURES (sizeof(features) / sizeof(features[0]))

/* AVX2 and the parts of AVX-512 that the kernel does not enable for clients of the shorter form. */
#define XSAVE_OFF_BY_DEFAULT (1ull << 3 | 0x1full << 6 | 0x1full << 14 | 0x1full << 19)

#define CPUID_LEAF_HYPERVISOR 0x40000000u
#define CPUID_RANGE_MASK 0xf0000000u
#define CPUID_APIC_ID_SHIFT 24

static uint32_t *register_of(struct cpuid_entry *e, unsigned reg)
{
    uint32_t *const regs[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };
    return regs[reg];
}

static void feature_clear(struct cpuid_entry *entry, unsigned n, const struct feature *f)
{
    for (unsigned i = 0; i < n; i++)
        if (entry[i].function == f->leaf && (!(entry[i].flags & 1) || entry[i].index == f->index))
            *register_of(&entry[i], f->reg) &= ~(1u << f->shift);
}

static bool has_feature(const struct cpuid_entry *entry, unsigned n, const struct feature *f)
{
    for (unsigned i = 0; i < n; i++) {
        struct cpuid_entry e = entry[i];
        if (e.function == f->leaf && (!(e.flags & 1) || e.index == f->index))
            return *register_of(&e, f->reg) >> f->shift & 1;
    }
    return false;
}

static void disabled_get(const struct mshv_partition *p, uint64_t bank[MSHV_BANKS])
{
    bank[0] = p ? p->disabled[0] : 0;
    bank[1] = p ? p->disabled[1] : 0;
    bank[BANK_XSAVE] = !p ? 0 : p->flags & MSHV_PT_CPU_AND_XSAVE_FEATURES ? p->disabled_xsave : XSAVE_OFF_BY_DEFAULT;
}

void mshv_features_enabled(const struct mshv_partition *p, uint64_t bank[MSHV_BANKS])
{
    struct cpuid_entry entry[CPUID_ENTRIES_MAX];
    unsigned n = cpuid_supported(entry, CPUID_ENTRIES_MAX);
    uint64_t disabled[MSHV_BANKS];
    disabled_get(p, disabled);
    memset(bank, 0, MSHV_BANKS * sizeof bank[0]);
    for (unsigned i = 0; i < N_FEATURES; i++)
        if (has_feature(entry, n < CPUID_ENTRIES_MAX ? n : CPUID_ENTRIES_MAX, &features[i]))
            bank[features[i].bank] |= 1ull << features[i].bit & ~disabled[features[i].bank];
}

#define XSAVE_FEATURE_AVX (1ull << 2)
#define XSAVE_FEATURE_AVX512 (1ull << 6)

uint64_t mshv_xsave_states(const struct mshv_partition *p)
{
    uint64_t bank[MSHV_BANKS], states = XCR0_X87 | XCR0_SSE;
    mshv_features_enabled(p, bank);
    states |= bank[BANK_XSAVE] & XSAVE_FEATURE_AVX ? XCR0_AVX : 0;
    states |= bank[BANK_XSAVE] & XSAVE_FEATURE_AVX512 ? XCR0_AVX512 : 0;
    return states & (host_facts()->xcr0 | XCR0_X87 | XCR0_SSE);
}

static void id_fill(struct cpuid_entry *e, uint32_t id)
{
    if (e->function == 1)
        e->ebx = (e->ebx & ~(0xffu << CPUID_APIC_ID_SHIFT)) | id << CPUID_APIC_ID_SHIFT;
    else if (e->function == 0xb || e->function == 0x1f)
        e->edx = id;
}

/* Other hypervisors' leaves are not this one's. */
void mshv_features_install(struct mshv_vp *vp)
{
    const struct mshv_partition *p = vp->owner;
    uint64_t disabled[MSHV_BANKS];
    struct cpuid_entry entry[CPUID_ENTRIES_MAX];
    unsigned all = cpuid_supported(entry, CPUID_ENTRIES_MAX), n = 0;
    disabled_get(p, disabled);
    for (unsigned i = 0; i < all && i < CPUID_ENTRIES_MAX; i++) {
        if ((entry[i].function & CPUID_RANGE_MASK) == CPUID_LEAF_HYPERVISOR)
            continue;
        id_fill(&entry[i], vp->v->id);
        entry[n++] = entry[i];
    }
    for (unsigned i = 0; i < N_FEATURES; i++)
        if (disabled[features[i].bank] >> features[i].bit & 1)
            feature_clear(entry, n, &features[i]);
    vcpu_set_cpuid(vp->v, entry, n);
}
