/* SPDX-License-Identifier: MIT */
/*
 * What stands behind an fd that a front made: a counted object with one entry for its ioctls. A front embeds struct object as the first member of its own;
 * transports know nothing else of it. Any thread; counts are atomic.
 */
#ifndef VITRINE_BASE_OBJECT_H
#define VITRINE_BASE_OBJECT_H

#include <stdatomic.h>

#include "base/types.h"

struct object;

struct object_ops {
    /* >= 0 or -errno. If the call made an fd, that is the result and *created is its object, with one reference for the caller; else NULL. */
    int (*ioctl)(struct object *o, unsigned long request, unsigned long arg, struct object **created);
    /* An fd that the object keeps open for itself and that shares the file of the client's fd, or -1. NULL: there is none ever. It does not keep the object
     * alive. */
    int (*private_fd)(const struct object *o);
    bool (*is_mappable)(const struct object *o);
    void (*destroy)(struct object *o); /* its last reference went */
};

struct object {
    const struct object_ops *ops;
    _Atomic unsigned refs;
    unsigned n_forks; /* of the process when it was made */
    bool is_device;   /* good in any process; others belong to the one that made them */
};

/* With one reference for the caller. */
void object_init(struct object *o, const struct object_ops *ops, bool is_device);
void object_get(struct object *o);
void object_put(struct object *o);
int object_private_fd(const struct object *o);

/* As the operation of the name; -EIO on an object of the process that this one was forked from. The caller holds a reference for the time of the call. */
int object_ioctl(struct object *o, unsigned long request, unsigned long arg, struct object **created);

/*
 * In the child of a fork, before anything else: objects made so far, but devices, are the parent's. As with the kernel's, their calls are EIO here; they are
 * never destroyed here, since their threads are not in this process.
 */
void object_forked(void);

#endif
