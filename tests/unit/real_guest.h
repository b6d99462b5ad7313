/* SPDX-License-Identifier: MIT */
/*
 * A VM of this process for unit tests that need the real engine: one vCPU in real mode, made by the calls that any client makes, and core's objects behind it.
 * There is one at a time.
 */
#ifndef VITRINE_TESTS_REAL_GUEST_H
#define VITRINE_TESTS_REAL_GUEST_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vcpu;
struct vitrine_vm;
struct vm;

#define REAL_GUEST_CODE_AT 0x1000u
#define REAL_GUEST_STACK_AT 0x7000u
#define REAL_GUEST_KICK SIGUSR1 /* handled; interrupts KVM_RUN */

struct real_guest {
    int dev_fd, vm_fd, cpu_fd;
    struct kvm_run *run;
    uint8_t *ram;
    uint32_t ram_bytes;
    struct vm *vm; /* with a reference */
    struct vcpu *v;
};

/* Fails the test if something is refused. The code is at REAL_GUEST_CODE_AT and CS:IP there. */
void real_guest_create(struct real_guest *g, uint32_t ram_bytes, const void *code, size_t bytes, bool has_irqchip);
/* Nobody runs it any more. Returns when nobody has the VM. */
void real_guest_destroy(struct real_guest *g);
struct kvm_regs real_guest_regs(const struct real_guest *g);
/* The word at `at` once it is another than before. */
void real_guest_wait_moving(const struct real_guest *g, uint32_t at);
/* Whatever it exits for, until run->immediate_exit is set. */
void real_guest_run(struct real_guest *g);
/* A thread that does so, until real_guest_kick_until_ended. */
pthread_t real_guest_start(struct real_guest *g);
/* Interrupts its KVM_RUN until the thread that calls it has ended. immediate_exit stays set. */
void real_guest_kick_until_ended(struct real_guest *g, pthread_t client);
/* A tool's connection to it, by the pid; NULL and errno. */
struct vitrine_vm *real_guest_open(void);

/* All of it: without interrupt controllers, on a thread, with a tool's connection. */
struct vitrine_vm *real_guest_begin(struct real_guest *g, uint32_t ram_bytes, const void *code, size_t bytes, pthread_t *client);
void real_guest_end(struct real_guest *g, pthread_t client, struct vitrine_vm *tool);

#endif
