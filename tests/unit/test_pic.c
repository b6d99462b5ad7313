/* SPDX-License-Identifier: MIT */
/*
 * The 8259 pair: initialization, priorities, cascade, EOI forms, special modes, ELCR, the way through LINT0, state.
 */
#include "chip_fixture.h"

static void pic_start(uint8_t icw4)
{
    out8(0x20, 0x11);
    out8(0x21, 0x20);
    out8(0x21, 0x04);
    out8(0x21, icw4);
    out8(0xa0, 0x11);
    out8(0xa1, 0x28);
    out8(0xa1, 0x02);
    out8(0xa1, icw4);
    out8(0x21, 0);
    out8(0xa1, 0);
}

static void pulse(uint32_t gsi)
{
    irq_set_level(vm, gsi, IRQ_SOURCE_CLIENT, true);
    irq_set_level(vm, gsi, IRQ_SOURCE_CLIENT, false);
}

static int take(void)
{
    return vm->chip->irq_take(cpu[0]);
}

static void test_priorities(void **state)
{
    (void)state;
    pic_start(1);
    pulse(4);
    assert_true(atomic_load(&cpu[0]->requests) & VREQ_EVENT);
    assert_int_equal(vm->chip->irq_peek(cpu[0]), 0x24);
    assert_int_equal(take(), 0x24);
    pulse(6);
    assert_int_equal(vm->chip->irq_peek(cpu[0]), -1);
    pulse(1);
    assert_int_equal(take(), 0x21);
    out8(0x20, 0x0b);
    assert_int_equal(in8(0x20), 0x12);
    out8(0x20, 0x0a);
    assert_int_equal(in8(0x20), 0x40);
    out8(0x20, 0x20);
    out8(0x20, 0x20);
    assert_int_equal(take(), 0x26);
    out8(0x20, 0x66);
    assert_int_equal(take(), -1);
}

static void test_cascade(void **state)
{
    (void)state;
    pic_start(1);
    pulse(12);
    assert_int_equal(take(), 0x2c);
    pulse(14);
    assert_int_equal(take(), -1);
    out8(0xa0, 0x20);
    out8(0x20, 0x20);
    assert_int_equal(take(), 0x2e);
    pulse(3);
    assert_int_equal(take(), -1);
    pulse(0);
    assert_int_equal(take(), 0x20);
}

static void test_mask_and_lint0(void **state)
{
    (void)state;
    pic_start(1);
    out8(0x21, 0xff);
    irq_set_level(vm, 5, IRQ_SOURCE_CLIENT, true);
    assert_int_equal(take(), -1);
    out8(0x21, 0xdf);
    assert_int_equal(in8(0x21), 0xdf);
    lapic_enable(cpu[0]);
    reg_write(cpu[0], LREG_LVT_LINT0, 0x10700);
    assert_int_equal(vm->chip->irq_peek(cpu[0]), -1);
    atomic_store(&cpu[0]->requests, 0);
    reg_write(cpu[0], LREG_LVT_LINT0, 0x700);
    assert_true(atomic_load(&cpu[0]->requests) & VREQ_EVENT);
    assert_int_equal(vm->chip->irq_peek(cpu[0]), 0x25);
    reg_write(cpu[0], LREG_LVT_LINT0, 0x10700);
    assert_int_equal(vm->chip->apic_base_set(cpu[0], 0xfee00100), 0); /* LAPIC off: straight to the CPU */
    assert_int_equal(take(), 0x25);
    assert_int_equal(vm->chip->irq_peek(cpu[1]), -1);
}

static void test_level_and_spurious(void **state)
{
    (void)state;
    pic_start(1);
    out8(0x4d0, 0xff);
    out8(0x4d1, 0xff);
    assert_int_equal(in8(0x4d0), 0xf8);
    assert_int_equal(in8(0x4d1), 0xde);
    irq_set_level(vm, 5, IRQ_SOURCE_CLIENT, true);
    irq_set_level(vm, 5, 2, true);
    assert_int_equal(take(), 0x25);
    out8(0x20, 0x65);
    irq_set_level(vm, 5, IRQ_SOURCE_CLIENT, false);
    assert_int_equal(take(), 0x25);
    irq_set_level(vm, 5, 2, false);
    out8(0x20, 0x65);
    assert_int_equal(take(), -1);
}

static void test_auto_eoi_rotation(void **state)
{
    (void)state;
    pic_start(3);
    out8(0x20, 0x80); /* rotate in automatic EOI mode */
    pulse(3);
    assert_int_equal(take(), 0x23);
    pulse(1);
    pulse(5);
    assert_int_equal(take(), 0x25);
    assert_int_equal(take(), 0x21);
}

static void test_special_mask_and_poll(void **state)
{
    (void)state;
    pic_start(1);
    pulse(1);
    assert_int_equal(take(), 0x21);
    out8(0x21, 0x02);
    out8(0x20, 0x68);
    pulse(6);
    assert_int_equal(take(), 0x26);
    out8(0x20, 0x48);
    out8(0x20, 0x66);
    out8(0x20, 0x61);
    pulse(7);
    out8(0x20, 0x0c);
    assert_int_equal(in8(0x20), 0x87);
    assert_int_equal(take(), -1);
    out8(0x20, 0x0b);
    assert_int_equal(in8(0x20), 0x80);
}

static void test_state(void **state)
{
    (void)state;
    struct pic_state a;
    pic_start(1);
    pulse(4);
    assert_int_equal(pic_state_get(vm, false, &a), 0);
    assert_int_equal(a.irr, 0x10);
    assert_int_equal(a.irq_base, 0x20);
    assert_int_equal(take(), 0x24);
    out8(0x20, 0x20);
    assert_int_equal(pic_state_set(vm, false, &a), 0);
    assert_int_equal(take(), 0x24);
    assert_int_equal(pic_state_get(vm, true, &a), 0);
    assert_int_equal(a.elcr_mask, 0xde);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_priorities),
        CASE(test_cascade),
        CASE(test_mask_and_lint0),
        CASE(test_level_and_spurious),
        CASE(test_auto_eoi_rotation),
        CASE(test_special_mask_and_poll),
        CASE(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
