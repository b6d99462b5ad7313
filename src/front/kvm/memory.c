/* SPDX-License-Identifier: MIT */
/*
 * Memory slots as the client sets them: checks of KVM_SET_USER_MEMORY_REGION and the way of any region into core. The 2007 calls are in memory2007.c.
 * kvm_vm.lock is held; core itself waits for running vCPUs.
 */
#include <sys/mman.h>

#include "base/memfd.h"
#include "base/shared.h"
#include "front/kvm/front_priv.h"

#define GPA_LIMIT (1ull << 52)
#define HVA_LIMIT (1ull << 47)

static uint32_t core_flags(const struct kvm_vm *m, uint32_t flags)
{
    bool is_all_dirty = (m->dirty_log_flags & KVM_DIRTY_LOG_INITIALLY_SET) && !m->dirty_ring_bytes;
    return (is_all_dirty ? MEMSLOT_ALL_DIRTY : 0) | (flags & KVM_MEM_READONLY ? MEMSLOT_READONLY : 0) |
           (flags & KVM_MEM_LOG_DIRTY_PAGES ? MEMSLOT_LOG_DIRTY : 0);
}

struct kvm_region *kvm_memory_region(struct kvm_vm *m, uint32_t slot)
{
    uint32_t space = slot >> MEMSLOT_SPACE_SHIFT, n = slot & ((1u << MEMSLOT_SPACE_SHIFT) - 1);
    return space < SPACE_COUNT && n < KVM_SLOTS ? &m->region[space][n] : NULL;
}

static int region_install(struct kvm_vm *m, uint32_t slot, const struct kvm_region *rg)
{
    int r = vm_set_memslot(m->vm, slot, core_flags(m, rg->flags), rg->gpa, rg->bytes, rg->hva);
    if (!r)
        *kvm_memory_region(m, slot) = *rg;
    return r;
}

/* Puts `want` (bytes 0: nothing) into slot and core. Aliases show regions by host address, so they leave before and come back after. */
int kvm_memory_apply(struct kvm_vm *m, uint32_t slot, const struct kvm_region *want)
{
    struct kvm_region old = *kvm_memory_region(m, slot);
    kvm_memory_alias_withdraw(m);
    int r = region_install(m, slot, want);
    int r2 = kvm_memory_alias_apply(m);
    if (!r && r2) {
        /* It would lie under an alias. */
        region_install(m, slot, &old);
        kvm_memory_alias_apply(m);
    }
    return r ? r : r2;
}

static int user_region_check(const struct kvm_userspace_memory_region *u)
{
    if (u->flags & ~(uint32_t)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
        return -EINVAL;
    if (!page_is_aligned(u->memory_size) || !page_is_aligned(u->guest_phys_addr) || !page_is_aligned(u->userspace_addr))
        return -EINVAL;
    if (u->guest_phys_addr > GPA_LIMIT || u->memory_size > GPA_LIMIT - u->guest_phys_addr)
        return -EINVAL;
    if (u->userspace_addr > HVA_LIMIT || u->memory_size > HVA_LIMIT - u->userspace_addr)
        return -EINVAL;
    return 0;
}

static int user_region_set(struct kvm_vm *m, const struct kvm_userspace_memory_region *u)
{
    const struct kvm_region *old = kvm_memory_region(m, u->slot);
    struct kvm_region want = { .gpa = u->guest_phys_addr, .bytes = u->memory_size, .hva = (hva_t)(uintptr_t)u->userspace_addr, .flags = u->flags };
    if (!old || old->is_own || (!want.bytes && !old->bytes))
        return -EINVAL;
    if (!want.bytes)
        want = (struct kvm_region){ 0 };
    else if (old->bytes) {
        if (want.bytes != old->bytes || want.hva != old->hva || ((want.flags ^ old->flags) & KVM_MEM_READONLY))
            return -EINVAL;
        if (want.gpa == old->gpa && want.flags == old->flags)
            return 0;
    }
    if (!old->bytes)
        shared_make(want.hva, want.bytes);
    return kvm_memory_apply(m, u->slot, &want);
}

static int user_region_handle(struct kvm_vm *m, const struct kvm_userspace_memory_region *u)
{
    int r = user_region_check(u);
    if (r)
        return r;
    pthread_mutex_lock(&m->lock);
    r = user_region_set(m, u);
    pthread_mutex_unlock(&m->lock);
    return r;
}

int kvm_memory_set_user(struct kvm_vm *m, struct kvm_arg *a)
{
    return user_region_handle(m, a->data);
}

/* What the longer form is for, memory that the host does not see, is refused by its flag. */
int kvm_memory_set_user2(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvmlater_memory_region2 *in = a->data;
    const struct kvm_userspace_memory_region u = { in->slot, in->flags, in->guest_phys_addr, in->memory_size, in->userspace_addr };
    return user_region_handle(m, &u);
}

void kvm_memory_fini(struct kvm_vm *m)
{
    for (unsigned i = 0; i < KVM_SLOTS; i++)
        if (m->region[SPACE_NORMAL][i].is_own)
            munmap(m->region[SPACE_NORMAL][i].hva, m->region[SPACE_NORMAL][i].bytes);
}
