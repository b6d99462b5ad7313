/* SPDX-License-Identifier: MIT */
/*
 * What the KVM clients of these tests share: checks as TAP lines, and what they know of the node and its fds. Each is a program that knows nothing of vitrine
 * but how to tell it from the kernel.
 */
#ifndef VITRINE_TESTS_TRANSPORT_CLIENT_H
#define VITRINE_TESTS_TRANSPORT_CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define NODE "/dev/kvm"

static bool has_failed;

static inline void check(bool claim, const char *name)
{
    printf("%s - %s\n", claim ? "ok" : "not ok", name);
    if (!claim)
        printf("# errno %s\n", strerrorname_np(errno));
    has_failed |= !claim;
    errno = 0;
}

static inline bool fails(long r, int want)
{
    return r == -1 && errno == want;
}

static inline bool is_device(int fd)
{
    return ioctl(fd, KVM_GET_API_VERSION, 0) == KVM_API_VERSION;
}

/* Its fds are memfds, which have seals. */
static inline bool is_vitrine(int fd)
{
    return fcntl(fd, F_GET_SEALS) > 0;
}

static inline bool is_node(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && (st->st_mode & 07777) == 0666 && st->st_rdev == makedev(10, 232);
}

static inline bool send_fd(int to, int fd)
{
    char byte = 0, room[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec iov = { &byte, 1 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(to, &m, 0) == 1;
}

/* The fd that came, or -1. */
static inline int receive_fd(int from)
{
    int fd = -1;
    char byte, room[CMSG_SPACE(sizeof(int))];
    struct iovec iov = { &byte, 1 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    if (recvmsg(from, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

#endif
