/* SPDX-License-Identifier: MIT */
/*
 * Creation of partitions and VPs, and guest memory. What the hypervisor itself would refuse, as the kernel's driver passes it on, is EIO.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/memfd.h"
#include "base/shared.h"
#include "front/mshv/mshv_priv.h"

#define PT_KNOWN (MSHV_PT_LAPIC | MSHV_PT_X2APIC | MSHV_PT_GPA_SUPER_PAGES | MSHV_PT_CPU_AND_XSAVE_FEATURES)
#define GPA_LIMIT (1ull << 52)
#define HVA_LIMIT (1ull << 47)

static bool is_zero(const void *at, size_t bytes)
{
    const uint8_t *byte = at;
    for (size_t i = 0; i < bytes; i++)
        if (byte[i])
            return false;
    return true;
}

int mshv_create_partition(struct mshv_object *o, struct mshv_arg *a)
{
    struct mshv_create_partition_v2 how = { 0 };
    (void)o;
    if (user_read(&how.base, a->value, sizeof how.base))
        return -EFAULT;
    bool is_long = how.base.flags & MSHV_PT_CPU_AND_XSAVE_FEATURES;
    if (is_long && user_read(&how, a->value, sizeof how))
        return -EFAULT;
    if (how.base.flags & ~PT_KNOWN || how.base.isolation)
        return -EINVAL;
    if (is_long && (how.n_banks > MSHV_FEATURE_BANKS || !is_zero(how.reserved, sizeof how.reserved) || !is_zero(how.reserved1, sizeof how.reserved1)))
        return -EINVAL;
    for (unsigned i = how.n_banks; is_long && i < MSHV_FEATURE_BANKS; i++)
        how.disabled[i] = 0;
    return mshv_object_create_partition(&how, &a->created);
}

int mshv_initialize(struct mshv_object *o, struct mshv_arg *a)
{
    (void)a;
    atomic_store(&o->partition->is_initialized, true);
    return 0;
}

int mshv_create_vp(struct mshv_object *o, struct mshv_arg *a)
{
    struct mshv_partition *p = o->partition;
    struct mshv_create_vp in;
    if (user_read(&in, a->value, sizeof in))
        return -EFAULT;
    if (in.index >= MSHV_VPS_MAX)
        return -EINVAL;
    pthread_mutex_lock(&p->lock);
    int r = p->vp[in.index] ? -EEXIST : !atomic_load(&p->is_initialized) ? -EIO : mshv_object_create_vp(p, in.index, &a->created);
    pthread_mutex_unlock(&p->lock);
    return r;
}

/* ---- memory ---- */

static int memory_check(const struct mshv_memory *m)
{
    const uint8_t known = MSHV_MEMORY_WRITABLE | MSHV_MEMORY_EXECUTABLE | MSHV_MEMORY_UNMAP;
    if (!m->bytes || !page_is_aligned(m->bytes) || !page_is_aligned(m->hva) || m->flags & ~known || !is_zero(m->reserved, sizeof m->reserved))
        return -EINVAL;
    if (m->guest_pfn >= GPA_LIMIT >> PAGE_SHIFT || m->bytes > GPA_LIMIT - (m->guest_pfn << PAGE_SHIFT))
        return -EINVAL;
    return m->hva > HVA_LIMIT || m->bytes > HVA_LIMIT - m->hva ? -EINVAL : 0;
}

/* Something is mapped where it begins. */
static bool is_mapped(uint64_t hva)
{
    unsigned char resident;
    return !mincore((void *)(uintptr_t)hva, PAGE_BYTES, &resident) || errno != ENOMEM;
}

/* A free place in the array, whose number is core's slot id; or -errno. partition.lock is held, as in all below. */
static int region_find_free(struct mshv_partition *p)
{
    for (unsigned i = 0; i < p->n_regions; i++)
        if (!p->region[i].bytes)
            return (int)i;
    unsigned n = p->n_regions ? 2 * p->n_regions : 16;
    if (n > MSHV_REGIONS_MAX)
        return -ENOMEM;
    struct mshv_region *grown = realloc(p->region, n * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    memset(grown + p->n_regions, 0, (n - p->n_regions) * sizeof *grown);
    int found = (int)p->n_regions;
    p->region = grown;
    p->n_regions = n;
    return found;
}

static int memory_map(struct mshv_partition *p, const struct mshv_memory *m)
{
    uint32_t flags = (m->flags & MSHV_MEMORY_WRITABLE ? 0 : MEMSLOT_READONLY) | (m->flags & MSHV_MEMORY_EXECUTABLE ? 0 : MEMSLOT_NO_EXEC);
    if (!is_mapped(m->hva))
        return -EINVAL;
    if (!atomic_load(&p->is_initialized))
        return -EIO;
    int id = region_find_free(p);
    if (id < 0)
        return id;
    struct mshv_region want = { .gpa = m->guest_pfn << PAGE_SHIFT, .bytes = m->bytes, .hva = m->hva };
    shared_make((const void *)(uintptr_t)want.hva, want.bytes);
    int r = vm_set_memslot(p->vm, (uint32_t)id, flags, want.gpa, want.bytes, (hva_t)(uintptr_t)want.hva);
    if (!r)
        p->region[id] = want;
    return r;
}

/* Exactly what was mapped, or nothing. */
static int memory_unmap(struct mshv_partition *p, const struct mshv_memory *m)
{
    for (unsigned i = 0; i < p->n_regions; i++) {
        struct mshv_region *rg = &p->region[i];
        if (rg->bytes != m->bytes || rg->gpa >> PAGE_SHIFT != m->guest_pfn || rg->hva != m->hva)
            continue;
        int r = vm_set_memslot(p->vm, i, 0, rg->gpa, 0, NULL);
        if (!r)
            *rg = (struct mshv_region){ 0 };
        return r;
    }
    return -EINVAL;
}

int mshv_set_memory(struct mshv_object *o, struct mshv_arg *a)
{
    struct mshv_partition *p = o->partition;
    struct mshv_memory m;
    if (user_read(&m, a->value, sizeof m))
        return -EFAULT;
    int r = memory_check(&m);
    if (r)
        return r;
    pthread_mutex_lock(&p->lock);
    r = m.flags & MSHV_MEMORY_UNMAP ? memory_unmap(p, &m) : memory_map(p, &m);
    pthread_mutex_unlock(&p->lock);
    return r;
}
