/* SPDX-License-Identifier: MIT */
/*
 * CPUID tables, MSR lists and the TSC of a vCPU. vcpu.lock is held.
 */
#include "core/cpuid.h"
#include "core/time.h"
#include "front/kvm/front_priv.h"

static int cpuid_install(struct kvm_vcpu *c, const struct cpuid_entry *entry, uint32_t n)
{
    int r = vcpu_set_cpuid(c->v, entry, n);
    if (!r)
        kvm_state_changed(c);
    return r;
}

int kvm_tables_set_cpuid(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_cpuid head;
    struct kvm_cpuid_entry in[CPUID_ENTRIES_MAX];
    struct cpuid_entry entry[CPUID_ENTRIES_MAX];
    if (user_read(&head, a->value, sizeof(head)))
        return -EFAULT;
    if (head.nent > CPUID_ENTRIES_MAX)
        return -E2BIG;
    if (user_read(in, a->value + sizeof(head), head.nent * sizeof(in[0])))
        return -EFAULT;
    for (uint32_t i = 0; i < head.nent; i++)
        entry[i] = (struct cpuid_entry){ in[i].function, 0, 0, in[i].eax, in[i].ebx, in[i].ecx, in[i].edx };
    return cpuid_install(c, entry, head.nent);
}

int kvm_tables_set_cpuid2(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 in[CPUID_ENTRIES_MAX];
    struct cpuid_entry entry[CPUID_ENTRIES_MAX];
    if (user_read(&head, a->value, sizeof(head)))
        return -EFAULT;
    if (head.nent > CPUID_ENTRIES_MAX)
        return -E2BIG;
    if (user_read(in, a->value + sizeof(head), head.nent * sizeof(in[0])))
        return -EFAULT;
    for (uint32_t i = 0; i < head.nent; i++)
        entry[i] = (struct cpuid_entry){ in[i].function, in[i].index, in[i].flags, in[i].eax, in[i].ebx, in[i].ecx, in[i].edx };
    return cpuid_install(c, entry, head.nent);
}

int kvm_tables_get_cpuid2(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 out[CPUID_ENTRIES_MAX];
    uint32_t n = c->v->n_cpuid;
    if (user_read(&head, a->value, sizeof(head)))
        return -EFAULT;
    if (user_write(a->value, &n, sizeof(n)))
        return -EFAULT;
    if (head.nent < n)
        return -E2BIG;
    for (uint32_t i = 0; i < n; i++) {
        const struct cpuid_entry *e = &c->v->cpuid[i];
        out[i] = (struct kvm_cpuid_entry2){ e->function, e->index, e->flags, e->eax, e->ebx, e->ecx, e->edx, { 0 } };
    }
    return user_write(a->value + sizeof(head), out, n * sizeof(out[0]));
}

int kvm_tables_get_hv_cpuid(struct kvm_vcpu *c, struct kvm_arg *a)
{
    (void)c;
    return kvm_device_hv_cpuid(a); /* the same for all */
}

/* ---- MSRs ----------------------------------------------------------------------------------------------------------------------------------- */

static int msrs_read(uint64_t user, uint32_t *n, struct kvm_msr_entry entry[KVM_MAX_MSRS])
{
    struct kvm_msrs head;
    if (user_read(&head, user, sizeof(head)))
        return -EFAULT;
    if (head.nmsrs >= KVM_MAX_MSRS)
        return -E2BIG;
    *n = head.nmsrs;
    return user_read(entry, user + sizeof(head), head.nmsrs * sizeof(*entry));
}

int kvm_tables_get_msrs(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_msr_entry entry[KVM_MAX_MSRS];
    uint32_t n, done = 0;
    int r = msrs_read(a->value, &n, entry);
    if (r)
        return r;
    for (uint64_t value; done < n && !vcpu_msr_read(c->v, entry[done].index, &value, true); done++)
        entry[done].data = value;
    if (user_write(a->value + sizeof(struct kvm_msrs), entry, done * sizeof(*entry)))
        return -EFAULT;
    return (int)done;
}

int kvm_tables_set_msrs(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_msr_entry entry[KVM_MAX_MSRS];
    uint32_t n, done = 0;
    int r = msrs_read(a->value, &n, entry);
    if (r)
        return r;
    while (done < n && !vcpu_msr_write(c->v, entry[done].index, entry[done].data, true))
        done++;
    if (done)
        kvm_state_changed(c);
    return (int)done;
}

/* ---- TSC ------------------------------------------------------------------------------------------------------------------------------------ */

int kvm_tables_get_tsc_khz(struct kvm_vcpu *c, struct kvm_arg *a)
{
    (void)a;
    return (int)c->v->tsc_khz;
}

int kvm_tables_set_tsc_khz(struct kvm_vcpu *c, struct kvm_arg *a)
{
    uint64_t khz = (uint32_t)a->value;
    int r = vcpu_set_tsc_khz(c->v, khz ? khz : c->v->vm->tsc_khz);
    if (!r)
        kvm_state_changed(c);
    return r;
}

static int attr_check(const struct kvm_device_attr *d)
{
    return d->group != KVM_VCPU_TSC_CTRL || d->attr != KVM_VCPU_TSC_OFFSET ? -ENXIO : 0;
}

int kvm_tables_has_attr(struct kvm_vcpu *c, struct kvm_arg *a)
{
    (void)c;
    return attr_check(a->data);
}

int kvm_tables_get_attr(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_device_attr *d = a->data;
    int r = attr_check(d);
    return r ? r : user_write(d->addr, &c->v->cpu.tsc_offset, sizeof(c->v->cpu.tsc_offset));
}

int kvm_tables_set_attr(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_device_attr *d = a->data;
    uint64_t offset;
    int r = attr_check(d);
    if (!r)
        r = user_read(&offset, d->addr, sizeof(offset));
    if (r)
        return r;
    c->v->cpu.tsc_offset = offset;
    vcpu_request(c->v, VREQ_CLOCK);
    kvm_state_changed(c);
    return 0;
}
