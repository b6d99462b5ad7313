/* SPDX-License-Identifier: MIT */
/*
 * I/O APIC: registers, edges and levels, remote IRR, sources, acknowledge notifiers, state.
 */
#include "chip_fixture.h"

static void io_write(uint32_t index, uint32_t value)
{
    assert_int_equal(bus_write(&vm->mmio, cpu[0], 0xfec00000, 4, &index), 0);
    assert_int_equal(bus_write(&vm->mmio, cpu[0], 0xfec00010, 4, &value), 0);
}

static uint32_t io_read(uint32_t index)
{
    uint32_t value = 0;
    assert_int_equal(bus_write(&vm->mmio, cpu[0], 0xfec00000, 4, &index), 0);
    assert_int_equal(bus_read(&vm->mmio, cpu[0], 0xfec00010, 4, &value), 0);
    return value;
}

static void rte_write(unsigned pin, uint64_t rte)
{
    io_write(0x11 + 2 * pin, (uint32_t)(rte >> 32));
    io_write(0x10 + 2 * pin, (uint32_t)rte);
}

static void test_registers(void **state)
{
    (void)state;
    assert_int_equal(io_read(1), 0x170011);
    assert_int_equal(io_read(0x10), 0x10000);
    io_write(0, 0x05000000);
    assert_int_equal(io_read(0), 0x05000000);
    rte_write(3, 0x0100000000005031ull); /* status and remote IRR are read-only */
    assert_int_equal(io_read(0x16), 0x31);
    assert_int_equal(io_read(0x17), 0x01000000);
}

static void test_edge(void **state)
{
    (void)state;
    lapic_enable(cpu[1]);
    rte_write(20, 0x10041);
    assert_int_equal(irq_set_level(vm, 20, IRQ_SOURCE_CLIENT, true), -1); /* masked: lost */
    assert_true(irq_set_level(vm, 20, IRQ_SOURCE_CLIENT, false) >= 0);
    rte_write(20, 0x0100000000000041ull);
    assert_int_equal(irq_set_level(vm, 20, IRQ_SOURCE_CLIENT, true), 1);
    assert_int_equal(irq_set_level(vm, 20, IRQ_SOURCE_CLIENT, true), 0); /* no edge */
    irq_set_level(vm, 20, IRQ_SOURCE_CLIENT, false);
    assert_int_equal(irq_set_level(vm, 20, IRQ_SOURCE_CLIENT, true), 0); /* still pending in the LAPIC */
    assert_int_equal(vm->chip->irq_take(cpu[1]), 0x41);
    reg_write(cpu[1], LREG_EOI, 0);
    assert_int_equal(vm->chip->irq_peek(cpu[1]), -1);
}

static void test_level(void **state)
{
    (void)state;
    lapic_enable(cpu[1]);
    rte_write(21, 0x0100000000008051ull);
    assert_int_equal(irq_set_level(vm, 21, IRQ_SOURCE_CLIENT, true), 1);
    assert_int_equal(io_read(0x10 + 42) & 0x4000, 0x4000);
    assert_int_equal(irq_set_level(vm, 21, 2, true), 0);
    assert_int_equal(vm->chip->irq_take(cpu[1]), 0x51);
    assert_int_equal(reg_read(cpu[1], LREG_TMR + 2), 1u << 17);
    reg_write(cpu[1], LREG_EOI, 0);
    assert_int_equal(vm->chip->irq_take(cpu[1]), 0x51); /* still high */
    irq_set_level(vm, 21, IRQ_SOURCE_CLIENT, false);
    reg_write(cpu[1], LREG_EOI, 0);
    assert_int_equal(vm->chip->irq_take(cpu[1]), 0x51); /* the other source */
    irq_set_level(vm, 21, 2, false);
    reg_write(cpu[1], LREG_EOI, 0);
    assert_int_equal(vm->chip->irq_peek(cpu[1]), -1);
    assert_int_equal(io_read(0x10 + 42) & 0x4000, 0);
}

static unsigned n_acks;
static void lower(struct irq_ack_notifier *n)
{
    n_acks++;
    irq_set_level(vm, n->gsi, IRQ_SOURCE_RESAMPLE, false);
}

static void test_ack_notifier(void **state)
{
    (void)state;
    struct irq_ack_notifier n = { .gsi = 21, .acked = lower };
    lapic_enable(cpu[1]);
    rte_write(21, 0x0100000000008051ull);
    irq_add_ack_notifier(vm, &n);
    irq_set_level(vm, 21, IRQ_SOURCE_RESAMPLE, true);
    assert_int_equal(vm->chip->irq_take(cpu[1]), 0x51);
    n_acks = 0;
    reg_write(cpu[1], LREG_EOI, 0);
    assert_int_equal(n_acks, 1);
    assert_int_equal(vm->chip->irq_peek(cpu[1]), -1);
    irq_remove_ack_notifier(vm, &n);
}

static void test_storm(void **state)
{
    (void)state;
    unsigned n = 0;
    lapic_enable(cpu[1]);
    rte_write(21, 0x0100000000008051ull);
    irq_set_level(vm, 21, IRQ_SOURCE_CLIENT, true);
    while (n < 20000 && vm->chip->irq_take(cpu[1]) == 0x51) {
        n++;
        reg_write(cpu[1], LREG_EOI, 0);
    }
    assert_int_equal(n, 10000);
    hand_clock_step_ns(10 * MS - 1);
    assert_int_equal(vm->chip->irq_take(cpu[1]), -1);
    hand_clock_step_ns(1);
    assert_int_equal(vm->chip->irq_take(cpu[1]), 0x51);
}

static void test_state(void **state)
{
    (void)state;
    struct ioapic_state a, b;
    lapic_enable(cpu[1]);
    rte_write(21, 0x0100000000008051ull);
    rte_write(22, 0x0100000000000061ull);
    irq_set_level(vm, 22, IRQ_SOURCE_CLIENT, true);
    assert_int_equal(vm->chip->irq_take(cpu[1]), 0x61);
    reg_write(cpu[1], LREG_EOI, 0);
    assert_int_equal(ioapic_state_get(vm, &a), 0);
    assert_int_equal(a.irr, 0);
    a.irr = 1u << 21;
    assert_int_equal(ioapic_state_set(vm, &a), 0);
    assert_int_equal(vm->chip->irq_take(cpu[1]), 0x51);
    assert_int_equal(ioapic_state_get(vm, &b), 0);
    assert_int_equal(b.irr, 1u << 21);
    assert_int_equal(b.redirtbl[21], 0x010000000000c051ull);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_registers), CASE(test_edge), CASE(test_level), CASE(test_ack_notifier), CASE(test_storm), CASE(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
