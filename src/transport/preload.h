/* SPDX-License-Identifier: MIT */
/*
 * libvitrine-preload.so: the C library's calls that a KVM client makes on the device node and on its fds, in front of the C library's own. What its
 * files share. Everything that is not about the node goes on unchanged.
 */
#ifndef VITRINE_TRANSPORT_PRELOAD_H
#define VITRINE_TRANSPORT_PRELOAD_H

#include <stdbool.h>

struct node;
struct stat;

/*
 * The node that the client's path, relative to dir, means, or NULL; flags: AT_SYMLINK_NOFOLLOW or 0. NULL for paths of ours. Not inline: to the caller the path
 * cannot be NULL, to the kernel it can.
 */
const struct node *preload_node(int dir, const char *path, int flags);
/* The same for a path that the kernel refused with what is in errno: it may be a link to a node, or a node that cannot be used. Keeps errno. */
const struct node *preload_node_refused(int dir, const char *path, int flags);
/* True if it is of a device node with KVM's number, the host's. */
bool preload_stat_is_kvm(const struct stat *st);
/* As the kernel has it: 0 or -Exxx. */
int preload_stat_fd(int fd, struct stat *out);

/* True if fd may stand for something of ours; false on a thread that is inside a call of ours. */
bool preload_is_ours(int fd);
enum preload_kind { PRELOAD_OTHER, PRELOAD_DEVICE, PRELOAD_MACHINE /* a VM, a vCPU or something of theirs */ };
enum preload_kind preload_kind_of(int fd);
/* The table of fds is this process's. A child of vfork has fds of its own, but our memory. */
bool preload_may_change(void);

/* The next definition of a function, after ours. Fills *slot at the first call; NULL if there is none, as for old names in a newer C library. */
void *preload_next(void **slot, const char *name);

/* Fills the slots of a file of ours. */
void preload_exec_find(void);
void preload_memory_find(void);
void preload_open_find(void);
void preload_close_find(void);
void preload_socket_find(void);

/* A system call: its result, or -Exxx. Async-signal-safe. */
static inline long preload_raw(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return r;
}

/* clang-format off */
/* Calls the next definition of a function that has our name and type. */
#define NEXT(name) ((__typeof__(&name))(__UINTPTR_TYPE__)preload_next(&next_##name, #name))
#define NEXT_SLOT(name) static void *next_##name
/* clang-format on */

#endif
