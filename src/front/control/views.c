/* SPDX-License-Identifier: MIT */
/* Views of guest memory and pages of tools: what a connection has set is its listener's (introspect/view.h), which goes with it. See control.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "front/control/control_priv.h"
#include "introspect/view.h"

_Static_assert(sizeof(struct vitrine_page) == sizeof(struct look_page) && offsetof(struct vitrine_page, access) == offsetof(struct look_page, access) &&
                   offsetof(struct vitrine_page, writeable) == offsetof(struct look_page, writeable),
               "introspect's page in the public order");

/* A number or an error, as an answer. */
static int answer_view(struct control_arg *a, int view)
{
    if (view < 0)
        return view;
    *(struct control_view *)a->out = (struct control_view){ .view = (uint32_t)view };
    a->out_bytes = sizeof(struct control_view);
    return 0;
}

int control_view_create(struct control_arg *a)
{
    struct look_listener *l;
    int r = control_ear_open(a, &l);
    return answer_view(a, r ? r : look_view_create(l));
}

int control_view_destroy(struct control_arg *a)
{
    const struct control_view *in = a->in;
    struct look_listener *l;
    int r = control_ear_open(a, &l);
    return r ? r : look_view_destroy(l, in->view);
}

int control_view_switch(struct control_arg *a)
{
    const struct control_view *in = a->in;
    struct look_listener *l;
    int r = control_ear_open(a, &l);
    return r ? r : look_view_switch(l, in->vcpu, in->view);
}

int control_view_of(struct control_arg *a)
{
    const struct control_view *in = a->in;
    struct look_listener *l;
    int r = control_ear_open(a, &l);
    return answer_view(a, r ? r : look_view_of(l, in->vcpu));
}

/* The pages behind the head of a request. */
static int pages_of(struct control_arg *a, struct look_listener **l, const struct look_page **page, unsigned *n)
{
    uint32_t bytes = a->in_bytes - (uint32_t)sizeof(struct control_view);
    *page = (const void *)((const struct control_view *)a->in + 1);
    *n = bytes / (uint32_t)sizeof **page;
    return bytes % sizeof **page ? -EINVAL : control_ear_open(a, l);
}

int control_view_access(struct control_arg *a)
{
    const struct control_view *in = a->in;
    struct look_listener *l;
    const struct look_page *page;
    unsigned n;
    int r = pages_of(a, &l, &page, &n);
    return r ? r : look_view_set_access(l, in->view, page, n);
}

int control_view_writeable(struct control_arg *a)
{
    const struct control_view *in = a->in;
    struct look_listener *l;
    const struct look_page *page;
    unsigned n;
    int r = pages_of(a, &l, &page, &n);
    return r ? r : look_view_set_writeable(l, in->view, page, n);
}

int control_view_pages(struct control_arg *a)
{
    const struct control_view *in = a->in;
    struct look_listener *l;
    const struct look_page *page;
    unsigned n;
    int r = pages_of(a, &l, &page, &n);
    if (r)
        return r;
    memcpy(a->out, page, n * sizeof *page);
    r = look_view_get(l, in->view, a->out, n);
    a->out_bytes = n * (uint32_t)sizeof *page;
    return r;
}

int control_view_remap(struct control_arg *a)
{
    const struct control_view *in = a->in;
    struct look_listener *l;
    int r = control_ear_open(a, &l);
    return r ? r : look_view_remap(l, in->view, in->gpa, in->target);
}

int control_page_add(struct control_arg *a)
{
    struct look_listener *l;
    int r = control_ear_open(a, &l);
    return r ? r : look_page_add(l, ((const struct control_view *)a->in)->gpa);
}

int control_page_remove(struct control_arg *a)
{
    struct look_listener *l;
    int r = control_ear_open(a, &l);
    return r ? r : look_page_remove(l, ((const struct control_view *)a->in)->gpa);
}

/* A page of an ordinary file that may be written: 0 or why not. Huge pages do not come one by one. */
static int check_file(int fd, uint64_t offset)
{
    struct stat st;
    struct statfs system;
    if (fd < 0 || fstat(fd, &st) || fstatfs(fd, &system))
        return -EBADF;
    if (!S_ISREG(st.st_mode) || system.f_type == HUGETLBFS_MAGIC || (offset & PAGE_OFFSET_MASK) || offset > INT64_MAX - PAGE_BYTES ||
        (int64_t)(offset + PAGE_BYTES) > st.st_size)
        return -EINVAL;
    return (fcntl(fd, F_GETFL) & (O_ACCMODE | O_PATH)) == O_RDWR ? 0 : -EACCES;
}

int control_page_lend(struct control_arg *a)
{
    const struct control_lend *in = a->in;
    struct look_listener *l;
    int r = check_file(a->session->given_fd, in->offset);
    if (!r)
        r = control_ear_open(a, &l);
    return r ? r : look_page_lend(l, in->gpa, a->session->given_fd, in->offset);
}
