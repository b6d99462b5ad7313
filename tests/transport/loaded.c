/* SPDX-License-Identifier: MIT */
/*
 * A library that is a KVM client and comes by dlopen, for ways.c.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

int loaded_version(void);

int loaded_version(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version = ioctl(fd, KVM_GET_API_VERSION, 0);
    close(fd);
    return version;
}
