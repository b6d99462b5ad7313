/* SPDX-License-Identifier: MIT */
/*
 * Exceptions and interrupts that a tool brings into a vCPU. They are delivered as those of the vCPU's own are, and are told as such (core/watch.h); what a
 * delivery that fails makes of them is the guest's affair. Not the client's injections, which are ABIs'.
 */
#ifndef VITRINE_CORE_INJECT_H
#define VITRINE_CORE_INJECT_H

#include "base/types.h"

struct vcpu;

struct injection {
    bool is_interrupt;
    uint8_t vector; /* of an exception: below 32; of an interrupt: from 16 on, or 2, the NMI */
    bool has_code;  /* exceptions that have a code get one of 0 without */
    uint32_t code;
    bool has_address; /* for CR2 of #PF, DR6 of #DB; without it they stay */
    uint64_t address;
};

/*
 * The vCPU stands still with its lock held (hold_call). An exception comes before the next instruction, #BP and #OF as INT3 and INTO raise them; an interrupt
 * when the guest takes interrupts, without any interrupt controller knowing. May_replace: what is pending of that kind is forgotten. -EINVAL; -EBUSY something
 * is pending.
 */
int inject_into(struct vcpu *v, const struct injection *i, bool may_replace);

#endif
