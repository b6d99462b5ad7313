/* SPDX-License-Identifier: MIT */
/*
 * The shared half of dirty rings: resets, under slots_lock, and pages written on threads that run no vCPU. A vCPU's own pushes are inline in the headers.
 */
#include "core/dirty_ring.h"

#include "core/vcpu.h"
#include "core/vm.h"
#include "core/vm_priv.h"

void dirty_ring_push_any(struct vm *vm, uint32_t slot, uint64_t page)
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (!v || !v->dirty_ring.entry || !dirty_ring_push(&v->dirty_ring, slot, page))
            continue;
        if (dirty_ring_is_full(&v->dirty_ring))
            vcpu_kick(v);
        return;
    }
}

static int ring_reset(struct vm *vm, struct dirty_ring *r)
{
    int n = 0;
    uint32_t pushed = atomic_load(&r->pushed);
    for (uint32_t at = atomic_load(&r->reset); at != pushed; at++, n++) {
        struct dirty_ring_entry *e = &r->entry[at & (r->n - 1)];
        if (!(atomic_load_explicit(&e->flags, memory_order_acquire) & DIRTY_RING_TAKEN))
            break;
        uint32_t slot = e->slot;
        uint64_t page = e->page;
        atomic_store(&e->flags, 0);
        atomic_store(&r->reset, at + 1);
        slots_clear_dirty(vm, slot, page);
    }
    return n;
}

/* The order is that of vm_clear_dirty_log: bits first, then the engine's write entries, and only then may the client look at the pages. */
int vm_reset_dirty_rings(struct vm *vm)
{
    int n = 0;
    pthread_mutex_lock(&vm->slots_lock);
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v && v->dirty_ring.entry)
            n += ring_reset(vm, &v->dirty_ring);
    }
    if (n)
        slots_tell_engine(vm, 0, ~0ull);
    pthread_mutex_unlock(&vm->slots_lock);
    return n;
}
