/* SPDX-License-Identifier: MIT */
/*
 * Calls on the device fd: what there is, and a new VM. No lock.
 */
#include <stdlib.h>

#include "base/host.h"
#include "chip/hv.h"
#include "core/cpuid.h"
#include "front/kvm/front_priv.h"

int kvm_device_api_version(struct kvm_arg *a)
{
    (void)a;
    return KVM_API_VERSION;
}

int kvm_device_create_vm(struct kvm_arg *a)
{
    if (a->value)
        return -EINVAL; /* machine types are other architectures' */
    return kvm_object_create_vm(&a->created);
}

int kvm_device_check_extension(struct kvm_arg *a)
{
    return kvm_capability_value((uint32_t)a->value);
}

int kvm_device_mmap_size(struct kvm_arg *a)
{
    (void)a;
    return KVM_RUN_PAGES * PAGE_BYTES;
}

#define LIST_MAX 512u
static int list_write(uint64_t user, unsigned (*fill)(uint32_t *out, unsigned max))
{
    uint32_t room, list[LIST_MAX];
    if (user_read(&room, user, sizeof(room)))
        return -EFAULT;
    uint32_t n = fill(list, LIST_MAX);
    if (n > LIST_MAX)
        n = LIST_MAX;
    if (user_write(user, &n, sizeof(n)))
        return -EFAULT;
    if (room < n)
        return -E2BIG;
    return user_write(user + sizeof(n), list, n * sizeof(list[0]));
}

int kvm_device_msr_index_list(struct kvm_arg *a)
{
    return list_write(a->value, msr_index_list);
}

int kvm_device_msr_feature_list(struct kvm_arg *a)
{
    return list_write(a->value, msr_feature_list);
}

int kvm_device_get_msrs(struct kvm_arg *a)
{
    struct kvm_msrs head;
    struct kvm_msr_entry entry[KVM_MAX_MSRS];
    if (user_read(&head, a->value, sizeof(head)))
        return -EFAULT;
    if (head.nmsrs >= KVM_MAX_MSRS)
        return -E2BIG;
    if (user_read(entry, a->value + sizeof(head), head.nmsrs * sizeof(entry[0])))
        return -EFAULT;
    uint32_t done = 0;
    for (uint64_t value; done < head.nmsrs && !msr_feature_read(entry[done].index, &value); done++)
        entry[done].data = value;
    if (user_write(a->value + sizeof(head), entry, done * sizeof(entry[0])))
        return -EFAULT;
    return (int)done;
}

static int cpuid_write(uint64_t user, unsigned (*fill)(struct cpuid_entry *out, unsigned max))
{
    struct kvm_cpuid2 head;
    struct cpuid_entry list[CPUID_ENTRIES_MAX];
    struct kvm_cpuid_entry2 out[CPUID_ENTRIES_MAX];
    if (user_read(&head, user, sizeof(head)))
        return -EFAULT;
    uint32_t room = head.nent, n = fill(list, CPUID_ENTRIES_MAX);
    if (n > CPUID_ENTRIES_MAX)
        n = CPUID_ENTRIES_MAX;
    if (user_write(user, &n, sizeof(n)))
        return -EFAULT;
    if (room < n)
        return -E2BIG;
    for (uint32_t i = 0; i < n; i++) {
        const struct cpuid_entry *e = &list[i];
        out[i] = (struct kvm_cpuid_entry2){ e->function, e->index, e->flags, e->eax, e->ebx, e->ecx, e->edx, { 0 } };
    }
    return user_write(user + sizeof(head), out, n * sizeof(out[0]));
}

int kvm_device_supported_cpuid(struct kvm_arg *a)
{
    return cpuid_write(a->value, cpuid_supported);
}

int kvm_device_hv_cpuid(struct kvm_arg *a)
{
    return cpuid_write(a->value, hv_cpuid_supported);
}

/* Features that are offered although the host lacks them: there are none, and an empty list needs no room. */
int kvm_device_emulated_cpuid(struct kvm_arg *a)
{
    uint32_t n = 0;
    return user_write(a->value, &n, sizeof(n));
}

int kvm_device_mce_cap(struct kvm_arg *a)
{
    *(uint64_t *)a->data = MCG_CAP_SUPPORTED;
    return 0;
}

static int system_attr_check(const struct kvm_device_attr *d)
{
    return d->group || d->attr != KVM_X86_XCOMP_GUEST_SUPP ? -ENXIO : 0;
}

int kvm_device_has_attr(struct kvm_arg *a)
{
    return system_attr_check(a->data);
}

int kvm_device_get_attr(struct kvm_arg *a)
{
    const struct kvm_device_attr *d = a->data;
    uint64_t xcr0 = host_facts()->xcr0;
    int r = system_attr_check(d);
    return r ? r : user_write(d->addr, &xcr0, sizeof(xcr0));
}
