/* SPDX-License-Identifier: MIT */
/*
 * The table through which core reaches the chips, and what concerns more than one of them: creation, the order in which a vCPU's interrupts are taken,
 * and which MSR is whose.
 */
#include <errno.h>

#include "chip/chip_priv.h"
#include "chip/hv_priv.h"
#include "chip/pc.h"

static void pc_irqchip_destroy(struct vm *vm)
{
    pit_destroy(vm);
    ioapic_destroy(vm);
    pic_destroy(vm);
    vm->has_irqchip = false;
}

static int pc_irqchip_create(struct vm *vm)
{
    int err = vm->pic || vm->ioapic ? -EEXIST : pic_create(vm);
    if (err)
        return err;
    err = ioapic_create(vm);
    for (unsigned i = 0; !err && i < atomic_load(&vm->n_vcpus); i++)
        if (vm->vcpu[i])
            err = lapic_create(vm->vcpu[i]);
    if (err)
        pc_irqchip_destroy(vm);
    else
        vm->has_irqchip = true;
    return err;
}

static bool pc_lapic_takes_pic(struct vcpu *v)
{
    struct lapic *l = lapic_of(v);
    return l && atomic_load_explicit(&l->takes_pic, memory_order_relaxed);
}

/* The PIC first, as KVM does: ExtINT has no priority that could be compared, and its guests poll the PIC with the LAPIC's timer waiting. */
static int pc_irq_peek(struct vcpu *v)
{
    struct lapic *l = lapic_of(v);
    if (!l)
        return -1;
    vapic_pull(l);
    vapic_push(l); /* what arrived since */
    if (pc_lapic_takes_pic(v)) {
        int vector = v->ev.extint.pending ? v->ev.extint.vector : pic_peek(v->vm);
        if (vector >= 0)
            return vector;
    }
    return lapic_peek(l);
}

static int pc_irq_take(struct vcpu *v)
{
    struct lapic *l = lapic_of(v);
    if (!l)
        return -1;
    if (pc_lapic_takes_pic(v)) {
        int vector = v->ev.extint.pending ? v->ev.extint.vector : pic_take(v->vm);
        v->ev.extint.pending = false;
        if (vector >= 0)
            return vector;
    }
    int vector = lapic_take(l);
    vapic_push(l);
    return vector;
}

static bool is_lapic_msr(uint32_t index)
{
    return index == MSR_TSC_DEADLINE || (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

static int pc_msr_read(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    if (hv_is_msr(index))
        return hv_msr_read(v, index, value, is_host);
    int r = is_lapic_msr(index) ? lapic_msr_read(v, index, value) : pvclock_msr_read(v, index, value);
    if (r != PV_REFUSED)
        return r;
    *value = 0; /* a client saves and restores all that is listed */
    return is_host ? 0 : -EINVAL;
}

static int pc_msr_write(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    if (hv_is_msr(index))
        return hv_msr_write(v, index, value, is_host);
    int r = is_lapic_msr(index) ? lapic_msr_write(v, index, value) : pvclock_msr_write(v, index, value);
    return r != PV_REFUSED ? r : is_host && !value ? 0 : -EINVAL;
}

static bool pc_run_enter(struct vcpu *v)
{
    hv_time_run_enter(v);
    return pvclock_run_enter(v);
}

static void pc_vcpu_destroy(struct vcpu *v)
{
    hv_vcpu_destroy(v);
    lapic_destroy(v);
}

const struct chip_ops pc_chip_ops = {
    .irqchip_create = pc_irqchip_create,
    .irqchip_destroy = pc_irqchip_destroy,
    .lapic_create = lapic_create,
    .vm_destroy = hv_vm_destroy,
    .lapic_destroy = pc_vcpu_destroy,
    .lapic_reset = lapic_reset,
    .irq_peek = pc_irq_peek,
    .irq_take = pc_irq_take,
    .lapic_takes_pic = pc_lapic_takes_pic,
    .cr8_get = lapic_cr8_get,
    .cr8_set = lapic_cr8_set,
    .apic_base_set = lapic_base_set,
    .msr_read = pc_msr_read,
    .msr_write = pc_msr_write,
    .lapic_mmio_read = lapic_mmio_read,
    .lapic_mmio_write = lapic_mmio_write,
    .pic_set = pic_set,
    .ioapic_set = ioapic_set,
    .msi_send = lapic_msi_send,
    .time_stood = lapic_timer_time_stood,
    .time_goes = lapic_timer_time_goes,
    .vcpu_run_enter = pc_run_enter,
    .vcpu_sleep = pvclock_sleep,
    .hypercall = pv_call,
    .hv_call = hv_call,
};
