/* SPDX-License-Identifier: MIT */
/*
 * RDMSR and WRMSR of the guest as opposed to the client's own access: filters that deny MSRs, and accesses that the client wants to answer itself.
 */
#ifndef VITRINE_CORE_MSR_GUEST_H
#define VITRINE_CORE_MSR_GUEST_H

#include "base/types.h"

struct vcpu;
struct vm;

/* Why an access cannot be done here; vm.msr_exit_reasons holds those that leave to the client instead of raising #GP. */
#define MSR_REASON_INVALID 1u /* the value, or the register forbids it */
#define MSR_REASON_UNKNOWN 2u
#define MSR_REASON_FILTERED 4u

#define MSR_FILTER_READ 1u
#define MSR_FILTER_WRITE 2u
#define MSR_FILTER_RANGES_MAX 16
struct msr_filter {
    bool is_deny; /* what no range speaks of */
    unsigned n;
    struct msr_filter_range {
        uint32_t kinds; /* MSR_FILTER_* that it decides */
        uint32_t first, n;
        uint8_t *allowed; /* n bits, of the heap */
    } range[MSR_FILTER_RANGES_MAX];
};

void msr_filter_free(struct msr_filter *f);
/* Takes over f, which holds from every vCPU's next access on, and frees the one before. Any thread. */
void msr_filter_set(struct vm *vm, struct msr_filter *f);

/*
 * vCPU thread. MSR_EXIT: v->exit is filled; the instruction restarts when the client has answered, and gets the answer from vcpu.replay here.
 */
enum msr_outcome { MSR_DONE, MSR_FAULT, MSR_EXIT };
enum msr_outcome msr_guest_read(struct vcpu *v, uint32_t index, uint64_t *value);
enum msr_outcome msr_guest_write(struct vcpu *v, uint32_t index, uint64_t value);

#endif
