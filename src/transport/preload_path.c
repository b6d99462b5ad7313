/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: whether a path means the device node. It need not exist, so its folder is compared with /dev and links are followed here. A path that
 * does not end in "kvm" costs one comparison; if the kernel then refuses it, it may still be a link to the node. System calls are made directly: the C
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

#define NODE_FOLDER "/dev"
#define NODE_BASE "kvm"
#define LINKS_MAX 40 /* Linux's own limit */

char *__realpath_chk(const char *path, char *out, size_t bytes);

NEXT_SLOT(realpath);
NEXT_SLOT(__realpath_chk);
NEXT_SLOT(canonicalize_file_name);

bool preload_stat_is_node(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == makedev(NODE_MAJOR, NODE_MINOR);
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

/* True if path, relative to dir, leads to the node. */
static bool leads_to_node(int dir, const char *path, bool is_following)
{
    char room[2][PATH_MAX];
    const char *base;
    bool is_found = false;
    int at = dir;
    for (unsigned depth = 0; depth < LINKS_MAX; depth++) {
        int parent = open_parent(at, path, &base);
        if (at != dir)
            preload_raw(SYS_close, at, 0, 0, 0, 0, 0);
        at = parent;
        if (parent < 0)
            return false;
        is_found = !strcmp(base, NODE_BASE) && is_node_folder(parent);
        if (is_found || !is_following)
            break;
        char *target = room[depth % 2];
        long n = preload_raw(SYS_readlinkat, parent, (long)base, (long)target, PATH_MAX - 1, 0, 0);
        if (n <= 0)
            break;
        target[n] = '\0';
        path = target;
    }
    preload_raw(SYS_close, at, 0, 0, 0, 0, 0);
    return is_found;
}

__attribute__((noinline)) bool preload_is_node(int dir, const char *path, int flags)
{
    if ((uintptr_t)path < 4096)
        return false;
    if (!strcmp(path, NODE_PATH))
        return !signals_is_held();
    size_t n = strlen(path), n_base = sizeof NODE_BASE - 1;
    if (n < n_base || memcmp(path + n - n_base, NODE_BASE, n_base) != 0 || (n > n_base && path[n - n_base - 1] != '/'))
        return false;
    return !signals_is_held() && leads_to_node(dir, path, !(flags & AT_SYMLINK_NOFOLLOW));
}

__attribute__((noinline)) bool preload_is_node_refused(int dir, const char *path, int flags)
{
    char target[PATH_MAX];
    struct stat st;
    if ((errno != ENOENT && errno != EACCES && errno != EPERM && errno != ENXIO && errno != ENODEV) || signals_is_held())
        return false;
    bool is_following = !(flags & AT_SYMLINK_NOFOLLOW);
    if (is_following && preload_raw(SYS_readlinkat, dir, (long)path, (long)target, sizeof target, 0, 0) > 0 && leads_to_node(dir, path, true))
        return true;
    return errno != ENOENT && !preload_raw(SYS_newfstatat, dir, (long)path, (long)&st, flags & AT_SYMLINK_NOFOLLOW, 0, 0) && preload_stat_is_node(&st);
}

/* ---- canonical names ---- */

static char *node_name(char *out)
{
    return out ? strcpy(out, NODE_PATH) : strdup(NODE_PATH);
}

char *realpath(const char *restrict path, char *restrict out)
{
    if (preload_is_node(AT_FDCWD, path, 0))
        return node_name(out);
    char *found = NEXT(realpath)(path, out);
    return !found && preload_is_node_refused(AT_FDCWD, path, 0) ? node_name(out) : found;
}

char *__realpath_chk(const char *path, char *out, size_t bytes)
{
    if (bytes >= sizeof NODE_PATH && preload_is_node(AT_FDCWD, path, 0))
        return node_name(out);
    char *found = NEXT(__realpath_chk)(path, out, bytes);
    return !found && bytes >= sizeof NODE_PATH && preload_is_node_refused(AT_FDCWD, path, 0) ? node_name(out) : found;
}

char *canonicalize_file_name(const char *path)
{
    if (preload_is_node(AT_FDCWD, path, 0))
        return node_name(NULL);
    char *found = NEXT(canonicalize_file_name)(path);
    return !found && preload_is_node_refused(AT_FDCWD, path, 0) ? node_name(NULL) : found;
}
