/* SPDX-License-Identifier: MIT */
/*
 * Host facts from CPUID, XGETBV and the auxiliary vector (Intel SDM vol. 2A "CPUID", vol. 1 "Managing State Using the XSAVE Feature Set"; AMD APM vol. 3
 * appendix E). Not what a guest is offered: that is core/cpuid_supported.c. pthread_once guards the one write.
 */
#include "base/host.h"

#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <x86intrin.h>

#define XCR0_WANTED 0xe7ull /* x87 SSE AVX opmask ZMM_Hi256 Hi16_ZMM */
#define XCR0_AVX512_BITS 0xe0ull

static struct host_facts facts;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find_xsave(void)
{
    uint32_t r[4];
    host_cpuid(1, 0, r);
    facts.xcr0 = 3;
    facts.xsave_bytes = 576;
    facts.has_xsave = r[2] & (1u << 27);
    if (!facts.has_xsave)
        return;
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    facts.xcr0 = (lo | (uint64_t)hi << 32) & XCR0_WANTED;
    /* AVX-512 state is one feature in three components, and sits on AVX. */
    if ((facts.xcr0 & XCR0_AVX512_BITS) != XCR0_AVX512_BITS || !(facts.xcr0 & 4))
        facts.xcr0 &= ~XCR0_AVX512_BITS;
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS; i++) {
        if (!(facts.xcr0 & (1ull << i)))
            continue;
        host_cpuid(0xd, i, r);
        facts.xsave_size[i] = r[0];
        facts.xsave_offset[i] = r[1];
        facts.xsave_is_aligned[i] = r[2] & 2;
        if (r[0] + r[1] > facts.xsave_bytes)
            facts.xsave_bytes = r[0] + r[1];
    }
    host_cpuid(0xd, 1, r);
    facts.has_xsaveopt = r[0] & 1;
    facts.has_xsavec = r[0] & 2;
    facts.has_xgetbv1 = r[0] & 4;
}

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* TSC and clock of one moment; the best of some tries, since the thread may be preempted between the two reads. */
static void sample_tsc(uint64_t *tsc, uint64_t *ns)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 8; i++) {
        uint64_t before = __rdtsc(), now = monotonic_ns(), after = __rdtsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + best / 2;
            *ns = now;
        }
    }
}

static uint64_t measure_tsc_khz(void)
{
    uint64_t tsc0, ns0, tsc1, ns1;
    sample_tsc(&tsc0, &ns0);
    struct timespec nap = { .tv_nsec = 10000000 };
    nanosleep(&nap, NULL);
    sample_tsc(&tsc1, &ns1);
    return (uint64_t)((unsigned __int128)(tsc1 - tsc0) * 1000000 / (ns1 - ns0));
}

static uint64_t find_tsc_khz(void)
{
    uint32_t r[4];
    host_cpuid(1, 0, r);
    if (r[2] & (1u << 31)) {
        /* The hypervisors' timing leaf; other meanings of this number exist only where the range does not reach it. */
        host_cpuid(0x40000000, 0, r);
        if (r[0] >= 0x40000010 && r[0] < 0x40010000) {
            host_cpuid(0x40000010, 0, r);
            if (r[0])
                return r[0];
        }
    }
    if (facts.max_basic >= 0x15 && !facts.is_amd) {
        host_cpuid(0x15, 0, r);
        if (r[0] && r[1] && r[2])
            return (uint64_t)r[2] * r[1] / r[0] / 1000;
    }
    facts.is_tsc_measured = true;
    return measure_tsc_khz();
}

static void find_facts(void)
{
    uint32_t r[4];
    host_cpuid(0, 0, r);
    facts.max_basic = r[0];
    memcpy(facts.vendor, &r[1], 4);
    memcpy(facts.vendor + 4, &r[3], 4);
    memcpy(facts.vendor + 8, &r[2], 4);
    facts.is_amd = strcmp(facts.vendor, "AuthenticAMD") == 0 || strcmp(facts.vendor, "HygonGenuine") == 0;
    host_cpuid(1, 0, r);
    facts.signature = r[0];
    host_cpuid(0x80000000, 0, r);
    facts.max_extended = r[0];
    facts.phys_bits = 36;
    facts.linear_bits = 48;
    if (facts.max_extended >= 0x80000008) {
        host_cpuid(0x80000008, 0, r);
        facts.phys_bits = r[0] & 0xff;
        facts.linear_bits = (r[0] >> 8) & 0xff;
    }
    if (facts.max_extended >= 0x80000007) {
        host_cpuid(0x80000007, 0, r);
        facts.has_invariant_tsc = r[3] & (1u << 8);
    }
    host_cpuid(0x80000001, 0, r);
    facts.has_rdtscp = r[3] & (1u << 27);
    if (facts.max_basic >= 7) {
        host_cpuid(7, 0, r);
        facts.has_bmi2 = r[1] & (1u << 8);
    }
    facts.has_fsgsbase = getauxval(AT_HWCAP2) & 2; /* HWCAP2_FSGSBASE */
    find_xsave();
    facts.tsc_khz = find_tsc_khz();
}

const struct host_facts *host_facts(void)
{
    pthread_once(&once, find_facts);
    return &facts;
}
