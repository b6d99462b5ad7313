/* SPDX-License-Identifier: MIT */
/*
 * See node.h: a character device that everybody may open. No state, no lock.
 */
#include "transport/node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "transport/inproc.h"

#define NODE_INODE 0x6b766d
#define NODE_MODE (S_IFCHR | 0666)
#define NODE_BLOCK_BYTES 4096

void node_fill_stat(struct stat *out)
{
    memset(out, 0, sizeof(*out));
    out->st_ino = NODE_INODE;
    out->st_mode = NODE_MODE;
    out->st_nlink = 1;
    out->st_rdev = makedev(NODE_MAJOR, NODE_MINOR);
    out->st_blksize = NODE_BLOCK_BYTES;
}

void node_fill_statx(struct statx *out)
{
    memset(out, 0, sizeof(*out));
    out->stx_mask = STATX_BASIC_STATS;
    out->stx_blksize = NODE_BLOCK_BYTES;
    out->stx_nlink = 1;
    out->stx_mode = NODE_MODE;
    out->stx_ino = NODE_INODE;
    out->stx_rdev_major = NODE_MAJOR;
    out->stx_rdev_minor = NODE_MINOR;
}

int node_check_access(int mode)
{
    if (mode & ~(R_OK | W_OK))
        return mode & ~(R_OK | W_OK | X_OK) ? -EINVAL : -EACCES;
    return 0;
}

int node_open(int flags)
{
    if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        return -EEXIST;
    if (flags & O_DIRECTORY)
        return -ENOTDIR;
    int fd = vitrine_open(NODE_PATH);
    if (fd < 0)
        return -errno;
    if (!(flags & O_CLOEXEC))
        syscall(SYS_fcntl, fd, F_SETFD, 0); /* fcntl may be preloaded */
    return fd;
}
