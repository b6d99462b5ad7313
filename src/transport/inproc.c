/* SPDX-License-Identifier: MIT */
/*
 * The in-process transport: system calls of a client become calls of the front. Looks at fds and errno, never into an argument. Any thread.
 * The client's signal handlers run between calls, never inside one: they may call us again, or jump away.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/object.h"
#include "base/signals.h"
#include "front/kvm/front.h"
#include "front/mshv/front.h"
#include "transport/control_server.h"
#include "transport/inproc.h"
#include "transport/kvmi_endpoint.h"
#include "transport/registry.h"

/* Ends what signals_hold began. */
static int result(int r)
{
    signals_release();
    if (r >= 0)
        return r;
    errno = -r;
    return -1;
}

/* A new fd is not the client's until the registry knows it. */
static int fd_publish(int fd, struct object *o)
{
    int r = registry_add(fd, o);
    if (!r)
        return fd;
    close(fd);
    object_put(o);
    return r;
}

int vitrine_open(const char *node)
{
    static const struct {
        const char *path;
        int (*open)(struct object **out);
    } devices[] = { { "/dev/kvm", kvm_object_open }, { "/dev/mshv", mshv_object_open } };
    struct object *o;
    int fd = -ENOENT;
    signals_hold();
    for (unsigned i = 0; node && i < sizeof devices / sizeof devices[0]; i++)
        if (!strcmp(node, devices[i].path))
            fd = devices[i].open(&o);
    return result(fd < 0 ? fd : fd_publish(fd, o));
}

static bool is_run(unsigned long request)
{
    return kvm_request_is_run(request) || mshv_request_is_run(request);
}

bool inproc_ioctl(int fd, unsigned long request, void *arg, int *r)
{
    struct object *created;
    signals_hold();
    struct object *o = registry_find(fd, is_run(request));
    if (!o) {
        signals_release();
        return false;
    }
    *r = object_ioctl(o, request, (unsigned long)arg, &created);
    if (created) {
        *r = fd_publish(*r, created);
        control_server_start();
        kvmi_endpoint_start();
    }
    object_put(o);
    *r = result(*r);
    return true;
}

int vitrine_ioctl(int fd, unsigned long request, void *arg)
{
    int r;
    if (inproc_ioctl(fd, request, arg, &r))
        return r;
    errno = EBADF;
    return -1;
}

void *vitrine_mmap(size_t bytes, int prot, int flags, int fd, off_t offset)
{
    signals_hold();
    struct object *o = registry_find(fd, false);
    void *p = MAP_FAILED;
    int error = 0;
    /* The device's file is empty: the kernel would map it, but the devices cannot be mapped. */
    if (!o)
        error = EBADF;
    else if (!o->ops->is_mappable(o))
        error = ENODEV;
    else if ((p = mmap(NULL, bytes, prot, flags, fd, offset)) == MAP_FAILED)
        error = errno;
    if (o)
        object_put(o);
    signals_release();
    if (error)
        errno = error;
    return p;
}

int vitrine_close(int fd)
{
    signals_hold();
    return result(registry_close(fd));
}
