/* SPDX-License-Identifier: MIT */
/*
 * Creation and state of the in-process interrupt controllers and the PIT: conversion between KVM's structs and chip/state.h.
 */
#include <string.h>

#include "chip/state.h"
#include "front/kvm/front_priv.h"

_Static_assert(sizeof(struct kvm_lapic_state) == LAPIC_PAGE_BYTES, "LAPIC register page");
_Static_assert(sizeof(struct kvm_pic_state) == sizeof(struct pic_state), "both are the same 16 bytes");
_Static_assert(offsetof(struct kvm_pic_state, elcr_mask) == offsetof(struct pic_state, elcr_mask), "both are the same 16 bytes");
_Static_assert(offsetof(struct kvm_pic_state, special_mask) == offsetof(struct pic_state, special_mask), "both are the same 16 bytes");

int kvm_chips_create_irqchip(struct kvm_vm *m, struct kvm_arg *a)
{
    struct vm *vm = m->vm;
    int r;
    (void)a;
    pthread_mutex_lock(&m->lock);
    pthread_mutex_lock(&vm->lock);
    if (vm_has_lapics(vm))
        r = -EEXIST;
    else if (m->n_vcpus)
        r = -EINVAL;
    else if (!vm->chip)
        r = -ENODEV;
    else
        r = vm->chip->irqchip_create(vm);
    pthread_mutex_unlock(&vm->lock);
    if (!r) {
        r = irq_set_default_routes(vm);
        if (r) {
            pthread_mutex_lock(&vm->lock);
            vm->chip->irqchip_destroy(vm);
            pthread_mutex_unlock(&vm->lock);
        }
    }
    if (!r)
        vm->has_irqchip = true;
    pthread_mutex_unlock(&m->lock);
    return r;
}

static void ioapic_to_kvm(struct kvm_ioapic_state *out, const struct ioapic_state *in)
{
    *out = (struct kvm_ioapic_state){ .base_address = in->base_address, .ioregsel = in->ioregsel, .id = in->id, .irr = in->irr };
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        out->redirtbl[i].bits = in->redirtbl[i];
}

static void ioapic_from_kvm(struct ioapic_state *out, const struct kvm_ioapic_state *in)
{
    *out = (struct ioapic_state){ .base_address = in->base_address, .ioregsel = in->ioregsel, .id = in->id, .irr = in->irr };
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        out->redirtbl[i] = in->redirtbl[i].bits;
}

int kvm_chips_get_irqchip(struct kvm_vm *m, struct kvm_arg *a)
{
    struct kvm_irqchip *k = a->data;
    uint32_t id;
    struct pic_state pic;
    struct ioapic_state ioapic;
    /* An in-out call: the direction bits of its number make the dispatcher copy both ways. */
    id = k->chip_id;
    if (!m->vm->has_irqchip)
        return -ENXIO;
    if (id >= KVM_NR_IRQCHIPS)
        return -EINVAL;
    if (id == KVM_IRQCHIP_IOAPIC) {
        int r = ioapic_state_get(m->vm, &ioapic);
        if (!r)
            ioapic_to_kvm(&k->chip.ioapic, &ioapic);
        return r;
    }
    int r = pic_state_get(m->vm, id == KVM_IRQCHIP_PIC_SLAVE, &pic);
    if (!r)
        memcpy(&k->chip.pic, &pic, sizeof(pic));
    return r;
}

int kvm_chips_set_irqchip(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_irqchip *k = a->data;
    struct pic_state pic;
    struct ioapic_state ioapic;
    if (!m->vm->has_irqchip)
        return -ENXIO;
    if (k->chip_id >= KVM_NR_IRQCHIPS)
        return -EINVAL;
    if (k->chip_id == KVM_IRQCHIP_IOAPIC) {
        ioapic_from_kvm(&ioapic, &k->chip.ioapic);
        return ioapic_state_set(m->vm, &ioapic);
    }
    memcpy(&pic, &k->chip.pic, sizeof(pic));
    return pic_state_set(m->vm, k->chip_id == KVM_IRQCHIP_PIC_SLAVE, &pic);
}

/* ---- PIT ------------------------------------------------------------------------------------------------------------------------------------ */

static int pit_make(struct kvm_vm *m, uint32_t flags)
{
    pthread_mutex_lock(&m->vm->lock);
    int r = m->vm->has_pit ? -EEXIST : !m->vm->has_irqchip ? -ENOENT : pit_create(m->vm, flags);
    pthread_mutex_unlock(&m->vm->lock);
    return r;
}

int kvm_chips_create_pit(struct kvm_vm *m, struct kvm_arg *a)
{
    (void)a;
    return pit_make(m, PIT_SPEAKER_DUMMY);
}

int kvm_chips_create_pit2(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_pit_config *p = a->data;
    return pit_make(m, p->flags & KVM_PIT_SPEAKER_DUMMY ? PIT_SPEAKER_DUMMY : 0);
}

static void channel_to_kvm(struct kvm_pit_channel_state *out, const struct pit_channel_state *in)
{
    *out = (struct kvm_pit_channel_state){
        .count = in->count,
        .latched_count = in->latched_count,
        .count_latched = in->count_latched,
        .status_latched = in->status_latched,
        .status = in->status,
        .read_state = in->read_state,
        .write_state = in->write_state,
        .write_latch = in->write_latch,
        .rw_mode = in->rw_mode,
        .mode = in->mode,
        .bcd = in->bcd,
        .gate = in->gate,
        .count_load_time = in->count_load_time,
    };
}

static void channel_from_kvm(struct pit_channel_state *out, const struct kvm_pit_channel_state *in)
{
    *out = (struct pit_channel_state){
        .count = in->count,
        .latched_count = in->latched_count,
        .count_latched = in->count_latched,
        .status_latched = in->status_latched,
        .status = in->status,
        .read_state = in->read_state,
        .write_state = in->write_state,
        .write_latch = in->write_latch,
        .rw_mode = in->rw_mode,
        .mode = in->mode,
        .bcd = in->bcd,
        .gate = in->gate,
        .count_load_time = in->count_load_time,
    };
}

static int pit_get(struct kvm_vm *m, struct kvm_pit_channel_state out[3], uint32_t *flags)
{
    struct pit_state s;
    int r = m->vm->has_pit ? pit_state_get(m->vm, &s) : -ENXIO;
    if (r)
        return r;
    for (unsigned i = 0; i < 3; i++)
        channel_to_kvm(&out[i], &s.channels[i]);
    *flags = s.flags;
    return 0;
}

static int pit_set(struct kvm_vm *m, const struct kvm_pit_channel_state in[3], uint32_t flags)
{
    struct pit_state s = { .flags = flags & (PIT_FLAG_HPET_LEGACY | PIT_FLAG_SPEAKER_ON) };
    if (!m->vm->has_pit)
        return -ENXIO;
    for (unsigned i = 0; i < 3; i++)
        channel_from_kvm(&s.channels[i], &in[i]);
    return pit_state_set(m->vm, &s);
}

int kvm_chips_get_pit(struct kvm_vm *m, struct kvm_arg *a)
{
    uint32_t flags;
    return pit_get(m, ((struct kvm_pit_state *)a->data)->channels, &flags);
}

int kvm_chips_set_pit(struct kvm_vm *m, struct kvm_arg *a)
{
    return pit_set(m, ((struct kvm_pit_state *)a->data)->channels, 0);
}

int kvm_chips_get_pit2(struct kvm_vm *m, struct kvm_arg *a)
{
    struct kvm_pit_state2 *p = a->data;
    return pit_get(m, p->channels, &p->flags);
}

int kvm_chips_set_pit2(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_pit_state2 *p = a->data;
    return pit_set(m, p->channels, p->flags);
}

/* Its number says "no argument", but it has one. */
int kvm_chips_reinject(struct kvm_vm *m, struct kvm_arg *a)
{
    struct kvm_reinject_control ctl;
    if (user_read(&ctl, a->value, sizeof(ctl)))
        return -EFAULT;
    return m->vm->has_pit ? pit_set_reinject(m->vm, ctl.pit_reinject) : -ENXIO;
}

/* ---- vCPU --------------------------------------------------------------------------------------------------------------------------------- */

int kvm_chips_get_lapic(struct kvm_vcpu *c, struct kvm_arg *a)
{
    if (!c->v->lapic)
        return -EINVAL;
    lapic_state_get(c->v, a->data);
    return 0;
}

int kvm_chips_set_lapic(struct kvm_vcpu *c, struct kvm_arg *a)
{
    if (!c->v->lapic)
        return -EINVAL;
    int r = lapic_state_set(c->v, a->data);
    if (!r) {
        vcpu_request(c->v, VREQ_EVENT);
        kvm_state_changed(c);
    }
    return r;
}

int kvm_chips_set_vapic(struct kvm_vcpu *c, struct kvm_arg *a)
{
    return vapic_set(c->v, ((const struct kvm_vapic_addr *)a->data)->vapic_addr);
}

int kvm_chips_report_tpr(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_tpr_access_ctl *ctl = a->data;
    if (ctl->flags)
        return -EINVAL;
    c->v->reports_tpr = ctl->enabled;
    return 0;
}

int kvm_chips_clock_ctrl(struct kvm_vcpu *c, struct kvm_arg *a)
{
    (void)a;
    return pvclock_mark_stopped(c->v);
}
