/* SPDX-License-Identifier: MIT */
/*
 * GSI routing: a table sorted by GSI, swapped as a whole, and the notifiers that run when the guest acknowledges a pin. Chips are called, and call
 * irq_ack_pin, with the routing read-locked; the lock prefers readers (glibc's default), so nested reads cannot deadlock.
 */
#include "core/irq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/vm.h"

void irq_init(struct irq_routing *r)
{
    *r = (struct irq_routing){ 0 };
    pthread_rwlock_init(&r->lock, NULL);
}

void irq_fini(struct irq_routing *r)
{
    free(r->route);
    pthread_rwlock_destroy(&r->lock);
}

static int compare_gsi(const void *a, const void *b)
{
    const struct irq_route *x = a, *y = b;
    return (x->gsi > y->gsi) - (x->gsi < y->gsi);
}

static bool is_valid(const struct irq_route *r)
{
    if (r->gsi >= IRQ_GSI_MAX)
        return false;
    switch (r->kind) {
    case IRQ_ROUTE_PIC_MASTER:
    case IRQ_ROUTE_PIC_SLAVE:
        return r->pin < 8;
    case IRQ_ROUTE_IOAPIC:
        return r->pin < 24;
    case IRQ_ROUTE_MSI:
        return true;
    }
    return false;
}

int irq_set_routes(struct vm *vm, const struct irq_route *routes, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (!is_valid(&routes[i]))
            return -EINVAL;
    }
    struct irq_route *copy = NULL;
    if (n) {
        copy = calloc(n, sizeof *copy);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, routes, n * sizeof *copy);
        qsort(copy, n, sizeof *copy, compare_gsi);
    }
    pthread_rwlock_wrlock(&vm->irq.lock);
    struct irq_route *old = vm->irq.route;
    vm->irq.route = copy;
    vm->irq.n = n;
    pthread_rwlock_unlock(&vm->irq.lock);
    free(old);
    return 0;
}

int irq_set_default_routes(struct vm *vm)
{
    struct irq_route routes[16 + 24];
    unsigned n = 0;
    for (uint32_t gsi = 0; gsi < 24; gsi++) {
        if (gsi < 16)
            routes[n++] = (struct irq_route){ .gsi = gsi, .kind = gsi < 8 ? IRQ_ROUTE_PIC_MASTER : IRQ_ROUTE_PIC_SLAVE, .pin = gsi % 8 };
        routes[n++] = (struct irq_route){ .gsi = gsi, .kind = IRQ_ROUTE_IOAPIC, .pin = gsi };
    }
    return irq_set_routes(vm, routes, n);
}

/* Index of the first route of a GSI, or of what follows. The caller holds the lock. */
static unsigned find_first(const struct irq_routing *r, uint32_t gsi)
{
    unsigned lo = 0, hi = r->n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (r->route[mid].gsi < gsi)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int deliver(struct vm *vm, const struct irq_route *route, unsigned source, bool level)
{
    switch (route->kind) {
    case IRQ_ROUTE_PIC_MASTER:
        return vm->has_irqchip ? vm->chip->pic_set(vm, route->pin & 7, source, level) : -1;
    case IRQ_ROUTE_PIC_SLAVE:
        return vm->has_irqchip ? vm->chip->pic_set(vm, 8 + (route->pin & 7), source, level) : -1;
    case IRQ_ROUTE_IOAPIC:
        return vm->has_irqchip ? vm->chip->ioapic_set(vm, route->pin, source, level) : -1;
    case IRQ_ROUTE_MSI:
        return level ? vm->chip->msi_send(vm, route->msi_address, route->msi_data) : -1; /* an edge: only the assertion counts */
    }
    return -1;
}

int irq_set_level(struct vm *vm, uint32_t gsi, unsigned source, bool level)
{
    if (!vm->chip || !vm_has_lapics(vm))
        return -ENXIO;
    if (source != IRQ_SOURCE_PIT)
        atomic_fetch_add(&vm->client_epoch, 1);
    int result = -1;
    struct irq_routing *r = &vm->irq;
    pthread_rwlock_rdlock(&r->lock);
    for (unsigned i = find_first(r, gsi); i < r->n && r->route[i].gsi == gsi; i++) {
        int n = deliver(vm, &r->route[i], source, level);
        if (n >= 0)
            result = n + (result < 0 ? 0 : result);
    }
    pthread_rwlock_unlock(&r->lock);
    return result;
}

int irq_send_msi(struct vm *vm, uint64_t address, uint32_t data)
{
    if (!vm->chip || !vm_has_lapics(vm))
        return -ENXIO;
    atomic_fetch_add(&vm->client_epoch, 1);
    return vm->chip->msi_send(vm, address, data);
}

bool irq_find_msi(struct vm *vm, uint32_t gsi, uint64_t *address, uint32_t *data)
{
    struct irq_routing *r = &vm->irq;
    bool is_found = false;
    pthread_rwlock_rdlock(&r->lock);
    for (unsigned i = find_first(r, gsi); !is_found && i < r->n && r->route[i].gsi == gsi; i++) {
        is_found = r->route[i].kind == IRQ_ROUTE_MSI;
        *address = r->route[i].msi_address;
        *data = r->route[i].msi_data;
    }
    pthread_rwlock_unlock(&r->lock);
    return is_found;
}

bool irq_ack_gsi(struct vm *vm, uint32_t gsi)
{
    struct irq_routing *r = &vm->irq;
    bool is_found = false;
    pthread_rwlock_rdlock(&r->lock);
    for (struct irq_ack_notifier *n = r->notifiers; n; n = n->next) {
        if (n->gsi == gsi) {
            n->acked(n);
            is_found = true;
        }
    }
    pthread_rwlock_unlock(&r->lock);
    return is_found;
}

bool irq_any_reserved_msi(struct vm *vm, bool (*wanted)(void *arg, uint64_t address, uint32_t data), void *arg)
{
    struct irq_routing *r = &vm->irq;
    bool is_found = false;
    pthread_rwlock_rdlock(&r->lock);
    for (unsigned i = 0; !is_found && i < r->n && r->route[i].gsi < r->n_reserved; i++)
        is_found = r->route[i].kind == IRQ_ROUTE_MSI && wanted(arg, r->route[i].msi_address, r->route[i].msi_data);
    pthread_rwlock_unlock(&r->lock);
    return is_found;
}

static bool is_pin(const struct irq_route *route, enum irq_route_kind kind, unsigned pin)
{
    if (route->kind != kind)
        return false;
    return kind == IRQ_ROUTE_IOAPIC ? route->pin == pin : (route->pin & 7) == (pin & 7);
}

void irq_ack_pin(struct vm *vm, enum irq_route_kind kind, unsigned pin)
{
    struct irq_routing *r = &vm->irq;
    pthread_rwlock_rdlock(&r->lock);
    for (unsigned i = 0; r->notifiers && i < r->n; i++) {
        if (!is_pin(&r->route[i], kind, pin))
            continue;
        for (struct irq_ack_notifier *n = r->notifiers; n; n = n->next) {
            if (n->gsi == r->route[i].gsi)
                n->acked(n);
        }
    }
    pthread_rwlock_unlock(&r->lock);
}

void irq_add_ack_notifier(struct vm *vm, struct irq_ack_notifier *n)
{
    pthread_rwlock_wrlock(&vm->irq.lock);
    n->next = vm->irq.notifiers;
    vm->irq.notifiers = n;
    pthread_rwlock_unlock(&vm->irq.lock);
}

void irq_remove_ack_notifier(struct vm *vm, struct irq_ack_notifier *n)
{
    pthread_rwlock_wrlock(&vm->irq.lock);
    for (struct irq_ack_notifier **p = &vm->irq.notifiers; *p; p = &(*p)->next) {
        if (*p == n) {
            *p = n->next;
            break;
        }
    }
    pthread_rwlock_unlock(&vm->irq.lock);
}
