/* SPDX-License-Identifier: MIT */
/*
 * Interrupts from eventfds. One thread per VM, started by the first irqfd, with all signals blocked.
 */
#ifndef VITRINE_CORE_IRQFD_H
#define VITRINE_CORE_IRQFD_H

#include "base/types.h"

struct vm;

/*
 * Each signal of fd pulses the GSI; with resample_fd >= 0 the GSI stays asserted until the guest acknowledges it, then resample_fd is signalled.
 * Both fds are duplicated. -EBADF, -EINVAL no eventfd or bad GSI, -EBUSY fd already used, -ENOMEM, -EMFILE.
 */
int irqfd_assign(struct vm *vm, int fd, uint32_t gsi, int resample_fd);
/* No interrupt comes from it after this returns. 0 even if it was not assigned, as KVM. */
int irqfd_deassign(struct vm *vm, int fd, uint32_t gsi);
void irqfd_fini(struct vm *vm);

#endif
