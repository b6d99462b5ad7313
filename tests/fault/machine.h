/* SPDX-License-Identifier: MIT */
/*
 * A small VM for the fault tests, one call of the ABI at a time, so that each can be made to fail or be left out. Real-mode code at 0x1000 that ends in an
 * OUT to port 0x10.
 */
#ifndef VITRINE_TESTS_FAULT_MACHINE_H
#define VITRINE_TESTS_FAULT_MACHINE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define MACHINE_CPUS 2
#define MACHINE_RAM_BYTES 0x100000u
#define MACHINE_RUN_BYTES (3u * 4096)

struct machine {
    int dev_fd, vm_fd, cpu_fd[MACHINE_CPUS], irq_fd, resample_fd, io_fd; /* -1: none */
    struct kvm_run *run[MACHINE_CPUS];
    uint8_t *ram;
};

/* Each returns 0 or -errno, and after a failure may be called again. */
int machine_open(struct machine *m);
int machine_create_vm(struct machine *m);
int machine_create_irqchip(struct machine *m);
int machine_create_pit(struct machine *m);
int machine_add_ram(struct machine *m);
int machine_log_dirty(struct machine *m);
int machine_get_dirty(struct machine *m);
int machine_set_msr_filter(struct machine *m);
int machine_get_vm_stats(struct machine *m);
int machine_get_cpu_stats(struct machine *m);
int machine_add_ram_2007(struct machine *m);
int machine_move_ram_2007(struct machine *m);
int machine_create_cpu0(struct machine *m);
int machine_create_cpu1(struct machine *m);
int machine_set_cpuid(struct machine *m);
int machine_set_routing(struct machine *m);
int machine_add_irqfd(struct machine *m);
int machine_add_resampler(struct machine *m);
int machine_add_ioeventfd(struct machine *m);
int machine_add_coalesced(struct machine *m);
int machine_set_clock_msr(struct machine *m);
int machine_run_to_out(struct machine *m); /* also puts the code and the registers there */

/* What the test brings itself: its memory and its eventfds. */
bool machine_init(struct machine *m);
void machine_fini(struct machine *m); /* closes what is open, unmaps */

/* What a leak would add to: open fds, threads, bytes of heap in use. */
struct usage {
    unsigned fds, threads;
    uint64_t heap_bytes, mapped_bytes;
};
void usage_take(struct usage *u);
/* First in main: starts the program again without the heap's caches per thread, which count as in use, and out of reach of tools of other tests. */
void usage_init(char **argv);

#endif
