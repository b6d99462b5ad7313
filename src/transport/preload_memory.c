/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: calls about the client's own memory. Guest memory that was made shareable (base/shared.h) is no longer what these calls take it for,
 * so it is taken care of here; everything else costs a look at a counter. Until the next definitions are found, the kernel is called directly: to look for them
 * would allocate, and allocators call us. No state, no lock.
 */
#undef _FILE_OFFSET_BITS

#include "transport/preload.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/shared.h"
#include "base/signals.h"

NEXT_SLOT(madvise);
NEXT_SLOT(munmap);
NEXT_SLOT(mmap);
NEXT_SLOT(mremap);

void preload_memory_find(void)
{
    NEXT(madvise), NEXT(munmap), NEXT(mmap), NEXT(mremap);
}

static long result(long r)
{
    if (r < 0 && r > -4096) {
        errno = (int)-r;
        return -1;
    }
    return r;
}

static bool is_shared(const void *at, size_t bytes)
{
    if (!shared_is_used() || signals_is_held() || !preload_may_change())
        return false;
    signals_hold();
    bool is = shared_has(at, bytes);
    signals_release();
    return is;
}

static bool is_whole(const void *at)
{
    return !((uintptr_t)at & 4095);
}

int madvise(void *at, size_t bytes, int advice)
{
    bool is_discard = advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_DONTNEED_LOCKED;
    if (!is_discard || !is_whole(at) || !is_shared(at, bytes))
        return next_madvise ? NEXT(madvise)(at, bytes, advice) : (int)result(preload_raw(SYS_madvise, (long)at, (long)bytes, advice, 0, 0, 0));
    signals_hold();
    int r = shared_discard(at, bytes, advice);
    signals_release();
    return (int)result(r);
}

/* Whatever was there before is gone. */
static void forget(const void *at, size_t bytes)
{
    signals_hold();
    shared_forget(at, bytes);
    signals_release();
}

int munmap(void *at, size_t bytes)
{
    bool is = is_shared(at, bytes);
    int r = next_munmap ? NEXT(munmap)(at, bytes) : (int)result(preload_raw(SYS_munmap, (long)at, (long)bytes, 0, 0, 0, 0));
    if (!r && is)
        forget(at, bytes);
    return r;
}

void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    bool is = (flags & MAP_FIXED) && is_shared(at, bytes);
    void *r =
        next_mmap ? NEXT(mmap)(at, bytes, prot, flags, fd, offset) : (void *)result(preload_raw(SYS_mmap, (long)at, (long)bytes, prot, flags, fd, offset));
    if (is && r != MAP_FAILED)
        forget(at, bytes);
    return r;
}

void *mmap64(void *at, size_t bytes, int prot, int flags, int fd, off64_t offset)
{
    return mmap(at, bytes, prot, flags, fd, offset);
}

/* Memory of a file would grow by what comes next in the file: it does not grow here, callers have another way. */
void *mremap(void *at, size_t bytes, size_t new_bytes, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(args, void *) : NULL;
    va_end(args);
    bool is = is_shared(at, bytes), is_over = to && is_shared(to, new_bytes);
    if (is && (new_bytes > bytes || !bytes || (flags & MREMAP_DONTUNMAP)))
        return (void *)result(-ENOMEM);
    void *r = next_mremap ? NEXT(mremap)(at, bytes, new_bytes, flags, to)
                          : (void *)result(preload_raw(SYS_mremap, (long)at, (long)bytes, (long)new_bytes, flags, (long)to, 0));
    if (r == MAP_FAILED)
        return r;
    if (is_over)
        forget(to, new_bytes);
    if (is && new_bytes < bytes)
        forget((uint8_t *)at + new_bytes, bytes - new_bytes);
    if (is)
        shared_move(at, new_bytes, r);
    return r;
}
