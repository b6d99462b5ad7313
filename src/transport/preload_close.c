/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: calls that close fds and those that make duplicates. The registry learns what fds of ours there are. No state, no lock.
 */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdarg.h>
#include <unistd.h>

#include "base/object.h"
#include "base/signals.h"
#include "transport/inproc.h"
#include "transport/registry.h"

NEXT_SLOT(close);
NEXT_SLOT(close_range);
NEXT_SLOT(closefrom);
NEXT_SLOT(dup);
NEXT_SLOT(dup2);
NEXT_SLOT(dup3);
NEXT_SLOT(fcntl);
NEXT_SLOT(fcntl64);

void preload_close_find(void)
{
    NEXT(close), NEXT(close_range), NEXT(closefrom), NEXT(dup), NEXT(dup2), NEXT(dup3), NEXT(fcntl), NEXT(fcntl64);
}

int close(int fd)
{
    if (preload_is_ours(fd) && preload_may_change()) {
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
    if (!signals_is_held() && preload_may_change()) {
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
    if (fd < 0 || !(preload_is_ours(from) || preload_is_ours(fd)) || !preload_may_change())
        return fd;
    int saved_errno = errno;
    signals_hold();
    struct object *o = registry_find(fd, false);
    if (o)
        object_put(o);
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
