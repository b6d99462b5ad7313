/* SPDX-License-Identifier: MIT */
/*
 * Coalesced writes: bus regions that append to a ring the client maps. Called by fronts; vm->lock guards the zones, `lock` the producing end of the ring.
 * The client may write anything to the ring: `first` and `last` are never trusted as indices.
 */
#include "core/coalesced.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/vm.h"

struct zone {
    struct bus_region region;
    bool is_pio;
    struct coalesced *owner;
    struct zone *next;
};

struct coalesced {
    struct coalesced_ring *ring;
    pthread_mutex_t lock;
    struct zone *zones;
};

static int queue_write(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data)
{
    (void)v;
    const struct zone *z = r->owner;
    struct coalesced_ring *ring = z->owner->ring;
    int error = -EOPNOTSUPP; /* full: this write leaves to the client, which drains the ring before it looks at the exit */
    if (bytes > sizeof ring->entry[0].data)
        return error;
    pthread_mutex_lock(&z->owner->lock);
    uint32_t last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED) % COALESCED_RING_ENTRIES;
    uint32_t first = __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE);
    uint32_t next = (last + 1) % COALESCED_RING_ENTRIES;
    if (next != first) {
        struct coalesced_entry *e = &ring->entry[last];
        e->addr = addr;
        e->bytes = bytes;
        e->is_pio = z->is_pio;
        memcpy(e->data, data, bytes);
        __atomic_store_n(&ring->last, next, __ATOMIC_RELEASE);
        error = 0;
    }
    pthread_mutex_unlock(&z->owner->lock);
    return error;
}

static const struct bus_ops queue_ops = { .write = queue_write };

static struct bus *bus_of(struct vm *vm, bool is_pio)
{
    return is_pio ? &vm->pio : &vm->mmio;
}

int coalesced_set_ring(struct vm *vm, struct coalesced_ring *ring)
{
    int error = 0;
    pthread_mutex_lock(&vm->lock);
    if (!vm->coalesced) {
        struct coalesced *c = calloc(1, sizeof *c);
        if (c) {
            c->ring = ring;
            pthread_mutex_init(&c->lock, NULL);
            vm->coalesced = c;
        } else {
            error = -ENOMEM;
        }
    } else if (((struct coalesced *)vm->coalesced)->ring != ring) {
        error = -EEXIST;
    }
    pthread_mutex_unlock(&vm->lock);
    return error;
}

int coalesced_add_zone(struct vm *vm, bool is_pio, uint64_t addr, uint32_t bytes)
{
    if (addr + bytes < addr || bytes == 0)
        return -EINVAL;
    struct zone *z = calloc(1, sizeof *z);
    if (!z)
        return -ENOMEM;
    z->is_pio = is_pio;
    z->region = (struct bus_region){ .addr = addr, .bytes = bytes, .ops = &queue_ops, .owner = z };
    pthread_mutex_lock(&vm->lock);
    struct coalesced *c = vm->coalesced;
    if (c) {
        z->owner = c;
        z->next = c->zones;
        c->zones = z;
        bus_add(bus_of(vm, is_pio), &z->region);
    }
    pthread_mutex_unlock(&vm->lock);
    if (!c)
        free(z);
    return c ? 0 : -ENXIO;
}

/* Without a lock: the caller holds vm->lock or is alone. */
static void remove_zones(struct vm *vm, bool is_all, bool is_pio, uint64_t addr, uint32_t bytes)
{
    struct coalesced *c = vm->coalesced;
    for (struct zone **p = &c->zones; *p;) {
        struct zone *z = *p;
        bool is_in = z->is_pio == is_pio && addr >= z->region.addr && bytes <= z->region.bytes && addr - z->region.addr <= z->region.bytes - bytes;
        if (!is_all && !is_in) {
            p = &z->next;
            continue;
        }
        *p = z->next;
        bus_remove(bus_of(vm, z->is_pio), &z->region);
        free(z);
    }
}

int coalesced_remove_zone(struct vm *vm, bool is_pio, uint64_t addr, uint32_t bytes)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->coalesced)
        remove_zones(vm, false, is_pio, addr, bytes);
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

void coalesced_fini(struct vm *vm)
{
    struct coalesced *c = vm->coalesced;
    if (!c)
        return;
    remove_zones(vm, true, false, 0, 0);
    pthread_mutex_destroy(&c->lock);
    free(c);
    vm->coalesced = NULL;
}
