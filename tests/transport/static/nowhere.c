/* SPDX-License-Identifier: MIT */
/*
 * Stands in for vitrine in conformance programs that run-static links statically: they know no other KVM than the device node. Never reached, as the cases run
 * with the peer "host" only. Also what the C library in use may lack.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "transport/inproc.h"

int vitrine_open(const char *node)
{
    (void)node;
    errno = ENOENT;
    return -1;
}

int vitrine_ioctl(int fd, unsigned long request, void *arg)
{
    (void)fd, (void)request, (void)arg;
    errno = EBADF;
    return -1;
}

void *vitrine_mmap(size_t bytes, int prot, int flags, int fd, off_t offset)
{
    (void)bytes, (void)prot, (void)flags, (void)fd, (void)offset;
    errno = EBADF;
    return (void *)-1;
}

int vitrine_close(int fd)
{
    (void)fd;
    errno = EBADF;
    return -1;
}

#ifndef __GLIBC__
const char *strerrorname_np(int error)
{
    return strerror(error);
}

const char *sigabbrev_np(int sig)
{
    return strsignal(sig);
}
#endif
