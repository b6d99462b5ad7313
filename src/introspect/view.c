/* SPDX-License-Identifier: MIT */
/*
 * See view.h: what listeners want of pages. Each listener has maps of what it wants; the maps that vCPUs look at are sums of those, kept page by page. Changes
 * are made under vm.watch.lock, so that whoever raises an event sees all of a change or nothing, within vm.watch.change, under which the engine is told
 * afterwards.
 */
#include "introspect/view.h"

#include <errno.h>

#include "base/memfd.h"
#include "introspect/listen_priv.h"
#include "introspect/memory.h"

#define ACCESS_ALL (WATCH_READ | WATCH_WRITE | WATCH_EXECUTE)

/* ---- sums ---- */

bool look_view_exists(const struct vm *vm, unsigned view)
{
    return !view || vm->view.owner[view];
}

bool look_views_deny_anything(const struct look_views *h)
{
    for (unsigned i = 0; i < VIEWS_MAX; i++)
        if (h->map[i] && atomic_load(&h->map[i]->n_denying))
            return true;
    return false;
}

/* A change of by's view `of` shows in view `in`. */
static bool shows_in(const struct vm *vm, const struct look_views *by, unsigned of, unsigned in)
{
    return look_view_exists(vm, in) && look_views_number(vm, by, in) == of;
}

static struct view_entry sum(const struct vm *vm, unsigned view, gfn_t gfn)
{
    struct view_entry all = { 0 };
    for (const struct look_views *h = vm->view.holders; h; h = h->next) {
        struct view_entry e = view_map_get(h->map[look_views_number(vm, h, view)], gfn);
        all.unwriteable |= e.unwriteable;
        all.where |= e.where & (VIEW_NO_READ | VIEW_NO_EXECUTE);
        if ((e.where & VIEW_REMAPPED) && (!(all.where & VIEW_REMAPPED) || vm->view.owner[view] == h))
            all.where = (all.where & VIEW_FLAGS) | (e.where & ~VIEW_FLAGS) | VIEW_REMAPPED;
    }
    return all;
}

/* watch.lock is held. -ENOMEM. */
int look_view_make_page(struct vm *vm, unsigned view, gfn_t gfn)
{
    struct view_map *m = atomic_load(&vm->view.map[view]);
    if (!m) {
        m = view_map_create();
        if (!m)
            return -ENOMEM;
        atomic_store_explicit(&vm->view.map[view], m, memory_order_release);
    }
    return view_map_make(m, gfn);
}

/* Whether what is told to nobody under `now` was told under `before`, or lay elsewhere: then what vCPUs remember of the page is still right. */
static bool is_looser(struct view_entry before, struct view_entry now)
{
    return ((before.where ^ now.where) & ~(VIEW_NO_READ | VIEW_NO_EXECUTE)) == 0 && !(now.where & ~before.where) && !(now.unwriteable & ~before.unwriteable);
}

static void note_frame(struct look_change *c, gpa_t frame)
{
    if (c->n_frames < LOOK_FRAMES_MAX)
        c->frame[c->n_frames] = frame;
    c->n_frames++;
}

/* watch.lock is held; the page was made. */
void look_view_sum_up(struct look_change *c, unsigned view, gfn_t gfn)
{
    struct view_map *m = atomic_load(&c->vm->view.map[view]);
    struct view_entry before = view_map_get(m, gfn), now = sum(c->vm, view, gfn);
    view_map_put(m, gfn, now);
    if (!is_looser(before, now))
        note_frame(c, view_gpa(before, gfn << PAGE_SHIFT));
}

/* ---- telling the engine ---- */

static void tell_frames(struct look_change *c)
{
    hva_t page[LOOK_FRAMES_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < c->n_frames; i++) {
        struct memslot s;
        if (look_memory_slot(c->vm, c->frame[i], &s)) /* else nobody remembers anything of it */
            page[n++] = s.hva + (c->frame[i] - s.gpa);
    }
    c->vm->engine->pages_changed(c->vm, page, n);
}

/* watch.change is held: from now on every vCPU goes by the change. Maps without a page go. */
void look_view_settle(struct look_change *c)
{
    struct view_map *empty[VIEWS_MAX];
    unsigned n_empty = 0;
    look_kinds_changed(c->vm);
    pthread_mutex_lock(&c->vm->watch.lock);
    for (unsigned i = 0; i < VIEWS_MAX; i++) {
        struct view_map *m = atomic_load(&c->vm->view.map[i]);
        if (!m || m->n_used)
            continue;
        atomic_store(&c->vm->view.map[i], NULL);
        empty[n_empty++] = m;
    }
    pthread_mutex_unlock(&c->vm->watch.lock);
    if (n_empty || c->is_all || c->n_frames > LOOK_FRAMES_MAX)
        c->vm->engine->memory_changed(c->vm, 0, 0);
    else if (c->n_frames)
        tell_frames(c);
    for (unsigned i = 0; i < n_empty; i++)
        view_map_free(empty[i]);
}

/* ---- what a listener wants of pages ---- */

/* watch.lock is held. */
void look_view_hold(struct vm *vm, struct look_views *h)
{
    if (h->is_held)
        return;
    h->next = vm->view.holders;
    vm->view.holders = h;
    h->is_held = true;
}

/* watch.lock is held. Room for the page everywhere that it will be needed. -ENOMEM. */
static int make_room(struct look_change *c, gfn_t gfn)
{
    struct look_views *h = c->by;
    if (!h->map[c->view])
        h->map[c->view] = view_map_create();
    int r = h->map[c->view] ? view_map_make(h->map[c->view], gfn) : -ENOMEM;
    for (unsigned i = 0; i < VIEWS_MAX && !r; i++)
        if (shows_in(c->vm, h, c->view, i))
            r = look_view_make_page(c->vm, i, gfn);
    return r;
}

/* watch.lock is held; there is room. */
void look_view_want(struct look_change *c, gfn_t gfn, struct view_entry now)
{
    struct look_views *h = c->by;
    view_map_put(h->map[c->view], gfn, now);
    for (unsigned i = 0; i < VIEWS_MAX; i++)
        if (shows_in(c->vm, h, c->view, i))
            look_view_sum_up(c, i, gfn);
}

/* watch.lock is held: maps of the listener's that say nothing. */
void look_view_drop_empty(struct look_views *h)
{
    for (unsigned i = 0; i < VIEWS_MAX; i++)
        if (h->map[i] && !h->map[i]->n_used) {
            view_map_free(h->map[i]);
            h->map[i] = NULL;
        }
}

typedef struct view_entry (*page_change)(struct view_entry e, const struct look_page *page);

static struct view_entry with_access(struct view_entry e, const struct look_page *page)
{
    e.where &= ~(VIEW_NO_READ | VIEW_NO_EXECUTE);
    e.where |= (page->access & WATCH_READ ? 0 : VIEW_NO_READ) | (page->access & WATCH_EXECUTE ? 0 : VIEW_NO_EXECUTE);
    if (page->access & WATCH_WRITE)
        e.unwriteable = 0;
    else if (!e.unwriteable)
        e.unwriteable = ~0u;
    return e;
}

static struct view_entry with_writeable(struct view_entry e, const struct look_page *page)
{
    e.unwriteable = ~page->writeable;
    return e;
}

static bool is_page(gpa_t gpa)
{
    return page_is_aligned(gpa) && !(gpa >> (VIEW_GFN_BITS + PAGE_SHIFT));
}

/* watch.change is held. Memory in the sum of the view, which may be elsewhere. */
static bool has_memory(struct vm *vm, unsigned view, gpa_t gpa)
{
    struct memslot s;
    return look_memory_slot(vm, view_gpa(view_map_get(atomic_load(&vm->view.map[view]), gpa >> PAGE_SHIFT), gpa), &s);
}

/* watch.change is held. */
static int check_pages(struct vm *vm, const struct look_views *h, unsigned view, const struct look_page *page, unsigned n)
{
    if (view >= VIEWS_MAX || look_views_number(vm, h, view) != view)
        return -ENOENT;
    for (unsigned i = 0; i < n; i++) {
        if (!is_page(page[i].gpa) || (page[i].access & ~ACCESS_ALL))
            return -EINVAL;
        if (!has_memory(vm, view, page[i].gpa))
            return -EFAULT;
    }
    return 0;
}

/* watch.change is held. */
static int change_pages(struct look_change *c, page_change how, const struct look_page *page, unsigned n)
{
    int r = check_pages(c->vm, c->by, c->view, page, n);
    if (r)
        return r;
    pthread_mutex_lock(&c->vm->watch.lock);
    look_view_hold(c->vm, c->by);
    for (unsigned i = 0; i < n && !r; i++)
        r = make_room(c, page[i].gpa >> PAGE_SHIFT);
    for (unsigned i = 0; i < n && !r; i++)
        look_view_want(c, page[i].gpa >> PAGE_SHIFT, how(view_map_get(c->by->map[c->view], page[i].gpa >> PAGE_SHIFT), &page[i]));
    look_view_drop_empty(c->by);
    pthread_mutex_unlock(&c->vm->watch.lock);
    look_view_settle(c);
    return r;
}

/* The VM with a reference, watch.change taken. NULL: it has gone. */
struct vm *look_view_begin(struct look_listener *l, unsigned view, struct look_change *c)
{
    *c = (struct look_change){ .vm = look_vm_of(l), .by = &l->views, .view = view };
    if (c->vm)
        pthread_mutex_lock(&c->vm->watch.change);
    return c->vm;
}

int look_view_end(struct look_change *c, int r)
{
    pthread_mutex_unlock(&c->vm->watch.change);
    vm_put(c->vm);
    return r;
}

int look_view_set_access(struct look_listener *l, unsigned view, const struct look_page *page, unsigned n)
{
    struct look_change c;
    return look_view_begin(l, view, &c) ? look_view_end(&c, change_pages(&c, with_access, page, n)) : -ESRCH;
}

int look_view_set_writeable(struct look_listener *l, unsigned view, const struct look_page *page, unsigned n)
{
    struct look_change c;
    return look_view_begin(l, view, &c) ? look_view_end(&c, change_pages(&c, with_writeable, page, n)) : -ESRCH;
}

int look_view_get(struct look_listener *l, unsigned view, struct look_page *page, unsigned n)
{
    struct look_change c;
    if (!look_view_begin(l, view, &c))
        return -ESRCH;
    int r = view < VIEWS_MAX && look_views_number(c.vm, c.by, view) == view ? 0 : -ENOENT;
    for (unsigned i = 0; i < n && !r; i++)
        r = is_page(page[i].gpa) ? 0 : -EINVAL;
    for (unsigned i = 0; i < n && !r; i++) {
        struct view_entry e = view_map_get(c.by->map[view], page[i].gpa >> PAGE_SHIFT);
        page[i].writeable = ~e.unwriteable;
        page[i].access = (e.where & VIEW_NO_READ ? 0 : WATCH_READ) | (e.unwriteable ? 0 : WATCH_WRITE) | (e.where & VIEW_NO_EXECUTE ? 0 : WATCH_EXECUTE);
    }
    return look_view_end(&c, r);
}

/* ---- remapping ---- */

/* watch.change is held. */
static bool is_remapped_by_another(const struct vm *vm, const struct look_views *h, gfn_t gfn)
{
    for (const struct look_views *other = vm->view.holders; other; other = other->next)
        if (other != h && (view_map_get(other->map[0], gfn).where & VIEW_REMAPPED))
            return true;
    return false;
}

/* watch.change is held. */
int look_view_point(struct look_change *c, gpa_t gpa, gpa_t target)
{
    struct memslot s;
    gfn_t gfn = gpa >> PAGE_SHIFT;
    if (c->view >= VIEWS_MAX || look_views_number(c->vm, c->by, c->view) != c->view)
        return -ENOENT;
    if (!is_page(gpa) || !is_page(target))
        return -EINVAL;
    if (target != gpa && !look_memory_slot(c->vm, target, &s))
        return -EFAULT;
    if (!c->view && target != gpa && is_remapped_by_another(c->vm, c->by, gfn))
        return -EBUSY;
    pthread_mutex_lock(&c->vm->watch.lock);
    look_view_hold(c->vm, c->by);
    int r = make_room(c, gfn);
    if (!r) {
        struct view_entry e = view_map_get(c->by->map[c->view], gfn);
        e.where = (e.where & (VIEW_NO_READ | VIEW_NO_EXECUTE)) | (target == gpa ? 0 : target | VIEW_REMAPPED);
        look_view_want(c, gfn, e);
    }
    look_view_drop_empty(c->by);
    pthread_mutex_unlock(&c->vm->watch.lock);
    look_view_settle(c);
    return r;
}

int look_view_remap(struct look_listener *l, unsigned view, gpa_t gpa, gpa_t target)
{
    struct look_change c;
    return look_view_begin(l, view, &c) ? look_view_end(&c, look_view_point(&c, gpa, target)) : -ESRCH;
}

gpa_t look_view_memory(struct vm *vm, unsigned view, gpa_t gpa)
{
    pthread_mutex_lock(&vm->watch.lock);
    gpa = view_gpa(view_map_get(atomic_load(&vm->view.map[view]), gpa >> PAGE_SHIFT), gpa);
    pthread_mutex_unlock(&vm->watch.lock);
    return gpa;
}
