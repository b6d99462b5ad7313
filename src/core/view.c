/* SPDX-License-Identifier: MIT */
/* See view.h: the maps. Those that vCPUs see and those of single tools are of the same kind; nobody here knows which is which. vm.watch.lock is held. */
#include "core/view.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

_Static_assert(VIEW_LEVELS *VIEW_NODE_BITS == VIEW_GFN_BITS && VIEW_LEVELS >= 2, "whole levels");
_Static_assert(32u << VIEW_PIECE_SHIFT == PAGE_BYTES, "a bit per piece");

struct view_map *view_map_create(void)
{
    return calloc(1, sizeof(struct view_map));
}

static void free_node(_Atomic(void *) *node, unsigned level)
{
    for (unsigned i = 0; i < VIEW_NODE_ENTRIES; i++) {
        void *child = atomic_load(&node[i]);
        if (child && level > 1)
            free_node(child, level - 1);
        free(child);
    }
}

void view_map_free(struct view_map *m)
{
    if (m)
        free_node(m->root, VIEW_LEVELS - 1);
    free(m);
}

int view_map_make(struct view_map *m, gfn_t gfn)
{
    _Atomic(void *) *node = m->root;
    for (unsigned shift = VIEW_GFN_BITS - VIEW_NODE_BITS; shift; shift -= VIEW_NODE_BITS) {
        _Atomic(void *) *at = &node[gfn >> shift & (VIEW_NODE_ENTRIES - 1)];
        if (!atomic_load(at)) {
            void *next = calloc(VIEW_NODE_ENTRIES, shift == VIEW_NODE_BITS ? sizeof(struct view_entry) : sizeof *node);
            if (!next)
                return -ENOMEM;
            atomic_store_explicit(at, next, memory_order_release);
        }
        node = atomic_load(at);
    }
    return 0;
}

static bool is_zero(struct view_entry e)
{
    return !e.where && !e.unwriteable;
}

static bool denies_something(struct view_entry e)
{
    return (e.where & (VIEW_NO_READ | VIEW_NO_EXECUTE)) || e.unwriteable;
}

void view_map_put(struct view_map *m, gfn_t gfn, struct view_entry to)
{
    struct view_entry *e = view_map_at(m, gfn);
    assert(e);
    m->n_used += (uint64_t)is_zero(*e) - (uint64_t)is_zero(to);
    atomic_fetch_add(&m->n_denying, (uint64_t)denies_something(to) - (uint64_t)denies_something(*e));
    __atomic_store_n(&e->where, to.where, __ATOMIC_RELAXED);
    __atomic_store_n(&e->unwriteable, to.unwriteable, __ATOMIC_RELAXED);
}

/* A node of `level`: 0 is an array of entries. */
static int each_below(const void *node, unsigned level, gfn_t first, int (*call)(gfn_t gfn, struct view_entry e, void *arg), void *arg)
{
    int r = 0;
    for (unsigned i = 0; i < VIEW_NODE_ENTRIES && !r; i++) {
        gfn_t gfn = first + ((gfn_t)i << (level * VIEW_NODE_BITS));
        if (!level) {
            struct view_entry e = ((const struct view_entry *)node)[i];
            r = is_zero(e) ? 0 : call(gfn, e, arg);
        } else {
            const void *child = atomic_load(&((const _Atomic(void *) *)node)[i]);
            r = child ? each_below(child, level - 1, gfn, call, arg) : 0;
        }
    }
    return r;
}

int view_map_each(const struct view_map *m, int (*call)(gfn_t gfn, struct view_entry e, void *arg), void *arg)
{
    return m && m->n_used ? each_below(m->root, VIEW_LEVELS - 1, 0, call, arg) : 0;
}

void view_end(struct vm *vm)
{
    for (unsigned i = 0; i < VIEWS_MAX; i++)
        view_map_free(atomic_load(&vm->view.map[i]));
}
