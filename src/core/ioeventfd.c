/* SPDX-License-Identifier: MIT */
/*
 * Ioeventfds: bus regions whose writes signal an eventfd. Called by fronts; vm->lock guards the list, the bus lock the regions in use.
 */
#include "core/ioeventfd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/vm.h"
#include "core/vm_priv.h"

struct ioeventfd {
    struct bus_region region;
    struct ioeventfd_key key; /* fd is our duplicate */
    struct ioeventfd *next;
};

static int signal_write(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data)
{
    (void)v;
    const struct ioeventfd_key *key = &((struct ioeventfd *)r->owner)->key;
    if (addr != key->addr || (key->bytes && bytes != key->bytes))
        return -EOPNOTSUPP;
    if (key->has_datamatch) {
        uint64_t value = 0;
        memcpy(&value, data, bytes);
        if (value != key->datamatch)
            return -EOPNOTSUPP;
    }
    eventfd_signal(key->fd);
    return 0;
}

static const struct bus_ops signal_ops = { .write = signal_write };

static struct bus *bus_of(struct vm *vm, const struct ioeventfd_key *key)
{
    return key->is_pio ? &vm->pio : &vm->mmio;
}

static int check(const struct ioeventfd_key *key)
{
    if (key->bytes != 0 && key->bytes != 1 && key->bytes != 2 && key->bytes != 4 && key->bytes != 8)
        return -EINVAL;
    if (key->addr + key->bytes < key->addr || (key->bytes == 0 && key->has_datamatch))
        return -EINVAL;
    return 0;
}

/* Two would both claim some write. */
static bool collides(const struct ioeventfd_key *a, const struct ioeventfd_key *b)
{
    if (a->is_pio != b->is_pio || a->addr != b->addr || (a->bytes && b->bytes && a->bytes != b->bytes))
        return false;
    return !a->has_datamatch || !b->has_datamatch || a->datamatch == b->datamatch;
}

static int add(struct vm *vm, struct ioeventfd *new)
{
    int error = 0;
    pthread_mutex_lock(&vm->lock);
    for (struct ioeventfd *e = vm->ioeventfds; e && !error; e = e->next) {
        if (collides(&e->key, &new->key))
            error = -EEXIST;
    }
    if (!error) {
        new->next = vm->ioeventfds;
        vm->ioeventfds = new;
        bus_add(bus_of(vm, &new->key), &new->region);
    }
    pthread_mutex_unlock(&vm->lock);
    return error;
}

int ioeventfd_assign(struct vm *vm, const struct ioeventfd_key *key)
{
    int error = check(key);
    if (error)
        return error;
    int fd = eventfd_dup(key->fd);
    if (fd < 0)
        return fd;
    struct ioeventfd *e = calloc(1, sizeof *e);
    if (!e) {
        close(fd);
        return -ENOMEM;
    }
    e->key = *key;
    e->key.fd = fd;
    e->region = (struct bus_region){ .addr = key->addr, .bytes = key->bytes, .ops = &signal_ops, .owner = e };
    error = add(vm, e);
    if (error) {
        close(fd);
        free(e);
    }
    return error;
}

static bool is_wanted(const struct ioeventfd_key *a, const struct ioeventfd_key *key)
{
    return a->is_pio == key->is_pio && a->addr == key->addr && a->bytes == key->bytes && a->has_datamatch == key->has_datamatch &&
           (!a->has_datamatch || a->datamatch == key->datamatch) && eventfd_is_same(a->fd, key->fd);
}

int ioeventfd_deassign(struct vm *vm, const struct ioeventfd_key *key)
{
    int probe = eventfd_dup(key->fd);
    if (probe < 0)
        return probe;
    close(probe);
    struct ioeventfd *found = NULL;
    pthread_mutex_lock(&vm->lock);
    for (struct ioeventfd **p = (struct ioeventfd **)&vm->ioeventfds; *p; p = &(*p)->next) {
        if (is_wanted(&(*p)->key, key)) {
            found = *p;
            *p = found->next;
            bus_remove(bus_of(vm, key), &found->region);
            break;
        }
    }
    pthread_mutex_unlock(&vm->lock);
    if (!found)
        return -ENOENT;
    close(found->key.fd);
    free(found);
    return 0;
}

void ioeventfd_fini(struct vm *vm)
{
    for (struct ioeventfd *e = vm->ioeventfds, *next; e; e = next) {
        next = e->next;
        bus_remove(bus_of(vm, &e->key), &e->region);
        close(e->key.fd);
        free(e);
    }
    vm->ioeventfds = NULL;
}
