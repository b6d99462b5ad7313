/* SPDX-License-Identifier: MIT */
/*
 * Zones whose writes need not leave to the client at once: they are queued in a ring that the client drains at its next exit.
 * The ring's layout is what clients map; the front proves it equal to its ABI.
 */
#ifndef VITRINE_CORE_COALESCED_H
#define VITRINE_CORE_COALESCED_H

#include "base/types.h"

struct vm;

struct coalesced_entry {
    uint64_t addr;
    uint32_t bytes;
    uint32_t is_pio;
    uint8_t data[8];
};
struct coalesced_ring {
    uint32_t first, last; /* first is the client's, last is ours */
    struct coalesced_entry entry[];
};
#define COALESCED_RING_ENTRIES ((PAGE_BYTES - sizeof(struct coalesced_ring)) / sizeof(struct coalesced_entry))

/* The page of the ring, given once before the first zone; stays the front's, which must keep it until the VM goes. */
int coalesced_set_ring(struct vm *vm, struct coalesced_ring *ring);
int coalesced_add_zone(struct vm *vm, bool is_pio, uint64_t addr, uint32_t bytes);    /* -ENXIO no ring, -ENOMEM, -EINVAL wrap */
int coalesced_remove_zone(struct vm *vm, bool is_pio, uint64_t addr, uint32_t bytes); /* every zone that the range lies in; 0 even if none */
void coalesced_fini(struct vm *vm);

#endif
