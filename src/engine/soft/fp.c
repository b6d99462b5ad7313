/* SPDX-License-Identifier: MIT */
/*
 * The guest's x87, MMX, SSE, AVX and AVX-512 state between the hardware and v.cpu.xsave. While it is in the hardware only code of this folder runs (the vector
 * rule, soft_priv.h).
 */
#include "engine/soft/fp.h"

#include "base/host.h"

static uint64_t fp_mask; /* constant after fp_init: looking it up here could use vector registers */

void fp_init(void)
{
    fp_mask = host_facts()->xcr0;
}

void fp_put(struct soft_vcpu *sv)
{
    if (!sv->fp_loaded)
        return;
    sv->fp_loaded = false;
    uint64_t mask = fp_mask;
    __asm__ volatile("xsave64 %0" : "+m"(sv->v.cpu.xsave) : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
    /* The last x87 instruction's addresses are the host's: none of the guest's business, and most CPUs only keep them for exceptions. */
    uint64_t *pointers = (uint64_t *)(void *)&sv->v.cpu.xsave[8];
    pointers[0] = pointers[1] = 0;
    /* The C ABI wants an empty x87 stack and the client's control words; upper vector halves in use would slow SSE code down. */
    __asm__ volatile("fninit\n\tfldcw %0\n\tldmxcsr %1" : : "m"(sv->host_fcw), "m"(sv->host_mxcsr));
    if (fp_mask & XCR0_AVX)
        __asm__ volatile("vzeroupper");
}

void fp_get(struct soft_vcpu *sv)
{
    if (sv->fp_loaded)
        return;
    uint64_t mask = fp_mask;
    __asm__ volatile("xrstor64 %0" : : "m"(sv->v.cpu.xsave), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
    sv->fp_loaded = true;
}

void fp_note_client(struct soft_vcpu *sv)
{
    __asm__ volatile("fnstcw %0\n\tstmxcsr %1" : "=m"(sv->host_fcw), "=m"(sv->host_mxcsr));
}
