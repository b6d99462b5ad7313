/* SPDX-License-Identifier: MIT */
/*
 * Interrupt lines, routing and MSIs of the in-process controllers. Core and the chips lock.
 */
#include <stdlib.h>

#include "front/kvm/front_priv.h"

static int line_set(struct kvm_vm *m, const struct kvm_irq_level *l)
{
    return irq_set_level(m->vm, l->irq, IRQ_SOURCE_CLIENT, l->level);
}

int kvm_irq_line(struct kvm_vm *m, struct kvm_arg *a)
{
    if (!vm_has_lapics(m->vm))
        return -ENXIO;
    line_set(m, a->data);
    return 0;
}

int kvm_irq_line_status(struct kvm_vm *m, struct kvm_arg *a)
{
    struct kvm_irq_level *l = a->data;
    if (!vm_has_lapics(m->vm))
        return -ENXIO;
    int r = line_set(m, l);
    l->status = r < 0 ? -1 : r;
    return 0;
}

/* Bits 0-7 of the upper half mean nothing: with 32-bit ids they must be clear. */
static bool is_msi_address(const struct vm *vm, uint32_t address_hi)
{
    return !(vm->x2apic_api_flags & KVM_X2APIC_API_USE_32BIT_IDS) || !(address_hi & 0xff);
}

static int route_from_entry(const struct vm *vm, struct irq_route *out, const struct kvm_irq_routing_entry *e)
{
    uint32_t known_flags = e->type == KVM_IRQ_ROUTING_MSI ? KVM_MSI_VALID_DEVID : 0;
    if (e->flags & ~known_flags || e->gsi >= IRQ_GSI_MAX)
        return -EINVAL;
    *out = (struct irq_route){ .gsi = e->gsi };
    if (e->type == KVM_IRQ_ROUTING_MSI) {
        if (!is_msi_address(vm, e->u.msi.address_hi))
            return -EINVAL;
        out->kind = IRQ_ROUTE_MSI;
        out->msi_address = e->u.msi.address_lo | (uint64_t)e->u.msi.address_hi << 32;
        out->msi_data = e->u.msi.data;
        return 0;
    }
    if (e->type != KVM_IRQ_ROUTING_IRQCHIP || !vm->has_irqchip)
        return -EINVAL;
    static const struct {
        enum irq_route_kind kind;
        unsigned pins;
    } chips[KVM_NR_IRQCHIPS] = {
        [KVM_IRQCHIP_PIC_MASTER] = { IRQ_ROUTE_PIC_MASTER, 8 },
        [KVM_IRQCHIP_PIC_SLAVE] = { IRQ_ROUTE_PIC_SLAVE, 8 },
        [KVM_IRQCHIP_IOAPIC] = { IRQ_ROUTE_IOAPIC, KVM_IOAPIC_NUM_PINS },
    };
    if (e->u.irqchip.irqchip >= KVM_NR_IRQCHIPS || e->u.irqchip.pin >= chips[e->u.irqchip.irqchip].pins)
        return -EINVAL;
    out->kind = chips[e->u.irqchip.irqchip].kind;
    out->pin = e->u.irqchip.pin;
    return 0;
}

static int routing_set(struct kvm_vm *m, uint64_t user, uint32_t n)
{
    struct kvm_irq_routing_entry *entry = calloc(n + 1, sizeof(*entry));
    struct irq_route *route = calloc(n + 1, sizeof(*route));
    int r = entry && route ? user_read(entry, user, n * sizeof(*entry)) : -ENOMEM;
    for (uint32_t i = 0; !r && i < n; i++)
        r = route_from_entry(m->vm, &route[i], &entry[i]);
    if (!r)
        r = irq_set_routes(m->vm, route, n);
    free(route);
    free(entry);
    return r;
}

int kvm_irq_set_routing(struct kvm_vm *m, struct kvm_arg *a)
{
    struct kvm_irq_routing head;
    if (user_read(&head, a->value, sizeof(head)))
        return -EFAULT;
    if (!vm_has_lapics(m->vm) || head.nr > IRQ_GSI_MAX || head.flags)
        return -EINVAL;
    return routing_set(m, a->value + sizeof(head), head.nr);
}

int kvm_irq_signal_msi(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_msi *msi = a->data;
    if (!vm_has_lapics(m->vm) || msi->flags & ~(uint32_t)KVM_MSI_VALID_DEVID || !is_msi_address(m->vm, msi->address_hi))
        return -EINVAL;
    /* Nobody there to take it is no error. */
    int r = irq_send_msi(m->vm, msi->address_lo | (uint64_t)msi->address_hi << 32, msi->data);
    return r < 0 ? 0 : r;
}
