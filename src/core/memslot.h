/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory: for each address space an immutable, sorted table of slots that the VM swaps as a whole. Readers on vCPU threads take no lock: they
 * use vm->slots until their next safe point, and engine_ops.memory_changed waits for that before the old table is freed.
 */
#ifndef VITRINE_CORE_MEMSLOT_H
#define VITRINE_CORE_MEMSLOT_H

#include <stdatomic.h>

#include "base/types.h"

#define MEMSLOT_READONLY 1u /* guest writes go to the client as MMIO */
#define MEMSLOT_LOG_DIRTY 2u
#define MEMSLOT_ALL_DIRTY 4u /* a new bitmap starts with every page dirty */
#define MEMSLOT_NO_EXEC 8u   /* fetches find no memory there */

/* Address spaces: what a vCPU sees outside of system management mode, and in it. */
enum { SPACE_NORMAL, SPACE_SMM, SPACE_COUNT };
#define MEMSLOT_SPACE_SHIFT 16 /* of memslot.id */

/* Slots of the normal space that are pages of tools, not the client's: their memory is core's, and they give way to the client's slots. */
#define MEMSLOT_TOOL_FIRST 0xc000u
#define MEMSLOT_TOOL_PAGES_MAX 1024u
/* From here to the top of the address space, where guests have nothing: tools' pages that are seen only where views have them. No list shows them. */
#define MEMSLOT_HIDDEN_GPA ((1ull << 52) - MEMSLOT_TOOL_PAGES_MAX * PAGE_BYTES)

struct memslot {
    gpa_t gpa;
    uint64_t bytes;
    hva_t hva;
    uint32_t id; /* client's slot number, address space in bits 16-31 */
    uint32_t flags;
    _Atomic uint64_t *dirty; /* one bit per page, or NULL without MEMSLOT_LOG_DIRTY; shared by successive tables */
};

struct memslots {
    unsigned n;
    struct memslot slot[]; /* sorted by gpa, disjoint */
};

/* The slot that holds gpa, or NULL. Uses general registers only: translated code's slow paths call it with the guest's vectors live. */
static inline const struct memslot *memslots_find(const struct memslots *t, gpa_t gpa)
{
    unsigned lo = 0, hi = t->n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        const struct memslot *s = &t->slot[mid];
        if (gpa < s->gpa)
            hi = mid;
        else if (gpa - s->gpa >= s->bytes)
            lo = mid + 1;
        else
            return s;
    }
    return NULL;
}

static inline bool memslot_is_tools(const struct memslot *s)
{
    return s->id - MEMSLOT_TOOL_FIRST < MEMSLOT_TOOL_PAGES_MAX;
}

static inline bool memslot_is_hidden(const struct memslot *s)
{
    return memslot_is_tools(s) && s->gpa >= MEMSLOT_HIDDEN_GPA;
}

static inline uint64_t memslot_page(const struct memslot *s, gpa_t gpa)
{
    return (gpa - s->gpa) >> PAGE_SHIFT;
}

/* True if the slot is logged and the page was clean. */
static inline bool memslot_mark_dirty(const struct memslot *s, gpa_t gpa)
{
    if (!s->dirty)
        return false;
    uint64_t page = memslot_page(s, gpa), bit = 1ull << (page % 64);
    return !(atomic_fetch_or_explicit(&s->dirty[page / 64], bit, memory_order_relaxed) & bit);
}

#endif
