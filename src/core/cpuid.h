/* SPDX-License-Identifier: MIT */
/*
 * CPUID and MSR tables that fronts list. The lookups on a vCPU are in core/vcpu.h.
 */
#ifndef VITRINE_CORE_CPUID_H
#define VITRINE_CORE_CPUID_H

#include "base/types.h"

struct cpuid_entry;
struct vcpu;

/* What a client may offer its guest. Fills at most max entries; returns how many there are. */
unsigned cpuid_supported(struct cpuid_entry *out, unsigned max);

/* Replaces the guest's table. -E2BIG more than CPUID_ENTRIES_MAX. The vCPU does not run; the caller tells the engine by state_changed. */
int vcpu_set_cpuid(struct vcpu *v, const struct cpuid_entry *entries, unsigned n);

/* The MSRs that a client should save and restore, and those that describe features (readable without a vCPU). Return how many there are. */
unsigned msr_index_list(uint32_t *out, unsigned max);
unsigned msr_feature_list(uint32_t *out, unsigned max);
int msr_feature_read(uint32_t index, uint64_t *value); /* -ENOENT */

#endif
