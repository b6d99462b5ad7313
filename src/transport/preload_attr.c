/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: calls that change the node's owner and mode, and those about extended attributes, of which it has none. libvirt makes them for each
 * emulator to which it gives a /dev of its own. No state, no lock.
 */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

NEXT_SLOT(chown);
NEXT_SLOT(lchown);
NEXT_SLOT(fchownat);
NEXT_SLOT(chmod);
NEXT_SLOT(fchmodat);
NEXT_SLOT(getxattr);
NEXT_SLOT(lgetxattr);
NEXT_SLOT(setxattr);
NEXT_SLOT(lsetxattr);
NEXT_SLOT(listxattr);
NEXT_SLOT(llistxattr);
NEXT_SLOT(removexattr);
NEXT_SLOT(lremovexattr);

/* Everybody may use the node whatever is changed there; libvirt does, for its emulators. The host's stays as it is. */
static int node_change(void)
{
    if (geteuid() == 0)
        return 0;
    errno = EPERM;
    return -1;
}

int chown(const char *path, uid_t user, gid_t group)
{
    return preload_node(AT_FDCWD, path, 0) ? node_change() : NEXT(chown)(path, user, group);
}

int lchown(const char *path, uid_t user, gid_t group)
{
    return preload_node(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW) ? node_change() : NEXT(lchown)(path, user, group);
}

int fchownat(int dir, const char *path, uid_t user, gid_t group, int flags)
{
    return preload_node(dir, path, flags) ? node_change() : NEXT(fchownat)(dir, path, user, group, flags);
}

int chmod(const char *path, mode_t mode)
{
    return preload_node(AT_FDCWD, path, 0) ? node_change() : NEXT(chmod)(path, mode);
}

int fchmodat(int dir, const char *path, mode_t mode, int flags)
{
    return preload_node(dir, path, flags) ? node_change() : NEXT(fchmodat)(dir, path, mode, flags);
}

/* ---- extended attributes ---- */

static int node_has_none(void)
{
    errno = ENOTSUP;
    return -1;
}

/* clang-format off */
#define XATTR_FAMILY(prefix, flags) \
    ssize_t prefix##getxattr(const char *path, const char *name, void *value, size_t bytes) \
    { \
        return preload_node(AT_FDCWD, path, flags) ? node_has_none() : NEXT(prefix##getxattr)(path, name, value, bytes); \
    } \
    int prefix##setxattr(const char *path, const char *name, const void *value, size_t bytes, int how) \
    { \
        return preload_node(AT_FDCWD, path, flags) ? node_has_none() : NEXT(prefix##setxattr)(path, name, value, bytes, how); \
    } \
    ssize_t prefix##listxattr(const char *path, char *list, size_t bytes) \
    { \
        return preload_node(AT_FDCWD, path, flags) ? node_has_none() : NEXT(prefix##listxattr)(path, list, bytes); \
    } \
    int prefix##removexattr(const char *path, const char *name) \
    { \
        return preload_node(AT_FDCWD, path, flags) ? node_has_none() : NEXT(prefix##removexattr)(path, name); \
    }
/* clang-format on */
XATTR_FAMILY(, 0)
XATTR_FAMILY(l, AT_SYMLINK_NOFOLLOW)
