/* SPDX-License-Identifier: MIT */
/*
 * The port to the kernel's own KVM: plain system calls. No state, no lock. Chosen by cli/boot.c with --device and by tests.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/port.h"

static int port_host_open(const char *path)
{
    return open(path, O_RDWR | O_CLOEXEC);
}

static int port_host_ioctl(int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg);
}

static void *port_host_mmap(size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return mmap(NULL, bytes, prot, flags, fd, offset);
}

const struct port port_host = {
    .name = "host",
    .open = port_host_open,
    .ioctl = port_host_ioctl,
    .mmap = port_host_mmap,
    .close = close,
};
