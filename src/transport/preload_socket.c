/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: fds that are sent through a socket. While one is on its way, its VM must not end for want of an open fd; when it has come, its number
 * is known at once. Messages without fds cost a look at their header. No state, no lock.
 */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/signals.h"
#include "transport/registry.h"

NEXT_SLOT(sendmsg);
NEXT_SLOT(sendmmsg);
NEXT_SLOT(recvmsg);
NEXT_SLOT(recvmmsg);

void preload_socket_find(void)
{
    NEXT(sendmsg), NEXT(sendmmsg), NEXT(recvmsg), NEXT(recvmmsg);
}

static void depart(int fd)
{
    if (preload_kind_of(fd) != PRELOAD_MACHINE)
        return;
    signals_hold();
    registry_depart(fd);
    signals_release();
}

static void arrive(int fd)
{
    if (!registry_has_departed() || signals_is_held())
        return;
    signals_hold();
    registry_arrive(fd);
    signals_release();
}

/* Does it for each fd of a message. */
static void each_fd(const struct msghdr *message, void (*act)(int fd))
{
    struct msghdr *m = (struct msghdr *)message;
    int saved_errno = errno;
    if ((unsigned long)m < 4096 || !m->msg_control || m->msg_controllen < sizeof(struct cmsghdr))
        return;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
            continue;
        for (size_t at = 0; at + sizeof(int) <= c->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
            act(fd);
        }
    }
    errno = saved_errno;
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags)
{
    each_fd(message, depart);
    ssize_t r = NEXT(sendmsg)(socket, message, flags);
    if (r < 0)
        each_fd(message, arrive);
    return r;
}

int sendmmsg(int socket, struct mmsghdr *messages, unsigned n, int flags)
{
    for (unsigned i = 0; i < n; i++)
        each_fd(&messages[i].msg_hdr, depart);
    int r = NEXT(sendmmsg)(socket, messages, n, flags);
    for (unsigned i = r < 0 ? 0 : (unsigned)r; i < n; i++)
        each_fd(&messages[i].msg_hdr, arrive);
    return r;
}

ssize_t recvmsg(int socket, struct msghdr *message, int flags)
{
    ssize_t r = NEXT(recvmsg)(socket, message, flags);
    if (r >= 0)
        each_fd(message, arrive);
    return r;
}

int recvmmsg(int socket, struct mmsghdr *messages, unsigned n, int flags, struct timespec *timeout)
{
    int r = NEXT(recvmmsg)(socket, messages, n, flags, timeout);
    for (int i = 0; i < r; i++)
        each_fd(&messages[i].msg_hdr, arrive);
    return r;
}
