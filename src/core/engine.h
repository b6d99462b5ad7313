/* SPDX-License-Identifier: MIT */
/*
 * The seam between core and whatever executes guest instructions. lib fills vm.engine; core and fronts call through it.
 */
#ifndef VITRINE_CORE_ENGINE_H
#define VITRINE_CORE_ENGINE_H

#include "base/types.h"

struct vm;
struct vcpu;

/* Result of a linear to physical translation. */
struct translation {
    bool is_valid;
    gpa_t gpa;
    bool is_writeable, is_usermode;
};

struct engine_ops {
    const char *name;
    size_t vcpu_bytes;             /* size of the engine's struct whose first member is struct vcpu */
    int (*vm_init)(struct vm *vm); /* sets vm->engine_data; -ENOMEM */
    void (*vm_fini)(struct vm *vm);
    int (*vcpu_init)(struct vcpu *v);
    void (*vcpu_fini)(struct vcpu *v);
    /* Runs until there is something for the client: v->exit is filled. 0; -EINTR with EXIT_INTR; other -errno if the vCPU cannot run. */
    int (*run)(struct vcpu *v);
    /* Any thread. exit_req is already set and the futex woken; an engine that needs more (a signal) does it here. May be NULL. */
    void (*kick)(struct vcpu *v);
    /* The slots, or the dirty-tracking of a range, changed. Any thread but one inside run. Returns when no vCPU uses what was before. */
    void (*memory_changed)(struct vm *vm, gpa_t gpa, uint64_t bytes);
    /* What vCPUs see or may do of these pages of this process changed. Threads and return as memory_changed. */
    void (*pages_changed)(struct vm *vm, const hva_t *page, unsigned n);
    /* The vCPU's own thread, between two accesses of its guest: flushes the TLBs of all vCPUs that are wanted. Returns when none uses what was before. */
    void (*flush_tlbs)(struct vcpu *v, bool (*is_wanted)(struct vcpu *other, const void *arg), const void *arg);
    /* The client wrote registers, CPUID or events of a vCPU that is not running. */
    void (*state_changed)(struct vcpu *v);
    /* KVM_TRANSLATE: no fault is raised, no accessed bit is set. The vCPU is not running. */
    void (*translate)(struct vcpu *v, gva_t gva, struct translation *out);
};

#endif
