/* SPDX-License-Identifier: MIT */
/*
 * Counters of a vCPU and of a VM. They lie in memory that a front may replace by one that the client sees, so each is a whole word that one thread at a time
 * counts up: a vCPU's by whoever holds its lock, a VM's under slots_lock.
 */
#ifndef VITRINE_CORE_STATS_H
#define VITRINE_CORE_STATS_H

#include "base/types.h"

enum vcpu_stat {
    STAT_EXITS, /* guest code was left for something: one of the next five, or requests */
    STAT_IO_EXITS,
    STAT_MMIO_EXITS,
    STAT_HALT_EXITS,
    STAT_HYPERCALLS,
    STAT_REQUESTS,         /* requests and events were looked at */
    STAT_SIGNAL_EXITS,     /* a run ended with EINTR */
    STAT_IRQ_WINDOW_EXITS, /* the client may inject */
    STAT_IRQ_INJECTIONS,
    STAT_NMI_INJECTIONS,
    STAT_SINGLE_INSNS,  /* instructions executed one by one, in C */
    STAT_INSN_FAILURES, /* those that could not be */
    STAT_TLB_FLUSHES,
    STAT_INVLPGS,
    STAT_PAGE_FAULTS, /* of the guest */
    STAT_HALT_WAKEUPS,
    STAT_HALT_WAIT_NS,
    STAT_IS_BLOCKING, /* 1 while it sleeps */
    VCPU_STAT_COUNT
};

enum vm_stat { STAT_MEMORY_CHANGES /* all vCPUs dropped what they knew of guest memory */, VM_STAT_COUNT };

struct vm;
struct vcpu;

/* The counters go on at `to` (VCPU_STAT_COUNT or VM_STAT_COUNT words), which must stay until the VM goes. The vCPU's lock is held. */
void vcpu_stats_move(struct vcpu *v, uint64_t *to);
void vm_stats_move(struct vm *vm, uint64_t *to);

#endif
