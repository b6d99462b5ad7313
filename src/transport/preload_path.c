/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: whether a path means a device node. It need not exist, so its folder is compared with /dev and links are followed here. A path that
 * does not end in a node's name costs two comparisons; if the kernel then refuses it, it may still be a link to the node. System calls are made directly: the C
 * library's would come by the preload transport again. No state, no lock.
 */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/signals.h"
#include "transport/node.h"

#define LINKS_MAX 40 /* Linux's own limit */

char *__realpath_chk(const char *path, char *out, size_t bytes);

NEXT_SLOT(realpath);
NEXT_SLOT(__realpath_chk);

bool preload_stat_is_kvm(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == makedev(NODE_MAJOR, nodes[NODE_KVM].minor);
}

/* By the call that the C library makes: a client's seccomp filter may know no other. */
int preload_stat_fd(int fd, struct stat *out)
{
    return (int)preload_raw(SYS_newfstatat, fd, (long)"", (long)out, AT_EMPTY_PATH, 0, 0);
}

/* Opens what stands before the last slash, relative to dir, as a place to look from. -1 if it cannot be; *base is what stands behind. */
static int open_parent(int dir, const char *path, const char **base)
{
    char folder[PATH_MAX] = ".";
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    *base = path + n;
    if (n >= sizeof folder)
        return -1;
    if (n) {
        memcpy(folder, path, n);
        folder[n] = '\0';
    }
    long fd = preload_raw(SYS_openat, dir, (long)folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0, 0);
    return fd < 0 ? -1 : (int)fd;
}

static bool is_node_folder(int fd)
{
    struct stat there, dev;
    return !preload_stat_fd(fd, &there) && !preload_raw(SYS_newfstatat, AT_FDCWD, (long)NODE_FOLDER, (long)&dev, 0, 0, 0) && there.st_dev == dev.st_dev &&
           there.st_ino == dev.st_ino;
}

static const struct node *node_of_base(const char *base)
{
    for (unsigned i = 0; i < NODES; i++)
        if (!strcmp(base, nodes[i].base))
            return &nodes[i];
    return NULL;
}

/* The node that path, relative to dir, leads to, or NULL. */
static const struct node *leads_to_node(int dir, const char *path, bool is_following)
{
    char room[2][PATH_MAX];
    const char *base;
    const struct node *found = NULL;
    int at = dir;
    for (unsigned depth = 0; depth < LINKS_MAX; depth++) {
        int parent = open_parent(at, path, &base);
        if (at != dir)
            preload_raw(SYS_close, at, 0, 0, 0, 0, 0);
        at = parent;
        if (parent < 0)
            return NULL;
        found = node_of_base(base);
        if (found && !is_node_folder(parent))
            found = NULL;
        if (found || !is_following)
            break;
        char *target = room[depth % 2];
        long n = preload_raw(SYS_readlinkat, parent, (long)base, (long)target, PATH_MAX - 1, 0, 0);
        if (n <= 0)
            break;
        target[n] = '\0';
        path = target;
    }
    preload_raw(SYS_close, at, 0, 0, 0, 0, 0);
    return found;
}

/* By its last part alone. */
static bool may_be_node(const char *path)
{
    const char *slash = strrchr(path, '/');
    return node_of_base(slash ? slash + 1 : path);
}

__attribute__((noinline)) const struct node *preload_node(int dir, const char *path, int flags)
{
    if ((uintptr_t)path < 4096 || !may_be_node(path) || signals_is_held())
        return NULL;
    for (unsigned i = 0; i < NODES; i++)
        if (!strcmp(path, nodes[i].path))
            return &nodes[i];
    return leads_to_node(dir, path, !(flags & AT_SYMLINK_NOFOLLOW));
}

__attribute__((noinline)) const struct node *preload_node_refused(int dir, const char *path, int flags)
{
    char target[PATH_MAX];
    const struct node *node;
    struct stat st;
    if ((errno != ENOENT && errno != EACCES && errno != EPERM && errno != ENXIO && errno != ENODEV) || signals_is_held())
        return NULL;
    bool is_following = !(flags & AT_SYMLINK_NOFOLLOW);
    if (is_following && preload_raw(SYS_readlinkat, dir, (long)path, (long)target, sizeof target, 0, 0) > 0 && (node = leads_to_node(dir, path, true)))
        return node;
    if (errno != ENOENT && !preload_raw(SYS_newfstatat, dir, (long)path, (long)&st, flags & AT_SYMLINK_NOFOLLOW, 0, 0) && preload_stat_is_kvm(&st))
        return &nodes[NODE_KVM];
    return NULL;
}

/* ---- canonical names ---- */

static char *node_name(const struct node *node, char *out)
{
    return out ? strcpy(out, node->path) : strdup(node->path);
}

char *realpath(const char *restrict path, char *restrict out)
{
    const struct node *node = preload_node(AT_FDCWD, path, 0);
    if (node)
        return node_name(node, out);
    char *found = NEXT(realpath)(path, out);
    return !found && (node = preload_node_refused(AT_FDCWD, path, 0)) ? node_name(node, out) : found;
}

char *__realpath_chk(const char *path, char *out, size_t bytes)
{
    const struct node *node = preload_node(AT_FDCWD, path, 0);
    if (node && bytes > strlen(node->path))
        return node_name(node, out);
    char *found = NEXT(__realpath_chk)(path, out, bytes);
    return !found && (node = preload_node_refused(AT_FDCWD, path, 0)) && bytes > strlen(node->path) ? node_name(node, out) : found;
}

char *canonicalize_file_name(const char *path)
{
    return realpath(path, NULL);
}
