/* SPDX-License-Identifier: MIT */
/*
 * Calls a front in this process: the same fds, ioctls, errors and mappings as the device node would give, without one.
 * Each function behaves as the system call of its name (-1 and errno); fds that are not ours get EBADF.
 */
#ifndef VITRINE_TRANSPORT_INPROC_H
#define VITRINE_TRANSPORT_INPROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

int vitrine_open(const char *node /* "/dev/kvm", "/dev/mshv" */);
int vitrine_ioctl(int fd, unsigned long request, void *arg);
void *vitrine_mmap(size_t bytes, int prot, int flags, int fd, off_t offset);
int vitrine_close(int fd);

/* As vitrine_ioctl, but false if the fd is not ours: a call of ours may say EBADF of its argument. May change errno then. */
bool inproc_ioctl(int fd, unsigned long request, void *arg, int *r);

#endif
