/* SPDX-License-Identifier: MIT */
/*
 * The four calls through which a client of the KVM ABI reaches an implementation: the host's device node or vitrine in process.
 */
#ifndef VITRINE_VMM_PORT_H
#define VITRINE_VMM_PORT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Each behaves as the system call of its name: -1 and errno on failure. */
struct port {
    const char *name;
    int (*open)(const char *path);
    int (*ioctl)(int fd, unsigned long request, void *arg);
    void *(*mmap)(size_t bytes, int prot, int flags, int fd, off_t offset);
    int (*close)(int fd);
};

extern const struct port port_host; /* the kernel's own system calls */

#endif
