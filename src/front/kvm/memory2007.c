/* SPDX-License-Identifier: MIT */
/*
 * Memory of the 2007 generation: the host allocates it, in the VM fd's file at the guest-physical address, where the client maps it; and aliases, which show
 * part of guest memory at a second address. An alias that overlaps a slot is refused (EEXIST), where Linux 2.6.20 let it win; clients put theirs into holes.
 * kvm_vm.lock is held.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memfd.h"
#include "front/kvm/front_priv.h"

#define GPA_LIMIT (1ull << 46) /* what the file's offsets and the process's address space can hold */
#define ALIAS_CORE_ID(alias, piece) (0x8000u + (alias)*KVM_ALIAS_PIECES + (piece))

/* ---- aliases ------------------------------------------------------------------------------------------------------------------------------ */

void kvm_memory_alias_withdraw(struct kvm_vm *m)
{
    for (unsigned i = 0; i < KVM2007_ALIAS_SLOTS; i++) {
        struct kvm_alias *al = &m->alias[i];
        for (; al->n; al->n--)
            vm_set_memslot(m->vm, ALIAS_CORE_ID(i, al->n - 1), 0, 0, 0, NULL);
    }
}

/* The part of a region that the alias shows becomes one slot of core. */
static int alias_add_piece(struct kvm_vm *m, unsigned i, unsigned slot)
{
    struct kvm_alias *al = &m->alias[i];
    const struct kvm_region *rg = &m->region[SPACE_NORMAL][slot];
    gpa_t first = al->target > rg->gpa ? al->target : rg->gpa;
    gpa_t end = al->target + al->bytes < rg->gpa + rg->bytes ? al->target + al->bytes : rg->gpa + rg->bytes;
    if (!rg->bytes || first >= end)
        return 0;
    if (al->n == KVM_ALIAS_PIECES)
        return -EINVAL;
    uint32_t flags = (rg->flags & KVM_MEM_LOG_DIRTY_PAGES ? MEMSLOT_LOG_DIRTY : 0) | (rg->flags & KVM_MEM_READONLY ? MEMSLOT_READONLY : 0);
    int r = vm_set_memslot(m->vm, ALIAS_CORE_ID(i, al->n), flags, al->gpa + (first - al->target), end - first, rg->hva + (first - rg->gpa));
    if (r)
        return r;
    al->piece[al->n].region = slot;
    al->piece[al->n].first_page = (first - rg->gpa) >> PAGE_SHIFT;
    al->piece[al->n].n_pages = (end - first) >> PAGE_SHIFT;
    al->n++;
    return 0;
}

int kvm_memory_alias_apply(struct kvm_vm *m)
{
    int r = 0;
    for (unsigned i = 0; !r && i < KVM2007_ALIAS_SLOTS; i++)
        for (unsigned slot = 0; !r && m->alias[i].bytes && slot < KVM_SLOTS; slot++)
            r = alias_add_piece(m, i, slot);
    if (r)
        kvm_memory_alias_withdraw(m);
    return r;
}

static int alias_set(struct kvm_vm *m, const struct kvm2007_memory_alias *w)
{
    struct kvm_alias old = m->alias[w->slot], want = { .gpa = w->guest_phys_addr, .target = w->target_phys_addr, .bytes = w->memory_size };
    kvm_memory_alias_withdraw(m);
    m->alias[w->slot] = want;
    int r = kvm_memory_alias_apply(m);
    if (r) {
        old.n = 0;
        m->alias[w->slot] = old;
        kvm_memory_alias_apply(m);
    }
    return r;
}

int kvm_memory_set_alias(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm2007_memory_alias *w = a->data;
    if (w->slot >= KVM2007_ALIAS_SLOTS || !page_is_aligned(w->memory_size) || !page_is_aligned(w->guest_phys_addr) || !page_is_aligned(w->target_phys_addr))
        return -EINVAL;
    if (w->guest_phys_addr + w->memory_size < w->guest_phys_addr || w->target_phys_addr + w->memory_size < w->target_phys_addr)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    int r = alias_set(m, w);
    pthread_mutex_unlock(&m->lock);
    return r;
}

/* ---- allocated regions --------------------------------------------------------------------------------------------------------------------- */

static int file_map(struct kvm_vm *m, gpa_t gpa, uint64_t bytes, hva_t *out)
{
    if (gpa + bytes > m->file_bytes) {
        if (ftruncate(m->vm->fd, (off_t)(gpa + bytes)))
            return -errno;
        m->file_bytes = gpa + bytes;
    }
    return memfd_map(m->vm->fd, gpa, bytes, out);
}

/* Gives the pages back, so that whatever comes here next starts with zeroes. */
static void file_unmap(struct kvm_vm *m, const struct kvm_region *rg)
{
    munmap(rg->hva, rg->bytes);
    fallocate(m->vm->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)rg->gpa, (off_t)rg->bytes);
}

static int region_create(struct kvm_vm *m, uint32_t slot, struct kvm_region *want)
{
    int r = file_map(m, want->gpa, want->bytes, &want->hva);
    if (r)
        return r;
    r = kvm_memory_apply(m, slot, want);
    /* An overlap with another region of ours shares its pages: only the mapping goes. */
    if (r)
        munmap(want->hva, want->bytes);
    return r;
}

static int region_delete(struct kvm_vm *m, uint32_t slot)
{
    struct kvm_region old = m->region[SPACE_NORMAL][slot], none = { 0 };
    int r = kvm_memory_apply(m, slot, &none);
    if (!r)
        file_unmap(m, &old);
    return r;
}

/* The contents move along, since the client maps by address: copied through a bounce, as source and target may overlap in the file. */
static int region_move(struct kvm_vm *m, uint32_t slot, struct kvm_region *want)
{
    struct kvm_region old = m->region[SPACE_NORMAL][slot];
    uint8_t *bounce = mmap(NULL, old.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bounce == MAP_FAILED)
        return -ENOMEM;
    int r = file_map(m, want->gpa, want->bytes, &want->hva);
    if (r)
        goto out;
    r = kvm_memory_apply(m, slot, want); /* refuses before anything is lost */
    if (r) {
        munmap(want->hva, want->bytes);
        goto out;
    }
    memcpy(bounce, old.hva, old.bytes);
    file_unmap(m, &old);
    memcpy(want->hva, bounce, old.bytes);
    kvm_memory_apply(m, slot, want); /* voids what a running vCPU translated meanwhile; the slot stands even if there is no memory for that */
out:
    munmap(bounce, old.bytes);
    return r;
}

static int region_set(struct kvm_vm *m, const struct kvm2007_memory_region *w)
{
    const struct kvm_region *old = &m->region[SPACE_NORMAL][w->slot];
    struct kvm_region want = { .gpa = w->guest_phys_addr, .bytes = w->memory_size, .flags = w->flags & KVM2007_MEM_LOG_DIRTY_PAGES, .is_own = true };
    if (!old->bytes)
        return want.bytes ? region_create(m, w->slot, &want) : 0;
    if (!old->is_own)
        return -EINVAL;
    if (!want.bytes)
        return region_delete(m, w->slot);
    if (want.bytes != old->bytes)
        return -EINVAL;
    if (want.gpa != old->gpa)
        return region_move(m, w->slot, &want);
    want.hva = old->hva;
    return kvm_memory_apply(m, w->slot, &want);
}

int kvm_memory_set_2007(struct kvm_vm *m, struct kvm_arg *a)
{
    const struct kvm2007_memory_region *w = a->data;
    if (w->slot >= KVM_SLOTS || !page_is_aligned(w->memory_size) || !page_is_aligned(w->guest_phys_addr))
        return -EINVAL;
    if (w->guest_phys_addr > GPA_LIMIT || w->memory_size > GPA_LIMIT - w->guest_phys_addr)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    m->is_2007 = true;
    int r = region_set(m, w);
    pthread_mutex_unlock(&m->lock);
    return r;
}
