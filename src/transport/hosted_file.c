/* SPDX-License-Identifier: MIT */
/*
 * A hosted client's calls on the nodes, on our fds, and on /proc/self/exe, which is the host's to the kernel. As transport/preload.c does it for the C
 * library's functions. The is_ours functions run with the client's FS, all others in the host. No lock; the registry has its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/memflow.h"
#include "base/guard.h"
#include "base/object.h"
#include "base/signals.h"
#include "front/kvm/front.h"
#include "front/memflow/memflow.h"
#include "transport/hosted.h"
#include "transport/inproc.h"
#include "transport/node.h"
#include "transport/registry.h"

static char program[PATH_MAX]; /* "" if it has no name */

void hosted_file_init(const char *path)
{
    char *real = realpath(path, NULL);
    snprintf(program, sizeof program, "%s", real ? real : "");
    free(real);
}

const char *hosted_file_program(void)
{
    return program;
}

static int fd_of(greg_t value)
{
    return (int)value; /* the kernel looks at the lower half */
}

static void *pointer(greg_t value)
{
    return (void *)(uintptr_t)value;
}

static long result(int r)
{
    return r < 0 ? -errno : r;
}

/* ---- paths ---- */

enum path { PATH_OTHER, PATH_SELF, PATH_NODE /* and so on, as nodes[] */ };

static enum path path_of(greg_t at)
{
    for (unsigned n = 0; n < NODES; n++)
        if (hosted_string_is((uint64_t)at, nodes[n].path))
            return PATH_NODE + n;
    return *program && (hosted_string_is((uint64_t)at, "/proc/self/exe") || hosted_string_is((uint64_t)at, "/proc/thread-self/exe")) ? PATH_SELF : PATH_OTHER;
}

/* NULL: it is none. */
static const struct node *node_of(greg_t at)
{
    enum path path = path_of(at);
    return path >= PATH_NODE ? &nodes[path - PATH_NODE] : NULL;
}

static bool has_path(const greg_t *g)
{
    return path_of(g[REG_RDI]) != PATH_OTHER;
}

static bool has_path_at(const greg_t *g)
{
    return path_of(g[REG_RSI]) != PATH_OTHER;
}

/* The same call on the client's own file, whose name is in the first or second argument. */
static long on_program(const greg_t *g, unsigned path_argument)
{
    uint64_t name = (uint64_t)(uintptr_t)program;
    uint64_t first = path_argument == 0 ? name : (uint64_t)g[REG_RDI], second = path_argument == 1 ? name : (uint64_t)g[REG_RSI];
    return hosted_syscall((long)g[REG_RAX], first, second, (uint64_t)g[REG_RDX], (uint64_t)g[REG_R10], (uint64_t)g[REG_R8], (uint64_t)g[REG_R9]);
}

/* An fd of memflow's is the kernel's to all calls but ioctl. Set and never cleared: from then on every ioctl is looked at. */
static _Atomic bool has_memflow;

static long open_node(const struct node *node, int flags)
{
    if (node == &nodes[NODE_MEMFLOW])
        atomic_store(&has_memflow, true);
    return node_open(node, flags);
}

static long call_open(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    (void)t;
    const struct node *node = node_of(g[REG_RDI]);
    return node ? open_node(node, (int)g[REG_RSI]) : on_program(g, 0);
}

static long call_openat(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    (void)t;
    const struct node *node = node_of(g[REG_RSI]);
    return node ? open_node(node, (int)g[REG_RDX]) : on_program(g, 1);
}

static long call_openat2(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    const struct node *node = node_of(g[REG_RSI]);
    uint64_t flags;
    (void)t;
    if (!node)
        return on_program(g, 1);
    if ((uint64_t)g[REG_R10] < sizeof(struct open_how))
        return -EINVAL;
    return guard_copy(&flags, pointer(g[REG_RDX]), sizeof flags) ? -EFAULT : open_node(node, (int)flags);
}

static long give_stat(const struct node *node, greg_t to)
{
    struct stat st;
    node_fill_stat(node, &st);
    return guard_copy(pointer(to), &st, sizeof st) ? -EFAULT : 0;
}

static long call_stat(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    const struct node *node = node_of(g[REG_RDI]);
    (void)t;
    if (node)
        return give_stat(node, g[REG_RSI]);
    return g[REG_RAX] == SYS_lstat ? HOSTED_PASS : on_program(g, 0);
}

static long call_access(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    (void)t;
    return node_of(g[REG_RDI]) ? node_check_access((int)g[REG_RSI]) : on_program(g, 0);
}

static long call_faccessat(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    (void)t;
    return node_of(g[REG_RSI]) ? node_check_access((int)g[REG_RDX]) : on_program(g, 1);
}

static long give_program(greg_t to, uint64_t bytes)
{
    size_t n = strlen(program);
    if ((int)bytes <= 0)
        return -EINVAL;
    if (n > bytes)
        n = bytes;
    return guard_copy(pointer(to), program, n) ? -EFAULT : (long)n;
}

static long call_readlink(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    (void)t;
    return node_of(g[REG_RDI]) ? -EINVAL : give_program(g[REG_RSI], (uint64_t)g[REG_RDX]);
}

static long call_readlinkat(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    (void)t;
    return node_of(g[REG_RSI]) ? -EINVAL : give_program(g[REG_RDX], (uint64_t)g[REG_R10]);
}

/* ---- fds ---- */

static bool has_fd(const greg_t *g)
{
    return registry_may_have(fd_of(g[REG_RDI]));
}

static bool is_device(int fd)
{
    struct object *o = registry_find(fd, false);
    bool is = o && o->is_device;
    if (o)
        object_put(o);
    return is;
}

static long call_fstat(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    (void)t;
    return is_device(fd_of(g[REG_RDI])) ? give_stat(&nodes[NODE_KVM], g[REG_RSI]) : HOSTED_PASS;
}

static bool is_empty_path(greg_t path, greg_t flags)
{
    return (flags & AT_EMPTY_PATH) && hosted_string_is((uint64_t)path, "");
}

static bool is_newfstatat_ours(const greg_t *g)
{
    return has_path_at(g) || (has_fd(g) && is_empty_path(g[REG_RSI], g[REG_R10]));
}

static long call_newfstatat(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    enum path path = path_of(g[REG_RSI]);
    (void)t;
    if (path >= PATH_NODE)
        return give_stat(&nodes[path - PATH_NODE], g[REG_RDX]);
    if (path == PATH_OTHER && is_device(fd_of(g[REG_RDI])))
        return give_stat(&nodes[NODE_KVM], g[REG_RDX]);
    return path == PATH_SELF && !(g[REG_R10] & AT_SYMLINK_NOFOLLOW) ? on_program(g, 1) : HOSTED_PASS;
}

static bool is_statx_ours(const greg_t *g)
{
    return has_path_at(g) || (has_fd(g) && is_empty_path(g[REG_RSI], g[REG_RDX]));
}

static long call_statx(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    enum path path = path_of(g[REG_RSI]);
    struct statx sx;
    (void)t;
    if (path == PATH_SELF)
        return g[REG_RDX] & AT_SYMLINK_NOFOLLOW ? HOSTED_PASS : on_program(g, 1);
    if (path == PATH_OTHER && !is_device(fd_of(g[REG_RDI])))
        return HOSTED_PASS;
    node_fill_statx(&nodes[path >= PATH_NODE ? path - PATH_NODE : NODE_KVM], &sx);
    return guard_copy(pointer(g[REG_R8]), &sx, sizeof sx) ? -EFAULT : 0;
}

/* An fd that came to us unseen, such as over a socket, is found when its request is one of KVM's or memflow's. */
static bool is_ioctl_ours(const greg_t *g)
{
    unsigned type = _IOC_TYPE((unsigned)g[REG_RSI]);
    return has_fd(g) || type == KVMIO || type == MEMFLOW_TYPE || atomic_load(&has_memflow);
}

/* What the kernel knows of an fd of ours it is asked for, as in transport/preload.c. */
static long ioctl_memflow(const greg_t *g)
{
    if (!memflow_is_fd(fd_of(g[REG_RDI])))
        return HOSTED_PASS;
    long r = hosted_syscall(SYS_ioctl, (uint64_t)g[REG_RDI], (uint64_t)g[REG_RSI], (uint64_t)g[REG_RDX], 0, 0, 0);
    return r == -ENOTTY ? memflow_ioctl(fd_of(g[REG_RDI]), (unsigned)g[REG_RSI], (unsigned long)g[REG_RDX]) : r;
}

static uint64_t change_mask(uint64_t mask)
{
    uint64_t old = 0;
    hosted_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (uint64_t)(uintptr_t)&mask, (uint64_t)(uintptr_t)&old, sizeof mask, 0, 0);
    return old;
}

/* KVM_RUN waits, so signals must find it; all other calls end by themselves. */
static long call_ioctl(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    unsigned long request = (unsigned)g[REG_RSI];
    bool is_run = kvm_request_is_run(request), is_found;
    uint64_t kept = 0;
    int r;
    if (is_run)
        kept = change_mask(hosted_mask_get(t, uc) & ~HOSTED_SIGNALS);
    is_found = inproc_ioctl(fd_of(g[REG_RDI]), request, pointer(g[REG_RDX]), &r);
    int error = errno;
    if (is_run)
        change_mask(kept);
    return !is_found ? ioctl_memflow(g) : r < 0 ? -error : r;
}

static long call_close(struct hosted *t, ucontext_t *uc)
{
    int fd = fd_of(uc->uc_mcontext.gregs[REG_RDI]);
    (void)t;
    if (!hosted_is_same_process()) /* a child of vfork: what it closes stays its parent's */
        return HOSTED_PASS;
    long r = result(vitrine_close(fd));
    return r == -EBADF ? HOSTED_PASS : r;
}

static bool is_close_range_ours(const greg_t *g)
{
    return !g[REG_RDX] && (unsigned)g[REG_RDI] <= (unsigned)g[REG_RSI];
}

static long call_close_range(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    unsigned first = (unsigned)g[REG_RDI];
    (void)t;
    for (int fd; hosted_is_same_process() && (fd = registry_next(first)) >= 0 && (unsigned)fd <= (unsigned)g[REG_RSI]; first = (unsigned)fd + 1)
        vitrine_close(fd);
    return HOSTED_PASS;
}

/* The call, and then a look at what the new number stands for. */
static long call_dup(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    (void)t;
    long fd = hosted_syscall((long)g[REG_RAX], (uint64_t)g[REG_RDI], (uint64_t)g[REG_RSI], (uint64_t)g[REG_RDX], 0, 0, 0);
    if (fd >= 0 && hosted_is_same_process()) {
        struct object *o = registry_find((int)fd, false);
        if (o)
            object_put(o);
    }
    return fd;
}

static bool is_dup2_ours(const greg_t *g)
{
    return has_fd(g) || registry_may_have(fd_of(g[REG_RSI]));
}

static bool is_fcntl_ours(const greg_t *g)
{
    return has_fd(g) && ((int)g[REG_RSI] == F_DUPFD || (int)g[REG_RSI] == F_DUPFD_CLOEXEC);
}

const struct hosted_call hosted_file_calls[] = {
    [SYS_open] = { .is_ours = has_path, .slow = call_open },
    [SYS_openat] = { .is_ours = has_path_at, .slow = call_openat },
    [SYS_openat2] = { .is_ours = has_path_at, .slow = call_openat2 },
    [SYS_stat] = { .is_ours = has_path, .slow = call_stat },
    [SYS_lstat] = { .is_ours = has_path, .slow = call_stat },
    [SYS_fstat] = { .is_ours = has_fd, .slow = call_fstat },
    [SYS_newfstatat] = { .is_ours = is_newfstatat_ours, .slow = call_newfstatat },
    [SYS_statx] = { .is_ours = is_statx_ours, .slow = call_statx },
    [SYS_access] = { .is_ours = has_path, .slow = call_access },
    [SYS_faccessat] = { .is_ours = has_path_at, .slow = call_faccessat },
    [SYS_faccessat2] = { .is_ours = has_path_at, .slow = call_faccessat },
    [SYS_readlink] = { .is_ours = has_path, .slow = call_readlink },
    [SYS_readlinkat] = { .is_ours = has_path_at, .slow = call_readlinkat },
    [SYS_ioctl] = { .is_ours = is_ioctl_ours, .slow = call_ioctl },
    [SYS_close] = { .is_ours = has_fd, .slow = call_close },
    [SYS_close_range] = { .is_ours = is_close_range_ours, .slow = call_close_range },
    [SYS_dup] = { .is_ours = has_fd, .slow = call_dup },
    [SYS_dup2] = { .is_ours = is_dup2_ours, .slow = call_dup },
    [SYS_dup3] = { .is_ours = is_dup2_ours, .slow = call_dup },
    [SYS_fcntl] = { .is_ours = is_fcntl_ours, .slow = call_dup },
};
const unsigned hosted_n_file_calls = sizeof hosted_file_calls / sizeof hosted_file_calls[0];
