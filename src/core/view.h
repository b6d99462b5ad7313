/* SPDX-License-Identifier: MIT */
/*
 * Views: what guest-physical memory looks like to a vCPU. A view says for single pages which accesses tools want to be asked about, down to 128 bytes for
 * writes, and which other page's memory is there instead. A vCPU is in one view at a time, 0 at first; system management mode is outside of all views. Page
 * walks go by a view's memory, not by its permissions; copies by chips, clients and tools (vm_read) know nothing of views.
 *
 * What the engine looks at is one sparse map per view, the sum of what all tools want (introspect/view.c). Changes are made under vm.watch.lock by whoever
 * holds vm.watch.change, and then announced with engine_ops.pages_changed; vCPUs look without a lock, in guest mode only, so that a map may be freed after
 * the announcement. A VM without such pages pays for a test where a TLB entry is made.
 */
#ifndef VITRINE_CORE_VIEW_H
#define VITRINE_CORE_VIEW_H

#include "core/vcpu.h"
#include "core/vm.h"

#define VIEW_PIECE_SHIFT 7 /* of the unit of write protection: 128 bytes */
#define VIEW_GFN_BITS 40

/* view_entry.where */
#define VIEW_REMAPPED 1ull
#define VIEW_NO_READ 2ull
#define VIEW_NO_EXECUTE 4ull
#define VIEW_FLAGS 7ull

/* Of one page. All zero: as if there were no view. */
struct view_entry {
    uint64_t where;       /* VIEW_*, and with VIEW_REMAPPED the address of the page whose memory is seen */
    uint32_t unwriteable; /* bit per piece */
};

#define VIEW_NODE_BITS 8
#define VIEW_NODE_ENTRIES (1u << VIEW_NODE_BITS)
#define VIEW_LEVELS (VIEW_GFN_BITS / VIEW_NODE_BITS)

/* A radix tree: nodes are added and never taken away until the map is freed. */
struct view_map {
    _Atomic(void *) root[VIEW_NODE_ENTRIES]; /* of nodes like this, and in the last level of arrays of view_entry */
    uint64_t n_used;                         /* entries that are not zero */
    _Atomic uint64_t n_denying;              /* of these, those that deny something */
};

struct view_map *view_map_create(void);
void view_map_free(struct view_map *m);
/* The page has an entry from now on, zero at first. -ENOMEM. */
int view_map_make(struct view_map *m, gfn_t gfn);
/* The page was made before. */
void view_map_put(struct view_map *m, gfn_t gfn, struct view_entry to);
/* Calls for each entry that is not zero until that returns an error, which it returns. */
int view_map_each(const struct view_map *m, int (*call)(gfn_t gfn, struct view_entry e, void *arg), void *arg);
/* While the VM goes. */
void view_end(struct vm *vm);

static inline struct view_entry *view_map_at(const struct view_map *m, gfn_t gfn)
{
    const _Atomic(void *) *node = m->root;
    for (unsigned shift = VIEW_GFN_BITS - VIEW_NODE_BITS;; shift -= VIEW_NODE_BITS) {
        void *next = atomic_load_explicit(&node[gfn >> shift & (VIEW_NODE_ENTRIES - 1)], memory_order_acquire);
        if (!next)
            return NULL;
        if (shift == VIEW_NODE_BITS)
            return (struct view_entry *)next + (gfn & (VIEW_NODE_ENTRIES - 1));
        node = next;
    }
}

/* General registers only, as memslots_find. Both halves may be of different changes: the announcement is still to come then. */
static inline struct view_entry view_map_get(const struct view_map *m, gfn_t gfn)
{
    const struct view_entry *e = m && !(gfn >> VIEW_GFN_BITS) ? view_map_at(m, gfn) : NULL;
    if (!e)
        return (struct view_entry){ 0 };
    return (struct view_entry){ __atomic_load_n(&e->where, __ATOMIC_RELAXED), __atomic_load_n(&e->unwriteable, __ATOMIC_RELAXED) };
}

/* vCPU thread in guest mode: the view that it is in. */
static inline unsigned view_of(const struct vcpu *v)
{
    return v->cpu.in_smm ? 0 : atomic_load_explicit(&v->view, memory_order_relaxed);
}

/* vCPU thread in guest mode: how it sees the page. */
static inline struct view_entry view_find(const struct vcpu *v, gpa_t gpa)
{
    const struct view_map *m = v->cpu.in_smm ? NULL : atomic_load_explicit(&v->vm->view.map[view_of(v)], memory_order_acquire);
    return view_map_get(m, gpa >> PAGE_SHIFT);
}

/* vCPU thread in guest mode: some page of the view denies something. */
static inline bool view_is_denying(const struct vcpu *v)
{
    const struct view_map *m = v->cpu.in_smm ? NULL : atomic_load_explicit(&v->vm->view.map[view_of(v)], memory_order_acquire);
    return m && atomic_load_explicit(&m->n_denying, memory_order_relaxed);
}

/* The address whose memory is seen at gpa. */
static inline gpa_t view_gpa(struct view_entry e, gpa_t gpa)
{
    return e.where & VIEW_REMAPPED ? (e.where & ~PAGE_OFFSET_MASK) | (gpa & PAGE_OFFSET_MASK) : gpa;
}

/* The pieces that an access within a page touches. */
static inline uint32_t view_pieces(gpa_t gpa, unsigned bytes)
{
    unsigned first = (unsigned)(gpa & PAGE_OFFSET_MASK) >> VIEW_PIECE_SHIFT;
    unsigned last = (unsigned)((gpa & PAGE_OFFSET_MASK) + (bytes ? bytes - 1 : 0)) >> VIEW_PIECE_SHIFT;
    return (last >= 31 ? ~0u : (1u << (last + 1)) - 1) & ~((1u << first) - 1);
}

/* Whether tools are to be asked about an access (WATCH_READ ...) within a page. */
static inline bool view_denies(struct view_entry e, unsigned access, gpa_t gpa, unsigned bytes)
{
    return ((access & WATCH_READ) && (e.where & VIEW_NO_READ)) || ((access & WATCH_EXECUTE) && (e.where & VIEW_NO_EXECUTE)) ||
           ((access & WATCH_WRITE) && (e.unwriteable & view_pieces(gpa, bytes)));
}

#endif
