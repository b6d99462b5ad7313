/* SPDX-License-Identifier: MIT */
/*
 * The CPUID that a client may offer: the host's, reduced to what works under translation, plus what is done by software and needs no host support
 * (Intel SDM vol. 2A "CPUID", AMD APM vol. 3 appendix E, Linux Documentation/virt/kvm/x86/cpuid.rst). Called by fronts; pure.
 */
#include "core/cpuid.h"

#include "base/host.h"
#include "core/vcpu.h"

#define BIT(n) (1u << (n))
#define ENTRY_INDEX_MATTERS 1u

/*
 * Leaf 1. ECX: SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND from the host; PCID x2APIC hypervisor by software.
 * Not: MONITOR, VMX, SMX, DS, PDCM, thermal. OSXSAVE is dynamic. Not TSC-deadline, though it works: it needs our APIC, so clients add it when
 * KVM_CAP_TSC_DEADLINE_TIMER and an irqchip in process say so (Linux, Documentation/virt/kvm/api.rst, KVM_GET_SUPPORTED_CPUID).
 */
#define LEAF1_ECX_HOST (BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) | BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30))
#define LEAF1_ECX_SOFT (BIT(17) | BIT(21) | BIT(31))
/* EDX: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 SS. Not: DS, ACPI, HTT (the client's topology), TM. */
#define LEAF1_EDX_HOST (0x078bfbffu | BIT(27))

/* Leaf 7.0 EBX from the host: FDP-only, BMI1 AVX2 BMI2 ERMS, no-FCS/FDS, AVX512 F DQ IFMA CD BW VL, RDSEED ADX CLFLUSHOPT CLWB SHA. Not: HLE RTM MPX SGX PQM
 * PT. */
#define LEAF7_EBX_HOST                                                                                                                                \
    (BIT(3) | BIT(5) | BIT(6) | BIT(8) | BIT(9) | BIT(13) | BIT(16) | BIT(17) | BIT(18) | BIT(19) | BIT(21) | BIT(23) | BIT(24) | BIT(28) | BIT(29) | \
     BIT(30) | BIT(31))
#define LEAF7_EBX_SOFT (BIT(0) | BIT(1) | BIT(7) | BIT(10) | BIT(20)) /* FSGSBASE TSC_ADJUST SMEP INVPCID SMAP */
/* ECX: AVX512_VBMI VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ LA57 from the host; UMIP RDPID by software. Not: PKU WAITPKG CET KL CLDEMOTE MOVDIR*
 * ENQCMD. */
#define LEAF7_ECX_HOST (BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14) | BIT(16))
#define LEAF7_ECX_SOFT (BIT(2) | BIT(22))
/* EDX: FSRM, AVX512_VP2INTERSECT from the host; ARCH_CAPABILITIES by software. Not: AVX512_FP16, AMX, SERIALIZE, speculation controls. */
#define LEAF7_EDX_HOST (BIT(4) | BIT(8))
#define LEAF7_EDX_SOFT BIT(29)
#define LEAF7_1_EAX_HOST (BIT(4) | BIT(5)) /* AVX-VNNI AVX512_BF16 */
#define LEAF7_EBX_AVX512 (BIT(16) | BIT(17) | BIT(21) | BIT(28) | BIT(30) | BIT(31))
#define LEAF7_ECX_AVX512 (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14))

/* 80000001 ECX: LAHF LZCNT PREFETCHW. EDX: SYSCALL NX 1G-pages RDTSCP LM; on AMD the repeat of leaf 1 and MMXEXT. */
#define EXT1_ECX_HOST (BIT(0) | BIT(5) | BIT(8))
#define EXT1_EDX_HOST (BIT(11) | BIT(29))
#define EXT1_EDX_SOFT (BIT(20) | BIT(26) | BIT(27))
#define EXT1_EDX_AMD (0x0183f3ffu | BIT(22))

/* CLOCKSOURCE NOP_IO_DELAY CLOCKSOURCE2 STEAL_TIME PV_EOI PV_UNHALT PV_TLB_FLUSH PV_SEND_IPI POLL_CONTROL PV_SCHED_YIELD CLOCKSOURCE_STABLE. Not: ASYNC_PF, as
 * no page is ever swapped in behind the guest's back; MSI_EXT_DEST_ID, which is the client's. */
#define PV_FEATURES (BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(12) | BIT(13) | BIT(24))
#define PV_SIGNATURE_EBX 0x4b4d564b /* "KVMKVMKVM" */
#define PV_SIGNATURE_ECX 0x564b4d56
#define PV_SIGNATURE_EDX 0x4d

enum { EAX, EBX, ECX, EDX };

struct list {
    struct cpuid_entry *out;
    unsigned max, n;
};

static void add(struct list *l, uint32_t function, uint32_t index, bool has_index, const uint32_t r[4])
{
    if (l->n < l->max) {
        l->out[l->n] = (struct cpuid_entry){
            .function = function, .index = index, .flags = has_index ? ENTRY_INDEX_MATTERS : 0, .eax = r[EAX], .ebx = r[EBX], .ecx = r[ECX], .edx = r[EDX]
        };
    }
    l->n++;
}

static void add_host(struct list *l, uint32_t function)
{
    uint32_t r[4];
    host_cpuid(function, 0, r);
    add(l, function, 0, false, r);
}

static void add_zero(struct list *l, uint32_t function, bool has_index)
{
    const uint32_t zero[4] = { 0 };
    add(l, function, 0, has_index, zero);
}

static void add_leaf1(struct list *l, const struct host_facts *h)
{
    uint32_t r[4];
    host_cpuid(1, 0, r);
    r[EBX] &= 0x0000ff00; /* CLFLUSH size; ids and counts are the client's */
    r[ECX] = (r[ECX] & LEAF1_ECX_HOST) | LEAF1_ECX_SOFT;
    r[EDX] &= LEAF1_EDX_HOST;
    if (!h->has_xsave)
        r[ECX] &= ~BIT(26);
    if (!(h->xcr0 & XCR0_AVX))
        r[ECX] &= ~(BIT(12) | BIT(28) | BIT(29));
    add(l, 1, 0, false, r);
}

static void add_leaf7(struct list *l, const struct host_facts *h)
{
    uint32_t r[4] = { 0 };
    if (h->max_basic >= 7)
        host_cpuid(7, 0, r);
    unsigned n_sub = r[EAX];
    r[EAX] = n_sub ? 1 : 0;
    r[EBX] = (r[EBX] & LEAF7_EBX_HOST) | LEAF7_EBX_SOFT;
    r[ECX] = (r[ECX] & LEAF7_ECX_HOST) | LEAF7_ECX_SOFT;
    r[EDX] = (r[EDX] & LEAF7_EDX_HOST) | LEAF7_EDX_SOFT;
    if (!(h->xcr0 & XCR0_AVX)) {
        r[EBX] &= ~BIT(5);
        r[ECX] &= ~(BIT(9) | BIT(10));
    }
    if (!(h->xcr0 & XCR0_ZMM_HI256)) {
        r[EBX] &= ~LEAF7_EBX_AVX512;
        r[ECX] &= ~LEAF7_ECX_AVX512;
        r[EDX] &= ~BIT(8);
    }
    add(l, 7, 0, true, r);
    if (!n_sub)
        return;
    uint32_t mask = (h->xcr0 & XCR0_AVX ? BIT(4) : 0) | (h->xcr0 & XCR0_ZMM_HI256 ? BIT(5) : 0);
    host_cpuid(7, 1, r);
    const uint32_t sub1[4] = { r[EAX] & LEAF7_1_EAX_HOST & mask };
    add(l, 7, 1, true, sub1);
}

static void add_leaf_d(struct list *l, const struct host_facts *h)
{
    if (!h->has_xsave) {
        add_zero(l, 0xd, true);
        return;
    }
    const uint32_t sub0[4] = { (uint32_t)h->xcr0, h->xsave_bytes, h->xsave_bytes, 0 };
    add(l, 0xd, 0, true, sub0);
    const uint32_t sub1[4] = { h->has_xsaveopt * BIT(0) | h->has_xsavec * BIT(1) | h->has_xgetbv1 * BIT(2) };
    add(l, 0xd, 1, true, sub1);
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS; i++) {
        const uint32_t sub[4] = { h->xsave_size[i], h->xsave_offset[i], h->xsave_is_aligned[i] ? 2 : 0, 0 };
        if (h->xcr0 & (1ull << i))
            add(l, 0xd, i, true, sub);
    }
}

/* Cache parameters; how many logical CPUs share what is the client's topology. */
static void add_leaf4(struct list *l, const struct host_facts *h)
{
    if (h->is_amd)
        return;
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t r[4];
        host_cpuid(4, i, r);
        add(l, 4, i, true, r);
        if (!(r[EAX] & 0x1f))
            return;
    }
}

static void add_basic(struct list *l, const struct host_facts *h)
{
    uint32_t r[4];
    host_cpuid(0, 0, r);
    if (r[EAX] > 0x14)
        r[EAX] = 0x14;
    if (r[EAX] < 0xd)
        r[EAX] = 0xd;
    uint32_t max = r[EAX];
    add(l, 0, 0, false, r);
    add_leaf1(l, h);
    if (h->is_amd)
        add_zero(l, 2, false);
    else
        add_host(l, 2);
    add_leaf4(l, h);
    add_zero(l, 5, false);
    const uint32_t arat[4] = { BIT(2) };
    add(l, 6, 0, false, arat);
    add_leaf7(l, h);
    add_zero(l, 0xa, false);
    add_zero(l, 0xb, true);
    add_leaf_d(l, h);
    if (max >= 0x14)
        add_zero(l, 0x14, true);
}

static void add_extended(struct list *l, const struct host_facts *h)
{
    uint32_t r[4];
    host_cpuid(0x80000000, 0, r);
    r[EAX] = 0x80000008;
    add(l, 0x80000000, 0, false, r);
    host_cpuid(0x80000001, 0, r);
    r[ECX] &= EXT1_ECX_HOST;
    r[EDX] = (r[EDX] & (EXT1_EDX_HOST | (h->is_amd ? EXT1_EDX_AMD : 0))) | EXT1_EDX_SOFT | BIT(11);
    add(l, 0x80000001, 0, false, r);
    for (uint32_t function = 0x80000002; function <= 0x80000006; function++)
        add_host(l, function);
    const uint32_t power[4] = { 0, 0, 0, h->has_invariant_tsc ? BIT(8) : 0 };
    add(l, 0x80000007, 0, false, power);
    const uint32_t sizes[4] = { h->phys_bits | h->linear_bits << 8, 0, 0, 0 };
    add(l, 0x80000008, 0, false, sizes);
}

unsigned cpuid_supported(struct cpuid_entry *out, unsigned max)
{
    const struct host_facts *h = host_facts();
    struct list l = { out, max, 0 };
    add_basic(&l, h);
    const uint32_t pv[4] = { 0x40000001, PV_SIGNATURE_EBX, PV_SIGNATURE_ECX, PV_SIGNATURE_EDX };
    add(&l, 0x40000000, 0, false, pv);
    const uint32_t pv_features[4] = { PV_FEATURES };
    add(&l, 0x40000001, 0, false, pv_features);
    add_extended(&l, h);
    return l.n;
}
