/* SPDX-License-Identifier: MIT */
/*
 * Between msr.c, msr_banks.c, msr_list.c and their test.
 */
#ifndef VITRINE_CORE_MSR_PRIV_H
#define VITRINE_CORE_MSR_PRIV_H

#include "core/cpuid.h"

/* The table's invariant, for the unit test. */
bool msr_table_is_sorted(void);

bool msr_is_memory_type(uint8_t type); /* valid in an MTRR */

/* msr_banks.c: handlers of the table. */
int msr_mtrr_fixed_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host);
int msr_mtrr_fixed_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);
int msr_mtrr_var_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);
int msr_mtrr_def_type_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);
int msr_mcg_ctl_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host);
int msr_mcg_ctl_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);
int msr_mc_bank_get(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host);
int msr_mc_bank_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);

#endif
