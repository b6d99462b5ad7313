/* SPDX-License-Identifier: MIT */
/*
 * The CPUID leaves of the Microsoft hypervisor's guest interface that clients may offer (TLFS, "Feature and Interface Discovery"): what hv*.c does and no more.
 * Pure; called by fronts.
 */
#include "chip/hv.h"

#include "core/vcpu.h"
#include "core/vm.h"

#define BIT(n) (1u << (n))

/* VP_RUNTIME, TIME_REF_COUNT, APIC registers, hypercall page, VP_INDEX, RESET, reference TSC page, frequencies. */
#define PRIVILEGES (BIT(0) | BIT(1) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11))
#define FEATURES (BIT(8) | BIT(10)) /* frequency MSRs, crash MSRs */
/* TLB flushes by hypercall; APIC by MSR; timeouts of the guest's watchdogs are to be relaxed; IPIs by hypercall; sets of vCPUs beyond 64. */
#define RECOMMENDATIONS (BIT(2) | BIT(3) | BIT(5) | BIT(10) | BIT(11))
#define SPINS_BEFORE_CALL 0xfffu

unsigned hv_cpuid_supported(struct cpuid_entry *out, unsigned max)
{
    static const struct cpuid_entry leaves[] = {
        { .function = 0x40000000, .eax = 0x40000006, .ebx = 0x7263694d, .ecx = 0x666f736f, .edx = 0x76482074 }, /* "Microsoft Hv" */
        { .function = 0x40000001, .eax = 0x31237648 },                                                          /* "Hv#1" */
        { .function = 0x40000002, .eax = 0x3839, .ebx = 0xa0000 },                                              /* 10.0.14393 */
        { .function = 0x40000003, .eax = PRIVILEGES, .edx = FEATURES },
        { .function = 0x40000004, .eax = RECOMMENDATIONS, .ebx = SPINS_BEFORE_CALL },
        { .function = 0x40000005, .eax = VM_VCPUS_MAX, .ebx = VM_VCPUS_MAX },
        { .function = 0x40000006 },
    };
    const unsigned n = sizeof leaves / sizeof leaves[0];
    for (unsigned i = 0; i < n && i < max; i++)
        out[i] = leaves[i];
    return n;
}
