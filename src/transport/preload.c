/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: ioctl, and what its other files share. Programs that know nothing of vitrine find /dev/kvm in this process. Other fds cost one look at
 * a bit map. The library's own calls come by here too: a thread inside a call of ours is passed on. No lock; the registry has its own. `vitrine run` puts this
 * library in LD_PRELOAD.
 */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/object.h"
#include "base/shared.h"
#include "base/signals.h"
#include "front/memflow/memflow.h"
#include "transport/inproc.h"
#include "transport/node.h"
#include "transport/registry.h"

#define LIBRARY "libvitrine-preload.so"

NEXT_SLOT(ioctl);

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

static void note_process(void)
{
    process = getpid();
}

/* LD_PRELOAD without this library. */
static void leave_environment(void)
{
    const char *list = getenv("LD_PRELOAD");
    char *rest = list ? calloc(1, strlen(list) + 2) : NULL;
    for (size_t n; rest && *list; list += n + (list[n] != '\0')) {
        n = strcspn(list, ": ");
        if (n >= sizeof LIBRARY - 1 && !memcmp(list + n - (sizeof LIBRARY - 1), LIBRARY, sizeof LIBRARY - 1))
            continue;
        if (*rest)
            strcat(rest, ":");
        strncat(rest, list, n);
    }
    if (rest && *rest)
        setenv("LD_PRELOAD", rest, 1);
    else
        unsetenv("LD_PRELOAD");
    unsetenv("VITRINE_NO_CHILDREN");
    free(rest);
}

__attribute__((constructor)) static void preload_init(void)
{
    /* Found before the client runs: in a signal handler or after vfork is no time to look. */
    NEXT(ioctl);
    preload_open_find();
    preload_close_find();
    preload_socket_find();
    preload_memory_find();
    note_process();
    pthread_atfork(NULL, NULL, note_process);
    if (!getenv("VITRINE_NO_SHARE"))
        shared_enable();
    if (getenv("VITRINE_NO_CHILDREN"))
        leave_environment();
    else
        preload_exec_find();
}

bool preload_is_ours(int fd)
{
    return registry_may_have(fd) && !signals_is_held();
}

enum preload_kind preload_kind_of(int fd)
{
    if (!preload_is_ours(fd))
        return PRELOAD_OTHER;
    signals_hold();
    struct object *o = registry_find(fd, false);
    enum preload_kind kind = !o ? PRELOAD_OTHER : o->is_device ? PRELOAD_DEVICE : PRELOAD_MACHINE;
    if (o)
        object_put(o);
    signals_release();
    return kind;
}

bool preload_may_change(void)
{
    return getpid() == process;
}

/* ---- ioctl ---- */

/* Files of ours whose objects this process does not have: they came with an exec or from another process. The names are front/kvm/object.c's. */
static enum preload_kind kind_by_name(int fd)
{
    char link[32], name[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = preload_raw(SYS_readlink, (long)link, (long)name, sizeof name - 1, 0, 0, 0);
    name[n < 0 ? 0 : n] = '\0';
    if (preload_raw(SYS_fcntl, fd, F_GET_SEALS, 0, 0, 0, 0) <= 0)
        return PRELOAD_OTHER;
    if (!strcmp(name, "/memfd:kvm (deleted)"))
        return PRELOAD_DEVICE;
    return !strncmp(name, "/memfd:kvm-v", 12) ? PRELOAD_MACHINE : PRELOAD_OTHER;
}

/* Puts a device of ours where one of the host's, or of an earlier program's in this process, is open. */
static bool take_place(int fd)
{
    int flags = fcntl(fd, F_GETFD), own = vitrine_open(nodes[NODE_KVM].path);
    bool is_done = own >= 0 && dup3(own, fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0) == fd;
    if (own >= 0)
        close(own);
    return is_done;
}

/*
 * A KVM request for an fd that is not known by number. What the host's device makes of it nobody wants to know. True if *r is the result.
 */
static bool ioctl_unseen(int fd, unsigned long request, void *arg, int *r)
{
    struct stat st;
    if (inproc_ioctl(fd, request, arg, r)) /* came over a socket, say */
        return true;
    if (preload_stat_fd(fd, &st))
        return false;
    enum preload_kind kind = preload_stat_is_kvm(&st) ? PRELOAD_DEVICE : S_ISREG(st.st_mode) ? kind_by_name(fd) : PRELOAD_OTHER;
    if (kind == PRELOAD_DEVICE)
        return take_place(fd) && inproc_ioctl(fd, request, arg, r);
    if (kind == PRELOAD_OTHER)
        return false;
    log_write(LOG_WARN, "fd %d is a virtual machine's of another process, or of the program that was here before an exec: it ended with that", fd);
    errno = EIO; /* as the kernel's to another address space */
    *r = -1;
    return true;
}

/* What the kernel does not know may be meant for a file of the memflow front. */
static int ioctl_memflow(int fd, unsigned long request, void *arg)
{
    int r = -ENOTTY;
    if (!signals_is_held()) {
        signals_hold();
        if (memflow_is_fd(fd))
            r = memflow_ioctl(fd, request, (unsigned long)arg);
        signals_release();
    }
    if (r >= 0)
        return r;
    errno = -r;
    return -1;
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
    if (_IOC_TYPE(request) == KVMIO && !signals_is_held() && ioctl_unseen(fd, request, arg, &r))
        return r;
    errno = saved_errno;
    r = NEXT(ioctl)(fd, request, arg);
    return r < 0 && errno == ENOTTY ? ioctl_memflow(fd, request, arg) : r;
}
