/* SPDX-License-Identifier: MIT */
/*
 * A VM with the chips of a PC, real core but for its clock (hand_clock.h), an engine that runs nothing, and 64 KiB of RAM at 0. For the tests of src/chip.
 */
#ifndef VITRINE_TESTS_UNIT_CHIP_FIXTURE_H
#define VITRINE_TESTS_UNIT_CHIP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chip/chip_priv.h"
#include "chip/pc.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "hand_clock.h"

#define RAM_BYTES 0x10000u
#define MS 1000000ull

static struct vm *vm;
static struct vcpu *cpu[3];
static uint8_t ram[RAM_BYTES] __attribute__((aligned(4096)));

static int engine_init(struct vm *m)
{
    (void)m;
    return 0;
}

static void engine_fini(struct vm *m)
{
    (void)m;
}

static int engine_run(struct vcpu *v)
{
    (void)v;
    return -38;
}

static void engine_memory_changed(struct vm *m, gpa_t gpa, uint64_t bytes)
{
    (void)m;
    (void)gpa;
    (void)bytes;
}

static void engine_state_changed(struct vcpu *v)
{
    (void)v;
}

static uint32_t flushed; /* ids of those that were, by bits */

static void engine_flush_tlbs(struct vcpu *v, bool (*is_wanted)(struct vcpu *other, const void *arg), const void *arg)
{
    flushed = 0;
    for (unsigned i = 0; i < 3; i++)
        flushed |= (uint32_t)is_wanted(v->vm->vcpu[i], arg) << i;
}

static const struct engine_ops still_engine = {
    .name = "still",
    .vcpu_bytes = sizeof(struct vcpu),
    .vm_init = engine_init,
    .vm_fini = engine_fini,
    .run = engine_run,
    .memory_changed = engine_memory_changed,
    .flush_tlbs = engine_flush_tlbs,
    .state_changed = engine_state_changed,
};

static int setup(void **state)
{
    (void)state;
    assert_int_equal(vm_create(&still_engine, &pc_chip_ops, &vm), 0);
    assert_int_equal(vm_set_memslot(vm, 0, 0, 0, RAM_BYTES, ram), 0);
    assert_int_equal(vm->chip->irqchip_create(vm), 0);
    assert_int_equal(irq_set_default_routes(vm), 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(vcpu_create(vm, i, &cpu[i]), 0);
        cpu[i]->n_cpuid = 1;
        cpu[i]->cpuid[0] = (struct cpuid_entry){ .function = 1, .ecx = 1u << 21 };
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        vcpu_destroy(cpu[i]);
    vm_put(vm);
    return 0;
}

static inline void reg_write(struct vcpu *v, enum lapic_reg r, uint32_t value)
{
    assert_int_equal(vm->chip->lapic_mmio_write(v, r << 4, 4, &value), 0);
}

static inline uint32_t reg_read(struct vcpu *v, enum lapic_reg r)
{
    uint32_t value = 0xdeadbeef;
    assert_int_equal(vm->chip->lapic_mmio_read(v, r << 4, 4, &value), 0);
    return value;
}

static inline void lapic_enable(struct vcpu *v)
{
    reg_write(v, LREG_SVR, 0x1ff);
}

static inline void out8(uint16_t port, uint8_t value)
{
    assert_int_equal(bus_write(&vm->pio, cpu[0], port, 1, &value), 0);
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value = 0;
    assert_int_equal(bus_read(&vm->pio, cpu[0], port, 1, &value), 0);
    return value;
}

#endif
