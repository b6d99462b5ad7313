/* SPDX-License-Identifier: MIT */
/* See user.h. */
#include "base/user.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

int user_read(void *to, uint64_t from, uint64_t bytes)
{
    if (!bytes)
        return 0;
    struct iovec local = { to, bytes }, remote = { (void *)(uintptr_t)from, bytes };
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)bytes ? 0 : -EFAULT;
}

int user_write(uint64_t to, const void *from, uint64_t bytes)
{
    if (!bytes)
        return 0;
    struct iovec local = { (void *)(uintptr_t)from, bytes }, remote = { (void *)(uintptr_t)to, bytes };
    return process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)bytes ? 0 : -EFAULT;
}
