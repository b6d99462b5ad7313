/* SPDX-License-Identifier: MIT */
/*
 * Life of objects behind fds, see object.h. No lock: the count says whose turn it is.
 */
#include "base/object.h"

#include <errno.h>

static unsigned n_forks; /* from the first process that had this memory; changes when there is one thread */

static bool is_foreign(const struct object *o)
{
    return o->n_forks != n_forks && !o->is_device;
}

void object_init(struct object *o, const struct object_ops *ops, bool is_device)
{
    o->ops = ops;
    o->n_forks = n_forks;
    o->is_device = is_device;
    atomic_init(&o->refs, 1);
}

void object_get(struct object *o)
{
    atomic_fetch_add(&o->refs, 1);
}

void object_put(struct object *o)
{
    if (atomic_fetch_sub(&o->refs, 1) == 1 && !is_foreign(o))
        o->ops->destroy(o);
}

int object_private_fd(const struct object *o)
{
    return o->ops->private_fd ? o->ops->private_fd(o) : -1;
}

int object_ioctl(struct object *o, unsigned long request, unsigned long arg, struct object **created)
{
    *created = NULL;
    return is_foreign(o) ? -EIO : o->ops->ioctl(o, request, arg, created);
}

void object_forked(void)
{
    n_forks++;
}
