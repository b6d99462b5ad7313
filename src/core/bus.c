/* SPDX-License-Identifier: MIT */
/*
 * Dispatch of port and memory-mapped accesses to in-process regions. Handlers run with the bus read-locked, so that a removed region is not in use
 * any more; they must not add or remove regions. The lock prefers readers (glibc's default), so a handler may dispatch again.
 */
#include "core/bus.h"

#include <errno.h>

void bus_init(struct bus *b)
{
    pthread_rwlock_init(&b->lock, NULL);
    b->regions = NULL;
    b->n = 0;
}

void bus_fini(struct bus *b)
{
    pthread_rwlock_destroy(&b->lock);
}

void bus_add(struct bus *b, struct bus_region *r)
{
    pthread_rwlock_wrlock(&b->lock);
    r->next = b->regions;
    b->regions = r;
    b->n++;
    pthread_rwlock_unlock(&b->lock);
}

void bus_remove(struct bus *b, struct bus_region *r)
{
    pthread_rwlock_wrlock(&b->lock);
    for (struct bus_region **p = &b->regions; *p; p = &(*p)->next) {
        if (*p == r) {
            *p = r->next;
            b->n--;
            break;
        }
    }
    pthread_rwlock_unlock(&b->lock);
}

static bool is_inside(const struct bus_region *r, uint64_t addr, unsigned bytes)
{
    if (r->bytes == 0)
        return addr == r->addr;
    return addr >= r->addr && bytes <= r->bytes && addr - r->addr <= r->bytes - bytes;
}

bool bus_may_take(struct bus *b, uint64_t addr, unsigned bytes)
{
    bool found = false;
    pthread_rwlock_rdlock(&b->lock);
    for (struct bus_region *r = b->regions; r && !found; r = r->next)
        found = r->ops->write && is_inside(r, addr, bytes);
    pthread_rwlock_unlock(&b->lock);
    return found;
}

int bus_read(struct bus *b, struct vcpu *v, uint64_t addr, unsigned bytes, void *data)
{
    int error = -EOPNOTSUPP;
    pthread_rwlock_rdlock(&b->lock);
    for (struct bus_region *r = b->regions; r && error; r = r->next) {
        if (r->ops->read && is_inside(r, addr, bytes))
            error = r->ops->read(r, v, addr, bytes, data);
    }
    pthread_rwlock_unlock(&b->lock);
    return error ? -EOPNOTSUPP : 0;
}

int bus_write(struct bus *b, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data)
{
    int error = -EOPNOTSUPP;
    pthread_rwlock_rdlock(&b->lock);
    for (struct bus_region *r = b->regions; r && error; r = r->next) {
        if (r->ops->write && is_inside(r, addr, bytes))
            error = r->ops->write(r, v, addr, bytes, data);
    }
    pthread_rwlock_unlock(&b->lock);
    return error ? -EOPNOTSUPP : 0;
}
