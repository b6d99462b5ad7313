/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: calls that look at the node by its path, and fstat of its fd. It is there and usable whatever the host has.
 * The old names are those that programs linked before glibc 2.33 use. No state, no lock.
 */
/* With it, the headers turn open into open64 and so on: here both are defined. */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/signals.h"
#include "transport/node.h"

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

static int node_stat(const struct node *node, void *out) /* either name of the struct */
{
    node_fill_stat(node, out);
    return 0;
}

static int node_statx(const struct node *node, struct statx *out)
{
    node_fill_statx(node, out);
    return 0;
}

static int node_access(int mode)
{
    int r = node_check_access(mode);
    if (r)
        errno = -r;
    return r ? -1 : 0;
}

/* The node may be reached by a name that is not known for it: what the host has there is no matter. */
static int node_stat_after(int r, int dir, const char *path, int flags, void *out)
{
    const struct node *node = NULL;
    if (r < 0)
        node = preload_node_refused(dir, path, flags);
    else if (preload_stat_is_kvm(out) && !signals_is_held())
        node = &nodes[NODE_KVM];
    return node ? node_stat(node, out) : r;
}

/* KVM's VM and vCPU fds have no type of file and no size. */
static int fd_stat_after(int r, int fd, void *to)
{
    struct stat *out = to;
    if (r < 0)
        return r;
    enum preload_kind kind = preload_kind_of(fd);
    if (kind == PRELOAD_DEVICE)
        return node_stat(&nodes[NODE_KVM], out);
    if (kind == PRELOAD_MACHINE) {
        out->st_mode = S_IRUSR | S_IWUSR;
        out->st_size = 0;
        out->st_blocks = 0;
    }
    return r;
}

static bool is_of_fd(const char *path, int flags)
{
    return (flags & AT_EMPTY_PATH) && (uintptr_t)path >= 4096 && !*path;
}

/* clang-format off */
#define STAT_BY_PATH(dir, flags, call) \
    const struct node *node = preload_node(dir, path, flags); \
    return node ? node_stat(node, out) : node_stat_after(call, dir, path, flags, out)
#define STAT_FAMILY(suffix) \
    int stat##suffix(const char *restrict path, struct stat##suffix *restrict out) \
    { \
        STAT_BY_PATH(AT_FDCWD, 0, NEXT(stat##suffix)(path, out)); \
    } \
    int lstat##suffix(const char *restrict path, struct stat##suffix *restrict out) \
    { \
        STAT_BY_PATH(AT_FDCWD, AT_SYMLINK_NOFOLLOW, NEXT(lstat##suffix)(path, out)); \
    } \
    int fstat##suffix(int fd, struct stat##suffix *out) \
    { \
        return fd_stat_after(NEXT(fstat##suffix)(fd, out), fd, out); \
    } \
    int fstatat##suffix(int dir, const char *restrict path, struct stat##suffix *restrict out, int flags) \
    { \
        if (is_of_fd(path, flags)) \
            return fd_stat_after(NEXT(fstatat##suffix)(dir, path, out, flags), dir, out); \
        STAT_BY_PATH(dir, flags, NEXT(fstatat##suffix)(dir, path, out, flags)); \
    } \
    int __xstat##suffix(int version, const char *path, struct stat##suffix *out) \
    { \
        STAT_BY_PATH(AT_FDCWD, 0, NEXT(__xstat##suffix)(version, path, out)); \
    } \
    int __lxstat##suffix(int version, const char *path, struct stat##suffix *out) \
    { \
        STAT_BY_PATH(AT_FDCWD, AT_SYMLINK_NOFOLLOW, NEXT(__lxstat##suffix)(version, path, out)); \
    } \
    int __fxstat##suffix(int version, int fd, struct stat##suffix *out) \
    { \
        return fd_stat_after(NEXT(__fxstat##suffix)(version, fd, out), fd, out); \
    } \
    int __fxstatat##suffix(int version, int dir, const char *path, struct stat##suffix *out, int flags) \
    { \
        if (is_of_fd(path, flags)) \
            return fd_stat_after(NEXT(__fxstatat##suffix)(version, dir, path, out, flags), dir, out); \
        STAT_BY_PATH(dir, flags, NEXT(__fxstatat##suffix)(version, dir, path, out, flags)); \
    }
/* clang-format on */
STAT_FAMILY()
STAT_FAMILY(64)

static bool statx_is_kvm(const struct statx *out)
{
    return S_ISCHR(out->stx_mode) && out->stx_rdev_major == NODE_MAJOR && out->stx_rdev_minor == nodes[NODE_KVM].minor && !signals_is_held();
}

int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict out)
{
    enum preload_kind kind = is_of_fd(path, flags) ? preload_kind_of(dir) : PRELOAD_OTHER;
    const struct node *node = kind == PRELOAD_DEVICE ? &nodes[NODE_KVM] : preload_node(dir, path, flags);
    if (node)
        return node_statx(node, out);
    int r = NEXT(statx)(dir, path, flags, mask, out);
    if (r < 0)
        node = preload_node_refused(dir, path, flags);
    else if (statx_is_kvm(out))
        node = &nodes[NODE_KVM];
    if (node)
        return node_statx(node, out);
    if (!r && kind == PRELOAD_MACHINE) {
        out->stx_mode = S_IRUSR | S_IWUSR;
        out->stx_size = out->stx_blocks = 0;
    }
    return r;
}

/* ---- access ---- */

static int access_after(int r, int dir, const char *path, int mode, int flags)
{
    return r < 0 && preload_node_refused(dir, path, flags) ? node_access(mode) : r;
}

int access(const char *path, int mode)
{
    return preload_node(AT_FDCWD, path, 0) ? node_access(mode) : access_after(NEXT(access)(path, mode), AT_FDCWD, path, mode, 0);
}

int faccessat(int dir, const char *path, int mode, int flags)
{
    return preload_node(dir, path, flags) ? node_access(mode) : access_after(NEXT(faccessat)(dir, path, mode, flags), dir, path, mode, flags);
}

int euidaccess(const char *path, int mode)
{
    return preload_node(AT_FDCWD, path, 0) ? node_access(mode) : access_after(NEXT(euidaccess)(path, mode), AT_FDCWD, path, mode, 0);
}

int eaccess(const char *path, int mode)
{
    return preload_node(AT_FDCWD, path, 0) ? node_access(mode) : access_after(NEXT(eaccess)(path, mode), AT_FDCWD, path, mode, 0);
}

/* ---- links ---- */

static ssize_t node_readlink(void)
{
    errno = EINVAL; /* not a link */
    return -1;
}

/* /proc/self/fd of our own files, as the kernel shows KVM's. */
static ssize_t readlink_after(ssize_t n, const char *path, char *out, size_t bytes)
{
    static const struct {
        const char *ours, *kernel;
    } names[] = { { "/memfd:kvm (deleted)", NODE_FOLDER "/kvm" }, { "/memfd:kvm-vm (deleted)", "anon_inode:kvm-vm" } };
    if (n < 11 || memcmp(out, "/memfd:kvm", 10) != 0 || strncmp(path, "/proc/", 6) != 0 || signals_is_held())
        return n;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n_ours = strlen(names[i].ours), n_kernel = strlen(names[i].kernel);
        if ((size_t)n > n_ours || ((size_t)n < n_ours && (size_t)n < bytes) || memcmp(out, names[i].ours, (size_t)n) != 0)
            continue;
        memset(out, 0, (size_t)n); /* callers leave room for an end to the name */
        n = (ssize_t)(n_kernel < bytes ? n_kernel : bytes);
        memcpy(out, names[i].kernel, (size_t)n);
        break;
    }
    return n;
}

ssize_t readlink(const char *restrict path, char *restrict out, size_t bytes)
{
    return preload_node(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW) ? node_readlink() : readlink_after(NEXT(readlink)(path, out, bytes), path, out, bytes);
}

ssize_t readlinkat(int dir, const char *restrict path, char *restrict out, size_t bytes)
{
    return preload_node(dir, path, AT_SYMLINK_NOFOLLOW) ? node_readlink() : readlink_after(NEXT(readlinkat)(dir, path, out, bytes), path, out, bytes);
}
