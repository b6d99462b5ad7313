/* SPDX-License-Identifier: MIT */
/*
 * Calls on the VM fd that fit nowhere else: vCPU creation, legacy addresses, the clock.
 */
#include "chip/state.h"
#include "core/time.h"
#include "front/kvm/front_priv.h"

#define MMU_PAGES_MIN 64u
#define TSS_ADDR_MAX 0xffffd000u /* three pages below 4 GiB */

int kvm_vm_create_vcpu(struct kvm_vm *m, struct kvm_arg *a)
{
    if (a->value >= VM_VCPU_IDS)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    int r = kvm_object_create_vcpu(m, (uint32_t)a->value, &a->created);
    pthread_mutex_unlock(&m->lock);
    return r;
}

/* Real mode needs no help here, so the pages that Intel's virtualization borrows from the guest stay unused; the address is checked all the same. */
int kvm_vm_set_tss_addr(struct kvm_vm *m, struct kvm_arg *a)
{
    (void)m;
    return (uint32_t)a->value > TSS_ADDR_MAX ? -EINVAL : 0;
}

int kvm_vm_set_identity_map(struct kvm_vm *m, struct kvm_arg *a)
{
    (void)a;
    pthread_mutex_lock(&m->lock);
    int r = m->n_vcpus ? -EINVAL : 0;
    pthread_mutex_unlock(&m->lock);
    return r;
}

int kvm_vm_set_boot_cpu(struct kvm_vm *m, struct kvm_arg *a)
{
    pthread_mutex_lock(&m->lock);
    int r = m->n_vcpus ? -EBUSY : 0;
    if (!r)
        m->vm->boot_cpu_id = (uint32_t)a->value;
    pthread_mutex_unlock(&m->lock);
    return r;
}

/* There are no shadow pages to limit. */
int kvm_vm_set_mmu_pages(struct kvm_vm *m, struct kvm_arg *a)
{
    (void)m;
    return (uint32_t)a->value < MMU_PAGES_MIN ? -EINVAL : 0;
}

int kvm_vm_get_clock(struct kvm_vm *m, struct kvm_arg *a)
{
    struct kvm_clock_data *d = a->data;
    d->clock = pvclock_now_ns(m->vm);
    d->flags = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | (pvclock_is_stable(m->vm) ? KVM_CLOCK_TSC_STABLE : 0);
    d->realtime = time_realtime_ns();
    d->host_tsc = time_host_tsc();
    return 0;
}

int kvm_vm_set_clock(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_clock_data *d = a->data;
    if (d->flags & ~(uint32_t)(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
        return -EINVAL;
    uint64_t clock = d->clock, now = time_realtime_ns();
    /* The time that passed since the client read it, on another machine perhaps. */
    if ((d->flags & KVM_CLOCK_REALTIME) && now > d->realtime)
        clock += now - d->realtime;
    pvclock_set_ns(m->vm, clock);
    return 0;
}

int kvm_vm_get_tsc_khz(struct kvm_vm *m, struct kvm_arg *a)
{
    (void)a;
    return (int)(m->default_tsc_khz ? m->default_tsc_khz : m->vm->tsc_khz);
}

int kvm_vm_set_tsc_khz(struct kvm_vm *m, struct kvm_arg *a)
{
    uint64_t khz = (uint32_t)a->value;
    if (khz > 16 * m->vm->tsc_khz)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    int r = m->n_vcpus ? -EINVAL : 0;
    if (!r)
        m->default_tsc_khz = khz;
    pthread_mutex_unlock(&m->lock);
    return r;
}

int kvm_vm_create_device(struct kvm_vm *m, struct kvm_arg *a)
{
    (void)m;
    (void)a;
    return -ENODEV; /* no device type exists */
}
