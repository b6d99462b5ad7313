/* SPDX-License-Identifier: MIT */
/*
 * Copies between us and addresses that the client handed in. They are the client's word: a wrong one must come back as EFAULT, as from a kernel, and not
 * as a fault of ours; so the kernel does the copy. Any thread, no lock. KVM_RUN does not come here.
 */
#include <sys/uio.h>
#include <unistd.h>

#include "front/kvm/front_priv.h"

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
