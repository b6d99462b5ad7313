/* SPDX-License-Identifier: MIT */
/*
 * The guest's RDMSR and WRMSR: first the client's answer if this is a restart, then the filter, then the register itself; what fails leaves to the client if it
 * asked for that. vm.msr_lock guards the filter; a VM without one pays a load.
 */
#include "core/msr_guest.h"

#include <errno.h>
#include <stdlib.h>

#include "core/vcpu.h"
#include "core/vm.h"

void msr_filter_free(struct msr_filter *f)
{
    for (unsigned i = 0; f && i < f->n; i++)
        free(f->range[i].allowed);
    free(f);
}

void msr_filter_set(struct vm *vm, struct msr_filter *f)
{
    pthread_rwlock_wrlock(&vm->msr_lock);
    struct msr_filter *old = atomic_exchange(&vm->msr_filter, f);
    pthread_rwlock_unlock(&vm->msr_lock);
    msr_filter_free(old);
}

static bool filter_allows(const struct msr_filter *f, uint32_t index, uint32_t kind)
{
    for (unsigned i = 0; i < f->n; i++) {
        const struct msr_filter_range *r = &f->range[i];
        uint32_t bit = index - r->first;
        if ((r->kinds & kind) && index >= r->first && bit < r->n)
            return r->allowed[bit / 8] >> bit % 8 & 1;
    }
    return !f->is_deny;
}

/* The APIC's registers are no business of filters (Linux, Documentation/virt/kvm/api.rst, KVM_X86_SET_MSR_FILTER). */
static bool is_allowed(struct vm *vm, uint32_t index, uint32_t kind)
{
    if (!atomic_load(&vm->msr_filter) || (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST))
        return true;
    pthread_rwlock_rdlock(&vm->msr_lock);
    const struct msr_filter *f = atomic_load(&vm->msr_filter);
    bool is_yes = !f || filter_allows(f, index, kind);
    pthread_rwlock_unlock(&vm->msr_lock);
    return is_yes;
}

static bool is_ignored(const struct vcpu *v, int error)
{
    return error == -ENOENT && atomic_load(&v->vm->ignores_unknown_msrs);
}

static enum msr_outcome refused(struct vcpu *v, uint32_t index, bool is_write, uint64_t data, uint32_t reason)
{
    if (!(atomic_load(&v->vm->msr_exit_reasons) & reason))
        return MSR_FAULT;
    v->exit.kind = EXIT_MSR;
    v->exit.msr.is_write = is_write;
    v->exit.msr.index = index;
    v->exit.msr.data = data;
    v->exit.msr.reason = reason;
    return MSR_EXIT;
}

static uint32_t reason_of(int error)
{
    return error == -ENOENT ? MSR_REASON_UNKNOWN : MSR_REASON_INVALID;
}

enum msr_outcome msr_guest_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
    if (v->replay.msr_done) {
        *value = v->replay.msr_data;
        return v->replay.msr_error ? MSR_FAULT : MSR_DONE;
    }
    if (!is_allowed(v->vm, index, MSR_FILTER_READ))
        return refused(v, index, false, 0, MSR_REASON_FILTERED);
    int error = vcpu_msr_read(v, index, value, false);
    if (is_ignored(v, error))
        *value = error = 0;
    return error ? refused(v, index, false, 0, reason_of(error)) : MSR_DONE;
}

enum msr_outcome msr_guest_write(struct vcpu *v, uint32_t index, uint64_t value)
{
    if (v->replay.msr_done)
        return v->replay.msr_error ? MSR_FAULT : MSR_DONE;
    if (!is_allowed(v->vm, index, MSR_FILTER_WRITE))
        return refused(v, index, true, value, MSR_REASON_FILTERED);
    int error = vcpu_msr_write(v, index, value, false);
    if (is_ignored(v, error))
        return MSR_DONE;
    return error ? refused(v, index, true, value, reason_of(error)) : MSR_DONE;
}
