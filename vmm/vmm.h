/* SPDX-License-Identifier: MIT */
/*
 * The embedded VMM as its caller sees it: one configuration in, one outcome out. It prints nothing but the guest's console; every failure comes
 * back as one sentence. Called by cli/boot.c and by tests. It speaks the KVM ABI through a port and knows nothing of what is behind it.
 */
#ifndef VITRINE_VMM_VMM_H
#define VITRINE_VMM_VMM_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/port.h"

#define VMM_DISKS_MAX 16
#define VMM_CPUS_MAX 64

enum vmm_net { VMM_NET_NONE, VMM_NET_USER };

struct vmm_disk {
    const char *path;
    bool is_readonly;
};

struct vmm_config {
    const struct port *port;
    const char *device; /* "/dev/kvm" */
    const char *kernel, *initrd, *append;
    unsigned cpus;
    uint64_t mem_bytes;
    bool is_memory_private; /* other processes cannot map it */
    struct vmm_disk disk[VMM_DISKS_MAX];
    unsigned n_disks;
    enum vmm_net net;
    const char *marker; /* text in a console line whose first byte is timed; NULL: none */
    int in_fd, out_fd;  /* the guest's console; in_fd -1: no input */
};

enum vmm_exit { VMM_EXIT_IO, VMM_EXIT_MMIO, VMM_EXIT_HLT, VMM_EXIT_INTR, VMM_EXIT_SHUTDOWN, VMM_EXIT_OTHER, VMM_EXIT_COUNT };

struct vmm_cpu_stats {
    uint64_t exits[VMM_EXIT_COUNT];
    uint64_t rip, rsp, rflags, cr0, cr3; /* at the end; zero if they could not be read */
};

struct vmm_slot_stats {
    uint64_t gpa, bytes;
    const void *host; /* address in this process */
};

#define VMM_SLOTS_MAX 2

struct vmm_stats {
    unsigned vcpus, slots, devices, restarts;
    uint64_t mem_bytes;
    double total_seconds, marker_seconds; /* marker_seconds < 0: never seen */
    struct vmm_slot_stats slot[VMM_SLOTS_MAX];
    struct vmm_cpu_stats cpu[VMM_CPUS_MAX];
};

struct vmm_outcome {
    int status;        /* 0 the guest powered off, 1 failed, 128 + n ended by signal n */
    char message[512]; /* "" when there is nothing to say */
    struct vmm_stats stats;
};

extern const char *const vmm_exit_names[VMM_EXIT_COUNT];

/* Runs a guest to its end on the calling thread and helpers of its own. Not reentrant: one VM in a process at a time (terminal, signals). */
void vmm_run(const struct vmm_config *config, struct vmm_outcome *outcome);

#endif
