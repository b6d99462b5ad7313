/* SPDX-License-Identifier: MIT */
/* See fd.h. */
#include "base/fd.h"

#include <fcntl.h>
#include <unistd.h>

#define FD_LEAST 512

int fd_copy_up(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, FD_LEAST);
}

int fd_move_up(int fd)
{
    int high = fd_copy_up(fd);
    if (high < 0)
        return fd;
    close(fd);
    return high;
}
