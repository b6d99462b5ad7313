/* SPDX-License-Identifier: MIT */
/*
 * Between walk.c, tlb.c and access.c: what a page walk found and where a page of the guest lies. Nobody else includes this.
 */
#ifndef VITRINE_ENGINE_SOFT_TLB_H
#define VITRINE_ENGINE_SOFT_TLB_H

#include "core/view.h"
#include "engine/soft/soft_priv.h"

#define SMAP_ENTRIES_MAX 16u

struct walk_result {
    gpa_t gpa;
    unsigned page_shift; /* 12, 21, 22, 30; 12 with paging off */
    bool is_writeable, is_usermode;
    bool is_global; /* survives MOV CR3 */
};

/* walk() with the size of the page. */
int walk_page(struct soft_vcpu *sv, gva_t gva, unsigned access, struct walk_result *out);

/* True if the linear address has canonical form for the paging mode. */
static inline bool gva_is_canonical(const struct soft_vcpu *sv, gva_t gva)
{
    unsigned unused_bits = sv->v.cpu.cr4 & CR4_LA57 ? 7 : 16;
    return (gva_t)((int64_t)(gva << unused_bits) >> unused_bits) == gva;
}

struct page_place {
    hva_t host;                 /* of the very byte asked for; NULL: no RAM there, or a write to read-only memory (MMIO) */
    gpa_t gpa;                  /* in the vCPU's view, what the next ones and the dirty log go by; not set if is_tlb_hit */
    gpa_t guest_gpa;            /* by the guest's tables; as gpa */
    const struct memslot *slot; /* whose dirty bit a store must set; NULL on a TLB hit (the entry's making set it) */
    bool is_code;               /* the page has translations: a store is followed by code_page_written() */
    bool is_tlb_hit;
    bool is_watched; /* who does the access asks first (watch_access_ask) */
};

/*
 * Finds the page of one access, with RAM, MMIO and pages with translations alike. `access` is complete: ACCESS_USER is not derived from the CPL.
 * 0, or -EFAULT with sv->fault.
 */
int tlb_place(struct soft_vcpu *sv, gva_t gva, unsigned access, struct page_place *out);

/* The entry's host address for gva, or NULL. */
static inline hva_t tlb_lookup(const struct soft_vcpu *sv, gva_t gva, enum tlb_kind kind, bool is_user)
{
    const struct tlb_entry *e = &sv->tlb[is_user][kind].entry[(gva >> PAGE_SHIFT) % TLB_ENTRIES];
    gva_t page = gva & ~PAGE_OFFSET_MASK;
    return e->page == page && page != TLB_EMPTY ? (hva_t)(uintptr_t)(e->host + (gva & PAGE_OFFSET_MASK)) : NULL;
}

#endif
