/* SPDX-License-Identifier: MIT */
/*
 * KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG. A page written through a 2007 alias is dirty in the slot it belongs to. kvm_vm.lock is held.
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

static int dirty_fetch(struct kvm_vm *m, uint32_t core_id, uint64_t *bitmap)
{
    return m->has_manual_dirty_log ? vm_peek_dirty_log(m->vm, core_id, bitmap) : vm_get_dirty_log(m->vm, core_id, bitmap);
}

/* Adds what was written through aliases of the slot. */
static int dirty_add_aliases(struct kvm_vm *m, uint32_t slot, uint64_t *bitmap)
{
    for (unsigned i = 0; i < KVM2007_ALIAS_SLOTS; i++) {
        for (unsigned k = 0; k < m->alias[i].n; k++) {
            if (m->alias[i].piece[k].region != slot)
                continue;
            uint64_t *part = calloc(bitmap_words(m->alias[i].piece[k].n_pages), sizeof(*part));
            if (!part)
                return -ENOMEM;
            int r = dirty_fetch(m, 0x8000u + i * KVM_ALIAS_PIECES + k, part);
            if (!r)
                bitmap_or(bitmap, m->alias[i].piece[k].first_page, part, m->alias[i].piece[k].n_pages);
            free(part);
            if (r)
                return r;
        }
    }
    return 0;
}

static int dirty_get(struct kvm_vm *m, uint32_t slot, uint64_t user)
{
    const struct kvm_region *rg = kvm_memory_region(m, slot);
    if (!rg)
        return -EINVAL;
    if (!rg->bytes)
        return -ENOENT;
    /* The generations differ here. */
    if (!(rg->flags & KVM_MEM_LOG_DIRTY_PAGES))
        return rg->is_own ? -EINVAL : -ENOENT;
    uint64_t words = bitmap_words(rg->bytes >> PAGE_SHIFT);
    uint64_t *bitmap = calloc(words, sizeof(*bitmap));
    if (!bitmap)
        return -ENOMEM;
    int r = dirty_fetch(m, slot, bitmap);
    if (!r)
        r = dirty_add_aliases(m, slot, bitmap);
    if (!r)
        r = user_write(user, bitmap, words * sizeof(*bitmap));
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
    if (!rg)
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
    if (d->first_page % 64)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    int r = dirty_clear(m, d);
    pthread_mutex_unlock(&m->lock);
    return r;
}
