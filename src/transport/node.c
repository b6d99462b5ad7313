/* SPDX-License-Identifier: MIT */
/*
 * See node.h: character devices that everybody may open. No state, no lock.
 */
#include "transport/node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "abi/memflow.h"
#include "front/memflow/memflow.h"
#include "transport/inproc.h"

#define NODE_KVM_MINOR 232
#define NODE_MODE (S_IFCHR | 0666)
#define NODE_BLOCK_BYTES 4096

static int open_kvm(void)
{
    int fd = vitrine_open(nodes[NODE_KVM].path);
    return fd < 0 ? -errno : fd;
}

const struct node nodes[NODES] = {
    [NODE_KVM] = { .path = NODE_FOLDER "/kvm", .base = "kvm", .minor = NODE_KVM_MINOR, .inode = 0x6b766d, .open = open_kvm },
    [NODE_MEMFLOW] = { .path = NODE_FOLDER "/memflow", .base = "memflow", .minor = MEMFLOW_TYPE, .inode = 0x6d666c, .open = memflow_open },
};

void node_fill_stat(const struct node *node, struct stat *out)
{
    memset(out, 0, sizeof(*out));
    out->st_ino = node->inode;
    out->st_mode = NODE_MODE;
    out->st_nlink = 1;
    out->st_rdev = makedev(NODE_MAJOR, node->minor);
    out->st_blksize = NODE_BLOCK_BYTES;
}

void node_fill_statx(const struct node *node, struct statx *out)
{
    memset(out, 0, sizeof(*out));
    out->stx_mask = STATX_BASIC_STATS;
    out->stx_blksize = NODE_BLOCK_BYTES;
    out->stx_nlink = 1;
    out->stx_mode = NODE_MODE;
    out->stx_ino = node->inode;
    out->stx_rdev_major = NODE_MAJOR;
    out->stx_rdev_minor = node->minor;
}

int node_check_access(int mode)
{
    if (mode & ~(R_OK | W_OK))
        return mode & ~(R_OK | W_OK | X_OK) ? -EINVAL : -EACCES;
    return 0;
}

int node_open(const struct node *node, int flags)
{
    if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        return -EEXIST;
    if (flags & O_DIRECTORY)
        return -ENOTDIR;
    int fd = node->open();
    if (fd >= 0 && !(flags & O_CLOEXEC))
        syscall(SYS_fcntl, fd, F_SETFD, 0); /* fcntl may be preloaded */
    return fd;
}
