/* SPDX-License-Identifier: MIT */
/*
 * State of the chips as clients save and restore it. The structs hold the same information as KVM's, in our own layout; fronts convert.
 * Every function locks what it needs; vCPU ones want the vCPU's own lock held by the caller (it does not run).
 */
#ifndef VITRINE_CHIP_STATE_H
#define VITRINE_CHIP_STATE_H

#include "base/types.h"

struct vm;
struct vcpu;

#define LAPIC_PAGE_BYTES 1024
#define IOAPIC_PINS 24

struct pic_state {
    uint8_t last_irr, irr, imr, isr;
    uint8_t priority_add; /* the input with the highest priority */
    uint8_t irq_base;
    uint8_t read_reg_select, poll, special_mask;
    uint8_t init_state; /* which ICW comes next, 0 outside initialization */
    uint8_t auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode;
    uint8_t init4; /* ICW4 will be written */
    uint8_t elcr, elcr_mask;
};

struct ioapic_state {
    uint64_t base_address;
    uint32_t ioregsel, id, irr;
    uint64_t redirtbl[IOAPIC_PINS]; /* as the guest reads them */
};

#define PIT_SPEAKER_DUMMY 1u /* pit_create flag: take port 0x61 too */
#define PIT_FLAG_HPET_LEGACY 1u
#define PIT_FLAG_SPEAKER_ON 2u

struct pit_channel_state {
    uint32_t count; /* 1-65536 */
    uint16_t latched_count;
    uint8_t count_latched, status_latched, status;
    uint8_t read_state, write_state, write_latch;
    uint8_t rw_mode, mode, bcd, gate;
    int64_t count_load_time; /* CLOCK_MONOTONIC ns */
};

struct pit_state {
    struct pit_channel_state channels[3];
    uint32_t flags; /* PIT_FLAG_* */
};

/* The register page: register n at byte 16 * n. In x2APIC mode the id is in bits 24-31 unless vm->x2apic_api_flags has bit 0. */
void lapic_state_get(struct vcpu *v, uint8_t page[LAPIC_PAGE_BYTES]);
/* -EINVAL without a LAPIC or, with bit 0 of those flags, an x2APIC id that is not this vCPU's. */
int lapic_state_set(struct vcpu *v, const uint8_t page[LAPIC_PAGE_BYTES]);
/* The word in guest memory through which the guest's patched code works on the TPR (KVM_SET_VAPIC_ADDR); 0: none. -EINVAL without a LAPIC or memory there. */
int vapic_set(struct vcpu *v, uint64_t gpa);

/* -ENXIO without the chip. */
int pic_state_get(struct vm *vm, bool is_slave, struct pic_state *out);
int pic_state_set(struct vm *vm, bool is_slave, const struct pic_state *in);
int ioapic_state_get(struct vm *vm, struct ioapic_state *out);
int ioapic_state_set(struct vm *vm, const struct ioapic_state *in);

/* -ENOENT without an interrupt controller, -EEXIST, -ENOMEM. The caller holds vm->lock. The PIT goes with irqchip_destroy. */
int pit_create(struct vm *vm, uint32_t flags);
int pit_state_get(struct vm *vm, struct pit_state *out); /* -ENXIO */
int pit_state_set(struct vm *vm, const struct pit_state *in);
int pit_set_reinject(struct vm *vm, bool is_on); /* ticks that the guest was too slow for are kept, or dropped. -ENXIO */

/* The VM-wide paravirtual clock. */
uint64_t pvclock_now_ns(struct vm *vm);
void pvclock_set_ns(struct vm *vm, uint64_t ns);
/* KVM_KVMCLOCK_CTRL: the guest was stopped for a while and should not blame its watchdog. -EINVAL if it has no clock page. */
int pvclock_mark_stopped(struct vcpu *v);
bool pvclock_is_stable(const struct vm *vm); /* the host's TSC is invariant: all vCPUs share one clock */

#endif
