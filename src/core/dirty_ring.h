/* SPDX-License-Identifier: MIT */
/*
 * Dirty rings: per vCPU a list, in memory shared with the client, of pages that got their dirty bit. The client takes entries in order and marks them; a reset
 * clears the bits of those, so each page stands in a ring once until then. Core writes entries and believes nothing but the mark. Any thread may push.
 */
#ifndef VITRINE_CORE_DIRTY_RING_H
#define VITRINE_CORE_DIRTY_RING_H

#include <stdatomic.h>

#include "base/types.h"

struct vm;

#define DIRTY_RING_DIRTY 1u
#define DIRTY_RING_TAKEN 2u /* set by the client */
/* Kept free beyond the point where the vCPU leaves: what one instruction and its exit may still write. */
#define DIRTY_RING_RESERVED 64u

/* The front proves it equal to its ABI. */
struct dirty_ring_entry {
    _Atomic uint32_t flags;
    uint32_t slot;
    uint64_t page; /* of the slot */
};

struct dirty_ring {
    struct dirty_ring_entry *entry; /* NULL: none. The front's, which must keep it until the VM goes */
    uint32_t n;                     /* a power of two, more than DIRTY_RING_RESERVED */
    _Atomic uint32_t pushed, reset; /* running counts */
};

static inline bool dirty_ring_is_full(const struct dirty_ring *r)
{
    return r->entry && atomic_load(&r->pushed) - atomic_load(&r->reset) >= r->n - DIRTY_RING_RESERVED;
}

/* False if not even the reserve has room. General registers only. */
static inline bool dirty_ring_push(struct dirty_ring *r, uint32_t slot, uint64_t page)
{
    uint32_t at = atomic_load(&r->pushed);
    do {
        if (at - atomic_load(&r->reset) >= r->n)
            return false;
    } while (!atomic_compare_exchange_weak(&r->pushed, &at, at + 1));
    struct dirty_ring_entry *e = &r->entry[at & (r->n - 1)];
    e->slot = slot;
    e->page = page;
    atomic_store_explicit(&e->flags, DIRTY_RING_DIRTY, memory_order_release);
    return true;
}

/* A page was written by none of the vCPUs: the first ring with room gets it. */
void dirty_ring_push_any(struct vm *vm, uint32_t slot, uint64_t page);
/* Gives back the entries that the client took; their pages are reported again at their next write. Returns how many there were. */
int vm_reset_dirty_rings(struct vm *vm);

#endif
