/* SPDX-License-Identifier: MIT */
/*
 * Guest time: the TSC as an offset and, where the client chose another frequency, a ratio to the host's. Host TSC invariant and synchronous is assumed.
 */
#ifndef VITRINE_CORE_TIME_H
#define VITRINE_CORE_TIME_H

#include "base/types.h"

struct vcpu;
struct vm;

uint64_t time_realtime_ns(void); /* CLOCK_REALTIME */

/* The host TSC now, and the guest TSC that belongs to a host TSC value. */
uint64_t time_host_tsc(void);
uint64_t vcpu_tsc_at(const struct vcpu *v, uint64_t host_tsc);

/* Frequency of the guest TSC; the offset is changed so that the value now is kept. -EINVAL 0 or beyond 16 times the host's. vCPU not running. */
int vcpu_set_tsc_khz(struct vcpu *v, uint64_t tsc_khz);

/* The guest writes its TSC: TSC_ADJUST moves along. The client writes it: vCPUs written close together get one offset (see time.c). */
void vcpu_set_tsc_guest(struct vcpu *v, uint64_t tsc);
void vcpu_set_tsc_host(struct vcpu *v, uint64_t tsc);
/* The power-up offset: guest TSC counts from the creation of the VM. */
void vcpu_reset_tsc(struct vcpu *v);

/*
 * Stops and starts the time of a VM as its guest has it: TSCs and LAPIC timers. Its vCPUs stand still meanwhile, wherever they are. Not twice: the caller knows
 * which it is, and keeps vCPUs from being made during thaw. Threads as hold_vm (core/hold.h).
 */
void vm_time_freeze(struct vm *vm);
void vm_time_thaw(struct vm *vm);
/* CLOCK_MONOTONIC in ns, or what it was when time was stopped. */
uint64_t vm_now_ns(const struct vm *vm);

/* Duration in ns of guest TSC ticks, saturating. */
uint64_t time_tsc_to_ns(const struct vcpu *v, uint64_t ticks);
uint64_t time_ns_to_tsc(const struct vcpu *v, uint64_t ns);
/* CLOCK_MONOTONIC deadline at which the guest TSC reaches a value: now or earlier if it already has. For TSC deadline timers. */
uint64_t time_tsc_deadline_ns(struct vcpu *v, uint64_t guest_tsc);

/*
 * Pair of one moment: host TSC and CLOCK_MONOTONIC ns, for the paravirtual clock page. And the page's multiplier and shift for ns from guest TSC ticks:
 * ns = ((ticks << shift, or >> -shift) * mul) >> 32.
 */
void time_sample(uint64_t *host_tsc, uint64_t *monotonic_ns);
void time_pvclock_scale(uint64_t tsc_khz, uint32_t *mul, int8_t *shift);

#endif
