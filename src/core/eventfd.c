/* SPDX-License-Identifier: MIT */
/*
 * Eventfds that belong to the client: duplicated, since the client may close its own, and told apart by what they refer to, since it may hold several fds
 * for one. No state, no lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/vm_priv.h"

static bool is_eventfd(int fd)
{
    char path[40], target[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0)
        return true; /* no /proc: believe it */
    target[n] = 0;
    return strcmp(target, "anon_inode:[eventfd]") == 0;
}

int eventfd_dup(int fd)
{
    if (fcntl(fd, F_GETFD) < 0)
        return -EBADF;
    if (!is_eventfd(fd))
        return -EINVAL;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? -errno : copy;
}

/* The kernel's number of an eventfd, -1 if it does not tell (before Linux 5.2). */
static long eventfd_id(int fd)
{
    char path[40], line[80];
    long id = -1;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "eventfd-id: %ld", &id) == 1)
            break;
    }
    if (f)
        fclose(f);
    return id;
}

bool eventfd_is_same(int a, int b)
{
    long order = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b);
    if (order >= 0)
        return order == 0;
    /* kcmp is forbidden in many containers. */
    long id = eventfd_id(a);
    return id >= 0 && id == eventfd_id(b);
}

void eventfd_signal(int fd)
{
    uint64_t one = 1;
    ssize_t n;
    do
        n = write(fd, &one, sizeof one);
    while (n < 0 && errno == EINTR); /* EAGAIN: the count is at its limit, so it is signalled anyway */
}

bool eventfd_consume(int fd)
{
    uint64_t count;
    struct iovec iov = { &count, sizeof count };
    /* Another reader may have been faster, and the client's fd may be a blocking one. */
    ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
        n = read(fd, &count, sizeof count);
    return n == sizeof count;
}
