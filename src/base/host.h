/* SPDX-License-Identifier: MIT */
/*
 * What this machine's CPU can do. Found once, then constant; any thread.
 */
#ifndef VITRINE_BASE_HOST_H
#define VITRINE_BASE_HOST_H

#include <cpuid.h>

#include "base/types.h"

#define HOST_XSAVE_COMPONENTS 10

struct host_facts {
    char vendor[13]; /* "GenuineIntel" */
    bool is_amd;     /* AMD or Hygon */
    uint32_t signature;
    uint32_t max_basic, max_extended; /* highest CPUID leaves */
    unsigned phys_bits, linear_bits;
    bool has_bmi2;
    bool has_fsgsbase; /* and the kernel lets user mode use it */
    bool has_xsave, has_xsaveopt, has_xsavec, has_xgetbv1;
    bool has_invariant_tsc, has_rdtscp;
    uint64_t xcr0; /* components enabled by the kernel, reduced to x87, SSE, AVX, AVX-512 */
    /* Standard format. xsave_bytes covers xcr0; offset and size of components 2 and up, 0 where absent. */
    uint32_t xsave_bytes;
    uint32_t xsave_offset[HOST_XSAVE_COMPONENTS], xsave_size[HOST_XSAVE_COMPONENTS];
    bool xsave_is_aligned[HOST_XSAVE_COMPONENTS]; /* to 64 bytes in the compacted format */
    uint64_t tsc_khz;
    bool is_tsc_measured; /* no leaf gave the frequency */
};

const struct host_facts *host_facts(void);

static inline void host_cpuid(uint32_t function, uint32_t index, uint32_t out[4])
{
    __cpuid_count(function, index, out[0], out[1], out[2], out[3]);
}

#endif
