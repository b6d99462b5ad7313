/* SPDX-License-Identifier: MIT */
/*
 * KVMI's commands about pages: which accesses are told, in which view of memory, what is seen where, and pages that the tool adds. Views and all else that is
 * set here are the listener's (introspect/view.h) and go with it.
 */
#include <string.h>

#include "front/kvmi/kvmi_priv.h"
#include "introspect/view.h"

#define PAGES_MAX (KVMI_MESSAGE_MAX / sizeof(uint64_t))

/* What introspect says of a tool's mistakes, in the protocol's words. */
static int error_of(int r)
{
    switch (r) {
    case -EFAULT:
    case -ENOENT:
    case -ENXIO:
    case -EEXIST:
        return -EINVAL;
    case -ENOSPC:
        return -ENOMEM;
    default:
        return r;
    }
}

static gpa_t page_of(uint64_t gpa)
{
    return gpa & ~(uint64_t)PAGE_OFFSET_MASK;
}

/* ---- permissions ---- */

typedef int set_pages(struct look_listener *l, unsigned view, const struct look_page *page, unsigned n);

/* All at once, or else each that can be: the first mistake's error. */
static int set_each(struct kvmi_arg *a, unsigned view, set_pages *set, const struct look_page *page, unsigned n)
{
    int first = 0, r = kvmi_listen(a->session, a->vm);
    if (r || set(a->session->listener, view, page, n) == 0)
        return r;
    for (unsigned i = 0; i < n; i++)
        if ((r = set(a->session->listener, view, &page[i], 1)) && !first)
            first = r;
    return error_of(first);
}

int kvmi_set_access(struct kvmi_arg *a, unsigned view, const struct kvmi_page_access *entry, unsigned n)
{
    struct look_page page[PAGES_MAX];
    unsigned n_good = 0;
    int wrong = 0;
    for (unsigned i = 0; i < n; i++) {
        struct kvmi_page_access e;
        memcpy(&e, &entry[i], sizeof e);
        int r = e.access & KVMI_ACCESS_SVE ? -EOPNOTSUPP : e.access >> 4 || e.zero1 || e.zero2 || e.zero3 ? -EINVAL : 0;
        if (r)
            wrong = wrong ? wrong : r;
        else
            page[n_good++] = (struct look_page){ .gpa = page_of(e.gpa), .access = e.access };
    }
    int r = n_good ? set_each(a, view, look_view_set_access, page, n_good) : 0;
    return wrong ? wrong : r;
}

/* The request's entries are there. */
static int check_pages(const struct kvmi_arg *a, size_t entry_bytes)
{
    const struct kvmi_pages *in = a->in;
    return !in->n_pages || a->in_bytes < sizeof *in + in->n_pages * entry_bytes ? -EINVAL : 0;
}

int kvmi_set_page_access(struct kvmi_arg *a)
{
    const struct kvmi_pages *in = a->in;
    int r = check_pages(a, sizeof(struct kvmi_page_access));
    return r ? r : kvmi_set_access(a, in->view, (const struct kvmi_page_access *)(in + 1), in->n_pages);
}

int kvmi_set_page_write_bitmap(struct kvmi_arg *a)
{
    const struct kvmi_pages *in = a->in;
    const struct kvmi_page_bitmap *entry = (const struct kvmi_page_bitmap *)(in + 1);
    struct look_page page[PAGES_MAX];
    int r = check_pages(a, sizeof *entry);
    if (!r && !a->session->has_spp)
        return -EOPNOTSUPP;
    for (unsigned i = 0; !r && i < in->n_pages; i++) {
        r = entry[i].zero ? -EINVAL : 0;
        page[i] = (struct look_page){ .gpa = page_of(entry[i].gpa), .writeable = entry[i].bitmap };
    }
    return r ? r : set_each(a, in->view, look_view_set_writeable, page, in->n_pages);
}

static int get_pages(struct kvmi_arg *a, struct look_page *page)
{
    const struct kvmi_pages *in = a->in;
    int r = check_pages(a, sizeof(uint64_t));
    if (!r)
        r = kvmi_listen(a->session, a->vm);
    for (unsigned i = 0; !r && i < in->n_pages; i++) {
        uint64_t gpa;
        memcpy(&gpa, (const uint8_t *)(in + 1) + i * sizeof gpa, sizeof gpa);
        page[i] = (struct look_page){ .gpa = page_of(gpa) };
    }
    return r ? r : error_of(look_view_get(a->session->listener, in->view, page, in->n_pages));
}

int kvmi_get_page_access(struct kvmi_arg *a)
{
    const struct kvmi_pages *in = a->in;
    struct look_page page[PAGES_MAX];
    int r = get_pages(a, page);
    if (r)
        return r;
    for (unsigned i = 0; i < in->n_pages; i++)
        ((uint8_t *)a->out)[i] = (uint8_t)page[i].access;
    a->out_bytes = in->n_pages;
    return 0;
}

int kvmi_get_page_write_bitmap(struct kvmi_arg *a)
{
    const struct kvmi_pages *in = a->in;
    struct look_page page[PAGES_MAX];
    int r = get_pages(a, page);
    if (r)
        return r;
    for (unsigned i = 0; i < in->n_pages; i++)
        memcpy((uint32_t *)a->out + i, &page[i].writeable, sizeof(uint32_t));
    a->out_bytes = in->n_pages * (uint32_t)sizeof(uint32_t);
    return 0;
}

/* What was set cannot be taken back all at once. */
int kvmi_control_spp(struct kvmi_arg *a)
{
    uint8_t enable = ((const struct kvmi_enable *)a->in)->enable;
    if (enable > 1)
        return -EINVAL;
    if (!enable && a->session->has_spp)
        return -EOPNOTSUPP;
    a->session->has_spp |= enable;
    return 0;
}

/* ---- views ---- */

static int reply_view(struct kvmi_arg *a, int view)
{
    if (view < 0)
        return error_of(view);
    *(struct kvmi_view *)a->out = (struct kvmi_view){ .view = (uint16_t)view };
    a->out_bytes = sizeof(struct kvmi_view);
    return 0;
}

int kvmi_create_view(struct kvmi_arg *a)
{
    int r = kvmi_listen(a->session, a->vm);
    return r ? r : reply_view(a, look_view_create(a->session->listener));
}

int kvmi_destroy_view(struct kvmi_arg *a)
{
    int r = kvmi_listen(a->session, a->vm);
    return r ? r : error_of(look_view_destroy(a->session->listener, ((const struct kvmi_view *)a->in)->view));
}

int kvmi_switch_view(struct kvmi_arg *a)
{
    int r = kvmi_listen(a->session, a->vm);
    return r ? r : error_of(look_view_switch(a->session->listener, a->cpu->id, ((const struct kvmi_view *)a->in)->view));
}

int kvmi_get_view(struct kvmi_arg *a)
{
    int r = kvmi_listen(a->session, a->vm);
    return r ? r : reply_view(a, look_view_of(a->session->listener, a->cpu->id));
}

/* ---- frames ---- */

static bool is_frame(uint64_t gfn)
{
    return gfn <= UINT64_MAX >> PAGE_SHIFT;
}

int kvmi_alloc_gfn(struct kvmi_arg *a)
{
    uint64_t gfn = ((const struct kvmi_number *)a->in)->value;
    int r = is_frame(gfn) ? kvmi_listen(a->session, a->vm) : -EINVAL;
    return r ? r : error_of(look_page_add(a->session->listener, gfn << PAGE_SHIFT));
}

int kvmi_free_gfn(struct kvmi_arg *a)
{
    uint64_t gfn = ((const struct kvmi_number *)a->in)->value;
    int r = is_frame(gfn) ? kvmi_listen(a->session, a->vm) : -EINVAL;
    return r ? r : error_of(look_page_remove(a->session->listener, gfn << PAGE_SHIFT));
}

static int change_gfn(struct kvmi_arg *a, int view, uint64_t old_gfn, uint64_t new_gfn)
{
    if (view < 0 || !is_frame(old_gfn) || !is_frame(new_gfn))
        return -EINVAL;
    return error_of(look_view_remap(a->session->listener, (unsigned)view, old_gfn << PAGE_SHIFT, new_gfn << PAGE_SHIFT));
}

int kvmi_change_gfn(struct kvmi_arg *a)
{
    struct kvmi_change_gfn in;
    uint64_t old[KVMI_CHANGE_GFN_OLD_BYTES / sizeof(uint64_t)];
    int r = kvmi_listen(a->session, a->vm);
    if (r)
        return r;
    if (a->in_bytes == sizeof old) {
        memcpy(old, a->in, sizeof old);
        return change_gfn(a, look_view_of(a->session->listener, a->cpu->id), old[0], old[1]);
    }
    memcpy(&in, a->in, sizeof in);
    return in.zero1 || in.zero2 ? -EINVAL : change_gfn(a, in.view, in.old_gfn, in.new_gfn);
}

/* ---- events ---- */

uint32_t kvmi_failed_access(struct kvmi_session *s, unsigned view, const struct watch_event *e)
{
    struct look_page page = { .gpa = page_of(e->gpa) };
    if (look_view_get(s->listener, view, &page, 1))
        return 0;
    uint32_t failed = e->access & ~page.access & (WATCH_READ | WATCH_EXECUTE);
    return failed | (page.writeable != UINT32_MAX ? e->access & WATCH_WRITE : 0);
}
