/* SPDX-License-Identifier: MIT */
/*
 * The in-process transport: system calls of a client become calls of the front. Looks at fds and errno, never into an argument. Any thread.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "front/kvm/front.h"
#include "transport/inproc.h"
#include "transport/registry.h"

static int result(int r)
{
    if (r >= 0)
        return r;
    errno = -r;
    return -1;
}

/* A new fd is not the client's until the registry knows it. */
static int fd_publish(int fd, struct kvm_object *o)
{
    int r = registry_add(fd, o);
    if (!r)
        return fd;
    close(fd);
    kvm_object_put(o);
    return r;
}

int vitrine_open(const char *node)
{
    struct kvm_object *o;
    if (!node || strcmp(node, "/dev/kvm"))
        return result(-ENOENT);
    int fd = kvm_object_open(&o);
    return result(fd < 0 ? fd : fd_publish(fd, o));
}

int vitrine_ioctl(int fd, unsigned long request, void *arg)
{
    struct kvm_object *created;
    struct kvm_object *o = registry_find(fd, kvm_request_is_run(request));
    if (!o)
        return result(-EBADF);
    int r = kvm_ioctl(o, request, (unsigned long)arg, &created);
    if (created)
        r = fd_publish(r, created);
    kvm_object_put(o);
    return result(r);
}

void *vitrine_mmap(size_t bytes, int prot, int flags, int fd, off_t offset)
{
    struct kvm_object *o = registry_find(fd, false);
    if (!o) {
        errno = EBADF;
        return MAP_FAILED;
    }
    /* The device's file is empty: the kernel would map it, but KVM's device cannot be mapped. */
    void *p = MAP_FAILED;
    if (kvm_object_is_mappable(o))
        p = mmap(NULL, bytes, prot, flags, fd, offset);
    else
        errno = ENODEV;
    kvm_object_put(o);
    return p;
}

int vitrine_close(int fd)
{
    return result(registry_close(fd));
}
