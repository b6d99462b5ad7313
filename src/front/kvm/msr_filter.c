/* SPDX-License-Identifier: MIT */
/*
 * KVM_X86_SET_MSR_FILTER: the client's ranges into core's filter. Nothing changes until the whole of it is known to be good.
 */
#include "core/msr_guest.h"

#include <stdlib.h>

#include "front/kvm/front_priv.h"

_Static_assert(KVM_MSR_FILTER_READ == MSR_FILTER_READ && KVM_MSR_FILTER_WRITE == MSR_FILTER_WRITE, "kinds of access");
_Static_assert(KVM_MSR_FILTER_MAX_RANGES == MSR_FILTER_RANGES_MAX, "ranges");
_Static_assert(KVM_MSR_EXIT_REASON_INVAL == MSR_REASON_INVALID && KVM_MSR_EXIT_REASON_UNKNOWN == MSR_REASON_UNKNOWN, "reasons");
_Static_assert(KVM_MSR_EXIT_REASON_FILTER == MSR_REASON_FILTERED, "reasons");

#define BITMAP_BYTES_MAX 0x600u

static int range_add(struct msr_filter *f, const struct kvm_msr_filter_range *in)
{
    if (!in->nmsrs)
        return 0;
    if (!in->flags || (in->flags & ~(uint32_t)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)))
        return -EINVAL;
    uint64_t bytes = ((uint64_t)in->nmsrs + 63) / 64 * 8;
    if (bytes > BITMAP_BYTES_MAX)
        return -EINVAL;
    uint8_t *allowed = malloc(bytes);
    if (!allowed)
        return -ENOMEM;
    if (user_read(allowed, (uintptr_t)in->bitmap, bytes)) {
        free(allowed);
        return -EFAULT;
    }
    f->range[f->n++] = (struct msr_filter_range){ .kinds = in->flags, .first = in->base, .n = in->nmsrs, .allowed = allowed };
    return 0;
}

int kvm_msr_filter_set(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_msr_filter *in = a->data;
    bool is_deny = in->flags & KVM_MSR_FILTER_DEFAULT_DENY, is_empty = true;
    if (in->flags & ~(uint32_t)KVM_MSR_FILTER_DEFAULT_DENY)
        return -EINVAL;
    for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
        is_empty &= !in->ranges[i].nmsrs;
    if (is_empty && is_deny)
        return -EINVAL;
    if (is_empty) {
        msr_filter_set(m->vm, NULL);
        return 0;
    }
    struct msr_filter *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->is_deny = is_deny;
    int r = 0;
    for (unsigned i = 0; !r && i < KVM_MSR_FILTER_MAX_RANGES; i++)
        r = range_add(f, &in->ranges[i]);
    if (r)
        msr_filter_free(f);
    else
        msr_filter_set(m->vm, f);
    return r;
}
