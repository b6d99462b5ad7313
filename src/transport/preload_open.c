/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: calls that open the node, and the streams over its fds. What a path means is preload_path.c's to say. No state, no lock.
 */
/* With it, the headers turn open into open64 and so on: here both are defined. */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "transport/node.h"

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
NEXT_SLOT(fopen);
NEXT_SLOT(fopen64);
NEXT_SLOT(fclose);

void preload_open_find(void)
{
    NEXT(open), NEXT(open64), NEXT(openat), NEXT(openat64), NEXT(__open_2), NEXT(__open64_2), NEXT(__openat_2), NEXT(__openat64_2);
    NEXT(fopen), NEXT(fopen64), NEXT(fclose);
}

static int open_node(const struct node *node, int flags)
{
    int fd = node_open(node, flags);
    if (fd >= 0)
        return fd;
    errno = -fd;
    return -1;
}

static int at_flags(int flags)
{
    return flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0;
}

static mode_t mode_argument(int flags, va_list args)
{
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, mode_t) : 0;
}

/* clang-format off */
#define OPEN_BODY(dir, call) \
    const struct node *node = preload_node(dir, path, at_flags(flags)); \
    if (node) \
        return open_node(node, flags); \
    int fd = call; \
    return fd < 0 && (node = preload_node_refused(dir, path, at_flags(flags))) ? open_node(node, flags) : fd;
#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list args; \
        va_start(args, flags); \
        mode_t mode = mode_argument(flags, args); \
        va_end(args); \
        OPEN_BODY(AT_FDCWD, NEXT(name)(path, flags, mode)) \
    }
#define OPENAT(name) \
    int name(int dir, const char *path, int flags, ...) \
    { \
        va_list args; \
        va_start(args, flags); \
        mode_t mode = mode_argument(flags, args); \
        va_end(args); \
        OPEN_BODY(dir, NEXT(name)(dir, path, flags, mode)) \
    }
/* clang-format on */
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int __open_2(const char *path, int flags)
{
    OPEN_BODY(AT_FDCWD, NEXT(__open_2)(path, flags))
}

int __open64_2(const char *path, int flags)
{
    OPEN_BODY(AT_FDCWD, NEXT(__open64_2)(path, flags))
}

int __openat_2(int dir, const char *path, int flags)
{
    OPEN_BODY(dir, NEXT(__openat_2)(dir, path, flags))
}

int __openat64_2(int dir, const char *path, int flags)
{
    OPEN_BODY(dir, NEXT(__openat64_2)(dir, path, flags))
}

/* ---- streams ---- */

static FILE *open_stream(const struct node *node, const char *mode)
{
    int fd = open_node(node, (strchr(mode, 'x') ? O_CREAT | O_EXCL : 0) | (strchr(mode, 'e') ? O_CLOEXEC : 0));
    FILE *stream = fd < 0 ? NULL : fdopen(fd, mode);
    if (fd >= 0 && !stream)
        close(fd);
    return stream;
}

/* clang-format off */
#define FOPEN(name) \
    FILE *name(const char *restrict path, const char *restrict mode) \
    { \
        const struct node *node = preload_node(AT_FDCWD, path, 0); \
        if (node) \
            return open_stream(node, mode); \
        FILE *stream = NEXT(name)(path, mode); \
        return !stream && (node = preload_node_refused(AT_FDCWD, path, 0)) ? open_stream(node, mode) : stream; \
    }
/* clang-format on */
FOPEN(fopen)
FOPEN(fopen64)

/* The C library closes the number by itself: until then another file stands there, so that what is ours is closed here. */
int fclose(FILE *stream)
{
    int saved_errno = errno, fd = fileno(stream), null;
    if (preload_is_ours(fd) && (null = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0) {
        dup3(null, fd, O_CLOEXEC);
        close(null);
    }
    errno = saved_errno;
    return NEXT(fclose)(stream);
}
