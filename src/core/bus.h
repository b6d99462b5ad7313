/* SPDX-License-Identifier: MIT */
/*
 * Port and memory-mapped I/O that is handled in process: chips, ioeventfds, coalescing zones. What no region takes goes to the client.
 */
#ifndef VITRINE_CORE_BUS_H
#define VITRINE_CORE_BUS_H

#include <pthread.h>

#include "base/types.h"

struct vcpu;
struct bus_region;

/* Handlers return 0 if they took the access, -EOPNOTSUPP to let it fall through (to the next region, then the client). */
struct bus_ops {
    int (*read)(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, void *data);
    int (*write)(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data);
};

struct bus_region {
    uint64_t addr, bytes; /* bytes 0: an ioeventfd of any length at addr */
    const struct bus_ops *ops;
    void *owner;
    struct bus_region *next;
};

struct bus {
    pthread_rwlock_t lock;
    struct bus_region *regions; /* newest first; several may overlap */
    unsigned n;
};

void bus_init(struct bus *b);
void bus_fini(struct bus *b);
void bus_add(struct bus *b, struct bus_region *r); /* r stays the owner's memory */
void bus_remove(struct bus *b, struct bus_region *r);
/* True if some region may take a write there. */
bool bus_may_take(struct bus *b, uint64_t addr, unsigned bytes);
/* 0 if a region took it, else -EOPNOTSUPP. */
int bus_read(struct bus *b, struct vcpu *v, uint64_t addr, unsigned bytes, void *data);
int bus_write(struct bus *b, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data);

#endif
