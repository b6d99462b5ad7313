/* SPDX-License-Identifier: MIT */
/*
 * KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG and dirty rings, which take their place. A page written through a 2007 alias is dirty in the slot it belongs to.
 * kvm_vm.lock is held.
 */
#include <stdlib.h>

#include "front/kvm/front_priv.h"

static uint64_t bitmap_words(uint64_t pages)
{
    return (pages + 63) / 64;
}

static void bitmap_or(uint64_t *to, uint64_t first_page, const uint64_t *from, uint64_t n_pages)
{
    for (uint64_t i = 0; i < n_pages; i++)
        if (from[i / 64] >> (i % 64) & 1)
            to[(first_page + i) / 64] |= 1ull << ((first_page + i) % 64);
}

typedef int (*alias_visit)(struct kvm_vm *m, uint32_t core_id, uint64_t first_page, uint64_t n_pages, uint64_t *part, uint64_t *bitmap);

static int alias_add(struct kvm_vm *m, uint32_t core_id, uint64_t first_page, uint64_t n_pages, uint64_t *part, uint64_t *bitmap)
{
    int r = vm_peek_dirty_log(m->vm, core_id, part);
    if (!r)
        bitmap_or(bitmap, first_page, part, n_pages);
    return r;
}

static int alias_clear(struct kvm_vm *m, uint32_t core_id, uint64_t first_page, uint64_t n_pages, uint64_t *part, uint64_t *bitmap)
{
    for (uint64_t i = 0; i < n_pages; i++)
        if (bitmap[(first_page + i) / 64] >> ((first_page + i) % 64) & 1)
            part[i / 64] |= 1ull << (i % 64);
    return vm_clear_dirty_log(m->vm, core_id, 0, n_pages, part);
}

/* With every alias of the slot. */
static int aliases_visit(struct kvm_vm *m, uint32_t slot, alias_visit visit, uint64_t *bitmap)
{
    for (unsigned i = 0; i < KVM2007_ALIAS_SLOTS; i++) {
        for (unsigned k = 0; k < m->alias[i].n; k++) {
            if (m->alias[i].piece[k].region != slot)
                continue;
            uint64_t n_pages = m->alias[i].piece[k].n_pages, *part = calloc(bitmap_words(n_pages), sizeof(*part));
            int r = part ? visit(m, 0x8000u + i * KVM_ALIAS_PIECES + k, m->alias[i].piece[k].first_page, n_pages, part, bitmap) : -ENOMEM;
            free(part);
            if (r)
                return r;
        }
    }
    return 0;
}

/* Bits are cleared only after the client has them. */
static int dirty_hand_over(struct kvm_vm *m, uint32_t slot, uint64_t pages, uint64_t *bitmap, uint64_t user)
{
    int r = vm_peek_dirty_log(m->vm, slot, bitmap);
    if (!r)
        r = aliases_visit(m, slot, alias_add, bitmap);
    if (!r)
        r = user_write(user, bitmap, bitmap_words(pages) * sizeof(*bitmap));
    if (r || m->dirty_log_flags)
        return r;
    r = vm_clear_dirty_log(m->vm, slot, 0, pages, bitmap);
    return r ? r : aliases_visit(m, slot, alias_clear, bitmap);
}

static int dirty_get(struct kvm_vm *m, uint32_t slot, uint64_t user)
{
    const struct kvm_region *rg = kvm_memory_region(m, slot);
    if (m->dirty_ring_bytes)
        return -ENXIO;
    if (!rg)
        return -EINVAL;
    if (!rg->bytes)
        return -ENOENT;
    /* The generations differ here. */
    if (!(rg->flags & KVM_MEM_LOG_DIRTY_PAGES))
        return rg->is_own ? -EINVAL : -ENOENT;
    uint64_t pages = rg->bytes >> PAGE_SHIFT, *bitmap = calloc(bitmap_words(pages), sizeof(*bitmap));
    if (!bitmap)
        return -ENOMEM;
    int r = dirty_hand_over(m, slot, pages, bitmap, user);
    free(bitmap);
    return r;
}

int kvm_dirty_get(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_dirty_log *d = a->data;
    pthread_mutex_lock(&m->lock);
    int r = dirty_get(m, d->slot, (uintptr_t)d->dirty_bitmap);
    pthread_mutex_unlock(&m->lock);
    return r;
}

static int dirty_clear(struct kvm_vm *m, const struct kvm_clear_dirty_log *d)
{
    const struct kvm_region *rg = kvm_memory_region(m, d->slot);
    if (m->dirty_ring_bytes)
        return -ENXIO;
    if (!rg || d->first_page % 64)
        return -EINVAL;
    uint64_t pages = rg->bytes >> PAGE_SHIFT, n = d->num_pages;
    if (!rg->bytes || !(rg->flags & KVM_MEM_LOG_DIRTY_PAGES))
        return -ENOENT;
    if (d->first_page > pages || n > pages - d->first_page || (n < pages - d->first_page && n % 64))
        return -EINVAL;
    uint64_t *bitmap = calloc(bitmap_words(n) + 1, sizeof(*bitmap));
    if (!bitmap)
        return -ENOMEM;
    int r = user_read(bitmap, (uintptr_t)d->dirty_bitmap, bitmap_words(n) * sizeof(*bitmap));
    if (!r)
        r = vm_clear_dirty_log(m->vm, d->slot, d->first_page, n, bitmap);
    free(bitmap);
    return r;
}

int kvm_dirty_clear(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm_clear_dirty_log *d = a->data;
    pthread_mutex_lock(&m->lock);
    int r = dirty_clear(m, d);
    pthread_mutex_unlock(&m->lock);
    return r;
}

_Static_assert(sizeof(struct kvm_dirty_gfn) == sizeof(struct dirty_ring_entry), "entries of dirty rings");
_Static_assert(offsetof(struct kvm_dirty_gfn, slot) == offsetof(struct dirty_ring_entry, slot), "entries of dirty rings");
_Static_assert(offsetof(struct kvm_dirty_gfn, offset) == offsetof(struct dirty_ring_entry, page), "entries of dirty rings");
_Static_assert(KVM_DIRTY_GFN_F_DIRTY == DIRTY_RING_DIRTY && KVM_DIRTY_GFN_F_RESET == DIRTY_RING_TAKEN, "flags of dirty rings");

int kvm_dirty_enable_ring(struct kvm_vm *m, uint32_t bytes)
{
    if (!bytes || (bytes & (bytes - 1)) || bytes < PAGE_BYTES)
        return -EINVAL;
    if (bytes > KVM_DIRTY_RING_BYTES_MAX)
        return -E2BIG;
    if (m->dirty_ring_bytes || m->n_vcpus)
        return -EINVAL;
    int r = kvm_object_grow_first_run(m, bytes);
    if (!r)
        m->dirty_ring_bytes = bytes;
    return r;
}

int kvm_dirty_reset_rings(struct kvm_vm *m, struct kvm_arg *a)
{
    (void)a;
    pthread_mutex_lock(&m->lock);
    int r = m->dirty_ring_bytes ? vm_reset_dirty_rings(m->vm) : -EINVAL;
    pthread_mutex_unlock(&m->lock);
    return r;
}
