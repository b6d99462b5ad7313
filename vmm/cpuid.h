/* SPDX-License-Identifier: MIT */
/*
 * Turns what KVM_GET_SUPPORTED_CPUID says into what one vCPU of `n_cpus` shows: APIC ids, topology, timer. Pure, no lock.
 */
#ifndef VITRINE_VMM_CPUID_H
#define VITRINE_VMM_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define CPUID_ENTRIES_MAX 256

struct cpuid_table {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entry[CPUID_ENTRIES_MAX];
};

void cpuid_fix(struct cpuid_table *table, unsigned id, unsigned n_cpus, bool has_tsc_deadline);

#endif
