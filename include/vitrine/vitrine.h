/* SPDX-License-Identifier: MIT */
/*
 * libvitrine: virtual machines in this process, reached through the Linux ABIs that virtual machine monitors speak.
 *
 * vitrine_open gives what open("/dev/kvm") gives on a machine with KVM. The fds are real file descriptors of this process: mmap, dup, poll, close and
 * passing them on work as for any fd, but ioctl(2) does not: use vitrine_ioctl. A VM exists as long as an fd of it or of one of its vCPUs is open; close
 * them with vitrine_close, which the library needs to see.
 *
 * Every function may be called by any thread. KVM_RUN runs the guest on the calling thread. A signal whose handler the program set ends it with EINTR; handlers
 * run when a call of the library returns, never inside one. For that the library stands in for the C library's sigaction, signal and their kin. It needs
 * SIGSEGV, SIGBUS, SIGFPE and SIGILL unblocked on threads that run a vCPU; a handler of the program's for them is called for the program's own faults. Handlers
 * set by a raw system call, or after loading the library by dlopen, are the kernel's alone: their signals do not end KVM_RUN.
 */
#ifndef VITRINE_VITRINE_H
#define VITRINE_VITRINE_H

#include <stddef.h>
#include <sys/types.h>

#include <vitrine/inspect.h> /* looking into virtual machines, of this process and of others */

#ifdef __cplusplus
extern "C" {
#endif

/* The library's version, such as "0.1.0". A constant string. */
const char *vitrine_version(void);

/*
 * As open(2) of a device node, read-write and close-on-exec: a new fd. The only node is "/dev/kvm"; it need not exist on the machine.
 * -1 and errno: ENOENT another node, EMFILE, ENOMEM.
 */
int vitrine_open(const char *node);

/*
 * As ioctl(2) on an fd that vitrine_open or vitrine_ioctl returned, or a duplicate of one. request and arg are those of the Linux header <linux/kvm.h>, or of
 * the KVM header of Linux 2.6.20. A number as argument is passed as (void *)number. -1 and errno: EBADF fd is not ours, EINVAL or ENOTTY unknown request,
 * EFAULT arg is no address, EINTR KVM_RUN ended by a signal or immediate_exit; others as the kernel's documentation of the call says.
 */
int vitrine_ioctl(int fd, unsigned long request, void *arg);

/*
 * As mmap(2) of such an fd at any address: kvm_run of a vCPU fd, or guest memory of a VM fd (generation 2007, offset = guest-physical address). mmap(2) itself
 * works too. MAP_FAILED and errno: EBADF not ours, ENODEV the device fd.
 */
void *vitrine_mmap(size_t bytes, int prot, int flags, int fd, off_t offset);

/* As close(2). -1 and EBADF if the fd is not ours: then it is still open. */
int vitrine_close(int fd);

/*
 * Chooses what runs the guests of VMs created from now on: "soft", the translating CPU (the default), or "soft,step", the same one instruction at a time: some
 * hundred times slower, to compare with. -1 and EINVAL: no such engine.
 */
int vitrine_set_engine(const char *engine);

/* Names the VMs of this process for tools and the log: at most 63 characters are kept. Before the first VM; else the environment's VITRINE_NAME or the
 * program's. */
void vitrine_set_name(const char *name);

#ifdef __cplusplus
}
#endif

#endif
