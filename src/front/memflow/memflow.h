/* SPDX-License-Identifier: MIT */
/*
 * The memflow front: /dev/memflow in a process that reads the memory of VMs of other processes. Those are reached through <vitrine/inspect.h>. An fd of the
 * device or of a VM is a sealed memfd that says by its name and contents what it is: dup, fork, exec and close are the kernel's business, there is no state and
 * no lock here. Any thread.
 */
#ifndef VITRINE_FRONT_MEMFLOW_MEMFLOW_H
#define VITRINE_FRONT_MEMFLOW_MEMFLOW_H

#include "base/types.h"

/* Opens the device: a close-on-exec fd, or -errno. */
int memflow_open(void);
bool memflow_is_fd(int fd);
/*
 * One ioctl on an fd of ours: >= 0 or -EPERM, the only error that the device knows. The result may be a new close-on-exec fd. What MAP_VM maps stays until it
 * is unmapped, whatever fds are closed.
 */
int memflow_ioctl(int fd, unsigned long request, unsigned long arg);

#endif
