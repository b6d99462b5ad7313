/* SPDX-License-Identifier: MIT */
/*
 * What the device nodes look like to a client, whatever the host has at their paths. For the transports; no state.
 */
#ifndef VITRINE_TRANSPORT_NODE_H
#define VITRINE_TRANSPORT_NODE_H

#include <sys/stat.h>

#define NODE_FOLDER "/dev"
#define NODE_MAJOR 10 /* misc devices: Linux, Documentation/admin-guide/devices.txt */

struct node {
    const char *path, *base; /* base: behind NODE_FOLDER */
    unsigned minor;
    ino_t inode;
    int (*open)(void); /* a close-on-exec fd or -errno */
};
enum { NODE_KVM, NODE_MEMFLOW, NODES };
extern const struct node nodes[NODES];

void node_fill_stat(const struct node *node, struct stat *out);
void node_fill_statx(const struct node *node, struct statx *out);
/* 0 or -errno, as the system calls that the names say. */
int node_check_access(int mode);
/* A new fd, with FD_CLOEXEC if the flags say so. */
int node_open(const struct node *node, int flags);

#endif
