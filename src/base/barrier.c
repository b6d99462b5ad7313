/* SPDX-License-Identifier: MIT */
/* See barrier.h. The kernel keeps the registrations per address space; a child of fork has its parent's. */
#include "base/barrier.h"

#include <linux/membarrier.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

bool barrier_is_free;

static bool membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0) == 0;
}

void barrier_init(void)
{
    bool is_free = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
    __atomic_store_n(&barrier_is_free, is_free, __ATOMIC_SEQ_CST);
}

void barrier_heavy(void)
{
    if (!barrier_is_free || !membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
        atomic_thread_fence(memory_order_seq_cst);
}

bool barrier_heavy_for_all(void)
{
    return membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED);
}
