/* SPDX-License-Identifier: MIT */
/*
 * libvitrine-preload.so: the C library's calls that a KVM client makes on the device node and on its fds, in front of the C library's own. What preload.c and
 * preload_stat.c share. Everything that is not about the node goes on unchanged.
 */
#ifndef VITRINE_TRANSPORT_PRELOAD_H
#define VITRINE_TRANSPORT_PRELOAD_H

#include <stdbool.h>

#define PRELOAD_NODE "/dev/kvm"
#define PRELOAD_NODE_MAJOR 10 /* misc devices; kvm's number: Linux, Documentation/admin-guide/devices.txt */
#define PRELOAD_NODE_MINOR 232

/* True if the client means the node, false for paths of ours. Not inline: to the caller the path cannot be NULL, to the kernel it can. */
bool preload_is_node(const char *path);
/* True if fd may stand for something of ours; false on a thread that is inside a call of ours. */
bool preload_is_ours(int fd);
bool preload_is_device(int fd);

/* The next definition of a function, after ours. Fills *slot at the first call; NULL if there is none, as for old names in a newer C library. */
void *preload_next(void **slot, const char *name);

/* clang-format off */
/* Calls the next definition of a function that has our name and type. */
#define NEXT(name) ((__typeof__(&name))(__UINTPTR_TYPE__)preload_next(&next_##name, #name))
#define NEXT_SLOT(name) static void *next_##name
/* clang-format on */

#endif
