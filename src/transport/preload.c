/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: open, ioctl, close and duplication of fds, so that programs that know nothing of vitrine find /dev/kvm in this process. One comparison
 * for an open, one look at a bit map for an ioctl or close of other fds. The library's own calls come by here too: a thread inside a call of ours is passed on.
 * No lock; the registry has its own. `vitrine run` puts this library in LD_PRELOAD.
 */
/* With it, the headers turn open into open64 and so on: here both are defined. */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/signals.h"
#include "front/kvm/front.h"
#include "transport/inproc.h"
#include "transport/registry.h"

/* Of glibc's <bits/fcntl2.h>: what open becomes when a program is compiled with _FORTIFY_SOURCE. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

NEXT_SLOT(open);
NEXT_SLOT(open64);
NEXT_SLOT(openat);
NEXT_SLOT(openat64);
NEXT_SLOT(__open_2);
NEXT_SLOT(__open64_2);
NEXT_SLOT(__openat_2);
NEXT_SLOT(__openat64_2);
NEXT_SLOT(ioctl);
NEXT_SLOT(close);
NEXT_SLOT(close_range);
NEXT_SLOT(closefrom);
NEXT_SLOT(dup);
NEXT_SLOT(dup2);
NEXT_SLOT(dup3);
NEXT_SLOT(fcntl);
NEXT_SLOT(fcntl64);

static pid_t process;

void *preload_next(void **slot, const char *name)
{
    void *next = __atomic_load_n(slot, __ATOMIC_RELAXED);
    if (next)
        return next;
    next = dlsym(RTLD_NEXT, name);
    __atomic_store_n(slot, next, __ATOMIC_RELAXED);
    return next;
}

/* Found before the client runs: in a signal handler or after vfork is no time to look. */
static void find_all(void)
{
    NEXT(open), NEXT(open64), NEXT(openat), NEXT(openat64), NEXT(__open_2), NEXT(__open64_2), NEXT(__openat_2), NEXT(__openat64_2);
    NEXT(ioctl), NEXT(close), NEXT(close_range), NEXT(closefrom), NEXT(dup), NEXT(dup2), NEXT(dup3), NEXT(fcntl), NEXT(fcntl64);
}

static void note_process(void)
{
    process = getpid();
}

/* LD_PRELOAD as it was before `vitrine run` put this library at its head. */
static void leave_environment(void)
{
    const char *list = getenv("LD_PRELOAD"), *rest = list ? strpbrk(list, ": ") : NULL;
    if (rest)
        setenv("LD_PRELOAD", rest + 1, 1);
    else
        unsetenv("LD_PRELOAD");
    unsetenv("VITRINE_NO_CHILDREN");
}

__attribute__((constructor)) static void preload_init(void)
{
    find_all();
    note_process();
    pthread_atfork(NULL, NULL, note_process);
    if (getenv("VITRINE_NO_CHILDREN"))
        leave_environment();
}

__attribute__((noinline)) bool preload_is_node(const char *path)
{
    return (uintptr_t)path >= 4096 && !strcmp(path, PRELOAD_NODE) && !signals_is_held();
}

bool preload_is_ours(int fd)
{
    return registry_may_have(fd) && !signals_is_held();
}

bool preload_is_device(int fd)
{
    if (!preload_is_ours(fd))
        return false;
    signals_hold();
    struct kvm_object *o = registry_find(fd, false);
    bool is_device = o && !kvm_object_is_mappable(o);
    if (o)
        kvm_object_put(o);
    signals_release();
    return is_device;
}

/* The table of fds is this process's. A child of vfork has fds of its own, but our memory. */
static bool may_change_registry(void)
{
    return getpid() == process;
}

/* ---- open ---- */

static int open_node(int flags)
{
    bool is_exclusive = (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
    if (is_exclusive || (flags & O_DIRECTORY)) {
        errno = is_exclusive ? EEXIST : ENOTDIR;
        return -1;
    }
    int fd = vitrine_open(PRELOAD_NODE);
    if (fd >= 0 && !(flags & O_CLOEXEC))
        NEXT(fcntl)(fd, F_SETFD, 0);
    return fd;
}

static mode_t mode_argument(int flags, va_list args)
{
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, mode_t) : 0;
}

/* clang-format off */
#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list args; \
        va_start(args, flags); \
        mode_t mode = mode_argument(flags, args); \
        va_end(args); \
        return preload_is_node(path) ? open_node(flags) : NEXT(name)(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int dir, const char *path, int flags, ...) \
    { \
        va_list args; \
        va_start(args, flags); \
        mode_t mode = mode_argument(flags, args); \
        va_end(args); \
        return preload_is_node(path) ? open_node(flags) : NEXT(name)(dir, path, flags, mode); \
    }
/* clang-format on */
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int __open_2(const char *path, int flags)
{
    return preload_is_node(path) ? open_node(flags) : NEXT(__open_2)(path, flags);
}

int __open64_2(const char *path, int flags)
{
    return preload_is_node(path) ? open_node(flags) : NEXT(__open64_2)(path, flags);
}

int __openat_2(int dir, const char *path, int flags)
{
    return preload_is_node(path) ? open_node(flags) : NEXT(__openat_2)(dir, path, flags);
}

int __openat64_2(int dir, const char *path, int flags)
{
    return preload_is_node(path) ? open_node(flags) : NEXT(__openat64_2)(dir, path, flags);
}

/* ---- ioctl ---- */

/* An fd that came to us unseen, such as over a socket, is found by its file when the kernel does not know the request. */
static bool may_be_unseen(unsigned long request)
{
    return errno == ENOTTY && _IOC_TYPE(request) == KVMIO && !signals_is_held();
}

int ioctl(int fd, unsigned long request, ...)
{
    int r, saved_errno = errno;
    va_list args;
    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    if (preload_is_ours(fd) && inproc_ioctl(fd, request, arg, &r))
        return r;
    errno = saved_errno;
    r = NEXT(ioctl)(fd, request, arg);
    if (r < 0 && may_be_unseen(request) && !inproc_ioctl(fd, request, arg, &r))
        errno = ENOTTY;
    return r;
}

/* ---- close ---- */

int close(int fd)
{
    if (preload_is_ours(fd) && may_change_registry()) {
        int saved_errno = errno, r = vitrine_close(fd);
        if (r >= 0 || errno != EBADF)
            return r;
        errno = saved_errno;
    }
    return NEXT(close)(fd);
}

static void close_ours(unsigned first, unsigned last)
{
    int saved_errno = errno;
    if (!signals_is_held() && may_change_registry()) {
        for (int fd; (fd = registry_next(first)) >= 0 && (unsigned)fd <= last; first = (unsigned)fd + 1)
            vitrine_close(fd);
    }
    errno = saved_errno;
}

int close_range(unsigned first, unsigned last, int flags)
{
    if (!flags && first <= last)
        close_ours(first, last);
    return NEXT(close_range)(first, last, flags);
}

void closefrom(int first)
{
    close_ours(first < 0 ? 0 : (unsigned)first, ~0u);
    NEXT(closefrom)(first);
}

/* ---- duplicates ---- */

/* `fd` was made from `from`: learns of it, and forgets what the number stood for before. */
static int duplicated(int from, int fd)
{
    if (fd < 0 || !(preload_is_ours(from) || preload_is_ours(fd)) || !may_change_registry())
        return fd;
    int saved_errno = errno;
    signals_hold();
    struct kvm_object *o = registry_find(fd, false);
    if (o)
        kvm_object_put(o);
    signals_release();
    errno = saved_errno;
    return fd;
}

int dup(int fd)
{
    return duplicated(fd, NEXT(dup)(fd));
}

int dup2(int from, int to)
{
    return duplicated(from, NEXT(dup2)(from, to));
}

int dup3(int from, int to, int flags)
{
    return duplicated(from, NEXT(dup3)(from, to, flags));
}

static bool is_dup_command(int command)
{
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC;
}

/* clang-format off */
#define FCNTL(name) \
    int name(int fd, int command, ...) \
    { \
        va_list args; \
        va_start(args, command); \
        void *arg = va_arg(args, void *); \
        va_end(args); \
        int r = NEXT(name)(fd, command, arg); \
        return is_dup_command(command) ? duplicated(fd, r) : r; \
    }
/* clang-format on */
FCNTL(fcntl)
FCNTL(fcntl64)
