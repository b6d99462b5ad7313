/* SPDX-License-Identifier: MIT */
/*
 * irqfds, ioeventfds and coalesced zones: checks of flags, the rest is core's. No lock of the front is needed.
 */
#include "core/coalesced.h"
#include "core/ioeventfd.h"
#include "core/irqfd.h"
#include "front/kvm/front_priv.h"

_Static_assert(sizeof(struct coalesced_entry) == sizeof(struct kvm_coalesced_mmio), "ring entry");
_Static_assert(offsetof(struct coalesced_entry, addr) == offsetof(struct kvm_coalesced_mmio, phys_addr), "ring entry");
_Static_assert(offsetof(struct coalesced_entry, bytes) == offsetof(struct kvm_coalesced_mmio, len), "ring entry");
_Static_assert(offsetof(struct coalesced_entry, is_pio) == offsetof(struct kvm_coalesced_mmio, pio), "ring entry");
_Static_assert(offsetof(struct coalesced_entry, data) == offsetof(struct kvm_coalesced_mmio, data), "ring entry");
_Static_assert(offsetof(struct coalesced_ring, last) == offsetof(struct kvm_coalesced_mmio_ring, last), "ring");
_Static_assert(offsetof(struct coalesced_ring, entry) == offsetof(struct kvm_coalesced_mmio_ring, coalesced_mmio), "ring");

int kvm_eventfd_irqfd(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_irqfd *q = a->data;
    if (q->flags & ~(uint32_t)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
        return -EINVAL;
    if (q->flags & KVM_IRQFD_FLAG_DEASSIGN)
        return irqfd_deassign(m->vm, (int)q->fd, q->gsi);
    /* Resampling needs the acknowledgements of a PIC or an IOAPIC in process. */
    if (!vm_has_lapics(m->vm) || (q->flags & KVM_IRQFD_FLAG_RESAMPLE && !m->vm->has_irqchip))
        return -EINVAL;
    return irqfd_assign(m->vm, (int)q->fd, q->gsi, q->flags & KVM_IRQFD_FLAG_RESAMPLE ? (int)q->resamplefd : -1);
}

int kvm_eventfd_ioeventfd(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_ioeventfd *e = a->data;
    const uint32_t known = KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN;
    struct ioeventfd_key key = {
        .is_pio = e->flags & KVM_IOEVENTFD_FLAG_PIO,
        .has_datamatch = e->flags & KVM_IOEVENTFD_FLAG_DATAMATCH,
        .addr = e->addr,
        .datamatch = e->datamatch,
        .bytes = e->len,
        .fd = e->fd,
    };
    if (e->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
        return ioeventfd_deassign(m->vm, &key);
    if (e->flags & ~known)
        return -EINVAL;
    return ioeventfd_assign(m->vm, &key);
}

int kvm_eventfd_coalesce(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_coalesced_mmio_zone *z = a->data;
    if (z->pio > 1)
        return -EINVAL;
    return coalesced_add_zone(m->vm, z->pio, z->addr, z->size);
}

int kvm_eventfd_uncoalesce(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_coalesced_mmio_zone *z = a->data;
    if (z->pio > 1)
        return -EINVAL;
    return coalesced_remove_zone(m->vm, z->pio, z->addr, z->size);
}
