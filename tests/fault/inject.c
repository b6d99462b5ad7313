/* SPDX-License-Identifier: MIT */
/*
 * See inject.h. The counter is atomic: helper threads of a VM call too.
 */
#include "tests/fault/inject.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

#define NOT_ARMED (-1)

static _Atomic long countdown = NOT_ARMED;
static const char *_Atomic failed;

void inject_arm(unsigned n)
{
    atomic_store(&failed, NULL);
    atomic_store(&countdown, (long)n);
}

const char *inject_disarm(void)
{
    atomic_store(&countdown, NOT_ARMED);
    return atomic_load(&failed);
}

static bool fails(const char *name)
{
    if (atomic_load(&countdown) == NOT_ARMED || atomic_fetch_sub(&countdown, 1) != 0)
        return false;
    atomic_store(&failed, name);
    return true;
}

#define WRAP(type, name, parameters, arguments, refuse) \
    type __real_##name parameters;                      \
    type __wrap_##name parameters;                      \
    type __wrap_##name parameters                       \
    {                                                   \
        if (fails(#name)) {                             \
            refuse;                                     \
        }                                               \
        return __real_##name arguments;                 \
    }
#define REFUSE(error, value) \
    errno = error;           \
    return value

WRAP(void *, malloc, (size_t bytes), (bytes), REFUSE(ENOMEM, NULL))
WRAP(void *, calloc, (size_t n, size_t bytes), (n, bytes), REFUSE(ENOMEM, NULL))
WRAP(void *, realloc, (void *p, size_t bytes), (p, bytes), REFUSE(ENOMEM, NULL))
WRAP(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes), REFUSE(ENOMEM, NULL))
WRAP(void *, mmap, (void *at, size_t bytes, int prot, int flags, int fd, off_t offset), (at, bytes, prot, flags, fd, offset), REFUSE(ENOMEM, MAP_FAILED))
WRAP(int, memfd_create, (const char *name, unsigned flags), (name, flags), REFUSE(EMFILE, -1))
WRAP(int, ftruncate, (int fd, off_t bytes), (fd, bytes), REFUSE(ENOSPC, -1))
WRAP(int, eventfd, (unsigned value, int flags), (value, flags), REFUSE(EMFILE, -1))
WRAP(int, epoll_create1, (int flags), (flags), REFUSE(EMFILE, -1))
WRAP(int, pthread_create, (pthread_t * thread, const pthread_attr_t *attr, void *(*body)(void *), void *arg), (thread, attr, body, arg), return EAGAIN)

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    long argument = va_arg(args, long); /* every command's third argument, if any, is an int or a pointer in a register */
    va_end(args);
    if (fails("fcntl")) {
        errno = EMFILE;
        return -1;
    }
    return __real_fcntl(fd, command, argument);
}
