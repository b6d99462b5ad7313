/* SPDX-License-Identifier: MIT */
/*
 * Looking at a vCPU from outside, and keeping it still. A function is called while the vCPU stands between two instructions with all of its state in place: on
 * the vCPU's own thread if that is in its run or holds its lock, else on the caller's. A held vCPU runs no guest instruction; its client is still answered:
 * signals end KVM_RUN, other calls go on. Holds nest, per vCPU and per VM.
 */
#ifndef VITRINE_CORE_HOLD_H
#define VITRINE_CORE_HOLD_H

#include "core/vcpu.h"
#include "core/vm.h"

/* In place of the lock alone: whoever unlocks works off what was asked meanwhile. Not recursive. */
void hold_lock(struct vcpu *v);
void hold_unlock(struct vcpu *v);

/*
 * Any thread but v's own inside its run, with no vCPU's lock held. Returns when `call` has returned. It may not sleep, take a vCPU's lock or call back here. If
 * it changes registers it calls engine_ops.state_changed itself.
 */
void hold_call(struct vcpu *v, void (*call)(struct vcpu *v, void *arg), void *arg);

/* Returns when the vCPU stands still; each hold takes one release. Threads as hold_call. */
void hold_vcpu(struct vcpu *v);
void hold_release_vcpu(struct vcpu *v);
/* All vCPUs, later ones too. */
void hold_vm(struct vm *vm);
void hold_release_vm(struct vm *vm);

/*
 * From the first hold_quiet to the last hold_loud the vCPU gets no NMI, SMI or interrupt, but for one that ends a HLT: who steps slowly by events
 * (core/watch.h) would see nothing but the timer's handler. Any thread.
 */
void hold_quiet(struct vcpu *v);
void hold_loud(struct vcpu *v);

#define HOLD_STEPS_MAX 1000000u
/*
 * A held vCPU executes up to n instructions, or pieces of repeated ones, all the same. Interrupts wait meanwhile, but one that ends a HLT is delivered. Returns
 * how many were executed when all were or the time is over, and the vCPU stands still again; faults count. -EBUSY it is stepped already, or waits for a tool's
 * answer. Threads as hold_call.
 */
int hold_step(struct vcpu *v, uint32_t n, unsigned timeout_ms);

/* Engine: it executes what hold_step asks for. A question (core/watch.h) comes first. */
static inline bool hold_is_stepping(const struct vcpu *v)
{
    return atomic_load(&v->hold.steps) && !__atomic_load_n(&v->watch.waits_for, __ATOMIC_ACQUIRE);
}

/* Engine, between two instructions and outside guest code: a held vCPU goes no further (vcpu_block). */
static inline bool hold_is_held(const struct vcpu *v)
{
    return (atomic_load(&v->hold.count) || atomic_load(&v->vm->n_holds)) && !hold_is_stepping(v);
}

/* Engine: an instruction is over. */
static inline void hold_stepped(struct vcpu *v)
{
    uint32_t steps = atomic_load(&v->hold.steps);
    while (steps && !atomic_compare_exchange_weak(&v->hold.steps, &steps, steps - 1))
        ;
    if (steps == 1)
        atomic_store(&v->exit_req, 1);
}

/* Holder of v->lock, so the engine in its run: calls what was asked for. */
void hold_work_off(struct vcpu *v);

#endif
