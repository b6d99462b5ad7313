/* SPDX-License-Identifier: MIT */
/*
 * What the device node looks like to a client, whatever the host has at that path. For the transports; no state.
 */
#ifndef VITRINE_TRANSPORT_NODE_H
#define VITRINE_TRANSPORT_NODE_H

#include <sys/stat.h>

#define NODE_PATH "/dev/kvm"
#define NODE_MAJOR 10 /* misc devices; kvm's number: Linux, Documentation/admin-guide/devices.txt */
#define NODE_MINOR 232

void node_fill_stat(struct stat *out);
void node_fill_statx(struct statx *out);
/* 0 or -errno, as the system calls that the names say. */
int node_check_access(int mode);
/* A new fd, with FD_CLOEXEC if the flags say so. */
int node_open(int flags);

#endif
