/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: calls that look at the node by its path, and fstat of its fd. It is there and usable whatever the host has. The old names are those
 * that programs linked before glibc 2.33 use. No state, no lock.
 */
/* With it, the headers turn open into open64 and so on: here both are defined. */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int __xstat(int version, const char *path, struct stat *out);
int __lxstat(int version, const char *path, struct stat *out);
int __fxstat(int version, int fd, struct stat *out);
int __fxstatat(int version, int dir, const char *path, struct stat *out, int flags);
int __xstat64(int version, const char *path, struct stat64 *out);
int __lxstat64(int version, const char *path, struct stat64 *out);
int __fxstat64(int version, int fd, struct stat64 *out);
int __fxstatat64(int version, int dir, const char *path, struct stat64 *out, int flags);

NEXT_SLOT(stat);
NEXT_SLOT(lstat);
NEXT_SLOT(fstat);
NEXT_SLOT(fstatat);
NEXT_SLOT(stat64);
NEXT_SLOT(lstat64);
NEXT_SLOT(fstat64);
NEXT_SLOT(fstatat64);
NEXT_SLOT(__xstat);
NEXT_SLOT(__lxstat);
NEXT_SLOT(__fxstat);
NEXT_SLOT(__fxstatat);
NEXT_SLOT(__xstat64);
NEXT_SLOT(__lxstat64);
NEXT_SLOT(__fxstat64);
NEXT_SLOT(__fxstatat64);
NEXT_SLOT(statx);
NEXT_SLOT(access);
NEXT_SLOT(faccessat);
NEXT_SLOT(euidaccess);
NEXT_SLOT(eaccess);
NEXT_SLOT(readlink);
NEXT_SLOT(readlinkat);

_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "x86-64 has one");

#define NODE_INODE 0x6b766d
#define NODE_MODE (S_IFCHR | 0666)

static int node_stat(void *to)
{
    struct stat *out = to;
    memset(out, 0, sizeof(*out));
    out->st_ino = NODE_INODE;
    out->st_mode = NODE_MODE;
    out->st_nlink = 1;
    out->st_rdev = makedev(PRELOAD_NODE_MAJOR, PRELOAD_NODE_MINOR);
    out->st_blksize = 4096;
    return 0;
}

static int node_statx(struct statx *out)
{
    memset(out, 0, sizeof(*out));
    out->stx_mask = STATX_BASIC_STATS;
    out->stx_blksize = 4096;
    out->stx_nlink = 1;
    out->stx_mode = NODE_MODE;
    out->stx_ino = NODE_INODE;
    out->stx_rdev_major = PRELOAD_NODE_MAJOR;
    out->stx_rdev_minor = PRELOAD_NODE_MINOR;
    return 0;
}

static int node_access(int mode)
{
    errno = mode & ~(R_OK | W_OK | X_OK) ? EINVAL : EACCES;
    return mode & ~(R_OK | W_OK) ? -1 : 0;
}

/* clang-format off */
#define STAT_FAMILY(suffix) \
    int stat##suffix(const char *restrict path, struct stat##suffix *restrict out) \
    { \
        return preload_is_node(path) ? node_stat(out) : NEXT(stat##suffix)(path, out); \
    } \
    int lstat##suffix(const char *restrict path, struct stat##suffix *restrict out) \
    { \
        return preload_is_node(path) ? node_stat(out) : NEXT(lstat##suffix)(path, out); \
    } \
    int fstat##suffix(int fd, struct stat##suffix *out) \
    { \
        return preload_is_device(fd) ? node_stat(out) : NEXT(fstat##suffix)(fd, out); \
    } \
    int fstatat##suffix(int dir, const char *restrict path, struct stat##suffix *restrict out, int flags) \
    { \
        return preload_is_node(path) ? node_stat(out) : NEXT(fstatat##suffix)(dir, path, out, flags); \
    } \
    int __xstat##suffix(int version, const char *path, struct stat##suffix *out) \
    { \
        return preload_is_node(path) ? node_stat(out) : NEXT(__xstat##suffix)(version, path, out); \
    } \
    int __lxstat##suffix(int version, const char *path, struct stat##suffix *out) \
    { \
        return preload_is_node(path) ? node_stat(out) : NEXT(__lxstat##suffix)(version, path, out); \
    } \
    int __fxstat##suffix(int version, int fd, struct stat##suffix *out) \
    { \
        return preload_is_device(fd) ? node_stat(out) : NEXT(__fxstat##suffix)(version, fd, out); \
    } \
    int __fxstatat##suffix(int version, int dir, const char *path, struct stat##suffix *out, int flags) \
    { \
        return preload_is_node(path) ? node_stat(out) : NEXT(__fxstatat##suffix)(version, dir, path, out, flags); \
    }
/* clang-format on */
STAT_FAMILY()
STAT_FAMILY(64)

int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict out)
{
    return preload_is_node(path) ? node_statx(out) : NEXT(statx)(dir, path, flags, mask, out);
}

int access(const char *path, int mode)
{
    return preload_is_node(path) ? node_access(mode) : NEXT(access)(path, mode);
}

int faccessat(int dir, const char *path, int mode, int flags)
{
    return preload_is_node(path) ? node_access(mode) : NEXT(faccessat)(dir, path, mode, flags);
}

int euidaccess(const char *path, int mode)
{
    return preload_is_node(path) ? node_access(mode) : NEXT(euidaccess)(path, mode);
}

int eaccess(const char *path, int mode)
{
    return preload_is_node(path) ? node_access(mode) : NEXT(eaccess)(path, mode);
}

static ssize_t node_readlink(void)
{
    errno = EINVAL; /* not a link */
    return -1;
}

ssize_t readlink(const char *restrict path, char *restrict out, size_t bytes)
{
    return preload_is_node(path) ? node_readlink() : NEXT(readlink)(path, out, bytes);
}

ssize_t readlinkat(int dir, const char *restrict path, char *restrict out, size_t bytes)
{
    return preload_is_node(path) ? node_readlink() : NEXT(readlinkat)(dir, path, out, bytes);
}
