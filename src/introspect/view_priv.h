/* SPDX-License-Identifier: MIT */
/*
 * What a listener has set in views, and what view.c and view_life.c share.
 */
#ifndef VITRINE_INTROSPECT_VIEW_PRIV_H
#define VITRINE_INTROSPECT_VIEW_PRIV_H

#include "core/view.h"
#include "introspect/listen.h"

struct look_tools_page {
    gpa_t gpa;
    gpa_t shown_at; /* gpa itself, or where view 0 has it: then it is hidden at gpa (core/memslot.h) */
    uint32_t id;
};

/* A listener's part. vm.watch.change and vm.watch.lock; to look, one of them. */
struct look_views {
    struct look_views *next; /* of vm.view.holders, if is_held */
    bool is_held;
    struct view_map *map[VIEWS_MAX]; /* what it wants in view 0 and in its own; NULL: nothing */
    struct look_tools_page *page;
    unsigned n_pages;
};

#define LOOK_FRAMES_MAX 8u

/* What a listener changes, and what the engine has to be told then. */
struct look_change {
    struct vm *vm;
    struct look_views *by;
    unsigned view;
    gpa_t frame[LOOK_FRAMES_MAX]; /* pages whose memory vCPUs may have found too freely */
    unsigned n_frames;            /* more than there is room for: all */
    bool is_all;
};

/* view.c. The VM with a reference, watch.change taken; NULL: it has gone. Its counterpart returns r. */
struct vm *look_view_begin(struct look_listener *l, unsigned view, struct look_change *c);
int look_view_end(struct look_change *c, int r);
/* watch.change is held: look_view_remap. */
int look_view_point(struct look_change *c, gpa_t gpa, gpa_t target);
/* watch.change is held: from now on every vCPU goes by the change. Maps without a page go. */
void look_view_settle(struct look_change *c);

/* view.c, watch.lock is held. */
bool look_view_exists(const struct vm *vm, unsigned view);
void look_view_hold(struct vm *vm, struct look_views *h);                     /* the listener counts from now on */
int look_view_make_page(struct vm *vm, unsigned view, gfn_t gfn);             /* in what vCPUs look at; -ENOMEM */
void look_view_sum_up(struct look_change *c, unsigned view, gfn_t gfn);       /* what vCPUs look at, of what all want; the page was made */
void look_view_want(struct look_change *c, gfn_t gfn, struct view_entry now); /* there is room */
void look_view_drop_empty(struct look_views *h);                              /* maps of the listener's that say nothing */

/* view.c, watch.lock is held, vCPU thread: whether this listener denies the access. */
bool look_views_deny(const struct look_views *h, const struct vcpu *v, const struct watch_event *e);
/* watch.lock is held. */
bool look_views_deny_anything(const struct look_views *h);
/* The view as this listener knows it. vCPU thread, or watch.change is held. */
static inline unsigned look_views_number(const struct vm *vm, const struct look_views *h, unsigned view)
{
    return __atomic_load_n(&vm->view.owner[view], __ATOMIC_RELAXED) == h ? view : 0;
}
/* watch.change is held: takes everything back. vm NULL: it has gone. */
void look_views_release(struct vm *vm, struct look_views *h);

#endif
