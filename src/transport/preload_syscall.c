/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: the C library's syscall(), for programs that call the kernel by number. Those that the transport stands in front of go there, all else
 * to the kernel at once: it must work before the library's constructors have run. No state, no lock.
 */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The variadic arguments of the C library's are in the registers of these. */
long preload_syscall(long number, long a, long b, long c, long d, long e, long f) __asm__("syscall");

static long result(long r)
{
    if (r > -4096 && r < 0) {
        errno = (int)-r;
        return -1;
    }
    return r;
}

static long open_how(int dir, const char *path, const struct open_how *how, long bytes)
{
    if (bytes >= (long)sizeof *how && (unsigned long)how >= 4096 && !how->resolve && preload_node(dir, path, how->flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0))
        return openat(dir, path, (int)how->flags, (mode_t)how->mode);
    return result(preload_raw(SYS_openat2, dir, (long)path, (long)how, bytes, 0, 0));
}

static long by_path(long number, long a, long b, long c, long d)
{
    switch (number) {
    case SYS_open:
        return open((const char *)a, (int)b, (mode_t)c);
    case SYS_openat:
        return openat((int)a, (const char *)b, (int)c, (mode_t)d);
    case SYS_openat2:
        return open_how((int)a, (const char *)b, (const struct open_how *)c, d);
    case SYS_stat:
        return stat((const char *)a, (struct stat *)b);
    case SYS_lstat:
        return lstat((const char *)a, (struct stat *)b);
    case SYS_newfstatat:
        return fstatat((int)a, (const char *)b, (struct stat *)c, (int)d);
    case SYS_access:
        return access((const char *)a, (int)b);
    case SYS_faccessat:
        return faccessat((int)a, (const char *)b, (int)c, 0);
    case SYS_faccessat2:
        return faccessat((int)a, (const char *)b, (int)c, (int)d);
    case SYS_readlink:
        return readlink((const char *)a, (char *)b, (size_t)c);
    default:
        return readlinkat((int)a, (const char *)b, (char *)c, (size_t)d);
    }
}

long preload_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    switch (number) {
    case SYS_ioctl:
        return ioctl((int)a, (unsigned long)b, c);
    case SYS_close:
        return close((int)a);
    case SYS_close_range:
        return close_range((unsigned)a, (unsigned)b, (int)c);
    case SYS_dup:
        return dup((int)a);
    case SYS_dup2:
        return dup2((int)a, (int)b);
    case SYS_dup3:
        return dup3((int)a, (int)b, (int)c);
    case SYS_fcntl:
        return fcntl((int)a, (int)b, c);
    case SYS_fstat:
        return fstat((int)a, (struct stat *)b);
    case SYS_statx:
        return statx((int)a, (const char *)b, (int)c, (unsigned)d, (struct statx *)e);
    case SYS_open:
    case SYS_openat:
    case SYS_openat2:
    case SYS_stat:
    case SYS_lstat:
    case SYS_newfstatat:
    case SYS_access:
    case SYS_faccessat:
    case SYS_faccessat2:
    case SYS_readlink:
    case SYS_readlinkat:
        return by_path(number, a, b, c, d);
    case SYS_madvise:
        return madvise((void *)a, (size_t)b, (int)c);
    case SYS_munmap:
        return munmap((void *)a, (size_t)b);
    case SYS_mmap:
        return (long)mmap((void *)a, (size_t)b, (int)c, (int)d, (int)e, f);
    case SYS_mremap:
        return (long)mremap((void *)a, (size_t)b, (size_t)c, (int)d, (void *)e);
    default:
        return result(preload_raw(number, a, b, c, d, e, f));
    }
}
