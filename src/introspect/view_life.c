/* SPDX-License-Identifier: MIT */
/* See view.h: views and pages that come and go, which view a vCPU is in, and the end of a listener. What is wanted of pages is view.c's. */
#include "introspect/view.h"

#include <errno.h>
#include <stdlib.h>

#include "core/hold.h"
#include "introspect/memory.h"
#include "introspect/view_priv.h"

/* ---- views ---- */

unsigned look_view_count(struct vm *vm)
{
    unsigned n = 0;
    pthread_mutex_lock(&vm->watch.lock);
    for (unsigned i = 1; i < VIEWS_MAX; i++)
        n += look_view_exists(vm, i);
    pthread_mutex_unlock(&vm->watch.lock);
    return n;
}

/* watch.lock is held: what others want of view 0 counts in a new view. */
static int sum_page(gfn_t gfn, struct view_entry e, void *arg)
{
    struct look_change *c = arg;
    (void)e;
    int r = look_view_make_page(c->vm, c->view, gfn);
    if (!r)
        look_view_sum_up(c, c->view, gfn);
    return r;
}

/* watch.change is held. */
static int create(struct look_change *c)
{
    struct vm *vm = c->vm;
    unsigned n = 1;
    while (n < VIEWS_MAX && vm->view.owner[n])
        n++;
    if (n == VIEWS_MAX)
        return -ENOSPC;
    int r = 0;
    c->view = n;
    pthread_mutex_lock(&vm->watch.lock);
    look_view_hold(vm, c->by);
    __atomic_store_n(&vm->view.owner[n], c->by, __ATOMIC_RELAXED);
    for (const struct look_views *h = vm->view.holders; h && !r; h = h->next)
        if (h != c->by)
            r = view_map_each(h->map[0], sum_page, c);
    struct view_map *m = r ? atomic_exchange(&vm->view.map[n], NULL) : NULL;
    if (r)
        __atomic_store_n(&vm->view.owner[n], NULL, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&vm->watch.lock);
    view_map_free(m); /* no vCPU was in it */
    return r ? r : (int)n;
}

int look_view_create(struct look_listener *l)
{
    struct look_change c;
    return look_view_begin(l, 0, &c) ? look_view_end(&c, create(&c)) : -ESRCH;
}

/* watch.lock is held. The map that vCPUs look at is the caller's to free when they do not any more. */
static struct view_map *take_view(struct vm *vm, struct look_views *h, unsigned view)
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v && atomic_load(&v->view) == view)
            atomic_store(&v->view, 0);
    }
    view_map_free(h->map[view]);
    h->map[view] = NULL;
    __atomic_store_n(&vm->view.owner[view], NULL, __ATOMIC_RELAXED);
    return atomic_exchange(&vm->view.map[view], NULL);
}

/* watch.change is held. */
static int destroy(struct look_change *c)
{
    if (!c->view || c->view >= VIEWS_MAX || c->vm->view.owner[c->view] != c->by)
        return -ENOENT;
    pthread_mutex_lock(&c->vm->watch.lock);
    struct view_map *m = take_view(c->vm, c->by, c->view);
    pthread_mutex_unlock(&c->vm->watch.lock);
    c->is_all = true;
    look_view_settle(c);
    view_map_free(m);
    return 0;
}

int look_view_destroy(struct look_listener *l, unsigned view)
{
    struct look_change c;
    return look_view_begin(l, view, &c) ? look_view_end(&c, destroy(&c)) : -ESRCH;
}

static void change_view(struct vcpu *v, void *arg)
{
    atomic_store(&v->view, *(const uint16_t *)arg);
    v->vm->engine->state_changed(v);
}

/* watch.change is held, so that the view stays. */
static int change_vcpu(struct look_change *c, uint32_t id)
{
    struct vcpu *v = id < VM_VCPU_IDS ? vm_vcpu(c->vm, id) : NULL;
    if (c->view >= VIEWS_MAX || look_views_number(c->vm, c->by, c->view) != c->view)
        return -ENOENT;
    if (!v)
        return -ENXIO;
    unsigned now = atomic_load(&v->view);
    if (now == c->view || (!c->view && c->vm->view.owner[now] != c->by))
        return 0;
    if (now && c->vm->view.owner[now] != c->by)
        return -EBUSY;
    uint16_t to = (uint16_t)c->view;
    hold_call(v, change_view, &to);
    return 0;
}

int look_view_switch(struct look_listener *l, uint32_t vcpu, unsigned view)
{
    struct look_change c;
    return look_view_begin(l, view, &c) ? look_view_end(&c, change_vcpu(&c, vcpu)) : -ESRCH;
}

int look_view_of(struct look_listener *l, uint32_t vcpu)
{
    struct look_change c;
    if (!look_view_begin(l, 0, &c))
        return -ESRCH;
    struct vcpu *v = vcpu < VM_VCPU_IDS ? vm_vcpu(c.vm, vcpu) : NULL;
    return look_view_end(&c, v ? (int)look_views_number(c.vm, c.by, atomic_load(&v->view)) : -ENXIO);
}

bool look_views_deny(const struct look_views *h, const struct vcpu *v, const struct watch_event *e)
{
    return !v->cpu.in_smm && view_denies(view_map_get(h->map[e->index], e->gpa >> PAGE_SHIFT), e->access, e->gpa, e->bytes);
}

/* ---- pages of tools ---- */

struct search {
    struct look_change *c;
    gpa_t target;
};

/* watch.lock is held: ends a remapping to the target. */
static int unmap_target(gfn_t gfn, struct view_entry e, void *arg)
{
    struct search *s = arg;
    if (!(e.where & VIEW_REMAPPED) || (e.where & ~VIEW_FLAGS) != s->target)
        return 0;
    e.where &= VIEW_NO_READ | VIEW_NO_EXECUTE;
    look_view_want(s->c, gfn, e); /* there is room: it was remapped */
    return 0;
}

/* watch.change is held: nobody sees the page elsewhere any more. */
static void unmap_all(struct vm *vm, gpa_t target)
{
    struct look_change c = { .vm = vm };
    struct search s = { .c = &c, .target = target };
    pthread_mutex_lock(&vm->watch.lock);
    for (struct look_views *h = vm->view.holders; h; h = h->next) {
        c.by = h;
        for (c.view = 0; c.view < VIEWS_MAX; c.view++)
            view_map_each(h->map[c.view], unmap_target, &s);
        look_view_drop_empty(h);
    }
    pthread_mutex_unlock(&vm->watch.lock);
    look_view_settle(&c);
}

static unsigned find_page(const struct look_views *h, gpa_t gpa)
{
    unsigned i = 0;
    while (i < h->n_pages && h->page[i].shown_at != gpa)
        i++;
    return i;
}

/* watch.change is held. One that the client has put memory over is gone already. */
static void remove_page(struct vm *vm, struct look_views *h, unsigned i)
{
    struct look_tools_page p = h->page[i];
    h->page[i] = h->page[--h->n_pages];
    unmap_all(vm, p.gpa);
    vm_remove_page(vm, p.gpa, p.id);
}

/* watch.change is held: the listener's page of that address. One that was there before has given way. -EEXIST: it has not; -ENOMEM. */
static int note_page(struct look_change *c, gpa_t gpa, struct look_tools_page **out)
{
    struct look_views *h = c->by;
    struct memslot s;
    unsigned i = find_page(h, gpa);
    if (i < h->n_pages && (h->page[i].gpa != gpa || (look_memory_slot(c->vm, gpa, &s) && s.id == h->page[i].id)))
        return -EEXIST;
    if (i < h->n_pages)
        remove_page(c->vm, h, i);
    struct look_tools_page *all = realloc(h->page, (h->n_pages + 1) * sizeof *all);
    if (!all)
        return -ENOMEM;
    h->page = all;
    all[h->n_pages] = (struct look_tools_page){ .gpa = gpa, .shown_at = gpa };
    *out = &all[h->n_pages];
    return 0;
}

/* watch.change is held. Zeroes with fd -1. */
static int add_page(struct look_change *c, gpa_t gpa, int fd, uint64_t offset)
{
    struct look_tools_page *page;
    int r = note_page(c, gpa, &page);
    if (!r)
        r = vm_add_page(c->vm, gpa, fd, offset, &page->id);
    c->by->n_pages += !r;
    return r;
}

int look_page_add(struct look_listener *l, gpa_t gpa)
{
    struct look_change c;
    return look_view_begin(l, 0, &c) ? look_view_end(&c, add_page(&c, gpa, -1, 0)) : -ESRCH;
}

/* watch.change is held: somewhere behind everything that the guest has. */
static int hide_page(struct vm *vm, int fd, uint64_t offset, struct look_tools_page *page)
{
    int r = -EEXIST;
    for (page->gpa = MEMSLOT_HIDDEN_GPA; r == -EEXIST && page->gpa < 1ull << 52; page->gpa += PAGE_BYTES)
        r = vm_add_page(vm, page->gpa, fd, offset, &page->id);
    page->gpa -= PAGE_BYTES;
    return r == -EEXIST ? -ENOSPC : r;
}

/* watch.change is held. */
static int lend_page(struct look_change *c, gpa_t gpa, int fd, uint64_t offset)
{
    struct look_tools_page *page;
    struct memslot s;
    if (view_map_get(atomic_load(&c->vm->view.map[0]), gpa >> PAGE_SHIFT).where & VIEW_REMAPPED)
        return find_page(c->by, gpa) < c->by->n_pages ? -EEXIST : -EBUSY;
    if (!look_memory_slot(c->vm, gpa, &s))
        return add_page(c, gpa, fd, offset);
    int r = note_page(c, gpa, &page);
    if (!r)
        r = hide_page(c->vm, fd, offset, page);
    if (r)
        return r;
    r = look_view_point(c, gpa, page->gpa);
    if (r)
        vm_remove_page(c->vm, page->gpa, page->id);
    c->by->n_pages += !r;
    return r;
}

int look_page_lend(struct look_listener *l, gpa_t gpa, int fd, uint64_t offset)
{
    struct look_change c;
    if (fd < 0 || (gpa & PAGE_OFFSET_MASK) || gpa >= MEMSLOT_HIDDEN_GPA)
        return -EINVAL;
    return look_view_begin(l, 0, &c) ? look_view_end(&c, lend_page(&c, gpa, fd, offset)) : -ESRCH;
}

int look_page_remove(struct look_listener *l, gpa_t gpa)
{
    struct look_change c;
    if (!look_view_begin(l, 0, &c))
        return -ESRCH;
    unsigned i = find_page(c.by, gpa);
    if (i == c.by->n_pages)
        return look_view_end(&c, -ENOENT);
    remove_page(c.vm, c.by, i);
    return look_view_end(&c, 0);
}

/* ---- the end of a listener ---- */

/* watch.lock is held: one page less to see in every view where this listener's view 0 counted. The listener is no holder any more. */
static int take_page(gfn_t gfn, struct view_entry e, void *arg)
{
    struct look_change *c = arg;
    (void)e;
    for (unsigned i = 0; i < VIEWS_MAX; i++)
        if (look_view_exists(c->vm, i) && atomic_load(&c->vm->view.map[i]))
            look_view_sum_up(c, i, gfn);
    return 0;
}

static void take_everything(struct vm *vm, struct look_views *h)
{
    struct look_change c = { .vm = vm, .by = h, .is_all = true };
    struct view_map *own[VIEWS_MAX] = { NULL };
    pthread_mutex_lock(&vm->watch.lock);
    struct look_views *first = vm->view.holders, **at = &first;
    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    vm->view.holders = first;
    for (unsigned i = 1; i < VIEWS_MAX; i++)
        if (vm->view.owner[i] == h)
            own[i] = take_view(vm, h, i);
    view_map_each(h->map[0], take_page, &c);
    pthread_mutex_unlock(&vm->watch.lock);
    look_view_settle(&c);
    for (unsigned i = 1; i < VIEWS_MAX; i++)
        view_map_free(own[i]);
}

void look_views_release(struct vm *vm, struct look_views *h)
{
    if (vm && h->is_held)
        take_everything(vm, h);
    while (vm && h->n_pages)
        remove_page(vm, h, h->n_pages - 1);
    for (unsigned i = 0; i < VIEWS_MAX; i++)
        view_map_free(h->map[i]);
    free(h->page);
    *h = (struct look_views){ 0 };
}
