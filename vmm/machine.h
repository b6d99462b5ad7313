/* SPDX-License-Identifier: MIT */
/*
 * One virtual machine of the VMM: its memory, devices, KVM objects and threads. Private to the VMM's own files. Locks, outermost first: `lock` (ports,
 * MMIO, every device without a lock of its own), a virtio device's lock, `line_lock` (shared interrupt lines), the console's, `end_lock` (why we end).
 */
#ifndef VITRINE_VMM_MACHINE_H
#define VITRINE_VMM_MACHINE_H

#include <linux/kvm.h>
#include <pthread.h>

#include "vmm/console.h"
#include "vmm/i8042.h"
#include "vmm/iobus.h"
#include "vmm/line.h"
#include "vmm/load.h"
#include "vmm/pci.h"
#include "vmm/pm.h"
#include "vmm/ram.h"
#include "vmm/rtc.h"
#include "vmm/serial.h"
#include "vmm/virtio_blk.h"
#include "vmm/virtio_net.h"
#include "vmm/virtio_rng.h"
#include "vmm/vmm.h"

#define MACHINE_LINES 24

/* Why the vCPUs stop. The first reason stands. */
enum machine_end { END_NONE, END_POWER_OFF, END_RESET, END_QUIT, END_SIGNAL, END_PANIC, END_FAILED };

struct machine;

struct cpu {
    struct machine *machine;
    unsigned id;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    bool has_thread;
    struct vmm_cpu_stats *stats;
};

struct machine {
    const struct vmm_config *config;
    struct vmm_outcome *outcome;
    struct vmm_error error; /* end_lock */
    pthread_mutex_t lock, line_lock, end_lock;
    _Atomic int end; /* enum machine_end */
    int end_signal, wake_fd, signal_fd;
    int64_t start_ns, panic_ns; /* panic_ns: end_lock */

    struct ram ram;
    struct load_images images;
    struct load_entry entry;
    char *cmdline;

    int dev_fd, vm_fd;
    size_t run_bytes;
    bool has_tsc_deadline;
    uint32_t cpu_signature, cpu_features; /* CPUID leaf 1 of the first CPU, for the MP table */
    struct cpu cpu[VMM_CPUS_MAX];
    unsigned n_cpus;

    struct line_ops line;
    unsigned line_users[MACHINE_LINES]; /* line_lock: how many devices hold a line up */
    struct iobus pio, mmio;
    struct console console;
    struct serial serial;
    struct rtc rtc;
    struct i8042 i8042;
    struct pm pm;
    struct pci pci;
    struct virtio_blk *blk[VMM_DISKS_MAX];
    unsigned n_blk;
    struct virtio_net *net;
    struct virtio_rng *rng;
};

/* Any thread: asks for the end and wakes the controlling thread. */
void machine_request_end(struct machine *m, enum machine_end end);
__attribute__((format(printf, 2, 3))) void machine_fail(struct machine *m, const char *format, ...);

/* devices.c */
int devices_create(struct machine *m, struct vmm_error *error);
void devices_reset(struct machine *m);
void devices_destroy(struct machine *m);

/* kvm_vm.c: the VM and its vCPUs as the ABI gives them; created anew for each start of the guest */
int kvm_vm_create(struct machine *m, struct vmm_error *error);
void kvm_vm_destroy(struct machine *m);

/* cpu.c */
int cpu_create(struct machine *m, unsigned id, struct vmm_error *error);
void cpu_destroy(struct cpu *cpu);
int cpu_start(struct cpu *cpu);
void cpu_kick(struct cpu *cpu);
void cpu_join(struct cpu *cpu); /* after machine.end is set */

/* control.c: signals and the terminal, on the caller's thread until the machine ends */
int control_init(struct machine *m, struct vmm_error *error);
void control_run(struct machine *m);
void control_fini(struct machine *m);

#endif
