/* SPDX-License-Identifier: MIT */
/*
 * MSI routes, irqfds and ioeventfds: checks of form, the rest is core's. A GSI has one route here, and only by that route is it an interrupt. No lock of the
 * front is needed.
 */
#include <stdlib.h>

#include "core/ioeventfd.h"
#include "core/irq.h"
#include "core/irqfd.h"
#include "front/mshv/mshv_priv.h"

#define MSI_LEVEL (1u << 15)

int mshv_irqfd(struct mshv_object *o, struct mshv_arg *a)
{
    struct vm *vm = o->partition->vm;
    struct mshv_irqfd in;
    uint64_t address;
    uint32_t data;
    if (user_read(&in, a->value, sizeof in))
        return -EFAULT;
    if (in.flags & ~(uint32_t)(MSHV_IRQFD_DEASSIGN | MSHV_IRQFD_RESAMPLE))
        return -EINVAL;
    if (in.flags & MSHV_IRQFD_DEASSIGN)
        return irqfd_deassign(vm, in.fd, in.gsi);
    if (!vm_has_lapics(vm))
        return -EINVAL;
    if (!(in.flags & MSHV_IRQFD_RESAMPLE))
        return irqfd_assign(vm, in.fd, in.gsi, -1);
    /* Only what is level-triggered is ever acknowledged. */
    if (!irq_find_msi(vm, in.gsi, &address, &data) || !(data & MSI_LEVEL))
        return -EINVAL;
    return irqfd_assign(vm, in.fd, in.gsi, in.resample_fd);
}

int mshv_ioeventfd(struct mshv_object *o, struct mshv_arg *a)
{
    struct vm *vm = o->partition->vm;
    struct mshv_ioeventfd in;
    if (user_read(&in, a->value, sizeof in))
        return -EFAULT;
    if (in.flags & ~(uint32_t)(MSHV_IOEVENTFD_DATAMATCH | MSHV_IOEVENTFD_PIO | MSHV_IOEVENTFD_DEASSIGN))
        return -EINVAL;
    for (unsigned i = 0; i < sizeof in.reserved; i++)
        if (in.reserved[i])
            return -EINVAL;
    if (in.flags & MSHV_IOEVENTFD_PIO)
        return -EOPNOTSUPP;
    const struct ioeventfd_key key = {
        .has_datamatch = in.flags & MSHV_IOEVENTFD_DATAMATCH,
        .addr = in.address,
        .datamatch = in.datamatch,
        .bytes = in.bytes,
        .fd = in.fd,
    };
    return in.flags & MSHV_IOEVENTFD_DEASSIGN ? ioeventfd_deassign(vm, &key) : ioeventfd_assign(vm, &key);
}

static bool is_listed(const struct mshv_msi *entry, uint32_t n, uint32_t gsi)
{
    for (uint32_t i = 0; i < n; i++)
        if (entry[i].gsi == gsi)
            return true;
    return false;
}

static int routes_set(struct vm *vm, uint64_t user, uint32_t n)
{
    struct mshv_msi *entry = calloc(n + 1, sizeof *entry);
    struct irq_route *route = calloc(n + 1, sizeof *route);
    int r = entry && route ? user_read(entry, user, n * sizeof *entry) : -ENOMEM;
    for (uint32_t i = 0; !r && i < n; i++) {
        if (entry[i].gsi >= IRQ_GSI_MAX || entry[i].address_high || is_listed(entry, i, entry[i].gsi))
            r = -EINVAL;
        route[i] = (struct irq_route){ .gsi = entry[i].gsi, .kind = IRQ_ROUTE_MSI, .msi_address = entry[i].address_low, .msi_data = entry[i].data };
    }
    if (!r)
        r = irq_set_routes(vm, route, n);
    free(route);
    free(entry);
    return r;
}

/* The whole table at once. */
int mshv_set_msi_routing(struct mshv_object *o, struct mshv_arg *a)
{
    struct mshv_msi_table head;
    if (user_read(&head, a->value, sizeof head))
        return -EFAULT;
    if (head.n > IRQ_GSI_MAX || head.reserved)
        return -EINVAL;
    return routes_set(o->partition->vm, a->value + sizeof head, head.n);
}
