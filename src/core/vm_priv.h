/* SPDX-License-Identifier: MIT */
/*
 * What core's own files share.
 */
#ifndef VITRINE_CORE_VM_PRIV_H
#define VITRINE_CORE_VM_PRIV_H

#include "base/types.h"

struct timer;
struct vcpu;
struct vm;

#define CONTAINER_OF(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

/* vcpu.c: frees what vcpu_create made; only while the VM goes. */
void vcpu_free(struct vcpu *v);

/* vcpu_block.c: the tick of VREQ_TICK runs while a vCPU between start and stop wants it. */
void tick_start(struct vcpu *v);
void tick_stop(struct vcpu *v);
void tick_expired(struct timer *t);

/* slots.c: with slots_lock held. The caller of slots_clear_dirty tells the engine; nothing happens if there is no such page. */
void slots_clear_dirty(struct vm *vm, uint32_t id, uint64_t page);
void slots_tell_engine(struct vm *vm, gpa_t gpa, uint64_t bytes);

/* cpuid.c, msr.c: pieces of the power-up state. */
void msr_reset(struct vcpu *v);
unsigned cpuid_phys_bits(const struct vcpu *v); /* MAXPHYADDR of the guest */

/* eventfd.c: fds a client hands over. A close-on-exec duplicate; -EBADF, -EINVAL not an eventfd, -EMFILE. */
int eventfd_dup(int fd);
bool eventfd_is_same(int a, int b);
void eventfd_signal(int fd);
/* Takes the count; false if there was none (never blocks where the kernel can tell). */
bool eventfd_consume(int fd);

#endif
